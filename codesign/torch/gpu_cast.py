"""Casts to FP8 in two kernels of a GPU: the largest magnitude of every group, then scales and elements.

`quantise` uses them where they apply, since torch's own operators pass over the tensor eight times. The bits are the same.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from torch import Tensor

from isa_model.cast import Cast
from isa_model.engines.launch import kernel, launch
from isa_model.rounding import Rounding

FORMATS = {"e4m3": torch.float8_e4m3fn, "e5m2": torch.float8_e5m2}
"""Formats that torch and the chip cast to, with the same bits if rounding is to nearest even and numbers are in range."""
SOURCES = {torch.bfloat16: "unsigned short", torch.float32: "float"}
ADDED = {
    Rounding.UP: 0x7FFFFF,
    Rounding.NEAREST_EVEN: 0x400000,
    Rounding.NEAREST_AWAY: 0x400000,
    Rounding.DOWN: 0,
    Rounding.TOWARD_ZERO: 0,
}
"""What is added to the bits of a number before its mantissa is cleared, to round it to a power of two."""
THREADS, EACH = 256, 8
"""Threads of a block, and neighbours in a row that a thread casts."""


def applies(cast: Cast, x: Tensor) -> bool:
    """Return whether the kernels can compute a cast of `x`."""
    scale = cast.scale
    return (
        x.is_cuda
        and x.device.index == torch.cuda.current_device()  # where launches go
        and x.dim() == 2
        and x.numel() > 0
        and x.dtype in SOURCES
        and x.stride(1) == 1
        and x.shape[1] % EACH == 0
        and x.stride(0) % EACH == 0
        and x.data_ptr() % 16 == 0
        and cast.to.name in FORMATS
        and cast.rounding is Rounding.NEAREST_EVEN
        and scale is not None
        and (scale.name == "fp32" or (scale.name == "ue8m0" and cast.scale_rounding in ADDED))
        and (cast.group is None or cast.group[1] % EACH == 0)
    )


def cast_on_gpu(cast: Cast, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the elements (R, C) and the FP32 scales (groups of rows, groups of columns) of a matrix, if `applies`."""
    rows, columns = x.shape
    down, right = cast.group or x.shape
    down, right = min(down, rows), min(right, columns)
    shape = -(-rows // down), -(-columns // right)
    largest = torch.zeros(shape, dtype=torch.int32, device=x.device)
    scales = torch.empty(shape, dtype=torch.float32, device=x.device)
    elements = torch.empty(x.shape, dtype=FORMATS[cast.to.name], device=x.device)
    threads = rows * columns // EACH
    whole = down == rows and right == columns
    blocks = min(-(-threads // THREADS), 4 * _processors(x.device.index)) if whole else -(-threads // THREADS)
    sizes = (np.int64(threads), columns, np.int64(x.stride(0)), down, right)
    added = None if cast.scale is None or cast.scale.name == "fp32" else ADDED[cast.scale_rounding]
    text = _text(cast.to.name, cast.floor, cast.full, added, SOURCES[x.dtype], whole)
    launch(kernel(text, "largest"), (blocks, 1), THREADS, sizes, [x, largest])
    launch(kernel(text, "cast"), (-(-threads // THREADS), 1), THREADS, sizes, [x, largest, scales, elements])
    return elements, scales


def _processors(device: int) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count


@cache
def _text(to: str, floor: float, full: float, added: int | None, source: str, whole: bool) -> str:
    """Return the CUDA file of both kernels. Magnitudes compare as their bits; a NaN is larger than all, then infinity."""
    power = "" if added is None else f"\n  scale = __int_as_float((__float_as_int(scale) + {added}) & 0x7F800000);"
    read = "__uint_as_float((unsigned)v[i] << 16)" if source == "unsigned short" else "v[i]"
    reduced = (
        """
  __shared__ unsigned of_warp[8];
  most = __reduce_max_sync(~0u, most);
  if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = most;
  __syncthreads();
  if (threadIdx.x == 0) {
    for (int i = 1; i < 8; ++i) most = max(most, of_warp[i]);
    atomicMax(largest, most);
  }"""
        if whole
        else """
  const unsigned same = __match_any_sync(~0u, at);
  most = __reduce_max_sync(same, most);
  if (at >= 0 && __ffs(same) - 1 == threadIdx.x % 32) atomicMax(largest + at, most);"""
    )
    return f"""
struct alignas(16) Eight {{ {source} v[{EACH}]; }};

__device__ inline void read(float (&x)[{EACH}], const {source} *p) {{
  const Eight found = *reinterpret_cast<const Eight *>(p);
  const {source} *v = found.v;
#pragma unroll
  for (int i = 0; i < {EACH}; ++i) x[i] = {read};
}}

/* threads: of the whole matrix, one for {EACH} neighbours; down, right: rows and columns of a group. */
extern "C" __global__ void largest(long threads, int columns, long stride, int down, int right, const {source} *x,
                                   unsigned *largest) {{
  const int across = (columns + right - 1) / right;
  unsigned most = 0;
  int at = -1;
  for (long t = blockIdx.x * {THREADS}l + threadIdx.x; t < threads; t += (long)gridDim.x * {THREADS}) {{
    const int row = t * {EACH} / columns, column = t * {EACH} % columns;
    float eight[{EACH}];
    read(eight, x + row * stride + column);
#pragma unroll
    for (int i = 0; i < {EACH}; ++i) most = max(most, __float_as_uint(eight[i]) & 0x7FFFFFFF);
    at = row / down * across + column / right;
  }}{reduced}
}}

extern "C" __global__ void cast(long threads, int columns, long stride, int down, int right, const {source} *x,
                                const unsigned *largest, float *scales, unsigned char *elements) {{
  const long t = blockIdx.x * {THREADS}l + threadIdx.x;
  if (t >= threads) return;
  const int row = t * {EACH} / columns, column = t * {EACH} % columns;
  const int at = row / down * ((columns + right - 1) / right) + column / right;
  const unsigned most = largest[at];
  float scale = fmaxf(__uint_as_float(most), {floor!r}f) / {full!r}f;{power}
  if (most >= 0x7F800000) scale = __int_as_float(0x7FC00000);
  if (row % down == 0 && column % right == 0) scales[at] = scale;
  float eight[{EACH}];
  read(eight, x + row * stride + column);
  unsigned short pairs[{EACH // 2}];
#pragma unroll
  for (int i = 0; i < {EACH // 2}; ++i) {{
    const float low = eight[2 * i] / scale, high = eight[2 * i + 1] / scale;
    asm("cvt.rn.satfinite.{to}x2.f32 %0, %1, %2;" : "=h"(pairs[i]) : "f"(high), "f"(low));
  }}
  *reinterpret_cast<uint2 *>(elements + t * {EACH}) = *reinterpret_cast<uint2 *>(pairs);
}}
"""
