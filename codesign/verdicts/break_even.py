"""Break-even: the cheapest value of one of the proposal's own parameters that keeps a claim."""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from codesign.evidence.source import Search
from codesign.figures.metric import metric_named
from codesign.figures.words import listed
from codesign.proposal.proposal import Claim, Proposal, Value
from codesign.verdicts.readings import Measured, excess, keeps
from codesign.verdicts.verdict import BreakEven

Item = TypeVar("Item")


OWN = "own"
"""Name of the proposal's own value where a sweep has named changes, none of which it need be."""


def cheapest(order: Sequence[Item], holds: Collection[Item]) -> Item | None:
    """Return the first value, in the order from worse to better, that holds together with all better ones; None for none."""
    limit = None
    for value in reversed(order):
        if value not in holds:
            break
        limit = value
    return limit


def rising(claim: Claim) -> bool:
    """Return whether a larger parameter (more bits) helps the claim: it raises accuracy, and cost.

    A claim with a bound on the good side, such as "the error is at least 2 %", is helped by a smaller one.
    """
    metric = metric_named(claim.metric)
    usual, other = (claim.at_least, claim.at_most) if metric.better == "higher" else (claim.at_most, claim.at_least)
    return metric.dearer == (usual is None and other is not None)


# -- over the values of a sweep --------------------------------------------------------------------------------------


def swept(proposal: Proposal, claim: Claim, covered: Callable[[Claim], Sequence[Measured]]) -> tuple[BreakEven, ...]:
    """Return the break-even of the swept field, separately for each tensor source.

    `covered` returns the figures that a claim covers.
    """
    if proposal.sweep is None:
        return ()
    by_value = {v: covered(claim.model_copy(update={"at": v})) for v in proposal.swept}
    own = _swept_value(proposal) if claim.at is None else claim.at
    sources = dict.fromkeys(m.figure.tensors for found in by_value.values() for m in found)
    return tuple(
        _of_values(
            proposal.sweep.about,
            own,
            claim,
            {v: there for v, found in by_value.items() if (there := [m for m in found if m.figure.tensors == source])},
            f"{source} data" if source else "",
        )
        for source in sources
    )


def _of_values(
    parameter: str, own: Value, claim: Claim, by_value: dict[Value, list[Measured]], condition: str
) -> BreakEven:
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
    """Return the proposal's own value of the swept field, or, of changes and two sweeps, a name for what `change` says."""
    node: Any = proposal.proposed().model_dump(mode="json")
    assert proposal.sweep is not None
    if proposal.sweep.field is None or proposal.sweep.across is not None:
        return OWN
    for step in proposal.sweep.field.split("."):
        node = node[step]
    return node if isinstance(node, int | float | str) else str(node)


# -- by search -------------------------------------------------------------------------------------------------------

Trying = Generator[int, Measured, BreakEven]
"""Generator that yields a value to try and is sent its figure."""


def fewest(claim: Claim, search: Search) -> Trying:
    """Bisect the values of a search for the first one that keeps the claim.

    If the last value does not, the proposal's own is tried, too: where a narrow register rounds each sum, more bits in front of
    it can make sums worse.
    """
    tried: dict[int, Measured] = {}
    values = search.values
    low, high = 0, len(values) - 1
    limit = None
    tried[values[high]] = yield values[high]
    if keeps(claim, tried[values[high]].reading):
        while low < high:
            middle = (low + high) // 2
            tried[values[middle]] = yield values[middle]
            low, high = (low, middle) if keeps(claim, tried[values[middle]].reading) else (middle + 1, high)
        limit = values[low]
    elif isinstance(search.own, int) and search.own in values[:high]:
        tried[search.own] = yield search.own
    return _of_search(claim, search, tried, limit, f"{min(values)} to {max(values)}")


def each(claim: Claim, search: Search) -> Trying:
    """Try every value of a search; the break-even is the cheapest one that keeps the claim together with all better ones."""
    tried: dict[int, Measured] = {}
    for value in search.values:
        tried[value] = yield value
    order = sorted(tried, reverse=not search.rising)
    limit = cheapest(order, [n for n, found in tried.items() if keeps(claim, found.reading)])
    return _of_search(claim, search, tried, limit)


def _of_search(
    claim: Claim, search: Search, tried: Mapping[int, Measured], limit: int | None, among: str = ""
) -> BreakEven:
    ordered = {n: tried[n] for n in sorted(tried)}
    return BreakEven(
        parameter=search.parameter,
        own=search.own,
        limit=limit,
        tried={str(n): found.figure.value for n, found in ordered.items()},
        holds=tuple(str(n) for n, found in ordered.items() if keeps(claim, found.reading)),
        among=among,
        condition=search.condition,
        rising=search.rising,
    )


# -- in words --------------------------------------------------------------------------------------------------------


def sentences(found: Sequence[BreakEven]) -> Iterator[str]:
    """Yield a sentence for each parameter and condition."""
    for one in found:
        where = f" on {one.condition}" if one.condition else ""
        own = "the proposal's own value" if one.limit == one.own else f"the proposal has {one.own}"
        tried = list(one.tried)
        if one.limit is not None:
            least = "least" if one.rising else "most"
            others = [t for t in one.holds if _beyond(t, one)]
            gap = (
                f"; {listed(others)} {'meets' if len(others) == 1 else 'meet'} it too, but not every value between does"
                if others
                else ""
            )
            yield f"{one.parameter}: {one.limit} is the {least} that meets the bound{where}, {own}{gap}"
        elif one.holds:
            worse = [t for t in tried if t not in one.holds]
            meet = "meets" if len(one.holds) == 1 else "meet"
            does = "does" if len(worse) == 1 else "do"
            said = "" if one.own == OWN else f"; {own}"
            yield f"{one.parameter}: {_named(one.holds)} {meet} the bound{where}, {_named(worse)} {does} not{said}"
        elif one.among or len(tried) == 1:
            of = f"tried of {one.among}" if one.among else "the only value tried"
            yield f"{one.parameter}: {listed(tried)}, {of}, {'does' if len(tried) == 1 else 'do'} not meet the bound{where}"
        else:
            yield f"{one.parameter}: no value from {tried[0]} to {tried[-1]} meets the bound{where}"


def _named(values: Sequence[str]) -> str:
    """Return values in words; the parts of a name of two sweeps, such as `17, e5m2`, are not among the commas between names."""
    return listed([value.replace(", ", " ") for value in values])


def _beyond(value: str, found: BreakEven) -> bool:
    """Return whether a value that holds lies on the worse side of the limit, beyond a gap."""
    number, limit = float(value), float(str(found.limit))
    return number < limit if found.rising else number > limit
