/* Exact arithmetic on doubles for one element of D, in C and CUDA: what float64.py and rounding.py do on arrays.
 *
 * Every function is a few lines without branches on data, so that a C compiler turns a loop over elements into vector
 * code; arguments that choose a rule (rounding, overflow) are constants wherever they are called, and fold away.
 */

#ifdef __CUDACC__
#define FN static __device__ __forceinline__
#define INFINITY __int_as_float(0x7f800000)
#define NAN __int_as_float(0x7fffffff)
#else
#include <math.h>
#include <stdint.h>
#include <string.h>
#define FN static inline __attribute__((always_inline))
#endif

#define NONE (-(1 << 20))            /* alignment exponent of a term that has none */
#define OPERAND_NONE (-(1 << 14))    /* the same in an operand's 16 bits: the sum of two still fits */

enum { NEAREST_EVEN, NEAREST_AWAY, TOWARD_ZERO, UP, DOWN, TO_ODD };
enum { OVER_IEEE, OVER_INFINITY, OVER_SATURATE, OVER_NAN, OVER_WRAP, OVER_NEVER };

#ifdef __CUDACC__
FN long long to_bits(double x) { return __double_as_longlong(x); }
FN double from_bits(long long b) { return __longlong_as_double(b); }
FN float float_from_bits(int b) { return __int_as_float(b); }
FN int float_to_bits(float x) { return __float_as_int(x); }
#else
FN int64_t to_bits(double x) { int64_t b; memcpy(&b, &x, 8); return b; }
FN double from_bits(int64_t b) { double x; memcpy(&x, &b, 8); return x; }
FN float float_from_bits(int32_t b) { float x; memcpy(&x, &b, 4); return x; }
FN int32_t float_to_bits(float x) { int32_t b; memcpy(&b, &x, 4); return b; }
#endif

FN int larger(int x, int y) { return x > y ? x : y; }
FN int smaller(int x, int y) { return x < y ? x : y; }

/* 2**e from bits; e from -1022 to 1023 (float: -126 to 127). */
FN double pow2(int e) { return from_bits((long long)((unsigned long long)(e + 1023) << 52)); }
FN float pow2f(int e) { return float_from_bits((int)((unsigned)(e + 127) << 23)); }

/* floor(log2(|x|)) of normal numbers; -1023 for zero, 1024 for infinities and NaNs. */
FN int leading(double x) { return (int)(to_bits(x) >> 52 & 0x7FF) - 1023; }

FN int is_finite(double x) { return leading(x) < 1024; }

/* The exponent with which a number of a format aligns. */
FN int align(double x, int min_exponent) {
  int e = larger(leading(x), min_exponent);
  return (x == 0) | !is_finite(x) ? NONE : e;
}

FN int align_integer(double x) { return x == 0 ? NONE : 0; }

/* A product's exponent from its operands'. */
FN int join(int x, int y) { return (x == NONE) | (y == NONE) ? NONE : x + y; }

FN int widen(int sum) { return sum <= OPERAND_NONE / 2 ? NONE : sum; }

/* x rounded to a whole number; infinities and NaNs stay. */
FN double whole(double x, int rounding) {
  if (rounding == NEAREST_EVEN) return rint(x);
  if (rounding == TOWARD_ZERO) return trunc(x);
  if (rounding == UP) return ceil(x);
  if (rounding == DOWN) return floor(x);
  double t = trunc(x), lost = fabs(x - t);
  double even = trunc(t * 0.5) * 2.0 == t;
  int away = rounding == NEAREST_AWAY ? lost >= 0.5 : (lost > 0) & (even != 0.0);
  return away ? t + copysign(1.0, x) : t;
}

FN float wholef(float x, int rounding) { return rounding == NEAREST_EVEN ? rintf(x) : rounding == TOWARD_ZERO ? truncf(x) : (float)whole(x, rounding); }

/* x + e rounded to odd, for an error e below the last bit of x. */
FN double jam(double x, double e) {
  const long long b = to_bits(x), step = (to_bits(e) ^ b) >> 63 | 1; /* away from zero or toward it, if b is even */
  return e != 0 ? from_bits(b + (step & ((b & 1) - 1))) : x;
}

/* The error of s = x + y (Knuth); 0 where s is not finite. */
FN double sum_error(double x, double y, double s) {
  double back = s - x;
  double e = (x - (s - back)) + (y - back);
  return is_finite(s) ? e : 0.0;
}

/* x + y rounded to odd. */
FN double both(double x, double y) {
  const double s = x + y;
  return s != 0 ? jam(s, sum_error(x, y, s)) : s;
}

/* The error of p = x * y; a zero has the sign of p, so that the parts of a negative zero sum to one. */
FN double product_error(double x, double y, double p) {
  double e = fma(x, y, -p);
  return is_finite(p) & (e != 0) ? e : copysign(0.0, p);
}

/* A product, infinite from a limit on. */
FN double infinite_from(double p, double limit) { return fabs(p) >= limit ? copysign(INFINITY, p) : p; }

/* x rounded to a multiple of a unit, nearest even (magic is 1.5 * 2**52 units), and what is left of x. */
FN double bin(double x, double magic) { return (x + magic) - magic; }
FN double rest(double x, double h) { return x == h ? 0.0 : x - h; }

/* Conversions that the machine has, or nearly: to registers with the exponents of FP32 and, on a GPU, of FP16. Numbers
 * beyond the range become infinite. */
FN int has_conversion(int rounding, int min_exponent, int max_exponent, int mantissa_bits) {
  if ((min_exponent == -126) & (max_exponent == 127) & (mantissa_bits <= 23))
    return (rounding == TOWARD_ZERO) | ((rounding == NEAREST_EVEN) & (mantissa_bits == 23));
#ifdef __CUDACC__
  return (min_exponent == -14) & (max_exponent == 15) & (mantissa_bits == 10) & (rounding == NEAREST_EVEN);
#else
  return 0;
#endif
}
FN double convert(double x, int rounding, int max_exponent, int mantissa_bits) {
#ifdef __CUDACC__
  if (max_exponent == 15) {
    double y;
    asm("{ .reg .f16 h; cvt.rn.f16.f64 h, %1; cvt.f64.f16 %0, h; }" : "=d"(y) : "d"(x));
    return y;
  }
  if (rounding == NEAREST_EVEN) return (float)x; /* not the intrinsic: a compiler sees through this */
  const int toward_zero = float_to_bits(__double2float_rz(x));
#else
  const float near = (float)x;
  if (rounding == NEAREST_EVEN) return near;
  const int toward_zero = float_to_bits(near) - (fabs((double)near) > fabs(x));
#endif
  const float y = float_from_bits(toward_zero & (int)(0xFFFFFFFFu << (23 - mantissa_bits)));
  return x != x ? x : fabs(x) >= pow2(max_exponent + 1) ? copysign(INFINITY, x) : y;
}

/* A value rounded to a register: `golden.rounded`. `x` is exact, or rounded to odd with at least two bits to spare. */
FN double put(double x, int rounding, int overflow, int flush, int min_exponent, int max_exponent, int mantissa_bits,
              double largest) {
  const int converts = has_conversion(rounding, min_exponent, max_exponent, mantissa_bits);
  double y;
  if (converts) {
    y = convert(x, rounding, max_exponent, mantissa_bits);
  } else {
    int low = larger(min_exponent, -900); /* values lie far above; keeps 2**-unit finite when x is zero */
    int e = smaller(larger(leading(x), low), max_exponent + 1);
    int unit = e - mantissa_bits;
    y = whole(x * pow2(-unit), rounding) * pow2(unit);
  }
#ifdef __CUDACC__
  if (flush & converts & (max_exponent == 127)) { /* y is an FP32 number: no slow double comparison */
    const float z = (float)y;
    y = fabsf(z) < pow2f(-126) ? copysignf(0.0f, z) : z;
  } else
#endif
  if (flush) y = fabs(y) < pow2(min_exponent) ? copysign(0.0, y) : y;
  if (overflow == OVER_NEVER) return y;
  if (converts & ((overflow == OVER_INFINITY) | ((overflow == OVER_IEEE) & (rounding == NEAREST_EVEN)))) return y;
  double limit = overflow == OVER_SATURATE ? largest : overflow == OVER_NAN ? NAN : INFINITY;
  int stays = 0;
  if (overflow == OVER_IEEE) {
    if ((rounding == TOWARD_ZERO) | (rounding == TO_ODD)) stays = is_finite(x);
    if (rounding == UP) stays = is_finite(x) & (y < 0);
    if (rounding == DOWN) stays = is_finite(x) & (y > 0);
  }
  double beyond = copysign(stays ? largest : limit, y);
  y = fabs(y) > largest ? beyond : y;
  if (flush & (max_exponent < min_exponent)) y = fabs(y) < pow2(min_exponent) ? copysign(0.0, y) : y; /* all subnormal */
  return y;
}

/* The first word of Philox4x32-10: isa_model/philox.py. */
FN unsigned philox(unsigned long long seed, unsigned row, unsigned column, unsigned block, unsigned number) {
  unsigned x0 = row, x1 = column, x2 = block, x3 = number, k0 = (unsigned)seed, k1 = (unsigned)(seed >> 32);
  for (int i = 0; i < 10; ++i) {
    const unsigned long long p = 0xD2511F53ull * x0, q = 0xCD9E8D57ull * x2;
    x0 = (unsigned)(q >> 32) ^ x1 ^ k0;
    x2 = (unsigned)(p >> 32) ^ x3 ^ k1;
    x1 = (unsigned)q;
    x3 = (unsigned)p;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return x0;
}

/* A value rounded stochastically to a register, with the upper `bits` of a random word. */
FN double put_random(double x, unsigned word, int bits, int overflow, int flush, int min_exponent, int max_exponent,
                     int mantissa_bits, double largest) {
  const int low = larger(min_exponent, -900), e = smaller(larger(leading(x), low), max_exponent + 1);
  const int unit = e - mantissa_bits;
  const double steps = trunc(fabs(x) * pow2(-unit) * pow2(bits)) + (double)(word >> (32 - bits));
  double y = copysign(trunc(steps * pow2(-bits)), x) * pow2(unit);
  if (flush) y = fabs(y) < pow2(min_exponent) ? copysign(0.0, y) : y;
  const double limit = overflow == OVER_SATURATE ? largest : overflow == OVER_NAN ? NAN : INFINITY;
  y = (overflow != OVER_NEVER) & (fabs(y) > largest) ? copysign(limit, y) : y;
  if (flush & (max_exponent < min_exponent)) y = fabs(y) < pow2(min_exponent) ? copysign(0.0, y) : y; /* all subnormal */
  return y;
}

/* A step in single precision, for sums of at most 24 bits in registers with FP32's exponents. */

FN int alignf(float x) {
  int e = larger((float_to_bits(x) >> 23 & 0xFF) - 127, -126);
  return (x == 0) | ((float_to_bits(x) & 0x7F800000) == 0x7F800000) ? NONE : e;
}

/* x * 2**e without leaving the range on the way. */
FN float scale_by(float x, int e) {
  int half = e / 2;
  return x * pow2f(half) * pow2f(e - half);
}

/* The sum of `steps` units of 2**(largest - fraction_bits) and the running value cut to them, in a register of
 * `mantissa_bits`, rounded toward zero. */
FN float put_narrow(float steps, float running, int largest, int fraction_bits, int mantissa_bits, float limit) {
  int unit = larger(largest, -126) - fraction_bits;
  float total = steps + truncf(scale_by(running, -unit));
  float y = scale_by(total, unit);
  int cut = float_to_bits(y) & (int)(0xFFFFFFFFu << (23 - mantissa_bits));
  float kept = y - y == 0 ? float_from_bits(cut) : total - total == 0 ? copysignf(limit, y) : y;
  return kept + 0.0f;
}

/* A value rounded to a register of integers from `low` to `high`; `modulus` is their number. */
FN double put_integer(double x, int rounding, int overflow, double low, double high, double modulus) {
  double y = whole(x, rounding) + 0.0; /* integers have no negative zero */
  double clipped = y < low ? low : y > high ? high : y;
  double wrapped = y - floor((y - low) / modulus) * modulus;
  return (overflow == OVER_SATURATE) | !is_finite(y) ? clipped : wrapped;
}

/* The code of a number of a format. `per_unit` is one over its smallest number, `smallest` its smallest normal number;
 * codes of infinities, NaN and the negative zero are given. */
FN unsigned long long encode(double x, int padding, int mantissa_bits, int magnitude_bits, int bias, double per_unit,
                             double smallest, unsigned long long infinite, unsigned long long minus_infinite,
                             unsigned long long nan, unsigned long long minus_zero) {
  const double size = fabs(x);
  const long long normal = (to_bits(size) >> (52 - mantissa_bits)) - ((long long)(1023 - bias) << mantissa_bits);
  const long long subnormal = to_bits(size * per_unit + 0x1p52) - (0x433ll << 52);
  const unsigned long long sign = (unsigned long long)to_bits(x) >> 63;
  unsigned long long result = (unsigned long long)(size < smallest ? subnormal : normal) | sign << magnitude_bits;
  result <<= padding;
  result = (x == 0) & (sign != 0) ? minus_zero : result;
  result = is_finite(x) ? result : x > 0 ? infinite : minus_infinite;
  return x == x ? result : nan;
}
