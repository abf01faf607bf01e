"""Verdicts: what an evaluation says about a claim."""

from __future__ import annotations

from typing import Literal

from codesign.figures.figure import Figure
from codesign.proposal.proposal import Claim
from isa_model.stage import Spec

Judgement = Literal["supported", "refuted", "undetermined"]


class Bar(Spec):
    """One assumption of a claim's figure, with the least and the greatest value of the figure in its other cases."""

    assumption: str
    low: float | None
    low_case: str
    high: float | None
    high_case: str
    reversed_by: tuple[str, ...] = ()
    """Cases that reverse the verdict: their whole interval lies on the other side of the bound."""


class BreakEven(Spec):
    """Values of one of the proposal's own parameters that would keep a claim."""

    parameter: str
    own: int | float | str
    """The proposal's value."""
    limit: int | float | str | None
    """Cheapest value such that it and all better ones keep the bound, interval included; None: the best value tried does not,
    or values of this parameter have no order."""
    tried: dict[str, float | None]
    """Figure at each value that was tried."""
    holds: tuple[str, ...] = ()
    """Tried values that keep the bound."""
    among: str = ""
    """Range that was searched, where not every value of it was tried."""
    condition: str = ""
    """Data on which this is so."""
    rising: bool = True
    """Whether larger values are better for the claim."""


class Verdict(Spec):
    """Judgement of a claim, with the figure that decided it."""

    claim: Claim
    statement: str
    """The claim in words."""
    judgement: Judgement
    reason: str
    deciding: Figure | None = None
    """Figure that decided: the worst that the claim covers, or the one that breaks it (a ratio or a difference, where the
    claim is relative)."""
    covered: int = 0
    """Number of figures that the claim covers."""
    again: int = 0
    """Number of those that were measured again on fresh seeds."""
    margin: float | None = None
    """Distance of the deciding figure from the bound, in parts of the bound, or in the metric's unit where the bound is zero;
    negative on the wrong side."""
    bars: tuple[Bar, ...] = ()
    """Deciding figure with one assumption changed, the largest effect first."""
    break_even: tuple[BreakEven, ...] = ()
    """Values of the proposal's own parameters that would keep the bound."""
