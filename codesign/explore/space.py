"""A space file: axes along which a proposal changes, constraints on them, and the objectives that its points are judged on."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from itertools import product
from math import prod
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from codesign.evidence.sampling import COLUMNS, MOST_SEEDS, ROWS, Sampling
from codesign.figures.metric import Metric, metric_named
from codesign.proposal.load import parse_proposal
from codesign.proposal.parts import MOST, Claim, Few, Once, SourceName, Value, by_name
from codesign.proposal.shipped import proposal_file
from isa_model.diagnostics import SLUG, Document, InputError, Problem, at, closest, read_yaml, suggest
from isa_model.explain import explain
from isa_model.library import changed, raw
from isa_model.stage import Spec

MOST_VALUES = 1 << 16
"""Most values of a range."""
NAME = r"^[a-z][a-z0-9_]*$"
"""Pattern of names that constraints can use."""
Settings = Mapping[str, Value]
"""A value for each axis."""
Name = Annotated[str, Field(pattern=NAME)]


class Axis(Spec):
    """One thing that varies: a field of the proposal and its values, or named changes of any fields."""

    field: str | None = None
    """Dotted path of the field in the proposal, such as `change.stages.fuse.fraction_bits`."""
    values: Annotated[tuple[Value, ...], Few, Once] = ()
    """Values of the field, in the order of tables."""
    range: tuple[int, int] | tuple[int, int, int] | None = None
    """First and last value of the field, and the step between them (default 1), in place of `values`."""
    alternatives: dict[Value, dict[str, Any]] = Field(default_factory=dict, max_length=MOST)
    """Changes of the proposal by name, in place of a field: mappings merge, other values replace, null too."""

    @property
    def patches(self) -> dict[Value, dict[str, Any]]:
        """Changes of the proposal, by the value or the name of the alternative."""
        if self.field is None:
            return dict(self.alternatives)
        found: dict[Value, dict[str, Any]] = {}
        for value in self.choices:
            change: Any = value
            for step in reversed(self.field.split(".")):
                change = {step: change}
            found[value] = change
        return found

    @property
    def choices(self) -> tuple[Value, ...]:
        """Values that the axis takes, in order."""
        if self.range is not None:
            first, last, *step = self.range
            return tuple(range(first, last + 1, *step))
        return self.values or tuple(self.alternatives)

    @property
    def ordered(self) -> bool:
        """True if the values are numbers, whose order means something."""
        return all(not isinstance(value, str) for value in self.choices)

    @model_validator(mode="after")
    def _one_kind(self) -> Axis:
        given = [name for name in ("values", "range", "alternatives") if getattr(self, name)]
        if len(given) != 1:
            what = " and ".join(f"`{name}`" for name in given) or "nothing"
            raise at(message=f"an axis has one of `values`, `range` and `alternatives`, got {what}")
        if (self.field is None) != (given == ["alternatives"]):
            hint = "`field: change.stages.fuse.fraction_bits`" if self.field is None else "drop `field`"
            raise at(
                given[0],
                message=f"`{given[0]}` {'of which field?' if self.field is None else 'name no field'}",
                hint=hint,
            )
        if self.range is not None:
            first, last, step = (*self.range, 1)[:3]
            if step < 1 or not first <= last or (last - first) // step >= MOST_VALUES:
                message = "a range has a first value, a last one that is not below it, and a step of 1 or more"
                raise at("range", message=message, hint="[10, 25] or [64, 512, 64]")
        return self


class Objective(Claim):
    """A metric that points are judged on, at the worst case among the GEMMs and tensor sources it covers.

    With a bound, points that certainly break it are ruled out.
    """

    def _has_bound(self) -> None:
        """Refuse nothing: an objective needs no bound."""

    @model_validator(mode="after")
    def _of_points(self) -> Objective:
        if self.at is not None:
            raise at(
                "at", message="a point has no swept values", hint="leave `at` out: an axis takes the sweep's place"
            )
        return self

    @property
    def about(self) -> Metric:
        """The metric."""
        return metric_named(self.metric)


class Budget(Spec):
    """Limits of a search."""

    points: int = Field(default=10_000, ge=1)
    """Most points to evaluate. A space of no more points is evaluated as a whole, a larger one is searched."""
    generation: int = Field(default=8, ge=2, le=4096)
    """Points that a search proposes at a time, which are evaluated side by side. The more, the less each learns from others."""
    seed: int = Field(default=0, ge=0)
    """Seed of the search."""


class Space(Spec):
    """Axes along which a proposal changes, constraints on them, and the objectives that its points are judged on."""

    space: str = Field(pattern=SLUG)
    """Short name in lower case."""
    title: str
    """One line on the question that the space answers."""
    source: str = ""
    """Author of the question, with the document and section."""
    base: str
    """Proposal that the points change: the name of a shipped one, or a file beside the space file."""
    change: dict[str, Any] = Field(default_factory=dict)
    """Fields of the base in which all points differ from it, written as in `alternatives`."""
    axes: dict[Name, Axis] = Field(min_length=1, max_length=16)
    """What varies, by name."""
    where: Annotated[tuple[str, ...], Few] = ()
    """Conditions on the axes, such as `terms * 4 <= promote or register == 'fp32'`; points that break one do not exist."""
    objectives: dict[Name, Objective] = Field(min_length=1, max_length=16)
    """What points are judged on, by name."""
    workloads: Annotated[tuple[Annotated[str, BeforeValidator(by_name)], ...], Few, Once] | None = None
    """Workloads of the objectives that name none; left out: those of the base."""
    tensors: Annotated[tuple[SourceName, ...], Few, Once] | None = None
    """Tensor sources of the objectives that name none; left out: those of the base."""
    rows: int = Field(default=16, ge=ROWS[0], le=ROWS[1])
    """Rows of A that are computed, per seed."""
    columns: int = Field(default=16, ge=COLUMNS[0], le=COLUMNS[1])
    """Columns of B that are computed, per seed."""
    seeds: int = Field(default=16, ge=1, le=MOST_SEEDS)
    """Number of seeds, from 0 up."""
    screen: int = Field(default=0, ge=0, le=MOST_SEEDS)
    """Number of seeds with which all points are screened first. The others are computed only for points that may still be on
    the front. 0: none are screened."""
    budget: Budget = Budget()

    @property
    def sampling(self) -> Sampling:
        """Sampling of the full evidence."""
        return Sampling(rows=self.rows, columns=self.columns, seeds=tuple(range(self.seeds)))

    @property
    def screening(self) -> Sampling | None:
        """Sampling of the screening; None for no screening."""
        few = 0 < self.screen < self.seeds
        return self.sampling.model_copy(update={"seeds": tuple(range(self.screen))}) if few else None

    @property
    def size(self) -> int:
        """Number of combinations of the axes' values, those that break a condition included."""
        return prod(len(axis.choices) for axis in self.axes.values())

    def points(self) -> Iterator[dict[str, Value]]:
        """Yield every point that keeps the conditions, the last axis fastest."""
        for values in product(*(axis.choices for axis in self.axes.values())):
            settings = dict(zip(self.axes, values, strict=True))
            if self.allows(settings):
                yield settings

    def allows(self, settings: Settings) -> bool:
        """Return whether a point keeps every condition. Raises InputError for one that compares text with numbers."""
        for condition in self.where:
            try:
                if not eval(_compiled(condition, frozenset(self.axes)), {"__builtins__": {}}, dict(settings)):
                    return False
            except (TypeError, ArithmeticError) as error:
                point = ", ".join(f"{name} = {value}" for name, value in settings.items())
                raise InputError.of(f"`{condition}` cannot be computed at {point}: {error}") from None
        return True

    @model_validator(mode="after")
    def _consistent(self) -> Space:
        for i, condition in enumerate(self.where):
            _compiled(condition, frozenset(self.axes), i)
        return self


_ALLOWED = (
    *(ast.Expression, ast.BoolOp, ast.And, ast.Or, ast.UnaryOp, ast.Not, ast.USub, ast.Compare),
    *(ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.In, ast.NotIn),
    *(ast.BinOp, ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod),
    *(ast.Name, ast.Load, ast.Constant, ast.Tuple, ast.List),
)
"""What conditions may be made of: names, numbers, text, arithmetic and comparisons, but no calls, attributes or powers."""


def _compiled(condition: str, names: frozenset[str], index: int = 0) -> Any:
    """Return the code of a condition. Raises the error of a validator for one that is not an expression over `names`."""
    try:
        tree = ast.parse(condition.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError):
        raise at("where", index, message=f"`{condition}` is not an expression", hint="such as `bits >= 13`") from None
    for node in ast.walk(tree):
        if not isinstance(node, _ALLOWED):
            what = type(node).__name__.lower()
            raise at(
                "where",
                index,
                message=f"`{condition}`: a condition has no {what}",
                hint="comparisons of axes and values",
            )
        if isinstance(node, ast.Name) and node.id not in names:
            hint = suggest(node.id, names) or f"axes: {', '.join(sorted(names))}"
            raise at("where", index, message=f"no axis is called `{node.id}`", hint=hint)
    return compile(tree, "<where>", "eval")


# -- reading ---------------------------------------------------------------------------------------------------------


class Base(Spec):
    """The proposal that the points of a space change, as plain data."""

    name: str
    """Name of its file, for files that it names."""
    data: dict[str, Any]


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
        base = read_yaml(beside if beside.is_file() else proposal_file(space.base))
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
    if problems := problems or [*_value_problems(document, space, found)]:
        raise InputError(problems)
    return space, found


def written(data: Any, patch: Any) -> Any:
    """Return a proposal's data with a patch written into it: mappings merge, other values replace, null too."""
    if not (isinstance(patch, dict) and isinstance(data, dict)):
        return patch
    return {**data, **{key: written(data.get(key), value) for key, value in patch.items()}}


def patched(space: Space, base: Base, settings: Settings) -> dict[str, Any]:
    """Return the data of the proposal at a point."""
    data = base.data
    for name, value in settings.items():
        data = written(data, space.axes[name].patches[value])
    return data


def _own_problems(document: Document, space: Space, base: Base) -> Iterator[Problem]:
    """Yield the problems of the space's own workloads and tensors with the base."""
    try:
        parse_proposal(Document(base.name, proposal_data(base.data, space), []))
    except InputError as error:
        for p in error.problems:
            if p.path[:1] in (("workloads",), ("tensors",)) and p.path[:1] in document.keys:
                yield document.problem(p.path, p.message, p.hint)


def _field_problems(document: Document, space: Space, base: Base) -> Iterator[Problem]:
    """Yield a problem for each axis whose field the base's instruction does not have."""
    spec = changed(raw(base.data["base"]), base.data.get("change", {}))
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
    """Yield a problem for each axis none of whose values gives a proposal, the others at their first or last values."""
    for name, axis in space.axes.items():
        fault: InputError | None = None
        for value, end in product(axis.choices[:MOST], (0, -1)):
            settings = {other: own.choices[end] for other, own in space.axes.items()} | {name: value}
            if not space.allows(settings):
                continue
            try:
                parse_proposal(Document(base.name, proposal_data(patched(space, base, settings), space), []))
                break
            except InputError as error:
                fault = fault or error
        else:
            for p in fault.problems if fault else ():
                yield document.problem(("axes", name), f"no value gives a proposal: {p.message}", p.hint)


def proposal_data(data: dict[str, Any], space: Space, name: str = "point", title: str = "") -> dict[str, Any]:
    """Return the data of a point as a proposal of its own, whose claims are the bounds of the space's objectives."""
    bounded = [o for o in space.objectives.values() if o.at_most is not None or o.at_least is not None]
    claims = [o.model_dump(mode="json", exclude_defaults=True) for o in bounded]
    # A proposal claims something: what the base claims of all its GEMMs and tensors, or to be no worse than today's software.
    claims = claims or [claim for claim in data["claims"] if not {"at", "tensors", "workload"} & claim.keys()]
    claims = claims or [{"metric": "numerics.total_error", "relative_to": "software", "at_most": 1.0}]
    return {**data, "proposal": f"{space.space}-{name}", "title": title or space.title, "claims": claims}
