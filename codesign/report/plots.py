"""Plots as SVG, drawn by matplotlib from the result's data."""

from __future__ import annotations

import io
from typing import Any

from codesign.evidence import Plot

# Okabe & Ito's colours, told apart by colour-blind readers; line styles tell them apart in grey.
STYLES = {
    "today": {"color": "#D55E00", "linestyle": "-", "marker": "o"},
    "software": {"color": "#0072B2", "linestyle": "--", "marker": "s"},
    "proposal": {"color": "#009E73", "linestyle": "-", "marker": "D"},
    "exact": {"color": "#555555", "linestyle": ":", "marker": ""},
    # curves of many designs, under the marks of the variants
    "area": {"color": "#332288", "linestyle": "-", "marker": "."},
    "delay": {"color": "#882255", "linestyle": "--", "marker": "."},
    "energy": {"color": "#997700", "linestyle": "-.", "marker": "."},
    "curve": {"color": "#777777", "linestyle": ":", "marker": "."},
    "energy_points": {"color": "#997700", "linestyle": "", "marker": "^"},
    "curve_points": {"color": "#777777", "linestyle": "", "marker": "v"},
    "shipped": {"color": "#000000", "linestyle": "", "marker": "D", "markerfacecolor": "none"},
    "front": {"color": "#bbbbbb", "linestyle": "-", "marker": "", "drawstyle": "steps-post"},
}
SETTINGS: Any = {
    "svg.hashsalt": "codesign",  # the same data give the same file
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
}


def svg(plot: Plot) -> str:
    """The plot as an SVG element."""
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    with matplotlib.rc_context(SETTINGS):
        figure, axes = plt.subplots(figsize=(6.4, 3.9), layout="constrained")
        for series in plot.series:
            style: dict[str, Any] = dict(STYLES[series.variant])
            y = [float("nan") if v is None else v for v in series.y]
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
                axes.plot(series.x, y, label=series.label, linewidth=1.6, markersize=size, **style)
            for x, value, name in zip(series.x, y, series.labels, strict=False):
                axes.annotate(name, (x, value), xytext=(4, 4), textcoords="offset points", fontsize=7)
        axes.set_xlabel(plot.x_label)
        axes.set_ylabel(plot.y_label)
        if plot.x_scale == "log2":
            axes.set_xscale("log", base=2)
            axes.set_xticks(list(plot.series[0].x), [f"{x:g}" for x in plot.series[0].x])
            axes.minorticks_off()
        if plot.y_scale == "log10":
            axes.set_yscale("log")
        figure.legend(loc="outside upper center", ncols=2, frameon=False, fontsize=9)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
        plt.close(figure)
    text = buffer.getvalue()
    return text[text.index("<svg") :]
