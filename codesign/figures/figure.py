"""The shape of evidence: figures that say what they are, and curves for the plots."""

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
    """What a figure would be if one of the things it stands on were otherwise."""

    assumption: str
    """What is assumed, such as `tile of the kernel`."""
    other: str
    """The other value or case."""
    value: float | None
    """The figure then; None: not finite."""
    low: float | None = None
    """Interval of that figure, where it is of a sample; None: it is no sample, or one too small for an interval."""
    high: float | None = None


class Figure(Spec):
    """One number of evidence, with its 95 % interval and what it was gathered on."""

    metric: str
    variant: str
    """today, software, proposal or exact; of times also twin, the software without its emulation work."""
    at: At | None = None
    """Value of the swept field; None: the proposal's own."""
    workload: str
    """The GEMM."""
    tensors: str
    """The tensor source."""
    value: float | None
    """None: not finite, as the error of an output that overflowed: infinitely bad, so that it breaks every upper bound on an
    error and every lower bound on decibels."""
    low: float | None
    """Lower end of the interval. None beside a finite value: too little was sampled for an interval, and nothing can be
    decided on the figure."""
    high: float | None
    """Upper end of the interval; None as `low`. None beside a lower end: unbounded."""
    kind: Kind
    source: str
    """What it stands on."""
    caveat: str = ""
    """A reservation to be said wherever the figure is."""
    ratios: dict[str, tuple[float | None, float | None]] = Field(default_factory=dict)
    """Paired confidence interval of the ratio to each variant, from the same seeds (of levels in dB: of the difference). None
    and None: too little was sampled, or the other figure may be zero."""
    alternatives: tuple[Alternative, ...] = ()
    """The figure under other assumptions, one changed at a time; drawn where a claim hangs on it."""


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
    kind: Kind = "computed"
    categories: tuple[str, ...] = ()
    """Draw bars, a group for each of these; a series has a bar in each group."""
    stacked: bool = False
    """Draw them lying, one for each category, made of the series' parts, with a series' labels in its parts."""
    series: tuple[Series, ...]

    @property
    def floor(self) -> float | None:
        """Where zeros are drawn on a logarithmic axis, under all that is positive; None: there are none to draw."""
        values = [y for s in self.series for y in s.y if y is not None]
        positive = [y for y in values if y > 0]
        if self.y_scale != "log10" or not positive or 0 not in values:
            return None
        return float(10.0 ** (floor(log10(min(positive))) - 1))

    @property
    def full_caption(self) -> str:
        """The caption, with a word on zeros."""
        if self.floor is not None:
            return f"{self.caption} Hollow marks on the line “0” are exactly zero."
        zero = (
            self.y_scale == "log10" and any(s.y for s in self.series) and not any(y for s in self.series for y in s.y)
        )
        return f"{self.caption} All of them are exactly zero." if zero else self.caption
