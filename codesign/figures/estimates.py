"""Estimates of figures from the sums of each cluster: norms, levels in dB, quotients, shares and quantiles.

Sums of squares are corrected by regression on one whose expectation is known (Sarndal, Swensson & Wretman, Model Assisted
Survey Sampling, 1992, ch. 6). Leaving out one cluster says too little about a quantile, so the spread of quantiles is found
on half samples of the clusters (Wolter, Introduction to Variance Estimation, 2007, ch. 3).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from math import exp, inf, isfinite, log10, sqrt
from typing import TYPE_CHECKING, Any, Literal

from codesign.figures.intervals import FEWEST_CLUSTERS, PER_NEPER, Estimate, Ranks, hangs

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

MOST_HALVES = 64
"""Most half samples for the intervals of quantiles; a power of two."""
BEYOND = 1.5
"""Squared error that a sample is taken to miss, relative to its largest. Where the tail of squares falls with the power a,
squares beyond the largest of a sample are on average a / (a - 1) times as large as it: once in a light tail, twice for elements
of Student's t with 4 degrees of freedom."""
BLOCK = 64
"""Values of a block in the search for quantiles."""
LOSSLESS = 400.0
"""SQNR reported for no error at all, dB; float64 errors end at 319 dB."""


def norm(error2: Array, exact2: Array, excess: Array | None = None, most: Array | None = None) -> Estimate:
    """Estimate the root of a ratio of sums of squares, such as a relative Frobenius error, from the sums of each cluster.

    `excess` is the relative excess of each cluster's sum of squares over its known expectation; NaN for the parts of one tile.
    `most` is the largest term of each cluster's `error2`; None where every term is small, and without effect in a tile, which
    has all of its outputs. The result is 0 without any error, and infinite for an error relative to zero.
    """
    import numpy as np

    error, exact = float(error2.sum()), float(exact2.sum())
    none = np.zeros(len(exact2))
    if error == 0:
        return Estimate(0.0, none)
    if not isfinite(error) or exact == 0:
        return Estimate(inf, none)
    with np.errstate(divide="ignore", invalid="ignore"):
        each = np.sqrt(error2 / exact2)
    each = each[~np.isnan(each)]
    tile = _tile(excess)
    whole, kept = (_logarithm(of, error2, exact2, excess) for of in (np.sum, _left_out))
    if excess is not None and not (np.isfinite(whole) and np.isfinite(kept).all()):  # corrected to below zero
        return norm(error2, exact2, None, most)
    few = tile and len(each) < FEWEST_CLUSTERS  # the other parts are empty, and say nothing of the spread
    span, influence = (0.0, inf) if few else (float(each.min()), float(each.max())), (whole - kept) / 2
    found = Estimate(exp(whole / 2), influence, span=span)
    if not tile:
        return found if most is None else replace(found, most=np.log1p(BEYOND * most / error) / 2)
    return replace(found, tile=True, held=few or hangs(influence), squares=(error2, exact2))


def _logarithm(of: Callable[[Array], Array], error2: Array, exact2: Array, excess: Array | None) -> Any:
    """Return the logarithm of the ratio of two sums; `of` sums over clusters."""
    import numpy as np

    with np.errstate(divide="ignore", invalid="ignore"):
        correct = _correction(of, excess, len(exact2))
        return np.log(correct(error2)) - np.log(correct(exact2))


def _correction(of: Callable[[Array], Array], excess: Array | None, count: int) -> Callable[[Array], Array]:
    """Return a function that sums over `count` clusters, corrected by regression on their excess, zero in expectation."""
    import numpy as np

    if excess is None or count < FEWEST_CLUSTERS or _tile(excess):
        return of
    clusters, beyond = of(np.ones(count)), of(excess)
    squares = of(excess**2)
    spread = squares - beyond**2 / clusters
    differs = spread > 1e-9 * squares
    divisor = np.where(differs, spread, 1.0)

    def corrected(sums: Array) -> Array:
        total = of(sums)
        slope = (of(excess * sums) - beyond * total / clusters) / divisor
        return np.asarray(total - np.where(differs, slope, 0.0) * beyond)

    return corrected


def _tile(excess: Array | None) -> bool:
    return excess is not None and bool((excess != excess).any())


def _left_out(x: Array) -> Array:
    """Return the sum without each cluster; if one cluster holds all, an average part is left in its place."""
    import numpy as np

    total = x.sum()
    return np.asarray(np.where(x == total, total / len(x), total - x))


def decibel(error: Estimate) -> Estimate:
    """Return a relative error as a signal-to-noise ratio in dB; `LOSSLESS` for no error."""
    if error.value == 0:
        return Estimate(LOSSLESS, error.influence, "level")
    if not isfinite(error.value):
        return Estimate(-inf, error.influence, "level")

    def level(x: float) -> float:
        return LOSSLESS if x <= 0 else -20 * log10(x)

    span = level(error.span[1]), level(error.span[0])
    influence, most = -PER_NEPER * error.influence, -PER_NEPER * error.most
    return replace(error, value=level(error.value), influence=influence, scale="level", span=span, most=most)


def quotient(
    part: Array,
    whole: Array,
    excess: Array | None = None,
    scale: Literal["plain", "share"] = "plain",
    units: float = 0.0,
) -> Estimate:
    """Estimate a ratio of sums of either sign from the sums of each cluster; 0 / 0 is 0.

    `excess` is NaN for the parts of one tile, as in `norm`. Where one of them holds most of the variance, the interval is their
    span.
    """
    found, total = float(part.sum()), float(whole.sum())
    if not isfinite(found) or total == 0:
        return Estimate(inf if found else 0.0, 0.0 * whole, scale, units)
    value = found / total
    kept = (1 - whole / total).clip(1 / len(whole))
    influence = (part - value * whole) / (total * kept)
    if not _tile(excess):
        return Estimate(value, influence, scale, units)
    each = part[whole > 0] / whole[whole > 0]
    span = float(each.min()), float(each.max())
    return Estimate(value, influence, scale, units, tile=True, held=hangs(influence), span=span)


def share(hits: Array, counts: Array, units: float) -> Estimate:
    """Estimate a share from the weighted hits and counts of each cluster, over `units` in all."""
    return quotient(hits, counts, scale="share", units=units)


def largest(*shares: Estimate) -> Estimate:
    """Return the largest of several shares as one estimate."""
    largest, *others = sorted(shares, key=lambda e: e.value, reverse=True)
    return replace(largest, beside=tuple(others))


def added(first: Estimate, second: Estimate) -> Estimate:
    """Return the sum of two shares, at most 1, as one estimate."""
    return replace(first, plus=second)


def quantile(
    values: Array,
    weights: Array,
    probability: float,
    over: tuple[Array, Array] | None = None,
    excess: Array | None = None,
) -> Estimate:
    """Estimate a quantile of weighted values that are not negative; both arrays are (clusters, n).

    `over` divides the quantile by the root of a ratio of sums, corrected by `excess` as in `norm`. The interval is that of the
    rank. The spread of ratios is found on half samples, which are the same for every estimate on the same number of clusters.
    """
    import numpy as np

    clusters = len(values)
    order = np.argsort(values, axis=None)
    ordered, mass, cluster = values.ravel()[order], weights.ravel()[order], order // values.shape[1]

    # Sums over blocks of values say in which block a quantile lies, so that only that block is looked at.
    blocks = -(-len(ordered) // BLOCK)
    own = np.bincount(np.arange(len(ordered)) // BLOCK * clusters + cluster, mass, blocks * clusters)
    up_to = np.cumsum(own.reshape(blocks, clusters), axis=0)
    inside = np.arange(BLOCK)

    def of(counts: Array) -> Array:
        """Return the quantile for each row of `counts`, the number of times that each cluster counts."""
        reach = counts @ up_to.T
        wanted = probability * reach[:, -1:]
        block = (reach < wanted).sum(axis=1)
        before = np.where(block > 0, reach[np.arange(len(counts)), block - 1], 0.0)
        places = np.minimum(block[:, None] * BLOCK + inside, len(ordered) - 1)
        more = np.cumsum(np.take_along_axis(counts, cluster[places], 1) * mass[places], axis=1)
        at = block * BLOCK + (before[:, None] + more < wanted).sum(axis=1)
        found = ordered[np.minimum(at, len(ordered) - 1)]
        if over is None:
            return np.asarray(found)
        with np.errstate(divide="ignore", invalid="ignore"):
            square = _logarithm(lambda x: counts @ x, *over, excess)
            return np.where(found == 0, 0.0, found / np.exp(square / 2))

    value = float(of(np.ones((1, clusters)))[0])
    if not isfinite(value) or clusters < FEWEST_CLUSTERS:
        return Estimate(value if isfinite(value) else inf, np.zeros(clusters))
    again = of(_halves(clusters))
    scale: Literal["log", "plain"] = "log" if (again > 0).all() and np.isfinite(again).all() else "plain"
    moved = np.log(again / value) if scale == "log" else again - value
    moved[~np.isfinite(moved)] = moved[np.isfinite(moved)].max()
    held = over is not None and _tile(excess) and hangs(over[0])
    ranks = _ranks(ordered, mass, values, weights, probability, over, excess)
    # Scaled so that, as for influences, the sum of squares is the variance.
    return Estimate(value, moved / sqrt(len(moved)), scale, halved=clusters, held=held, ranks=ranks)


def _ranks(
    ordered: Array,
    mass: Array,
    values: Array,
    weights: Array,
    probability: float,
    over: tuple[Array, Array] | None,
    excess: Array | None,
) -> Ranks | None:
    """Return the ordered values with the influence of each cluster on the share of values up to their quantile.

    With `over`, values are relative to the norm, which leaving out a cluster changes, too. None if a cluster holds all.
    """
    import numpy as np

    reached = np.concatenate([[0.0], np.cumsum(mass)])

    def up_to(most: Array | float) -> Any:
        """Return the weight of the values up to each of `most`."""
        return reached[ordered.searchsorted(most, side="right")]

    value, norm, norms = ordered[reached[1:].searchsorted(probability * reached[-1])], 1.0, np.ones(len(values))
    with np.errstate(divide="ignore", invalid="ignore"):
        if over is not None:
            norm, norms = (np.exp(_logarithm(of, *over, excess) / 2) for of in (np.sum, _left_out))
        moved = value * norms / norm
        own, counts = (weights * (values <= moved[:, None])).sum(axis=1), weights.sum(axis=1)
        influence = up_to(value) / reached[-1] - (up_to(moved) - own) / (counts.sum() - counts)
        relative = ordered / norm
    if not (np.isfinite(influence).all() and np.isfinite(relative).all()):
        return None
    return Ranks(relative, reached[1:] / reached[-1], probability, influence)


@cache
def _halves(clusters: int) -> Array:
    """Return the count of each cluster in each half sample, 0 or 2 (samples, clusters).

    The columns of a Hadamard matrix are orthogonal, so the half samples of a sum have exactly its jackknife variance. With
    more clusters than columns, clusters share columns.
    """
    import numpy as np

    signs = np.ones((1, 1))
    while len(signs) < min(clusters + 1, MOST_HALVES):
        signs = np.block([[signs, signs], [signs, -signs]])
    return np.asarray(1 + signs[:, 1 + np.arange(clusters) % (len(signs) - 1)])
