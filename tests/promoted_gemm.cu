// An FP8 GEMM with promotion as a box of `codesign probe cu:`, for one dot product a line: E4M3 mma.sync with C = 0 for every
// PROMOTED products, whose result CUDA cores add to the running value in FP32, to nearest.
//
// A warp computes one tile of 16 by 8. Its line i is row i and column i, so that 8 lines lie on the tile's diagonal; rows 8 to 15
// are zeros. Fragments are those of PTX ISA 9.7.14.5, mma.m16n8k32 of 8-bit operands. K is a multiple of 32.

#include <cstdint>

#ifndef PROMOTED
#define PROMOTED 128
#endif
constexpr int TILE = 8, STEP = 32;

__global__ void promoted(long lines, long k, const uint32_t *a, const uint32_t *b, const float *c, float *d) {
  const int lane = threadIdx.x, row = lane / 4, part = lane % 4;  // of both A's rows and B's columns
  const long line = blockIdx.x * long(TILE) + row, words = k / 4;
  const bool inside = line < lines;
  float total = inside ? c[line] : 0.0f;
  for (long first = 0; first < k; first += PROMOTED) {
    float sum[4] = {};
    for (long step = first; step < k && step < first + PROMOTED; step += STEP) {
      const long at = line * words + step / 4 + part;
      const uint32_t a0 = inside ? a[at] : 0, a2 = inside ? a[at + 4] : 0, b0 = inside ? b[at] : 0, b1 = inside ? b[at + 4] : 0;
      asm volatile(
          "mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e4m3.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
          : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
          : "r"(a0), "r"(0), "r"(a2), "r"(0), "r"(b0), "r"(b1));
    }
    total = __fadd_rn(total, sum[row % 2]);  // on the diagonal in the thread whose columns are `row` and its neighbour
  }
  if (inside && part == row / 2) d[line] = total;
}

extern "C" int run(long lines, long k, const void *a, const void *b, const void *c, const void *, const void *, void *d) {
  const void *given[] = {a, b, c};
  const size_t sizes[] = {size_t(lines * k), size_t(lines * k), lines * sizeof(float), lines * sizeof(float)};
  void *on_gpu[4] = {};
  cudaError_t status = k % STEP ? cudaErrorInvalidValue : cudaSuccess;
  for (int i = 0; i < 4 && !status; ++i) {
    status = cudaMalloc(&on_gpu[i], sizes[i]);
    if (!status && i < 3) status = cudaMemcpy(on_gpu[i], given[i], sizes[i], cudaMemcpyHostToDevice);
  }
  if (!status) {
    promoted<<<(lines + TILE - 1) / TILE, 32>>>(lines, k, static_cast<uint32_t *>(on_gpu[0]), static_cast<uint32_t *>(on_gpu[1]),
                                                static_cast<float *>(on_gpu[2]), static_cast<float *>(on_gpu[3]));
    status = cudaGetLastError();
  }
  if (!status) status = cudaMemcpy(d, on_gpu[3], sizes[3], cudaMemcpyDeviceToHost);
  for (void *x : on_gpu) cudaFree(x);
  return status;
}
