/* Rounding to LogFMT, without logarithms and exponentials: numpy computes these, so that figures do not depend on a compiler.
 * The operations and their order are those of `_nearest` in logfmt.py.
 */

#include <math.h>

/* Replace the logarithm of each number in `below` by that of the LogFMT number below it, and write that of the one above it.
 * The logarithms of a tile of `length` numbers go from minimum to minimum + step * last. `each` is 1 if every number is a tile. */
static inline __attribute__((always_inline)) void around(long length, long each, const double *minimum, const double *step,
                                                         double last, double *restrict below, double *restrict above) {
  for (long i = 0; i < length; ++i) {
    const double distance = step[i * each], start = minimum[i * each];
    const double place = (below[i] - start) / (distance > 0 ? distance : 1.0), index = floor(place > 0 ? place : 0.0);
    const double low = index < last ? index : last, high = low + 1 < last ? low + 1 : last;
    below[i] = low * distance + start;
    above[i] = high * distance + start;
  }
}

/* Write the nearer one of the numbers below and above each number; 0 for numbers below a tile's `least`. */
static inline __attribute__((always_inline)) void nearer(long length, long each, const double *least, const double *restrict below,
                                                         const double *restrict above, const double *restrict x,
                                                         double *restrict rounded) {
  for (long i = 0; i < length; ++i) {
    const double size = fabs(x[i]), near = size - below[i] >= above[i] - size ? above[i] : below[i];
    rounded[i] = copysign(size < least[i * each] ? 0.0 : near, x[i]);
  }
}

/* Do `around` if `x` is null, else `nearer`, for which `minimum` holds the least magnitude of each tile that does not become 0. */
int run(long tiles, long length, const double *minimum, const double *step, double last, double *below, double *above,
        const double *x, double *rounded) {
  if (length == 1) { /* all tiles at once */
    if (x) nearer(tiles, 1, minimum, below, above, x, rounded);
    else around(tiles, 1, minimum, step, last, below, above);
    return 0;
  }
  for (long t = 0, i = 0; t < tiles; ++t, i += length) {
    if (x) nearer(length, 0, minimum + t, below + i, above + i, x + i, rounded + i);
    else around(length, 0, minimum + t, step + t, last, below + i, above + i);
  }
  return 0;
}
