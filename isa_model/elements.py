"""Elements of a cast: a matrix divided by the scales of its groups and rounded to a format.

Compiled C does it in one pass; without a C compiler, and for formats that cast.c does not take, numpy does.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from isa_model.array_codec import code_dtype, decode_array, encode_array
from isa_model.codec import largest_finite
from isa_model.engines.c_library import shipped
from isa_model.formats import FORMATS, Format
from isa_model.groups import Group, extent, spread
from isa_model.rounding import Rounding, round_integer
from isa_model.tables import finite

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from isa_model.float64 import Codes, Float64

FP32 = FORMATS["fp32"]


@dataclass(frozen=True)
class Elements:
    """Rounded elements of a matrix (R, C)."""

    codes: Codes
    numbers: NDArray[np.floating[Any]]
    """Numbers of the codes, in float32 or float64."""
    nonzero: NDArray[np.int64]
    """Nonzero elements of each row before the cast (R,)."""
    lost: NDArray[np.int64]
    """Nonzero elements of each row that became zero (R,)."""
    beyond: NDArray[np.int64]
    """Elements of each row beyond the format's largest number, which they became (R,)."""


def elements_of(
    to: Format, rounding: Rounding, group: Group, x: NDArray[np.float32], scales: Float64, scale_format: Format
) -> Elements:
    """Return a matrix divided by the scales of its groups, one per group, and rounded to a format.

    Quotients are IEEE FP32, nearest even. An element over a scale of zero is zero; negative elements of an unsigned format
    become zero, and those beyond the largest number become it.
    """
    function = shipped("cast.c") if FP32.holds(scale_format) and _compiles(to, rounding) else None
    if function is None:
        return _by_numpy(to, rounding, group, x, scales, scale_format)
    x, divisors = np.ascontiguousarray(x), np.ascontiguousarray(scales, np.float32)
    codes, numbers = np.empty(x.shape, code_dtype(to)), np.empty(x.shape, np.float32)
    counts = np.empty((len(x), 3), np.int64)
    function(
        ctypes.c_void_p(x.ctypes.data),
        *map(ctypes.c_long, x.shape),
        ctypes.c_void_p(divisors.ctypes.data),
        (ctypes.c_long * 2)(*extent(group, x.shape)),
        ctypes.c_long(divisors.shape[1]),
        ctypes.byref(_format(to, rounding)),
        *(ctypes.c_void_p(array.ctypes.data) for array in (codes, numbers, counts)),
    )
    return Elements(codes, numbers, *counts.T)


def codes_of(to: Format, rounding: Rounding, x: NDArray[np.float32]) -> Codes:
    """Return the codes of numbers that are not negative, rounded to a format and saturated, as `encode_array` does."""
    if to == FP32 or not _compiles(to, rounding) or shipped("cast.c") is None:
        return encode_array(to, x, rounding, "saturate")
    return elements_of(to, rounding, None, x.reshape(1, -1), np.ones((1, 1)), FP32).codes.reshape(x.shape)


def _by_numpy(
    to: Format, rounding: Rounding, group: Group, x: NDArray[np.float32], scales: Float64, scale_format: Format
) -> Elements:
    divisor = spread(scales.astype(np.float32) if FP32.holds(scale_format) else scales, group, x.shape)
    kept = x if to.signed else np.maximum(x, np.float32(0))
    with np.errstate(over="ignore", under="ignore", invalid="ignore", divide="ignore"):
        quotients = (kept / divisor).astype(np.float32)
    scaled = np.where((divisor == 0) & np.isfinite(x), np.float32(0), quotients)
    codes = encode_array(to, scaled, rounding, "saturate")
    numbers, nonzero = decode_array(to, codes), x != 0
    lost = (numbers == 0) & nonzero
    return Elements(codes, numbers, *(found.sum(axis=1) for found in (nonzero, lost, _beyond(to, rounding, scaled))))


def _beyond(to: Format, rounding: Rounding, scaled: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Return which elements, divided by their scales, round to more than the format's largest number."""
    top, integer = largest_finite(to), to.kind == "integer"
    if to.kind == "table":
        outside: NDArray[np.bool_] = (scaled > top) | (scaled < finite(to.values)[0][0])
        return outside
    step = 1.0 if integer else 2.0 ** (to.max_exponent - to.mantissa_bits)
    rounded = round_integer(scaled.astype("f8") / step, rounding) * step
    too_large: NDArray[np.bool_] = (rounded > top) | (rounded < -top - integer)
    return too_large


# -- compiled --------------------------------------------------------------------------------------------------------


class _Format(ctypes.Structure):
    _fields_ = (
        *(
            (name, ctypes.c_long)
            for name in (
                "storage",
                "is_integer",
                "is_signed",
                "mantissa_bits",
                "min_exponent",
                "sign_place",
                "low_padding",
            )
        ),
        *((name, ctypes.c_long) for name in ("mask", "zero_has_sign", "rounding", "nan_code")),
        *((name, ctypes.c_double) for name in ("top", "per_step", "nan")),
    )


_ROUNDINGS = Rounding.NEAREST_EVEN, Rounding.NEAREST_AWAY, Rounding.TOWARD_ZERO
"""Rounding modes in the order of cast.c."""


def _compiles(to: Format, rounding: Rounding) -> bool:
    """Return whether cast.c rounds to a format, all numbers of which must be among those of FP32."""
    if to.kind == "table":
        return False
    numbers = to.mantissa_bits <= 24 if to.kind == "integer" else FP32.holds(to) and to.zero and to.mantissa_bits > 0
    return rounding in _ROUNDINGS and numbers and to.storage_bits <= 32


@cache
def _format(to: Format, rounding: Rounding) -> _Format:
    top = largest_finite(to)
    return _Format(
        to.storage_bits // 8,
        to.kind == "integer",
        to.signed,
        to.mantissa_bits,
        to.min_exponent,
        to.magnitude_bits,
        to.low_padding,
        (1 << to.mantissa_bits) - 1,
        to.signed and to.nan != "negative-zero",
        _ROUNDINGS.index(rounding),
        to.nan_code if to.nan_code is not None else to.max_finite_magnitude << to.low_padding,
        top,
        1.0 if to.kind == "integer" else 2.0 ** (to.mantissa_bits - to.max_exponent),
        top if to.nan_code is None else float("nan"),
    )
