"""Groups of a matrix: the rows and columns that share a scale."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    T = TypeVar("T", bound=np.generic)

Group = tuple[int, int] | None
"""Rows and columns that share a scale; None: the whole matrix."""


def extent(group: Group, shape: tuple[int, ...]) -> tuple[int, int]:
    """Return the rows and columns of a group within a matrix; a group larger than the matrix is the matrix."""
    rows, columns = group or shape
    return max(min(rows, shape[0]), 1), max(min(columns, shape[1]), 1)


def count(group: Group, shape: tuple[int, ...]) -> tuple[int, int]:
    """Return how many groups a matrix has along rows and columns."""
    rows, columns = extent(group, shape)
    return (-(-shape[0] // rows), -(-shape[1] // columns)) if group else (1, 1)


def spread(scales: NDArray[Any], group: Group, shape: tuple[int, ...]) -> NDArray[Any]:
    """Return the scale of each element of a matrix, from one scale per group."""
    import numpy as np

    for axis, each in enumerate(extent(group, shape)):
        scales = np.repeat(scales, each, axis) if each > 1 else scales
    return scales[: shape[0], : shape[1]]


def largest_of_groups(x: NDArray[T], group: Group) -> NDArray[T]:
    """Return the largest of each group of numbers or codes that are not negative; NaN if a group holds a NaN."""
    import numpy as np

    (down, across), (rows, columns) = count(group, x.shape), extent(group, x.shape)
    padded = np.zeros((down * rows, across * columns), x.dtype)
    padded[: x.shape[0], : x.shape[1]] = x
    largest: NDArray[T] = padded.reshape(down, rows, across, columns).max(axis=(1, 3))
    return largest
