"""The GEMMs on the bench: ours and their timing twins, for the forward and backward GEMMs of each shape."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from kernels import gemm
from kernels.bench.case import Case, relative_error
from kernels.bench.gemm_cases import (
    TOLERANCE,
    BenchOperands,
    BenchTensor,
    fp8_bytes,
    nan,
    normal,
    product,
    quantise,
    scaled_case,
    scaled_error,
)
from kernels.bench.shapes import BenchGemm
from kernels.bench.static import Cubin
from kernels.gemm.choose import choose, gpu_of
from kernels.gemm.pace import paced
from kernels.gemm.tile import PROMOTE_128, GemmProblem, OutputType, ScaleLayout
from kernels.nvrtc import cached_cubin

INTERVALS = (32, 64, 128, 256, 512)
"""Products between promotions at which the cost of promotion is measured."""
INTERVALS_AT = BenchGemm(4096, 4096, 7168)
GROUPS = 8
"""Experts in the grouped cases."""
TWIN_NOTE = "scales loaded, nothing promoted, output wrong by design"


def cases(shapes: Sequence[BenchGemm]) -> Iterator[Case]:
    """Yield forward and native GEMMs of every shape; from 1024 tokens on also dgrad, wgrad, promoted native and grouped."""
    for shape in shapes:
        yield from blocks_cases("gemm.fprop", shape)
        yield native_case(shape)
    for shape in shapes:
        if shape.m >= 1024:
            yield from blocks_cases("gemm.dgrad", shape.dgrad)
            yield from wgrad_cases(shape.wgrad)
            for every in INTERVALS if shape == INTERVALS_AT else (128,):
                yield native_case(shape, every)
            if shape.k >= 2048 and shape.n in (4096, 7168):
                for layout in ("contiguous", "masked"):
                    yield from _grouped_cases(layout, shape)


def problem_of(
    kind: str, shape: BenchGemm, *, promote: int = PROMOTE_128, add: bool = True, groups: int = 0
) -> GemmProblem:
    """Return the problem of a GEMM on the bench: BF16 out, but wgrad adds to FP32, or overwrites it without `add`.

    `kind` is fprop, dgrad, grouped, wgrad or native; `promote` is the wgmmas between promotions, 0 for none.
    """
    if kind == "wgrad":
        return GemmProblem(*shape, scales=ScaleLayout.GROUP, promote=promote, out=OutputType.FP32, add=add)
    scales = ScaleLayout.TENSOR if kind == "native" else ScaleLayout.BLOCK
    return GemmProblem(*shape, groups=groups, scales=scales, promote=promote)


def tile_name(p: GemmProblem) -> str:
    """Return the name of the machine code that a GEMM gets on an H200."""
    return choose(p, gpu_of("NVIDIA H200")).name


def cubins() -> Iterator[Cubin]:
    """Yield the machine code of each kind of kernel, at 4096, 128 and 64 tokens."""
    large = BenchGemm(4096, 4096, 7168)
    problems = [
        problem_of("fprop", large),
        problem_of("fprop", large, promote=0),
        problem_of("fprop", BenchGemm(4096, 2112, 7168)),
        problem_of("fprop", BenchGemm(128, 4096, 7168)),
        problem_of("fprop", BenchGemm(64, 7168, 16384)),
        problem_of("wgrad", BenchGemm(4096, 7168, 4096)),
        problem_of("native", large, promote=0),
        problem_of("grouped", large, groups=GROUPS),
    ]
    for p in problems:
        tile = choose(p, gpu_of("NVIDIA H200"))
        yield Cubin(tile.name, paced(cached_cubin(tile.source)), tile.shared_bytes(p.groups))


def by_group(x: BenchTensor) -> Any:
    """Return scales of 1x128 tiles as the kernels read them: (ceil(k / 128), rows), pitch a multiple of 4."""
    import torch

    rows = x.scales.shape[0]
    return torch.nn.functional.pad(x.scales.T, (0, -rows % 4)).contiguous()[:, :rows]


def blocks_cases(kernel: str, shape: BenchGemm) -> Iterator[Case]:
    """Yield a GEMM with A in 1x128 groups and B in 128x128 blocks, and its timing twin."""

    def launch(x: BenchOperands, twin: bool) -> None:
        gemm.gemm(x.a, x.b, x.call.scale_a, x.call.scale_b, x.out, twin=twin)

    for twin in (False, True):
        yield scaled_case(
            kernel,
            "no-promotion" if twin else "ours",
            shape,
            tiles=((1, 128), (128, 128)),
            arrange=lambda a, b: (by_group(a), b.scales),
            launch=partial(launch, twin=twin),
            notes="kernels.gemm.gemm, E4M3, FP32 scales 1x128 by 128x128, "
            + (TWIN_NOTE if twin else "promoted every 128, BF16 out"),
            variant="twin" if twin else "ours",
            static=tile_name(problem_of("fprop", shape, promote=0 if twin else PROMOTE_128)),
        )


def wgrad_cases(shape: BenchGemm) -> Iterator[Case]:
    """Yield a wgrad that adds to an FP32 gradient, one that overwrites it as the peers do, and the timing twin."""
    for implementation, add, twin in (("ours", True, False), ("ours-anew", False, False), ("no-promotion", True, True)):
        what = "added to FP32" if add else "FP32 written anew"
        yield scaled_case(
            "gemm.wgrad",
            implementation,
            shape,
            tiles=((1, 128), (1, 128)),
            arrange=lambda a, b: (by_group(a), by_group(b)),
            launch=partial(_launch_wgrad, add=add, twin=twin),
            notes=f"kernels.gemm.wgrad, E4M3, FP32 scales 1x128 by 1x128, {what}, "
            + (TWIN_NOTE if twin else "promoted every 128"),
            out="float32",
            variant="twin" if twin else "ours",
            check=partial(wgrad_error, launch=partial(_launch_wgrad, add=True, twin=False)) if add else scaled_error,
            static=tile_name(problem_of("wgrad", shape, promote=0 if twin else PROMOTE_128, add=add)),
        )


def _launch_wgrad(x: BenchOperands, add: bool, twin: bool) -> None:
    gemm.wgrad(x.a, x.b, x.call.scale_a, x.call.scale_b, x.out, accumulate=add, twin=twin)


def wgrad_error(x: BenchOperands, launch: Callable[[BenchOperands], None]) -> float:
    """Return the relative error of a random gradient after a launch has added to it."""
    import torch

    before = torch.randn_like(x.out)
    x.out.copy_(before)
    launch(x)
    return relative_error(x.out, before.double() + product(x.call.a, x.call.b), TOLERANCE)


def native_case(shape: BenchGemm, every: int | None = None) -> Case:
    """Return a GEMM with one scale per tensor, promoted after `every` products or never."""
    promotion = f"promoted every {every}" if every else "no promotion"
    return scaled_case(
        "gemm.native",
        f"ours-promoted-{every}" if every else "ours",
        shape,
        tiles=((shape.m, shape.k), (shape.n, shape.k)),
        arrange=lambda a, b: (a.scales.view(1), b.scales.view(1)),
        launch=lambda x: gemm.native(x.a, x.b, x.call.scale_a, x.call.scale_b, x.out, promote=every),
        notes=f"kernels.gemm.native, E4M3, one FP32 scale a tensor, {promotion}, BF16 out",
        variant="ours",
        static=tile_name(problem_of("native", shape, promote=(every or 0) // 32)),
    )


def _grouped_cases(layout: str, shape: BenchGemm) -> Iterator[Case]:
    """Yield a grouped GEMM of GROUPS experts with `shape.n` outputs each, and its timing twin.

    Half of the m tokens are spread evenly over the experts; of the other half, expert g gets a share that grows with g.
    """
    groups = GROUPS
    counts = [shape.m // (2 * groups) + shape.m * (g + 1) // (groups * (groups + 1)) for g in range(groups)]
    room = shape.m if layout == "masked" else 0
    starts = [g * room if room else sum(counts[:g]) for g in range(groups)]
    rows = groups * room if room else sum(counts)
    real = sum(counts)

    def prepare(generator: Any) -> BenchOperands:
        import torch

        a = quantise(normal(generator, rows, shape.k), (1, 128))
        b = quantise(normal(generator, groups * shape.n, shape.k), (128, 128))
        place = [torch.tensor(x, dtype=torch.int32, device="cuda") for x in (starts, counts)]
        codes = b.codes.view(groups, shape.n, shape.k)
        return BenchOperands(a.codes, codes, nan(rows, shape.n), (a, b, by_group(a), place))

    def launch(x: BenchOperands, twin: bool) -> None:
        scale_b = x.call[1].scales.view(groups, shape.n // 128, -1)
        first, count = x.call[3]
        gemm.grouped(x.a, x.b, x.call[2], scale_b, first, count, x.out, twin=twin)

    def check(x: BenchOperands) -> float:
        a, b = x.call[0].values(), x.call[1].values().view(groups, shape.n, shape.k)
        parts = [slice(start, start + count) for start, count in zip(starts, counts, strict=True)]
        return max(relative_error(x.out[part], a[part] @ b[g].T, TOLERANCE) for g, part in enumerate(parts))

    for twin in (False, True):
        of_all = problem_of(
            "grouped", BenchGemm(rows, shape.n, shape.k), promote=0 if twin else PROMOTE_128, groups=groups
        )
        yield Case(
            kernel=f"gemm.grouped-{layout}",
            implementation="no-promotion" if twin else "ours",
            variant="twin" if twin else "ours",
            shape={"groups": groups, "m": real, "n": shape.n, "k": shape.k},
            flops=2 * real * shape.n * shape.k,
            least_bytes=fp8_bytes(BenchGemm(real, shape.n, shape.k)) + (groups - 1) * shape.n * shape.k,
            prepare=prepare,
            launch=partial(launch, twin=twin),
            check=None if twin else check,
            notes=f"kernels.gemm.grouped, {layout} layout, {min(counts)} to {max(counts)} tokens an expert",
            static=tile_name(of_all),
        )
