"""A GEMM whose operands are sums of slices, as one GEMM with a longer K: products of slices follow each other along K."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from codesign.evidence.numerics.lines import Lines, filled
from codesign.evidence.numerics.operands import Operand, quantised
from codesign.proposal.quantisation import Slices
from isa_model.array_codec import encode_array
from isa_model.cast import FP32, Cast
from isa_model.instruction import Instruction
from isa_model.operand_fields import ScaleOperand, Scaling
from isa_model.promotion import promoted

if TYPE_CHECKING:
    from collections.abc import Sequence


Sliced = tuple[Slices, bool]
"""Slices of a GEMM's operands, and whether those of either operand have scales."""


def issued(instruction: Instruction, slices: Slices, scaled: bool) -> Instruction:
    """Return an instruction with its promotion around it, for operands that `in_slices` made.

    Without scales all products share an accumulator; with scales each has its own, so that each is promoted.
    """
    every = slices.promote_every
    if every is None:
        return instruction
    if not scaled:
        return promoted(instruction, every * len(slices.products))
    a, b = (ScaleOperand(group=group, format=FP32) for group in ((1, every), (every, 1)))
    return promoted(instruction, every, Scaling(a=a, b=b))


def run_length(instruction: Instruction, slices: Slices, scaled: bool) -> int:
    """Return the elements of K after which the next product of slices follows: a step, or a whole promoted stretch."""
    return slices.promote_every if scaled and slices.promote_every else instruction.shape.k


def in_slices(cast: Cast, slices: Slices, scaled: bool, lines: Lines, width: int, run: int, side: int) -> Operand:
    """Return lines as operand `side` (0: A, 1: B) of the products of slices, which alternate every `run` elements of K.

    `scaled` is true if slices of either operand have scales; `width` is K filled up to whole stretches. Counts of elements are
    those of whole elements, not of slices.
    """
    import numpy as np

    x = rest = filled(lines.x, width)
    made: list[Operand] = []
    for i in range(slices.count):
        own = cast if i == slices.count - 1 else cast.model_copy(update={"rounding": slices.rounding})
        made.append(quantised(own, None, replace(lines, x=rest), width, None))
        rest = rest - (made[-1].values * made[-1].factor[..., None]).astype(np.float32)
    order = [pair[side] for pair in slices.products]

    def along_k(of_slices: Sequence[Any], length: int) -> Any:
        runs = [of_slices[i].reshape(*x.shape[:2], -1, length) for i in order]
        return np.stack(runs, axis=3).reshape(*x.shape[:2], -1)

    scales = multipliers = None
    if scaled:
        multipliers = along_k([np.repeat(part.factor[..., None], width // run, axis=2) for part in made], 1)
        scales = encode_array(FP32, multipliers)
    return Operand(
        codes=along_k([part.codes for part in made], run),
        scales=scales,
        elements=along_k([part.elements for part in made], run),
        multipliers=multipliers,
        factor=np.ones(x.shape[:2]),
        nonzero=made[0].nonzero,
        lost=((rest == x) & (x != 0)).sum(axis=2).astype(np.float64),
        cut=np.sum([part.cut for part in made], axis=0),
        products=len(order),
    )
