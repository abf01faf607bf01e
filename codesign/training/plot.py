"""The gap of every arm to BF16 along training, as SVG."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from codesign.report.plots import SETTINGS
from codesign.training.evidence import curve
from codesign.training.experiments import REFERENCE
from codesign.training.records import Record

COLOURS = ("#555555", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe & Ito's, told apart by colour-blind readers."""
LINES = (":", "-", "--", "-.")


def svg(record: Record, arms: Sequence[str]) -> str:
    """Mean gap over seeds of the smoothed training losses, in percent, over millions of tokens."""
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    with matplotlib.rc_context(SETTINGS):
        figure, axes = plt.subplots(figsize=(7.2, 4.0), layout="constrained")
        for number, arm in enumerate(a for a in arms if a != REFERENCE and record.find(a)):
            points = curve(record, arm, REFERENCE)
            if points:
                style: dict[str, Any] = {
                    "color": COLOURS[number % len(COLOURS)],
                    "linestyle": LINES[number % len(LINES)],
                }
                axes.plot(*zip(*points, strict=True), label=arm, linewidth=1.5, **style)
        axes.axhline(0, color="#999999", linewidth=0.8)
        axes.set_xlabel("tokens, millions")
        axes.set_ylabel("training loss over BF16's, less 1, percent")
        figure.legend(loc="outside upper center", ncols=4, frameon=False, fontsize=9)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
        plt.close(figure)
    text = buffer.getvalue()
    return text[text.index("<svg") :]
