"""Quantiles of Student's t distribution."""

from __future__ import annotations

from functools import cache
from math import cos, pi, sin, sqrt, tan


@cache
def student_t(probability: float, degrees: int) -> float:
    """Return the quantile of Student's t distribution at `probability` from 1/2 up (Abramowitz & Stegun 26.7.3, 26.7.4)."""
    low, high = 0.0, pi / 2
    for _ in range(200):
        angle = (low + high) / 2
        low, high = (low, angle) if _within(angle, degrees) > 2 * probability - 1 else (angle, high)
    return sqrt(degrees) * tan(low)


def _within(angle: float, degrees: int) -> float:
    """The share between -t and t, of t = sqrt(degrees) tan(angle)."""
    term, total = 1.0, 1.0
    if degrees % 2:
        if degrees == 1:
            return 2 * angle / pi
        for k in range(3, degrees - 1, 2):
            term *= (k - 1) / k * cos(angle) ** 2
            total += term
        return 2 / pi * (angle + sin(angle) * cos(angle) * total)
    for k in range(2, degrees - 1, 2):
        term *= (k - 1) / k * cos(angle) ** 2
        total += term
    return sin(angle) * total
