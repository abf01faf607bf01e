// The kernel of tile.cuh: sources, targets, and the quantisation of a tile.

// -- sources ---------------------------------------------------------------------------------------------------------

__device__ float half_of(unsigned pair, int j) { return as_float(j % 2 ? pair & 0xffff0000 : pair << 16); }

// silu(g) = g * (1 / (1 + 2^(-g log2 e))), every step FP32 nearest even; isa_model.swiglu has the same steps.
__device__ float silu(float g) {
  const float a = fminf(fmaxf(-g, -87.0f), 87.0f);
  const float shifted = __fmaf_rn(a, 0x1.715476p+0f, 0x1.8p+23f);
  const float f = __fmaf_rn(a, 0x1.715476p+0f, -(shifted - 0x1.8p+23f));
  float p = 0x1.5bba74p-10f;
  p = __fmaf_rn(p, f, 0x1.3cea8ap-7f);
  p = __fmaf_rn(p, f, 0x1.c6b752p-5f);
  p = __fmaf_rn(p, f, 0x1.ebf9bcp-3f);
  p = __fmaf_rn(p, f, 0x1.62e42ap-1f);
  p = __fmaf_rn(p, f, 1.0f);
  const float d = 1.0f + as_float(as_bits(p) + (as_bits(shifted) << 23));
  return g * reciprocal(as_float(as_bits(d) & ~1u));
}

struct Tile {
  uint4 words[SOURCE == SWIGLU ? 1 : PIECES];
  float scales[PAIRS ? 1 : PIECES];  // scales of an E4M3 source
  float numbers[SOURCE == SWIGLU ? PIECES : 1][WIDTH];

  __device__ float at(int i, int j) const {
    if constexpr (SOURCE == SWIGLU) return numbers[i][j];
    const unsigned pair = (&words[i].x)[j / 2];
    if constexpr (PAIRS) return half_of(pair, j);
    const float2 codes = from_fp16(pair);
    return (j % 2 ? codes.y : codes.x) * scales[i];
  }

  // Columns 2 p and 2 p + 1 of piece i, to be divided by `divide`; BF16 pairs with power-of-two scales are already divided.
  __device__ void numbers_of(int i, int p, float &first, float &second, float r_first, float r_second) const {
    if constexpr (PAIRS && POWER_OF_2 && !TWIN) {
      const unsigned product = multiply_pairs((&words[i].x)[p], __byte_perm(as_bits(r_first), as_bits(r_second), 0x7632));
      first = half_of(product, 0), second = half_of(product, 1);
    } else {
      first = at(i, 2 * p), second = at(i, 2 * p + 1);
    }
  }

  // The largest magnitude of each piece, and of each column of the thread.
  __device__ void largest(float (&of_piece)[PIECES], float (&of_column)[WIDTH]) const {
    // Not started from zero: ptxas 13.0 turns the maximum of zero and a BF16 product into HFMA2.RELU, which drops negative values.
    uint4 pairs = words[0];
#pragma unroll
    for (int j = 0; j < WIDTH; ++j) of_column[j] = 0.0f;
#pragma unroll
    for (int i = 0; i < PIECES; ++i) {
      of_piece[i] = 0.0f;
      if constexpr (TWIN) continue;
      if constexpr (PAIRS) {
        const uint4 w = words[i];
        const unsigned pair = larger_pair(larger_pair(w.x, w.y), larger_pair(w.z, w.w));
        of_piece[i] = max_or_nan(fabsf(half_of(pair, 0)), fabsf(half_of(pair, 1)));
        if (i > 0)
          pairs = {larger_pair(pairs.x, w.x), larger_pair(pairs.y, w.y), larger_pair(pairs.z, w.z),
                   larger_pair(pairs.w, w.w)};
      } else {
#pragma unroll
        for (int j = 0; j < WIDTH; ++j) {
          const float magnitude = fabsf(at(i, j));
          of_piece[i] = max_or_nan(of_piece[i], magnitude);
          of_column[j] = max_or_nan(of_column[j], magnitude);
        }
      }
    }
    if constexpr (PAIRS && !TWIN)
#pragma unroll
      for (int j = 0; j < WIDTH; ++j) of_column[j] = fabsf(half_of((&pairs.x)[j / 2], j));
  }

  // Called before each pass over the tile, so that unpacked values, which take twice the registers, are not kept between passes.
  __device__ void next_pass() {
    if constexpr (SOURCE != SWIGLU)
#pragma unroll
      for (int i = 0; i < PIECES; ++i) renew(words[i].x), renew(words[i].y), renew(words[i].z), renew(words[i].w);
  }

  // Loads the pieces from (row, column) on, with zeros outside the matrix.
  __device__ void load(const Operands &in, int row, int column, int m, int k) {
    uint4 first[PIECES], second[SOURCE == SWIGLU ? PIECES : 1];
    float scale[SOURCE == E4M3 ? PIECES : 1];
    long long from = row;
    if constexpr (SEND) from = row < m ? ((const int *)in.x2)[row] : -1;
    int left = SEND ? from >= 0 && from < in.x2_pitch : m - row;  // pieces within the matrix
    if (ACROSS && left > 0) left = (k - column + GROUP - 1) / GROUP;
    if (column >= k) left = 0;
    if constexpr (SOURCE == E4M3) {
      const float *s = (const float *)in.x2 + column / GROUP * in.x2_pitch + row;
#pragma unroll
      for (int i = 0; i < PIECES; i += 4) {
        const uint4 v = i < left ? load16(s + i) : uint4{0, 0, 0, 0};
        for (int j = 0; j < 4; ++j) scale[i + j] = as_float((&v.x)[j]);
      }
    }
    const char *p = in.x + from * in.x_pitch + column * (SOURCE == E4M3 ? 1 : 2);
    const char *p2 = in.x2 + from * in.x2_pitch + column * 2;
#pragma unroll
    for (int i = 0; i < PIECES; ++i, p += ACROSS ? GROUP * 2 : in.x_pitch, p2 += ACROSS ? GROUP * 2 : in.x2_pitch) {
      if constexpr (SOURCE == E4M3) {
        const uint2 codes = i < left ? load8(p) : uint2{0, 0};
        first[i] = {codes.x, codes.y, 0, 0};
      } else {
        first[i] = i < left ? load16(p) : uint4{0, 0, 0, 0};
      }
      if constexpr (SOURCE == SWIGLU) second[i] = i < left ? load16(p2) : uint4{0, 0, 0, 0};
    }
#pragma unroll
    for (int i = 0; i < PIECES; ++i) {
      if constexpr (SOURCE == BF16) words[i] = first[i];
      if constexpr (SOURCE == E4M3) {
        const unsigned h[4] = {pair_from_e4m3(first[i].x), pair_from_e4m3(first[i].x >> 16), pair_from_e4m3(first[i].y),
                               pair_from_e4m3(first[i].y >> 16)};
        if constexpr (POWER_OF_2) {  // 4 bits times a power of two fit BF16; any other scale becomes NaN
          const unsigned s = as_bits(scale[i]) & 0x7fffff ? 0x7fffffff : as_bits(scale[i]), both = __byte_perm(s, s, 0x7632);
          for (int j = 0; j < 4; ++j) {
            const float2 v = from_fp16(h[j]);
            (&words[i].x)[j] = multiply_pairs(to_bf16(v.x, v.y), both);
          }
        } else {
          words[i] = {h[0], h[1], h[2], h[3]};
          scales[i] = scale[i];
        }
      }
      if constexpr (SOURCE == SWIGLU)
#pragma unroll
        for (int j = 0; j < WIDTH; ++j) {
          const float gate = half_of((&first[i].x)[j / 2], j), up = half_of((&second[i].x)[j / 2], j);
          numbers[i][j] = TWIN ? gate + up : silu(gate) * up;
        }
    }
  }
};

// -- targets ---------------------------------------------------------------------------------------------------------

__device__ unsigned four_e4m3(float a, float b, float c, float d) {
  if (TWIN) return __byte_perm(__byte_perm(as_bits(a), as_bits(b), 0x73), __byte_perm(as_bits(c), as_bits(d), 0x73), 0x5410);
  return to_e4m3(a, b) | to_e4m3(c, d) << 16;
}

// Converts two BF16 values, divided by a power of two, to two E5M6 codes in 24 bits. E5M6 is FP16 without its last 4 bits. Adding
// 8 rounds values below 2^-13 to E5M6's last place there, 2^-20. All other values have 8 significant bits, so this addition and
// FP16 hold them exactly, and an integer addition rounds them to 6 bits once.
__device__ unsigned two_e5m6(unsigned pair, float r) {
  const unsigned magnitudes = pair & 0x7fff7fff;
  const float low = __fmaf_rn(half_of(magnitudes, 0), r, 8.0f) - 8.0f, high = __fmaf_rn(half_of(magnitudes, 1), r, 8.0f) - 8.0f;
  const unsigned h = to_fp16(low, high);
  const unsigned rounded = (h | (pair & 0x80008000)) + 0x00070007 + (h >> 4 & 0x00010001);
  return (rounded >> 4 & 0xfff) | (rounded >> 8 & 0xfff000);
}

// Stores eight values as twelve bytes, the first in the lowest bits. 4 threads have 48 bytes; 3 of them write 16 each.
__device__ void store_e5m6(char *row, int column, bool inside, uint4 pairs, Scale g) {
  unsigned d[4];
  for (int j = 0; j < 4; ++j) {
    d[j] = TWIN ? (&pairs.x)[j] >> 8 : two_e5m6((&pairs.x)[j], g.r);
    if (!TWIN && g.s != g.s) d[j] = 0x7e07e0;  // NaN
  }
  const unsigned a = d[0] | d[1] << 24, b = d[1] >> 8 | d[2] << 16, c = d[2] >> 16 | d[3] << 8;
  const unsigned next_a = __shfl_down_sync(~0u, a, 1), next_b = __shfl_down_sync(~0u, b, 1);
  const unsigned next_c = __shfl_down_sync(~0u, c, 1);
  const int part = threadIdx.x % 4;  // writes its own last 3 - part words and the first part + 1 words of the next thread
  uint4 v;
  v.x = part == 0 ? a : part == 1 ? b : c;
  v.y = part == 0 ? b : part == 1 ? c : next_a;
  v.z = part == 0 ? c : part == 1 ? next_a : next_b;
  v.w = part == 0 ? next_a : part == 1 ? next_b : next_c;
  if (inside && part < 3) *(uint4 *)(row + column / 32 * 48 + part * 16) = v;
}

// -- the kernel ------------------------------------------------------------------------------------------------------

// Prefetches into L2 the tile of the CTA `later` places after this one: 128 rows of one line each, and four lines of scales.
// FP8 to FP8 needs this because it computes most per byte: threads load, compute and store in turn, and only three or four CTAs
// fit an SM, so few loads are in flight.
__device__ void prefetch_tile(const Operands &in, int later, int m, int k) {
  const int t = blockIdx.y * gridDim.x + blockIdx.x + later, x = t % gridDim.x, y = t / gridDim.x;
  const int bx = DOWN_FIRST ? y : x, by = DOWN_FIRST ? x : y, line = threadIdx.x;
  const int row = by * 128 + (line < 128 ? line : line % 128 * 32);
  if (line >= 132 || row >= m || bx * GROUP >= k) return;
  if (line < 128) prefetch(in.x + row * in.x_pitch + bx * GROUP);
  else prefetch((const float *)in.x2 + bx * in.x2_pitch + row);
}

// CTAs are ordered across first, or down first if only the transposed layout is written, so that consecutive CTAs write adjacent
// memory (5 % on an H200).
extern "C" __global__ void __launch_bounds__(256, MIN_BLOCKS) tile(const Arguments arguments) {
  const int m = (int)arguments.m, k = (int)arguments.k;
  const Layout rows = arguments.rows, turned = arguments.turned;
  const int bx = DOWN_FIRST ? blockIdx.y : blockIdx.x, by = DOWN_FIRST ? blockIdx.x : blockIdx.y;
  const int tx = threadIdx.x % 16, ty = threadIdx.x / 16;
  const int row = (by * 16 + ty) * (ACROSS ? 1 : PIECES), column = bx * GROUP * (ACROSS ? PIECES : 1) + tx * WIDTH;
  release_next();
  if constexpr (SOURCE == E4M3) prefetch_tile(arguments.in, 0, m, k);
  wait_for_inputs();
  Tile x;
  x.load(arguments.in, row, column, m, k);
  if constexpr (SOURCE == E4M3) prefetch_tile(arguments.in, AHEAD, m, k);
  float of_piece[PIECES], of_column[WIDTH];
  x.largest(of_piece, of_column);

  Scale block = {0.0f, 0.0f, 0.0f};
  if constexpr (BLOCKS) {
    __shared__ float of_warp[8];
    float largest = of_piece[0];
    for (int i = 1; i < PIECES; ++i) largest = max_or_nan(largest, of_piece[i]);
    for (int step = 16; step; step /= 2) largest = max_or_nan(largest, __shfl_xor_sync(~0u, largest, step));
    if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = largest;
    __syncthreads();
    for (int w = 0; w < 8; ++w) largest = max_or_nan(largest, of_warp[w]);
    block = scale_of(largest);
    if (threadIdx.x == 0 && ROWS) rows.scales[by * rows.scale_pitch + bx] = block.s;
    if (threadIdx.x == 0 && COLUMNS) turned.scales[bx * turned.scale_pitch + by] = block.s;
  }

  if constexpr (ROWS) {
    constexpr int SHARE = 16 / PIECES;  // threads that hold the maximum of the same piece and compute its scale
    Scale mine = block;
    if constexpr (!BLOCKS) {
      mine = scale_of(TWIN ? 0.0f : share_out(of_piece, tx));
      const int piece = tx / SHARE, r = ACROSS ? row : row + piece, group = column / GROUP + (ACROSS ? piece : 0);
      if (tx % SHARE == 0 && group * GROUP < k) {
        if (SEND && r < m) rows.codes[r * rows.pitch + k + group] = (char)(as_bits(mine.s) >> 23);
        if (!SEND && r < filled(m, 4)) rows.scales[group * rows.scale_pitch + r] = mine.s;
      }
    }
    x.next_pass();
#pragma unroll
    for (int i = 0; i < PIECES; ++i) {
      const Scale g = BLOCKS || TWIN ? mine : mine.of_thread(i * SHARE);
      const int r = ACROSS ? row : row + i, c = ACROSS ? column + i * GROUP : column;
      char *to = rows.codes + r * rows.pitch;
      const bool inside = r < m && c < k;
      if constexpr (TARGET == E5M6) {
        store_e5m6(to, c, inside, x.words[i], g);
      } else {
        float q[WIDTH];
#pragma unroll
        for (int p = 0; p < WIDTH / 2; ++p) x.numbers_of(i, p, q[2 * p], q[2 * p + 1], g.r, g.r);
        divide(q, g);
        const uint2 v = {four_e4m3(q[0], q[1], q[2], q[3]), four_e4m3(q[4], q[5], q[6], q[7])};
        if (inside && SEND) store8_for_others(to + c, v);
        if (inside && !SEND) *(uint2 *)(to + c) = v;
      }
    }
  }

  if constexpr (COLUMNS) {
    __shared__ float4 of_warp[8][GROUP / 4];
    __shared__ float s[GROUP], r[GROUP], rest[GROUP];  // the scales of the columns
    __shared__ uint4 codes[GROUP][8];                  // transposed: two pieces of 8 rows each, placed as below
    if constexpr (!BLOCKS) {
#pragma unroll
      for (int j = 0; j < WIDTH; ++j)
        if (!TWIN) of_column[j] = max_or_nan(of_column[j], __shfl_xor_sync(~0u, of_column[j], 16));
      if (threadIdx.x % 32 < 16) {
        of_warp[threadIdx.x / 32][tx * 2] = {of_column[0], of_column[1], of_column[2], of_column[3]};
        of_warp[threadIdx.x / 32][tx * 2 + 1] = {of_column[4], of_column[5], of_column[6], of_column[7]};
      }
      __syncthreads();
      if (threadIdx.x < GROUP) {
        const int t = threadIdx.x, at = bx * GROUP + t;
        float largest = (&of_warp[0][0].x)[t];
#pragma unroll
        for (int w = 1; w < 8; ++w) largest = max_or_nan(largest, (&of_warp[w][0].x)[t]);
        const Scale g = scale_of(largest);
        s[t] = g.s, r[t] = g.r, rest[t] = g.rest;
        if (at < filled(k, 4)) turned.scales[by * turned.scale_pitch + at] = g.s;
      }
      __syncthreads();
    }
    // Piece ty of the 8 columns of tx is at ty ^ rotated(tx). This has no bank conflicts, neither when 16 threads write their
    // columns nor when 8 threads read one column, two pieces each.
    x.next_pass();
#pragma unroll
    for (int p = 0; p < WIDTH / 2; ++p) {
      const int c = tx * WIDTH + 2 * p, rotated = tx % 8 * 2 + tx / 8;
      const Scale g = BLOCKS ? block : Scale{s[c], r[c], rest[c]}, h = BLOCKS ? block : Scale{s[c + 1], r[c + 1], rest[c + 1]};
      float q[2][PIECES];
#pragma unroll
      for (int i = 0; i < PIECES; ++i) x.numbers_of(i, p, q[0][i], q[1][i], g.r, h.r);
      divide(q[0], g), divide(q[1], h);
#pragma unroll
      for (int n = 0; n < 2; ++n)
        ((uint2 *)codes[c + n])[ty ^ rotated] = {four_e4m3(q[n][0], q[n][1], q[n][2], q[n][3]),
                                                 four_e4m3(q[n][4], q[n][5], q[n][6], q[n][7])};
    }
    __syncthreads();
    const int first = threadIdx.x / 8, two = threadIdx.x % 8, to_row = bx * GROUP + first, to_column = by * 128 + two * 16;
    char *to = turned.codes + to_row * turned.pitch + to_column;
#pragma unroll
    for (int i = 0; i < 4; ++i, to += 32 * turned.pitch) {
      const int c = i * 32 + first;
      const uint4 v = codes[c][two ^ c / WIDTH % 8];
      if (to_row + i * 32 < k && to_column < filled(m, 16)) *(uint4 *)to = i < 2 ? v : uint4{v.z, v.w, v.x, v.y};
    }
  }
}
