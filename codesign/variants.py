"""What a trial compares: today's instruction, today's software, the proposal and an exact accumulator."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from codesign.operands import on_the_way
from codesign.proposal import Proposal, Value, Variant
from isa_model.instruction import Instruction
from isa_model.path import Step

LABELS = {
    "today": "today's instruction alone",
    "software": "today's software",
    "proposal": "proposal",
    "exact": "exact accumulator",
}


class Compared(NamedTuple):
    """One of the things that a trial compares."""

    variant: Variant
    at: Value | None
    """Value of the swept field."""
    instruction: Instruction
    steps: tuple[Step, ...] = ()
    """What becomes of the operands that the proposal's path carries; the others are quantised for the instruction."""


def variants(proposal: Proposal) -> Iterator[Compared]:
    """Everything to compare. Today's instruction alone knows no path; the exact one shares the proposal's operands."""
    on_its_way = proposal.path.steps if proposal.path else ()
    yield Compared("today", None, proposal.today)
    yield Compared("software", None, proposal.software_instruction, proposal.software.path if proposal.path else ())
    yield Compared("proposal", None, proposal.multiplying(), on_its_way)
    if proposal.sweep:
        for value in proposal.sweep.values:
            yield Compared("proposal", value, proposal.multiplying(value), on_its_way)
    yield Compared("exact", None, proposal.multiplying(), on_its_way)


def labels(proposal: Proposal) -> dict[str, str]:
    """What a reader sees the variants called; those that are the same by construction are named and shown as one."""
    alike: dict[Any, list[Variant]] = {}
    for compared in sorted(variants(proposal), key=lambda c: c.variant != "proposal"):
        if compared.at is None:
            alike.setdefault(_computed(proposal, compared), []).append(compared.variant)
    found = {group[0]: " = ".join(LABELS[v] for v in group) for group in alike.values()}
    return {variant: found[variant] for variant in LABELS if variant in found}


def _computed(proposal: Proposal, compared: Compared) -> tuple[object, ...]:
    """All that the numbers of a variant follow from, hashable."""
    about = {"name", "description", "source", "checked"}
    instruction = compared.instruction.model_dump_json(exclude=about)
    behind = [
        [s.model_dump_json(exclude={"at", "on_sms"}) for s in on_the_way(compared.steps, role, tokens_along_k)]
        for role in (proposal.path.operands if proposal.path else ())
        for tokens_along_k in (False, True)
    ]
    return compared.variant == "exact", instruction, str(behind)
