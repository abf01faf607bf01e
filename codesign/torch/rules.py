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
from isa_model.diagnostics import InputError, read_yaml, suggest
from isa_model.instruction import Instruction
from isa_model.library import is_path, load, validated

On = str | Path | Proposal | Instruction | Recipe | Mapping[str, Any]
"""A proposal, an instruction, a recipe, the name or file of one, or an instruction as `base` and `change`."""
RECIPE = "deepseek-v3"
"""Recipe whose rules hold where `on` gives none."""


def recipe_on(on: On, variant: Variant = "proposal", at: Value | None = None) -> Recipe:
    """Return the recipe with which a model is emulated on something.

    `variant` and `at` choose a variant of a proposal, and the value of its swept field. An instruction takes the rules of
    DeepSeek-V3's recipe, with the groups of its own scales, or one scale per tensor.
    Raises InputError for an unknown name, a faulty file, or an instruction on which the recipe's tensors cannot be cast.
    """
    found = meant(on)
    if isinstance(found, Recipe):
        return found
    try:
        if isinstance(found, Instruction):
            return load_recipe(RECIPE).on(found)
        return found.training_recipe(variant, at)
    except ValidationError as error:
        name = found.name if isinstance(found, Instruction) else found.proposal
        said = error.errors()[0]["msg"]
        raise InputError.of(f"a model cannot be cast to the operands of {name}: {said}") from None


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
