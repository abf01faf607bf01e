// The functions of kernels/gemm/ptx.cuh by their definitions in the PTX ISA, for threads on a CPU (hopper_on_cpu.cpp).
// Asynchronous operations complete at adversarial moments, and undefined behaviour is an error.
#include <cmath>
#include <cstddef>
#include <cstring>

#define __device__
#define __global__
#define __forceinline__ inline
#define __noinline__
#define __grid_constant__
#define __launch_bounds__(...)

typedef unsigned long long u64;
typedef unsigned int u32;
struct Index { unsigned x; };
extern Index threadIdx, blockIdx, gridDim;

struct int2 { int x, y; };
struct float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
struct uint2 { u32 x, y; };
struct alignas(16) uint4 { u32 x, y, z, w; };
inline int2 make_int2(int x, int y) { return {x, y}; }
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline uint4 make_uint4(u32 x, u32 y, u32 z, u32 w) { return {x, y, z, w}; }
inline int min(int a, int b) { return a < b ? a : b; }
inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline u32 __byte_perm(u32 x, u32 y, u32 s) {
  const u64 both = (u64)y << 32 | x;
  u32 result = 0;
  for (int i = 0; i < 4; ++i) result |= u32(both >> 8 * (s >> 4 * i & 7) & 255) << 8 * i;  // bit 3 of a selector is not used here
  return result;
}
inline float __int2float_rn(int x) { return x; }
inline float __int_as_float(int x) { float y; std::memcpy(&y, &x, 4); return y; }

// A tensor map as the emulator reads it (gemm_on_cpu.py writes it).
struct alignas(64) TensorMap {
  char *data;
  long long width, rows, pitch;  // elements, rows, bytes
  int box_x, box_y, element, swizzle;
  char pad[80];
};
static_assert(sizeof(TensorMap) == 128);

u32 shared_address(const void *p);
char *shared_memory();
void read_shared(u32 address, void *to, int bytes);
void write_shared(u32 address, const void *from, int bytes);
inline float load_shared(u32 address) { float x; read_shared(address, &x, 4); return x; }
inline float2 load_shared2(u32 address) { float2 x; read_shared(address, &x, 8); return x; }
inline float4 load_shared4(u32 address) { float4 x; read_shared(address, &x, 16); return x; }
inline void store_shared(u32 address, float x) { write_shared(address, &x, 4); }
inline void store_shared2(u32 address, float x, float y) { const float2 v{x, y}; write_shared(address, &v, 8); }
inline u32 load_byte(u32 address) { unsigned char x; read_shared(address, &x, 1); return x; }
inline uint2 load_words2(u32 address) { uint2 x; read_shared(address, &x, 8); return x; }
inline uint4 load_words4(u32 address) { uint4 x; read_shared(address, &x, 16); return x; }
inline void store_word(u32 address, u32 x) { write_shared(address, &x, 4); }
inline void store_words4(u32 address, u32 a, u32 b, u32 c, u32 d) { const uint4 v{a, b, c, d}; write_shared(address, &v, 16); }
float load_global(const float *p);

void barrier_init(u32 bar, int arrivals);
void fence_barrier_init();
void barrier_expect(u32 bar, int bytes);
void barrier_arrive(u32 bar);
void barrier_arrive(u32 bar, int cta);
u32 barrier_test(u32 bar, u32 parity);
void barrier_wait(u32 bar, u32 parity);
inline u32 barrier_done(u32 bar, u32 parity, bool asked) { return asked && barrier_test(bar, parity); }
void named_sync(int id, int threads);
void __syncthreads();
void __syncwarp();
u32 shuffle(u32 v, int lane);
inline u32 __shfl_sync(u32, u32 v, int lane) { return shuffle(v, lane); }
inline float __shfl_sync(u32, float v, int lane) {
  u32 bits;
  std::memcpy(&bits, &v, 4);
  bits = shuffle(bits, lane);
  std::memcpy(&v, &bits, 4);
  return v;
}

inline bool elected() { return threadIdx.x % 32 == 0; }
int cluster_rank();
void cluster_sync();
void send(u32 to, int cta, float4 v, u32 bar);

inline void prefetch(const TensorMap *) {}
inline void tma_prefetch(const TensorMap *, int, int) {}
void tma_load(u32 to, const TensorMap *map, int x, int y, u32 bar, unsigned short mask);
void tma_load(u32 to, const TensorMap *map, int x, int y, u32 bar);
void tma_write(const TensorMap *map, u32 from, int x, int y, bool add);
inline void tma_store(const TensorMap *map, u32 from, int x, int y) { tma_write(map, from, x, y, false); }
inline void tma_add(const TensorMap *map, u32 from, int x, int y) { tma_write(map, from, x, y, true); }
void tma_commit();
void tma_wait_read();
void fence_async();

inline u32 descriptor(u32 address) { return (address & 0x3FFFF) >> 4 | 1 << 16; }
void wgmma_fence();
void wgmma_commit();
void wgmma_wait_all_but(int left);
template <int LEFT> void wgmma_wait() { wgmma_wait_all_but(LEFT); }
void multiply(void *d, int count, u32 a, u32 b, u32 high, int add, bool whole);
template <int N> void wgmma(float (&d)[N], u32 a, u32 b, int add) { multiply(d, N, a, b, DESCRIPTOR_HIGH, add, false); }
template <int N> void wgmma(int (&d)[N], u32 a, u32 b, int add) { multiply(d, N, a, b, DESCRIPTOR_HIGH, add, true); }
template <class T, int N> void pin(T (&)[N]) {}

u32 pack_bf16(float low, float high);
void store_matrices(u32 address, u32 a, u32 b, u32 c, u32 d);
void wait_for_inputs();
void release_next();
template <int> void fewer_registers() {}
template <int> void more_registers() {}

// Runs one launch; returns the first fault, or null. `body` is the kernel, run by every thread.
struct Launch {
  int ctas, cluster, threads, shared_bytes;
  unsigned seed;
  const float *scale_a, *scale_a_end, *scale_b, *scale_b_end;  // memory that load_global may read
};
const char *simulate(const Launch &launch, void (*body)(void *), void *context);
