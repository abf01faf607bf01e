"""A run of the bench: the selected cases, shape by shape, and their record."""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from importlib import import_module
from itertools import groupby
from typing import Any

from isa_model.checkout import commit_of
from isa_model.diagnostics import InputError, Unavailable
from isa_model.output_files import head
from kernels.bench import REGISTERED, peers
from kernels.bench.case import Case
from kernels.bench.records import FOLDER, BenchRecord, BenchRow, versions
from kernels.bench.shapes import BenchGemm


def bench(
    shapes: Sequence[BenchGemm],
    kernels: Sequence[str] = ("*",),
    *,
    name: str,
    command: str,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
    so_far: Callable[[BenchRecord], None] = lambda record: None,
) -> BenchRecord:
    """Check and time the cases of `shapes` whose kernel matches a pattern of `kernels`, and the ceilings of the GPU.

    `so_far` gets the record after every shape, so that a run that is stopped loses no more than one. Raises Unavailable without
    a Hopper GPU and its libraries, InputError where no kernel matches.
    """
    need_gpu()
    from kernels.bench.measure import Sampler, measure

    chosen = select(shapes, kernels)
    rows: list[BenchRow] = []
    with Sampler() as sampler:
        for group in [list(peers.ceilings()), *chosen]:
            rows += measure(group, seed, sampler)
            progress(len(rows), sum(map(len, chosen)) + 2)
            record = BenchRecord(cases=tuple(rows), **header(name, command, seed, sampler))
            so_far(record)
        return record


def select(shapes: Sequence[BenchGemm], kernels: Sequence[str]) -> list[list[Case]]:
    """Return the matching cases, grouped by shape, with the peers of `gemm.native` and `gemm.bf16` at their shapes.

    Raises InputError where no kernel matches a pattern.
    """
    modules = [import_module(name) for name in REGISTERED]
    every = [case for module in modules if hasattr(module, "cases") for case in module.cases(shapes)]
    names = sorted({case.kernel for case in every})
    for pattern in kernels:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise InputError.of(f"no kernel matches `{pattern}`", f"one of {', '.join(names)}; `*` matches anything")

    def shape(case: Case) -> tuple[tuple[str, int], ...]:
        return tuple(case.shape.items())

    matching = [case for case in every if any(fnmatchcase(case.kernel, pattern) for pattern in kernels)]
    wanted = {shape(case) for case in matching}
    references = ("gemm.native", "gemm.bf16")
    picked = [
        case
        for case in every
        if case in matching or (case.variant == "peer" and case.kernel in references and shape(case) in wanted)
    ]
    return [list(group) for _, group in groupby(sorted(picked, key=shape), key=shape)]


def need_gpu() -> None:
    """Raise Unavailable without a Hopper GPU; the message names the shipped records."""
    try:
        import torch
    except ImportError:
        lacking = "PyTorch is not installed (extra `kernels`)"
    else:
        if torch.cuda.is_available() and torch.cuda.get_device_capability() == (9, 0):
            return
        lacking = "none is visible"
    shipped = " ".join(str(path) for path in sorted(FOLDER.glob("bench-*.json"))) or "none"
    raise Unavailable(
        f"the bench needs a Hopper GPU (compute capability 9.0); {lacking}. Records of earlier runs: {shipped}"
    )


def header(name: str, command: str, seed: int, sampler: Any) -> dict[str, Any]:
    """Return the fields of `records.BenchRun`: place, time and versions of the run."""
    import pynvml
    import torch

    device = torch.cuda.current_device()
    properties = torch.cuda.get_device_properties(device)
    handle = sampler.handle
    driver = pynvml.nvmlSystemGetDriverVersion()
    return {
        "name": name,
        **head(command, commit_of("isa_model", "kernels", ":!kernels/records")),
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
