"""Ties and near ties: candidate vectors in which an instruction rounds a number about halfway between its neighbours."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import islice
from typing import Any

from isa_model.codec import Number
from isa_model.formats import Format
from isa_model.instruction import Instruction
from isa_model.vectors.construct import (
    Draft,
    Workbench,
    below,
    largest_exponents,
    magnitude_exponent,
    plain,
    power,
    sums,
)
from isa_model.vectors.goals import Goals
from isa_model.vectors.observer import fraction_bits, rounding_classes
from isa_model.vectors.vector import exactly


class Ties:
    """Candidate vectors for every rounding of an instruction."""

    def __init__(self, spec: Instruction, goals: Goals, bench: Workbench) -> None:
        self.spec, self.goals, self.bench = spec, goals, bench

    def rounding(self, kind: str, *aim: Any) -> Iterator[Draft]:
        """Yield candidates for a goal of category `rounding`, whose aim begins with the kind of rounding."""
        candidates: dict[str, Callable[..., Iterator[Draft]]] = {
            "cut": self._cut,
            "register": self._register,
            "scale product": self._scale_product,
            "scale result": self._scale_result,
        }
        yield from candidates[kind](*aim)

    def _cut(self, i: int, accumulator: bool, sign: str, name: str) -> Iterator[Draft]:
        """Yield drafts of a number below a larger one, whose position to its last kept place has this name."""
        bits = fraction_bits(self.bench.stages[i], accumulator)
        for n, lost in self._significands(name, self.goals.reaches.products.bits):
            distance = max(bits + lost - n.bit_length() + 1, 0)
            # A subnormal number aligns above its leading bit, so perhaps only the very largest exponent shortens it.
            for exponent in dict.fromkeys(
                (*largest_exponents(self.bench, i, distance, accumulator), self.bench.terms(i).hi)
            ):
                value = (-n if sign == "-" else n) * power(exponent - bits - lost)
                yield from below(self.bench, i, accumulator, value, None, exponent)

    def _significands(self, name: str, most: int) -> Iterator[tuple[int, int]]:
        """Yield numbers, and how many of their last bits are lost, in a position of this name; short numbers first."""
        short = ((n, lost) for n in range(1, 64, 2) for lost in range(1, 8))
        halves = (
            (1 << lost >> 1) + step + (extra << lost) for lost in range(7, 12) for step in (1, -1) for extra in range(4)
        )
        long = ((n, lost) for n in halves for lost in range(6, 12))
        products = (
            (x * y, lost) for x, y in self.goals.significands(name, most) for lost in range(1, (x * y).bit_length() + 2)
        )
        for numbers in (short, long, products):
            yield from islice(((n, lost) for n, lost in numbers if name in rounding_classes(n, lost)), 40)

    def _register(self, i: int, j: int, sign: str, name: str) -> Iterator[Draft]:
        """Yield drafts of a sum whose position to the last place of a register has this name."""
        m = self.bench.stages[i].result[j].format.mantissa_bits
        for pattern, lost in self._patterns(i, j, name):
            for top in self._tops(i, j, m + lost):
                total = pattern * power(top - pattern.bit_length() + 1)
                yield from sums(self.bench, i, -total if sign == "-" else total)

    def _patterns(self, i: int, j: int, name: str) -> Iterator[tuple[int, int]]:
        """Yield significands too long for a register, in a position of this name, with the number of bits that are lost.

        Significands with few ones come first.
        """
        registers = self.bench.stages[i].result
        m, most = registers[j].format.mantissa_bits, self.goals.lost_bits(i, j)
        whole = 1 << m
        if len(registers) > j + 1 and registers[j + 1].format.mantissa_bits < m:
            # The kept bits are a tie for the next register, which the last place kept decides.
            whole += 1 << (m - registers[j + 1].format.mantissa_bits - 1)
        for lost in [n for n in (1, 2, 3, min(most, 20), 6, 7, 8, 10, 12) if n <= most]:
            for parity in (0, 1):
                half = 1 << lost >> 1
                for low in dict.fromkeys((half, half - 1, half + 1)):
                    pattern = ((whole + parity) << lost) + low
                    if name in rounding_classes(pattern, lost):
                        yield pattern, lost
        for x, y in self.goals.significands(name, most, m + 1):
            yield x * y, (x * y).bit_length() - m - 1

    def _tops(self, i: int, j: int, length: int) -> Iterator[int]:
        """Yield exponents for the leading bit of a sum of `length` bits, those that are probably possible first."""
        fmt = self.bench.stages[i].result[j].format
        reach = self.goals.reaches.sums[i]
        terms, products = reach.terms, self.goals.reaches.products
        middle = (max(terms.lo, products.lo) + min(terms.hi, products.hi)) // 2
        wanted = [middle + length, middle, terms.hi, terms.hi + reach.carry, terms.lo + length, middle + length // 2]
        wanted += [terms.hi - 2, terms.last + length, terms.last + length + 2, terms.hi + reach.carry - 1]
        wanted += [(fmt.min_exponent + fmt.max_exponent) // 2, fmt.max_exponent - 2, fmt.min_exponent + length]
        yield from dict.fromkeys(top for top in wanted if fmt.min_exponent <= top < fmt.max_exponent)

    def _scale_product(self, sign: str, name: str) -> Iterator[Draft]:
        """Yield drafts of two scales whose product has a position of this name to its register's last place."""
        scale = self.spec.scale
        assert scale is not None
        assert scale.a is not None
        assert scale.b is not None
        assert scale.product is not None
        negative = sign == "-"
        a, b, m = scale.a.format, scale.b.format, scale.product.format.mantissa_bits
        for x, y in solve(range(1, 1 << min(a.mantissa_bits + 1, 8), 2), b.mantissa_bits, m, name):
            of_a = fitted(a, negative and a.signed, x)
            of_b = fitted(b, negative and not a.signed, y)
            if of_a is not None and of_b is not None:
                draft = Draft(self.bench)
                k = self.bench.turn % self.spec.shape.k
                draft.put(k, (plain(self.spec.a), plain(self.spec.b)))
                draft.scale("a", k, of_a)
                draft.scale("b", k, of_b)
                yield draft

    def _scale_result(self, sign: str, name: str) -> Iterator[Draft]:
        """Yield drafts of a term whose scaled value has a position of this name to its register's last place."""
        scale = self.spec.scale
        assert scale is not None
        assert scale.result is not None
        stage = self.spec.scaled_stage
        assert stage is not None
        m = scale.result.format.mantissa_bits
        side = max("ab", key=lambda s: getattr(scale, s).format.mantissa_bits if getattr(scale, s) else -1)
        fmt = getattr(scale, side).format
        block = self.bench.blocks[stage + 1][self.bench.home(stage + 1)]
        k = block[self.bench.turn % len(block)][0]
        negative = sign == "-"
        # First a short term and a long scale, then a long significand of A with those of B and the scale.
        for x, y in solve(range(1, 1 << 8, 2), fmt.mantissa_bits, m, name):
            code = fitted(fmt, False, y)
            for exponent in (0, -magnitude_exponent(Fraction(x)), -6, 6):
                draft = Draft(self.bench)
                if code is not None and draft.fill(0, [k], (-x if negative else x) * power(exponent)):
                    draft.scale(side, k, code)
                    yield draft
        longs = [range((1 << f.mantissa_bits) + 1, 2 << f.mantissa_bits, 2)[-4:] for f in (self.spec.b, fmt)]
        for of_b, of_scale in ((x, y) for x in longs[0] for y in longs[1]):
            for _, of_a in solve(range(of_b * of_scale, of_b * of_scale + 1), self.spec.a.mantissa_bits, m, name):
                pair = self.bench.pair(negative, of_a, of_b, -of_a.bit_length() - of_b.bit_length() + 2)
                code = fitted(fmt, False, of_scale)
                if pair and code is not None:
                    draft = Draft(self.bench)
                    draft.put(k, pair)
                    draft.scale(side, k, code)
                    yield draft


def fitted(fmt: Format, negative: bool, significand: int) -> int | None:
    """Return the code of a significand times the power of two that brings it near one; None if the format has none."""
    lead = significand.bit_length() - 1
    if lead > fmt.mantissa_bits or (negative and not fmt.signed):
        return None
    return exactly(fmt, Number(negative, significand, -lead))


def solve(short: range, mantissa_bits: int, kept: int, name: str) -> Iterator[tuple[int, int]]:
    """Yield x from a range of odd numbers, and y of up to mantissa_bits + 1 bits, for a product in a position of this name.

    The product has kept + 1 bits and those that are lost.
    """
    for lost in (1, 2, 6, 7, 8):
        for low in range(1 << (lost + 1)):
            if name not in rounding_classes(low, lost):
                continue
            for x in short:
                inverse = pow(x, -1, 1 << (lost + 1))
                y = low * inverse % (1 << (lost + 1))
                length = kept + 1 + lost
                least, most = -(-(1 << (length - 1)) // x), ((1 << length) - 1) // x
                y += (least - y + (1 << (lost + 1)) - 1) >> (lost + 1) << (lost + 1)
                if least <= y <= most and y < 1 << (mantissa_bits + 1):
                    yield x, y
