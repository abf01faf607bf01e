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
    absent="no hardware record covers it; with the extra `cost`, units that the RTL generator supports are synthesised",
)
METRICS = (
    _metric(
        "cost.area_ratio",
        "unit area over today's",
        "area of the proposed dot-product unit over that of the base, per product",
        axis=Axis(judged=True, one_for=("software", "today")),
        topic="area",
    ),
    *(
        _metric(f"cost.area_of_{idea}", short, f"part of the area ratio that {what} adds")
        for idea, short, what in (
            ("bits", "area of fraction bits", "the width of the window and of the register"),
            ("operands", "area of operands", "the formats of operands"),
            ("order", "area of order and rounding", "the order and rounding of sums"),
            ("scaling", "area of scaling", "scaling"),
            ("registers", "area of registers", "pipelining"),
        )
    ),
    _metric(
        "cost.delay_ratio",
        "longest path over today's",
        "longest path of the proposed dot-product unit over that of the base, both without registers",
    ),
    _metric(
        "cost.energy_ratio",
        "unit energy over today's",
        "capacitance that gates and pipeline registers of the proposed dot-product unit switch over the base's, per product",
        axis=Axis(one_for=("software", "today")),
        topic="energy",
    ),
    _metric(
        "cost.sm_area_ratio",
        "SM transistors over today's",
        "transistors of a Hopper SM with the proposed units over today's, the SM's own number assumed",
        topic="area",
    ),
    _metric(
        "cost.extra_cycles",
        "added latency",
        "extra latency of the proposed dot-product unit, with as many gates per pipeline stage as the base",
        unit="cycles",
        topic="latency",
    ),
    _metric(
        "cost.cycle_ratio",
        "cycle time over today's",
        "shortest cycle time of the proposed dot-product unit over the base's, with as many gates per pipeline stage",
    ),
    _metric(
        "cost.extra_register_bits",
        "added pipeline registers",
        "extra pipeline register bits for as many products as the base's unit sums, with as many gates per pipeline stage",
        unit="bit",
    ),
    _metric(
        "cost.extra_loop_cycles",
        "added latency of accumulation",
        "extra cycles from C to D, to be filled with other elements of D, with as many gates per pipeline stage as the base",
        unit="cycles",
    ),
    _metric(
        "cost.accumulator_traffic",
        "accumulator bits over today's",
        "bits of C read and of D written per product, over those of the base",
    ),
    _metric(
        "cost.scale_bandwidth",
        "scales that an SM reads",
        "bytes of scales that an SM reads per cycle at full rate",
        unit="B/cycle",
    ),
    _metric(
        "cost.scale_storage",
        "shared memory for scales",
        "shared memory of an SM that holds the scales of the tiles in flight",
        unit="B",
    ),
    _metric(
        "cost.operand_bits",
        "size of an operand's element",
        "bits of an element as stored, including its share of the scales of all levels, mean of A and B",
        unit="bit",
        topic="bytes",
    ),
    _metric("cost.scale_traffic", "scales read over operands read", "bits of scales read over bits of operands read"),
)
