/* -- whole numbers ------------------------------------------------------------------------------------------------------- */

static int bit_length(const Natural *x) {
  int bits = 32 * (x->count - 1);
  if (!x->count) return 0;
  for (uint32_t top = x->limb[x->count - 1]; top; top >>= 1) ++bits;
  return bits;
}

static void trim(Natural *x) {
  while (x->count && !x->limb[x->count - 1]) --x->count;
}

static Natural natural(uint64_t value) {
  Natural x = {2, {0}};
  x.limb[0] = (uint32_t)value, x.limb[1] = (uint32_t)(value >> 32);
  trim(&x);
  return x;
}

static int bit(const Natural *x, int place) {
  return place >= 0 && place < 32 * x->count && (x->limb[place / 32] >> place % 32 & 1);
}

/* The bits from `place` on, as far as 64 bits hold them; all ones if they do not. */
static uint64_t bits_from(const Natural *x, int place) {
  uint64_t value = 0;
  if (bit_length(x) - place > 64) return UINT64_MAX;
  for (int i = 63; i >= 0; --i) value = value << 1 | (uint64_t)bit(x, place + i);
  return value;
}

static int any_below(const Natural *x, int place) {
  for (int i = 0; i < x->count && 32 * i < place; ++i)
    if (place - 32 * i >= 32 ? x->limb[i] : x->limb[i] & ((1u << (place - 32 * i)) - 1)) return 1;
  return 0;
}

static Natural shifted(const Natural *x, int left) { /* a negative `left` cuts bits off */
  Natural y;
  const int limbs = left >= 0 ? left / 32 : -((-left + 31) / 32), rest = left - 32 * limbs;
  y.count = x->count + limbs + 1;
  if (!x->count || y.count <= 0) y.count = 0;
  if (y.count > LIMBS) y.count = LIMBS; /* the sizes of an instruction leave room: what is cut here is zero */
  for (int i = 0; i < y.count; ++i) {
    const int from = i - limbs;
    const uint64_t high = from >= 0 && from < x->count ? x->limb[from] : 0;
    const uint64_t low = from >= 1 && from <= x->count ? x->limb[from - 1] : 0;
    y.limb[i] = (uint32_t)((high << 32 | low) >> (32 - rest));
  }
  trim(&y);
  return y;
}

static int compare(const Natural *x, const Natural *y) {
  if (x->count != y->count) return x->count < y->count ? -1 : 1;
  for (int i = x->count - 1; i >= 0; --i)
    if (x->limb[i] != y->limb[i]) return x->limb[i] < y->limb[i] ? -1 : 1;
  return 0;
}

static Natural plus(const Natural *x, const Natural *y) {
  Natural z;
  uint64_t carry = 0;
  z.count = x->count > y->count ? x->count : y->count;
  for (int i = 0; i < z.count; ++i) {
    carry += (uint64_t)(i < x->count ? x->limb[i] : 0) + (i < y->count ? y->limb[i] : 0);
    z.limb[i] = (uint32_t)carry, carry >>= 32;
  }
  if (carry && z.count < LIMBS) z.limb[z.count++] = (uint32_t)carry;
  return z;
}

static Natural minus(const Natural *x, const Natural *y) { /* x >= y */
  Natural z;
  int64_t borrow = 0;
  z.count = x->count;
  for (int i = 0; i < z.count; ++i) {
    borrow += (int64_t)x->limb[i] - (i < y->count ? (int64_t)y->limb[i] : 0);
    z.limb[i] = (uint32_t)borrow, borrow = borrow < 0 ? -1 : 0;
  }
  trim(&z);
  return z;
}

static Natural multiplied(const Natural *x, const Natural *y) {
  Natural z;
  z.count = x->count && y->count ? x->count + y->count : 0;
  if (z.count > LIMBS) z.count = LIMBS;
  for (int i = 0; i < z.count; ++i) z.limb[i] = 0;
  for (int i = 0; i < x->count; ++i) {
    uint64_t carry = 0;
    for (int j = 0; i + j < z.count; ++j) {
      carry += z.limb[i + j] + (uint64_t)x->limb[i] * (j < y->count ? y->limb[j] : 0);
      z.limb[i + j] = (uint32_t)carry, carry >>= 32;
    }
  }
  trim(&z);
  return z;
}

/* rounding.shift_right: x / 2**bits, rounded to a whole number. */
static Natural shift_right(const Natural *x, int bits, int rounding, int negative, uint32_t draw, int draw_bits) {
  Natural quotient, one = natural(1);
  int up = 0;
  if (bits <= 0) return shifted(x, -bits);
  if (rounding == STOCHASTIC) { /* adds the random number below the last place; only its first `draw_bits` places count */
    Natural random = natural(draw), cut, sum;
    const int lower = bits - draw_bits;
    cut = shifted(x, -lower); /* exact for lower < 0 */
    sum = plus(&cut, &random);
    return shifted(&sum, -draw_bits);
  }
  quotient = shifted(x, -bits);
  const int half = bit(x, bits - 1), below = any_below(x, bits - 1), lost = half | below, odd = bit(&quotient, 0);
  if (rounding == NEAREST_EVEN) up = half & (below | odd);
  if (rounding == NEAREST_AWAY) up = half;
  if (rounding == UP) up = lost & !negative;
  if (rounding == DOWN) up = lost & negative;
  if (rounding == TO_ODD) up = lost & !odd;
  return up ? plus(&quotient, &one) : quotient;
}

/* -- codes --------------------------------------------------------------------------------------------------------------- */

static Number number(int negative, uint64_t significand, int exponent) {
  Number x = {negative, FINITE, exponent, natural(significand)};
  return x;
}

static Number special(int kind, int negative) {
  Number x = {negative, kind, 0, {0, {0}}};
  return x;
}

static int is_zero(const Number *x) { return !x->special && !x->significand.count; }

int golden_leading(const Number *x) { return x->exponent + bit_length(&x->significand) - 1; }

int golden_compare(const Number *x, const Number *y) {
  Natural a, b;
  if (!x->significand.count || !y->significand.count) return !!x->significand.count - !!y->significand.count;
  if (golden_leading(x) != golden_leading(y)) return golden_leading(x) < golden_leading(y) ? -1 : 1;
  const int unit = x->exponent < y->exponent ? x->exponent : y->exponent;
  a = shifted(&x->significand, x->exponent - unit), b = shifted(&y->significand, y->exponent - unit);
  return compare(&a, &b);
}

static uint64_t ones(int bits) { return bits >= 64 ? UINT64_MAX : (1ull << bits) - 1; }

/* codec.decode */
Number golden_decode(const Format *f, uint64_t code) {
  const uint64_t field = code >> f->low_padding, magnitude = field & ones(f->magnitude_bits);
  const uint64_t fraction = magnitude & ones(f->mantissa_bits);
  if (f->kind == TABLE) {
    const Entry *e = &f->values[code & ones(f->bits)];
    return e->special ? special(e->special, e->negative) : number(e->negative, e->significand, e->exponent);
  }
  if (f->kind == INTEGER) {
    const int below = f->is_signed && magnitude >> (f->mantissa_bits - 1) & 1;
    return number(below, below ? (0 - magnitude) & ones(f->mantissa_bits) : magnitude, 0);
  }
  const int negative = f->is_signed && field >> f->magnitude_bits & 1;
  if (f->nan_for_minus_zero && negative && !magnitude) return special(NOT_A_NUMBER, 0);
  if (magnitude > f->largest) return f->has_infinity && !fraction ? special(INFINITE, negative) : special(NOT_A_NUMBER, 0);
  const int biased = (int)(magnitude >> f->mantissa_bits);
  if (!biased && f->has_zero) return number(negative, fraction, f->min_exponent - f->mantissa_bits);
  return number(negative, fraction + (1ull << f->mantissa_bits), biased - f->bias - f->mantissa_bits);
}

/* codec._round_magnitude: exponent and mantissa fields as one integer, at most one above the largest. */
static uint64_t rounded_magnitude(const Format *f, const Number *x, int rounding, uint32_t draw, int draw_bits) {
  Natural q;
  uint64_t magnitude;
  if (f->kind == INTEGER) {
    q = shift_right(&x->significand, -x->exponent, rounding, x->negative, draw, draw_bits);
    return bits_from(&q, 0);
  }
  if (!x->significand.count) return 0;
  const int leading = golden_leading(x), biased = leading + f->bias;
  const int tiny = biased < 1, unit = (tiny ? f->min_exponent : leading) - f->mantissa_bits;
  if (biased > (int)(f->largest >> f->mantissa_bits) + 1) return f->largest + 1;
  q = shift_right(&x->significand, unit - x->exponent, rounding, x->negative, draw, draw_bits);
  magnitude = bits_from(&q, 0);
  if (!tiny) magnitude += ((uint64_t)biased - 1) << f->mantissa_bits; /* the leading bit counts as one step of the exponent */
  return magnitude > f->largest ? f->largest + 1 : magnitude;
}

/* codec._integer_code; a wrapped sum takes the low bits. */
static uint64_t integer_code(const Format *f, const Number *x, int rounding, int overflow) {
  const uint64_t largest = f->largest, mask = ones(f->mantissa_bits);
  uint64_t magnitude;
  if (x->special == NOT_A_NUMBER) return 0;
  if (!x->special) {
    const Natural q = shift_right(&x->significand, -x->exponent, rounding, x->negative, 0, 0);
    if (overflow == OVER_WRAP) {
      const uint64_t low = (q.count > 0 ? q.limb[0] : 0) | (uint64_t)(q.count > 1 ? q.limb[1] : 0) << 32;
      return ((x->negative ? 0 - low : low) & mask) << f->low_padding;
    }
    magnitude = bit_length(&q) > 64 ? UINT64_MAX : bits_from(&q, 0);
    if (bit_length(&q) <= 64 && magnitude <= largest) {
      const uint64_t value = x->negative ? 0 - magnitude : magnitude;
      return (x->negative && !f->is_signed ? 0 : value & mask) << f->low_padding;
    }
  }
  if (x->negative) return (f->is_signed ? (largest + 1) & mask : 0) << f->low_padding;
  return largest << f->low_padding;
}

/* codec.encode */
static uint64_t encode(const Format *f, const Number *x, int rounding, int overflow, uint32_t draw, int draw_bits) {
  uint64_t magnitude = f->largest + 1;
  if (f->kind == INTEGER) return integer_code(f, x, rounding, overflow);
  if (x->special == NOT_A_NUMBER) return f->has_nan ? f->nan_code : f->largest << f->low_padding;
  if (!x->special) magnitude = rounded_magnitude(f, x, rounding, draw, draw_bits);
  if (magnitude > f->largest) {
    if (overflow == OVER_IEEE) {
      const int outward = x->negative ? DOWN : UP;
      const int away = rounding == NEAREST_EVEN || rounding == NEAREST_AWAY || rounding == STOCHASTIC || rounding == outward;
      overflow = x->special || away ? OVER_INFINITY : OVER_SATURATE;
    }
    if (overflow == OVER_NAN) return f->nan_code;
    magnitude = f->largest + (overflow == OVER_INFINITY);
  }
  const uint64_t negative = f->is_signed && x->negative && !(f->nan_for_minus_zero && !magnitude);
  return (negative << f->magnitude_bits | magnitude) << f->low_padding;
}

/* -- terms --------------------------------------------------------------------------------------------------------------- */

static Term term_of(const Format *f, uint64_t code) {
  Term t = {golden_decode(f, code), NONE};
  if (t.number.special || is_zero(&t.number)) return t;
  t.align = f->kind == TABLE ? golden_leading(&t.number) : t.number.exponent + (f->kind == FLOAT ? f->mantissa_bits : 0);
  return t;
}

static Term read_code(const Format *f, uint64_t code, int flush) {
  Term t = term_of(f, code);
  const int tiny = f->kind == FLOAT && !t.number.special && bit_length(&t.number.significand) <= f->mantissa_bits;
  if (!flush || !tiny) return t;
  t.number = number(flush == FLUSH_KEEP_SIGN && t.number.negative, 0, 0), t.align = NONE;
  return t;
}

static Term operand(const Spec *s, const Format *f, uint64_t code) {
  Term t = read_code(f, code, s->flush_operands);
  if (s->widen == NONE || t.align == NONE) return t;
  t.align = golden_leading(&t.number) > s->widen ? golden_leading(&t.number) : s->widen;
  return t;
}

static Term times(const Term *x, const Term *y) {
  const Number *a = &x->number, *b = &y->number;
  const int negative = a->negative != b->negative;
  Term t = {special(NOT_A_NUMBER, 0), NONE};
  if (a->special == NOT_A_NUMBER || b->special == NOT_A_NUMBER) return t;
  if (a->special || b->special) {
    if (!is_zero(a) && !is_zero(b)) t.number = special(INFINITE, negative);
    return t;
  }
  t.number.negative = negative, t.number.special = FINITE, t.number.exponent = a->exponent + b->exponent;
  t.number.significand = multiplied(&a->significand, &b->significand);
  if (x->align != NONE && y->align != NONE) t.align = x->align + y->align;
  return t;
}

static Term product(const Spec *s, const Format *of_a, const Format *of_b, uint64_t a, uint64_t b) {
  const Term x = operand(s, of_a, a), y = operand(s, of_b, b);
  Term t = times(&x, &y);
  if (is_zero(&t.number) && s->a.kind == INTEGER && s->b.kind == INTEGER) t.number.negative = 0;
  if (s->infinite_from != NONE && !t.number.special && !is_zero(&t.number) && golden_leading(&t.number) >= s->infinite_from)
    t.number = special(INFINITE, t.number.negative), t.align = NONE;
  return t;
}

static Term rounded(const Term *value, const Register *r, uint32_t word) {
  const Format *f = &r->format;
  if (value->number.special == NOT_A_NUMBER && !f->has_nan && f->kind == FLOAT) return *value;
  const uint32_t draw = r->random_bits ? word >> (32 - r->random_bits) : 0;
  Term t = term_of(f, encode(f, &value->number, r->rounding, r->overflow, draw, r->random_bits));
  if (r->flush && !t.number.special && bit_length(&t.number.significand) <= f->mantissa_bits) {
    const Number zero = number(value->number.negative, 0, 0);
    t = term_of(f, encode(f, &zero, NEAREST_EVEN, r->overflow, 0, 0));
  }
  return t;
}

/* Multiply a term, the sum of the products from number `k` on, by the scales of its groups. */
static Term scaled(const Spec *s, const Operands *in, Term value, int k, ScaledTerm *trace) {
  Term factors[MOST_LEVELS], constant = {number(0, 1, s->power), s->power};
  int count = s->levels;
  const uint64_t *codes = in->scale;
  trace->before = value;
  for (int i = 0; i < count; ++i) {
    factors[i] = term_of(&s->level[i].format, codes[k / s->level[i].group]);
    codes += (s->k + s->level[i].group - 1) / s->level[i].group;
  }
  if (s->scale_product) {
    for (int i = 1; i < count; ++i) factors[0] = times(&factors[0], &factors[i]);
    trace->product = factors[0].number;
    factors[0] = rounded(&factors[0], &s->product, 0);
    trace->product_after = factors[0].number;
    count = 1;
  }
  for (int i = 0; i < count; ++i) value = times(&value, &factors[i]);
  value = times(&value, &constant);
  trace->result = value.number;
  if (s->scale_result) value = rounded(&value, &s->result, 0);
  trace->result_after = value.number;
  return value;
}

/* -- sums ---------------------------------------------------------------------------------------------------------------- */

static int is_at(const Fault *f, int kind, int stage, int term) {
  return f && f->kind == kind && f->stage == stage && (f->term == term || f->term == ALL_TERMS);
}

/* golden.exact_sum of numbers, without those of kind NONE, and of `further` if it is not null. */
static Number exact_sum(const Number *x, int count, const Number *further, int ieee_zero) {
  int unit = INT32_MAX, all_negative = 1;
  Natural side[2];
  Number total;
  side[0] = side[1] = natural(0);
  for (int i = 0; i <= count; ++i) {
    const Number *n = i < count ? &x[i] : further;
    if (!n || n->special == NONE) continue;
    all_negative &= n->negative;
    if (n->significand.count && n->exponent < unit) unit = n->exponent;
  }
  for (int i = 0; i <= count; ++i) {
    const Number *n = i < count ? &x[i] : further;
    if (!n || n->special == NONE || !n->significand.count) continue;
    const Natural aligned = shifted(&n->significand, n->exponent - unit);
    side[n->negative] = plus(&side[n->negative], &aligned);
  }
  const int order = compare(&side[0], &side[1]);
  total = number(order < 0 || (order == 0 && ieee_zero && all_negative), 0, unit == INT32_MAX ? 0 : unit);
  total.significand = order < 0 ? minus(&side[1], &side[0]) : minus(&side[0], &side[1]);
  return total;
}

/* The number of entry `i` of a sum for faults and messages: terms of the block by their place, then the running value, then
 * what its register lost, then the sum of both with the block where they are joined first. */
static int term_number(const Stage *s, const Sum *sum, int i) {
  if (sum->running && i == sum->count - 1) return s->terms;
  if (sum->running && s->joins == JOINS_BLOCK) return s->terms + 2;
  return i < s->terms ? i : s->terms + 1;
}

/* golden.add: the sum of a block whose terms, and the running value, are the last entries of the trace. */
static void add(const Stage *s, const Fault *fault, Trace *trace, Sum *sum) {
  const Term *t = &trace->entry[sum->first];
  Number *kept = &trace->kept[sum->first], *total = &sum->total;
  int nan = 0, infinite[2] = {0, 0};
  sum->largest = NONE;
  for (int i = 0; i < sum->count; ++i) {
    const int running = sum->running && i == sum->count - 1, term = term_number(s, sum, i);
    const int align = t[i].align == NONE ? s->zero_exponent : t[i].align + (running ? s->offset : 0);
    nan |= t[i].number.special == NOT_A_NUMBER;
    if (t[i].number.special == INFINITE) infinite[t[i].number.negative] = 1;
    if (align > sum->largest && !is_at(fault, NOT_COMPARED, sum->stage, term)) sum->largest = align;
  }
  for (int i = 0; i < sum->count; ++i) kept[i] = number(0, 0, 0);
  if (nan || infinite[0] || infinite[1]) {
    *total = nan || (infinite[0] && infinite[1]) ? special(NOT_A_NUMBER, 0) : special(INFINITE, infinite[1]);
    sum->largest = NONE;
    return;
  }
  for (int i = 0; i < sum->count; ++i) {
    const int running = sum->running && i == sum->count - 1, term = term_number(s, sum, i);
    const Fault *here = running && fault && fault->term == ALL_TERMS ? 0 : fault;
    int fraction_bits = running ? s->accumulator_fraction_bits : s->fraction_bits, rounding = s->rounding, further = 0;
    if (running && s->drop_beyond != NONE && t[i].align != NONE && sum->largest != NONE &&
        t[i].align < sum->largest - s->drop_beyond) {
      kept[i].special = NONE; /* takes no part, not even as a zero's sign */
      continue;
    }
    kept[i] = t[i].number;
    if (s->fraction_bits != NONE && sum->largest != NONE) {
      if (is_at(here, BITS_KEPT, sum->stage, term)) fraction_bits += fault->amount;
      if (is_at(here, ROUNDED, sum->stage, term)) rounding = fault->amount;
      if (is_at(here, SHIFTED, sum->stage, term)) further = -fault->amount;
      const int place = sum->largest - fraction_bits, right = place - t[i].number.exponent + further;
      kept[i].significand = shift_right(&t[i].number.significand, right, rounding, t[i].number.negative, 0, 0);
      kept[i].exponent = place;
    }
    if (is_at(here, SIGN_FLIPPED, sum->stage, term)) kept[i].negative ^= 1;
    const int beyond = is_at(here, NOT_COMPARED, sum->stage, term) && fault->amount && t[i].align > sum->largest;
    if (beyond || is_at(here, LEFT_OUT, sum->stage, term)) kept[i].significand = natural(0);
  }
  Number units = number(0, 0, 0);
  if (s->complement) { /* each term against the running value's sign takes one unit more, unless every term is a zero */
    const Number *running = &t[sum->count - 1].number;
    int some = running->significand.count != 0, against = 0;
    for (int i = 0; i < sum->count - 1; ++i)
      some |= t[i].number.significand.count != 0, against += t[i].number.negative != running->negative;
    if (some) units = number(!running->negative, (uint64_t)against, sum->largest - s->fraction_bits);
  }
  *total = exact_sum(kept, sum->count, s->complement ? &units : 0, s->ieee_zero);
}

/* golden.put */
static Term put(const Stage *s, Sum *sum, const uint32_t **random) {
  Term value = {sum->total, sum->largest};
  if (!s->registers) {
    if (s->exponent != NONE && sum->largest != NONE) value.align = s->exponent;
    return value;
  }
  for (int i = 0; i < s->registers; ++i) {
    value = rounded(&value, &s->result[i], s->result[i].random_bits ? *(*random)++ : 0);
    sum->after[i] = value.number;
  }
  if (is_zero(&value.number) && !s->ieee_zero) value.number.negative = 0, value.align = NONE;
  return value;
}

/* Begin a sum after the last one. */
static Sum *begin(Trace *trace, int stage, int block) {
  Sum *sum = &trace->sum[trace->sums++];
  sum->stage = stage, sum->block = block, sum->first = trace->entries, sum->running = 0;
  return sum;
}

/* golden.run_in_two: both registers after a block, whose terms are entries of the trace from the first one of `sum` on. */
static void run_in_two(const Stage *s, const Fault *fault, Trace *trace, Sum *sum, Term *running, Term *rest,
                       const uint32_t **random) {
  Number lost[3];
  if (s->joins != JOINS_END && !is_zero(&rest->number)) trace->entry[trace->entries++] = *rest;
  if (s->joins == JOINS_BLOCK) {
    sum->count = trace->entries - sum->first;
    add(s, fault, trace, sum);
    const Term block = {sum->total, sum->largest};
    sum = begin(trace, sum->stage, sum->block);
    trace->entry[trace->entries++] = rounded(&block, &s->remainder, 0);
  }
  trace->entry[trace->entries++] = *running;
  sum->count = trace->entries - sum->first, sum->running = 1;
  add(s, fault, trace, sum);
  *running = put(s, sum, random);
  lost[0] = sum->total, lost[1] = running->number, lost[2] = rest->number;
  lost[1].negative ^= 1;
  rest->number = number(0, 0, 0), rest->align = NONE;
  if (sum->total.special || running->number.special) return;
  rest->number = exact_sum(lost, s->joins == JOINS_END ? 3 : 2, 0, 0);
  *rest = rounded(rest, &s->remainder, 0);
  if (is_zero(&rest->number)) rest->number.negative = 0; /* a zero is no term */
}

/* golden.joined: the running value with its second register, rounded to D. */
static Term joined(const Spec *spec, const Stage *s, const Term *running, const Term *rest) {
  const Number both[2] = {running->number, rest->number};
  Term value = *running;
  if (is_zero(&rest->number)) return value;
  value.number = exact_sum(both, 2, 0, s->ieee_zero);
  value = rounded(&value, &spec->joining, 0);
  if (is_zero(&value.number) && !s->ieee_zero) value.number.negative = 0;
  return value;
}

uint64_t golden_run(const Spec *s, const Operands *in, const Fault *fault, Trace *trace) {
  Term *terms = trace->term, *results_of = trace->result;
  const uint32_t *random = in->random;
  Term running, rest = {number(0, 0, 0), NONE};
  int count = s->k;
  trace->sums = trace->entries = trace->scaled_terms = 0;
  for (int k = 0; k < count; ++k) {
    uint64_t codes[2] = {in->a[k], in->b[k]};
    Format formats[2] = {s->a, s->b};
    for (int i = 0; fault && i < 2; ++i) {
      Format *f = &formats[i];
      if (fault->amount == (i ? OF_A : OF_B)) continue;
      if (is_at(fault, SPECIAL_MISSED, -1, k)) f->largest = UINT64_MAX, f->nan_for_minus_zero = 0;
      if (is_at(fault, SUBNORMAL_MISSED, -1, k) && f->kind == FLOAT &&
          !(codes[i] >> f->low_padding & ones(f->magnitude_bits) & ~ones(f->mantissa_bits)))
        codes[i] &= ~(ones(f->mantissa_bits) << f->low_padding);
    }
    terms[k] = product(s, &formats[0], &formats[1], codes[0], codes[1]);
    if (is_at(fault, SIGN_FLIPPED, -1, k) && fault->amount != OF_BOTH) {
      const Number other = golden_decode(&formats[fault->amount == OF_A], codes[fault->amount == OF_A]);
      terms[k].number.negative ^= other.negative; /* the sign of one operand alone */
    } else if (is_at(fault, SIGN_FLIPPED, -1, k)) {
      terms[k].number.negative ^= 1;
    }
    if (is_at(fault, LEFT_OUT, -1, k)) terms[k].number = number(0, 0, 0), terms[k].align = NONE;
    if (is_at(fault, SHIFTED, -1, k)) terms[k].number.exponent += fault->amount;
    if ((is_at(fault, SHIFTED, -1, k) || is_at(fault, ALIGNED, -1, k)) && terms[k].align != NONE)
      terms[k].align += fault->amount;
  }
  if (s->scaled_products)
    for (int k = 0; k < count; ++k) terms[k] = scaled(s, in, terms[k], k, &trace->scaled[trace->scaled_terms++]);
  for (int index = 0; index < s->stages; ++index) {
    const Stage *stage = &s->stage[index];
    const int last = index == s->stages - 1, chain = last ? stage->blocks : stage->chain;
    int results = 0;
    for (int block = 0; block < stage->blocks; ++block) {
      Sum *sum = begin(trace, index, block);
      if (block % chain == 0) running = last ? read_code(&s->c, in->c, s->flush_c) : term_of(&s->d, 0);
      if (stage->joins && block == 0 && in->goes_on) running = in->running, rest = in->rest;
      for (int i = 0; i < stage->terms; ++i) trace->entry[trace->entries++] = terms[stage->deal[block * stage->terms + i]];
      if (stage->joins) {
        run_in_two(stage, fault, trace, sum, &running, &rest, &random);
      } else {
        sum->count = stage->terms + stage->accumulator, sum->running = stage->accumulator;
        if (stage->accumulator) trace->entry[trace->entries++] = running;
        add(stage, fault, trace, sum);
        running = put(stage, sum, &random);
      }
      if (block % chain == chain - 1) results_of[results++] = running;
    }
    for (int i = 0; i < results; ++i) {
      terms[i] = results_of[i];
      if (stage->scaled) terms[i] = scaled(s, in, terms[i], s->k / results * i, &trace->scaled[trace->scaled_terms++]);
    }
    count = results;
  }
  trace->running = running, trace->rest = rest;
  terms[0] = joined(s, &s->stage[s->stages - 1], &terms[0], &rest);
  if (terms[0].number.special == NOT_A_NUMBER && s->has_nan) return trace->d = s->nan_code;
  return trace->d = encode(&s->d, &terms[0].number, NEAREST_EVEN, s->d.has_infinity ? OVER_INFINITY : s->d.overflow, 0, 0);
}
