// PTX of Hopper's asynchronous machinery, one function an instruction: mbarriers, bulk tensor copies, wgmma, clusters.
// NVRTC has no CUDA headers here, so the tensor map is an opaque block of bytes.

typedef unsigned long long u64;
typedef unsigned int u32;

struct alignas(64) TensorMap { char bytes[128]; };

__device__ __forceinline__ u32 shared_address(const void *p) { return (u32)__cvta_generic_to_shared(p); }

// -- mbarriers -------------------------------------------------------------------------------------------------------

__device__ __forceinline__ void barrier_init(u64 *bar, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(bar)), "r"(arrivals));
}

__device__ __forceinline__ void barrier_expect(u64 *bar, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(bar)), "r"(bytes) : "memory");
}

__device__ __forceinline__ void barrier_arrive(u64 *bar) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(bar)) : "memory");
}

// The same barrier in CTA `cta` of the cluster.
__device__ __forceinline__ void barrier_arrive(u64 *bar, int cta) {
  asm volatile("{ .reg .b32 remote; mapa.shared::cluster.u32 remote, %0, %1;\n"
               "mbarrier.arrive.shared::cluster.b64 _, [remote]; }" ::"r"(shared_address(bar)), "r"(cta)
               : "memory");
}

__device__ __forceinline__ void barrier_wait(u64 *bar, u32 parity) {
  u32 done;
  do {
    asm volatile("{ .reg .pred p; mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2; selp.u32 %0, 1, 0, p; }"
                 : "=r"(done) : "r"(shared_address(bar)), "r"(parity) : "memory");
  } while (!done);
}

__device__ __forceinline__ void named_sync(int id, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

__device__ __forceinline__ void named_arrive(int id, int threads) {
  asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
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

__device__ __forceinline__ float4 load_remote(u32 address, int cta) {
  float4 v;
  asm volatile("{ .reg .b32 remote; mapa.shared::cluster.u32 remote, %4, %5;\n"
               "ld.shared::cluster.v4.f32 {%0, %1, %2, %3}, [remote]; }"
               : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w) : "r"(address), "r"(cta) : "memory");
  return v;
}

// -- bulk tensor copies ----------------------------------------------------------------------------------------------

__device__ __forceinline__ void prefetch(const TensorMap *map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(map));
}

__device__ __forceinline__ void tma_load(void *to, const TensorMap *map, int x, int y, u64 *bar) {
  asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];" ::
               "r"(shared_address(to)), "l"(map), "r"(x), "r"(y), "r"(shared_address(bar)) : "memory");
}

// Into the same place of every CTA of `mask`, each told by its own barrier.
__device__ __forceinline__ void tma_load(void *to, const TensorMap *map, int x, int y, u64 *bar, unsigned short mask) {
  asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster"
               " [%0], [%1, {%2, %3}], [%4], %5;" ::
               "r"(shared_address(to)), "l"(map), "r"(x), "r"(y), "r"(shared_address(bar)), "h"(mask) : "memory");
}

// -- wgmma -----------------------------------------------------------------------------------------------------------

// K-major rows of 128 bytes, 128-byte swizzle: eight rows, 1024 bytes, are one atom.
__device__ __forceinline__ u64 descriptor(const void *p) {
  return (u64)((shared_address(p) & 0x3FFFF) >> 4) | (u64)1 << 16 | (u64)(1024 >> 4) << 32 | (u64)1 << 62;
}

__device__ __forceinline__ void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int LEFT> __device__ __forceinline__ void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(LEFT) : "memory");
}

// Keeps the compiler from moving reads and writes of an accumulator across wgmma's asynchronous ones.
template <int N> __device__ __forceinline__ void pin(float (&x)[N]) {
#pragma unroll
  for (int i = 0; i < N; ++i) asm volatile("" : "+f"(x[i])::"memory");
}

__device__ __forceinline__ void load_matrices(u32 (&x)[4], u32 address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3]) : "r"(address) : "memory");
}

// -- epilogue --------------------------------------------------------------------------------------------------------

__device__ __forceinline__ u32 pack_bf16(float low, float high) {
  u32 pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}

// Element i of lane q to element q of lane i, among four neighbouring lanes.
__device__ __forceinline__ void transpose4(u32 (&v)[4], int q) {
#pragma unroll
  for (int step = 1; step < 4; step *= 2) {
    const bool high = q & step;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (i & step) continue;
      const u32 got = __shfl_xor_sync(~0u, high ? v[i] : v[i | step], step);
      if (high) v[i] = got;
      else v[i | step] = got;
    }
  }
}

// -- the grids before and after in the stream ------------------------------------------------------------------------

// Waits until they have ended and their writes are seen; nothing of global memory is touched before.
__device__ __forceinline__ void wait_for_inputs() { asm volatile("griddepcontrol.wait;" ::: "memory"); }

// Lets the next one set itself up while this one runs.
__device__ __forceinline__ void release_next() { asm volatile("griddepcontrol.launch_dependents;"); }
