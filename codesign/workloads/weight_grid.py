"""Detection of weights on a 4-bit grid, which cannot judge a 4-bit format."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from codesign.workloads.gemms import Gemm

GRID_BLOCK = 32
"""Inputs of a weight that share a grid, as in GGUF's Q4 types and in MX."""
FOUR_BITS = 16
"""Number of values of a 4-bit grid."""


def grid_values(weight: NDArray[np.floating]) -> int:
    """Return the largest number of distinct values in any whole aligned block of 32 inputs of a weight (outputs, inputs).

    Raises ValueError if a row is shorter than a block.
    """
    import numpy as np

    whole = weight.shape[1] // GRID_BLOCK * GRID_BLOCK
    if not whole:
        raise ValueError(f"rows of {weight.shape[1]} hold no whole block of {GRID_BLOCK}")
    blocks = np.sort(np.asarray(weight[:, :whole]).reshape(-1, GRID_BLOCK), axis=1)
    return int((np.diff(blocks, axis=1) != 0).sum(axis=1).max()) + 1


def on_four_bit_grid(weight: NDArray[np.floating]) -> bool:
    """Return whether every whole block of 32 inputs has at most 16 values, as weights stored in 4 bits have.

    Such weights cannot judge a 4-bit format, since they were rounded before. False also if there are fewer than 128 blocks,
    if rows are shorter than a block, or if all weights are zero.
    """
    rows, inputs = weight.shape
    if rows * (inputs // GRID_BLOCK) < 128 or not weight.any() or grid_values(weight[:128]) > FOUR_BITS:
        return False
    return grid_values(weight) <= FOUR_BITS


def grid_warnings(found: Iterable[Gemm]) -> list[str]:
    """Return a warning if captured weights of these GEMMs lie on a 4-bit grid.

    Raises InputError as `tensor_file.read`.
    """
    from codesign.workloads.tensor_file import read

    on_grid: dict[str, None] = {}
    for gemm in found:
        # A tile of dgrad has one block of inputs, which is enough to detect a grid.
        if (
            gemm.recorded is not None
            and gemm.b == "weight"
            and on_four_bit_grid(read(gemm.recorded.file, gemm.recorded.b))
        ):
            on_grid[gemm.name.split(".")[0]] = None
    if not on_grid:
        return []
    return [
        f"Weights of {', '.join(on_grid)} lie on a 4-bit grid: at most {FOUR_BITS} values in any {GRID_BLOCK} inputs. They "
        "were stored in 4 bits; a 4-bit format's error on them is a second rounding's, not that of the trained weights."
    ]
