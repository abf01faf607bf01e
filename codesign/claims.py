"""Judging claims: a bound, the figures it covers, and the one that decides."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from codesign.evidence import Figure
from codesign.metrics import METRICS
from codesign.proposal import Claim, Proposal
from codesign.workloads.gemms import select
from isa_model.stage import Spec

Judgement = Literal["supported", "refuted", "undetermined"]


class Verdict(Spec):
    """What became of a claim, with the figure that decided."""

    claim: Claim
    statement: str
    """The claim in words."""
    judgement: Judgement
    reason: str
    deciding: Figure | None = None
    """The worst figure the claim covers (a ratio, where the claim is relative)."""
    covered: int = 0
    """Figures it was judged on."""


def judge(proposal: Proposal, figures: Sequence[Figure]) -> tuple[Verdict, ...]:
    """A verdict per claim, in the proposal's order.

    A claim holds where its worst figure's whole interval keeps the bound, and is refuted where some figure's whole
    interval breaks it; in between, and without evidence, it is undetermined.
    """
    return tuple(_judge(proposal, claim, figures) for claim in proposal.claims)


def statement(claim: Claim) -> str:
    """The claim in words."""
    unit = METRICS[claim.metric].unit
    unit = f" {unit}" if unit != "1" and claim.relative_to is None else ""
    bounds = [
        f"{words} {bound:g}{unit}"
        for words, bound in (("at least", claim.at_least), ("at most", claim.at_most))
        if bound is not None
    ]
    subject = claim.metric + ("" if claim.of == "proposal" else f" of {claim.of}")
    if claim.relative_to:
        subject += f", relative to {claim.relative_to},"
    where = [
        f"on {claim.workload}" if claim.workload else "",
        f"with {claim.tensors} tensors" if claim.tensors else "",
        f"at {claim.at}" if claim.at is not None else "",
    ]
    return " ".join([subject, " and ".join(bounds), *filter(None, where)])


def _judge(proposal: Proposal, claim: Claim, figures: Sequence[Figure]) -> Verdict:
    text = statement(claim)
    if not METRICS[claim.metric].gathered:
        family = claim.metric.split(".")[0]
        return Verdict(
            claim=claim,
            statement=text,
            judgement="undetermined",
            reason=f"no {family} evidence is gathered yet",
        )
    covered = _covered(claim, figures)
    if claim.relative_to:
        covered = [ratio for f in covered if (ratio := _ratio(claim, f, figures))]
    if not covered:
        reason = "no figure covers it"
        if claim.metric.startswith("cost."):
            reason = "no hardware record covers it; the extra `cost` synthesises what the generator can say"
        if claim.metric.startswith("training."):
            reason = "no training record covers it; `codesign train` makes one, `evaluate --train` a small one"
        return Verdict(claim=claim, statement=text, judgement="undetermined", reason=reason)
    worst = max(covered, key=lambda f: _excess(claim, f.value))
    broken = max(covered, key=lambda f: _excess(claim, f.low, f.high, nearest=True))
    if _excess(claim, broken.low, broken.high, nearest=True) > 0:
        judgement, decides, reason = "refuted", broken, "its whole interval breaks the bound"
    elif all(_excess(claim, f.low, f.high, nearest=False) <= 0 for f in covered):
        judgement, decides, reason = (
            "supported",
            worst,
            "the worst covered keeps the bound, interval included",
        )
    else:
        decides = max(covered, key=lambda f: _excess(claim, f.low, f.high, nearest=False))
        judgement, reason = "undetermined", "the interval straddles the bound"
    return Verdict(
        claim=claim,
        statement=text,
        judgement=judgement,
        reason=reason,
        deciding=decides,
        covered=len(covered),
    )


def _covered(claim: Claim, figures: Sequence[Figure]) -> list[Figure]:
    gemms = {g.name for g in select(claim.workload)} if claim.workload else None
    return [
        f
        for f in figures
        if f.metric == claim.metric
        and f.variant == claim.of
        and f.at == (claim.at if claim.of == "proposal" else None)
        and (gemms is None or f.workload in gemms)
        and (claim.tensors is None or f.tensors == claim.tensors)
    ]


def _ratio(claim: Claim, figure: Figure, figures: Sequence[Figure]) -> Figure | None:
    """The figure over that of the variant it is claimed relative to, on the same workload and tensors.

    Its interval is the widest the two intervals allow: they share operands, so this overstates it. None where that
    variant has no such figure, as costs have of the proposal alone.
    """
    wanted = (figure.metric, figure.workload, figure.tensors, claim.relative_to, None)
    other = next((f for f in figures if (f.metric, f.workload, f.tensors, f.variant, f.at) == wanted), None)
    if other is None:
        return None

    def over(x: float | None, y: float | None) -> float | None:
        return None if x is None or not y else float(f"{x / y:.6g}")

    ends = [r for r in (over(figure.low, other.high), over(figure.high, other.low)) if r is not None]
    return figure.model_copy(
        update={
            "value": over(figure.value, other.value),
            "low": min(ends) if len(ends) == 2 else None,
            "high": max(ends) if len(ends) == 2 else None,
            "source": f"{figure.source}; ratio to {claim.relative_to} ({other.value:g})"
            if other.value is not None
            else figure.source,
        }
    )


def _excess(claim: Claim, *values: float | None, nearest: bool = False) -> float:
    """How far values break the bound (positive) or keep it (negative): the farthest of them, or the nearest.

    A value that is not finite breaks every bound.
    """

    def one(value: float | None) -> float:
        if value is None:
            return float("inf")
        over = value - claim.at_most if claim.at_most is not None else float("-inf")
        under = claim.at_least - value if claim.at_least is not None else float("-inf")
        return max(over, under)

    excesses = [one(v) for v in values]
    return min(excesses) if nearest else max(excesses)
