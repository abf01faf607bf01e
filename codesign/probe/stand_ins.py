"""Hypotheses that stand for another: rules that cut nearly alike, blocks in another order, two stages for one.

A search that changes one field after the other does not pass from one to the other: what lies between explains less than both.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from codesign.probe.hypotheses import Data, Path, changed, format_of, named_or_fields

WIDE = {"exponent_bits": 8, "bias": 127, "infinity": True, "nan": "ieee"}
"""Exponents of FP32."""


def stand_ins(hypothesis: Data) -> Iterator[Data]:
    """Yield hypotheses with a register in place of a stage's fraction bits, or the other way round, or in another stage."""
    for i, (lower, upper) in enumerate(pairwise(hypothesis["stages"][:-1])):
        if "chain" not in {**lower, **upper} and lower.get("result") != upper.get("result"):
            swapped = changed(hypothesis, ("stages", i, "result"), upper.get("result"))
            yield changed(swapped, ("stages", i + 1, "result"), lower.get("result"))
    for i, stage in enumerate(hypothesis["stages"]):
        bits, registers, mode = stage.get("fraction_bits"), stage.get("result", []), stage.get("rounding")
        if bits is not None:
            for width in (bits - 1, bits, bits + 1):
                for own in {mode, "nearest-even"} if 0 < width <= 44 else ():
                    register = {"format": named_or_fields({**WIDE, "mantissa_bits": width}), "rounding": own}
                    exact = changed(hypothesis, ("stages", i, "fraction_bits"), None)
                    yield changed(exact, ("stages", i, "result"), [register, *registers])
        if len(registers) > 1 - (i < len(hypothesis["stages"]) - 1 and "chain" not in stage):
            width = format_of(registers[0]["format"]).mantissa_bits
            for other in (width, width + 1, width + 2):
                cut = changed(hypothesis, ("stages", i, "fraction_bits"), other)
                cut = changed(cut, ("stages", i, "rounding"), registers[0]["rounding"])
                yield changed(cut, ("stages", i, "result"), registers[1:])


def absorbed(hypothesis: Data) -> Iterator[Data]:
    """Yield hypotheses without a stage that only rounds the results below: these are rounded where they are summed."""
    stages, scale = hypothesis["stages"], hypothesis.get("scale", {})
    for i, (lower, upper) in enumerate(pairwise(stages)):
        alone = upper["terms"] == 1 and not upper.get("accumulator") and "fraction_bits" not in upper
        if alone and upper.get("result") and scale.get("onto", -1) != i:
            moves = {"scale": {**scale, "onto": scale["onto"] - 1}} if scale.get("onto", -1) > i else {}
            for kept in (upper["result"], [*lower.get("result", []), *upper["result"]]):
                one = {n: v for n, v in lower.items() if n != "exponent"} | {"result": kept}
                yield {**hypothesis, "stages": [*stages[:i], one, *stages[i + 2 :]], **moves}


def dealt(hypothesis: Data) -> Iterator[tuple[Path, Data]]:
    """Yield hypotheses that deal out a stage's terms with several blocks in one turn: blocks follow each other otherwise."""
    for i, stage in enumerate(hypothesis["stages"]):
        now = stage.get("interleave", {"run": stage["terms"], "parts": 2})
        if "to" not in now:
            for hand in (None, 2 * stage["terms"], 4 * stage["terms"]):
                if hand or "interleave" in stage:
                    value = {n: v for n, v in {**now, "hand": hand}.items() if v}
                    yield ("stages", i, "interleave"), changed(hypothesis, ("stages", i, "interleave"), value)


def split(hypothesis: Data) -> Iterator[Data]:
    """Yield hypotheses in which two stages share what one of them does: the upper adds C or the running value."""
    stages, scale = hypothesis["stages"], hypothesis.get("scale", {})
    for i, stage in enumerate(stages):
        if not stage.get("accumulator") or stage["terms"] == 1:
            continue
        cut = {n: stage[n] for n in ("fraction_bits", "rounding", "zero_exponent") if n in stage}
        keeps = {n: stage[n] for n in ("interleave",) if n in stage}
        zero = {n: stage[n] for n in ("zero",) if n in stage}
        upper = {n: v for n, v in stage.items() if n not in (*cut, *keeps, "terms")} | {"terms": 1, "accumulator": True}
        lower = {"terms": stage["terms"], **zero, **keeps}
        for below, above in (
            (cut, {}),
            (cut, cut),
            ({}, cut),
            ({"result": stage["result"]}, cut),
            ({"result": stage["result"]}, {}),
            ({**cut, "result": stage["result"]}, {}),
        ):
            if "to" not in stage.get("interleave", {}):
                moves = {"scale": {**scale, "onto": scale["onto"] + 1}} if scale.get("onto", -1) >= i else {}
                two = [{**lower, **below}, {**upper, **above}]
                yield {**hypothesis, "stages": [*stages[:i], *two, *stages[i + 1 :]], **moves}
