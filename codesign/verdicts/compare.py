"""Proposals side by side: the same metrics of each and of today, and which of them nothing else here beats.

Nothing is computed anew: a comparison is drawn from results. Every figure is compared on what all of them have in common:
the same GEMMs and tensor sources, the same models. Where they have nothing in common, that is said, and nothing is judged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from codesign.figures.figure import Figure, Kind
from codesign.figures.metric import metric_named
from codesign.proposal.proposal import Variant
from codesign.verdicts.break_even import listed
from codesign.verdicts.evaluate import Result
from codesign.verdicts.readings import decided, read, read_case, relative
from isa_model.diagnostics import InputError
from isa_model.stage import Spec


@dataclass(frozen=True)
class Axis:
    """A metric that is put side by side."""

    metric: str
    judged: bool = False
    """Whether the Pareto front is judged on this axis; the other axes are parts of these or explain them."""
    over_software: bool = False
    """Whether it is shown as a ratio to today's software, in which assumed constants cancel for the most part."""
    today: float | None = None
    """Value of today's software by definition."""


AXES = {
    axis.metric: axis
    for axis in (
        Axis("numerics.total_error", judged=True),
        Axis("numerics.relative_frobenius"),
        Axis("cast.relative_error"),
        Axis("cost.area_ratio", judged=True, today=1.0),
        Axis("cost.energy_ratio", today=1.0),
        Axis("traffic.hbm_bytes", judged=True, over_software=True, today=1.0),
        Axis("traffic.l2_bytes", over_software=True, today=1.0),
        Axis("traffic.network_bytes", judged=True, over_software=True, today=1.0),
        Axis("traffic.cache_bytes", judged=True, over_software=True, today=1.0),
        Axis("energy.joules", over_software=True, today=1.0),
        Axis("timing.step_speedup", judged=True, today=1.0),
        Axis("timing.layer_speedup", today=1.0),
    )
}
"""By metric, in the order shown."""
ERROR = "numerics.total_error"
"""Without it in common nothing is judged: what is cheaper and wrong beats nothing."""
OVERFLOW = "outputs that are not finite"
"""Reason shown for a proposal whose error is infinite."""
Place = tuple[str, str]
Role = Literal["proposal", "software", "today"]


class Entry(Spec):
    """One row of a comparison: its figure on each axis, a ratio to today's software where the axis is one."""

    proposal: str
    """Name of the proposal; of today's rows what they are."""
    title: str
    headline: str
    role: Role = "proposal"
    values: dict[str, float | None]
    """By axis; missing: no evidence, or none in common. None: not finite."""
    low: dict[str, float | None]
    high: dict[str, float | None]
    kinds: dict[str, Kind]
    """What each figure is: computed, measured, modelled or assumed."""
    front: bool = False
    """Whether nothing else here beats it; not known where a judged figure has no interval."""
    beaten_by: tuple[str, ...] = ()
    """What beats it: certainly better on one judged axis, and certainly worse on none."""


class Comparison(Spec):
    """Proposals side by side."""

    entries: tuple[Entry, ...]
    axes: tuple[str, ...]
    """Axes on which at least one proposal has a figure."""
    judged: tuple[str, ...]
    """Axes on which the front was found: those that all proposals have in common. Empty: nothing was judged."""
    covered: tuple[str, ...]
    """What errors are compared on: `GEMM, tensors`."""
    apart: tuple[str, ...] = ()
    """Axes on which the proposals have figures, but none on the same GEMM and tensors, or the same model."""


def compare(results: Sequence[Result]) -> Comparison:
    """Return the comparison of two or more results. Raises InputError for fewer, or for one that is there twice."""
    names = [r.proposal.proposal for r in results]
    if len(names) < 2:
        raise InputError.of("a comparison takes two proposals or more", "codesign compare A B")
    if len(set(names)) < len(names):
        twice = next(n for n in names if names.count(n) > 1)
        raise InputError.of(f"`{twice}` is there twice", "each proposal once")
    shared = {axis: _shared(results, axis) for axis in AXES}
    rows = [Row(r.proposal.proposal, r.proposal.title, "proposal", r.headline, _all(r, shared)) for r in results]
    axes = tuple(a for a in AXES if any(a in row.figures for row in rows))
    judged = tuple(a for a in axes if AXES[a].judged and all(a in row.figures for row in rows))
    if ERROR not in judged:
        judged = ()
    rows += _todays(results, shared)
    places = shared[ERROR] or shared["cast.relative_error"] or set()
    return Comparison(
        entries=tuple(_entry(row, rows, judged) for row in rows),
        axes=axes,
        judged=judged,
        covered=tuple(sorted(", ".join(place) for place in places)),
        apart=tuple(a for a, found in shared.items() if found == set()),
    )


# -- what they have in common ----------------------------------------------------------------------------------------


def _figures(result: Result, axis: str) -> list[Figure]:
    """A result's figures of a metric, of whole models where it is of a layer."""
    everything = (*result.figures, *result.casts, *result.costs, *result.traffic, *result.timing)
    if axis == "numerics.relative_frobenius" and result.proposal.multiplies_as_today:
        return []  # today's sums, none of its doing
    own = [f for f in everything if f.metric == axis and f.at is None]
    return [f for f in own if "." not in f.workload] if metric_named(axis).of_layer else own


def _shared(results: Sequence[Result], axis: str) -> set[Place] | None:
    """Where all results that have such figures have them; None where less than two have any."""
    places = [
        {(f.workload, f.tensors) for f in found if f.variant == "proposal"}
        for r in results
        if (found := _figures(r, axis))
    ]
    return set.intersection(*places) if len(places) > 1 else None


@dataclass(frozen=True)
class Row:
    """A proposal, or what it is held against, with its worst figure on each axis."""

    name: str
    title: str
    role: Role
    headline: str
    figures: dict[str, Figure]


def _all(result: Result, shared: dict[str, set[Place] | None], variant: Variant = "proposal") -> dict[str, Figure]:
    return {axis: found for axis in AXES if (found := _worst(result, axis, variant, shared[axis]))}


def _worst(result: Result, axis: str, variant: Variant, shared: set[Place] | None) -> Figure | None:
    """The worst figure on an axis over what is shared."""
    figures = _figures(result, axis)
    own = [f for f in figures if f.variant == variant and (shared is None or (f.workload, f.tensors) in shared)]
    if AXES[axis].over_software:
        own = [found[0] for f in own if (found := relative("software", f, figures))]
    higher = metric_named(axis).better == "higher"
    return max(own, key=lambda f: (-1.0 if higher else 1.0) * read(f).value, default=None)


def _todays(results: Sequence[Result], shared: dict[str, set[Place] | None]) -> list[Row]:
    """A row for today's software and one for today's instruction alone; several where proposals start from several."""
    defined = {a for a, axis in AXES.items() if axis.today is not None}
    has = {a for a in defined if shared[a] != set() and any(_figures(r, a) for r in results)}
    rows = []
    roles: tuple[tuple[Literal["software", "today"], str], ...] = (
        ("software", "today's software"),
        ("today", "today's instruction alone"),
    )
    for role, words in roles:
        # Bytes and times of today's instruction alone are not counted.
        same = {a: _one(a) for a in AXES if a in has and (role == "software" or a.startswith("cost."))}
        kinds: dict[str, list[tuple[Result, dict[str, Figure]]]] = {}
        for result in results:
            found = _all(result, shared, role)
            kinds.setdefault(str([(a, f.value) for a, f in found.items()]), []).append((result, found))
        for (first, found), *more in kinds.values():
            others = f" and {len(more)} more" if more else ""
            name = words if len(kinds) == 1 else f"{words}, for {first.proposal.proposal}{others}"
            bases = dict.fromkeys(r.proposal.base for r, _ in [(first, found), *more])
            rows.append(Row(name, listed(list(bases)), role, "", found | same))
    return rows


def _one(axis: str) -> Figure:
    """A ratio of today's software to itself."""
    about = {"variant": "software", "workload": "", "tensors": "", "kind": "modelled", "source": "by definition"}
    return Figure(metric=axis, value=1.0, low=1.0, high=1.0, **about)


# -- the front -------------------------------------------------------------------------------------------------------


def _entry(row: Row, rows: Sequence[Row], judged: Sequence[str]) -> Entry:
    """A row as it is shown, with what beats it."""
    own = row.figures
    beaten: tuple[str, ...] = ()
    has_all = bool(judged) and all(a in own for a in judged)
    candidate = has_all and all(decided(read(own[a])) for a in judged)
    if has_all and any(own[a].value is None for a in judged):
        beaten = (OVERFLOW,)
    elif candidate:
        beaten = tuple(o.name for o in rows if o is not row and _beats(o.figures, own, judged))
    return Entry(
        proposal=row.name,
        title=row.title,
        headline=row.headline,
        role=row.role,
        values={a: f.value for a, f in own.items()},
        low={a: f.low for a, f in own.items()},
        high={a: f.high for a, f in own.items()},
        kinds={a: f.kind for a, f in own.items()},
        front=candidate and not beaten,
        beaten_by=beaten,
    )


def _beats(one: dict[str, Figure], other: dict[str, Figure], axes: Sequence[str]) -> bool:
    """Whether `one` is certainly better on an axis, and certainly worse on none."""
    if any(a not in one or one[a].value is None or not decided(read(one[a])) for a in axes):
        return False
    return any(_better(one[a], other[a]) for a in axes) and not any(_better(other[a], one[a]) for a in axes)


def _better(one: Figure, other: Figure) -> bool:
    """Whether one is certainly better: under every assumption that both are counted under; else, if intervals do not touch."""
    higher = metric_named(one.metric).better == "higher"
    a, b = read(one), read(other)
    cases, others = ({(c.assumption, c.other): read_case(c, f).value for c in f.alternatives} for f in (one, other))
    if cases and others:
        pairs = [(a.value, b.value)] + [(cases.get(k, a.value), others.get(k, b.value)) for k in (*cases, *others)]
        return all(x > y if higher else x < y for x, y in pairs)
    assert a.ends is not None
    assert b.ends is not None
    return a.ends[0] > b.ends[1] if higher else a.ends[1] < b.ends[0]
