"""Fits the model of a unit's cost to synthesised designs. Needs the extra `cost`.

    python pages/cost_model.py

Measures designs that span the parameters of instructions, fits the coefficients of `codesign.evidence.cost.predict` to them, to
the shipped records and to the curves, and writes codesign/evidence/cost/records/model/*.json and the table of docs/cost.md.
Designs that the record has are not measured again.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import cost_curves
import numpy as np
from cost_curves import FP32, NEAREST, PROPOSALS, TODAY, joined, scales, unit, window

from codesign.commit import commit
from codesign.evidence.cost import sweep
from codesign.evidence.cost.attribution import steps
from codesign.evidence.cost.cell_library import Library
from codesign.evidence.cost.energy import energy_vectors
from codesign.evidence.cost.measured_unit import measure
from codesign.evidence.cost.predict import (
    KINDS,
    MODEL,
    POINTS,
    CostModel,
    HeldOut,
    Law,
    MeasuredPoint,
    MeasuredPoints,
    family,
    quantities,
)
from codesign.evidence.cost.records import CostRecord, Toolchain, design_sha256, find, toolchain
from codesign.evidence.cost.rtl.block_sizes import sizes
from codesign.proposal.load import load_proposal
from isa_model.instruction import Instruction
from isa_model.output_files import write_file

OPERANDS = (
    ("e4m3", "e4m3"),
    ("e2m1", "e2m1"),
    ("e5m2", "e5m2"),
    ("e2m3", "e2m3"),
    ("e4m3", "e2m1"),
    ("fp16", "fp16"),
    ("e3m2", "e3m2"),
    ("bf16", "bf16"),
    ("e5m2", "e4m3"),
)
BITS = (13, 25, 8, 17, 32, 11, 21)
TERMS = (8, 16, 4)
REGISTERS = (
    TODAY,
    FP32,
    NEAREST,
    {"format": "e6m9", "rounding": "nearest-even", "overflow": "saturate", "subnormals": "flush"},
    {"format": "fp16", "rounding": "nearest-even"},
    {"format": "e6m5", "rounding": "stochastic", "random_bits": 13, "overflow": "saturate"},
    {"format": "e8m13", "rounding": "stochastic", "random_bits": 8, "overflow": "infinity"},
)
ROUNDINGS = ("toward-zero", "toward-zero", "nearest-even", "to-odd")
SCALES = ("ue8m0", "fp32", "ue4m3", "bf16", "ue5m3")
INTEGERS = (("int8", "int8"), ("int4", "int4"), ("int8", "int4"))


@dataclass(frozen=True, eq=False)
class Sample:
    """A measured design: its family, the sizes of its blocks, and its figures."""

    family: str
    sizes: dict[str, float]
    figures: dict[str, Any]


ADDED = {"join": {"terms": 1, "accumulator": True, "result": NEAREST, "zero": "ieee"}}


def designs() -> Iterator[tuple[str, Instruction]]:
    """Yield the family and the instruction of each design.

    The values of a family's parameters take turns, in steps that share no factor with their number, so that few designs hold
    every value with many of the others. The places of each family are those of 4, 8 and 16 products that were measured.
    """
    places = {
        window_of: (0, 1, 2, 4, 5, 6, 7, 9, 11, 13, 15, 20, 22, 24, 29, 31, 33, 38, 40),
        scaled: (0, 1, 2, 3, 5, 7, 8, 10, 12, 17, 22, 27),
        chained: (0, 1, 4, 8),
        two_stages: (0, 1, 2, 5, 6, 9, 10),
        whole: (0, 1, 3, 4, 7, 8, 11),
        nested: (0, 1, 2, 4),
    }
    for i in range(1 + max(map(max, places.values()))):
        for make, own in places.items():
            if i in own:
                yield make.__name__, make(i)


def of(values: Any, i: int) -> Any:
    """Return the value at a place that counts around."""
    return values[i % len(values)]


def typed(spec: Instruction, a: str, b: str) -> Instruction:
    """Return an instruction with other operands."""
    return Instruction.model_validate({**spec.model_dump(exclude_defaults=True), "a": a, "b": b})


def window_of(i: int) -> Instruction:
    """Return a unit that aligns products and C in one window."""
    fuse = window(of(BITS, 3 * i), of(TERMS, i + i // 3), of(REGISTERS, 2 * i + i // 7))["fuse"]
    fuse = {**fuse, "rounding": of(ROUNDINGS, i), "zero_exponent": of((-133, None), i // 2)}
    return typed(unit({"fuse": fuse}), *of(OPERANDS, i))


def scaled(i: int) -> Instruction:
    """Return a unit with group scales on products or on partial sums."""
    fmt, terms = of(SCALES, i), of(TERMS, i + i // 5)
    group = of((terms, 4 * terms, max(terms // 2, 4)), i // 2)
    onto = "products" if (i % 3 == 0 and fmt != "fp32") or group < terms else "dot"
    rule = scales(fmt, group, onto, of(("ab", "ab", "a"), i // 3), NEAREST if fmt == "fp32" and i % 4 < 3 else None)
    if "b" not in rule:
        rule.pop("product", None)
    last = of((ADDED, window(of(BITS, 2 * i), 1)), i // 4)
    stages = joined(of(BITS, 2 * i), terms, last, of((None, None, NEAREST, TODAY), i // 2))
    if onto == "products" and i % 2:
        stages = window(of(BITS, 2 * i), terms)
    return typed(unit(stages, rule), *of(OPERANDS, i + i // 9))


def chained(i: int) -> Instruction:
    """Return a unit whose partial sums pass through a register several times before they are added to C."""
    bits, terms, chain = of(BITS, 3 * i), of((4, 8), i), of((2, 4), i // 2)
    dot = {"terms": terms, "fraction_bits": bits, "rounding": "toward-zero", "accumulator": True, "chain": chain}
    dot["result"] = of((FP32, TODAY, NEAREST), i)
    return typed(unit({"dot": dot, **of((ADDED, window(bits, 1)), i // 3)}), *of(OPERANDS, 2 * i))


def two_stages(i: int) -> Instruction:
    """Return a unit that sums small blocks, and their results with C."""
    inner, outer = of(((4, 4), (2, 4), (4, 2), (8, 2)), i)
    stages = joined(of(BITS, 2 * i), inner, window(of(BITS, 2 * i + i // 7), outer), of((None, NEAREST, FP32), i // 2))
    if i % 3 == 2:
        stages["dot"] = {"terms": inner}
    return typed(unit(stages), *of(("e4m3 e4m3", "e2m1 e2m1", "e2m3 e2m3", "e3m2 e3m2"), i + i // 4).split())


def whole(i: int) -> Instruction:
    """Return a unit that sums integers, or floating-point products exactly."""
    terms = of((8, 16, 32, 4), i)
    if i % 3 == 2:
        fixed = {"name": "fixed52", "exponent_bits": 1, "mantissa_bits": 50, "bias": -31, "overflow": "saturate"}
        exact = {"terms": terms, "accumulator": True, "result": {"format": fixed, "rounding": "nearest-even"}}
        return typed(unit({"sum": exact}, to=fixed), *of((("e4m3",) * 2, ("e2m1",) * 2, ("e2m3",) * 2), i // 3))
    if i % 3 == 1:
        total = {"terms": terms, "result": {"format": "int32", "rounding": "nearest-even", "overflow": "wrap"}}
        rule = scales("fp32", 4 * terms, "sum", product=NEAREST) if i % 2 else None
        return typed(unit({"sum": total, **ADDED}, rule, operand="int8"), *of(INTEGERS, i // 3))
    register = {"format": "int32", "rounding": "nearest-even", "overflow": of(("wrap", "saturate"), i // 3)}
    return typed(
        unit({"sum": {"terms": terms, "accumulator": True, "result": register}}, operand="int8", to="int32"),
        *of(INTEGERS, i // 2),
    )


def nested(i: int) -> Instruction:
    """Return a unit with two levels of scales, as in NVFP4."""
    terms = of((8, 16), i)
    levels = of((("ue4m3", "fp32"), ("ue8m0", "ue8m0"), ("ue4m3", "ue8m0")), i)
    rule = scales(levels[0], terms // of((1, 2), i // 2), "products")
    for side in "ab":
        group = (1, 4 * terms) if side == "a" else (4 * terms, 1)
        rule[side]["coarser"] = [{"group": group, "format": levels[1]}]
    return typed(unit(joined(25, terms, window(25, 1)) if i % 2 else window(25, terms), rule), "e2m1", "e2m1")


def point_of(family: str, record: CostRecord) -> MeasuredPoint:
    """Return what a record measures, as a point."""
    return MeasuredPoint(
        family=family,
        design_sha256=record.design_sha256,
        loop=record.pipelined.loop,
        staged_area=record.pipelined.area,
        **quantities(record),
        vectors=record.equivalence.vectors,
    )


def measured() -> MeasuredPoints:
    """Return the points of all designs; those that the record has are not measured again."""
    found = MeasuredPoints(
        **toolchain(Library.own(), commit("pages/cost_model.py")),
        operands=energy_vectors(next(designs())[1])[1],
        points=(),
    )
    if POINTS.exists():
        kept = MeasuredPoints.model_validate_json(POINTS.read_text(encoding="utf-8"))
        if (kept.recipe_sha256, kept.versions) == (found.recipe_sha256, found.versions):
            found = kept
    missing = [x for x in designs() if design_sha256(x[1]) not in {p.design_sha256 for p in found.points}]
    for kind, spec in missing:
        record = measure(spec, Library.own(), *energy_vectors(spec), thorough=False)
        found = found.model_copy(update={"points": (*found.points, point_of(kind, record))})
        print(f"{len(found.points)} {kind}: {record.area:.0f} NAND2", file=sys.stderr, flush=True)
        write_file(POINTS, found.model_dump_json(indent=1) + "\n")
    return found


def samples(points: MeasuredPoints) -> list[Sample]:
    """Return all designs that have been measured: the points, the shipped records, and the curves."""
    by_design = {p.design_sha256: p.model_dump() for p in points.points}
    found = {key: (spec, by_design[key]) for _, spec in designs() if (key := design_sha256(spec)) in by_design}
    for path in sorted(PROPOSALS.glob("*.yaml")):
        proposal = load_proposal(path)
        for new in map(proposal.proposed, (None, *proposal.swept)):
            for spec in (proposal.today, new, *steps(proposal.today, new).values()):
                record = find(spec, "neutral")
                if record is not None:
                    found[design_sha256(spec)] = spec, point_of("", record).model_dump()
    curves = sweep.shipped()
    known = {(p.curve, p.label): p for p in curves.points} if curves else {}
    for design in cost_curves.designs():
        point = known.get((design.curve, design.label))
        if point and design.share:
            figures = point.model_dump(include={"area", "delay_fo4", "energy_low", "energy_high"})
            found.setdefault(design_sha256(design.spec), (design.spec, figures))
    for spec, figures in found.values():
        if not _switches(spec):
            figures.pop("energy_low", None)
            figures.pop("energy_high", None)
    return [Sample(family(spec), dict(sizes(spec)), figures) for spec, figures in found.values()]


def _switches(spec: Instruction) -> bool:
    """Return whether the workload of the energy figures moves a unit as its use would.

    It has no coarser scales, and its operands fill their formats: sums overflow in registers of little range, and stay there.
    """
    registers = [r.format for stage in spec.stages.values() for r in stage.result if r.format.kind == "float"]
    largest = 2.0 ** (spec.a.max_exponent + spec.b.max_exponent + 8)
    return not any(side.coarser for side in spec.scales) and all(2.0**f.max_exponent >= largest for f in registers)


def fitted(quantity: str, among: Sequence[Sample]) -> dict[str, float]:
    """Return the nonnegative coefficients of least squared relative error."""
    kinds = KINDS[quantity]
    rows = [[s.sizes.get(k, 0.0) / s.figures[quantity] for k in kinds] for s in among if s.figures.get(quantity)]
    matrix = np.array(rows)
    scale = np.sqrt((matrix**2).mean(axis=0))
    scale[scale == 0] = 1
    gram, towards = (matrix / scale).T @ (matrix / scale), (matrix / scale).sum(axis=0)
    found = np.zeros(len(kinds))
    for _ in range(5000):  # coordinate descent, each coordinate to its best value that is not negative
        before = found.copy()
        for j in np.flatnonzero(np.diag(gram)):
            found[j] = max(0.0, found[j] + (towards[j] - gram[j] @ found) / gram[j, j])
        if np.abs(found - before).max() < 1e-7:
            break
    return {k: float(f"{x:.5g}") for k, x in zip(kinds, found / scale, strict=True) if x > 0}


def errors(quantity: str, law: dict[str, float], among: Iterable[Sample]) -> list[float]:
    """Return the relative errors of a fit."""
    return [
        sum(x * s.sizes.get(k, 0.0) for k, x in law.items()) / s.figures[quantity] - 1
        for s in among
        if s.figures.get(quantity)
    ]


def held_out(quantity: str, parts: Iterable[Sequence[Sample]], every: Sequence[Sample]) -> list[list[float]]:
    """Return the errors on each part of the samples, with the fit to the others."""
    return [errors(quantity, fitted(quantity, [s for s in every if s not in part]), part) for part in parts]


def summary(found: Sequence[float]) -> HeldOut:
    """Return the mean and the worst of errors."""
    size = np.abs(found)
    mean, most, worst = (float(f"{x:.3g}") for x in (size.mean(), np.quantile(size, 0.95), size.max()))
    return HeldOut(designs=len(found), mean=mean, most=most, worst=worst)


def model_of(every: Sequence[Sample], head: dict[str, Any]) -> CostModel:
    """Return the fit to all samples, with its errors on held-out ones."""
    laws, names = {}, sorted({s.family for s in every})
    for quantity in KINDS:
        own = [s for s in every if s.figures.get(quantity)]
        of_family = {name: [s for s in own if s.family == name] for name in names}
        by = dict(zip(names, held_out(quantity, of_family.values(), own), strict=True))
        at_random = held_out(quantity, [own[i::10] for i in range(10)], own)
        laws[quantity] = Law(
            coefficients=fitted(quantity, own),
            random=summary([e for part in at_random for e in part]),
            families=summary([e for part in by.values() for e in part]),
            by_family={name: summary(part) for name, part in by.items() if part},
        )
    return CostModel(**head, laws=laws)


def main() -> None:
    """Measure the designs, fit the model, and write both."""
    points = measured()
    head = points.model_dump(include=set(Toolchain.model_fields))
    write_file(MODEL, model_of(samples(points), head).model_dump_json(indent=1) + "\n")


if __name__ == "__main__":
    main()
