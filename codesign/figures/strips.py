"""Plots of named rows against one axis: intervals beside a bound (a forest plot), ranges (a tornado), and designs side by side.

The name of a row stands above it, so that names may be long and stay readable on a phone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite

from codesign.figures.axis import Axis, spanning, thinned
from codesign.figures.canvas import LINE, WIDTH, Canvas, text_width, wrapped

LEFT, RIGHT = 14.0, WIDTH - 14.0
BEYOND = 12.0
"""Room at each end of an axis for the arrows of values beyond it."""
HALF = 9.0
"""Half of the height of what is drawn in a row; the text of the next row begins below it."""


@dataclass(frozen=True)
class Mark:
    """A value of a row, with its interval."""

    variant: str
    """Variant that gives shape and colour."""
    value: float
    """Value; infinite for one beyond the axis on that side."""
    low: float | None = None
    high: float | None = None
    about: str = ""
    """Text under the pointer."""


@dataclass(frozen=True)
class Strip:
    """A row: its name, a text at its right, and what is drawn."""

    name: str
    value: str = ""
    """Text at the right of the name."""
    marks: tuple[Mark, ...] = ()
    bar: tuple[float, float] | None = None
    """Range drawn as a bar."""
    colour: str = "grey"
    """Colour of the bar."""
    group: str = ""
    """Heading above the row where it differs from that of the row before."""


@dataclass(frozen=True)
class StripPlot:
    """Rows, their axis, and lines across all rows."""

    title: str
    strips: tuple[Strip, ...]
    axis: str
    """Name of the axis."""
    log: bool = False
    lines: tuple[tuple[float, str, str], ...] = ()
    """Lines across all rows: value, style (`bound` or `figure`), and name in the legend."""
    wrong: tuple[float | None, float | None] = (None, None)
    """Shaded: values below the first and above the second."""
    legend: tuple[tuple[str, str], ...] = ()
    """Labels and variants of the marks."""
    most: float | None = None
    """On a logarithmic axis around 1: the largest ratio drawn, either way; None: as far as the values reach."""
    joined: bool = False
    """True if the marks of a variant are joined by a line from row to row."""


def strips(plot: StripPlot) -> str:
    """Return the plot as an SVG element."""
    canvas = Canvas(0.0, plot.title)
    y = canvas.legend([(label, variant, "mark") for label, variant in plot.legend]) if plot.legend else 4.0
    x = _axis(plot)
    rows: list[tuple[Strip, float]] = []
    texts: list[tuple[float, float, str, str]] = []
    heading, top = "", y
    for strip in plot.strips:
        if strip.group and strip.group != heading:
            y += LINE + 3
            texts.append((2, y, strip.group, "start"))
            heading = strip.group
        value_width = text_width(strip.value) + 10 if strip.value else 0.0
        beside = value_width <= WIDTH * 0.6
        for i, line in enumerate(wrapped(strip.name, WIDTH - 4 - (value_width if beside else 0))):
            y += LINE
            texts.append((LEFT - 6, y, line, "start"))
            if i == 0 and strip.value and beside:
                texts.append((WIDTH - 2, y, strip.value, "end"))
        for line in [] if beside else wrapped(strip.value, WIDTH - 16):
            y += LINE
            texts.append((LEFT - 6, y, line, "start"))
        rows.append((strip, y + 11))
        y += 21
    bottom = y + 2
    _ground(canvas, plot, x, top, bottom, [middle for _, middle in rows])
    if plot.joined:
        _joined(canvas, rows, x)
    for strip, middle in rows:
        _strip(canvas, strip, middle, x)
    for left, base, text, anchor in texts:
        canvas.text(left, base, text, anchor, soft=anchor == "end")
    canvas.text(WIDTH / 2, bottom + 2 * LINE + 2, plot.axis, "middle")
    canvas.height = bottom + 2 * LINE + 8
    return canvas.svg()


def _axis(plot: StripPlot) -> Axis:
    values = [value for value, *_ in plot.lines]
    for strip in plot.strips:
        values += strip.bar or ()
        for mark in strip.marks:
            values += [v for v in (mark.value, mark.low, mark.high) if v is not None]
    values = [v for v in values if isfinite(v)]
    if plot.log and plot.most:
        values = [min(max(v, 1 / plot.most), plot.most) for v in values]
    return spanning(values, LEFT + BEYOND, RIGHT - BEYOND, plot.log)


def _ground(canvas: Canvas, plot: StripPlot, x: Axis, top: float, bottom: float, rows: Sequence[float]) -> None:
    """Draw the shaded sides, the grid, the lines across all rows, and the axis; lines leave out the text between rows."""
    low, high = plot.wrong
    if low is not None:
        canvas.box(LEFT, top, x.place(low), bottom, "wrong")
    if high is not None:
        canvas.box(x.place(high), top, RIGHT, bottom, "wrong")
    ticks = x.ticks()
    for value, name in thinned(ticks, x, max((text_width(name) for _, name in ticks), default=0.0) + 8):
        for y in rows:
            canvas.line(x.place(value), y - HALF, x.place(value), y + HALF, "grid")
        canvas.text(x.place(value), bottom + LINE, name, "middle", soft=True)
    for value, style, _ in plot.lines:
        for y in rows:
            canvas.line(x.place(value), y - HALF, x.place(value), y + HALF, style)
    canvas.line(LEFT, bottom, RIGHT, bottom, "axis")


def _strip(canvas: Canvas, strip: Strip, y: float, x: Axis) -> None:
    if strip.bar:
        canvas.begin(strip.colour)
        start, end = (x.place(v) for v in strip.bar)
        canvas.box(start, y - 6, max(end, start + 1.5), y + 6, "part")
        canvas.end()
    for mark in strip.marks:
        canvas.begin(mark.variant)
        if mark.low is not None and mark.high is not None and mark.low < mark.high:
            low, high = x.place(mark.low), x.place(mark.high)
            canvas.line(low, y, high, y, "span")
            canvas.line(low, y - 4, low, y + 4, "span")
            if isfinite(mark.high):
                canvas.line(high, y - 4, high, y + 4, "span")
        if _beyond(mark.value, x):
            right = mark.value > x.high
            canvas.arrow(RIGHT - 1 if right else LEFT + 1, y, right)
            canvas.mark((RIGHT - 13) if right else (LEFT + 13), y, mark.variant, mark.about)
        else:
            canvas.mark(x.place(mark.value), y, mark.variant, mark.about)
        canvas.end()


def _beyond(value: float, x: Axis) -> bool:
    return value > x.high or value < x.low


def _joined(canvas: Canvas, rows: Sequence[tuple[Strip, float]], x: Axis) -> None:
    """Join the marks of each variant from row to row; a row without a mark of it breaks the line."""
    variants = dict.fromkeys(mark.variant for strip, _ in rows for mark in strip.marks)
    for variant in variants:
        canvas.begin(variant)
        run: list[tuple[float, float]] = []
        for strip, y in rows:
            own = [m for m in strip.marks if m.variant == variant]
            if own:
                run.append((x.place(own[0].value), y))
            else:
                canvas.curve(run, variant)
                run = []
        canvas.curve(run, variant)
        canvas.end()
