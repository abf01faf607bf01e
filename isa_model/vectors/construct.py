"""Construction of operands: drafts of a vector in which chosen products, terms of any stage, sums and C have given values.

Numbers are exact fractions with a power-of-two denominator. All other products are zero, all other scales one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from functools import cache
from typing import Any

from isa_model import golden
from isa_model.codec import Number, number_of
from isa_model.formats import Format
from isa_model.instruction import Instruction
from isa_model.vectors.reach import Reach, Reaches
from isa_model.vectors.vector import Vector, exactly, fields

FACTOR_BITS = 8
"""Bits of the shorter significand that a product is factorised into; the longer one may be as long as its format allows."""


def power(exponent: int) -> Fraction:
    """Return 2**exponent."""
    return Fraction(2) ** exponent


def magnitude_exponent(value: Fraction) -> int:
    """Return the exponent of the leading bit of a nonzero dyadic fraction."""
    return abs(value.numerator).bit_length() - value.denominator.bit_length()


def digits(value: Fraction) -> list[Fraction]:
    """Return as few signed powers of two as possible whose sum is the value, largest first (non-adjacent form)."""
    exponent = 1 - value.denominator.bit_length()
    n, result = value.numerator, []
    while n:
        if n & 1:
            digit = 2 - (n & 3)
            result.append(digit * power(exponent))
            n -= digit
        n >>= 1
        exponent += 1
    return result[::-1]


def slices(value: Fraction, width: int) -> list[Fraction]:
    """Return positive numbers of at most `width` bits whose bits do not overlap and whose sum is the value, largest first."""
    n, exponent = value.numerator, 1 - value.denominator.bit_length()
    return [
        (n >> low & ((1 << width) - 1)) * power(exponent + low)
        for low in reversed(range(0, n.bit_length(), width))
        if n >> low & ((1 << width) - 1)
    ]


def plain(fmt: Format) -> int:
    """Return the code of one, or of the largest number if the format does not have one."""
    one = exactly(fmt, Number(False, 1, 0))
    return fmt.max_finite_magnitude << fmt.low_padding if one is None else one


class Workbench:
    """The structure of one instruction's dot product: which products each term sums, and what numbers it can be."""

    def __init__(self, spec: Instruction, reaches: Reaches) -> None:
        self.spec, self.reaches = spec, reaches
        self.stages = list(spec.stages.values())
        self.blocks = self._blocks()
        """Terms by stage and block; each term is the list of product indices k that it sums."""
        self.fields = fields(spec)
        self.product = cache(self._product)
        shorts = [[min(f.mantissa_bits, n) for f in (spec.a, spec.b)] for n in (FACTOR_BITS - 1, 3, 2, 1)]
        self.widths = [Fraction(1), *((2 - power(-x)) * (2 - power(-y)) for x, y in shorts)]
        """Products of two significands: one, and large ones of decreasing numbers of bits."""
        product = spec.scale.product.format if spec.scale and spec.scale.product else None
        self.scale_exponents = range(product.min_lsb_exponent, product.max_exponent + 1) if product else None
        """Exponents that the product of two scales can have, if it is rounded; else None."""
        self.turn = 0
        """Offset of the first term within its block; it changes from goal to goal so that all terms are used."""

    def _blocks(self) -> list[list[list[list[int]]]]:
        level: Any = [[k] for k in range(self.spec.shape.k)]
        result = []
        for stage in self.stages:
            blocks: Any = golden.deal(stage, level)
            result.append([list(block) for block in blocks])
            chain = stage.chain or 1
            level = [
                [k for block in blocks[i : i + chain] for term in block for k in term]
                for i in range(0, len(blocks), chain)
            ]
        return result

    def is_last(self, i: int) -> bool:
        return i == len(self.stages) - 1

    def home(self, i: int) -> int:
        """Return the block of a stage in which its sums are built: the first with a running value, if any has one."""
        return 0 if self.is_last(i) or (self.stages[i].chain or 1) < 2 else 1

    def terms(self, i: int) -> Reach:
        """Return the bounds on the terms of a stage."""
        return self.reaches.sums[i].terms

    def can_run(self, i: int) -> bool:
        """Return whether a nonzero running value can take part in the home block."""
        return self.stages[i].accumulator is not False and (self.is_last(i) or self.home(i) == 1)

    # -- products ----------------------------------------------------------------------------------------------------

    def factors(self, n: int) -> Iterator[tuple[int, int]]:
        """Yield significands of A and B whose product is the odd number n; first those of which one is 1."""
        bits_a, bits_b = (f.mantissa_bits + (f.kind == "float") for f in (self.spec.a, self.spec.b))
        if n < 1 << bits_a:
            yield n, 1
        if n < 1 << bits_b and n > 1:
            yield 1, n
        top = min(1 << bits_a, 1 << FACTOR_BITS)
        yield from ((x, n // x) for x in range(3, min(top, n), 2) if n % x == 0 and n // x < 1 << bits_b)

    def _product(self, value: Fraction, normal: bool) -> tuple[int, int] | None:
        """Return codes of A and B whose product is the value, or None; with `normal`, neither is subnormal."""
        exponent = (value.numerator & -value.numerator).bit_length() - value.denominator.bit_length()
        n = abs(value.numerator) >> max((value.numerator & -value.numerator).bit_length() - 1, 0)
        for x, y in self.factors(n):
            found = self.pair(value < 0, x, y, exponent, normal)
            if found:
                return found
        return None

    def pair(self, negative: bool, x: int, y: int, exponent: int, normal: bool = True) -> tuple[int, int] | None:
        """Return codes of A and B with significands x and y and the product x * y * 2**exponent, or None."""
        a, b = self.spec.a, self.spec.b
        if negative and not (a.signed or b.signed):
            return None
        low_a, high_a = _exponents(a, x, normal)
        low_b, high_b = _exponents(b, y, normal)
        low, high = max(low_a, exponent - high_b), min(high_a, exponent - low_b)
        for i in dict.fromkeys((low + high) // 2 + step for step in (0, 1, -1, 2, -2)) if low <= high else ():
            if low <= i <= high:
                of_a = exactly(a, Number(negative and a.signed, x, i))
                of_b = exactly(b, Number(negative and not a.signed, y, exponent - i))
                if of_a is not None and of_b is not None:
                    return of_a, of_b
        return None


def _exponents(fmt: Format, significand: int, normal: bool) -> tuple[int, int]:
    """Return the lowest and highest exponent of two that a format has a significand with."""
    lead = significand.bit_length() - 1
    if fmt.kind == "integer":
        return 0, fmt.max_exponent - lead
    return (fmt.min_exponent - lead if normal else fmt.min_lsb_exponent), fmt.max_exponent - lead


class Draft:
    """A vector under construction. Methods that give a number a value return whether that was possible."""

    def __init__(self, bench: Workbench) -> None:
        self.bench, self.spec = bench, bench.spec
        self.a, self.b = ([0] * self.spec.shape.k for _ in "ab")
        self.taken: set[int] = set()
        self.c = 0
        self.shifts: dict[tuple[str, int], int] = {}
        """Exponents of scales that are powers of two, by operand and group."""
        self.codes: dict[tuple[str, int], int] = {}
        """Codes of other scales, by operand and group."""

    def vector(self, case: str) -> Vector:
        """Return the vector; D is not computed."""
        return Vector(tuple(self.a), tuple(self.b), self._scales("a"), self._scales("b"), self.c, case=case)

    def _scales(self, side: str) -> tuple[int, ...]:
        field = self.bench.fields.get(f"scale_{side}")
        if field is None:
            return ()
        fmt = self._side(side).format
        return tuple(
            self.codes[side, g]
            if (side, g) in self.codes
            else exactly(fmt, Number(False, 1, self.shifts.get((side, g), 0))) or 0
            for g in range(field.codes)
        )

    def _side(self, side: str) -> Any:
        return getattr(self.spec.scale, side)

    def _group(self, side: str, k: int) -> int:
        return k // int(self._side(side).group[1 if side == "a" else 0])

    def put(self, k: int, codes: tuple[int, int]) -> None:
        """Set the codes of A and B of product k."""
        self.a[k], self.b[k] = codes
        self.taken.add(k)

    def scale(self, side: str, k: int, code: int) -> None:
        """Set the scale of product k's group."""
        self.codes[side, self._group(side, k)] = code

    # -- terms -------------------------------------------------------------------------------------------------------

    def term(self, i: int, place: int, value: Fraction, exponent: int | None = None) -> bool:
        """Give a term of stage `i`'s home block a value, and try to give it an alignment exponent."""
        block = self.bench.blocks[i][self.bench.home(i)]
        return self.fill(i, block[place % len(block)], value, exponent)

    def fill(self, i: int, ks: Sequence[int], value: Fraction, exponent: int | None = None) -> bool:
        """Give the term of stage `i` that sums the products `ks` a value."""
        if value == 0:
            return True
        free = [k for k in ks if k not in self.taken]
        scaled = self.spec.scaled_stage is not None and self.spec.scaled_stage < i
        for shift in self._shifts(i, value, exponent) if scaled else (0,):
            if self.bench.scale_exponents is not None and shift not in self.bench.scale_exponents:
                continue
            parts = self._parts(value / power(shift), len(free))
            if parts and (not scaled or self._shift(free[: len(parts)], shift)):
                for k, codes in zip(free, parts, strict=False):
                    self.put(k, codes)
                return True
        return False

    def _parts(self, value: Fraction, room: int) -> list[tuple[int, int]]:
        """Return codes of at most `room` products that sum to a value, if possible of one; empty if there are none."""
        splits = [[value], digits(value)]
        for normal in (True, False) if not self.spec.flush_operands else (True,):
            for split in splits:
                parts = [self.bench.product(part, normal) for part in split]
                if len(parts) <= room and None not in parts:
                    return [part for part in parts if part]
        return []

    def _shifts(self, i: int, value: Fraction, exponent: int | None) -> Iterator[int]:
        """Yield exponents for the product of a term's scales."""
        fixed = self.bench.stages[i - 1].exponent if i else None
        if fixed is not None and exponent is not None and self.spec.scaled_stage == i - 1:
            yield exponent - fixed
            return
        yield 0
        products = self.bench.reaches.products
        yield magnitude_exponent(value) - (products.lo + products.hi) // 2
        yield magnitude_exponent(value) - products.hi
        yield magnitude_exponent(value) - products.lo
        yield magnitude_exponent(value) - products.last

    def _shift(self, ks: Sequence[int], shift: int) -> bool:
        """Give the scales of some products the product 2**shift; if that is impossible, change none."""
        before = dict(self.shifts)
        if all(self._shift_one(k, shift) for k in ks):
            return True
        self.shifts = before
        return False

    def _shift_one(self, k: int, shift: int) -> bool:
        keys = {side: (side, self._group(side, k)) for side in "ab" if self._side(side)}
        left = shift - sum(self.shifts[key] for key in keys.values() if key in self.shifts)
        free = {side: key for side, key in keys.items() if key not in self.shifts}
        for lowest in ("min_exponent", "min_lsb_exponent"):  # subnormal scales only if normal ones do not suffice
            for side, key in free.items():
                fmt, before = self._side(side).format, self.shifts.get(key, 0)
                self.shifts[key] = min(max(before + left, getattr(fmt, lowest)), fmt.max_exponent)
                left -= self.shifts[key] - before
        return left == 0

    def put_c(self, value: Fraction) -> bool:
        """Set C."""
        code = exactly(self.spec.c_format, number_of(value))
        self.c = code or 0
        return code is not None

    # -- running values and sums ---------------------------------------------------------------------------------------

    def accumulate(self, i: int, value: Fraction) -> bool:
        """Give the running value of stage `i`'s home block a value: C, or the sum of the block before."""
        if value == 0:
            return True
        if not self.bench.can_run(i):
            return False
        if self.bench.is_last(i):
            return self.put_c(value)
        before = self.bench.blocks[i][self.bench.home(i) - 1]
        turn = self.bench.turn % len(before)
        copies = [1 << n for n in range(len(before).bit_length())]
        for split in [[value / n] * n for n in copies] + [digits(value)]:
            if len(split) <= len(before):
                places = [before[(turn + n) % len(before)] for n in range(len(split))]
                if all(self.fill(i, ks, part) for ks, part in zip(places, split, strict=True)):
                    return True
        return False


def added(
    bench: Workbench,
    i: int,
    running: Fraction,
    terms: Sequence[Fraction],
    exponents: Sequence[int | None] = (),
    places: Sequence[int] = (),
) -> Iterator[Draft]:
    """Yield the draft in which the home block of stage `i` adds these terms to this running value, if there is one."""
    if len(terms) > bench.stages[i].terms:
        return
    draft = Draft(bench)
    wanted = exponents or [None] * len(terms)
    where = places or range(bench.turn, bench.turn + len(terms))
    if draft.accumulate(i, running) and all(draft.term(i, *put) for put in zip(where, terms, wanted, strict=True)):
        yield draft


def below(
    bench: Workbench, i: int, accumulator: bool, value: Fraction, low: int | None, largest: int
) -> Iterator[Draft]:
    """Yield drafts of a number below a larger one that sets the exponent and, if possible, cancels, so that D shows it."""
    zero = Fraction(0)
    for big in (power(largest), -power(largest)):
        if accumulator:
            for terms in ([big, -big], [big], []):
                yield from added(bench, i, value, terms, [largest] * len(terms))
        else:
            yield from added(bench, i, zero, [big, -big, value], [largest, largest, low])
            yield from added(bench, i, -big, [big, value], [largest, low])
            yield from added(bench, i, zero, [big, value], [largest, low])
            yield from added(bench, i, big, [value], [low])


def largest_exponents(bench: Workbench, i: int, distance: int, accumulator: bool) -> Iterator[int]:
    """Yield largest exponents for a number `distance` below: from the middle of the possible ones, then at their ends."""
    reach = bench.reaches.sums[i]
    low = reach.running if accumulator else reach.terms
    sources = [reach.terms] + ([reach.running] if reach.running and not accumulator else [])
    for source in sources:
        if low is None:
            return
        first, last = max(low.lo + distance, source.lo), min(source.hi, low.hi + distance)
        yield from dict.fromkeys(((first + last) // 2, first, last, last - 2)) if first <= last else ()


def sums(bench: Workbench, i: int, total: Fraction) -> Iterator[Draft]:
    """Yield drafts in which the exact sum of stage `i`'s home block is a total, split in different ways."""
    for running, terms in _plans(bench, i, total):
        yield from added(bench, i, running, terms)


def _plans(bench: Workbench, i: int, total: Fraction) -> Iterator[tuple[Fraction, list[Fraction]]]:
    """Yield ways to split a total into a running value and terms."""
    zero, pieces = Fraction(0), digits(total)
    if bench.can_run(i):
        for cut in range(len(pieces)):
            top, low = sum(pieces[:cut], zero), pieces[cut:]
            if cut:
                yield top, [sum(low, zero)]
                yield sum(low, zero), [top]
                yield sum(low, zero), pieces[:cut]
                yield top, low
        yield total, []
    yield zero, [total]
    yield zero, pieces
    if len(pieces) > 1:
        yield zero, [pieces[0], sum(pieces[1:], zero)]
    if total:
        yield from _carrying(bench, i, total, pieces)
        yield from _near_top(bench, i, total)


def _near_top(bench: Workbench, i: int, total: Fraction) -> Iterator[tuple[Fraction, list[Fraction]]]:
    """Yield splits into a number just below the total, with as many bits as C or a product can have, and the rest."""
    zero, top, sign = Fraction(0), magnitude_exponent(total), 1 if total > 0 else -1
    if bench.can_run(i):
        below = sign * (power(top) - power(top - 1 - bench.spec.accumulator.mantissa_bits))
        yield below, [total - below]
        yield below, digits(total - below)
    step = power(top + 1 - bench.reaches.products.bits)
    for steps in range(32) if bench.stages[i].terms > 1 else ():
        large = sign * (abs(total) // step - steps) * step
        yield zero, [large, total - large]


def _carrying(
    bench: Workbench, i: int, total: Fraction, pieces: list[Fraction]
) -> Iterator[tuple[Fraction, list[Fraction]]]:
    """Yield splits into many terms of like size, whose sum carries so far that its last places are lost."""
    stage, zero = bench.stages[i], Fraction(0)
    bits = max(stage.fraction_bits or 0, stage.accumulator_fraction_bits or 0)
    low, top, sign = magnitude_exponent(pieces[-1]), magnitude_exponent(total), 1 if total > 0 else -1
    widths = bench.widths if i == 0 else [Fraction(1), Fraction(15, 8)]
    carry = max(top - bits - low, 0) if stage.aligned else 0
    for exponent in (top - carry, top - carry - 1):
        for width in dict.fromkeys(widths):
            big, unit = width * power(exponent), power(exponent)
            count = abs(total) // big
            ones = (abs(total) - count * big) // unit
            rest = abs(total) - count * big - ones * unit
            if count + ones <= stage.terms:
                terms = [sign * big] * int(count) + [sign * unit] * int(ones)
                yield sign * rest, terms
                yield zero, terms + ([sign * rest] if rest else [])
                yield zero, terms + digits(sign * rest)
