// Epilogue: accumulators to D, staged in shared memory for bulk stores, or directly to memory where bulk stores cannot write.

// Offset of 16 bytes of a staged part. Boxes of BOX columns follow one another; their rows are swizzled as the copy requires.
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

// Stores the first `rows` staged rows, 16 bytes at a time. Where a group ends inside the tile, the next group's rows must not
// change.
__device__ __noinline__ void store_ragged(const Arguments &p, const char *from, int row, int rows, int column) {
  constexpr int CHUNKS = STORED * OUT / 16;
  for (int j = threadIdx.x % 128; j < rows * CHUNKS; j += 128) {
    const int r = j / CHUNKS, byte = j % CHUNKS * 16, c = column + byte / OUT;
    if (c < p.n) *(uint4 *)((char *)p.d + ((size_t)(row + r) * p.n + c) * OUT) = *(const uint4 *)(from + staged_at(r, byte));
  }
}

// Stores the thread's values of the last 8 columns, where no box covers them.
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

// Split K: two CTAs hold sums over one half of K each. Sends the other CTA the columns that it stores, and adds what it sends of
// the columns that this CTA stores. The order does not matter, since (0 + a) + b equals (0 + b) + a.
__device__ __forceinline__ void exchange(float (&mine)[PARTS][NSTORED], const Sum (&acc)[PARTS][NACC], u32 place, u32 received) {
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
