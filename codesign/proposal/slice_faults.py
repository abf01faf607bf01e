"""Contradictions between slices of operands and the instruction that multiplies them."""

from __future__ import annotations

from collections.abc import Iterator

from codesign.proposal.quantisation import Quantisation, cast_of
from codesign.workloads.gemms import Inputs
from isa_model.codec import largest_finite
from isa_model.diagnostics import InputError
from isa_model.formats import FORMATS
from isa_model.instruction import Instruction
from isa_model.promotion import promoted

Fault = tuple[tuple[str, ...], str, str]
"""Place below `quantisation`, message and remedy."""


def slice_faults(rule: Quantisation, spec: Instruction, inputs: Inputs, has_path: bool) -> Iterator[Fault]:
    """Yield a fault for each reason why an instruction cannot multiply slices of tensors; none without slices."""
    slices, here = rule.slices, ("slices",)
    if slices is None:
        return
    for name in ("random", "headroom", "tensor_scale"):
        if getattr(rule, name):
            yield (name,), f"operands in slices have no `{name}`", f"drop `{name}`, or `slices`"
    if has_path:
        yield here, "tensors on a `path` arrive in one slice", "no `path`, or no `slices`"
    if spec.scale or spec.sparsity:
        what = "scales its operands itself" if spec.scale else "has a sparse operand"
        yield here, f"the instruction {what}, and slices are whole operands", "an instruction without, or no `slices`"
    for fmt in dict.fromkeys((spec.a, spec.b)):
        if fmt.kind == "table" or not fmt.signed:
            yield (
                here,
                f"what a slice leaves may be negative, and {fmt.name} is no signed number",
                "float or integer operands",
            )
        elif slices.count > 1 and fmt.holds(FORMATS[inputs]):
            message = f"{fmt.name} holds every {inputs} number: slices after the first are zero"
            yield here, message, "`inputs: fp32`, or no `slices`" if inputs == "bf16" else "no `slices`"
    every = slices.promote_every
    operands = (spec.a, spec.b)
    scaled = spec.is_integer or any(cast_of(rule, fmt, "activation", None, 1).scale for fmt in operands)
    if scaled and not (rule.scales == "row" and rule.powers_of_two):
        message = (
            f"slices of {spec.a.name} need a power of two for each row of A and column of B, to leave exact differences"
        )
        yield here, message, "`quantisation: {scales: row, powers_of_two: true, slices: ...}`"
    if scaled and every is None:
        message = f"slices of {spec.a.name} have scales, under which their sums must be added in FP32"
        yield here, message, f"`promote_every: {16 * spec.shape.k}`, for instance"
    if every is None:
        return
    place = (*here, "promote_every")
    if every % spec.shape.k:
        message = f"an instruction takes {spec.shape.k} of K at a time; {every} is not a multiple of that"
        yield place, message, f"`promote_every: {-(-every // spec.shape.k) * spec.shape.k}`"
        return
    if spec.accumulator.kind == "integer":
        product = int(largest_finite(spec.a) * largest_finite(spec.b))
        most = int(largest_finite(spec.accumulator)) // product // spec.shape.k * spec.shape.k
        if every > most:
            message = f"{every} products of up to {product} can overflow {spec.accumulator.name}"
            yield place, message, f"at most {most}" if most else "narrower operands"
    try:
        promoted(spec, every if scaled else every * len(slices.products))
    except InputError as error:
        if not spec.scale and not spec.sparsity:
            yield place, error.problems[0].message, error.problems[0].hint
