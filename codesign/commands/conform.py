"""Live conformance: every Hopper instruction of the catalogue on the GPU at hand, against the model, code for code."""

from __future__ import annotations

import json
import platform
import subprocess
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from math import ceil, lcm
from pathlib import Path
from typing import Any

import numpy as np

from codesign.provenance import commit
from isa_model.array_codec import code_dtype, to_codes
from isa_model.conformance import ConformanceResult
from isa_model.diagnostics import Unavailable
from isa_model.library import catalogue, check_architecture, load
from isa_model.matmul import matmul
from isa_model.output_files import check_file, of_command, write_file
from isa_model.processes import pool
from isa_model.stimulus import KINDS, draw
from kernels import native

SLOW_OUTPUTS = 4096
"""Outputs of an instruction that only the golden model computes (FP64)."""


def compare(architecture: str, outputs: int, seed: int = 0) -> Iterator[ConformanceResult]:
    """Compare at least `outputs` outputs in all, spread evenly over the architecture's instructions.

    Operands are of every kind in isa_model.stimulus, chained over one to three instructions along K with C, the same for
    the same seed. Codes are compared bit for bit, NaNs too, but any two NaNs of FP64 count as equal. Raises Unavailable
    where the instructions cannot run.
    """
    check_gpu(architecture)
    names = [name for name in catalogue() if name.startswith(f"{architecture}.")]
    with pool() as workers:
        native.machine_code.update(zip(names, workers.map(native.compiled, names, chunksize=4), strict=True))
    for name in names:
        yield _compare(name, ceil(outputs / len(names)), seed)


def check_gpu(architecture: str) -> None:
    """Raise Unavailable unless this machine can issue the architecture's instructions."""
    check_architecture(architecture)
    import cuda.core  # noqa: F401
    import torch

    if architecture != "hopper":
        raise Unavailable(f"--live can issue the instructions of hopper, not those of `{architecture}`")
    if not torch.cuda.is_available() or torch.cuda.get_device_capability() != (9, 0):
        raise Unavailable("--live needs a Hopper GPU (compute capability 9.0); none is visible here")


def check(path: Path, architecture: str) -> None:
    """Raise InputError if the record of a run cannot go there, before any work is done for it."""
    check_file(path, *of_command(_command(architecture)))


def _command(architecture: str) -> str:
    return f"codesign conform {architecture} --live"


def save(path: Path, architecture: str, outputs: int, rows: Sequence[ConformanceResult]) -> None:
    """Write the record of a run: what was compared, where, and with which versions. Replaces the file as a whole."""
    record = {
        "schema_version": 1,
        "command": f"{_command(architecture)} --outputs {outputs}",
        "date": datetime.now(UTC).date().isoformat(),
        "commit": commit(),
        **machine(),
        "outputs": sum(row.outputs for row in rows),
        "mismatches": sum(row.mismatches for row in rows),
        "kinds": KINDS,
        "instructions": [asdict(row) for row in rows],
    }
    write_file(path, json.dumps(record, indent=1) + "\n", *of_command(_command(architecture)))


def machine() -> dict[str, Any]:
    """GPU, driver, clocks and versions of the machine at hand."""
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


def _compare(name: str, outputs: int, seed: int) -> ConformanceResult:
    spec = load(name)
    slow = spec.accumulator.name == "fp64"
    if slow:
        outputs = min(outputs, SLOW_OUTPUTS)
    per_kind = ceil(outputs / len(KINDS))
    tile_n = lcm(spec.shape.n, 8)
    n = tile_n * max(1, round(per_kind**0.5 / tile_n))
    m = spec.shape.m * ceil(per_kind / n / spec.shape.m)
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    mismatches = 0
    first = ""
    for number, kind in enumerate(KINDS):
        x = draw(spec, kind, rng, m, n, spec.shape.k * (1 + number % 3))
        got = native.matmul(name, x.a, x.b, x.c)
        engine: Any = "golden" if slow else "cpu"
        expected = to_codes(spec.accumulator, matmul(spec, x.a, x.b, x.c, engine=engine))
        differs = got.view(code_dtype(spec.accumulator)) != expected
        if slow:  # the chip passes on the payload of an FP64 NaN, which the spec language does not say
            differs &= ~(np.isnan(got.view(np.float64)) & np.isnan(expected.view(np.float64)))
        mismatches += int(differs.sum())
        if differs.any() and not first:
            i, j = (int(v) for v in np.argwhere(differs)[0])
            first = f"{kind} [{i}, {j}]: chip {got[i, j]:#x}, model {expected[i, j]:#x}"
    return ConformanceResult(name, m * n * len(KINDS), mismatches, first)
