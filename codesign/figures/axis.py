"""Axes of plots: where a value lies, and which values are written."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import ceil, floor, isfinite, log10

POWERS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True)
class Axis:
    """An axis from the value `low` at `start` to the value `high` at `end`, both in the plot's units."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def place(self, value: float) -> float:
        """Return where a value lies; one beyond an end lies at the end, so that nothing leaves the axes."""
        low, high = (log10(self.low), log10(self.high)) if self.log else (self.low, self.high)
        if self.log:
            value = log10(value) if value > 0 else low
        share = min(max((value - low) / (high - low), 0.0), 1.0)
        return self.start + share * (self.end - self.start)

    def ticks(self, most: int = 6) -> list[tuple[float, str]]:
        """Return at most about `most` round values within the axis, with their texts."""
        if not self.log:
            return [(v, short(v)) for v in _round_values(self.low, self.high, most)]
        first, last = ceil(log10(self.low) - 1e-9), floor(log10(self.high) + 1e-9)
        if last - first >= 2:
            every = -(-(last - first + 1) // most)
            return [(10.0**e, power(e)) for e in range(first, last + 1, every)]
        for steps in ((1, 2, 5), (1, 2, 3, 5, 7)):
            values = [m * 10.0**e for e in range(first - 1, last + 1) for m in steps]
            inside = [v for v in values if self.low * (1 - 1e-9) <= v <= self.high * (1 + 1e-9)]
            if len(inside) >= 3:
                return [(v, short(v)) for v in inside]
        return [(v, short(v)) for v in _round_values(self.low, self.high, most) if v > 0]


def spanning(values: Iterable[float], start: float, end: float, log: bool, room: float = 0.04) -> Axis:
    """Return an axis that holds all values with some room at both ends."""
    kept = [v for v in values if isfinite(v) and (v > 0 or not log)]
    low, high = (min(kept), max(kept)) if kept else (1.0, 10.0) if log else (0.0, 1.0)
    if log:
        ends = log10(low), log10(high)
        more = max(room * (ends[1] - ends[0]), 0.0 if high >= low * 1.2 else log10(1.5))
        low, high = (10 ** min(max(e, -307.0), 308.0) for e in (ends[0] - more, ends[1] + more))
        return Axis(low, high, start, end, log=True)
    if high - low < 1e-9 * max(abs(high), abs(low), 1e-300):
        low, high = low - 0.5 * (abs(low) or 1.0), high + 0.5 * (abs(high) or 1.0)
    more = (high - low) * room
    return Axis(low - more, high + more, start, end)


def thinned(ticks: Sequence[tuple[float, str]], axis: Axis, width: float) -> list[tuple[float, str]]:
    """Return every n-th tick, so that each has `width` for its text."""
    room = abs(axis.end - axis.start)
    every = max(1, ceil(len(ticks) * width / max(room, 1.0)))
    return list(ticks[::every])


def short(value: float) -> str:
    """Return a value as an axis shows it."""
    if value and not 1e-3 <= abs(value) < 1e6:
        exponent = floor(log10(abs(value)))
        return f"{value / 10.0**exponent:.3g}·{power(exponent)}".removeprefix("1·")
    return f"{value:,.10g}" if abs(value) >= 1e4 else f"{value:.10g}"


def power(exponent: int) -> str:
    """Return a power of ten."""
    return "1" if exponent == 0 else "10" if exponent == 1 else f"10{str(exponent).translate(POWERS)}"


def _round_values(low: float, high: float, most: int) -> list[float]:
    size = 10.0 ** floor(log10((high - low) / most))
    step = next(size * m for m in (1, 2, 5, 10, 20) if (high - low) / (size * m) <= most)
    count = floor(high / step + 1e-9) - ceil(low / step - 1e-9) + 1
    first = ceil(low / step - 1e-9)
    return [float(f"{(first + i) * step:.10g}") for i in range(min(count, 50))]
