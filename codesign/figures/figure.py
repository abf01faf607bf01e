"""Figures and plots, as data."""

from __future__ import annotations

from math import floor, log10
from typing import Literal

from pydantic import Field

from isa_model.stage import Spec

Kind = Literal["computed", "measured", "modelled", "assumed"]
"""computed: by the bit-exact model on stated tensors; measured: on hardware; modelled: by a fitted model; assumed."""

At = int | float | str
"""Value of the swept field."""


class Alternative(Spec):
    """A figure in another case: one of its assumptions is changed."""

    assumption: str
    """What is changed, such as `tile of the kernel`."""
    other: str
    """The other value or case."""
    value: float | None
    """Value of the figure in that case; None: not finite."""
    low: float | None = None
    """Lower end of its interval; None: it is not sampled, or too little for an interval."""
    high: float | None = None
    """Upper end of its interval; None as `low`."""


class Figure(Spec):
    """A number of evidence with its 95 % interval, and where it comes from."""

    metric: str
    variant: str
    """`today`, `software`, `proposal`, `exact` or the name of a baseline; for times also `twin`, the software's kernel without
    its emulation work."""
    at: At | None = None
    """Value of the swept field; None: the proposal's own."""
    workload: str
    """GEMM, layer or pass that it is of."""
    tensors: str
    """Tensor source; empty: it depends on none."""
    value: float | None
    """Value; None: not finite, as the error of an output that overflowed. It breaks every upper bound on an error and every
    lower bound on decibels."""
    low: float | None
    """Lower end of the interval. None with a finite value: too little was sampled for an interval, and the figure decides
    nothing."""
    high: float | None
    """Upper end of the interval; None as `low`. None with a lower end: unbounded."""
    kind: Kind
    source: str
    """What it is based on."""
    caveat: str = ""
    """Reservation that is shown wherever the figure is."""
    ratios: dict[str, tuple[float | None, float | None]] = Field(default_factory=dict)
    """Paired 95 % confidence interval of the ratio to each variant, from the same seeds; for metrics in dB, of the difference.
    None and None: too little was sampled, or the other figure may be zero."""
    alternatives: tuple[Alternative, ...] = ()
    """Figure in other cases, one assumption changed at a time; drawn where it decides a claim."""


class Series(Spec):
    """One line of a plot; a missing y is a number that is not finite."""

    label: str
    variant: str
    x: tuple[float, ...]
    y: tuple[float | None, ...]
    labels: tuple[str, ...] = ()
    """Name of each point; empty: points have none."""


class Plot(Spec):
    """A plot of a report."""

    name: str
    title: str
    caption: str
    x_label: str
    y_label: str
    x_scale: Literal["linear", "log2"] = "linear"
    y_scale: Literal["linear", "log10"] = "log10"
    steps: bool = False
    """Whether it is drawn as the outline of a histogram."""
    kind: Kind = "computed"
    categories: tuple[str, ...] = ()
    """Groups of bars, where bars are drawn; each series has a bar in each group."""
    stacked: bool = False
    """Whether the bars are horizontal, one for each category, each made of a part for each series with its label."""
    series: tuple[Series, ...]

    @property
    def floor(self) -> float | None:
        """Height at which zeros are drawn on a logarithmic axis, below all positive values; None: there are no zeros."""
        values = [y for s in self.series for y in s.y if y is not None]
        positive = [y for y in values if y > 0]
        if self.y_scale != "log10" or not positive or 0 not in values:
            return None
        return float(10.0 ** (floor(log10(min(positive))) - 1))

    @property
    def full_caption(self) -> str:
        """Caption with a sentence on zeros, where there are some."""
        if self.floor is not None:
            return f"{self.caption} Hollow marks on the line “0” are exactly zero."
        zero = (
            self.y_scale == "log10" and any(s.y for s in self.series) and not any(y for s in self.series for y in s.y)
        )
        return f"{self.caption} All of them are exactly zero." if zero else self.caption
