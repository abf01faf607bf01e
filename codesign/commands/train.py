"""`codesign train` at the terminal: progress with the live loss on stderr, and the table of gaps on stdout."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from codesign.commands.terminal import console
from codesign.evidence.training.experiments import HEADINGS, find, run, summary
from codesign.evidence.training.gaps import assay
from codesign.evidence.training.plot import PLOT, svg
from codesign.evidence.training.records import FILE
from codesign.evidence.training.size import Size, find_size
from isa_model.diagnostics import InputError, suggest
from isa_model.output_files import check_file, write_file

if TYPE_CHECKING:
    from codesign.evidence.training.loop import Job

EVERY = 30.0
"""Seconds between lines where stderr is no terminal."""


def train(
    experiment: list[str],
    size_name: str,
    changes: dict[str, int | None],
    out: Path | None,
    seeds: tuple[int, ...],
    chosen: str | None,
    engine: str,
    work: Path,
    budget: float | None,
    plot: Path | None,
) -> int:
    """Run experiments and show what they found. Raises InputError for what cannot be run."""
    from rich.table import Table

    asked = [find(name) for name in experiment]
    known = list(dict.fromkeys(arm for e in asked for arm in e.arms))
    names = chosen.split(",") if chosen is not None else known
    for name in names:
        if name not in known:
            raise InputError.of(
                f"no arm is called `{name}` there", suggest(name, known) or f"one of: {', '.join(known)}"
            )
    size = _changed(find_size(size_name), changes)
    path = out or Path("records") / f"training.{size_name}.json"
    check_file(path, *FILE)
    if plot is not None:
        check_file(plot, *PLOT)
    check_file(work / "a-run.pt", "data.pkl", "a checkpoint")
    speaks = int(os.environ.get("RANK", "0")) == 0
    with Live(speaks) as live:
        record = run(names, size_name, size, seeds, path, work, engine, live.update, budget)
    if speaks:
        terminal = console()
        for e in asked:
            terminal.print(e.question, highlight=False)
            table = Table(*HEADINGS, header_style="bold", pad_edge=False)
            for row in summary(record, e.arms):
                table.add_row(*row)
            terminal.print(table)
        terminal.print(f"Gaps say this much: {assay(record)}.", highlight=False)
        print(f"record: {path}", file=sys.stderr)
        if plot is not None:
            write_file(plot, svg(record, experiment), *PLOT)
    return 0


def _changed(size: Size, changes: dict[str, int | None]) -> Size:
    try:
        return Size.model_validate({**size.model_dump(), **{k: v for k, v in changes.items() if v is not None}})
    except ValidationError as error:
        fault = error.errors()[0]
        field = ".".join(map(str, fault.get("ctx", {}).get("at", fault["loc"])))
        raise InputError.of(f"{field}: {fault['msg']}") from None


class Live:
    """A bar with the loss where stderr is a terminal; elsewhere a line now and then."""

    def __init__(self, speaks: bool) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        console = Console(stderr=True)
        self.terminal, self.speaks, self.said = console.is_terminal and speaks, speaks, 0.0
        self.bar: Any = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]:.4f}"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not self.terminal,
        )
        self.task = self.bar.add_task("", total=None, loss=float("nan"))
        self.current: tuple[str, int] | None = None

    def __enter__(self) -> Live:
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def update(self, job: Job, step: int, loss: float) -> None:
        """Steps done of a run, and its smoothed loss."""
        if self.current != (job.arm, job.seed):
            self.current = job.arm, job.seed
            self.bar.reset(self.task, total=job.size.steps, description=f"{job.arm}, seed {job.seed}", loss=loss)
        self.bar.update(self.task, completed=step, loss=loss)
        last = step == job.size.steps
        if self.speaks and not self.terminal and (last or time.monotonic() - self.said > EVERY):
            self.said = time.monotonic()
            print(
                f"{job.arm} seed {job.seed}: step {step} of {job.size.steps}, loss {loss:.4f}",
                file=sys.stderr,
                flush=True,
            )
