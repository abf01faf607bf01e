"""A space file: axes along which a proposal changes, constraints on them, and the objectives that its points are judged on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from itertools import combinations, product
from keyword import iskeyword
from math import prod
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, model_validator

from codesign.evidence.sampling import COLUMNS, MOST_SEEDS, ROWS, Sampling
from codesign.explore.conditions import compiled
from codesign.figures.metric import Metric, metric_named
from codesign.proposal.parts import MOST, Claim, Few, Once, SourceName, Value, by_name
from isa_model.diagnostics import SLUG, InputError, Problem, at
from isa_model.library import changed, raw
from isa_model.stage import Spec

MOST_VALUES = 1 << 16
"""Most values of a range."""
MOST_COUNTED = 1_000_000
"""Most combinations of values of which those that keep the conditions are counted."""
NAME = r"^[a-z][a-z0-9_]*$"
"""Pattern of names that constraints can use."""
REPORTS = "reports"
"""Folder of the reports of points."""
FOLDERS = ("claims", "points", "queue", REPORTS)
"""Folders of results, beside which the page of a space has the space's name."""
COLUMNS_OF_POINTS = ("point", "status", "sure", "note", "seeds", "state", "origin")
"""Columns of tables and pictures that are neither axes nor objectives."""
PARTS = ("low", "high", "kind", "where", "source")
"""What tables have of each objective besides its value."""
PROSE = ("proposal", "title", "motivation", "source", "open_questions", "claims", "workloads", "tensors", "sweep")
"""Fields of a proposal that affect no figure, or that a space has fields of its own for."""
Settings = Mapping[str, Value]
"""A value for each axis."""
Name = Annotated[str, Field(pattern=NAME)]


class Axis(Spec):
    """One thing that varies: a field of the proposal and its values, or named changes of any fields."""

    field: str | None = None
    """Dotted path of the field in the proposal, such as `change.stages.fuse.fraction_bits`."""
    values: Annotated[tuple[Value, ...], Few, Once] = ()
    """Values of the field, in the order of tables."""
    range: Annotated[tuple[int, ...], Field(min_length=2, max_length=3)] | None = None
    """First and last value of the field, and the step between them (default 1), in place of `values`."""
    alternatives: dict[Value, dict[str, Any]] = Field(default_factory=dict, max_length=MOST)
    """Changes of the proposal by name, in place of a field: mappings merge, other values replace, null too."""

    @cached_property
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

    @cached_property
    def choices(self) -> tuple[Value, ...]:
        """Values that the axis takes, in order."""
        if self.range is not None:
            first, last, step = (*self.range, 1)[:3]
            return tuple(range(first, last + 1, step))
        return self.values or tuple(self.alternatives)

    @cached_property
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
        fields: dict[tuple[Value, ...], str] = {("field",): self.field.split(".")[0]} if self.field else {}
        fields |= {("alternatives", name, key): key for name, change in self.alternatives.items() for key in change}
        for path, field in fields.items():
            if field in PROSE:
                hint = "a field of the instruction or of the quantisation; the space has its own workloads, tensors and bounds"
                raise at(*map(str, path), message=f"no point differs in `{field}`", hint=hint)
        shown: set[str] = set()
        for i, value in enumerate(self.values):
            if str(value) in shown:
                raise at("values", i, message=f"`{value}` is also there as text", hint="remove one of them")
            shown.add(str(value))
        if self.range is not None:
            first, last, step = (*self.range, 1)[:3]
            if step < 1 or not first <= last:
                message = "a range has a first value, a last one that is not below it, and a step of 1 or more"
                raise at("range", message=message, hint="[10, 25] or [64, 512, 64]")
            if (count := (last - first) // step + 1) > MOST_VALUES:
                raise at("range", message=f"a range of {count} values; at most {MOST_VALUES}", hint="a larger step")
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
    seed: int = Field(default=0, ge=0, lt=1 << 32)
    """Seed of the search."""
    synthesis: int = Field(default=0, ge=0, le=10_000)
    """Most units to synthesise: those of points on the front whose cost is predicted. 0: none are."""


class Space(Spec):
    """Axes along which a proposal changes, constraints on them, and the objectives that its points are judged on."""

    space: str = Field(pattern=SLUG, max_length=100)
    """Short name in lower case."""
    title: str
    """One line on the question that the space answers."""
    source: str = ""
    """Author of the question, with the document and section."""
    findings: tuple[str, ...] = Field(default=(), max_length=3)
    """What the space has shown, in up to three sentences, which its page begins with."""
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
        for i, condition in enumerate(self.where):
            try:
                if not eval(compiled(condition, *self._names, i), {"__builtins__": {}}, dict(settings)):
                    return False
            except (TypeError, ArithmeticError, MemoryError) as error:
                point = ", ".join(f"{name} = {value}" for name, value in settings.items())
                message = f"`{condition}` cannot be computed at {point}: {error}"
                raise InputError([Problem("", 0, 0, message, path=("where", i))]) from None
        return True

    @cached_property
    def _names(self) -> tuple[frozenset[str], frozenset[str]]:
        """Names of all axes, and of those that have text among their values."""
        return frozenset(self.axes), frozenset(name for name, axis in self.axes.items() if not axis.ordered)

    @model_validator(mode="after")
    def _consistent(self) -> Space:
        if self.space in FOLDERS:
            raise at("space", message=f"`{self.space}` is a folder of results", hint="another name")
        taken = dict.fromkeys(COLUMNS_OF_POINTS, "a column of every table")
        for kind, names in (("axes", self.axes), ("objectives", self.objectives)):
            for name in names:
                for column in (name, *(f"{name}_{part}" for part in PARTS)) if kind == "objectives" else (name,):
                    if iskeyword(column) or column in taken:
                        why = taken.get(column, "a word of Python, which conditions cannot name")
                        raise at(kind, name, message=f"`{column}` is {why}", hint="another name")
                    taken[column] = f"the name of another column, that of `{name}`"
        fields = {name: f"{axis.field}." for name, axis in self.axes.items() if axis.field}
        for one, other in combinations(fields, 2):
            if fields[one].startswith(fields[other]) or fields[other].startswith(fields[one]):
                message = f"the axis `{one}` varies it, too"
                raise at("axes", other, "field", message=message, hint="one axis, or `alternatives` of both fields")
        for i, condition in enumerate(self.where):
            compiled(condition, *self._names, i)
        return self


# -- points as proposals -----------------------------------------------------------------------------------------------


class Base(Spec):
    """The proposal that the points of a space change, as plain data."""

    name: str
    """Name of its file, for files that it names."""
    data: dict[str, Any]


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


def specification(data: dict[str, Any]) -> dict[str, Any]:
    """Return the data of a proposal's instruction. Raises InputError if there is none."""
    base, change = data.get("base"), data.get("change", {})
    if not isinstance(base, str):
        raise InputError(
            [Problem("", 0, 0, "`base` names no instruction", "`codesign list` shows them", path=("base",))]
        )
    if not isinstance(change, dict):
        raise InputError([Problem("", 0, 0, "`change` is no mapping", "`change: {stages: ...}`", path=("change",))])
    return changed(raw(base), change)


def proposal_data(data: dict[str, Any], space: Space, name: str = "point", title: str = "") -> dict[str, Any]:
    """Return the data of a point as a proposal of its own, whose claims are the bounds of the space's objectives."""
    bounded = [o for o in space.objectives.values() if o.at_most is not None or o.at_least is not None]
    claims = [o.model_dump(mode="json", exclude_defaults=True) for o in bounded]
    # A proposal claims something: what the base claims of all its GEMMs and tensors, or to be no worse than today's software.
    own = data.get("claims")
    if not claims and isinstance(own, list) and all(isinstance(claim, dict) for claim in own):
        claims = [claim for claim in own if not {"at", "tensors", "workload"} & claim.keys()]
        claims = claims or [{"metric": "numerics.total_error", "relative_to": "software", "at_most": 1.0}]
    return {**data, "proposal": f"{space.space}-{name}", "title": title or space.title, "claims": claims or own}
