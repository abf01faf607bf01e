"""The gap of every arm to BF16 along training, one panel per experiment, as SVG.

python -m codesign.evidence.training.plot RECORD.json OUT.svg [EXPERIMENT...]
"""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from codesign.evidence.training.experiments import experiments, find
from codesign.evidence.training.gaps import NUDGED, REFERENCE
from codesign.evidence.training.records import TrainingRecord as Record
from codesign.evidence.training.records import read
from codesign.evidence.training.source import curve
from codesign.figures.drawing import styled
from isa_model.output_files import write_file

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe & Ito's colours, which colour-blind readers can tell apart."""
LINES = ("-", "--", "-.", ":")
PLOT = ("<dc:title>codesign train</dc:title>", "a plot of training")
"""Marker text and kind of the file, for `write_file`."""


def svg(record: Record, names: Sequence[str]) -> str:
    """Draw the gap of the smoothed training losses of each experiment, mean over seeds, in percent over millions of tokens.

    Grey: the largest gaps, over all seeds, of BF16 runs whose initial weights were changed slightly.
    """
    import matplotlib.pyplot as plt

    drawn = {name: [a for a in find(name).arms if a not in (REFERENCE, NUDGED) and record.find(a)] for name in names}
    drawn = {name: arms for name, arms in drawn.items() if arms} or {names[0]: []}
    columns = min(len(drawn), 2)
    rows = -(-len(drawn) // columns)
    noise = _noise(record)
    with styled():
        figure, grid = plt.subplots(
            rows, columns, figsize=(7.2 if columns == 1 else 10.0, 3.6 * rows), layout="constrained", squeeze=False
        )
        panels = list(grid.flat)
        for axes in panels[len(drawn) :]:
            axes.remove()
        for axes, (name, arms) in zip(panels, drawn.items(), strict=False):
            if noise:
                x, half = zip(*noise, strict=True)
                axes.fill_between(x, [-h for h in half], half, color="#dddddd", linewidth=0, label="BF16, nudged")
            for number, arm in enumerate(arms):
                style: dict[str, Any] = {
                    "color": COLOURS[number % len(COLOURS)],
                    "linestyle": LINES[number % len(LINES)],
                }
                if points := curve(record, arm):
                    seeds = len(record.find(arm))
                    label = f"{arm} ({seeds} seed{'s' if seeds > 1 else ''})"
                    axes.plot(*zip(*points, strict=True), label=label, linewidth=1.5, **style)
            axes.axhline(0, color="#999999", linewidth=0.8)
            axes.set_title(name, loc="left", fontsize=10)
            axes.set_xlabel("tokens, millions")
            axes.set_ylabel("gap to BF16, percent")
            axes.legend(frameon=False, fontsize=8)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": "codesign train"})
        plt.close(figure)
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def _noise(record: Record) -> list[tuple[float, float]]:
    """Return pairs of millions of tokens and the largest magnitude of any nudged run's gap there, in percent."""
    each = [
        curve(record.model_copy(update={"runs": tuple(r for r in record.runs if r.seed == seed)}), NUDGED)
        for seed in {r.seed for r in record.find(NUDGED)}
    ]
    return [(points[0][0], max(abs(gap) for _, gap in points)) for points in zip(*(e for e in each if e), strict=False)]


if __name__ == "__main__":
    source, target, *chosen = sys.argv[1:]
    write_file(Path(target), svg(read(Path(source)), chosen or list(experiments())))
