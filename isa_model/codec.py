"""Codes to numbers and back: `decode` and `encode`, one code at a time, in exact integers.

This scalar pair is the definition; array_codec.py gives the same results for arrays.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from isa_model.arguments import require
from isa_model.formats import Format, Overflow
from isa_model.rounding import Rounding, shift_right
from isa_model.tables import SPECIALS, finite, takes_upper


@dataclass(frozen=True, slots=True)
class Number:
    """`(-1)**negative * significand * 2**exponent`, an infinity, or NaN. The significand is not negative."""

    negative: bool
    significand: int
    exponent: int
    special: Literal["", "infinity", "nan"] = ""

    @property
    def is_zero(self) -> bool:
        return not self.special and self.significand == 0

    @property
    def leading_exponent(self) -> int:
        """Exponent of the leading bit of a nonzero finite number."""
        return self.exponent + self.significand.bit_length() - 1

    def exact(self) -> Fraction:
        """Return the value as a fraction. Raises ValueError for an infinity or NaN."""
        if self.special:
            raise ValueError(f"{self.special} has no value as a fraction")
        magnitude = Fraction(self.significand) * Fraction(2) ** self.exponent
        return -magnitude if self.negative else magnitude


NAN = Number(False, 0, 0, "nan")


def infinity(negative: bool) -> Number:
    return Number(negative, 0, 0, "infinity")


def decode(fmt: Format, code: int) -> Number:
    """Return the number that `code` means in the format.

    A subnormal keeps the exponent of the smallest normal number, so its significand has leading zeros.
    Raises ValueError if `code` is negative or needs more bits than `fmt.storage_bits`.
    """
    if not 0 <= code < 1 << fmt.storage_bits:
        raise ValueError(f"{code:#x} is not a {fmt.storage_bits}-bit code of {fmt.name}")
    if fmt.kind == "table":
        entry = fmt.values[code & ((1 << fmt.bits) - 1)]
        return number_of(SPECIALS[entry] if isinstance(entry, str) else float(entry))
    field = code >> fmt.low_padding
    magnitude = field & ((1 << fmt.magnitude_bits) - 1)
    if fmt.kind == "integer":
        value = (
            magnitude - (1 << fmt.mantissa_bits) if fmt.signed and magnitude >> (fmt.mantissa_bits - 1) else magnitude
        )
        return Number(value < 0, abs(value), 0)
    negative = fmt.signed and bool(field >> fmt.magnitude_bits & 1)
    if fmt.nan == "negative-zero" and negative and magnitude == 0:
        return NAN
    biased, fraction = magnitude >> fmt.mantissa_bits, magnitude & ((1 << fmt.mantissa_bits) - 1)
    if magnitude > fmt.max_finite_magnitude:
        return infinity(negative) if fmt.infinity and fraction == 0 else NAN
    if biased == 0 and fmt.zero:
        return Number(negative, fraction, fmt.min_lsb_exponent)
    return Number(negative, fraction + (1 << fmt.mantissa_bits), biased - fmt.bias - fmt.mantissa_bits)


def largest_finite(fmt: Format) -> float:
    """Return the largest finite number of a format."""
    largest = decode(fmt, fmt.max_finite_magnitude << fmt.low_padding)
    return float(largest.significand) * 2.0**largest.exponent


def encode(
    fmt: Format,
    number: Number,
    rounding: Rounding = Rounding.NEAREST_EVEN,
    overflow: Overflow | None = None,
    draw: int = 0,
    draw_bits: int | None = None,
) -> int:
    """Return the code of `number` rounded to the format.

    The number is rounded as if the exponent range had no upper end. `overflow` (default: the format's own rule) decides
    what a result beyond the largest finite number becomes, and what an infinity becomes.
    A NaN becomes the format's NaN; without one, it becomes 0 in an integer format and the largest number in a float
    format (PTX ISA cvt, e2m1x2 and e3m2x2). A negative number becomes 0 in an unsigned integer format; in an unsigned
    float format it becomes NaN, or 0 without one. A value below UE8M0's range becomes its smallest number.
    `draw` and `draw_bits` are the random number of `stochastic` (see `rounding.shift_right`).
    Raises ValueError if `number` is not a Number.
    """
    require("number", number, Number, "isa_model.number_of gives a Number")
    if fmt.kind == "table":
        return _table_code(fmt, number, rounding)
    rule = overflow or fmt.overflow
    largest = fmt.max_finite_magnitude
    if number.special == "nan":
        if fmt.nan_code is not None:
            return fmt.nan_code
        return 0 if fmt.kind == "integer" else largest << fmt.low_padding
    if number.negative and not fmt.signed and not number.is_zero and fmt.kind == "float":
        return 0 if fmt.nan_code is None else fmt.nan_code
    magnitude = largest + 1
    if not number.special:
        magnitude = _round_magnitude(fmt, number, rounding, draw, draw_bits)
    if fmt.kind == "integer":
        return _integer_code(fmt, number.negative, magnitude, rule, bool(number.special))
    if magnitude > largest:
        if rule == "ieee":
            to_infinity = bool(number.special) or rounding in (
                Rounding.NEAREST_EVEN,
                Rounding.NEAREST_AWAY,
                Rounding.STOCHASTIC,
                Rounding.DOWN if number.negative else Rounding.UP,
            )
            rule = "infinity" if to_infinity else "saturate"
        if rule == "nan":
            assert fmt.nan_code is not None  # a Format without a NaN refuses this rule
            return fmt.nan_code
        magnitude = largest + (rule == "infinity")
    negative = fmt.signed and number.negative and not (fmt.nan == "negative-zero" and magnitude == 0)
    return (negative << fmt.magnitude_bits | magnitude) << fmt.low_padding


def _round_magnitude(fmt: Format, number: Number, rounding: Rounding, draw: int, draw_bits: int | None) -> int:
    """Return the exponent and mantissa fields of |number| as one integer, which may exceed the format's largest.

    Codes grow with the values they mean and are evenly spaced between powers of two. So rounding the code, taken as a
    number with more fraction bits, rounds the value, and a carry out of the mantissa goes into the exponent.
    """
    significand, exponent = number.significand, number.exponent
    if fmt.kind == "integer":
        return shift_right(significand, -exponent, rounding, number.negative, draw, draw_bits)
    if significand == 0:
        return 0
    leading = significand.bit_length() - 1
    biased = exponent + leading + fmt.bias
    if fmt.zero and biased < 1:
        return shift_right(significand, fmt.min_lsb_exponent - exponent, rounding, number.negative, draw, draw_bits)
    if biased < 0:
        return 0
    if fmt.mantissa_bits == 0 and rounding is Rounding.NEAREST_EVEN:
        rounding = Rounding.NEAREST_AWAY  # without a digit that can be even, IEEE 754 4.3.1 takes the larger neighbour
    long_code = (biased << leading) + significand - (1 << leading)
    return shift_right(long_code, leading - fmt.mantissa_bits, rounding, number.negative, draw, draw_bits)


def _integer_code(fmt: Format, negative: bool, magnitude: int, rule: Overflow, infinite: bool) -> int:
    value = -magnitude if negative else magnitude
    if infinite or rule != "wrap":
        value = min(max(value, fmt.lowest), fmt.max_finite_magnitude)
    return (value & ((1 << fmt.mantissa_bits) - 1)) << fmt.low_padding


def _table_code(fmt: Format, number: Number, rounding: Rounding) -> int:
    """Return the code of the number of a table that `number` is rounded to."""
    if rounding is Rounding.STOCHASTIC:
        raise ValueError(f"{fmt.name} is a table: no number is rounded to it stochastically")
    numbers = finite(fmt.values)
    if number.special:
        name = number.special if number.special == "nan" or not number.negative else "-infinity"
        end = numbers[0] if number.negative else numbers[-1]
        return fmt.values.index(name) if name in fmt.values else end[1]
    x = number.exact()
    upper = next((i for i, (y, _) in enumerate(numbers) if y >= x), len(numbers) - 1)
    if upper == 0 or numbers[upper][0] <= x:
        return numbers[upper][1]
    return numbers[upper - (not takes_upper(numbers[upper - 1], numbers[upper], x, rounding))][1]


def number_of(value: float | int | Fraction) -> Number:
    """Return a Python value as a Number.

    Raises ValueError for a fraction whose denominator is no power of two.
    """
    if isinstance(value, float) and value != value:
        return NAN
    if isinstance(value, float) and value in (float("inf"), float("-inf")):
        return infinity(value < 0)
    fraction = Fraction(value)
    exponent = 1 - fraction.denominator.bit_length()
    if fraction.denominator != 1 << -exponent:
        raise ValueError(f"{value} is not an integer times a power of two")
    negative = fraction < 0 or str(value).startswith("-")
    return Number(negative, abs(fraction.numerator), exponent)
