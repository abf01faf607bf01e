"""Exact dot products: the reference for errors, which no float32 or float64 sum can give.

The operands are cut into slices of few bits, so that the float64 matrix product of two slices is an exact integer. The
products of slices are then added without rounding (error-free splitting: Ozaki, Ogita, Oishi & Rump 2012).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from isa_model.float64 import leading_exponent, to_odd

if TYPE_CHECKING:
    from isa_model.float64 import Exponents, Float64


def dot(a: Float64, b: Float64) -> Float64:
    """Return the exact product of `a` (..., M, K) and `b` (..., K, N), each element rounded to odd in float64.

    Rounding to odd keeps what a further rounding to at most 51 bits needs: the result rounded to FP32 is the exact sum
    rounded once. As a float64 the result is off by less than one unit of its last place.
    Raises ValueError for an infinity or NaN, and for exponents so far apart that float64 would underflow.
    """
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError("an exact dot product needs finite operands")
    width = (53 - max(a.shape[-1] - 1, 1).bit_length()) // 2
    slices_a, exponents_a = _slices(a, -1, width)
    slices_b, exponents_b = _slices(b, -2, width)
    parts = []
    for order in range(len(slices_a) + len(slices_b) - 1):
        for i in range(max(0, order - len(slices_b) + 1), min(order + 1, len(slices_a))):
            parts.append(np.ldexp(slices_a[i] @ slices_b[order - i], -width * (order + 2)))
    product: Float64 = np.ldexp(to_odd(parts), exponents_a + exponents_b)
    return product


def _slices(x: Float64, axis: int, width: int) -> tuple[list[Float64], Exponents]:
    """Return integers s_i below 2**width, and an exponent e per row or column: x = 2**e * sum_i s_i * 2**(-width * (i + 1))."""
    magnitude = np.abs(x)
    largest = magnitude.max(axis=axis, keepdims=True, initial=0.0)
    exponent = np.where(largest > 0, leading_exponent(largest) + 1, 0)
    magnitude[magnitude == 0] = np.inf
    smallest = magnitude.min(axis=axis, keepdims=True, initial=np.inf)
    if (exponent - leading_exponent(np.where(np.isinf(smallest), 1.0, smallest)))[largest > 0].max(initial=0) > 900:
        raise ValueError("exponents of the operands are too far apart")
    # 2**-exponent as two factors, each of which float64 holds.
    half = -exponent // 2
    rest = x * np.ldexp(1.0, half) * np.ldexp(1.0, -exponent - half)
    slices: list[Float64] = []
    while not slices or rest.any():
        rest *= 2.0**width
        piece = np.trunc(rest)
        slices.append(piece)
        rest -= piece
    return slices, exponent
