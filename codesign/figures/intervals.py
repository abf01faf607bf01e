"""Confidence intervals of figures estimated from clusters: seeds of a synthetic source, or tokens of a captured tile.

The influence of a cluster is the change of an estimate when that cluster is left out (the jackknife). The sum of squares of
an estimate's influences is its variance (Wolter, Introduction to Variance Estimation, 2007, ch. 4). The ratio of two
estimates on the same clusters has the variance of the differences of their influences. Norms are treated on a logarithmic
scale, and quantiles on that of their rank. Quotients of either sign are compared as Fieller does. Shares take Clopper and
Pearson's limits on their effective number of units (Korn & Graubard, Survey Methodology 24, 1998), so that a share with no
hits has an upper limit, too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import cbrt, copysign, exp, hypot, inf, isfinite, log, log10, sqrt
from typing import TYPE_CHECKING, Literal

from codesign.figures.figure import At, Figure
from codesign.figures.metric import metric_named
from codesign.figures.quantiles import Ends, beta_quantile, clopper_pearson, student_t

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

FEWEST_CLUSTERS = 8
"""Fewest clusters for which an interval is given."""
SKEWED = 0.5
"""Least skewness of clusters that count as skewed: about the standard deviation of the skewness of sixteen normal ones."""
SMALL_CHANGE = 0.1
"""Logarithm of the ratio of two errors up to which they count as nearly equal."""


@dataclass(frozen=True)
class Ranks:
    """Ordered values and one of their quantiles, whose interval is that of its rank (Woodruff, JASA 47, 1952)."""

    values: Array
    reached: Array
    """Share of the weights up to each value."""
    probability: float
    influence: Array
    """Change of the share of values up to the quantile if each cluster is left out."""

    def at(self, share: float) -> float:
        """Return the value at which a share of the weights is reached."""
        index = int(self.reached.searchsorted(share - 1e-12))
        return float(self.values[min(index, len(self.values) - 1)])

    def interval(self, level: float) -> Ends:
        """Return the values at the ends of the share's interval, one value wider below since values are whole steps."""
        half = _t(level, len(self.influence) - 1) * sqrt(_variance(self.influence))
        below = int(self.reached.searchsorted(self.probability - half - 1e-12)) - 1
        return float(self.values[max(below, 0)]), self.at(self.probability + half)


@dataclass(frozen=True)
class Estimate:
    """A value estimated from clusters.

    `influence` holds the change of the value, or of its logarithm on the scale `log`, one per cluster; with `halved`, one per
    half sample. A `level`, in dB, is a logarithm itself. The value is infinite if an error is.
    """

    value: float
    influence: Array
    scale: Literal["plain", "log", "level", "share"] = "log"
    units: float = 0.0
    """Independent units over which a share was counted."""
    beside: tuple[Estimate, ...] = ()
    """Shares of the other operands, none larger: the figure is the largest of all."""
    plus: Estimate | None = None
    """A share of outputs added to that of operands."""
    halved: int = 0
    """Number of clusters if half samples were taken; 0 if each cluster was left out once."""
    tile: bool = False
    """True if the clusters are parts of one tile, and so not independent."""
    held: bool = False
    """True if one part of a tile holds over two fifths of the variance, or most parts are empty: the interval is then the
    whole span; none if that is not finite."""
    span: Ends = (-inf, inf)
    """Least and largest value of a single cluster; no weighting of the clusters gives a value beyond."""
    squares: tuple[Array, Array] | None = None
    """Sums of squares of each part of a tile, of which the value is the root of the ratio; for the span of ratios."""
    ranks: Ranks | None = None
    """Ordered values, if the value is one of their quantiles."""
    most: Array | float = 0.0
    """Change if the largest squared error of each cluster counted once more, as that of `influence`; 0 where none is large."""

    @property
    def total(self) -> float:
        """Value with the added share, at most 1 in all."""
        return min(self.value + self.plus.total, 1.0) if self.plus else self.value

    @property
    def unknown(self) -> bool:
        """True if nothing bounds the value of a single cluster."""
        return not (isfinite(self.span[0]) and isfinite(self.span[1]))

    @property
    def clusters(self) -> int:
        """Number of clusters."""
        return self.halved or len(self.influence)

    def interval(self, level: float) -> Ends | None:
        """Return the ends of the confidence interval; None with too few clusters, or a value that is not finite."""
        if self.clusters < FEWEST_CLUSTERS or not isfinite(self.value):
            return None
        if self.held:
            return None if self.unknown else self.span
        ends = [part._own_interval(level) for part in (self, *self.beside)]
        low, high = max(e[0] for e in ends), max(e[1] for e in ends)
        if self.plus and (more := self.plus.interval(level)):
            low, high = min(low + more[0], 1.0), min(high + more[1], 1.0)
        return low, high

    def _own_interval(self, level: float) -> Ends:
        if self.scale == "share":
            return self._of_share(level)
        if self.ranks:
            return self.ranks.interval(level)
        below, above = self._reach(self.influence, level, self.most)
        low, high = self.value - below, self.value + above
        if self.scale == "log":
            low, high = self.value * exp(-below), self.value * exp(min(above, 700.0))
        return max(low, min(self.span[0], self.value)), min(high, max(self.span[1], self.value))

    def _of_share(self, level: float) -> Ends:
        units, variance, value = self.units, _variance(self.influence), self.value
        varies = 0 < value < 1 and variance > 0
        if varies:
            effective = value * (1 - value) / variance
            # The variance is itself an estimate, with few degrees of freedom.
            effective *= (_t(level, max(units, 2) - 1) / _t(level, degrees(self.influence))) ** 2
            units = min(effective, units)
        low, high = clopper_pearson(value * units, units, level)
        low = low if low > 1e-9 * value else 0.0
        if varies:
            less, more = far(self.influence)
            if 0 < less < value:
                low = min(low, share_at((1 - level) / 2, value - less, variance + less**2))
            if 0 < more < 1 - value:
                high = max(high, share_at((1 + level) / 2, value + more, variance + more**2))
        return low, high

    def _reach(self, influence: Array, level: float, most: Array | float) -> Ends:
        """Return how far the interval reaches below and above the value."""
        import numpy as np

        if self.scale == "share":
            less, more = far(influence)
            most = np.array([-less, more])
        if self.scale != "plain" and not self.halved:
            return reach(influence, level, most)
        if self.halved:
            spread = _spread(influence)
            half = _t(level, self.halved - 1) * sqrt(float(spread @ spread))
        else:  # of either sign, and so not skewed to a side known beforehand
            half = _t(level, degrees(influence)) * sqrt(_variance(influence))
        return half, half

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
        if self.clusters < FEWEST_CLUSTERS:
            return ratio, None
        if ratio == 1 and self.influence.any() and (self.influence == base.influence).all():
            return ratio, (1.0, 1.0)
        if self.scale == base.scale == "plain" and not self.halved:
            return ratio, self._fieller(base, ratio, level)
        if self.plus or base.plus or not (self._steady(level) and base._steady(level)):
            return ratio, self._apart(base, level)
        apart = self._relative() - base._relative()
        if self.tile and (hangs(apart) or self.unknown):
            return ratio, self._span_over(base) or self._apart(base, level)
        below, above = self._reach(apart, level, self.most - base.most)
        low, high = (log(ratio) - below, log(ratio) + above) if self.halved else changed(log(ratio), below, above)
        return ratio, (exp(low), exp(min(high, 700.0)))

    def _fieller(self, base: Estimate, ratio: float, level: float) -> Ends | None:
        """Return every r for which this value less r times the base's may be zero (Fieller, JRSS B 16, 1954).

        None if the base may be zero: these are then all numbers but some.
        """
        apart = self.influence - ratio * base.influence
        if self.tile and hangs(apart):
            return self._apart(base, level)
        mine, its = (_spread(x.influence) for x in (self, base))
        factor = _t(level, degrees(apart)) ** 2 * (1 - 1 / len(apart))
        square = base.value**2 - factor * float(its @ its)
        if square <= 0:
            return None
        middle = (self.value * base.value - factor * float(mine @ its)) / square
        half = sqrt(max(middle**2 - (self.value**2 - factor * float(mine @ mine)) / square, 0.0))
        return middle - half, middle + half

    def by_span(self, base: Estimate | None = None) -> bool:
        """Return whether the interval of the value, or of its ratio to `base`, is a span of the parts of a tile or none."""
        if base is None:
            return self.held
        paired = self.scale == base.scale and self.scale in ("log", "level")
        apart = self._relative() - base._relative() if paired else self.influence
        return self.tile and (self.held or base.held or hangs(apart))

    def _span_over(self, base: Estimate) -> Ends | None:
        """Return the least and largest ratio of a single part of a tile, if both are relative to the same product.

        The ratio of the sums is then a weighted mean of these, and no weighting of the parts gives a value beyond. None if
        the products differ or a ratio is not finite.
        """
        import numpy as np

        if self.squares is None or base.squares is None or not np.array_equal(self.squares[1], base.squares[1]):
            return None
        mine, its = self.squares[0], base.squares[0]
        some = (mine > 0) | (its > 0)
        if some.sum() < FEWEST_CLUSTERS or not (its[some] > 0).all():
            return None
        ratios = np.sqrt(mine[some] / its[some])
        return float(ratios.min()), float(ratios.max())

    def _relative(self) -> Array:
        return self.influence if self.scale in ("log", "level") else self.influence / self.value

    def _steady(self, level: float) -> bool:
        """Return whether the value is so far from zero that its relative influences describe its spread."""
        if self.value == 0 or self.scale == "log":
            return self.value != 0
        seen = int((self._relative() != 0).sum())
        half = _t(level, self.clusters - 1) * sqrt(_variance(self.influence))
        return seen >= FEWEST_CLUSTERS and self.value > 1.5 * half

    def _apart(self, base: Estimate, level: float) -> Ends | None:
        """Return the interval of the ratio from the two separate intervals, each at half the error probability."""
        mine, its = self.interval((1 + level) / 2), base.interval((1 + level) / 2)
        if mine is None or its is None or its[0] <= 0 <= its[1]:
            return None
        ends = [a / b for a in mine for b in its]
        return min(ends), max(ends)


def difference(mine: Estimate, base: Estimate, level: float) -> Ends | None:
    """Return the interval of the difference of two levels in dB: that of the ratio of the errors behind them."""
    if mine.clusters < FEWEST_CLUSTERS or not (isfinite(mine.value) and isfinite(base.value)):
        return None
    apart = mine.influence - base.influence
    if mine.tile and (hangs(apart) or mine.unknown):
        if ends := mine._span_over(base):
            return -_decibel(ends[1]), -_decibel(ends[0])
        return mine.span[0] - base.span[1], mine.span[1] - base.span[0]
    below, above = reach(apart / PER_NEPER, level, (mine.most - base.most) / PER_NEPER)
    low, high = changed((mine.value - base.value) / PER_NEPER, below, above)
    return low * PER_NEPER, high * PER_NEPER


PER_NEPER = 20 / log(10)
"""Decibels of a factor of e."""


def _decibel(ratio: float) -> float:
    return 20 * log10(ratio) if ratio else -inf


def changed(value: float, below: float, above: float) -> Ends:
    """Return the interval of the logarithm of a ratio from how far it reaches below and above.

    A small change that is certainly one often comes from a few large errors. Its spread then grows with it, and away from zero
    its interval is that of the change on a logarithmic scale of its own, which there is the wider one.
    """
    low, high = value - below, value + above
    if not max(below, above) < abs(value) < SMALL_CHANGE:
        return low, high
    if value < 0:
        return value * exp(below / -value), high
    return low, value * exp(above / value)


def reach(influence: Array, level: float, most: Array | float = 0.0) -> Ends:
    """Return how far below and above the logarithm of an error, or of a ratio of errors or shares, its interval reaches.

    Sums of what is never negative are skewed, which Hall's transformation of Student's t allows for (Hall, JRSS B 54, 1992).
    Rare errors may be missing from the sample: as in the upper limit of a weighted sum of rare events, the largest one counts
    once more, in the value and in its variance (Fay & Feuer, Statistics in Medicine 16, 1997). `most` is what that changes in
    each cluster, below zero for errors that are divided by.
    """
    spread = _spread(influence)
    second = _mean(spread**2)
    if second == 0:
        return 0.0, 0.0
    # Of the clusters' mean; corrected for few observations (G1 in Joanes & Gill, The Statistician 47, 1998).
    skew = _mean(spread**3) / second**1.5 * sqrt(len(spread) - 1) / (len(spread) - 2)
    t, deviation = _t(level, _degrees(spread)), sqrt(_square_of(spread))
    ends = (most, most) if isinstance(most, float) else (float(most.min()), float(most.max()))
    less, more = max(-ends[0], 0.0), max(ends[1], 0.0)
    return less + hypot(deviation, less) * _bent(t, skew), more - hypot(deviation, more) * _bent(-t, skew)


def far(influence: Array) -> Ends:
    """Return how much a share changes down and up if the cluster furthest on its longer side counts once more.

    Where few clusters have most of the hits, others of their kind may be missing from the sample, as single large errors may
    (`reach`). Both changes are 0 where the skewness is below `SKEWED`.
    """
    spread = _spread(influence)
    second, count = _mean(spread**2), len(spread)
    if second == 0 or count < 3:
        return 0.0, 0.0
    # G1 in Joanes & Gill, as in `reach`, here of the clusters themselves.
    skew = _mean(spread**3) / second**1.5 * sqrt(count * (count - 1)) / (count - 2)
    return (-float(spread.min()) if skew < -SKEWED else 0.0), (float(spread.max()) if skew > SKEWED else 0.0)


def share_at(probability: float, value: float, variance: float) -> float:
    """Return a quantile of the beta distribution with the mean `value` and nearly this variance."""
    units = value * (1 - value) / variance
    return beta_quantile(probability, value * units, (1 - value) * units)


def degrees(influence: Array) -> float:
    """Return the degrees of freedom of a variance: fewer than there are clusters where a few of them dominate it.

    They follow from the kurtosis, corrected for few observations (G2 in Joanes & Gill, The Statistician 47, 1998).
    """
    return _degrees(_spread(influence))


def _degrees(spread: Array) -> float:
    """Return `degrees` from the influences less their mean."""
    count, second = len(spread), _mean(spread**2)
    if second == 0:
        return count - 1.0
    beyond = _mean(spread**4) / second**2 - 3
    beyond = (count - 1) / ((count - 2) * (count - 3)) * ((count + 1) * beyond + 6)
    return min(count - 1.0, max(round(2 * count / max(beyond + 2, 0.1)), 3))


def _bent(y: float, skew: float) -> float:
    """Return a quantile of a mean's standardised deviation after Hall's cubic transformation is undone."""
    if abs(skew) < 1e-6:
        return y
    inner = 1 + skew * (y - skew / 6)
    return 3 / skew * (copysign(cbrt(abs(inner)), inner) - 1)


def figures(
    workload: str,
    tensors: str,
    found: Mapping[tuple[str, At | None], Mapping[str, Estimate]],
    bases: Sequence[str],
    level: float = 0.95,
    enough: bool = True,
) -> Iterator[Figure]:
    """Yield a figure per variant and metric from its estimate on common clusters.

    Figures also get their ratio to each variant in `bases` (for levels in dB, the difference). Without `enough` outputs no
    figure has an interval.
    """
    known: dict[tuple[int, ...], Ends | None] = {}  # by the estimates, which variants may share

    def interval(metric: str, *estimates: Estimate) -> Ends | None:
        """Return the interval of an estimate, or of a first one relative to a second."""
        about = tuple(map(id, estimates))
        if about not in known:
            mine, *base = estimates
            if not base:
                known[about] = mine.interval(level)
            elif metric_named(metric).unit == "dB":
                known[about] = difference(mine, base[0], level)
            else:
                known[about] = mine.over(base[0], level)[1]
        return known[about]

    for (variant, at), metrics in found.items():
        for metric, mine in metrics.items():
            ends = (interval(metric, mine) if enough else None) or (inf, inf)
            ratios = {}
            for base in bases:
                if base != variant and (base, None) in found:
                    apart = interval(metric, mine, found[base, None][metric])
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
    """Return a value to six significant digits, more than any figure deserves; None for infinities and NaNs."""
    return float(f"{x:.6g}") if isfinite(x) else None


def hangs(influence: Array) -> bool:
    """Return whether one cluster holds over two fifths of the variance.

    Other text lacks such a cluster a third of the time, and then shows far too little of the spread.
    """
    squares = _spread(influence) ** 2
    return bool(squares.max() > 0.4 * squares.sum())


def _variance(influence: Array) -> float:
    """Return the jackknife variance of a value from the influences of its clusters."""
    return _square_of(_spread(influence))


def _square_of(spread: Array) -> float:
    """Return `_variance` from the influences less their mean."""
    return (1 - 1 / len(spread)) * float(spread @ spread)


def _spread(influence: Array) -> Array:
    """Return the influences less their mean."""
    spread: Array = influence - influence.sum() / len(influence)
    return spread


def _mean(x: Array) -> float:
    """Return the mean; numpy's own takes twice as long for so few clusters."""
    return float(x.sum()) / len(x)


def _t(level: float, degrees: float) -> float:
    return student_t((1 + level) / 2, degrees)
