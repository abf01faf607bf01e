"""Metrics of timing: times and speedups."""

from __future__ import annotations

from functools import partial

from codesign.figures.metric import Axis, Metric

_metric = partial(
    Metric,
    variants=("today", "software", "proposal"),
    by_gemm=True,
    swept=True,
    dearer=True,
    absent="no kernel of it is timed; Method says why",
)
METRICS = (
    _metric(
        "timing.speedup_over_software",
        "1",
        "higher",
        "speedup of a GEMM",
        "time of a GEMM with today's software over its time with the proposal; with a path, casts of its operands "
        "included",
        comparison="none",
        variants=("proposal",),
    ),
    _metric(
        "timing.step_speedup",
        "1",
        "higher",
        "speedup of a layer's Linears",
        "time of all Linears of a layer in fprop, dgrad and wgrad, casts included, with today's software over that "
        "with the proposal",
        of_layer=True,
        comparison="none",
        variants=("proposal",),
        axis=Axis(judged=True, one_for=("software",)),
    ),
    _metric(
        "timing.layer_speedup",
        "1",
        "higher",
        "speedup of a whole layer",
        "time of a whole layer's step with today's software over that with the proposal: Linears, casts, attention, "
        "element-wise kernels, network and optimizer",
        of_layer=True,
        comparison="none",
        variants=("proposal",),
        axis=Axis(one_for=("software",)),
    ),
    _metric(
        "timing.layer_ceiling",
        "1",
        "higher",
        "ceiling of a layer's speedup",
        "layer_speedup if everything that the proposal makes faster took no time: the upper bound for any "
        "implementation (Amdahl's law)",
        of_layer=True,
        comparison="none",
        variants=("proposal",),
    ),
    _metric(
        "timing.microseconds",
        "us",
        "lower",
        "time of a GEMM",
        "time of a GEMM; with a path, casts of its operands included",
    ),
)
