"""The golden model in C run on arrays of operands, for the tests that compare it."""

import ctypes

import numpy as np

from isa_model.c_golden.source import header, source, variations_table
from isa_model.engines.c_library import load

FLAGS = ("-O1", "-std=c99")
RUN = """
int run(long which, long count, const uint64_t *const *in, const uint32_t *random, const long *width, uint64_t *d) {
  static Trace trace;
  static Operands x;
  const Spec *spec = which ? &golden_variations[which - 1] : &golden_spec;
  for (long i = 0; i < count; ++i)
    for (long step = 0; step < width[2]; ++step) {
      const long first = (i * width[2] + step) * spec->k;
      for (long k = 0; k < spec->k; ++k) x.a[k] = in[0][first + k], x.b[k] = in[1][first + k];
      x.c = step ? d[i] : in[2][i];
      x.goes_on = step > 0, x.running = trace.running, x.rest = trace.rest;
      for (long n = 0; n < width[0]; ++n) x.scale[n] = in[3][i * width[0] + n];
      for (long n = 0; n < width[1]; ++n) x.random[n] = random[i * width[1] + n];
      d[i] = golden_run(spec, &x, 0, &trace);
    }
  return 0;
}
"""


def compiled(*specs):
    """Return a function of the number of one of the instructions and of its operands that computes D (N,).

    Operands are codes A (N, K), B (N, K), C (N,), those of scales (N, n), level by level, and random words (N, n). K is k, or
    several times as much of an instruction whose C has the format of D, with neither scales nor random words.
    Raises InputError as `source.check` does, NoCompiler without a C compiler.
    """
    first, *others = (spec.dense for spec in specs)
    text = source(first).replace('#include "golden.h"\n', header(first, others))
    return loaded(text, variations_table(others), [spec.shape.k for spec in (first, *others)])


def loaded(text, variations, ks):
    """Return the function of `compiled` for a golden.c with its header in place; `ks` are the k of the instructions."""
    function = load(text + variations + RUN, FLAGS)

    def run(which, a, b, c, scales=None, random=None):
        arrays = [None if x is None else np.ascontiguousarray(x, np.uint64) for x in (a, b, c, scales)]
        words = None if random is None else np.ascontiguousarray(random, np.uint32)
        d = np.empty(len(a), np.uint64)
        function(
            ctypes.c_long(which),
            ctypes.c_long(len(d)),
            (ctypes.c_void_p * 4)(*(None if x is None else x.ctypes.data for x in arrays)),
            ctypes.c_void_p(None if words is None else words.ctypes.data),
            (ctypes.c_long * 3)(*(0 if x is None else x.shape[1] for x in (arrays[3], words)), len(a[0]) // ks[which]),
            ctypes.c_void_p(d.ctypes.data),
        )
        return d

    return run
