"""Record what mma.sync computes on the GPU at hand: `python -m kernels.record_mma OUT.npz` (numpy and cupy, sm_90a).

Writes vectors as `codesign conform` reads them, for the mma.sync instructions of Hopper: every operand format, FP32 and
FP16 accumulators, both lengths of K. One warp computes one tile; A, B, C and D travel in fragment order, four bytes to a
register: lane `l` holds row `l // 4` (and 8 below), bytes `4 * (l % 4)` (and 16 on) of A and B, and two neighbours of C.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

from isa_model.output_files import fresh_file

FP8 = ("e4m3", "e5m2")
# name: (PTX type of A, of B, of the accumulator, bytes of K, k, width of an element in bytes)
CASES: dict[str, tuple[str, str, str, int, int, int]] = {
    **{
        f"mma.m16n8k{k}.{d}.{a}.{b}.{d}": (a, b, d, k, k, 1)
        for k in (16, 32)
        for d in ("f32", "f16")
        for a in FP8
        for b in FP8
    },
    **{f"mma.m16n8k{k}.{d}.f16.f16.{d}": ("f16", "f16", d, 2 * k, k, 2) for k in (8, 16) for d in ("f32", "f16")},
    **{f"mma.m16n8k{k}.f32.bf16.bf16.f32": ("bf16", "bf16", "f32", 2 * k, k, 2) for k in (8, 16)},
    **{f"mma.m16n8k{k}.f32.tf32.tf32.f32": ("tf32", "tf32", "f32", 4 * k, k, 4) for k in (4, 8)},
}
# exponent bits, mantissa bits, ignored low bits
LAYOUT = {
    "e4m3": (4, 3, 0),
    "e5m2": (5, 2, 0),
    "f16": (5, 10, 0),
    "bf16": (8, 7, 0),
    "tf32": (8, 10, 13),
    "f32": (8, 23, 0),
}
DISTRIBUTIONS = ("bits", "normal", "uniform", "wide", "tiny", "cancel", "sparse")
BLOCKS = 8

KERNEL = """
extern "C" __global__ void run(const unsigned* a, const unsigned* b, const unsigned* c, unsigned* d) {
  const int t = blockIdx.x, l = threadIdx.x;
  a += (t * 32 + l) * %(na)d; b += (t * 32 + l) * %(nb)d; c += (t * 32 + l) * %(nc)d; d += (t * 32 + l) * %(nc)d;
  unsigned r[%(nc)d];
  asm volatile("mma.sync.aligned.m16n8k%(k)d.row.col.%(d)s.%(a)s.%(b)s.%(d)s {%(rd)s}, {%(ra)s}, {%(rb)s}, {%(rc)s};"
    : %(outs)s : %(ins)s);
  for (int i = 0; i < %(nc)d; i++) d[i] = r[i];
}
"""


def source(case: tuple[str, str, str, int, int, int]) -> str:
    """CUDA C++ of the kernel for one instruction."""
    a, b, d, k_bytes, k, _ = case
    na, nb, nc = k_bytes // 8, k_bytes // 16, 4 if d == "f32" else 2
    bind = "f" if d == "f32" else "r"
    numbers = iter(range(nc + na + nb + nc))
    registers = {
        key: ", ".join(f"%{next(numbers)}" for _ in range(count))
        for key, count in (("rd", nc), ("ra", na), ("rb", nb), ("rc", nc))
    }

    def value(name: str, i: int) -> str:
        return f"__uint_as_float({name}[{i}])" if bind == "f" else f"{name}[{i}]"

    ins = [f'"r"(a[{i}])' for i in range(na)] + [f'"r"(b[{i}])' for i in range(nb)]
    ins += [f'"{bind}"({value("c", i)})' for i in range(nc)]
    text = KERNEL % dict(
        na=na,
        nb=nb,
        nc=nc,
        k=k,
        a=a,
        b=b,
        d=d,
        ins=", ".join(ins),
        **registers,
        outs=", ".join(f'"={bind}"(r[{i}])' for i in range(nc)),
    )
    return (
        text.replace("unsigned r[", "float r[").replace("d[i] = r[i]", "d[i] = __float_as_uint(r[i])")
        if bind == "f"
        else text
    )


def operand_bits(rng: np.random.Generator, fmt: str, shape: tuple[int, ...], distribution: str) -> Any:
    """Codes of random operands: all codes, or numbers of a distribution cut to the format."""
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
    if distribution == "tiny":  # products around the zero exponents, and subnormals
        low = max(bias - 78, 0) if exponent_bits == 8 else 0
        exponent = low + rng.integers(0, 8 if exponent_bits == 8 else 3, shape)
    code = (sign << (exponent_bits + mantissa_bits)) | (exponent << mantissa_bits) | mantissa
    if distribution == "sparse":
        code = np.where(rng.random(shape) < 0.7, 0, code)
    code = code.astype(np.uint64) << np.uint64(padding)
    return (code | rng.integers(0, 1 << padding, shape, dtype=np.uint64)).astype(dtype)


def case_inputs(name: str, distribution: str) -> tuple[Any, Any, Any]:
    """A (blocks, 64, K), B (blocks, 8, K) and C (blocks, 64, 8) as codes."""
    a_type, b_type, d_type, _, k, _ = CASES[name]
    rng = np.random.default_rng([list(CASES).index(name), DISTRIBUTIONS.index(distribution)])
    a = operand_bits(rng, a_type, (BLOCKS, 64, k), distribution)
    b = operand_bits(rng, b_type, (BLOCKS, 8, k), distribution)
    if distribution == "cancel":  # pairs of products that cancel, up to what alignment loses
        half = k // 2
        a[..., half:] = a[..., :half] ^ a.dtype.type(1 << (8 * a.dtype.itemsize - 1))
        b[..., half:] = b[..., :half]
        a[..., 0] = operand_bits(rng, a_type, (BLOCKS, 64), "normal")
    c = operand_bits(rng, d_type, (BLOCKS, 64, 8), distribution)
    c[rng.random(c.shape) < 0.25] = 0
    return a, b, c


def to_fragments(x: Any, rows: int) -> Any:
    """(tiles, rows, bytes) into (tiles, 32, registers): the order of mma operands A (16 rows) and B (8 rows)."""
    tiles = x.shape[0]
    words = (
        np.ascontiguousarray(x).view(np.uint32).reshape(tiles, rows // 8, 8, -1, 4)
    )  # half, group, k part, lane in group
    return np.ascontiguousarray(words.transpose(0, 2, 4, 3, 1)).reshape(tiles, 32, -1)


def accumulators(x: Any) -> Any:
    """(tiles, 16, 8) codes into (tiles, 32, registers), and back by `accumulators_back`."""
    pairs = np.ascontiguousarray(x).reshape(x.shape[0], 2, 8, 4, 2).transpose(0, 2, 3, 1, 4)
    return np.ascontiguousarray(pairs).reshape(x.shape[0], 32, 4).view(np.uint32).reshape(x.shape[0], 32, -1)


def accumulators_back(registers: Any, dtype: Any) -> Any:
    codes = np.ascontiguousarray(registers).view(dtype).reshape(-1, 8, 4, 2, 2)
    return np.ascontiguousarray(codes.transpose(0, 3, 1, 2, 4)).reshape(-1, 16, 8)


def widened(codes: Any) -> Any:
    """C or D as float32; FP16 is widened."""
    return codes.view(np.float32) if codes.dtype == np.uint32 else codes.view(np.float16).astype(np.float32)


def main(path: str) -> None:
    import cupy

    arrays: dict[str, Any] = {}
    for name, case in CASES.items():
        kernel = cupy.RawKernel(source(case), "run", options=("-arch=sm_90a",))
        for distribution in DISTRIBUTIONS:
            a, b, c = case_inputs(name, distribution)
            tiles = BLOCKS * 4
            a_regs = to_fragments(a.reshape(tiles, 16, -1), 16)
            b_regs = to_fragments(np.repeat(b, 4, axis=0), 8)
            c_regs = accumulators(c.reshape(tiles, 16, 8))
            d_regs = cupy.zeros(c_regs.shape, np.uint32)
            kernel((tiles,), (32,), (*(cupy.asarray(x) for x in (a_regs, b_regs, c_regs)), d_regs))
            d = accumulators_back(d_regs.get(), c.dtype).reshape(c.shape)
            key = f"hopper.{name}/{distribution}/1"
            arrays |= {
                f"{key}/A": a.view(np.uint8),
                f"{key}/B": b.view(np.uint8),
                f"{key}/C": widened(c),
                f"{key}/D": widened(d),
            }
        print(name, "recorded", flush=True)
    properties = cupy.cuda.runtime.getDeviceProperties(0)
    print("on", properties["name"].decode(), "driver", cupy.cuda.runtime.driverGetVersion())
    with fresh_file(Path(path), "PK", "an .npz file") as fresh, open(fresh, "wb") as file:
        np.savez_compressed(file, **arrays)


if __name__ == "__main__":
    main(sys.argv[1])
