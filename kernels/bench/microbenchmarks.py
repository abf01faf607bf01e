"""CUDA C++ of the microbenchmarks: small kernels that load one part of the GPU and read its clock.

Each source has one kernel, `run`. machine.py launches them and derives constants from the clocks.
"""

from __future__ import annotations

WGMMA_K = {"e4m3": 32, "bf16": 16}
"""K of one wgmma, 32 bytes, by operand type."""

COMMON = """
typedef unsigned long long u64;
__device__ __forceinline__ unsigned hashed(unsigned x) {
  x ^= x >> 16; x *= 0x7feb352dU; x ^= x >> 15; x *= 0x846ca68bU; return x ^ x >> 16;
}
__device__ __forceinline__ unsigned shared_address(const void *p) { return (unsigned)__cvta_generic_to_shared(p); }
"""

BARRIER = """
__device__ __forceinline__ void barrier_init(u64 *b, int count) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" :: "r"(shared_address(b)), "r"(count));
}
__device__ __forceinline__ void barrier_expect(u64 *b, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" :: "r"(shared_address(b)), "r"(bytes) : "memory");
}
__device__ __forceinline__ void barrier_wait(u64 *b, int phase) {
  asm volatile("{ .reg .pred p; again: mbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1; @!p bra again; }"
               :: "r"(shared_address(b)), "r"(phase) : "memory");
}
__device__ __forceinline__ void bulk_load(void *to, const void *from, int bytes, u64 *b) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];"
               :: "r"(shared_address(to)), "l"(from), "r"(bytes), "r"(shared_address(b)) : "memory");
}
"""


def wgmma(
    kind: str,
    n: int,
    warpgroups: int,
    *,
    every: int = 0,
    ordered: bool = False,
    wait_each: bool = False,
    ffma_beside: bool = False,
) -> str:
    """Return a kernel with chains of m64 wgmmas from shared memory (128-byte swizzle).

    Each warpgroup has its own A and accumulators; all share one B. The kernel writes the clocks of each warpgroup.

    `every`: wgmmas between promotions, which add the accumulators to FP32 registers by FFMA; 0 for none. `ordered`: the
    warpgroups alternate, so that one promotes while the other's wgmmas run. `wait_each`: wait for every wgmma, which shows
    its latency. `ffma_beside`: one more warpgroup issues only FFMAs; the kernel writes their number.
    """
    count = n // 2
    registers = ", ".join(f"%{j}" for j in range(count))
    outs = ", ".join(f'"+f"(x[{j}])' for j in range(count))
    signs = ", 1, 1" + (", 0, 0" if kind == "bf16" else "")
    opcode = f"wgmma.mma_async.sync.aligned.m64n{n}k{WGMMA_K[kind]}.f32.{kind}.{kind}"
    step = f"{opcode} {{{registers}}}, %{count}, %{count + 1}, p{signs};"
    issue = f"""asm volatile("{{ .reg .pred p; setp.ne.b32 p, %{count + 2}, 0; {step} }}"
        : {outs} : "l"(a + 2 * (j & 3)), "l"(b + 2 * (j & 3)), "r"(scale));"""
    chain = 1 if wait_each else every or 4
    promote = f"""
#pragma unroll
      for (int i = 0; i < {count}; ++i) y[i] = fmaf(x[i], factor, y[i]);"""
    first_turn = take_turn = give_turn = last_turn = ""
    if ordered:  # barriers 1 and 2 signal the turn of the first and second warpgroup
        first_turn = 'if (group == 1) asm volatile("bar.arrive 1, 256;" ::: "memory");'
        take_turn = 'asm volatile("bar.sync %0, 256;" :: "r"(1 + group) : "memory");'
        give_turn = 'asm volatile("bar.arrive %0, 256;" :: "r"(2 - group) : "memory");'
        last_turn = 'if (group == 0) asm volatile("bar.sync 1, 256;" ::: "memory");'
    # Random bits that are E4M3 below 2 or BF16 around 1, of both signs: finite, and their sums do not overflow.
    mask, exponent = ("0xbfbfbfbfu", "0u") if kind == "e4m3" else ("0x80ff80ffu", "0x3f003f00u")
    return f"""{COMMON}
__device__ __forceinline__ u64 descriptor(const void *p) {{
  return (u64)((shared_address(p) & 0x3FFFF) >> 4) | (u64)64 << 32 | (u64)1 << 62;
}}
extern "C" __global__ void __launch_bounds__({128 * (warpgroups + ffma_beside)})
run(long long *clocks, float *sink, int iterations, float factor) {{
  extern __shared__ __align__(1024) unsigned char raw[];
  __shared__ volatile int finished;
  unsigned char *memory = (unsigned char *)(((u64)raw + 1023) & ~1023ull);
  for (int i = threadIdx.x; i < {(warpgroups * 64 + n) * 128 // 4}; i += blockDim.x)
    ((unsigned *)memory)[i] = (hashed(i + 977 * blockIdx.x) & {mask}) | {exponent};
  if (threadIdx.x == 0) finished = 0;
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
  __syncthreads();
  const int group = threadIdx.x / 128;
  const int slot = blockIdx.x * {warpgroups + ffma_beside} + group;
  if (group < {warpgroups}) {{
    const u64 a = descriptor(memory + group * 64 * 128), b = descriptor(memory + {warpgroups} * 64 * 128);
    float x[{count}], y[{count}];
    for (int i = 0; i < {count}; ++i) x[i] = 0, y[i] = 0;
    const long long start = clock64();
    {first_turn}
    for (int t = 0; t < iterations; ++t) {{
      {take_turn}
      asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#pragma unroll
      for (int j = 0; j < {chain}; ++j) {{
        const int scale = {"j != 0" if every else "1"};
        {issue}
      }}
      asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
      {give_turn}
      asm volatile("wgmma.wait_group.sync.aligned {0 if every or wait_each else 1};" ::: "memory");
{promote if every else ""}
    }}
    asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
    {last_turn}
    const long long end = clock64();
    if (threadIdx.x % 128 == 0) clocks[slot] = end - start;
    finished = 1;
    float sum = 0;
    for (int i = 0; i < {count}; ++i) sum += x[i] + y[i];
    sink[blockIdx.x * blockDim.x + threadIdx.x] = sum;
  }} else {{
    float z[16];
    for (int i = 0; i < 16; ++i) z[i] = threadIdx.x + i;
    long long done = 0;
    while (!finished) {{
#pragma unroll 1
      for (int t = 0; t < 8; ++t)
#pragma unroll
        for (int u = 0; u < 16; ++u)
#pragma unroll
          for (int i = 0; i < 16; ++i) z[i] = fmaf(z[i], factor, factor);
      done += 8 * 16 * 16;
    }}
    float sum = 0;
    for (int i = 0; i < 16; ++i) sum += z[i];
    if (threadIdx.x % 128 == 0) clocks[slot] = done;
    sink[blockIdx.x * blockDim.x + threadIdx.x] = sum;
  }}
}}
"""


def wgmma_shared_bytes(n: int, warpgroups: int) -> int:
    """Return the dynamic shared memory of `wgmma`, bytes."""
    return (warpgroups * 64 + n) * 128 + 1024


FFMA_BATCH = 256
"""FFMAs per thread in one iteration of `FFMA`."""

FFMA = f"""
extern "C" __global__ void __launch_bounds__(512) run(long long *clocks, float *sink, int iterations, float factor) {{
  float z[16];
  for (int i = 0; i < 16; ++i) z[i] = threadIdx.x + i;
  __syncthreads();
  const long long start = clock64();
#pragma unroll 1
  for (int t = 0; t < iterations; ++t)
#pragma unroll
    for (int u = 0; u < {FFMA_BATCH // 16}; ++u)
#pragma unroll
      for (int i = 0; i < 16; ++i) z[i] = fmaf(z[i], factor, factor);
  __syncthreads();
  const long long end = clock64();
  float sum = 0;
  for (int i = 0; i < 16; ++i) sum += z[i];
  if (threadIdx.x == 0) clocks[blockIdx.x] = end - start;
  sink[blockIdx.x * blockDim.x + threadIdx.x] = sum;
}}
"""

SHARED_READS = 16
"""16-byte reads per thread in one iteration of `SHARED_READ`."""

SHARED_READ = f"""
extern "C" __global__ void __launch_bounds__(512) run(long long *clocks, float *sink, int iterations, float factor) {{
  __shared__ uint4 data[2048];
  for (int i = threadIdx.x; i < 2048; i += 512) data[i] = make_uint4(i * 2654435761u, i, i ^ 77, ~i);
  __syncthreads();
  unsigned x = 0, base = (unsigned)__cvta_generic_to_shared(data + threadIdx.x);
  const long long start = clock64();
#pragma unroll 1
  for (int t = 0; t < iterations; ++t) {{
    uint4 v[{SHARED_READS}];
#pragma unroll
    for (int u = 0; u < {SHARED_READS}; ++u)
      asm volatile("ld.volatile.shared.v4.u32 {{%0, %1, %2, %3}}, [%4];"
                   : "=r"(v[u].x), "=r"(v[u].y), "=r"(v[u].z), "=r"(v[u].w) : "r"(base + (u & 3) * 8192));
#pragma unroll
    for (int u = 0; u < {SHARED_READS}; ++u) x ^= v[u].x;
  }}
  __syncthreads();
  const long long end = clock64();
  if (threadIdx.x == 0) clocks[blockIdx.x] = end - start;
  sink[blockIdx.x * blockDim.x + threadIdx.x] = x * factor;
}}
"""

# The grid reads `count` 16-byte words, starting over after `wrap` words.
MEMORY_READ = """
extern "C" __global__ void __launch_bounds__(1024)
run(const uint4 *from, unsigned *sink, long long count, long long wrap) {
  const long long stride = (long long)gridDim.x * blockDim.x, first = (long long)blockIdx.x * blockDim.x + threadIdx.x;
  unsigned x = 0;
  long long i = first;
  for (long long t = first; t < count; t += 8 * stride) {
    uint4 v[8];
#pragma unroll
    for (int u = 0; u < 8; ++u) {
      asm volatile("ld.global.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
                   : "=r"(v[u].x), "=r"(v[u].y), "=r"(v[u].z), "=r"(v[u].w) : "l"(from + i));
      i += stride;
      if (i >= wrap) i -= wrap;
    }
#pragma unroll
    for (int u = 0; u < 8; ++u) x ^= v[u].x ^ v[u].y ^ v[u].z ^ v[u].w;
  }
  if (x == 0x12345678u) *sink = x;
}
"""

MEMORY_WRITE = """
extern "C" __global__ void __launch_bounds__(1024) run(uint4 *to, unsigned seed, long long count) {
  const long long stride = (long long)gridDim.x * blockDim.x;
  for (long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x; i < count; i += stride) {
    const unsigned x = ((unsigned)i ^ seed) * 2654435761u;
    to[i] = make_uint4(x, x ^ seed, ~x, x + 1);
  }
}
"""

TMA_STAGES = 6
"""Bulk copies in flight per CTA in `TMA_READ`."""
TMA_BYTES = 32768
"""Size of each of these copies, bytes."""

TMA_READ = f"""{COMMON}{BARRIER}
extern "C" __global__ void __launch_bounds__(32)
run(const char *from, long long copies, long long wrap) {{
  extern __shared__ __align__(128) unsigned char memory[];
  __shared__ u64 full[{TMA_STAGES}];
  if (threadIdx.x) return;
  for (int s = 0; s < {TMA_STAGES}; ++s) barrier_init(full + s, 1);
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  long long issued = blockIdx.x, waited = blockIdx.x;
  for (int s = 0; s < {TMA_STAGES} && issued < copies; ++s, issued += gridDim.x) {{
    barrier_expect(full + s, {TMA_BYTES});
    bulk_load(memory + s * {TMA_BYTES}, from + issued % wrap * {TMA_BYTES}, {TMA_BYTES}, full + s);
  }}
  for (int s = 0, phase = 0; waited < copies; waited += gridDim.x) {{
    barrier_wait(full + s, phase);
    if (issued < copies) {{
      barrier_expect(full + s, {TMA_BYTES});
      bulk_load(memory + s * {TMA_BYTES}, from + issued % wrap * {TMA_BYTES}, {TMA_BYTES}, full + s);
      issued += gridDim.x;
    }}
    if (++s == {TMA_STAGES}) s = 0, phase ^= 1;
  }}
}}
"""

TMA_LATENCY = f"""{COMMON}{BARRIER}
extern "C" __global__ void __launch_bounds__(32)
run(const char *from, long long *clocks, int bytes, int rounds, long long stride) {{
  extern __shared__ __align__(128) unsigned char memory[];
  __shared__ u64 full;
  if (threadIdx.x) return;
  barrier_init(&full, 1);
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  for (int t = 0; t < rounds; ++t) {{
    const long long start = clock64();
    barrier_expect(&full, bytes);
    bulk_load(memory, from + t * stride, bytes, &full);
    barrier_wait(&full, t & 1);
    clocks[t] = clock64() - start;
  }}
}}
"""

SPIN = """
extern "C" __global__ void __launch_bounds__(128) run(long long cycles) {
  const long long start = clock64();
  while (clock64() - start < cycles) {}
}
"""
