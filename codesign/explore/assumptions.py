"""What the front rests on: how it changes on one GEMM and tensor source alone, or if predicted figures are off."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from codesign.explore.points import ObjectiveFigure, Point, judge
from codesign.explore.space import Space

Reading = Callable[[str, Point], ObjectiveFigure]
"""From an objective and a point to the figure that the assumption gives them."""


@dataclass(frozen=True)
class Assumption:
    """The front under another assumption."""

    text: str
    stay: int
    """Points of the front that stay on it."""
    join: int
    """Points that join it."""


def assumptions(space: Space, points: Sequence[Point]) -> Iterator[Assumption]:
    """Yield how the front changes on each GEMM and tensor source alone, and with predicted figures at their intervals' ends.

    Points that were screened out stay out, since only few of their seeds are known.
    """
    known = [p for p in points if p.status != "screened out" and p.values.keys() == space.objectives.keys()]
    for text, reading in _readings(known):
        again = [Point(p.settings, {name: reading(name, p) for name in p.values}) for p in known]
        judge(space, again)
        now = [(p.status == "front", a.status == "front") for p, a in zip(known, again, strict=True)]
        yield Assumption(text, now.count((True, True)), now.count((False, True)))


def _readings(points: Sequence[Point]) -> Iterator[tuple[str, Reading]]:
    """Yield each assumption in words, with the figures that it gives points."""
    places = dict.fromkeys(f.where for p in points for figures in p.figures.values() for f in figures if f.where)
    for place in places if len(places) > 1 else ():
        yield f"{place} alone", _alone(place)
    values = [(name, value) for p in points for name, value in p.values.items()]
    for objective in dict.fromkeys(name for name, value in values if _predicted(value)):
        for end in ("low", "high"):
            yield f"predicted {objective}: the {end} end of each interval", _at_end(objective, end)


def _alone(place: str) -> Reading:
    """Return the reading of one GEMM and tensor source; objectives without a figure of it keep their own."""
    return lambda name, point: next((f for f in point.figures[name] if f.where == place), point.values[name])


def _at_end(objective: str, end: str) -> Reading:
    """Return the reading with an objective's predicted figures at an end of their intervals, figures of records unchanged."""

    def reading(name: str, point: Point) -> ObjectiveFigure:
        value = point.values[name]
        return replace(value, value=getattr(value, end)) if name == objective and _predicted(value) else value

    return reading


def _predicted(value: ObjectiveFigure) -> bool:
    return value.predicted and value.low is not None
