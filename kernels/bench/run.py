"""A run of the bench: the cases that were asked for, shape by shape, and the record of it all."""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from importlib import import_module
from itertools import groupby
from typing import Any

from isa_model.checkout import commit_of
from isa_model.diagnostics import InputError, Unavailable
from kernels.bench import REGISTERED, peers
from kernels.bench.case import Case
from kernels.bench.records import FOLDER, Record, Row, versions
from kernels.bench.shapes import Gemm


def bench(
    shapes: Sequence[Gemm],
    kernels: Sequence[str] = ("*",),
    *,
    name: str,
    command: str,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Record:
    """Check and time the cases of `shapes` whose kernel fits a pattern of `kernels`, and the ceilings beside them.

    Raises Unavailable without a Hopper GPU and its libraries, InputError where no kernel fits.
    """
    need_gpu()
    from kernels.bench.measure import Sampler, measure

    chosen = select(shapes, kernels)
    rows: list[Row] = []
    with Sampler() as sampler:
        for group in [list(peers.ceilings()), *chosen]:
            rows += measure(group, seed, sampler)
            progress(len(rows), sum(map(len, chosen)) + 2)
        return Record(cases=tuple(rows), **header(name, command, seed, sampler))


def select(shapes: Sequence[Gemm], kernels: Sequence[str]) -> list[list[Case]]:
    """Cases by shape. A chosen GEMM brings `gemm.native` and `gemm.bf16` of its shape along, for comparison.

    Raises InputError where nothing fits.
    """
    modules = [import_module(name) for name in REGISTERED]
    every = [case for module in modules if hasattr(module, "cases") for case in module.cases(shapes)]
    names = sorted({case.kernel for case in every})
    for pattern in kernels:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise InputError.of(f"no kernel fits `{pattern}`", f"there are {', '.join(names)}; `*` stands for anything")

    def shape(case: Case) -> tuple[tuple[str, int], ...]:
        return tuple(case.shape.items())

    fitting = [case for case in every if any(fnmatchcase(case.kernel, pattern) for pattern in kernels)]
    wanted = {shape(case) for case in fitting}
    beside = ("gemm.native", "gemm.bf16")
    picked = [
        case
        for case in every
        if case in fitting or (case.variant == "peer" and case.kernel in beside and shape(case) in wanted)
    ]
    return [list(group) for _, group in groupby(sorted(picked, key=shape), key=shape)]


def need_gpu() -> None:
    """Raise Unavailable unless a Hopper GPU is here; the message names the shipped records."""
    try:
        import torch
    except ImportError:
        lacking = "PyTorch is not installed (extra `kernels`)"
    else:
        if torch.cuda.is_available() and torch.cuda.get_device_capability() == (9, 0):
            return
        lacking = "none is visible here"
    shipped = " ".join(str(path) for path in sorted(FOLDER.glob("bench-*.json"))) or "none"
    raise Unavailable(
        f"the bench needs a Hopper GPU (compute capability 9.0); {lacking}. Records of earlier runs: {shipped}"
    )


def header(name: str, command: str, seed: int, sampler: Any) -> dict[str, Any]:
    """Where and with what a run was made: the fields of `records.Run`."""
    import pynvml
    import torch

    device = torch.cuda.current_device()
    properties = torch.cuda.get_device_properties(device)
    handle = sampler.handle
    driver = pynvml.nvmlSystemGetDriverVersion()
    return {
        "name": name,
        "date": datetime.now(UTC).date().isoformat(),
        "commit": commit_of("isa_model", "kernels", ":!kernels/records"),
        "command": command,
        "seed": seed,
        "gpu": properties.name,
        "driver": driver if isinstance(driver, str) else driver.decode(),
        "sms": properties.multi_processor_count,
        "l2_bytes": properties.L2_cache_size,
        "max_sm_mhz": pynvml.nvmlDeviceGetMaxClockInfo(handle, pynvml.NVML_CLOCK_SM),
        "power_limit_watts": pynvml.nvmlDeviceGetEnforcedPowerLimit(handle) / 1000,
        "versions": {
            "python": platform.python_version(),
            "cuda": str(torch.version.cuda),
            "cublas": _cublas(),
            **versions(("torch", "triton", "cuda-core", "nvidia-cuda-nvrtc", "deep_gemm", "numpy")),
        },
        "sampled": sampler.summary(),
    }


def _cublas() -> str:
    return next(iter(versions(("nvidia-cublas", "nvidia-cublas-cu12")).values()), "of torch")
