"""LogFMT-nBit: a tile of numbers stored as signs and equally spaced logarithms.

Source: "Insights into DeepSeek-V3" (arXiv 2505.09343) 3.2. A code is a sign and an (n-1)-bit index; index 0 means zero,
index i means exp(minimum + step * (i - 1)). Minimum and step belong to the tile. So LogFMT is not a `Format`: a code alone
has no value.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from isa_model.engines.c_library import shipped
from isa_model.ieee import in_ieee_mode

if TYPE_CHECKING:
    from isa_model.float64 import Codes, Float64

LARGEST_RANGE = 32 * np.log(2.0)
"""Largest range of the logarithms of a tile: that of a format with 5 exponent bits."""

BLOCK = 1 << 14
"""Numbers that are rounded together, few enough for a cache."""


@dataclass(frozen=True)
class LogTiles:
    """Tiles of n-bit codes, each with the minimum and the step of its logarithms."""

    bits: int
    codes: Codes
    """Codes (T, L), a tile per row."""
    minimum: Float64
    """Smallest logarithm of each tile, (T,)."""
    step: Float64
    """Distance of neighbouring logarithms of each tile, (T,)."""


@in_ieee_mode
def encode_log(bits: int, tiles: Float64) -> LogTiles:
    """Return numbers (T, L) encoded with `bits` bits, each row as a tile.

    A number becomes the nearest in linear space, of two equally near the one of larger magnitude.
    Raises ValueError for fewer than 3 or more than 16 bits, and for numbers that are not finite.
    """
    found = _nearest(bits, tiles, None)
    index = np.where(found.zero, 0.0, found.lower + 1 + found.up)
    codes = index.astype(np.uint16) | np.signbit(tiles).astype(np.uint16) << np.uint16(bits - 1)
    return LogTiles(bits, codes, found.minimum, found.step)


@in_ieee_mode
def round_log(bits: int, tiles: Float64, ends: Sequence[Float64] | None = None) -> Float64:
    """Return numbers (T, L) rounded to those that `encode_log` has codes for.

    `ends` are the largest and the smallest nonzero magnitude of each tile, (T,), if it has more numbers than these.
    Raises ValueError as `encode_log`.
    """
    rounded, some = np.empty(tiles.shape), max(BLOCK // max(tiles.shape[1], 1), 1)
    function = shipped("logfmt.c")
    for first in range(0, len(tiles), some):
        part = slice(first, first + some)
        of_part = None if ends is None else [end[part] for end in ends]
        if function is None:
            np.copysign(_nearest(bits, tiles[part], of_part).magnitude, tiles[part], out=rounded[part])
        else:
            _round(function, bits, np.ascontiguousarray(tiles[part]), of_part, rounded[part])
    return rounded


def _round(function: Any, bits: int, tiles: Float64, ends: Sequence[Float64] | None, rounded: Float64) -> None:
    """Write the numbers that `_nearest` finds for tiles to `rounded`; `function` is that of logfmt.c."""
    magnitude = np.abs(tiles)
    minimum, step = _logarithms(bits, magnitude, ends)
    least, around = np.exp(minimum) / 2, np.empty((2, *tiles.shape))
    with np.errstate(divide="ignore"):
        np.log(magnitude, out=around[0])  # of zero, -inf
    sizes = [ctypes.c_long(size) for size in tiles.shape]
    of_minimum, of_step, of_least, *of_numbers = (
        ctypes.c_void_p(x.ctypes.data) for x in (minimum, step, least, tiles, rounded)
    )
    shared = of_step, ctypes.c_double((1 << (bits - 1)) - 2), *(ctypes.c_void_p(x.ctypes.data) for x in around)
    function(*sizes, of_minimum, *shared, None, None)
    np.exp(around, out=around)
    function(*sizes, of_least, *shared, *of_numbers)


class _Nearest(NamedTuple):
    """LogFMT numbers nearest to the numbers of tiles (T, L)."""

    lower: Float64
    """Index of the number below, from 0, (T, L)."""
    up: NDArray[np.bool_]
    """True where the number above is nearer."""
    zero: NDArray[np.bool_]
    """True where zero is nearer still."""
    magnitude: Float64
    """Magnitude of the nearest number."""
    minimum: Float64
    """Smallest logarithm of each tile, (T,)."""
    step: Float64
    """Distance of neighbouring logarithms of each tile, (T,)."""


def _nearest(bits: int, tiles: Float64, ends: Sequence[Float64] | None) -> _Nearest:
    """Return the nearest LogFMT numbers; `ends` as in `round_log`. Arrays are reused, since memory takes the most time."""
    magnitude = np.abs(tiles)
    minimum, step = _logarithms(bits, magnitude, ends)
    top = (1 << (bits - 1)) - 1
    with np.errstate(divide="ignore"):
        lower = np.log(magnitude)  # of zero, -inf
    lower -= minimum[:, None]
    lower /= np.where(step > 0, step, 1.0)[:, None]
    np.floor(np.maximum(lower, 0.0, out=lower), out=lower)
    np.minimum(lower, top - 1, out=lower)
    below, above = lower * step[:, None], np.minimum(lower + 1, top - 1)
    above *= step[:, None]
    for each in (below, above):
        each += minimum[:, None]
        np.exp(each, out=each)
    up = magnitude - below >= above - magnitude
    up &= lower < top - 1
    # A number below half of the smallest magnitude is nearer to zero.
    zero = magnitude < np.exp(minimum)[:, None] / 2
    return _Nearest(lower, up, zero, np.where(up, above, below) * ~zero, minimum, step)


def _logarithms(bits: int, magnitude: Float64, ends: Sequence[Float64] | None) -> tuple[Float64, Float64]:
    """Return the smallest logarithm of each tile and the distance of neighbouring ones; `ends` as in `round_log`."""
    if not 3 <= bits <= 16:
        raise ValueError(f"LogFMT has 3 to 16 bits; got {bits}")
    if ends is None:
        ends = magnitude.max(axis=1, initial=0.0), magnitude.min(axis=1, initial=np.inf, where=magnitude > 0)
    if not np.isfinite(ends[0]).all():
        raise ValueError("LogFMT has finite numbers only")
    if not ends[0].all():  # empty tiles
        ends = [np.where(ends[0] == 0, 1.0, end) for end in ends]
    maximum, smallest = map(np.log, ends)
    minimum = np.maximum(smallest, maximum - LARGEST_RANGE)
    return minimum, (maximum - minimum) / ((1 << (bits - 1)) - 2)


@in_ieee_mode
def decode_log(tiles: LogTiles) -> Float64:
    """Return the numbers (T, L) that the codes mean."""
    index = (tiles.codes & ((1 << (tiles.bits - 1)) - 1)).astype(np.float64)
    magnitude = np.where(index > 0, np.exp(tiles.minimum[:, None] + tiles.step[:, None] * (index - 1)), 0.0)
    return np.where(tiles.codes >> (tiles.bits - 1), -magnitude, magnitude)
