"""The shape of evidence: figures that say what they are, and curves for the plots."""

from __future__ import annotations

from typing import Literal

from isa_model.stage import Spec

Kind = Literal["computed", "measured", "modelled", "assumed"]
"""computed: by the bit-exact model on stated tensors; measured: on hardware; modelled: by a fitted model; assumed."""


class Figure(Spec):
    """One number of evidence, with its 95 % interval and what it was gathered on."""

    metric: str
    variant: str
    """today, software, proposal or exact."""
    at: int | float | str | None = None
    """Value of the swept field."""
    workload: str
    """The GEMM."""
    tensors: str
    """The tensor source."""
    value: float | None
    """None: not finite."""
    low: float | None
    high: float | None
    kind: Kind
    source: str
    """What it stands on."""


class Series(Spec):
    """One line of a plot; a missing y is a number that is not finite."""

    label: str
    variant: str
    x: tuple[float, ...]
    y: tuple[float | None, ...]
    labels: tuple[str, ...] = ()
    """A name to write at each point."""


class Plot(Spec):
    """A figure of the report, as data."""

    name: str
    title: str
    caption: str
    x_label: str
    y_label: str
    x_scale: Literal["linear", "log2"] = "linear"
    y_scale: Literal["linear", "log10"] = "log10"
    steps: bool = False
    """Draw as a histogram outline instead of a line through points."""
    series: tuple[Series, ...]


class Evidence(Spec):
    """What one kind of evidence has found."""

    figures: tuple[Figure, ...]
    plots: tuple[Plot, ...]
    method: tuple[str, ...]
    """How it was gathered, in sentences."""
