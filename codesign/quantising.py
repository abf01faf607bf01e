"""How the operands of an instruction are quantised from BF16."""

from __future__ import annotations

from codesign.proposal import Quantisation
from codesign.workloads.gemms import Role
from isa_model.cast import Cast
from isa_model.formats import FORMATS, Format
from isa_model.instruction import ScaleOperand


def cast_of(rule: Quantisation, fmt: Format, role: Role, side: ScaleOperand | None, k_axis: int) -> Cast:
    """How an operand is quantised: in the groups of the instruction's scales; weights in blocks where they fit."""
    group = None
    # 16-bit formats and wider ones have range enough; narrower ones need at least a scale for the tensor.
    scale = None if fmt.bits >= 16 else FORMATS["fp32"]
    if side is not None:
        along, across = side.group[k_axis], side.group[1 - k_axis]
        if role == "weight" and rule.weight_columns % across == 0:
            across = rule.weight_columns
        group = (across, along) if k_axis == 1 else (along, across)
        scale = side.format
    return Cast(
        to=fmt,
        group=group,
        scale=scale,
        scale_rounding=rule.scale_rounding,
        rounding=rule.rounding,
        floor=rule.floor,
    )
