// D = A B^T on Hopper's FP8 Tensor Cores, group scales and promotion to FP32 included: one persistent, warp-specialised kernel.
//
// A producer warp feeds a ring of shared-memory stages, 128 of K each, by bulk tensor copies. Math warpgroups multiply a
// stage into `part`, starting from zero, and add `part` times its scales to `acc` in FP32: the promotion that Hopper's
// e8m13 accumulator needs. While one warpgroup promotes, the other's wgmmas run. The tile's parameters stand before this
// text as constants (config.py):
//   BM, BN      rows and columns of D in a CTA's tile;  WGS_M x WGS_N math warpgroups share it
//   STAGES      stages of the ring
//   SHARE       0; 1: two CTAs side by side along N share A; 2: two along M share B, each loading half for both (multicast)
//   SPLIT       CTAs of a cluster that share a tile, each with a stretch of K; summed in ascending order of K
//   PROMOTE     wgmmas (32 of K each) between promotions; 0: never, the Tensor Core's accumulator runs through. With group
//               scales that is a timing twin: they are loaded but not applied, and D is wrong by design
//   SCALES      0: one for A times one for B, in the epilogue;  1: A 1x128, B 128x128;  2: A 1x128, B 1x128
//   OUT         bytes of an element of D: 2 BF16, 4 FP32;  ADD: D += instead of D =
//   GROUPED     rows come in groups, each with its own B: group g has rows [starts[g], starts[g] + counts[g])
//   WIDE        a warpgroup's 64 rows are two instructions wide, and A comes from registers, so that shared memory is read less
//   ORDER       1: the warpgroups take turns at issuing wgmmas;  RESIDENT: CTAs that share an SM

static_assert(PROMOTE <= 4 || (BM == 64 * WGS_M && !WIDE), "only one part outlives a stage");
static_assert(!(GROUPED && ADD) && !(SHARE && SPLIT > 1), "not built");
constexpr int WGS = WGS_M * WGS_N, MATH = WGS * 128, THREADS = MATH + 128;
constexpr int WM = BM / WGS_M, WN = BN / WGS_N;
constexpr int PARTS = WIDE ? 2 : WM / 64, PN = WIDE ? WN / 2 : WN, NACC = PN / 2;  // a warpgroup's tile, 64 x PN an instruction
constexpr int CLUSTER = SHARE ? 2 : SPLIT;
constexpr int PAIR_M = SHARE == 2 ? 2 : 1, PAIR_N = SHARE == 1 ? 2 : 1;
constexpr int A_ROWS = SHARE == 1 ? BM / 2 : BM, B_ROWS = SHARE == 2 ? BN / 2 : BN;  // of one copy

constexpr int A_BYTES = BM * 128, B_BYTES = BN * 128, STAGE = A_BYTES + B_BYTES;
constexpr int SA_BOX = GROUPED ? BM + 4 : BM;  // a group's first row may lie anywhere, a copy starts at a multiple of 4
constexpr int SA_FLOATS = SCALES ? (SA_BOX + 31) / 32 * 32 : 0, SB_FLOATS = SCALES == 2 ? (BN + 31) / 32 * 32 : 0;
constexpr int EXPECTED = STAGE + (SCALES ? SA_BOX * 4 : 0) + (SCALES == 2 ? BN * 4 : 0);
constexpr int SCALES_AT = STAGES * STAGE, BARRIERS_AT = SCALES_AT + STAGES * (SA_FLOATS + SB_FLOATS) * 4;
constexpr int ENDS_AT = BARRIERS_AT + STAGES * 16;

constexpr int STEP = PN % 128 == 0 ? 128 : PN % 64 == 0 ? 64 : PN % 32 == 0 ? 32 : 16;  // of a tile's offset in a 128 block
constexpr int BLOCKS_N = STEP == 128 ? (PN + 127) / 128 : (128 - STEP + PN + 127) / 128;  // scales of B that a part can meet
constexpr int COLUMNS = BLOCKS_N * (WIDE ? 2 : 1);

struct Arguments {
  const float *scale_b, *one_a, *one_b;
  const int *starts, *counts;
  void *d;
  int m, n, k, groups, band;  // band: tiles along M that are visited together, for the L2
};

struct Tile {
  int row, rows, column;  // first row of A and D, rows that count, first column of D
  int group, from, to;    // group of B, and the stretch of K in steps of 128
};

// Walks the tiles of this cluster; every role walks the same way.
struct Walk {
  const Arguments &p;
  const int *ends;
  int t, g = 0;
  const int steps, columns;

  __device__ Walk(const Arguments &p, const int *ends)
      : p(p), ends(ends), t(blockIdx.x / CLUSTER), steps((p.k + 127) / 128), columns((p.n + BN * PAIR_N - 1) / (BN * PAIR_N)) {}

  __device__ bool next(Tile &tile) {
    const int rank = CLUSTER > 1 ? cluster_rank() : 0;
    int start = 0, count = p.m, local = t;
    if (GROUPED) {
      while (g < p.groups && t >= ends[g]) ++g;
      if (g == p.groups) return false;
      local -= g ? ends[g - 1] : 0;
      start = p.starts[g], count = p.counts[g];
    }
    const int rows = (count + BM * PAIR_M - 1) / (BM * PAIR_M);
    if (!GROUPED && t >= rows * columns) return false;
    const int first = local / (p.band * columns) * p.band, height = min(p.band, rows - first);
    const int i = local - first * columns;
    const int row = ((first + i % height) * PAIR_M + (SHARE == 2 ? rank : 0)) * BM;
    tile.row = start + row;
    tile.rows = count - row;
    tile.column = (i / height * PAIR_N + (SHARE == 1 ? rank : 0)) * BN;
    tile.group = g;
    const int part = SPLIT > 1 ? rank : 0;
    tile.from = part * (steps / SPLIT) + min(part, steps % SPLIT);
    tile.to = tile.from + steps / SPLIT + (part < steps % SPLIT);
    t += gridDim.x / CLUSTER;
    return true;
  }
};

// The fragment of A for wgmma number j of a stage: 16 rows of the warp, 32 of K.
__device__ __forceinline__ void load_a(u32 (&x)[4], const char *rows, int j) {
  const int lane = threadIdx.x % 32, row = threadIdx.x / 32 % 4 * 16 + lane % 16, chunk = j * 2 + lane / 16;
  load_matrices(x, shared_address(rows + row * 128 + ((chunk ^ row % 8) << 4)));
}

struct Ring {
  int stage = 0;
  u32 parity = 0;
  __device__ void step() {
    if (++stage == STAGES) stage = 0, parity ^= 1;
  }
};

// acc += part * scale, the promotion. `f`: scale of the rows of this thread times that of each block of columns;
// O: the tile's offset in its first block.
template <int O> __device__ __forceinline__ void promote(float (&acc)[NACC], const float (&part)[NACC], const float (&f)[BLOCKS_N][2]) {
#pragma unroll
  for (int i = 0; i < NACC / 4; ++i) {
    constexpr int last = BLOCKS_N - 1;
    const int block = (O + 8 * i) / 128 < last ? (O + 8 * i) / 128 : last;
#pragma unroll
    for (int j = 0; j < 4; ++j) acc[4 * i + j] = __fmaf_rn(part[4 * i + j], f[block][j / 2], acc[4 * i + j]);
  }
}

template <int O = 0> __device__ __forceinline__ void promote_at(int offset, float (&acc)[NACC], const float (&part)[NACC], const float (&f)[BLOCKS_N][2]) {
  if constexpr (O + STEP < 128) {
    if (offset != O) return promote_at<O + STEP>(offset, acc, part, f);
  }
  promote<O>(acc, part, f);
}

// The same with a scale for every column, in shared memory: acc += part * (scale of row * scale of column).
__device__ __forceinline__ void promote_rows(float (&acc)[NACC], const float (&part)[NACC], float low, float high, const float *sb) {
  const int q = threadIdx.x % 4 * 2;
#pragma unroll
  for (int i = 0; i < NACC / 4; ++i) {
    const float2 s = *(const float2 *)(sb + 8 * i + q);
    acc[4 * i] = __fmaf_rn(part[4 * i], __fmul_rn(low, s.x), acc[4 * i]);
    acc[4 * i + 1] = __fmaf_rn(part[4 * i + 1], __fmul_rn(low, s.y), acc[4 * i + 1]);
    acc[4 * i + 2] = __fmaf_rn(part[4 * i + 2], __fmul_rn(high, s.x), acc[4 * i + 2]);
    acc[4 * i + 3] = __fmaf_rn(part[4 * i + 3], __fmul_rn(high, s.y), acc[4 * i + 3]);
  }
}

__device__ constexpr int part_row(int h) { return WIDE ? 0 : h * 64; }
__device__ constexpr int part_column(int h) { return WIDE ? h * PN : 0; }

// Stores 8 consecutive elements of D, or adds to them.
__device__ __forceinline__ void store8(const Arguments &p, size_t at, const float (&x)[8]) {
  if constexpr (OUT == 2) {
    *(uint4 *)((unsigned short *)p.d + at) =
        make_uint4(pack_bf16(x[0], x[1]), pack_bf16(x[2], x[3]), pack_bf16(x[4], x[5]), pack_bf16(x[6], x[7]));
  } else {
    float4 *const d = (float4 *)((float *)p.d + at);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      float4 v = make_float4(x[4 * i], x[4 * i + 1], x[4 * i + 2], x[4 * i + 3]);
      if (ADD) {
        const float4 old = d[i];
        v = make_float4(__fadd_rn(old.x, v.x), __fadd_rn(old.y, v.y), __fadd_rn(old.z, v.z), __fadd_rn(old.w, v.w));
      }
      d[i] = v;
    }
  }
}

// A part of a warpgroup's tile to memory, straight from registers. Four lanes hold a row's pairs of columns; for BF16 they
// first exchange them among four groups of 8 columns, so that each stores 16 bytes and together 64 in a row.
__device__ __forceinline__ void store_part(const Arguments &p, const float (&acc)[NACC], int row, int rows, int column) {
  const int lane = threadIdx.x % 32, q = lane % 4, r = threadIdx.x / 32 % 4 * 16 + lane / 4;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const bool inside = r + half * 8 < rows;
    const size_t at = (size_t)(row + r + half * 8) * p.n + column;
    constexpr int GROUPS = NACC / 4, ROUNDS = OUT == 2 ? GROUPS / 4 * 4 : 0;
#pragma unroll
    for (int g = 0; g < ROUNDS; g += 4) {
      u32 v[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) v[i] = pack_bf16(acc[4 * (g + i) + 2 * half], acc[4 * (g + i) + 2 * half + 1]);
      transpose4(v, q);
      if (inside && column + (g + q) * 8 < p.n)
        *(uint4 *)((unsigned short *)p.d + at + (g + q) * 8) = make_uint4(v[0], v[1], v[2], v[3]);
    }
#pragma unroll
    for (int g = ROUNDS; g < GROUPS; ++g) {
      if (!inside || column + g * 8 >= p.n) continue;
      const size_t to = at + g * 8 + 2 * q;
      const float low = acc[4 * g + 2 * half], high = acc[4 * g + 2 * half + 1];
      if (OUT == 2) *(u32 *)((unsigned short *)p.d + to) = pack_bf16(low, high);
      else {
        float2 *const d = (float2 *)((float *)p.d + to);
        *d = ADD ? make_float2(__fadd_rn(d->x, low), __fadd_rn(d->y, high)) : make_float2(low, high);
      }
    }
  }
}

// Sum of the stretches of K that the CTAs of the cluster hold, in ascending order of K, and D's rows stored by all of them.
__device__ __forceinline__ void reduce_split(const Arguments &p, float (&acc)[PARTS][NACC], char *shared, int wg, const Tile &tile) {
  constexpr int PITCH = BN + 4;
  const int warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32;
  const bool math = threadIdx.x < MATH;
  if (math) {
    named_sync(1, MATH);  // every warpgroup has read the stages
#pragma unroll
    for (int h = 0; h < PARTS; ++h)
#pragma unroll
      for (int i = 0; i < NACC / 2; ++i) {
        const int row = wg / WGS_N * WM + part_row(h) + warp * 16 + lane / 4 + i % 2 * 8;
        const int column = wg % WGS_N * WN + part_column(h) + i / 2 * 8 + lane % 4 * 2;
        *(float2 *)(shared + (row * PITCH + column) * 4) = make_float2(acc[h][2 * i], acc[h][2 * i + 1]);
      }
  }
  cluster_sync();
  if (math) {
    constexpr int ROWS = BM / SPLIT, CHUNKS = BN / 8;
    for (int j = threadIdx.x; j < ROWS * CHUNKS; j += MATH) {
      const int row = cluster_rank() * ROWS + j / CHUNKS, column = j % CHUNKS * 8;
      const u32 at = shared_address(shared) + (row * PITCH + column) * 4;
      float x[8];
#pragma unroll
      for (int cta = 0; cta < SPLIT; ++cta) {
        const float4 low = load_remote(at, cta), high = load_remote(at + 16, cta);
        const float y[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
#pragma unroll
        for (int i = 0; i < 8; ++i) x[i] = cta ? __fadd_rn(x[i], y[i]) : y[i];
      }
      if (row >= tile.rows || tile.column + column >= p.n) continue;
      if (SCALES == 0) {
        const float alpha = __fmul_rn(*p.one_a, *p.one_b);
#pragma unroll
        for (int i = 0; i < 8; ++i) x[i] = __fmul_rn(x[i], alpha);
      }
      const size_t to = (size_t)(tile.row + row) * p.n + tile.column + column;
      store8(p, to, x);
    }
  }
  cluster_sync();  // nobody leaves while others read its shared memory
}

extern "C" __global__ void __launch_bounds__(THREADS, RESIDENT)
run(const __grid_constant__ TensorMap a, const __grid_constant__ TensorMap b, const __grid_constant__ TensorMap sa,
    const __grid_constant__ TensorMap sb, const __grid_constant__ Arguments p) {
  extern __shared__ __align__(1024) char shared[];
  u64 *const full = (u64 *)(shared + BARRIERS_AT), *const empty = full + STAGES;
  int *const ends = (int *)(shared + ENDS_AT);
  float *const scales = (float *)(shared + SCALES_AT);

  if (threadIdx.x == 0) {
    prefetch(&a), prefetch(&b);
    if (SCALES) prefetch(&sa);
    if (SCALES == 2) prefetch(&sb);
    for (int s = 0; s < STAGES; ++s) barrier_init(full + s, 1), barrier_init(empty + s, WGS * 4 * (SHARE ? 2 : 1));
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  }
  release_next();
  wait_for_inputs();
  if (GROUPED && threadIdx.x < 32) {  // tiles up to the end of each group
    int before = 0;
#pragma unroll 1
    for (int g = threadIdx.x; g < (p.groups + 31) / 32 * 32; g += 32) {
      int tiles = g < p.groups ? (p.counts[g] + BM * PAIR_M - 1) / (BM * PAIR_M) * ((p.n + BN * PAIR_N - 1) / (BN * PAIR_N)) : 0;
      for (int step = 1; step < 32; step *= 2) {
        const int left = __shfl_up_sync(~0u, tiles, step);
        if (threadIdx.x >= step) tiles += left;
      }
      if (g < p.groups) ends[g] = before + tiles;
      before += __shfl_sync(~0u, tiles, 31);
    }
  }
  __syncwarp();
  if (CLUSTER > 1) cluster_sync();
  else __syncthreads();

  const int wg = threadIdx.x / 128;
  Walk walk(p, ends);
  Tile tile;
  Ring ring;
  if (wg == WGS) {
    if (WGS == 2) asm volatile("setmaxnreg.dec.sync.aligned.u32 56;");
    if (threadIdx.x == MATH) {
      const int rank = SHARE ? cluster_rank() : 0;
      while (walk.next(tile)) {
        for (int k = tile.from; k < tile.to; ++k, ring.step()) {
          char *const to = shared + ring.stage * STAGE;
          u64 *const bar = full + ring.stage;
          barrier_wait(empty + ring.stage, ring.parity ^ 1);
          barrier_expect(bar, EXPECTED);
          const int b_row = tile.group * p.n + tile.column;
          if (SHARE == 1) tma_load(to + rank * A_ROWS * 128, &a, k * 128, tile.row + rank * A_ROWS, bar, 3);
          else tma_load(to, &a, k * 128, tile.row, bar);
          if (SHARE == 2) tma_load(to + A_BYTES + rank * B_ROWS * 128, &b, k * 128, b_row + rank * B_ROWS, bar, 3);
          else tma_load(to + A_BYTES, &b, k * 128, b_row, bar);
          float *const s = scales + ring.stage * (SA_FLOATS + SB_FLOATS);
          if (SCALES) tma_load(s, &sa, GROUPED ? tile.row & ~3 : tile.row, k, bar);
          if (SCALES == 2) tma_load(s + SA_FLOATS, &sb, b_row, k, bar);
        }
      }
    }
    __syncwarp();
    if (SPLIT > 1) {
      float none[PARTS][NACC];
      reduce_split(p, none, shared, wg, tile);
    }
  } else {
    if (WGS == 2) asm volatile("setmaxnreg.inc.sync.aligned.u32 224;");
    const int warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32;
    const int row = wg / WGS_N * WM, column = wg % WGS_N * WN;  // of the warpgroup's tile in the CTA's
    const int k_groups = (p.k + 127) / 128, n_blocks = (p.n + 127) / 128;
    const auto release = [&](int stage) {
      if (SHARE) {
        if (lane < 2) barrier_arrive(empty + stage, lane);
      } else if (lane == 0) barrier_arrive(empty + stage);
    };
    const float alpha = SCALES == 0 ? __fmul_rn(*p.one_a, *p.one_b) : 1.0f;
    if (ORDER && wg == 1) named_arrive(8, 256);

    while (walk.next(tile)) {
      __syncwarp();
      float acc[PARTS][NACC];
#pragma unroll
      for (int h = 0; h < PARTS; ++h)
#pragma unroll
        for (int i = 0; i < NACC; ++i) acc[h][i] = 0.0f;
      const int offset = (tile.column + column) % 128;
      const float *of_b[COLUMNS];  // the scales of B along K, for each block of columns
      float next_b[COLUMNS];
      if (SCALES == 1) {
#pragma unroll
        for (int j = 0; j < COLUMNS; ++j) {
          const int block = (tile.column + column + part_column(j / BLOCKS_N)) / 128 + j % BLOCKS_N;
          of_b[j] = p.scale_b + ((size_t)tile.group * n_blocks + min(block, n_blocks - 1)) * k_groups;
          next_b[j] = __ldg(of_b[j] + tile.from);
        }
      }
      float part[NACC];
      float loaded = 0.0f;  // a timing twin's use of its scales
      int before = -1;  // stage whose wgmmas may still run

      for (int k = tile.from; k < tile.to; ++k, ring.step()) {
        float f_b[COLUMNS];
#pragma unroll
        for (int j = 0; j < COLUMNS; ++j) f_b[j] = SCALES == 1 ? next_b[j] : 0.0f;
        if (SCALES == 1) {
#pragma unroll
          for (int j = 0; j < COLUMNS; ++j) next_b[j] = __ldg(of_b[j] + min(k + 1, tile.to - 1));
        }
        barrier_wait(full + ring.stage, ring.parity);
        const char *const stage = shared + ring.stage * STAGE;
        const u64 of_a = descriptor(stage + row * 128), to_b = descriptor(stage + A_BYTES + column * 128);
        u32 in_registers[4][4];
        if (WIDE) {
#pragma unroll
          for (int j = 0; j < 4; ++j) load_a(in_registers[j], stage + row * 128, j);
        }
        const auto multiply = [&](float(&to)[NACC], int h, int j, int add) {
          if constexpr (WIDE) wgmma(to, in_registers[j], to_b + h * PN * 8 + j * 2, add);
          else wgmma(to, of_a + h * 512 + j * 2, to_b + j * 2, add);
        };
        const float *const s = scales + ring.stage * (SA_FLOATS + SB_FLOATS), *const s_a = GROUPED ? s + (tile.row & 3) : s;

        if constexpr (PROMOTE == 0) {
          if (SCALES) {
#pragma unroll
            for (int h = 0; h < (WIDE ? 1 : PARTS); ++h) {
              const int r = row + part_row(h) + warp * 16 + lane / 4;
              loaded += s_a[r] + s_a[r + 8];
            }
#pragma unroll
            for (int j = 0; j < COLUMNS; ++j) loaded += f_b[j];
          }
          if (SCALES == 2) {
#pragma unroll
            for (int i = 0; i < WN / 8; ++i) {
              const float2 of = *(const float2 *)(s + SA_FLOATS + column + 8 * i + lane % 4 * 2);
              loaded += of.x + of.y;
            }
          }
#pragma unroll
          for (int h = 0; h < PARTS; ++h) pin(acc[h]);
          wgmma_fence();
#pragma unroll
          for (int h = 0; h < PARTS; ++h)
#pragma unroll
            for (int j = 0; j < 4; ++j) multiply(acc[h], h, j, 1);
          wgmma_commit();
#pragma unroll
          for (int h = 0; h < PARTS; ++h) pin(acc[h]);
          wgmma_wait<1>();
          if (before >= 0) release(before);
          before = ring.stage;
        } else {
#pragma unroll
          for (int h = 0; h < PARTS; ++h) {
            float f[BLOCKS_N][2];
            float low = 1.0f, high = 1.0f;
            if (SCALES) {
              const int r = row + part_row(h) + warp * 16 + lane / 4;
              low = s_a[r], high = s_a[r + 8];
            }
#pragma unroll
            for (int j = 0; j < BLOCKS_N; ++j)
            {
              const float of = f_b[WIDE ? h * BLOCKS_N + j : j];
              f[j][0] = SCALES == 1 ? __fmul_rn(low, of) : low, f[j][1] = SCALES == 1 ? __fmul_rn(high, of) : high;
            }
            constexpr int RUNS = 0 < PROMOTE && PROMOTE < 4 ? 4 / PROMOTE : 1;  // promotions of a stage
            constexpr int STEPS = PROMOTE > 4 ? PROMOTE / 4 : 1;  // stages of a promotion
#pragma unroll
            for (int run = 0; run < RUNS; ++run) {
              if (ORDER) named_sync(8 + wg, 256);
              pin(part);
              wgmma_fence();
#pragma unroll
              for (int j = run * 4 / RUNS; j < (run + 1) * 4 / RUNS; ++j) {
                multiply(part, h, j, j > run * 4 / RUNS || (STEPS > 1 && (k - tile.from) % STEPS));
                if (ORDER == 2 && j == 2) named_arrive(8 + (wg ^ 1), 256);
              }
              wgmma_commit();
              pin(part);
              if (ORDER == 1) named_arrive(8 + (wg ^ 1), 256);
              if (STEPS > 1) {
                if ((k - tile.from) % STEPS < STEPS - 1 && k + 1 < tile.to) {
                  wgmma_wait<1>();
                  if (before >= 0) release(before);
                  before = ring.stage;
                  continue;
                }
                if (before >= 0) wgmma_wait<1>(), release(before);
                before = -1;
              }
              wgmma_wait<0>();
              pin(part);
              if (h == PARTS - 1 && run == RUNS - 1 && SCALES != 2) {
                __syncwarp();
                release(ring.stage);
              }
              if constexpr (SCALES == 2) promote_rows(acc[h], part, low, high, s + SA_FLOATS + column + part_column(h));
              else promote_at((offset + part_column(h)) % 128, acc[h], part, f);
            }
          }
          if (SCALES == 2) {
            __syncwarp();
            release(ring.stage);
          }
        }
      }
      if (PROMOTE == 0) {
        wgmma_wait<0>();
#pragma unroll
        for (int h = 0; h < PARTS; ++h) pin(acc[h]);
        if (before >= 0) release(before);
        if (SCALES) acc[0][0] += loaded;
      }

      if constexpr (SPLIT > 1) {
        reduce_split(p, acc, shared, wg, tile);
      } else {
        if (SCALES == 0) {
#pragma unroll
          for (int h = 0; h < PARTS; ++h)
#pragma unroll
            for (int i = 0; i < NACC; ++i) acc[h][i] = __fmul_rn(acc[h][i], alpha);
        }
#pragma unroll
        for (int h = 0; h < PARTS; ++h)
          store_part(p, acc[h], tile.row + row + part_row(h), tile.rows - row - part_row(h), tile.column + column + part_column(h));
      }
    }
    if (ORDER && wg == 0) named_sync(8, 256);  // the turn that nobody takes
  }
  __syncwarp();
  if (SHARE) cluster_sync();  // a CTA stays while the other may still signal its barriers
}
