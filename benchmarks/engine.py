"""Speed of the engines beside other models of the same instructions, in one run: `python benchmarks/engine.py`.

Prints multiply-accumulates per second on random normal data of our CPU engine at 256 x 256 x 4096 and, where there is an
NVIDIA GPU and the extra `kernels`, of our GPU engine at 4096^3 on arrays that lie there; beside them mmasim 2.1.1 and
mmaemu 0.1.0, where they are installed (extra `oracle`). After one call to warm up they take turns, and the medians count,
so that what else the machine does meets all alike. `--one-core` gives the CPU models one core each and counts its seconds of
work, for machines that are busy. `--record FILE` saves the run. The time that `codesign validate` takes as a process comes
last. Nothing here can fail a test.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from functools import lru_cache, partial
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from codesign.proposal.load import load_proposal
from isa_model import Instruction, load, matmul, promoted
from isa_model.array_codec import encode_array
from isa_model.engines import cpu
from isa_model.formats import Format
from isa_model.output_files import head, of_command, write_file

ROOT = Path(__file__).resolve().parent.parent
FP8 = "hopper.wgmma.m64n256k32.f32.e4m3.e4m3"
NAMES = [
    FP8,
    f"{FP8}, promoted every 128",
    f"{FP8}, 10 fraction bits",
    f"{FP8}, 17 fraction bits",
    f"{FP8}, 25 fraction bits",
    f"{FP8}, 36 fraction bits",
    f"{FP8}, exact",
    *(f"proposals/{path.name}" for path in sorted((ROOT / "proposals").glob("*.yaml"))),
    "hopper.wgmma.m64n256k16.f32.f16.f16",
    "hopper.wgmma.m64n256k16.f32.bf16.bf16",
    "hopper.wgmma.m64n256k16.f16.f16.f16",
    "hopper.wgmma.m64n256k8.f32.tf32.tf32",
    "hopper.wgmma.m64n256k32.s32.s8.s8",
    "hopper.mma.m16n8k32.f32.e4m3.e4m3.f32",
    "volta.mma.m8n8k4.f32.f16.f16.f32",
    "turing.mma.m16n8k8.f32.f16.f16.f32",
    "ampere.mma.m16n8k16.f32.bf16.bf16.f32",
    "ada.mma.m16n8k32.f32.e4m3.e5m2.f32",
    "blackwell.tcgen05.m64n8k32.kind::f8f6f4.f32.e4m3.e4m3",
    "blackwell.tcgen05.m128n8k32.kind::mxf8f6f4.block32.f32.e4m3.e5m2.ue8m0",
    "blackwell.tcgen05.m128n8k64.kind::mxf4nvf4.block16.f32.e2m1.e2m1.ue4m3",
    "cdna1.mfma.f32_32x32x4bf16",
    "cdna2.mfma.f32_32x32x8f16",
    "cdna3.mfma.f32_16x16x16_f16",
    "cdna3.mfma.f32_16x16x32_fp8_bf8",
]


def instruction(name: str) -> Instruction:
    """Return an instruction of the catalogue, if asked for with another sum of products and C, or a proposal's."""
    if name.startswith("proposals/"):
        return load_proposal(ROOT / name).proposed()
    base, _, change = name.partition(", ")
    spec = load(base)
    if not change:
        return spec
    if change.startswith("promoted every "):
        return promoted(spec, int(change.split()[-1]))
    bits = None if change == "exact" else int(change.split()[0])
    narrow = bits is not None and bits <= 13
    cut = {} if bits is None else {"fraction_bits": bits, "rounding": "toward-zero", "zero_exponent": -133}
    register = {"format": "e8m13" if narrow else "fp32", "rounding": "toward-zero", "overflow": "infinity"}
    stage = {"terms": 32, "accumulator": True, "result": register, **cut}
    fields = spec.model_dump(exclude={"stages"}, exclude_none=True, mode="json")
    return Instruction.model_validate({**fields, "name": name, "stages": {"fuse": stage}})


Work = tuple[int, Callable[[], object]]
"""Number of multiply-accumulates, and the function that computes them."""


def speeds(
    makers: dict[str, Callable[[], Work | None]], clock: Callable[[], float], rounds: int = 5
) -> dict[str, float | None]:
    """Return the median multiply-accumulates per second of each, called in turn; None where there is no work or it fails."""
    works: dict[str, Work | None] = {}
    times: dict[str, list[float]] = {who: [] for who in makers}
    for turn in range(rounds + 1):
        for who, maker in makers.items():
            try:
                work = works[who] = works[who] if who in works else maker()
                started = clock()
                if work is not None:
                    work[1]()
            except Exception as error:
                first = str(error).splitlines()[0][:90] if str(error) else ""
                print(f"  ({who}: {type(error).__name__}: {first})", file=sys.stderr)
                works[who] = None
            else:
                times[who] += [clock() - started] * bool(turn)
    return {who: work and work[0] / statistics.median(times[who]) for who, work in works.items()}


def operands(spec: Instruction, m: int, n: int, k: int) -> dict[str, Any]:
    """Return random normal A and B, and scales between 1/8 and 8."""
    rng = np.random.default_rng(0)
    arrays = {"a": normal(spec.a, m, k, 0), "b": normal(spec.b, k, n, 1)}
    for name, scale, shape in (
        ("scale_a", spec.scale and spec.scale.a, (m, k)),
        ("scale_b", spec.scale and spec.scale.b, (k, n)),
    ):
        if scale:
            size = tuple(-(-s // g) for s, g in zip(shape, scale.group, strict=True))
            arrays[name] = encode_array(scale.format, 2.0 ** rng.integers(-3, 4, size))
    return arrays


@lru_cache(maxsize=4)
def normal(fmt: Format, rows: int, columns: int, seed: int) -> Any:
    """Return codes of random normal numbers."""
    x = np.random.default_rng(seed).standard_normal((rows, columns), np.float32).astype(np.float64)
    return encode_array(fmt, x * (40.0 if fmt.kind == "integer" else 1.0))


def of_cpu(spec: Instruction) -> Work:
    arrays = operands(spec, 256, 256, 4096)
    return 256 * 256 * 4096, lambda: matmul(spec, **arrays, engine="cpu")


def of_gpu(spec: Instruction, size: int = 4096) -> Work:
    import torch

    from isa_model.engines import gpu

    signed = {1: np.uint8, 2: np.int16, 4: np.int32}
    arrays = {
        name: torch.from_numpy(x.view(signed[x.itemsize])).cuda()
        for name, x in operands(spec, size, size, size).items()
    }

    def run() -> None:
        gpu.matmul_on_device(spec, **arrays)
        torch.cuda.synchronize()

    return size**3, run


def of_mmasim(name: str, device: str) -> Work | None:
    """Return one instruction's step over many rows and columns; a chain of n steps along K takes n times as long."""
    if find_spec("mmasim") is None:
        return None
    import torch
    from oracle import Oracle, instructions

    if name not in instructions():
        return None
    side = 256 if device == "cpu" else 4096
    spec = load(name)
    operation = Oracle(spec).operation
    rng = torch.Generator().manual_seed(0)

    def tensor(rows: int, columns: int, dtype: Any) -> Any:
        x = torch.randn((rows, columns), generator=rng)
        packed = dtype == getattr(torch, "float4_e2m1fn_x2", None)
        if packed or dtype == torch.uint8:
            return (x.abs() * 40).to(torch.uint8).view(dtype).to(device)
        return x.to(dtype).to(device)

    k = spec.shape.k // getattr(operation, "packing", 1)
    arguments = [tensor(side, k, operation.a_type), tensor(side, k, operation.b_type).T]
    arguments.append(tensor(side, side, operation.c_type))
    if spec.scale and spec.scale.a:
        groups = spec.shape.k // spec.scale.a.group[1]
        arguments += [torch.full((side, groups), 127, dtype=torch.uint8).view(operation.s_type).to(device)]
        arguments += [torch.full((side, groups), 127, dtype=torch.uint8).view(operation.s_type).to(device).T]

    def run() -> None:
        operation(*arguments)
        if device == "cuda":
            torch.cuda.synchronize()

    return side * side * spec.shape.k, run


def of_mmaemu(name: str, device: str) -> Work | None:
    """Return the FP8 GEMMs of cuBLAS on Hopper, with and without promotion, which are all that mmaemu knows."""
    if find_spec("mmaemu") is None or name not in (FP8, f"{FP8}, promoted every 128"):
        return None
    import mmaemu
    import torch

    warnings.simplefilter("ignore")
    m, k = (256, 4096) if device == "cpu" else (4096, 4096)
    a, b = (torch.randn((m, k), device=device).to(torch.float8_e4m3fn) for _ in range(2))

    def run() -> None:
        mmaemu.accumulate(a, b, use_fast_accum=name == FP8, profile="hopper", splitk=1)
        if device == "cuda":
            torch.cuda.synchronize()

    return m * m * k, run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--record", type=Path, help="save the run as JSON")
    parser.add_argument("--one-core", action="store_true", help="one core each on the CPU, by its seconds of work")
    arguments = parser.parse_args()
    clock = time.perf_counter
    if arguments.one_core:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        clock = time.process_time
    devices: dict[str, Callable[[Instruction], Work]] = {"cpu": of_cpu}
    try:
        import torch

        if arguments.one_core:
            torch.set_num_threads(1)
        elif torch.cuda.is_available():
            devices["cuda"] = of_gpu
    except ImportError:
        pass
    rows = []
    for device, ours in devices.items():
        print(f"{device}: {'256 x 256 x 4096' if device == 'cpu' else '4096^3'}, multiply-accumulates per second")
        print(f"  {'instruction':<72} {'ours':>9} {'mmasim':>9} {'mmaemu':>9}")
        for name in NAMES:
            makers = {
                "ours": partial(ours, instruction(name)),
                "mmasim": partial(of_mmasim, name, device),
                "mmaemu": partial(of_mmaemu, name, device),
            }
            row = {"device": device, "instruction": name, **speeds(makers, clock)}
            rows.append(row)
            figures = " ".join(f"{row[who] or float('nan'):9.2e}" for who in makers)
            print(f"  {name:<72} {figures}", flush=True)
    command = [sys.executable, "-m", "codesign", "validate", str(ROOT / "proposals/group-scaled-mma.yaml")]
    times = []
    for _ in range(5):
        started = time.perf_counter()
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
        times.append(time.perf_counter() - started)
    seconds = statistics.median(times)
    print(f"codesign validate: {seconds:.3f} s")
    if arguments.record:
        save(arguments.record, rows, seconds, " --one-core" * arguments.one_core)


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def save(path: Path, rows: list[dict[str, Any]], validate_seconds: float, options: str) -> None:
    from codesign.commit import commit

    machine: dict[str, Any] = {"cpu": processor(), "cpu_cores": cpu.cores(), "python": platform.python_version()}
    if any(row["device"] == "cuda" for row in rows):
        from codesign.commands.conform import machine as gpu

        machine |= gpu()
    versions = {}
    for package in ("numpy", "torch", "mmasim", "mmaemu"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = getattr(sys.modules.get(package), "__version__", "not installed")
    record = {
        "schema_version": 1,
        **head(f"python benchmarks/engine.py{options}", commit()),
        **machine,
        "packages": versions,
        "unit": "multiply-accumulates per second",
        "rows": rows,
        "validate_seconds": validate_seconds,
    }
    write_file(path, json.dumps(record, indent=1) + "\n", *of_command("python benchmarks/engine.py"))


if __name__ == "__main__":
    main()
