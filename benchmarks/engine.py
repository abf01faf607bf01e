"""Speed of the model and of the command: `python benchmarks/engine.py`.

Prints multiply-accumulates per second of the CPU engine (median of five runs after one to warm up, random normal data)
and the time `codesign validate` takes as a process. Nothing here can fail a test.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from isa_model import Instruction, load, matmul, promoted
from isa_model.array_codec import encode_array

M, N, K = 256, 256, 4096
ROOT = Path(__file__).resolve().parent.parent


def median_seconds(action, runs: int = 5) -> float:
    action()
    times = []
    for _ in range(runs):
        started = time.perf_counter()
        action()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def mac_per_second(instruction: Instruction) -> float:
    rng = np.random.default_rng(0)
    a = encode_array(instruction.a, rng.standard_normal((M, K)))
    b = encode_array(instruction.b, rng.standard_normal((K, N)))
    return M * N * K / median_seconds(lambda: matmul(instruction, a, b, engine="cpu"))


def main() -> None:
    fp8 = load("hopper.wgmma.m64n256k32.f32.e4m3.e4m3")
    print(f"CPU engine, {M}x{N}x{K}, multiply-accumulates per second:")
    for instruction in (
        fp8,
        promoted(fp8, 128),
        load("hopper.wgmma.m64n256k16.f32.bf16.bf16"),
        load("hopper.mma.m16n8k32.f32.e4m3.e4m3.f32"),
    ):
        print(f"  {mac_per_second(instruction):.2e}  {instruction.name}")
    proposal = str(ROOT / "proposals/group-scaled-mma.yaml")
    command = [sys.executable, "-m", "codesign", "validate", proposal]
    seconds = median_seconds(lambda: subprocess.run(command, cwd=ROOT, check=True, capture_output=True))
    print(f"codesign validate: {seconds:.3f} s")


if __name__ == "__main__":
    main()
