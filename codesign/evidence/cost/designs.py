"""Stages and scales of designs related to Hopper's FP8 unit, of which cost curves and comparisons are made."""

from __future__ import annotations

from typing import Any

from isa_model.instruction import Instruction

TODAY = {"format": "e8m13", "rounding": "toward-zero", "overflow": "infinity"}
FP32 = {"format": "fp32", "rounding": "toward-zero", "overflow": "infinity"}
NEAREST = {"format": "fp32", "rounding": "nearest-even"}


def window(bits: int, terms: int = 32, result: Any = FP32) -> dict[str, Any]:
    """Return a last stage that aligns terms and C in one window, as Hopper does."""
    return {"fuse": {**_aligned(bits, terms), "zero_exponent": -133, "accumulator": True, "result": result}}


def joined(bits: int, terms: int, last: dict[str, Any], result: Any = None) -> dict[str, Any]:
    """Return a stage `dot` that sums the products, followed by `last`, which adds C."""
    return {"dot": {**_aligned(bits, terms), **({"result": result} if result else {})}, **last}


def _aligned(bits: int, terms: int) -> dict[str, Any]:
    return {"terms": terms, "fraction_bits": bits, "rounding": "toward-zero"}


def scales(fmt: str, group: int, onto: str, sides: str = "ab", product: Any = None) -> dict[str, Any]:
    """Return scales per row of A, column of B and group of K."""
    operands = {"a": {"group": [1, group], "format": fmt}, "b": {"group": [group, 1], "format": fmt}}
    rule = {"product": product} if product else {}
    return {**{side: operands[side] for side in sides}, "onto": onto, **rule}


def unit(
    stages: dict[str, Any], scale: dict[str, Any] | None = None, operand: str = "e4m3", to: str = "fp32"
) -> Instruction:
    """Return the instruction of one step with these stages."""
    span = 1
    for stage in stages.values():
        span *= stage["terms"]
    k = max(span, *(scale[side]["group"][side == "a"] for side in "ab" if side in scale)) if scale else span
    body = {"name": "", "a": operand, "b": operand, "accumulator": to, "shape": {"m": 64, "n": 256, "k": k}}
    return Instruction.model_validate({**body, "stages": stages, **({"scale": scale} if scale else {})})
