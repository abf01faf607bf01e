"""Reading of space files, with every fault at its place."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from os.path import isfile  # as that of Path, but False for names that no file can have
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from codesign.explore.space import (
    MOST_COUNTED,
    PROSE,
    Base,
    Settings,
    Space,
    patched,
    proposal_data,
    specification,
    written,
)
from codesign.proposal.load import parse_proposal
from codesign.proposal.parts import MOST
from codesign.proposal.proposal import Proposal
from codesign.proposal.shipped import proposal_file
from codesign.workloads.gemms import select
from isa_model.diagnostics import Document, InputError, Problem, closest, read_yaml
from isa_model.explain import explain


def load_space(path: str | Path) -> tuple[Space, Base]:
    """Return the space in a YAML file, and its base. Raises InputError with every fault of the file."""
    return parse_space(read_yaml(path))


def parse_space(document: Document) -> tuple[Space, Base]:
    """Return the space in a document, and its base. Raises InputError with every fault of the document."""
    try:
        space = Space.model_validate(document.data)
    except ValidationError as error:
        raise InputError(explain(document, error, Space, document.data)) from None
    beside = Path(document.name).parent / space.base
    try:
        base = read_yaml(beside if isfile(beside) else proposal_file(space.base))
        parse_proposal(base)
    except InputError as error:
        raise InputError(
            [document.problem(("base",), p.message if not p.line else str(p), p.hint) for p in error.problems]
        ) from None
    about = {"workloads": space.workloads, "tensors": space.tensors}
    data = written({k: v for k, v in base.data.items() if k != "sweep"}, space.change)
    data |= {name: list(value) for name, value in about.items() if value is not None}
    found = Base(name=base.name, data=data)
    problems = [*_own_problems(document, space, found), *_field_problems(document, space, found)]
    try:
        problems = problems or [*_value_problems(document, space, found)]
        if not problems and space.size <= MOST_COUNTED and not any(True for _ in space.points()):
            problems = [document.problem(("where",), "no point keeps these conditions", "drop one of them")]
    except InputError as error:  # a condition that cannot be computed
        problems = [document.problem(p.path, p.message, p.hint) for p in error.problems]
    if problems:
        raise InputError(problems)
    return space, found


def _own_problems(document: Document, space: Space, base: Base) -> Iterator[Problem]:
    """Yield the problems that no axis can mend: of changed fields, workloads, tensors and objectives."""
    try:
        parse_proposal(Document(base.name, proposal_data(base.data, space), []))
    except InputError as error:
        for field in space.change.keys() - Proposal.model_fields.keys():
            hint = "the instruction's own are in `change`: `change: {change: {...}}`"
            yield document.problem(("change", field), f"a proposal has no field `{field}`", hint)
        for p in error.problems:
            if p.path[:1] and p.path[0] in PROSE and ("change", p.path[0]) in document.keys:
                yield document.problem(("change", *p.path), p.message, p.hint)
            elif p.path[:1] in (("workloads",), ("tensors",)):
                own = [(key,) for key in ("workloads", "tensors") if (key,) in document.keys]
                place = p.path if p.path[:1] in own else (own or [("base",)])[0]
                yield document.problem(place, p.message, p.hint)
    for name, objective in space.objectives.items():
        try:
            select(objective.workload) if objective.workload else None
        except InputError as error:
            yield document.problem(("objectives", name, "workload"), error.problems[0].message, error.problems[0].hint)


def _field_problems(document: Document, space: Space, base: Base) -> Iterator[Problem]:
    """Yield a problem for each axis whose field the base's instruction does not have."""
    try:
        spec = specification(base.data)
    except InputError as error:
        for p in error.problems:
            place = ("change", *p.path) if p.path in (("base",), ("change",)) else ("change",)
            yield document.problem(place, p.message, p.hint)
        return
    with suppress(InputError):  # with the fields that the base leaves out
        proposal = parse_proposal(Document(base.name, proposal_data(base.data, space), []))
        spec = written(proposal.proposed().model_dump(), spec)
    for name, axis in space.axes.items():
        steps = (axis.field or "").split(".")
        node: Any = spec
        for i, step in enumerate(steps[1:] if steps[0] == "change" else ()):
            if not isinstance(node, dict) or step not in node:
                known = list(node) if isinstance(node, dict) else []
                close = closest(step, known)
                hint = f"did you mean `{'.'.join([*steps[: i + 1], close, *steps[i + 2 :]])}`?" if close else ""
                where = ".".join(steps[1 : i + 1]) or "the instruction"
                fields = f"fields there: {', '.join(known) or 'none'}"
                yield document.problem(("axes", name, "field"), f"no field `{step}` in {where}", hint or fields)
                break
            node = node[step]


def _value_problems(document: Document, space: Space, base: Base) -> Iterator[Problem]:
    """Yield a problem for each axis none of whose values gives a proposal, the others at their first or last values.

    If some of these axes give none on the base alone either, the others are not to blame.
    """
    ends = [{name: axis.choices[end] for name, axis in space.axes.items()} for end in (0, -1)]
    faults = {
        name: fault
        for name, axis in space.axes.items()
        if (fault := _fault(space, base, (o | {name: v} for v in axis.choices[:MOST] for o in ends)))
    }
    alone = [name for name in faults if _fault(space, base, ({name: v} for v in space.axes[name].choices[:MOST]))]
    for name in alone or faults:
        for p in faults[name].problems:
            yield document.problem(("axes", name), f"no value gives a proposal: {p.message}", p.hint)


def _fault(space: Space, base: Base, every: Iterable[Settings]) -> InputError | None:
    """Return what is wrong with the first of some settings, or None if one of them gives a proposal or all are left out."""
    fault: InputError | None = None
    for settings in every:
        if len(settings) == len(space.axes) and not space.allows(settings):
            continue
        try:
            parse_proposal(Document(base.name, proposal_data(patched(space, base, settings), space), []))
            return None
        except InputError as error:
            fault = fault or error
    return fault
