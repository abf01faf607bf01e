"""What is known of each point: a value with its interval for every objective, and whether the point is on the Pareto front."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING, Any, Literal

from codesign.evidence.sampling import Sampling
from codesign.explore.space import Base, Settings, Space, patched
from codesign.explore.task import of_objective
from codesign.figures.metric import Metric
from codesign.verdicts.readings import Reading, breaks, excess

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

Status = Literal["front", "dominated", "breaks a bound", "screened out", "not known", "no proposal", "failed"]
JUDGED: tuple[Status, ...] = ("front", "dominated", "breaks a bound", "screened out")
"""States of points whose figures decide about them."""


@dataclass(frozen=True)
class ObjectiveFigure:
    """One figure that an objective covers at a point, as a claim reads it."""

    gemm: str
    """GEMM; empty for none."""
    tensors: str
    """Tensor source; empty for none."""
    value: float | None
    """Value; None: not finite, which is worse than any number."""
    low: float | None
    """Lower end of the interval; None: no interval, or no lower limit."""
    high: float | None
    """Upper end; None as for `low`."""
    kind: str
    """Kind of the figure: computed, measured, modelled or assumed."""
    source: str

    @property
    def origin(self) -> str:
        """Origin in a word: that of a unit's cost (`record`, `synthesised` or `predicted`), or the kind of the figure."""
        if self.source.startswith("records "):
            return "synthesised" if "synthesised for this" in self.source else "record"
        return "predicted" if self.source.startswith("predicted") else self.kind

    @property
    def predicted(self) -> bool:
        """True for a figure of a unit without a record, as the fitted model has it."""
        return self.origin == "predicted"

    @property
    def where(self) -> str:
        """GEMM and tensor source in words."""
        return " ".join(filter(None, (self.gemm, self.tensors)))

    def reading(self, metric: Metric) -> Reading:
        """Return the number with its interval.

        Figures that are not sampled are points: what their intervals span, such as cell libraries, is common to all points of
        a space.
        """
        if self.value is None:
            return Reading.point(-inf if metric.better == "higher" else inf)
        if not metric.sampled:
            return Reading.point(self.value)
        if self.low is None and self.high is None:
            return Reading(self.value, None)
        return Reading(self.value, (-inf if self.low is None else self.low, inf if self.high is None else self.high))

    def badness(self, metric: Metric) -> tuple[float, float, float]:
        """Return numbers that are larger for worse: of the better end, the value and the worse end."""
        found = self.reading(metric)
        own = metric.badness(found.value)
        if found.ends is None:
            return -inf, own, inf  # too few samples for an interval
        ends = [own, *map(metric.badness, found.ends)]
        return min(ends), own, max(ends)


@dataclass
class Point:
    """A point of a space with what is known of it."""

    settings: Settings
    values: dict[str, ObjectiveFigure] = field(default_factory=dict)
    """Worst figure by objective; none for objectives without a figure."""
    figures: dict[str, list[ObjectiveFigure]] = field(default_factory=dict)
    """All figures by objective."""
    status: Status = "not known"
    note: str = ""
    """Reason for the status."""
    sure: bool = False
    """True for a point of the front that stays on it whatever the intervals hold."""
    seeds: int = 0
    """Seeds behind the sampled values."""

    @property
    def name(self) -> str:
        """Short name, the same in every run."""
        return hashlib.sha256(json.dumps(dict(self.settings), sort_keys=True).encode()).hexdigest()[:10]

    @property
    def label(self) -> str:
        """Settings in words."""
        return ", ".join(f"{name} = {value}" for name, value in self.settings.items())


def known(
    space: Space,
    base: Base,
    settings: Settings,
    sampling: Sampling,
    results: Mapping[str, Any],
    failed: Mapping[str, str],
    synthesis: bool = False,
) -> Point:
    """Return a point with what the results say of it, as evidence with a sampling; `synthesis` takes the synthesised cost."""
    point, data = Point(settings, seeds=len(sampling.seeds)), patched(space, base, settings)
    for name, objective in space.objectives.items():
        for task in of_objective(objective, data, base.name, sampling, synthesis):
            found = results.get(task.key, {})
            if "invalid" in found:
                point.status, point.note = "no proposal", found["invalid"]
                return point
            if task.key in failed:
                point.status, point.note = "failed", failed[task.key]
                return point
            for row in found.get("readings", {}).get(objective.metric, ()):
                point.figures.setdefault(name, []).append(ObjectiveFigure(*row))
        if figures := point.figures.get(name):
            point.values[name] = max(figures, key=lambda v: v.badness(objective.about)[1])
    return point


def broken(space: Space, point: Point, certainly: bool = False) -> str:
    """Return the bound that a point's value breaks, in words; its whole interval, if `certainly`. Empty for none."""
    for name, objective in space.objectives.items():
        if name not in point.values:
            continue
        value = point.values[name]
        found = value.reading(objective.about)
        if breaks(objective, found) if certainly else excess(objective, found.value) > 0:
            upper = objective.at_most is not None
            bound = f"at most {objective.at_most:g}" if upper else f"at least {objective.at_least:g}"
            shown = "not finite" if value.value is None else f"{value.value:.3g}"
            return f"{name} is {shown}, {bound} is asked for"
    return ""


# -- the front -------------------------------------------------------------------------------------------------------


def badness(space: Space, points: Sequence[Point]) -> Array:
    """Return better ends, values and worse ends of all objectives, larger for worse: (3, points, objectives)."""
    import numpy as np

    metrics = {name: o.about for name, o in space.objectives.items()}
    found = [
        [p.values[name].badness(m) if name in p.values else (-inf, inf, inf) for name, m in metrics.items()]
        for p in points
    ]
    return np.moveaxis(np.array(found, dtype=np.float64).reshape(len(points), len(metrics), 3), 2, 0)


def front(x: Array) -> Array:
    """Return which rows no other row dominates: none is at most as bad everywhere and better somewhere. Larger is worse."""
    import numpy as np

    order = np.lexsort(x.T[::-1])
    on = np.zeros(len(x), bool)
    best = np.empty((0, x.shape[1]))
    for i in order:  # a row can only be dominated by one that comes before it
        if not dominated_by(x[i], best).any():
            on[i] = True
            best = np.vstack([best, x[i]])
    return on


def dominated_by(row: Array, others: Array) -> Any:
    """Return which of `others` dominate a row."""
    return (others <= row).all(axis=1) & (others < row).any(axis=1)


def beaten(best: Array, worst: Array) -> Array:
    """Return for each row the index of a row that certainly dominates it, by the worse end of its intervals; -1 for none."""
    import numpy as np

    strong = np.flatnonzero(front(worst))
    found = np.full(len(best), -1)
    for i, row in enumerate(best):
        by = strong[dominated_by(row, worst[strong])]
        by = by[by != i]
        if len(by):
            found[i] = by[0]
    return found


def judge(space: Space, points: Sequence[Point]) -> None:
    """Set the status of all points that have full evidence and no status yet."""
    judged = []
    for point in points:
        if point.status != "not known":
            continue
        missing = [name for name in space.objectives if name not in point.values]
        if missing:
            point.note = f"no figure of {', '.join(missing)}"
        elif why := broken(space, point):
            point.status, point.note = "breaks a bound", why
        else:
            judged.append(point)
    if not judged:
        return
    best, values, worst = badness(space, judged)
    on, by = front(values), beaten(best, worst)
    some = [i for i in range(len(judged)) if on[i]]
    for i, point in enumerate(judged):
        if on[i]:
            rivals = dominated_by(worst[i], best) & (values != values[i]).any(
                axis=1
            )  # equal points are one design twice
            point.status, point.sure = "front", not rivals.any()
        elif by[i] >= 0:
            point.status, point.note = "dominated", f"certainly, by {judged[by[i]].name}"
        else:
            other = next(j for j in some if dominated_by(values[i], values[j : j + 1])[0])
            point.status, point.note = "dominated", f"by the value, not by the whole interval, of {judged[other].name}"


def knee(space: Space, points: Sequence[Point]) -> Point | None:
    """Return the point of the front nearest to the best value of each objective; None if the front has fewer than three."""
    on = by_knee(space, points)
    return on[0] if len(on) >= 3 else None


def by_knee(space: Space, points: Sequence[Point]) -> list[Point]:
    """Return the front, the points nearest to the best value of each objective first, on logarithmic axes.

    Branke et al., Finding Knees in Multi-Objective Optimization, 2004, discusses such rules.
    """
    import numpy as np

    on = [p for p in points if p.status == "front"]
    values = badness(space, on)[1]
    scaled = np.empty_like(values)
    for j in range(values.shape[1]):
        x = values[:, j]
        x = np.log(x) if (x > 0).all() else x
        spread = x.max() - x.min()
        scaled[:, j] = (x - x.min()) / spread if spread > 0 and np.isfinite(spread) else 0.0
    return [on[i] for i in np.argsort((scaled**2).sum(axis=1), kind="stable")]
