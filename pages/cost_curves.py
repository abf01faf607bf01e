"""Measures cost and accuracy of the designs of the report's curves and of the shipped proposals. Needs the extra `cost`.

    python pages/cost_curves.py [--family]

Writes codesign/evidence/cost/records/curves/neutral.json and the table of steps of docs/cost.md, or curves/family.json.
Measured designs are kept in the user's cache, so that a second run takes seconds.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from codesign.commit import commit
from codesign.evidence.cost.cell_library import Library
from codesign.evidence.cost.energy import energy_vectors
from codesign.evidence.cost.folded import measure_folded
from codesign.evidence.cost.measured_unit import measure
from codesign.evidence.cost.records import CostRecord, toolchain
from codesign.evidence.cost.sweep import FAMILY, PATH, CostSweep, Point, errors
from codesign.figures.markdown import table
from codesign.proposal.load import load_proposal
from codesign.proposal.proposal import Quantisation
from isa_model.diagnostics import InputError
from isa_model.instruction import Instruction
from isa_model.output_files import put, write_file
from isa_model.processes import pool

ROOT = Path(__file__).resolve().parent.parent
PROPOSALS = ROOT / "proposals"
TENSORS = ("normal", "outliers")
"""Sources of the operands of the error figures."""
FRACTION_BITS = (8, 10, 12, 13, 14, 16, 18, 20, 22, 23, 25, 28, 32, 34, 38, 42)
TERMS = (4, 8, 16, 32, 64, 128)
GROUPS = (8, 16, 32)
RULE = Quantisation(weight_columns=128)
"""Quantisation of the operands of the error figures."""
FAMILY_BITS = (13, 16, 25)

TODAY = {"format": "e8m13", "rounding": "toward-zero", "overflow": "infinity"}
FP32 = {"format": "fp32", "rounding": "toward-zero", "overflow": "infinity"}
NEAREST = {"format": "fp32", "rounding": "nearest-even"}


@dataclass(frozen=True)
class Design:
    """A point of a curve."""

    curve: str
    label: str
    x: float
    spec: Instruction
    share: bool = True
    """True if units share the multiplier of scales; False if each forms the product at every step."""
    fold: bool = False
    """True if units share what follows a chain of sums (`codesign.evidence.cost.folded`)."""


def designs() -> Iterator[Design]:
    """Yield the points of all curves; a design may be on several."""
    for bits in FRACTION_BITS:
        yield Design("fraction-bits", f"{bits} bits", bits, unit(window(bits)))
    for terms in TERMS:
        today = window(13, terms, result=TODAY)
        yield Design("terms-13", f"{terms} terms, 13 bits", terms, unit(today))
        yield Design("terms-25", f"{terms} terms, 25 bits", terms, unit(window(25, terms)))
    for group in GROUPS:
        yield Design("scale-ue8m0", f"UE8M0 per {group}", group, unit(window(25), scales("ue8m0", group, "products")))
    for name, label in (("ue5m3", "UE5M3"), ("bf16", "BF16"), ("fp32", "FP32")):
        for group in GROUPS:
            # Products of short significands are exact; those of FP32 scales are rounded to FP32.
            factors = scales(name, group, "dot", product=NEAREST if name == "fp32" else None)
            spec = unit(joined(25, group, window(25, 32 // group)), factors)
            yield Design(f"scale-{name}", f"{label} per {group}", group, spec)
    yield from _steps()


def family() -> Iterator[Design]:
    """Yield FP32 scales of groups of 128 on partial sums of 32 or 128 products: the members of group-scaled-mma's family."""
    both = scales("fp32", 128, "dot", product=NEAREST)
    added = {"join": {"terms": 1, "accumulator": True, "result": NEAREST, "zero": "ieee"}}
    for bits in FAMILY_BITS:
        yield Design("family", f"scaled every 32, {bits} bits", bits, unit(joined(bits, 32, added), both))
        register = FP32 if bits > 13 else TODAY
        chain = {**_aligned(bits, 32), "accumulator": True, "chain": 4, "result": register}
        label = f"4 x 32 in a register, {bits} bits, tail shared by 4 units"
        yield Design("family", label, bits, unit({"dot": chain, **added}, both), fold=True)
        if bits < 25:
            yield Design("family", f"128 at once, {bits} bits", bits, unit(joined(bits, 128, added), both))


def _steps() -> Iterator[Design]:
    """Yield the steps from today's unit to one with FP32 scales of groups of 128, and cheaper alternatives."""
    added = {"join": {"terms": 1, "accumulator": True, "result": NEAREST, "zero": "ieee"}}
    both, single = scales("fp32", 128, "dot", product=NEAREST), scales("fp32", 128, "dot", sides="a")
    rounded = {**both, "result": NEAREST}
    steps: list[tuple[str, Any, Any, bool]] = [
        ("today: 13 fraction bits, C in the window", window(13, result=TODAY), None, True),
        ("25 fraction bits, FP32 register", window(25), None, True),
        ("C joined by a correctly rounded FP32 addition", joined(25, 32, added), None, True),
        ("one FP32 scale multiplied onto the sum", joined(25, 32, added), single, True),
        ("sA * sB formed once per 128 of K for 4 steps", joined(25, 32, added), both, True),
        ("sA * sB formed in the unit at every step", joined(25, 32, added), both, False),
        ("that, C joined in a window of 25 bits instead", joined(25, 32, window(25, 1)), both, True),
        (
            "that, sum and scaled sum rounded to FP32 first",
            joined(25, 32, added, result=NEAREST),
            rounded,
            True,
        ),
        ("rounded first, 13 fraction bits", joined(13, 32, added, result=TODAY), rounded, True),
        ("today's window of 13 bits twice, one FP32 scale between", joined(13, 32, window(13, 1, TODAY)), single, True),
    ]
    for i, (label, stages, scale, share) in enumerate(steps):
        yield Design("steps", label, i, unit(stages, scale), share)


def window(bits: int, terms: int = 32, result: Any = FP32) -> dict[str, Any]:
    """Return a last stage that aligns terms and C in one window, as Hopper does."""
    return {"fuse": {**_aligned(bits, terms), "zero_exponent": -133, "accumulator": True, "result": result}}


def joined(bits: int, terms: int, last: dict[str, Any], result: Any = None) -> dict[str, Any]:
    """Return a stage `dot` that sums the products, followed by `last`, which adds C."""
    return {"dot": {**_aligned(bits, terms), **({"result": result} if result else {})}, **last}


def _aligned(bits: int, terms: int) -> dict[str, Any]:
    return {"terms": terms, "fraction_bits": bits, "rounding": "toward-zero"}


def scales(fmt: str, group: int, onto: str, sides: str = "ab", product: Any = None) -> dict[str, Any]:
    """Return scales per row of A, column of B and group of K."""
    operands = {"a": {"group": [1, group], "format": fmt}, "b": {"group": [group, 1], "format": fmt}}
    rule = {"product": product} if product else {}
    return {**{side: operands[side] for side in sides}, "onto": onto, **rule}


def unit(
    stages: dict[str, Any], scale: dict[str, Any] | None = None, operand: str = "e4m3", to: Any = "fp32"
) -> Instruction:
    """Return the instruction of one step with these stages."""
    span = 1
    for stage in stages.values():
        span *= stage["terms"] * stage.get("chain", 1)
    k = max(span, *(scale[side]["group"][side == "a"] for side in "ab" if side in scale)) if scale else span
    body = {"name": "", "a": operand, "b": operand, "accumulator": to, "shape": {"m": 64, "n": 256, "k": k}}
    return Instruction.model_validate({**body, "stages": stages, **({"scale": scale} if scale else {})})


def _all(folder: Path) -> list[tuple[Design, Quantisation]]:
    """Return the designs of the curves and of a folder's proposals, each with its quantisation."""
    jobs = [(design, RULE) for design in designs()]
    for i, path in enumerate(sorted(folder.glob("*.yaml"))):
        proposal = load_proposal(path)
        if not proposal.multiplies_as_today:
            jobs.append((Design("proposals", proposal.proposal, i, proposal.proposed()), proposal.rule))
    return jobs


def _record(design: Design) -> CostRecord:
    """Measure a design, members of the family more briefly than others."""
    workload = energy_vectors(design.spec)
    if design.fold:
        return measure_folded(design.spec, Library.own(), *workload)
    thorough = design.curve != "family"
    return measure(design.spec, Library.own(), *workload, share=design.share, thorough=thorough)


def _point(job: tuple[Design, Quantisation]) -> Point | None:
    """Measure one design; None if the generator does not support it."""
    design, quantisation = job
    try:
        record = _record(design)
    except InputError as reason:
        print(f"{design.label}: {reason}", file=sys.stderr)
        return None
    # No accuracy is claimed for the steps, some of which leave out parts of what they compute.
    found = {t: errors(design.spec, quantisation, t) for t in TENSORS} if design.curve != "steps" else {}
    return Point(
        curve=design.curve,
        label=design.label,
        x=design.x,
        area=record.area,
        products=record.products,
        delay_fo4=record.delay_fo4,
        cycles=record.pipelined.cycles,
        register_bits=record.pipelined.register_bits,
        staged_area=record.pipelined.area,
        energy_low=record.energy.low,
        energy_high=record.energy.high,
        vectors=record.equivalence.vectors,
        accumulation={t: float(f"{e[0]:.4g}") for t, e in found.items()},
        total={t: float(f"{e[1]:.4g}") for t, e in found.items()},
        over_1_bf16_ulp={t: float(f"{e[2]:.4g}") for t, e in found.items()} if design.curve == "family" else {},
    )


def steps_table(sweep: CostSweep) -> str:
    """Return the cost of FP32 scales, one change at a time, as a Markdown table."""
    steps = sweep.curve("steps")
    base = steps[0]
    rows = []
    for step in steps:
        staged = f"{step.cycles} cycles, {step.register_bits:,} bits, {step.staged_area / base.staged_area:.2f}"
        path, energy = f"{step.delay_fo4:.0f} FO4", step.energy_low / base.energy_low
        ratio = step.area / base.area
        rows.append((step.label, f"{step.area:,.0f}", f"{ratio:.2f}", path, staged, f"{energy:.2f}"))
    return table(" | area: | over today's: | longest path: | with registers | energy without glitches:", rows)


def main() -> None:
    """Measure all points, and write the record and the table of docs/cost.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--family", action="store_true", help="measure the family of FP32 scales per 128 instead")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--proposals", type=Path, default=PROPOSALS, help="folder of proposals to mark on the curves")
    arguments = parser.parse_args()
    jobs = [(design, RULE) for design in family()] if arguments.family else _all(arguments.proposals)
    points = []
    with pool(arguments.jobs, main=True) as workers:
        for (design, _), point in zip(jobs, workers.map(_point, jobs), strict=True):
            if point is not None:
                points.append(point)
                print(f"{design.curve}, {design.label}: {point.area:.0f} NAND2", file=sys.stderr, flush=True)
    sweep = CostSweep(
        **toolchain(Library.own(), commit("pages/cost_curves.py")),
        operands=energy_vectors(jobs[0][0].spec)[1],
        points=tuple(points),
    )
    path = FAMILY if arguments.family else PATH
    write_file(path, sweep.model_dump_json(indent=1) + "\n")
    if not arguments.family:
        put(ROOT / "docs" / "cost.md", "steps", steps_table(sweep))
    print(f"{path}: {len(points)} points", file=sys.stderr)


if __name__ == "__main__":
    main()
