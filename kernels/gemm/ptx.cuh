// PTX of Hopper's asynchronous instructions, one function each: mbarriers, bulk tensor copies, wgmma, clusters.
// NVRTC has no CUDA headers here, so the tensor map is an opaque block of bytes.

typedef unsigned long long u64;
typedef unsigned int u32;

struct alignas(64) TensorMap { char bytes[128]; };

__device__ __forceinline__ u32 shared_address(const void *p) { return (u32)__cvta_generic_to_shared(p); }

__device__ __forceinline__ float load_shared(u32 address) {
  float x;
  asm volatile("ld.shared.f32 %0, [%1];" : "=f"(x) : "r"(address) : "memory");
  return x;
}

__device__ __forceinline__ float2 load_shared2(u32 address) {
  float2 x;
  asm volatile("ld.shared.v2.f32 {%0, %1}, [%2];" : "=f"(x.x), "=f"(x.y) : "r"(address) : "memory");
  return x;
}

__device__ __forceinline__ float4 load_shared4(u32 address) {
  float4 v;
  asm volatile("ld.shared.v4.f32 {%0, %1, %2, %3}, [%4];" : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w) : "r"(address) : "memory");
  return v;
}

__device__ __forceinline__ void store_shared(u32 address, float x) {
  asm volatile("st.shared.f32 [%0], %1;" ::"r"(address), "f"(x) : "memory");
}

__device__ __forceinline__ void store_shared2(u32 address, float x, float y) {
  asm volatile("st.shared.v2.f32 [%0], {%1, %2};" ::"r"(address), "f"(x), "f"(y) : "memory");
}

__device__ __forceinline__ u32 load_byte(u32 address) {
  u32 x;
  asm volatile("ld.shared.u8 %0, [%1];" : "=r"(x) : "r"(address) : "memory");
  return x;
}

__device__ __forceinline__ uint2 load_words2(u32 address) {
  uint2 v;
  asm volatile("ld.shared.v2.u32 {%0, %1}, [%2];" : "=r"(v.x), "=r"(v.y) : "r"(address) : "memory");
  return v;
}

__device__ __forceinline__ uint4 load_words4(u32 address) {
  uint4 v;
  asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "r"(address) : "memory");
  return v;
}

__device__ __forceinline__ void store_word(u32 address, u32 x) {
  asm volatile("st.shared.u32 [%0], %1;" ::"r"(address), "r"(x) : "memory");
}

__device__ __forceinline__ void store_words4(u32 address, u32 a, u32 b, u32 c, u32 d) {
  asm volatile("st.shared.v4.u32 [%0], {%1, %2, %3, %4};" ::"r"(address), "r"(a), "r"(b), "r"(c), "r"(d) : "memory");
}

// Loads from global memory. Volatile, so that the load stays in place. Not ld.global.nc, although the data is only read: ptxas may
// move loads that it is told are constant before the wait for the previous grid.
__device__ __forceinline__ float load_global(const float *p) {
  float x;
  asm volatile("ld.global.f32 %0, [%1];" : "=f"(x) : "l"(p));
  return x;
}

// -- mbarriers -------------------------------------------------------------------------------------------------------

__device__ __forceinline__ void barrier_init(u32 bar, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(bar), "r"(arrivals));
}

// Makes initialised barriers visible to the other CTAs of the cluster and to bulk copies.
__device__ __forceinline__ void fence_barrier_init() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }

__device__ __forceinline__ void barrier_expect(u32 bar, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(bar), "r"(bytes) : "memory");
}

__device__ __forceinline__ void barrier_arrive(u32 bar) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(bar) : "memory");
}

// Arrives at the same barrier in CTA `cta` of the cluster.
__device__ __forceinline__ void barrier_arrive(u32 bar, int cta) {
  asm volatile("{ .reg .b32 remote; mapa.shared::cluster.u32 remote, %0, %1;\n"
               "mbarrier.arrive.shared::cluster.b64 _, [remote]; }" ::"r"(bar), "r"(cta)
               : "memory");
}

// Returns whether the phase of this parity is complete or completes soon; false unless `asked`.
__device__ __forceinline__ u32 barrier_done(u32 bar, u32 parity, bool asked) {
  u32 done;
  asm volatile("{ .reg .pred p, q; setp.ne.u32 q, %3, 0; setp.ne.u32 p, 0, 0;\n"
               "@q mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2; selp.u32 %0, 1, 0, p; }"
               : "=r"(done) : "r"(bar), "r"(parity), "r"((u32)asked) : "memory");
  return done;
}

__device__ __forceinline__ void barrier_wait(u32 bar, u32 parity) {
  while (!barrier_done(bar, parity, true)) {
  }
}

__device__ __forceinline__ void named_sync(int id, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

// -- clusters --------------------------------------------------------------------------------------------------------

__device__ __forceinline__ int cluster_rank() {
  int rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}

__device__ __forceinline__ void cluster_sync() {
  asm volatile("barrier.cluster.arrive.release.aligned; barrier.cluster.wait.acquire.aligned;" ::: "memory");
}

// Writes 16 bytes to the shared memory of CTA `cta` of the cluster; its barrier counts them on arrival.
__device__ __forceinline__ void send(u32 to, int cta, float4 v, u32 bar) {
  asm volatile("{ .reg .b32 place, told; mapa.shared::cluster.u32 place, %0, %1; mapa.shared::cluster.u32 told, %2, %1;\n"
               "st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.f32 [place], {%3, %4, %5, %6}, [told]; }" ::
               "r"(to), "r"(cta), "r"(bar), "f"(v.x), "f"(v.y), "f"(v.z), "f"(v.w) : "memory");
}

// -- one thread of a warp --------------------------------------------------------------------------------------------

// Returns true in one thread of the warp. ptxas knows that one thread runs what follows, as it does not after a comparison of
// threadIdx, and needs no loop over the threads around each bulk copy.
__device__ __forceinline__ bool elected() {
  u32 mine;
  asm volatile("{ .reg .pred p; elect.sync _|p, 0xFFFFFFFF; selp.u32 %0, 1, 0, p; }" : "=r"(mine));
  return mine;
}

// -- bulk tensor copies ----------------------------------------------------------------------------------------------

__device__ __forceinline__ void prefetch(const TensorMap *map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(map));
}

__device__ __forceinline__ void tma_load(u32 to, const TensorMap *map, int x, int y, u32 bar) {
  asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];" ::
               "r"(to), "l"(map), "r"(x), "r"(y), "r"(bar) : "memory");
}

// Multicast: loads to the same address in every CTA of `mask`; each CTA's own barrier counts the bytes.
__device__ __forceinline__ void tma_load(u32 to, const TensorMap *map, int x, int y, u32 bar, unsigned short mask) {
  asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster"
               " [%0], [%1, {%2, %3}], [%4], %5;" ::
               "r"(to), "l"(map), "r"(x), "r"(y), "r"(bar), "h"(mask) : "memory");
}

// Prefetches into L2.
__device__ __forceinline__ void tma_prefetch(const TensorMap *map, int x, int y) {
  asm volatile("cp.async.bulk.prefetch.tensor.2d.L2.global [%0, {%1, %2}];" ::"l"(map), "r"(x), "r"(y) : "memory");
}

__device__ __forceinline__ void tma_store(const TensorMap *map, u32 from, int x, int y) {
  asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%0, {%1, %2}], [%3];" ::
               "l"(map), "r"(x), "r"(y), "r"(from) : "memory");
}

__device__ __forceinline__ void tma_add(const TensorMap *map, u32 from, int x, int y) {
  asm volatile("cp.reduce.async.bulk.tensor.2d.global.shared::cta.add.bulk_group [%0, {%1, %2}], [%3];" ::
               "l"(map), "r"(x), "r"(y), "r"(from) : "memory");
}

__device__ __forceinline__ void tma_commit() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }

// Waits until all bulk stores of this thread have read shared memory.
__device__ __forceinline__ void tma_wait_read() { asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory"); }

// Makes ordinary writes to shared memory visible to the following bulk copies.
__device__ __forceinline__ void fence_async() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// -- wgmma -----------------------------------------------------------------------------------------------------------

// Low word of an operand's descriptor: K-major rows of 128 bytes, 128-byte swizzle, atoms of eight rows (1024 bytes). An offset in
// bytes, divided by 16, may be added. The high word is the same for all operands (tile.py, DESCRIPTOR_HIGH).
__device__ __forceinline__ u32 descriptor(u32 address) { return (address & 0x3FFFF) >> 4 | 1 << 16; }

__device__ __forceinline__ void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int LEFT> __device__ __forceinline__ void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(LEFT) : "memory");
}

// Keeps the compiler from moving accesses to an accumulator across asynchronous wgmmas.
template <int N> __device__ __forceinline__ void pin(float (&x)[N]) {
#pragma unroll
  for (int i = 0; i < N; ++i) asm volatile("" : "+f"(x[i])::"memory");
}
template <int N> __device__ __forceinline__ void pin(int (&x)[N]) {
#pragma unroll
  for (int i = 0; i < N; ++i) asm volatile("" : "+r"(x[i])::"memory");
}

// -- epilogue --------------------------------------------------------------------------------------------------------

__device__ __forceinline__ u32 pack_bf16(float low, float high) {
  u32 pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}

__device__ __forceinline__ void store_matrices(u32 address, u32 a, u32 b, u32 c, u32 d) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::
               "r"(address), "r"(a), "r"(b), "r"(c), "r"(d) : "memory");
}

// -- previous and next grid on the stream ---------------------------------------------------------------------------

// Waits until the previous grid has ended and its writes are visible; no access to global memory may precede this.
__device__ __forceinline__ void wait_for_inputs() { asm volatile("griddepcontrol.wait;" ::: "memory"); }

// Lets the next grid start while this one runs.
__device__ __forceinline__ void release_next() { asm volatile("griddepcontrol.launch_dependents;"); }

// -- registers: a warpgroup releases some, another takes them -----------------------------------------------------------

template <int COUNT> __device__ __forceinline__ void fewer_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(COUNT));
}
template <int COUNT> __device__ __forceinline__ void more_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(COUNT));
}
