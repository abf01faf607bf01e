"""Metrics: what is known of a quantity that figures give and claims bound. Each kind of evidence declares its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from math import inf
from typing import Literal

KINDS = ("numerics", "casts", "cost", "traffic", "timing", "training")
"""Kinds of evidence, in the order in which they are gathered and shown.

Each is a folder of codesign/evidence with its metrics in `metrics.py` and its source in `source.py`.
"""

Comparison = Literal["ratio", "difference", "none"]
"""How a figure compares with another variant's: by their ratio, by their difference, or not at all (it is a comparison)."""


@dataclass(frozen=True)
class Axis:
    """How proposals are compared on a metric."""

    judged: bool = False
    """Whether the Pareto front is judged on it; other axes are parts of a judged one or explain it."""
    required: bool = False
    """Whether no front is judged without it: what is cheaper and wrong beats nothing."""
    over_software: bool = False
    """Whether the ratio to today's software is shown, in which most assumed constants cancel."""
    one_for: tuple[str, ...] = ()
    """Variants for which it is 1 by definition."""


@dataclass(frozen=True)
class Metric:
    """A quantity of evidence."""

    name: str
    short: str
    """Name in tables."""
    description: str
    variants: tuple[str, ...]
    """Variants that have a figure of it."""
    unit: str = "1"
    better: Literal["lower", "higher", "zero"] = "lower"
    """The better direction; of a signed quantity (zero) the magnitude is bounded and compared."""
    absent: str = "no figure covers it"
    """Why there may be no figure."""
    comparison: Comparison = "ratio"
    axis: Axis | None = None
    """How proposals are compared on it; None: they are not."""
    baselines: bool = False
    """Whether baselines by name have figures, too."""
    by_gemm: bool = False
    """Whether there is a figure for each GEMM."""
    by_tensors: bool = False
    """Whether there is a figure for each tensor source."""
    of_layer: bool = False
    """Whether a figure is of a layer's step, or of a part of it that a claim names, instead of each GEMM."""
    of_sums: bool = False
    """Whether it depends on the instruction's sums alone: fraction bits change it, quantisation does not."""
    swept: bool = False
    """Whether each swept value has figures."""
    sampled: bool = False
    """Whether the interval is that of a sample: without an interval, nothing is decided."""
    dearer: bool = False
    """Whether a larger parameter of the instruction (more bits) makes the figure worse, as with costs."""

    @property
    def signed(self) -> bool:
        """Whether only the magnitude counts."""
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
