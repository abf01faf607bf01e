"""Output of commands: wrapped text, tables on stdout, progress on stderr."""

from __future__ import annotations

import sys
import threading
import time
from typing import Any

WIDTH = 100
"""Columns of a paragraph."""
EVERY = 30.0
"""Seconds after which a running phase is reported where there is no bar."""


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

    Piped, they have no frames, and every row is one line, however long. On a terminal too narrow for a table's numbers
    each row is a list of its own.
    """
    from rich.console import Console
    from rich.table import Table

    piped = not sys.stdout.isatty()

    class Readable(Console):
        def print(self, *objects: Any, **options: Any) -> None:
            for each in objects:
                if isinstance(each, Table) and piped:
                    each.box, each.show_edge = None, False
            if not piped and len(objects) == 1 and isinstance(objects[0], Table) and _need(objects[0]) > self.width:
                objects = tuple(_lists(objects[0]))
            super().print(*objects, **options)

    return Readable(width=10_000 if piped else None, soft_wrap=False, markup=False, emoji=False)


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


class Progress:
    """Progress of a long command on stderr: a bar on a terminal, elsewhere a line when a phase takes long."""

    def __init__(self, label: str, every: float = EVERY) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Bar

        console = Console(stderr=True)
        self.label, self.every, self.live = label, every, console.is_terminal
        self.bar = Bar(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not self.live,
        )
        self.task = self.bar.add_task(label, total=None)
        self._now, self._count, self._began = label, (0, 0), time.monotonic()
        self._ended = threading.Event()

    def __enter__(self) -> Progress:
        if self.live:
            self.bar.start()
        else:
            threading.Thread(target=self._speak, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        if self.live:
            self.bar.stop()

    def update(self, done: int, total: int) -> None:
        """Report that `done` of `total` parts are done; 0: the total is unknown."""
        self._count = done, total
        self.bar.update(self.task, completed=done, total=total or None)

    def phase(self, name: str, done: int = 0, total: int = 0) -> None:
        """Say what is being done now, and how much of it is done."""
        now = f"{self.label}: {name}"
        if now != self._now:
            self._now, self._began = now, time.monotonic()
            self.bar.update(self.task, description=now)
        self.update(done, total)

    def _speak(self) -> None:
        """Print a line for every `EVERY` seconds of one phase."""
        while not self._ended.wait(self.every):
            seconds = time.monotonic() - self._began
            if seconds >= self.every:
                done, total = self._count
                part = f" {done} of {total}," if total else ""
                print(f"{self._now},{part} {seconds:.0f} s", file=sys.stderr, flush=True)
