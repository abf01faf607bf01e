"""Software promotion: what today's kernels do on CUDA cores around an instruction, in the same spec language."""

from __future__ import annotations

from isa_model.arguments import require, whole_number
from isa_model.diagnostics import InputError
from isa_model.formats import FORMATS
from isa_model.instruction import Instruction, Shape
from isa_model.operand_fields import Scaling
from isa_model.rounding import Rounding
from isa_model.stage import Register, Stage

MOST_PRODUCTS = 1 << 16
"""Products of K in one promotion, as many as a shape can have."""


def promoted(instruction: Instruction, every: int, scale: Scaling | None = None) -> Instruction:
    """Return the instruction together with its promotion to FP32 on CUDA cores, as one Instruction.

    The instruction starts from zero and runs over `every` products of K. Its result, times the group scales of `scale` if
    given, is added to an FP32 accumulator by one fused multiply-add, rounded to nearest even. An integer result is first
    converted to FP32, to nearest even.
    If the instruction reads subnormals as zero, so does the promotion with those of C.
    Source: DeepSeek-V3 3.3.2 and 3.5.2; DeepGEMM's FP8 kernels do the same.
    Raises InputError if `every` is not a multiple of the instruction's span or over MOST_PRODUCTS, if the instruction scales
    its terms itself, or if FP32 cannot hold its result (FP64); ValueError for arguments of another type.
    """
    require("instruction", instruction, Instruction, "isa_model.load gives an Instruction")
    every = whole_number("every", every)
    sparsity = instruction.sparsity
    if every > MOST_PRODUCTS:
        raise InputError.of(f"promotion every {every} products is too rare", f"at most {MOST_PRODUCTS}")
    stored = sparsity.stored(every) if sparsity and every % sparsity.group == 0 else every
    if stored % instruction.span or stored < instruction.span:
        raise InputError.of(
            f"promotion every {every} products does not fit {instruction.name}", f"a multiple of {instruction.span}"
        )
    if instruction.scale is not None:
        raise InputError.of(f"{instruction.name} scales its terms itself; promotion would scale them twice")
    fp32 = Register(format=FORMATS["fp32"], rounding=Rounding.NEAREST_EVEN)
    *_, last = instruction.stages
    kept = instruction.stages[last].result[-1].format
    whole = kept.kind == "integer"
    if not (whole or fp32.format.holds(kept)):
        raise InputError.of(f"promotion to FP32 would lose bits of {kept.name}, the result of {instruction.name}")
    chained = instruction.stages[last].model_copy(update={"chain": stored // instruction.span})
    below = {**instruction.stages, last: chained}
    if whole:
        last = next(name for name in ("convert", "to-fp32") if name not in below)
        below[last] = Stage(terms=1, result=(fp32,))
    if scale is not None:
        scale = scale.model_copy(update={"onto": last, "product": fp32 if scale.a and scale.b else None})
    return Instruction(
        name=f"{instruction.name} promoted every {every}",
        description=f"{instruction.name}, promoted to FP32 on CUDA cores every {every} of K",
        shape=Shape(m=instruction.shape.m, n=instruction.shape.n, k=max(every, instruction.shape.k)),
        a=instruction.a,
        b=instruction.b,
        accumulator=FORMATS["fp32"],
        sparsity=sparsity,
        scale=scale,
        stages={
            **below,
            "promote": Stage(terms=1, accumulator=True, result=(fp32,), zero="ieee"),
        },
        infinite_from=instruction.infinite_from,
        flush_inputs=instruction.flush_inputs,
        widen=instruction.widen,
        source="DeepSeek-V3 technical report 3.3.2; instruction: " + instruction.source,
    )
