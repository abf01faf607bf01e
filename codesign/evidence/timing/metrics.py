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
_gain = partial(_metric, better="higher", comparison="none", variants=("proposal",))
METRICS = (
    _gain(
        "timing.speedup_over_software",
        "speedup of a GEMM",
        "time of a GEMM with today's software over its time with the proposal; with a path, casts of its operands "
        "included",
    ),
    _gain(
        "timing.step_speedup",
        "speedup of a layer's Linears",
        "time of all Linears of a layer in fprop, dgrad and wgrad, casts included, with today's software over that "
        "with the proposal",
        of_layer=True,
        axis=Axis(judged=True, one_for=("software",)),
        topic="time",
    ),
    _gain(
        "timing.layer_speedup",
        "speedup of a whole layer",
        "time of a whole layer's step with today's software over that with the proposal: Linears, casts, attention, "
        "element-wise kernels, network and optimizer",
        of_layer=True,
        axis=Axis(one_for=("software",)),
        topic="time",
    ),
    _gain(
        "timing.layer_ceiling",
        "ceiling of a layer's speedup",
        "layer_speedup if everything that the proposal makes faster took no time: the upper bound for any "
        "implementation (Amdahl's law)",
        of_layer=True,
    ),
    _metric(
        "timing.microseconds",
        "time of a GEMM",
        "time of a GEMM; with a path, casts of its operands included",
        unit="us",
    ),
)
