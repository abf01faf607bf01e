"""Plots as SVG, drawn from the result's data: lines, outlines of histograms, points, and bars."""

from __future__ import annotations

from collections.abc import Iterator
from math import fsum

from codesign.figures.axis import Axis, short, spanning, thinned
from codesign.figures.canvas import EM, LINE, UNMARKED, WIDTH, Box, Canvas, place_names, text_width, wrapped
from codesign.figures.figure import Plot, Series

HEIGHT, FLAT = 175.0, 40.0
"""Height between the axes of a plot of lines, and of one whose values are all zero."""
MOST_MARKED = 40
"""Most points of a line that are drawn with marks."""


def svg(plot: Plot) -> str:
    """Return a plot as an SVG element."""
    return _bars(plot) if plot.categories else _lines(plot)


# -- lines and points ------------------------------------------------------------------------------------------------


def _lines(plot: Plot) -> str:
    canvas = Canvas(0.0, plot.title)
    top = canvas.legend([(s.label, s.variant, "mark" if _scattered(s) else "line") for s in plot.series if s.label])
    top += LINE + 6  # the vertical axis's name stands over it
    ys = [y for s in plot.series for y in s.y if y is not None]
    log = plot.y_scale == "log10" and any(y > 0 for y in ys)
    if plot.floor:
        ys = [y or plot.floor for y in ys]
    if not log:
        ys += [0.0] if 0 <= min(ys, default=0.0) < 0.4 * max(ys, default=0.0) else []
    bottom = top + (HEIGHT if any(ys) else FLAT)
    y = spanning(ys, bottom, top + 4, log) if any(ys) else Axis(-0.05, 1.0, bottom, top + 4)
    ticks = y.ticks() if any(ys) else [(0.0, "0")]
    if plot.floor:
        ticks = [(plot.floor, "0"), *((v, name) for v, name in ticks if v > 2 * plot.floor)]
    left = 8 + max(text_width(name) for _, name in ticks)
    xs = [x for s in plot.series for x in s.x] + ([plot.series[0].x[-1] + 1.0] if plot.steps else [])
    x = spanning(xs, left, WIDTH - 10, plot.x_scale != "linear", 0.02)
    for value, name in ticks:
        canvas.line(left, y.place(value), WIDTH - 4, y.place(value), "grid")
        canvas.text(left - 5, y.place(value) + EM * 0.35, name, "end", soft=True)
    _horizontal(canvas, plot, x, bottom)
    canvas.text(2, top - 8, plot.y_label)
    points: list[tuple[float, float, str]] = []
    taken: list[Box] = []
    for series in plot.series:
        points += _series(canvas, plot, series, x, y, taken)
    place_names(canvas, points, (left, top, WIDTH, bottom), taken)
    canvas.height = bottom + 2 * LINE + 8
    return canvas.svg()


def _horizontal(canvas: Canvas, plot: Plot, x: Axis, bottom: float) -> None:
    """Draw the horizontal axis with its ticks and name."""
    ticks = x.ticks(7)
    if plot.x_scale == "log2":
        ticks = [(v, f"{v:g}") for v in sorted({v for s in plot.series for v in s.x})]
    ticks = thinned(ticks, x, max((text_width(name) for _, name in ticks), default=0.0) + 8)
    for value, name in ticks:
        canvas.line(x.place(value), bottom, x.place(value), bottom + 4, "axis")
        canvas.text(x.place(value), bottom + LINE + 2, name, "middle", soft=True)
    canvas.line(x.start, bottom, WIDTH - 4, bottom, "axis")
    canvas.text((x.start + WIDTH) / 2, bottom + 2 * LINE + 3, plot.x_label, "middle")


def _series(
    canvas: Canvas, plot: Plot, series: Series, x: Axis, y: Axis, taken: list[Box]
) -> Iterator[tuple[float, float, str]]:
    """Draw a series and yield the names of its points; the places of its marks are added to `taken`."""
    shown = [(a, b) for a, b in zip(series.x, series.y, strict=True)]
    canvas.begin(series.variant)
    if plot.steps or series.variant == "front":
        _outline(canvas, series, x, y, closed=plot.steps)
    else:
        run: list[tuple[float, float]] = []
        for a, b in [*shown, (0.0, None)]:  # a line breaks where a value is not finite
            if b is None:
                if not _scattered(series):
                    canvas.curve(run, series.variant)
                run = []
            else:
                run.append((x.place(a), y.place(b if b or not plot.floor else plot.floor)))
        for i, (a, b) in enumerate(shown):
            if b is None or len(shown) > MOST_MARKED or (series.variant in UNMARKED and b):
                continue
            at = (x.place(a), y.place(b if b or not plot.floor else plot.floor))
            name = f"{series.labels[i]}: " if series.labels else f"{series.label}: " if series.label else ""
            hollow = bool(plot.floor) and b == 0
            size = 5.0 if len(shown) == 1 else 3.2
            canvas.mark(*at, series.variant, f"{name}{_about(a)}, {_about(b)}", size, hollow)
            taken.append((at[0] - size, at[1] - size, at[0] + size, at[1] + size))
    canvas.end()
    for (a, b), name in zip(shown, series.labels, strict=False):
        if b is not None and name:
            yield x.place(a), y.place(b if b or not plot.floor else plot.floor), name


def _scattered(series: Series) -> bool:
    """Return whether a series is shown as points without a line."""
    return len(series.x) == 1 or series.variant.endswith("_points") or series.variant == "shipped"


def _outline(canvas: Canvas, series: Series, x: Axis, y: Axis, closed: bool) -> None:
    """Draw steps: of a histogram from each edge to the next, or of a front from each point to the next."""
    corners: list[tuple[float, float]] = []
    for i, (a, b) in enumerate(zip(series.x, series.y, strict=True)):
        if b is None:
            continue
        at, level = x.place(a), y.place(b)
        if corners:
            corners.append((at, corners[-1][1]))
        corners.append((at, level))
        if closed and i == len(series.x) - 1:
            corners.append((x.place(a + 1), level))
    canvas.curve(corners, series.variant)


def _about(value: float) -> str:
    return f"{value:.4g}"


# -- bars ------------------------------------------------------------------------------------------------------------


def _bars(plot: Plot) -> str:
    """Draw horizontal bars under the name of each category: one bar of labelled parts, or one for each series."""
    canvas = Canvas(0.0, plot.title)
    y = canvas.legend([(s.label, s.variant, "part") for s in plot.series])
    values = [[s.y[row] or 0.0 for s in plot.series] for row in range(len(plot.categories))]
    longest = max((fsum(row) if plot.stacked else max(row, default=0.0) for row in values), default=0.0)
    x = Axis(0.0, longest or 1.0, 2.0, WIDTH - 62)
    for row, category in enumerate(plot.categories):
        for line in wrapped(category, WIDTH - 4):
            y += LINE
            canvas.text(2, y, line)
        y += 5
        sums = 0.0
        for series, value in zip(plot.series, values[row], strict=True):
            start, end = x.place(sums), x.place(sums + value)
            name = series.labels[row] if series.labels else ""
            canvas.begin(series.variant)
            canvas.box(
                start, y, max(end - 0.8, start), y + 16, "part", f"{series.label}: {_about(value)} {name}".strip()
            )
            canvas.end()
            if plot.stacked:
                if name and end - start > text_width(name) + 4:
                    canvas.text((start + end) / 2, y + 12, name, "middle")
                sums += value
            else:
                canvas.text(end + 4, y + 12, short(float(f"{value:.3g}")))
                y += 19
        if plot.stacked:
            canvas.text(x.place(sums) + 4, y + 12, short(float(f"{sums:.{5 if sums >= 1000 else 3}g}")))
            y += 20
        y += 4
    canvas.text(2, y + LINE, plot.x_label, soft=True)
    canvas.height = y + LINE + 8
    return canvas.svg()
