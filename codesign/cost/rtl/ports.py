"""Inputs of a unit, and what has no unit: read from the spec alone, without Amaranth."""

from __future__ import annotations

from isa_model.diagnostics import InputError
from isa_model.instruction import Instruction


def scale_counts(spec: Instruction) -> tuple[int, int]:
    """Scales of A and of B that one step takes."""
    if spec.scale is None:
        return 0, 0
    a, b = spec.scale.a, spec.scale.b
    return -(-spec.span // a.group[1]) if a else 0, -(-spec.span // b.group[0]) if b else 0


def ports(spec: Instruction) -> dict[str, int]:
    """Inputs of the unit and their bits; element i of a vector starts at bit i times the element's bits."""
    a_scales, b_scales = scale_counts(spec)
    widths = {"a": spec.span * spec.a.bits, "b": spec.span * spec.b.bits, "c": spec.accumulator.bits}
    if spec.scale and spec.scale.a:
        widths["scale_a"] = a_scales * spec.scale.a.format.bits
    if spec.scale and spec.scale.b:
        widths["scale_b"] = b_scales * spec.scale.b.format.bits
    return widths


def check(spec: Instruction) -> None:
    """Raises InputError for what the generator does not say."""
    if spec.a.kind == "integer":
        raise InputError.of(f"{spec.name}: only floating-point instructions have RTL here, not integer ones")
    if spec.c is not None and spec.c != spec.accumulator:
        raise InputError.of(f"{spec.name}: C in a format of its own has no hardware here")
    if spec.widen is not None and any(spec.widen.min_exponent < x.min_exponent for x in (spec.a, spec.b)):
        raise InputError.of(f"{spec.name}: widening the operands first has no hardware here")
    if spec.infinite_from is not None:
        raise InputError.of(f"{spec.name}: `infinite_from` has no hardware here")
    for name, stage in spec.stages.items():
        if stage.interleave and spec.span % (stage.terms * stage.interleave.parts):
            raise InputError.of(
                f"{spec.name}: stage `{name}` deals out more terms than the {spec.span} products of one step",
                "interleave within one step, or leave the order to the wiring outside the unit",
            )
