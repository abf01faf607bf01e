"""The GEMMs on the bench: ours and their timing twins, for the forward and backward GEMMs of each shape."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from kernels import gemm
from kernels.bench.case import Case, relative_error
from kernels.bench.gemm_cases import (
    GROUPS,
    TOLERANCE,
    BenchOperands,
    BenchTensor,
    grouped_case,
    groups_of,
    nan,
    normal,
    product,
    quantise,
    scaled_case,
    scaled_error,
    to_fp4,
)
from kernels.bench.shapes import BenchGemm
from kernels.bench.static import Cubin
from kernels.gemm.choose import choose, gpu_of
from kernels.gemm.pace import paced
from kernels.gemm.tile import PROMOTE_128, Element, GemmProblem, OutputType, ScaleLayout
from kernels.nvrtc import cached_cubin

INTERVALS = (32, 64, 128, 256, 512)
"""Products between promotions at which the cost of promotion is measured."""
INTERVALS_AT = BenchGemm(4096, 4096, 7168)
INT8_TOLERANCE = 2.5e-3
"""Relative Frobenius error allowed where sums are exact; BF16 output has 1.7e-3."""
TWIN_NOTE = "scales loaded, nothing promoted, output wrong by design"


def cases(shapes: Sequence[BenchGemm]) -> Iterator[Case]:
    """Yield forward and native GEMMs of every shape; from 1024 tokens on also dgrad, wgrad, promoted native and grouped."""
    for shape in shapes:
        yield from blocks_cases("gemm.fprop", shape)
        yield native_case(shape)
        yield from blocks_cases("gemm.int8", shape)
        if shape.m < 1024 or shape == INTERVALS_AT:
            yield from fp4_cases(shape)
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

    `kind` is fprop, dgrad, int8, fp4, grouped, wgrad or native; `promote` is the wgmmas between promotions, 0 for none.
    """
    if kind == "wgrad":
        return GemmProblem(*shape, scales=ScaleLayout.GROUP, promote=promote, out=OutputType.FP32, add=add)
    scales = ScaleLayout.TENSOR if kind == "native" else ScaleLayout.BLOCK
    element = {"int8": Element.INT8, "fp4": Element.E2M1}.get(kind, Element.E4M3)
    return GemmProblem(*shape, groups=groups, scales=scales, promote=promote, element=element)


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
        problem_of("int8", large),
        problem_of("int8", BenchGemm(64, 7168, 16384)),
        problem_of("fp4", BenchGemm(64, 7168, 16384)),
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
    """Yield a GEMM with A in 1x128 groups and B in 128x128 blocks, INT8 in `gemm.int8`, and its timing twin."""
    whole = kernel == "gemm.int8"

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
            notes=f"kernels.gemm.gemm, {'INT8' if whole else 'E4M3'}, FP32 scales 1x128 by 128x128, "
            + (TWIN_NOTE if twin else "promoted every 128, BF16 out"),
            variant="twin" if twin else "ours",
            check=int8_error if whole else scaled_error,
            static=tile_name(problem_of("int8" if whole else "fprop", shape, promote=0 if twin else PROMOTE_128)),
            dtype="int8" if whole else "float8_e4m3fn",
        )


def int8_error(x: BenchOperands) -> float:
    """Return the output's relative Frobenius error against float64. Raises WrongOutput beyond INT8_TOLERANCE."""
    return relative_error(x.out, product(x.call.a, x.call.b), INT8_TOLERANCE)


def fp4_cases(shape: BenchGemm) -> Iterator[Case]:
    """Yield a GEMM with E4M3 activations in 1x128 groups and packed E2M1 weights in 1x32 groups, and its timing twin."""
    m, n, k = shape

    def prepare(generator: Any) -> BenchOperands:
        a, b = quantise(normal(generator, m, k), (1, 128)), to_fp4(normal(generator, n, k))
        weights = gemm.prepare_fp4(b.packed, b.scales)
        return BenchOperands(a.codes, weights.codes, nan(m, n), (a, b, by_group(a), weights))

    def launch(x: BenchOperands, twin: bool) -> None:
        gemm.fp4_weights(x.a, x.call[3], x.call[2], x.out, twin=twin)

    for twin in (False, True):
        yield Case(
            kernel="gemm.fp4",
            implementation="no-promotion" if twin else "ours",
            variant="twin" if twin else "ours",
            shape=shape._asdict(),
            flops=shape.flops,
            least_bytes=m * k + n * k // 2 + n * k // 32 + 2 * m * n,
            prepare=prepare,
            launch=partial(launch, twin=twin),
            check=None if twin else lambda x: relative_error(x.out, product(*x.call[:2]), TOLERANCE),
            notes="kernels.gemm.fp4_weights, E4M3 by E2M1, FP32 scales 1x128, powers of two 1x32, "
            + (TWIN_NOTE if twin else "promoted every 128, BF16 out"),
            static=tile_name(problem_of("fp4", shape, promote=0 if twin else PROMOTE_128)),
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
    """Yield a grouped GEMM of GROUPS experts with `shape.n` outputs each, and its timing twin."""
    groups = groups_of(layout, shape.m)

    def arrange(a: BenchTensor, b: BenchTensor) -> Any:
        import torch

        places = [torch.tensor(x, dtype=torch.int32, device="cuda") for x in (groups.starts, groups.counts)]
        return by_group(a), b.scales.view(GROUPS, shape.n // 128, -1), *places

    def launch(x: BenchOperands, twin: bool) -> None:
        scale_a, scale_b, starts, counts = x.call[2]
        gemm.grouped(x.a, x.b, scale_a, scale_b, starts, counts, x.out, twin=twin)

    for twin in (False, True):
        of_all = problem_of(
            "grouped", BenchGemm(groups.rows, *shape[1:]), promote=0 if twin else PROMOTE_128, groups=GROUPS
        )
        yield grouped_case(
            layout,
            "no-promotion" if twin else "ours",
            shape,
            groups,
            arrange=arrange,
            launch=partial(launch, twin=twin),
            notes="kernels.gemm.grouped",
            variant="twin" if twin else "ours",
            static=tile_name(of_all),
        )
