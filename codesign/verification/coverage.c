/* -- coverage: the bins that a vector falls into, named as in isa_model/vectors/observer.py ------------------------------- */

enum { NEAR = 2, HAIR = 6, APART = 4 };

static uint64_t hits[BINS + 1], seen_in[BINS + 1];

static int by_name(const void *key, const void *bin) { return strcmp(key, ((const Bin *)bin)->name); }

static void hit(uint64_t vector, const char *category, const char *point, const char *format, ...) {
  char what[128], name[512];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(what, sizeof what, format, arguments);
  va_end(arguments);
  snprintf(name, sizeof name, "%s\t%s\t%s", category, point, what);
  const Bin *bin = bsearch(name, bins, BINS, sizeof *bins, by_name);
  if (!bin || seen_in[bin - bins] == vector) return;
  seen_in[bin - bins] = vector;
  ++hits[bin - bins];
}

static const char *sign_of(const Number *x) { return x->negative ? "-" : "+"; }

static int nothing(const Number *x) { return !x->special && !x->significand.count; }

static int lowest_bit(const Number *x) {
  int place = 0;
  while (!bit(&x->significand, place)) ++place;
  return x->exponent + place;
}

/* The position of a magnitude between its neighbours without its `lost` low bits. */
static void rounding_class(uint64_t vector, const char *point, const Number *x, int lost) {
  const Natural *m = &x->significand;
  if (lost < 1) return;
  const int half = bit(m, lost - 1), below = any_below(m, lost - 1);
  if (!half && !below) return;
  if (half && !below) {
    hit(vector, "rounding", point, "%stie, %s below", sign_of(x), bit(m, lost) ? "odd" : "even");
    return;
  }
  /* Within 2**-n of halfway: the bits after the half are all equal to its opposite, or just one step further. */
  for (int n = NEAR; n <= HAIR; n += HAIR - NEAR) {
    Natural distance, limit, whole, part = *m, one = natural(1);
    whole = shifted(&one, lost - 1);
    const Natural top = shifted(m, -lost), upper = shifted(&top, lost);
    part = minus(m, &upper);
    distance = compare(&part, &whole) < 0 ? minus(&whole, &part) : minus(&part, &whole);
    distance = shifted(&distance, n), limit = shifted(&one, lost);
    if (compare(&distance, &limit) <= 0)
      hit(vector, "rounding", point, "%s%s, %s", sign_of(x), n == NEAR ? "near tie" : "hair", half ? "above" : "below");
  }
}

static const char *special_name(const SpecialName *names, const Format *f, uint64_t code) {
  for (; names->name; ++names)
    if ((code & names->mask) == names->code) return names->name;
  return golden_decode(f, code).special == NOT_A_NUMBER ? "NaN" : 0;
}

static int ordinary(const Format *f, uint64_t code) {
  const Number x = golden_decode(f, code);
  return !x.special && x.significand.count;
}

static void cover_specials(uint64_t vector, const Spec *s, const Operands *in) {
  const char *c = special_name(names_c, &s->c, in->c);
  for (int k = 0; k < s->k; ++k) {
    const char *a = special_name(names_a, &s->a, in->a[k]), *b = special_name(names_b, &s->b, in->b[k]);
    if (a && b) hit(vector, "special values", "A x B", "%s x %s", a, b);
    if (a && c && ordinary(&s->b, in->b[k])) hit(vector, "special values", "A x C", "%s x %s", a, c);
    if (b && c && ordinary(&s->a, in->a[k])) hit(vector, "special values", "B x C", "%s x %s", b, c);
  }
}

static int kept_bits(const Stage *s, const Sum *sum, int i) {
  return sum->running && i == sum->count - 1 ? s->accumulator_fraction_bits : s->fraction_bits;
}

static void cover_alignment(uint64_t vector, const Stage *s, const Sum *sum, const Trace *t) {
  char zeros[128], point[128], aligned[160];
  int highest = NONE;
  if (s->fraction_bits == NONE || sum->largest == NONE) return;
  snprintf(zeros, sizeof zeros, "%s: zeros", s->name);
  for (int i = 0; i < sum->count; ++i) {
    const Term *x = &t->entry[sum->first + i];
    if (x->align == NONE) continue;
    const int running = sum->running && i == sum->count - 1, bits = kept_bits(s, sum, i), d = sum->largest - x->align;
    int window = bits + 3;
    if (running && s->drop_beyond != NONE && s->drop_beyond + 1 > window) window = s->drop_beyond + 1;
    if (!nothing(&x->number) && x->align > highest) highest = x->align;
    snprintf(point, sizeof point, "%s: %s", s->name, running ? "accumulator" : "terms");
    hit(vector, "alignment distance", point, d > window ? "distance over %d" : "distance %d", d > window ? window : d);
    if (running && s->drop_beyond != NONE && d > s->drop_beyond) continue;
    snprintf(aligned, sizeof aligned, "%s aligned", point);
    rounding_class(vector, aligned, &x->number, sum->largest - bits - x->number.exponent);
  }
  if (highest == NONE || highest >= sum->largest) return;
  hit(vector, "alignment distance", zeros, "a zero above every number");
  for (int i = 0; i < sum->count; ++i) {
    const Term *x = &t->entry[sum->first + i];
    if (x->align == NONE || nothing(&x->number)) continue;
    const int below = sum->largest - kept_bits(s, sum, i) - lowest_bit(&x->number);
    if (below == 0) hit(vector, "alignment distance", zeros, "last place kept");
    if (below == 1) hit(vector, "alignment distance", zeros, "first place lost");
  }
}

static void cover_places(uint64_t vector, const Stage *s, const Sum *sum, const Trace *t) {
  const int terms = s->terms, half = terms / 2;
  for (int place = 0; half && place < terms; ++place) {
    const int other = (place + half) % terms;
    const Term *small = &t->entry[sum->first + place], *large = &t->entry[sum->first + other];
    if (nothing(&small->number) || nothing(&large->number)) continue;
    const int lost = s->fraction_bits == NONE
                         ? golden_leading(&large->number) - golden_leading(&small->number) >= APART
                         : lowest_bit(&small->number) < sum->largest - s->fraction_bits && large->align == sum->largest;
    if (lost) hit(vector, "places", s->name, "%d below %d", place, other);
  }
}

static void cover_cancellation(uint64_t vector, const Stage *s, const Sum *sum, const Trace *t) {
  int alive = 0, with_running = 0, all_negative = 1, last = INT32_MAX, top = NONE;
  for (int i = 0; i < sum->count; ++i) {
    const Number *kept = &t->kept[sum->first + i];
    all_negative &= t->entry[sum->first + i].number.negative;
    if (!kept->significand.count) continue;
    ++alive;
    with_running |= sum->running && i == sum->count - 1;
    if (lowest_bit(kept) < last) last = lowest_bit(kept);
    if (golden_leading(kept) > top) top = golden_leading(kept);
  }
  if (!alive && all_negative) hit(vector, "cancellation", s->name, "nothing but negative zeros");
  if (alive < 2) return;
  if (nothing(&sum->total)) {
    hit(vector, "cancellation", s->name, "to zero, %s", with_running ? "with the accumulator" : "terms alone");
    return;
  }
  if (s->fraction_bits != NONE && sum->largest != NONE)
    last = sum->largest - (s->fraction_bits > s->accumulator_fraction_bits ? s->fraction_bits : s->accumulator_fraction_bits);
  if (golden_leading(&sum->total) == last && lowest_bit(&sum->total) == last && top >= last + APART)
    hit(vector, "cancellation", s->name, "%sthe last bit", sign_of(&sum->total));
}

static void cover_integer(uint64_t vector, const char *point, const Register *r, const Number *x) {
  static const char *const over[] = {"largest", "one over the largest", "far over"};
  static const char *const under[] = {"smallest", "one under the smallest", "far under"};
  const Natural whole = shifted(&x->significand, x->exponent);
  for (int negative = 0; negative < 2; ++negative) {
    const uint64_t end = negative ? (r->format.is_signed ? r->format.largest + 1 : 0) : r->format.largest;
    const Natural limit = natural(end);
    if ((whole.count && x->negative != negative) || compare(&whole, &limit) < 0) continue;
    const Natural beyond = minus(&whole, &limit);
    hit(vector, "overflow", point, "%s", (negative ? under : over)[bit_length(&beyond) > 1 ? 2 : bit_length(&beyond)]);
  }
}

static void cover_rounding(uint64_t vector, const char *point, const Register *r, const Number *x, const Number *after) {
  const Format *f = &r->format;
  const int m = f->mantissa_bits, max_exponent = (int)(f->largest >> m) - f->bias;
  int over = -1;
  if (x->special) return;
  if (f->kind == INTEGER) {
    cover_integer(vector, point, r, x);
    return;
  }
  if (!x->significand.count) return;
  const int top = golden_leading(x);
  if (top >= max_exponent) {
    const Number end = golden_decode(f, f->largest << f->low_padding);
    const int half_place = max_exponent - m - 1, unit = x->exponent < half_place ? x->exponent : half_place;
    const Natural a = shifted(&x->significand, x->exponent - unit), b = shifted(&end.significand, end.exponent - unit);
    over = compare(&a, &b);
    if (over >= 0) {
      Natural one = natural(1), half = shifted(&one, half_place - unit), place = shifted(&one, half_place + 1 - unit);
      const Natural beyond = minus(&a, &b);
      const int by_half = compare(&beyond, &half);
      const char *what = over == 0                       ? "largest finite"
                         : compare(&beyond, &place) >= 0 ? "over by a last place or more"
                         : by_half == 0                  ? "over by half a last place"
                         : by_half < 0                   ? "over by less than half a last place"
                                                         : "over by more than half a last place";
      hit(vector, "overflow", point, "%s%s", sign_of(x), what);
    }
  }
  if (top >= f->min_exponent && over <= 0) rounding_class(vector, point, x, top - m - x->exponent);
  if (top >= f->min_exponent) return;
  const Natural magnitude = shifted(&after->significand, after->exponent - (f->min_exponent - m));
  const uint64_t value = bits_from(&magnitude, 0), normal = 1ull << m;
  hit(vector, "subnormal result", point, "%s%s", sign_of(x),
      r->flush              ? "flushed"
      : nothing(after)      ? "to zero"
      : value == 1          ? "smallest"
      : value == normal     ? "up to the smallest normal"
      : value == normal - 1 ? "largest"
                            : "between");
}

static void cover_scales(uint64_t vector, const Spec *s, const Operands *in, const Trace *t) {
  const int both = scaled_a && scaled_b, span = t->scaled_terms ? s->k / t->scaled_terms : 0;
  for (int i = 0; i < t->scaled_terms; ++i) {
    const ScaledTerm *x = &t->scaled[i];
    const Number *n = &x->before.number;
    const char *term = n->special == NOT_A_NUMBER ? "nan" : n->special ? "infinity" : nothing(n) ? "zero" : "finite";
    const char *name[2] = {0, 0};
    const uint64_t *codes = in->scale;
    for (int level = 0; level < s->levels; ++level) {
      const int is_b = level == 1 || !scaled_a;
      name[is_b] =
          special_name(is_b ? names_scale_b : names_scale_a, &s->level[level].format, codes[i * span / s->level[level].group]);
      codes += (s->k + s->level[level].group - 1) / s->level[level].group;
    }
    if (name[0]) hit(vector, "scale extremes", "scale of A x term", "%s x %s", name[0], term);
    if (name[1]) hit(vector, "scale extremes", "scale of B x term", "%s x %s", name[1], term);
    if (both && name[0] && name[1] && !strcmp(term, "finite"))
      hit(vector, "scale extremes", "scale of A x scale of B", "%s x %s", name[0], name[1]);
    if (s->scale_product) cover_rounding(vector, "scales: product", &s->product, &x->product, &x->product_after);
    if (s->scale_result) cover_rounding(vector, "scales: result", &s->result, &x->result, &x->result_after);
  }
}

/* Count the bins of a vector, whose number starts at 1. */
static void cover(uint64_t vector, const Spec *s, const Operands *in, const Trace *t) {
  if (!BINS) return;
  cover_specials(vector, s, in);
  for (int n = 0; n < t->sums; ++n) {
    const Sum *sum = &t->sum[n];
    const Stage *stage = &s->stage[sum->stage];
    if (!sum->total.special) {
      cover_alignment(vector, stage, sum, t);
      cover_cancellation(vector, stage, sum, t);
      cover_places(vector, stage, sum, t);
    }
    for (int i = 0; i < stage->registers; ++i)
      cover_rounding(vector, register_points[sum->stage][i], &stage->result[i], i ? &sum->after[i - 1] : &sum->total,
                     &sum->after[i]);
  }
  cover_scales(vector, s, in, t);
}
