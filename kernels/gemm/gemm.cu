// D = A B^T on Hopper's FP8 Tensor Cores with group scales and promotion to FP32: a persistent, warp-specialised kernel.
//
// A producer warp fills a ring of shared-memory stages, 128 of K each, by bulk tensor copies. Math warpgroups multiply a stage
// into `part`, starting from zero, and add `part` times its scales to `acc` in FP32: the promotion that Hopper's e8m13
// accumulator needs. While one warpgroup promotes, the other's wgmmas run. ptx.cuh (instructions), tile.cuh (tile and
// parameters) and epilogue.cuh (stores of D) precede this text.

// -- promotion -------------------------------------------------------------------------------------------------------

// The partial sum in FP32, exactly: 128 products of INT8 sum to at most 2^21.
__device__ __forceinline__ float value(float sum) { return sum; }
__device__ __forceinline__ float value(int sum) { return __int2float_rn(sum); }

// acc += part * scale. `f` is the scale of each of the thread's two rows times that of each block of columns; the tile starts
// `offset` columns into the first block.
__device__ __forceinline__ void promote(const int offset, Sum (&acc)[NACC], const Part (&part)[NACC], const float (&f)[BLOCKS][2]) {
#pragma unroll
  for (int i = 0; i < NACC / 4; ++i) {
    const int block = min((offset + 8 * i) / 128, BLOCKS - 1);
#pragma unroll
    for (int j = 0; j < 4; ++j) acc[4 * i + j] = __fmaf_rn(value(part[4 * i + j]), f[block][j / 2], acc[4 * i + j]);
  }
}

// Calls f(offset) with the offset as a constant: the code is instantiated once per possible offset.
template <int O = 0, class F> __device__ __forceinline__ void at_offset(int offset, const F &f) {
  if constexpr (O + STEP < 128) {
    if (offset != O) return at_offset<O + STEP>(offset, f);
  }
  f(O);
}

// The scales of the thread's sums where every column has one: `low` or `high`, of its two rows, times those in shared memory.
__device__ __forceinline__ void scales_of(float (&scale)[NACC], float low, float high, u32 sb) {
#pragma unroll
  for (int i = 0; i < NACC / 4; ++i) {
    const float2 s = load_shared2(sb + (8 * i + threadIdx.x % 4 * 2) * 4);
    scale[4 * i] = __fmul_rn(low, s.x), scale[4 * i + 1] = __fmul_rn(low, s.y);
    scale[4 * i + 2] = __fmul_rn(high, s.x), scale[4 * i + 3] = __fmul_rn(high, s.y);
  }
}

// acc += part * scale, with a scale for every sum.
__device__ __forceinline__ void promote(Sum (&acc)[NACC], const Part (&part)[NACC], const float (&scale)[NACC]) {
#pragma unroll
  for (int i = 0; i < NACC; ++i) acc[i] = __fmaf_rn(value(part[i]), scale[i], acc[i]);
}

// A timing twin loads the scales of columns and does nothing else with them.
__device__ __forceinline__ float promote_nothing(u32 sb) {
  float loaded = 0.0f;
#pragma unroll
  for (int i = 0; i < NACC / 4; ++i) {
    const float2 s = load_shared2(sb + (8 * i + threadIdx.x % 4 * 2) * 4);
    loaded += s.x + s.y;
  }
  return loaded;
}

// -- the kernel ------------------------------------------------------------------------------------------------------

extern "C" __global__ void __launch_bounds__(THREADS, 1)
run(const __grid_constant__ TensorMap a, const __grid_constant__ TensorMap b, const __grid_constant__ TensorMap d,
    const __grid_constant__ TensorMap sa, const __grid_constant__ TensorMap sb, const __grid_constant__ Arguments p) {
  extern __shared__ __align__(1024) char shared[];
  const u32 base = shared_address(shared), full = base + BARRIERS_AT, empty = full + 8 * STAGES, received = empty + 8 * STAGES;
  const u32 clear = received + 8, unpacked = clear + 8;
  int2 *const groups = (int2 *)(shared + GROUPS_AT);

  if (threadIdx.x == 0) {
    prefetch(&a), prefetch(&b), prefetch(&d);
    if (SCALES) prefetch(&sa);
    if (SCALES == 2 || SLOTS) prefetch(&sb);
    for (int s = 0; s < STAGES; ++s) barrier_init(full + 8 * s, SCALES == 1 ? 2 : 1), barrier_init(empty + 8 * s, WGS * 4 * (SHARE ? SHARERS : 1));
    for (int s = 0; SLOTS && s < STAGES; ++s) barrier_init(unpacked + 8 * s, TEAM);
    if (SPLIT == 2) barrier_init(received, 1);
    if (IN_RING) barrier_init(clear, WGS * 4);
    fence_barrier_init();
    if (SPLIT == 2) barrier_expect(received, RECEIVED);
  }
  if (SLOTS && threadIdx.x < 32) store_table(base + TABLE_AT, threadIdx.x);
  release_next();
  if (GROUPED) {
    wait_for_inputs();
    for (int g = threadIdx.x; g < p.groups; g += THREADS) groups[g] = make_int2(p.starts[g], p.counts[g]);
  }
  __syncwarp();
  if (CLUSTER > 1) cluster_sync();
  else __syncthreads();

  const int wg = __shfl_sync(~0u, threadIdx.x / 128, 0);  // warp-uniform, and known to be so by the compiler
  Walk walk(p, groups);
  Tile tile;
  Ring ring;
  bool more = walk.next(tile);  // everything that needs no input precedes the wait for the inputs
  if (UNPACKERS ? wg >= WGS : wg == WGS) {
    // Producers: one thread for the copies, and one warp for B's block scales, whose pitch bulk copies do not support. Further
    // warps unpack B.
    if (WGS == 2) fewer_registers<UNPACKERS ? 256 - MATH_REGISTERS : 40>();
    const int warp = ELECTED ? __shfl_sync(~0u, threadIdx.x / 32, 0) : threadIdx.x / 32;
    if (ELECTED ? warp == MATH / 32 && elected() : threadIdx.x == MATH) {
      const int rank = SHARE ? cluster_rank() : 0;
      // Where a step of B starts: packed weights are stored step by step, and copied as rows of 16 columns.
      const auto x_b = [](int k) { return SLOTS ? 0 : k * 128; };
      const auto y_b = [&](int k, int row) { return SLOTS ? (k * ((p.n + 15) / 16 * 16) + row) / 16 : row; };
      // Prefetches the first steps of B into L2 while the previous grid still runs. This is safe: it reads nothing, and if that
      // grid writes B, its writes and our reads go through L2.
      if (!GROUPED && more)
        for (int k = tile.from; k < min(tile.to, tile.from + AHEAD); ++k)
          tma_prefetch(&b, x_b(k), y_b(k, tile.column + (SHARE == 2 ? rank * B_ROWS : 0)));
      wait_for_inputs();
      for (; more; more = walk.next(tile)) {
        const int b_row = tile.group * p.n + tile.column;
        for (int k = tile.from; k < tile.to; ++k, ring.step()) {
          const u32 to = base + ring.stage * STAGE, s = base + SCALES_AT + ring.stage * STAGE_SCALES, bar = full + 8 * ring.stage;
          barrier_wait(empty + 8 * ring.stage, ring.parity ^ 1);
          barrier_expect(bar, EXPECTED);
          if (SHARE == 1) tma_load(to + rank * A_ROWS * 128, &a, k * 128, tile.row + rank * A_ROWS, bar, EVERYONE);
          else tma_load(to, &a, k * 128, tile.row, bar);
          if (SHARE == 2) tma_load(to + A_BYTES + rank * (COPIED_B / SHARERS), &b, x_b(k), y_b(k, b_row + rank * B_ROWS), bar, EVERYONE);
          else tma_load(to + A_BYTES, &b, x_b(k), y_b(k, b_row), bar);
          if (SLOTS) tma_load(s + SHIFTS_AT, &sb, b_row, k, bar);
          if (SCALES) tma_load(s, &sa, GROUPED ? tile.row & ~3 : tile.row, k, bar);
          if (SCALES == 2) tma_load(s + SA_FLOATS * 4, &sb, b_row, k, bar);
          // Prefetches the D that will be added to into L2, one box per step.
          const int box = k - tile.from;
          if (ADD && box < BM / 64 * (BOXED / BOX)) tma_prefetch(&d, tile.column + box % (BOXED / BOX) * BOX, tile.row + box / (BOXED / BOX) * 64);
        }
      }
    } else if (SCALES == 1 && warp == MATH / 32 + 1) {
      const int lane = threadIdx.x % 32, k_groups = (p.k + 127) / 128, n_blocks = (p.n + 127) / 128;
      wait_for_inputs();
      for (; more; more = walk.next(tile)) {
        float ahead[BLOCKS];  // scales of the next 32 steps, one step per lane
        for (int k = tile.from; k < tile.to; ++k, ring.step()) {
          const int step = (k - tile.from) % 32;
#pragma unroll
          for (int j = 0; j < BLOCKS; ++j)
            if (step == 0 && k + lane < tile.to)
              ahead[j] = load_global(p.scale_b + ((size_t)tile.group * n_blocks + min(tile.column / 128 + j, n_blocks - 1)) * k_groups + k + lane);
          barrier_wait(empty + 8 * ring.stage, ring.parity ^ 1);
#pragma unroll
          for (int j = 0; j < BLOCKS; ++j) {
            const float now = __shfl_sync(~0u, ahead[j], step);
            if (lane == 0) store_shared(base + SCALES_AT + ring.stage * STAGE_SCALES + (SA_FLOATS + j) * 4, now);
          }
          if (lane == 0) barrier_arrive(full + 8 * ring.stage);
        }
      }
    } else if (SLOTS && threadIdx.x >= FIRST_UNPACKER) {
      // Warps take turns, since the latency of unpacking is several times what a step may take.
      constexpr int TURNS = SLOTS ? UNPACKERS / TEAM : 1;
      int turn = 0;
      const int own = warp - FIRST_UNPACKER / 32, lane = threadIdx.x % 32;
      for (; more; more = walk.next(tile))
        for (int k = tile.from; k < tile.to; ++k, ring.step()) {
          const bool mine = own % TURNS == turn;
          turn = (turn + 1) % TURNS;
          if (!mine) continue;
          const u32 from = base + ring.stage * STAGE + A_BYTES, shifts = base + SCALES_AT + ring.stage * STAGE_SCALES + SHIFTS_AT;
          const int before = ring.stage - SLOTS;  // stage of the step that had this slot before
          barrier_wait(empty + 8 * (before < 0 ? before + STAGES : before), before < 0 ? ring.parity ^ 1 : ring.parity);
          barrier_wait(full + 8 * ring.stage, ring.parity);
          unpack(from, shifts, base + TABLE_AT, base + SLOTS_AT + ring.slot * B_BYTES, own / TURNS, lane);
          fence_async();
          __syncwarp();
          if (lane == 0) barrier_arrive(unpacked + 8 * ring.stage);
        }
    }
  } else {
    if (WGS == 2) more_registers<MATH_REGISTERS>();
    const int warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32;
    const int row = wg * PARTS * 64;  // first row of the warpgroup within the CTA's tile
    const auto release = [&](int stage) {
      __syncwarp();
      if (SHARE) {
        if (lane < SHARERS) barrier_arrive(empty + 8 * stage, lane);
      } else if (lane == 0) barrier_arrive(empty + 8 * stage);
    };
    // The shuffles make the compiler keep these in uniform registers instead of recomputing them in each step.
    const u32 first_a = __shfl_sync(~0u, descriptor(base + row * 128), 0);
    const u32 first_b = __shfl_sync(~0u, descriptor(base + (SLOTS ? SLOTS_AT : A_BYTES)), 0);
    const auto b_of = [&](const Ring &ring) { return first_b + (SLOTS ? ring.slot * (B_BYTES / 16) : ring.stage * (STAGE / 16)); };
    const u32 last = SLOTS ? unpacked : full;  // an unpacked step has been copied

    wait_for_inputs();
    const float alpha = SCALES == 0 ? __fmul_rn(load_global(p.one_a), load_global(p.one_b)) : 1.0f;
    for (; more; more = walk.next(tile)) {
      __syncwarp();
      Sum acc[PARTS][NACC];
#pragma unroll
      for (int h = 0; h < PARTS; ++h)
#pragma unroll
        for (int i = 0; i < NACC; ++i) acc[h][i] = 0;
      const int offset = tile.column % 128;
      // Address of the scale of this thread's first row in a part; the second row is 8 further.
      u32 first_scale = base + SCALES_AT + ((GROUPED ? tile.row & 3 : 0) + row + warp * 16 + lane / 4) * 4;
      asm volatile("" : "+r"(first_scale));  // computed once, not in each step
      const u32 of_columns = base + SCALES_AT + SA_FLOATS * 4;
      const auto of_blocks = [&](float(&x)[BLOCKS], int stage) {
#pragma unroll
        for (int j = 0; j < BLOCKS; ++j) x[j] = SCALES == 1 ? load_shared(of_columns + stage * STAGE_SCALES + j * 4) : 1.0f;
      };

      if constexpr (DEPTH == 2 && PROMOTE) {
        Part part[2][NACC];
        float f[2][BLOCKS][2];
        int stages[2];
        const auto start = [&](Part(&part)[NACC], float(&f)[BLOCKS][2], int &used) {
          float now[BLOCKS];
          barrier_wait(last + 8 * ring.stage, ring.parity);
          of_blocks(now, ring.stage);
          const u32 of_a = first_a + ring.stage * (STAGE / 16), to_b = b_of(ring);
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
        const auto finish = [&](Part(&part)[NACC], float(&f)[BLOCKS][2], int used, bool last) {
          if (last) wgmma_wait<0>();
          else wgmma_wait<1>();
          pin(part);
          release(used);
          at_offset(offset, [&](const int at) { promote(at, acc[0], part, f); });
        };
        int k = tile.from;  // no branch around a wgmma in flight: the compiler would wait for it
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
        Part part[NACC];
        float loaded = 0.0f;  // keeps a timing twin's loads of scales alive
        int before = -1;      // with two steps in flight: the stage whose wgmmas may still run
        u32 ready = 0;  // whether the next stage is known to be full
        if (WGS == 2) named_sync(1, MATH);  // warpgroups that start a tile together release its stages sooner
        at_offset(SCALES == 1 && PROMOTE ? offset : 0, [&](const int at) {
          for (int k = tile.from; k < tile.to; ++k) {
            const int stage = ring.stage;
            const u32 of_a = first_a + stage * (STAGE / 16), to_b = b_of(ring), s = first_scale + stage * STAGE_SCALES;
            if (!ready) barrier_wait(last + 8 * stage, ring.parity);
            float now[BLOCKS];
            of_blocks(now, stage);
            constexpr int RUNS = PROMOTE == 0 || PROMOTE > 4 ? 1 : 4 / PROMOTE;  // sums per stage
            constexpr int STEPS = PROMOTE > 4 ? PROMOTE / 4 : 1;                 // stages per sum
#pragma unroll
            for (int h = 0; h < PARTS; ++h) {
              const float low = SCALES ? load_shared(s + h * 256) : 1.0f, high = SCALES ? load_shared(s + h * 256 + 32) : 1.0f;
#pragma unroll
              for (int run = 0; run < RUNS; ++run) {
                const bool closing = h == PARTS - 1 && run == RUNS - 1;  // the last to read this stage
                Part(&sum)[NACC] = PROMOTE ? part : (Part(&)[NACC])acc[h];
                pin(sum);
                wgmma_fence();
#pragma unroll
                for (int j = run * 4 / RUNS; j < (run + 1) * 4 / RUNS; ++j)
                  wgmma(sum, of_a + h * 512 + j * 2, to_b + j * 2, PROMOTE == 0 || j > run * 4 / RUNS || (STEPS > 1 && (k - tile.from) % STEPS));
                wgmma_commit();
                pin(sum);
                float f[BLOCKS][2];
#pragma unroll
                for (int j = 0; j < BLOCKS; ++j) f[j][0] = __fmul_rn(low, now[j]), f[j][1] = __fmul_rn(high, now[j]);
                if (SCALES && PROMOTE == 0) {
#pragma unroll
                  for (int j = 0; j < BLOCKS; ++j) loaded += f[j][0] + f[j][1];
                  if (SCALES == 2 && closing) loaded += promote_nothing(of_columns + stage * STAGE_SCALES);
                }
                float scale[NACC];  // multiplied while the wgmmas run, which leaves one instruction for after the wait
                if constexpr (SCALES == 2 && PROMOTE) {
                  scales_of(scale, low, high, of_columns + stage * STAGE_SCALES);
                  pin(scale);
                }
                if (closing) {  // polled while the last wgmmas of this stage run, which hides the latency
                  ring.step();
                  ready = barrier_done(last + 8 * ring.stage, ring.parity, k + 1 < tile.to);
                }
                if constexpr (PROMOTE == 0 && DEPTH == 2) {
                  wgmma_wait<1>();
                  if (before >= 0) release(before);
                  before = stage;
                } else {
                  // Waits even without promotion: the other warpgroup's wgmmas run meanwhile, and queueing more of one's own
                  // behind them is slower.
                  wgmma_wait<0>();
                  pin(sum);
                  if (closing) release(stage);
                  if (PROMOTE && ((k + 1 - tile.from) % STEPS == 0 || k + 1 == tile.to)) {
                    if constexpr (SCALES == 2) promote(acc[h], part, scale);
                    else promote(at, acc[h], part, f);
                  }
                }
              }
            }
          }
        });
        if (PROMOTE == 0 && DEPTH == 2) {
          wgmma_wait<0>();
          pin(acc[0]);
          if (before >= 0) release(before);
        }
        if (SCALES && PROMOTE == 0) acc[0][0] += (Sum)loaded;
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
        if (h % STAGED == 0) {  // the previously staged part has been read
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
        __syncwarp();  // the following code needs converged warps
      };
      float sums[PARTS][NSTORED];
      if (SPLIT == 2) {
        if (IN_RING) {  // the other CTA's warps have read their ring, so that sums can be sent to its place
          __syncwarp();
          if (lane == 0) barrier_arrive(clear, cluster_rank() ^ 1);
          barrier_wait(clear, 0);
        }
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
  if (SHARE) cluster_sync();  // a CTA must not exit while others may still signal its barriers
}
