// What the tile kernels need beyond C++: the PTX instructions of Hopper, one function each. tests/on_cpu.h has the same
// functions by their definitions in the PTX ISA, so that the kernels also run, thread by thread, on a CPU.

// Until the grid before this one on the stream has ended and its writes are seen; nothing in global memory is touched before.
__device__ void wait_for_inputs() { asm volatile("griddepcontrol.wait;" ::: "memory"); }

// The next grid may start its CTAs where this one leaves room; it waits too.
__device__ void release_next() { asm volatile("griddepcontrol.launch_dependents;"); }

// 16 and 8 bytes that are read once: past L1, which has no use for them. Volatile, and not ld.global.nc, to stay behind the
// wait: ptxas 13 lifts loads of what it is told is constant over it.
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

// 8 bytes that this GPU does not read again: first to leave L2.
__device__ void store8_for_others(void *p, uint2 v) { __stcs((uint2 *)p, v); }

// Ask for the line of L2 that holds a byte. Harmless before the wait: nothing is read.
__device__ void prefetch(const void *p) { asm volatile("prefetch.global.L2 [%0];" ::"l"(p)); }

// The larger; NaN if either is.
__device__ float max_or_nan(float a, float b) {
  float d;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(d) : "f"(a), "f"(b));
  return d;
}

// Of two pairs of BF16 the larger magnitudes; the signs mean nothing. NaN if either is.
__device__ unsigned larger_pair(unsigned a, unsigned b) {
  unsigned d;
  asm("max.NaN.xorsign.abs.bf16x2 %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b));
  return d;
}

// Products of two pairs of BF16, each rounded to nearest even.
__device__ unsigned multiply_pairs(unsigned a, unsigned b) {
  unsigned d;
  asm("mul.rn.bf16x2 %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b));
  return d;
}

// Two numbers to E4M3, nearest even, saturating; the first in the low byte.
__device__ unsigned to_e4m3(float low, float high) {
  unsigned short d;
  asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(d) : "f"(high), "f"(low));
  return d;
}

// Two codes of E4M3 to a pair of FP16, the first in the low half; exact.
__device__ unsigned pair_from_e4m3(unsigned codes) {
  unsigned d;
  asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(d) : "h"((unsigned short)codes));
  return d;
}

// FP16 pairs, the first in the low half: from FP32, nearest even, and to FP32, exact. BF16 pairs from FP32.
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

// About 1 / x, for x and 1 / x not subnormal.
__device__ float reciprocal_estimate(float x) {
  float d;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(d) : "f"(x));
  return d;
}

// Makes the compiler believe that v has changed, so that it keeps no number derived from it in a register.
__device__ void renew(unsigned &v) { asm volatile("" : "+r"(v)); }
