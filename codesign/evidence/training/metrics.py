"""Metrics of training: loss gaps and first gradients of training runs."""

from __future__ import annotations

from functools import partial

from codesign.figures.metric import Metric

_metric = partial(
    Metric,
    variants=("today", "software", "proposal", "exact"),
    swept=True,
    sampled=True,
    absent="no training record covers it; `codesign train` makes one, `evaluate --train` a small one",
)
METRICS = (
    _metric(
        "training.loss_gap",
        "loss gap to BF16",
        "mean training loss over the last quarter of a run, over that of BF16 with the same weights and data, less 1",
        comparison="difference",
    ),
    _metric(
        "training.validation_gap",
        "gap of the validation loss",
        "mean loss on validation text after the last step, over that of BF16 with the same weights and data, less 1",
        comparison="difference",
    ),
    _metric(
        "training.gradient_drift",
        "first gradient's distance from BF16's",
        "distance of a run's first gradient from BF16's at the same weights, text and experts, over the norm of BF16's",
    ),
    _metric(
        "training.gradient_bias",
        "first gradient's shift along BF16's",
        "component of gradient_drift along BF16's gradient, over its norm; negative where sums shrink gradients",
        better="zero",
    ),
)
