"""Break-even: the cheapest value of one of the proposal's own parameters that keeps a claim."""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from typing import Any, Protocol, TypeVar

from codesign.figures.figure import BreakEven, Figure
from codesign.figures.metric import metric_named
from codesign.proposal.proposal import Claim, Proposal, Value
from codesign.verdicts.readings import Reading, excess, keeps
from isa_model.instruction import Instruction

Item = TypeVar("Item")

BITS = (1, 40)
"""Range of fraction bits searched."""
GROUPS = (512, 256, 128, 64, 32, 16)
"""Lengths of scale groups searched, the coarsest and cheapest first."""
LOG_BITS = range(3, 17)
"""Bits of LogFMT searched."""


class HasReading(Protocol):
    """A figure and the numbers read from it."""

    @property
    def figure(self) -> Figure: ...

    @property
    def reading(self) -> Reading: ...


def cheapest(order: Sequence[Item], holds: Collection[Item]) -> Item | None:
    """Return the first of the values, in the order from worse to better, from which on all better ones hold."""
    limit = None
    for value in reversed(order):
        if value not in holds:
            break
        limit = value
    return limit


def rising(claim: Claim) -> bool:
    """Return whether more of a parameter (more bits) helps the claim: accuracy grows with it, and so does cost.

    A claim that bounds a quantity from its good side, such as "the error is at least 2 %", is helped by less.
    """
    metric = metric_named(claim.metric)
    usual, other = (claim.at_least, claim.at_most) if metric.better == "higher" else (claim.at_most, claim.at_least)
    return metric.dearer == (usual is None and other is not None)


# -- over the values of a sweep --------------------------------------------------------------------------------------


def swept(proposal: Proposal, claim: Claim, covered: Callable[[Claim], Sequence[HasReading]]) -> tuple[BreakEven, ...]:
    """Return which values of the swept field keep the claim, on each tensor source of its own.

    `covered` gives the figures that a claim covers.
    """
    if proposal.sweep is None or claim.of != "proposal" or not metric_named(claim.metric).swept:
        return ()
    by_value = {v: covered(claim.model_copy(update={"at": v})) for v in proposal.sweep.values}
    own = _swept_value(proposal) if claim.at is None else claim.at
    sources = dict.fromkeys(m.figure.tensors for found in by_value.values() for m in found)
    return tuple(
        _of_values(
            proposal.sweep.field,
            own,
            claim,
            {v: there for v, found in by_value.items() if (there := [m for m in found if m.figure.tensors == source])},
            f"{source} data" if source else "",
        )
        for source in sources
    )


def _of_values(parameter: str, own: Value, claim: Claim, by_value: dict[Value, list[Any]], condition: str) -> BreakEven:
    """Return the break-even from the figures at each value; the worst figure of a value counts."""
    up = rising(claim)
    holds = [v for v, found in by_value.items() if all(keeps(claim, m.reading) for m in found)]
    numbers = [v for v in by_value if not isinstance(v, str)]
    order: list[Value] = sorted(numbers, reverse=not up) if len(numbers) == len(by_value) else []
    shown: list[Value] = sorted(numbers) if order else list(by_value)
    worst = {v: max(found, key=lambda m: excess(claim, m.reading.value)) for v, found in by_value.items()}
    return BreakEven(
        parameter=parameter,
        own=own,
        limit=cheapest(order, holds),
        tried={str(v): worst[v].figure.value for v in shown},
        holds=tuple(str(v) for v in shown if v in holds),
        condition=condition,
        rising=up,
    )


def _swept_value(proposal: Proposal) -> Value:
    """Return the proposal's own value of the swept field."""
    node: Any = proposal.proposed().model_dump(mode="json")
    assert proposal.sweep is not None
    for step in proposal.sweep.field.split("."):
        node = node[step]
    return node if isinstance(node, int | float | str) else str(node)


# -- by search -------------------------------------------------------------------------------------------------------

Search = Generator[int, HasReading, BreakEven]
"""Generator that yields a value to try and is sent its figure."""


def fewest(parameter: str, own: Value, claim: Claim, condition: str, ends: tuple[int, int] = BITS) -> Search:
    """Search the least number that keeps the claim, by bisection.

    More fraction bits never make the sums worse by more than the interval says; so what lies beyond a number that keeps the
    bound is taken to keep it, too.
    """
    tried: dict[int, HasReading] = {}
    low, high = ends
    limit = None
    tried[high] = yield high
    if keeps(claim, tried[high].reading):
        while low < high:
            middle = (low + high) // 2
            tried[middle] = yield middle
            low, high = (low, middle) if keeps(claim, tried[middle].reading) else (middle + 1, high)
        limit = low
    ordered = {n: tried[n] for n in sorted(tried)}
    return BreakEven(
        parameter=parameter,
        own=own,
        limit=limit,
        tried={str(n): found.figure.value for n, found in ordered.items()},
        holds=tuple(str(n) for n, found in ordered.items() if keeps(claim, found.reading)),
        among=f"{ends[0]} to {ends[1]}",
        condition=condition,
    )


def each(parameter: str, own: Value, claim: Claim, condition: str, values: Sequence[int], up: bool) -> Search:
    """Try every value and find the cheapest from which on all better ones keep the claim; `up`: larger ones are better."""
    found: dict[int, HasReading] = {}
    for value in values:
        found[value] = yield value
    holds = [v for v, there in found.items() if keeps(claim, there.reading)]
    ordered = sorted(found)
    return BreakEven(
        parameter=parameter,
        own=own,
        limit=cheapest(ordered if up else ordered[::-1], holds),
        tried={str(v): found[v].figure.value for v in ordered},
        holds=tuple(str(v) for v in ordered if v in holds),
        condition=condition,
        rising=up,
    )


def with_groups(instruction: Instruction, length: int) -> Instruction | None:
    """Return the instruction with scale groups of another length along K on both sides; None where the stages forbid it."""
    from pydantic import ValidationError

    spec = instruction.model_dump(mode="json")
    spec["scale"]["a"]["group"][1] = spec["scale"]["b"]["group"][0] = length
    try:
        return Instruction.model_validate(spec)
    except ValidationError:
        return None


# -- in words --------------------------------------------------------------------------------------------------------


def sentences(found: Sequence[BreakEven]) -> Iterator[str]:
    """Yield a sentence for each parameter, over all conditions of which the same is known in the same form."""
    for one in found:
        where = f" on {one.condition}" if one.condition else ""
        own = "as it is here" if one.limit == one.own else f"here it is {one.own}"
        tried = list(one.tried)
        if one.limit is not None:
            least = "least" if one.rising else "most"
            others = [t for t in one.holds if _beyond(t, one)]
            gap = (
                f"; {listed(others)} {'keeps' if len(others) == 1 else 'keep'} it too, but not all between do"
                if others
                else ""
            )
            yield f"{one.parameter}: {one.limit} is the {least} that keeps the bound{where}, {own}{gap}"
        elif one.holds:
            worse = [t for t in tried if t not in one.holds]
            yield f"{one.parameter}: {listed(one.holds)} would keep the bound{where}, {listed(worse)} would not; {own}"
        else:
            among = one.among or (f"{tried[0]} to {tried[-1]}" if len(tried) > 1 else tried[0])
            yield f"{one.parameter}: none of {among} would keep the bound{where}"


def _beyond(value: str, found: BreakEven) -> bool:
    """Whether a value that holds lies on the worse side of the limit, over a gap."""
    number, limit = float(value), float(str(found.limit))
    return number < limit if found.rising else number > limit


def listed(words: Sequence[str]) -> str:
    """Return words as a list in a sentence."""
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]])) if words else ""
