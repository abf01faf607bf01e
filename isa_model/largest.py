"""Largest magnitudes of the groups of a matrix."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

import numpy as np

from isa_model.engines.c_library import shipped
from isa_model.groups import Group, count, extent, largest_of_groups

if TYPE_CHECKING:
    from numpy.typing import NDArray


def largest_magnitudes(x: NDArray[np.float32], group: Group) -> NDArray[np.float32]:
    """Return the largest magnitude of each group of a float32 matrix; NaN if a group holds a NaN.

    Compiled C reads the matrix once; without a C compiler numpy does.
    """
    function = shipped("largest.c")
    if function is None:
        return largest_of_groups(np.abs(x), group)
    x, largest = np.ascontiguousarray(x), np.zeros(count(group, x.shape), np.float32)
    function(
        ctypes.c_void_p(x.ctypes.data),
        *map(ctypes.c_long, x.shape),
        (ctypes.c_long * 2)(*extent(group, x.shape)),
        ctypes.c_long(largest.shape[1]),
        ctypes.c_void_p(largest.ctypes.data),
    )
    return largest
