"""The verdicts and the finding on the terminal."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from codesign.report.page import MARKS, deciding
from codesign.verdicts.evaluate import Result

_STYLES = {"supported": "green", "refuted": "bold red", "undetermined": "yellow"}


def show(result: Result, console: Console) -> None:
    """Print headline, finding and a row per claim."""
    console.print(Text(result.proposal.title, style="bold"))
    table = Table(show_lines=False, header_style="bold", pad_edge=False)
    table.add_column("verdict", no_wrap=True)
    table.add_column("claim")
    table.add_column("decided by")
    for verdict in result.verdicts:
        style = _STYLES[verdict.judgement]
        reason = deciding(verdict)
        if verdict.deciding and verdict.judgement == "undetermined":
            reason += f": {verdict.reason}"
        table.add_row(
            Text(f"{MARKS[verdict.judgement]} {verdict.judgement}", style=style),
            verdict.statement,
            reason,
        )
    console.print(table)
    console.print(result.headline, highlight=False)
    console.print(result.finding, highlight=False)
