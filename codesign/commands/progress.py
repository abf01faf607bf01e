"""Progress of long commands on stderr: the phase, a bar, and the time left."""

from __future__ import annotations

import sys
import threading
import time

EVERY = 30.0
"""Seconds after which a running phase is reported where there is no bar."""


class Progress:
    """Progress of a long command on stderr: a bar on a terminal, elsewhere a line when a phase takes long."""

    def __init__(self, label: str, every: float = EVERY) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, Task, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Bar
        from rich.text import Text

        remarks = self._remarks

        class Remarks(ProgressColumn):
            def render(self, task: Task) -> Text:
                return Text(remarks())

        console = Console(stderr=True, force_jupyter=False)
        self.label, self.every, self.live = label, every, console.is_terminal
        self.bar = Bar(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            Remarks(),
            console=console,
            transient=True,
            disable=not self.live,
        )
        self.task = self.bar.add_task(label, total=None)
        self._now, self._count, self._note = label, (0, 0), ""
        self._began = self._counted = time.monotonic()
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

    def update(self, done: int, total: int, note: str = "") -> None:
        """Report that `done` of `total` parts are done, and a note on them; 0: the total is unknown."""
        self._count, self._note, self._counted = (done, total), note, time.monotonic()
        self.bar.update(self.task, completed=done, total=total or None)

    def phase(self, name: str, done: int = 0, total: int = 0, note: str = "") -> None:
        """Say what is being done now, and how much of it is done."""
        now = f"{self.label}: {name}"
        if now != self._now:
            self._now, self._began = now, time.monotonic()
            self.bar.remove_task(self.task)
            self.task = self.bar.add_task(now, total=None)
        self.update(done, total, note)

    def _remarks(self) -> str:
        """Return the note and the time left."""
        return ", ".join(filter(None, (self._note, self._left())))

    def _left(self) -> str:
        """Return the time left in the phase, extrapolated from its finished parts; empty if unknown, or once it has passed."""
        done, total = self._count
        spent = self._counted - self._began
        if not 0 < done < total or spent < 2:
            return ""
        left = spent * (total - done) / done - (time.monotonic() - self._counted)
        if left < 1:
            return ""
        of = "" if self._now == self.label else " of this phase"
        return f"about {left:.0f} s{of} left" if left < 100 else f"about {left / 60:.0f} min{of} left"

    def _speak(self) -> None:
        """Print a line for every `EVERY` seconds of one phase."""
        while not self._ended.wait(self.every):
            seconds = time.monotonic() - self._began
            if seconds >= self.every:
                done, total = self._count
                part = f" {done} of {total}," if total else ""
                line = ", ".join(filter(None, (f"{self._now},{part} {seconds:.0f} s", self._remarks())))
                print(line, file=sys.stderr, flush=True)
