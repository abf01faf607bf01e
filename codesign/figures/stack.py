"""Several plots in one SVG."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from codesign.figures.canvas import LINE, WIDTH

GAP = 20.0
"""Space between plots."""


def stacked(title: str, plots: Sequence[tuple[str, str]], columns: int = 2) -> str:
    """Return one SVG element with (name, SVG element) pairs in rows, each below its name."""
    columns = min(columns, len(plots))
    top, parts = 0.0, [f"<title>{escape(title)}</title>"]
    for first in range(0, len(plots), columns):
        row = plots[first : first + columns]
        heights = [float(plot.partition('viewBox="0 0 ')[2].partition('"')[0].split()[1]) for _, plot in row]
        for i, ((name, plot), height) in enumerate(zip(row, heights, strict=True)):
            x = i * (WIDTH + GAP)
            parts.append(f'<text x="{x + 2:g}" y="{top + LINE:g}">{escape(name)}</text>')
            at = f'x="{x:g}" y="{top + LINE + 6:g}" width="{WIDTH:g}" height="{height:g}"'
            parts.append(plot.strip().replace("<svg ", f"<svg {at} ", 1))
        top += LINE + 6 + max(heights) + GAP
    width = columns * WIDTH + (columns - 1) * GAP
    head = f'<svg xmlns="http://www.w3.org/2000/svg" class="plot" viewBox="0 0 {width:g} {top:g}" role="img">'
    return f"{head}{''.join(parts)}</svg>\n"
