"""Search: which points are computed, with how much evidence, and which are ruled out before.

1. Points: all of a space that fits the budget; of a larger one those that Optuna proposes, a generation at a time.
2. Kinds of evidence that take no samples come first. A point that breaks a bound there gets no samples.
3. With `screen`, the others get few seeds. A point whose whole intervals another one beats, or that certainly breaks a bound,
   gets no more.
4. The rest gets all seeds.
5. With `budget.synthesis`, units of points on the front whose cost is predicted are synthesised, and all points are judged
   again from step 3, until the front has no such point or the budget is spent.

Nothing of this depends on when a result arrives. A search that was killed is run again from its seed and finds the same points,
whose results are there already. That replaces a storage of the search's own state, which could not restore its random numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from importlib.util import find_spec
from random import Random
from typing import Any

from codesign.evidence.sampling import Sampling
from codesign.explore.points import JUDGED, Point, badness, beaten, broken, judge, known
from codesign.explore.run import Round, Runner
from codesign.explore.space import MOST_COUNTED, Base, Settings, Space
from codesign.explore.task import CHEAP, SYNTHESIS
from codesign.figures.metric import kind_of
from isa_model.diagnostics import InputError, Unavailable

AT_RANDOM = 24
"""Points drawn at random before the search learns from them."""
MOST_GAUSSIAN = 250
"""Largest budget for which Gaussian processes propose points: the time of a proposal grows with the points before it."""
MOST_ASKED = 20
"""Times the budget that a search may propose points, known ones and impossible ones included."""
MOST_IN_VAIN = 2000
"""Points that a search draws in vain before it gives up."""
Phase = Callable[[str, int, int], None]


class Search:
    """A search of a space, and what it knows of the points visited so far."""

    def __init__(self, space: Space, base: Base, runner: Runner, phase: Phase = lambda name, done, total: None) -> None:
        self.space, self.base, self.runner, self.phase = space, base, runner, phase
        self.points: dict[tuple[Any, ...], Point] = {}
        self._synthesised: set[tuple[Any, ...]] = set()

    def run(self) -> list[Point]:
        """Compute and judge the points; return them in the order of the axes' values.

        Raises as `Runner.complete` does, and Unavailable if units are to be synthesised without the extra `cost`.
        """
        if self.space.budget.synthesis and (missing := [name for name in SYNTHESIS if find_spec(name) is None]):
            message = f"budget.synthesis needs {' and '.join(missing)}"
            raise Unavailable(f"{message}: pip install 'codesign[cost]', or leave budget.synthesis out")
        if self.space.size <= self.space.budget.points or self._fits():
            self.visit(list(self.space.points()))
        else:
            propose(self.space, self.visit)
        self._judge()
        while self._synthesise():
            self._judge()
        place = {name: {v: i for i, v in enumerate(axis.choices)} for name, axis in self.space.axes.items()}
        return sorted(self.points.values(), key=lambda p: [place[name][v] for name, v in p.settings.items()])

    def _fits(self) -> bool:
        """Return whether the points that keep the conditions fit the budget, as far as they can be counted."""
        return self.space.size <= MOST_COUNTED and all(
            i < self.space.budget.points for i, _ in enumerate(self.space.points())
        )

    def visit(self, settings: Sequence[Settings]) -> list[Point]:
        """Return the points with their first evidence: without samples, then screened or, without screening, in full."""
        kinds = {kind_of(o.metric) for o in self.space.objectives.values()}
        cheap, sampled = sorted(kinds & set(CHEAP)), sorted(kinds - set(CHEAP))
        first = self.space.screening or self.space.sampling
        if cheap and sampled:
            self._compute("bounds and costs", settings, first, cheap)
            told = self._known(settings, first)
            settings_of_samples = [s for s, p in zip(settings, told, strict=True) if not self._ruled_out(p)]
        else:
            settings_of_samples = list(settings)
        self._compute("screening" if self.space.screening else "sampling", settings_of_samples, first, sampled or cheap)
        points = self._known(settings, first)
        for point in points:
            self._ruled_out(point)
            self.points[tuple(point.settings.values())] = point
        return points

    def _ruled_out(self, point: Point) -> bool:
        """Return whether a point needs no more evidence, and note why."""
        if point.status == "not known" and (why := broken(self.space, point, certainly=True)):
            point.status, point.note = "breaks a bound", f"{why}; no more was computed"
        return point.status != "not known"

    def _judge(self) -> None:
        self._confirm()
        judge(self.space, list(self.points.values()))

    def _synthesise(self) -> bool:
        """Synthesise units of the front whose cost is predicted, within the budget; return whether there were any.

        All points are open again then: some that the prediction favoured may leave the front, and others join it.
        """
        left = self.space.budget.synthesis - len(self._synthesised)
        wanted = [
            values
            for values, p in self.points.items()
            if p.status == "front" and values not in self._synthesised and any(v.predicted for v in p.values.values())
        ][:left]
        if not wanted:
            return False
        self._synthesised |= set(wanted)
        settings = [self.points[values].settings for values in wanted]
        self._compute("synthesis", settings, self.space.sampling, ("cost",), synthesis=True)
        self.points |= zip(wanted, self._known(settings, self.space.sampling), strict=True)
        for point in self.points.values():
            if point.status in JUDGED:
                point.status, point.note, point.sure = "not known", "", False
                self._ruled_out(point)
        return True

    def _confirm(self) -> None:
        """Compute all seeds for the screened points that may still be on the front."""
        screened = self.space.screening
        if screened is None:
            return
        open_points = [
            p for p in self.points.values() if p.status == "not known" and len(p.values) == len(self.space.objectives)
        ]
        if not open_points:
            return
        best, _, worst = badness(self.space, open_points)
        by = beaten(best, worst)
        for point, other in zip(open_points, by, strict=True):
            if other >= 0 and point.seeds < self.space.seeds:
                point.status = "screened out"
                point.note = f"certainly dominated by {open_points[other].name} with {len(screened.seeds)} seeds"
        left = [p.settings for p in open_points if p.status == "not known"]
        self._compute("all seeds", left, self.space.sampling, ())
        for point in self._known(left, self.space.sampling):
            self.points[tuple(point.settings.values())] = point

    def _compute(
        self,
        name: str,
        settings: Sequence[Settings],
        sampling: Sampling,
        kinds: Sequence[str],
        synthesis: bool = False,
    ) -> None:
        self.phase(name, 0, 0)
        self.runner.tell = lambda done, total: self.phase(name, done, total)
        points = tuple(tuple(s.values()) for s in settings)
        about = {"seeds": len(sampling.seeds), "kinds": tuple(kinds), "synthesis": synthesis}
        self.runner.complete(Round(space=self.space, base=self.base, points=points, **about))

    def _known(self, settings: Sequence[Settings], sampling: Sampling) -> list[Point]:
        about = sampling, self.runner.store.results, self.runner.failed
        return [known(self.space, self.base, s, *about, tuple(s.values()) in self._synthesised) for s in settings]


def propose(space: Space, visit: Callable[[Sequence[Settings]], list[Point]]) -> None:
    """Visit points that Optuna proposes until the budget is spent: by Gaussian processes, or by TPE if the budget is large.

    Objectives are minimised together, by the hypervolume that a point is expected to add (Daulton et al., NeurIPS 2020), or by
    tree-structured Parzen estimators (Ozaki et al., JAIR 73, 2022); a point that breaks a bound loses to one that does not.
    Raises Unavailable without the extra `explore`, InputError if no point drawn keeps the conditions.
    """
    import numpy as np

    gaussian = space.budget.points <= MOST_GAUSSIAN
    if missing := [name for name in ("optuna", *("scipy", "torch") * gaussian) if find_spec(name) is None]:
        message = f"a space of {space.size} points is over its budget of {space.budget.points} and needs a search"
        hint = "pip install 'codesign[explore]', or raise budget.points"
        raise Unavailable(f"{message}, which needs {' and '.join(missing)}: {hint}")
    from warnings import catch_warnings, simplefilter

    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    budget, seen = space.budget, dict[tuple[Any, ...], Point]()
    at_random = max(AT_RANDOM, budget.generation)
    with catch_warnings():
        simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler = (
            optuna.samplers.GPSampler(seed=budget.seed, n_startup_trials=at_random)
            if gaussian
            else optuna.samplers.TPESampler(
                seed=budget.seed,
                n_startup_trials=at_random,
                multivariate=True,  # axes act together
                constant_liar=True,  # points of a generation keep away from each other
            )
        )
    study = optuna.create_study(directions=["minimize"] * len(space.objectives), sampler=sampler)
    choices: dict[str, Any] = {
        name: optuna.distributions.IntDistribution(0, len(axis.choices) - 1)
        if axis.ordered
        else optuna.distributions.CategoricalDistribution(tuple(range(len(axis.choices))))
        for name, axis in space.axes.items()
    }
    rng, vain = Random(budget.seed), 0
    asked, most = 0, max(MOST_ASKED * budget.points, MOST_IN_VAIN)
    while len(seen) < budget.points and asked < most:
        trials: list[tuple[Any, dict[str, Any]]] = []
        while len(trials) < budget.generation and asked < most:
            asked += 1
            with _one_thread() if gaussian else nullcontext():
                trial = study.ask(choices)
            settings = {name: axis.choices[trial.params[name]] for name, axis in space.axes.items()}
            allowed = space.allows(settings)
            vain = 0 if allowed and tuple(settings.values()) not in seen else vain + 1
            if allowed:
                trials.append((trial, settings))
            else:
                study.tell(trial, state=optuna.trial.TrialState.FAIL)
            if gaussian and not (allowed and vain < budget.generation):  # the sampler would propose the same again
                study.enqueue_trial({name: rng.randrange(len(axis.choices)) for name, axis in space.axes.items()})
            if not trials and not seen and asked >= MOST_IN_VAIN:
                message = f"none of {asked} points drawn from {space.size} keeps the conditions of `where`"
                raise InputError.of(message, "conditions that more points keep, or axes with fewer values")
        fresh = {tuple(s.values()): s for _, s in trials if tuple(s.values()) not in seen}
        some = list(fresh.items())[: budget.points - len(seen)]
        seen |= dict(zip(dict(some), visit([s for _, s in some]), strict=True))
        for trial, settings in trials:
            point = seen.get(tuple(settings.values()))
            values = None if point is None else badness(space, [point])[1][0]
            if point is None or values is None or not (abs(values) < float("inf")).all():
                study.tell(trial, state=optuna.trial.TrialState.FAIL)
                continue
            trial.set_constraint("bounds", float(point.status != "not known"))
            # Gaussian processes fit logarithms better; this is one, with the value's sign.
            study.tell(trial, [float(v) for v in np.arcsinh(values * 1e12)])


@contextmanager
def _one_thread() -> Iterator[None]:
    """Let torch compute in one thread: the matrices of Gaussian processes are small here, and more threads only wait."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
