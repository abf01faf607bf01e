// Quantisation of one tile of a matrix (m, k), k contiguous, in registers: it is read once and written in every layout that is
// wanted. All quantisation kernels are builds of this text and tile.cu with macros that build.py defines:
//
//   SOURCE        BF16; E4M3 (codes with FP32 scales of 1x128 groups); SWIGLU (silu(gate) * up of two BF16 matrices)
//   TARGET        E4M3; E5M6 (packed, 12 bits per element)
//   ROWS          write codes in the order of the source, with 1x128 scales
//   COLUMNS       write codes transposed (k, m), with 128x1 scales
//   BLOCKS        use 128x128 scales for both layouts
//   POWER_OF_2    round scales up to powers of two; the scales of an E4M3 source are powers of two as well
//   SEND          gather rows by index, and write their scales as UE8M0 bytes behind the codes of each row
//   TWIN          the timing twin: the same loads, stores and barriers without quantisation; the output is wrong by design
//   PIECES        pieces of 8 columns per thread
//   ACROSS        a thread's pieces are in neighbouring groups of one row, not in one group of neighbouring rows
//   DOWN_FIRST    CTAs are ordered down the matrix first, then across
//   MIN_BLOCKS    CTAs that an SM must be able to hold
//   AHEAD         with an E4M3 source, a CTA prefetches into L2 the tile of the CTA this many places later
//
// A CTA has 256 threads, 16 per group of 128 columns. A thread's pieces are one below the other, which makes the transposed
// layout cheap: `cvt.e4m3x2` packs two registers, and two rows pack as well as two columns.
//
// The arithmetic is that of isa_model.cast.quantise, bit for bit: scale = RN(max(largest, 1e-30) / top), element = E4M3 of
// RN(x / scale), in IEEE FP32. `divide` explains why no division is needed.

enum { BF16, E4M3, SWIGLU, E5M6 };
constexpr int WIDTH = 8;                                   // columns per piece
constexpr int GROUP = 16 * WIDTH;                          // elements that share a scale
constexpr float TOP = TARGET == E4M3 ? 448.0f : 65024.0f;  // largest finite number of the target
constexpr float FLOOR = 1e-30f;                            // smallest max-abs, so that a zero group has a scale
// Whether elements are BF16 pairs, with 8 significant bits. Otherwise they are FP32, or FP16 pairs (E4M3) times an FP32 scale.
constexpr bool PAIRS = SOURCE == BF16 || (SOURCE == E4M3 && POWER_OF_2);
static_assert(TARGET == E4M3 || (SOURCE == BF16 && POWER_OF_2 && !COLUMNS), "E5M6 is made of BF16 rows only");
static_assert(!(COLUMNS || BLOCKS) || (PIECES == 8 && !ACROSS), "groups along m need tiles of 128 rows");

__device__ float as_float(unsigned u) { return __uint_as_float(u); }
__device__ unsigned as_bits(float x) { return __float_as_uint(x); }
__device__ int filled(int size, int to) { return (size + to - 1) / to * to; }

struct Operands {
  const char *x;       // BF16 (rows, k), E4M3 codes, or the gate
  long long x_pitch;   // bytes from row to row
  const char *x2;      // SWIGLU: up. E4M3: FP32 scales (ceil(k / 128), x2_pitch), m contiguous. SEND: rows of x, int32 (m)
  long long x2_pitch;  // SWIGLU: bytes from row to row. E4M3: floats from group to group. SEND: number of rows of x
};

struct Layout {
  char *codes;
  long long pitch;        // bytes from row to row
  float *scales;          // (groups, rows), rows padded to 4; for blocks (rows / 128, groups)
  long long scale_pitch;  // floats from row to row of `scales`
};

struct Arguments {
  long long m, k;
  Operands in;
  Layout rows, turned;
};

// -- a group's scale -------------------------------------------------------------------------------------------------

struct Scale {
  float s;     // the scale; NaN if the group holds a NaN or an infinity
  float r;     // 1 / s; for BF16 elements not above it
  float rest;  // 1 / s - r

  // The scale held by thread `tx` of the 16 threads of a group's columns.
  __device__ Scale of_thread(int tx) const {
    return {__shfl_sync(~0u, s, tx, 16), __shfl_sync(~0u, r, tx, 16), __shfl_sync(~0u, rest, tx, 16)};
  }
};

__device__ float reciprocal(float x) {
  const float r = reciprocal_estimate(x);
  return __fmaf_rn(__fmaf_rn(-x, r, 1.0f), r, r);
}

__device__ Scale scale_of(float largest) {
  if (TWIN) return {largest, largest, largest};
  // Division by a constant: 1 / TOP is a constant too, and the remainder by 7 * 2^6 or 127 * 2^9 is exact.
  const float x = max_or_nan(largest, FLOOR), estimate = x * (1.0f / TOP);
  float s = __fmaf_rn(__fmaf_rn(-estimate, TOP, x), 1.0f / TOP, estimate);
  if (POWER_OF_2) s = as_float((as_bits(s) + 0x7fffff) & 0x7f800000);
  if (!(largest <= 3.4028234663852886e38f)) s = as_float(0x7fffffff);
  if (POWER_OF_2) return {s, s == s ? as_float((254u << 23) - as_bits(s)) : s, 0.0f};
  float r = reciprocal(s);
  if (PAIRS && __fmaf_rn(-s, r, 1.0f) < 0.0f) r = as_float(as_bits(r) - 1);
  return {s, r, __fmaf_rn(-s, r, 1.0f) * r};
}

// Replaces x by a value that the target rounds to the same code as RN(x / s).
// Power-of-two s: exact. BF16 pairs are multiplied as pairs in `numbers_of`.
// BF16 x: x times 1 / s to 48 bits, in two steps. The codes are equal for every BF16 x and the scale of every BF16 max-abs
// (tests/test_quantise_kernels.py tries them all). `rest` is not negative, so that -0 stays -0.
// FP32 x: the quotient corrected by its remainder. At the midpoints of E4M3, which have 5 bits, this rounds as the division does
// unless the remainder underflows, so x and s are scaled away from the bottom of FP32's range.
template <int N>
__device__ void divide(float (&x)[N], Scale g) {
  if (TWIN || (PAIRS && POWER_OF_2)) return;
  if (!POWER_OF_2 && !PAIRS && g.s < 0x1p-90f) {
    for (int i = 0; i < N; ++i) x[i] *= 0x1p64f;
    g.s *= 0x1p64f, g.r *= 0x1p-64f;
  }
#pragma unroll
  for (int i = 0; i < N; ++i) {
    const float estimate = x[i] * g.r;
    if (POWER_OF_2) x[i] = estimate;
    else if (PAIRS) x[i] = __fmaf_rn(x[i], g.r, x[i] * g.rest);
    else x[i] = __fmaf_rn(-__fmaf_rn(estimate, g.s, -x[i]), g.r, estimate);
  }
}

// Reduces each v[i] to its maximum over the 16 threads of a group's columns; threads 16 / N * i and following return that of v[i].
// Each step hands half of the values to half of the threads: N + 1 exchanges or fewer, where N separate reductions take 4 N.
template <int N>
__device__ float share_out(float (&v)[N], int tx) {
  int step = 8;
#pragma unroll
  for (int n = N / 2; n; n /= 2, step /= 2)
#pragma unroll
    for (int i = 0; i < n; ++i) {
      const float keep = tx & step ? v[i + n] : v[i], give = tx & step ? v[i] : v[i + n];
      v[i] = max_or_nan(keep, __shfl_xor_sync(~0u, give, step));
    }
#pragma unroll
  for (; step; step /= 2) v[0] = max_or_nan(v[0], __shfl_xor_sync(~0u, v[0], step));
  return v[0];
}
