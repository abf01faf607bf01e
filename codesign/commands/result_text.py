"""A result on the terminal: verdicts and finding, and the tables of its report."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console
from rich.table import Table
from rich.text import Text

from codesign.commands.terminal import one_line
from codesign.report.page import MARKS, deciding, parts
from codesign.verdicts.evaluate import Result

_STYLES = {"supported": "green", "refuted": "bold red", "undetermined": "yellow"}


def show(result: Result, console: Console, tables: bool = False) -> None:
    """Print headline, finding and a row per claim; with `tables`, also the report's tables but those of every figure.

    Nothing is printed if anything cannot be drawn.
    """
    for shown in list(_shown(result, tables)):
        console.print(shown)


def _shown(result: Result, tables: bool) -> Iterator[Text | Table]:
    yield Text(one_line(result.proposal.title), style="bold")
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
    yield table
    yield Text(result.headline)
    yield Text(result.finding)
    for part in parts(result) if tables else ():
        for drawn in () if part.folded else part.tables:
            yield Text()
            yield Text(": ".join(filter(None, (part.title, drawn.title))), style="bold")
            shown = Table(*drawn.headings, show_lines=False, header_style="bold", pad_edge=False)
            for row in drawn.rows:
                shown.add_row(*row.names, *row.cells)
            yield shown
