"""Peers for the same GEMMs, torch (cuBLASLt) in every scaling mode and DeepGEMM if installed; and the GPU's ceilings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from importlib.util import find_spec
from typing import Any

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
    quantise,
    scaled_case,
)
from kernels.bench.shapes import BenchGemm

COPIED_BYTES = 1 << 30
"""Size of the tensor that the copy ceiling reads, bytes."""
BF16_CEILING = BenchGemm(8192, 8192, 8192)


def ceilings() -> Iterator[Case]:
    """Yield the ceilings of the GPU: one pass through memory, reading and writing, and a large BF16 GEMM."""
    yield Case(
        kernel="ceiling.copy",
        implementation="torch",
        variant="peer",
        shape={"bytes": COPIED_BYTES},
        flops=0,
        least_bytes=2 * COPIED_BYTES,
        prepare=_copy_operands,
        launch=_copy,
        check=_copy_error,
        notes="torch.neg of int32; bytes read and bytes written both count",
    )
    yield _bf16("ceiling.bf16", BF16_CEILING)


def cases(shapes: Sequence[BenchGemm]) -> Iterator[Case]:
    """Yield the peers of forward GEMMs and, from 1024 tokens on, of dgrad and wgrad."""
    backward = [shape for shape in shapes if shape.m >= 1024]
    for shape in shapes:
        yield _bf16("gemm.bf16", shape)
        yield _row_scale(shape)
        yield _int8(shape)
        yield _blockwise("gemm.fprop", shape, (128, 128))
        if find_spec("deep_gemm"):
            yield _deep_gemm(shape)
    for shape in backward:
        yield _blockwise("gemm.dgrad", shape.dgrad, (128, 128))
        yield _blockwise("gemm.wgrad", shape.wgrad, (1, 128))
        if find_spec("deep_gemm") and shape.k >= 2048 and shape.n in (4096, 7168):
            yield from (_deep_gemm_grouped(layout, shape) for layout in ("contiguous", "masked"))
    for shape in dict.fromkeys([*shapes, *(s.dgrad for s in backward), *(s.wgrad for s in backward)]):
        yield from (_one_scale(shape, fast) for fast in (True, False))


# -- ceilings and BF16 -----------------------------------------------------------------------------------------------


def _copy_operands(generator: Any) -> BenchOperands:
    import torch

    a = torch.randint(-(1 << 30), 1 << 30, (COPIED_BYTES // 4,), generator=generator, device="cuda", dtype=torch.int32)
    return BenchOperands(a, None, torch.zeros_like(a))


def _copy(x: BenchOperands) -> None:
    """Copy by an elementwise kernel; a plain copy in a graph would use the copy engine, which is slower."""
    import torch

    torch.neg(x.a, out=x.out)


def _copy_error(x: BenchOperands) -> float:
    return relative_error(x.out.double(), -x.a.double(), 0.0)


def _mm(x: BenchOperands) -> None:
    import torch

    torch.mm(x.a, x.b, out=x.out)


def _bf16(kernel: str, shape: BenchGemm) -> Case:
    def prepare(generator: Any) -> BenchOperands:
        a, b = normal(generator, shape.m, shape.k), normal(generator, shape.n, shape.k)
        return BenchOperands(a, b.T, nan(shape.m, shape.n))

    return Case(
        kernel=kernel,
        implementation="torch",
        variant="peer",
        shape=shape._asdict(),
        flops=shape.flops,
        least_bytes=2 * (shape.m * shape.k + shape.n * shape.k + shape.m * shape.n),
        prepare=prepare,
        launch=_mm,
        check=lambda x: relative_error(x.out, x.a.double() @ x.b.double(), TOLERANCE),
        notes="torch.mm, BF16 in and out",
    )


def _int8(shape: BenchGemm) -> Case:
    def prepare(generator: Any) -> BenchOperands:
        import torch

        a, b = (quantise(normal(generator, rows, shape.k), (1, shape.k), "int8").codes for rows in shape[:2])
        return BenchOperands(a, b.T, torch.full((shape.m, shape.n), -1, device="cuda", dtype=torch.int32))

    def launch(x: BenchOperands) -> None:
        import torch

        torch.ops.aten._int_mm.out(x.a, x.b, out=x.out)

    return Case(
        kernel="gemm.int8",
        implementation="torch",
        variant="peer",
        shape=shape._asdict(),
        flops=shape.flops,
        least_bytes=shape.m * shape.k + shape.n * shape.k + 4 * shape.m * shape.n,
        prepare=prepare,
        launch=launch,
        check=lambda x: relative_error(x.out, x.a.double() @ x.b.double(), 0.0),
        notes="torch._int_mm, INT8, no scales, int32 out",
    )


# -- torch._scaled_mm ------------------------------------------------------------------------------------------------


def _scaled_mm(x: BenchOperands, fast: bool) -> None:
    """Run torch._scaled_mm into a given output. The shapes of the scales select the kind of scaling."""
    import torch

    torch.ops.aten._scaled_mm.out(
        x.a, x.b.T, x.call.scale_a, x.call.scale_b, out_dtype=x.out.dtype, use_fast_accum=fast, out=x.out
    )


def _one_scale(shape: BenchGemm, fast: bool) -> Case:
    return scaled_case(
        "gemm.native",
        f"torch-tensor-wise{'' if fast else '-promoted'}",
        shape,
        tiles=((shape.m, shape.k), (shape.n, shape.k)),
        arrange=lambda a, b: (a.scales.view(()), b.scales.view(())),
        launch=partial(_scaled_mm, fast=fast),
        notes=f"torch._scaled_mm, E4M3, one FP32 scale a tensor, use_fast_accum={fast}, BF16 out",
    )


def _row_scale(shape: BenchGemm) -> Case:
    return scaled_case(
        "gemm.native",
        "torch-row-wise",
        shape,
        tiles=((1, shape.k), (1, shape.k)),
        arrange=lambda a, b: (a.scales, b.scales.T),
        launch=partial(_scaled_mm, fast=True),
        notes="torch._scaled_mm, E4M3, one FP32 scale a row of A and a column of B, use_fast_accum=True, BF16 out",
    )


def blockwise_scales(a: BenchTensor, b: BenchTensor) -> tuple[Any, Any]:
    """Return scales as cuBLASLt reads them: outer dimension contiguous for 1x128; K contiguous, padded to 4, for 128x128."""
    import torch

    scale_b = b.scales
    if b.tile[0] == 128:
        scale_b = torch.nn.functional.pad(b.scales, (0, -b.scales.shape[1] % 4)).contiguous().T
    else:
        scale_b = scale_b.T.contiguous().T
    return a.scales.T.contiguous().T, scale_b


def _blockwise(kernel: str, shape: BenchGemm, tile_b: tuple[int, int]) -> Case:
    def launch(x: BenchOperands) -> None:
        import torch

        recipes = torch.nn.functional.ScalingType
        tiled = {1: recipes.BlockWise1x128, 128: recipes.BlockWise128x128}
        recipe_a, recipe_b = [tiled[1].value], [tiled[tile_b[0]].value]
        scale_a, scale_b = [x.call.scale_a], [x.call.scale_b]
        torch.ops.aten._scaled_mm_v2.out(
            x.a, x.b.T, scale_a, recipe_a, [], scale_b, recipe_b, [], None, x.out.dtype, [], False, out=x.out
        )

    out, name = ("float32", "FP32") if tile_b == (1, 128) else ("bfloat16", "BF16")
    return scaled_case(
        kernel,
        "torch-block-wise",
        shape,
        tiles=((1, 128), tile_b),
        arrange=blockwise_scales,
        launch=launch,
        notes=f"torch scaled_mm, E4M3, FP32 scales 1x128 by {tile_b[0]}x{tile_b[1]}, {name} out",
        out=out,
    )


# -- DeepGEMM --------------------------------------------------------------------------------------------------------


def _deep_gemm(shape: BenchGemm) -> Case:
    def arrange(a: BenchTensor, b: BenchTensor) -> tuple[Any, Any]:
        import deep_gemm

        deep_gemm.set_pdl(True)  # off by default; our kernels overlap with the previous kernel in the same way
        return deep_gemm.get_mn_major_tma_aligned_tensor(a.scales), b.scales

    def launch(x: BenchOperands) -> None:
        import deep_gemm

        deep_gemm.fp8_gemm_nt((x.a, x.call.scale_a), (x.b, x.call.scale_b), x.out)

    return scaled_case(
        "gemm.fprop",
        "deep_gemm",
        shape,
        tiles=((1, 128), (128, 128)),
        arrange=arrange,
        launch=launch,
        notes="deep_gemm.fp8_gemm_nt, E4M3, FP32 scales 1x128 by 128x128, BF16 out, programmatic dependent launch",
    )


ALIGNED = 128
"""Multiple of rows at which DeepGEMM's groups start in the contiguous layout."""


def _deep_gemm_grouped(layout: str, shape: BenchGemm) -> Case:
    groups = groups_of(layout, shape.m, ALIGNED)
    room = groups.rows // GROUPS  # rows an expert, in the masked layout

    def arrange(a: BenchTensor, b: BenchTensor) -> Any:
        import deep_gemm
        import torch

        deep_gemm.set_pdl(True)
        scale_b = b.scales.view(GROUPS, shape.n // 128, -1)
        if layout == "masked":
            scale_a = deep_gemm.get_mn_major_tma_aligned_tensor(a.scales.view(GROUPS, room, -1))
            return scale_a, scale_b, torch.tensor(groups.counts, dtype=torch.int32, device="cuda")
        group_of_row = torch.full((groups.rows,), -1, dtype=torch.int32)
        for g, part in enumerate(groups.parts):
            group_of_row[part] = g
        return deep_gemm.get_mn_major_tma_aligned_tensor(a.scales), scale_b, group_of_row.cuda()

    def launch(x: BenchOperands) -> None:
        import deep_gemm

        scale_a, scale_b, place = x.call[2]
        if layout == "masked":
            a, out = x.a.view(GROUPS, room, -1), x.out.view(GROUPS, room, -1)
            typical = sum(groups.counts) // GROUPS
            deep_gemm.m_grouped_fp8_gemm_nt_masked((a, scale_a), (x.b, scale_b), out, place, typical)
        else:
            deep_gemm.m_grouped_fp8_gemm_nt_contiguous((x.a, scale_a), (x.b, scale_b), x.out, place)

    return grouped_case(
        layout,
        "deep_gemm",
        shape,
        groups,
        arrange=arrange,
        launch=launch,
        notes=f"deep_gemm.m_grouped_fp8_gemm_nt_{layout}, groups start at multiples of {ALIGNED} rows",
    )
