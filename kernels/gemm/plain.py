"""The group-scaled GEMM in plain Triton, for reading: the same sums as gemm.cu. It is not a baseline."""

from __future__ import annotations

from typing import TYPE_CHECKING

import triton
import triton.language as tl

if TYPE_CHECKING:
    import torch


@triton.jit  # type: ignore[untyped-decorator]
def kernel(  # type: ignore[no-untyped-def]
    a, b, scale_a, scale_b, out, m, n, k, scale_pitch, BM: tl.constexpr, BN: tl.constexpr, GROUP: tl.constexpr
):
    """Compute one BM x BN tile of D = A B^T: for each GROUP of K, a sum from zero, times its scales, added in FP32."""
    rows = tl.program_id(0) * BM + tl.arange(0, BM)
    columns = tl.program_id(1) * BN + tl.arange(0, BN)
    along = tl.arange(0, GROUP)
    groups = tl.cdiv(k, GROUP)
    total = tl.zeros((BM, BN), tl.float32)
    for g in range(groups):
        inside = g * GROUP + along < k
        x = tl.load(a + rows[:, None] * k + g * GROUP + along[None, :], (rows[:, None] < m) & inside[None, :], 0.0)
        y = tl.load(
            b + columns[None, :] * k + g * GROUP + along[:, None], (columns[None, :] < n) & inside[:, None], 0.0
        )
        of_rows = tl.load(scale_a + g * scale_pitch + rows, rows < m, 0.0)
        of_columns = tl.load(scale_b + columns // GROUP * groups + g, columns < n, 0.0)
        # The group is summed in the Tensor Core's accumulator, as in gemm.cu; then one fused multiply-add.
        part = tl.dot(x, y, max_num_imprecise_acc=GROUP)
        total += part * (of_rows[:, None] * of_columns[None, :])
    tl.store(out + rows[:, None] * n + columns[None, :], total, (rows[:, None] < m) & (columns[None, :] < n))


def gemm(
    a: torch.Tensor, b: torch.Tensor, scale_a: torch.Tensor, scale_b: torch.Tensor, out: torch.Tensor
) -> torch.Tensor:
    """Compute `kernels.gemm.gemm` for contiguous operands and return `out`."""
    (m, k), n = a.shape, b.shape[0]
    grid = (triton.cdiv(m, 128), triton.cdiv(n, 128))
    kernel[grid](a, b, scale_a, scale_b, out, m, n, k, scale_a.stride(0), BM=128, BN=128, GROUP=128, num_warps=8)
    return out
