"""The tables of dot-product units and of the model of their cost in docs/cost.md, from the shipped records."""

from __future__ import annotations

from codesign.evidence.cost.predict import model
from codesign.evidence.cost.records import CostRecord, shipped
from codesign.evidence.cost.source import sized_ratio

BASE = "hopper.wgmma.m64n256k32.f32.e4m3.e4m3"
UNITS = {
    BASE: "today, Hopper: 13 fraction bits, e8m13 register",
    "configurable-accumulation": "17 fraction bits, FP32 register",
    "configurable-accumulation at 25": "25 fraction bits, FP32 register",
    "higher-precision-accumulation": "32 fraction bits, FP32 register, rounded to nearest",
    "blackwell.tcgen05.m128n128k32.kind::mxf8f6f4.block32.f32.e4m3.e4m3.ue8m0": "25 fraction bits, UE8M0 scales in exponents",
    "group-scaled-mma without scales": "128 products in a window of 13 bits, C joined by an FP32 addition",
    "group-scaled-mma": "the same with FP32 scales multiplied onto the sum",
    "FP8, FP16, BF16 and INT8 in one datapath, 13 fraction bits of FP8": "FP8 as today, FP16, BF16 and INT8 in one datapath",
    "FP8, FP16, BF16 and INT8 in one datapath, 25 fraction bits of FP8": "the same with FP8 at FP16's 25 fraction bits",
}
"""Records in the order of the table, and what they are; ratios are to the first."""


def units_text() -> str:
    """Return the table, of the units that have records."""
    lines = [
        "| unit, per 32 products | area | ratio, neutral / others; sized | registers every 24 gates | energy, no glitches |",
        "|---|---:|---:|---|---:|",
    ]
    for name, what in UNITS.items():
        found = [(new, base) for library in _libraries() for new, base in _pairs(name, library)]
        if not found or found[0][0].library != "neutral":
            continue
        new, base = found[0]
        per = base.products / new.products
        area = " / ".join(f"{x.area / y.area * y.products / x.products:.2f}" for x, y in found)
        area += "".join(f"; {ratio:.2f}" for x, y in found if (ratio := sized_ratio(x, y)) is not None)
        p = new.pipelined
        registers = f"{p.cycles} cycles of {p.period_fo4:.0f} FO4, {p.register_bits * per:,.0f} bits"
        loop = f", {p.loop} from C to D"
        energy = f"{new.energy.low / base.energy.low * per:.2f}"
        lines.append(f"| {what} | {new.area * per:,.0f} | {area} | {registers}{loop} | {energy} |")
    return "\n".join(lines)


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
    lines = [
        "| quantity | designs | a tenth held out: mean, worst | a family held out: mean, 95 %, worst | worst family |",
        "|---|---:|---:|---:|---|",
    ]
    for name, law in model().laws.items():
        tenth, whole = law.random, law.families
        family, its = max(law.by_family.items(), key=lambda item: item[1].mean)
        lines.append(
            f"| {QUANTITIES[name]} | {whole.designs} | {tenth.mean:.1%}, {tenth.worst:.0%} | "
            f"{whole.mean:.1%}, {whole.most:.0%}, {whole.worst:.0%} | {family}: {its.mean:.0%} |"
        )
    return "\n".join(lines)


def _libraries() -> list[str]:
    return sorted({r.library for r in shipped()}, key=lambda name: (name != "neutral", name))


def _pairs(name: str, library: str) -> list[tuple[CostRecord, CostRecord]]:
    """Return the record in a library of the design that has a name in the neutral one, with the base's; none without both."""
    designs = {r.name: r.design_sha256 for r in shipped() if r.library == "neutral"}
    by_design = {r.design_sha256: r for r in shipped() if r.library == library}
    new, base = (by_design.get(designs.get(n, "")) for n in (name, BASE))
    return [(new, base)] if new and base else []
