"""A surrogate: Gaussian processes that predict the objectives of points not visited yet, to choose the next ones from.

Each objective has a process of its own over the axes (Rasmussen and Williams, Gaussian Processes for Machine Learning, 2006,
chapters 2 and 5): a Matérn 5/2 kernel along axes of numbers, one correlation between any two values of an axis of names. A
generation spreads along the front by random weights of the objectives (Knowles, ParEGO, IEEE TEC 10(1), 2006).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from codesign.explore.points import Point, badness, front
from codesign.explore.space import Space
from codesign.proposal.parts import Value

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]
    Indices = NDArray[np.int64]

MOST_LEARNED = 400
"""Most points that a process learns from: its time grows with their cube."""
MOST_CANDIDATES = 4000
"""Most points that a generation is chosen from."""
LENGTHS = (0.1, 0.3, 1.0, 3.0, 10.0)
"""Distances along an axis over which values are alike, in the length of the axis."""
NOISES = (1e-6, 1e-4, 1e-3, 1e-2, 1e-1)
"""Variances of what the axes do not explain, in that of the values."""
HOPES = (0.0, 1.0, 2.0, 3.0)
"""Standard deviations by which a value is taken to be better than predicted: the more, the further from known points."""
AGAIN = 1.25
"""Growth of the visited points after which lengths are chosen again."""


class Process:
    """A Gaussian process over the axes of a space."""

    def __init__(self, named: Sequence[bool]) -> None:
        """`named` tells of each axis whether its values are names."""
        self.named, self.lengths, self.noise = named, [1.0] * len(named), 1e-3

    def learn(self, x: Array, y: Array, choose: bool) -> None:
        """Learn values `y` of the points `x`; with `choose`, choose lengths and noise by their likelihood, one at a time."""
        self.mean, self.spread = y.mean(), y.std() or 1.0
        y = (y - self.mean) / self.spread
        if choose:
            best = self._likelihood(x, y)
            for where, options in (*((i, LENGTHS) for i in range(len(self.named))), (None, NOISES)):
                for option in options:
                    kept = self.lengths, self.noise
                    if where is None:
                        self.noise = option
                    else:
                        self.lengths = [*self.lengths[:where], option, *self.lengths[where + 1 :]]
                    found = self._likelihood(x, y)
                    if found > best + 1e-6:
                        best = found
                    else:
                        self.lengths, self.noise = kept
        self.x, self.inverse = x, np.linalg.inv(self._factor(x))
        z = self.inverse @ y
        self.variance, self.weights = z @ z / len(y), self.inverse.T @ z

    def predict(self, x: Array) -> tuple[Array, Array]:
        """Return mean and standard deviation of the value of each point."""
        k = self._kernel(x, self.x)
        left = 1 - ((k @ self.inverse.T) ** 2).sum(axis=1)
        deviation = np.sqrt(np.maximum(left, 0.0) * self.variance)
        return k @ self.weights * self.spread + self.mean, deviation * self.spread

    def _kernel(self, x: Array, y: Array) -> Array:
        found = np.ones((len(x), len(y)))
        for i, (named, length) in enumerate(zip(self.named, self.lengths, strict=True)):
            values, place = np.unique(x[:, i], return_inverse=True)  # few, however many points there are
            apart = np.abs(values[:, None] - y[:, i])
            d = apart * (np.sqrt(5) / length)
            alike = np.where(apart == 0, 1.0, np.exp(-1 / length)) if named else (1 + d + d * d / 3) * np.exp(-d)
            found *= alike[place]
        return found

    def _factor(self, x: Array) -> Array:
        return np.asarray(np.linalg.cholesky(self._kernel(x, x) + self.noise * np.eye(len(x))), np.float64)

    def _likelihood(self, x: Array, y: Array) -> float:
        """Return the logarithm of the likelihood, at the most likely variance, but for a constant."""
        factor = self._factor(x)
        z = np.linalg.solve(factor, y)
        return float(-0.5 * len(y) * np.log(z @ z / len(y)) - np.log(np.diag(factor)).sum())


class Surrogate:
    """What the visited points of a space say about the others."""

    def __init__(self, space: Space) -> None:
        self.space, self.rng = space, np.random.default_rng(space.budget.seed)
        self.axes = [axis.choices for axis in space.axes.values()]
        named = [not axis.ordered for axis in space.axes.values()]
        self.scale = np.array([1 if n else max(len(c) - 1, 1) for n, c in zip(named, self.axes, strict=True)])
        self.processes = [Process(named) for _ in space.objectives]
        self.chosen = 0
        """Visited points when lengths were last chosen."""
        self.all = self._allowed(_grid([len(c) for c in self.axes])) if space.size <= MOST_CANDIDATES else None

    def propose(self, seen: Mapping[tuple[Value, ...], Point], count: int) -> list[dict[str, int]]:
        """Return up to `count` points that were not visited, as the place of each axis's value; none if too few are known."""
        places = np.array([[c.index(v) for c, v in zip(self.axes, values, strict=True)] for values in seen])
        y = badness(self.space, list(seen.values()))[1]
        judged = [
            (i, np.array([name in p.values for p in seen.values()])) for i, name in enumerate(self.space.objectives)
        ]
        if any(np.isfinite(y[has, i]).sum() < 2 for i, has in judged):
            return []
        y, bounds = self._comparable(y)
        candidates = self._candidates(seen, places[_kept(y, bounds)])
        if not len(candidates):
            return []
        choose = len(seen) >= AGAIN * self.chosen
        self.chosen = len(seen) if choose else self.chosen
        mean, deviation = np.empty((2, len(candidates), len(judged)))
        for i, has in judged:
            some = self._learned(y[has])
            self.processes[i].learn(places[has][some] / self.scale, y[has][some, i], choose)
            mean[:, i], deviation[:, i] = self.processes[i].predict(candidates / self.scale)
        known = y[_kept(y, bounds)]
        taken: list[int] = []
        for _ in range(min(count, len(candidates))):
            hoped = mean - self.rng.choice(HOPES) * deviation
            broken = (hoped > bounds).any(axis=1)
            low = np.minimum(known.min(axis=0), hoped[~broken].min(axis=0, initial=np.inf))
            spread = known.max(axis=0) - low
            weighted = self.rng.dirichlet(np.ones(len(judged))) * (hoped - low) / np.where(spread > 0, spread, 1.0)
            score = weighted.max(axis=1) + 0.05 * weighted.sum(axis=1) + 1e6 * broken
            score[taken] = np.inf
            taken.append(int(np.round(score, 6).argmin()))  # so that rounding on another machine decides no tie
        return [dict(zip(self.space.axes, map(int, candidates[i]), strict=True)) for i in taken]

    def _comparable(self, y: Array) -> tuple[Array, Array]:
        """Return values and bounds, larger for worse: logarithms of what is positive, and the worst known one for infinity."""
        y, bounds = y.copy(), np.full(y.shape[1], np.inf)
        for i, objective in enumerate(self.space.objectives.values()):
            finite = np.isfinite(y[:, i])
            bound = objective.at_most if objective.at_most is not None else objective.at_least
            bounds[i] = np.inf if bound is None else objective.about.badness(bound)
            if (y[finite, i] > 0).all():
                y[finite, i] = np.log(y[finite, i])
                bounds[i] = np.log(bounds[i]) if bounds[i] > 0 else -np.inf
            y[~finite, i] = y[finite, i].max()
        return y, bounds

    def _learned(self, y: Array) -> Any:
        """Return which points a process learns from: all, or those on the front and some of the others."""
        if len(y) <= MOST_LEARNED:
            return np.arange(len(y))
        on = front(y).astype(bool)
        some, others = (self.rng.permutation(np.flatnonzero(x)) for x in (on, np.logical_not(on)))
        return np.sort(np.concatenate([some, others])[:MOST_LEARNED])

    def _candidates(self, seen: Mapping[tuple[Value, ...], Point], best: Indices) -> Indices:
        """Return new points that keep the conditions: all, or in a large space neighbours of the best and random ones."""
        found = self.all
        if found is None:
            drawn = [self.rng.integers(len(c), size=MOST_CANDIDATES) for c in self.axes]
            beside = [[*p[:i], j, *p[i + 1 :]] for p in best for i in range(len(p)) for j in self._beside(i, p[i])]
            rows = np.concatenate(
                [np.array(beside, dtype=np.int64).reshape(-1, len(self.axes)), np.stack(drawn, axis=1)]
            )
            found = self._allowed(np.unique(rows[:MOST_CANDIDATES], axis=0))
        fresh = [tuple(c[j] for c, j in zip(self.axes, row, strict=True)) not in seen for row in found]
        kept: Indices = found[np.array(fresh, dtype=bool)]
        return kept

    def _beside(self, axis: int, place: int) -> list[int]:
        """Return the places next to one on an axis of numbers, all others on an axis of names."""
        count = len(self.axes[axis])
        every = range(count) if self.processes[0].named[axis] else (place - 1, place + 1)
        return [j for j in every if 0 <= j < count and j != place]

    def _allowed(self, rows: Indices) -> Indices:
        if not self.space.where:
            return rows
        values = ([c[j] for c, j in zip(self.axes, row, strict=True)] for row in rows)
        kept: Indices = rows[[self.space.allows(dict(zip(self.space.axes, v, strict=True))) for v in values]]
        return kept


def _grid(counts: Sequence[int]) -> Indices:
    """Return every point of a space, the last axis fastest."""
    return np.stack(np.meshgrid(*map(np.arange, counts), indexing="ij"), axis=-1).reshape(-1, len(counts))


def _kept(y: Array, bounds: Array) -> Any:
    """Return the places of the front of points that keep the bounds; that of all points if none does."""
    ok = np.flatnonzero((y <= bounds).all(axis=1))
    ok = ok if len(ok) else np.arange(len(y))
    return ok[front(y[ok])]
