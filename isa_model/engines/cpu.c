/* The CPU engine around a step: D = A B + C on raw codes, a tile of D at a time, on as many threads as are asked for.
 *
 * A thread takes the next free tile, at most ROWS by W elements, and goes along K in chunks. It decodes a chunk of A and
 * B, in any strides, to numbers and alignment exponents in its own buffers. Threads therefore share nothing, and memory
 * does not depend on K. Of a sparse instruction, `k` counts products, and each line of the sparse operand picks the elements
 * of the other one that its own are multiplied by. This file is the second half of a translation unit. The first half is
 * prelude.h and the text that cpu.py writes: types and formats of the operands, constants, and `step`.
 */

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

enum { OF_A, OF_B, OF_C, OF_D, SCALES_A, SCALES_B, PICKED, MATRICES };
#define OF_ROWS 1
#define OF_COLUMNS 2
#define CHUNK_A ALONG_A(CHUNK)
#define CHUNK_B ALONG_B(CHUNK)

typedef struct {
  long m, n, k, rows;    /* sizes, and rows of a tile */
  const long *strides;   /* elements to the next row and to the next column, of every matrix */
  unsigned long long seed;
  char *const *codes;    /* first code of each matrix; null for scales that the instruction does not take */
  atomic_long next;      /* next free tile */
  atomic_int failed;
} Job;

typedef struct {
  lane a[ROWS * CHUNK_A], b[CHUNK_B * W];
  short ea[ROWS * CHUNK_A], eb[CHUNK_B * W];
#if PICKS
  lane picked[CHUNK * W];
  short picked_exponents[CHUNK * W];
#endif
  double sa[ROWS * GROUPS_A], sb[GROUPS_B * W], c[ROWS * W], second[ROWS * W];
  int esa[ROWS * GROUPS_A], esb[GROUPS_B * W];
  uint64_t codes[(ROWS > W ? ROWS : W) * (CHUNK_A > CHUNK_B ? CHUNK_A : CHUNK_B)];
} Buffers;

/* Decode a code by moving its fields to those of a double. `padding` bits are ignored; `unit` is the smallest subnormal
 * number. */
FN double number(uint64_t code, int padding, int mantissa_bits, int magnitude_bits, int bias, double unit, int has_zero,
                 int64_t largest, int has_infinity, int is_signed, int nan_for_minus_zero) {
  const int64_t field = code >> padding, magnitude = field & (int64_t)(~0ull >> (64 - magnitude_bits));
  const double normal = from_bits((magnitude << (52 - mantissa_bits)) + ((int64_t)(1023 - bias) << 52));
  const double subnormal = (from_bits(magnitude | 0x433ll << 52) - 0x1p52) * unit;
  double x = has_zero & (magnitude < 1ll << mantissa_bits) ? subnormal : normal;
  x = magnitude <= largest ? x : has_infinity & (magnitude == largest + 1) ? INFINITY : NAN;
  if (is_signed) x = from_bits(to_bits(x) ^ (field >> magnitude_bits) << 63);
  return nan_for_minus_zero & (field == 1ll << magnitude_bits) ? NAN : x;
}

/* `number` for a format of at most 16 bits whose numbers are normal ones of a float: in float, twice as many at a time. */
FN float narrow_number(uint32_t code, int padding, int mantissa_bits, int magnitude_bits, int bias, float unit, int has_zero,
                       int32_t largest, int has_infinity, int is_signed, int nan_for_minus_zero) {
  const int32_t field = code >> padding, magnitude = field & (int32_t)(~0u >> (32 - magnitude_bits));
  const float normal = float_from_bits((magnitude << (23 - mantissa_bits)) + ((127 - bias) << 23));
  float x = has_zero & (magnitude < 1 << mantissa_bits) ? (float)magnitude * unit : normal;
  x = magnitude <= largest ? x : has_infinity & (magnitude == largest + 1) ? INFINITY : NAN;
  if (is_signed) x = float_from_bits(float_to_bits(x) ^ (int32_t)((uint32_t)(field >> magnitude_bits) << 31));
  return nan_for_minus_zero & (field == 1 << magnitude_bits) ? NAN : x;
}

/* `align` for such a number. */
FN int align_narrow(float x, int min_exponent) {
  const int field = float_to_bits(x) >> 23 & 0xFF;
  return (x == 0) | (field == 0xFF) ? NONE : larger(field - 127, min_exponent);
}

/* Decode the code of an integer of `bits` bits. */
FN double whole_number(uint64_t code, int bits, int is_signed) {
  const int64_t magnitude = code & ~0ull >> (64 - bits), sign = is_signed ? 1ll << (bits - 1) : 0;
  return bits < 32 + is_signed ? (double)(int)((magnitude ^ sign) - sign) : (double)((magnitude ^ sign) - sign);
}

FN double flushed(double x, double smallest, int keep_sign) {
  return fabs(x) < smallest ? keep_sign ? copysign(0.0, x) : 0.0 : x;
}

/* Copy a block of a matrix to rows of `pitch` elements. */
FN void take(const Job *job, int which, long row, long column, long rows, long columns, long pitch, long size, char *to) {
  const long down = job->strides[2 * which] * size, right = job->strides[2 * which + 1] * size;
  const char *from = job->codes[which] + row * down + column * right;
  if (right == size)
    for (long i = 0; i < rows; ++i) memcpy(to + i * pitch * size, from + i * down, columns * size);
  else
    for (long j = 0; j < columns; ++j)
      for (long i = 0; i < rows; ++i) memcpy(to + (i * pitch + j) * size, from + i * down + j * right, size);
}

#define TAKE(which, type, row, column, rows, columns, pitch) \
  take(job, which, row, column, rows, columns, pitch, sizeof(type), (char *)x->codes)

/* Read a chunk of A, with K along rows; multiply by the scales if they fold into the numbers. */
static void read_a(const Job *job, Buffers *x, long row, long k, long rows, long depth) {
  const long elements = ALONG_A(depth);
  TAKE(OF_A, code_a, row, ALONG_A(k), rows, elements, CHUNK_A);
  for (long i = 0; i < rows; ++i) {
    const code_a *restrict codes = (const code_a *)x->codes + i * CHUNK_A;
    lane *restrict values = x->a + i * CHUNK_A;
    short *restrict exponents = x->ea + i * CHUNK_A;
    _Pragma("omp simd") for (long j = 0; j < elements; ++j) {
      const number_a v = NUMBER_A(codes[j]);
      values[j] = v;
      exponents[j] = larger(ALIGN_A(v), OPERAND_NONE);
    }
  }
#ifdef NUMBER_SA
  const long first = k / GROUP_A_K, groups = (k + depth - 1) / GROUP_A_K - first + 1;
  for (long i = 0; i < rows; ++i) {
    TAKE(SCALES_A, code_sa, (row + i) / GROUP_A_M, first, 1, groups, groups);
    for (long g = 0; g < groups; ++g) {
      const code_sa code = ((const code_sa *)x->codes)[g];
      const double s = NUMBER_SA(code);
      const int e = ALIGN_SA(s, code);
#if SCALES_FOLD
      const long from = (first + g) * GROUP_A_K - k, to = from + GROUP_A_K;
      for (long j = from < 0 ? 0 : from; j < to && j < depth; ++j) {
        x->a[i * CHUNK + j] *= s;
        x->ea[i * CHUNK + j] = larger(join(widen(x->ea[i * CHUNK + j]), e), OPERAND_NONE);
      }
#else
      x->sa[i * GROUPS_A + g] = s;
      x->esa[i * GROUPS_A + g] = e;
#endif
    }
  }
#endif
}

/* Read a chunk of B, with N along rows, filled up with zeros. */
static void read_b(const Job *job, Buffers *x, long k, long column, long depth, long columns) {
  TAKE(OF_B, code_b, ALONG_B(k), column, ALONG_B(depth), columns, W);
  const code_b *restrict codes = (const code_b *)x->codes;
  _Pragma("omp simd") for (long j = 0; j < ALONG_B(depth) * W; ++j) {
    const number_b v = j % W < columns ? NUMBER_B(codes[j]) : 0;
    x->b[j] = v;
    x->eb[j] = larger(ALIGN_B(v), OPERAND_NONE);
  }
#ifdef NUMBER_SB
  const long first = k / GROUP_B_K, groups = (k + depth - 1) / GROUP_B_K - first + 1;
  const long of = column / GROUP_B_N, scales = (column + columns - 1) / GROUP_B_N - of + 1;
  TAKE(SCALES_B, code_sb, first, of, groups, scales, scales);
  for (long g = 0; g < groups; ++g) {
    double *restrict s = x->sb + g * W;
    int *restrict e = x->esb + g * W;
    for (long j = 0; j < W; ++j) {
      const code_sb code = ((const code_sb *)x->codes)[j < columns ? g * scales + (column + j) / GROUP_B_N - of : 0];
      s[j] = j < columns ? NUMBER_SB(code) : 0.0;
      e[j] = j < columns ? ALIGN_SB(s[j], code) : NONE;
    }
  }
#if SCALES_FOLD
  for (long i = 0; i < depth; ++i) {
    const double *restrict s = x->sb + ((k + i) / GROUP_B_K - first) * W;
    const int *restrict e = x->esb + ((k + i) / GROUP_B_K - first) * W;
    _Pragma("omp simd") for (int j = 0; j < W; ++j) {
      x->b[i * W + j] *= s[j];
      x->eb[i * W + j] = larger(join(widen(x->eb[i * W + j]), e[j]), OPERAND_NONE);
    }
  }
#endif
#endif
}

#if PICKS
/* Copy the elements that row `i` of a tile, or each of its columns, picks for the products `from` to `to` of a chunk. */
static void pick(const Job *job, Buffers *x, long i, long row, long column, long k, long from, long to) {
  const int *picks = (const int *)job->codes[PICKED];
  const long down = job->strides[2 * PICKED], right = job->strides[2 * PICKED + 1];
  for (long s = from; s < to; ++s) {
#if PICKS == OF_ROWS
    const long at = picks[(row + i) * down + (k + s) * right] - ALONG_B(k);
    memcpy(x->picked + s * W, x->b + at * W, W * sizeof *x->b);
    memcpy(x->picked_exponents + s * W, x->eb + at * W, W * sizeof *x->eb);
#else
    for (long j = 0; j < W; ++j) {
      const long own = column + j < job->n ? column + j : column;
      const long at = i * CHUNK_A + picks[own * down + (k + s) * right] - ALONG_A(k);
      x->picked[s * W + j] = x->a[at];
      x->picked_exponents[s * W + j] = x->ea[at];
    }
#endif
  }
}
#endif

static void tile(const Job *job, Buffers *x, long row, long column) {
  const long rows = job->m - row < job->rows ? job->m - row : job->rows;
  const long columns = job->n - column < W ? job->n - column : W;
  memset(x->codes, 0, rows * W * sizeof(code_c));
  TAKE(OF_C, code_c, row, column, rows, columns, W);
  _Pragma("omp simd") for (long j = 0; j < rows * W; ++j) x->c[j] = NUMBER_C(((const code_c *)x->codes)[j]);
  if (TWO_REGISTERS) memset(x->second, 0, rows * W * sizeof(double));
  for (long k = 0; k < job->k; k += CHUNK) {
    const long depth = job->k - k < CHUNK ? job->k - k : CHUNK;
    read_a(job, x, row, k, rows, depth);
    read_b(job, x, k, column, depth, columns);
    for (long from = 0; from < depth; from += BURST) /* a burst of B stays in the first cache for all rows */
      for (long i = 0; i < rows; ++i) {
        const long to = from + BURST < depth ? from + BURST : depth;
        const lane *a = x->a + i * CHUNK_A, *b = x->b;
        const short *ea = x->ea + i * CHUNK_A, *eb = x->eb;
#if PICKS
        pick(job, x, i, row, column, k, from, to);
#if PICKS == OF_ROWS
        b = x->picked, eb = x->picked_exponents;
#else
        a = x->picked, ea = x->picked_exponents;
#endif
#endif
        for (long j = from; j < to; j += STEP)
          step(k + j, k, a, ea, b, eb, x->sa + i * GROUPS_A, x->esa + i * GROUPS_A, x->sb, x->esb, x->c + i * W,
               x->second + i * W, row + i, column, job->seed);
      }
  }
  for (long i = 0; i < rows; ++i) {
    code_d *restrict d = (code_d *)job->codes[OF_D] + (row + i) * job->n + column;
    const double *restrict c = x->c + i * W, *restrict second = x->second + i * W;
    (void)second;
    _Pragma("omp simd") for (long j = 0; j < columns; ++j) d[j] = CODE_D(LEFT(c[j]));
  }
}

static long tiles_of(long length, long size) { return (length + size - 1) / size; }

static void *work(void *argument) {
  Job *job = argument;
  const long down = tiles_of(job->m, job->rows), tiles = down * tiles_of(job->n, W);
  Buffers *x = aligned_alloc(64, (sizeof(Buffers) + 63) / 64 * 64);
  if (!x) {
    atomic_store(&job->failed, 1);
    return NULL;
  }
  for (long next; (next = atomic_fetch_add(&job->next, 1)) < tiles;)
    tile(job, x, next % down * job->rows, next / down * W);
  free(x);
  return NULL;
}

/* Write D from the codes of A, B, C and scales; `seed` is that of random bits. Return whether memory ran out. */
int run(long m, long n, long k, int threads, unsigned long long seed, const long *strides, char *const *codes) {
  long rows = ROWS; /* large tiles read less; many small ones spread more evenly over threads */
  while (rows > 32 && tiles_of(m, rows) * tiles_of(n, W) < 4L * threads) rows /= 2;
  Job job = {m, n, k, rows, strides, seed, codes};
  pthread_t others[MOST_THREADS];
  int started = 0;
  while (started < threads - 1 && started < MOST_THREADS && !pthread_create(&others[started], NULL, work, &job))
    ++started;
  work(&job);
  while (started) pthread_join(others[--started], NULL);
  return job.failed;
}
