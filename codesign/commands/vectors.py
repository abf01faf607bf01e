"""`codesign vectors`: write known-answer vectors, and show their coverage."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from codesign.commands.app import Target, app, folder_of
from codesign.commands.progress import Progress
from codesign.commands.tabular import Form, emit, tabular
from codesign.commands.terminal import console, table
from codesign.figures.rows import Row

if TYPE_CHECKING:
    from rich.console import Console

    from isa_model.vectors.coverage import CoverageRow


@app.command()
@tabular
def vectors(
    target: Target,
    out: Annotated[Path | None, typer.Option(help="Folder for the vectors; default: codesign-vectors/<name>.")] = None,
    count: Annotated[
        int,
        typer.Option(min=1, max=1_000_000, help="Number of vectors: the directed ones first, then random ones."),
    ] = 10_000,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Seed of the random vectors.")] = 0,
    form: Form = "table",
) -> int:
    """Write known-answer vectors for RTL test benches.

    They are written as JSON lines and for $readmemh; their coverage is shown.
    """
    from codesign.report.lookup import instruction_of
    from isa_model.output_files import untracked
    from isa_model.vectors import vector_files
    from isa_model.vectors.coverage import measure
    from isa_model.vectors.make import make

    instruction = instruction_of(target)
    folder = out or folder_of("vectors", instruction)
    vector_files.check(folder)
    with Progress("answers") as progress:
        made = make(instruction, count, seed, progress.update)
    with Progress("coverage") as progress:
        coverage = measure(made, progress.update)
    vector_files.write(made, coverage, folder)
    if out is None:
        untracked(folder.parent)
    if form == "table":
        show_coverage(coverage, console())
    else:
        emit(form, data_rows(coverage))
    print(f"{len(made.vectors)} vectors of {instruction.name}: {folder}", file=sys.stderr)
    return 0


def data_rows(coverage: list[CoverageRow]) -> list[Row]:
    """Return a row per bin: the number of vectors in it, or the reason why operands cannot reach it."""
    return [
        {"category": row.category, "point": row.point, "bin": name, "vectors": vectors, "unreachable": why}
        for row in coverage
        for name, vectors, why in (
            *((name, count, None) for name, count in row.wanted.items()),
            *((name, None, reason) for name, reason in row.unreachable.items()),
        )
    ]


def show_coverage(coverage: list[CoverageRow], console: Console) -> None:
    """Print one row per category and point, with the missed bins and the reasons why others do not apply."""
    from rich.text import Text

    rows = []
    for row in coverage:
        reasons = Counter(row.unreachable.values())
        notes = [Text(f"missed: {what}", style="bold red") for what in row.missed]
        notes += [
            Text(f"n/a, {bins}: {why}" if len(row.wanted) + bins > 1 else f"n/a: {why}")
            for why, bins in reasons.items()
        ]
        hit = len(row.wanted) - len(row.missed)
        rows.append((row.category, row.point, f"{len(row.wanted)}", f"{hit}", Text("\n").join(notes)))
    console.print(table("category | at | wanted: | hit: | missed; not applicable", rows))
    wanted, missed = sum(len(row.wanted) for row in coverage), sum(len(row.missed) for row in coverage)
    console.print(f"{wanted} bins wanted, {wanted - missed} hit, {missed} missed", highlight=False)
