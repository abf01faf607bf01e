"""Cases of FP8 and INT8 GEMMs: operands quantised by tiles, scales in the layout of an implementation, a check in float64."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple

from kernels.bench.case import Case, Variant, relative_error
from kernels.bench.shapes import BenchGemm

TOLERANCE = 1e-2
"""Relative Frobenius error allowed. BF16 output alone has 1.7e-3; FP8 without promotion 3.5e-3 at K = 16384, 5e-3 at 32768."""
LARGEST = {"float8_e4m3fn": 448.0, "int8": 127.0}
"""Magnitude that a tile's max-abs becomes, by torch's name of the element type."""
E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
"""Magnitudes of E2M1 by code."""
FLOOR = 1e-4
"""Smallest max-abs of a tile, as in DeepSeek's public inference code."""


class BenchTensor(NamedTuple):
    """A quantised matrix: x = codes * scales, with one scale per tile."""

    codes: Any
    """E4M3 or INT8 (rows, columns)."""
    scales: Any
    """FP32 (ceil(rows / tile rows), ceil(columns / tile columns)), row-major."""
    tile: tuple[int, int]
    """Rows and columns of a tile."""

    def values(self) -> Any:
        """Return codes * scales in float64 (rows, columns), exactly."""
        rows, columns = self.codes.shape
        wide = self.scales.double().repeat_interleave(self.tile[0], 0).repeat_interleave(self.tile[1], 1)
        return self.codes.double() * wide[:rows, :columns]


def normal(generator: Any, rows: int, columns: int) -> Any:
    """Return BF16 (rows, columns) of N(0, 1) on the generator's GPU."""
    import torch

    return torch.randn(rows, columns, generator=generator, device=generator.device, dtype=torch.bfloat16)


def quantise(x: Any, tile: tuple[int, int], dtype: str = "float8_e4m3fn") -> BenchTensor:
    """Quantise (m, k) to nearest with one scale, max-abs over LARGEST, per tile. Tiles at the edges are smaller."""
    import torch

    (m, k), (rows, columns) = x.shape, tile
    full = torch.nn.functional.pad(x.float(), (0, -k % columns, 0, -m % rows))
    tiles = full.view(full.shape[0] // rows, rows, full.shape[1] // columns, columns)
    scales = tiles.abs().amax(dim=(1, 3)).clamp(min=FLOOR) / LARGEST[dtype]
    values = (tiles / scales[:, None, :, None]).view_as(full)[:m, :k].contiguous()
    codes = (values.round() if dtype == "int8" else values).to(getattr(torch, dtype))
    return BenchTensor(codes, scales, tile)


class Fp4Tensor(NamedTuple):
    """A matrix of E2M1 with a power of two for every 32 along K."""

    packed: Any
    """uint8 (rows, columns / 2): two codes a byte, the first in the lower half."""
    scales: Any
    """UE8M0 (rows, columns / 32)."""

    def values(self) -> Any:
        """Return the numbers in float64 (rows, columns), exactly."""
        import torch

        codes = torch.stack([self.packed & 15, self.packed >> 4], -1).flatten(1).int()
        magnitudes = torch.tensor(E2M1, dtype=torch.float64, device=codes.device)[codes & 7]
        scales = torch.exp2(self.scales.double() - 127).repeat_interleave(32, 1)
        return torch.where(codes > 7, -magnitudes, magnitudes) * scales


def to_fp4(x: Any) -> Fp4Tensor:
    """Quantise (rows, columns) to E2M1, to nearest, with scales rounded up to powers of two."""
    import torch

    groups = x.float().view(x.shape[0], -1, 32)
    exponents = torch.log2(groups.abs().amax(2).clamp(min=FLOOR) / E2M1[-1]).ceil()
    numbers = groups / torch.exp2(exponents)[:, :, None]
    between = torch.tensor([(a + b) / 2 for a, b in pairwise(E2M1)], device=x.device)
    codes = (torch.bucketize(numbers.abs(), between) + 8 * (numbers < 0)).view(x.shape).to(torch.uint8)
    return Fp4Tensor(codes[:, ::2] | codes[:, 1::2] << 4, (exponents + 127).to(torch.uint8))


def product(a: BenchTensor, b: BenchTensor | Fp4Tensor) -> Any:
    """Return A (m, k) B (n, k)^T of the quantised values, in float64."""
    return a.values() @ b.values().T


class BenchOperands(NamedTuple):
    """One set of operands of a GEMM."""

    a: Any
    """A (m, k)."""
    b: Any
    """B (n, k)."""
    out: Any
    """Output (m, n)."""
    call: Any = None
    """Further data for the launch or the check."""


class Groups(NamedTuple):
    """Rows of A by group: group g has `counts[g]` rows from `starts[g]` on."""

    counts: tuple[int, ...]
    starts: tuple[int, ...]
    rows: int
    """Rows of A, those outside the groups included."""

    @property
    def parts(self) -> list[slice]:
        """Slice of the rows of each group."""
        return [slice(start, start + count) for start, count in zip(self.starts, self.counts, strict=True)]


class QuantisedPair(NamedTuple):
    """Both quantised operands, and their scales in the layout of an implementation."""

    a: BenchTensor
    b: BenchTensor
    scale_a: Any
    scale_b: Any


def fp8_bytes(shape: BenchGemm, out: int = 2) -> int:
    """Return the least bytes of a GEMM of 8 bits with `out` bytes per output; scales, under 4 % with 1x128, are left out."""
    return shape.m * shape.k + shape.n * shape.k + out * shape.m * shape.n


def nan(rows: int, columns: int, dtype: str = "bfloat16") -> Any:
    """Return a matrix of NaN on the GPU."""
    import torch

    return torch.full((rows, columns), float("nan"), device="cuda", dtype=getattr(torch, dtype))


def scaled_error(x: BenchOperands) -> float:
    """Return the output's relative Frobenius error against float64. Raises WrongOutput beyond TOLERANCE."""
    return relative_error(x.out, product(x.call.a, x.call.b), TOLERANCE)


def scaled_case(
    kernel: str,
    implementation: str,
    shape: BenchGemm,
    *,
    tiles: tuple[tuple[int, int], tuple[int, int]],
    arrange: Callable[[BenchTensor, BenchTensor], tuple[Any, Any]],
    launch: Callable[[BenchOperands], Any],
    notes: str,
    out: str = "bfloat16",
    variant: Variant = "peer",
    check: Callable[[BenchOperands], float] = scaled_error,
    static: str = "",
    dtype: str = "float8_e4m3fn",
) -> Case:
    """Return a case of a GEMM: A and B quantised by `tiles`, scales laid out by `arrange`. Twins are not checked."""

    def prepare(generator: Any) -> BenchOperands:
        a = quantise(normal(generator, shape.m, shape.k), tiles[0], dtype)
        b = quantise(normal(generator, shape.n, shape.k), tiles[1], dtype)
        return BenchOperands(a.codes, b.codes, nan(shape.m, shape.n, out), QuantisedPair(a, b, *arrange(a, b)))

    return Case(
        kernel=kernel,
        implementation=implementation,
        variant=variant,
        shape=shape._asdict(),
        flops=shape.flops,
        least_bytes=fp8_bytes(shape, 4 if out == "float32" else 2),
        prepare=prepare,
        launch=launch,
        check=None if variant == "twin" else check,
        notes=notes,
        static=static,
    )


GROUPS = 8
"""Experts in the grouped cases."""


def groups_of(layout: str, m: int, align: int = 1) -> Groups:
    """Return GROUPS groups of `m` tokens, contiguous with starts aligned, or masked: each with room for all.

    Half of the tokens are spread evenly over the experts; of the other half, expert g gets a share that grows with g.
    """
    counts = [m // (2 * GROUPS) + m * (g + 1) // (GROUPS * (GROUPS + 1)) for g in range(GROUPS)]
    room = [m if layout == "masked" else -(-count // align) * align for count in counts]
    return Groups(tuple(counts), tuple(sum(room[:g]) for g in range(GROUPS)), sum(room))


def grouped_case(
    layout: str,
    implementation: str,
    shape: BenchGemm,
    groups: Groups,
    *,
    arrange: Callable[[BenchTensor, BenchTensor], Any],
    launch: Callable[[BenchOperands], Any],
    notes: str,
    variant: Variant = "peer",
    static: str = "",
) -> Case:
    """Return a case of a grouped GEMM with `shape.n` outputs an expert; `arrange` makes what the launch needs besides codes.

    Every implementation has the same tokens an expert; only where they lie in A differs.
    """
    real, (_, n, k) = sum(groups.counts), shape

    def prepare(generator: Any) -> BenchOperands:
        a = quantise(normal(generator, groups.rows, k), (1, 128))
        b = quantise(normal(generator, GROUPS * n, k), (128, 128))
        codes = b.codes.view(GROUPS, n, k)
        return BenchOperands(a.codes, codes, nan(groups.rows, n), (a, b, arrange(a, b)))

    def check(x: BenchOperands) -> float:
        a, b = x.call[0].values(), x.call[1].values().view(GROUPS, n, k)
        return max(relative_error(x.out[part], a[part] @ b[g].T, TOLERANCE) for g, part in enumerate(groups.parts))

    return Case(
        kernel=f"gemm.grouped-{layout}",
        implementation=implementation,
        variant=variant,
        shape={"groups": GROUPS, "m": real, "n": n, "k": k},
        flops=2 * real * n * k,
        least_bytes=fp8_bytes(BenchGemm(real, n, k)) + (GROUPS - 1) * n * k,
        prepare=prepare,
        launch=launch,
        check=None if variant == "twin" else check,
        notes=f"{notes}, {layout} layout, {min(groups.counts)} to {max(groups.counts)} tokens an expert",
        static=static,
    )
