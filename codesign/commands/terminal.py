"""Output of commands on stdout: wrapped text and tables."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import Any

WIDTH = 100
"""Columns of a paragraph."""
WIDEST = 80
"""Columns that a cell of a piped table is filled up to at most; a longer cell moves those after it."""


def wrapped(text: str, lead: str) -> str:
    """Return a paragraph of at most 100 columns, fewer on a narrow terminal, indented below `lead`."""
    import shutil
    import textwrap

    width = min(WIDTH, shutil.get_terminal_size((WIDTH, 24)).columns) if sys.stdout.isatty() else WIDTH
    return textwrap.fill(
        text,
        max(width, len(lead) + 20),
        initial_indent=lead,
        subsequent_indent=" " * len(lead),
        break_long_words=False,
        break_on_hyphens=False,
    )


def console() -> Any:
    """Return stdout as a console with readable tables, on which text is literal: no markup, no emoji codes.

    Piped, a table has no frame, and every row is one line, however long. On a terminal too narrow for a table's numbers each
    row is a list of its own.
    """
    from rich.console import Console
    from rich.table import Table

    piped = not sys.stdout.isatty()

    class Readable(Console):
        def print(self, *objects: Any, **options: Any) -> None:
            if len(objects) == 1 and isinstance(objects[0], Table):
                if piped:
                    for line in plain(objects[0]):
                        super().print(line, highlight=False, soft_wrap=True)
                    return
                for column in objects[0].columns:
                    column.overflow = "fold"  # a name longer than its column would lose its end
                if _need(objects[0]) > self.width:
                    objects = tuple(_lists(objects[0]))
            super().print(*objects, **options)

    return Readable(width=10_000 if piped else None, soft_wrap=False, markup=False, emoji=False)


def table(head: str, rows: Iterable[Iterable[Any]] = ()) -> Any:
    """Return a rich table with these rows. `head` names the columns as that of `codesign.figures.markdown.table` does."""
    from rich.table import Table

    made = Table(header_style="bold", pad_edge=False)
    for name in head.split(" | "):
        made.add_column(name.removesuffix(":"), justify="right" if name.endswith(":") else "left")
    for row in rows:
        made.add_row(*row)
    return made


def one_line(text: str) -> str:
    """Return a text with its line ends and other white space as single spaces, so that it cannot look like several rows."""
    return " ".join(text.split())


def plain(table: Any) -> Iterator[str]:
    """Yield a rich table as lines: its headings, one line per row without trailing blanks, and its caption."""
    from rich.cells import cell_len

    columns = [[one_line(str(text)) for text in (column.header, *column.cells)] for column in table.columns]
    widths = [min(max(map(cell_len, column)), WIDEST) for column in columns]
    for row in zip(*columns, strict=True):
        cells = []
        for text, width, column in zip(row, widths, table.columns, strict=True):
            fill = " " * (width - cell_len(text))
            cells.append(fill + text if column.justify == "right" else text + fill)
        yield "  ".join(cells).rstrip()
    if table.caption:
        yield from map(one_line, str(table.caption).splitlines())


def _need(table: Any) -> int:
    """Return the columns that a rich table needs so that no number and no heading is cut; text can be folded."""
    from rich.cells import cell_len

    need = 1
    for column in table.columns:
        heading = max(map(cell_len, str(column.header).split()), default=0)
        widest = max((cell_len(str(cell)) for cell in column.cells), default=0)
        need += 3 + max(heading, widest if column.justify == "right" or column.no_wrap else min(widest, 12))
    return need


def _lists(table: Any) -> Any:
    """Yield the rows of a rich table, each as a list of its headings and cells."""
    from rich.table import Table

    for row in zip(*(column.cells for column in table.columns), strict=True):
        card = Table(box=None, show_header=False, pad_edge=False)
        card.add_column()
        card.add_column()
        for column, cell in zip(table.columns, row, strict=True):
            if str(cell):
                card.add_row(str(column.header), cell)
        yield card
        yield ""
