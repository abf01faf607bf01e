"""What a model can be emulated on: a proposal, an instruction, a recipe, or the name or file of one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from codesign.proposal.load import load_proposal
from codesign.proposal.proposal import Proposal, Value, Variant
from codesign.proposal.recipe import InstructionRef, Recipe, load_recipe, parse_recipe, recipes
from codesign.proposal.shipped import names
from isa_model.cast import Cast
from isa_model.diagnostics import InputError, read_yaml, suggest
from isa_model.instruction import Instruction
from isa_model.library import is_path, load, validated
from isa_model.rounding import Rounding

On = str | Path | Proposal | Instruction | Recipe | Mapping[str, Any]
"""A proposal, an instruction, a recipe, the name or file of one, or an instruction as `base` and `change`."""
RECIPE = "deepseek-v3"
"""Recipe whose rules hold where `on` gives none."""
LEAST_FLOOR = 1e-30
"""Smallest floor of a cast; below it, scales may be FP32 subnormals, on which GPUs and libraries differ."""


def recipe_on(on: On, variant: Variant = "proposal", at: Value | None = None) -> Recipe:
    """Return the recipe with which a model is emulated on something.

    `variant` and `at` choose a variant of a proposal, and the value of its swept field. An instruction takes the rules of
    DeepSeek-V3's recipe, with the groups of its own scales, or one scale per tensor.
    Raises InputError for an unknown name, variant or value, a faulty file, or an instruction on which the recipe's tensors
    cannot be cast.
    """
    found = meant(on)
    if not isinstance(found, Proposal) and (variant != "proposal" or at is not None):
        raise InputError.of("`variant` and `at` are of a proposal", "leave them out, or give a proposal")
    if isinstance(found, Recipe):
        return found
    name = found.name if isinstance(found, Instruction) else found.proposal
    try:
        recipe = found.training_recipe(variant, at) if isinstance(found, Proposal) else load_recipe(RECIPE).on(found)
    except ValidationError as error:
        fault = error.errors()[0]
        hint = fault.get("ctx", {}).get("hint", "")
        raise InputError.of(f"models cannot run on {name}: {fault['msg']}", hint) from None
    for gemm in recipe.gemms:
        for cast in (getattr(gemm, field) for field, _ in gemm.OPERANDS):
            if cast and (why := uncast(cast, gemm.tensor_scale)):
                hint = "`numerics` of `codesign evaluate` casts the tensors of GEMMs in any way"
                raise InputError.of(f"models cannot run on {name}: {why}", hint)
    return recipe


def uncast(cast: Cast, tensor_scale: bool) -> str:
    """Return why tensors of a model are not cast in a way; empty if they are. `tensor_scale` is that of `quantise`."""
    fmt, scale = cast.to, cast.scale
    if (fmt.kind == "integer" and not fmt.signed) or fmt.kind == "table":
        return f"tensors are cast to signed formats without tables, and {fmt.name} is none"
    if cast.coarser or cast.random or cast.floor < LEAST_FLOOR:
        return f"tensors are cast without randomness, with one level of scales and a floor from {LEAST_FLOOR}"
    if cast.flush_inputs:
        return "subnormal elements are cast as they are here; drop `flush_inputs`"
    directed = (Rounding.NEAREST_EVEN, Rounding.TOWARD_ZERO, Rounding.UP, Rounding.DOWN)
    if fmt.kind == "float" and fmt.name != "fp32" and cast.rounding not in directed:
        return f"elements are not rounded {cast.rounding} here"
    if scale is None:
        return ""
    adjusted = tensor_scale and cast.group is not None and scale.exponent_bits < 7
    nearest = (Rounding.NEAREST_EVEN, Rounding.NEAREST_AWAY)
    raised = cast.scale_rounding is Rounding.UP or (adjusted and cast.scale_rounding in nearest)
    if scale.zero and scale.name != "fp32" and not raised:
        return f"a scale rounded {cast.scale_rounding} to {scale.name} may be zero; round it up"
    if cast.scale_rounding is Rounding.TO_ODD:
        return "scales are not rounded to odd here"
    return ""


def meant(on: On) -> Proposal | Instruction | Recipe:
    """Return the object that `on` stands for."""
    if isinstance(on, Proposal | Instruction | Recipe):
        return on
    if isinstance(on, Mapping):
        try:
            found: Instruction = TypeAdapter(InstructionRef).validate_python(dict(on))
        except ValidationError as error:
            raise InputError.of(f"not an instruction: {error.errors()[0]['msg']}") from None
        return found
    name = str(on)
    if name in recipes():
        return load_recipe(name)
    if name in names():
        return load_proposal(names()[name])
    if is_path(name):
        document = read_yaml(name)
        if "recipe" in document.data:
            return parse_recipe(document)
        if "stages" in document.data and "base" not in document.data:
            return validated(document)
        return load_proposal(Path(name))
    try:
        return load(name)
    except InputError:
        if close := suggest(name, [*names(), *recipes()]):
            raise InputError.of(f"no instruction, proposal or recipe is called `{name}`", close) from None
        raise
