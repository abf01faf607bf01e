"""Verdicts of an evaluation on claims."""

from __future__ import annotations

from typing import Literal

from codesign.figures.figure import Figure
from codesign.proposal.proposal import Claim
from isa_model.stage import Spec

Judgement = Literal["supported", "refuted", "undetermined"]


class Bar(Spec):
    """One assumption of a claim's figure, with the least and the greatest value of the figure in the other cases."""

    assumption: str
    low: float | None
    low_case: str
    high: float | None
    high_case: str
    reversed_by: tuple[str, ...] = ()
    """Cases that reverse the verdict: their whole interval lies on the other side of the bound."""

    @property
    def extremes(self) -> list[tuple[str, float | None]]:
        """Cases with the least and the greatest value, in words, and these values."""
        ends = ((self.low_case, self.low), (self.high_case, self.high))
        return [(f"{self.assumption}: {case}", value) for case, value in ends]


class BreakEven(Spec):
    """Values of one of the proposal's own parameters that would keep a claim."""

    parameter: str
    own: int | float | str
    """Value in the proposal."""
    limit: int | float | str | None
    """Cheapest value that meets the bound, interval included, together with all better ones; None: the best value tried does
    not, or values of this parameter have no order."""
    tried: dict[str, float | None]
    """Figure at each value tried."""
    holds: tuple[str, ...] = ()
    """Tried values that meet the bound."""
    among: str = ""
    """Range searched, if not every value of it was tried."""
    condition: str = ""
    """Data that the break-even holds for."""
    rising: bool = True
    """True if larger values are better for the claim."""


class Verdict(Spec):
    """Judgement of a claim, with the figure that decided it."""

    claim: Claim
    statement: str
    """The claim in words."""
    judgement: Judgement
    reason: str
    deciding: Figure | None = None
    """Figure that decided: the worst that the claim covers, or the one that breaks it. For a relative claim, a ratio or a
    difference."""
    covered: int = 0
    """Number of figures that the claim covers."""
    again: int = 0
    """Number of those that were measured again on fresh seeds."""
    margin: float | None = None
    """Distance of the deciding figure from the bound, relative to the bound, or in the metric's unit if the bound is zero;
    negative on the wrong side."""
    bars: tuple[Bar, ...] = ()
    """Range of the deciding figure under each changed assumption, the largest effect first."""
    break_even: tuple[BreakEven, ...] = ()
    """Values of the proposal's own parameters that would meet the bound."""
