"""A proposal: a small change to a real instruction, the workloads it is judged on, and what it claims."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, PositiveInt, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from codesign.metrics import METRICS
from codesign.workloads.gemms import select
from codesign.workloads.tensors import SOURCES
from isa_model.diagnostics import Document, InputError, Problem, at, explain, read_yaml, suggest
from isa_model.formats import FORMATS
from isa_model.instruction import Instruction, ScaleOperand, Scaling
from isa_model.library import is_known, raw
from isa_model.promotion import promoted
from isa_model.rounding import Rounding
from isa_model.stage import Spec

Value = int | float | str
"""A value that a sweep can give to a field."""


def _known(kind: str, names: Any) -> Any:
    def check(name: str) -> str:
        known = names()
        if name not in known:
            hint = suggest(name, known) or f"one of: {', '.join(known)}"
            raise PydanticCustomError("unknown", "{text}", {"text": f"unknown {kind} `{name}`", "hint": hint})
        return name

    return AfterValidator(check)


def _found(look_up: Callable[[str], Any]) -> Any:
    """A validator of names by what finds them and raises InputError for an unknown one."""

    def check(name: str) -> str:
        try:
            look_up(name)
        except InputError as error:
            problem = error.problems[0]
            raise PydanticCustomError("unknown", "{text}", {"text": problem.message, "hint": problem.hint}) from None
        return name

    return AfterValidator(check)


WorkloadName = Annotated[str, _found(select)]
SourceName = Annotated[str, _known("tensor source", lambda: list(SOURCES))]
MetricName = Annotated[str, _known("metric", lambda: list(METRICS))]
BaseName = Annotated[str, _found(raw)]
Variant = Literal["today", "software", "proposal", "exact"]


class Claim(Spec):
    """A bound on a metric, judged at the worst GEMM and tensor source it covers."""

    metric: MetricName
    """What is bounded; `codesign list metrics` explains each."""
    at_most: float | None = None
    """Upper bound."""
    at_least: float | None = None
    """Lower bound."""
    workload: WorkloadName | None = None
    """Only these GEMMs; default: all of the proposal's workloads."""
    tensors: SourceName | None = None
    """Only this tensor source; default: all of the proposal's."""
    of: Variant = "proposal"
    """Whose figure: today's instruction alone, today's software, the proposal, or an exact accumulator."""
    relative_to: Variant | None = None
    """Bound the ratio to this variant's figure instead of the figure itself."""
    at: Value | None = None
    """Only this value of the swept field; default: the proposal's own."""
    source: str = ""
    """Who says so and where; empty: the proposal's author."""

    @model_validator(mode="after")
    def _bounded(self) -> Claim:
        if self.at_most is None and self.at_least is None:
            raise at(message="a claim needs a bound", hint="at_most: or at_least:, with a number")
        if self.at_most is not None and self.at_least is not None and self.at_least > self.at_most:
            raise at("at_least", message=f"at_least {self.at_least:g} is above at_most {self.at_most:g}")
        if self.relative_to == self.of:
            raise at("relative_to", message=f"`{self.of}` relative to itself is always 1")
        return self


class Quantisation(Spec):
    """How operands are quantised: groups along K follow the scales of each instruction, the rest stands here."""

    weight_columns: PositiveInt = 128
    """Output features of a weight that share a scale, beside the group of K (DeepSeek-V3: 128x128 blocks)."""
    rounding: Rounding = Rounding.NEAREST_EVEN
    """How elements are rounded (DeepSeek-V3 leaves it open; its public code rounds to nearest even)."""
    scale_rounding: Rounding = Rounding.UP
    """How scales are rounded to a format narrower than FP32."""
    floor: float = Field(default=1e-30, gt=0)
    """Least magnitude that a group's largest is taken for (1e-4 in DeepSeek-V3's public inference code, which would wipe
    out small gradients)."""


class Software(Spec):
    """Today's way around the missing hardware: promotion to FP32 on CUDA cores, group scales multiplied in there.

    A base that multiplies by group scales itself needs none of it: there software is the instruction as it is.
    """

    promote_every: PositiveInt = 128
    """Products summed by the instruction before they are promoted."""
    group: PositiveInt | None = 128
    """Elements of K that share an FP32 scale; null: one scale for a whole tensor."""


class Sweep(Spec):
    """A family of proposals: one field of the instruction that takes several values."""

    field: str
    """Path of the field in the instruction, such as stages.fuse.fraction_bits."""
    values: tuple[Value, ...] = Field(min_length=2)
    """Values it takes, in the order of the plots."""


class Proposal(Spec):
    """One proposal file."""

    proposal: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    """Short name; reports are filed under it."""
    title: str
    """What the hardware would do, in one line."""
    motivation: str = ""
    """Which pain it answers."""
    source: str
    """Who asks for it, and where."""
    base: BaseName
    """The real instruction it starts from."""
    change: dict[str, Any] = Field(default_factory=dict)
    """Fields of the instruction that differ, as a merge: mappings merge, other values replace, null removes."""
    sweep: Sweep | None = None
    """The swept field, if the proposal is a family."""
    open_questions: tuple[str, ...] = ()
    """What the proposal leaves open and the hardware team would have to settle."""
    quantisation: Quantisation = Quantisation()
    """How the operands are quantised."""
    software: Software = Software()
    """The software baseline."""
    workloads: tuple[WorkloadName, ...] = Field(default=("deepseek-v3",), min_length=1)
    """GEMMs it is judged on."""
    tensors: tuple[SourceName, ...] = Field(default=("normal", "uniform", "outliers"), min_length=1)
    """What fills their operands."""
    claims: tuple[Claim, ...] = Field(min_length=1)
    """What it promises, in numbers."""

    @model_validator(mode="after")
    def _claims_covered(self) -> Proposal:
        covered = {g.name for w in self.workloads for g in select(w)}
        for i, claim in enumerate(self.claims):
            if claim.workload and not covered & {g.name for g in select(claim.workload)}:
                raise at(
                    "claims",
                    i,
                    "workload",
                    message=f"`{claim.workload}` is not among the proposal's workloads",
                    hint=f"workloads: {', '.join(self.workloads)}",
                )
            if claim.tensors and claim.tensors not in self.tensors:
                raise at(
                    "claims",
                    i,
                    "tensors",
                    message=f"`{claim.tensors}` is not among the proposal's tensors",
                    hint=f"tensors: {', '.join(self.tensors)}",
                )
            if claim.at is not None and (self.sweep is None or claim.at not in self.sweep.values):
                values = ", ".join(map(str, self.sweep.values)) if self.sweep else "the proposal has no `sweep`"
                raise at("claims", i, "at", message=f"{claim.at} is not a swept value", hint=values)
        if self.base and self.software.group and self.software.group % self.software.promote_every:
            raise at(
                "software",
                "group",
                message=f"groups of {self.software.group} cannot be scaled by a promotion every "
                f"{self.software.promote_every}",
                hint="a multiple of promote_every",
            )
        return self

    # -- the instructions behind it ----------------------------------------------------------------------------------

    @cached_property
    def today(self) -> Instruction:
        """The base, as it is."""
        return Instruction.model_validate(raw(self.base))

    @cached_property
    def software_instruction(self) -> Instruction:
        """The base with today's software step around it; a base that scales its terms itself, as it is."""
        if self.today.scale:
            return self.today
        scale = None
        if self.software.group:
            fp32, group = FORMATS["fp32"], self.software.group
            scale = Scaling(
                a=ScaleOperand(group=(1, group), format=fp32), b=ScaleOperand(group=(group, 1), format=fp32)
            )
        return promoted(self.today, self.software.promote_every, scale)

    def proposed(self, value: Value | None = None) -> Instruction:
        """The changed instruction; for a family, with `value` in the swept field.

        Raises ValidationError when the change makes no sense.
        """
        return Instruction.model_validate(self._changed(value))

    def _changed(self, value: Value | None) -> dict[str, Any]:
        spec = raw(self.base)
        about = {
            "name": self.proposal if value is None else f"{self.proposal} at {value}",
            "description": self.title,
            "source": self.source,
            "checked": "proposed: no hardware computes this",
        }
        merged = merge({**spec, **about}, self.change)
        if self.sweep and value is not None:
            change: Any = value
            for step in reversed(self.sweep.field.split(".")):
                change = {step: change}
            merged = merge(merged, change)
        return dict(merged)


def merge(spec: Any, change: Any) -> Any:
    """`spec` with `change` merged in (RFC 7396): mappings merge, null removes, anything else replaces."""
    if not isinstance(change, dict):
        return copy.deepcopy(change)
    merged = dict(spec) if isinstance(spec, dict) else {}
    for key, value in change.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = merge(merged.get(key), value)
    return merged


def load_proposal(path: str | Path) -> Proposal:
    """Read a proposal file. Raises InputError with every place where it is wrong."""
    return parse_proposal(read_yaml(path))


def parse_proposal(document: Document) -> Proposal:
    """The proposal a document describes. Raises InputError with every place where it is wrong."""
    try:
        proposal = Proposal.model_validate(document.data)
    except ValidationError as error:
        problems = explain(document, error, Proposal, document.data)
        raise InputError([*problems, *_change_problems(document)]) from None
    problems = _instruction_problems(document, proposal)
    if problems:
        raise InputError(problems)
    return proposal


def _change_problems(document: Document) -> list[Problem]:
    """Faults of the instruction even while the rest of the proposal has its own, if the base is known."""
    base, change = document.data.get("base"), document.data.get("change", {})
    if not isinstance(base, str) or not is_known(base) or not isinstance(change, dict):
        return []
    merged = merge(raw(base), change)
    try:
        Instruction.model_validate(merged)
    except ValidationError as error:
        return explain(document, error, Instruction, merged, ("change",))
    return []


def _instruction_problems(document: Document, proposal: Proposal) -> list[Problem]:
    values: tuple[Value | None, ...] = (None, *(proposal.sweep.values if proposal.sweep else ()))
    if proposal.sweep:
        problem = _sweep_problem(document, proposal, proposal.sweep)
        if problem:
            return [problem]
    for value in values:
        try:
            instruction = proposal.proposed(value)
        except ValidationError as error:
            merged = proposal._changed(value)
            problems = explain(document, error, Instruction, merged, ("change",))
            if value is None:
                return problems
            index = proposal.sweep.values.index(value) if proposal.sweep else 0
            return [document.problem(("sweep", "values", index), p.message, p.hint) for p in problems]
    if proposal.today.scale and "software" in proposal.model_fields_set:
        return [
            document.problem(
                ("software",),
                "the base multiplies by its group scales itself; a software step would scale twice",
                "leave `software` out: today's software is then the instruction as it is",
            )
        ]
    if not proposal.today.scale and proposal.software.promote_every % proposal.today.span:
        return [
            document.problem(
                ("software", "promote_every"),
                f"the base sums {proposal.today.span} products at a time; {proposal.software.promote_every}"
                " is not a multiple of that",
            )
        ]
    del instruction
    try:
        _ = proposal.software_instruction
    except InputError as error:
        return [document.problem(("base",), p.message, p.hint) for p in error.problems]
    return []


def _sweep_problem(document: Document, proposal: Proposal, sweep: Sweep) -> Problem | None:
    """A swept field must exist in the changed instruction."""
    node: Any = proposal._changed(None)
    for i, step in enumerate(sweep.field.split(".")):
        if not isinstance(node, dict) or step not in node:
            known = list(node) if isinstance(node, dict) else []
            where = ".".join(sweep.field.split(".")[:i]) or "the instruction"
            return document.problem(
                ("sweep", "field"),
                f"no field `{step}` in {where}",
                suggest(step, known) or f"fields there: {', '.join(known)}",
            )
        node = node[step]
    return None
