// The part of CUDA that kernels/quantise/*.cu need, on a CPU. The threads of a CTA run one after the other up to each barrier or
// shuffle. The instructions of hopper.h follow their definitions in the PTX ISA.
#include <cmath>
#include <cstdint>
#include <cstring>
#include <ucontext.h>
#include <vector>

#define __device__
#define __global__
#define __shared__ static
#define __launch_bounds__(...)

struct uint2 { unsigned x, y; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
struct float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
struct Index { int x, y; };
static Index threadIdx, blockIdx, gridDim;

// -- threads: each runs until the next barrier or shuffle ------------------------------------------------------------

constexpr int THREADS = 256, STACK = 1 << 16;
static ucontext_t scheduler, threads[THREADS];
static bool finished[THREADS];
static unsigned deposit[THREADS];

static void meet() { swapcontext(&threads[threadIdx.x], &scheduler); }
static void __syncthreads() { meet(); }

template <class T> T exchange(T v, int from) {
  std::memcpy(&deposit[threadIdx.x], &v, 4);
  meet();
  std::memcpy(&v, &deposit[from], 4);
  meet();
  return v;
}
template <class T> T __shfl_xor_sync(unsigned, T v, int mask) { return exchange(v, threadIdx.x ^ mask); }
template <class T> T __shfl_sync(unsigned, T v, int lane, int width) {
  return exchange(v, threadIdx.x / width * width + lane % width);
}
template <class T> T __shfl_down_sync(unsigned, T v, int by) {
  return exchange(v, threadIdx.x % 32 + by < 32 ? threadIdx.x + by : threadIdx.x);
}
template <class T> T __shfl_up_sync(unsigned, T v, int by) {
  return exchange(v, threadIdx.x % 32 - by >= 0 ? threadIdx.x - by : threadIdx.x);
}

template <class Body> void run(int grid_x, int grid_y, Body body) {
  static Body *current;
  static std::vector<char> stacks(std::size_t(THREADS) * STACK);
  current = &body;
  gridDim = {grid_x, grid_y};
  for (blockIdx.y = 0; blockIdx.y < grid_y; ++blockIdx.y)
    for (blockIdx.x = 0; blockIdx.x < grid_x; ++blockIdx.x) {
      for (int t = 0; t < THREADS; ++t) {
        getcontext(&threads[t]);
        threads[t].uc_stack.ss_sp = &stacks[std::size_t(t) * STACK];
        threads[t].uc_stack.ss_size = STACK;
        threads[t].uc_link = &scheduler;
        finished[t] = false;
        makecontext(&threads[t], +[] { (*current)(); finished[threadIdx.x] = true; }, 0);
      }
      for (bool any = true; any;) {
        any = false;
        for (int t = 0; t < THREADS; ++t)
          if (!finished[t]) {
            threadIdx.x = t;
            swapcontext(&scheduler, &threads[t]);
            any = true;
          }
      }
    }
}

// -- arithmetic ------------------------------------------------------------------------------------------------------

static float __uint_as_float(unsigned u) { float x; std::memcpy(&x, &u, 4); return x; }
static unsigned __float_as_uint(float x) { unsigned u; std::memcpy(&u, &x, 4); return u; }
static float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
using std::fabs;
static unsigned __byte_perm(unsigned x, unsigned y, unsigned s) {
  const std::uint64_t both = std::uint64_t(y) << 32 | x;
  unsigned d = 0;
  for (int i = 0; i < 4; ++i) d |= unsigned(both >> (s >> 4 * i & 7) * 8 & 0xff) << 8 * i;
  return d;
}

static void wait_for_inputs() {}
static void release_next() {}
static uint4 load16(const void *p) { uint4 v; std::memcpy(&v, p, 16); return v; }
static uint2 load8(const void *p) { uint2 v; std::memcpy(&v, p, 8); return v; }
static void store8_for_others(void *p, uint2 v) { std::memcpy(p, &v, 8); }
static void prefetch(const void *p) { *(const volatile char *)p; }  // a GPU ignores a wrong address; here it is a fault
static void renew(unsigned &) {}

static float max_or_nan(float a, float b) { return a != a || b != b ? __uint_as_float(0x7fffffff) : a > b ? a : b; }

static unsigned larger_pair(unsigned a, unsigned b) {
  unsigned d = 0;
  for (int shift = 0; shift < 32; shift += 16) {
    const unsigned x = a >> shift & 0x7fff, y = b >> shift & 0x7fff, sign = (a ^ b) >> shift & 0x8000;
    d |= (x > 0x7f80 || y > 0x7f80 ? 0x7fff : (x > y ? x : y) | sign) << shift;
  }
  return d;
}

// Exponent and fraction fields, as one integer, of a magnitude rounded to nearest even in a format with `bits` fraction bits and
// exponents from `lowest` on.
static unsigned field(float x, int bits, int lowest) {
  int e;
  std::frexp(x, &e);
  e = x == 0 || e - 1 < lowest ? lowest : e - 1;
  const unsigned steps = unsigned(std::nearbyint(std::ldexp(double(x), bits - e)));
  return (unsigned(e - lowest) << bits) + steps;
}
static unsigned e4m3(float x) {
  if (x != x) return 0x7f;
  const float magnitude = std::fabs(x);
  const unsigned code = magnitude >= 448 ? 0x7e : field(magnitude, 3, -6);
  return code | (std::signbit(x) ? 0x80 : 0);
}
static unsigned to_e4m3(float low, float high) { return e4m3(low) | e4m3(high) << 8; }
static float of_e4m3(unsigned c) {
  const unsigned e = c >> 3 & 15, f = c & 7;
  if ((c & 0x7f) == 0x7f) return NAN;
  return std::copysign(std::ldexp(float(e ? 8 + f : f), int(e ? e : 1) - 10), c & 0x80 ? -1.0f : 1.0f);
}
static unsigned fp16(float x) {
  const unsigned sign = std::signbit(x) ? 0x8000 : 0;
  if (x != x) return 0x7fff;
  return sign | (std::fabs(x) >= 65520 ? 0x7c00 : field(std::fabs(x), 10, -14));
}
static unsigned pair_from_e4m3(unsigned c) { return fp16(of_e4m3(c & 0xff)) | fp16(of_e4m3(c >> 8 & 0xff)) << 16; }
static unsigned to_fp16(float low, float high) { return fp16(low) | fp16(high) << 16; }
static float of_fp16(unsigned c) {
  const unsigned e = c >> 10 & 31, f = c & 0x3ff;
  const float magnitude = e == 31 ? (f ? NAN : INFINITY) : std::ldexp(float(e ? 1024 + f : f), int(e ? e : 1) - 25);
  return std::copysign(magnitude, c & 0x8000 ? -1.0f : 1.0f);
}
static float2 from_fp16(unsigned pair) { return {of_fp16(pair & 0xffff), of_fp16(pair >> 16)}; }
static unsigned bf16(float x) {
  const unsigned u = __float_as_uint(x);
  return x != x ? 0x7fff : (u + 0x7fff + (u >> 16 & 1)) >> 16;
}
// The product of two BF16 numbers has 16 bits, so FP32 is exact except for its subnormals, where it is rounded to odd.
static unsigned bf16_of_double(double x) {
  float f = (float)x;
  if ((double)f != x && f == f && std::isfinite(f)) {
    unsigned u = __float_as_uint(f);
    if (std::fabs((double)f) > std::fabs(x)) --u;
    f = __uint_as_float(u | 1);
  }
  return bf16(f);
}
static unsigned multiply_pairs(unsigned a, unsigned b) {
  const double low = (double)__uint_as_float(a << 16) * __uint_as_float(b << 16);
  const double high = (double)__uint_as_float(a & 0xffff0000) * __uint_as_float(b & 0xffff0000);
  return bf16_of_double(low) | bf16_of_double(high) << 16;
}
static unsigned to_bf16(float low, float high) { return bf16(low) | bf16(high) << 16; }

// The estimate may be off by an ulp in either direction; here it alternates.
static float reciprocal_estimate(float x) {
  const unsigned u = __float_as_uint(x), turn = (u * 2654435761u) >> 30;
  const float r = 1.0f / x;
  return r != r ? r : __uint_as_float(__float_as_uint(r) + (turn == 1) - (turn == 2));
}
