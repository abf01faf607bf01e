"""What a name or a path means: an instruction or a proposal, shipped or in a file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from codesign.proposal.load import is_instruction, parse_proposal
from codesign.proposal.proposal import Proposal
from codesign.proposal.shipped import names, proposal_file
from isa_model.diagnostics import Document, InputError, read_yaml, suggest
from isa_model.instruction import Instruction
from isa_model.library import is_path, load, validated

if TYPE_CHECKING:
    from codesign.proposal.recipe import Recipe


def meant(target: str) -> Instruction | Proposal:
    """Return the instruction or proposal that a file or name stands for. Raises InputError if there is none."""
    if is_path(target) or target in names():
        document = read_yaml(proposal_file(target))
        return validated(document) if is_instruction(document.data) else parse_proposal(document)
    try:
        return load(target)
    except InputError:
        if close := suggest(target, names()):
            raise InputError.of(f"no instruction or proposal is called `{target}`", close) from None
        raise


def instruction_of(target: str) -> Instruction:
    """Return the instruction that a file or name stands for; for a proposal, the changed one."""
    found = meant(target)
    return found.proposed() if isinstance(found, Proposal) else found


def field_names(data: Mapping[str, Any]) -> list[str]:
    """Return the fields that the data of a file may have, as an instruction, a recipe or a proposal."""
    if is_instruction(data):
        return list(Instruction.model_fields)
    if "recipe" in data:
        from codesign.proposal.recipe import Recipe

        return list(Recipe.model_fields)
    return list(Proposal.model_fields)


def parse(document: Document) -> Instruction | Proposal | Recipe:
    """Return the instruction, recipe or proposal in a document. Raises InputError with every fault of it."""
    if is_instruction(document.data):
        return validated(document)
    if "recipe" in document.data:
        from codesign.proposal.recipe import parse_recipe

        return parse_recipe(document)
    return parse_proposal(document)
