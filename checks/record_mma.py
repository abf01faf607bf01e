"""Record what mma.sync computes on the current GPU: `python checks/record_mma.py OUT.npz`. Needs a Hopper GPU.

Writes vectors that `codesign conform` reads, for the floating-point mma.sync instructions of Hopper: every operand format, FP32
and FP16 accumulators, both lengths of K.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

from isa_model.output_files import fresh_file
from kernels.native import matmul, parse

FP8 = ("e4m3", "e5m2")
NAMES = (
    *(f"mma.m16n8k{k}.{d}.{a}.{b}.{d}" for k in (16, 32) for d in ("f32", "f16") for a in FP8 for b in FP8),
    *(f"mma.m16n8k{k}.{d}.f16.f16.{d}" for k in (8, 16) for d in ("f32", "f16")),
    *(f"mma.m16n8k{k}.f32.bf16.bf16.f32" for k in (8, 16)),
    *(f"mma.m16n8k{k}.f32.tf32.tf32.f32" for k in (4, 8)),
)
LAYOUT = {
    "e4m3": (4, 3, 0),
    "e5m2": (5, 2, 0),
    "f16": (5, 10, 0),
    "bf16": (8, 7, 0),
    "tf32": (8, 10, 13),
    "f32": (8, 23, 0),
}
"""Exponent bits, mantissa bits and ignored low bits of each format."""
DISTRIBUTIONS = ("bits", "normal", "uniform", "wide", "tiny", "cancel", "sparse")
BLOCKS = 8


def operand_bits(rng: np.random.Generator, fmt: str, shape: tuple[int, ...], distribution: str) -> Any:
    """Return codes of random operands: uniform over all codes (`bits`), or values of a distribution, truncated."""
    exponent_bits, mantissa_bits, padding = LAYOUT[fmt]
    total = 1 + exponent_bits + mantissa_bits + padding
    dtype = np.dtype(f"u{(total + 7) // 8}")
    if distribution == "bits":
        return rng.integers(0, 1 << total, shape, dtype=np.uint64).astype(dtype)
    bias, top = (1 << (exponent_bits - 1)) - 1, (1 << exponent_bits) - 2
    sign = rng.integers(0, 2, shape) if distribution != "uniform" else np.zeros(shape, np.int64)
    mantissa = rng.integers(0, 1 << mantissa_bits, shape)
    centre = {"normal": bias - 1, "uniform": bias - 1, "cancel": bias, "sparse": bias}.get(distribution, bias)
    spread = {"wide": bias, "cancel": 1}.get(distribution, 3)
    exponent: Any = np.clip(centre + rng.integers(-spread, spread + 1, shape), 0, top)
    if distribution == "tiny":  # products near the zero exponents, and subnormals
        low = max(bias - 78, 0) if exponent_bits == 8 else 0
        exponent = low + rng.integers(0, 8 if exponent_bits == 8 else 3, shape)
    code = (sign << (exponent_bits + mantissa_bits)) | (exponent << mantissa_bits) | mantissa
    if distribution == "sparse":
        code = np.where(rng.random(shape) < 0.7, 0, code)
    code = code.astype(np.uint64) << np.uint64(padding)
    return (code | rng.integers(0, 1 << padding, shape, dtype=np.uint64)).astype(dtype)


def case_inputs(name: str, distribution: str) -> tuple[Any, Any, Any]:
    """Return codes of A (blocks, 64, K), B (blocks, 8, K) and C (blocks, 64, 8)."""
    instruction = parse(f"hopper.{name}")
    a_type, b_type, d_type, k = instruction.a, instruction.b, instruction.d, instruction.k
    rng = np.random.default_rng([NAMES.index(name), DISTRIBUTIONS.index(distribution)])
    a = operand_bits(rng, a_type, (BLOCKS, 64, k), distribution)
    b = operand_bits(rng, b_type, (BLOCKS, 8, k), distribution)
    if distribution == "cancel":  # pairs of products that cancel but for the bits that alignment drops
        half = k // 2
        a[..., half:] = a[..., :half] ^ a.dtype.type(1 << (8 * a.dtype.itemsize - 1))
        b[..., half:] = b[..., :half]
        a[..., 0] = operand_bits(rng, a_type, (BLOCKS, 64), "normal")
    c = operand_bits(rng, d_type, (BLOCKS, 64, 8), distribution)
    c[rng.random(c.shape) < 0.25] = 0
    return a, b, c


def widened(codes: Any) -> Any:
    """Return C or D as float32."""
    return codes.view(np.float32) if codes.dtype == np.uint32 else codes.view(np.float16).astype(np.float32)


def main(path: str) -> None:
    """Record every instruction and distribution."""
    import torch

    arrays: dict[str, Any] = {}
    for name in NAMES:
        for distribution in DISTRIBUTIONS:
            a, b, c = case_inputs(name, distribution)
            d = np.stack([matmul(f"hopper.{name}", x, y.T, z) for x, y, z in zip(a, b, c, strict=True)])
            key = f"hopper.{name}/{distribution}/1"
            arrays |= {
                f"{key}/A": a.view(np.uint8),
                f"{key}/B": b.view(np.uint8),
                f"{key}/C": widened(c),
                f"{key}/D": widened(d),
            }
        print(name, "recorded", flush=True)
    print("on", torch.cuda.get_device_name())
    with fresh_file(Path(path), "PK", "an .npz file") as fresh, open(fresh, "wb") as file:
        np.savez_compressed(file, **arrays)


if __name__ == "__main__":
    main(sys.argv[1])
