"""`codesign train`: run training experiments, with progress and the live loss on stderr and the gaps on stdout."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from codesign.commands.app import app, seeds_of
from codesign.commands.progress import Progress
from codesign.commands.tabular import Form, emit, tabular
from codesign.commands.terminal import console, table
from codesign.figures.rows import Row
from isa_model.diagnostics import InputError, suggest

if TYPE_CHECKING:
    from codesign.evidence.training.loop import TrainingJob
    from codesign.evidence.training.records import TrainingRecord
    from codesign.evidence.training.size import Size


@app.command()
@tabular
def train(
    experiment: Annotated[
        list[str],
        typer.Argument(metavar="EXPERIMENT", help="Experiments by name; `codesign list experiments` shows all."),
    ],
    size: Annotated[str, typer.Option(help="Model size: tiny, 1m, 10m, 30m, 100m or 300m.")] = "tiny",
    out: Annotated[Path | None, typer.Option(help="Record to extend; default: records/training.<size>.json.")] = None,
    seeds: Annotated[str, typer.Option(help="Seeds, as 0-2 or 0,1,2.")] = "0,1,2",
    arms: Annotated[
        str | None, typer.Option(help="Arms to train, separated by commas; default: all arms of the experiments.")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=4, help="Training steps; default: those of the size.")] = None,
    tokens: Annotated[int | None, typer.Option(min=128, help="Tokens per step; default: those of the size.")] = None,
    micro_batches: Annotated[
        int | None, typer.Option(min=1, help="Micro-batches per step, shared by the processes.")
    ] = None,
    engine: Annotated[
        Literal["auto", "model", "native", "fp32"], typer.Option(help="Implementation of the matrix products.")
    ] = "auto",
    work: Annotated[Path, typer.Option(help="Folder for checkpoints, from which an interrupted run continues.")] = Path(
        ".training"
    ),
    budget: Annotated[float | None, typer.Option(min=0, help="Seconds after which no further run starts.")] = None,
    plot: Annotated[Path | None, typer.Option(help="File for a plot of the loss gaps during training (SVG).")] = None,
    form: Form = "table",
) -> int:
    """Train experiments and show their loss gaps to BF16.

    Runs that the record has are not repeated.

    On several GPUs: torchrun --nproc-per-node 8 -m codesign train EXPERIMENT --micro-batches 8 ...
    """
    from codesign.evidence.training.experiments import HEAD, find, run, summary
    from codesign.evidence.training.gaps import assay
    from codesign.evidence.training.plot import PLOT, svg
    from codesign.evidence.training.records import FILE
    from codesign.evidence.training.size import find_size
    from isa_model.output_files import check_file, write_file

    asked = [find(name) for name in experiment]
    known = list(dict.fromkeys(arm for e in asked for arm in e.arms))
    names = arms.split(",") if arms is not None else known
    for name in names:
        if name not in known:
            raise InputError.of(
                f"no arm is called `{name}` there", suggest(name, known) or f"one of: {', '.join(known)}"
            )
    given = {"steps": steps, "tokens": tokens, "micro_batches": micro_batches}
    trained = _changed(find_size(size), {name: value for name, value in given.items() if value is not None})
    path = out or Path("records") / f"training.{size}.json"
    check_file(path, *FILE)
    if plot is not None:
        check_file(plot, *PLOT)
    check_file(work / "a-run.pt", "data.pkl", "a checkpoint")
    first_process = int(os.environ.get("RANK", "0")) == 0
    progress = Progress(f"training {size}")
    with progress if first_process else nullcontext():  # the other processes report nothing
        watch = partial(_watch, progress)
        record = run(names, size, trained, seeds_of(seeds), path, work, engine, watch, budget)
    if first_process:
        if form == "table":
            terminal = console()
            for e in asked:
                terminal.print(e.question, highlight=False)
                terminal.print(table(HEAD, summary(record, e.arms)))
            terminal.print(f"Gaps say this much: {assay(record)}.", highlight=False)
        else:
            emit(form, data_rows(record, dict.fromkeys(arm for e in asked for arm in e.arms)))
        print(f"record: {path}", file=sys.stderr)
        if plot is not None:
            write_file(plot, svg(record, experiment), *PLOT)
    return 0


def data_rows(record: TrainingRecord, arms: Iterable[str]) -> list[Row]:
    """Return a row per arm that has runs: its loss gaps to BF16 with their intervals."""
    from codesign.evidence.training.gaps import gap

    rows: list[Row] = []
    for arm in arms:
        if runs := record.find(arm):
            found = gap(record, arm)
            row: Row = {"arm": arm, "seeds": len(runs), "size": record.size}
            spreads = (found.training, found.validation) if found else (None, None)
            for name, spread in zip(("gap", "validation_gap"), spreads, strict=True):
                ends = (None, None, None) if spread is None else (spread.mean, spread.low, spread.high)
                row |= dict(zip((name, f"{name}_low", f"{name}_high"), ends, strict=True))
            rows.append(row | {"largest_gap": found and found.largest, "engines": "/".join(runs[0].engines)})
    return rows


def _changed(size: Size, changes: dict[str, int]) -> Size:
    """Return a size with some fields changed. Raises InputError if they do not fit together."""
    from pydantic import ValidationError

    try:
        return type(size).model_validate({**size.model_dump(), **changes})
    except ValidationError as error:
        fault = error.errors()[0]
        field = ".".join(map(str, fault.get("ctx", {}).get("at", fault["loc"])))
        raise InputError.of(f"{field}: {fault['msg']}") from None


def _watch(progress: Progress, job: TrainingJob, step: int, loss: float) -> None:
    """Show the steps done by a run, and its smoothed loss; where there is no bar, its end, too."""
    progress.phase(f"{job.arm}, seed {job.seed}", step, job.size.steps, f"loss {loss:.4f}")
    if step == job.size.steps and not progress.live:
        print(f"{job.arm}, seed {job.seed}: {step} steps, loss {loss:.4f}", file=sys.stderr, flush=True)
