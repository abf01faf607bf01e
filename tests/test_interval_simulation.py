"""Intervals by simulation: they hold the truth of toy clusters as often as they say."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codesign.figures.estimates import norm, quantile, quotient, share
from codesign.figures.quantiles import beta_below, beta_quantile


@given(st.floats(0.001, 0.999), st.floats(0.3, 300), st.floats(0.3, 300))
def test_a_beta_quantile_undoes_its_distribution_function(probability, a, b):
    """The distribution function at a quantile is the probability it was asked for."""
    x = beta_quantile(probability, a, b)
    assert x == 0 or beta_below(x, a, b) == pytest.approx(probability, abs=1e-6) or x > 1 - 1e-12


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


def test_intervals_hold_the_truth_where_rare_large_errors_are_missing_from_most_samples():
    """Errors whose squares have no variance: counting the largest once more makes up for those that sixteen clusters miss, and
    hardly widens the interval of errors that have none."""
    rng = np.random.default_rng(3)

    def draw(errors, known):
        squares = errors((16, 64)) ** 2
        return norm(squares.sum(axis=1), np.full(16, 64.0), None, squares.max(axis=1) if known else None)

    def rare(shape):
        return rng.standard_t(3, shape)

    assert _held(lambda: draw(rare, False), np.sqrt(3)) < 0.91
    assert 0.92 < _held(lambda: draw(rare, True), np.sqrt(3)) < 0.97
    assert 0.93 < _held(lambda: draw(rng.standard_normal, True), 1.0) < 0.985


def test_fiellers_interval_holds_the_truth_of_a_quotient():
    """Two signed means that vary together, their ratio 2; the base is seldom within its reach of zero."""
    rng = np.random.default_rng(4)
    one = np.ones(16)
    held = []
    for _ in range(800):
        u, v, w = rng.standard_normal((3, 16))
        ends = quotient(3 + 1.5 * u + v, one).over(quotient(1.5 + u + 0.5 * w, one), 0.95)[1]
        held.append(ends is None or ends[0] <= 2 <= ends[1])
    assert 0.935 < np.mean(held) < 0.97
