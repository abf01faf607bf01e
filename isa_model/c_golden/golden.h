/* The golden model in C99: what one instruction computes, to the bit, on integers alone. golden.c follows isa_model/golden.py
 * function by function. An instruction is data here, too (`Spec`), so that a variation of it is another table.
 * `LIMBS`, `PRODUCTS` and the other sizes are those of one instruction and of its variations; a generated line sets them.
 */

#include <stdint.h>

enum { NONE = INT32_MIN }; /* no alignment exponent; a field that is not given */
enum { FLOAT, INTEGER, TABLE };
enum { FINITE, INFINITE, NOT_A_NUMBER };
enum { NEAREST_EVEN, NEAREST_AWAY, TOWARD_ZERO, UP, DOWN, TO_ODD, STOCHASTIC };
enum { OVER_IEEE, OVER_INFINITY, OVER_NAN, OVER_SATURATE, OVER_WRAP };
enum { READ_ALL, FLUSH, FLUSH_KEEP_SIGN };
enum { NO_REMAINDER, JOINS_SUM, JOINS_BLOCK, JOINS_END };
enum { MOST_REGISTERS = 4, MOST_LEVELS = 8 };

/* A whole number from 0: `count` limbs, the lowest first, the last one not zero. */
typedef struct {
  int count;
  uint32_t limb[LIMBS];
} Natural;

/* (-1)**negative * significand * 2**exponent, an infinity or a NaN. */
typedef struct {
  int negative, special, exponent;
  Natural significand;
} Number;

/* A number and its alignment exponent, NONE for an infinity, a NaN and a zero without one. */
typedef struct {
  Number number;
  int align;
} Term;

typedef struct {
  int negative, special, exponent;
  uint64_t significand;
} Entry;

typedef struct {
  int kind, is_signed, has_zero, has_infinity, nan_for_minus_zero, has_nan;
  int mantissa_bits, magnitude_bits, bias, low_padding, min_exponent, overflow;
  uint64_t largest, nan_code; /* largest finite magnitude, as the fields of its code */
  const Entry *values;        /* of a table */
  int bits;                   /* width of a code */
} Format;

typedef struct {
  Format format;
  int rounding, overflow, flush, random_bits;
} Register;

typedef struct {
  const char *name;
  int terms, chain, blocks, accumulator; /* `blocks` of one instruction */
  int fraction_bits, accumulator_fraction_bits, drop_beyond, offset, rounding, zero_exponent, exponent, ieee_zero, complement;
  int registers, scaled, joins; /* `joins`: where the second register of the running value is added */
  Register result[MOST_REGISTERS], remainder;
  const uint16_t *deal; /* indices of the terms, block after block */
} Stage;

typedef struct {
  Format format;
  int group; /* elements of K that share a scale */
} Level;

typedef struct {
  Format a, b, c, d;
  int k, stages, flush_operands, flush_c, infinite_from, widen; /* `widen`: smallest exponent of the wider format, or NONE */
  int has_nan;
  uint64_t nan_code;
  int scaled_products, levels, power, scale_product, scale_result; /* levels of the scales of A, then of B, finest first */
  Level level[MOST_LEVELS];
  Register product, result, joining; /* `joining`: of D, from both registers of the running value */
  Stage stage[STAGES];
} Spec;

/* Operands of one instruction as codes. Scales of a level lie along K, one for each group; levels follow one another. Random
 * words (32 bits, of which a register takes the upper ones) are in the order of stages, blocks and registers. An instruction whose
 * running value has two registers goes on from `running` and `rest`, as the trace of the one before has them, if `goes_on`; else
 * from C. */
typedef struct {
  uint64_t a[PRODUCTS], b[PRODUCTS], c, scale[SCALES];
  uint32_t random[DRAWS];
  int goes_on;
  Term running, rest;
} Operands;

/* One sum: its terms are entry[first] to entry[first + count - 1], the running value last where `running` is set. */
typedef struct {
  int stage, block, first, count, running, largest; /* `largest`: exponent that the terms were aligned to */
  Number total, after[MOST_REGISTERS];              /* exact sum of what was kept, and after each register */
} Sum;

typedef struct {
  Term before;
  Number product, product_after, result, result_after;
} ScaledTerm;

/* Everything between the operands and D. */
typedef struct {
  Sum sum[SUMS];
  Term entry[ENTRIES];
  Number kept[ENTRIES]; /* the entries as they enter the adder */
  ScaledTerm scaled[SCALED];
  Term term[PRODUCTS], result[PRODUCTS]; /* terms of the stage at work, and its results */
  int sums, entries, scaled_terms;
  Term running, rest; /* the last running value, and its second register: zero where it has none */
  uint64_t d;
} Trace;

/* A fault in one place, for hypotheses on a wrong D: of one term of a stage (its number in the block, all blocks alike), of all
 * its terms but the running value, or, with stage -1, of one product or all products. */
enum {
  NO_FAULT,
  LEFT_OUT,
  SIGN_FLIPPED,
  SHIFTED,
  BITS_KEPT,
  ROUNDED,
  NOT_COMPARED,
  ALIGNED,
  SPECIAL_MISSED,
  SUBNORMAL_MISSED,
  FAULTS
};
enum { ALL_TERMS = -1 };
enum { OF_BOTH, OF_A, OF_B }; /* amounts of faults of products: which operand is read wrongly */
typedef struct {
  int kind, stage, term, amount;
} Fault;

extern const Spec golden_spec;

/* Compute D. `trace` receives the values on the way. `fault` may be null. */
uint64_t golden_run(const Spec *spec, const Operands *operands, const Fault *fault, Trace *trace);

/* Read a code. */
Number golden_decode(const Format *format, uint64_t code);
int golden_leading(const Number *x);                  /* exponent of the leading bit of a nonzero number */
int golden_compare(const Number *x, const Number *y); /* of magnitudes of finite numbers: -1, 0 or 1 */
