"""The tornado plot of a verdict: the assumptions it depends on, as SVG."""

from __future__ import annotations

from codesign.figures.drawing import styled, written
from codesign.figures.escape import drawn
from codesign.figures.metric import metric_named
from codesign.verdicts.verdict import Verdict


def tornado(verdict: Verdict) -> str:
    """Return a plot with a bar for each assumption, the range of the claim's figure in its other cases, as an SVG element.

    The dotted line is the figure, the solid line the bound. Cases that are not finite are left out.
    """
    import matplotlib.pyplot as plt
    from matplotlib.ticker import NullFormatter

    assert verdict.deciding
    claim, taken = verdict.claim, verdict.deciding.value
    bounds = [b for b in (claim.at_most, claim.at_least) if b is not None]
    values = [v for bar in verdict.bars for v in (bar.low, bar.high) if v is not None]
    values += bounds + ([taken] if taken is not None else [])
    log = min(values) > 0 and max(values) > 20 * min(values)
    with styled():
        figure, axes = plt.subplots(figsize=(6.4, 1.1 + 0.6 * len(verdict.bars)), layout="constrained")
        names = []
        for row, bar in enumerate(verdict.bars):
            ends = [v for v in (bar.low, bar.high, taken) if v is not None]
            left, right = min(ends, default=0.0), max(ends, default=0.0)
            color, hatch = ("#D55E00", "///") if bar.reversed_by else ("#9aa5b1", "")
            axes.barh(row, right - left, left=left, height=0.55, color=color, hatch=hatch, edgecolor="white")
            cases = dict.fromkeys((bar.low_case, bar.high_case))
            names.append(f"{drawn(bar.assumption)}\n" + " … ".join(map(drawn, cases)))
        if taken is not None:
            axes.axvline(taken, color="#1b1f24", linestyle=":", linewidth=1.6, label="figure")
        for bound in bounds:
            axes.axvline(bound, color="#0072B2", linewidth=1.6, label="bound")
        axes.set_yticks(range(len(names)), names, fontsize=10)
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.use_sticky_edges = False
        axes.margins(x=0.05)
        if log:
            axes.set_xscale("log")
            axes.xaxis.set_minor_formatter(NullFormatter())
        else:
            axes.locator_params(axis="x", nbins=5)
        unit = metric_named(claim.metric).unit
        relative = f", relative to {claim.relative_to}" if claim.relative_to else f" ({unit})" if unit != "1" else ""
        axes.set_xlabel(claim.metric + relative)
        figure.legend(loc="outside upper right", ncols=2, frameon=False, fontsize=10.5)
        return written(figure)
