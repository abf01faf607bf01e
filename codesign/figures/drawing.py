"""Plots as SVG, drawn by matplotlib from the result's data."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from math import fsum
from typing import Any

from codesign.figures.escape import drawn
from codesign.figures.figure import Plot

# Okabe & Ito's colours, told apart by colour-blind readers; line styles tell them apart in grey.
STYLES = {
    "today": {"color": "#D55E00", "linestyle": "-", "marker": "o"},
    "software": {"color": "#0072B2", "linestyle": "--", "marker": "s"},
    "proposal": {"color": "#009E73", "linestyle": "-", "marker": "D"},
    "twin": {"color": "#CC79A7", "linestyle": "-.", "marker": "^"},
    "exact": {"color": "#555555", "linestyle": ":", "marker": ""},
    # curves of many designs, under the marks of the variants
    "area": {"color": "#332288", "linestyle": "-", "marker": "."},
    "delay": {"color": "#882255", "linestyle": "--", "marker": "."},
    "energy": {"color": "#997700", "linestyle": "-.", "marker": "."},
    "curve": {"color": "#777777", "linestyle": ":", "marker": "."},
    "energy_points": {"color": "#997700", "linestyle": "", "marker": "^"},
    "family_points": {"color": "#AA3377", "linestyle": "", "marker": "P"},
    "curve_points": {"color": "#777777", "linestyle": "", "marker": "v"},
    "shipped": {"color": "#000000", "linestyle": "", "marker": "D", "markerfacecolor": "none"},
    "front": {"color": "#bbbbbb", "linestyle": "-", "marker": "", "drawstyle": "steps-post"},
    # parts of bars
    "blue": {"color": "#0072B2"},
    "sky": {"color": "#56B4E9"},
    "navy": {"color": "#003A66"},
    "vermilion": {"color": "#D55E00"},
    "orange": {"color": "#E69F00"},
    "green": {"color": "#009E73"},
    "pink": {"color": "#CC79A7"},
    "grey": {"color": "#999999"},
    "black": {"color": "#222222"},
}
SETTINGS: Any = {
    "svg.hashsalt": "codesign",  # the same data give the same file
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # the others of matplotlib's list would stand in every text of the SVG
    "font.size": 12,  # read on a phone, where a plot is 350 px wide
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    **{f"{axis}tick.{which}.size": 0 for axis in "xy" for which in ("major", "minor")},  # the grid shows them
}


@contextmanager
def styled() -> Iterator[None]:
    """Draw in the report's style. Text stays text in SVG, so glyphs missing from matplotlib's font do not matter."""
    import warnings

    import matplotlib

    matplotlib.use("svg")
    with matplotlib.rc_context(SETTINGS), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        yield


def svg(plot: Plot) -> str:
    """Return a plot as an SVG element."""
    import matplotlib.pyplot as plt
    from matplotlib.ticker import LogFormatterSciNotation

    from codesign.figures.labels import place

    plot = _literal(plot)
    with styled():
        shape = (6.4, 2.0 + 0.7 * len(plot.categories)) if plot.stacked else (6.4, 3.9)
        figure, axes = plt.subplots(figsize=shape, layout="constrained")
        named: list[tuple[float, float, str]] = []
        if plot.stacked:
            _stacked(axes, plot)
        elif plot.categories:
            _bars(axes, plot)
        for series in () if plot.categories else plot.series:
            style: dict[str, Any] = dict(STYLES[series.variant])
            y = [float("nan") if v is None else v if v or not plot.floor else plot.floor for v in series.y]
            if plot.steps:
                style.pop("marker")
                axes.step(
                    [*series.x, series.x[-1] + 1],
                    [*y, y[-1]],
                    where="post",
                    label=series.label,
                    linewidth=1.6,
                    **style,
                )
            else:
                size = 7 if len(series.x) == 1 else 4
                if len(series.x) > MOST_MARKED:
                    style["marker"] = ""
                axes.plot(series.x, y, label=series.label, linewidth=1.6, markersize=size, **style)
            zeros = [x for x, v in zip(series.x, series.y, strict=True) if v == 0]
            if plot.floor and zeros:
                hollow = {
                    "color": style["color"],
                    "markerfacecolor": "white",
                    "linestyle": "",
                    "marker": style["marker"] or "o",
                }
                axes.plot(zeros, [plot.floor] * len(zeros), markersize=5, zorder=3, **hollow)
            named += zip(series.x, y, series.labels, strict=False)
        axes.set_xlabel(plot.x_label)
        axes.set_ylabel(plot.y_label)
        if plot.x_scale == "log2":
            axes.set_xscale("log", base=2)
            axes.set_xticks(list(plot.series[0].x), [f"{x:g}" for x in plot.series[0].x])
            axes.minorticks_off()
        if plot.y_scale == "log10" and any(y and y > 0 for series in plot.series for y in series.y):
            axes.set_yscale("log")
        elif not any(y for series in plot.series for y in series.y):  # where all is zero there is nothing to scale
            axes.set_ylim(-0.05, 1)
            axes.set_yticks([0], ["0"])
        if plot.floor:
            axes.axhline(plot.floor, color="#777777", linewidth=0.8, linestyle=(0, (1, 3)), zorder=0)
            axes.set_ylim(bottom=plot.floor / 3)
            figure.draw_without_rendering()  # the axis chooses its ticks
            ticks = [t for t in axes.get_yticks() if t > plot.floor * 2]
            low, high = axes.get_ylim()
            axes.set_yticks([plot.floor, *[t for t in ticks if low <= t <= high]])
            axes.minorticks_off()
            log = LogFormatterSciNotation()
            axes.yaxis.set_major_formatter(lambda t, _: "0" if t == plot.floor else log(t))
        columns, points = (3, 10) if plot.stacked else (2, 10.5)
        figure.legend(loc="outside upper center", ncols=columns, frameon=False, fontsize=points)
        drawn = [(x, y) for s in plot.series for x, y in zip(s.x, s.y, strict=True) if y]
        place(axes, named, 8, drawn)
        return written(figure)


def _literal(plot: Plot) -> Plot:
    """Return the plot with all text escaped for matplotlib."""
    series = tuple(
        s.model_copy(update={"label": drawn(s.label), "labels": tuple(map(drawn, s.labels))}) for s in plot.series
    )
    update = {"x_label": drawn(plot.x_label), "y_label": drawn(plot.y_label), "series": series}
    return plot.model_copy(update={**update, "categories": tuple(map(drawn, plot.categories))})


MOST_MARKED = 40
"""Most points of a line that are drawn with marks."""
HATCHES = ("", "///", "", "\\\\\\")
"""Hatches of the bars of a group, to tell them apart in grey."""


def _bars(axes: Any, plot: Plot) -> None:
    """Draw a group of bars for each category, with one numbered bar per series."""
    width = 0.84 / len(plot.series)
    for i, series in enumerate(plot.series):
        at = [x + (i - (len(plot.series) - 1) / 2) * width for x in series.x]
        color, hatch = STYLES[series.variant]["color"], HATCHES[i % len(HATCHES)]
        heights = [0.0 if v is None else v for v in series.y]
        axes.bar(at, heights, width, label=series.label, color=color, hatch=hatch, edgecolor="white", linewidth=0.5)
        for x, height in zip(at, heights, strict=True):
            axes.annotate(f" {height:.0f}", (x, height), rotation=90, ha="center", va="bottom", fontsize=8.2)

    axes.set_xticks(range(len(plot.categories)), plot.categories, fontsize=8.2)
    axes.grid(visible=False, axis="x")
    axes.set_axisbelow(True)
    axes.margins(y=0.14)


def _stacked(axes: Any, plot: Plot) -> None:
    """Draw a horizontal bar for each category: its parts, labelled if there is room, and its sum at the end."""
    lefts = [0.0] * len(plot.categories)
    sums = [fsum(series.y[row] or 0.0 for series in plot.series) for row in range(len(lefts))]
    for i, series in enumerate(plot.series):
        color, hatch = STYLES[series.variant]["color"], HATCHES[i % len(HATCHES)]
        widths = [y or 0.0 for y in series.y]
        axes.barh(
            series.x, widths, 0.7, lefts, label=series.label, color=color, hatch=hatch, edgecolor="white", linewidth=0.5
        )
        for row, (width, label) in enumerate(zip(widths, series.labels, strict=True)):
            if width > 0.055 * max(sums):
                box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 1.0}
                axes.text(lefts[row] + width / 2, row, label, ha="center", va="center", fontsize=8.5, bbox=box)
            lefts[row] += width
    for row, whole in enumerate(sums):
        axes.text(whole, row, f" {whole:,.0f}", va="center", fontsize=10)
    axes.set_yticks(range(len(plot.categories)), plot.categories)
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.set_axisbelow(True)
    axes.margins(x=0.14)


def written(figure: Any) -> str:
    """Return a matplotlib figure as an SVG element, the same bytes for the same data."""
    import matplotlib.pyplot as plt

    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    plt.close(figure)
    text = buffer.getvalue()
    return _compact(text[text.index("<svg") :])


def _compact(text: str) -> str:
    """Return matplotlib's SVG at half its size: coordinates to a tenth of a point; no metadata, line breaks or group names."""
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"-?\d+\.\d\d+", lambda number: f"{float(number[0]):.1f}".removesuffix(".0"), text)
    text = re.sub(r'<g id="[^"]*">', "<g>", text)
    text = re.sub(r' transform="rotate\(-0 [^"]*"', "", text)
    text = re.sub(r"\s+", " ", text).replace("> <", "><")
    return re.sub(r"<g>(<(?:path|use)[^>]*/>)</g>", r"\1", text).strip() + "\n"
