"""Proposals side by side: the same metrics of each, and which of them nothing else here beats.

Nothing is computed anew: a comparison is drawn from results. Errors are compared over what all of them have in common, the
same GEMMs and tensor sources; bytes and energy over the same models.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from codesign.evaluate import Result
from codesign.evidence import Figure, Kind
from codesign.metrics import METRICS
from codesign.proposal import load_proposal
from codesign.results import read_result
from isa_model.diagnostics import InputError
from isa_model.stage import Spec

AXES = (
    "numerics.total_error",
    "numerics.relative_frobenius",
    "cast.relative_error",
    "cost.area_ratio",
    "cost.energy_ratio",
    "traffic.hbm_bytes",
    "traffic.l2_bytes",
    "traffic.network_bytes",
    "traffic.cache_bytes",
    "energy.joules",
    "timing.step_speedup",
    "timing.layer_speedup",
)
"""Metrics that are put side by side, in this order."""
AS_RATIO = ("traffic.", "energy.")
"""Families shown as ratios to today's software, in which assumed constants cancel for the most part."""


class Entry(Spec):
    """One proposal of a comparison: its figure on each axis, a ratio to today's software where the axis is one."""

    proposal: str
    title: str
    headline: str
    values: dict[str, float | None]
    """By axis; missing: no evidence, None: not finite."""
    low: dict[str, float | None]
    high: dict[str, float | None]
    kinds: dict[str, Kind]
    """What each figure is: computed, measured, modelled or assumed."""
    front: bool = False
    """Whether no other proposal is at least as good on all the axes that all have, and better on one."""


class Comparison(Spec):
    """Proposals side by side."""

    entries: tuple[Entry, ...]
    axes: tuple[str, ...]
    """Axes on which at least one proposal has a figure."""
    judged: tuple[str, ...]
    """Axes that all have: the front is found on these."""
    covered: tuple[str, ...]
    """What errors are compared on: `GEMM, tensors`."""


def compare(results: Sequence[Result]) -> Comparison:
    """The comparison of two or more results. Raises InputError for fewer, or for one that is there twice."""
    names = [r.proposal.proposal for r in results]
    if len(names) < 2:
        raise InputError.of("a comparison takes two proposals or more", "codesign compare A B")
    if len(set(names)) < len(names):
        twice = next(n for n in names if names.count(n) > 1)
        raise InputError.of(f"`{twice}` is there twice", "each proposal once")
    shared = [_shared(results, f) for f in ("figures", "casts", "timing")]
    entries = [_entry(result, shared) for result in results]
    axes = tuple(a for a in AXES if any(a in e.values for e in entries))
    judged = tuple(a for a in axes if all(e.values.get(a) is not None for e in entries))
    marked = tuple(e.model_copy(update={"front": not any(_beats(o, e, judged) for o in entries)}) for e in entries)
    covered = tuple(sorted(", ".join(place) for place in shared[0] | shared[1]))
    return Comparison(entries=marked, axes=axes, judged=judged, covered=covered)


def results_of(targets: Sequence[str], reports: Path = Path("reports")) -> list[Result]:
    """Results by path: a result.json, the folder of a report, or a proposal, whose report lies under `reports`.

    Raises InputError for what is none of these, and for a proposal that has no report of exactly what it says now.
    """
    found = []
    for target in targets:
        path = Path(target)
        if path.suffix not in (".yaml", ".yml"):
            found.append(read_result(path / "result.json" if path.is_dir() else path))
            continue
        proposal = load_proposal(path)
        held = reports / proposal.proposal / "result.json"
        result = read_result(held) if held.exists() else None
        if result is None or result.proposal != proposal:
            what = "has no report yet" if result is None else "changed since its report"
            raise InputError.of(f"{path} {what}", f"codesign evaluate {path}")
        found.append(result)
    return found


def _shared(results: Sequence[Result], kind: str) -> set[tuple[str, str]]:
    """GEMMs and tensor sources on which all results that have such evidence have it."""
    places = [{(f.workload, f.tensors) for f in getattr(r, kind)} for r in results if getattr(r, kind)]
    return set.intersection(*places) if places else set()


def _entry(result: Result, shared: Sequence[set[tuple[str, str]]]) -> Entry:
    values: dict[str, float | None] = {}
    kinds: dict[str, Kind] = {}
    low: dict[str, float | None] = {}
    high: dict[str, float | None] = {}
    for axis in AXES:
        everything = (*result.figures, *result.casts, *result.costs, *result.traffic, *result.timing)
        own = [f for f in everything if (f.metric, f.variant, f.at) == (axis, "proposal", None)]
        if axis == "numerics.relative_frobenius" and result.proposal.multiplies_as_today:
            continue  # today's sums, none of its doing
        if axis.startswith("numerics."):
            own = [f for f in own if (f.workload, f.tensors) in shared[0]]
        elif axis.startswith("cast."):
            own = [f for f in own if (f.workload, f.tensors) in shared[1]]
        elif axis.startswith("timing."):  # of whole layers
            own = [f for f in own if (f.workload, f.tensors) in shared[2] and "." not in f.workload]
        elif axis.startswith(AS_RATIO):
            software = {f.workload: f for f in everything if (f.metric, f.variant) == (axis, "software")}
            own = [_over(f, software[f.workload]) for f in own if "." not in f.workload and f.workload in software]
        if own:
            sign = -1.0 if METRICS[axis].better == "higher" else 1.0
            worst = max(own, key=lambda f: float("inf") if f.value is None else sign * f.value)
            values[axis], low[axis], high[axis], kinds[axis] = worst.value, worst.low, worst.high, worst.kind
    about = result.proposal
    return Entry(
        proposal=about.proposal,
        title=about.title,
        headline=result.headline,
        values=values,
        low=low,
        high=high,
        kinds=kinds,
    )


def _over(figure: Figure, other: Figure) -> Figure:
    """A figure as a ratio to today's software, its interval over the ratios under each assumption."""

    def ratio(x: float | None, y: float | None) -> float | None:
        return None if x is None or not y else float(f"{x / y:.6g}")

    base = {(o.assumption, o.other): o.value for o in other.alternatives}
    ratios = [ratio(figure.value, other.value)]
    ratios += [ratio(o.value, base.get((o.assumption, o.other), other.value)) for o in figure.alternatives]
    known = [r for r in ratios if r is not None]
    update = {"value": ratios[0], "low": min(known, default=None), "high": max(known, default=None)}
    return figure.model_copy(update=update)


def _beats(one: Entry, other: Entry, axes: Sequence[str]) -> bool:
    """Whether `one` is at least as good on every axis and better on one."""
    better = False
    for axis in axes:
        a, b = one.values[axis], other.values[axis]
        assert a is not None
        assert b is not None
        if METRICS[axis].better == "higher":
            a, b = -a, -b
        if a > b:
            return False
        better |= a < b
    return better
