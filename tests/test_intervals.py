"""Intervals of samples and figures from clusters, against published quantiles and worked by hand."""

from dataclasses import replace
from math import exp, inf, isfinite, log10, nan

import numpy as np
import pytest
from influences import EVEN, HALF

from codesign.figures.estimates import added, decibel, largest, norm, quantile, share
from codesign.figures.intervals import (
    SMALL_CHANGE,
    Estimate,
    changed,
    difference,
    far,
    figures,
    finite,
    reach,
)
from codesign.figures.quantiles import student_t


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
