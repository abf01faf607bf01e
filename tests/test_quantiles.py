"""Student's t, the beta distribution and the exact interval of a share: published numbers, and sums of exact fractions."""

from fractions import Fraction
from math import asin, comb, exp, pi, sqrt

import pytest

from codesign.figures import quantiles
from codesign.figures.quantiles import _density, beta_below, beta_quantile, clopper_pearson, student_t


@pytest.fixture(autouse=True)
def _nothing_remembered():
    """Compute every quantile, whatever other tests asked for."""
    beta_quantile.cache_clear()


def at_least(hits, units, share):
    """Return the probability of so many hits or more among `units`, exactly."""
    p = Fraction(share)
    return float(sum(comb(units, k) * p**k * (1 - p) ** (units - k) for k in range(hits, units + 1)))


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


def test_the_interval_of_a_share_is_clopper_and_pearsons():
    """Closed forms where none or all are hits, and the textbook interval of 3 in 10; hits need not be whole."""
    assert clopper_pearson(0, 100, 0.95) == (0.0, pytest.approx(1 - 0.025**0.01))
    assert clopper_pearson(10, 10, 0.95) == (pytest.approx(0.025**0.1), 1.0)
    assert clopper_pearson(3, 10, 0.95) == (pytest.approx(0.0667, abs=1e-4), pytest.approx(0.6525, abs=1e-4))
    low, high = clopper_pearson(2.5, 10, 0.95)
    assert clopper_pearson(2, 10, 0.95)[0] < low < 0.25 < high < clopper_pearson(3, 10, 0.95)[1]


def test_one_hit_has_a_lower_limit():
    """One hit of 100, or a part of one, is not none: the lower limit is where so many or more have the tail's probability."""
    low, high = clopper_pearson(1, 100, 0.95)
    assert low == pytest.approx(1 - 0.975 ** (1 / 100))
    assert high == pytest.approx(0.05446, rel=1e-3)
    assert 0 < clopper_pearson(0.5, 100, 0.95)[0] < low


@pytest.mark.parametrize(
    ("hits", "units", "level"), [(3, 10, 0.95), (1, 7, 0.8), (17, 40, 0.99), (38, 40, 0.9), (5, 60, 0.95)]
)
def test_each_end_of_a_shares_interval_has_half_the_error_probability(hits, units, level):
    """At the lower end so many hits or more, at the upper end so many or fewer have half of what the level leaves."""
    low, high = clopper_pearson(hits, units, level)
    assert at_least(hits, units, low) == pytest.approx((1 - level) / 2, rel=1e-9)
    assert 1 - at_least(hits + 1, units, high) == pytest.approx((1 - level) / 2, rel=1e-9)


def test_a_share_of_all_or_of_none_has_one_end():
    """At level 0.8 a tenth is left on the open side; more hits than units, as rounding makes, are all."""
    assert clopper_pearson(0, 5, 0.8) == (0.0, pytest.approx(1 - 0.1 ** (1 / 5), rel=1e-12))
    assert clopper_pearson(5, 5, 0.8) == (pytest.approx(0.1 ** (1 / 5), rel=1e-12), 1.0)
    assert clopper_pearson(5.5, 5, 0.8)[1] == 1.0
    assert clopper_pearson(0, 1e9, 0.95)[1] == pytest.approx(3.688879e-9, rel=1e-6)


@pytest.mark.parametrize(("a", "b"), [(1, 1), (2, 3), (3, 2), (7, 1), (1, 7), (20, 30), (60, 4)])
@pytest.mark.parametrize("x", [0.015625, 0.25, 0.40625, 0.5, 0.75, 0.984375])
def test_the_beta_distribution_is_a_sum_of_binomial_probabilities(a, b, x):
    """For whole a and b the distribution function is the probability of a hits or more among a + b - 1."""
    expected = at_least(a, a + b - 1, Fraction(x))
    assert beta_below(x, a, b) == pytest.approx(expected, rel=1e-12, abs=1e-15)


@pytest.mark.parametrize("x", [1e-12, 0.01, 0.3, 0.5, 0.9, 1 - 1e-12])
def test_the_beta_distribution_of_two_halves_is_an_arcsine(x):
    """Near both ends, where the continued fraction on the far side would not converge, too."""
    below = 2 / pi * asin(sqrt(x)) if x < 0.5 else 1 - 2 / pi * asin(sqrt(1 - x))
    assert beta_below(x, 0.5, 0.5) == pytest.approx(below, rel=1e-12)


def test_nothing_lies_outside_0_and_1():
    """The beta distribution has no density there, nothing below 0 and everything below 1."""
    assert [beta_below(x, 2.0, 3.0) for x in (-0.5, 0.0, 1.0, 1.5)] == [0, 0, 1, 1]
    assert [_density(x, 2.0, 3.0) for x in (-0.5, 0.0, 1.0, 1.5)] == [0, 0, 0, 0]
    assert [_density(x, 1.0, 1.0) for x in (0.0, 0.5, 1.0)] == [0, pytest.approx(1), 0]


def test_the_density_is_the_published_one():
    """12 x (1 - x)^2 for (2, 3), an inverse root at both ends for (1/2, 1/2), and cut off where float64 ends."""
    assert _density(0.25, 2.0, 3.0) == pytest.approx(12 * 0.25 * 0.75**2, rel=1e-13)
    assert _density(0.1, 0.5, 0.5) == pytest.approx(1 / (pi * sqrt(0.1 * 0.9)), rel=1e-13)
    assert _density(1e-320, 0.02, 1.0) == pytest.approx(exp(700), rel=1e-9)


@pytest.mark.parametrize("probability", [1e-9, 0.001, 0.3, 0.5, 0.9, 0.999999])
@pytest.mark.parametrize(("a", "b"), [(0.5, 0.5), (2.0, 5.0), (100.0, 3.0), (0.5, 40.0), (1.0, 1000.0), (0.05, 10.0)])
def test_a_quantile_has_the_probability_below_it(probability, a, b):
    """The distribution function has the probability between the quantile less and more a part in 10^10."""
    x = beta_quantile(probability, a, b)
    assert beta_below(x * (1 - 1e-10), a, b) < probability < beta_below(x * (1 + 1e-10), a, b)


@pytest.mark.parametrize(
    ("shapes", "evaluations"),
    [
        ([(3.5, 0.5), (7.5, 0.5), (15.5, 0.5)], 264),  # Student's t
        ([(1, 100), (5, 96), (50, 51), (100, 1)], 216),  # shares
        ([(0.5, 0.5), (0.05, 10), (1e6, 1e6)], 362),  # where a step may leave the bracket
    ],
)
def test_a_quantile_takes_few_evaluations(shapes, evaluations, monkeypatch):
    """Newton's steps from a nearly normal start double their digits: no more evaluations of the distribution function than
    counted once, those of its mirror image counted apart."""
    made = []
    monkeypatch.setattr(quantiles, "beta_below", lambda *of: made.append(of) or beta_below(*of))
    for a, b in shapes:
        for probability in (0.001, 0.025, 0.5, 0.975, 0.999):
            quantiles.beta_quantile(probability, a, b)
    assert len(made) <= evaluations


def test_a_quantile_below_the_least_number_is_zero():
    """Half of the distribution of a = 1/1000 lies below 1e-300."""
    assert beta_quantile(0.5, 0.001, 1) == 0
    assert beta_quantile(0.9, 0.001, 1) == pytest.approx(0.9**1000, rel=1e-9)


def test_the_tails_of_students_t_mirror_each_other():
    """The quantile of 1 - p is minus that of p, also for degrees that are not whole; Cauchy's is a tangent."""
    assert student_t(0.1, 3.5) == pytest.approx(-student_t(0.9, 3.5), rel=1e-12)
    assert student_t(0.1, 3.5) < 0
    assert student_t(0.75, 1) == pytest.approx(1.0, rel=1e-12)
    assert student_t(0.75, 2) == pytest.approx(sqrt(2 / 3), rel=1e-12)
    assert student_t(0.5, 2) == 0
