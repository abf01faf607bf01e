"""Hypotheses that stand for another: rules that cut nearly alike, blocks in another order, two stages for one.

A search that changes one field after the other does not pass from one to the other: what lies between explains less than both.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from codesign.probe.hypotheses import Data, Path, changed, format_of, mantissa_bits, named_or_fields

WIDE = {"exponent_bits": 8, "bias": 127, "infinity": True, "nan": "ieee"}
"""Exponents of FP32."""
CUT = ("fraction_bits", "rounding", "zero_exponent")
"""Fields of a stage that cuts its terms."""


def wide_register(bits: int, rounding: str) -> Data:
    """Return a register with the exponents of FP32 and `bits` bits of mantissa."""
    return {"format": named_or_fields({**WIDE, "mantissa_bits": bits}), "rounding": rounding}


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
                for own in dict.fromkeys((mode, "nearest-even")) if 0 < width <= 44 else ():
                    exact = changed(hypothesis, ("stages", i, "fraction_bits"), None)
                    yield changed(exact, ("stages", i, "result"), [wide_register(width, own), *registers])
        if len(registers) > 1 - (i < len(hypothesis["stages"]) - 1 and "chain" not in stage):
            width = mantissa_bits(registers[0]["format"])
            for other in (width, width + 1, width + 2):
                cut = changed(hypothesis, ("stages", i, "fraction_bits"), other)
                cut = changed(cut, ("stages", i, "rounding"), registers[0]["rounding"])
                yield changed(cut, ("stages", i, "result"), registers[1:])


def regrouped(registers: list[Data]) -> Iterator[list[Data]]:
    """Yield registers with one left out, one repeated, one split into two, or two merged."""
    for j, register in enumerate(registers):
        before, after, fmt = registers[:j], registers[j + 1 :], format_of(register["format"])
        yield [*before, *after]
        yield [*before, register, register, *after]
        if fmt.kind == "float":  # rounded as if exponents had no lower end, then flushed
            wide = named_or_fields({**WIDE, "exponent_bits": 9, "bias": 255, "mantissa_bits": fmt.mantissa_bits})
            flushed = {"overflow": "infinity", **register, "rounding": "toward-zero", "subnormals": "flush"}
            yield [*before, {"format": wide, "rounding": register["rounding"]}, flushed, *after]
            # rounded as if exponents had no upper end: what is too large becomes the largest number, infinities stay
            taller = {
                **WIDE,
                "exponent_bits": fmt.exponent_bits + 1,
                "bias": fmt.bias,
                "mantissa_bits": fmt.mantissa_bits,
            }
            cut = {n: x for n, x in register.items() if n != "overflow"} | {"rounding": "toward-zero"}
            yield [*before, {"format": named_or_fields(taller), "rounding": register["rounding"]}, cut, *after]
        if before:  # the bits of the first and the range of the second
            first = before[-1]
            ranged = {**WIDE, "exponent_bits": fmt.exponent_bits, "bias": fmt.bias}
            one = named_or_fields({**ranged, "mantissa_bits": mantissa_bits(first["format"])})
            yield [*before[:-1], {**register, "format": one, "rounding": first["rounding"]}, *after]


def replaced(hypothesis: Data, i: int, count: int, stages: list[Data]) -> Data:
    """Return a hypothesis with other stages for `count` of its own from number `i` on; scales apply where they did."""
    own, scale = hypothesis["stages"], hypothesis.get("scale", {})
    onto = scale.get("onto", -1)
    moves = {"scale": {**scale, "onto": onto + len(stages) - count}} if onto >= i else {}
    return {**hypothesis, "stages": [*own[:i], *stages, *own[i + count :]], **moves}


def absorbed(hypothesis: Data) -> Iterator[Data]:
    """Yield hypotheses without a stage that only rounds the results below: these are rounded where they are summed."""
    onto = hypothesis.get("scale", {}).get("onto", -1)
    for i, (lower, upper) in enumerate(pairwise(hypothesis["stages"])):
        alone = upper["terms"] == 1 and not upper.get("accumulator") and "fraction_bits" not in upper
        if alone and upper.get("result") and onto != i:
            for kept in (upper["result"], [*lower.get("result", []), *upper["result"]]):
                one = {n: v for n, v in lower.items() if n != "exponent"} | {"result": kept}
                yield replaced(hypothesis, i, 2, [one])


def dealt(hypothesis: Data) -> Iterator[tuple[Path, Data]]:
    """Yield hypotheses that deal out a stage's terms with several blocks in one turn: blocks follow each other otherwise."""
    for i, stage in enumerate(hypothesis["stages"]):
        now = stage.get("interleave", {"run": stage["terms"], "parts": 2})
        if "to" not in now:
            for hand in (None, 2 * stage["terms"], 4 * stage["terms"]):
                if hand or "interleave" in stage:
                    value = {n: v for n, v in {**now, "hand": hand}.items() if v}
                    yield ("stages", i, "interleave"), changed(hypothesis, ("stages", i, "interleave"), value)


def shared(hypothesis: Data) -> Iterator[Data]:
    """Yield hypotheses in which a stage sums half as many terms and the next one twice as many, or the other way round."""
    for i, (lower, upper) in enumerate(pairwise(hypothesis["stages"])):
        if "chain" in lower:
            continue
        if lower["terms"] % 2 == 0 and "interleave" not in lower:
            dealt_out = {n: 2 * x if n in ("run", "hand") else x for n, x in upper.get("interleave", {}).items()}
            above = {**upper, "terms": 2 * upper["terms"]} | ({"interleave": dealt_out} if dealt_out else {})
            yield replaced(hypothesis, i, 2, [{**lower, "terms": lower["terms"] // 2}, above])
        if upper["terms"] % 2 == 0 and "interleave" not in upper:
            yield replaced(
                hypothesis, i, 2, [{**lower, "terms": 2 * lower["terms"]}, {**upper, "terms": upper["terms"] // 2}]
            )


def divided(hypothesis: Data) -> Iterator[Data]:
    """Yield hypotheses in which a stage sums its terms in two steps, one of them exact, or in a chain of fewer at a time."""
    for i, stage in enumerate(hypothesis["stages"]):
        rules = {n: v for n, v in stage.items() if n not in ("terms", "interleave")}
        upper = {n: v for n, v in rules.items() if n not in CUT} | (
            {"accumulator": True} if "accumulator" in rules else {}
        )
        dealt_out = {n: stage[n] for n in ("interleave", "zero") if n in stage}
        sizes = [terms for terms in range(1, stage["terms"]) if stage["terms"] % terms == 0]
        for terms in sizes:
            count, lower = stage["terms"] // terms, {**dealt_out, "terms": terms}
            if terms > 1:
                yield replaced(hypothesis, i, 1, [lower, {**rules, "terms": count}])
                if "fraction_bits" in rules:
                    cut = {n: rules[n] for n in CUT if n in rules}
                    yield replaced(hypothesis, i, 1, [{**lower, **cut}, {**upper, "terms": count}])
            if not {"accumulator", "interleave"} & stage.keys() and "result" in stage:
                yield replaced(hypothesis, i, 1, [{**rules, "terms": terms, "accumulator": True, "chain": count}])


def split(hypothesis: Data) -> Iterator[Data]:
    """Yield hypotheses in which two stages share what one of them does: the upper adds C or the running value."""
    for i, stage in enumerate(hypothesis["stages"]):
        if not stage.get("accumulator") or stage["terms"] == 1 or "to" in stage.get("interleave", {}):
            continue
        cut = {n: stage[n] for n in CUT if n in stage}
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
            yield replaced(hypothesis, i, 1, [{**lower, **below}, {**upper, **above}])
