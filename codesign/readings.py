"""Figures as numbers that a bound is held against: infinities where they are not finite, magnitudes where a sign is no merit.

Nothing here knows of GEMMs or files: readings are made of figures, compared with one another, and held against a claim.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import inf, isfinite, isinf, log10, nan

from codesign.evidence import Alternative, Figure
from codesign.intervals import LOSSLESS
from codesign.metrics import METRICS, Metric
from codesign.proposal import Claim, Variant


@dataclass(frozen=True)
class Reading:
    """A number with its interval."""

    value: float
    """NaN: two figures that cannot be compared, as neither is finite."""
    low: float | None
    """Lower end of the interval; None, as `high`: too little was sampled for one."""
    high: float | None

    @classmethod
    def point(cls, value: float) -> Reading:
        """Return a number known without doubt."""
        return cls(value, value, value)

    def map(self, rule: Callable[[float], float]) -> Reading:
        """Return what a falling or rising function makes of it."""
        if self.low is None or self.high is None:
            return Reading(rule(self.value), None, None)
        low, high = rule(self.low), rule(self.high)
        return Reading(rule(self.value), min(low, high), max(low, high))

    def magnitude(self) -> Reading:
        """Return its size without its sign; an interval around zero starts there."""
        if self.low is None or self.high is None:
            return Reading(abs(self.value), None, None)
        ends = sorted((abs(self.low), abs(self.high)))
        return Reading(abs(self.value), 0.0 if self.low < 0 < self.high else ends[0], ends[1])


# -- of one figure ---------------------------------------------------------------------------------------------------


def read(figure: Figure, figures: Sequence[Figure] = ()) -> Reading:
    """Return a figure as numbers.

    One that is not finite is infinitely bad, and certainly so. Decibels are read from the error that they are of, where
    `figures` has it.
    """
    metric = METRICS[figure.metric]
    error = counterpart(figure, figures, metric=metric.decibels_of, variant=figure.variant, at=figure.at)
    return read(error).map(decibels) if error else _read(metric, figure.value, figure.low, figure.high)


def read_case(case: Alternative, figure: Figure) -> Reading:
    """Return what a figure would be in another case; of a sample, with the interval that case has."""
    return _read(METRICS[figure.metric], case.value, case.low, case.high)


def _read(metric: Metric, value: float | None, low: float | None, high: float | None) -> Reading:
    if value is None:
        return Reading.point(-inf if metric.better == "higher" else inf)
    if low is None and high is None:
        found = Reading(value, None, None) if metric.family.sampled else Reading.point(value)
    else:
        found = Reading(value, -inf if low is None else low, inf if high is None else high)
    return found.magnitude() if metric.signed else found


def decibels(error: float) -> float:
    """Return the signal over a relative error in dB; `LOSSLESS` without any error."""
    return LOSSLESS if error == 0 else -inf if isinf(error) else -20 * log10(error)


def counterpart(
    figure: Figure, figures: Iterable[Figure], *, metric: str, variant: str, at: int | float | str | None
) -> Figure | None:
    """Return the figure of another metric or variant on the same GEMM and tensors; None where there is none."""
    wanted = (metric, figure.workload, figure.tensors, variant, at)
    return next((f for f in figures if (f.metric, f.workload, f.tensors, f.variant, f.at) == wanted), None)


# -- of two ----------------------------------------------------------------------------------------------------------


def ratio(own: Reading, other: Reading) -> Reading:
    """Return one magnitude over another: 1 where both are zero, infinite over zero, NaN where neither is finite."""
    if isinf(own.value) or isinf(other.value):
        return Reading.point(nan if own.value == other.value else _over(own.value, other.value))
    value = _over(own.value, other.value)
    if own.value == other.value == 0:
        return Reading.point(value)
    if own.low is None or own.high is None or other.low is None or other.high is None:
        return Reading(value, None, None)
    low = 0.0 if own.low == 0 else _over(own.low, other.high)
    high = 0.0 if own.high == 0 else inf if isinf(own.high) else _over(own.high, other.low)
    return Reading(value, min(low, value), max(high, value))


def difference(own: Reading, other: Reading) -> Reading:
    """Return one number less another: NaN where neither is finite."""
    if isinf(own.value) and isinf(other.value):
        return Reading.point(nan)
    value = own.value - other.value
    if isinf(value):
        return Reading.point(value)
    if own.low is None or own.high is None or other.low is None or other.high is None:
        return Reading(value, None, None)
    return Reading(value, own.low - other.high, own.high - other.low)


def _over(x: float, y: float) -> float:
    if y == 0:
        return 1.0 if x == 0 else inf
    return x / y


def relative(base: Variant, figure: Figure, figures: Sequence[Figure]) -> tuple[Figure, Reading] | None:
    """Return a figure against that of another variant, shown and as numbers; None where that one has no figure.

    The interval is the evidence's own of the ratio where it has one (both share what varies). Where both are counted under
    the same assumptions, it reaches over the value under each of them. Otherwise it is the widest that the two allow.
    """
    metric = METRICS[figure.metric]
    other = counterpart(figure, figures, metric=figure.metric, variant=base, at=None)
    if other is None:
        return None
    errors = [
        counterpart(figure, figures, metric=metric.decibels_of, variant=f.variant, at=f.at) for f in (figure, other)
    ]
    if errors[0] and errors[1]:
        found = _paired(base, errors[0], errors[1]).map(decibels)
    elif metric.comparison == "difference":
        found = difference(read(figure), read(other))
    else:
        found = _paired(base, figure, other)
    cases = tuple(_cases(figure, other))
    if figure.kind in ("modelled", "assumed") and cases and isfinite(found.value):
        values = [found.value, *(_infinite(c.value) for c in cases)]
        found = Reading(found.value, min(values), max(values))
    return _shown(metric, figure, other, base, found, cases), found


def _paired(base: Variant, own: Figure, other: Figure) -> Reading:
    """A ratio, with the interval that the evidence has of it."""
    found = ratio(read(own), read(other))
    low, high = own.ratios.get(base, (None, None))
    if own.value is None or not other.value or (low, high) == (None, None):
        return found
    ends = Reading(found.value, 0.0 if low is None else low, inf if high is None else high)
    return ends.magnitude() if METRICS[own.metric].signed else ends


def _cases(own: Figure, other: Figure) -> Iterable[Alternative]:
    """The comparison in every case of either side, both changed together."""
    mine, theirs = ({(c.assumption, c.other): c for c in f.alternatives} for f in (own, other))
    combined = difference if METRICS[own.metric].comparison == "difference" else ratio
    for key in dict.fromkeys((*mine, *theirs)):
        a = read_case(mine[key], own) if key in mine else read(own)
        b = read_case(theirs[key], other) if key in theirs else read(other)
        yield Alternative(assumption=key[0], other=key[1], value=_rounded(combined(a, b).value))


def _shown(
    metric: Metric, figure: Figure, other: Figure, base: Variant, found: Reading, cases: tuple[Alternative, ...]
) -> Figure:
    words = "difference from" if metric.comparison == "difference" else "ratio to"
    of = f" ({other.value:g})" if other.value is not None else " (not finite)"
    return figure.model_copy(
        update={
            "value": _rounded(found.value),
            "low": _rounded(found.low),
            "high": _rounded(found.high),
            "ratios": {},
            "alternatives": cases,
            "source": f"{figure.source}; {words} {base}{of}",
        }
    )


def _rounded(x: float | None) -> float | None:
    return float(f"{x:.6g}") if x is not None and isfinite(x) else None


def _infinite(x: float | None) -> float:
    return inf if x is None else x


# -- against a bound -------------------------------------------------------------------------------------------------


def excess(claim: Claim, value: float) -> float:
    """Return how far a number breaks the claim's bounds (positive) or keeps them (negative or zero); NaN breaks none."""
    if value != value:
        return -inf
    over = value - claim.at_most if claim.at_most is not None else -inf
    under = claim.at_least - value if claim.at_least is not None else -inf
    return max(over, under)


def farthest(claim: Claim, found: Reading) -> float:
    """Return the excess of the end of the interval that breaks the bounds most; of the value without an interval."""
    ends = [found.value] if found.low is None or found.high is None else [found.low, found.high]
    return max(excess(claim, end) for end in ends)


def nearest(claim: Claim, found: Reading) -> float:
    """Return by how much the whole interval breaks a bound, the value without an interval; not positive where it does not."""
    low, high = (found.value, found.value) if found.low is None or found.high is None else (found.low, found.high)
    over = low - claim.at_most if claim.at_most is not None else -inf
    under = claim.at_least - high if claim.at_least is not None else -inf
    return max(over, under)


def decided(found: Reading) -> bool:
    """Return whether there is an interval to decide on."""
    return found.low is not None and found.high is not None and found.value == found.value


def keeps(claim: Claim, found: Reading) -> bool:
    """Return whether the whole interval keeps the bounds."""
    return decided(found) and farthest(claim, found) <= 0


def breaks(claim: Claim, found: Reading) -> bool:
    """Return whether the whole interval breaks a bound."""
    return decided(found) and nearest(claim, found) > 0
