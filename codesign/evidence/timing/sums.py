"""Operations added up on two sides, today's software and a proposal: times, their ratio, and what is uncertain of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from math import exp, fsum, hypot, log, sqrt

from codesign.evidence.timing.model import Constants, Product, Stream
from codesign.evidence.timing.operations import Step
from codesign.evidence.timing.times import Time, Timer
from kernels.gemm.choose import choose


@dataclass(frozen=True)
class Part:
    """An operation's time, with what is uncertain of it: the time it stands on, and whether the model has changed that."""

    step: Step
    us: float
    on: Time
    reach: float = 1.0
    """The factor that the modelled change is uncertain by; 1 where nothing is changed."""


@dataclass(frozen=True)
class Comparison:
    """The operations of today's software and of the proposal."""

    old: tuple[Part, ...]
    new: tuple[Part, ...]

    def sums(
        self, product: int = 0, stream: int = 0, change: int = 0, old: int = 0, new: int = 0
    ) -> tuple[float, float]:
        """Microseconds of both, with what they are uncertain by at its low (-1) or high (1) end. The model is off alike for all
        products, for all streams and for all changes, on both sides; what was measured varies on each side by itself, where it
        is not the same on both."""
        same = {p.step for p in self.old} & {p.step for p in self.new}

        def total(parts: Iterable[Part], side: int) -> float:
            found = 0.0
            for p in parts:
                end = product if isinstance(p.step.operation, Product) else stream
                if p.on.kind == "measured":
                    end = old if p.step in same else side
                off = {-1: p.on.low, 0: p.on.us, 1: p.on.high}[end] / p.on.us
                found += p.step.times * p.us * off * p.reach**change
            return found

        return total(self.old, old), total(self.new, new)

    def interval(self, of: Callable[[tuple[float, float]], float]) -> tuple[float, float, float]:
        """Something of the two sums, and its ends: what is uncertain for different reasons adds in squares."""
        value = of(self.sums())
        causes = ("product", "stream", "change", "old", "new")
        ends = [[log(of(self.sums(**{cause: sign})) / value) for sign in (-1, 1)] for cause in causes]
        down, up = (sqrt(fsum(pick(0.0, *e) ** 2 for e in ends)) for pick in (min, max))
        return value, value * exp(-down), value * exp(up)


def compare(timer: Timer, old: Sequence[Step], new: Sequence[Step]) -> Comparison:
    """Both sides' times. A GEMM that is not today's on all SMs stands on today's, by the modelled ratio of the two; one without
    promotion on the twin, where that was measured and is faster than its kernel. (On another tile, or in another order of the
    Tensor Core's work, it may be slower: it then says nothing of what leaving promotion out gains.)"""
    roots = [replace(s.operation, taken=0) if isinstance(s.operation, Product) else s.operation for s in old]
    products = {
        (s.step, r.problem.groups, r.problem.m, r.problem.n, r.problem.k): r
        for s, r in zip(old, roots, strict=True)
        if isinstance(r, Product)
    }

    def part(s: Step) -> Part:
        x = s.operation
        if isinstance(x, Stream):
            found = timer.time(x)
            return Part(s, found.us, found)
        root = products[s.step, x.problem.groups, x.problem.m, x.problem.n, x.problem.k]
        tile = choose(root.problem, timer.machine.sms)
        twin = replace(root, problem=replace(root.problem, promote=0))
        if not x.problem.promote and timer.row(twin) and timer.time(twin).us < timer.time(root).us:
            root = twin
        elif x.problem.promote != root.problem.promote:
            # It can always run on the tile of today's kernel, without its promotions.
            x = min(x, replace(x, tile=replace(tile, promote=0, depth=1)), key=timer.modelled)
        elif x.taken:
            x = replace(x, tile=tile)
        found = timer.time(root)
        us = found.us * timer.modelled(x) / timer.modelled(root)
        return Part(replace(s, operation=x), us, found, _reach(timer, x, root))

    return Comparison(tuple(map(part, old)), tuple(map(part, new)))


def _reach(timer: Timer, x: Product, root: Product) -> float:
    """How uncertain the modelled ratio of two GEMMs is. Of leaving promotion out, as kernels and their twins show; of a slower
    unit or fewer SMs as a time is, but by no more than they change; of wider operands, whose way into an SM may be wider than
    any kernel shows, by all that they change."""
    if x == root:
        return 1.0
    narrow = replace(x, widths=root.widths)
    known = replace(narrow, clocks=root.clocks, taken=root.taken)
    promotion = log(timer.fit.reach.speedup) if replace(known, tile=root.tile) != root else 0.0
    rest = min(log(timer.fit.reach.product), abs(log(timer.modelled(narrow) / timer.modelled(known))))
    return exp(hypot(promotion, rest, log(timer.modelled(x) / timer.modelled(narrow))))


def modelled(
    timer: Timer,
    compared: Comparison,
    constants: Constants,
    change: Callable[[Product], Product] = lambda x: x,
    old: bool = True,
) -> float:
    """The modelled speedup with other constants, or with products changed on both sides (or on the new one)."""

    def total(parts: Iterable[Part], changes: bool) -> float:
        found = 0.0
        for p in parts:
            x = p.step.operation
            x = change(x) if changes and isinstance(x, Product) else x
            # Each part by how the model says it changes, so that those which were measured keep their weight.
            found += p.step.times * p.us * timer.modelled(x, constants) / timer.modelled(p.step.operation)
        return found

    return total(compared.old, old) / total(compared.new, True)
