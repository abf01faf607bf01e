"""Estimates from the sums of clusters, worked by hand or by leaving out one cluster after another."""

from math import inf, isfinite, log, nan, sqrt

import numpy as np
import pytest

from codesign.figures.estimates import LOSSLESS, _halves, added, decibel, largest, norm, quantile, quotient, share
from codesign.figures.intervals import Estimate


def test_no_error_is_zero_even_of_nothing_and_an_error_of_nothing_is_infinite():
    """0 over 0 is no error; an error where the exact product is zero, or that is infinite, is infinite; and so in dB."""
    nothing, some = np.zeros(9), np.ones(9)
    assert norm(nothing, nothing).value == norm(nothing, some).value == 0
    assert norm(some, nothing).value == norm(np.where(np.arange(9) == 3, inf, 1.0), some).value == inf
    assert norm(some, nothing).interval(0.95) is None
    assert decibel(norm(nothing, some)).value == LOSSLESS
    assert not isfinite(decibel(norm(some, nothing)).value)
    assert decibel(norm(some / 100, some)).value == pytest.approx(20)


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


@pytest.mark.parametrize("clusters", [8, 16, 32, 63])
def test_half_samples_show_the_variance_of_a_sum_exactly(clusters):
    """Each cluster counts twice or not at all, and the mean square of what that changes is the sum of the clusters' squares."""
    halves = _halves(clusters)
    assert set(halves.ravel()) == {0.0, 2.0}
    values = np.random.default_rng(0).standard_normal(clusters)
    moved = halves @ values - values.sum()
    assert (moved**2).mean() == pytest.approx((values**2).sum())
    assert _halves(200).shape == (64, 200)


def test_a_quantile_is_that_of_the_weighted_values():
    """A weight counts as so many copies; a quantile of zeros is zero, of infinities infinite."""
    values = np.arange(90.0).reshape(9, 10)
    assert quantile(values, np.ones((9, 10)), 0.5).value == 44
    assert quantile(values, np.where(values == 89, 91.0, 1.0), 0.5).value == 89
    assert quantile(0 * values, np.ones((9, 10)), 0.95).interval(0.95) == (0.0, 0.0)
    assert quantile(values + inf, np.ones((9, 10)), 0.5).value == inf
    assert isinstance(quantile(values, np.ones((9, 10)), 0.5), Estimate)


def jackknife(of, *sums):
    """Return what leaving out each cluster takes from a function of sums."""
    keep = ~np.eye(len(sums[0]), dtype=bool)
    return np.array([of(*sums) - of(*(x[one] for x in sums)) for one in keep])


ERROR2 = np.array([4.0, 1, 9, 2, 25, 3, 0, 5])
EXACT2 = np.array([100.0, 400, 50, 90, 125, 75, 10, 130])


def test_a_norm_is_the_root_of_a_ratio_of_sums_with_the_jackknife_of_its_logarithm():
    """49 over 980 is a ratio of 1/20; the single clusters span 0 to the root of 1/5."""
    found = norm(ERROR2, EXACT2)
    assert found.value == pytest.approx(sqrt(49 / 980))
    assert found.influence == pytest.approx(jackknife(lambda e, x: log(sqrt(e.sum() / x.sum())), ERROR2, EXACT2))
    assert (found.scale, found.tile, found.held, found.squares) == ("log", False, False, None)
    assert found.span == pytest.approx((0.0, sqrt(0.2)))


def test_a_norm_knows_how_much_the_largest_error_of_each_cluster_adds():
    """One and a half times in the sum of 49, each changes half of its logarithm; in dB that is 20 / ln 10 times as much, down.
    A tile has all of its outputs, and a sum that cannot be corrected keeps them."""
    large = np.array([1.0, 1, 5, 2, 20, 3, 0, 5])
    found = norm(ERROR2, EXACT2, None, large)
    assert found.most == pytest.approx([log(sqrt((49 + 1.5 * x) / 49)) for x in large])
    assert decibel(found).most == pytest.approx(-20 / log(10) * found.most)
    assert norm(ERROR2, EXACT2).most == norm(ERROR2, EXACT2, TILE, large).most == 0
    excess = np.arange(1.0, 9)
    assert norm(excess, np.ones(8), excess, large).most == pytest.approx(np.log1p(1.5 * large / 36) / 2)


def test_the_span_of_a_norm_leaves_out_empty_clusters_and_not_errors_of_nothing():
    """A cluster of 0 over 0 says nothing of the spread, one of 1 over 0 has an infinite error."""
    empty = np.where(np.arange(8) == 2, 0.0, 1.0)
    assert norm(0.04 * empty, empty).span == pytest.approx((0.2, 0.2))
    assert norm(0.04 * np.ones(8), empty).span == (pytest.approx(0.2), inf)


def test_no_error_has_a_point_for_its_interval_and_an_infinite_one_none():
    """Both have as many clusters as were there, and no influence of any."""
    for found in (norm(np.zeros(9), np.ones(9)), norm(np.ones(9), np.zeros(9))):
        assert found.influence.tolist() == [0] * 9
        assert found.scale == "log"
    assert norm(np.zeros(9), np.ones(9)).interval(0.95) == (0, 0)
    assert norm(np.ones(1), 4 * np.ones(1)).value == 0.5


def test_a_norm_of_one_cluster_leaves_a_cluster_of_its_size():
    """Leaving out the cluster that holds all would leave nothing to divide: an average part stays, here of 4 over 1 each."""
    alone = norm(np.array([4.0, 0, 0, 0]), np.array([1.0, 1, 1, 1]))
    assert alone.value == 1
    assert alone.influence == pytest.approx([(log(1) - log(1 / 3)) / 2] + [(log(1) - log(4 / 3)) / 2] * 3)
    assert norm(np.array([4.0]), np.array([1.0])).influence == [0]


def corrected(sums, excess):
    """Return the sum of clusters on a straight line fitted through them, where nothing is in excess."""
    return len(sums) * np.polyfit(excess, sums, 1)[1]


def test_sums_are_corrected_by_their_line_over_the_excess():
    """The corrected sum is that of the line where the excess is zero, in the whole and without each cluster. Sums that rise
    with the excess become less."""
    rng = np.random.default_rng(4)
    excess = rng.normal(0.3, 0.5, 9)
    exact, error = 1 + excess + 0.1 * rng.random(9), 0.04 * (1 + 0.5 * excess + 0.1 * rng.random(9))
    found = norm(error, exact, excess)

    def level(e, x, b):
        return log(corrected(e, b) / corrected(x, b)) / 2

    assert log(found.value) == pytest.approx(level(error, exact, excess))
    # Leaving one of 9 clusters out leaves 8, in the same sums of products.
    assert found.influence == pytest.approx(jackknife(level, error, exact, excess))
    assert (found.tile, found.held, found.squares) == (False, False, None)
    assert found.span == norm(error, exact).span


def test_eight_clusters_are_corrected_and_seven_are_not():
    """The fewest clusters of an interval are the fewest of a correction."""
    excess = np.linspace(-0.5, 1, 8)
    assert norm(np.ones(8), 1 + excess, excess).value == pytest.approx(1)
    assert norm(np.ones(7), 1 + excess[:7], excess[:7]).value == pytest.approx(sqrt(7 / (7 + excess[:7].sum())))


def test_an_excess_that_is_the_same_everywhere_corrects_nothing():
    """Without any difference in excess there is no line through the clusters: sums stay, whatever the excess."""
    same = np.full(8, 0.1)
    found, plain = norm(ERROR2, EXACT2, same), norm(ERROR2, EXACT2)
    assert found.value == plain.value
    assert found.influence == pytest.approx(plain.influence)
    nearly = same + 1e-7 * np.arange(8)
    assert norm(ERROR2, EXACT2, nearly).value == plain.value
    apart = 1e-4 * np.arange(8)
    assert norm(1 + apart, 1 + 2 * apart, apart).value == pytest.approx(1)


def test_a_correction_below_zero_without_one_cluster_is_not_made_at_all():
    """The first cluster alone holds the line above zero: the value and its influences are those of the plain sums."""
    excess = 0.5 + np.arange(9) / 10
    error = 10 * excess - 0.5
    error[0] += 3
    found, plain = norm(error, 1 + excess, excess), norm(error, 1 + excess)
    assert corrected(error, excess) > 0 > corrected(error[1:], excess[1:])
    assert found.value == plain.value
    assert found.influence.tolist() == plain.influence.tolist()


def test_an_error_that_is_all_excess_is_not_corrected_to_nothing():
    """A line through zero would leave no error at all, with a logarithm that is not finite: the sums stay."""
    excess = np.arange(1.0, 9)
    assert norm(excess, np.ones(8), excess).value == norm(excess, np.ones(8)).value


TILE = np.full(8, nan)


def test_parts_of_a_tile_are_never_corrected_and_keep_their_squares():
    """A tile's parts are marked by NaN, in one part as in all; the estimate keeps the sums for spans of ratios."""
    found = norm(ERROR2, EXACT2, TILE)
    assert found.value == norm(ERROR2, EXACT2).value
    assert found.tile
    assert found.squares[0] is ERROR2
    assert found.squares[1] is EXACT2
    assert norm(ERROR2, EXACT2, np.where(np.arange(8) == 1, nan, 0.1)).tile


def test_a_tile_is_held_by_one_part_over_two_fifths_of_the_variance_or_by_empty_ones():
    """One large error holds a tile, not independent seeds; with seven parts that are not empty a tile spans 0 to infinity."""
    large = np.where(np.arange(8) == 3, 100.0, np.linspace(1, 2, 8))
    assert norm(large, EXACT2, TILE).held
    assert not norm(large, EXACT2).held
    empty = np.where(np.arange(8) == 3, 0.0, 1.0)
    few = norm(ERROR2 * empty, EXACT2 * empty, TILE)
    assert few.held
    assert few.span == (0, inf)
    seeds = norm(ERROR2 * empty, EXACT2 * empty)
    assert not seeds.held
    assert seeds.span[1] < 1


def test_a_level_in_decibels_is_twenty_logarithms_upside_down():
    """An error of a tenth is 20 dB, with its span turned over; a factor of e is 8.686 dB."""
    error = Estimate(0.1, np.arange(8.0), span=(0.01, 1.0), tile=True, held=True, squares=(ERROR2, EXACT2))
    found = decibel(error)
    assert found.value == pytest.approx(20)
    assert found.span == pytest.approx((0, 40))
    assert found.influence == pytest.approx(-8.685889638 * np.arange(8.0))
    assert (found.scale, found.tile, found.held) == ("level", True, True)
    assert found.squares is error.squares
    assert decibel(Estimate(1.0, np.zeros(8))).value == 0


def test_levels_of_no_error_and_of_an_infinite_one():
    """No error at all is 400 dB, also of one cluster in a span; an infinite error lies below every level."""
    none, infinite = decibel(norm(np.zeros(9), np.ones(9))), decibel(norm(np.ones(9), np.zeros(9)))
    assert (none.value, none.scale, len(none.influence)) == (LOSSLESS, "level", 9)
    assert LOSSLESS == 400
    assert (infinite.value, infinite.scale, len(infinite.influence)) == (-inf, "level", 9)
    assert decibel(norm(ERROR2, EXACT2)).span == (pytest.approx(-10 * log(0.2) / log(10)), LOSSLESS)


def test_a_quotient_is_one_of_sums_with_its_jackknife():
    """-6 of 40 in eight clusters of either sign; a cluster that holds the whole leaves an average part."""
    part, whole = np.array([1.0, -4, 2, -3, 0, 1, -5, 2]), np.array([4.0, 6, 2, 8, 1, 3, 10, 6])
    found = quotient(part, whole)
    assert (found.value, found.scale) == (-0.15, "plain")
    assert found.influence == pytest.approx(jackknife(lambda p, w: p.sum() / w.sum(), part, whole))
    single = np.array([0.0, 5, 0, 0])
    held = quotient(np.array([1.0, 1, 0, 0]), single)
    assert held.value == 0.4
    assert held.influence == pytest.approx([1 / 5, (1 - 0.4 * 5) / (5 / 4), 0, 0])


def test_a_quotient_of_a_tile_that_one_part_holds_has_the_span_of_its_parts():
    """One of nine parts holds the variance: the interval reaches from the least part's own quotient to the largest's."""
    part, whole = np.array([0.0, 1, -1, 0, 1, -1, 0, 1, 30]), np.array([4.0, 5, 4, 5, 4, 5, 4, 0, 10])
    part[7] = 0
    found = quotient(part, whole, TILE)
    assert (found.tile, found.held, found.span, found.scale) == (True, True, (-0.25, 3.0), "plain")
    assert found.interval(0.95) == (-0.25, 3.0)
    even = quotient(np.array([1.0, -1, 2, -2, 1, -1, 2, -2, 1]), np.full(9, 4.0), TILE)
    assert (even.tile, even.held, even.span) == (True, False, (-0.5, 0.5))
    assert not quotient(part, whole).tile


def test_a_quotient_of_nothing_is_nothing_and_of_infinities_infinite():
    """0 / 0 is 0; an infinite part, or one of nothing, is infinite; the clusters have no influence then."""
    for part, whole, value in ((np.zeros(8), np.zeros(8), 0), (np.ones(8), np.zeros(8), inf), (TILE, np.ones(8), inf)):
        found = quotient(part, whole)
        assert (found.value, found.scale, found.influence.tolist()) == (value, "plain", [0] * 8)


def test_a_share_counts_over_its_units():
    """12 hits in 80: the estimate is that of the quotient, over units of its own."""
    hits, counts = np.array([1.0, 2, 0, 3, 1, 2, 1, 2]), np.array([10.0, 12, 8, 10, 10, 9, 11, 10])
    found = share(hits, counts, 320.0)
    assert (found.value, found.units, found.scale) == (0.15, 320, "share")
    assert found.influence.tolist() == quotient(hits, counts).influence.tolist()


def test_the_largest_of_shares_has_the_others_beside_it():
    """The value, units and influences are those of the largest, whichever comes first."""
    low, high, middle = (share(hits * np.arange(1.0, 9), np.full(8, 50.0), 100 * hits) for hits in (1, 3, 2))
    found = largest(low, high, middle)
    assert (found.value, found.units, found.scale) == (high.value, 300, "share")
    assert found.influence is high.influence
    assert [e.value for e in found.beside] == [middle.value, low.value]
    assert largest(low).beside == ()


def test_added_shares_have_one_total():
    """A sum keeps its first part as value and adds the second in the total."""
    one, other = (share(np.full(8, hits), np.full(8, 50.0), 400) for hits in (5.0, 10.0))
    found = added(one, other)
    assert (found.value, found.total) == (0.1, pytest.approx(0.3))
    assert found.plus is other


# -- quantiles -------------------------------------------------------------------------------------------------------


def repeated(values, weights, counts, probability):
    """Return a quantile of values repeated by whole weights and counts: the first that reaches the probability."""
    copies = np.repeat(values.ravel(), (weights * counts[:, None]).ravel().astype(int))
    return np.sort(copies)[int(np.ceil(probability * len(copies) - 1e-9)) - 1]


VALUES = np.random.default_rng(5).lognormal(size=(9, 7))
WEIGHTS = np.random.default_rng(6).integers(1, 5, (9, 7)).astype(float)


@pytest.mark.parametrize("probability", [0.25, 0.5, 0.95])
def test_a_quantile_moves_as_on_repeated_half_samples(probability):
    """The influences are those of the logarithm of the quantile on each half sample, over the root of their number."""
    found = quantile(VALUES, WEIGHTS, probability)
    halves = [repeated(VALUES, WEIGHTS, counts, probability) for counts in _halves(9)]
    value = repeated(VALUES, WEIGHTS, np.ones(9), probability)
    assert found.value == value
    assert found.influence == pytest.approx(np.log(np.array(halves) / value) / 4)
    assert (found.scale, found.halved, found.clusters, found.held, found.tile) == ("log", 9, 9, False, False)


def test_the_rank_of_a_quantile_has_the_jackknife_of_the_share_below():
    """Ranks hold the values in order, the share of weights that each reaches, and what each cluster adds to the share below."""
    ranks = quantile(VALUES, WEIGHTS, 0.5).ranks
    below = quantile(VALUES, WEIGHTS, 0.5).value >= VALUES
    order = np.argsort(VALUES.ravel())
    assert ranks.probability == 0.5
    assert ranks.values.tolist() == np.sort(VALUES.ravel()).tolist()
    assert ranks.reached == pytest.approx(np.cumsum(WEIGHTS.ravel()[order]) / WEIGHTS.sum())
    assert ranks.influence == pytest.approx(jackknife(lambda w, b: (w * b).sum() / w.sum(), WEIGHTS, below))


def test_a_quantile_in_which_one_cluster_has_all_the_weight_has_no_rank():
    """Without that cluster no share is below anything, and so it has no influence on one."""
    weights = np.where(np.arange(9) == 2, 1.0, 0.0)[:, None] * np.ones((9, 7))
    found = quantile(VALUES, weights, 0.5)
    assert found.value == np.median(VALUES[2])
    assert found.ranks is None


def test_a_quantile_over_a_norm_is_divided_by_the_norm_of_its_own_half_sample():
    """Numerator and denominator are resampled together. Its rank is that of values over the norm, without a cluster."""
    exact2, count = EXACT2.repeat([1, 1, 1, 1, 1, 1, 1, 2]), np.full(9, 20.0)
    found = quantile(VALUES, WEIGHTS, 0.95, (exact2, count))

    def at(counts):
        return repeated(VALUES, WEIGHTS, counts, 0.95) / sqrt((counts @ exact2) / (counts @ count))

    value = at(np.ones(9))
    assert found.value == pytest.approx(value)
    assert found.influence == pytest.approx(np.log([at(counts) / value for counts in _halves(9)]) / 4)
    assert (found.scale, found.halved, found.held) == ("log", 9, False)
    norm = sqrt(exact2.sum() / count.sum())
    assert found.ranks.values == pytest.approx(np.sort(VALUES, axis=None) / norm)

    def share(kept):
        most = value * sqrt(exact2[kept].sum() / count[kept].sum())
        return (WEIGHTS[kept] * (VALUES[kept] <= most * (1 + 1e-12))).sum() / WEIGHTS[kept].sum()

    everything = np.arange(9)
    assert found.ranks.influence == pytest.approx([share(everything) - share(everything != i) for i in range(9)])
    assert found.interval(0.95) == found.ranks.interval(0.95)


def test_the_norm_under_a_quantile_is_corrected_too():
    """The mean square of the product is that of the line where the excess is zero."""
    excess = np.linspace(-0.4, 0.8, 9)
    found = quantile(VALUES, WEIGHTS, 0.95, (20 * (2 + excess), np.full(9, 20.0)), excess)
    assert found.value == pytest.approx(repeated(VALUES, WEIGHTS, np.ones(9), 0.95) / sqrt(2))
    none = quantile(VALUES, WEIGHTS, 0.95, (20 * (2 + excess), np.full(9, 20.0)), 0 * excess)
    assert none.value == quantile(VALUES, WEIGHTS, 0.95, (20 * (2 + excess), np.full(9, 20.0))).value


def test_a_quantile_over_a_tile_is_held_where_its_product_is():
    """One part of a tile with most of the product holds the quantile over it, one of independent seeds does not, and a
    quantile over nothing never is."""
    held, even, nan9 = np.where(np.arange(9) == 4, 1e3, 1.0), np.linspace(1, 2, 9), np.full(9, nan)
    count = np.full(9, 7.0)
    assert quantile(VALUES, WEIGHTS, 0.95, (held, count), nan9).held
    assert not quantile(VALUES, WEIGHTS, 0.95, (even, count), nan9).held
    assert not quantile(VALUES, WEIGHTS, 0.95, (held, count)).held
    assert not quantile(VALUES, WEIGHTS, 0.95, None, nan9).held


def test_a_quantile_that_may_be_zero_is_on_a_plain_scale():
    """Where a half sample's quantile is zero or infinite it has no logarithm: differences count, an infinite one as the
    largest that is not."""
    values = np.where(np.arange(8)[:, None] < 4, 0.0, 1.0 + np.arange(8)[:, None])
    ones = np.ones((8, 1))
    found = quantile(values, ones, 0.55)
    again = np.array([repeated(values, ones, counts, 0.55) for counts in _halves(8)])
    assert (found.value, found.scale) == (5, "plain")
    assert (again == 0).any()
    assert found.influence == pytest.approx((again - 5) / 4)
    infinite = np.where(np.arange(8)[:, None] < 5, 1.0 + np.arange(8)[:, None], inf)
    found = quantile(infinite, ones, 0.5)
    again = np.array([repeated(infinite, ones, counts, 0.5) for counts in _halves(8)])
    moved = np.where(np.isfinite(again), again, again[np.isfinite(again)].max()) - 4
    assert (found.value, found.scale) == (4, "plain")
    assert np.isinf(again).any()
    assert found.influence == pytest.approx(moved / 4)


def test_a_quantile_of_zeros_over_nothing_is_zero():
    """Half samples without any product have no error either."""
    values, product = np.zeros((8, 1)), np.where(np.arange(8) < 2, 1.0, 0.0)
    found = quantile(values, np.ones((8, 1)), 0.95, (product, np.ones(8)))
    assert (found.value, found.scale, found.influence.tolist()) == (0, "plain", [0] * 16)
    some = quantile(values + 1, np.ones((8, 1)), 0.95, (product, np.ones(8)))
    assert some.value == pytest.approx(2)
    assert some.scale == "plain"  # a half sample has no product at all
    assert quantile(values, np.ones((8, 1)), 0.95, (0 * product, np.ones(8))).value == 0


def test_a_quantile_of_few_clusters_or_of_infinities_is_a_value_alone():
    """Seven clusters have a value, eight half samples, too; what is infinite or NaN is infinite."""
    few = quantile(VALUES[:7], WEIGHTS[:7], 0.5)
    assert (few.value, few.halved, few.influence.tolist()) == (
        repeated(VALUES[:7], WEIGHTS[:7], np.ones(7), 0.5),
        0,
        [0] * 7,
    )
    assert quantile(VALUES[:8], WEIGHTS[:8], 0.5).halved == 8
    for value in (inf, nan):
        found = quantile(np.full((9, 2), value), np.ones((9, 2)), 0.5)
        assert (found.value, found.influence.tolist()) == (inf, [0] * 9)


def test_half_samples_are_powers_of_two_up_to_sixty_four():
    """One more column than clusters is needed, since the first column takes all; more clusters than 63 share columns."""
    assert [_halves(n).shape for n in (7, 8, 15, 16, 63, 64)] == [
        (8, 7),
        (16, 8),
        (16, 15),
        (32, 16),
        (64, 63),
        (64, 64),
    ]
    halves = _halves(64)
    assert (halves[:, 63] == halves[:, 0]).all()
    assert halves.mean(axis=0).tolist() == [1] * 64
    assert (halves[0] == 2).all()
