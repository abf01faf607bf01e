"""Structured sparsity over whole matrices: positions checked, products reduced to dense ones, matrices pruned.

A sparse instruction computes what a dense one does (`Instruction.dense`) on the stored elements of one operand and on the
elements of the other that they are multiplied by. These differ from line to line of the sparse operand. The portable and the
cpu engine gather them as they go; for others, `matmul` multiplies one line at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from isa_model.arguments import array_of
from isa_model.instruction import Instruction
from isa_model.operand_fields import ScaleOperand, Sparsity

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from isa_model.float64 import Codes

Multiply = Callable[..., Any]
"""Function of codes of A, B, C and of scales to codes of D."""


def elements(sparsity: Sparsity, positions: NDArray[Any]) -> NDArray[np.intp]:
    """Return the indices along K (lines, stored) of the elements that lines of the sparse operand store."""
    first = np.arange(positions.shape[1]) // sparsity.kept * sparsity.of
    runs = (first + positions) * sparsity.run
    indices: NDArray[np.intp] = (runs[:, :, None] + np.arange(sparsity.run)).reshape(len(positions), -1)
    return indices


def checked(sparsity: Sparsity, positions: ArrayLike | None, stored: Codes) -> NDArray[np.uint8]:
    """Return the positions (lines, runs) of a sparse operand, whose stored elements are `stored`, (M, K) for A or (K, N) for B.

    Raises ValueError for positions that are missing, of another shape or type, outside of their group or not ascending.
    """
    k_axis = 1 if sparsity.operand == "a" else 0
    expected = list(stored.shape)
    expected[k_axis] //= sparsity.run
    if positions is None:
        raise ValueError(f"the instruction needs `positions`, {tuple(expected)}: {sparsity.operand} is sparse")
    given = array_of("positions", positions)
    if given.dtype.kind != "u" or given.shape != tuple(expected):
        raise ValueError(
            f"positions is {given.dtype} {given.shape}; expected unsigned integers of shape {tuple(expected)}"
        )
    lines = given if k_axis else given.T
    if lines.size and (most := int(lines.max())) >= sparsity.of:
        raise ValueError(f"positions has {most}; a group has {sparsity.of} places, from 0")
    groups = lines.reshape(len(lines), -1, sparsity.kept).astype(np.int64)
    if (np.diff(groups, axis=2) <= 0).any():
        raise ValueError("positions must ascend within each group")
    return np.ascontiguousarray(lines, np.uint8)


def matmul(
    multiply: Multiply,
    spec: Instruction,
    a: Codes,
    b: Codes,
    c: Codes,
    scale_a: Any,
    scale_b: Any,
    positions: Codes,
) -> Codes:
    """Return the codes of D, line by line of the sparse operand; `multiply` computes one line with the dense instruction.

    `positions` is (lines, runs), as `checked` returns it.
    """
    assert spec.sparsity is not None
    ks, is_a = elements(spec.sparsity, positions), spec.sparsity.operand == "a"
    side = spec.scale and (spec.scale.a if is_a else spec.scale.b)
    d: list[Codes] = []
    for i in range(len(ks)):
        line = slice(i, i + 1)
        if is_a:
            own = side and scales_of_line(side, scale_a, 0, i)
            d.append(multiply(a[line], np.ascontiguousarray(b[ks[i]]), c[line], own, scale_b))
        else:
            own = side and scales_of_line(side, scale_b, 1, i)
            column, start = (np.ascontiguousarray(x[:, line]) for x in (b, c))
            d.append(multiply(np.ascontiguousarray(a[:, ks[i]]), column, start, scale_a, own))
    return np.concatenate(d, axis=0 if is_a else 1)


def scales_of_line(side: ScaleOperand, scales: Any, axis: int, i: int) -> Any:
    """Return the codes of the scales of row (axis 0) or column `i`, one line; a list of them if there are several levels."""
    lines = [
        np.take(own, [i // level.along(axis)], axis)
        for level, own in zip(side.levels, scales if side.coarser else [scales], strict=True)
    ]
    return lines if side.coarser else lines[0]


def pruned(sparsity: Sparsity, lines: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.uint8]]:
    """Return the stored elements of each line (lines, stored) and their positions: the largest of each group along K.

    `lines` is (lines, K), B transposed, and K whole groups. Of runs, those with the largest sum of magnitudes are kept; of
    equal ones, the first.
    """
    runs = np.abs(lines.astype(np.float64)).reshape(len(lines), -1, sparsity.of, sparsity.run).sum(axis=3)
    order = np.argsort(-runs, axis=2, kind="stable")[..., : sparsity.kept]
    positions = np.sort(order, axis=2).reshape(len(lines), -1).astype(np.uint8)
    return np.take_along_axis(lines, elements(sparsity, positions), 1), positions
