"""Metrics of numerics: the error that a GEMM makes."""

from __future__ import annotations

from functools import partial

from codesign.figures.metric import Axis, Metric

_metric = partial(
    Metric,
    variants=("today", "software", "proposal", "exact"),
    baselines=True,
    by_gemm=True,
    by_tensors=True,
    swept=True,
    sampled=True,
)
METRICS = (
    _metric(
        "numerics.output_error",
        "error of the rounded D",
        "relative Frobenius error of D as it leaves the GEMM (BF16 in fprop and dgrad, FP32 in wgrad) against the exact "
        "product of the quantised operands",
        of_sums=True,
    ),
    _metric(
        "numerics.changed_share",
        "inexact BF16 outputs",
        "share of outputs that differ, as they leave the GEMM, from the exact product of the quantised operands "
        "rounded to that format",
        of_sums=True,
        topic="error",
        passes=("fprop", "dgrad"),  # FP32 shows the last bit of every sum,
        share=True,
    ),
    _metric(
        "numerics.total_error",
        "total error",
        "relative Frobenius error of D, as it leaves the GEMM, against the exact product of the original operands",
        axis=Axis(judged=True, required=True),
        topic="error",
    ),
    _metric(
        "numerics.sqnr_db",
        "SQNR",
        "signal to quantisation noise ratio: 20 log10 of the inverse total error; 400 dB for no error at all",
        unit="dB",
        better="higher",
        comparison="difference",
    ),
    _metric(
        "numerics.median_row_error",
        "total error of the median row",
        "median over rows of D of a row's relative Frobenius error, as in total_error: representative where a few rows "
        "hold most of the norm",
    ),
    _metric(
        "numerics.quantisation_error",
        "quantisation error",
        "relative Frobenius error of the exact product of the quantised operands against that of the original ones",
        of_operands=True,
    ),
    _metric(
        "numerics.quantisation_bias",
        "bias of quantisation",
        "part of the quantised operands' exact product along that of the original ones, less 1; negative shrinks results",
        better="zero",
        of_operands=True,
    ),
    _metric(
        "numerics.relative_frobenius",
        "accumulation error",
        "accumulation error before D is rounded to its output format: Frobenius norm of D minus the exact product "
        "of the quantised operands, over its norm",
        of_sums=True,
        axis=Axis(),
        topic="error",
    ),
    _metric(
        "numerics.p95_error",
        "error of 95 % of outputs",
        "95th percentile of the outputs' accumulation error, over the root mean square of the exact product; unlike a "
        "maximum it does not grow with the number of outputs",
        of_sums=True,
    ),
    _metric(
        "numerics.bias",
        "bias",
        "accumulation error along the sign of the exact result, summed, over the sum of magnitudes; negative "
        "shrinks results",
        better="zero",
        of_sums=True,
    ),
    _metric(
        "numerics.share_over_1_bf16_ulp",
        "outputs off by over 1 BF16 ulp",
        "share of outputs whose accumulation error exceeds one unit in the last place of BF16",
        of_sums=True,
        share=True,
    ),
    _metric(
        "numerics.underflow_share",
        "underflow",
        "share of nonzero elements that are quantised to zero, for the operand with the larger share",
        share=True,
        of_operands=True,
    ),
    _metric(
        "numerics.overflow_share",
        "overflow",
        "share of elements clipped to the largest number, for the operand with the larger share, plus the share of "
        "outputs that are infinite, NaN or at the largest number of a saturating accumulator; at most 1",
        share=True,
    ),
)
