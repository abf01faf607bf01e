"""Metrics of bounds: the error that sums cannot exceed."""

from __future__ import annotations

from functools import partial

from codesign.figures.metric import Metric

_metric = partial(
    Metric,
    variants=("today", "software", "proposal"),
    by_gemm=True,
    swept=True,
    of_sums=True,
    absent="only the operands' path changes: the bounds are those of today's software",
)
METRICS = (
    _metric(
        "bounds.worst_relative",
        "bound of the error",
        "largest possible |D - exact| over the sum of the products' magnitudes, before D is rounded to its output format; for "
        "any operands without overflow, derived from the stages",
    ),
    _metric(
        "bounds.probable_relative",
        "bound of the error, but for one output in 100,000",
        "as worst_relative, but exceeded with a probability of at most 1e-5 where roundings are independent and what they "
        "discard is uniformly distributed",
    ),
    _metric(
        "bounds.bias",
        "bound of the bias",
        "largest mean of D - exact over the sum of the products' magnitudes, all products positive, where what roundings "
        "discard is uniformly distributed; negative shrinks results",
        better="zero",
    ),
)
