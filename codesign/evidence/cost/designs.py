"""Designs related to Hopper's FP8 unit: the points of the cost curves, and the steps that explain the cost of scales."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from isa_model.instruction import Instruction

FRACTION_BITS = (8, 10, 12, 13, 14, 16, 18, 20, 22, 23, 25, 28, 32, 34, 38, 42)
TERMS = (4, 8, 16, 32, 64, 128)
GROUPS = (8, 16, 32)
TODAY = {"format": "e8m13", "rounding": "toward-zero", "overflow": "infinity"}
FP32 = {"format": "fp32", "rounding": "toward-zero", "overflow": "infinity"}
NEAREST = {"format": "fp32", "rounding": "nearest-even"}


@dataclass(frozen=True)
class Design:
    """A point of a curve."""

    curve: str
    label: str
    x: float
    spec: Instruction
    share: bool = True
    """True if units share the multiplier of scales; False if each forms the product at every step."""


def designs() -> Iterator[Design]:
    """Yield the points of all curves; a design may be on several."""
    for bits in FRACTION_BITS:
        yield Design("fraction-bits", f"{bits} bits", bits, unit(window(bits)))
    for terms in TERMS:
        today = window(13, terms, result=TODAY)
        yield Design("terms-13", f"{terms} terms, 13 bits", terms, unit(today))
        yield Design("terms-25", f"{terms} terms, 25 bits", terms, unit(window(25, terms)))
    for group in GROUPS:
        yield Design("scale-ue8m0", f"UE8M0 per {group}", group, unit(window(25), scales("ue8m0", group, "products")))
    for name, label in (("ue5m3", "UE5M3"), ("bf16", "BF16"), ("fp32", "FP32")):
        for group in GROUPS:
            # Products of short significands are exact; those of FP32 scales are rounded to FP32.
            factors = scales(name, group, "dot", product=NEAREST if name == "fp32" else None)
            spec = unit(joined(25, group, window(25, 32 // group)), factors)
            yield Design(f"scale-{name}", f"{label} per {group}", group, spec)
    yield from _steps()


def _steps() -> Iterator[Design]:
    """Yield the steps from today's unit to one with FP32 scales of groups of 128, and cheaper alternatives."""
    added = {"join": {"terms": 1, "accumulator": True, "result": NEAREST, "zero": "ieee"}}
    both, single = scales("fp32", 128, "dot", product=NEAREST), scales("fp32", 128, "dot", sides="a")
    rounded = {**both, "result": NEAREST}
    steps: list[tuple[str, Any, Any, bool]] = [
        ("today: 13 fraction bits, C in the window", window(13, result=TODAY), None, True),
        ("25 fraction bits, FP32 register", window(25), None, True),
        ("C joined by a correctly rounded FP32 addition", joined(25, 32, added), None, True),
        ("one FP32 scale multiplied onto the sum", joined(25, 32, added), single, True),
        ("sA * sB formed once per 128 of K for 4 steps (the proposal)", joined(25, 32, added), both, True),
        ("sA * sB formed in the unit at every step", joined(25, 32, added), both, False),
        ("the proposal, C joined in a window of 25 bits instead", joined(25, 32, window(25, 1)), both, True),
        (
            "the proposal, sum and scaled sum rounded to FP32 first",
            joined(25, 32, added, result=NEAREST),
            rounded,
            True,
        ),
        ("the same with 13 fraction bits", joined(13, 32, added, result=TODAY), rounded, True),
        ("today's window of 13 bits twice, one FP32 scale between", joined(13, 32, window(13, 1, TODAY)), single, True),
    ]
    for i, (label, stages, scale, share) in enumerate(steps):
        yield Design("steps", label, i, unit(stages, scale), share)


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
