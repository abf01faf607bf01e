"""Metrics of casts: errors of a tensor after a path."""

from __future__ import annotations

from functools import partial

from codesign.figures.metric import Axis, Metric

_metric = partial(
    Metric,
    variants=("software", "proposal", "exact"),
    by_gemm=True,
    by_tensors=True,
    sampled=True,
    absent="the proposal has no `path`, or its path does not carry that operand",
)
METRICS = (
    _metric(
        "cast.relative_error",
        "error of the tensor",
        "relative Frobenius error of the tensor that the path delivers, against the BF16 tensor at its start",
        axis=Axis(),
        topic="error",
    ),
    _metric(
        "cast.sqnr_db",
        "SQNR",
        "signal to quantisation noise ratio of the tensor that the path delivers",
        unit="dB",
        better="higher",
        comparison="difference",
    ),
    _metric(
        "cast.underflow_share", "underflow", "share of nonzero elements that the path delivers as zero", share=True
    ),
    _metric(
        "cast.requantised_share",
        "elements changed by further casts",
        "share of elements that differ from those of one cast straight from BF16",
        share=True,
    ),
)
