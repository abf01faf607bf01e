"""Lists and figures in sentences."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from codesign.figures.metric import metric_named

if TYPE_CHECKING:
    from codesign.figures.figure import Figure

BOTH = {"proposal": "with the proposal", "software": "with today's software"}
"""Words for the variants that a sentence compares by default."""


def listed(words: Sequence[str]) -> str:
    """Return words as a list in a sentence."""
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]])) if words else ""


def percent(share: float) -> str:
    """Return a share in whole percent."""
    return f"{100 * share:.0f} %"


def figures_of(figures: Iterable[Figure], metric: str, variant: str = "proposal") -> list[Figure]:
    """Return the figures of a metric and a variant, without those of swept values."""
    return [f for f in figures if (f.metric, f.variant, f.at) == (metric, variant, None)]


def worst(figures: Iterable[Figure]) -> Figure | None:
    """Return the worst figure of a metric; None if there is none."""
    return max(figures, key=lambda f: metric_named(f.metric).badness(f.value), default=None)


def compared(
    metric: str,
    figures: Sequence[Figure],
    words: Mapping[str, str] = BOTH,
    text: Callable[[Figure], str] = lambda figure: f"{figure.value:.2g}",
) -> str:
    """Return the worst figure of each variant in words; variants with the same `text` are named together."""
    groups: dict[str, list[str]] = {}
    for variant, about in words.items():
        found = worst(figures_of(figures, metric, variant))
        if found:
            groups.setdefault("not finite" if found.value is None else text(found), []).append(about)
    return listed([f"{value} {listed(about)}" for value, about in groups.items()])


def with_interval(figure: Figure) -> str:
    """Return a finite figure and its interval with two digits."""
    if figure.low is None and figure.high is None:
        return f"{figure.value:.2g} (no interval)"
    low, high = (
        "-∞" if figure.low is None else f"{figure.low:.2g}",
        "∞" if figure.high is None else f"{figure.high:.2g}",
    )
    return f"{figure.value:.2g} [{low}, {high}]"
