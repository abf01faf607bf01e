"""Readings: figures as numbers with intervals, ready to be compared with one another and with the bounds of a claim.

A figure that is not finite reads as an infinity, and a signed figure of which only the magnitude counts as its magnitude.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import inf, isfinite, isinf, nan

from codesign.figures.figure import Alternative, Figure
from codesign.figures.metric import Metric, metric_named
from codesign.proposal.proposal import Claim, Variant

Ends = tuple[float, float]


@dataclass(frozen=True)
class Reading:
    """A number with its interval."""

    value: float
    """Number; NaN for a comparison of two figures that are both not finite."""
    ends: Ends | None
    """Ends of the interval; None for too few samples."""

    @classmethod
    def point(cls, value: float) -> Reading:
        """Return a number whose interval is a point."""
        return cls(value, (value, value))

    def magnitude(self) -> Reading:
        """Return the reading of the absolute value; an interval that holds zero then starts at zero."""
        if self.ends is None:
            return Reading(abs(self.value), None)
        low, high = self.ends
        return Reading(abs(self.value), (max(low, -high, 0.0), max(-low, high)))


@dataclass(frozen=True)
class Measured:
    """A figure that a claim covers, with its reading."""

    figure: Figure
    reading: Reading
    certain: bool = False
    """True if the figure is infinite because an output is; another sample cannot change that."""


# -- of one figure ---------------------------------------------------------------------------------------------------


def read(figure: Figure) -> Reading:
    """Return the reading of a figure; one that is not finite is infinitely bad, as a point."""
    return _read(metric_named(figure.metric), figure.value, figure.low, figure.high)


def read_case(case: Alternative, figure: Figure) -> Reading:
    """Return the reading of a figure in another case, with that case's interval if it was sampled."""
    return _read(metric_named(figure.metric), case.value, case.low, case.high)


def _read(metric: Metric, value: float | None, low: float | None, high: float | None) -> Reading:
    if value is None:
        return Reading.point(-inf if metric.better == "higher" else inf)
    if low is not None:
        found = Reading(value, (low, inf if high is None else high))
    else:
        found = Reading(value, None) if metric.sampled else Reading.point(value)
    return found.magnitude() if metric.signed else found


# -- of two ----------------------------------------------------------------------------------------------------------


def ratio(own: Reading, other: Reading) -> Reading:
    """Return the ratio of two magnitudes: 1 if both are zero, infinite if only `other` is zero, NaN if neither is finite."""
    value = _over(own.value, other.value)
    if isinf(own.value) or isinf(other.value) or own.value == other.value == 0:
        return Reading.point(value)
    if own.ends is None or other.ends is None:
        return Reading(value, None)
    low = 0.0 if own.ends[0] == 0 else _over(own.ends[0], other.ends[1])
    high = 0.0 if own.ends[1] == 0 else _over(own.ends[1], other.ends[0])
    return Reading(value, (low, high))


def difference(own: Reading, other: Reading) -> Reading:
    """Return the difference of two numbers; NaN if neither is finite."""
    value = own.value - other.value
    if not isfinite(value):
        return Reading.point(value)
    if own.ends is None or other.ends is None:
        return Reading(value, None)
    return Reading(value, (own.ends[0] - other.ends[1], own.ends[1] - other.ends[0]))


def _over(x: float, y: float) -> float:
    if y == 0:
        return 1.0 if x == 0 else inf
    return x / y


def counterpart(variant: str, figure: Figure, figures: Iterable[Figure], metric: str = "") -> Figure | None:
    """Return a variant's figure of the same metric, or of `metric`, at the same place; None if there is none."""
    wanted = (metric or figure.metric, figure.workload, figure.tensors, variant, None)
    return next((f for f in figures if (f.metric, f.workload, f.tensors, f.variant, f.at) == wanted), None)


def relative(base: Variant, figure: Figure, figures: Iterable[Figure]) -> tuple[Figure, Reading] | None:
    """Return the comparison of a figure with another variant's, as a figure and a reading; None if that variant has none.

    The interval is the paired one if the evidence has it. For figures counted under the same assumptions, it spans the
    comparisons under each of them. Otherwise it is the widest that the two intervals allow.
    """
    other = counterpart(base, figure, figures)
    if other is None:
        return None
    metric = metric_named(figure.metric)
    compared = difference if metric.comparison == "difference" else ratio
    found = compared(read(figure), read(other))
    low, high = figure.ratios.get(base, (None, None))
    if low is not None and isfinite(found.value):
        found = Reading(found.value, (low, inf if high is None else high))
        found = found.magnitude() if metric.signed else found
    mine, theirs = ({(c.assumption, c.other): read_case(c, f) for c in f.alternatives} for f in (figure, other))
    cases = {
        key: compared(mine.get(key, read(figure)), theirs.get(key, read(other)))
        for key in dict.fromkeys((*mine, *theirs))
    }
    if not metric.sampled and cases:
        values = [found.value, *(c.value for c in cases.values())]
        found = Reading(found.value, (min(values), max(values)))
    alternatives = tuple(Alternative(assumption=a, other=o, value=_shown(c.value)) for (a, o), c in cases.items())
    return _against(figure, other, found, alternatives), found


def _against(figure: Figure, other: Figure, found: Reading, cases: tuple[Alternative, ...]) -> Figure:
    """Return a comparison of two figures as a figure."""
    words = "difference from" if metric_named(figure.metric).comparison == "difference" else "ratio to"
    of = "not finite" if other.value is None else f"{other.value:g}"
    low, high = found.ends or (nan, nan)
    return figure.model_copy(
        update={
            "value": _shown(found.value),
            "low": _shown(low),
            "high": _shown(high),
            "ratios": {},
            "alternatives": cases,
            "source": f"{figure.source}; {words} {other.variant} ({of})",
        }
    )


def _shown(x: float) -> float | None:
    """Return a number to six significant digits; None for infinities and NaN."""
    return float(f"{x:.6g}") if isfinite(x) else None


# -- against a bound -------------------------------------------------------------------------------------------------


def excess(claim: Claim, value: float) -> float:
    """Return the distance by which a number breaks the claim's bounds; negative or zero if it keeps them. NaN breaks none."""
    if value != value:
        return -inf
    over = value - claim.at_most if claim.at_most is not None else -inf
    under = claim.at_least - value if claim.at_least is not None else -inf
    return max(over, under)


def farthest(claim: Claim, found: Reading) -> float:
    """Return the excess of the worse end of the interval, or of the value without one."""
    return max(excess(claim, end) for end in found.ends or (found.value,))


def nearest(claim: Claim, found: Reading) -> float:
    """Return the excess of the better end of the interval, or of the value without one; positive if all breaks a bound."""
    low, high = found.ends or (found.value, found.value)
    over = low - claim.at_most if claim.at_most is not None else -inf
    under = claim.at_least - high if claim.at_least is not None else -inf
    return max(over, under)


def decided(found: Reading) -> bool:
    """Return whether there is an interval."""
    return found.ends is not None and found.value == found.value


def keeps(claim: Claim, found: Reading) -> bool:
    """Return whether the whole interval meets the bounds."""
    return decided(found) and farthest(claim, found) <= 0


def breaks(claim: Claim, found: Reading) -> bool:
    """Return whether the whole interval breaks a bound."""
    return decided(found) and nearest(claim, found) > 0
