"""The GEMMs on the bench: ours and their timing twins, on the forward and backward GEMMs of each shape."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from kernels import gemm
from kernels.bench.case import Case, relative_error
from kernels.bench.data import Quantised, normal, product, quantise
from kernels.bench.gemms import TOLERANCE, Operands, fp8_bytes, nan, scaled_case, scaled_error
from kernels.bench.shapes import Gemm
from kernels.bench.static import Cubin
from kernels.gemm.choose import choose
from kernels.gemm.driver import compiled
from kernels.gemm.tile import Problem
from kernels.launch import MULTIPROCESSORS

INTERVALS = (32, 64, 128, 256, 512)
"""Products between promotions at which the tax is measured."""
INTERVALS_AT = Gemm(4096, 4096, 7168)
GROUPS = 8
"""Experts of the grouped cases; their tokens differ."""


def cases(shapes: Sequence[Gemm]) -> Iterator[Case]:
    """Forward of every shape; from 1024 tokens on also dgrad, wgrad, native with promotion and experts."""
    for shape in shapes:
        yield from _blocks("gemm.fprop", shape)
        yield _native(shape)
    for shape in shapes:
        if shape.m >= 1024:
            yield from _blocks("gemm.dgrad", shape.dgrad)
            yield from _wgrad(shape.wgrad)
            for every in INTERVALS if shape == INTERVALS_AT else (128,):
                yield _native(shape, every)
            if shape.k >= 2048 and shape.n in (4096, 7168):
                for layout in ("contiguous", "masked"):
                    yield from _experts(layout, shape)


def tile_name(p: Problem) -> str:
    """Name of the machine code that a GEMM gets on an H200."""
    return choose(p, MULTIPROCESSORS).name


def cubins() -> Iterator[Cubin]:
    """Machine code of the kinds of kernels, at 4096, 128 and 64 tokens."""
    large = Problem(4096, 4096, 7168, 0, 1, 4, 2, False)
    problems = [
        large,
        Problem(4096, 4096, 7168, 0, 1, 0, 2, False),
        Problem(4096, 2112, 7168, 0, 1, 4, 2, False),
        Problem(128, 4096, 7168, 0, 1, 4, 2, False),
        Problem(64, 7168, 16384, 0, 1, 4, 2, False),
        Problem(4096, 7168, 4096, 0, 2, 4, 4, True),
        Problem(4096, 4096, 7168, 0, 0, 0, 2, False),
        Problem(4096, 4096, 7168, GROUPS, 1, 4, 2, False),
    ]
    for p in problems:
        tile = choose(p, MULTIPROCESSORS)
        yield Cubin(tile_name(p), compiled(tile.source), tile.shared_bytes(p.groups))


def by_group(x: Quantised) -> Any:
    """Scales of 1x128 tiles as the kernels read them: (ceil(k / 128), rows), rows contiguous, pitch a multiple of 4."""
    import torch

    rows = x.scales.shape[0]
    return torch.nn.functional.pad(x.scales.T, (0, -rows % 4)).contiguous()[:, :rows]


def _blocks(kernel: str, shape: Gemm) -> Iterator[Case]:
    """A in 1x128 groups, B in 128x128 blocks."""

    def launch(x: Operands, twin: bool) -> None:
        gemm.gemm(x.a, x.b, x.call.scale_a, x.call.scale_b, x.out, twin=twin)

    for twin in (False, True):
        yield scaled_case(
            kernel,
            "no-promotion" if twin else "ours",
            shape,
            ((1, 128), (128, 128)),
            lambda a, b: (by_group(a), b.scales),
            partial(launch, twin=twin),
            "kernels.gemm.gemm, E4M3, FP32 scales 1x128 by 128x128, "
            + ("scales loaded, nothing promoted, output wrong by design" if twin else "promoted every 128, BF16 out"),
            variant="twin" if twin else "ours",
            static=tile_name(Problem(*shape, 0, 1, 0 if twin else 4, 2, False)),
        )


def _wgrad(shape: Gemm) -> Iterator[Case]:
    """A and B in 1x128 groups, added to an FP32 gradient; and written anew, as the peers do."""
    for implementation, add, twin in (("ours", True, False), ("ours-anew", False, False), ("no-promotion", True, True)):
        what = "added to FP32" if add else "FP32 written anew"
        yield scaled_case(
            "gemm.wgrad",
            implementation,
            shape,
            ((1, 128), (1, 128)),
            lambda a, b: (by_group(a), by_group(b)),
            partial(launch_wgrad, add=add, twin=twin),
            f"kernels.gemm.wgrad, E4M3, FP32 scales 1x128 by 1x128, {what}"
            + (", scales loaded, nothing promoted, output wrong by design" if twin else ", promoted every 128"),
            out="float32",
            variant="twin" if twin else "ours",
            check=partial(wgrad_error, launch=partial(launch_wgrad, add=True, twin=False)) if add else scaled_error,
            static=tile_name(Problem(*shape, 0, 2, 0 if twin else 4, 4, add)),
        )


def launch_wgrad(x: Operands, add: bool, twin: bool) -> None:
    gemm.wgrad(x.a, x.b, x.call.scale_a, x.call.scale_b, x.out, accumulate=add, twin=twin)


def wgrad_error(x: Operands, launch: Callable[[Operands], None]) -> float:
    """Return the relative error of a gradient of random numbers after a launch has added to it."""
    import torch

    before = torch.randn_like(x.out)
    x.out.copy_(before)
    launch(x)
    return relative_error(x.out, before.double() + product(x.call.a, x.call.b), TOLERANCE)


def _native(shape: Gemm, every: int | None = None) -> Case:
    """One scale a tensor."""
    promotion = f"promoted every {every}" if every else "no promotion"
    return scaled_case(
        "gemm.native",
        f"ours-promoted-{every}" if every else "ours",
        shape,
        ((shape.m, shape.k), (shape.n, shape.k)),
        lambda a, b: (a.scales.view(1), b.scales.view(1)),
        lambda x: gemm.native(x.a, x.b, x.call.scale_a, x.call.scale_b, x.out, promote=every),
        f"kernels.gemm.native, E4M3, one FP32 scale a tensor, {promotion}, BF16 out",
        variant="ours",
        static=tile_name(Problem(*shape, 0, 0, (every or 0) // 32, 2, False)),
    )


def _experts(layout: str, shape: Gemm) -> Iterator[Case]:
    """GROUPS experts of `shape.n` outputs; half of the m tokens are spread over them evenly, half by chance."""
    groups = GROUPS
    counts = [shape.m // (2 * groups) + shape.m * (g + 1) // (groups * (groups + 1)) for g in range(groups)]
    room = shape.m if layout == "masked" else 0
    starts = [g * room if room else sum(counts[:g]) for g in range(groups)]
    rows = groups * room if room else sum(counts)
    real = sum(counts)

    def prepare(generator: Any) -> Operands:
        import torch

        a = quantise(normal(generator, rows, shape.k), 1, 128)
        b = quantise(normal(generator, groups * shape.n, shape.k), 128, 128)
        place = (
            torch.tensor(starts, dtype=torch.int32, device="cuda"),
            torch.tensor(counts, dtype=torch.int32, device="cuda"),
        )
        return Operands(a.codes, b.codes.view(groups, shape.n, shape.k), nan(rows, shape.n), (a, b, by_group(a), place))

    def launch(x: Operands, twin: bool) -> None:
        scale_b = x.call[1].scales.view(groups, shape.n // 128, -1)
        first, count = x.call[3]
        gemm.grouped(x.a, x.b, x.call[2], scale_b, first, count, x.out, twin=twin)

    def check(x: Operands) -> float:
        a, b = x.call[0].values(), x.call[1].values().view(groups, shape.n, shape.k)
        worst = 0.0
        for g, (start, count) in enumerate(zip(starts, counts, strict=True)):
            worst = max(
                worst, relative_error(x.out[start : start + count], a[start : start + count] @ b[g].T, TOLERANCE)
            )
        return worst

    for twin in (False, True):
        yield Case(
            kernel=f"gemm.grouped-{layout}",
            implementation="no-promotion" if twin else "ours",
            variant="twin" if twin else "ours",
            shape={"groups": groups, "m": real, "n": shape.n, "k": shape.k},
            flops=2 * real * shape.n * shape.k,
            least_bytes=fp8_bytes(Gemm(real, shape.n, shape.k)) + (groups - 1) * shape.n * shape.k,
            prepare=prepare,
            launch=partial(launch, twin=twin),
            check=None if twin else check,
            notes=f"kernels.gemm.grouped, {layout} layout, {min(counts)} to {max(counts)} tokens an expert",
            static=tile_name(Problem(rows, shape.n, shape.k, groups, 1, 0 if twin else 4, 2, False)),
        )
