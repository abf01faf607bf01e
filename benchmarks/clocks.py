"""Clocks that a GEMM takes and the rate of the clock meanwhile: whether promotion costs clocks or power.

    python benchmarks/clocks.py kernels/records/clocks-h200.json

One idle thread of a kernel reads the SM's clock counter and the time at the start and at the end. GEMMs take turns in bursts
with pauses, as on the bench, once with random operands and once with zeros, which need less power. Zeros are no measure of a
GEMM's time; they show what is left of a difference where power is not the limit.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple
from unittest.mock import patch

from isa_model.output_files import json_lines, of_command, typed, write_file
from kernels.bench.shapes import BenchGemm
from kernels.gemm.cases import problem_of
from kernels.gemm.choose import choose, gpu_of
from kernels.gemm.pace import paced
from kernels.gemm.tile import PROMOTE_128, Tile, kernel_text
from kernels.nvrtc import cached_cubin

COMMAND = "python benchmarks/clocks.py"
SHAPES = (BenchGemm(4096, 4096, 7168), BenchGemm(4096, 7168, 16384))
SETS = 4
"""Operand sets that a burst cycles through; together they are larger than L2."""
FEWEST_US = 1300.0
"""Shortest timed burst at 1500 TFLOP/s; one launch of each set warms up before it."""
PAUSE_S = 0.01
ROUNDS = 14
DROPPED = 2
"""First rounds, which are not counted."""

END = """  __syncwarp();
  if (SHARE) cluster_sync();  // a CTA must not exit while others may still signal its barriers
}"""
"""Last lines of the kernel's text."""
READ = 'asm volatile("mov.u64 %0, %%globaltimer;" : "=l"({0}_ns)); {0} = clock64();'
COUNTED = f"""  const bool counts = blockIdx.x == 0 && threadIdx.x == THREADS - 1;
  long long from = 0, from_ns = 0, to, to_ns;
  if (counts) {{ wait_for_inputs(); {READ.format("from")} }}
  __syncwarp();
  if (SHARE) cluster_sync();
  else __syncthreads();
  if (counts) {{ {READ.format("to")} ((long long *)p.d)[0] = to - from, ((long long *)p.d)[1] = to_ns - from_ns; }}
}}"""
"""The same, with clocks and nanoseconds written over the first 16 bytes of D."""
SCALED = "__fmaf_rn(value(part[4 * i + j]), f[block][j / 2], acc[4 * i + j])"
CONSTANT = "__fmaf_rn(value(part[4 * i + j]), 1.5f, acc[4 * i + j])"


class Variant(NamedTuple):
    """A GEMM that is timed."""

    name: str
    kind: str
    """`native` or `fprop`."""
    promote: int
    text: tuple[tuple[str, str], ...] = ()
    """Replacements in the kernel's text."""


VARIANTS = (
    Variant("native", "native", 0),
    Variant("native, promoted every 128", "native", PROMOTE_128),
    Variant("twin", "fprop", 0),
    Variant("ours", "fprop", PROMOTE_128),
    Variant("ours, by a constant instead of scales", "fprop", PROMOTE_128, ((SCALED, CONSTANT),)),
)


def text_of(variant: Variant) -> str:
    """Return the kernel's text that counts clocks. Raises ValueError if the text has no place for a replacement."""
    text = kernel_text()
    for old, new in (*variant.text, (END, COUNTED)):
        if text.count(old) != 1:
            raise ValueError(f"{variant.name}: the kernel's text has {text.count(old)} times {old!r}")
        text = text.replace(old, new)
    return text


def tile_of(variant: Variant, shape: BenchGemm) -> Tile:
    """Return the tile that the bench's GEMM has on an H200."""
    return choose(problem_of(variant.kind, shape, promote=variant.promote), gpu_of("NVIDIA H200"))


@cache
def _kernel(tile: Tile, text: str) -> Any:
    from kernels.launch import Kernel

    return Kernel(paced(cached_cubin(tile.with_text(text))), "run", tile.threads, tile.cluster)


def launches(variant: Variant, shape: BenchGemm, zeros: bool) -> Iterator[tuple[Callable[[int], None], Any]]:
    """Yield the launch and the output of each operand set."""
    import torch

    from kernels.gemm import cases, launches

    (case, *_) = cases.blocks_cases("gemm.fprop", shape) if variant.kind == "fprop" else [cases.native_case(shape)]
    tile = tile_of(variant, shape)
    for seed in range(SETS):
        x = case.prepare(torch.Generator("cuda").manual_seed(seed))
        a, b = (torch.zeros_like(x.a), torch.zeros_like(x.b)) if zeros else (x.a, x.b)
        operands = launches.GemmOperands(a, b, x.call.scale_a, x.call.scale_b, x.out)
        with patch.object(launches, "_kernel", partial(_kernel, text=text_of(variant))):
            launch = launches.prepare(operands, scales=tile.scales, promote=variant.promote, add=False, tile=tile)
        yield partial(_issue, launch, operands), x.out


def _issue(launch: Callable[[int], None], _: Any, stream: int) -> None:
    """Issue a launch; holds its operands."""
    launch(stream)


def burst(made: list[tuple[Callable[[int], None], Any]], count: int) -> tuple[float, float, float]:
    """Return a burst's microseconds per launch, clocks per launch, and the rate of the clock, MHz."""
    import torch

    stream = torch.cuda.current_stream().cuda_stream
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    for launch, _ in made:
        launch(stream)
    start.record()
    for i in range(count):
        made[i % SETS][0](stream)
    end.record()
    torch.cuda.synchronize()
    counts = [out.view(-1)[:8].view(torch.int64).tolist() for _, out in made]
    clocks, ns = map(sum, zip(*counts, strict=True))
    return start.elapsed_time(end) * 1000 / count, clocks / SETS, clocks / ns * 1000


def measured(shape: BenchGemm, zeros: bool) -> list[dict[str, Any]]:
    """Return a row for each variant: medians over bursts, in turns."""
    made = {variant: list(launches(variant, shape, zeros)) for variant in VARIANTS}
    count = max(SETS, round(FEWEST_US * 1.5e9 / shape.flops))
    samples: dict[Variant, list[tuple[float, float, float]]] = {variant: [] for variant in VARIANTS}
    for _ in range(ROUNDS):
        for variant in VARIANTS:
            samples[variant].append(burst(made[variant], count))
            time.sleep(PAUSE_S)
    rows = []
    for variant, all_of_them in samples.items():
        us, clocks, mhz = (median(column) for column in zip(*all_of_them[DROPPED:], strict=True))
        row = {"shape": list(shape), "operands": "zeros" if zeros else "random", "gemm": variant.name}
        rows.append({**row, "us": round(us, 2), "clocks": round(clocks), "mhz": round(mhz, 1)})
        print(json.dumps(rows[-1]), flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("record", type=Path)
    path = parser.parse_args().record
    from kernels.bench.bench import header, need_gpu
    from kernels.bench.measure import Sampler

    need_gpu()
    with Sampler() as sampler:
        rows = [row for shape in SHAPES for zeros in (False, True) for row in measured(shape, zeros)]
        run = header(path.stem, typed(COMMAND, *sys.argv[1:]), 0, sampler)
    record = {"schema_version": 1, **run, "sampled": run["sampled"].model_dump(), "rows": rows}
    write_file(path, json_lines(record) + "\n", *of_command(COMMAND))


if __name__ == "__main__":
    main()
