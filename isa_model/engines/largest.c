/* Largest magnitude of each group of a matrix. Magnitudes of FP32 numbers are compared by their bits, as integers: a NaN is larger
 * than any number.
 */

#include <stdint.h>

/* `group` is the rows and columns that share a maximum; `largest` has `across` of them in a row, and is zero at first. */
int run(const uint32_t *x, long rows, long columns, const long *group, long across, uint32_t *largest) {
  for (long i = 0; i < rows; ++i) {
    const uint32_t *row = x + i * columns;
    uint32_t *found = largest + i / group[0] * across;
    if (group[1] == 1) {
      for (long j = 0; j < columns; ++j) {
        const uint32_t size = row[j] & 0x7FFFFFFFu;
        found[j] = size > found[j] ? size : found[j];
      }
      continue;
    }
    for (long of = 0, first = 0; first < columns; ++of, first += group[1]) {
      const long end = columns - first < group[1] ? columns : first + group[1];
      uint32_t most = found[of];
      for (long j = first; j < end; ++j) {
        const uint32_t size = row[j] & 0x7FFFFFFFu;
        most = size > most ? size : most;
      }
      found[of] = most;
    }
  }
  return 0;
}
