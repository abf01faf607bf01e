"""The tables of docs/cost.md on dot-product units, from the shipped records."""

from __future__ import annotations

import json
from pathlib import Path

from codesign.evidence.cost import sweep
from codesign.evidence.cost.attribution import IDEAS, parts_of
from codesign.evidence.cost.family import ratio
from codesign.evidence.cost.predict import model
from codesign.evidence.cost.records import CostRecord, design_sha256, find, shipped
from codesign.evidence.cost.rtl.ports import check
from codesign.evidence.cost.source import sized_ratio
from codesign.figures.markdown import table
from codesign.proposal.load import load_proposal
from isa_model.diagnostics import InputError
from isa_model.instruction import Instruction
from isa_model.library import load

ROOT = Path(__file__).resolve().parent.parent
BASE = "hopper.wgmma.m64n256k32.f32.e4m3.e4m3"
UNITS = {
    BASE: "today, Hopper: 13 fraction bits, e8m13 register",
    "configurable-accumulation": "17 fraction bits, FP32 register",
    "configurable-accumulation at 25": "25 fraction bits, FP32 register",
    "higher-precision-accumulation": "32 fraction bits, FP32 register, rounded to nearest",
    "blackwell.tcgen05.m128n128k32.kind::mxf8f6f4.block32.f32.e4m3.e4m3.ue8m0": "25 fraction bits, UE8M0 scales in exponents",
    "group-scaled-mma without scales": "128 products in a window of 16 bits, C added in FP32",
    "group-scaled-mma": "the same with FP32 scales applied to the sum",
    "group-scaled-mma-ue4m3": "25 fraction bits, UE4M3 scales of 16 applied to products",
    "stochastic-accumulator": "25 fraction bits, e6m5 register rounded stochastically",
    "fp4-weights": "17 fraction bits, E2M1 weights, UE8M0 scales",
    "batch-invariant-split-k": "exact sums in a fixed-point register of 52 bits",
    "FP8, FP16, BF16 and INT8 in one datapath, 13 fraction bits of FP8": "FP8 as today, FP16, BF16 and INT8 in one datapath",
    "FP8, FP16, BF16 and INT8 in one datapath, 25 fraction bits of FP8": "the same with FP8 at FP16's 25 fraction bits",
}
"""Records in the order of the tables, and what they are; ratios are to the first."""


def units_text() -> str:
    """Return the table of units in the neutral library."""
    lines = []
    for name, what in UNITS.items():
        for new, base in _pairs(name, "neutral"):
            per = base.products / new.products
            p = new.pipelined
            registers = (
                f"{p.cycles} cycles of {p.period_fo4:.0f} FO4, {p.register_bits * per:,.0f} bits, {p.loop} from C to D"
            )
            energy = f"{new.energy.low / base.energy.low * per:.2f}"
            area = (f"{new.area * per:,.0f}", f"{new.area / base.area * per:.2f}")
            lines.append((what, *area, registers, energy))
    head = "unit, per 32 products | area: | over today's: | registers every 24 gates | energy without glitches:"
    return table(head, lines)


def libraries_text() -> str:
    """Return the table of ratios in every library and by both recipes, of the units with records in several libraries."""
    libraries = sorted({r.library for r in shipped()}, key=lambda name: (name != "neutral", name))
    plain = [name.split("_")[0] for name in libraries]
    heads = [*plain, *(f"{name}, registers" for name in plain), *(f"{name}, sized" for name in plain[1:])]
    lines = []
    for name, what in list(UNITS.items())[1:]:
        found = [next(iter(_pairs(name, library)), None) for library in libraries]
        if sum(pair is not None for pair in found) < 2:
            continue
        per = [pair and pair[1].products / pair[0].products for pair in found]
        values = [pair and pair[0].area / pair[1].area * p for pair, p in zip(found, per, strict=True)]
        values += [
            pair and pair[0].pipelined.area / pair[1].pipelined.area * p for pair, p in zip(found, per, strict=True)
        ]
        values += [pair and sized_ratio(*pair) for pair in found[1:]]
        known = [value for value in values if value is not None]
        moved = f"{min(known) / values[0] - 1:+.0%} to {max(known) / values[0] - 1:+.0%}"
        lines.append((what, *("" if value is None else f"{value:.2f}" for value in values), moved))
    return table(f"over today's unit | {': | '.join(heads)}: | change:", lines)


def ideas_text() -> str:
    """Return the table of what each idea of the shipped proposals adds to the area, in parts of the base's."""
    lines = []
    for path in sorted((ROOT / "proposals").glob("*.yaml")):
        proposal = load_proposal(path)
        if proposal.multiplies_as_today:
            continue
        new, base = find(proposal.proposed(), "neutral"), find(proposal.today, "neutral")
        parts = parts_of(proposal.today, proposal.proposed(), "neutral")
        if new and base:
            over = new.area / base.area * base.products / new.products
            cells = (f"{parts[idea]:+.2f}" if idea in parts else "" for idea in IDEAS)
            lines.append((proposal.proposal, f"{over:.2f}", *cells))
    return table(f"proposal | over its base: | {': | '.join(IDEAS.values())}:", lines)


def family_text() -> str:
    """Return the table of the family of FP32 scales of 128, the cheapest first."""
    found, today = sweep.shipped(sweep.FAMILY), find(load(BASE), "neutral")
    assert found
    assert today
    lines = []
    for p in sorted(found.points, key=lambda p: p.area / p.products):
        per = today.products / p.products
        errors = (f"{p.accumulation[t]:.1e}" for t in ("normal", "outliers"))
        over = f"{max(p.over_1_bf16_ulp.values()):.1%}"
        energy = p.energy_low / today.energy.low * per
        cost = (f"{ratio(p, today):.2f}", f"{energy:.2f}", p.cycles, f"{p.register_bits * per:,.0f}")
        lines.append((p.label, *cost, *errors, over))
    errors = "error, normal: | outliers: | over 1 BF16 ulp:"
    return table(f"per 32 products | area: | energy without glitches: | cycles: | register bits: | {errors}", lines)


def gate_text() -> str:
    """Return what `python checks/unit_rtl.py` found, in a table of sums."""
    units = json.loads((ROOT / "checks" / "unit_rtl.json").read_text(encoding="utf-8"))["units"].values()
    built = [u for u in units if "refused" not in u]
    faults = [state for u in built for state in u.get("planted", {}).values()]
    stuck = [u["stuck_nets"] for u in built if "stuck_nets" in u]
    shares = [s["noticed"] / s["injected"] for s in stuck]
    simulated = sum(1 for u in built if (u["icarus"] or "").startswith("PASS"))
    rows = {
        "units of shipped proposals, their sweeps and bases": f"{len(built)} of {_wanted()}",
        "vectors compared with the model, mismatches": f"{sum(u['vectors'] for u in built):,}, "
        f"{sum(u['mismatches'] for u in built)}",
        "units whose test bench passes under Icarus Verilog": f"{simulated}",
        "warnings of `verilator --lint-only -Wall`": f"{sum(u['verilator_warnings'] or 0 for u in built)}",
        "injected faults of special values: detected, missed, without effect": ", ".join(
            str(faults.count(state)) for state in ("noticed", "missed", "without effect")
        ),
        "stuck-at faults that vectors detect, by unit": f"{min(shares):.0%} to {max(shares):.0%}, "
        f"{sum(s['noticed'] for s in stuck):,} of {sum(s['injected'] for s in stuck):,}",
    }
    return table(" | :", rows.items())


def _wanted() -> int:
    """Return the number of different units of shipped proposals, their sweeps and bases that the generator can build."""
    found = set()
    for path in (ROOT / "proposals").glob("*.yaml"):
        proposal = load_proposal(path)
        if not proposal.multiplies_as_today:
            found |= {
                design_sha256(x)
                for x in (proposal.today, *map(proposal.proposed, (None, *proposal.swept)))
                if builds(x)
            }
    return len(found)


def builds(spec: Instruction) -> bool:
    """Return whether the generator can build an instruction's unit."""
    try:
        check(spec)
    except InputError:
        return False
    return True


QUANTITIES = {
    "area": "area",
    "delay_fo4": "longest path",
    "cycles": "cycles, with registers every 24 gates",
    "register_bits": "bits of these registers",
    "energy_low": "energy, no glitches",
    "energy_high": "energy, all glitches",
}


def model_text() -> str:
    """Return the table of errors of the fitted model on designs that were held out."""
    lines = []
    for name, law in model().laws.items():
        tenth, whole = law.random, law.families
        family, its = max(law.by_family.items(), key=lambda item: item[1].mean)
        errors = (f"{tenth.mean:.1%}, {tenth.worst:.0%}", f"{whole.mean:.1%}, {whole.most:.0%}, {whole.worst:.0%}")
        lines.append((QUANTITIES[name], whole.designs, *errors, f"{family}: {its.mean:.0%}"))
    held_out = "a tenth held out: mean, worst: | a family held out: mean, 95 %, worst:"
    return table(f"quantity | designs: | {held_out} | worst family", lines)


def _pairs(name: str, library: str) -> list[tuple[CostRecord, CostRecord]]:
    """Return the record in a library of the design that has a name in the neutral one, with the base's; none without both."""
    designs = {r.name: r.design_sha256 for r in shipped() if r.library == "neutral"}
    by_design = {r.design_sha256: r for r in shipped() if r.library == library}
    new, base = (by_design.get(designs.get(n, "")) for n in (name, BASE))
    return [(new, base)] if new and base else []
