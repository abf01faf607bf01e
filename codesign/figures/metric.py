"""Metrics: the quantities that figures give and claims bound. Each kind of evidence declares its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from math import inf
from typing import Literal

KINDS = ("numerics", "bounds", "casts", "cost", "traffic", "timing", "training", "model")
"""Kinds of evidence, in the order in which they are shown; timing, which depends on cost, comes after it.

Each is a folder of codesign/evidence with its metrics in `metrics.py` and its source in `source.py`.
"""

Topic = Literal["", "error", "time", "bytes", "energy", "area", "latency"]
"""Question on a report's first screen that a metric answers; empty: none."""
Comparison = Literal["ratio", "difference", "none"]
"""Comparison of a figure with another variant's: their ratio, their difference, or none (the metric compares already)."""


@dataclass(frozen=True)
class Axis:
    """Rules for comparing proposals on a metric."""

    judged: bool = False
    """True if the Pareto front is judged on this axis; other axes are parts of a judged one or explain it."""
    required: bool = False
    """True if no front is judged without this axis: a cheaper but wrong design must not win."""
    over_software: bool = False
    """True if the ratio to today's software is shown; most assumed constants cancel in it."""
    one_for: tuple[str, ...] = ()
    """Variants for which the metric is 1 by definition."""


@dataclass(frozen=True)
class Metric:
    """A quantity that evidence gives."""

    name: str
    short: str
    """Name in tables."""
    description: str
    variants: tuple[str, ...]
    """Variants with a figure of this metric."""
    unit: str = "1"
    better: Literal["lower", "higher", "zero"] = "lower"
    """Better direction. zero: a signed quantity, whose magnitude is bounded and compared."""
    absent: str = "no figure covers it"
    """Reason for a missing figure."""
    share: bool = False
    """True for a share of outputs, elements or SMs: never above 1."""
    comparison: Comparison = "ratio"
    axis: Axis | None = None
    """Rules for comparing proposals on this metric; None: they are not compared."""
    topic: Topic = ""
    passes: tuple[str, ...] = ()
    """Passes over which a summary takes the worst figure; empty: all."""
    baselines: bool = False
    """True if named baselines have figures, too."""
    by_gemm: bool = False
    """True if each GEMM has a figure."""
    by_tensors: bool = False
    """True if each tensor source has a figure."""
    of_layer: bool = False
    """True if figures describe a layer's step, or a part of it that a claim names, instead of each GEMM."""
    of_sums: bool = False
    """True if the metric depends on the instruction's sums alone: on fraction bits, but not on quantisation."""
    of_operands: bool = False
    """True if the metric depends on the quantised operands alone, not on how the instruction sums their products."""
    swept: bool = False
    """True if each swept value has figures."""
    sampled: bool = False
    """True if intervals come from samples; a figure without one then decides nothing."""
    dearer: bool = False
    """True if a larger parameter of the instruction (more bits) makes the figure worse, as with costs."""

    @property
    def signed(self) -> bool:
        """True if only the magnitude counts."""
        return self.better == "zero"

    def badness(self, value: float | None) -> float:
        """Return a number that is larger for worse values; a value that is not finite is the worst."""
        if value is None:
            return inf
        return -value if self.better == "higher" else abs(value) if self.signed else value


def metrics() -> Mapping[str, Metric]:
    """Return every metric by name, in the order of `KINDS`."""
    return {name: found for name, (_, found) in _declared(KINDS).items()}


def metric_named(name: str) -> Metric:
    """Return a metric by name. Raises KeyError for an unknown one."""
    return _declared(KINDS)[name][1]


def kind_of(name: str) -> str:
    """Return the kind of evidence that has a metric. Raises KeyError for an unknown one."""
    return _declared(KINDS)[name][0]


@cache
def _declared(kinds: tuple[str, ...]) -> dict[str, tuple[str, Metric]]:
    """Return kind and metric by the metric's name."""
    return {m.name: (kind, m) for kind in kinds for m in import_module(f"codesign.evidence.{kind}.metrics").METRICS}
