"""Run every kind of kernel once at small sizes and check its output, under compute-sanitizer on a Hopper GPU.

    compute-sanitizer --tool memcheck python tests/sanitize.py
    compute-sanitizer --tool racecheck python tests/sanitize.py --every-lane

racecheck orders a warp's loads before its first lane's arrival at a barrier only if the machine code has an instruction for
`__syncwarp`. The GEMM's code has none, since its warps are converged there. Without `--every-lane`, racecheck therefore reports
falsely that the producer overwrites scales which other lanes are reading. With it, every lane arrives itself and nothing else
changes, so reports are real.
"""

from __future__ import annotations

import argparse
from functools import cache

import test_gemm as gemm
import torch

from kernels import quantise
from kernels.gemm import launches
from kernels.gemm.tile import kernel_text
from kernels.launch import Kernel
from kernels.nvrtc import cached_cubin


def every_lane(text: str) -> str:
    """Return the GEMM's text with an arrival of every lane where one lane arrives for its warp."""
    for old, new in (
        ("barrier_init(empty + 8 * s, WGS * 4 * (", "barrier_init(empty + 8 * s, WGS * 128 * ("),
        ("if (lane < SHARERS) barrier_arrive(empty + 8 * stage, lane);", EACH_SHARER),
        ("} else if (lane == 0) barrier_arrive(empty + 8 * stage);", "} else barrier_arrive(empty + 8 * stage);"),
    ):
        assert text.count(old) == 1, "the kernel changed: update the replacement"
        text = text.replace(old, new)
    return text


EACH_SHARER = "for (int cta = 0; cta < SHARERS; ++cta) barrier_arrive(empty + 8 * stage, cta);"


def casts(m: int, k: int) -> None:
    """Run all functions of kernels.quantise on an (m, k) matrix."""
    x = torch.randn(m, k, device="cuda").to(torch.bfloat16)
    for power_of_2 in (False, True):
        for cast in (quantise.columns, quantise.both, quantise.blocks, quantise.blocks_both):
            cast(x, power_of_2)
        quantise.swiglu(x, x, power_of_2)
        quantise.requantise(*quantise.rows(x, power_of_2), power_of_2)
    if k % 32 == 0:
        quantise.unpack_e5m6(*quantise.pack_e5m6(x))
    quantise.dispatch(x, torch.randint(-1, m + 1, (300,), device="cuda").to(torch.int32))
    torch.cuda.synchronize()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--every-lane", action="store_true")
    if parser.parse_args().every_lane:
        text = every_lane(kernel_text())
        launches._kernel = cache(lambda t: Kernel(cached_cubin(t.with_text(text)), "run", t.threads, t.cluster))  # type: ignore[assignment]
    for m, k in ((130, 264), (200, 512)):
        casts(m, k)
        print("casts of", m, "x", k, flush=True)
    for tile in (*gemm.TILES, *gemm.TWINS):
        x = gemm.operands(tile, *gemm.ragged(tile, small=True))
        got = gemm.run_on_gpu(tile, x)
        if tile not in gemm.TWINS:
            gemm.assert_same_bits(got, gemm.expected(tile, x))
        print(tile.name, flush=True)
    for tile in gemm.GROUPED:
        for masked in (False, True):
            x = gemm.grouped_operands(tile, 328, 528, masked)
            gemm.assert_same_bits(gemm.run_on_gpu(tile, x), gemm.expected_of_groups(tile, x))
        print(tile.name, flush=True)


if __name__ == "__main__":
    main()
