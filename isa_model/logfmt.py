"""LogFMT-nBit: a tile of numbers kept as signs and equally spaced logarithms.

Source: "Insights into DeepSeek-V3" (arXiv 2505.09343) 3.2. Codes are sign and an (n-1)-bit index; index 0 is zero,
index i stands for exp(minimum + step * (i - 1)). Minimum and step belong to the tile, so this is no `Format`: one code
has no meaning of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from isa_model.ieee import in_ieee_mode

if TYPE_CHECKING:
    from isa_model.float64 import Codes, Float64

LARGEST_RANGE = 32 * np.log(2.0)
"""The minimum is at least the maximum less this: the range of a format with 5 exponent bits."""


@dataclass(frozen=True)
class LogTiles:
    """Tiles (T, L) of n-bit codes with the minimum and the step of the logarithms of each."""

    bits: int
    codes: Codes
    minimum: Float64
    step: Float64


@in_ieee_mode
def encode_log(bits: int, tiles: Float64) -> LogTiles:
    """Encode tiles (T, L), each row on its own; rounds to the nearest in linear space, ties to the larger magnitude.

    Raises ValueError for fewer than 3 or more than 16 bits, or numbers that are not finite.
    """
    if not 3 <= bits <= 16:
        raise ValueError(f"LogFMT has 3 to 16 bits, not {bits}")
    if not np.isfinite(tiles).all():
        raise ValueError("LogFMT holds finite numbers only")
    magnitude = np.abs(tiles)
    logs = np.log(magnitude, out=np.full(tiles.shape, -np.inf), where=magnitude > 0)
    maximum = logs.max(axis=1)
    smallest = np.where(magnitude > 0, logs, np.inf).min(axis=1)
    empty = np.isinf(maximum)
    maximum, smallest = np.where(empty, 0.0, maximum), np.where(empty, 0.0, smallest)
    minimum = np.maximum(smallest, maximum - LARGEST_RANGE)
    top = (1 << (bits - 1)) - 1
    step = (maximum - minimum) / (top - 1)
    position = (logs - minimum[:, None]) / np.where(step > 0, step, 1.0)[:, None]
    lower = np.clip(np.floor(np.maximum(position, 0.0)), 0, top - 1)
    values = [np.exp(minimum[:, None] + step[:, None] * np.minimum(i, top - 1)) for i in (lower, lower + 1)]
    index = lower + 1 + (magnitude - values[0] >= values[1] - magnitude) * (lower < top - 1)
    # Below half of the smallest code a number is nearer to zero.
    index = np.where(magnitude < np.exp(minimum)[:, None] / 2, 0, index).astype(np.uint16)
    codes = index | (np.signbit(tiles).astype(np.uint16) << (bits - 1))
    return LogTiles(bits, codes, minimum, step)


@in_ieee_mode
def decode_log(tiles: LogTiles) -> Float64:
    """The numbers (T, L) that the codes stand for."""
    index = (tiles.codes & ((1 << (tiles.bits - 1)) - 1)).astype(np.float64)
    magnitude = np.where(index > 0, np.exp(tiles.minimum[:, None] + tiles.step[:, None] * (index - 1)), 0.0)
    return np.where(tiles.codes >> (tiles.bits - 1), -magnitude, magnitude)
