"""Fits the model of a unit's cost to synthesised designs. Needs the extra `cost`.

    python pages/cost_model.py [--designs N]

Measures designs that span the parameters of instructions, fits the coefficients of `codesign.evidence.cost.predict` to them, to
the shipped records and to the curves, and writes codesign/evidence/cost/records/model/*.json and the table of docs/cost.md.
Designs that the record has are not measured again.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from typing import Any

from cost_curves import FP32, NEAREST, TODAY, joined, scales, unit, window

from codesign.commit import commit
from codesign.evidence.cost.cell_library import Library
from codesign.evidence.cost.energy import energy_vectors
from codesign.evidence.cost.measured_unit import measure
from codesign.evidence.cost.predict import POINTS, MeasuredPoint, MeasuredPoints
from codesign.evidence.cost.records import CostRecord, design_sha256, toolchain
from isa_model.diagnostics import InputError
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
ADDED = {"join": {"terms": 1, "accumulator": True, "result": NEAREST, "zero": "ieee"}}


def designs() -> Iterator[tuple[str, Instruction]]:
    """Yield the family and the instruction of each design: the values of a family's parameters take turns, in steps that share
    no factor with their number, so that few designs hold every value with many of the others.
    """
    families = (window_of, scaled, chained, two_stages, whole, nested)
    counts = {window_of: 42, scaled: 30, chained: 14, two_stages: 14, whole: 12, nested: 6}
    for i in range(max(counts.values())):
        for family in families:
            if i < counts[family]:
                try:
                    yield family.__name__, family(i)
                except InputError as error:
                    print(f"{family.__name__} {i}: {error}", file=sys.stderr)


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
        area=record.area,
        delay_fo4=record.delay_fo4,
        cycles=record.pipelined.cycles,
        loop=record.pipelined.loop,
        register_bits=record.pipelined.register_bits,
        staged_area=record.pipelined.area,
        energy_low=record.energy.low,
        energy_high=record.energy.high,
        vectors=record.equivalence.vectors,
    )


def measured(most: int) -> MeasuredPoints:
    """Return the points of at most so many designs; those that the shipped file has are not measured again."""
    head = toolchain(Library.own(), commit("pages/cost_model.py"))
    kept = MeasuredPoints.model_validate_json(POINTS.read_text()) if POINTS.exists() else None
    same = kept is not None and kept.recipe_sha256 == head["recipe_sha256"] and kept.versions == head["versions"]
    known = {p.design_sha256: p for p in kept.points} if kept is not None and same else {}
    if kept is not None and known:
        head["commit"] = kept.commit
    points: dict[str, MeasuredPoint] = {}
    for family, spec in list(designs())[:most]:
        key = design_sha256(spec)
        if key in known:
            points[key] = known[key]
        else:
            record = measure(spec, Library.own(), *energy_vectors(spec), thorough=False)
            points[key] = point_of(family, record)
            print(f"{len(points)} {family}: {record.area:.0f} NAND2", file=sys.stderr, flush=True)
        every = (*points.values(), *(p for k, p in known.items() if k not in points))
        found = MeasuredPoints(**head, operands="deepseek-v3.fprop.qkv-a, normal tensors", points=every)
        write_file(POINTS, found.model_dump_json(indent=1) + "\n")
    return found


def main() -> None:
    """Measure the designs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--designs", type=int, default=len(list(designs())), help="measure only the first so many")
    measured(parser.parse_args().designs)


if __name__ == "__main__":
    main()
