"""`codesign bench`: check and time the GPU kernels."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from codesign.commands.app import app
from codesign.commands.progress import Progress
from codesign.commands.tabular import Form, emit, tabular
from codesign.commands.terminal import console


@app.command()
@tabular
def bench(
    kernel: Annotated[
        list[str] | None,
        typer.Option(help="Kernels to time; * and ? are wildcards, for instance 'gemm.*'. Default: all."),
    ] = None,
    shapes: Annotated[
        str, typer.Option(help="deepseek-v3, or a list of forward GEMMs as MxNxK, separated by commas.")
    ] = "deepseek-v3",
    out: Annotated[Path, typer.Option(help="File for the record (JSON).")] = Path("bench.json"),
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Seed of the operands.")] = 0,
    keep: Annotated[
        Path | None,
        typer.Option(
            help="An earlier record of the same GPU model; shapes that are not timed again are copied from it."
        ),
    ] = None,
    form: Form = "table",
) -> int:
    """Check and time the kernels on this machine's GPU.

    Other libraries and the limits of the hardware are timed in the same run. Exit code 1 if a result is wrong. A run that is
    stopped leaves what it has timed in a file beside the record, with the suffix .partial.json, which `--keep` takes.
    """
    from isa_model.output_files import check_file, of_command, typed
    from kernels.bench.bench import bench as run_bench
    from kernels.bench.records import read, together
    from kernels.bench.shapes import parse
    from kernels.bench.table import data_rows, table

    partial = out.with_suffix(".partial.json")
    check_file(out, *of_command("codesign bench"))
    check_file(partial, *of_command("codesign bench"))
    earlier = read(keep) if keep else None
    kept = ["--keep", keep] if keep else []
    command = typed(
        "codesign bench", *(f"--kernel '{k}'" for k in kernel or []), f"--shapes {shapes} --seed {seed}", *kept
    )
    with Progress("timing") as progress:
        record = run_bench(
            parse(shapes),
            kernel or ["*"],
            name=out.stem,
            command=command,
            seed=seed,
            progress=progress.update,
            so_far=lambda record: record.save(partial),
        )
    (together(record, earlier) if earlier else record).save(out)
    partial.unlink(missing_ok=True)
    if form == "table":
        console().print(table(record))
    else:
        emit(form, data_rows(record), record.model_dump_json(indent=1))
    print(f"record: {out}", file=sys.stderr)
    return int(any(row.wrong for row in record.cases))
