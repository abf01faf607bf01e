"""Confidence intervals of figures estimated from clusters: seeds of a synthetic source, or tokens of a captured tile.

An estimate knows its influences: by how much each cluster moves it, found by leaving the cluster out. Their sum of squares
is its variance (Wolter, Introduction to Variance Estimation, 2007, ch. 4), and that of the differences of two estimates on
the same clusters is the variance of their ratio. Norms are treated on a logarithmic scale. Intervals take Student's t with
one degree of freedom less than there are clusters; shares take Clopper and Pearson's limits on their effective number of
units (Korn & Graubard, Survey Methodology 24, 1998), so that a share of which nothing was seen has an upper limit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from math import exp, inf, isfinite, lgamma, log, log1p, sqrt
from typing import TYPE_CHECKING, Literal

from codesign.evidence import Figure
from codesign.metrics import METRICS
from codesign.proposal import Value

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

FEWEST_CLUSTERS = 8
"""Clusters below which no interval is given."""
LOSSLESS = 400.0
"""Ratio of signal to noise, in dB, that stands for no error at all; float64 ends at 319."""
Ends = tuple[float, float]


@dataclass(frozen=True)
class Estimate:
    """A value estimated from clusters.

    `influence` holds one number per cluster: what it moves the value by (scales `plain` and `share`) or the value's
    logarithm (`log`). The value is infinite where an error is.
    """

    value: float
    influence: Array
    scale: Literal["plain", "log", "share"] = "log"
    units: float = 0.0
    """Units that a share was counted over."""
    beside: tuple[Estimate, ...] = ()
    """Shares of the other operands, none of them larger: the figure is the largest of all."""
    plus: Estimate | None = None
    """A share of outputs added to that of operands."""

    @property
    def total(self) -> float:
        """The value, with the share that is added to it."""
        return self.value + (self.plus.total if self.plus else 0.0)

    def interval(self, level: float) -> Ends | None:
        """Return the ends of the confidence interval; None with too few clusters, or a value that is not finite."""
        if len(self.influence) < FEWEST_CLUSTERS or not isfinite(self.value):
            return None
        ends = [part._own_interval(level) for part in (self, *self.beside)]
        low, high = max(e[0] for e in ends), max(e[1] for e in ends)
        if self.plus and (more := self.plus.interval(level)):
            low, high = low + more[0], high + more[1]
        return low, high

    def _own_interval(self, level: float) -> Ends:
        half = _t(level, len(self.influence)) * self.deviation
        if self.scale == "log":
            return self.value * exp(-half), self.value * exp(min(half, 700.0))
        if self.scale == "plain":
            return self.value - half, self.value + half
        clusters, units = len(self.influence), self.units
        variance = self.deviation**2
        if 0 < self.value < 1 and variance > 0:
            effective = self.value * (1 - self.value) / variance
            # The variance itself is known to so many degrees of freedom only.
            effective *= (_t(level, max(units, 2)) / _t(level, clusters)) ** 2
            units = min(effective, units)
        low, high = clopper_pearson(self.value * units, units, level)
        return (low if low > 1e-9 * self.value else 0.0), high

    @property
    def deviation(self) -> float:
        """Standard deviation of the value, or of its logarithm."""
        return _deviation(self.influence)

    def over(self, base: Estimate, level: float) -> tuple[float, Ends | None]:
        """Return the ratio of this estimate to `base` on the same clusters, and its interval.

        Two zeros are equal: their ratio is 1. The ratio is infinite, without an interval, where only `base` is zero or
        this value is infinite.
        """
        if self.total == base.total == 0:
            return 1.0, (1.0, 1.0)
        if not isfinite(self.total) or not isfinite(base.total) or base.total == 0:
            finite = isfinite(self.total) and not isfinite(base.total)
            return (0.0 if finite else inf), None
        ratio = self.total / base.total
        if len(self.influence) < FEWEST_CLUSTERS:
            return ratio, None
        apart = self._apart(base, level)
        if ratio == 1 and (self.influence == base.influence).all():
            return ratio, (1.0, 1.0)
        if self.plus or base.plus or not (self._steady(level) and base._steady(level)):
            return ratio, apart
        spread = _deviation(self._relative() - base._relative())
        half = _t(level, len(self.influence)) * spread
        ends = sorted((ratio * exp(-half), ratio * exp(min(half, 700.0))))
        return ratio, (ends[0], ends[1])

    def _relative(self) -> Array:
        return self.influence if self.scale == "log" else self.influence / self.value

    def _steady(self, level: float) -> bool:
        """Whether the value is far enough from zero for a relative influence to say how it varies."""
        if self.value == 0:
            return False
        if self.scale == "log":
            return True
        seen = int((abs(self._relative()) > 0).sum())
        return seen >= FEWEST_CLUSTERS and abs(self.value) > 1.5 * _t(level, len(self.influence)) * self.deviation

    def _apart(self, base: Estimate, level: float) -> Ends | None:
        """The interval of the ratio from intervals of both, each of which misses half as often."""
        mine, its = self.interval((1 + level) / 2), base.interval((1 + level) / 2)
        if mine is None or its is None or its[0] <= 0 <= its[1]:
            return None
        ends = [a / b for a in mine for b in its]
        return min(ends), max(ends)


def difference(mine: Estimate, base: Estimate, level: float) -> Ends | None:
    """Return the interval of the difference of two estimates on a plain scale, such as levels in dB."""
    if len(mine.influence) < FEWEST_CLUSTERS or not (isfinite(mine.value) and isfinite(base.value)):
        return None
    half = _t(level, len(mine.influence)) * _deviation(mine.influence - base.influence)
    return mine.value - base.value - half, mine.value - base.value + half


def figures(
    workload: str,
    tensors: str,
    found: Mapping[tuple[str, Value | None], Mapping[str, Estimate]],
    bases: Sequence[str],
    level: float = 0.95,
    enough: bool = True,
) -> Iterator[Figure]:
    """Yield a figure per variant and metric from its estimate on common clusters.

    `bases` are the variants whose ratios are wanted, too (of levels in dB: the differences). Without `enough` outputs no
    figure has an interval.
    """
    for (variant, at), metrics in found.items():
        for metric, mine in metrics.items():
            ends = (mine.interval(level) if enough else None) or (inf, inf)
            ratios = {}
            for base in bases:
                if base != variant and (base, None) in found:
                    other, decibels = found[base, None][metric], METRICS[metric].unit == "dB"
                    apart = difference(mine, other, level) if decibels else mine.over(other, level)[1]
                    apart = (apart if enough or apart == (1.0, 1.0) else None) or (inf, inf)
                    ratios[base] = (finite(apart[0]), finite(apart[1]))
            yield Figure(
                metric=metric,
                variant=variant,
                at=at,
                workload=workload,
                tensors=tensors,
                value=finite(mine.total),
                low=finite(ends[0]),
                high=finite(ends[1]),
                ratios=ratios,
                kind="computed",
                source="bit-exact model",
            )


def finite(x: float) -> float | None:
    """Return six significant digits, which is more than any figure deserves; None for infinities and NaNs."""
    return float(f"{x:.6g}") if isfinite(x) else None


# -- estimates from sums per cluster -----------------------------------------------------------------------------------


def norm(error2: Array, exact2: Array) -> Estimate:
    """Estimate the root of a ratio of sums of squares, such as a relative Frobenius error, from the sums of each cluster.

    No error at all is 0, even of nothing; an error of nothing is infinite.
    """
    error, exact = float(error2.sum()), float(exact2.sum())
    none = 0.0 * exact2
    if error == 0:
        return Estimate(0.0, none)
    if not isfinite(error) or exact == 0:
        return Estimate(inf, none)
    return Estimate(sqrt(error / exact), (_left_out(error2) - _left_out(exact2)) / 2)


def decibel(error: Estimate) -> Estimate:
    """Return a relative error as a ratio of signal to noise in dB; `LOSSLESS` for no error."""
    if error.value == 0:
        return Estimate(LOSSLESS, error.influence, "plain")
    if not isfinite(error.value):
        return Estimate(-inf, error.influence, "plain")
    return Estimate(-20 * log(error.value) / log(10), -20 / log(10) * error.influence, "plain")


def quotient(part: Array, whole: Array) -> Estimate:
    """Estimate a ratio of sums that can have either sign, from the sums of each cluster; 0 of nothing is 0."""
    total = float(whole.sum())
    if not isfinite(float(part.sum())):
        return Estimate(inf, 0.0 * whole, "plain")
    value = float(part.sum()) / total if total else 0.0
    kept = (total - whole) / total if total else 1.0 + 0 * whole
    return Estimate(value, (part - value * whole) / (total or 1.0) / kept.clip(1 / len(whole)), "plain")


def share(hits: Array, counts: Array, units: float) -> Estimate:
    """Estimate a share from the weighted hits and counts of each cluster, over `units` in all."""
    found = quotient(hits, counts)
    return Estimate(min(max(found.value, 0.0), 1.0), found.influence, "share", units)


def largest(first: Estimate, *others: Estimate) -> Estimate:
    """Return the largest of several shares as one estimate."""
    parts = sorted((first, *others), key=lambda e: -e.value)
    return Estimate(parts[0].value, parts[0].influence, parts[0].scale, parts[0].units, tuple(parts[1:]))


def added(first: Estimate, second: Estimate) -> Estimate:
    """Return the sum of two shares as one estimate."""
    return replace(first, plus=second)


def quantile(values: Array, weights: Array, probability: float, over: Estimate | None = None) -> Estimate:
    """Estimate a quantile of weighted positive values, (clusters, n) each, divided by `over` (on a logarithmic scale).

    A cluster moves it by its surplus of values below the quantile, over the density there, which is read off the
    quantiles two standard deviations to either side (Woodruff, JASA 47, 1952).
    """
    import numpy as np

    order = np.argsort(values, axis=None)
    ordered, reach = values.ravel()[order], np.cumsum(weights.ravel()[order])
    total = reach[-1]

    def at(p: float) -> float:
        return float(ordered[min(int(np.searchsorted(reach, p * total)), len(ordered) - 1)])

    middle = at(probability)
    if not isfinite(middle) or (over is not None and not isfinite(over.value)):
        return Estimate(inf, np.zeros(len(values)))
    surplus = (weights * ((values <= middle) - probability)).sum(axis=1) / total
    step = 2 * _deviation(surplus)
    low, high = at(max(probability - step, 0.0)), at(min(probability + step, 1.0))
    divisor = over.value if over is not None and over.value else 1.0
    if low <= 0 or not isfinite(high):  # no logarithm: some of the values about the quantile are zero
        slope = (high - low) / (2 * step) if step and isfinite(high) else 0.0
        return Estimate(middle / divisor, -surplus * slope / divisor, "plain")
    slope = log(high / low) / (2 * step) if step else 0.0
    influence = -surplus * slope
    return Estimate(middle / divisor, influence - (over.influence if over is not None else 0.0))


def _left_out(sums: Array) -> Array:
    """By how much each cluster raises the logarithm of the total; a cluster that holds all of it, no more than if it held
    all but an average part."""
    import numpy as np

    return np.asarray(-np.log1p(-np.minimum(sums / sums.sum(), 1 - 1 / len(sums))))


def _deviation(influence: Array) -> float:
    count = len(influence)
    if count < 2:
        return 0.0
    spread = influence - influence.mean()
    # (n - 1) / n from leaving one out, and its influences are larger than linear ones by n / (n - 1).
    return sqrt((count - 1) / count * float(spread @ spread))


def _t(level: float, clusters: float) -> float:
    return student_t((1 + level) / 2, clusters - 1)


# -- quantiles of distributions ----------------------------------------------------------------------------------------


@cache
def student_t(probability: float, degrees: float) -> float:
    """Return the quantile of Student's t distribution at `probability`, strictly between 0 and 1."""
    tail = min(probability, 1 - probability)
    # P(|t| > x) is the beta distribution function of (degrees / 2, 1 / 2) at degrees / (degrees + x**2).
    y = beta_quantile(2 * tail, degrees / 2, 0.5)
    x = sqrt(degrees * (1 - y) / y)
    return x if probability > 0.5 else -x


def clopper_pearson(hits: float, units: float, level: float) -> Ends:
    """Return the interval of a share of `hits` in `units`, neither of which needs to be whole."""
    tail = (1 - level) / 2
    low = 0.0 if hits <= 0 else beta_quantile(tail, hits, units - hits + 1)
    high = 1.0 if hits >= units else beta_quantile(1 - tail, hits + 1, units - hits)
    return low, high


def beta_quantile(probability: float, a: float, b: float) -> float:
    """Return the quantile of the beta distribution: Newton's steps within a bracket, to about 12 digits."""
    low, high, x = 1e-300, 1.0, a / (a + b)
    if beta_below(low, a, b) >= probability:
        return 0.0
    for _ in range(300):
        beyond = beta_below(x, a, b) - probability
        low, high = (low, x) if beyond > 0 else (x, high)
        density = _density(x, a, b)
        step = x - beyond / density if density else -1.0
        if not low < step < high:
            step = (low + high) / 2 if low > high / 4 else sqrt(low) * sqrt(high)
        if abs(step - x) <= 1e-13 * x:
            return step
        x = step
    return x


def _density(x: float, a: float, b: float) -> float:
    if not 0 < x < 1:
        return 0.0
    return exp(min((a - 1) * log(x) + (b - 1) * log1p(-x) + lgamma(a + b) - lgamma(a) - lgamma(b), 700.0))


def beta_below(x: float, a: float, b: float) -> float:
    """Return the share of the beta distribution below x, by its continued fraction (Abramowitz & Stegun 26.5.8)."""
    if not 0 < x < 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):
        return 1 - beta_below(1 - x, b, a)
    fraction, numerator, denominator = 1.0, 1.0, 0.0
    for i in range(1, 100_000):
        m = i // 2
        if i % 2:
            term = -(a + m) * (a + b + m) / ((a + 2 * m) * (a + 2 * m + 1))
        else:
            term = m * (b - m) / ((a + 2 * m - 1) * (a + 2 * m))
        denominator = 1 / (1 + term * x * denominator)
        numerator = 1 + term * x / numerator
        fraction *= numerator * denominator
        if abs(numerator * denominator - 1) < 1e-15:
            break
    return _density(x, a, b) * x * (1 - x) / (a * fraction)
