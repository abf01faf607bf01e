"""Exact arithmetic on float64 arrays, for the engines.

A float64 holds any integer of 53 bits times a power of two, and sums and products within 53 bits are exact. A value that
needs more bits is a list of float64 *parts* whose sum it is. `to_odd` turns it into one float64 rounded to odd, which any
later rounding to at most 51 bits treats as the exact value (Boldo & Melquiond 2008).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isa_model.codec import largest_finite
from isa_model.formats import Format
from isa_model.rounding import Rounding, round_integer
from isa_model.stage import Register

Codes = NDArray[np.unsignedinteger[Any]]
Float64 = NDArray[np.float64]
Exponents = NDArray[np.int32]

LANE_BITS = 53
"""Significand bits of a float64."""
NO_EXPONENT = -(1 << 20)
"""Alignment exponent of a zero that has none: lower than any other."""


def power_of_two(exponent: Exponents) -> Float64:
    """Return 2.0**exponent for exponents from -1022 to 1023."""
    return ((exponent.astype(np.int64) + 1023) << 52).view(np.float64)


def exponent_of(x: Float64, fmt: Format) -> Exponents:
    """Return the exponents with which numbers of a format align: the smallest for subnormals, NO_EXPONENT for zeros."""
    if fmt.kind == "integer":
        return np.where(x == 0, NO_EXPONENT, 0).astype(np.int32)
    exponent = np.maximum(leading_exponent(x), fmt.min_exponent)
    return np.where((x == 0) | ~np.isfinite(x), NO_EXPONENT, exponent).astype(np.int32)


def leading_exponent(x: Float64) -> Exponents:
    """Return floor(log2(|x|)) of normal float64 numbers; -1023 for zero, 1024 for infinities and NaNs."""
    return ((np.ascontiguousarray(x).view(np.int64) >> 52 & 0x7FF) - 1023).astype(np.int32)


def two_sum(x: Float64, y: Float64) -> tuple[Float64, Float64]:
    """Return the rounded sum and its exact error (Knuth)."""
    total = x + y
    back = total - x
    return total, (x - (total - back)) + (y - back)


def two_product(x: Float64, y: Float64) -> list[Float64]:
    """Return the rounded product and its exact error (Dekker), for products and errors within the float64 range.

    An error of zero has the product's sign, so that the parts of a negative zero sum to a negative zero.
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
    """Return the sum of all parts, rounded to odd if float64 cannot hold it. A NaN or infinity is the plain sum's."""
    if len(parts) == 1:
        return parts[0]
    plain = parts[0]
    for part in parts[1:]:
        plain = plain + part
    # Add each part to a list of non-overlapping floats, smallest first (Shewchuk 1997).
    expansion: list[Float64] = []
    for part in parts:
        carry = part
        for i, held in enumerate(expansion):
            carry, expansion[i] = two_sum(held, carry)
        expansion.append(carry)
    # Sum the list from the largest down; the error of each step is at most about the last bit of `high`.
    high, rest = expansion[-1], []
    for held in reversed(expansion[:-1]):
        high, low = two_sum(high, held)
        rest.append(low)
    # Sum the errors from the smallest up, each rounded to odd so that none is lost, and add the result.
    low = rest[-1]
    for held in reversed(rest[:-1]):
        low = _jam(*two_sum(held, low))
    high, low = two_sum(high, low)
    all_zero = np.logical_and.reduce([part == 0 for part in parts])
    total = np.where(high != 0, _jam(high, low), np.where(all_zero, plain, 0.0))
    return np.where(np.isfinite(plain), total, plain)


def bins(parts: int, bits: int) -> int:
    """Return how many bins hold a sum of `bits` bits of this many parts."""
    return -(-bits // (LANE_BITS - 1 - parts.bit_length()))


def binned(parts: list[Float64], bottom: Exponents | int, bits: int, keep_sign: bool) -> list[Float64]:
    """Return fewer parts with the same sum: each part is split at fixed places, and the pieces of each bin added exactly.

    Parts are multiples of 2**`bottom`; their sum has at most `bits` bits. With `keep_sign` a sum of zeros keeps its sign.
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
    """Return x + error rounded to odd, for an error smaller than the last bit of x."""
    if not error.any():
        return x
    even = np.ascontiguousarray(x).view(np.int64) & 1 == 0
    toward = np.where(error > 0, np.inf, -np.inf)
    return np.where((error != 0) & even, np.nextafter(x, toward), x)


def round_to(x: Float64, register: Register, words: NDArray[np.uint64] | None = None) -> Float64:
    """Return values rounded to a register, as `golden.rounded` does; `x` is exact or rounded to odd.

    `words` are the random words, 32 bits, of a stochastic register.
    """
    fmt, rounding = register.format, register.rounding
    overflow = register.overflow or fmt.overflow
    if fmt.kind == "integer":
        return _round_to_integer(x, fmt, rounding, overflow)
    # Nonzero values are far above 2**-900; this lower end keeps 2**-unit finite if x is zero.
    exponent = np.clip(leading_exponent(x), max(fmt.min_exponent, -900), fmt.max_exponent + 1)
    unit = exponent - fmt.mantissa_bits
    y: Float64 = x * power_of_two(-unit)
    if register.random_bits is None:
        y = round_integer(y, rounding) * power_of_two(unit)
    else:
        assert words is not None
        parts = 2.0**register.random_bits
        draws = (words >> np.uint64(32 - register.random_bits)).astype(np.float64)
        whole = np.trunc((np.trunc(np.abs(y) * parts) + draws) / parts)
        y = np.copysign(whole, y) * power_of_two(unit)
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


def integer_range(fmt: Format) -> tuple[float, float]:
    """Return the lowest and the highest number of an integer format of at most 53 bits."""
    return float(fmt.lowest), float(fmt.max_finite_magnitude)


def _round_to_integer(x: Float64, fmt: Format, rounding: Rounding, overflow: str) -> Float64:
    y: Float64 = round_integer(x, rounding) + 0.0  # integers have no negative zero
    low, high = integer_range(fmt)
    if overflow == "saturate":
        return np.clip(y, low, high)
    wrapped: Any = np.mod(y - low, 2.0**fmt.mantissa_bits) + low
    return np.where(np.isfinite(y), wrapped, np.clip(y, low, high))
