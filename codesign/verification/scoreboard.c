/* -- the scoreboard ----------------------------------------------------------------------------------------------------- */

typedef struct {
  Operands in;
  Results got, expected;
  uint64_t number;
} Kept;

static Kept wrong[KEPT_WRONG], right[KEPT_RIGHT];
static uint64_t vectors, mismatches;
static Operands operands;
static Results expected;
static Trace trace, other;

static uint64_t field(const uint32_t *words, int at, int width) {
  uint64_t value = 0;
  for (int i = width - 1; i >= 0; --i) value = value << 1 | (words[(at + i) / 32] >> (at + i) % 32 & 1);
  return value;
}

static void unpack(const uint32_t *words, Operands *x) {
  const Stage *last = &golden_spec.stage[golden_spec.stages - 1];
  int at = 0, scale = 0;
  for (const Port *p = ports; p->count; ++p)
    for (int i = 0; i < p->count; ++i, at += p->bits) {
      const uint64_t code = field(words, at, p->bits);
      if (p->operand == 'a') x->a[i] = code;
      if (p->operand == 'b') x->b[i] = code;
      if (p->operand == 'c') x->c = code;
      if (p->operand == 's') x->scale[scale++] = code;
      if (p->operand == 'r') x->random[i] = (uint32_t)code << (32 - p->bits);
      if (p->operand == 'v') x->running = term_of(&last->result[last->registers - 1].format, code);
      if (p->operand == 'e') x->rest = term_of(&last->remainder.format, code);
      if (p->operand == 'f') x->goes_on = !code;
    }
}

static uint64_t code_of(const Format *f, const Number *x) {
  return encode(f, x, NEAREST_EVEN, f->has_infinity ? OVER_INFINITY : f->overflow, 0, 0);
}

/* The outputs of one step. */
static Results results_of(const Spec *s, const Operands *in, const Fault *fault, Trace *t) {
  const Stage *last = &s->stage[s->stages - 1];
  Results r = {{golden_run(s, in, fault, t) & ones(outputs[0].bits)}};
  if (OUTPUTS == 1) return r;
  r.code[1] = code_of(&last->result[last->registers - 1].format, &t->running.number);
  r.code[2] = code_of(&last->remainder.format, &t->rest.number);
  return r;
}

static int equal(const Results *x, const Results *y) { return !memcmp(x->code, y->code, sizeof x->code); }

int golden_check(const uint32_t *words, const uint32_t *results) {
  Results got = {{0}};
  for (int i = 0, at = 0; i < OUTPUTS; at += outputs[i++].bits) got.code[i] = field(results, at, outputs[i].bits);
  unpack(words, &operands);
  expected = results_of(&golden_spec, &operands, 0, &trace);
  ++vectors;
  cover(vectors, &golden_spec, &operands, &trace);
  const Kept kept = {operands, got, expected, vectors - 1};
  const int is_right = equal(&got, &expected);
  if (!is_right) {
    if (mismatches < KEPT_WRONG) wrong[mismatches] = kept;
    ++mismatches;
  } else { /* the first, and later ones in place of older ones */
    const uint64_t n = vectors - mismatches - 1;
    if (n < KEPT_RIGHT || n * 2654435761u % 16 == 0) right[n % KEPT_RIGHT] = kept;
  }
  return is_right;
}

uint64_t golden_expected(int output) { return expected.code[output]; }

void golden_reset(void) {
  vectors = mismatches = 0;
  memset(hits, 0, sizeof hits);
  memset(seen_in, 0, sizeof seen_in);
}

/* -- words ---------------------------------------------------------------------------------------------------------------- */

static const char *text_of(const Number *x, char *text, size_t size) {
  if (x->special) {
    snprintf(text, size, "%s", x->special == NOT_A_NUMBER ? "NaN" : x->negative ? "-infinity" : "infinity");
  } else if (!x->significand.count) {
    snprintf(text, size, "%s0", x->negative ? "-" : "");
  } else if (bit_length(&x->significand) <= 64) {
    snprintf(text, size, "%s%llu x 2^%d", x->negative ? "-" : "", (unsigned long long)bits_from(&x->significand, 0),
             x->exponent);
  } else {
    snprintf(text, size, "%sabout 2^%d", x->negative ? "-" : "", golden_leading(x));
  }
  return text;
}

static int same(const Number *x, const Number *y) {
  return x->special == y->special && x->negative == y->negative && golden_compare(x, y) == 0;
}

/* got - expected in units of the finer one's last place. */
static void print_difference(const Number *got, const Number *expected) {
  char text[96];
  int unit = got->exponent < expected->exponent ? got->exponent : expected->exponent;
  if (got->special || expected->special) return;
  if (!got->significand.count || !expected->significand.count)
    unit = got->significand.count ? got->exponent : expected->exponent;
  const Natural x = shifted(&got->significand, got->exponent - unit),
                y = shifted(&expected->significand, expected->exponent - unit);
  Number d = *got;
  d.exponent = unit;
  if (got->negative != expected->negative) {
    d.significand = plus(&x, &y);
  } else {
    const int order = compare(&x, &y);
    d.significand = order < 0 ? minus(&y, &x) : minus(&x, &y);
    d.negative ^= order < 0;
  }
  printf(" (differs by %s)", text_of(&d, text, sizeof text));
}

/* Terms of a sum beside those of its block. */
static const char *const beside[] = {"the running value", "the second register", "the sum with the second register"};

static void print_term(const Spec *s, const Sum *sum, int i) {
  const int term = term_number(&s->stage[sum->stage], sum, i) - s->stage[sum->stage].terms;
  if (term >= 0) {
    printf("%s", beside[term]);
  } else if (sum->stage == 0) {
    const int k = s->stage[0].deal[sum->block * s->stage[0].terms + i];
    printf("term %d (a[%d] * b[%d])", i, k, k);
  } else {
    printf("term %d", i);
  }
}

/* Print where the values on the way of a hypothesis first differ from the model's. */
static void print_first_difference(const Trace *got, const Trace *expected) {
  char x[96], y[96];
  const Spec *s = &golden_spec;
  for (int n = 0; n < expected->sums && n < got->sums; ++n) {
    const Sum *a = &got->sum[n], *b = &expected->sum[n];
    const Stage *stage = &s->stage[b->stage];
    int shown = 0, differ = 0;
    if (a->largest != b->largest && a->largest != NONE && b->largest != NONE)
      printf("  stage %d `%s`, block %d: aligned to 2^%d, expected 2^%d\n", b->stage, stage->name, b->block, a->largest,
             b->largest),
          ++shown;
    for (int i = 0; i < b->count && i < a->count; ++i) {
      const Number *p = &got->kept[a->first + i], *q = &expected->kept[b->first + i];
      if (a->total.special || b->total.special || same(p, q) || (nothing(p) && nothing(q)) || ++differ > 3) continue;
      printf("  stage %d `%s`, block %d: ", b->stage, stage->name, b->block);
      print_term(s, b, i);
      if (p->special == NONE || q->special == NONE) {
        printf(p->special == NONE ? " was dropped, expected %s" : " kept as %s, expected to be dropped",
               text_of(p->special == NONE ? q : p, x, sizeof x));
      } else {
        printf(" entered the sum as %s, expected %s", text_of(p, x, sizeof x), text_of(q, y, sizeof y));
        if (a->largest != NONE && b->largest != NONE && a->largest - p->exponent != b->largest - q->exponent)
          printf(", with %d fraction bits, expected %d", a->largest - p->exponent, b->largest - q->exponent);
        print_difference(p, q);
      }
      printf("\n");
    }
    if (differ > 3) printf("  and %d more terms\n", differ - 3);
    if (!same(&a->total, &b->total)) {
      printf("  stage %d `%s`, block %d: the sum is %s, expected %s", b->stage, stage->name, b->block,
             text_of(&a->total, x, sizeof x), text_of(&b->total, y, sizeof y));
      print_difference(&a->total, &b->total);
      printf("\n");
      ++shown;
    }
    for (int i = 0; i < stage->registers && (!stage->joins || b->running); ++i)
      if (!same(&a->after[i], &b->after[i])) {
        printf("  stage %d `%s`, block %d, register %d: %s, expected %s", b->stage, stage->name, b->block, i,
               text_of(&a->after[i], x, sizeof x), text_of(&b->after[i], y, sizeof y));
        print_difference(&a->after[i], &b->after[i]);
        printf("\n");
        ++shown;
        break;
      }
    if (shown || differ) return;
  }
  if (!same(&got->rest.number, &expected->rest.number)) {
    printf("  the second register is %s, expected %s", text_of(&got->rest.number, x, sizeof x),
           text_of(&expected->rest.number, y, sizeof y));
    print_difference(&got->rest.number, &expected->rest.number);
    printf("\n");
    return;
  }
  printf("  every sum and register is right: the fault is in the code of an output\n");
}

int golden_check_inside(int stage, int block, int term, int exponent, uint64_t magnitude) {
  char x[96], y[96];
  for (int n = 0; n < trace.sums; ++n) {
    const Sum *sum = &trace.sum[n];
    if (sum->stage != stage || sum->block != block) continue;
    int i = term < 0 ? 0 : sum->count - 1;
    while (i >= 0 && term >= 0 && term_number(&golden_spec.stage[stage], sum, i) != term) --i;
    if (i < 0 || (term < 0 && golden_spec.stage[stage].joins && !sum->running)) continue;
    const Number *wanted = term < 0 ? &sum->total : &trace.kept[sum->first + i];
    const Number got = {wanted->negative, FINITE, exponent, natural(magnitude)};
    if (!wanted->special && golden_compare(&got, wanted) == 0) return 1;
    printf("stage %d `%s`, block %d: ", stage, golden_spec.stage[stage].name, block);
    if (term < 0)
      printf("the sum");
    else
      print_term(&golden_spec, sum, i);
    printf(" is %s, expected %s", text_of(&got, x, sizeof x), text_of(wanted, y, sizeof y));
    print_difference(&got, wanted);
    printf("\n");
    return 0;
  }
  printf("stage %d has no block %d with a term %d\n", stage, block, term);
  return 0;
}

/* -- blame -------------------------------------------------------------------------------------------------------------- */

static const char *const roundings[] = {"nearest-even", "nearest-away", "toward-zero", "up", "down", "to-odd"};

/* A hypothesis: a spec one field away, or a fault in one place. */
typedef struct {
  int variation; /* -1: the spec itself */
  Fault fault;
  int wrong, right; /* vectors that it explains */
} Hypothesis;

static int explains(const Hypothesis *h, const Kept *v) {
  const Spec *s = h->variation < 0 ? &golden_spec : &golden_variations[h->variation];
  const Results r = results_of(s, &v->in, h->fault.kind ? &h->fault : 0, &other);
  return equal(&r, &v->got);
}

static int count_of(uint64_t n, int most) { return n < (uint64_t)most ? (int)n : most; }

/* Set the next hypothesis; return 0 after the last. Specs come first, then faults of one term, from the products up. */
static int next(Hypothesis *h) {
  static const int more[] = {0, 1, 2, 0}; /* terms beside the running value, by where the second register joins */
  static const int amounts[2][FAULTS] = {{0, 1, 3, 2, 0, 0, 0, 2, 3, 3},
                                         {0, 1, 1, 2, 4, 6, 2, 0, 0, 0}}; /* of products, of sums */
  Fault *f = &h->fault;
  if (!f->kind && ++h->variation < VARIATIONS) return 1;
  if (!f->kind) h->variation = -1, f->kind = 1, f->stage = -1, f->term = ALL_TERMS, f->amount = -1;
  for (;;) {
    const Stage *stage = &golden_spec.stage[f->stage < 0 ? 0 : f->stage];
    const int terms = f->stage < 0 ? golden_spec.k : stage->terms + stage->accumulator + more[stage->joins];
    const int exact = f->stage >= 0 && f->kind >= SHIFTED && stage->fraction_bits == NONE;
    const int unused = exact || (f->term == ALL_TERMS && f->kind == NOT_COMPARED);
    if (!unused && ++f->amount < amounts[f->stage >= 0][f->kind]) return 1;
    f->amount = -1;
    if (++f->kind < FAULTS) continue;
    f->kind = 1;
    if (++f->term < terms) continue;
    f->term = ALL_TERMS;
    if (++f->stage >= golden_spec.stages) return 0;
  }
}

/* The fault with the amount that golden.c reads, instead of its number among the amounts. */
static Hypothesis meant(const Hypothesis *h) {
  static const int bits[] = {-1, 1, -2, 2}, steps[] = {-1, 1};
  Hypothesis x = *h;
  if (x.fault.kind == BITS_KEPT) x.fault.amount = bits[h->fault.amount];
  if (x.fault.kind == ALIGNED || x.fault.kind == SHIFTED) x.fault.amount = steps[h->fault.amount];
  return x;
}

static void print_hypothesis(const Hypothesis *h) {
  static const char *const sides[] = {"A or B", "A", "B"};
  const Fault *f = &h->fault;
  if (h->variation >= 0) {
    if (variations[h->variation].stage >= 0)
      printf("stage %d `%s`, ", variations[h->variation].stage, golden_spec.stage[variations[h->variation].stage].name);
    printf("%s", variations[h->variation].text);
    return;
  }
  if (f->stage < 0 && f->term == ALL_TERMS)
    printf("products, all: ");
  else if (f->stage < 0)
    printf("products, a[%d] * b[%d]: ", f->term, f->term);
  else if (f->term == ALL_TERMS)
    printf("stage %d `%s`, all terms but the running value: ", f->stage, golden_spec.stage[f->stage].name);
  else if (f->term >= golden_spec.stage[f->stage].terms)
    printf("stage %d `%s`, %s: ", f->stage, golden_spec.stage[f->stage].name,
           beside[f->term - golden_spec.stage[f->stage].terms]);
  else
    printf("stage %d `%s`, term %d of a block: ", f->stage, golden_spec.stage[f->stage].name, f->term);
  switch (f->kind) {
    case LEFT_OUT:
      printf("left out");
      break;
    case SIGN_FLIPPED:
      printf(f->amount == OF_A ? "sign of A alone" : f->amount == OF_B ? "sign of B alone" : "sign flipped");
      break;
    case BITS_KEPT:
      printf("%+d fraction bits", f->amount);
      break;
    case ROUNDED:
      printf("cut with rounding %s", roundings[f->amount]);
      break;
    case NOT_COMPARED:
      printf("not compared for the largest exponent%s", f->amount ? ", and lost where it is above" : "");
      break;
    case ALIGNED:
      printf("aligned %+d places off", f->amount);
      break;
    case SHIFTED:
      printf(f->stage < 0 ? "exponent %+d off" : "shifted %+d places off", f->amount);
      break;
    case SPECIAL_MISSED:
      printf("an infinity or a NaN of %s read as a number", sides[f->amount]);
      break;
    case SUBNORMAL_MISSED:
      printf("a subnormal of %s read as zero", sides[f->amount]);
      break;
    default:
      break;
  }
}

/* Print the bins that most set the wrong vectors apart from all. */
static void print_common(int of_wrong) {
  static uint64_t all[BINS + 1];
  memcpy(all, hits, sizeof hits);
  memset(hits, 0, sizeof hits);
  for (int i = 0; i < of_wrong; ++i) {
    golden_run(&golden_spec, &wrong[i].in, 0, &trace);
    cover(UINT64_MAX - (uint64_t)i, &golden_spec, &wrong[i].in, &trace);
  }
  for (int shown = 0; shown < 3; ++shown) {
    int best = -1;
    for (int i = 0; i < BINS; ++i)
      if (8 * hits[i] >= (uint64_t)of_wrong && all[i] && (best < 0 || hits[i] * all[best] > hits[best] * all[i])) best = i;
    if (best < 0) break;
    printf("  %llu of %d mismatches, %llu of all vectors: %s\n", (unsigned long long)hits[best], of_wrong,
           (unsigned long long)all[best], bins[best].name);
    hits[best] = 0;
  }
  memcpy(hits, all, sizeof hits);
}

static void print_blame(void) {
  enum { BEST = 4 };
  Hypothesis best[BEST], h = {-1, {0, 0, 0, 0}, 0, 0};
  int found = 0, alike = 0;
  const int of_wrong = count_of(mismatches, KEPT_WRONG), of_right = count_of(vectors - mismatches, KEPT_RIGHT);
  while (next(&h)) {
    Hypothesis x = meant(&h);
    x.wrong = x.right = 0;
    for (int i = 0; i < of_wrong; ++i) x.wrong += explains(&x, &wrong[i]);
    if (!x.wrong || (found && x.wrong < best[0].wrong)) continue;
    for (int i = 0; i < of_right; ++i) x.right += explains(&x, &right[i]);
    const int better = !found || x.wrong > best[0].wrong || x.right > best[0].right;
    if (better) found = alike = 0;
    if (better || x.right == best[0].right) {
      if (found < BEST) best[found++] = x;
      ++alike;
    }
  }
  const int whole = found && best[0].wrong == of_wrong && best[0].right == of_right;
  if (!whole) print_common(of_wrong);
  if (!found) printf("blame: no single field of the spec and no fault of a single term explains any mismatch\n");
  for (int i = 0; i < found; ++i) {
    printf(i ? "   or: " : whole ? "blame: " : "blame, not of everything: ");
    print_hypothesis(&best[i]);
    printf(" (explains %d of %d mismatches, keeps %d of %d matches)\n", best[i].wrong, of_wrong, best[i].right, of_right);
  }
  if (alike > found) printf("   and %d more that these vectors cannot tell apart\n", alike - found);
  for (int i = 0; i < of_wrong; ++i) {
    if (found && !explains(&best[0], &wrong[i])) continue;
    golden_run(&golden_spec, &wrong[i].in, 0, &trace);
    printf("vector %llu:", (unsigned long long)wrong[i].number);
    for (int k = 0, shown = 0; k < OUTPUTS; ++k) {
      if (wrong[i].got.code[k] == wrong[i].expected.code[k]) continue;
      printf("%s %s = %0*llx, expected %0*llx", shown++ ? "," : "", outputs[k].name, (outputs[k].bits + 3) / 4,
             (unsigned long long)wrong[i].got.code[k], (outputs[k].bits + 3) / 4,
             (unsigned long long)wrong[i].expected.code[k]);
    }
    printf("%s\n", found ? "; as blamed:" : "");
    if (found) print_first_difference(&other, &trace);
    return;
  }
}

int golden_report(void) {
  int reachable = 0, met = 0, shown = 0;
  printf("%llu vectors, %llu mismatches\n", (unsigned long long)vectors, (unsigned long long)mismatches);
  if (mismatches) print_blame();
  for (int i = 0; i < BINS; ++i) reachable += bins[i].reachable, met += bins[i].reachable && hits[i];
  if (BINS) printf("coverage: %d of %d bins\n", met, reachable);
  for (int i = 0; i < BINS; ++i)
    if (bins[i].reachable && !hits[i] && shown++ < 5) printf("  missed: %s\n", bins[i].name);
  if (reachable - met > 5) printf("  and %d more\n", reachable - met - 5);
  fflush(stdout);
  return mismatches > INT32_MAX ? INT32_MAX : (int)mismatches;
}

int64_t golden_bin(int bin, const char **name, int *is_reachable) {
  if (bin < 0 || bin >= BINS) return -1;
  *name = bins[bin].name, *is_reachable = bins[bin].reachable;
  return (int64_t)hits[bin];
}
