"""The coverage of vectors as a terminal table."""

from __future__ import annotations

from collections import Counter

from rich.console import Console
from rich.table import Table
from rich.text import Text

from isa_model.vectors.coverage import CoverageRow


def show(coverage: list[CoverageRow], console: Console) -> None:
    """Print a row per category and point, what was missed, and why bins are not applicable."""
    table = Table("category", "at", header_style="bold", pad_edge=False)
    for heading in ("wanted", "hit"):
        table.add_column(heading, justify="right")
    table.add_column("missed; not applicable")
    for row in coverage:
        reasons = Counter(row.unreachable.values())
        notes = [Text(f"missed: {what}", style="bold red") for what in row.missed]
        notes += [
            Text(f"n/a, {bins}: {why}" if len(row.wanted) + bins > 1 else f"n/a: {why}")
            for why, bins in reasons.items()
        ]
        hit = len(row.wanted) - len(row.missed)
        table.add_row(row.category, row.point, f"{len(row.wanted)}", f"{hit}", Text("\n").join(notes))
    console.print(table)
    wanted, missed = (
        sum(len(bins) for bins in side) for side in ([r.wanted for r in coverage], [r.missed for r in coverage])
    )
    console.print(f"{wanted} bins wanted, {wanted - missed} hit, {missed} missed", highlight=False)
