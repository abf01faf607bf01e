"""The gap of every arm to BF16 along training, one panel per experiment, as SVG."""

from __future__ import annotations

from collections.abc import Sequence

from codesign.evidence.training.experiments import find
from codesign.evidence.training.gaps import NUDGED, REFERENCE
from codesign.evidence.training.records import TrainingRecord as Record
from codesign.evidence.training.source import curve
from codesign.figures.drawing import svg as drawn
from codesign.figures.figure import Plot, Series
from codesign.figures.palette import standalone
from codesign.figures.stack import stacked

COLOURS = ("software", "today", "proposal", "twin", "energy", "sky", "black")
"""Colours of the arms, in turn."""
PLOT = ("<title>codesign train</title>", "a plot of training")
"""Marker text and kind of the file, for `write_file`."""


def svg(record: Record, names: Sequence[str]) -> str:
    """Draw the gap of the smoothed training losses of each experiment, mean over seeds, in percent over millions of tokens.

    Grey: the largest gaps, over all seeds, of BF16 runs whose initial weights were changed slightly.
    """
    arms = {name: [a for a in find(name).arms if a not in (REFERENCE, NUDGED) and record.find(a)] for name in names}
    arms = {name: own for name, own in arms.items() if own} or {names[0]: []}
    panels = [(name, drawn(_plot(record, name, own))) for name, own in arms.items()]
    return standalone(stacked("codesign train", panels))


def _plot(record: Record, name: str, arms: Sequence[str]) -> Plot:
    series = []
    if noise := _noise(record):
        x, half = zip(*noise, strict=True)
        for label, sign in (("BF16, nudged: largest gap", 1), ("", -1)):
            series.append(Series(label=label, variant="exact", x=x, y=tuple(sign * h for h in half)))
    for number, arm in enumerate(arms):
        if points := curve(record, arm):
            x, y = zip(*points, strict=True)
            seeds = len(record.find(arm))
            label = f"{arm} ({seeds} seed{'s' if seeds > 1 else ''})"
            series.append(Series(label=label, variant=COLOURS[number % len(COLOURS)], x=x, y=y))
    return Plot(
        name=name,
        title=name,
        caption="",
        x_label="tokens, millions",
        y_label="gap to BF16, percent",
        y_scale="linear",
        series=tuple(series),
    )


def _noise(record: Record) -> list[tuple[float, float]]:
    """Return pairs of millions of tokens and the largest magnitude of any nudged run's gap there, in percent."""
    each = [
        curve(record.model_copy(update={"runs": tuple(r for r in record.runs if r.seed == seed)}), NUDGED)
        for seed in {r.seed for r in record.find(NUDGED)}
    ]
    return [(points[0][0], max(abs(gap) for _, gap in points)) for points in zip(*(e for e in each if e), strict=False)]
