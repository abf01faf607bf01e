"""How far intervals of one estimate reach: norms, shares and ranks, worked by hand."""

from dataclasses import replace
from math import exp, fsum, hypot, inf, sqrt

import numpy as np
import pytest
from influences import EVEN, REACH

from codesign.figures.intervals import (
    FEWEST_CLUSTERS,
    Estimate,
    Ranks,
    degrees,
    far,
    hangs,
    reach,
)
from codesign.figures.quantiles import beta_quantile, clopper_pearson, student_t

# -- how far an interval reaches -------------------------------------------------------------------------------------


def by_k_statistics(values):
    """Return degrees of freedom from the kurtosis by k-statistics (Fisher 1929): k4 over k2 squared is its unbiased G2."""
    n, squares, fourths = len(values), fsum(x**2 for x in values), fsum(x**4 for x in values)
    k4 = (n * (n + 1) * fourths - 3 * (n - 1) * squares**2) / ((n - 1) * (n - 2) * (n - 3))
    excess = k4 / (squares / (n - 1)) ** 2
    return min(max(round(2 * n / (excess + 2)), 3), n - 1) if excess > -2 else n - 1


@pytest.mark.parametrize(
    ("sides", "expected"),
    [
        ([1] * 8, 15),
        ([1] * 7 + [3], 15),
        ([1] * 7 + [4], 8),
        ([1] * 7 + [5], 6),
        ([1] * 3 + [2], 7),
        ([1] * 3 + [6], 4),
        ([1, 1, 2, 4, 8], 7),
        ([0] * 5 + [1], 3),
        ([1] * 19 + [100], 4),
        ([0] * 99 + [1], 4),
        *((sorted(np.random.default_rng(i).lognormal(0, 1.2, 4 + i % 13)), None) for i in range(60)),
    ],
)
def test_degrees_of_freedom_follow_the_kurtosis(sides, expected):
    """Symmetric influences reach Student's t of 2n / (G2 + 2) degrees, at least 3 and at most one less than the clusters."""
    values = np.array([*sides, *(-x for x in sides)], float)
    assert expected in (by_k_statistics(values), None)
    expected = by_k_statistics(values)
    assert degrees(values) == degrees(3 * values + 7) == expected
    half = student_t(0.975, expected) * sqrt((1 - 1 / len(values)) * (values**2).sum())
    assert reach(values, 0.95) == pytest.approx((half, half))
    assert reach(values + 7, 0.95) == pytest.approx((half, half))  # a shift of all is none
    assert reach(1e-3 * values, 0.9)[0] == pytest.approx(
        1e-3 * half / student_t(0.975, expected) * student_t(0.95, expected)
    )


def test_no_influence_reaches_nowhere():
    """Clusters that change nothing leave a point."""
    assert reach(np.zeros(16), 0.95) == (0, 0)
    assert reach(np.full(16, 3.0), 0.95, 0.1) == (0, 0)
    assert degrees(np.full(16, 3.0)) == 15


@pytest.mark.parametrize("values", [[0, 0, 0, 1, 1, 1, 2, 2, 3, 6], [0] * 11 + [1], [1, 2, 3, 4, 5, 6, 7, 9]])
def test_skewed_influences_reach_as_halls_transformation_does(values):
    """Hall's g(T) = T + s T^2 / 3 + s^2 T^3 / 27 + s / 6 has the quantiles of t; s is the skewness over the root of the count,
    by k-statistics (Fisher 1929): k3 over k2^1.5 is G1. Both sides take g's inverse."""
    values = np.array(values, float)
    count, spread = len(values), values - values.mean()
    k2, k3 = (spread**2).sum() / (count - 1), count * (spread**3).sum() / ((count - 1) * (count - 2))
    skew, deviation = k3 / k2**1.5 / sqrt(count), sqrt((1 - 1 / count) * (spread**2).sum())
    t = student_t(0.975, by_k_statistics(spread))
    below, above = reach(values, 0.95)
    assert skew > 0
    assert below < t * deviation < above
    for end, quantile_of_t in ((below, t), (-above, -t)):
        x = end / deviation
        assert x + skew * x**2 / 3 + skew**2 * x**3 / 27 + skew / 6 == pytest.approx(quantile_of_t)
    assert reach(-values, 0.95) == pytest.approx((above, below))


@pytest.mark.parametrize("values", [EVEN, np.array([0, 0, 0, 1, 1, 1, 2, 2, 3, 6.0])])
def test_the_largest_error_counts_once_more(values):
    """Fay and Feuer: the upper limit is of a value larger by the largest term, with a variance larger by its square. Errors
    that are divided by count on the other side, and neither does where nothing is large."""
    deviation = sqrt((1 - 1 / len(values)) * ((values - values.mean()) ** 2).sum())
    below, above = reach(values, 0.95)
    most = np.linspace(-0.5, 2.0, len(values))
    less, more = reach(values, 0.95, most)
    assert less == pytest.approx(0.5 + hypot(deviation, 0.5) * below / deviation)
    assert more == pytest.approx(2.0 + hypot(deviation, 2.0) * above / deviation)
    assert reach(values, 0.95, 0 * most) == (below, above)
    assert reach(values, 0.95, most + 3)[0] == below
    assert reach(values, 0.95, most - 3)[1] == above


def test_one_cluster_holds_a_variance_beyond_two_fifths():
    """Sixteen parts after taking off their mean: shares of the variance of exactly two fifths do not hang on one, more do."""
    values = np.array([2.0, -2, 1, -1, *[0] * 6])  # 4 of 10
    assert not hangs(values)
    assert hangs(values + np.array([0.1, -0.1, 0, 0, *[0] * 6]))
    assert not hangs(EVEN + 100)
    assert hangs(np.where(np.arange(16) == 3, 101.0, 100.0))


# -- intervals of one estimate ---------------------------------------------------------------------------------------


def test_a_plain_value_reaches_to_both_sides_and_a_norm_by_factors():
    """A plain value adds its reach, one with a logarithm is multiplied by the reach's exponential."""
    plain, norms = Estimate(3.0, 0.1 * EVEN, "plain"), Estimate(3.0, 0.1 * EVEN)
    assert plain.interval(0.95) == pytest.approx((3 - 0.1 * REACH, 3 + 0.1 * REACH))
    assert norms.interval(0.95) == pytest.approx((3 * np.exp(-0.1 * REACH), 3 * np.exp(0.1 * REACH)))
    assert norms.interval(0.9) == pytest.approx(
        tuple(3 * np.exp(s * 0.1 * sqrt(15) * student_t(0.95, 15)) for s in (-1, 1))
    )
    skewed = Estimate(3.0, np.where(np.arange(16) == 0, 0.15, -0.01), "plain")  # of either sign: alike on both sides
    half = student_t(0.975, degrees(skewed.influence)) * sqrt(15 / 16 * skewed.influence @ skewed.influence)
    assert skewed.interval(0.95) == pytest.approx((3 - half, 3 + half))
    level = replace(skewed, scale="level")
    assert (3 - level.interval(0.95)[0], level.interval(0.95)[1] - 3) == pytest.approx(reach(skewed.influence, 0.95))
    large = Estimate(3.0, 0.1 * EVEN, most=np.linspace(0, 0.2, 16))
    below, above = reach(0.1 * EVEN, 0.95, 0.2)
    assert large.interval(0.95) == pytest.approx((3 * exp(-below), 3 * exp(above)))
    wide = Estimate(3.0, 1e4 * EVEN).interval(0.95)
    assert wide == (0, 3 * exp(700))


def test_an_interval_ends_at_the_span_of_single_clusters():
    """No weighting of the clusters leaves the span, so the interval does not either; a value beyond it is an end itself."""
    for scale in ("plain", "log"):
        ends = Estimate(3.0, EVEN, scale, span=(2.5, 3.25)).interval(0.95)
        assert ends == (2.5, 3.25)
        assert Estimate(3.0, EVEN, scale, span=(3.5, 4.0)).interval(0.95) == (3, 4)
        assert Estimate(3.0, EVEN, scale, span=(1.0, 2.0)).interval(0.95) == (1, 3)
    inner = Estimate(3.0, 1e-3 * EVEN, span=(2.0, 4.0)).interval(0.95)
    assert inner == pytest.approx((3 * np.exp(-1e-3 * REACH), 3 * np.exp(1e-3 * REACH)))


def test_an_interval_takes_eight_clusters_and_a_finite_value():
    """Eight clusters are enough; half samples count as the clusters they are made of."""
    assert FEWEST_CLUSTERS == 8
    assert Estimate(1.0, EVEN[:7]).interval(0.95) is None
    assert Estimate(1.0, EVEN[:8]).interval(0.95) is not None
    assert Estimate(inf, EVEN).interval(0.95) is None
    assert Estimate(1.0, EVEN, halved=7).interval(0.95) is None
    assert Estimate(1.0, EVEN, halved=8).interval(0.95) is not None


def test_a_held_estimate_spans_its_parts_if_both_ends_are_known():
    """The span is the interval at every level; a span open on one side is none."""
    assert Estimate(3.0, EVEN, held=True, span=(1.0, 9.0)).interval(0.5) == (1, 9)
    for span in ((0.0, inf), (-inf, 9.0), (-inf, inf)):
        found = Estimate(3.0, EVEN, held=True, span=span)
        assert found.unknown
        assert found.interval(0.95) is None
    assert not Estimate(3.0, EVEN, span=(1.0, 9.0)).unknown


def test_half_samples_reach_by_their_own_spread():
    """The sum of squares of half samples about their mean is the variance, at the clusters' degrees."""
    for shift in (0.0, 0.3):
        assert Estimate(3.0, 0.1 * EVEN + shift, "plain", halved=9).interval(0.95) == pytest.approx(
            (3 - 0.4 * student_t(0.975, 8), 3 + 0.4 * student_t(0.975, 8))
        )


def test_the_largest_of_shares_is_no_smaller_than_any():
    """Both ends are the largest of the parts' ends; an added share adds its own ends, and none if it has no interval."""
    high = Estimate(3.0, 0.1 * EVEN, "plain")
    beside = Estimate(2.9, 0.5 * EVEN, "plain"), Estimate(2.95, 0.01 * EVEN, "plain")
    both = replace(high, beside=beside)
    assert both.interval(0.95) == pytest.approx((2.95 - 0.01 * REACH, 2.9 + 0.5 * REACH))
    part = Estimate(0.3, 0.01 * EVEN, "plain")
    more = replace(part, plus=Estimate(0.1, 0.02 * EVEN, "plain"))
    assert more.total == pytest.approx(0.4)
    assert more.interval(0.95) == pytest.approx((0.4 - 0.03 * REACH, 0.4 + 0.03 * REACH))
    few = replace(part, plus=Estimate(0.1, EVEN[:7], "plain"))
    assert few.interval(0.95) == part.interval(0.95)


def test_shares_added_are_at_most_everything():
    """Where elements and outputs overflow, the value and both ends of their sum end at 1."""
    most = replace(Estimate(0.7, 0.1 * EVEN, "plain"), plus=Estimate(0.25, 0.02 * EVEN, "plain"))
    assert most.interval(0.95) == (pytest.approx(0.95 - 0.12 * REACH), 1)
    over = replace(Estimate(0.7, 0.001 * EVEN, "plain"), plus=Estimate(0.6, 0.001 * EVEN, "plain"))
    assert (over.total, over.interval(0.95)) == (1, (1, 1))


# -- shares ----------------------------------------------------------------------------------------------------------


def test_a_share_counts_its_effective_units():
    """A share of 0.2 with a variance of 0.001 has 160 effective units, times (t(n - 1) / t(clusters - 1))^2 of its n units,
    but never more than it has."""
    influence = EVEN * sqrt(0.001 / 15)
    for units, other in ((1000.0, 999), (170.0, 169)):
        effective = 160 * (student_t(0.975, other) / student_t(0.975, 15)) ** 2
        found = Estimate(0.2, influence, "share", units)
        assert found.interval(0.95) == pytest.approx(clopper_pearson(0.2 * effective, effective, 0.95))
    assert Estimate(0.2, influence, "share", 100.0).interval(0.95) == pytest.approx(clopper_pearson(20, 100, 0.95))
    assert Estimate(0.2, influence, "share", 1000.0).interval(0.9) == pytest.approx(
        clopper_pearson(0.2 * (e := 160 * (student_t(0.95, 999) / student_t(0.95, 15)) ** 2), e, 0.9)
    )


def test_a_share_of_all_of_none_or_without_spread_has_its_units():
    """Where nothing varies the exact interval of all units holds; half samples or clusters of less than two units, too."""
    assert Estimate(1.0, EVEN, "share", 50.0).interval(0.95) == (pytest.approx(0.025 ** (1 / 50)), 1)
    assert Estimate(0.0, EVEN, "share", 50.0).interval(0.95) == (0, pytest.approx(1 - 0.025 ** (1 / 50)))
    assert Estimate(0.5, np.zeros(16), "share", 50.0).interval(0.95) == clopper_pearson(25, 50, 0.95)
    # 1.5 units count as 2, with one degree of freedom: 0.25 / 1 units times (t(1) / t(15))^2 are more than 1.5.
    single = Estimate(0.5, EVEN / sqrt(15), "share", 1.5).interval(0.95)
    assert single == pytest.approx(clopper_pearson(0.75, 1.5, 0.95))
    less = Estimate(0.5, 3 * EVEN / sqrt(15), "share", 1.5).interval(0.95)
    effective = 0.25 / 9 * (student_t(0.975, 1) / student_t(0.975, 15)) ** 2
    assert less[1] == pytest.approx(clopper_pearson(effective / 2, effective, 0.95)[1])


SIDED = np.array([1.0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, -15])
"""Clusters of which one lies far to one side."""


def test_a_share_of_few_clusters_reaches_as_far_as_if_the_furthest_counted_once_more():
    """The beta distribution with that mean and variance has the end on the longer side, if that is further than without; the
    other end, and those of clusters that are not skewed, are Clopper and Pearson's."""
    value, unit = 0.2, 0.002
    plain = Estimate(value, 15 * unit * EVEN / sqrt(15), "share", 1e6)
    long = Estimate(value, -unit * SIDED, "share", 1e6)
    variance = unit**2 * 15 * 16 * (1 - 1 / 16)
    units = (value + 15 * unit) * (1 - value - 15 * unit) / (variance + (15 * unit) ** 2)
    end = beta_quantile(0.975, (value + 15 * unit) * units, (1 - value - 15 * unit) * units)
    low, high = long.interval(0.95)
    assert high == pytest.approx(end)
    assert mirrored(long).interval(0.95) == (pytest.approx(1 - high), pytest.approx(1 - low))
    assert far(plain.influence) == (0, 0)
    assert far(long.influence) == (0, pytest.approx(15 * unit))
    assert far(-long.influence) == (pytest.approx(15 * unit), 0)
    assert far(np.zeros(16)) == (0, 0)
    assert far(np.array([1.0, -1])) == (0, 0)


def mirrored(share):
    """The share of misses."""
    return replace(share, value=1 - share.value, influence=-share.influence)


def test_a_skewness_is_one_from_a_half_on():
    """G1 of Joanes and Gill, worked by hand: with less than 0.5 nothing counts twice."""
    clusters = np.array([-1.0, -1, -1, 0, 0, 0, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0])
    for furthest in (1.0, 1.2, 1.5, 2.0):
        x = np.where(np.arange(16) == 15, furthest, clusters)
        spread = x - x.mean()
        g1 = (spread**3).mean() / (spread**2).mean() ** 1.5 * sqrt(16 * 15) / 14
        assert far(x) == (0, pytest.approx(spread.max()) if g1 > 0.5 else 0)


def test_a_lower_end_that_is_nothing_is_zero():
    """Where a share counts a hundredth of a unit its lower end is far below any figure: it is zero, not 1e-100."""
    assert Estimate(0.5, 30 * EVEN, "share", 50.0).interval(0.95)[0] == 0
    assert 0 < clopper_pearson(0.05, 0.1, 0.95)[0] < 1e-20
    assert Estimate(0.5, EVEN * sqrt(2.5 / 15), "share", 50.0).interval(0.95)[0] == 0
    low = Estimate(0.5, 0.5 * EVEN / sqrt(15), "share", 50.0).interval(0.95)[0]
    assert 1e-9 * 0.5 < low < 0.1


# -- ranks -----------------------------------------------------------------------------------------------------------

TENTHS = Ranks(np.arange(10.0, 110, 10), np.cumsum(np.full(10, 0.1)), 0.5, 0.01 * EVEN)


def test_a_rank_has_the_value_at_which_it_is_reached():
    """Tenths that do not add up exactly in binary reach their rank nonetheless; beyond the last there is the last."""
    assert [TENTHS.at(x) for x in (0.0, 0.05, 0.1, 0.3, 0.31, 0.8, 1.0, 1.2)] == [10, 10, 10, 30, 40, 80, 100, 100]


@pytest.mark.parametrize(
    ("probability", "expected"),
    [(0.5, (40.0, 60.0)), (0.58, (40.0, 70.0)), (0.02, (10.0, 20.0)), (0.98, (80.0, 100.0))],
)
def test_a_quantiles_interval_is_from_rank_to_rank(probability, expected):
    """With a reach of 0.0825 of the share: the value at its upper end, and one below that at its lower end."""
    assert 0.08 < 0.01 * REACH < 0.085
    ranks = replace(TENTHS, probability=probability)
    assert ranks.interval(0.95) == expected
    assert Estimate(50.0, np.zeros(64), halved=16, ranks=ranks).interval(0.95) == expected


def test_a_rank_reached_exactly_counts():
    """Without any spread the interval is the value of the rank and the one below."""
    still = replace(TENTHS, influence=np.zeros(16))
    assert still.interval(0.95) == (40, 50)
    assert replace(still, probability=0.3).interval(0.95) == (20, 30)
    assert replace(still, probability=0.1).interval(0.95) == (10, 10)
    narrow = replace(TENTHS, influence=EVEN * 0.1 / REACH)  # reaches exactly 0.1
    assert narrow.interval(0.95) == (30, 60)
    assert narrow.interval(0.9) == (40, 60)
