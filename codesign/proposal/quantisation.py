"""How the operands of an instruction are quantised from BF16."""

from __future__ import annotations

from math import floor, log2, sqrt
from typing import Literal

from pydantic import Field

from codesign.workloads.gemms import Gemm, Role
from isa_model.cast import FLOORS, Cast
from isa_model.formats import FORMATS, Format
from isa_model.instruction import Instruction, ScaleOperand
from isa_model.rounding import Rounding
from isa_model.stage import Deterministic, Spec

WHOLE = 1 << 30
"""Length of a group that reaches over all of K."""


class Quantisation(Spec):
    """How operands are quantised: groups along K follow the scales of each instruction, the rest stands here.

    What is left out is as in the baseline of the base (`codesign/proposal/baselines.yaml`).
    """

    weight_columns: int | None = Field(default=None, ge=1, le=65536)
    """Output features of a weight that share a scale, beside the group of K (DeepSeek-V3: 128x128 blocks); default: as in
    the baseline, which for a base with scales of its own follows the groups of the instruction."""
    rounding: Deterministic = Rounding.NEAREST_EVEN
    """How elements are rounded (DeepSeek-V3 leaves it open; its public code rounds to nearest even)."""
    scale_rounding: Deterministic | None = None
    """How scales are rounded to a format narrower than FP32; without a baseline's rule: up."""
    range: Literal["largest", "binade"] | None = None
    """What a group's largest magnitude is mapped to: the format's largest number, or the power of two below it (OCP MX)."""
    powers_of_two: bool | None = None
    """Whether FP32 scales are rounded to powers of two, by `scale_rounding`."""
    scales: Literal["tensor", "row", "none"] | None = None
    """What shares a scale where the instruction takes none, outside the sum: the whole tensor (default); a row of A or a
    column of B, so a token or an output feature; or nothing: operands are rounded as they are. Formats of 16 bits and
    more are scaled for `headroom` alone."""
    headroom: bool | None = None
    """Whether such scales leave room for the sums: the largest element is mapped to a power of two so small that as many
    products as the accumulator sums cannot exceed it."""
    tensor_scale: bool | None = None
    """Whether a whole operand is first scaled in FP32 so that its largest group takes the largest scale (as for NVFP4: a
    narrow scale format has no range for tensors of any size). Only of operands with group scales."""
    floor: float = Field(default=1e-30, ge=FLOORS[0], le=FLOORS[1])
    """Least magnitude that a group's largest is taken for (1e-4 in DeepSeek-V3's public inference code, which would wipe
    out small gradients)."""

    def over(self, other: Quantisation) -> Quantisation:
        """This rule, with `other`'s fields where this one leaves them out."""
        own = {name: value for name in type(self).model_fields if (value := getattr(self, name)) is not None}
        return other.model_copy(update=own)


def cast_of(
    rule: Quantisation,
    fmt: Format,
    role: Role,
    side: ScaleOperand | None,
    k_axis: int,
    limit: float | None = None,
) -> Cast:
    """Return the cast of an operand whose sums run along `k_axis`.

    With scales of the instruction (`side`) it has their groups, and weights are in blocks where they fit; else one scale
    outside the sum by `rule.scales`. `limit` is the largest element that leaves room for the sums (`room`).
    """
    group, scale, span = None, None, rule.range or "largest"
    rounding = rule.scale_rounding or Rounding.UP
    if side is not None:
        along, across = side.group[k_axis], side.group[1 - k_axis]
        if role == "weight" and rule.weight_columns and rule.weight_columns % across == 0:
            across = rule.weight_columns
        group = (across, along) if k_axis == 1 else (along, across)
        scale = side.format
    elif rule.scales != "none" and (fmt.bits < 16 or limit is not None):
        scale = FORMATS["fp32"]
        if rule.scales == "row":
            group = (1, WHOLE) if k_axis == 1 else (WHOLE, 1)
    if scale == FORMATS["fp32"] and rule.powers_of_two:
        scale = FORMATS["ue8m0"]
    return Cast(
        to=fmt,
        group=group,
        scale=scale,
        scale_rounding=rounding,
        range=limit if limit is not None and scale and side is None else span,
        rounding=rule.rounding,
        floor=rule.floor,
    )


def operand_cast(
    rule: Quantisation, instruction: Instruction, gemm: Gemm, which: Literal["a", "b"]
) -> tuple[Cast, ScaleOperand | None]:
    """Return the cast of an operand of a GEMM, and the scales of it that the instruction takes."""
    role, fmt, k_axis = (gemm.a, instruction.a, 1) if which == "a" else (gemm.b, instruction.b, 0)
    side = getattr(instruction.scale, which) if instruction.scale else None
    limit = room(instruction, gemm.k) if rule.headroom else None
    return cast_of(rule, fmt, role, side, k_axis, limit), side


def room(instruction: Instruction, k: int) -> float | None:
    """Return the largest element, a power of two, with which sums over `k` cannot exceed any register.

    None where elements of the operands' whole range cannot. A sum of n products of elements up to r is at most n r^2
    (SageAttention2++, arXiv 2505.21136, bounds FP16 accumulators of FP8 products so).
    """
    from isa_model.codec import largest_finite

    least = None
    product = largest_finite(instruction.a) * largest_finite(instruction.b)
    last = len(instruction.stages) - 1
    for index, stage in enumerate(instruction.stages.values()):
        products = k if index == last else min(k, instruction.products_per_result(index))
        for register in stage.result:
            if register.format.kind == "integer":
                continue
            most = largest_finite(register.format) / products
            if product > most:
                limit = 2.0 ** floor(log2(sqrt(most)))
                least = limit if least is None else min(least, limit)
    return least
