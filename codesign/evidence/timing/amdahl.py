"""The speedup of a whole layer's step by a proposal, and its ceiling by Amdahl's law."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

from codesign.evidence.timing.layer_step import KINDS, Assumptions, LayerStep, faster, layer, limit, others
from codesign.evidence.timing.operations import (
    NO_MODEL,
    Multiply,
    Way,
    meant,
    of_layer,
    proposed,
    schemes_of,
    software,
    supported,
)
from codesign.evidence.timing.time_comparison import TimeComparison, compare
from codesign.evidence.timing.times import Timer
from codesign.evidence.traffic.count import Flow, Scheme
from codesign.figures.figure import Alternative
from codesign.proposal.proposal import Proposal
from codesign.workloads.gemms import Model
from isa_model.diagnostics import InputError

FRAMEWORK: Way = (Scheme(Flow(), Flow(), Flow(bits=8 + 32 / 128**2)), Multiply(scales=True, promote=4))
"""DeepSeek-V3's software: FP32 scales of 1x128 and 128x128 groups, promotion every 128 of K, FP8 dispatch, BF16 combine."""


def today(timer: Timer, model: Model) -> LayerStep:
    """Return the step of a model's layer in DeepSeek-V3's FP8 framework. Raises LookupError if no BF16 ceiling was measured."""
    steps = list(of_layer(model, FRAMEWORK, FRAMEWORK, ()))
    return layer(timer, model, compare(timer, steps, steps).old, FRAMEWORK[0], (), Assumptions())


@dataclass(frozen=True)
class Gain:
    """A layer's step with a proposal and with the software that it is compared with."""

    proposal: Proposal
    model: Model
    timer: Timer
    compared: TimeComparison
    """TimeComparison of the Linears."""

    def sides(self, assumed: Assumptions) -> tuple[LayerStep, LayerStep]:
        """Return the layer's step today and with the proposal."""
        old, new, _ = schemes_of(self.proposal)
        before = {s.at for s in self.proposal.software.path if not s.on_sms}
        after = {s.at for s in (self.proposal.path.steps if self.proposal.path else ()) if not s.on_sms}
        return (
            layer(self.timer, self.model, self.compared.old, old, before, assumed),
            layer(self.timer, self.model, self.compared.new, new, after, assumed),
        )

    @cached_property
    def layers(self) -> tuple[LayerStep, LayerStep]:
        """The layer's step today and with the proposal, under the default assumptions."""
        return self.sides(Assumptions())

    @cached_property
    def cases(self) -> tuple[tuple[str, str, tuple[LayerStep, LayerStep]], ...]:
        """Each alternative assumption with its name, its value and both sides."""
        return tuple((a, other, self.sides(there)) for a, cases in others().items() for other, there in cases.items())

    @cached_property
    def speedup(self) -> tuple[float, float, float]:
        """Speedup of the step with its interval, which covers the uncertainty of times and every alternative assumption."""
        (old, new), whole = self.layers, self.compared.sums()
        value, low, high = self.compared.interval(
            lambda sums: old.total(sums[0] / whole[0]) / new.total(sums[1] / whole[1])
        )
        others = [a.total() / b.total() for _, _, (a, b) in self.cases]
        return value, min(low, *others), max(high, *others)

    @cached_property
    def ceiling(self) -> tuple[float, float, float]:
        """Speedup of the step if everything the proposal accelerates took no time, with its interval.

        No speedup exceeds it, since no operation makes the step shorter by taking longer.
        """
        value = _ceiling(*self.layers)
        others = [_ceiling(*there) for _, _, there in self.cases]
        return value, min(value, *others), max(value, *others)

    @property
    def touched(self) -> dict[str, float]:
        """Time of today's operations that the proposal accelerates, in us, by kind of operation."""
        old, new = self.layers
        found = faster(old, new)
        acted = dict.fromkeys(KINDS, 0.0)
        for w in old.work:
            if (w.name, w.of) in found:
                acted[w.kind] += w.us
        if any((t.name, t.of) in found for t in old.network):
            acted["network"] = old.network_adds
        return {kind: us for kind, us in acted.items() if us}

    @property
    def removed(self) -> dict[str, float]:
        """Time that the proposal saves, in us, by kind of operation; negative if it adds time."""
        old, new = (side.by_kind() for side in self.layers)
        return {kind: old[kind] - new[kind] for kind in old}

    def alternatives(self, of_linears: Iterable[Alternative]) -> Iterator[Alternative]:
        """Yield the speedup under every alternative assumption, on the step and on the speedup of its Linears."""
        (old, new), whole = self.layers, self.compared.sums()
        for assumption, other, (a, b) in self.cases:
            yield Alternative(assumption=assumption, other=other, value=a.total() / b.total())
        for case in of_linears:
            if case.value:
                yield case.model_copy(update={"value": old.total() / new.total(whole[0] / case.value / whole[1])})


def gain(proposal: Proposal, model: Model, timer: Timer) -> Gain:
    """Return the gain of a proposal on a layer of a model, for the Linears that its workloads name.

    Raises InputError if its base has no timing model, or its workloads name none of the model's Linears.
    """
    if not supported(proposal):
        raise InputError.of(f"`{proposal.proposal}` cannot be timed: {NO_MODEL}")
    old, new, plain = schemes_of(proposal)
    others: Way = (plain, software(proposal))
    about = meant(proposal, model)
    if not about:
        linears = ", ".join(linear.name for linear in model.linears)
        raise InputError.of(f"`{proposal.proposal}` is about no Linear of {model.name}", f"its Linears: {linears}")
    before = list(of_layer(model, (old, software(proposal)), others, about))
    after = list(of_layer(model, (new, proposed(proposal)), others, about))
    return Gain(proposal, model, timer, compare(timer, before, after))


def _ceiling(old: LayerStep, new: LayerStep) -> float:
    return old.total() / limit(old, new).total()
