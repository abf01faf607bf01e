"""Intervals from clusters, against published quantiles and worked by hand."""

from dataclasses import replace
from math import exp, fsum, hypot, inf, isfinite, log, log10, nan, sqrt

import numpy as np
import pytest

from codesign.figures.estimates import added, decibel, largest, norm, quantile, share
from codesign.figures.intervals import (
    FEWEST_CLUSTERS,
    SMALL_CHANGE,
    Estimate,
    Ranks,
    changed,
    degrees,
    difference,
    far,
    figures,
    finite,
    hangs,
    reach,
)
from codesign.figures.quantiles import beta_quantile, clopper_pearson, student_t


def test_a_norm_that_one_cluster_holds_is_hardly_known():
    """Where one of many clusters holds nearly all of the norm and is better than the others, the interval reaches to them;
    an error that is in one cluster alone still has an interval."""
    held = np.where(np.arange(32) == 5, 1e4, 1.0)
    mine = norm(np.where(held > 1, 10.0, 0.04), held)
    assert mine.interval(0.95) == (pytest.approx(np.sqrt(10 / 1e4)), pytest.approx(0.2))
    assert decibel(mine).interval(0.95) == (pytest.approx(-20 * np.log10(0.2)), pytest.approx(30))
    low, high = norm(np.where(held > 1, 1.0, 0.0), np.ones(32)).interval(0.95)
    assert 0 < low < np.sqrt(1 / 32) < high <= 1


def test_no_weighting_of_a_held_tile_leaves_its_interval():
    """Where one part holds a tile, error and ratio lie in their intervals under 1,000 random weightings of the parts."""
    rng = np.random.default_rng(7)
    unknown, exact = np.full(24, np.nan), rng.lognormal(0, 1, 24)
    mine, base = (exact * rng.lognormal(-4, 1, 24) for _ in range(2))
    mine[3] *= 1e4
    error, other = norm(mine, exact, unknown), norm(base, exact, unknown)
    assert error.held
    (low, high), (least, most) = error.interval(0.95), error.over(other, 0.95)[1]
    for weights in rng.dirichlet(np.full(24, 0.3), 1000):
        assert low <= np.sqrt(weights @ mine / (weights @ exact)) <= high
        assert least <= np.sqrt(weights @ mine / (weights @ base)) <= most


def test_a_ratio_on_a_held_tile_spans_the_ratios_of_its_parts():
    """Both errors are relative to the same product, so that no weighting of the parts takes their ratio out of [1, 1.05];
    relative to different products it spans the quotients of both spans. Levels in dB span the same."""
    unknown, exact = np.full(32, np.nan), np.where(np.arange(32) == 5, 1e3, 1.0)
    its = exact * np.linspace(0.2, 1.0, 32)
    mine = norm(its * np.linspace(1.0, 1.05, 32) ** 2, exact, unknown)
    base = norm(its, exact, unknown)
    assert mine.over(base, 0.95)[1] == (pytest.approx(1.0), pytest.approx(1.05))
    down = 20 * np.log10(1.05)
    assert difference(decibel(mine), decibel(base), 0.95) == (pytest.approx(-down), pytest.approx(0, abs=1e-12))
    other = norm(its * 2, exact * 2 + 1e-9, unknown)
    assert mine.over(other, 0.95)[1][0] < 0.9
    rng = np.random.default_rng(3)
    for weights in rng.lognormal(0, 3, (200, 32)):
        ratio = np.sqrt((weights * its * np.linspace(1.0, 1.05, 32) ** 2).sum() / (weights * its).sum())
        assert 1.0 <= ratio <= 1.05


def test_a_small_change_has_the_interval_of_its_own_logarithm_too():
    """A change of 2 % with a reach of 0.4 % below and 0.6 % above: its logarithm reaches further on the far side."""
    low, high = changed(0.02, 0.004, 0.006)
    assert low == pytest.approx(0.02 - 0.004)
    assert high == pytest.approx(0.02 * exp(0.006 / 0.02))
    assert changed(-0.02, 0.006, 0.004) == (pytest.approx(-high), pytest.approx(-low))
    for value in (0.005, SMALL_CHANGE, 0.2):  # not certainly a change; not small ones
        assert changed(value, 0.004, 0.006) == pytest.approx((value - 0.004, value + 0.006))
    assert changed(0.005, 0.006, 0.004) == pytest.approx((-0.001, 0.009))


def test_a_quantile_has_the_interval_of_its_rank():
    """The median of 31 clusters of one value: order statistics 10 to 22 by Student's t of the share below,
    and one more below."""
    x = np.arange(1.0, 32.0)[:, None]
    assert quantile(x, np.ones((31, 1)), 0.5).value == 16
    assert quantile(x, np.ones((31, 1)), 0.5).interval(0.95) == (9, 22)
    assert quantile(x**3, np.ones((31, 1)), 0.5).interval(0.95) == (9**3, 22**3)


def test_the_interval_of_a_tile_that_one_part_holds_spans_all_parts():
    """Where one part of a tile holds over half of a variance, no part lies outside the interval."""
    unknown, held = np.full(32, np.nan), np.where(np.arange(32) == 5, 1e3, 1.0)
    even = np.random.default_rng(3).uniform(1, 2, 32)
    alone, spread = norm(held, np.ones(32), unknown), norm(even, np.ones(32), unknown)
    assert alone.interval(0.95) == pytest.approx((1.0, 1e3**0.5))
    assert decibel(alone).interval(0.95) == pytest.approx((-30.0, 0.0))
    low, high = difference(decibel(alone), decibel(spread), 0.95)
    assert low <= -30 - decibel(spread).span[0] + 1e-9
    assert high >= -decibel(spread).span[1] - 1e-9
    ratio, ends = alone.over(spread, 0.95)
    assert ends[0] < 1 < ratio < ends[1]
    assert spread.interval(0.95) is not None
    assert norm(held, np.ones(32)).interval(0.95) is not None
    values = np.tile(np.arange(1.0, 9), (32, 1)) * even[:, None]
    count = np.full(32, 8.0)
    assert quantile(values, np.ones((32, 8)), 0.95, (held, count), unknown).interval(0.95) is None
    assert quantile(values, np.ones((32, 8)), 0.95, (even, count), unknown).interval(0.95) is not None


@pytest.mark.parametrize("filled", [1, 3, 7])
def test_a_tile_of_nearly_empty_parts_has_no_interval(filled):
    """Parts that are zero show no spread: an interval needs as many parts with numbers as it needs clusters."""
    unknown, exact = np.full(32, np.nan), np.where(np.arange(32) < filled, 1.0, 0.0)
    mine, base = norm(exact * 1e-3, exact, unknown), norm(exact * np.linspace(1, 2, 32), exact, unknown)
    assert mine.interval(0.95) is None
    assert decibel(mine).interval(0.95) is None
    assert mine.over(base, 0.95)[1] is None
    assert not any(map(isfinite, difference(decibel(mine), decibel(base), 0.95)))
    full = np.where(np.arange(32) < 8, 1.0, 0.0)
    assert norm(full * np.linspace(1, 2, 32), full, unknown).interval(0.95) is not None


def test_two_zeros_are_equal_and_nothing_is_a_finite_multiple_of_zero():
    """A ratio of two zeros is 1 without doubt; of something to zero infinite, of an infinite error too."""
    zero, one, infinite = norm(np.zeros(9), np.ones(9)), norm(np.ones(9), np.ones(9)), norm(np.ones(9), np.zeros(9))
    assert zero.over(zero, 0.95) == (1.0, (1.0, 1.0))
    assert one.over(zero, 0.95) == (inf, None)
    assert infinite.over(one, 0.95) == (inf, None)
    assert one.over(infinite, 0.95) == (0.0, None)
    none, whole = (share(np.full(9, hits), np.full(9, 50.0), 450) for hits in (0.0, 50.0))
    assert none.over(none, 0.95) == (1.0, (1.0, 1.0))
    ratio, (low, high) = whole.over(whole, 0.95)  # all of those seen may not be all there are
    assert 0.98 < low < ratio == 1 < high < 1.02


def test_a_share_that_was_not_seen_has_an_upper_limit():
    """Nothing seen in 450 is between 0 and the exact limit; the largest of two operands is no smaller than either's."""
    none = share(np.zeros(9), np.full(9, 50.0), 450)
    assert none.interval(0.95) == (0.0, pytest.approx(1 - 0.025 ** (1 / 450)))
    some = share(np.arange(9.0), np.full(9, 50.0), 450)
    both = largest(none, some)
    assert both.value == some.value == 0.08
    assert both.interval(0.95)[0] == some.interval(0.95)[0]
    assert both.interval(0.95)[1] >= some.interval(0.95)[1]
    assert added(both, none).total == some.value
    assert added(both, some).interval(0.95)[1] > both.interval(0.95)[1]


def test_hits_that_come_in_clusters_count_as_fewer():
    """The same 36 hits in 450 have a wider interval if they fall into two clusters than spread over all nine."""
    together = share(np.array([18.0, 18, 0, 0, 0, 0, 0, 0, 0]), np.full(9, 50.0), 450).interval(0.95)
    apart = share(np.array([4.0, 3, 5, 4, 4, 4, 5, 3, 4]), np.full(9, 50.0), 450).interval(0.95)
    assert together[0] < apart[0] < 0.08 < apart[1] < together[1]


def test_a_ratio_of_what_varies_together_is_known_better_than_its_parts():
    """A fixed factor between two estimates on the same clusters is known without doubt, in a figure's ratios too."""
    errors = np.random.default_rng(0).lognormal(size=50)
    mine, its = norm(errors, np.ones(50)), norm(4 * errors, np.ones(50))
    low, high = mine.interval(0.95)
    assert high > 1.2 * low
    name = "numerics.total_error"
    made = figures("g", "t", {("proposal", None): {name: mine}, ("software", None): {name: its}}, ["software"])
    own = next(f for f in made if f.variant == "proposal")
    assert own.ratios == {"software": (0.5, 0.5)}
    assert difference(decibel(mine), decibel(its), 0.95) == (pytest.approx(6.0206), pytest.approx(6.0206))


def test_too_few_clusters_or_outputs_have_no_interval():
    """Seven clusters have a value and no interval; nor has a figure whose outputs are too few in all."""
    assert norm(np.ones(7), np.ones(7)).interval(0.95) is None
    mine = norm(np.arange(1.0, 10), np.ones(9))
    (few,) = figures("g", "t", {("proposal", None): {"numerics.total_error": mine}}, [], enough=False)
    assert few.value is not None
    assert (few.low, few.high) == (None, None)


def test_a_variance_held_by_one_cluster_is_known_to_few_degrees_of_freedom():
    """One cluster far from the others widens the interval by more than its deviation, on its own side."""
    even = np.linspace(-1, 1, 16)
    assert reach(even, 0.95) == (pytest.approx(reach(even, 0.95)[1]), pytest.approx(reach(-even, 0.95)[0]))
    single = np.where(np.arange(16) == 0, 15.0, -1.0)
    half = student_t(0.975, 3) * np.sqrt(15 / 16 * single @ single)
    below, above = reach(single, 0.95)
    assert below < half < above


# -- how far an interval reaches -------------------------------------------------------------------------------------

EVEN = np.resize([1.0, -1.0], 16)
REACH = student_t(0.975, 15) * sqrt(15)
"""Reach of sixteen influences of plus and minus one: their jackknife variance is 15/16 of 16."""


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


# -- ratios ----------------------------------------------------------------------------------------------------------

HALF = np.resize([1.0, 1.0, -1.0, -1.0], 16)


def test_a_ratio_of_norms_has_the_spread_of_the_difference_of_influences():
    """Influences that both share cancel, others add up; far from 1 the ratio reaches by factors."""
    mine, base = Estimate(6.0, 0.02 * (EVEN + HALF)), Estimate(2.0, 0.02 * HALF)
    ratio, ends = mine.over(base, 0.95)
    assert ratio == 3
    assert ends == pytest.approx((3 * np.exp(-0.02 * REACH), 3 * np.exp(0.02 * REACH)))
    assert mine.over(base, 0.9)[1][0] == pytest.approx(3 * np.exp(-0.02 * sqrt(15) * student_t(0.95, 15)))
    assert Estimate(6.0, 1e3 * EVEN).over(base, 0.95)[1] == (0, exp(700))


def test_a_small_but_certain_change_of_a_norm_spreads_with_itself():
    """2 % with a reach of 0.5 % takes the wider of both scales."""
    mine, base = Estimate(1.02, 0.005 / REACH * EVEN), Estimate(1.0, np.zeros(16))
    low, high = changed(log(1.02), 0.005, 0.005)
    assert mine.over(base, 0.95) == (1.02, pytest.approx((exp(low), exp(high))))
    low, high = changed(log(0.98), 0.005, 0.005)
    assert replace(mine, value=0.98).over(base, 0.95) == (0.98, pytest.approx((exp(low), exp(high))))


def test_the_largest_error_of_either_counts_once_more_in_a_ratio():
    """What is large in both, in the same cluster, cancels; what is large in one counts on its side."""
    large, other = np.linspace(0, 0.2, 16), np.linspace(0.3, 0, 16)
    mine, base = Estimate(6.0, 0.1 * EVEN, most=large), Estimate(2.0, 0.02 * EVEN, most=other)
    below, above = reach(0.08 * EVEN, 0.95, large - other)
    assert below > above
    assert mine.over(base, 0.95)[1] == pytest.approx((3 * exp(-below), 3 * exp(above)))
    alike = mine.over(replace(base, most=large), 0.95)[1]
    assert alike == pytest.approx((3 * exp(-0.08 * REACH), 3 * exp(0.08 * REACH)))


def test_plain_values_are_compared_as_fieller_does():
    """The ends are the values r at which the interval of one value less r times the other ends at zero."""
    mine, base = Estimate(-6.0, 1.2 * EVEN, "plain"), Estimate(2.0, 0.2 * HALF, "plain")
    for first in (mine, replace(mine, value=6.0), replace(mine, value=0.1)):
        ratio, ends = first.over(base, 0.95)
        assert ratio == first.value / 2
        assert ends[0] < ratio < ends[1]
        for r in ends:
            apart = first.influence - r * base.influence
            assert abs(first.value - r * 2) == pytest.approx(student_t(0.975, 15) * sqrt(15 / 16 * apart @ apart))
    shifted = replace(mine, influence=mine.influence + 3).over(replace(base, influence=base.influence - 1), 0.95)
    assert shifted[1] == pytest.approx(mine.over(base, 0.95)[1])
    near = replace(base, influence=0.01 * HALF)
    alike = replace(mine, influence=-0.03 * HALF + 0.01 * EVEN)
    assert alike.over(near, 0.95)[1] == pytest.approx((-3 - 0.005 * REACH, -3 + 0.005 * REACH), rel=1e-3)


def test_a_plain_base_that_may_be_zero_leaves_no_ratio():
    """The values that Fieller's interval holds are then all but some; a value that may be zero is no hindrance."""
    mine = Estimate(2.0, 0.1 * HALF, "plain")
    for value, known in ((1.01, True), (-1.01, True), (0.99, False), (-0.99, False)):
        assert (mine.over(Estimate(value, EVEN / REACH, "plain"), 0.95)[1] is not None) is known
    low, high = Estimate(0.0, EVEN, "plain").over(mine, 0.95)[1]
    assert low == pytest.approx(-high)
    factor = 15 / 16 * student_t(0.975, 15) ** 2  # a base exactly at its reach of zero may be zero
    spread, value = next((i, v) for i in range(1, 99) if (v := sqrt(factor * 16 * i * i)) ** 2 == factor * 16.0 * i * i)
    assert Estimate(2.0, HALF, "plain").over(Estimate(value, spread * EVEN, "plain"), 0.95)[1] is None
    assert mine.over(Estimate(0.99, EVEN / REACH, "plain"), 0.9)[1] is not None


def test_a_ratio_of_plain_values_has_the_degrees_of_what_sets_them_apart():
    """One cluster holds the difference of both: its kurtosis counts, not that of either value."""
    single = np.where(np.arange(16) == 0, 0.15, -0.01)
    mine, base = Estimate(6.0, 3 * 0.04 * EVEN + single, "plain"), Estimate(2.0, 0.04 * EVEN, "plain")
    low, high = mine.over(base, 0.95)[1]
    assert high - 3 == pytest.approx(student_t(0.975, 3) * sqrt(15 / 16 * single @ single) / 2, rel=0.05)
    assert 3 - low == pytest.approx(high - 3, rel=0.2)


def test_shares_are_compared_by_their_relative_influences():
    """Where both are far from zero, a ratio's relative spread is that of the difference of relative influences."""
    mine, base = Estimate(0.6, 0.012 * EVEN, "share", 500.0), Estimate(0.2, 0.004 * HALF, "share", 500.0)
    below, above = reach(0.02 * EVEN - 0.02 * HALF, 0.95)
    assert mine.over(base, 0.95)[1] == pytest.approx((3 * exp(-below), 3 * exp(above)))


def test_half_samples_have_ratios_by_their_own_spread():
    """The spread of the ratio is that of the differences half sample by half sample, for small changes, too."""
    mine, base = (Estimate(value, i * EVEN, halved=9) for value, i in ((6.0, 0.05), (2.0, 0.03)))
    half = student_t(0.975, 8) * 4 * 0.02
    assert mine.over(base, 0.95) == (3, pytest.approx((3 * np.exp(-half), 3 * np.exp(half))))
    small = Estimate(2.1, 0.031 * EVEN, halved=9).over(base, 0.95)[1]
    half = student_t(0.975, 8) * 4 * 0.001
    assert half < log(1.05) < SMALL_CHANGE
    assert small == pytest.approx((1.05 * np.exp(-half), 1.05 * np.exp(half)))
    far = Estimate(6.0, 1e4 * EVEN, halved=9)
    assert far.over(base, 0.95)[1] == (0, exp(700))


def test_the_same_estimate_is_one_without_doubt_and_an_equal_value_is_not():
    """Equal values with equal influences are one and the same; with other influences, or without any, they may differ."""
    mine = Estimate(2.0, 0.1 * EVEN)
    assert mine.over(Estimate(2.0, 0.1 * EVEN), 0.95) == (1, (1, 1))
    assert mine.over(Estimate(2.0, 0.1 * HALF), 0.95)[1][0] < 0.9
    assert mine.over(Estimate(2.0, -0.1 * EVEN), 0.95)[1][0] < 0.9
    partly = np.where(np.arange(16) < 8, EVEN, HALF)
    assert mine.over(Estimate(2.0, 0.1 * partly), 0.95)[1][0] < 0.9
    some, again = (Estimate(1.0, np.zeros(16), "share", 50.0) for _ in range(2))
    low, high = some.interval(0.975)
    assert some.over(again, 0.95)[1] == pytest.approx((low / high, high / low))
    twice = Estimate(4.0, 0.1 * EVEN)
    assert twice.over(mine, 0.95) == (2, pytest.approx((2, 2)))
    assert Estimate(2.0, EVEN[:7]).over(Estimate(1.0, EVEN[:7]), 0.95) == (2, None)
    assert Estimate(2.0, EVEN[:8]).over(Estimate(1.0, EVEN[:8]), 0.95) == (2, pytest.approx((2, 2)))


def test_shares_near_zero_are_compared_by_their_own_intervals():
    """Where a share is within one and a half of its reach of zero, the ratio spans the quotients of both intervals, each at
    half the error probability; a base that may be zero leaves none."""
    base = Estimate(2.0, 0.1 * HALF)
    low, high = base.interval(0.975)
    for value, paired in ((0.1501, True), (0.1499, False)):
        mine = Estimate(value, 0.1 * EVEN / REACH, "share", 1e3)
        start, end = mine.interval(0.975)
        assert (mine.over(base, 0.95)[1] != pytest.approx((start / high, end / low))) is paired
        assert (base.over(mine, 0.95)[1] != pytest.approx((low / end, high / start))) is paired
    assert Estimate(2.6, EVEN, held=True).over(Estimate(0.1, 0.1 * EVEN, "share", 50.0), 0.95)[1] is None
    assert Estimate(0.1, 0.1 * EVEN, "share", 50.0).over(Estimate(1.3, EVEN, held=True), 0.95)[1] is None
    assert base.over(Estimate(0.1, EVEN, "share", 50.0), 0.95) == (20, None)  # its lower end is zero
    assert base.over(Estimate(-1.0, EVEN, "plain", span=(-2.0, 0.0)), 0.95) == (-2, None)  # and here its upper end


def test_zero_and_few_clusters_with_an_influence_are_compared_apart():
    """Seven clusters that change a value at all say too little of its spread; a norm of zero has no relative spread."""
    base = Estimate(2.0, 0.1 * HALF)
    low, high = base.interval(0.975)
    for seen, paired in ((7, False), (8, True)):
        mine = Estimate(0.5, np.where(np.arange(16) < seen, 0.001 * EVEN, 0), "share", 50.0)
        start, end = mine.interval(0.975)
        assert (mine.over(base, 0.95)[1] != pytest.approx((start / high, end / low))) is paired
        assert (base.over(mine, 0.95)[1] != pytest.approx((low / end, high / start))) is paired
    assert Estimate(0.0, EVEN).over(base, 0.95) == (0, (0, 0))
    nothing = Estimate(0.0, np.zeros(16), "share", 50.0)
    assert nothing.over(base, 0.95) == (0, (0, pytest.approx(nothing.interval(0.975)[1] / low)))


def test_added_shares_are_compared_by_their_own_intervals():
    """An added share on either side has influences of its own, and the total counts."""
    base, more = Estimate(2.0, 0.01 * EVEN), Estimate(4.0, 0.01 * HALF)
    added = replace(more, plus=base)
    for mine, its in ((added, base), (base, added)):
        ratio, ends = mine.over(its, 0.95)
        one, other = mine.interval(0.975), its.interval(0.975)
        assert ratio == mine.total / its.total
        assert ends == pytest.approx((one[0] / other[1], one[1] / other[0]))
    nothing = replace(Estimate(0.0, EVEN, "plain"), plus=Estimate(0.0, EVEN, "plain"))
    assert nothing.over(nothing, 0.95) == (1, (1, 1))
    infinite = Estimate(inf, EVEN)
    assert infinite.over(infinite, 0.95) == (inf, None)
    assert nothing.over(infinite, 0.95) == (0, None)
    assert infinite.over(nothing, 0.95) == (inf, None)


# -- tiles -----------------------------------------------------------------------------------------------------------


def tile(value, influence, span=(0.5, 8.0), **more):
    return Estimate(value, influence, tile=True, span=span, **more)


ONE = np.where(np.arange(16) == 3, 1.0, -1 / 15)


def test_a_ratio_on_a_tile_hangs_where_the_difference_does():
    """A part that holds both estimates alike does not hold their ratio; one that holds either of them does."""
    mine, base = tile(6.0, 0.1 * ONE + 0.01 * EVEN), tile(2.0, 0.1 * ONE)
    assert mine.over(base, 0.95)[1] == pytest.approx((3 * np.exp(-0.01 * REACH), 3 * np.exp(0.01 * REACH)))
    assert not mine.by_span(base)
    other = tile(2.0, 0.01 * HALF)
    assert mine.over(other, 0.95)[1] == mine._apart(other, 0.95)
    assert not tile(6.0, 0.02 * EVEN).by_span(other)
    assert tile(6.0, 0.5 * ONE).by_span(other)
    assert not replace(mine, tile=False).by_span(other)
    assert replace(mine, tile=False).over(tile(2.0, 0.01 * EVEN), 0.95)[1] == pytest.approx(
        tuple(np.exp(x) for x in changed(log(3), *reach(0.1 * ONE + 0.01 * EVEN - 0.01 * EVEN, 0.95)))
    )


def test_a_quotient_of_a_tile_hangs_where_what_sets_it_apart_does():
    """Where one part holds what sets two quotients apart, their ratio spans those of their intervals; else it is Fieller's."""
    mine, base = (tile(value, i, scale="plain") for value, i in ((6.0, 0.3 * ONE + 0.02 * EVEN), (2.0, 0.1 * ONE)))
    assert mine.over(base, 0.95)[1] == pytest.approx((3 - 0.01 * REACH, 3 + 0.01 * REACH), rel=1e-2)
    assert mine.over(base, 0.95)[1] == replace(mine, tile=False).over(replace(base, tile=False), 0.95)[1]
    other = replace(base, influence=0.02 * EVEN)
    assert mine.over(other, 0.95)[1] == mine._apart(other, 0.95) != mine._apart(other, 0.9)
    assert mine.over(other, 0.9)[1] == mine._apart(other, 0.9)


def test_levels_of_a_tile_hang_where_their_difference_does():
    """In dB, too, a part that holds both alike does not hold their difference."""
    mine, base = (tile(value, i, scale="level") for value, i in ((6.0, 0.1 * ONE + 0.01 * EVEN), (2.0, 0.1 * ONE)))
    assert not mine.by_span(base)
    assert mine.by_span(replace(base, influence=0.01 * HALF))
    assert mine.by_span(replace(base, scale="log"))


def test_a_figure_is_by_span_if_it_or_its_base_is_held():
    """Alone a figure is by span if it is held; a ratio if either is, or if its influences hang on one part."""
    mine, base = tile(6.0, 0.02 * EVEN), tile(2.0, 0.02 * HALF)
    assert not mine.by_span()
    assert replace(mine, held=True).by_span()
    assert not mine.by_span(base)
    assert replace(mine, held=True).by_span(base)
    assert mine.by_span(replace(base, held=True))
    assert not replace(mine, tile=False, held=True).by_span(base)
    level = replace(base, scale="plain")
    assert not mine.by_span(level)
    assert replace(mine, influence=0.02 * ONE).by_span(level)
    assert replace(mine, influence=0.02 * ONE + 0.02 * HALF).by_span(base)
    plain = replace(mine, scale="plain", influence=0.02 * ONE + 0.12 * HALF)
    assert not plain.by_span(replace(base, influence=0.02 * ONE))


def test_a_tile_of_unknown_span_has_ratios_from_single_parts():
    """Where empty parts leave a tile's span open, the ratio of two errors of one product spans the parts that have any error,
    if at least eight have."""
    exact = np.ones(16)
    its = 0.01 * np.where(np.arange(16) < 8, np.linspace(1, 2, 16), 0.0)
    ratios = np.linspace(2, 3, 16) ** 2
    mine = tile(6.0, 0.02 * EVEN, (0.0, inf), squares=(its * ratios, exact))
    base = tile(2.0, 0.02 * HALF, (0.0, inf), squares=(its, exact.copy()))
    assert mine.over(base, 0.95)[1] == pytest.approx((2, np.sqrt(ratios[7])))
    nothing = replace(mine, squares=(its * ratios * (np.arange(16) > 0), exact))
    assert nothing.over(base, 0.95)[1] == pytest.approx((0, np.sqrt(ratios[7])))
    for squares in (
        None,
        (its * (np.arange(16) > 0), exact),  # fewer than eight
        (its * (np.arange(16) > 0) + 1e-9 * (np.arange(16) == 9), exact),
        (its, 2 * exact),
    ):
        assert mine.over(replace(base, squares=squares), 0.95)[1] != pytest.approx((2, np.sqrt(ratios[7])))
    fewer = its * (np.arange(16) > 0)
    assert mine._span_over(replace(base, squares=(its * (np.arange(16) > 0), exact))) is None  # an error over none
    assert replace(mine, squares=(fewer, exact))._span_over(replace(base, squares=(fewer, exact))) is None
    assert replace(mine, squares=None)._span_over(base) is None
    assert mine._span_over(replace(base, squares=None)) is None
    assert mine._span_over(replace(base, squares=(its, 2 * exact))) is None
    full = 0.01 * np.linspace(1, 2, 16)
    gap = replace(base, squares=(full * (np.arange(16) > 0), exact))
    assert replace(mine, squares=(full, exact))._span_over(gap) is None  # a small error over none
    more = its + (np.arange(16) == 9)
    assert mine._span_over(replace(base, squares=(more, exact))) == (0, pytest.approx(np.sqrt(ratios[7])))


# -- differences in dB -----------------------------------------------------------------------------------------------

NEPER = 20 / log(10)


def test_a_difference_of_levels_is_that_of_the_logarithms_of_errors():
    """A difference of 6 dB reaches as the logarithm of the factor does, in units of 8.686 dB."""
    mine, base = Estimate(26.0, NEPER * 0.02 * (EVEN + HALF), "plain"), Estimate(20.0, NEPER * 0.02 * HALF, "plain")
    assert difference(mine, base, 0.95) == pytest.approx((6 - NEPER * 0.02 * REACH, 6 + NEPER * 0.02 * REACH))
    near = replace(mine, value=20.2)
    low, high = changed(0.2 / NEPER, 0.005, 0.005)
    small = replace(near, influence=NEPER * (0.005 / REACH * EVEN + 0.02 * HALF))
    assert difference(small, base, 0.95) == pytest.approx((NEPER * low, NEPER * high))
    assert difference(mine, base, 0.9)[0] == pytest.approx(6 - NEPER * 0.02 * sqrt(15) * student_t(0.95, 15))


def test_a_difference_takes_eight_clusters_and_finite_levels():
    """Too few clusters, or an infinite error on either side, have no interval."""
    eight, infinite = Estimate(26.0, EVEN[:8], "plain"), Estimate(-inf, EVEN[:8], "plain")
    assert difference(eight, eight, 0.95) == (0, 0)
    assert difference(Estimate(26.0, EVEN[:7], "plain"), Estimate(26.0, EVEN[:7], "plain"), 0.95) is None
    assert difference(eight, infinite, 0.95) is None
    assert difference(infinite, eight, 0.95) is None


def test_a_difference_on_a_tile_spans_where_it_hangs_on_one_part():
    """Of one product the span is that of the ratios of single parts, an end without error open; of two it is between the ends
    of both spans; of seeds there is none."""
    exact, its = np.ones(16), np.linspace(1, 2, 16)
    mine = replace(tile(26.0, ONE, (10.0, 30.0), squares=(4 * its, exact)), scale="plain")
    base = replace(tile(20.0, 0.1 * HALF, (5.0, 25.0), squares=(its, exact)), scale="plain")
    down = pytest.approx(-20 * log10(2))
    assert difference(mine, base, 0.95) == (down, down)
    assert difference(mine, replace(base, squares=(its, 2 * exact)), 0.95) == (10 - 25, 30 - 5)
    nothing = replace(mine, squares=(4 * its * (np.arange(16) > 0), exact))
    assert difference(nothing, base, 0.95) == (down, inf)
    even = replace(mine, influence=0.1 * HALF + 0.1 * EVEN)
    assert difference(even, base, 0.95) == pytest.approx((6 - 0.1 * REACH, 6 + 0.1 * REACH))
    unknown = replace(even, span=(10.0, inf))
    assert difference(unknown, base, 0.95) == (down, down)
    seeds = replace(mine, tile=False)
    assert difference(seeds, base, 0.95) == pytest.approx(
        tuple(NEPER * x for x in changed(6 / NEPER, *reach((ONE - 0.1 * HALF) / NEPER, 0.95)))
    )


# -- figures ---------------------------------------------------------------------------------------------------------


def test_figures_have_all_that_their_estimates_say():
    """A figure a variant and metric, with value and ends to six digits and ratios to every other base that is there."""
    errors = {
        "numerics.total_error": Estimate(1 / 3, 0.01 * EVEN),
        "numerics.sqnr_db": Estimate(9.5424251, 0.1 * EVEN, "plain"),
    }
    worse = {
        "numerics.total_error": Estimate(2 / 3, 0.01 * HALF),
        "numerics.sqnr_db": Estimate(3.5218252, 0.1 * HALF, "plain"),
    }
    found = {("proposal", None): errors, ("proposal", 13): errors, ("software", None): worse}
    made = list(figures("g", "normal", found, ["software", "proposal", "absent"]))
    assert [(f.variant, f.at, f.metric.removeprefix("numerics.")) for f in made] == [
        ("proposal", None, "total_error"),
        ("proposal", None, "sqnr_db"),
        ("proposal", 13, "total_error"),
        ("proposal", 13, "sqnr_db"),
        ("software", None, "total_error"),
        ("software", None, "sqnr_db"),
    ]
    first = made[0]
    assert (first.workload, first.tensors, first.kind, first.source) == ("g", "normal", "computed", "bit-exact model")
    assert first.value == 0.333333
    mine, base = errors["numerics.total_error"], worse["numerics.total_error"]
    assert (first.low, first.high) == tuple(float(f"{x:.6g}") for x in mine.interval(0.95))
    assert first.ratios == {"software": tuple(float(f"{x:.6g}") for x in mine.over(base, 0.95)[1])}
    apart = difference(errors["numerics.sqnr_db"], worse["numerics.sqnr_db"], 0.95)
    assert made[1].ratios == {"software": tuple(float(f"{x:.6g}") for x in apart)}
    assert list(made[4].ratios) == ["proposal"]
    (wide,) = (f for f in figures("g", "normal", {("proposal", None): errors}, [], 0.99) if f.metric == first.metric)
    assert (wide.low, wide.high) == tuple(float(f"{x:.6g}") for x in mine.interval(0.99))
    wider = next(figures("g", "normal", found, ["software"], 0.99))
    assert wider.ratios == {"software": tuple(float(f"{x:.6g}") for x in mine.over(base, 0.99)[1])}


def test_figures_of_too_few_outputs_have_ratios_of_what_is_the_same_alone():
    """A figure's total counts; without enough outputs only a ratio that is certainly 1 is said."""
    name = "numerics.overflow_share"
    share_of = Estimate(0.25, 0.01 * EVEN, "share", 50.0)
    more = replace(share_of, plus=share_of)
    found = {("proposal", None): {name: more}, ("software", None): {name: share_of}, ("exact", None): {name: share_of}}
    few = {f.variant: f for f in figures("g", "t", found, ["software"], enough=False)}
    assert (few["proposal"].value, few["proposal"].low, few["proposal"].high) == (0.5, None, None)
    assert few["proposal"].ratios == {"software": (None, None)}
    assert few["exact"].ratios == {"software": (1, 1)}
    assert few["software"].ratios == {}
    assert {f.variant: f for f in figures("g", "t", found, ["software"])}["proposal"].low is not None


def test_figures_keep_six_digits():
    """More digits than a figure deserves are cut, and what is not finite is none."""
    assert finite(1 / 3) == 0.333333
    assert finite(123456789.0) == 123457000
    assert [finite(x) for x in (inf, -inf, nan)] == [None] * 3


def test_a_level_in_db_has_the_interval_of_the_error_behind_it():
    """Skewness and the largest error are those of errors, with the other sign; so are intervals, ratios and differences."""
    rng = np.random.default_rng(4)
    first, second = (norm(rng.gamma(3, 1, 16), rng.gamma(9, 1, 16), None, rng.uniform(0, 0.5, 16)) for _ in range(2))
    low, high = first.interval(0.95)
    assert decibel(first).interval(0.95) == pytest.approx((-20 * log10(high), -20 * log10(low)))
    low, high = first.over(second, 0.95)[1]
    assert difference(decibel(first), decibel(second), 0.95) == pytest.approx((-20 * log10(high), -20 * log10(low)))


def skewed(n, last):
    """Half zeros, then ones, then a larger number."""
    return np.array([0.0] * (n // 2) + [1.0] * (n - n // 2 - 1) + [last])


def test_the_furthest_cluster_counts_once_more_where_clusters_are_skewed():
    """From three clusters on, on the side of the skewness alone, whatever the unit; not below a skewness of a half."""
    three = np.array([0.0, 0.0, 1.0])
    assert far(three) == (0.0, pytest.approx(2 / 3))
    assert far(-three) == (pytest.approx(2 / 3), 0.0)
    assert far(100 * three) == (0.0, pytest.approx(200 / 3))
    assert far(three[:2]) == (0.0, 0.0)
    assert far(skewed(4, 1.52)) == far(skewed(8, 1.66)) == (0.0, 0.0)  # 0.39 and 0.45


def test_a_share_of_nearly_all_stays_below_one():
    """A cluster that would take a share past 1 says nothing of its upper end."""
    influence = np.array([0.3, *([-0.02] * 15)])
    found = Estimate(0.9, influence, "share", units=16)
    low, high = found.interval(0.95)
    assert 0 < low < 0.9 < high <= 1


@pytest.mark.parametrize("side", [1, -1])
def test_a_cluster_that_would_take_a_share_to_its_end_is_no_limit(side):
    """Once more, the furthest of nine clusters makes half of nothing or of all: there is no beta distribution of that mean."""
    influence = side * np.array([-0.5, *([0.0625] * 8)])
    low, high = Estimate(0.5, influence, "share", units=16).interval(0.95)
    assert 0 <= low < 0.5 < high <= 1


def test_a_ratio_of_shares_reaches_as_far_as_one_more_of_the_furthest_cluster():
    """The change that the furthest cluster makes on the skewed side, once more, is beyond what the sample showed."""
    influence = 0.01 * np.array([-0.5, *([0.0625] * 8)])
    found = Estimate(0.4, influence, "share", units=1000)
    less, more = far(influence)
    assert less > more == 0
    assert found._reach(influence, 0.95, 0.0) == reach(influence, 0.95, np.array([-less, more]))
    assert found._reach(influence, 0.95, 0.0)[0] > reach(influence, 0.95)[0]


def test_ranks_of_a_quantile_over_a_norm_are_in_its_unit():
    """Values are over the corrected norm, whose correction is of all clusters: their quantile is the value itself."""
    generator = np.random.default_rng(3)
    values, excess = generator.exponential(size=(16, 8)), generator.uniform(-0.5, 2.0, 16)
    over = (np.square(values).sum(axis=1), 1 + excess)
    found = quantile(values, np.ones_like(values), 0.95, over=over, excess=excess)
    plain = quantile(values, np.ones_like(values), 0.95, over=over)
    assert found.ranks.at(0.95) == pytest.approx(found.value)
    assert plain.ranks.at(0.95) == pytest.approx(plain.value)
    assert not np.allclose(found.ranks.influence, plain.ranks.influence)
    smallest = quantile(values, np.ones_like(values), 0.001, over=over).ranks
    # Nothing lies below the smallest value over a smaller norm, whichever cluster that made the norm larger is left out.
    assert np.isclose(smallest.influence, 1 / 128).sum() > 1
