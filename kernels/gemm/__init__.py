"""FP8 GEMMs for Hopper: group-scaled with promotion to FP32 (forward, dgrad, wgrad), grouped by experts, and native.

Each function computes D (M, N) = A (M, K) B^T with B (N, K). Operands are E4M3 torch tensors, contiguous along K; N is a
multiple of 8 and K of 16. `gemm` takes INT8 as well, and `fp4_weights` E2M1 for B. Scales are FP32, powers of two or not.
Scales of 1x128 groups have the shape (ceil(K / 128), rows) with contiguous rows and a pitch that is a multiple of 4 floats, as
`kernels.quantise` writes them.

Bits of each output: four wgmma steps from zero give the partial sum of 128 products in Hopper's e8m13 accumulator, or in int32.
One fused multiply-add multiplies it by the FP32 product of its two scales and adds it to the FP32 accumulator, in ascending
order of K; sums in int32 are converted to FP32 before, exactly. `isa_model.promoted(wgmma, every=128, scale=...)` is the same
computation. Where the chosen tile splits K, each part starts from zero and the parts are added in FP32 in ascending order. The
output is rounded once, to nearest even.

Launches go to torch's current stream on the current GPU. Every function raises ValueError for operands that it cannot take
(device, dtype, shape, stride, alignment).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kernels.gemm.fp4 import Fp4Weights, prepare_fp4
from kernels.gemm.launches import GemmOperands, issue
from kernels.gemm.tile import PROMOTE_128, ScaleLayout

if TYPE_CHECKING:
    import torch

__all__ = ["Fp4Weights", "fp4_weights", "gemm", "grouped", "native", "prepare_fp4", "wgrad"]


def _wgmmas(promote: int) -> int:
    """Return the wgmmas, of 32 products each, in an interval of `promote` products. Raises ValueError for other intervals."""
    if isinstance(promote, bool) or not isinstance(promote, int):
        raise ValueError(f"promote must be a whole number of products; it is {promote!r}")
    if promote <= 0 or promote % 32:
        raise ValueError(f"promote must be a positive multiple of 32, the products of a wgmma; it is {promote}")
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
    """Compute a forward or dgrad GEMM: A scaled in 1x128 groups, B in 128x128 blocks; both E4M3 or both INT8.

    `scale_b` is (ceil(N / 128), ceil(K / 128)). `out` (M, N), BF16 or FP32, is written and returned; by default a new BF16
    tensor. `promote` is the number of products between promotions: 32, 64 or 128. `twin` launches the timing twin, which
    loads the scales but promotes nothing: **its output is wrong by design**.
    """
    x = GemmOperands(a, b, scale_a, scale_b, out)
    return issue(x, scales=ScaleLayout.BLOCK, promote=0 if twin else _wgmmas(promote))


def fp4_weights(
    a: torch.Tensor, b: Fp4Weights, scale_a: torch.Tensor, out: torch.Tensor | None = None, *, twin: bool = False
) -> torch.Tensor:
    """Compute a forward GEMM of E4M3 activations by E2M1 weights, which stay packed until they are in shared memory.

    `b` is what `prepare_fp4` makes of packed codes and UE8M0 scales of 1x32. The weights are unpacked to E4M3 without loss, so
    that the bits are those of `gemm` on weights unpacked beforehand. `twin` as for `gemm`.
    """
    if not isinstance(b, Fp4Weights):
        raise ValueError(f"b must be what prepare_fp4 returns; got {type(b).__name__}")
    x = GemmOperands(a, b.codes, scale_a, b.scales, out, shifts=b.shifts)
    return issue(x, scales=ScaleLayout.BLOCK, promote=0 if twin else PROMOTE_128)


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
    """Compute a weight gradient: A and B scaled in 1x128 groups along K, the tokens.

    `scale_b` has the layout of `scale_a`. `out` is (M, N) FP32, or BF16 without `accumulate`. With `accumulate`, `out` must be
    given and the sum is added to it in one FP32 addition. `twin` as for `gemm`.
    """
    x = GemmOperands(a, b, scale_a, scale_b, out)
    return issue(x, scales=ScaleLayout.GROUP, promote=0 if twin else PROMOTE_128, add=accumulate)


def native(
    a: torch.Tensor,
    b: torch.Tensor,
    scale_a: torch.Tensor,
    scale_b: torch.Tensor,
    out: torch.Tensor | None = None,
    *,
    promote: int | None = None,
) -> torch.Tensor:
    """Compute a GEMM with one scale for A and one for B, FP32 tensors of one element; their product multiplies the sum.

    With `promote` None the Tensor Core's e8m13 accumulator holds the whole sum, which is fast and imprecise. With 32, 64, 128,
    256 or 512, it restarts from zero after that many products and its value is added to FP32 registers.
    """
    x = GemmOperands(a, b, scale_a, scale_b, out)
    return issue(x, scales=ScaleLayout.TENSOR, promote=0 if promote is None else _wgmmas(promote))


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
    """Compute the GEMMs of experts: rows `starts[g]` to `starts[g] + counts[g]` of A times the B of group g.

    `b` is (G, N, K), `scale_b` (G, ceil(N / 128), ceil(K / 128)). `starts` and `counts` are int32 (G,) on the GPU; the host
    never reads them. Contiguous layout: `starts` is the running sum of `counts`, with any alignment. Masked layout: `starts`
    are multiples of the most rows that a group can have. Rows of `out` outside all groups are not written.
    `twin` as for `gemm`.
    """
    if starts is None or counts is None:
        raise ValueError("starts and counts must both be given: they say which rows of a belong to which group")
    x = GemmOperands(a, b, scale_a, scale_b, out, starts, counts)
    return issue(x, scales=ScaleLayout.BLOCK, promote=0 if twin else PROMOTE_128)
