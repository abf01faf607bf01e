"""Casts without a bias: elements rounded at random, or each group's scale corrected and rounded at random.

Random words are Philox4x32-10's (philox.py): the key is the seed, the counter the row and the column of the element or the
group, and what is rounded.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from isa_model.array_codec import decode_array, encode_array
from isa_model.elements import Elements
from isa_model.formats import Format
from isa_model.groups import Group, spread
from isa_model.philox import philox
from isa_model.rounding import Rounding

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from isa_model.float64 import Codes, Float64

ELEMENTS, SCALES = 0, 1
"""Last number of a counter, by what is rounded."""


def rounded(fmt: Format, x: Float64, seed: int, what: int) -> Codes:
    """Return the codes of a matrix, each number rounded to one of its two neighbours, the nearer the more likely.

    A number beyond the largest becomes the largest.
    """
    low, high = (encode_array(fmt, x, way, "saturate") for way in (Rounding.DOWN, Rounding.UP))
    below, above = decode_array(fmt, low), decode_array(fmt, high)
    rows, columns = (np.arange(n, dtype=np.uint64) for n in x.shape)
    words: NDArray[np.uint64] = philox(seed, rows[:, None], columns[None, :], what, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        share = np.where(above > below, (x - below) / (above - below), 0.0)
    codes: Codes = np.where(words < share * 2.0**32, high, low)
    return codes


def elements_at_random(made: Elements, to: Format, quotients: NDArray[np.float32], seed: int) -> Elements:
    """Return a cast's elements with those of `quotients`, elements over their scales, rounded at random."""
    kept = quotients if to.signed else np.maximum(quotients, 0)
    codes = rounded(to, kept.astype(np.float64), seed, ELEMENTS)
    numbers = decode_array(to, codes)
    lost = ((numbers == 0) & (quotients != 0)).sum(axis=1)
    return replace(made, codes=codes, numbers=numbers, lost=lost)


def corrected_scales(
    scale: Format, group: Group, scales: Float64, quotients: NDArray[np.float32], elements: NDArray[Any], seed: int
) -> Codes:
    """Return the codes of scales times <x, x> / <x, Q(x)> of their group, rounded at random (MS-EDEN).

    x are a group's elements over its scale, Q(x) the rounded ones. The factor is 1 where every Q(x) is zero.
    """
    index = spread(np.arange(scales.size).reshape(scales.shape), group, quotients.shape).ravel()
    products = (np.multiply(quotients, y, dtype=np.float64).ravel() for y in (quotients, elements))
    own, crossed = (np.bincount(index, x, scales.size).reshape(scales.shape) for x in products)
    with np.errstate(invalid="ignore", divide="ignore"):
        factor = np.where(crossed > 0, own / crossed, 1.0)
    return rounded(scale, scales * factor, seed, SCALES)
