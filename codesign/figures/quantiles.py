"""Quantiles of Student's t and of the beta distribution, and the exact interval of a share."""

from __future__ import annotations

from functools import lru_cache
from math import exp, expm1, inf, lgamma, log, log1p, sqrt
from statistics import NormalDist

Ends = tuple[float, float]
"""Lower and upper end of an interval."""


def student_t(probability: float, degrees: float) -> float:
    """Return the quantile of Student's t distribution at `probability`, strictly between 0 and 1."""
    if probability == 0.5:
        return 0.0
    tail = min(probability, 1 - probability)
    # P(|t| > x) is the beta distribution function of (degrees / 2, 1 / 2) at degrees / (degrees + x**2).
    y = beta_quantile(2 * tail, degrees / 2, 0.5)
    x = sqrt(degrees * (1 - y) / y)
    return x if probability > 0.5 else -x


def clopper_pearson(hits: float, units: float, level: float) -> Ends:
    """Return the exact interval of the share hits / units; neither needs to be whole."""
    tail = (1 - level) / 2
    if hits <= 0:
        return 0.0, -expm1(log(tail) / units)
    low = beta_quantile(tail, hits, units - hits + 1)
    high = 1.0 if hits >= units else beta_quantile(1 - tail, hits + 1, units - hits)
    return low, high


@lru_cache(1 << 14)
def beta_quantile(probability: float, a: float, b: float) -> float:
    """Return the quantile of the beta distribution, to about 12 digits, by Halley's steps within a bracket."""
    low, high = 1e-300, 1.0
    if a < 0.5 and beta_below(low, a, b) >= probability:
        return 0.0
    x = _first_guess(probability, a, b)
    for _ in range(300):
        beyond = beta_below(x, a, b) - probability
        low, high = (low, x) if beyond > 0 else (x, high)
        density = _density(x, a, b)
        newton = beyond / density if density else inf
        bend = 1 - newton * ((a - 1) / x - (b - 1) / (1 - x)) / 2 if density else 1.0
        halley = x - newton / min(max(bend, 0.5), 2.0)
        if abs(newton) <= 1e-5 * min(x, 1 - x):  # what remains is of the third power of that
            return halley
        step = halley if low < halley < high else sqrt(low) * sqrt(high)
        if abs(step - x) <= 1e-13 * x:
            break
        x = step
    return x


def _first_guess(probability: float, a: float, b: float) -> float:
    """Return a beta quantile's approximation by normal ones (Abramowitz & Stegun 26.5.22; nearly normal below a = b = 1)."""
    y = NormalDist().inv_cdf(probability)
    if min(a, b) < 1:
        logit = log(a / b) + y * sqrt(1 / a + 1 / b)
    else:
        u, v = 1 / (2 * a - 1), 1 / (2 * b - 1)
        h, third = 2 / (u + v), (y * y - 3) / 6
        logit = log(a / b) + 2 * (y * sqrt(max(h + third, 0.0)) / h - (u - v) * (third + 5 / 6 - 2 / (3 * h)))
    return 1 / (1 + exp(-max(min(logit, 30.0), -300.0)))


def _density(x: float, a: float, b: float) -> float:
    if not 0 < x < 1:
        return 0.0
    return exp(min((a - 1) * log(x) + (b - 1) * log1p(-x) + lgamma(a + b) - lgamma(a) - lgamma(b), 700.0))


def beta_below(x: float, a: float, b: float) -> float:
    """Return the share of the beta distribution below x, by its continued fraction (Abramowitz & Stegun 26.5.8)."""
    if not 0 < x < 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):
        return 1 - beta_below(1 - x, b, a)
    fraction, numerator, denominator = 1.0, 1.0, 0.0
    for i in range(1, 100_000):
        m = i // 2
        if i % 2:
            term = -(a + m) * (a + b + m) / ((a + 2 * m) * (a + 2 * m + 1))
        else:
            term = m * (b - m) / ((a + 2 * m - 1) * (a + 2 * m))
        denominator = 1 / (1 + term * x * denominator)
        numerator = 1 + term * x / numerator
        fraction *= numerator * denominator
        if abs(numerator * denominator - 1) < 1e-15:
            break
    return _density(x, a, b) * x * (1 - x) / (a * fraction)
