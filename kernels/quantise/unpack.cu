// Packed E5M6, 12 bits per element with FP32 scales of 1x128 groups, to BF16: the product rounded to nearest even, which is exact
// for power-of-two scales unless the result is subnormal. A thread converts 8 elements of each of 4 rows. Of 4 threads, 3 read 16
// bytes of a row and pass words on. E5M6 is FP16 without its last 4 bits.

struct Arguments {
  long long m, k;
  const char *packed;
  long long pitch;  // bytes from row to row
  const float *scales;
  long long scale_pitch;  // floats from group to group
  char *out;
  long long out_pitch;  // bytes from row to row
};

__device__ unsigned two_bf16(unsigned codes, float scale) {
  const float2 v = from_fp16((codes & 0xfff) << 4 | (codes & 0xfff000) << 8);
  return to_bf16(v.x * scale, v.y * scale);
}

extern "C" __global__ void __launch_bounds__(256) unpack(const Arguments to) {
  const int tx = threadIdx.x % 16, column = blockIdx.x * 128 + tx * 8, row = blockIdx.y * 64 + threadIdx.x / 16 * 4;
  const int part = tx % 4;
  release_next();
  wait_for_inputs();
  uint4 words[4];
  float scale[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const bool inside = row + i < to.m && column < to.k;
    const char *from = to.packed + (row + i) * to.pitch + column / 32 * 48 + part * 16;
    words[i] = inside && part < 3 ? load16(from) : uint4{0, 0, 0, 0};
    scale[i] = inside ? to.scales[blockIdx.x * to.scale_pitch + row + i] : 0.0f;
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const uint4 v = words[i];
    const unsigned y = __shfl_up_sync(~0u, v.y, 1), z = __shfl_up_sync(~0u, v.z, 1), w = __shfl_up_sync(~0u, v.w, 1);
    const unsigned a = part == 0 ? v.x : part == 1 ? w : part == 2 ? z : y;
    const unsigned b = part == 0 ? v.y : part == 1 ? v.x : part == 2 ? w : z;
    const unsigned c = part == 0 ? v.z : part == 1 ? v.y : part == 2 ? v.x : w;
    const unsigned d[4] = {a, a >> 24 | b << 8, b >> 16 | c << 16, c >> 8};
    if (row + i < to.m && column < to.k)
      *(uint4 *)(to.out + (row + i) * to.out_pitch + column * 2) = {two_bf16(d[0], scale[i]), two_bf16(d[1], scale[i]),
                                                                    two_bf16(d[2], scale[i]), two_bf16(d[3], scale[i])};
  }
}
