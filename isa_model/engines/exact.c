/* Exact dot products of rows of A (M, K) with rows of B (N, K), float or double, as sums of a few doubles.
 *
 * Each row is scaled by a power of two so that its elements lie below 1. A product of two elements fits a double if their
 * significands have at most 53 bits together; otherwise elements are cut into pieces first, by the bits of their significand.
 * Products are cut at fixed places, `width` bits apart, and the pieces of each place are added in a double of their own. Such
 * a sum has at most 52 bits, so no addition rounds. The caller adds the few sums of a dot product (to_odd in float64.py).
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
} Matrix;

static inline uint64_t to_bits(double x) { uint64_t b; memcpy(&b, &x, 8); return b; }
static inline double from_bits(uint64_t b) { double x; memcpy(&x, &b, 8); return x; }
static inline double pow2(long e) { return from_bits((uint64_t)(e + 1023) << 52); }
static inline long leading(double x) { return (long)(to_bits(x) >> 52 & 0x7FF) - 1023; }

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

/* Measure a row. */
static int measure(const Matrix *x, long batch, long row, long k, Extent *extent) {
  double part[CHUNK], largest = 0, unit = INFINITY, wide = 1;
  for (long first = 0; first < k; first += CHUNK) {
    const long count = k - first < CHUNK ? k - first : CHUNK;
    take(x, batch, row, first, count, 1.0, part);
    double top = largest, least = unit, ratio = wide, broken = 0;
    for (long i = 0; i < count; ++i) {
      const double size = fabs(part[i]);
      const uint64_t bits = to_bits(size), mantissa = bits & 0xFFFFFFFFFFFFFull;
      const double low = mantissa ? size - from_bits(bits & (bits - 1)) : size; /* lowest bit that is set */
      const double place = size > 0 ? low : INFINITY, length = size > 0 ? size / low : 1.0;
      broken = size - size == 0 ? broken : 1.0; /* infinity or NaN */
      top = size > top ? size : top;
      least = place < least ? place : least;
      ratio = length > ratio ? length : ratio;
    }
    if (broken) return NOT_FINITE;
    largest = top, unit = least, wide = ratio;
  }
  *extent = (Extent){0, 0, 1};
  if (largest == 0) return DONE;
  const long high = leading(largest) + 1, low = leading(unit);
  if (low < -1000 || high > 1000 || high - low > 900) return TOO_FAR;
  *extent = (Extent){(int)high, (int)(high - low), (int)leading(wide) + 1};
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

/* Write the sums of all dot products, (sums, batches, M, N), and the exponents of rows, (batches, M) and (batches, N).
 * `count` returns the number of sums, at most MOST_SUMS. */
int run(long batches, long m, long n, long k, const Matrix *of_a, const Matrix *of_b, double *out, int *exponents_a,
        int *exponents_b, long *count) {
  Extent all = {0, 0, 1}, of, other = {0, 0, 1};
  for (long batch = 0; batch < batches; ++batch) {
    for (long i = 0; i < m; ++i) {
      const int failed = measure(of_a, batch, i, k, &of);
      if (failed) return failed;
      exponents_a[batch * m + i] = of.exponent;
      if (of.depth > all.depth) all.depth = of.depth;
      if (of.bits > all.bits) all.bits = of.bits;
    }
    for (long j = 0; j < n; ++j) {
      const int failed = measure(of_b, batch, j, k, &of);
      if (failed) return failed;
      exponents_b[batch * n + j] = of.exponent;
      if (of.depth > other.depth) other.depth = of.depth;
      if (of.bits > other.bits) other.bits = of.bits;
    }
  }
  int bits_a = all.bits, bits_b = other.bits;
  if (bits_a + bits_b > 53) {
    if (bits_a > 40) bits_a = 26;
    bits_b = bits_b < 53 - bits_a ? bits_b : 53 - bits_a;
  }
  const int pieces_a = (all.bits + bits_a - 1) / bits_a, pieces_b = (other.bits + bits_b - 1) / bits_b;
  int growth = 0;
  while ((1l << growth) < k * pieces_a * pieces_b) ++growth;
  const int width = 52 - growth < 50 ? 52 - growth : 50, depth = all.depth + other.depth;
  int sums = depth <= width ? 1 : (depth + width - 1) / width;
  if (sums > MOST_SUMS || width < 8) return TOO_FAR;
  if (sums > 4) sums = MOST_SUMS; /* one less to compile */
  *count = sums;
  double places[MOST_SUMS];
  for (int s = 0; s < sums; ++s) places[s] = 1.5 * pow2(52 - (s + 1) * width);
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
            memset(b, 0, sizeof b);
            for (long j = 0; j < columns; ++j) {
              take(of_b, batch, column + j, first, length, pow2(-exponents_b[batch * n + column + j]), line);
              if (pieces_b > 1) piece(line, length, bits_b, from_b);
              for (long i = 0; i < length; ++i) ((double *)b)[i * LANES + j] = line[i];
            }
            for (int from_a = 0; from_a < pieces_a; ++from_a) {
              for (long i = 0; i < rows; ++i) {
                if (pieces_a > 1 || from_b == 0) take(of_a, batch, row + i, first, length, pow2(-exponents_a[batch * m + row + i]), a[i]);
                if (pieces_a > 1) piece(a[i], length, bits_a, from_a);
                if (sums == 1) add(a[i], b, length, 1, places, total[i]);
                else if (sums == 2) add(a[i], b, length, 2, places, total[i]);
                else if (sums == 3) add(a[i], b, length, 3, places, total[i]);
                else if (sums == 4) add(a[i], b, length, 4, places, total[i]);
                else add(a[i], b, length, MOST_SUMS, places, total[i]);
              }
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
