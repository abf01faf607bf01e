"""Intervals of ratios and differences of two estimates, worked by hand."""

from dataclasses import replace
from math import exp, inf, log, log10, sqrt

import numpy as np
import pytest
from influences import EVEN, HALF, REACH

from codesign.figures.intervals import (
    SMALL_CHANGE,
    Estimate,
    changed,
    difference,
    reach,
)
from codesign.figures.quantiles import student_t

# -- ratios ----------------------------------------------------------------------------------------------------------


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
