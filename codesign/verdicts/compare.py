"""Comparison of proposals with one another and with today: the same metrics for each, and the Pareto front.

A comparison is drawn from results; nothing is computed. Figures are compared on the GEMMs and tensor sources, or the models,
that all results have in common. If they have none in common, the comparison says so and judges nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import isfinite
from typing import Literal

from pydantic import Field

from codesign.figures.figure import Figure, Kind
from codesign.figures.metric import Axis, metric_named, metrics
from codesign.figures.words import listed, worst
from codesign.proposal.proposal import Variant
from codesign.verdicts.evaluate import Result
from codesign.verdicts.readings import Ends, Reading, counterpart, decided, read, read_case, relative
from isa_model.diagnostics import InputError, suggest
from isa_model.stage import Spec

OVERFLOW = "outputs that are not finite"
"""Reason given for a proposal with an infinite error."""
Place = tuple[str, str]
Role = Literal["proposal", "software", "today"]


class Against(Spec):
    """Ratio of a figure to today's software, or to today's unit, with its interval."""

    value: float | None
    """Ratio; None: not finite."""
    low: float | None
    """Lower end of the interval; None: too few samples."""
    high: float | None
    """Upper end of the interval; None as for `low`, or for no upper bound."""


class ComparedProposal(Spec):
    """A row of a comparison: a figure on each axis, or its ratio to today's software where the axis shows that."""

    proposal: str
    """Name of the proposal, or a description of today's rows."""
    title: str
    headline: str
    role: Role = "proposal"
    values: dict[str, float | None]
    """Value by axis; missing: no evidence, or none in common. None: not finite."""
    low: dict[str, float | None]
    high: dict[str, float | None]
    kinds: dict[str, Kind]
    """Kind of each figure: computed, measured, modelled or assumed."""
    against: dict[str, Against] = Field(default_factory=dict)
    """Ratio to today by axis, at the place of the figure."""
    places: dict[str, float | None] = Field(default_factory=dict)
    """Error on each pair of `covered`."""
    front: bool = False
    """True if no row of the front beats it; false, too, if a judged figure has no interval."""
    beaten_by: tuple[str, ...] = ()
    """Rows of the front that beat it: certainly better on one judged axis, and certainly worse on none."""
    beaten_on: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Axes on which each row of `beaten_by` is certainly better."""
    leads: bool = False
    """True if it is on the front of the proposals alone, whatever today's rows do."""


class Comparison(Spec):
    """A comparison of proposals."""

    entries: tuple[ComparedProposal, ...]
    axes: tuple[str, ...]
    """Axes on which at least one proposal has a figure."""
    judged: tuple[str, ...]
    """Objectives of the front, which all proposals have in common. Empty: nothing was judged."""
    covered: tuple[str, ...]
    """Pairs on which errors are compared, as `GEMM, tensors`."""
    objectives: tuple[str, ...] = ()
    """Objectives asked for; empty: the usual ones."""
    apart: tuple[str, ...] = ()
    """Axes with figures, but none on a common GEMM and tensor source, or a common model."""


def compare(results: Sequence[Result], objectives: Sequence[str] = ()) -> Comparison:
    """Return the comparison of two or more results.

    `objectives` are the metrics that the Pareto front is found on; the total error is always one of them, since a cheaper but
    wrong design must not win. Without any, they are the metrics that are usually judged. Raises InputError for fewer than two
    results, for duplicates, and for an objective that is no axis.
    """
    names = [r.proposal.proposal for r in results]
    if len(names) < 2:
        raise InputError.of("a comparison takes two proposals or more", "codesign compare A B")
    if len(set(names)) < len(names):
        twice = next(n for n in names if names.count(n) > 1)
        raise InputError.of(
            f"`{twice}` is there twice",
            "each proposal once; `codesign diff` shows what changed between two results of one",
        )
    compared = {name: metric.axis for name, metric in metrics().items() if metric.axis}
    for wrong in (o for o in objectives if o not in compared):
        raise InputError.of(f"`{wrong}` is no objective", suggest(wrong, compared) or f"one of: {', '.join(compared)}")
    required = {name for name, axis in compared.items() if axis.required}
    wanted = {*objectives, *required} if objectives else {name for name, axis in compared.items() if axis.judged}
    shared = {name: _shared(results, name) for name in compared}
    rows = [
        ComparisonRow(r.proposal.proposal, r.proposal.title, "proposal", r.headline, _all(r, shared), r.figures)
        for r in results
    ]
    axes = tuple(a for a in compared if any(a in row.figures for row in rows))
    judged = tuple(a for a in axes if a in wanted and all(a in row.figures for row in rows))
    if not required <= set(judged):
        judged = ()
    rows += _todays(results, shared)
    sampled = (found for name, found in shared.items() if found and metric_named(name).sampled)
    covered = sorted(next(sampled, ()))
    ahead = [on for on, _ in _front(rows[: len(results)], judged)] + [False] * (len(rows) - len(results))
    front = _front(rows, judged)
    return Comparison(
        entries=tuple(_entry(*row, covered) for row in zip(rows, front, ahead, strict=True)),
        axes=axes,
        judged=judged,
        covered=tuple(map(", ".join, covered)),
        objectives=tuple(objectives),
        apart=tuple(a for a, found in shared.items() if found == set()),
    )


def axis_of(name: str) -> Axis:
    """Return the axis of a metric that has one."""
    axis = metric_named(name).axis
    assert axis
    return axis


# -- figures in common ----------------------------------------------------------------------------------------------


def _figures(result: Result, axis: str) -> list[Figure]:
    """Return a result's figures of a metric; for metrics of a layer, those of whole models."""
    metric = metric_named(axis)
    if metric.of_sums and result.proposal.multiplies_as_today:
        return []  # its sums are today's
    own = [f for f in result.figures if f.metric == axis and f.at is None]
    return [f for f in own if "." not in f.workload] if metric.of_layer else own


def _shared(results: Sequence[Result], axis: str) -> set[Place] | None:
    """Return the places where all results with figures on this axis have one; None if fewer than two results have any."""
    places = [
        {(f.workload, f.tensors) for f in found if f.variant == "proposal"}
        for r in results
        if (found := _figures(r, axis))
    ]
    return set.intersection(*places) if len(places) > 1 else None


@dataclass(frozen=True)
class ComparisonRow:
    """A proposal, or today's software or instruction, with its worst figure on each axis."""

    name: str
    title: str
    role: Role
    headline: str
    figures: dict[str, Figure]
    all: Sequence[Figure]
    """Every figure of the result."""

    @cached_property
    def paired(self) -> dict[str, tuple[Figure, Ends]]:
        """Figure of today's software and the interval of the ratio to it, by sampled axis; missing: none."""
        found = {}
        for axis, figure in self.figures.items():
            if not metric_named(axis).sampled:
                continue
            base, ratio = counterpart("software", figure, self.all), against_software(figure, self.all)
            if base and ratio and ratio.ends:
                found[axis] = base, ratio.ends
        return found


def _all(result: Result, shared: dict[str, set[Place] | None], variant: Variant = "proposal") -> dict[str, Figure]:
    return {axis: found for axis in shared if (found := _worst(result, axis, variant, shared[axis]))}


def _worst(result: Result, axis: str, variant: Variant, shared: set[Place] | None) -> Figure | None:
    """Return the worst figure on an axis over the shared places."""
    figures = _figures(result, axis)
    own = [f for f in figures if f.variant == variant and (shared is None or (f.workload, f.tensors) in shared)]
    if axis_of(axis).over_software:
        own = [found[0] for f in own if (found := relative("software", f, figures))]
    return worst(own)


def _todays(results: Sequence[Result], shared: dict[str, set[Place] | None]) -> list[ComparisonRow]:
    """Return rows for today's software and today's instruction alone; one per group of results that agree in it."""
    has = [a for a, places in shared.items() if places != set() and any(_figures(r, a) for r in results)]
    rows = []
    roles: tuple[tuple[Literal["software", "today"], str], ...] = (
        ("software", "today's software"),
        ("today", "today's instruction alone"),
    )
    for role, words in roles:
        same = {a: _one(a) for a in has if role in axis_of(a).one_for}
        kinds: dict[str, list[tuple[Result, dict[str, Figure]]]] = {}
        for result in results:
            found = _all(result, shared, role)
            kinds.setdefault(str([(a, f.value) for a, f in found.items()]), []).append((result, found))
        for (first, found), *more in kinds.values():
            others = f" and {len(more)} more" if more else ""
            name = words if len(kinds) == 1 else f"{words}, for {first.proposal.proposal}{others}"
            bases = dict.fromkeys(r.proposal.base for r, _ in [(first, found), *more])
            rows.append(ComparisonRow(name, listed(list(bases)), role, "", found | same, first.figures))
    return rows


def _one(axis: str) -> Figure:
    """Return the ratio of today's software to itself."""
    about = {"variant": "software", "workload": "", "tensors": "", "kind": "modelled", "source": "by definition"}
    return Figure(metric=axis, value=1.0, low=1.0, high=1.0, **about)


# -- the front -------------------------------------------------------------------------------------------------------


Beaten = dict[str, tuple[str, ...]]
"""What beats a row, and the axes on which each is certainly better."""


def _front(rows: Sequence[ComparisonRow], judged: Sequence[str]) -> list[tuple[bool, Beaten]]:
    """Return for each row whether it is on the front, and what beats it.

    Certainty is not transitive: a may be certainly better than b, b than c, and a not than c. A row is therefore beaten only by
    rows of the front, not by rows that something beats themselves. In a circle, which no row of the front beats, none is on it.
    """
    candidates = [
        i
        for i, row in enumerate(rows)
        if judged and all(a in row.figures and decided(read(row.figures[a])) for a in judged)
    ]
    lost = {i for i in candidates if any(rows[i].figures[a].value is None for a in judged)}
    sound = [i for i in candidates if i not in lost]
    beats = {i: {j for j in sound if _beats(rows[j], rows[i], judged)} for i in sound}
    front: set[int] = set()
    while new := {i for i in sound if i not in front and all(beats[j] & front for j in beats[i])}:
        front |= new
    found = []
    for i in range(len(rows)):
        by = beats.get(i, set())
        beaten: Beaten = {OVERFLOW: ()} if i in lost else {}
        if i not in front:
            beaten |= {rows[j].name: _ahead(rows[j], rows[i], judged) for j in sorted(by & front or by)}
        found.append((i in front, beaten))
    return found


def _entry(row: ComparisonRow, judged: tuple[bool, Beaten], leads: bool, covered: Sequence[Place]) -> ComparedProposal:
    """Return a row of the comparison."""
    own, (front, beaten) = row.figures, judged
    return ComparedProposal(
        proposal=row.name,
        title=row.title,
        headline=row.headline,
        role=row.role,
        values={a: f.value for a, f in own.items()},
        low={a: f.low for a, f in own.items()},
        high={a: f.high for a, f in own.items()},
        kinds={a: f.kind for a, f in own.items()},
        against={a: found for a, f in own.items() if (found := _against(row, f))},
        places=_places(row, covered),
        front=front,
        beaten_by=tuple(beaten),
        beaten_on=beaten,
        leads=leads,
    )


def _against(row: ComparisonRow, figure: Figure) -> Against | None:
    """Return the ratio of a row's figure to today; None without a figure of today's software, or if neither is finite."""
    is_ratio = axis_of(figure.metric).over_software or metric_named(figure.metric).comparison == "none"
    found = read(figure) if is_ratio else against_software(figure, row.all)
    if found is None or found.value != found.value:
        return None
    low, high = found.ends or (None, None)
    return Against(value=_finite(found.value), low=_finite(low), high=_finite(high))


def against_software(figure: Figure, figures: Sequence[Figure]) -> Reading | None:
    """Return the ratio of a figure to today's software; 1 for the same figure, whose interval is not that of the ratio."""
    found = relative("software", figure, figures)
    if found is None:
        return None
    base = counterpart("software", figure, figures)
    same = base and (base.value, base.low, base.high) == (figure.value, figure.low, figure.high)
    return Reading.point(1.0) if same and figure.value is not None else found[1]


def _finite(x: float | None) -> float | None:
    return float(f"{x:.6g}") if x is not None and isfinite(x) else None


def _places(row: ComparisonRow, covered: Sequence[Place]) -> dict[str, float | None]:
    """Return a row's error on each pair of GEMM and tensors that all have."""
    required = next(name for name, metric in metrics().items() if metric.axis and metric.axis.required)
    found = {
        (f.workload, f.tensors): f.value for f in row.all if (f.metric, f.variant, f.at) == (required, row.role, None)
    }
    return {", ".join(place): found[place] for place in covered if place in found}


def _beats(one: ComparisonRow, other: ComparisonRow, axes: Sequence[str]) -> bool:
    """Return whether `one` is certainly better on an axis and certainly worse on none."""
    return bool(_ahead(one, other, axes)) and not _ahead(other, one, axes)


def _ahead(one: ComparisonRow, other: ComparisonRow, axes: Sequence[str]) -> tuple[str, ...]:
    """Return the axes on which `one` is certainly better, by the figures or by their paired ratios to today's software."""
    return tuple(a for a in axes if _better(one.figures[a], other.figures[a]) or _better_paired(one, other, a))


def _better_paired(one: ComparisonRow, other: ComparisonRow, axis: str) -> bool:
    """Return whether the ratio to one and the same figure of today's software is certainly better: what they share cancels."""
    if axis not in one.paired or axis not in other.paired:
        return False
    (base, (low, high)), (other_base, (other_low, other_high)) = one.paired[axis], other.paired[axis]
    better = low > other_high if metric_named(axis).better == "higher" else high < other_low
    place, other_place = ((f.workload, f.tensors, f.value) for f in (base, other_base))
    return place == other_place and better


def _better(one: Figure, other: Figure) -> bool:
    """Return whether `one` is certainly better: in every case of both, or, without cases, by intervals that do not touch."""
    higher = metric_named(one.metric).better == "higher"
    a, b = read(one), read(other)
    cases, others = ({(c.assumption, c.other): read_case(c, f).value for c in f.alternatives} for f in (one, other))
    if cases and others:
        pairs = [(a.value, b.value)] + [(cases.get(k, a.value), others.get(k, b.value)) for k in (*cases, *others)]
        return all(x > y if higher else x < y for x, y in pairs)
    assert a.ends is not None
    assert b.ends is not None
    return a.ends[0] > b.ends[1] if higher else a.ends[1] < b.ends[0]
