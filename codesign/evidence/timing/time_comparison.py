"""Comparison of total times between today's software and a proposal, with its uncertainty."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from math import exp, fsum, hypot, log, sqrt

from codesign.evidence.timing.model import Constants, Product, Stream
from codesign.evidence.timing.operations import TimedStep
from codesign.evidence.timing.ratio_errors import pair
from codesign.evidence.timing.times import Time, Timer
from codesign.figures.quantiles import Ends
from kernels.gemm.choose import choose, gpu_of


@dataclass(frozen=True)
class TimedPart:
    """An operation's time, which is a time `on` changed by the model."""

    step: TimedStep
    us: float
    on: Time
    """Measured or modelled time of today's operation."""
    changed: bool = False
    """True if the time is `on` times a modelled ratio."""
    reach: Ends = (1.0, 1.0)
    """Factors on the time that hold the true ratio to today's kernel in 95 % of cases; 1 if it is today's kernel."""


@dataclass(frozen=True)
class TimeComparison:
    """Timed operations of today's software and of the proposal."""

    old: tuple[TimedPart, ...]
    new: tuple[TimedPart, ...]

    def sums(
        self, product: int = 0, stream: int = 0, change: int = 0, old: int = 0, new: int = 0
    ) -> tuple[float, float]:
        """Return the total times of both sides in us, with each source of uncertainty at its low (-1) or high (1) end.

        Errors of the model are common to all products, all streams and all changes of both sides. Measured times vary
        independently on each side, except those of operations that are the same on both.
        """
        same = {p.step for p in self.old} & {p.step for p in self.new}

        def total(parts: Iterable[TimedPart], side: int) -> float:
            found = 0.0
            for p in parts:
                end = product if isinstance(p.step.operation, Product) else stream
                if p.on.kind == "measured":
                    end = old if p.step in same else side
                off = {-1: p.on.low, 0: p.on.us, 1: p.on.high}[end] / p.on.us
                found += p.step.times * p.us * off * {-1: p.reach[0], 0: 1.0, 1: p.reach[1]}[change]
            return found

        return total(self.old, old), total(self.new, new)

    def interval(self, of: Callable[[tuple[float, float]], float]) -> tuple[float, float, float]:
        """Return a quantity of the two sums and its interval. Independent uncertainties add in squares."""
        value = of(self.sums())
        causes = ("product", "stream", "change", "old", "new")
        ends = [[log(of(self.sums(**{cause: sign})) / value) for sign in (-1, 1)] for cause in causes]
        down, up = (sqrt(fsum(pick(0.0, *e) ** 2 for e in ends)) for pick in (min, max))
        return value, value * exp(-down), value * exp(up)


def compare(timer: Timer, old: Sequence[TimedStep], new: Sequence[TimedStep]) -> TimeComparison:
    """Time both sides.

    The time of a changed GEMM is that of today's GEMM times the modelled ratio of the two. If the change leaves out promotion,
    it is based on the timing twin instead, provided that this was measured and is faster than its kernel. A slower twin, on
    another tile or in another order of work, gives no upper bound on the gain.
    """
    roots = [replace(s.operation, taken=0) if isinstance(s.operation, Product) else s.operation for s in old]
    products = {
        (s.step, r.problem.groups, r.problem.m, r.problem.n, r.problem.k): r
        for s, r in zip(old, roots, strict=True)
        if isinstance(r, Product)
    }

    def part(s: TimedStep) -> TimedPart:
        x = s.operation
        if isinstance(x, Stream):
            found = timer.time(x)
            return TimedPart(s, found.us, found)
        root = products[s.step, x.problem.groups, x.problem.m, x.problem.n, x.problem.k]
        tile = choose(root.problem, gpu_of(timer.machine.gpu, timer.machine.sms))
        twin = replace(root, split_k=x.split_k, problem=replace(root.problem, promote=0))
        known: Ends = (1.0, 1.0)
        if not x.problem.promote and timer.row(twin) and timer.time(twin).us < timer.time(root).us:
            known, root = timer.ratios.of_chips(pair(root, twin)), twin
            if tile.split > 1:  # the kernels without scales do not split K, but the twin does
                x = min(x, replace(x, tile=replace(tile, promote=0)), key=timer.modelled)
        elif x.problem.promote != root.problem.promote:
            # The tile of today's kernel without promotion is always possible, too.
            x = min(x, replace(x, tile=replace(tile, promote=0, depth=1)), key=timer.modelled)
        elif x.taken:
            x = replace(x, tile=tile)
        found = timer.time(root)
        us = found.us * timer.modelled(x) / timer.modelled(root)
        return TimedPart(replace(s, operation=x), us, found, x != root, _reach(timer, x, root, known))

    return TimeComparison(tuple(map(part, old)), tuple(map(part, new)))


def _reach(timer: Timer, x: Product, root: Product, known: Ends) -> Ends:
    """Return the factors on the time of a changed GEMM that hold the true one.

    For promotion or scales left out, they come from errors of ratios of kernels: of modelled ones, or of measured ones
    between chips (`known`, on the speedup to `root`). For a slower unit or fewer SMs, they are those of a time, but at most the
    change itself. Wider operands may cost nothing, since no kernel shows what limits their path. These and a faster unit may
    also wait for operands that reach the SMs no faster than in any measured kernel, every read of a line costing L2 the same.
    """
    if x == root:
        return 1 / known[1], 1 / known[0]
    narrow = replace(x, widths=root.widths)
    same = replace(narrow, clocks=root.clocks, taken=root.taken)
    modelled = timer.ratios.of_model(pair(root, same)) if replace(same, tile=root.tile) != root else (1.0, 1.0)
    rest = min(log(timer.fit.reach.product), abs(log(timer.modelled(narrow) / timer.modelled(same))))
    wider = log(timer.modelled(x) / timer.modelled(narrow))
    fed = log(timer.at_measured_feed(x) / timer.at_measured_feed(same)) - log(timer.modelled(x) / timer.modelled(same))
    ends = (known[1], modelled[1], wider), (known[0], modelled[0], max(fed, 0.0))
    faster, slower = (hypot(log(chips), log(model), rest, feed) for chips, model, feed in ends)
    return exp(-faster), exp(slower)


def modelled(
    timer: Timer,
    compared: TimeComparison,
    constants: Constants,
    change: Callable[[Product], Product] = lambda x: x,
    old: bool = True,
) -> float:
    """Return the modelled speedup with other constants, or with products changed on the new side and, if `old`, on both."""

    def total(parts: Iterable[TimedPart], changes: bool) -> float:
        found = 0.0
        for p in parts:
            x = p.step.operation
            x = change(x) if changes and isinstance(x, Product) else x
            # Each part is scaled by its modelled change, so that measured parts keep their weight.
            found += p.step.times * p.us * timer.modelled(x, constants) / timer.modelled(p.step.operation)
        return found

    return total(compared.old, old) / total(compared.new, True)
