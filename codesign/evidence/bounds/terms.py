"""What is known of the terms of a sum: of products, of scaled terms, of numbers in registers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product
from math import floor, gcd, inf, log2

from codesign.evidence.bounds.rounding_errors import NOTHING, Errors, of_registers, power_of_two
from isa_model.codec import largest_finite
from isa_model.formats import Format
from isa_model.instruction import Instruction
from isa_model.stage import Register


@dataclass(frozen=True)
class Factor:
    """A factor of a term: its range of alignment exponents, and the bits by which its numbers can lie below them."""

    low: int
    """Least alignment exponent, that of subnormals."""
    top: int
    """Largest alignment exponent."""
    below: int = 0
    """Bits by which the least subnormal lies below the least exponent; 0 without subnormals."""


@dataclass(frozen=True)
class Sums:
    """What is known of each result of a stage."""

    errors: Errors
    """Errors relative to the mass."""
    absolute: float
    """Further absolute error, from the lower end of the formats' ranges."""
    factors: tuple[Factor, ...]
    """Factors whose alignment exponents add up to that of a result."""
    weight: float
    """Two to the alignment exponent is at most this times the mass, times what subnormal factors bring (`weight_where`), ..."""
    floor: float
    """... plus this."""
    bits: int | None
    """Bits below the alignment exponent; None: no limit."""
    significant: int | None
    """Significant bits; None: no limit."""
    lowest: int
    """Each result is a multiple of 2 to this power."""
    highest: float
    """Binary logarithm of the largest mass."""
    top: int
    """Largest alignment exponent."""
    least: int
    """Binary logarithm of the least mass but zero."""
    within: tuple[tuple[int, Sums], ...] = ()
    """Runs of neighbouring terms that share some scales, the shortest first: how many terms, and what is known of them without
    those scales, as multiples of the last bit that these add."""

    @property
    def largest(self) -> float:
        """Binary logarithm of a bound of the results' magnitudes."""
        grown = self.highest + (0.0 if self.errors.inward else log2(1 + self.errors.worst))
        return grown if not self.absolute else max(grown, log2(self.absolute)) + 1

    def weight_where(self, exponent: float) -> float:
        """Return the largest ratio of two to the alignment exponent to the mass, among results of at least this exponent.

        Where subnormal factors are the cause, the exponent is low, and other terms may be multiples of the last bit kept.
        """
        most = 0
        for subnormal in product((False, True), repeat=len(self.factors)):
            chosen = list(zip(self.factors, subnormal, strict=True))
            if sum(f.low if low else f.top for f, low in chosen) >= exponent:
                most = max(most, sum(f.below for f, low in chosen if low))
        return self.weight * power_of_two(most)


def products(spec: Instruction, normal: bool) -> Sums:
    """Return what is known of a product A[m, k] * B[k, n]."""
    no_subnormals = normal or bool(spec.flush_operands)
    lowest, least, highest, bits, significant = 0, 0, 0.0, 0, 0
    for fmt in (spec.a, spec.b):
        lowest += fmt.min_lsb_exponent
        least += fmt.min_exponent if no_subnormals and fmt.kind == "float" else fmt.min_lsb_exponent
        highest += _highest(fmt)
        bits += bits_of(fmt)
        significant += fmt.bits if fmt.kind == "integer" else bits_of(fmt) + 1
    factors = tuple(_factor(fmt, no_subnormals, spec.widen) for fmt in (spec.a, spec.b))
    top = sum(f.top for f in factors)
    return Sums(NOTHING, 0.0, factors, 1.0, 0.0, bits, significant, lowest, highest, top, least)


def _factor(fmt: Format, no_subnormals: bool, widen: Format | None = None) -> Factor:
    """Return the alignment exponents of a format's numbers."""
    if fmt.kind == "integer":
        return Factor(0, 0)
    low = fmt.min_exponent
    if widen is not None:  # subnormals align with their leading bit, down to the least exponent of the wider format
        low = min(max(widen.min_exponent, fmt.min_lsb_exponent), low)
    top = max(fmt.max_exponent, fmt.min_exponent)
    plain = no_subnormals or fmt.kind == "table" or not fmt.zero
    return Factor(low, top, 0 if plain else low - fmt.min_lsb_exponent)


def bits_of(fmt: Format) -> int:
    """Return the bits of a number below its alignment exponent."""
    return 0 if fmt.kind == "integer" else fmt.mantissa_bits


def _highest(fmt: Format) -> float:
    """Return the binary logarithm of a format's largest magnitude, rounded up."""
    if fmt.kind == "integer":
        return log2(max(-fmt.lowest, fmt.max_finite_magnitude))
    if fmt.kind == "table":
        return max(log2(abs(x)) for x in fmt.values if not isinstance(x, str) and x)
    return log2(largest_finite(fmt))


def scaled(spec: Instruction, sums: Sums, spanned: int) -> Sums:
    """Return what is known of terms, of `spanned` products each, multiplied by normal scales of their groups."""
    scale = spec.scale
    assert scale is not None
    levels = [
        (level.along(axis), level.format)
        for side, axis in ((scale.a, 1), (scale.b, 0))
        if side
        for level in side.levels
    ]
    formats = [fmt for _, fmt in levels]
    factors = tuple(_factor(fmt, True) for fmt in formats)
    bits = sum(map(bits_of, formats))
    significant = sum(f.bits if f.kind == "integer" else bits_of(f) + 1 for f in formats)
    lowest = sum(map(_last_bit, formats))
    errors, highest = NOTHING, sum(map(_highest, formats))
    if scale.product:
        to = scale.product.format
        errors, _ = of_registers([scale.product], lowest, highest, significant)
        highest += log2(1 + errors.worst)
        factors = (Factor(to.min_exponent, min(floor(highest) + 1, to.max_exponent)),)
        lowest, bits, significant = max(lowest, to.min_lsb_exponent), to.mantissa_bits, to.mantissa_bits + 1
    grown, power = 1 + errors.worst, scale.power
    within = []
    for run in sorted({gcd(*(along for along, _ in levels)), *(along for along, _ in levels)}) if levels else ():
        own = [fmt for along, fmt in levels if along % run]
        if run > spanned and run % spanned == 0 and not (own and scale.product):
            within.append((run // spanned, _beside(sums, own, bits, grown)))
    made = Sums(
        errors=sums.errors.then(errors),
        absolute=sums.absolute * grown * power_of_two(power),
        factors=(*sums.factors, *factors, Factor(power, power)),
        weight=sums.weight * grown,
        floor=sums.floor * grown * power_of_two(power),
        bits=None if sums.bits is None else sums.bits + bits,
        significant=None if sums.significant is None else sums.significant + significant,
        lowest=sums.lowest + lowest + power,
        highest=sums.highest + highest + power,
        top=sums.top + sum(f.top for f in factors) + power,
        least=sums.least + sum(f.low for f in factors) + power,
        within=tuple(within),
    )
    return in_registers((scale.result,), made) if scale.result else made


def _beside(sums: Sums, formats: list[Format], bits: int, grown: float) -> Sums:
    """Return what is known of terms times scales in these formats; those that they share add the rest of `bits` bits."""
    factors = tuple(_factor(fmt, True) for fmt in formats)
    return replace(
        sums,
        factors=(*sums.factors, *factors),
        lowest=sums.lowest + sum(_last_bit(fmt) + bits_of(fmt) for fmt in formats) - bits,
        top=sums.top + sum(f.top for f in factors),
        weight=sums.weight * grown,
    )


def _last_bit(fmt: Format) -> int:
    """Return the power of two of which the normal numbers of a format are multiples."""
    return fmt.min_exponent - bits_of(fmt) if fmt.kind == "float" else fmt.min_lsb_exponent


def in_registers(registers: tuple[Register, ...], sums: Sums) -> Sums:
    """Return what is known of terms that are rounded to registers."""
    errors, underflow = of_registers(registers, sums.lowest, sums.largest, sums.significant)
    made = replace(sums, errors=sums.errors.then(errors), absolute=sums.absolute * (1 + errors.worst) + underflow)
    return held(registers[-1].format, made)


def held(fmt: Format, sums: Sums) -> Sums:
    """Return what is known of numbers of a register: they align with their leading bit, subnormals with the least exponent."""
    if fmt.kind == "integer":
        exact = replace(sums, bits=0, significant=fmt.mantissa_bits, top=0, lowest=0, within=())
        return replace(exact, factors=(Factor(0, 0),), weight=1.0, floor=0.0)
    top = min(floor(min(sums.largest, 1e6)) + 1, fmt.max_exponent)
    return replace(
        sums,
        factors=(Factor(fmt.min_exponent, top),),
        weight=1.0 if sums.errors.inward else 1 + sums.errors.worst,
        floor=power_of_two(fmt.min_exponent) + sums.absolute,
        bits=fmt.mantissa_bits,
        significant=fmt.mantissa_bits + 1,
        lowest=max(sums.lowest, fmt.min_lsb_exponent),
        top=top,
        within=(),
    )


def exp2(exponent: float) -> float:
    """Return two to a power, infinity beyond float64."""
    return 2.0**exponent if exponent < 1024 else inf
