"""Exact arithmetic on float64 arrays: the tools of the engines.

A float64 holds any integer of 53 bits times a power of two, and adding or multiplying within 53 bits is exact. What
needs more is kept as a list of float64 *parts* whose sum is the value; `to_odd` brings it back to one float64 rounded
to odd, which any later rounding to at most 51 bits treats as if it were the exact value (Boldo & Melquiond 2008).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isa_model.formats import Format
from isa_model.rounding import Rounding, round_integer
from isa_model.stage import Register

Codes = NDArray[np.unsignedinteger[Any]]
Float64 = NDArray[np.float64]
Exponents = NDArray[np.int32]

LANE_BITS = 53
"""Significand bits of a float64 lane."""
NO_EXPONENT = -(1 << 20)
"""Alignment exponent of a zero that has none; lower than any real one."""


def power_of_two(exponent: Exponents) -> Float64:
    """2.0**exponent built from bits; exponents from -1022 to 1023."""
    return ((exponent.astype(np.int64) + 1023) << 52).view(np.float64)


def exponent_of(x: Float64, fmt: Format) -> Exponents:
    """The exponent with which numbers of a format align: the format's smallest for subnormals, none for zeros."""
    if fmt.kind == "integer":
        return np.where(x == 0, NO_EXPONENT, 0).astype(np.int32)
    exponent = np.maximum(leading_exponent(x), fmt.min_exponent)
    return np.where((x == 0) | ~np.isfinite(x), NO_EXPONENT, exponent).astype(np.int32)


def leading_exponent(x: Float64) -> Exponents:
    """floor(log2(|x|)) of normal float64 numbers; -1023 for zero, 1024 for infinities and NaNs."""
    return ((np.ascontiguousarray(x).view(np.int64) >> 52 & 0x7FF) - 1023).astype(np.int32)


def two_sum(x: Float64, y: Float64) -> tuple[Float64, Float64]:
    """The rounded sum and its error, exactly (Knuth)."""
    total = x + y
    back = total - x
    return total, (x - (total - back)) + (y - back)


def two_product(x: Float64, y: Float64) -> list[Float64]:
    """The product as two parts, the rounded one and its error (Dekker), while neither leaves the float64 range.

    An error that is nothing has the product's sign, so that the sum of the parts of a negative zero is one.
    """
    product = x * y
    x_high, x_low = _split(x)
    y_high, y_low = _split(y)
    error = ((x_high * y_high - product) + x_high * y_low + x_low * y_high) + x_low * y_low
    return [product, np.where(np.isfinite(product) & (error != 0), error, np.copysign(0.0, product))]


def _split(x: Float64) -> tuple[Float64, Float64]:
    big = x * 134217729.0  # 2**27 + 1 (Veltkamp)
    high = big - (big - x)
    return high, x - high


def to_odd(parts: Sequence[Float64]) -> Float64:
    """The sum of all parts as one float64: exact where it fits, else rounded to odd. NaN and infinities carry over."""
    if len(parts) == 1:
        return parts[0]
    plain = parts[0]
    for part in parts[1:]:
        plain = plain + part
    # Add one part after the other into a list of non-overlapping floats, smallest first (Shewchuk 1997).
    expansion: list[Float64] = []
    for part in parts:
        carry = part
        for i, held in enumerate(expansion):
            carry, expansion[i] = two_sum(held, carry)
        expansion.append(carry)
    # Gather it into the largest from the top; what each step leaves over is at most about the last bit of `high`.
    high, rest = expansion[-1], []
    for held in reversed(expansion[:-1]):
        high, low = two_sum(high, held)
        rest.append(low)
    # Gather the leftovers from the bottom (jammed, so that none is forgotten) and add them once more.
    low = rest[-1]
    for held in reversed(rest[:-1]):
        low = _jam(*two_sum(held, low))
    high, low = two_sum(high, low)
    all_zero = np.logical_and.reduce([part == 0 for part in parts])
    total = np.where(high != 0, _jam(high, low), np.where(all_zero, plain, 0.0))
    return np.where(np.isfinite(plain), total, plain)


def bins(parts: int, bits: int) -> int:
    """How many bins hold a sum of so many parts and bits."""
    return -(-bits // (LANE_BITS - 1 - parts.bit_length()))


def binned(parts: list[Float64], bottom: Exponents | int, bits: int, keep_sign: bool) -> list[Float64]:
    """The sum of many parts in few: each is split at fixed places, and what lies between two of them is added exactly.

    Parts are multiples of 2**`bottom`, and so is their sum, of `bits` bits at most. A sum of nothing but zeros keeps its
    sign where `keep_sign` asks for it.
    """
    count = bins(len(parts), bits)
    if len(parts) <= count:
        return parts
    width = LANE_BITS - 1 - len(parts).bit_length()
    lowest = np.asarray(bottom, np.int32)
    magics = [1.5 * power_of_two(LANE_BITS - 1 + lowest + i * width) for i in range(1, count)]
    totals: list[Any] = [0.0] * count
    for part in parts:
        left = part
        for i in range(count - 1, 0, -1):
            piece = (left + magics[i - 1]) - magics[i - 1]
            left = np.where(left == piece, 0.0, left - piece)
            totals[i] = totals[i] + piece
        totals[0] = totals[0] + left
    if keep_sign:
        plain = sum(parts[1:], parts[0])
        nothing = np.logical_and.reduce([part == 0 for part in parts])
        totals = [np.where(nothing, plain, total) for total in totals]
    return totals[::-1]


def _jam(x: Float64, error: Float64) -> Float64:
    """x + error rounded to odd, for an error smaller than the last bit of x."""
    if not error.any():
        return x
    even = np.ascontiguousarray(x).view(np.int64) & 1 == 0
    toward = np.where(error > 0, np.inf, -np.inf)
    return np.where((error != 0) & even, np.nextafter(x, toward), x)


def round_to(x: Float64, register: Register) -> Float64:
    """Values rounded to a register's format, the twin of `golden.rounded`; `x` is exact or rounded to odd."""
    fmt, rounding = register.format, register.rounding
    overflow = register.overflow or fmt.overflow
    if fmt.kind == "integer":
        return _round_to_integer(x, fmt, rounding, overflow)
    # The engine's values stay far above 2**-900; the lower end keeps 2**-unit finite when x is zero.
    exponent = np.clip(leading_exponent(x), max(fmt.min_exponent, -900), fmt.max_exponent + 1)
    unit = exponent - fmt.mantissa_bits
    y: Float64 = round_integer(x * power_of_two(-unit), rounding) * power_of_two(unit)
    largest = largest_finite(fmt)
    beyond = np.abs(y) > largest
    if beyond.any():
        if overflow == "ieee":
            overflow_value = np.copysign(np.inf, y)
            if rounding in (Rounding.TOWARD_ZERO, Rounding.TO_ODD):
                stays = np.isfinite(x)
            elif rounding in (Rounding.UP, Rounding.DOWN):
                stays = np.isfinite(x) & (np.signbit(y) == (rounding is Rounding.UP))
            else:
                stays = np.zeros(y.shape, bool)
            overflow_value = np.where(stays, np.copysign(largest, y), overflow_value)
        else:
            limit = {"infinity": np.inf, "saturate": largest, "nan": np.nan}[overflow]
            overflow_value = np.copysign(limit, y)
        y = np.where(beyond, overflow_value, y)
    if register.subnormals == "flush":
        y = np.where(np.abs(y) < 2.0**fmt.min_exponent, np.copysign(0.0, y), y)
    return y + 0.0 if fmt.nan == "negative-zero" else y  # a format without a negative zero


def largest_finite(fmt: Format) -> float:
    """The largest finite number of a format."""
    if fmt.kind == "integer":
        return float(fmt.max_finite_magnitude)
    biased, fraction = divmod(fmt.max_finite_magnitude, 1 << fmt.mantissa_bits)
    subnormal = biased == 0 and fmt.zero
    significand = fraction + (0 if subnormal else 1 << fmt.mantissa_bits)
    return float(significand) * 2.0 ** (biased + subnormal - fmt.bias - fmt.mantissa_bits)


def integer_range(fmt: Format) -> tuple[float, float]:
    """The lowest and the highest number of an integer format of at most 53 bits."""
    highest = float(fmt.max_finite_magnitude)
    return (-highest - 1 if fmt.signed else 0.0), highest


def _round_to_integer(x: Float64, fmt: Format, rounding: Rounding, overflow: str) -> Float64:
    y: Float64 = round_integer(x, rounding)
    low, high = integer_range(fmt)
    if overflow == "saturate":
        return np.clip(y, low, high)
    wrapped: Any = np.mod(y - low, 2.0**fmt.mantissa_bits) + low
    return np.where(np.isfinite(y), wrapped, np.clip(y, low, high))
