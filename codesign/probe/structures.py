"""The structures of hypotheses: how stages share out products, and rules to try each structure with."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from codesign.probe.hypotheses import Data
from codesign.probe.space import Space


def _divisors(k: int) -> list[int]:
    return [d for d in range(1, k + 1) if k % d == 0]


def structures(k: int) -> Iterator[list[Data]]:
    """Yield how stages can share out k products, without interleaving: terms, chains and where the running value is."""
    for terms in _divisors(k):
        yield [{"terms": terms, "accumulator": True}]
    for terms in _divisors(k):
        for above in _divisors(k // terms):
            last = {"terms": above, "accumulator": True}
            yield [{"terms": terms}, last]
            for chain in _divisors(k // terms // above)[1:]:
                yield [{"terms": terms, "accumulator": True, "chain": chain}, last]
            for middle in _divisors(k // terms // above)[1:]:
                if above == 1 or terms * middle * above == k:
                    yield [{"terms": terms}, {"terms": middle}, last]
                    if middle == 2:
                        for more in (2, 4):
                            if k % (terms * 2**more * above) == 0:
                                yield [{"terms": terms}, *({"terms": 2} for _ in range(more)), last]


def rules_of(stage: Data) -> Data:
    """Return the fields of a stage that say how it sums, not what."""
    return {n: v for n, v in stage.items() if n not in ("terms", "chain", "interleave")}


def arranged(structure: list[Data], inner: Iterable[Data], last: Data) -> list[Data]:
    """Return the stages of a structure under rules for each stage below the last, and for the last.

    Only a chain has a running value, in a register: the last one's if the rule has none.
    """
    *below, end = structure
    stages = []
    for shape, rule in zip(below, inner, strict=True):
        own = {n: v for n, v in rule.items() if n != "accumulator" or "chain" in shape}
        if "chain" in shape and not own.get("result"):
            own = {n: v for n, v in own.items() if n != "exponent"} | {"result": last["result"]}
        stages.append({**shape, **own})
    return [*stages, {**end, **last}]


def interleaved(stages: list[Data], k: int) -> Iterator[list[Data]]:
    """Yield a structure with the terms of its first stage dealt out in turn, in every way that k allows."""
    first, *rest = stages
    for to in ("blocks", "chains"):
        hand = first["terms"] * (first.get("chain", 1) if to == "chains" else 1)
        if to == "chains" and first.get("chain", 1) < 2:
            continue
        for parts in _divisors(k // hand)[1:]:
            for run in _divisors(hand)[:-1]:
                interleave = {"run": run, "parts": parts} | ({"to": to} if to == "chains" else {})
                yield [{**first, "interleave": interleave}, *rest]


def profiles(space: Space, last: Data, widths: Iterable[int] = ()) -> Iterator[tuple[Data, Data]]:
    """Yield rules to try a structure with: the fields of inner stages, and those of the last, as far as they are known.

    `widths` are numbers of bits that inner stages may keep. C alone does not show how a register as wide as C rounds, so
    that it is tried towards zero as well.
    """
    yield from _profiles(space, last)
    for bits in widths:
        yield {"result": [{"format": f"e8m{bits}", "rounding": "nearest-even"}]}, last
        yield {"fraction_bits": bits, "rounding": "toward-zero"}, last
    *before, register = last["result"]
    if register.get("rounding") == "nearest-even" and space.signature.spec.accumulator.kind == "float":
        yield from _profiles(space, {**last, "result": [*before, {**register, "rounding": "toward-zero"}]})


def _profiles(space: Space, last: Data) -> Iterator[tuple[Data, Data]]:
    yield {}, last
    if space.signature.spec.accumulator.kind == "integer":
        return
    nearest = {"result": [{"format": "fp32", "rounding": "nearest-even"}]}
    same = {"result": last["result"][-1:]}
    cuts = [{"fraction_bits": bits, "rounding": "toward-zero"} for bits in (24, 13)]
    for cut in cuts:
        yield cut, last
        if "fraction_bits" not in last:
            yield cut, {**cut, **last}
            yield {}, {**cut, **last}
        yield {**cut, **same}, last
    if "fraction_bits" not in last:
        down = {"fraction_bits": 30, "rounding": "down", **last}
        yield cuts[0], down
        yield cuts[0], {**down, "accumulator": {"fraction_bits": 24}}
        below, offset = cuts[0] | {"rounding": "down"}, {"accumulator": {"offset": -2}}
        yield {}, {**cuts[0], **last, **offset, "opposing": "complement"}
        yield below, {**below, **last, **offset}
    yield same, last
    yield nearest, last
    if last["result"][-1].get("rounding") != "toward-zero":
        yield {"result": [{**last["result"][-1], "rounding": "toward-zero"}]}, last
    if space.scale:
        yield {"exponent": 0}, {"fraction_bits": 36, "rounding": "toward-zero"} | last
