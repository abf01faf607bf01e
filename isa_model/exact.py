"""Exact dot products: the reference for errors, which no float32 or float64 sum can give.

Products are cut at fixed places, so that the pieces of each place add up without rounding (error-free splitting: Ozaki,
Ogita, Oishi & Rump 2012), in compiled C. Without a C compiler the operands are cut instead, into slices of few bits whose
float64 matrix products are exact integers.
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any

import numpy as np

from isa_model.engines.c_library import shipped
from isa_model.float64 import leading_exponent, to_odd

if TYPE_CHECKING:
    from isa_model.float64 import Exponents, Float64

_DONE, _NOT_FINITE, _TOO_FAR = range(3)
_MOST_SUMS = 6
"""Most sums that make up a dot product, as in exact.c."""


def dot(a: Any, b: Any, scale_a: Any = None, scale_b: Any = None) -> Float64:
    """Return the exact product of `a` (..., M, K) and `b` (..., K, N), each element rounded to odd in float64.

    Elements are float32 or float64. They may be multiplied by scales: `scale_a` (..., M, G) has one for each of G equally
    long groups along K, `scale_b` (..., G, N) likewise.
    Rounding to odd keeps what a further rounding to at most 51 bits needs: the result rounded to FP32 is the exact sum
    rounded once. As a float64 the result is off by less than one unit of its last place.
    Raises ValueError for an infinity or NaN, and for exponents so far apart that float64 would underflow.
    """
    found = _compiled_dot(a, b, scale_a, scale_b)
    if found is not None:
        return found
    if scale_a is not None or scale_b is not None:
        return dot(_times(a, scale_a, -1), _times(b, scale_b, -2))
    return _sliced_dot(a.astype(np.float64, copy=False), b.astype(np.float64, copy=False))


def _times(x: Any, scales: Any, axis: int) -> Any:
    """Return elements times the scales of their groups, in float64."""
    return x if scales is None else x * np.repeat(scales.astype(np.float64), x.shape[axis] // scales.shape[axis], axis)


# -- compiled --------------------------------------------------------------------------------------------------------


class _Matrix(ctypes.Structure):
    _fields_ = (
        ("start", ctypes.c_void_p),
        *((name, ctypes.c_long) for name in ("batch", "row", "column", "is_double")),
        ("scales", ctypes.c_void_p),
        ("group", ctypes.c_long),
    )


def _compiled_dot(a: Any, b: Any, scale_a: Any, scale_b: Any) -> Float64 | None:
    """Return `dot` by exact.c; None without a C compiler, and for operands that it does not take."""
    # No product is rounded, so that it may be fused with the sum.
    function = shipped("exact.c", ("-ffp-contract=fast",))
    if function is None or a.shape[:-2] != b.shape[:-2]:
        return None
    shape = a.shape[:-2]
    x, y = (_plain(z.reshape(-1, *z.shape[-2:])) for z in (a, np.swapaxes(b, -1, -2)))
    (batches, m, k), n = x.shape, y.shape[1]
    scales = _of_rows(scale_a), _of_rows(None if scale_b is None else np.swapaxes(scale_b, -1, -2))
    parts = np.empty((_MOST_SUMS, batches, m, n))
    exponents = np.empty((2, batches, m), np.int32), np.empty((2, batches, n), np.int32)
    count = ctypes.c_long()
    status = function(
        *(ctypes.c_long(size) for size in (batches, m, n, k)),
        *(ctypes.byref(_matrix(z, s)) for z, s in zip((x, y), scales, strict=True)),
        *(ctypes.c_void_p(z.ctypes.data) for z in (parts, *exponents)),
        ctypes.byref(count),
    )
    if status == _NOT_FINITE:
        raise ValueError("an exact dot product needs finite operands")
    if status == _TOO_FAR:
        return None
    total, (rows, columns) = to_odd(list(parts[: count.value])), (e.sum(axis=0) for e in exponents)
    product: Float64 = np.ldexp(total, rows[:, :, None] + columns[:, None, :])
    return product.reshape(*shape, m, n)


def _matrix(x: Any, scales: Any) -> _Matrix:
    strides = (s // x.itemsize for s in x.strides)
    start, groups = (None, 1) if scales is None else (scales.ctypes.data, scales.shape[-1])
    return _Matrix(x.ctypes.data, *strides, x.dtype == np.float64, start, x.shape[2] // groups)


def _of_rows(scales: Any) -> Any:
    return None if scales is None else np.ascontiguousarray(scales, np.float64)


def _plain(x: Any) -> Any:
    """Return an array of native float32 or float64 whose strides are whole elements."""
    wide = x.dtype if x.dtype in (np.float32, np.float64) else np.dtype(np.float64)
    x = x.astype(wide.newbyteorder("="), copy=False)
    return x if all(s % x.itemsize == 0 for s in x.strides) else x.copy()


# -- by matrix products of slices ------------------------------------------------------------------------------------


def _sliced_dot(a: Float64, b: Float64) -> Float64:
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
