"""`codesign explore`: the Pareto front of a space of proposals; plain workers for it; a point as a proposal."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from codesign.commands.app import app
from codesign.commands.progress import Progress
from codesign.commands.tabular import Form, emit, tabular
from codesign.commands.terminal import console, table
from isa_model.diagnostics import InputError

if TYPE_CHECKING:
    from codesign.explore.points import Point
    from codesign.explore.space import Space

FOLDER = Path("codesign-explore")
"""Default folder of results, which all spaces share."""


@app.command()
@tabular
def explore(
    target: Annotated[
        str, typer.Argument(metavar="SPACE|work|export", help="A space file (YAML); `work DIR`; or `export DIR POINT`.")
    ],
    more: Annotated[list[str] | None, typer.Argument(metavar="DIR POINT", help="Of `work` and `export`.")] = None,
    out: Annotated[
        Path, typer.Option(help="Folder of results, which all spaces and workers share; reports go into folders in it.")
    ] = FOLDER,
    processes: Annotated[
        int | None,
        typer.Option("--processes", min=1, max=1024, help="Processes on this machine; default: one per core."),
    ] = None,
    dask: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Dask scheduler: an address, a scheduler file, or `local`.")
    ] = None,
    workers: Annotated[
        bool, typer.Option("--workers", help="Compute nothing here: leave it to `codesign explore work DIR` elsewhere.")
    ] = False,
    batch: Annotated[
        int | None, typer.Option(min=1, max=100_000, help="Tasks that are claimed and written together; default: 32.")
    ] = None,
    reports: Annotated[
        int,
        typer.Option(min=0, max=10_000, help="Points of the front to evaluate, too, the knee first; a minute each."),
    ] = 0,
    idle: Annotated[float, typer.Option(min=0.1, help="Of `work`: seconds without work after which it ends.")] = 60.0,
    form: Form = "table",
) -> int:
    """Explore a space of proposals, and write its Pareto front as a page.

    Results are files: a killed command resumes where it stopped, and a larger space computes only what is new. `work`
    computes for others, on any machine that sees the folder. `export` prints the proposal of a point. --csv has all points.
    Exit code 1 if a point failed by a fault of codesign.
    """
    from codesign.explore import run
    from codesign.explore.store import Store, check_results

    if target == "export":
        from codesign.explore.table import exported

        if more is None or len(more) != 2:
            raise InputError.of(
                "export takes a folder and a point", f"codesign explore export {FOLDER} POINT > proposal.yaml"
            )
        print(exported(Path(more[0]), more[1]), end="")
        return 0
    size = batch or run.BATCH
    if target == "work":
        if more is None or len(more) != 1:
            raise InputError.of("work takes a folder", f"codesign explore work {FOLDER}")
        check_results(Path(more[0]))
        with Progress("exploring as a worker") as progress:
            done = run.work(Store(Path(more[0]), keys_only=True), idle, progress.update, size=size)
        print(f"{done} results", file=sys.stderr)
        return 0
    if dask is not None and workers:
        raise InputError.of("--dask and --workers are two ways to compute", "one of them")
    if more:
        raise InputError.of(f"a space takes no further argument, but there is `{more[0]}`", "one space at a time")
    from codesign.explore.load import load_space
    from codesign.explore.page import KIND, write
    from codesign.explore.search import Search
    from isa_model.output_files import check_folder, untracked
    from isa_model.processes import cores

    space, base = load_space(target)
    check_folder(out / space.space, KIND)
    store, count = Store(out), processes or cores()

    def start() -> AbstractContextManager[run.Workers]:
        return run.cores(count) if dask is None else run.dask(None if dask == "local" else dask, count)

    with (
        Progress(f"exploring {space.space}") as progress,
        run.Runner(store, None if workers else start, size) as runner,
    ):
        points = Search(space, base, runner, progress.phase).run()
        if reports:
            from codesign.explore.reports import evaluate_points

            evaluate_points(space, base, points, out, reports, progress.phase)
        progress.phase("writing the report")
        with store.told():
            page = write(space, base, points, out)
    if out == FOLDER:
        untracked(out)
    _show(space, points, form)
    print(f"report: {page}", file=sys.stderr)
    return int(bool(runner.failed))


def _show(space: Space, points: list[Point], form: Form) -> None:
    """Print the front as a table, or all points as data."""
    from codesign.explore.page import counts, headline, interval
    from codesign.explore.table import rows

    if form != "table":
        emit(form, rows(space, points))
        return
    print(headline(space, points))
    front = [p for p in points if p.status == "front"]
    if front:
        head = " | ".join(["point", *space.axes, *(f"{name}:" for name in space.objectives)])
        shown = ([p.name, *map(str, p.settings.values()), *map(interval, p.values.values())] for p in front)
        console().print(table(head, shown))
    for status, count, example in counts(space, points):
        if status in ("not known", "no proposal", "failed"):
            print(f"{status}: {count}, such as {example}", file=sys.stderr)
