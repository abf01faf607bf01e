"""Intervals from clusters: against published quantiles, against closed forms, and by simulation."""

from math import inf, isfinite

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codesign.figures.estimates import LOSSLESS, _halves, added, decibel, largest, norm, quantile, quotient, share
from codesign.figures.intervals import Estimate, changed, difference, figures, reach
from codesign.figures.quantiles import beta_below, beta_quantile, clopper_pearson, student_t


@pytest.mark.parametrize(
    ("probability", "degrees", "expected"),
    [
        (0.975, 1, 12.7062047362),
        (0.975, 2, 4.3026527297),
        (0.975, 10, 2.2281388520),
        (0.975, 15, 2.1314495456),
        (0.975, 30, 2.0422724563),
        (0.995, 23, 2.8073356838),
        (0.95, 7, 1.8945786051),
        (0.025, 15, -2.1314495456),
        (0.5, 4, 0.0),
    ],
)
def test_students_t_has_its_published_quantiles(probability, degrees, expected):
    """Quantiles agree with published tables to ten digits, at every degree of freedom and not at a round figure."""
    assert student_t(probability, degrees) == pytest.approx(expected, abs=1e-9)


@given(st.floats(0.001, 0.999), st.floats(0.3, 300), st.floats(0.3, 300))
def test_a_beta_quantile_undoes_its_distribution_function(probability, a, b):
    """The distribution function at a quantile is the probability it was asked for."""
    x = beta_quantile(probability, a, b)
    assert x == 0 or beta_below(x, a, b) == pytest.approx(probability, abs=1e-6) or x > 1 - 1e-12


def test_the_interval_of_a_share_is_clopper_and_pearsons():
    """Closed forms where none or all are hits, and the textbook interval of 3 in 10; hits need not be whole."""
    assert clopper_pearson(0, 100, 0.95) == (0.0, pytest.approx(1 - 0.025**0.01))
    assert clopper_pearson(10, 10, 0.95) == (pytest.approx(0.025**0.1), 1.0)
    assert clopper_pearson(3, 10, 0.95) == (pytest.approx(0.0667, abs=1e-4), pytest.approx(0.6525, abs=1e-4))
    low, high = clopper_pearson(2.5, 10, 0.95)
    assert clopper_pearson(2, 10, 0.95)[0] < low < 0.25 < high < clopper_pearson(3, 10, 0.95)[1]


@given(st.lists(st.floats(0.1, 10), min_size=8, max_size=40), st.floats(0.5, 0.999), st.floats(0.01, 100))
def test_an_interval_holds_its_value_grows_with_its_level_and_scales(sums, level, unit):
    """Every interval lies around its value, a higher level is wider, and a factor on all sums is one on the interval."""
    error = np.array(sums)
    exact = np.roll(error, 1) + 1
    found, scaled = norm(error, exact), norm(unit**2 * error, exact)
    low, high = found.interval(level)
    wider = found.interval((1 + level) / 2)
    assert wider[0] <= low <= found.value <= high <= wider[1]
    assert scaled.interval(level) == (pytest.approx(unit * low), pytest.approx(unit * high))


def test_no_error_is_zero_even_of_nothing_and_an_error_of_nothing_is_infinite():
    """0 over 0 is no error; an error where the exact product is zero, or that is infinite, is infinite; and so in dB."""
    nothing, some = np.zeros(9), np.ones(9)
    assert norm(nothing, nothing).value == norm(nothing, some).value == 0
    assert norm(some, nothing).value == norm(np.where(np.arange(9) == 3, inf, 1.0), some).value == inf
    assert norm(some, nothing).interval(0.95) is None
    assert decibel(norm(nothing, some)).value == LOSSLESS
    assert not isfinite(decibel(norm(some, nothing)).value)
    assert decibel(norm(some / 100, some)).value == pytest.approx(20)


def test_a_norm_that_one_cluster_holds_is_hardly_known():
    """Where one of many clusters holds nearly all of the norm and is better than the others, the interval reaches to them;
    an error that is in one cluster alone still has an interval."""
    held = np.where(np.arange(32) == 5, 1e4, 1.0)
    mine = norm(np.where(held > 1, 10.0, 0.04), held)
    assert mine.interval(0.95) == (pytest.approx(np.sqrt(10 / 1e4)), pytest.approx(0.2))
    assert decibel(mine).interval(0.95) == (pytest.approx(-20 * np.log10(0.2)), pytest.approx(30))
    low, high = norm(np.where(held > 1, 1.0, 0.0), np.ones(32)).interval(0.95)
    assert 0 < low < np.sqrt(1 / 32) < high <= 1


def test_a_known_mean_square_takes_the_place_of_one_that_was_drawn():
    """A cluster that drew twice the product without more error does not change the error; one whose error grew alike does
    not either. With fewer than 8 clusters nothing is corrected."""
    excess = np.where(np.arange(16) == 3, 4.0, -0.01)
    alone = norm(np.ones(16), 1 + excess, excess)
    assert alone.value == pytest.approx(1)
    assert norm(np.ones(16), 1 + excess).value < 0.95
    assert norm(0.04 * (1 + excess), 1 + excess, excess).value == pytest.approx(0.2)
    low, high = norm(np.ones(16), 1 + excess, 0 * excess).interval(0.95)
    assert high - low > 10 * (alone.interval(0.95)[1] - alone.interval(0.95)[0])
    assert norm(np.ones(7), 1 + excess[:7], excess[:7]).value == norm(np.ones(7), 1 + excess[:7]).value


def test_a_correction_that_leaves_less_than_nothing_is_not_made():
    """Where the error grows faster than the product, the line through the clusters falls below zero: the sums stay."""
    excess = 0.5 + np.arange(16) / 10
    error = (1 + excess) ** 8
    assert norm(error, 1 + excess, excess).value == norm(error, 1 + excess).value


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
    """A change of 2 % with a deviation of 0.6 %: at sixteen even clusters its logarithm reaches further on the far side."""
    influence = 0.006 / 4 * np.resize([1.0, -1.0], 16)
    below, above = reach(influence, 0.95)
    low, high = changed(0.02, influence, 0.95)
    assert low == pytest.approx(0.02 - below)
    assert high == pytest.approx(0.02 * np.exp(above / 0.02))
    assert changed(-0.02, -influence, 0.95) == (pytest.approx(-high), pytest.approx(-low))
    for value in (0.001, 0.2):  # not certainly a change; not a small one
        assert changed(value, influence, 0.95) == (pytest.approx(value - below), pytest.approx(value + above))


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


@pytest.mark.parametrize("clusters", [8, 16, 32, 63])
def test_half_samples_show_the_variance_of_a_sum_exactly(clusters):
    """Each cluster counts twice or not at all, and the mean square of what that changes is the sum of the clusters' squares."""
    halves = _halves(clusters)
    assert set(halves.ravel()) == {0.0, 2.0}
    values = np.random.default_rng(0).standard_normal(clusters)
    moved = halves @ values - values.sum()
    assert (moved**2).mean() == pytest.approx((values**2).sum())
    assert _halves(200).shape == (64, 200)


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
    """One cluster far from the others widens the interval by more than its deviation, on its own side most."""
    even = np.linspace(-1, 1, 16)
    assert reach(even, 0.95) == (pytest.approx(reach(even, 0.95)[1]), pytest.approx(reach(-even, 0.95)[0]))
    single = np.where(np.arange(16) == 0, 15.0, -1.0)
    deviation = np.sqrt(15 / 16 * single @ single)
    below, above = reach(single, 0.95)
    assert below == pytest.approx(student_t(0.975, 3) * deviation)
    assert above > below


def _held(estimate, truth, times=600):
    ends = [estimate().interval(0.95) for _ in range(times)]
    return sum(low <= truth <= high for low, high in ends) / times


def test_intervals_hold_the_truth_of_toy_clusters():
    """Simulated on clusters that differ in size and in error: a norm, a signed quotient, shares, and a quantile over a norm."""
    rng = np.random.default_rng(1)

    def clusters(n=16):
        x = rng.standard_normal((16, n)) * np.exp(0.3 * rng.standard_normal((16, 1)))
        return x, 0.1 * rng.standard_normal((16, n)) * (1 + 0.5 * np.abs(rng.standard_normal((16, 1))))

    def error():
        x, e = clusters()
        return norm((e**2).sum(axis=1), (x**2).sum(axis=1))

    scale2 = 1 + 2 * 0.5 * np.sqrt(2 / np.pi) + 0.25
    assert 0.92 < _held(error, 0.1 * np.sqrt(scale2 / np.exp(2 * 0.09))) < 0.98

    def bias():
        x, _ = clusters()
        return quotient((x + 0.02 * np.abs(x)).sum(axis=1), np.abs(x).sum(axis=1))

    assert 0.92 < _held(bias, 0.02) < 0.98
    for p in (0.2, 0.02, 0.004):

        def hits(p=p):
            rates = np.minimum(p * rng.gamma(4, 0.25, 16), 1)
            return share(rng.binomial(200, rates).astype(float), np.full(16, 200.0), 3200)

        assert 0.92 < _held(hits, p) < 0.99

    def high():
        x, _ = clusters(64)
        return quantile(np.abs(x), np.ones_like(x), 0.95, ((x**2).sum(axis=1), np.full(16, 64.0)))

    many = rng.standard_normal(400_000) * np.exp(0.3 * rng.standard_normal(400_000))
    truth = np.quantile(np.abs(many), 0.95) / np.sqrt(np.exp(2 * 0.09))
    assert 0.92 < _held(high, truth, 300) < 0.99


def test_intervals_hold_the_truth_where_the_product_has_heavy_tails_and_its_error_has_none():
    """The rarest elements add to the product and not to its error: 16 clusters that met none show too large an error. With the
    product's mean square known, narrower intervals hold the truth as often."""
    rng = np.random.default_rng(2)

    def draw():
        squares = rng.standard_t(4, (16, 12)) ** 2
        return np.minimum(squares, 4.0).sum(axis=1), squares.sum(axis=1)

    many = rng.standard_t(4, 1_000_000) ** 2
    truth = np.sqrt(np.minimum(many, 4.0).mean() / 2)

    def known():
        error, exact = draw()
        return norm(error, exact, exact / 24 - 1)

    def width(of):
        ends = [of().interval(0.95) for _ in range(100)]
        return np.median([high - low for low, high in ends])

    assert 0.93 < _held(known, truth) < 0.98
    assert width(known) < 0.8 * width(lambda: norm(*draw()))


def test_a_quantile_is_that_of_the_weighted_values():
    """A weight counts as so many copies; a quantile of zeros is zero, of infinities infinite."""
    values = np.arange(90.0).reshape(9, 10)
    assert quantile(values, np.ones((9, 10)), 0.5).value == 44
    assert quantile(values, np.where(values == 89, 91.0, 1.0), 0.5).value == 89
    assert quantile(0 * values, np.ones((9, 10)), 0.95).interval(0.95) == (0.0, 0.0)
    assert quantile(values + inf, np.ones((9, 10)), 0.5).value == inf
    assert isinstance(quantile(values, np.ones((9, 10)), 0.5), Estimate)


def test_one_hit_has_a_lower_limit():
    """One hit of 100, or a part of one, is not none: the lower limit is where so many or more have the tail's probability."""
    low, high = clopper_pearson(1, 100, 0.95)
    assert low == pytest.approx(1 - 0.975 ** (1 / 100))
    assert high == pytest.approx(0.05446, rel=1e-3)
    assert 0 < clopper_pearson(0.5, 100, 0.95)[0] < low
