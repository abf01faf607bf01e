/* Elements of a matrix divided by the scales of their groups and rounded to a format, to nearest or toward zero, saturating:
 * the codes and numbers that `encode_array` and `decode_array` give for FP32 quotients, in one pass.
 */

#include <math.h>
#include <stdint.h>
#include <string.h>

enum { CHUNK = 512 };
enum { NEAREST_EVEN, NEAREST_AWAY, TOWARD_ZERO };

typedef struct {
  long storage;                /* bytes of a code */
  long is_integer, is_signed;
  long mantissa_bits, min_exponent, sign_place, low_padding;
  long mask;                   /* of the bits of an integer's code */
  long zero_has_sign;
  long rounding;               /* one of those above */
  long nan_code;
  double top;                  /* largest number */
  double per_step;             /* one over the distance of the largest numbers */
  double nan;                  /* the number of `nan_code` */
} Format;

typedef struct { long nonzero, lost, beyond; } Counts;

static inline uint64_t to_bits(double x) { uint64_t b; memcpy(&b, &x, 8); return b; }
static inline double from_bits(uint64_t b) { double x; memcpy(&x, &b, 8); return x; }
static inline uint32_t float_to_bits(float x) { uint32_t b; memcpy(&b, &x, 4); return b; }
static inline float float_from_bits(uint32_t b) { float x; memcpy(&x, &b, 4); return x; }

/* Round quotients to a floating-point format; return the number beyond its largest number. */
static long round_floats(const Format *to, const float *restrict x, long count, float *restrict numbers, int32_t *restrict codes) {
  const double top = to->top, per_step = to->per_step, top_step = top * per_step, nan = to->nan;
  const int mantissa_bits = to->mantissa_bits, sign_place = to->sign_place, nan_code = to->nan_code, padding = to->low_padding;
  const int64_t min_exponent = to->min_exponent, zero_has_sign = to->zero_has_sign;
  const int even = to->rounding == NEAREST_EVEN, away = to->rounding == NEAREST_AWAY, cut = to->rounding == TOWARD_ZERO;
  long beyond = 0;
  for (long i = 0; i < count; ++i) {
    const double wide = x[i], size = fabs(wide), kept = size < top ? size : top;
    beyond += (even ? rint(size * per_step) : floor(size * per_step + (away ? 0.5 : 0.0))) > top_step;
    const int64_t field = (int64_t)(to_bits(kept) >> 52) - 1023, exponent = field > min_exponent ? field : min_exponent;
    /* Adding 1.5 * 2**52 units rounds to whole units, which then are the lowest bits. */
    const uint64_t magic = ((uint64_t)(exponent + (1023 + 52) - mantissa_bits) << 52) | 1ull << 51;
    const double half = from_bits((uint64_t)(exponent + 1022 - mantissa_bits) << 52);
    const double nearest = kept + from_bits(magic), off = kept - (nearest - from_bits(magic));
    const double shifted = from_bits(to_bits(nearest) + (away & (off == half)) - (cut & (off < 0)));
    const double rounded = shifted - from_bits(magic);
    const int64_t magnitude = (int64_t)(to_bits(shifted) - magic) + ((exponent - min_exponent) << mantissa_bits);
    const int64_t sign = (int64_t)(to_bits(wide) >> 63) & (zero_has_sign | (magnitude != 0));
    const int code = (int)((magnitude | sign << sign_place) << padding);
    codes[i] = x[i] == x[i] ? code : nan_code;
    numbers[i] = x[i] == x[i] ? (float)(sign ? -rounded : rounded) : (float)nan;
  }
  return beyond;
}

/* `round_floats` for a format of few bits whose numbers lie well inside FP32's: in float, twice as many at a time. */
static long round_few_bits(const Format *to, const float *restrict x, long count, float *restrict numbers, int32_t *restrict codes) {
  const float top = to->top, per_step = to->per_step, top_step = top * per_step, nan = to->nan;
  const int mantissa_bits = to->mantissa_bits, sign_place = to->sign_place, nan_code = to->nan_code, padding = to->low_padding;
  const int min_exponent = to->min_exponent, zero_has_sign = to->zero_has_sign;
  int beyond = 0;
  for (long i = 0; i < count; ++i) {
    const float size = fabsf(x[i]), kept = size < top ? size : top;
    beyond += rintf(size * per_step) > top_step;
    const int field = (int)(float_to_bits(kept) >> 23) - 127, exponent = field > min_exponent ? field : min_exponent;
    const uint32_t magic = (uint32_t)(exponent + (127 + 23) - mantissa_bits) << 23 | 1u << 22;
    const float shifted = kept + float_from_bits(magic), rounded = shifted - float_from_bits(magic);
    const int magnitude = (int)(float_to_bits(shifted) - magic) + ((exponent - min_exponent) << mantissa_bits);
    const int sign = (int)(float_to_bits(x[i]) >> 31) & (zero_has_sign | (magnitude != 0));
    const int code = (magnitude | sign << sign_place) << padding;
    codes[i] = x[i] == x[i] ? code : nan_code;
    numbers[i] = x[i] == x[i] ? (sign ? -rounded : rounded) : nan;
  }
  return beyond;
}

static long round_integers(const Format *to, const float *restrict x, long count, float *restrict numbers, int32_t *restrict codes) {
  const double top = to->top, low = to->is_signed ? -to->top - 1 : 0.0;
  const int mask = to->mask, padding = to->low_padding, even = to->rounding == NEAREST_EVEN;
  const double half = to->rounding == NEAREST_AWAY ? 0.5 : 0.0;
  long beyond = 0;
  for (long i = 0; i < count; ++i) {
    const double wide = x[i] == x[i] ? x[i] : 0.0, whole = even ? rint(wide) : trunc(wide + copysign(half, wide));
    const double kept = whole > top ? top : whole < low ? low : whole;
    beyond += (whole > top) | (whole < -top - 1);
    codes[i] = ((int)kept & mask) << padding;
    numbers[i] = (float)((int)kept);
  }
  return beyond;
}

/* Cast a matrix. `group` is the rows and columns that share a divisor, `divisors` has `across` of them in a row; `numbers` may
 * be null. `counts` has an entry for each row. */
int run(const float *x, long rows, long columns, const float *divisors, const long *group, long across, const Format *to,
        char *codes, float *numbers, Counts *counts) {
  float divisor[CHUNK], quotient[CHUNK], number[CHUNK];
  int32_t code[CHUNK];
  const int few_bits = to->rounding == NEAREST_EVEN && to->mantissa_bits <= 10 && to->min_exponent > -100 && to->top < 0x1p100;
  long (*round)(const Format *, const float *, long, float *, int32_t *) =
      to->is_integer ? round_integers : few_bits ? round_few_bits : round_floats;
  for (long i = 0; i < rows; ++i) {
    Counts found = {0, 0, 0};
    for (long first = 0; first < columns; first += CHUNK) {
      const long length = columns - first < CHUNK ? columns - first : CHUNK;
      const float *row = x + i * columns + first, *scales = divisors + i / group[0] * across;
      if (group[1] == 1) memcpy(divisor, scales + first, length * sizeof *divisor);
      else for (long j = 0; j < length;) {
        const long of = (first + j) / group[1], end = (of + 1) * group[1] - first;
        for (; j < end && j < length; ++j) divisor[j] = scales[of];
      }
      for (long j = 0; j < length; ++j) {
        const float kept = to->is_signed || !(row[j] <= 0) ? row[j] : 0.0f;
        const float by = kept / divisor[j];
        quotient[j] = divisor[j] == 0 && row[j] - row[j] == 0 ? 0.0f : by;
      }
      float *made = numbers ? numbers + i * columns + first : number;
      found.beyond += round(to, quotient, length, made, code);
      int nonzero = 0, lost = 0;
      for (long j = 0; j < length; ++j) {
        nonzero += row[j] != 0;
        lost += (row[j] != 0) & (made[j] == 0);
      }
      found.nonzero += nonzero;
      found.lost += lost;
      char *out = codes + (i * columns + first) * to->storage;
      if (to->storage == 1) for (long j = 0; j < length; ++j) ((uint8_t *)out)[j] = (uint8_t)code[j];
      else if (to->storage == 2) for (long j = 0; j < length; ++j) ((uint16_t *)out)[j] = (uint16_t)code[j];
      else memcpy(out, code, length * sizeof *code);
    }
    counts[i] = found;
  }
  return 0;
}
