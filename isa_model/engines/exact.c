/* Exact dot products of rows of A (M, K) with rows of B (N, K), float or double, as sums of a few doubles. Rows may have a
 * scale for each group of their elements.
 *
 * Each row is multiplied by a power of two so that its elements lie below 1. Where a double holds the sum of a block of
 * products, blocks are summed first, and then multiplied by their scales; otherwise each product is a block. A product fits a
 * double if its factors have at most 53 bits together; otherwise factors are cut into pieces, by the bits of their significand.
 * Products are then cut at fixed places, `width` bits apart, and the pieces of each place are added in a double of their own.
 * Such a sum has at most 52 bits, so no addition rounds. The caller adds the few sums of a dot product (to_odd in float64.py).
 */

#include <math.h>
#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__)
enum { WIDTH = 8 }; /* doubles in a register */
#elif defined(__AVX__)
enum { WIDTH = 4 };
#else
enum { WIDTH = 2 };
#endif
enum { PAIR = 2, LANES = PAIR * WIDTH, ROWS = 16, CHUNK = 256, MOST_SUMS = 6 };
enum { DONE, NOT_FINITE, TOO_FAR }; /* what `run` returns */

typedef double vector __attribute__((vector_size(WIDTH * sizeof(double))));
typedef struct { vector x[PAIR]; } lanes;
typedef struct {
  const char *from;            /* first element */
  long batch, row, column;     /* elements to the next matrix, row and column */
  long is_double;
  const double *scales;        /* (batches, rows, groups); null for none */
  long group;                  /* elements that share a scale */
} Matrix;

static inline uint64_t to_bits(double x) { uint64_t b; memcpy(&b, &x, 8); return b; }
static inline double from_bits(uint64_t b) { double x; memcpy(&x, &b, 8); return x; }
static inline double pow2(long e) { return from_bits((uint64_t)(e + 1023) << 52); }

/* Copy some elements of a row, multiplied by `scale`. */
static void take(const Matrix *x, long batch, long row, long k, long count, double scale, double *to) {
  const long first = batch * x->batch + row * x->row + k * x->column, step = x->column;
  if (x->is_double) {
    const double *from = (const double *)x->from + first;
    if (step == 1) for (long i = 0; i < count; ++i) to[i] = from[i] * scale;
    else for (long i = 0; i < count; ++i) to[i] = from[i * step] * scale;
  } else {
    const float *from = (const float *)x->from + first;
    if (step == 1) for (long i = 0; i < count; ++i) to[i] = from[i] * scale;
    else for (long i = 0; i < count; ++i) to[i] = from[i * step] * scale;
  }
}

typedef struct {
  int exponent; /* elements are below 2**exponent */
  int depth;    /* and multiples of 2**(exponent - depth) */
  int bits;     /* of the longest significand */
} Extent;

/* Measure a row of floats as `measure` does; return 0 where float holds no lowest bit. */
static int measure_floats(const float *x, long k, Extent *extent) {
  const int32_t infinite = 0x7F800000;
  int32_t largest = 0, unit = infinite, mantissas = 0;
  for (long i = 0; i < k; ++i) {
    const float size = fabsf(x[i]);
    int32_t bits, low;
    float rest;
    memcpy(&bits, &size, 4);
    const int32_t above = bits & (bits - 1), mantissa = bits & 0x7FFFFF;
    memcpy(&rest, &above, 4);
    rest = size - rest; /* lowest bit that is set */
    memcpy(&low, &rest, 4);
    const int32_t place = bits == 0 ? infinite : mantissa ? low : bits;
    mantissas |= mantissa;
    largest = bits > largest ? bits : largest;
    unit = place < unit ? place : unit;
  }
  if (largest == 0 || largest >= infinite || unit < 1 << 23) return 0;
  int bits = 24;
  while (bits > 1 && !(mantissas >> (24 - bits) & 1)) --bits;
  const int high = (largest >> 23) - 126, low = (unit >> 23) - 127;
  *extent = (Extent){high, high - low, bits};
  return 1;
}

/* Measure a row. Magnitudes are compared by their bits, as integers, which compilers turn into vector code. */
static int measure(const Matrix *x, long batch, long row, long k, Extent *extent) {
  if (!x->is_double && x->column == 1 && measure_floats((const float *)x->from + batch * x->batch + row * x->row, k, extent))
    return DONE;
  double part[CHUNK];
  const int64_t infinite = 0x7FFll << 52;
  int64_t largest = 0, unit = infinite, mantissas = 0;
  for (long first = 0; first < k; first += CHUNK) {
    const long count = k - first < CHUNK ? k - first : CHUNK;
    take(x, batch, row, first, count, 1.0, part);
    for (long i = 0; i < count; ++i) {
      const double size = fabs(part[i]);
      const int64_t bits = (int64_t)to_bits(size), mantissa = bits & 0xFFFFFFFFFFFFFll;
      const int64_t low = (int64_t)to_bits(size - from_bits((uint64_t)(bits & (bits - 1)))); /* lowest bit that is set */
      const int64_t place = bits == 0 ? infinite : mantissa ? low : bits;
      mantissas |= mantissa;
      largest = bits > largest ? bits : largest;
      unit = place < unit ? place : unit;
    }
  }
  if (largest >= infinite) return NOT_FINITE;
  *extent = (Extent){0, 0, 1};
  if (largest == 0) return DONE;
  int bits = 53;
  while (bits > 1 && !(mantissas >> (53 - bits) & 1)) --bits;
  const long high = (long)(largest >> 52) - 1022, low = (long)(unit >> 52) - 1023;
  if (low < -1000 || high > 1000 || high - low > 900) return TOO_FAR;
  *extent = (Extent){(int)high, (int)(high - low), bits};
  return DONE;
}

/* Keep the next `bits` bits of each element's significand after `skip` times as many have been cut off. */
static void piece(double *x, long count, int bits, int skip) {
  const uint64_t kept = bits >= 53 ? ~0ull : ~((1ull << (53 - bits)) - 1);
  for (int s = 0; s < skip; ++s)
    for (long i = 0; i < count; ++i) x[i] -= from_bits(to_bits(x[i]) & kept);
  for (long i = 0; i < count; ++i) x[i] = from_bits(to_bits(x[i]) & kept);
}

/* Add the products of one row of A with LANES rows of B, `count` long, to `sums` sums; `places` cut them. */
static inline __attribute__((always_inline)) void add(const double *a, const lanes *b, long count, int sums, const double *places,
                                                      lanes *total) {
  vector kept[MOST_SUMS][PAIR], place[MOST_SUMS];
  for (int s = 0; s < sums; ++s) {
    place[s] = places[s] - (vector){};
    for (int i = 0; i < PAIR; ++i) kept[s][i] = total[s].x[i];
  }
  for (long k = 0; k < count; ++k) {
    const vector row = a[k] - (vector){};
    for (int i = 0; i < PAIR; ++i) {
      vector product = row * b[k].x[i];
      for (int s = 0; s + 1 < sums; ++s) {
        const vector high = (product + place[s]) - place[s];
        kept[s][i] += high;
        product -= high;
      }
      kept[sums - 1][i] += product;
    }
  }
  for (int s = 0; s < sums; ++s)
    for (int i = 0; i < PAIR; ++i) total[s].x[i] = kept[s][i];
}

/* Add a product to its sums. */
static inline __attribute__((always_inline)) void add_one(vector product, int sums, const double *places, vector *total) {
  for (int s = 0; s + 1 < sums; ++s) {
    const vector high = (product + places[s]) - places[s];
    total[s] += high;
    product -= high;
  }
  total[sums - 1] += product;
}

/* The first `bits` bits of each significand. */
static inline vector first_bits(vector x, int bits) {
  typedef long long integers __attribute__((vector_size(sizeof(vector))));
  return (vector)((integers)x & (long long)(bits >= 53 ? ~0ull : ~((1ull << (53 - bits)) - 1)));
}

typedef struct {
  int sums, scaled;     /* sums of a dot product; whether blocks have scales */
  int bits_of_scales;   /* of the pieces of a product of two scales; 0: one piece */
  int bits_of_block;    /* of the pieces of a block's sum; 0: one piece */
  const double *places;
} Plan;

/* Add the sum of a block of products, times `scale_a` and the scales of its LANES rows of B. */
static inline __attribute__((always_inline)) void add_block(const double *a, const lanes *b, long count, const Plan *plan, int sums,
                                                            double scale_a, const lanes *scale_b, lanes *total) {
  vector sum[2][PAIR] = {{{0}}};
  long k = 0;
  for (; k + 2 <= count; k += 2)
    for (int i = 0; i < PAIR; ++i) {
      sum[0][i] += a[k] * b[k].x[i];
      sum[1][i] += a[k + 1] * b[k + 1].x[i];
    }
  for (int i = 0; i < PAIR; ++i) {
    if (k < count) sum[0][i] += a[k] * b[k].x[i];
    const vector block = sum[0][i] + sum[1][i];
    vector own[MOST_SUMS];
    for (int s = 0; s < sums; ++s) own[s] = total[s].x[i];
    if (!plan->scaled) {
      add_one(block, sums, plan->places, own);
    } else {
      const vector scale = scale_a * scale_b->x[i];
      if (!plan->bits_of_scales) {
        add_one(scale * block, sums, plan->places, own);
      } else {
        const vector high = first_bits(scale, plan->bits_of_scales), low = scale - high;
        if (!plan->bits_of_block) {
          add_one(high * block, sums, plan->places, own);
          add_one(low * block, sums, plan->places, own);
        } else {
          const vector top = first_bits(block, plan->bits_of_block), rest = block - top;
          add_one(high * top, sums, plan->places, own);
          add_one(high * rest, sums, plan->places, own);
          add_one(low * top, sums, plan->places, own);
          add_one(low * rest, sums, plan->places, own);
        }
      }
    }
    for (int s = 0; s < sums; ++s) total[s].x[i] = own[s];
  }
}

static int bits_of(long count) {
  int bits = 0;
  while ((1l << bits) < count) ++bits;
  return bits;
}

/* Measure all rows of a matrix; return the deepest and widest. `exponents` has an entry for each. */
static int measure_all(const Matrix *x, long batches, long rows, long k, int *exponents, Extent *all) {
  *all = (Extent){0, 0, 1};
  for (long batch = 0; batch < batches; ++batch)
    for (long row = 0; row < rows; ++row) {
      Extent own;
      const int failed = measure(x, batch, row, k, &own);
      if (failed) return failed;
      exponents[batch * rows + row] = own.exponent;
      if (own.depth > all->depth) all->depth = own.depth;
      if (own.bits > all->bits) all->bits = own.bits;
    }
  return DONE;
}

/* Measure the scales of a matrix; without any, each is 1. */
static int measure_scales(const Matrix *x, long batches, long rows, long k, int *exponents, Extent *all) {
  *all = (Extent){0, 0, 1};
  if (!x->scales) {
    memset(exponents, 0, batches * rows * sizeof *exponents);
    return DONE;
  }
  const long groups = (k + x->group - 1) / x->group;
  const Matrix scales = {(const char *)x->scales, rows * groups, groups, 1, 1, 0, 0};
  return measure_all(&scales, batches, rows, groups, exponents, all);
}

/* Write the sums of all dot products, (sums, batches, M, N), and exponents of rows, (2, batches, M) and (2, batches, N), of their
 * elements and scales. `count` returns the number of sums, at most MOST_SUMS. */
int run(long batches, long m, long n, long k, const Matrix *of_a, const Matrix *of_b, double *out, int *exponents_a,
        int *exponents_b, long *count) {
  Extent a_extent, b_extent, sa_extent, sb_extent;
  int *scale_exponents_a = exponents_a + batches * m, *scale_exponents_b = exponents_b + batches * n;
  int failed = measure_all(of_a, batches, m, k, exponents_a, &a_extent);
  if (!failed) failed = measure_all(of_b, batches, n, k, exponents_b, &b_extent);
  if (!failed) failed = measure_scales(of_a, batches, m, k, scale_exponents_a, &sa_extent);
  if (!failed) failed = measure_scales(of_b, batches, n, k, scale_exponents_b, &sb_extent);
  if (failed) return failed;

  const int scaled = of_a->scales || of_b->scales;
  long block = CHUNK;
  if (of_a->scales && of_a->group < block) block = of_a->group;
  if (of_b->scales && of_b->group < block) block = of_b->group;
  int depth = a_extent.depth + b_extent.depth, growth;
  const int block_bits = depth + bits_of(block), blocked = block_bits <= 52;
  int bits_a = a_extent.bits, bits_b = b_extent.bits, pieces_a = 1, pieces_b = 1;
  Plan plan = {1, scaled, 0, 0, 0};
  if (blocked) {
    const int scale_bits = sa_extent.bits + sb_extent.bits;
    if (scale_bits > 52) return TOO_FAR;
    long blocks = 1;
    if (of_a->scales) blocks += (k + of_a->group - 1) / of_a->group;
    if (of_b->scales) blocks += (k + of_b->group - 1) / of_b->group;
    growth = bits_of(4 * (blocks + k / CHUNK + 1));
    depth = block_bits + sa_extent.depth + sb_extent.depth;
    if (scaled && scale_bits + block_bits > 53) {
      plan.bits_of_scales = 26;
      plan.bits_of_block = block_bits > 27 ? 26 : 0;
    }
  } else {
    if (scaled) return TOO_FAR;
    block = 1;
    if (bits_a + bits_b > 53) {
      if (bits_a > 40) bits_a = 26;
      bits_b = bits_b < 53 - bits_a ? bits_b : 53 - bits_a;
    }
    pieces_a = (a_extent.bits + bits_a - 1) / bits_a, pieces_b = (b_extent.bits + bits_b - 1) / bits_b;
    growth = bits_of(k * pieces_a * pieces_b);
  }
  const int width = 52 - growth < 50 ? 52 - growth : 50, above = blocked ? bits_of(block) : 0;
  int sums = depth <= width ? 1 : (depth + width - 1) / width;
  if (sums > MOST_SUMS || width < 8) return TOO_FAR;
  if (sums > 4) sums = MOST_SUMS; /* fewer to compile */
  *count = sums;
  double places[MOST_SUMS];
  for (int s = 0; s < sums; ++s) places[s] = 1.5 * pow2(52 + above - (s + 1) * width);
  plan.sums = sums, plan.places = places;

  for (long batch = 0; batch < batches; ++batch)
    for (long row = 0; row < m; row += ROWS)
      for (long column = 0; column < n; column += LANES) {
        const long rows = m - row < ROWS ? m - row : ROWS, columns = n - column < LANES ? n - column : LANES;
        static __thread double a[ROWS][CHUNK], line[CHUNK];
        static __thread lanes b[CHUNK], total[ROWS][MOST_SUMS];
        memset(total, 0, sizeof total);
        for (long first = 0; first < k; first += CHUNK) {
          const long length = k - first < CHUNK ? k - first : CHUNK;
          for (int from_b = 0; from_b < pieces_b; ++from_b) {
            if (columns < LANES) memset(b, 0, sizeof b);
            for (long j = 0; j < columns; ++j) {
              take(of_b, batch, column + j, first, length, pow2(-exponents_b[batch * n + column + j]), line);
              if (pieces_b > 1) piece(line, length, bits_b, from_b);
              for (long i = 0; i < length; ++i) ((double *)b)[i * LANES + j] = line[i];
            }
            for (int from_a = 0; from_a < pieces_a; ++from_a)
              for (long i = 0; i < rows; ++i) {
                if (pieces_a > 1 || from_b == 0)
                  take(of_a, batch, row + i, first, length, pow2(-exponents_a[batch * m + row + i]), a[i]);
                if (pieces_a > 1) piece(a[i], length, bits_a, from_a);
                if (blocked) continue;
                if (sums == 1) add(a[i], b, length, 1, places, total[i]);
                else if (sums == 2) add(a[i], b, length, 2, places, total[i]);
                else if (sums == 3) add(a[i], b, length, 3, places, total[i]);
                else if (sums == 4) add(a[i], b, length, 4, places, total[i]);
                else add(a[i], b, length, MOST_SUMS, places, total[i]);
              }
          }
          for (long from = 0, to; blocked && from < length; from = to) {
            const long at = first + from, group_a = of_a->scales ? at / of_a->group : 0, group_b = of_b->scales ? at / of_b->group : 0;
            to = length;
            if (of_a->scales && (group_a + 1) * of_a->group - first < to) to = (group_a + 1) * of_a->group - first;
            if (of_b->scales && (group_b + 1) * of_b->group - first < to) to = (group_b + 1) * of_b->group - first;
            lanes scales = {{{0}}};
            for (long j = 0; j < columns; ++j) {
              const long line_b = batch * n + column + j, groups = of_b->scales ? (k + of_b->group - 1) / of_b->group : 0;
              ((double *)&scales)[j] = of_b->scales ? of_b->scales[line_b * groups + group_b] * pow2(-scale_exponents_b[line_b]) : 1.0;
            }
            for (long i = 0; i < rows; ++i) {
              const long line_a = batch * m + row + i, groups = of_a->scales ? (k + of_a->group - 1) / of_a->group : 0;
              const double scale = of_a->scales ? of_a->scales[line_a * groups + group_a] * pow2(-scale_exponents_a[line_a]) : 1.0;
              if (sums == 1) add_block(a[i] + from, b + from, to - from, &plan, 1, scale, &scales, total[i]);
              else if (sums == 2) add_block(a[i] + from, b + from, to - from, &plan, 2, scale, &scales, total[i]);
              else if (sums == 3) add_block(a[i] + from, b + from, to - from, &plan, 3, scale, &scales, total[i]);
              else add_block(a[i] + from, b + from, to - from, &plan, sums, scale, &scales, total[i]);
            }
          }
        }
        for (int s = 0; s < sums; ++s)
          for (long i = 0; i < rows; ++i)
            for (long j = 0; j < columns; ++j)
              out[((s * batches + batch) * m + row + i) * n + column + j] = ((double *)&total[i][s])[j];
      }
  return DONE;
}
