"""Questions that a record of a language model answers, and the numerics that answer them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from codesign.evidence.model.records import LEFT_OUT, without
from codesign.proposal.load import load_proposal
from codesign.proposal.proposal import Proposal, Value, Variant
from codesign.proposal.recipe import Fprop, Recipe, load_recipe
from codesign.proposal.shipped import names
from codesign.torch.rules import recipe_on
from isa_model.diagnostics import InputError
from isa_model.instruction import Instruction
from isa_model.library import changed, load, raw

HOPPER = "hopper.wgmma.m64n256k32.f32.e4m3.e4m3"
BITS = (8, 9, 10, 11, 12, 13, 14, 15, 17, 19, 21, 23, 25)
"""Fraction bits of the accumulator."""
SCALES = ("fp32", "ue8m0", "ue4m3", "ue5m3")
GROUPS = (16, 32, 128)
BLOCKS = 30
"""Decoder layers of SmolLM2-135M."""


@dataclass(frozen=True)
class Row:
    """Numerics of a question."""

    question: str
    name: str
    recipe: Recipe
    attention: bool = False
    only: str = "*"
    layers: bool = False


Numerics = dict[tuple[Variant, Value | None], Recipe]
"""Recipe of each variant and swept value of a proposal."""


def numerics(proposal: Proposal) -> Numerics:
    """Return the recipe of each variant, and of each swept value, for which the proposal's instruction allows one."""
    keys: list[tuple[Variant, Value | None]] = [(v, None) for v in ("today", "software", "proposal", "exact")]
    keys += [("proposal", value) for value in proposal.swept]
    found: Numerics = {}
    for variant, at in keys:
        try:
            found[variant, at] = recipe_on(proposal, variant, at)
        except InputError:
            continue  # an instruction to whose operands a model's tensors cannot be cast
    return found


def questions() -> tuple[Row, ...]:
    """Return all rows of all questions, the cheapest to leave out last."""
    return (*_accumulators(), *_shipped(), *_scales(), *_narrow(), *_attention(), *_left_out(), *_blocks())


@cache
def _framework() -> Recipe:
    return load_recipe("deepseek-v3")


def _fraction_bits(bits: int) -> dict[str, Any]:
    """Return the change of Hopper's FP8 instruction to other fraction bits and a full FP32 register."""
    register = {"format": "fp32", "rounding": "toward-zero", "overflow": "infinity"}
    return {"stages": {"fuse": {"fraction_bits": bits, "result": register}}}


def _promoted(instruction: Instruction) -> Recipe:
    """Return the framework with Fprop on another instruction, promoted every 128."""
    own = _framework().fprop
    fprop = Fprop(instruction=instruction, promote_every=128, activation=own.activation, weight=own.weight)
    return _framework().model_copy(update={"fprop": fprop})


def _cast(to: str, group: int, scale: str) -> Fprop:
    """Return Fprop with FP32 sums, and both operands in groups along K."""
    cast = {"to": to, "group": [1, group], "scale": scale}
    return Fprop.model_validate({"activation": cast, "weight": cast, "tensor_scale": True})


def _accumulators() -> Iterator[Row]:
    """Yield sums of each width, alone under one scale per tensor, and promoted every 128 under group scales."""
    question = "accumulator"
    yield Row(question, "Hopper", _framework().on(load(HOPPER)), layers=True)
    yield Row(question, "Hopper, promoted every 128", _framework(), layers=True)
    for bits in BITS:
        instruction = Instruction.model_validate(changed(raw(HOPPER), _fraction_bits(bits)))
        yield Row(question, f"{bits} bits", _framework().on(instruction), layers=bits in (8, 10))
        yield Row(question, f"{bits} bits, promoted every 128", _promoted(instruction))
    yield Row(question, "FP32 sums", _framework().on(load(HOPPER)).summed_exactly(), layers=True)
    yield Row(question, "FP32 sums, group scales", _framework().summed_exactly())


def _shipped() -> Iterator[Row]:
    """Yield every variant of the shipped proposals that change an instruction."""
    for name, path in names().items():
        proposal = load_proposal(path)
        if proposal.is_trained:
            for (variant, at), recipe in numerics(proposal).items():
                of = "" if variant == "proposal" else f", {variant}"
                yield Row("proposals", f"{name}{of}{'' if at is None else f' at {at}'}", recipe, layers=at is None)


def _scales() -> Iterator[Row]:
    """Yield E4M3 operands under scales of each format and group, with FP32 sums."""
    for scale in SCALES:
        for group in GROUPS:
            recipe = _framework().model_copy(update={"fprop": _cast("e4m3", group, scale)})
            yield Row("scales", f"E4M3, {scale.upper()} per {group}", recipe)


def _narrow() -> Iterator[Row]:
    """Yield operands of four to eight bits under group scales, with FP32 sums."""
    for to, group, scale, name in (
        ("e2m1", 16, "ue4m3", "NVFP4: E2M1, UE4M3 per 16"),
        ("e2m1", 32, "ue8m0", "MXFP4: E2M1, UE8M0 per 32"),
        ("e2m3", 32, "ue8m0", "MXFP6: E2M3, UE8M0 per 32"),
        ("e4m3", 32, "ue8m0", "MXFP8: E4M3, UE8M0 per 32"),
        ("int8", 32, "fp32", "INT8, FP32 per 32"),
        ("int8", 128, "fp32", "INT8, FP32 per 128"),
        ("int4", 32, "fp32", "INT4, FP32 per 32"),
    ):
        recipe = _framework().model_copy(update={"fprop": _cast(to, group, scale)})
        yield Row("narrow operands", name, recipe, layers=True)


def _attention() -> Iterator[Row]:
    """Yield attention's products on instructions, besides the Linears."""
    for row in _accumulators():
        if row.name in ("Hopper", "Hopper, promoted every 128", "10 bits", "25 bits", "FP32 sums"):
            yield Row("attention", f"{row.name}, attention too", row.recipe, attention=True)


def _left_out() -> Iterator[Row]:
    """Yield numerics with a part left out: exact sums, and with them an operand in BF16."""
    for row in (*_accumulators(), *_shipped()):
        if row.name in ("Hopper", "Hopper, promoted every 128", "blackwell-nvf4", "group-scaled-mma"):
            for part in LEFT_OUT:
                yield Row("left out", f"{row.name}, without {part}", without(row.recipe, part))


def _blocks() -> Iterator[Row]:
    """Yield numerics in one decoder layer at a time, and in one kind of Linear."""
    kinds = [f"*.{kind}_proj" for kind in ("q", "k", "v", "o", "gate", "up", "down")]
    blocks = [f"*.layers.{i}.*" for i in range(BLOCKS)]
    for row in (*_accumulators(), *_shipped()):
        if row.name in ("Hopper", "Hopper, promoted every 128", "8 bits", "blackwell-nvf4"):
            for only in (*kinds, *blocks):
                yield Row("layers", row.name, row.recipe, only=only)
