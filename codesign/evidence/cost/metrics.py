"""Metrics of cost: the hardware of a dot-product unit."""

from __future__ import annotations

from functools import partial

from codesign.figures.metric import Axis, Metric

_metric = partial(
    Metric,
    variants=("proposal",),
    swept=True,
    dearer=True,
    comparison="none",
    absent="no hardware record covers it; the extra `cost` synthesises what the generator can say",
)
METRICS = (
    _metric(
        "cost.area_ratio",
        "1",
        "lower",
        "area over the base",
        "area of the proposed dot-product unit over that of the base, per product",
        axis=Axis(judged=True, one_for=("software", "today")),
    ),
    _metric(
        "cost.delay_ratio",
        "1",
        "lower",
        "longest path over the base",
        "longest path of the proposed dot-product unit over that of the base, both without registers",
    ),
    _metric(
        "cost.energy_ratio",
        "1",
        "lower",
        "energy of the unit over the base",
        "switched capacitance of the proposed dot-product unit over that of the base, per product",
        axis=Axis(one_for=("software", "today")),
    ),
    _metric(
        "cost.sm_area_ratio",
        "1",
        "lower",
        "transistors of an SM over today's",
        "transistors of a Hopper SM with the proposed units over today's, the SM's own number assumed",
    ),
    _metric(
        "cost.extra_cycles",
        "cycles",
        "lower",
        "further cycles of latency",
        "further cycles of latency of the proposed dot-product unit, registers after as many gates as in the base",
    ),
    _metric(
        "cost.cycle_ratio",
        "1",
        "lower",
        "cycle time over the base",
        "least cycle time of the proposed dot-product unit over the base's, registers after as many gates",
    ),
    _metric(
        "cost.extra_register_bits",
        "bit",
        "lower",
        "further pipeline register bits",
        "further pipeline register bits of the proposed dot-product unit, registers after as many gates as in the base",
    ),
    _metric(
        "cost.scale_bandwidth",
        "B/cycle",
        "lower",
        "bytes of scales an SM reads",
        "bytes of scales that an SM reads per cycle at full rate",
    ),
    _metric(
        "cost.scale_storage",
        "B",
        "lower",
        "shared memory for scales",
        "shared memory of an SM that holds the scales of the tiles in flight",
    ),
    _metric(
        "cost.scale_traffic",
        "1",
        "lower",
        "scales read over operands read",
        "bits of scales read over bits of operands read",
    ),
)
