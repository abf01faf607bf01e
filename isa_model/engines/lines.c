/* Dot products of any spec of the language, as golden.py defines them: the spec is data, so that no compiler runs for a new one.
 *
 * Every magnitude is a whole number of units of 2**base, kept in as many words as the caller found to be enough for the spec:
 * sums are exact, however far their terms lie apart. lines.py lays out `Program`.
 *
 * isa_model/c_golden/golden.c interprets specs, too: that one is compiled for one spec, keeps every value on the way and is read
 * as a definition; this one takes any spec at run time, and is three times as fast.
 */

#include <stdint.h>
#include <stdlib.h>

typedef int64_t L;
typedef uint64_t U;
typedef unsigned __int128 UU;

enum { FINITE, INFINITE, NOT_A_NUMBER };
enum { NEAREST_EVEN, NEAREST_AWAY, TOWARD_ZERO, UP, DOWN, TO_ODD };
enum { BY_IEEE, TO_INFINITY, TO_NAN, SATURATE, WRAP };
enum { NAN_IEEE, NAN_ALL_ONES, NAN_NEGATIVE_ZERO, NAN_NONE };
enum { DONE, NO_MEMORY, TOO_FAR };
#define NONE INT64_MIN

typedef struct {
  L is_integer, is_signed, mantissa_bits, bias, infinity, nan, zero, low_padding, magnitude_bits;
  L min_exponent, min_lsb, max_exponent, max_magnitude, nan_code;
} Format;
typedef struct { Format format; L rounding, overflow, flush; } Register;
typedef struct {
  L terms, chain, accumulator, fraction_bits, own_fraction_bits, drop_beyond, rounding, zero_exponent, exponent, ieee;
  L offset, complement, registers;
  Register result[4];
} Stage;
typedef struct {
  L k, stages, base, words, flush_operands, flush_c, widen, infinite_from, nan, nan_without, scaled_stage, power, has_product, has_result;
  L group_a, group_b, count_a, count_b;
  Format a, b, c, d, scale_a, scale_b;
  Register product, result;
  Stage stage[16];
} Program;

typedef struct {
  int special, negative;
  long low, high; /* words that may be nonzero */
  L align;        /* alignment exponent, or NONE */
  U *word;
} Number;

/* -- magnitudes ------------------------------------------------------------------------------------------------------ */

/* Magnitudes have a few words: a call of memset or memcpy would cost more than it does. */
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("no-tree-loop-distribute-patterns")
#endif

static void clear(Number *x) {
  for (long i = x->low; i < x->high; ++i) x->word[i] = 0;
  x->low = x->high = 0;
}

static void zero(Number *x, int negative) {
  clear(x);
  x->special = FINITE, x->negative = negative, x->align = NONE;
}

static void special(Number *x, int kind, int negative) {
  zero(x, negative);
  x->special = kind;
}

/* Give a cleared number the magnitude significand * 2**bit units. */
static void deposit(Number *x, UU significand, L bit) {
  if (!significand) return;
  const long at = bit >> 6, by = bit & 63;
  const U first = (U)significand, second = (U)(significand >> 64);
  x->low = at, x->high = at + 3;
  x->word[at] = first << by;
  x->word[at + 1] = second << by | (by ? first >> (64 - by) : 0);
  x->word[at + 2] = by ? second >> (64 - by) : 0;
}

static void copy(Number *to, const Number *from) {
  clear(to);
  U *const word = to->word;
  *to = *from;
  to->word = word;
  for (long i = from->low; i < from->high; ++i) word[i] = from->word[i];
}

/* Bit number of the leading bit; -1 for zero. */
static L leading(Number *x) {
  while (x->high > x->low && !x->word[x->high - 1]) --x->high;
  while (x->low < x->high && !x->word[x->low]) ++x->low;
  return x->low == x->high ? -1 : x->high * 64 - 1 - __builtin_clzll(x->word[x->high - 1]);
}

static void add(Number *to, const Number *x) {
  if (x->low == x->high) return;
  if (to->low == to->high) to->low = to->high = x->low;
  U carry = 0;
  long i = x->low;
  for (; i < x->high || carry; ++i) {
    const UU sum = (UU)to->word[i] + (i < x->high ? x->word[i] : 0) + carry;
    to->word[i] = (U)sum, carry = (U)(sum >> 64);
  }
  if (x->low < to->low) to->low = x->low;
  if (i > to->high) to->high = i;
}

/* Subtract a smaller magnitude. */
static void subtract(Number *from, const Number *x) {
  U borrow = 0;
  for (long i = x->low; i < x->high || borrow; ++i) {
    const UU difference = (UU)from->word[i] - (i < x->high ? x->word[i] : 0) - borrow;
    from->word[i] = (U)difference, borrow = (U)(difference >> 64) & 1;
  }
  if (x->low < x->high && x->low < from->low) from->low = x->low;
}

static int is_less(Number *x, Number *y) {
  const L a = leading(x), b = leading(y);
  if (a != b) return a < b;
  for (long i = x->high; i-- > 0 && (i >= x->low || i >= y->low);)
    if (x->word[i] != y->word[i]) return x->word[i] < y->word[i];
  return 0;
}

/* The 64 bits from `bit` up. */
static U bits_from(const Number *x, L bit) {
  if (bit < 0) return bit <= -64 ? 0 : bits_from(x, 0) << -bit;
  const long at = bit >> 6, by = bit & 63;
  const U first = at >= x->low && at < x->high ? x->word[at] : 0, second = at + 1 >= x->low && at + 1 < x->high ? x->word[at + 1] : 0;
  return by ? first >> by | second << (64 - by) : first;
}

static int any_below(const Number *x, L bit) {
  for (long i = x->low; i < x->high && i * 64 < bit; ++i)
    if (bit - i * 64 >= 64 ? x->word[i] : x->word[i] & (((U)1 << (bit - i * 64)) - 1)) return 1;
  return 0;
}

/* Round a magnitude to a multiple of 2**bit units (rounding.shift_right). */
static void round_at(Number *x, L bit, int rounding) {
  if (bit <= x->low * 64 || x->low == x->high) return;
  const int odd = bits_from(x, bit) & 1, half = bits_from(x, bit - 1) & 1, rest = any_below(x, bit - 1);
  for (long i = x->low; i < x->high && i * 64 < bit; ++i) x->word[i] = bit - i * 64 >= 64 ? 0 : x->word[i] >> (bit - i * 64) << (bit - i * 64);
  int up = 0;
  switch (rounding) {
    case NEAREST_EVEN: up = half && (rest || odd); break;
    case NEAREST_AWAY: up = half; break;
    case UP: up = (half || rest) && !x->negative; break;
    case DOWN: up = (half || rest) && x->negative; break;
    case TO_ODD: up = (half || rest) && !odd; break;
  }
  if (up) {
    U one[1] = {(U)1 << (bit & 63)};
    const long at = bit >> 6;
    const Number unit = {0, 0, at, at + 1, 0, one - at};
    add(x, &unit);
  }
}

/* -- numbers --------------------------------------------------------------------------------------------------------- */

/* Read a code as a term (golden.read), with its significand and exponent, for numbers of at most 64 bits. */
typedef struct { int special, negative; U significand; L exponent, align; } Element;

static Element element(const Format *f, U code, L flush) {
  Element x = {FINITE, 0, 0, f->min_lsb, NONE};
  const U field = code >> f->low_padding, all = f->magnitude_bits == 64 ? ~(U)0 : ((U)1 << f->magnitude_bits) - 1, magnitude = field & all;
  if (f->is_integer) {
    x.negative = f->is_signed && magnitude >> (f->mantissa_bits - 1) & 1;
    x.significand = x.negative ? (~magnitude + 1) & all : magnitude;
    x.exponent = 0;
    if (x.significand) x.align = 0;
    return x;
  }
  x.negative = f->is_signed && (field >> f->magnitude_bits & 1);
  const U fraction = magnitude & (((U)1 << f->mantissa_bits) - 1), biased = magnitude >> f->mantissa_bits;
  if (f->nan == NAN_NEGATIVE_ZERO && x.negative && !magnitude) {
    x.special = NOT_A_NUMBER;
  } else if (magnitude > (U)f->max_magnitude) {
    x.special = f->infinity && !fraction ? INFINITE : NOT_A_NUMBER;
  } else if (!biased && f->zero) {
    x.significand = fraction;
    if (fraction) x.align = f->min_exponent;
  } else {
    x.significand = fraction + ((U)1 << f->mantissa_bits);
    x.exponent = (L)biased - f->bias - f->mantissa_bits;
    x.align = x.exponent + f->mantissa_bits;
  }
  if (flush && x.special == FINITE && x.significand < (U)1 << f->mantissa_bits)
    x = (Element){FINITE, flush == 2 && x.negative, 0, f->min_lsb, NONE};
  return x;
}

static Element operand(const Program *p, const Format *f, U code) {
  Element x = element(f, code, p->flush_operands);
  if (p->widen != NONE && x.align != NONE) {
    x.align = x.exponent + 63 - __builtin_clzll(x.significand);
    if (x.align < p->widen) x.align = p->widen;
  }
  return x;
}

static void put_element(const Program *p, Number *to, const Element *x) {
  zero(to, x->negative);
  to->special = x->special;
  if (x->special == FINITE) deposit(to, x->significand, x->exponent - p->base);
  to->align = x->align;
}

static void multiply_elements(const Program *p, Number *to, Element x, Element y) {
  zero(to, x.negative != y.negative);
  if (x.special || y.special) {
    const int nan = x.special == NOT_A_NUMBER || y.special == NOT_A_NUMBER || (!x.special && !x.significand) || (!y.special && !y.significand);
    special(to, nan ? NOT_A_NUMBER : INFINITE, !nan && to->negative);
    return;
  }
  deposit(to, (UU)x.significand * y.significand, x.exponent + y.exponent - p->base);
  if (x.align != NONE && y.align != NONE) to->align = x.align + y.align;
  if (p->a.is_integer && p->b.is_integer && to->low == to->high) to->negative = 0;
  if (p->infinite_from != NONE && leading(to) >= 0 && leading(to) + p->base >= p->infinite_from) special(to, INFINITE, to->negative);
}

/* Multiply a number by significand * 2**exponent, with the sign and the specials of `y` (golden.times). */
static void multiply(const Program *p, Number *x, Element y, Number *spare) {
  const int negative = x->negative != y.negative;
  if (x->special || y.special) {
    const int is_zero = (!x->special && leading(x) < 0) || (!y.special && !y.significand);
    const int nan = x->special == NOT_A_NUMBER || y.special == NOT_A_NUMBER || is_zero;
    special(x, nan ? NOT_A_NUMBER : INFINITE, !nan && negative);
    return;
  }
  const L align = x->align == NONE || y.align == NONE ? NONE : x->align + y.align;
  clear(spare);
  for (long i = x->low; i < x->high; ++i) {
    Number part = {0, 0, 0, 0, 0, (U[3]){0}};
    const UU product = (UU)x->word[i] * y.significand;
    if (!product) continue;
    /* product << (64 * i + exponent) units; what would fall off below is zero */
    L bit = 64 * (L)i + y.exponent;
    UU kept = product;
    if (bit < 0) kept = bit > -128 ? kept >> -bit : 0, bit = 0;
    const long at = bit >> 6;
    deposit(&part, kept, bit & 63);
    part.word -= at, part.low = at, part.high = at + 3;
    add(spare, &part);
  }
  clear(x);
  U *const word = x->word;
  x->word = spare->word, x->low = spare->low, x->high = spare->high;
  spare->word = word, spare->low = spare->high = 0;
  x->negative = negative, x->align = align;
}

static Element as_element(const Program *p, Number *x) {
  Element y = {x->special, x->negative, 0, 0, x->align};
  const L top = leading(x);
  if (x->special == FINITE && top >= 0) {
    const L bit = top > 62 ? top - 62 : 0;
    y.significand = bits_from(x, bit), y.exponent = bit + p->base;
  }
  return y;
}

/* -- registers --------------------------------------------------------------------------------------------------------- */

static void saturate(const Program *p, Number *x, const Format *f) {
  const U magnitude = f->max_magnitude, biased = magnitude >> f->mantissa_bits;
  const int negative = x->negative;
  zero(x, negative);
  deposit(x, (magnitude & (((U)1 << f->mantissa_bits) - 1)) + ((U)(biased > 0) << f->mantissa_bits),
          (biased ? (L)biased - f->bias - f->mantissa_bits : f->min_lsb) - p->base);
  x->align = f->max_exponent > f->min_exponent ? f->max_exponent : f->min_exponent;
}

static void round_integer(const Program *p, Number *x, const Register *r) {
  const Format *f = &r->format;
  const U all = f->mantissa_bits == 64 ? ~(U)0 : ((U)1 << f->mantissa_bits) - 1, highest = f->max_magnitude;
  const U lowest = f->is_signed ? highest + 1 : 0; /* its magnitude */
  U magnitude = 0;
  int negative = x->negative;
  if (x->special == FINITE) {
    round_at(x, -p->base, r->rounding);
    const int huge = leading(x) + p->base > 63;
    magnitude = bits_from(x, -p->base);
    if (r->overflow == WRAP) {
      U value = (negative ? ~magnitude + 1 : magnitude) & all;
      negative = f->is_signed && value >> (f->mantissa_bits - 1) & 1;
      magnitude = negative ? (~value + 1) & all : value;
    } else if (huge || magnitude > (negative ? lowest : highest)) {
      magnitude = negative ? lowest : highest;
    }
  } else if (x->special == INFINITE) {
    magnitude = negative ? lowest : highest;
  }
  zero(x, negative && magnitude);
  deposit(x, magnitude, -p->base);
  x->align = magnitude ? 0 : NONE;
}

/* Round a number to a register (golden.rounded). */
static void put_register(const Program *p, Number *x, const Register *r) {
  const Format *f = &r->format;
  if (f->is_integer) {
    round_integer(p, x, r);
    return;
  }
  if (x->special == NOT_A_NUMBER) {
    x->negative = 0, x->align = NONE;
    return;
  }
  int beyond = x->special == INFINITE;
  L top = -1;
  if (!beyond && (top = leading(x)) >= 0) {
    L exponent = top + p->base;
    if (exponent < f->min_exponent) exponent = f->min_exponent;
    round_at(x, exponent - f->mantissa_bits - p->base, r->rounding);
    top = leading(x);
    exponent = top + p->base;
    if (exponent >= f->max_exponent) {
      /* of the largest number, subnormal or not, with its leading bit */
      const U most = (f->max_magnitude & (((U)1 << f->mantissa_bits) - 1)) +
                     ((U)((U)f->max_magnitude >> f->mantissa_bits > 0) << f->mantissa_bits);
      const L unit = (exponent < f->min_exponent ? f->min_exponent : f->max_exponent) - f->mantissa_bits - p->base;
      beyond = exponent > f->max_exponent && exponent >= f->min_exponent ? 1 : bits_from(x, unit) > most;
    }
  }
  if (beyond) {
    L rule = r->overflow;
    if (rule == BY_IEEE) {
      const int away = r->rounding == NEAREST_EVEN || r->rounding == NEAREST_AWAY || r->rounding == (x->negative ? DOWN : UP);
      rule = x->special == INFINITE || away ? TO_INFINITY : SATURATE;
    }
    if (rule == TO_NAN) special(x, NOT_A_NUMBER, 0);
    else if (rule == TO_INFINITY) special(x, INFINITE, x->negative);
    else saturate(p, x, f);
    if (r->flush && x->special == FINITE && f->max_exponent < f->min_exponent) zero(x, x->negative && f->nan != NAN_NEGATIVE_ZERO);
    return;
  }
  const L exponent = top + p->base;
  if (top < 0 || (r->flush && exponent < f->min_exponent)) zero(x, x->negative && f->nan != NAN_NEGATIVE_ZERO);
  else x->align = exponent < f->min_exponent ? f->min_exponent : exponent;
}

static U encoded(const Program *p, Number *x) {
  const Format *f = &p->d;
  if (x->special == NOT_A_NUMBER) return p->nan;
  U magnitude = 0;
  if (f->is_integer) {
    magnitude = bits_from(x, -p->base);
    const U all = f->mantissa_bits == 64 ? ~(U)0 : ((U)1 << f->mantissa_bits) - 1;
    return ((x->negative ? ~magnitude + 1 : magnitude) & all) << f->low_padding;
  }
  if (x->special == INFINITE) {
    if (!f->infinity && p->nan_without == TO_NAN) return f->nan_code;
    magnitude = f->max_magnitude + (f->infinity ? 1 : 0);
  } else {
    const L top = leading(x);
    if (top >= 0) {
      const L exponent = top + p->base, unit = (exponent < f->min_exponent ? f->min_exponent : exponent) - f->mantissa_bits - p->base;
      magnitude = bits_from(x, unit);
      if (exponent >= f->min_exponent) magnitude = magnitude - ((U)1 << f->mantissa_bits) + ((U)(exponent + f->bias) << f->mantissa_bits);
    }
  }
  const int negative = f->is_signed && x->negative && !(f->nan == NAN_NEGATIVE_ZERO && !magnitude);
  return ((U)negative << f->magnitude_bits | magnitude) << f->low_padding;
}

/* -- stages ------------------------------------------------------------------------------------------------------------ */

typedef struct { Number spare, positive, negative, cut; } Scratch;

/* Put the sum of a block and of the running value, rounded to the stage's registers, into `to` (golden.add, golden.put). */
static int sum(const Program *p, const Stage *s, Number **block, Number *running, Number *to, Scratch *scratch) {
  int nan = 0, infinite[2] = {0, 0}, all_negative = 1;
  long some = 0; /* terms that are not zeros; most are */
  L largest = NONE, against = 0, nonzero = 0; /* terms opposing the running value's sign */
  for (long i = 0; i < s->terms + (running != 0); ++i) {
    Number *t = i < s->terms ? block[i] : running;
    if (t->special == NOT_A_NUMBER) nan = 1;
    if (t->special == INFINITE) infinite[t->negative] = 1;
    const L exponent = t->align == NONE ? s->zero_exponent : t->align + (t == running ? s->offset : 0);
    if (exponent > largest) largest = exponent;
    if (s->complement) against += t->negative != running->negative, nonzero |= leading(t) >= 0;
    if (t != running) all_negative &= t->negative;
    if (t != running && t->low != t->high) block[some++] = t;
  }
  L aligned_to = largest;
  if (nan || (infinite[0] && infinite[1])) {
    special(to, NOT_A_NUMBER, 0), aligned_to = NONE;
  } else if (infinite[0] || infinite[1]) {
    special(to, INFINITE, infinite[1]), aligned_to = NONE;
  } else {
    Number *total[2] = {&scratch->positive, &scratch->negative};
    clear(total[0]), clear(total[1]);
    const int dropped = !running || (s->drop_beyond != NONE && running->align != NONE && largest != NONE && running->align < largest - s->drop_beyond);
    if (!dropped) all_negative &= running->negative;
    for (long i = 0; i < some + !dropped; ++i) {
      Number *t = i < some ? block[i] : running;
      if (t->low == t->high) continue;
      const L bits = i < some ? s->fraction_bits : s->own_fraction_bits;
      if (s->fraction_bits != NONE && largest != NONE && largest - bits - p->base > t->low * 64) {
        if (largest - bits - p->base >= 64 * (p->words - 2)) return TOO_FAR;
        copy(&scratch->cut, t);
        round_at(&scratch->cut, largest - bits - p->base, s->rounding);
        t = &scratch->cut;
      }
      add(total[t->negative], t);
    }
    if (nonzero && against) {
      const L unit = largest - s->fraction_bits - p->base;
      if (unit < 0 || unit >= 64 * (p->words - 2)) return TOO_FAR;
      clear(&scratch->cut);
      deposit(&scratch->cut, against, unit);
      add(total[!running->negative], &scratch->cut);
    }
    int negative = is_less(total[0], total[1]);
    subtract(total[negative], total[!negative]);
    if (leading(total[negative]) < 0) negative = s->ieee && all_negative, clear(total[negative]), total[negative]->low = total[negative]->high = 0;
    const int empty = leading(total[negative]) < 0;
    if (empty) zero(to, negative);
    else copy(to, total[negative]);
    to->special = FINITE, to->negative = negative, to->align = aligned_to;
  }
  if (!s->registers) {
    to->align = s->exponent != NONE && aligned_to != NONE ? s->exponent : aligned_to;
    return DONE;
  }
  for (long i = 0; i < s->registers; ++i) put_register(p, to, &s->result[i]);
  if (!s->ieee && to->special == FINITE && leading(to) < 0) zero(to, 0);
  return DONE;
}

/* Multiply terms, each of `span` products, by their scales (golden.scaled). */
static void scale(const Program *p, Number *terms, long count, long span, const U *scale_a, const U *scale_b, Scratch *scratch) {
  for (long i = 0; i < count; ++i) {
    Element factors[3];
    long n = 0;
    if (p->count_a) factors[n++] = element(&p->scale_a, scale_a[i * span / p->group_a], 0);
    if (p->count_b) factors[n++] = element(&p->scale_b, scale_b[i * span / p->group_b], 0);
    if (p->has_product) {
      Number *x = &scratch->cut;
      put_element(p, x, &factors[0]);
      if (n > 1) multiply(p, x, factors[1], &scratch->spare);
      put_register(p, x, &p->product);
      factors[0] = as_element(p, x), n = 1;
    }
    if (p->power) factors[n++] = (Element){FINITE, 0, 1, p->power, p->power};
    for (long j = 0; j < n; ++j) multiply(p, &terms[i], factors[j], &scratch->spare);
    if (p->has_result) put_register(p, &terms[i], &p->result);
  }
}

/* Compute `count` dot products of 64-bit codes. `order` has, for each stage, its terms in the order of its blocks.
 *
 * With `expected`, stop once the weights of lines that differ from it exceed `bound`; `computed` tells how many lines were computed. */
int run(const Program *p, long count, const L *order, const U *a, const U *b, const U *c, const U *scale_a, const U *scale_b, U *d,
        const U *expected, const double *weight, double bound, L *computed) {
  double differing = 0;
  *computed = 0;
  const long numbers = 2 * p->k + 6, words = p->words;
  Number *all = calloc(numbers, sizeof *all), **block = malloc(p->k * sizeof *block);
  U *memory = calloc(numbers * words, sizeof *memory);
  int status = all && memory && block ? DONE : NO_MEMORY;
  if (status == DONE) {
    for (long i = 0; i < numbers; ++i) all[i].word = memory + i * words;
    Number *running = all + 2 * p->k;
    Scratch scratch = {running[2], running[3], running[4], running[5]};
    for (long line = 0; line < count && status == DONE; ++line) {
      Number *terms = all, *results = all + p->k;
      long n = p->k;
      for (long i = 0; i < n; ++i) {
        const U x = a[line * n + i], y = b[line * n + i];
        if (!x && !y && p->a.zero && p->b.zero) zero(&terms[i], 0); /* most products, and quickest */
        else multiply_elements(p, &terms[i], operand(p, &p->a, x), operand(p, &p->b, y));
      }
      const U *sa = scale_a + line * p->count_a, *sb = scale_b + line * p->count_b;
      if (p->scaled_stage == -1) scale(p, terms, n, 1, sa, sb, &scratch);
      const L *own = order;
      for (long s = 0; s < p->stages && status == DONE; ++s) {
        const Stage *stage = &p->stage[s];
        const int last = s == p->stages - 1;
        const long blocks = n / stage->terms, chain = last ? blocks : stage->chain, made = blocks / chain;
        for (long j = 0; j < made && status == DONE; ++j) {
          Number *now = &running[0], *next = &running[1];
          if (last) {
            const Element x = element(&p->c, c[line], p->flush_c);
            put_element(p, now, &x);
          } else {
            zero(now, 0);
          }
          for (long i = 0; i < chain && status == DONE; ++i) {
            for (long t = 0; t < stage->terms; ++t) block[t] = &terms[own[(j * chain + i) * stage->terms + t]];
            status = sum(p, stage, block, stage->accumulator ? now : 0, next, &scratch);
            Number *swap = now;
            now = next, next = swap;
          }
          copy(&results[j], now);
        }
        own += n;
        if (!last && p->scaled_stage == s) scale(p, results, made, p->k / made, sa, sb, &scratch);
        Number *swap = terms;
        terms = results, results = swap, n = made;
      }
      if (status != DONE) break;
      d[line] = encoded(p, &terms[0]), *computed = line + 1;
      if (expected && d[line] != expected[line] && (differing += weight[line]) > bound) break;
    }
  }
  free(all), free(block), free(memory);
  return status;
}
