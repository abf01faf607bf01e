"""What a proposal takes off a whole layer's step, and the most it could: Amdahl's law, counted out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

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
from codesign.evidence.timing.step import KINDS, OTHERS, Assumptions, Layer, faster, layer, limit
from codesign.evidence.timing.sums import Comparison, compare
from codesign.evidence.timing.times import Timer
from codesign.evidence.traffic.count import Flow, Scheme
from codesign.figures.figure import Alternative
from codesign.proposal.proposal import Proposal
from codesign.workloads.gemms import Model
from isa_model.diagnostics import InputError

FRAMEWORK: Way = (Scheme(Flow(), Flow(), Flow(bits=8 + 32 / 128**2)), Multiply(scales=True, promote=4))
"""DeepSeek-V3's on Hopper: 1x128 and 128x128 groups with FP32 scales, promotion every 128 of K; FP8 dispatch, BF16 combine."""


def today(timer: Timer, model: Model) -> Layer:
    """A model's layer as the FP8 framework of DeepSeek-V3 has it. Raises LookupError without a measured BF16 ceiling."""
    steps = list(of_layer(model, FRAMEWORK, FRAMEWORK, ()))
    return layer(timer, model, compare(timer, steps, steps).old, FRAMEWORK[0], (), Assumptions())


@dataclass(frozen=True)
class Gain:
    """A layer's step with the software that a proposal names as today's, and with the proposal."""

    proposal: Proposal
    model: Model
    timer: Timer
    compared: Comparison
    """Comparison of the Linears."""

    def sides(self, assumed: Assumptions) -> tuple[Layer, Layer]:
        """The layer today and with the proposal."""
        old, new, _ = schemes_of(self.proposal)
        before = {s.at for s in self.proposal.software.path if not s.on_sms}
        after = {s.at for s in (self.proposal.path.steps if self.proposal.path else ()) if not s.on_sms}
        return (
            layer(self.timer, self.model, self.compared.old, old, before, assumed),
            layer(self.timer, self.model, self.compared.new, new, after, assumed),
        )

    @cached_property
    def layers(self) -> tuple[Layer, Layer]:
        """The same as assumed."""
        return self.sides(Assumptions())

    @cached_property
    def cases(self) -> tuple[tuple[str, str, tuple[Layer, Layer]], ...]:
        """Assumption, other case, and both sides there."""
        return tuple((a, other, self.sides(there)) for a, others in OTHERS.items() for other, there in others.items())

    @cached_property
    def speedup(self) -> tuple[float, float, float]:
        """The step today over the step with the proposal, and its ends: what is uncertain of the Linears' times, and every
        other case of what is assumed."""
        (old, new), whole = self.layers, self.compared.sums()
        value, low, high = self.compared.interval(
            lambda sums: old.total(sums[0] / whole[0]) / new.total(sums[1] / whole[1])
        )
        others = [a.total() / b.total() for _, _, (a, b) in self.cases]
        return value, min(low, *others), max(high, *others)

    @cached_property
    def ceiling(self) -> tuple[float, float, float]:
        """The step today over the step if all that the proposal makes faster took no time, and its ends. A speedup is never
        above it: no operation's time makes the step shorter by growing."""
        value = _ceiling(*self.layers)
        others = [_ceiling(*there) for _, _, there in self.cases]
        return value, min(value, *others), max(value, *others)

    @property
    def touched(self) -> dict[str, float]:
        """Microseconds of today's step that the proposal acts on, by kind of operation."""
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
        """Microseconds that the proposal takes off the step by kind of operation; negative where it adds."""
        old, new = (side.by_kind() for side in self.layers)
        return {kind: old[kind] - new[kind] for kind in old}

    def alternatives(self, of_linears: Iterable[Alternative]) -> Iterator[Alternative]:
        """The speedup in every other case: of what is assumed here, and of the Linears' speedup."""
        (old, new), whole = self.layers, self.compared.sums()
        for assumption, other, (a, b) in self.cases:
            yield Alternative(assumption=assumption, other=other, value=a.total() / b.total())
        for case in of_linears:
            if case.value:
                yield case.model_copy(update={"value": old.total() / new.total(whole[0] / case.value / whole[1])})


def gain(proposal: Proposal, model: Model, timer: Timer) -> Gain:
    """A proposal on one layer of a model, on the Linears that its workloads name.

    Raises InputError for a base without a timing model, or workloads that name none of the model's Linears.
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


def _ceiling(old: Layer, new: Layer) -> float:
    return old.total() / limit(old, new).total()
