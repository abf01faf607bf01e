/* Enough of CUDA for a C++ compiler to run the GPU engine's kernels on this machine, thread after thread, for
 * tests/test_emulated.py. A kernel with Tensor Core instructions runs a warp at a time, as 32 threads that meet at each
 * instruction; what it computes is written here from the rules of the catalogue (hopper.yaml), not from the engine. */
#define __CUDACC__ 1
#include <cmath>
#include <cfenv>
#include <cstring>
#include <cstdint>
#include <thread>
#include <barrier>
#include <algorithm>
#include <tuple>
#include <vector>
#undef INFINITY
#undef NAN
using std::min; using std::max; using std::fabs; using std::trunc; using std::rint; using std::floor; using std::ceil; using std::copysign; using std::fma;
#define __device__
#define __forceinline__ inline
#define __noinline__
#define __global__
#define __launch_bounds__(...)
#define __restrict__
struct D3 { unsigned x, y, z; };
static thread_local D3 threadIdx, blockIdx;
template <class T, class U> static inline T as(U u) { T t; memcpy(&t, &u, sizeof t); return t; }
static inline long long __double_as_longlong(double x) { return as<long long>(x); }
static inline double __longlong_as_double(long long x) { return as<double>(x); }
static inline float __int_as_float(int x) { return as<float>(x); }
static inline int __float_as_int(float x) { return as<int>(x); }
static inline unsigned __float_as_uint(float x) { return as<unsigned>(x); }
static inline int __double2hiint(double x) { return (int)(as<long long>(x) >> 32); }
static inline int __double2loint(double x) { return (int)as<long long>(x); }
static inline double __hiloint2double(int h, int l) { return as<double>((long long)((unsigned long long)(unsigned)h << 32 | (unsigned)l)); }
#define ROUNDED(name, mode, T, args, expr) static __attribute__((noinline)) T name args { fesetround(mode); volatile T r = expr; fesetround(FE_TONEAREST); return r; }
#define V(x) ({ volatile auto v_ = x; v_; })
ROUNDED(__fma_rz, FE_TOWARDZERO, double, (double a, double b, double c), std::fma(V(a), V(b), V(c)))
ROUNDED(__fma_rd, FE_DOWNWARD, double, (double a, double b, double c), std::fma(V(a), V(b), V(c)))
ROUNDED(__fma_ru, FE_UPWARD, double, (double a, double b, double c), std::fma(V(a), V(b), V(c)))
ROUNDED(__fma_rn, FE_TONEAREST, double, (double a, double b, double c), std::fma(V(a), V(b), V(c)))
ROUNDED(__fmaf_rz, FE_TOWARDZERO, float, (float a, float b, float c), std::fmaf(V(a), V(b), V(c)))
ROUNDED(__fmaf_rn, FE_TONEAREST, float, (float a, float b, float c), std::fmaf(V(a), V(b), V(c)))
ROUNDED(__dadd_rz, FE_TOWARDZERO, double, (double a, double b), V(a) + V(b))
ROUNDED(__dadd_rd, FE_DOWNWARD, double, (double a, double b), V(a) + V(b))
ROUNDED(__dadd_ru, FE_UPWARD, double, (double a, double b), V(a) + V(b))
ROUNDED(__dadd_rn, FE_TONEAREST, double, (double a, double b), V(a) + V(b))
ROUNDED(__fadd_rz, FE_TOWARDZERO, float, (float a, float b), V(a) + V(b))
ROUNDED(__fadd_rn, FE_TONEAREST, float, (float a, float b), V(a) + V(b))
ROUNDED(__double2float_rz, FE_TOWARDZERO, float, (double a), (float)V(a))
ROUNDED(__double2float_rn, FE_TONEAREST, float, (double a), (float)V(a))
static inline int __popc(unsigned x) { return __builtin_popcount(x); }
static inline unsigned __byte_perm(unsigned x, unsigned y, unsigned s) {
  unsigned char b[8]; memcpy(b, &x, 4); memcpy(b + 4, &y, 4); unsigned r = 0;
  for (int i = 0; i < 4; ++i) r |= (unsigned)b[s >> 4 * i & 7] << 8 * i;
  return r;
}
static inline unsigned each16(unsigned a, unsigned b, unsigned c, bool mx) {
  unsigned r = 0;
  for (int i = 0; i < 2; ++i) { short x = (short)((short)(a >> 16 * i) + (short)(b >> 16 * i)), y = (short)(c >> 16 * i); r |= (unsigned)(unsigned short)(mx ? max(x, y) : min(x, y)) << 16 * i; }
  return r;
}
static inline unsigned __viaddmax_s16x2(unsigned a, unsigned b, unsigned c) { return each16(a, b, c, true); }
static inline unsigned __viaddmin_s16x2(unsigned a, unsigned b, unsigned c) { return each16(a, b, c, false); }
static inline int __viaddmax_s32(int a, int b, int c) { return max((int)((unsigned)a + b), c); }
static inline int __viaddmin_s32_relu(int a, int b, int c) { return max(min((int)((unsigned)a + b), c), 0); }
static inline unsigned atomicMax(unsigned *p, unsigned v) { unsigned o = *p; if (v > o) *p = v; return o; }

/* -- warps: every thread shows its registers, all wait, each reads what it needs ------------------------------------ */

static std::barrier<> bar(32);
struct Lane { unsigned a[16], b[8]; double da[8], db[4]; int any; };
static Lane lanes[32];
static inline int lane_id() { return threadIdx.x % 32; }
static inline int __any_sync(unsigned, int p) {
  lanes[lane_id()].any = p; bar.arrive_and_wait(); int r = 0; for (auto &l : lanes) r |= l.any; bar.arrive_and_wait(); return r;
}
static inline unsigned __reduce_max_sync(unsigned, unsigned v) { return v; } /* a thread alone: every thread tries */
static double bf(unsigned h) { return (double)as<float>(h << 16); }
static int expo(double v) { int e = (int)(as<long long>(v) >> 52 & 0x7FF) - 1023; return max(e, -126); }
/* HMMA: terms shifted to the largest exponent, cut 25 bits below, towards zero, added, rounded towards zero. */
static float fused(const double *x, const double *y, int n, float c) {
  double plain = c; bool special = !std::isfinite(c);
  for (int i = 0; i < n; ++i) { plain += x[i] * y[i]; special |= !std::isfinite(x[i]) | !std::isfinite(y[i]); }
  if (special) return std::isnan(plain) ? as<float>(0x7fffffff) : (float)plain;
  int top = -133;
  for (int i = 0; i < n; ++i) if (x[i] != 0 && y[i] != 0) top = max(top, expo(x[i]) + expo(y[i]));
  if (c != 0) top = max(top, expo(c));
  __int128 s = 0; /* units of 2**(top - 25) */
  for (int i = 0; i < n; ++i) s += (long long)std::trunc(std::ldexp(x[i] * y[i], 25 - top));
  s += (long long)std::trunc(std::ldexp((double)c, 25 - top));
  bool neg = s < 0; unsigned __int128 m = neg ? -s : s; int sh = 0;
  while (m >> 24) { m >>= 1; ++sh; }
  double v = std::ldexp((double)(unsigned long long)m, sh + top - 25);
  float f = __double2float_rz(v);
  return neg && f != 0 ? -f : f;
}
#define HM(NA, NB, K) \
  Lane &me = lanes[lane_id()]; for (int i = 0; i < NA; ++i) me.a[i] = A[i]; for (int i = 0; i < NB; ++i) me.b[i] = Bq[i]; \
  bar.arrive_and_wait(); const int g = lane_id() / 4, t = lane_id() % 4;
static void hmma_any(float (&d)[4], const unsigned *A, const unsigned *Bq, int k, const float (&c)[4]) {
  HM(k / 4, k / 8, k)
  float r[4];
  for (int i = 0; i < 4; ++i) {
    const int row = g, half = i / 2, col = 2 * t + i % 2; double x[16], y[16];
    for (int q = 0; q < k; ++q) {
      const int chunk = q / 8, th = q % 8 / 2, part = q % 2;
      x[q] = bf(lanes[row * 4 + th].a[chunk * 2 + half] >> 16 * part & 0xFFFF);
      y[q] = bf(lanes[col * 4 + th].b[chunk] >> 16 * part & 0xFFFF);
    }
    r[i] = fused(x, y, k, c[i]);
  }
  bar.arrive_and_wait();
  for (int i = 0; i < 4; ++i) d[i] = r[i];
}
static void hmma(float (&d)[4], unsigned a0, unsigned a1, unsigned a2, unsigned a3, unsigned b0, unsigned b1, const float (&c)[4]) { unsigned A[] = {a0, a1, a2, a3}, B[] = {b0, b1}; hmma_any(d, A, B, 16, c); }
static void hmma(float (&d)[4], unsigned a0, unsigned a1, unsigned b0, const float (&c)[4]) { unsigned A[] = {a0, a1}, B[] = {b0}; hmma_any(d, A, B, 8, c); }
static void imma_any(int (&d)[4], const unsigned *A, const unsigned *Bq, int k, const int *c) {
  HM(k / 8, k / 16, k)
  int r[4];
  for (int i = 0; i < 4; ++i) {
    const int row = g, half = i / 2, col = 2 * t + i % 2; unsigned s = (unsigned)c[i];
    for (int q = 0; q < k; ++q) { const int chunk = q / 16, th = q % 16 / 4, part = q % 4;
      s += (unsigned)((int)(signed char)(lanes[row * 4 + th].a[chunk * 2 + half] >> 8 * part) * (int)(signed char)(lanes[col * 4 + th].b[chunk] >> 8 * part)); }
    r[i] = (int)s;
  }
  bar.arrive_and_wait();
  for (int i = 0; i < 4; ++i) d[i] = r[i];
}
static void imma(int (&d)[4], unsigned a0, unsigned a1, unsigned a2, unsigned a3, unsigned b0, unsigned b1, const int *c) { unsigned A[] = {a0, a1, a2, a3}, B[] = {b0, b1}; imma_any(d, A, B, 32, c); }
static void imma(int (&d)[4], unsigned a0, unsigned a1, unsigned b0, const int *c) { unsigned A[] = {a0, a1}, B[] = {b0}; imma_any(d, A, B, 16, c); }
template <bool CUT, int K> static void dmma_any(double (&c)[4], const double *A, const double *B) {
  Lane &me = lanes[lane_id()]; for (int i = 0; i < K / 2; ++i) me.da[i] = A[i]; for (int i = 0; i < K / 4; ++i) me.db[i] = B[i];
  bar.arrive_and_wait(); const int g = lane_id() / 4, t = lane_id() % 4;
  double r[4];
  for (int i = 0; i < 4; ++i) { r[i] = c[i]; const int half = i / 2, col = 2 * t + i % 2;
    for (int q = 0; q < K; ++q) { double x = lanes[g * 4 + q % 4].da[q / 4 * 2 + half], y = lanes[col * 4 + q % 4].db[q / 4]; r[i] = CUT ? __fma_rz(x, y, r[i]) : __fma_rn(x, y, r[i]); } }
  bar.arrive_and_wait();
  for (int i = 0; i < 4; ++i) c[i] = r[i];
}
template <bool CUT> static void dmma(double (&c)[4], const double (&a)[8], const double (&b)[4]) { dmma_any<CUT, 16>(c, a, b); }
template <bool CUT> static void dmma(double (&c)[4], const double (&a)[2], const double (&b)[1]) { dmma_any<CUT, 4>(c, a, b); }
