"""Vectors built for goals: candidate drafts for each category, of which the first that meets its goal is taken.

Candidates follow from the numbers of the spec. Whether one meets its goal is decided by an observer of its codes
(observer.py): if a rule of the instruction spoils one candidate, the next is tried.
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
from isa_model.vectors.goals import Goal, Goals
from isa_model.vectors.observer import APART, Observer, window
from isa_model.vectors.ties import Ties
from isa_model.vectors.vector import Specials, Vector, exactly

MOST_TRIES = 200
"""Most candidates that are tried for a goal; nearly every goal is met by the first."""


def directed(spec: Instruction, goals: Goals, observer: Observer) -> list[Vector]:
    """Return vectors for the goals that operands can reach; a goal that no candidate meets has none."""
    builder = _Builder(spec, goals)
    found: dict[Vector, None] = {}
    for turn, goal in enumerate(g for g in goals.all if not g.unreachable):
        builder.bench.turn = turn
        for draft in islice(builder.drafts(goal), MOST_TRIES):
            vector = draft.vector(": ".join(goal.bin))
            if goal.bin in observer.hits(vector):
                found[vector] = None
                break
    return list(found)


class _Builder:
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
        """Return the candidates for a goal."""
        return self.by_category[goal.bin.category](*goal.aim)

    # -- special values ----------------------------------------------------------------------------------------------

    def special_values(self, x: str, first: int, y: str, second: int) -> Iterator[Draft]:
        """Yield a draft in which two special codes meet; if one is C's, the other is multiplied by one."""
        draft = Draft(self.bench)
        codes = {"A": plain(self.spec.a), "B": plain(self.spec.b), "C": 0, x: first, y: second}
        draft.put(self.bench.turn % self.spec.shape.k, (codes["A"], codes["B"]))
        draft.c = codes["C"]
        yield draft

    # -- alignment ---------------------------------------------------------------------------------------------------

    def alignment(self, i: int, accumulator: bool | None, distance: int | None) -> Iterator[Draft]:
        """Yield drafts of a number at a distance below the largest exponent, which another number or a zero sets."""
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
        """Yield drafts of numbers below the exponent of a zero; one of them is `places` below the last place kept.

        If the register cannot hold a number so small, a second number makes it decide the rounding.
        """
        stage = self.bench.stages[i]
        assert stage.zero_exponent is not None
        unit = power(stage.zero_exponent - self.goals.reaches.sums[i].kept - (places or 0))
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
        """Yield drafts of a small number below a large one half a block away, which cancels so that D shows the rest."""
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
        """Yield drafts in which terms, with the running value or not, cancel to zero or to one unit of the last place."""
        if what == "negative zeros":
            yield from self._negative_zeros()
            return
        terms, zero = self.bench.terms(i), Fraction(0)
        low, high = terms.lo, max(terms.hi, terms.largest.leading_exponent)
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
        """Yield drafts of large numbers that cancel except for one unit of the last place."""
        stage, zero, top = self.bench.stages[i], Fraction(0), magnitude_exponent(big)
        steps = [self.goals.reaches.sums[i].kept] if stage.aligned else [20, 12, 8, 6, 5, APART]
        for step in steps:
            unit = sign * power(top - step)
            yield from added(self.bench, i, zero, [big, -big, unit])
            yield from added(self.bench, i, unit, [big, -big])
            yield from added(self.bench, i, unit - big, [big])
            yield from added(self.bench, i, -big, [big, unit])
            yield from added(self.bench, i, -big, [big + unit])
            yield from added(self.bench, i, zero, [big, unit - big])

    def _negative_zeros(self) -> Iterator[Draft]:
        """Yield a draft of products that are negative zeros, and of a negative zero for C."""
        draft, a, b = Draft(self.bench), self.spec.a, self.spec.b
        one = exactly(a if a.signed else b, Number(True, 1, 0)) or 0
        for k in range(self.spec.shape.k):
            draft.put(k, (one, 0) if a.signed else (0, one))
        draft.c = Specials(self.spec.c_format).codes.get("-0", 0)
        yield draft

    # -- the ends of registers ---------------------------------------------------------------------------------------

    def subnormal(self, i: int, j: int, sign: str, what: str) -> Iterator[Draft]:
        """Yield drafts of sums about or below the smallest normal number of a register."""
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
                # The next stage adds two such sums, which would be normal together, or C shows that one is missing.
                yield from added(self.bench, i + 1, Fraction(0), [total, total])
                yield from (draft for draft in self._totals(i, total, normal) if draft.put_c(2 * normal))
            yield from self._totals(i, total, normal)

    def _totals(self, i: int, total: Fraction, normal: Fraction) -> Iterator[Draft]:
        """Yield drafts of sums of a total, also by cancellation of larger numbers."""
        yield from sums(self.bench, i, total)
        for big in (normal, normal * 2, normal * 3):
            yield from added(self.bench, i, total - big, [big])
            yield from added(self.bench, i, Fraction(0), [total - big, big])

    def overflow(self, i: int, j: int, sign: str, what: str) -> Iterator[Draft]:
        """Yield drafts of sums about or beyond the largest number of a register."""
        fmt = self.bench.stages[i].result[j].format
        largest, bottom = decode(fmt, fmt.max_finite_magnitude << fmt.low_padding).exact(), Fraction(fmt.lowest)
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
        for total in totals:  # the running value is the largest number, and small terms are the rest
            rest, running = (x * (-1 if sign == "-" else 1) for x in (total - largest, largest))
            for terms in ([rest], digits(rest)):
                yield from added(self.bench, i, running, terms)
        if "over" in what:
            yield from self._just_over(i, largest, place, -1 if sign == "-" else 1)

    def _just_over(self, i: int, largest: Fraction, place: Fraction, sign: int) -> Iterator[Draft]:
        """Yield drafts of the largest number as running value, and of terms from the smallest to the largest possible."""
        terms = self.bench.terms(i)
        for exponent in (terms.hi, terms.hi - 1, (terms.lo + terms.hi) // 2, terms.lo):
            for running in (largest, largest - place):
                for count in (1, self.bench.stages[i].terms):
                    yield from added(self.bench, i, sign * running, [sign * power(exponent)] * count)

    # -- scales ------------------------------------------------------------------------------------------------------

    def scales(self, side: str, code: int, other: Any) -> Iterator[Draft]:
        """Yield drafts of a special scale with another special scale, or with a term of one kind."""
        k = self.bench.turn % self.spec.shape.k
        draft = Draft(self.bench)
        draft.put(k, (plain(self.spec.a), plain(self.spec.b)))
        if side == "both":
            draft.scale("a", k, code)
            draft.scale("b", k, other)
            yield draft
            return
        draft.scale(side.lower(), k, code)
        pair = self._pair(other)
        if pair is not None:
            draft.put(k, pair)
            yield draft

    def _pair(self, kind: str) -> tuple[int, int] | None:
        """Return codes of A and B whose product is of a kind: `finite`, `zero`, `infinity` or `nan`; None if none is."""
        a, b = self.spec.a, self.spec.b
        one_a, one_b = plain(a), plain(b)
        if kind == "nan":
            if a.nan_code is not None:
                return a.nan_code, one_b
            return None if b.nan_code is None else (one_a, b.nan_code)
        if kind == "infinity":
            top_a, top_b = ((fmt.max_finite_magnitude + fmt.infinity) << fmt.low_padding for fmt in (a, b))
            return top_a if a.infinity or not b.infinity else one_a, one_b if a.infinity else top_b
        return (0 if kind == "zero" else one_a), one_b
