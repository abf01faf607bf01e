"""FP8 GEMMs for Hopper: group-scaled with promotion to FP32 (forward, dgrad, wgrad), grouped by experts, and native.

Each computes D (M, N) = A (M, K) times B (N, K) transposed on torch tensors: E4M3 operands, rows contiguous along K, N a
multiple of 8 and K of 16. Scales are FP32 (powers of two or not). Scales of 1x128 groups are stored group by group: shape
(ceil(K / 128), rows), rows contiguous, their pitch a multiple of 4 floats, as `kernels.quantise` writes them.

To the bit, for each output: four wgmma steps from zero give the partial sum of 128 of K in Hopper's e8m13; it is multiplied
by the FP32 product of its two scales and added to the FP32 accumulator in one fused multiply-add, in ascending order of K:
`isa_model.promoted(wgmma, every=128, scale=...)`. Where a plan splits K (`choose(...).split`), each stretch starts from zero
and the stretches are added in FP32 in ascending order. The output is rounded to nearest even once.

A function raises ValueError for operands it cannot take: device, dtype, shape, stride, alignment.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kernels.gemm.run import Operands, issue

if TYPE_CHECKING:
    import torch

__all__ = ["gemm", "grouped", "native", "wgrad"]


def _wgmmas(promote: int) -> int:
    """Wgmmas, of 32 products each, between promotions."""
    if isinstance(promote, bool) or not isinstance(promote, int):
        raise ValueError(f"promote is {promote!r}: a whole number of products is right")
    if promote <= 0 or promote % 32:
        raise ValueError(f"promote = {promote}: a multiple of 32 is right, as many products as a wgmma adds up")
    return promote // 32


def gemm(
    a: torch.Tensor,
    b: torch.Tensor,
    scale_a: torch.Tensor,
    scale_b: torch.Tensor,
    out: torch.Tensor | None = None,
    *,
    promote: int = 128,
    twin: bool = False,
) -> torch.Tensor:
    """Forward and dgrad: A in 1x128 groups, B in 128x128 blocks, `scale_b` (ceil(N / 128), ceil(K / 128)).

    `out` (M, N) BF16 (also the default) or FP32 is written and returned. `promote`: products between promotions, 32, 64 or 128.
    `twin`: the timing twin, which loads the scales but promotes nothing: **its output is wrong by design**.
    """
    return issue(Operands(a, b, scale_a, scale_b, out), scales=1, promote=0 if twin else _wgmmas(promote))


def wgrad(
    a: torch.Tensor,
    b: torch.Tensor,
    scale_a: torch.Tensor,
    scale_b: torch.Tensor,
    out: torch.Tensor | None = None,
    *,
    accumulate: bool = True,
    twin: bool = False,
) -> torch.Tensor:
    """Weight gradient: A and B in 1x128 groups along K (the tokens), `scale_b` stored as `scale_a`.

    `out` (M, N) FP32 (or BF16 without `accumulate`); with `accumulate`, which needs it, the sum is added to it in one FP32
    addition. `twin` as for `gemm`.
    """
    return issue(Operands(a, b, scale_a, scale_b, out), scales=2, promote=0 if twin else 4, add=accumulate)


def native(
    a: torch.Tensor,
    b: torch.Tensor,
    scale_a: torch.Tensor,
    scale_b: torch.Tensor,
    out: torch.Tensor | None = None,
    *,
    promote: int | None = None,
) -> torch.Tensor:
    """One scale each for A and B (FP32 tensors of one element), multiplied with each other and then onto the sum.

    `promote`: None leaves the whole sum to the Tensor Core's e8m13 accumulator, fast and imprecise; 32, 64, 128, 256 or 512
    adds it to FP32 registers every so many products, from zero each time.
    """
    return issue(Operands(a, b, scale_a, scale_b, out), scales=0, promote=0 if promote is None else _wgmmas(promote))


def grouped(
    a: torch.Tensor,
    b: torch.Tensor,
    scale_a: torch.Tensor,
    scale_b: torch.Tensor,
    starts: torch.Tensor,
    counts: torch.Tensor,
    out: torch.Tensor | None = None,
    *,
    twin: bool = False,
) -> torch.Tensor:
    """Experts: group g's rows `starts[g]` to `starts[g] + counts[g]` of A times its own B; `b` (G, N, K), `scale_b` per group.

    `starts` and `counts` (G,) int32 lie on the GPU; the host never reads them. Contiguous layout: starts are the running sum
    of counts, in any alignment. Masked layout: starts are multiples of the most rows a group can have. Rows of `out` that
    belong to no group are not written.
    """
    if starts is None or counts is None:
        raise ValueError("starts and counts say which rows of a belong to which group: give both")
    return issue(Operands(a, b, scale_a, scale_b, out, starts, counts), scales=1, promote=0 if twin else 4)
