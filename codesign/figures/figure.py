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
    """Assumption that is changed, such as `tile of the kernel`."""
    other: str
    """The other value or case."""
    value: float | None
    """Value of the figure in that case; None: not finite."""
    low: float | None = None
    """Lower end of its interval; None: not sampled, or too few samples."""
    high: float | None = None
    """Upper end of its interval; None as for `low`."""


class Figure(Spec):
    """A number with its 95 % interval and its source."""

    metric: str
    variant: str
    """`today`, `software`, `proposal`, `exact` or the name of a baseline; for times also `twin`, the software's kernel without
    its emulation work."""
    at: At | None = None
    """Value of the swept field; None: the proposal's own."""
    workload: str
    """GEMM, layer or pass that the figure describes."""
    tensors: str
    """Tensor source; empty: the figure depends on none."""
    value: float | None
    """Value; None: not finite, for instance the error of an output that overflowed. None breaks every upper bound on an error
    and every lower bound on decibels."""
    low: float | None
    """Lower end of the interval. None with a finite value: too few samples for an interval; the figure then decides nothing."""
    high: float | None
    """Upper end of the interval; None as for `low`, or, with a lower end, for no upper bound."""
    kind: Kind
    source: str
    """Basis of the figure, in words."""
    caveat: str = ""
    """Reservation shown with the figure."""
    ratios: dict[str, tuple[float | None, float | None]] = Field(default_factory=dict)
    """Paired 95 % confidence interval of the ratio to each variant, from the same seeds; for metrics in dB, of the difference.
    Both ends None: too few samples, or the other figure may be zero."""
    alternatives: tuple[Alternative, ...] = ()
    """Figure with one assumption changed at a time; drawn if the figure decides a claim."""


class Series(Spec):
    """One line of a plot; y is None where it is not finite."""

    label: str
    variant: str
    x: tuple[float, ...]
    y: tuple[float | None, ...]
    labels: tuple[str, ...] = ()
    """Name of each point; empty: none."""


class Plot(Spec):
    """A plot of a report."""

    name: str
    title: str
    caption: str
    x_label: str
    y_label: str
    x_scale: Literal["linear", "log2", "log10"] = "linear"
    y_scale: Literal["linear", "log10"] = "log10"
    steps: bool = False
    """True for the outline of a histogram."""
    kind: Kind = "computed"
    categories: tuple[str, ...] = ()
    """Groups of horizontal bars, with one bar per series; empty for a plot of lines."""
    stacked: bool = False
    """True for one bar per category, made of one labelled part per series."""
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
        """Caption, with a sentence on zeros if there are any."""
        if self.floor is not None:
            return f"{self.caption} Hollow marks on the line “0” are exactly zero."
        zero = (
            self.y_scale == "log10" and any(s.y for s in self.series) and not any(y for s in self.series for y in s.y)
        )
        return f"{self.caption} All of them are exactly zero." if zero else self.caption
