"""Cases of FP8 GEMMs: operands quantised by tiles, scales laid out for the implementation, a check against float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from kernels.bench.case import Case, Variant, relative_error
from kernels.bench.data import Quantised, normal, product, quantise
from kernels.bench.shapes import Gemm

TOLERANCE = 1e-2
"""Relative Frobenius error allowed: BF16 output alone makes 1.7e-3, FP8 without promotion 3.5e-3 at k=16384, 5e-3 at 32768."""


class Operands(NamedTuple):
    """One set of a GEMM: A (m, k), B (n, k), the output (m, n) and what else the call needs."""

    a: Any
    b: Any
    out: Any
    call: Any = None


class Scaled(NamedTuple):
    """A quantised pair and the scales as an implementation wants them."""

    a: Quantised
    b: Quantised
    scale_a: Any
    scale_b: Any


def fp8_bytes(shape: Gemm, out: int = 2) -> int:
    """Least bytes of an FP8 GEMM with `out` bytes an output; scales left out (under 4 % with 1x128 tiles)."""
    return shape.m * shape.k + shape.n * shape.k + out * shape.m * shape.n


def nan(rows: int, columns: int, dtype: str = "bfloat16") -> Any:
    import torch

    return torch.full((rows, columns), float("nan"), device="cuda", dtype=getattr(torch, dtype))


def scaled_error(x: Operands) -> float:
    """Relative Frobenius error of the output against float64. Raises Wrong beyond TOLERANCE."""
    return relative_error(x.out, product(x.call.a, x.call.b), TOLERANCE)


def scaled_case(
    kernel: str,
    implementation: str,
    shape: Gemm,
    tiles: tuple[tuple[int, int], tuple[int, int]],
    arrange: Callable[[Quantised, Quantised], tuple[Any, Any]],
    launch: Callable[[Operands], Any],
    notes: str,
    out: str = "bfloat16",
    variant: Variant = "peer",
    check: Callable[[Operands], float] = scaled_error,
    static: str = "",
) -> Case:
    """A case of an FP8 GEMM whose scales `arrange` lays out; A and B are quantised by `tiles`. A twin is not checked."""

    def prepare(generator: Any) -> Operands:
        a = quantise(normal(generator, shape.m, shape.k), *tiles[0])
        b = quantise(normal(generator, shape.n, shape.k), *tiles[1])
        return Operands(a.codes, b.codes, nan(shape.m, shape.n, out), Scaled(a, b, *arrange(a, b)))

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
