"""The GPU kernel for chains of FP64 fused multiply-adds: too wide for float64 lanes, but native to the GPU."""

from __future__ import annotations

from isa_model.formats import FORMATS
from isa_model.instruction import Instruction
from isa_model.rounding import Rounding
from isa_model.stage import Register


def is_chain(spec: Instruction) -> bool:
    """Return whether a spec is a chain of FP64 fused multiply-adds, one product after the other."""
    (stage, *others) = spec.stages.values()
    fp64 = FORMATS["fp64"]
    return (
        not others
        and (spec.a, spec.b, spec.c_format, spec.accumulator) == (fp64, fp64, fp64, fp64)
        and (stage.terms, stage.aligned, stage.zero, stage.interleave, stage.remainder)
        == (1, False, "ieee", None, None)
        and stage.result == (Register(format=fp64, rounding=Rounding.NEAREST_EVEN),)
        and (spec.scale, spec.widen, spec.infinite_from, spec.flush_inputs) == (None, None, None, False)
    )


SOURCE = """
/* D = A B + C in place; A (K, m) and B (K, n). */
extern "C" __global__ void run(int m, int n, int k, const double *__restrict__ a, const double *__restrict__ b, double *d) {
  const int row = (blockIdx.x * 16 + threadIdx.x / 16) * 4;
  const int column = (blockIdx.y * 16 + threadIdx.x % 16) * 4;
  double sum[4][4];
#pragma unroll
  for (int i = 0; i < 16; ++i)
    sum[i / 4][i % 4] = row + i / 4 < m && column + i % 4 < n ? d[(long)(row + i / 4) * n + column + i % 4] : 0;
#pragma unroll 2
  for (int t = 0; t < k; ++t) {
    double x[4], y[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      x[i] = a[(long)t * m + min(row + i, m - 1)];
      y[i] = b[(long)t * n + min(column + i, n - 1)];
    }
#pragma unroll
    for (int i = 0; i < 16; ++i) sum[i / 4][i % 4] = __fma_rn(x[i / 4], y[i % 4], sum[i / 4][i % 4]);
  }
#pragma unroll
  for (int i = 0; i < 16; ++i)
    if (row + i / 4 < m && column + i % 4 < n) d[(long)(row + i / 4) * n + column + i % 4] = sum[i / 4][i % 4];
}
"""
