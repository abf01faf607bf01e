// D = A B^T on Hopper's FP8 Tensor Cores, group scales and promotion to FP32 included: one persistent, warp-specialised kernel.
//
// A producer warp feeds a ring of shared-memory stages, 128 of K each, by bulk tensor copies. Math warpgroups multiply a
// stage into `part`, starting from zero, and add `part` times its scales to `acc` in FP32: the promotion that Hopper's
// e8m13 accumulator needs. While one warpgroup promotes, the other's wgmmas run. The tile's parameters stand before this
// text as constants (tile.py):
//   BM, BN      rows and columns of D in a CTA's tile; one math warpgroup has 64 rows of it, two have 128 or 256
//   STAGES      stages of the ring
//   SHARE       1: SHARERS CTAs side by side along N share A; 2: along M they share B; each loads its part for all (multicast)
//   SPLIT       2: two CTAs of a cluster share a tile, each with a half of K; each sums and stores half of its columns
//   PROMOTE     wgmmas (32 of K each) between promotions; 0: never, the Tensor Core's accumulator runs through. With group
//               scales that is a timing twin: they are loaded but not applied, and D is wrong by design
//   SCALES      0: one for A times one for B, in the epilogue;  1: A 1x128, B 128x128;  2: A 1x128, B 1x128
//   OUT         bytes of an element of D: 2 BF16, 4 FP32;  ADD: D += instead of D =
//   GROUPED     rows come in groups, each with its own B: group g has rows [starts[g], starts[g] + counts[g])
//   DEPTH       parts of a warpgroup in flight: with 2, it promotes one while its own next wgmmas run

constexpr int WGS = BM > 64 ? 2 : 1, MATH = WGS * 128, THREADS = MATH + 128;
constexpr int PARTS = BM / WGS / 64, NACC = BN / 2;  // a warpgroup's tile: parts of 64 rows
constexpr int CLUSTER = SHARE ? SHARERS : SPLIT, AHEAD = 4;
constexpr int TEAM_M = SHARE == 2 ? SHARERS : 1, TEAM_N = SHARE == 1 ? SHARERS : 1;
constexpr int A_ROWS = BM / TEAM_N, B_ROWS = BN / TEAM_M;  // of one copy
constexpr unsigned short EVERYONE = (1 << SHARERS) - 1;
static_assert(!(SHARE && SPLIT > 1) && !(GROUPED && (ADD || SPLIT > 1)) && SPLIT <= 2, "not built");
static_assert(PARTS <= 2 && (PROMOTE <= 4 || PARTS == 1), "only one part outlives a stage");
static_assert(STAGES > 1, "a stage is released once the next one multiplies");
static_assert(DEPTH == 1 || (PROMOTE == 4 && SCALES && PARTS == 1), "two parts in flight, of one instruction each");

// Shared memory: the ring's operands, D's staging, what the other half of K sums to, the ring's scales, the barriers (full,
// empty, received), the groups.
constexpr int A_BYTES = BM * 128, STAGE = A_BYTES + BN * 128;
constexpr int SA_BOX = GROUPED ? BM + 4 : BM;  // a group's first row may lie anywhere, a copy starts at a multiple of 4
constexpr int SA_FLOATS = SCALES ? (SA_BOX + 31) / 32 * 32 : 0, SB_FLOATS = SCALES == 2 ? (BN + 31) / 32 * 32 : SCALES ? 32 : 0;
constexpr int STAGE_SCALES = (SA_FLOATS + SB_FLOATS) * 4;
constexpr int EXPECTED = STAGE + (SCALES ? SA_BOX * 4 : 0) + (SCALES == 2 ? BN * 4 : 0);
constexpr int STORED = BN / SPLIT, NSTORED = STORED / 2;  // columns of the tile that this CTA stores
constexpr int BOXED = STORED / 16 * 16;                   // of them in bulk; 8 may be left, which go straight to memory
constexpr int BOX = BOXED * OUT % 128 == 0 ? 128 / OUT : BOXED * OUT % 64 == 0 ? 64 / OUT : 32 / OUT;  // columns of one store
constexpr int STAGED = OUT == 2 && SCALES != 2 ? PARTS : 1;  // parts of a warpgroup's tile that are staged for storing at once
constexpr int D_PART = 64 * BOXED * OUT, D_BYTES = (D_PART * STAGED + 1023) / 1024 * 1024;
constexpr int RECEIVED = SPLIT == 2 ? BM * STORED * 4 : 0;  // bytes of the other CTA's sums
constexpr int D_AT = STAGES * STAGE, RECEIVED_AT = D_AT + WGS * D_BYTES, SCALES_AT = RECEIVED_AT + RECEIVED;
constexpr int BARRIERS_AT = SCALES_AT + STAGES * STAGE_SCALES, GROUPS_AT = BARRIERS_AT + STAGES * 16 + 8;
static_assert(BOXED == STORED || (SPLIT == 1 && !ADD && !GROUPED), "not built");

// A warpgroup's tile starts at a multiple of STEP in a 128 block of B's columns, and meets at most BLOCKS of them.
constexpr int STEP = BN % 128 == 0 ? 128 : BN % 64 == 0 ? 64 : BN % 32 == 0 ? 32 : BN % 16 == 0 ? 16 : 8;
constexpr int BLOCKS = STEP == 128 ? (BN + 127) / 128 : (128 - STEP + BN + 127) / 128;

struct Arguments {
  const float *scale_b, *one_a, *one_b;
  const int *starts, *counts;
  void *d;
  int m, n, k, groups;
};

struct Tile {
  int row, rows, column;  // first row of A and D, rows that count, first column of D
  int group, from, to;    // group of B, and the stretch of K in steps of 128
};

// Walks the tiles of this cluster, band by band of rows, and in a band column by column; every role walks the same way.
struct Walk {
  static constexpr int BAND = 2048 / (BM * TEAM_M) > 0 ? 2048 / (BM * TEAM_M) : 1;  // teams; about as many rows of B are at work
  const Arguments &p;
  const int2 *groups;  // start and count of each
  const int columns, stride;
  int g = 0, start = 0, count, rows, first = 0;  // the group, its teams along M, and where the band starts
  int i;                                         // the next team's number in the band

  __device__ Walk(const Arguments &p, const int2 *groups)
      : p(p), groups(groups), columns((p.n + BN * TEAM_N - 1) / (BN * TEAM_N)), stride(gridDim.x / CLUSTER), count(p.m), i(blockIdx.x / CLUSTER) {
    enter();
  }

  __device__ void enter() {
    if (GROUPED) start = groups[g].x, count = groups[g].y;
    rows = (count + BM * TEAM_M - 1) / (BM * TEAM_M);
    first = 0;
  }

  __device__ bool next(Tile &tile) {
    int height = min(BAND, rows - first);
    while (i >= height * columns) {
      i -= height * columns;
      first += BAND;
      if (first >= rows) {
        if (!GROUPED || ++g == p.groups) return false;
        enter();
      }
      height = min(BAND, rows - first);
    }
    const int rank = CLUSTER > 1 ? cluster_rank() : 0;
    const int of_column = height == BAND ? i / BAND : i / height, of_row = i - of_column * height;
    const int row = ((first + of_row) * TEAM_M + (SHARE == 2 ? rank : 0)) * BM;
    tile.row = start + row;
    tile.rows = count - row;
    tile.column = (of_column * TEAM_N + (SHARE == 1 ? rank : 0)) * BN;
    tile.group = g;
    const int part = SPLIT > 1 ? rank : 0, steps = (p.k + 127) / 128;
    tile.from = part * (steps / SPLIT) + min(part, steps % SPLIT);
    tile.to = tile.from + steps / SPLIT + (part < steps % SPLIT);
    i += stride;
    return true;
  }
};

struct Ring {
  int stage = 0;
  u32 parity = 0;
  __device__ void step() {
    if (++stage == STAGES) stage = 0, parity ^= 1;
  }
};

// -- promotion -------------------------------------------------------------------------------------------------------

// acc += part * scale. `f`: scale of the thread's two rows times that of each block of columns; the tile starts `offset`
// columns into the first.
__device__ __forceinline__ void promote(const int offset, float (&acc)[NACC], const float (&part)[NACC], const float (&f)[BLOCKS][2]) {
#pragma unroll
  for (int i = 0; i < NACC / 4; ++i) {
    const int block = min((offset + 8 * i) / 128, BLOCKS - 1);
#pragma unroll
    for (int j = 0; j < 4; ++j) acc[4 * i + j] = __fmaf_rn(part[4 * i + j], f[block][j / 2], acc[4 * i + j]);
  }
}

// f(offset) for an offset known only as it runs: one copy of the text for each that there is, a constant in it.
template <int O = 0, class F> __device__ __forceinline__ void at_offset(int offset, const F &f) {
  if constexpr (O + STEP < 128) {
    if (offset != O) return at_offset<O + STEP>(offset, f);
  }
  f(O);
}

// The same with a scale for every column, from shared memory: acc += part * (scale of row * scale of column).
__device__ __forceinline__ void promote_rows(float (&acc)[NACC], const float (&part)[NACC], float low, float high, u32 sb) {
#pragma unroll
  for (int i = 0; i < NACC / 4; ++i) {
    const float2 s = load_shared2(sb + (8 * i + threadIdx.x % 4 * 2) * 4);
    acc[4 * i] = __fmaf_rn(part[4 * i], __fmul_rn(low, s.x), acc[4 * i]);
    acc[4 * i + 1] = __fmaf_rn(part[4 * i + 1], __fmul_rn(low, s.y), acc[4 * i + 1]);
    acc[4 * i + 2] = __fmaf_rn(part[4 * i + 2], __fmul_rn(high, s.x), acc[4 * i + 2]);
    acc[4 * i + 3] = __fmaf_rn(part[4 * i + 3], __fmul_rn(high, s.y), acc[4 * i + 3]);
  }
}

// -- storing ---------------------------------------------------------------------------------------------------------

// Where 16 bytes of a staged part lie: boxes of BOX columns one after the other, their rows swizzled as the copy wants it.
__device__ __forceinline__ int staged_at(int row, int byte) {
  constexpr int WIDTH = BOX * OUT;
  const int at = row * WIDTH + byte % WIDTH;
  return byte / WIDTH * 64 * WIDTH + (at ^ (at >> 3 & (WIDTH - 1) & 0x70));
}

__device__ __forceinline__ void stage_part(u32 to, const float (&acc)[NSTORED]) {
  const int warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32;
  if constexpr (OUT == 2) {
#pragma unroll
    for (int i = 0; i < BOXED / 8; i += 2)
      store_matrices(to + staged_at(warp * 16 + lane % 16, i * 16 + lane / 16 * 16), pack_bf16(acc[4 * i], acc[4 * i + 1]),
                     pack_bf16(acc[4 * i + 2], acc[4 * i + 3]), pack_bf16(acc[4 * i + 4], acc[4 * i + 5]),
                     pack_bf16(acc[4 * i + 6], acc[4 * i + 7]));
  } else {
#pragma unroll
    for (int i = 0; i < BOXED / 4; ++i) {
      const int byte = i / 2 * 32 + lane % 4 * 8;
      store_shared2(to + staged_at(warp * 16 + lane / 4 + i % 2 * 8, byte / 16 * 16) + byte % 16, acc[2 * i], acc[2 * i + 1]);
    }
  }
}

// The first `rows` staged rows, 16 bytes at a time: where a group ends inside the tile, the next group's rows stay as they are.
__device__ __noinline__ void store_ragged(const Arguments &p, const char *from, int row, int rows, int column) {
  constexpr int CHUNKS = STORED * OUT / 16;
  for (int j = threadIdx.x % 128; j < rows * CHUNKS; j += 128) {
    const int r = j / CHUNKS, byte = j % CHUNKS * 16, c = column + byte / OUT;
    if (c < p.n) *(uint4 *)((char *)p.d + ((size_t)(row + r) * p.n + c) * OUT) = *(const uint4 *)(from + staged_at(r, byte));
  }
}

// The thread's numbers of the last 8 columns, where those are not in a box.
__device__ __forceinline__ void store_rest(const Arguments &p, const float (&x)[NSTORED], int row, int column) {
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const float low = x[NSTORED - 4 + 2 * i], high = x[NSTORED - 3 + 2 * i];
    const size_t at = (size_t)(row + 8 * i) * p.n + column;
    if (row + 8 * i < p.m && column < p.n) {
      if (OUT == 2) *(u32 *)((unsigned short *)p.d + at) = pack_bf16(low, high);
      else *(float2 *)((float *)p.d + at) = make_float2(low, high);
    }
  }
}

// Of a tile whose other half of K another CTA has summed: hands it the columns that it stores, and takes and adds those that
// this one stores. (0 + a) + b is (0 + b) + a.
__device__ __forceinline__ void exchange(float (&mine)[PARTS][NSTORED], const float (&acc)[PARTS][NACC], u32 place, u32 received) {
  const int rank = cluster_rank();
#pragma unroll
  for (int h = 0; h < PARTS; ++h)
#pragma unroll
    for (int i = 0; i < NSTORED; i += 4) {
      float give[4];
#pragma unroll
      for (int j = i; j < i + 4; ++j) {
        give[j - i] = rank ? acc[h][j] : acc[h][NACC - NSTORED + j];
        mine[h][j] = rank ? acc[h][NACC - NSTORED + j] : acc[h][j];
      }
      send(place + (h * NSTORED + i) * MATH * 4, rank ^ 1, make_float4(give[0], give[1], give[2], give[3]), received);
    }
  barrier_wait(received, 0);
#pragma unroll
  for (int h = 0; h < PARTS; ++h)
#pragma unroll
    for (int i = 0; i < NSTORED; i += 4) {
      const float4 x = load_shared4(place + (h * NSTORED + i) * MATH * 4);
      mine[h][i] = __fadd_rn(mine[h][i], x.x), mine[h][i + 1] = __fadd_rn(mine[h][i + 1], x.y);
      mine[h][i + 2] = __fadd_rn(mine[h][i + 2], x.z), mine[h][i + 3] = __fadd_rn(mine[h][i + 3], x.w);
    }
}

// -- the kernel ------------------------------------------------------------------------------------------------------

extern "C" __global__ void __launch_bounds__(THREADS, 1)
run(const __grid_constant__ TensorMap a, const __grid_constant__ TensorMap b, const __grid_constant__ TensorMap d,
    const __grid_constant__ TensorMap sa, const __grid_constant__ TensorMap sb, const __grid_constant__ Arguments p) {
  extern __shared__ __align__(1024) char shared[];
  const u32 base = shared_address(shared), full = base + BARRIERS_AT, empty = full + 8 * STAGES, received = empty + 8 * STAGES;
  int2 *const groups = (int2 *)(shared + GROUPS_AT);

  if (threadIdx.x == 0) {
    prefetch(&a), prefetch(&b), prefetch(&d);
    if (SCALES) prefetch(&sa);
    if (SCALES == 2) prefetch(&sb);
    for (int s = 0; s < STAGES; ++s) barrier_init(full + 8 * s, SCALES == 1 ? 2 : 1), barrier_init(empty + 8 * s, WGS * 4 * (SHARE ? SHARERS : 1));
    if (SPLIT == 2) barrier_init(received, 1);
    fence_barrier_init();
    if (SPLIT == 2) barrier_expect(received, RECEIVED);
  }
  release_next();
  if (GROUPED) {
    wait_for_inputs();
    for (int g = threadIdx.x; g < p.groups; g += THREADS) groups[g] = make_int2(p.starts[g], p.counts[g]);
  }
  __syncwarp();
  if (CLUSTER > 1) cluster_sync();
  else __syncthreads();

  const int wg = __shfl_sync(~0u, threadIdx.x / 128, 0);  // the same for the warp, and the compiler knows
  Walk walk(p, groups);
  Tile tile;
  Ring ring;
  bool more = walk.next(tile);  // all that needs no input comes before the wait for them
  if (wg == WGS) {
    // The producers: a thread for the copies, a warp for B's scales of blocks, whose pitch the copies do not take.
    if (WGS == 2) fewer_registers<40>();
    if (threadIdx.x == MATH) {
      const int rank = SHARE ? cluster_rank() : 0;
      // Asks the first steps of B into L2 while the grid before still runs: a hint that reads nothing. Should that grid
      // write B, its writes and our reads meet in L2.
      if (!GROUPED && more)
        for (int k = tile.from; k < min(tile.to, tile.from + AHEAD); ++k)
          tma_prefetch(&b, k * 128, tile.column + (SHARE == 2 ? rank * B_ROWS : 0));
      wait_for_inputs();
      for (; more; more = walk.next(tile)) {
        const int b_row = tile.group * p.n + tile.column;
        for (int k = tile.from; k < tile.to; ++k, ring.step()) {
          const u32 to = base + ring.stage * STAGE, s = base + SCALES_AT + ring.stage * STAGE_SCALES, bar = full + 8 * ring.stage;
          barrier_wait(empty + 8 * ring.stage, ring.parity ^ 1);
          barrier_expect(bar, EXPECTED);
          if (SHARE == 1) tma_load(to + rank * A_ROWS * 128, &a, k * 128, tile.row + rank * A_ROWS, bar, EVERYONE);
          else tma_load(to, &a, k * 128, tile.row, bar);
          if (SHARE == 2) tma_load(to + A_BYTES + rank * B_ROWS * 128, &b, k * 128, b_row + rank * B_ROWS, bar, EVERYONE);
          else tma_load(to + A_BYTES, &b, k * 128, b_row, bar);
          if (SCALES) tma_load(s, &sa, GROUPED ? tile.row & ~3 : tile.row, k, bar);
          if (SCALES == 2) tma_load(s + SA_FLOATS * 4, &sb, b_row, k, bar);
          // What will be added to comes into L2 meanwhile, a box in each step.
          const int box = k - tile.from;
          if (ADD && box < BM / 64 * (BOXED / BOX)) tma_prefetch(&d, tile.column + box % (BOXED / BOX) * BOX, tile.row + box / (BOXED / BOX) * 64);
        }
      }
    } else if (SCALES == 1 && threadIdx.x / 32 == MATH / 32 + 1) {
      const int lane = threadIdx.x % 32, k_groups = (p.k + 127) / 128, n_blocks = (p.n + 127) / 128;
      wait_for_inputs();
      for (; more; more = walk.next(tile)) {
        float ahead[BLOCKS];  // of 32 steps, each lane has one
        for (int k = tile.from; k < tile.to; ++k, ring.step()) {
          const int step = (k - tile.from) % 32;
#pragma unroll
          for (int j = 0; j < BLOCKS; ++j)
            if (step == 0 && k + lane < tile.to)
              ahead[j] = load_constant(p.scale_b + ((size_t)tile.group * n_blocks + min(tile.column / 128 + j, n_blocks - 1)) * k_groups + k + lane);
          barrier_wait(empty + 8 * ring.stage, ring.parity ^ 1);
#pragma unroll
          for (int j = 0; j < BLOCKS; ++j) {
            const float now = __shfl_sync(~0u, ahead[j], step);
            if (lane == 0) store_shared(base + SCALES_AT + ring.stage * STAGE_SCALES + (SA_FLOATS + j) * 4, now);
          }
          if (lane == 0) barrier_arrive(full + 8 * ring.stage);
        }
      }
    }
  } else {
    if (WGS == 2) more_registers<232>();
    const int warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32;
    const int row = wg * PARTS * 64;  // of the warpgroup's tile in the CTA's
    const auto release = [&](int stage) {
      __syncwarp();
      if (SHARE) {
        if (lane < SHARERS) barrier_arrive(empty + 8 * stage, lane);
      } else if (lane == 0) barrier_arrive(empty + 8 * stage);
    };
    // Through a shuffle, so that the compiler keeps them in uniform registers and does not compute them again in each step.
    const u32 first_a = __shfl_sync(~0u, descriptor(base + row * 128), 0);
    const u32 first_b = __shfl_sync(~0u, descriptor(base + A_BYTES), 0);

    wait_for_inputs();
    const float alpha = SCALES == 0 ? __fmul_rn(load_constant(p.one_a), load_constant(p.one_b)) : 1.0f;
    for (; more; more = walk.next(tile)) {
      __syncwarp();
      float acc[PARTS][NACC];
#pragma unroll
      for (int h = 0; h < PARTS; ++h)
#pragma unroll
        for (int i = 0; i < NACC; ++i) acc[h][i] = 0.0f;
      const int offset = tile.column % 128;
      // Where the scale of this thread's first row in a part lies; the second row is 8 further.
      u32 first_scale = base + SCALES_AT + ((GROUPED ? tile.row & 3 : 0) + row + warp * 16 + lane / 4) * 4;
      asm volatile("" : "+r"(first_scale));  // computed here, not again in each step
      const u32 of_columns = base + SCALES_AT + SA_FLOATS * 4;
      const auto of_blocks = [&](float(&x)[BLOCKS], int stage) {
#pragma unroll
        for (int j = 0; j < BLOCKS; ++j) x[j] = SCALES == 1 ? load_shared(of_columns + stage * STAGE_SCALES + j * 4) : 1.0f;
      };

      if constexpr (DEPTH == 2) {
        float part[2][NACC], f[2][BLOCKS][2];
        int stages[2];
        const auto start = [&](float(&part)[NACC], float(&f)[BLOCKS][2], int &used) {
          float now[BLOCKS];
          barrier_wait(full + 8 * ring.stage, ring.parity);
          of_blocks(now, ring.stage);
          const u32 of_a = first_a + ring.stage * (STAGE / 16), to_b = first_b + ring.stage * (STAGE / 16);
          const u32 s = first_scale + ring.stage * STAGE_SCALES;
          const float low = load_shared(s), high = load_shared(s + 32);
          pin(part);
          wgmma_fence();
#pragma unroll
          for (int j = 0; j < 4; ++j) wgmma(part, of_a + j * 2, to_b + j * 2, j > 0);
          wgmma_commit();
#pragma unroll
          for (int j = 0; j < BLOCKS; ++j) f[j][0] = __fmul_rn(low, now[j]), f[j][1] = __fmul_rn(high, now[j]);
          used = ring.stage;
          ring.step();
        };
        const auto finish = [&](float(&part)[NACC], float(&f)[BLOCKS][2], int used, bool last) {
          if (last) wgmma_wait<0>();
          else wgmma_wait<1>();
          pin(part);
          if (SCALES != 2) release(used);
          if constexpr (SCALES == 2) promote_rows(acc[0], part, f[0][0], f[0][1], of_columns + used * STAGE_SCALES);
          else at_offset(offset, [&](const int at) { promote(at, acc[0], part, f); });
          if (SCALES == 2) release(used);
        };
        int k = tile.from;  // no branch around a wgmma in flight, or the compiler lets none run on
        if (k < tile.to) {
          start(part[0], f[0], stages[0]);
          for (; k + 2 < tile.to; k += 2) {
            start(part[1], f[1], stages[1]);
            finish(part[0], f[0], stages[0], false);
            start(part[0], f[0], stages[0]);
            finish(part[1], f[1], stages[1], false);
          }
          if (k + 1 < tile.to) {
            start(part[1], f[1], stages[1]);
            finish(part[0], f[0], stages[0], false);
            finish(part[1], f[1], stages[1], true);
          } else {
            finish(part[0], f[0], stages[0], true);
          }
        }
      } else {
        float part[NACC];
        float loaded = 0.0f;  // a timing twin's use of its scales
        int before = -1;      // stage whose wgmmas may still run
        u32 ready = 0;  // whether the stage to come is known to be full
        if (WGS == 2 && PROMOTE) named_sync(1, MATH);  // who starts a tile together holds its stages shorter
        int k = tile.from;
        const auto step = [&](const int stage, const int at) {
          const u32 of_a = first_a + stage * (STAGE / 16), to_b = first_b + stage * (STAGE / 16), s = first_scale + stage * STAGE_SCALES;
          ++k;
          if (!ready) barrier_wait(full + 8 * stage, ring.parity);
          float now[BLOCKS];
          of_blocks(now, stage);
          // Asked while the last wgmmas of this stage run, which hides the answer's delay.
          const auto look = [&] {
            ring.stage = stage + 1 == STAGES ? 0 : stage + 1;
            ring.parity ^= ring.stage == 0;
            ready = barrier_done(full + 8 * ring.stage, ring.parity, k < tile.to);
          };
          if constexpr (PROMOTE == 0) {
#pragma unroll
            for (int h = 0; h < PARTS; ++h) pin(acc[h]);
            wgmma_fence();
#pragma unroll
            for (int h = 0; h < PARTS; ++h)
#pragma unroll
              for (int j = 0; j < 4; ++j) wgmma(acc[h], of_a + h * 512 + j * 2, to_b + j * 2, 1);
            wgmma_commit();
#pragma unroll
            for (int h = 0; h < PARTS; ++h) pin(acc[h]);
            if (SCALES) {
#pragma unroll
              for (int h = 0; h < PARTS; ++h) loaded += load_shared(s + h * 256) + load_shared(s + h * 256 + 32);
#pragma unroll
              for (int j = 0; j < BLOCKS; ++j) loaded += now[j];
            }
            if (SCALES == 2) {
#pragma unroll
              for (int i = 0; i < BN / 8; ++i) {
                const float2 of = load_shared2(of_columns + stage * STAGE_SCALES + (8 * i + lane % 4 * 2) * 4);
                loaded += of.x + of.y;
              }
            }
            look();
            wgmma_wait<1>();
            if (before >= 0) release(before);
            before = stage;
          } else {
            constexpr int RUNS = PROMOTE < 4 ? 4 / (PROMOTE > 0 ? PROMOTE : 1) : 1;  // promotions of a stage
            constexpr int STEPS = PROMOTE > 4 ? PROMOTE / 4 : 1;                      // stages of a promotion
#pragma unroll
            for (int h = 0; h < PARTS; ++h) {
              const float low = SCALES ? load_shared(s + h * 256) : 1.0f, high = SCALES ? load_shared(s + h * 256 + 32) : 1.0f;
#pragma unroll
              for (int run = 0; run < RUNS; ++run) {
                const bool closing = h == PARTS - 1 && run == RUNS - 1;  // the last that reads this stage
                pin(part);
                wgmma_fence();
#pragma unroll
                for (int j = run * 4 / RUNS; j < (run + 1) * 4 / RUNS; ++j)
                  wgmma(part, of_a + h * 512 + j * 2, to_b + j * 2, j > run * 4 / RUNS || (STEPS > 1 && (k - 1 - tile.from) % STEPS));
                wgmma_commit();
                pin(part);
                float f[BLOCKS][2];
#pragma unroll
                for (int j = 0; j < BLOCKS; ++j) f[j][0] = __fmul_rn(low, now[j]), f[j][1] = __fmul_rn(high, now[j]);
                if (STEPS > 1) {
                  wgmma_wait<1>();
                  if (before >= 0) release(before);
                  before = -1;
                  if ((k - 1 - tile.from) % STEPS < STEPS - 1 && k < tile.to) {
                    before = stage;
                    look();
                    continue;
                  }
                }
                if (closing) look();
                wgmma_wait<0>();
                pin(part);
                if (closing && SCALES != 2) release(stage);
                if constexpr (SCALES == 2) promote_rows(acc[h], part, low, high, of_columns + stage * STAGE_SCALES);
                else promote(at, acc[h], part, f);
                if (closing && SCALES == 2) release(stage);
              }
            }
          }
        };
        at_offset(SCALES == 1 && PROMOTE ? offset : 0, [&](const int at) {
          while (k < tile.to) {
            if (STEP >= 64 && STAGES <= 6 && ring.stage == 0 && k + STAGES <= tile.to) {
              // Once around the ring: in this text a stage's number is a constant, and its addresses are.
#pragma unroll
              for (int stage = 0; stage < STAGES; ++stage) step(stage, at);
            } else {
              step(ring.stage, at);
            }
          }
        });
        if (PROMOTE == 0) {
          wgmma_wait<0>();
#pragma unroll
          for (int h = 0; h < PARTS; ++h) pin(acc[h]);
          if (before >= 0) release(before);
          if (SCALES) acc[0][0] += loaded;
        }
      }

      const bool first = threadIdx.x % 128 == 0;
      const auto store = [&](float(&x)[NSTORED], int h) {
        const int left = tile.rows - row - h * 64, at_row = tile.row + row + h * 64;
        const int at_column = tile.column + (SPLIT == 2 ? cluster_rank() * STORED : 0);
        const int staging = D_AT + wg * D_BYTES + h % STAGED * D_PART;
        if (SCALES == 0) {
#pragma unroll
          for (int i = 0; i < NSTORED; ++i) x[i] = __fmul_rn(x[i], alpha);
        }
        if (h % STAGED == 0) {  // what was staged before has been read
          if (first) tma_wait_read();
          __syncwarp();
          named_sync(2 + wg, 128);
        }
        stage_part(base + staging, x);
        if (BOXED < STORED) store_rest(p, x, at_row + warp * 16 + lane / 4, at_column + BOXED + lane % 4 * 2);
        fence_async();
        named_sync(2 + wg, 128);
        if (GROUPED && left < 64) {
          store_ragged(p, shared + staging, at_row, left, at_column);
        } else if (first) {
#pragma unroll
          for (int c = 0; c < BOXED; c += BOX) {
            if (ADD) tma_add(&d, base + staging + c * 64 * OUT, at_column + c, at_row);
            else tma_store(&d, base + staging + c * 64 * OUT, at_column + c, at_row);
          }
          tma_commit();
        }
        __syncwarp();  // what follows wants whole warps
      };
      float sums[PARTS][NSTORED];
      if (SPLIT == 2) {
        exchange(sums, acc, base + RECEIVED_AT + threadIdx.x * 16, received);
      } else {
#pragma unroll
        for (int h = 0; h < PARTS; ++h)
#pragma unroll
          for (int i = 0; i < NSTORED; ++i) sums[h][i] = acc[h][i];
      }
#pragma unroll
      for (int h = 0; h < PARTS; ++h) store(sums[h], h);
    }
    if (threadIdx.x % 128 == 0) tma_wait_read();
  }
  __syncwarp();
  if (SHARE) cluster_sync();  // a CTA stays while the others may still signal its barriers
}
