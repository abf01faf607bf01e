"""Vectors built for a goal: by category, candidate drafts of which the first that does what it should is taken.

Every candidate follows from the numbers of the spec. Whether it does what it should is not decided here but by
reading its codes (observer.py), so that a rule that gets in the way of one candidate leaves the next.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import islice
from typing import Any

from isa_model.codec import Number, decode
from isa_model.instruction import Instruction
from isa_model.rounding import Rounding
from isa_model.vectors.construct import (
    Draft,
    Workbench,
    added,
    below,
    digits,
    largest_exponents,
    magnitude_exponent,
    plain,
    power,
    slices,
    sums,
)
from isa_model.vectors.goals import Goal, Goals, kept_bits
from isa_model.vectors.observer import APART, Observer, window
from isa_model.vectors.reach import leading
from isa_model.vectors.ties import Ties
from isa_model.vectors.vector import Specials, Vector, exactly

MOST_TRIES = 200
"""Nearly every goal is met by its first candidate."""


def directed(spec: Instruction, goals: Goals, observer: Observer) -> list[Vector]:
    """A vector for every goal that operands can reach, as far as one of the candidates reaches it."""
    builder = Builder(spec, goals)
    found: dict[Vector, None] = {}
    for turn, goal in enumerate(g for g in goals.all if not g.unreachable):
        builder.bench.turn = turn
        for draft in islice(builder.drafts(goal), MOST_TRIES):
            vector = draft.vector(": ".join(goal.bin))
            if goal.bin in observer.hits(vector):
                found[vector] = None
                break
    return list(found)


class Builder:
    """Candidates for every category of goals."""

    def __init__(self, spec: Instruction, goals: Goals) -> None:
        self.spec, self.goals = spec, goals
        self.bench = Workbench(spec, goals.reaches)
        self.by_category: dict[str, Callable[..., Iterator[Draft]]] = {
            "special values": self.special_values,
            "alignment distance": self.alignment,
            "places": self.places,
            "rounding": Ties(spec, goals, self.bench).rounding,
            "cancellation": self.cancellation,
            "subnormal result": self.subnormal,
            "overflow": self.overflow,
            "scale extremes": self.scales,
        }

    def drafts(self, goal: Goal) -> Iterator[Draft]:
        return self.by_category[goal.bin.category](*goal.aim)

    # -- special values ----------------------------------------------------------------------------------------------

    def special_values(self, x: str, first: int, y: str, second: int) -> Iterator[Draft]:
        """Two codes at the edges of their formats meet; where one is C's, the other is multiplied by one."""
        draft = Draft(self.bench)
        codes = {"A": plain(self.spec.a), "B": plain(self.spec.b), "C": 0, x: first, y: second}
        draft.put(self.bench.turn % self.spec.shape.k, (codes["A"], codes["B"]))
        draft.c = codes["C"]
        yield draft

    # -- alignment ---------------------------------------------------------------------------------------------------

    def alignment(self, i: int, accumulator: bool | None, distance: int | None) -> Iterator[Draft]:
        """A number at a distance below the largest exponent, which another one sets, or a zero."""
        if accumulator is None or distance is None:
            yield from self._zeros(i, distance)
            return
        stage = self.bench.stages[i]
        beyond = distance > window(stage, accumulator)
        sign = -1 if stage.rounding is Rounding.DOWN else 1
        for d in (distance, distance + 1, distance + 4, self.goals.furthest(i, accumulator)) if beyond else (distance,):
            for exponent in largest_exponents(self.bench, i, d, accumulator):
                for significand in (Fraction(11, 8), Fraction(3, 2), Fraction(1)):
                    value = sign * significand * power(exponent - d)
                    yield from below(self.bench, i, accumulator, value, exponent - d, exponent)

    def _zeros(self, i: int, places: int | None) -> Iterator[Draft]:
        """Numbers smaller than the exponent that a zero counts with; `places` below the last one kept, one of them.

        Where the register cannot hold a number so small, a second one brings the sum to where it decides the rounding.
        """
        stage = self.bench.stages[i]
        assert stage.zero_exponent is not None
        unit = power(stage.zero_exponent - kept_bits(stage, self.goals.reaches.sums[i]) - (places or 0))
        register = stage.result[0] if stage.result else None
        smallest = power((register.format if register else self.spec.accumulator).min_lsb_exponent)
        to_nearest = register and register.rounding in (Rounding.NEAREST_EVEN, Rounding.NEAREST_AWAY)
        width = 1 + max(self.spec.a.mantissa_bits, self.spec.b.mantissa_bits)
        zero, edge = Fraction(0), smallest / 2 if to_nearest else smallest - unit
        decided = [(zero, [edge, unit]), (edge, [unit]), (unit, [edge])]
        decided += [(zero, [*slices(edge, width), unit])] if edge > 0 else []
        alone = [(zero, [unit]), (unit, []), (zero, [3 * unit])]
        for running, terms in (*(decided if unit < smallest else []), *alone):
            yield from added(self.bench, i, running, terms)
        for exponent in (stage.zero_exponent - 1, stage.zero_exponent - 4, self.bench.terms(i).lo):
            for value in (power(exponent), power(exponent) * Fraction(3, 2)):
                yield from added(self.bench, i, zero, [value], [exponent])
                yield from added(self.bench, i, value, [])

    def places(self, i: int, place: int, other: int) -> Iterator[Draft]:
        """A small number below a large one half a block away; the large one cancels elsewhere, so that D shows the rest."""
        stage, zero = self.bench.stages[i], Fraction(0)
        bits = stage.fraction_bits
        if bits is None:
            kept = stage.result[0].format.mantissa_bits if stage.result else 20
            distances = [kept + 3, 20, 12, 8, 6, 5, APART]
        else:
            distances = [bits - 1, bits, bits + 1, self.bench.terms(i).spread]
        third = next((p for p in range(stage.terms) if p not in (place, other) and p // 2 == other // 2), -1)
        terms, where = self.bench.terms(i), [other, place]
        pairs = [
            (power(exponent), significand * power(exponent - distance))
            for distance in distances
            for exponent in largest_exponents(self.bench, i, distance, False)
            for significand in (Fraction(11, 8), Fraction(3, 2), Fraction(1))
        ]
        for big, small in (*pairs, (power(terms.lo + terms.spread), power(terms.last))):
            exponents = [magnitude_exponent(big), None]
            yield from added(self.bench, i, -big, [big, small], exponents, where)
            for draft in added(self.bench, i, zero, [big, small], exponents, where):
                if not self.bench.is_last(i) and not stage.aligned and draft.put_c(-big):
                    yield draft
            if third >= 0:
                yield from added(self.bench, i, zero, [big, small, -big], [*exponents, exponents[0]], [*where, third])
            yield from added(self.bench, i, zero, [big, small], exponents, where)

    # -- cancellation ------------------------------------------------------------------------------------------------

    def cancellation(self, i: int, what: str, sign: str = "+") -> Iterator[Draft]:
        if what == "negative zeros":
            yield from self._negative_zeros()
            return
        terms, zero = self.bench.terms(i), Fraction(0)
        low, high = terms.lo, max(terms.hi, leading(terms.largest))
        for exponent in dict.fromkeys(((low + high) // 2, high - 1, 0, high, low + 2, *range(low, high, 5))):
            for big in (power(exponent) * 3 / 2, power(exponent)):
                if what == "terms":
                    yield from added(self.bench, i, zero, [big, -big])
                elif what == "both":
                    yield from added(self.bench, i, -big, [big])
                    yield from added(self.bench, i, big, [-big])
                else:
                    yield from self._last_bit(i, big, 1 if sign == "+" else -1)

    def _last_bit(self, i: int, big: Fraction, sign: int) -> Iterator[Draft]:
        """Large numbers that leave one unit of the last place."""
        stage, zero, top = self.bench.stages[i], Fraction(0), magnitude_exponent(big)
        steps = [kept_bits(stage, self.goals.reaches.sums[i])] if stage.aligned else [20, 12, 8, 6, 5, APART]
        for step in steps:
            unit = sign * power(top - step)
            yield from added(self.bench, i, zero, [big, -big, unit])
            yield from added(self.bench, i, unit, [big, -big])
            yield from added(self.bench, i, unit - big, [big])
            yield from added(self.bench, i, -big, [big, unit])
            yield from added(self.bench, i, -big, [big + unit])
            yield from added(self.bench, i, zero, [big, unit - big])

    def _negative_zeros(self) -> Iterator[Draft]:
        """Products of minus one and zero, and minus zero for C."""
        draft, a, b = Draft(self.bench), self.spec.a, self.spec.b
        one = exactly(a if a.signed else b, Number(True, 1, 0)) or 0
        for k in range(self.spec.shape.k):
            draft.put(k, (one, 0) if a.signed else (0, one))
        draft.c = Specials(self.spec.c_format).codes.get("-0", 0)
        yield draft

    # -- the ends of registers ---------------------------------------------------------------------------------------

    def subnormal(self, i: int, j: int, sign: str, what: str) -> Iterator[Draft]:
        fmt = self.bench.stages[i].result[j].format
        smallest, normal = power(fmt.min_lsb_exponent), power(fmt.min_exponent)
        totals = {
            "smallest": [smallest],
            "largest": [normal - smallest],
            "between": [normal / 2, smallest * 2, smallest * 3, normal * Fraction(3, 4)],
            "to zero": [smallest / 4, smallest / 8, smallest / 2, smallest * Fraction(3, 4)],
            "up to the smallest normal": [normal - smallest / 4, normal - smallest / 2, normal - smallest / 8],
            "flushed": [normal / 2, smallest, normal * Fraction(3, 4), normal - smallest],
        }[what]
        for total in (-total if sign == "-" else total for total in totals):
            if what == "flushed" and not self.bench.is_last(i):
                # Two would be a normal number together; or C meets what is left.
                yield from added(self.bench, i + 1, Fraction(0), [total, total])
                yield from (draft for draft in self._totals(i, total, normal) if draft.put_c(2 * normal))
            yield from self._totals(i, total, normal)

    def _totals(self, i: int, total: Fraction, normal: Fraction) -> Iterator[Draft]:
        """Sums of a total, also where no single number is as small as that."""
        yield from sums(self.bench, i, total)
        for big in (normal, normal * 2, normal * 3):
            yield from added(self.bench, i, total - big, [big])
            yield from added(self.bench, i, Fraction(0), [total - big, big])

    def overflow(self, i: int, j: int, sign: str, what: str) -> Iterator[Draft]:
        fmt = self.bench.stages[i].result[j].format
        largest = Fraction(decode(fmt, fmt.max_finite_magnitude << fmt.low_padding).exact())
        bottom = -largest - 1 if fmt.signed else Fraction(0)
        place = power(fmt.max_exponent - fmt.mantissa_bits) if fmt.kind == "float" else Fraction(1)
        totals = {
            "largest finite": [largest],
            "over by less than half a last place": [largest + place / n for n in (4, 8, 64)],
            "over by half a last place": [largest + place / 2],
            "over by more than half a last place": [largest + place * n / 8 for n in (6, 5, 7)],
            "over by a last place or more": [largest + place, 2 * (largest + place), largest + 4 * place],
            "largest": [largest],
            "one over the largest": [largest + 1],
            "far over": [largest + 2, largest + 64],
            "smallest": [bottom],
            "one under the smallest": [bottom - 1],
            "far under": [bottom - 2, bottom - 64],
        }[what]
        for total in totals:
            yield from sums(self.bench, i, -total if sign == "-" else total)
        for total in totals:  # C is the largest number itself, and small terms are the rest
            rest, running = (x * (-1 if sign == "-" else 1) for x in (total - largest, largest))
            for terms in ([rest], digits(rest)):
                yield from added(self.bench, i, running, terms)
        if "over" in what:
            yield from self._just_over(i, largest, place, -1 if sign == "-" else 1)

    def _just_over(self, i: int, largest: Fraction, place: Fraction, sign: int) -> Iterator[Draft]:
        """The largest number running, and a term that may be far smaller than its last place, or as large as can be."""
        terms = self.bench.terms(i)
        for exponent in (terms.hi, terms.hi - 1, (terms.lo + terms.hi) // 2, terms.lo):
            for running in (largest, largest - place):
                for count in (1, self.bench.stages[i].terms):
                    yield from added(self.bench, i, sign * running, [sign * power(exponent)] * count)

    # -- scales ------------------------------------------------------------------------------------------------------

    def scales(self, side: str, code: int, other: Any) -> Iterator[Draft]:
        k = self.bench.turn % self.spec.shape.k
        draft = Draft(self.bench)
        draft.put(k, (plain(self.spec.a), plain(self.spec.b)))
        if side == "both":
            draft.scale("a", k, code)
            draft.scale("b", k, other)
            yield draft
            return
        draft.scale(side.lower(), k, code)
        if other == "finite":
            yield draft
            return
        special = {"zero": zero_pair, "nan": nan_pair, "infinity": infinite_pair}[other](self.spec)
        for pair in special:
            draft.put(k, pair)
            yield draft


def zero_pair(spec: Instruction) -> list[tuple[int, int]]:
    return [(0, plain(spec.b))]


def nan_pair(spec: Instruction) -> list[tuple[int, int]]:
    if spec.a.nan_code is not None:
        return [(spec.a.nan_code, plain(spec.b))]
    return [] if spec.b.nan_code is None else [(plain(spec.a), spec.b.nan_code)]


def infinite_pair(spec: Instruction) -> list[tuple[int, int]]:
    codes = [(fmt.max_finite_magnitude + fmt.infinity) << fmt.low_padding for fmt in (spec.a, spec.b)]
    if spec.a.infinity:
        return [(codes[0], plain(spec.b))]
    return [(plain(spec.a), codes[1])] if spec.b.infinity else [(codes[0], codes[1])]
