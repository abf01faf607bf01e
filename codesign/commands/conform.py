"""`codesign conform`: compare the model with recorded results, or with the GPU of this machine."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import islice
from math import ceil, lcm
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from codesign.commands.app import app
from codesign.commands.progress import Progress
from codesign.commands.tabular import Form, emit, tabular
from codesign.commands.terminal import console, table
from isa_model.diagnostics import InputError, Unavailable

if TYPE_CHECKING:
    from concurrent.futures import Future

    from isa_model.conformance import ConformanceResult
    from isa_model.float64 import Codes
    from isa_model.stimulus import StressOperands

SLOW_OUTPUTS = 4096
"""Outputs compared of an instruction that only the golden model computes (FP64)."""


@app.command()
@tabular
def conform(
    architecture: Annotated[
        str | None,
        typer.Argument(help="Architecture of the GPU or of a recording (.npz), for instance hopper."),
    ] = None,
    vectors: Annotated[
        Path | None, typer.Option(help="A recording (.npz), or a folder or file written by `codesign vectors`.")
    ] = None,
    live: Annotated[bool, typer.Option("--live", help="Run the instructions on this machine's GPU (Hopper).")] = False,
    outputs: Annotated[int, typer.Option(min=1, help="Number of outputs to compare with --live.")] = 100_000_000,
    record: Annotated[Path | None, typer.Option(help="File for the record of a run with --live (JSON).")] = None,
    form: Form = "table",
) -> int:
    """Compare the model bit for bit with hardware or vectors.

    Results of hardware are read from a recording, or computed on this machine's GPU with --live. Exit code 1 on any mismatch.
    """
    from isa_model.conformance import conform as recorded
    from isa_model.output_files import check_file, of_command

    command = f"codesign conform {architecture} --live"

    if live == (vectors is not None):
        raise InputError.of("conform needs results to compare with", "--vectors FILE, or --live on a Hopper GPU")
    if live:
        if architecture is None:
            raise InputError.of("--live needs the architecture of the chip", "codesign conform hopper --live")
        if record:
            check_file(record, *of_command(command))
        comparisons = compare(architecture, outputs)
    else:
        assert vectors is not None
        comparisons = recorded(architecture, vectors)
    done = []
    with Progress("comparing") as progress:
        for c in comparisons:
            done.append(c)
            progress.update(len(done), 0)
    bad = sum(c.mismatches for c in done)
    if live and record:
        save(record, command, outputs, done)
    if form != "table":
        emit(form, [asdict(c) for c in done])
        return int(bad > 0)
    terminal = console()
    rows = ((c.instruction, f"{c.outputs}", f"{c.mismatches}", c.first or "none") for c in done)
    terminal.print(table("instruction | outputs | mismatches | first mismatch", rows))
    terminal.print(f"{sum(c.outputs for c in done)} outputs compared, {bad} mismatches", highlight=False)
    return int(bad > 0)


# -- live --------------------------------------------------------------------------------------------------------------


def compare(architecture: str, outputs: int, seed: int = 0) -> Iterator[ConformanceResult]:
    """Compare at least `outputs` outputs in all, spread evenly over the architecture's instructions.

    Operands are of every kind in isa_model.stimulus, chained over one to three instructions along K with C; a seed repeats
    them. Codes must be equal bit for bit, except that any two NaNs of FP64 count as equal. The model runs in processes,
    while this one runs the chip. Raises Unavailable if the instructions cannot run here.
    """
    from isa_model.library import catalogue
    from isa_model.processes import cores, pool
    from kernels import native

    check_gpu(architecture)
    names = [name for name in catalogue() if name.startswith(f"{architecture}.")]
    with pool() as workers:
        native.machine_code.update(zip(names, workers.map(native.compiled, names, chunksize=4), strict=True))
        waiting = iter(names)
        running: deque[tuple[str, Future[list[Case]]]] = deque()
        while True:
            for name in islice(waiting, 2 * cores() - len(running)):
                running.append((name, workers.submit(cases, name, ceil(outputs / len(names)), seed)))
            if not running:
                return
            name, job = running.popleft()
            yield _compare(name, job.result())


def check_gpu(architecture: str) -> None:
    """Raise Unavailable unless this machine can issue the architecture's instructions."""
    from isa_model.library import check_architecture
    from kernels import native

    check_architecture(architecture)
    if architecture != "hopper":
        raise Unavailable(f"--live can issue the instructions of hopper, not those of `{architecture}`")
    native.check_gpu()


def save(path: Path, command: str, outputs: int, rows: Sequence[ConformanceResult]) -> None:
    """Write the record of a run of `command`: results, machine and versions. An earlier record is replaced."""
    from codesign.commit import commit
    from isa_model.output_files import head, of_command, write_file
    from isa_model.stimulus import KINDS

    record = {
        "schema_version": 1,
        **head(f"{command} --outputs {outputs}", commit()),
        **machine(),
        "outputs": sum(row.outputs for row in rows),
        "mismatches": sum(row.mismatches for row in rows),
        "kinds": KINDS,
        "instructions": [asdict(row) for row in rows],
    }
    write_file(path, json.dumps(record, indent=1) + "\n", *of_command(command))


def machine() -> dict[str, Any]:
    """Return the GPU, driver, clocks and versions of this machine."""
    import platform
    import subprocess
    from importlib.metadata import version

    import torch

    query = "name,driver_version,clocks.sm,clocks.max.sm"
    command = ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader"]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout.splitlines()[0]
    name, driver, clock, max_clock = (part.strip() for part in answer.split(","))
    return {
        "gpu": name,
        "driver": driver,
        "sm_clock": {"at_the_end": clock, "maximum": max_clock},
        "versions": {
            "python": platform.python_version(),
            "cuda": torch.version.cuda,
            **{package: version(package) for package in ("numpy", "torch", "cuda-core")},
        },
    }


class Case(NamedTuple):
    """Operands of one kind, and the codes that an instruction gives of them, by the model."""

    kind: str
    operands: StressOperands
    expected: Codes


def cases(name: str, outputs: int, seed: int) -> list[Case]:
    """Return a case of every kind, with at least `outputs` outputs together; of FP64, which is slow, SLOW_OUTPUTS at most."""
    import zlib

    import numpy as np

    from isa_model.array_codec import to_codes
    from isa_model.library import load
    from isa_model.matmul import matmul
    from isa_model.stimulus import KINDS, draw

    spec = load(name)
    slow = spec.accumulator.name == "fp64"
    per_kind = ceil((min(outputs, SLOW_OUTPUTS) if slow else outputs) / len(KINDS))
    tile_n = lcm(spec.shape.n, 8)
    n = tile_n * max(1, round(per_kind**0.5 / tile_n))
    m = spec.shape.m * ceil(per_kind / n / spec.shape.m)
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    done = []
    for number, kind in enumerate(KINDS):
        x = draw(spec, kind, rng, m, n, spec.shape.k * (1 + number % 3))
        d = matmul(spec, x.a, x.b, x.c, engine="golden" if slow else "cpu", positions=x.positions)
        done.append(Case(kind, x, to_codes(spec.accumulator, d)))
    return done


def _compare(name: str, cases: Sequence[Case]) -> ConformanceResult:
    """Compare the chip with an instruction's cases."""
    import numpy as np

    from isa_model.conformance import ConformanceResult
    from kernels import native

    outputs = mismatches = 0
    first = ""
    for kind, x, expected in cases:
        got = native.matmul(name, x.a, x.b, x.c, x.positions).view(expected.dtype)
        differs = got != expected
        if got.itemsize == 8:  # the chip keeps the payload of an FP64 NaN, which the spec language does not describe
            differs &= ~(np.isnan(got.view(np.float64)) & np.isnan(expected.view(np.float64)))
        outputs += got.size
        mismatches += int(differs.sum())
        if differs.any() and not first:
            i, j = (int(v) for v in np.argwhere(differs)[0])
            first = f"{kind} [{i}, {j}]: chip {got[i, j]:#x}, model {expected[i, j]:#x}"
    return ConformanceResult(name, outputs, mismatches, first)
