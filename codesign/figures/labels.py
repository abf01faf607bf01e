"""Place names beside the points of a plot so that none covers another.

Each name, in the order given, takes the nearest free place of a fixed ring; a thin line joins a moved name to its point.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

RINGS = (6.0, 14.0, 24.0, 36.0, 50.0, 66.0, 84.0)
"""Distances from the point tried, in points of print."""
DIRECTIONS = ((1, 1), (1, -1), (-1, 1), (-1, -1), (1, 0), (-1, 0), (0, 1), (0, -1))
"""Directions from the point tried."""
MARK = 5.0
"""Half the side of the square that a mark fills, in points of print."""


def place(
    axes: Any, points: Sequence[tuple[float, float, str]], size: float, others: Sequence[tuple[float, float]] = ()
) -> None:
    """Write each name beside its point (x, y, name), given in data coordinates, and off the points of `others`.

    Scales and limits of the axes must be set before. Names of the same point are written as one. A name for which every place
    is taken is written at the farthest one.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    named: dict[tuple[float, float], list[str]] = {}
    for x, y, name in points:
        named.setdefault((x, y), []).append(name)
    figure = axes.figure
    figure.draw_without_rendering()  # settles the layout, which fixes the places of data on the page
    renderer = FigureCanvasAgg(figure).get_renderer()  # type: ignore[no-untyped-call] # measures text
    unit = figure.dpi / 72
    frame = axes.get_window_extent(renderer)
    marks = [_square(axes.transData.transform(point), MARK * unit) for point in named]
    marks += [_square(axes.transData.transform(point), MARK / 2 * unit) for point in others]
    taken: list[Any] = []
    for (x, y), names in named.items():
        note = axes.annotate(
            ", ".join(names),
            (x, y),
            xytext=(0, 0),
            textcoords="offset points",
            fontsize=size,
            zorder=4,
            annotation_clip=False,
        )
        for radius in RINGS:
            if any(_free(note, radius, d, renderer, frame, [*marks, *taken]) for d in DIRECTIONS):
                break
        if radius > RINGS[0]:
            line = {"arrowstyle": "-", "color": "#777777", "linewidth": 0.6, "shrinkA": 0, "shrinkB": MARK}
            axes.annotate("", (x, y), xytext=note.get_position(), textcoords="offset points", arrowprops=line)
        taken.append(note.get_window_extent(renderer).padded(1))


def _square(centre: Any, half: float) -> Any:
    from matplotlib.transforms import Bbox

    return Bbox.from_extents(centre[0] - half, centre[1] - half, centre[0] + half, centre[1] + half)


def _free(
    note: Any, radius: float, direction: tuple[int, int], renderer: Any, frame: Any, taken: Sequence[Any]
) -> bool:
    """Move a name in this direction and return whether it lies within the axes and covers nothing."""
    right, up = direction
    note.set_position((right * radius, up * radius * 0.8))
    note.set_horizontalalignment({1: "left", 0: "center", -1: "right"}[right])
    note.set_verticalalignment({1: "bottom", 0: "center", -1: "top"}[up])
    box = note.get_window_extent(renderer)
    inside = frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1
    return inside and not any(box.overlaps(other) for other in taken)
