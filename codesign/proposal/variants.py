"""Variants that a trial compares: today's instruction, today's software, the proposal and an exact accumulator."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from codesign.proposal.flows import NOTHING, Flows, along, behind, usual
from codesign.proposal.proposal import Proposal, Value, Variant
from codesign.proposal.quantisation import Quantisation, operand_cast
from codesign.workloads.gemms import Gemm, sent
from isa_model.instruction import Instruction
from isa_model.path import Step

LABELS = {
    "today": "today's instruction alone",
    "software": "today's software",
    "proposal": "proposal",
    "exact": "exact accumulator",
}


class Compared(NamedTuple):
    """One variant of a trial."""

    variant: Variant
    at: Value | None
    """Value of the swept field."""
    instruction: Instruction
    flows: Flows = NOTHING
    """Casts of the operands before the multiplication."""
    rule: Quantisation | None = None
    """Quantisation of the operands; None: the trial's."""
    forward: Instruction | None = None
    """Instruction of fprop if it differs."""

    def multiplying(self, gemm: Gemm) -> Instruction:
        """Return the instruction that computes a GEMM."""
        return self.forward if self.forward and gemm.a == "activation" else self.instruction


def variants(proposal: Proposal) -> Iterator[Compared]:
    """Yield the variants in order: today's instruction, today's software, the proposal, each swept value, exact sums of the
    proposal's operands, and the other baselines of the base under their names."""
    practice, path = proposal.practice, proposal.path
    bare = practice.quantisation.model_copy(update={"headroom": None, "slices": None})

    def on_the_way(steps: tuple[Step, ...], instruction: Instruction, rule: Quantisation) -> Flows:
        flows = usual(practice, instruction, rule)
        if path is None:
            return flows
        sends = any(s.at == "dispatch" for s in (*path.steps, *proposal.software.path))
        return along(steps, path.operands, flows, sends)

    yield Compared("today", None, proposal.today, usual(practice, proposal.today, bare), bare)
    software, rule = proposal.software_instruction, practice.quantisation
    flows = on_the_way(proposal.software.path, software, rule)
    forward = proposal.today if practice.fast_forward else None
    yield Compared("software", None, software, flows, rule, forward)
    steps = path.steps if path else ()
    if proposal.multiplies_as_today:
        own = Compared("proposal", None, software, on_the_way(steps, software, rule), proposal.rule, forward)
    else:
        made = proposal.proposed()
        own = Compared("proposal", None, made, on_the_way(steps, made, proposal.rule), proposal.rule)
    yield own
    for value in proposal.swept:
        yield own._replace(at=value, instruction=proposal.multiplying(value))
    yield own._replace(variant="exact")
    for other in proposal.others:
        spec, rule = other.around(proposal.today), other.quantisation
        first = proposal.today if other.fast_forward else None
        yield Compared(other.name, None, spec, usual(other, spec, rule), rule, first)


def labels(proposal: Proposal) -> dict[str, str]:
    """Return the labels of the four main variants; variants that are the same by construction share one."""
    gemms = {(g.a, g.b, sent(g), g.k if g.a == "activation" else 0): g for g, _ in proposal.trials}.values()
    alike: dict[Any, list[Variant]] = {}
    for compared in sorted(variants(proposal), key=lambda c: c.variant != "proposal"):
        if compared.at is None and compared.variant in LABELS:
            computed = compared.variant == "exact", tuple(_computed(proposal, compared, gemm) for gemm in gemms)
            alike.setdefault(computed, []).append(compared.variant)
    found = {group[0]: " = ".join(LABELS[v] for v in group) for group in alike.values()}
    return {variant: found[variant] for variant in LABELS if variant in found}


def _computed(proposal: Proposal, compared: Compared, gemm: Gemm) -> tuple[str, ...]:
    """Return a hashable value of everything that determines the results of a variant on a GEMM."""
    about = {"name", "description", "source", "checked"}
    instruction = compared.multiplying(gemm)
    found = [instruction.model_dump_json(exclude=about)]
    for which in ("a", "b"):
        cast, _ = operand_cast(compared.rule or proposal.rule, instruction, gemm, which)
        steps = behind(gemm, gemm.a if which == "a" else gemm.b, compared.flows)
        found += [cast.model_dump_json(), *(s.model_dump_json(exclude={"at", "on_sms"}) for s in steps)]
        rule = compared.rule or proposal.rule
        found += [str(rule.tensor_scale), str(rule.slices)]
    return tuple(found)
