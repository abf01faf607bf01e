/* The scoreboard of a test bench: D of a unit against the golden model, coverage, and the blame of what differs. */

#include "golden.h"

enum { KEPT_WRONG = 64, KEPT_RIGHT = 512 }; /* vectors that hypotheses are tried on */
enum { MOST_OUTPUTS = 3 };

typedef struct {
  int operand, count, bits; /* `operand`: 'a', 'b', 'c', 's' for the scales of one level, 'r' for random bits; of a running
                             * value in two registers 'v' for the first, 'e' for what it lost, 'f' for the flag of a start */
} Port;

/* A spec one field away. */
typedef struct {
  const char *text; /* the field, its value here and in the spec */
  int stage;        /* -1: not of a stage */
} Variation;

typedef struct {
  const char *name; /* category, point and bin, separated by tabs; in the order of strcmp */
  int reachable;
} Bin;

typedef struct {
  uint64_t code, mask;
  const char *name;
} SpecialName;

/* An output of the unit: D, then both registers of a running value that has two. */
typedef struct {
  const char *name;
  int bits;
} Output;

/* Codes of the outputs. */
typedef struct {
  uint64_t code[MOST_OUTPUTS];
} Results;

/* Compare the outputs of one step. `operands` holds the ports, `results` the outputs, one after the other, the first in the
 * lowest bits; both are arrays of words, the lowest first, as DPI-C passes packed vectors. Return 1 if all are right. */
int golden_check(const uint32_t *operands, const uint32_t *results);
/* What the model expects of output number `output` for the last vector checked; D is output 0. */
uint64_t golden_expected(int output);
/* Compare a value inside a unit with the last vector checked: magnitude * 2**exponent of term `term` of a block as it enters
 * the adder, or with term -1 of the sum. After the terms come the running value and what its register lost. Print what differs.
 * Return 1 if it is right. */
int golden_check_inside(int stage, int block, int term, int exponent, uint64_t magnitude);
/* Print mismatches with their blame, then coverage. Return the number of mismatches. */
int golden_report(void);
/* Vectors in bin number `bin`, its name, and whether operands can reach it; -1 after the last bin. */
int64_t golden_bin(int bin, const char **name, int *is_reachable);
/* Forget all vectors. */
void golden_reset(void);
