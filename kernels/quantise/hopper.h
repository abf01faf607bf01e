// PTX instructions of Hopper that the quantisation kernels use, one function each. tests/on_cpu.h has the same functions by their
// definitions in the PTX ISA, so that the kernels also run on a CPU, thread by thread.

// Waits until the previous grid on the stream has ended and its writes are visible; no access to global memory may precede this.
__device__ void wait_for_inputs() { asm volatile("griddepcontrol.wait;" ::: "memory"); }

// Lets the next grid start its CTAs where this one leaves room; it waits for this one in turn.
__device__ void release_next() { asm volatile("griddepcontrol.launch_dependents;"); }

// Load 16 or 8 bytes that are read once, without allocating them in L1. Volatile and not ld.global.nc, so that the loads stay
// behind the wait: ptxas 13 moves loads that it is told are constant before it.
__device__ uint4 load16(const void *p) {
  uint4 v;
  asm volatile("ld.global.L1::no_allocate.v4.b32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(p));
  return v;
}
__device__ uint2 load8(const void *p) {
  uint2 v;
  asm volatile("ld.global.L1::no_allocate.v2.b32 {%0, %1}, [%2];" : "=r"(v.x), "=r"(v.y) : "l"(p));
  return v;
}

// Stores 8 bytes that this GPU does not read again, to be evicted from L2 first.
__device__ void store8_for_others(void *p, uint2 v) { __stcs((uint2 *)p, v); }

// Prefetches the line that holds a byte into L2. Allowed before the wait, since nothing is read.
__device__ void prefetch(const void *p) { asm volatile("prefetch.global.L2 [%0];" ::"l"(p)); }

// The larger value; NaN if either is NaN.
__device__ float max_or_nan(float a, float b) {
  float d;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(d) : "f"(a), "f"(b));
  return d;
}

// The larger magnitudes of two BF16 pairs, with meaningless signs; NaN if either is NaN.
__device__ unsigned larger_pair(unsigned a, unsigned b) {
  unsigned d;
  asm("max.NaN.xorsign.abs.bf16x2 %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b));
  return d;
}

// The products of two BF16 pairs, each rounded to nearest even.
__device__ unsigned multiply_pairs(unsigned a, unsigned b) {
  unsigned d;
  asm("mul.rn.bf16x2 %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b));
  return d;
}

// Two values as E4M3, rounded to nearest even, saturating; the first is in the low byte.
__device__ unsigned to_e4m3(float low, float high) {
  unsigned short d;
  asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(d) : "f"(high), "f"(low));
  return d;
}

// Two E4M3 codes as an FP16 pair, exact; the first is in the low half.
__device__ unsigned pair_from_e4m3(unsigned codes) {
  unsigned d;
  asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(d) : "h"((unsigned short)codes));
  return d;
}

// Conversions of pairs, the first in the low half: FP32 to FP16 and to BF16, rounded to nearest even; FP16 to FP32, exact.
__device__ unsigned to_fp16(float low, float high) {
  unsigned d;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(d) : "f"(high), "f"(low));
  return d;
}
__device__ float2 from_fp16(unsigned pair) {
  float2 v;
  asm("{.reg .b16 l, u; mov.b32 {l, u}, %2; cvt.f32.f16 %0, l; cvt.f32.f16 %1, u;}" : "=f"(v.x), "=f"(v.y) : "r"(pair));
  return v;
}
__device__ unsigned to_bf16(float low, float high) {
  unsigned d;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(d) : "f"(high), "f"(low));
  return d;
}

// An estimate of 1 / x; neither x nor 1 / x may be subnormal.
__device__ float reciprocal_estimate(float x) {
  float d;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(d) : "f"(x));
  return d;
}

// Makes the compiler assume that v has changed, so that it keeps no value derived from v in a register.
__device__ void renew(unsigned &v) { asm volatile("" : "+r"(v)); }
