"""Directed experiments: questions whose answers differ between values of the fields of a spec.

Masked sums that show what fuses and in which order follow FPRev (arXiv 2411.00442); ladders of powers of two that show how many
bits are kept, and the order of the experiments, follow Khattak and Mikaitis (2512.07004) and Hawkeye (2603.20421). Questions
are built from the formats alone; their answers are read by running hypotheses, not by rules of this file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codesign.probe.box import Lines, Signature, sign_bit
from codesign.probe.powers import Scales, code_of, powers
from isa_model.array_codec import code_dtype
from isa_model.float64 import Codes
from isa_model.formats import Format
from isa_model.stimulus import KINDS, draw

Rng = np.random.Generator


class Builder:
    """Lines of one experiment: a few chosen terms, zeros elsewhere.

    `scaled` terms use the whole range of D: scales bring the products of a group to where the experiment wants them.
    """

    def __init__(self, signature: Signature, rng: Rng, scaled: bool = False) -> None:
        self.signature, self.rng = signature, rng
        self.spec = spec = signature.spec
        self.k = spec.shape.k
        self.ends = [(min(powers(f)), max(powers(f))) for f in (spec.a, spec.b)]
        (a_low, a_high), (b_low, b_high) = self.ends
        self.lowest, self.highest = self.unscaled = a_low + b_low, a_high + b_high
        self.scales = Scales(signature) if scaled else None
        if self.scales:
            d = spec.accumulator
            self.lowest = min(self.highest, max(self.lowest + self.scales.low, d.min_lsb_exponent - 60))
            self.highest = max(self.lowest, min(self.highest + self.scales.high, d.max_exponent + 3))
        self.signs = (1, -1) if spec.a.signed or spec.b.signed else (1,)
        self.rows: list[tuple[dict[int, tuple[int, int]], int, dict[int, int]]] = []
        self._codes: dict[tuple[str, int, int, float], int | None] = {}

    def code(self, which: str, sign: int, exponent: int, fraction: float = 1.0) -> int | None:
        """Return the code of a number in the format of `a`, `b` or `c`, or None."""
        key = (which, sign, exponent, fraction)
        if key not in self._codes:
            fmt = {"a": self.spec.a, "b": self.spec.b, "c": self.spec.c_format}[which]
            self._codes[key] = code_of(fmt, sign, exponent, fraction)
        return self._codes[key]

    def product(self, sign: int, exponent: int, fraction: float = 1.0) -> tuple[int, int] | None:
        """Return codes of A and B whose product is `sign * fraction * 2**exponent`, or None."""
        spec, ((a_low, a_high), (b_low, b_high)) = self.spec, self.ends
        low, high = max(a_low, exponent - b_high), min(a_high, exponent - b_low)
        if low > high:
            return None
        # Mostly factors of similar size, so normal numbers; sometimes a subnormal one and a large one.
        x = (exponent + spec.a.min_exponent - spec.b.min_exponent) // 2 + int(self.rng.integers(0, 3))
        if self.rng.random() < 0.3:
            x = int(self.rng.integers(low, high + 1))
        x = min(max(x, low), high)
        y = exponent - x
        of_a = sign if spec.a.signed else 1
        code_a, code_b = self.code("a", of_a, x, fraction), self.code("b", sign * of_a, y)
        if code_a is None:
            code_a, code_b = self.code("a", of_a, x), self.code("b", sign * of_a, y, fraction)
        return None if code_a is None or code_b is None else (code_a, code_b)

    def add(self, terms: dict[int, tuple[int, int, float]], c: int | None = 0) -> None:
        """Add a line, unless a term is no number of the formats. Place K stands for C."""
        row: dict[int, tuple[int, int]] = {}
        shifts = self.shifts({place: e for place, (_, e, _) in terms.items() if place < self.k})
        for place, (sign, exponent, fraction) in terms.items():
            if place == self.k:
                c = self.code("c", sign, exponent, fraction)
                continue
            shift = shifts[place // self.scales.size] if self.scales else 0
            codes = self.product(sign, exponent - shift, fraction)
            if codes is None:
                return
            row[place] = codes
        if c is not None:
            self.rows.append((row, c, shifts))

    def shifts(self, exponents: dict[int, int]) -> dict[int, int]:
        """Return an exponent of the scales for each group that has terms, so that A and B reach the exponents of all."""
        if self.scales is None:
            return {}
        low, high = self.unscaled
        groups: dict[int, list[int]] = {}
        for place, e in exponents.items():
            groups.setdefault(place // self.scales.size, []).append(e)
        shifts: dict[int, int] = {}
        for group, own in groups.items():
            first, last = sorted((max(own) - high, min(own) - low))
            shift = int(self.rng.integers(first, last + 1))
            shifts[group] = min(max(shift, self.scales.low), self.scales.high)
        return shifts

    def lines(self) -> Lines:
        """Return the lines. Unless terms were placed by scales, half of the lines have scales other than one at random."""
        result = self.signature.empty(len(self.rows))
        for i, (row, c, shifts) in enumerate(self.rows):
            result.c[i] = c
            for group, shift in shifts.items():
                if self.scales:
                    self.scales.put(result, i, group, shift, self.rng)
            for place, (x, y) in row.items():
                result.a[i, place], result.b[i, place] = x, y
        for scales, of in zip(result[3:], self.signature.scale_formats, strict=True):
            if scales is not None and of is not None and not self.scales:
                choices = np.array([code for e, code in powers(of[0]).items() if abs(e) <= 8], scales.dtype)
                ends = np.array([powers(of[0])[e] for e in (min(powers(of[0])), max(powers(of[0])))], scales.dtype)
                lottery = self.rng.random((len(scales), 1))
                scales[...] = np.where(lottery < 0.3, self.rng.choice(choices, scales.shape), scales)
                scales[...] = np.where(lottery > 0.7, self.rng.choice(ends, scales.shape), scales)
        return result

    def place(self) -> int:
        """Return a random place of a product."""
        return int(self.rng.integers(0, self.k))

    def places(self, count: int) -> list[int]:
        """Return different places of products, at random; fewer if there are not so many."""
        return [int(p) for p in self.rng.permutation(self.k)[:count]]

    def sign(self) -> int:
        return int(self.rng.choice(self.signs))

    def fraction(self) -> float:
        return float(self.rng.choice([1.0, 1.0, 1.5, 1.25, 1.75, 1.875]))


def singles(x: Builder, count: int) -> None:
    """One product alone, over the whole range of exponents: registers, overflow, subnormals, zeros, infinite products."""
    for e in x.rng.integers(x.lowest, x.highest + 1, count):
        x.add({x.place(): (x.sign(), int(e), x.fraction())})


def masked(x: Builder, count: int) -> None:
    """A large term and its negative at two places, small ones elsewhere: what is lost shows what fuses, and the order."""
    k = x.k
    steps = sorted({1 << i for i in range(k.bit_length())} | {1, 2, 3})
    pairs = [(i, i + s) for i in range(k + 1) for s in steps if i + s <= k] + [(i, k) for i in range(k)]
    pairs = list(dict.fromkeys(pairs))
    for i, j in [pairs[p] for p in x.rng.permutation(len(pairs))[:count]]:
        top = x.highest - int(x.rng.integers(0, 3))
        if k in (i, j):
            top = min(top, x.spec.c_format.max_exponent)
        gap = int(x.rng.choice([6, 12, 16, 20, 23, 24, 25, 26, 30, 34, 40, top - x.lowest]))
        sign, small = x.sign(), max(top - gap, x.lowest)
        rest = {p: (1, small, 1.0) for p in range(k) if p not in (i, j)}
        if x.rng.random() < 0.3:
            kept = set(x.places(max(1, k // 4)))
            rest = {p: term for p, term in rest.items() if p in kept}
        x.add(rest | {i: (sign, top, 1.0), j: (-sign, top, 1.0)})


def ladder(x: Builder, count: int) -> None:
    """A large term, one further and further below, and mostly the large one's negative: bits kept, and how terms are cut."""
    for _ in range(count):
        c = x.k
        pattern = int(x.rng.integers(0, 6))
        big, small, back = [*x.places(3), c, c, c][:3]
        if pattern == 1:
            big = c
        elif pattern == 2:
            small = c
        elif pattern == 3:
            back = c
        top = int(x.rng.integers(x.lowest + 1, x.highest + 1))
        if x.rng.random() < 0.6:
            top = x.highest - int(x.rng.integers(0, max(1, min(8, x.highest - x.lowest))))
        if c in (big, back):
            top = min(top, x.spec.c_format.max_exponent)
        n = int(x.rng.integers(0, 45))
        sign = x.sign()
        terms = {big: (sign, top, 1.0), small: (x.sign(), top - n, x.fraction())}
        if pattern != 4 and len({big, small, back}) == 3:
            terms[back] = (-sign, top, 1.0)
        for p in x.places(int(x.rng.integers(0, 4))):
            terms.setdefault(p, (x.sign(), top - n - int(x.rng.integers(0, 3)), 1.0))
        x.add(terms)


def pairs(x: Builder, count: int) -> None:
    """Two products at distances that are powers of two, one further and further below: bits that sums of neighbours keep."""
    steps = [1 << i for i in range((x.k - 1).bit_length())]
    top = min(x.highest, x.spec.accumulator.max_exponent - 1)
    most = min(x.spec.accumulator.mantissa_bits + 2, top - x.lowest)
    cases = [(step, n) for step in steps for n in range(1, most + 1)]
    for step, n in [cases[i] for i in x.rng.permutation(len(cases))[:count]]:
        first = 2 * step * int(x.rng.integers(0, -(-x.k // (2 * step))))
        if first + step < x.k:
            x.add({first: (x.sign(), top, 1.0), first + step: (x.sign(), top - n, 1.0)})


def ties(x: Builder, count: int) -> None:
    """C or a product with a few terms near half of its last place: the register's width and rounding."""
    fmt = x.spec.accumulator
    for _ in range(count):
        e = int(x.rng.integers(max(x.lowest, fmt.min_exponent), min(x.highest, fmt.max_exponent) + 1))
        n = int(x.rng.integers(1, fmt.mantissa_bits + 5))
        first, *others = x.places(3)
        terms = {x.k if x.rng.random() < 0.5 else first: (x.sign(), e, x.fraction())}
        for p in others:
            terms[p] = (x.sign(), e - n - int(x.rng.integers(0, 3)), x.fraction())
        x.add(terms)


def halfway(x: Builder, count: int) -> None:
    """C of many bits with a term near half of D's last place and one far below: what is kept for rounding, and of what."""
    c, kept = x.spec.c_format, x.spec.accumulator.mantissa_bits
    bits = c.mantissa_bits
    low, high = max(x.lowest + bits + 14, c.min_exponent), min(x.highest + kept - 2, c.max_exponent)
    cases = [
        (full, first, second, signs)
        for full in (0, 1, 2, None)
        for first in (kept - 1, kept, kept + 1)
        for second in range(kept + 1, kept + 15)
        for signs in range(8)
    ]
    carries = [case for case in cases if case[:2] == (0, kept - 1)]
    others = [cases[i] for i in x.rng.permutation(len(cases))]
    for full, first, second, signs in [*carries, *others][: count if low < high else 0]:
        e = int(x.rng.integers(low, min(low + 12, high))) if x.rng.random() < 0.3 else min(high - 1, max(low, 0))
        mantissa = int(x.rng.integers(1 << bits)) if full is None else max((1 << bits) - 1 - full, 0)
        code = (((e + c.bias) << bits) + mantissa | (signs & 1) << c.magnitude_bits) << c.low_padding
        turn = (-1) ** signs
        p, q, *_ = [*x.places(2), 0]
        near = (turn * (-1) ** (signs >> 1), e - first, 1.0)
        x.add({p: near, q: (turn * (-1) ** (signs >> 2), e - second, x.fraction())}, code)


def bottom(x: Builder, count: int) -> None:
    """Terms at the bottom of the range with zeros beside: exponent of zeros, subnormals, smallest results."""
    fmt = x.spec.accumulator
    unit = fmt.min_lsb_exponent
    for half in (0, 1):  # D's last place or half of it, and a term that may be cut as if the zeros were larger
        for e in range(unit - 2, max(x.lowest, unit - 60) - 1, -1):
            for sign, other in product(x.signs, x.signs):
                first, second = [*x.places(2), x.k][:2]
                q, up = [(1.0, 0), (1.5, 1), (1.25, 2), (1.75, 2)][int(x.rng.integers(0, 4))]
                if x.rng.random() < 0.5:  # a narrower register's last place
                    up += int(x.rng.integers(0, fmt.mantissa_bits))
                x.add({first: (sign, unit - half + up, q), second: (other, e, 1.0)})
    for _ in range(count // 2 if x.k > 1 else 0):  # products that cancel to a subnormal number, beside a C as small
        p, q = x.places(2)
        sign, near = x.sign(), fmt.min_exponent + x.rng.integers(-1, 4, 3)
        c_term = (x.sign(), int(near[2]), x.fraction())
        x.add({p: (sign, int(near[0]), x.fraction()), q: (-sign, int(near[1]), x.fraction()), x.k: c_term})
    low = max(x.lowest, min(unit - 3, x.highest - 4))
    high = max(low, min(x.highest, fmt.min_exponent + 12))
    for _ in range(count):
        e = int(x.rng.integers(low, high + 1))
        terms = {x.place(): (x.sign(), e, x.fraction())}
        for p in x.places(int(x.rng.integers(0, 3))):
            terms.setdefault(p, (x.sign(), e - int(x.rng.integers(0, 30)), x.fraction()))
        c = 0
        if x.rng.random() < 0.4:
            c = int(x.rng.integers(0, 1 << min(x.spec.c_format.mantissa_bits + 2, x.spec.c_format.magnitude_bits)))
            c <<= x.spec.c_format.low_padding
        x.add(terms, c)


def top(x: Builder, count: int) -> None:
    """Terms at the top of the range: overflow of registers, of products, and by a last place of the largest C."""
    fmt = x.spec.accumulator
    high = min(x.highest, fmt.max_exponent + 3)
    for _ in range(count):
        terms: dict[int, tuple[int, int, float]] = {}
        for p in x.places(int(x.rng.integers(1, 5))):
            terms[p] = (x.sign(), high - int(x.rng.integers(0, 5)), x.fraction())
        if x.rng.random() < 0.5:
            terms[x.k] = (x.sign(), x.spec.c_format.max_exponent - int(x.rng.integers(0, 2)), x.fraction())
        x.add(terms)
    c, width = x.spec.c_format, fmt.mantissa_bits
    low, high = max(x.lowest, fmt.max_exponent - width - 4), min(x.highest, fmt.max_exponent)
    for _ in range(count if low <= high else 0):  # the largest C, or one with few zeros, and terms near its last place
        e = min(high, low + int(x.rng.integers(0, width + 5)))
        sign = x.sign()
        terms = {p: (sign, e - int(x.rng.integers(0, 3)), x.fraction()) for p in x.places(3)}
        below = int(x.rng.integers(0, 3)) << int(x.rng.integers(0, c.mantissa_bits))
        x.add(terms, (c.max_finite_magnitude - below | (sign < 0) << c.magnitude_bits) << c.low_padding)


DIRECTED: dict[str, Callable[[Builder, int], None]] = {
    f.__name__: f for f in (singles, masked, ladder, pairs, ties, halfway, bottom, top)
}


def signed(fmt: Format, magnitude: NDArray[Any], negative: NDArray[Any]) -> Codes:
    """Return codes of a format, given codes of magnitudes; those of negative numbers have the sign bit set."""
    sign = sign_bit(fmt) if fmt.kind == "float" else 1 << (fmt.bits - 1)
    codes = magnitude.astype(np.uint64) << np.uint64(fmt.low_padding) | negative.astype(np.uint64) * np.uint64(sign)
    return codes.astype(code_dtype(fmt))


def alone(signature: Signature, rng: Rng, count: int) -> Lines:
    """Return lines with C alone, over all its codes; products are zeros of either sign."""
    spec, lines = signature.spec, signature.empty(count)
    lines.c[...] = rng.integers(0, 1 << spec.c_format.bits, count, np.uint64).astype(lines.c.dtype)
    small = signed(spec.c_format, rng.integers(0, 4, count), rng.integers(0, 2, count))
    lines.c[: count // 2] = small[: count // 2]
    fmt = spec.c_format
    if fmt.kind == "float":  # the largest number, an infinity and a NaN, where there are any, of either sign
        all_ones, most = (1 << fmt.magnitude_bits) - 1, fmt.max_finite_magnitude
        ends = [min(x, all_ones) | s << fmt.magnitude_bits for x in (most, most + 1, all_ones) for s in (0, 1)]
        lines.c[: len(ends)] = np.array(ends, np.uint64)[:count] << np.uint64(fmt.low_padding)
    for x, fmt in ((lines.a, spec.a), (lines.b, spec.b)):
        if fmt.kind == "float" and fmt.signed and fmt.nan != "negative-zero":
            minus = rng.choice([0.0, 0.0, 1.0, 0.5], (count, 1)) > rng.random(x.shape)
            x[minus] = x.dtype.type(sign_bit(fmt))
    return lines


def zeros(signature: Signature, rng: Rng, count: int) -> Lines:
    """Return lines of zeros of either sign with the smallest numbers and a few others: signs of zeros, and what is flushed."""
    spec, lines = signature.spec, signature.empty(count)
    for x, fmt in ((lines.a, spec.a), (lines.b, spec.b), (lines.c, spec.c_format)):
        if fmt.kind != "float":
            continue
        normal = 1 << fmt.mantissa_bits
        few = [0, 0, 0, 1, normal - 1, normal, normal + 1, fmt.max_finite_magnitude // 2]
        magnitude = rng.choice(np.array([min(n, fmt.max_finite_magnitude) for n in few], np.uint64), x.shape)
        magnitude[rng.random(x.shape) < rng.random((count, *[1] * (x.ndim - 1)))] = 0
        sign = rng.random(x.shape) < rng.choice([0.0, 0.5, 1.0], (count, *[1] * (x.ndim - 1)))
        x[...] = signed(fmt, magnitude, sign)
    if signature.spec.scale and signature.is_float:  # small products near the bottom of D
        scales, bottom = Scales(signature), spec.accumulator.min_lsb_exponent
        low, high = (getattr(spec.a, e) + getattr(spec.b, e) for e in ("min_lsb_exponent", "min_exponent"))
        for line in range(count // 2):
            for group in range(-(-spec.shape.k // scales.size)):
                near = bottom - int(rng.integers(0, 12)) - int(rng.integers(low, high + 1))
                scales.put(lines, line, group, near, rng)
        zero_scales(signature, rng, lines, count // 4)
    return lines


def zero_scales(signature: Signature, rng: Rng, lines: Lines, count: int) -> None:
    """Put scales of zero in the last lines, with sums mostly negative: the sign of a zero shows what is scaled."""
    spec, k = signature.spec, signature.spec.shape.k
    for scales, of in zip(lines[3:], signature.scale_formats, strict=True):
        if scales is not None and of is not None and of[0].zero:
            scales[-count:] = np.where(rng.random((count, 1)) < 0.8, of[0].zero_code, scales[-count:])
    for x, fmt, minus in ((lines.a, spec.a, 0.8), (lines.b, spec.b, 0.0)):
        if fmt.signed and fmt.nan != "negative-zero":
            some = rng.integers(0, fmt.max_finite_magnitude // 2 + 1, (count, k), np.uint64)
            some[rng.random((count, k)) < rng.choice([0.0, 0.5, 0.9], (count, 1))] = 0
            x[-count:] = signed(fmt, some, rng.random((count, k)) < minus)
    c = spec.c_format
    if c.kind == "float" and c.nan != "negative-zero":
        lines.c[-count:] = lines.c.dtype.type(sign_bit(c)) * (rng.random(count) < 0.8)


def random_lines(signature: Signature, rng: Rng, kind: str, count: int) -> Lines:
    """Return lines of one kind of stimulus.py; in some of them most products are zeros."""
    spec = signature.spec.per_line()
    k, parts = spec.shape.k, []
    for start in range(0, count, 64):
        some = min(64, count - start)
        x = draw(spec, kind, rng, some, some, k)
        scale_b = None if x.scale_b is None else np.ascontiguousarray(x.scale_b.T)
        parts.append(Lines(x.a, np.ascontiguousarray(x.b.T), np.diagonal(x.c).copy(), x.scale_a, scale_b))
    lines = Lines.join(parts)
    zeros = (rng.random((count, k)) < 0.8) & (rng.random((count, 1)) < 0.4)
    lines.a[zeros] = spec.a.zero_code
    lines.c[rng.random(count) < 0.2] = 0
    return lines


def experiments(signature: Signature, rng: Rng, effort: float, by_scales: bool = False) -> Iterator[tuple[str, Lines]]:
    """Yield the name and the lines of every experiment; `effort` multiplies their numbers.

    `by_scales` adds the directed ones with terms that scales bring to anywhere in D's range: they decide the last bits, and
    would hide from a search that begins what it has to find first.
    """

    def some(count: int) -> int:
        return max(4, round(count * effort))

    spec = signature.spec
    if signature.is_float and spec.accumulator.kind == "float":
        for scaled in (False, True)[: 1 + (by_scales and spec.scale is not None)]:
            for name, build in DIRECTED.items():
                builder = Builder(signature, rng, scaled)
                build(builder, some({"masked": 260, "ladder": 420, "halfway": 300, "bottom": 180}.get(name, 140)))
                if builder.rows:
                    yield name, builder.lines()
    yield "alone", alone(signature, rng, some(80))
    yield "zeros", zeros(signature, rng, some(120))
    for kind in KINDS:
        yield kind, random_lines(signature, rng, kind, some(64))


def adversarial(signature: Signature, rng: Rng, count: int) -> Lines:
    """Return about `count` lines of every experiment, for a search of disagreements or a last check."""
    parts = [lines for _, lines in experiments(signature, rng, count / 2200, by_scales=True)]
    return Lines.join(parts)


def mutated(signature: Signature, rng: Rng, pool: Lines, count: int) -> Lines:
    """Return lines of a pool with terms exchanged and single bits of some codes flipped."""
    spec = signature.spec
    lines = pool.pick(rng.integers(0, len(pool.c), count))
    order = np.argsort(rng.random(lines.a.shape), axis=1)
    stays = rng.random((count, 1)) < 0.5
    order = np.where(stays, np.arange(lines.a.shape[1]), order)
    a, b = (np.take_along_axis(x, order, 1) for x in (lines.a, lines.b))
    formats = (spec.a, spec.b, spec.c_format, *(s[0] if s else None for s in signature.scale_formats))
    flipped: list[Any] = []
    for x, fmt in zip((a, b, *lines[2:]), formats, strict=True):
        if x is None or fmt is None:
            flipped.append(None)
            continue
        some = rng.random(x.shape) < (1.5 / x.shape[1] if x.ndim == 2 else 0.4)
        some &= (rng.random(count) < 0.6).reshape(-1, *[1] * (x.ndim - 1))
        bit = np.uint64(1) << rng.integers(0, fmt.bits, x.shape, np.uint64)
        flipped.append(np.where(some, x ^ bit.astype(x.dtype), x))
    return Lines(*flipped)
