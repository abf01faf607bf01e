"""What the commands print with: wrapped text, tables on stdout, progress on stderr."""

from __future__ import annotations

import sys
from typing import Any


def wrapped(text: str, lead: str) -> str:
    """A paragraph of at most 100 columns, its first line after `lead`, the others below that."""
    import textwrap

    return textwrap.fill(
        text,
        100,
        initial_indent=lead,
        subsequent_indent=" " * len(lead),
        break_long_words=False,
        break_on_hyphens=False,
    )


def console() -> Any:
    """stdout as a console on which text is text: no markup, no emoji codes. Piped output is not cut to a terminal's width."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 160, soft_wrap=False, markup=False, emoji=False)


class Progress:
    """A progress bar on stderr, if that is a terminal."""

    def __init__(self, label: str) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Bar

        console = Console(stderr=True)
        self.bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self.task = self.bar.add_task(label, total=None)

    def __enter__(self) -> Progress:
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def update(self, done: int, total: int) -> None:
        self.bar.update(self.task, completed=done, total=total or None)
