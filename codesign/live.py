"""Live conformance: every Hopper instruction of the catalogue on the GPU at hand, against the model, code for code."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from math import ceil, lcm
from multiprocessing import get_context
from typing import Any

import numpy as np

from isa_model.array_codec import code_dtype, to_codes
from isa_model.conformance import Comparison
from isa_model.gemm import matmul
from isa_model.library import catalogue, load
from isa_model.operands import KINDS, draw
from kernels import native

SLOW_OUTPUTS = 4096
"""Outputs of an instruction that only the golden model computes (FP64)."""


class NoHopper(Exception):
    """The GPU at hand, if any, has not these instructions."""


def compare(architecture: str, outputs: int, seed: int = 0) -> Iterator[Comparison]:
    """Compare at least `outputs` outputs in all, spread evenly over the architecture's instructions.

    Operands are of every kind in isa_model.operands, chained over one to three instructions along K with C, the same for
    the same seed. Codes are compared bit for bit, NaNs too. Raises NoHopper where the instructions cannot run.
    """
    check_gpu(architecture)
    names = [name for name in catalogue() if name.startswith(f"{architecture}.")]
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        native.machine_code.update(zip(names, pool.map(native.compiled, names, chunksize=4), strict=True))
    for name in names:
        yield _compare(name, ceil(outputs / len(names)), seed)


def check_gpu(architecture: str) -> None:
    """Raise NoHopper unless this machine can issue the architecture's instructions."""
    try:
        import cuda.core  # noqa: F401
        import torch
    except ImportError:
        raise NoHopper("--live needs the extra `kernels`: pip install 'codesign[kernels]'") from None
    if architecture != "hopper":
        raise NoHopper(f"--live can issue the instructions of hopper, not those of {architecture}")
    if not torch.cuda.is_available() or torch.cuda.get_device_capability() != (9, 0):
        raise NoHopper("--live needs a Hopper GPU (compute capability 9.0); none is visible here")


def _compare(name: str, outputs: int, seed: int) -> Comparison:
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
        mismatches += int(differs.sum())
        if differs.any() and not first:
            i, j = (int(v) for v in np.argwhere(differs)[0])
            first = f"{kind} [{i}, {j}]: chip {got[i, j]:#x}, model {expected[i, j]:#x}"
    return Comparison(name, m * n * len(KINDS), mismatches, first)
