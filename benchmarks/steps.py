"""Ablation of the kernels' optimisations: each kernel with and without each of them, in one run on the current GPU.

    python benchmarks/steps.py kernels/records/steps-h100.json

An ablation names an optimisation, the GEMMs or the cast where it matters, and how to leave it out: another tile, a change of
the kernel's text, or a launch that waits for the previous grid to end. The record has the bench's schema. A row without an
optimisation has its name as implementation and its description as notes. `pages/kernel_tables.py` makes the tables of
docs/gemm.md and docs/quantise.md from the shipped record.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

from rich.console import Console

from kernels.bench.case import Case
from kernels.bench.gemm_cases import scaled_error
from kernels.bench.records import BenchRecord, BenchRow
from kernels.bench.shapes import BenchGemm
from kernels.bench.table import table
from kernels.gemm import cases as gemms
from kernels.gemm.choose import Gpu, candidates, choose, estimate_us, gpu_of
from kernels.gemm.pace import paced
from kernels.gemm.tile import PROMOTE_128, SharedOperand, Tile, kernel_text
from kernels.nvrtc import cached_cubin
from kernels.quantise import cases as quantise

COMMAND = "python benchmarks/steps.py"
Replaced = tuple[tuple[str, str], ...]


def same(tile: Tile) -> Tile:
    """Return the tile unchanged."""
    return tile


@dataclass(frozen=True)
class Ablation:
    """An optimisation of the GEMM kernel, and how to leave it out."""

    name: str
    description: str
    """Description of the optimisation."""
    kind: str
    """`fprop`, `wgrad` or `native`."""
    at: tuple[BenchGemm, ...]
    """GEMMs where it matters."""
    tile: Callable[[Tile], Tile] = same
    """Tile without it, from the chosen tile."""
    text: Replaced = ()
    """Replacements in the kernel's text."""
    alone: bool = False
    """Whether the launch without it waits for the previous grid to end."""
    unlike: Callable[[Tile], bool] | None = None
    """Tiles that have it; without it, another tile is chosen."""
    code: Callable[[bytes], bytes] = paced
    """Change of the compiled machine code."""


STEPS = (
    Ablation(
        "elected",
        "an elected thread issues the copies, so that ptxas puts no loop around each",
        "fprop",
        (BenchGemm(64, 2112, 7168), BenchGemm(128, 4096, 7168)),
        text=(("ELECTED = !(ELEMENT == 0 && SCALES == 1 && BN == 192);", "ELECTED = false;"),),
    ),
    Ablation(
        "overlap",
        "start while the previous grid still runs (programmatic dependent launch)",
        "fprop",
        (BenchGemm(4096, 7168, 2048), BenchGemm(128, 2112, 7168)),
        alone=True,
    ),
    Ablation(
        "set-up",
        "tile, role and registers set up before the wait for the previous grid",
        "fprop",
        (BenchGemm(4096, 7168, 2048), BenchGemm(128, 2112, 7168)),
        text=(("  release_next();\n", "  release_next();\n  wait_for_inputs();\n"),),
    ),
    Ablation(
        "early-b",
        "first four steps of B prefetched into L2 while the previous grid still runs",
        "fprop",
        (BenchGemm(64, 7168, 2048), BenchGemm(128, 32768, 512)),
        text=(("AHEAD = 4;", "AHEAD = 0;"),),
    ),
    Ablation(
        "look-ahead",
        "next stage polled while the last wgmmas run",
        "fprop",
        (BenchGemm(4096, 7168, 16384), BenchGemm(4096, 4096, 7168)),
        text=(("ready = barrier_done(last + 8 * ring.stage, ring.parity, k + 1 < tile.to);", "ready = 0;"),),
    ),
    Ablation(
        "pace",
        "promotion's FFMAs keep their scale in the operand cache, and one in four comes a clock later",
        "fprop",
        (BenchGemm(4096, 4096, 7168), BenchGemm(4096, 7168, 16384), BenchGemm(4096, 24576, 1536)),
        code=bytes,
    ),
    Ablation(
        "start-together",
        "both warpgroups start a tile together, which releases its stages sooner",
        "fprop",
        (BenchGemm(4096, 7168, 16384),),
        text=(("if (WGS == 2) named_sync(1, MATH);", ";"),),
    ),
    Ablation(
        "bands",
        "tiles walked in bands of 2048 rows of A instead of column by column",
        "fprop",
        (BenchGemm(4096, 32768, 512), BenchGemm(4096, 7168, 16384)),
        text=(("BAND = 2048 / (BM * TEAM_M) > 0 ? 2048 / (BM * TEAM_M) : 1;", "BAND = 1 << 20;"),),
    ),
    Ablation(
        "sharing",
        "pairs of CTAs share A by multicast",
        "fprop",
        (BenchGemm(4096, 7168, 16384), BenchGemm(4096, 4096, 7168)),
        tile=lambda tile: replace(tile, share=SharedOperand.NONE),
    ),
    Ablation(
        "sharing-by-four",
        "four CTAs share A by multicast",
        "fprop",
        (BenchGemm(64, 7168, 16384),),
        unlike=lambda tile: tile.sharers == 4,
    ),
    Ablation(
        "odd-width",
        "tiles of 256 x 136, where 128 columns just miss two whole waves",
        "fprop",
        (BenchGemm(4096, 2112, 7168),),
        unlike=lambda tile: tile.bn == 136,
    ),
    Ablation(
        "halves-of-k",
        "split K: two CTAs of a cluster take half of K each and exchange sums by asynchronous stores",
        "fprop",
        (BenchGemm(64, 2112, 7168), BenchGemm(128, 4096, 7168)),
        unlike=lambda tile: tile.split == 2,
    ),
    Ablation(
        "two-in-flight",
        "two steps of K in flight per warpgroup: one is promoted while the next multiplies",
        "fprop",
        (BenchGemm(128, 32768, 512), BenchGemm(64, 7168, 2048)),
        tile=lambda tile: replace(tile, depth=1),
    ),
    Ablation(
        "early-d",
        "wgrad: D prefetched into L2 while its tile is multiplied",
        "wgrad",
        (BenchGemm(4096, 7168, 4096), BenchGemm(2112, 7168, 4096)),
        text=(("if (ADD && box <", "if (false && box <"),),
    ),
    Ablation(
        "early-scales",
        "wgrad: scales are multiplied while the wgmmas run, before the wait for them",
        "wgrad",
        (BenchGemm(4096, 7168, 4096), BenchGemm(7168, 2048, 4096)),
        text=(
            ("                  scales_of(scale, low, high, of_columns + stage * STAGE_SCALES);\n", ""),
            ("                  pin(scale);\n", ""),
            ("if (closing) release(stage);", ""),
            (
                "if constexpr (SCALES == 2) promote(acc[h], part, scale);",
                "if constexpr (SCALES == 2) scales_of(scale, low, high, of_columns + stage * STAGE_SCALES), release(stage), "
                "promote(acc[h], part, scale);",
            ),
        ),
    ),
    Ablation(
        "waiting",
        "native: a warpgroup waits for its wgmmas before it issues more, which leaves the Tensor Core to the other",
        "native",
        (BenchGemm(4096, 4096, 7168), BenchGemm(4096, 7168, 16384)),
        tile=lambda tile: replace(tile, depth=2),
    ),
)


@dataclass(frozen=True)
class CastAblation:
    """An optimisation of a cast at 4096 x 7168, and how to leave it out."""

    name: str
    description: str
    """Description of the optimisation."""
    kernel: str
    """Name of the cast in `kernels.quantise.cases`."""
    text: Replaced = ()
    """Replacements in the kernel's text."""
    alone: bool = False
    """Whether the launch without it waits for the previous grid to end."""


CASTS = (
    CastAblation(
        "overlap", "start while the previous grid still runs (programmatic dependent launch)", "requantise", alone=True
    ),
    CastAblation(
        "early-tile",
        "a CTA prefetches its tile into L2 before it waits for the previous grid",
        "requantise",
        (("prefetch_tile(arguments.in, 0, m, k);", ";"),),
    ),
    CastAblation(
        "tile-ahead",
        "a CTA prefetches the tile of the CTA that takes its place into L2",
        "requantise",
        (("prefetch_tile(arguments.in, AHEAD, m, k);", ";"),),
    ),
    CastAblation(
        "for-others",
        "data to be sent is evicted from L2 first",
        "dispatch",
        (("store8_for_others(to + c, v);", "*(uint2 *)(to + c) = v;"),),
    ),
)
MATRIX = (4096, 7168)


def changed(step: Ablation | CastAblation, text: str) -> str:
    """Return a kernel text without an optimisation. Raises ValueError if the text no longer contains it."""
    for old, new in step.text:
        if old not in text:
            raise ValueError(f"step {step.name}: the kernel's text has no {old!r}")
        text = text.replace(old, new)
    return text


def without(step: Ablation, shape: BenchGemm, gpu: Gpu) -> tuple[Tile, str]:
    """Return tile and kernel text without an optimisation. Raises ValueError if the kernel does not have it anyway."""
    promote = 0 if step.kind == "native" else PROMOTE_128
    p, text = gemms.problem_of(step.kind, shape, promote=promote), changed(step, kernel_text())
    tile = choose(p, gpu)
    others = [t for t in candidates(p) if not (step.unlike and step.unlike(t))]
    if step.unlike and tile not in others:
        tile = min(others, key=lambda t: estimate_us(p, t, gpu))
    tile = step.tile(tile)
    if (tile, text, step.code) == (choose(p, gpu), kernel_text(), paced) and not step.alone:
        raise ValueError(f"step {step.name}: the kernel of {shape} is without it anyway")
    return tile, text


def cases(gpu: Gpu) -> Iterator[list[Case]]:
    """Yield the cases of each GEMM and each cast: the kernel as it is, and without each optimisation."""
    for kind, shape in dict.fromkeys((step.kind, shape) for step in STEPS for shape in step.at):
        steps = [step for step in STEPS if step.kind == kind and shape in step.at]
        of_kind = {"fprop": partial(gemms.blocks_cases, "gemm.fprop"), "wgrad": gemms.wgrad_cases}.get(kind)
        ours = next(iter(of_kind(shape))) if of_kind else gemms.native_case(shape)
        yield [ours, *(_gemm(ours, step, shape, gpu) for step in steps)]
    for name in dict.fromkeys(step.kernel for step in CASTS):
        kernel = next(kernel for kernel in quantise.cast_kernels() if kernel.name == name)
        ours = replace(quantise.cast_case(kernel, *MATRIX), implementation="ours")
        yield [ours, *(_cast(ours, step) for step in CASTS if step.kernel == name)]


def _gemm(ours: Case, step: Ablation, shape: BenchGemm, gpu: Gpu) -> Case:
    from kernels.gemm import launches
    from kernels.launch import Launch, stream

    tile, text = without(step, shape, gpu)
    made: dict[int, Launch] = {}

    def launch(x: Any) -> None:
        if id(x) not in made:
            operands = launches.GemmOperands(x.a, x.b, x.call.scale_a, x.call.scale_b, x.out)
            with patch.object(launches, "_kernel", partial(_kernel, text=text, code=step.code)):
                made[id(x)] = launches.prepare(
                    operands, scales=tile.scales, promote=tile.promote, add=tile.add, tile=tile
                )
            if step.alone:
                made[id(x)].overlaps(False)
        made[id(x)](stream(x.a.device.index))

    check = partial(gemms.wgrad_error, launch=launch) if tile.add else scaled_error
    return replace(ours, implementation=step.name, launch=launch, check=check, notes=step.description, static="")


def _cast(ours: Case, step: CastAblation) -> Case:
    import kernels.quantise as q
    from kernels.launch import Kernel, Launch, stream
    from kernels.quantise import build

    made: dict[int, Launch] = {}

    @cache
    def kernel(choice: Any) -> Kernel:
        return Kernel(build.cubin(changed(step, choice.text)), "tile", build.THREADS)

    def launch(x: Any) -> None:
        if id(x) not in made:
            with patch.object(build, "kernel", kernel), patch.object(q, "_launches", {}):
                ours.launch(x)
                (made[id(x)],) = q._launches.values()
            if step.alone:
                made[id(x)].overlaps(False)
        made[id(x)](stream(x.inputs[0].device.index))

    return replace(ours, implementation=step.name, launch=launch, notes=step.description, static="")


@cache
def _kernel(tile: Tile, text: str, code: Callable[[bytes], bytes]) -> Any:
    from kernels.launch import Kernel

    return Kernel(code(cached_cubin(tile.with_text(text))), "run", tile.threads, tile.cluster)


def measured(name: str) -> BenchRecord:
    """Measure every ablation. Raises Unavailable without a Hopper GPU."""
    from kernels.bench.bench import header, need_gpu

    need_gpu()
    import torch

    from kernels.bench.measure import Sampler, measure

    about = torch.cuda.get_device_properties(0)
    gpu = gpu_of(about.name, about.multi_processor_count)
    rows: list[BenchRow] = []
    with Sampler() as sampler:
        for group in cases(gpu):
            rows += measure(group, 0, sampler)
        return BenchRecord(cases=tuple(rows), **header(name, COMMAND, 0, sampler))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("record", type=Path)
    arguments = parser.parse_args()
    record = measured(arguments.record.stem)
    record.save(arguments.record)
    Console().print(table(record))


if __name__ == "__main__":
    main()
