"""Judging claims: a bound, the figures it covers, and the one that decides."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from codesign.evidence import Alternative, Bar, BreakEven, Figure
from codesign.metrics import METRICS
from codesign.proposal import Claim, Proposal
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
    margin: float | None = None
    """How far the deciding figure is on the right side of the bound (negative: the wrong side), in parts of the bound; of a
    bound of zero in the metric's unit."""
    bars: tuple[Bar, ...] = ()
    """What the deciding figure would be if one assumption were otherwise, the most telling first."""
    break_even: tuple[BreakEven, ...] = ()
    """Which values of the proposal's own parameters would keep the bound."""


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
    covered = _figures_of(proposal, claim, figures)
    if not covered:
        reason = _missing(proposal, claim)
        return Verdict(claim=claim, statement=text, judgement="undetermined", reason=reason)
    worst = max(covered, key=lambda f: excess_of(claim, f.value))
    broken = max(covered, key=lambda f: excess_of(claim, f.low, f.high, nearest=True))
    if excess_of(claim, broken.low, broken.high, nearest=True) > 0:
        judgement, decides, reason = "refuted", broken, "its whole interval breaks the bound"
    elif all(excess_of(claim, f.low, f.high, nearest=False) <= 0 for f in covered):
        judgement, decides, reason = (
            "supported",
            worst,
            "the worst covered keeps the bound, interval included",
        )
    else:
        decides = max(covered, key=lambda f: excess_of(claim, f.low, f.high, nearest=False))
        judgement, reason = "undetermined", "the interval straddles the bound"
    return Verdict(
        claim=claim,
        statement=text,
        judgement=judgement,
        reason=reason,
        deciding=decides,
        covered=len(covered),
        margin=_margin(claim, decides.value),
        bars=bars(claim, decides),
        break_even=_swept(proposal, claim, figures),
    )


def _missing(proposal: Proposal, claim: Claim) -> str:
    """Why no figure covers a claim."""
    family = claim.metric.split(".")[0]
    if family == "cost":
        return "no hardware record covers it; the extra `cost` synthesises what the generator can say"
    if family == "training":
        return "no training record covers it; `codesign train` makes one, `evaluate --train` a small one"
    if family == "cast":
        return "the proposal's `path` does not carry that operand" if proposal.path else "the proposal has no `path`"
    if family == "timing":
        return "no kernel of it is timed; Method says why"
    if family in ("traffic", "energy"):
        return "counted for layers of the large models with 8-bit operands, and on the network for mixtures of experts"
    return "no figure covers it"


def _margin(claim: Claim, value: float | None) -> float | None:
    excess = excess_of(claim, value)
    bounds = [b for b in (claim.at_most, claim.at_least) if b]
    return None if excess == float("inf") else float(f"{-excess / min(map(abs, bounds), default=1.0):.4g}")


def bars(claim: Claim, figure: Figure) -> tuple[Bar, ...]:
    """A bar per assumption of a figure: its other cases nearest to and farthest from the bound, and whether one of them
    turns the claim; those that turn it first, then the longest."""
    by_assumption: dict[str, list[Alternative]] = {}
    for other in figure.alternatives:
        by_assumption.setdefault(other.assumption, []).append(other)
    kept = excess_of(claim, figure.value) <= 0
    made = []
    for assumption, others in by_assumption.items():
        # A case that is not finite is worse than any number, whichever way the bound lies.
        ordered = sorted(others, key=lambda o: (o.value is None, o.value or 0.0))
        low, high = ordered[0], ordered[-1]
        flips = any((excess_of(claim, o.value) <= 0) != kept for o in others)
        made.append(
            Bar(
                assumption=assumption,
                low=low.value,
                low_case=low.other,
                high=high.value,
                high_case=high.other,
                flips=flips,
            )
        )

    def length(bar: Bar) -> float:
        ends = [float("inf") if v is None else v for v in (bar.low, bar.high, figure.value)]
        return max(ends) - min(ends)

    return tuple(sorted(made, key=lambda bar: (not bar.flips, -length(bar))))


def _swept(proposal: Proposal, claim: Claim, figures: Sequence[Figure]) -> tuple[BreakEven, ...]:
    """The values of the swept field that keep the claim, where its figures have them."""
    if proposal.sweep is None or claim.of != "proposal":
        return ()
    tried: dict[str, float | None] = {}
    holds = []
    for value in proposal.sweep.values:
        there = claim.model_copy(update={"at": value})
        covered = _figures_of(proposal, there, figures)
        if not covered:
            continue
        worst = max(covered, key=lambda f: excess_of(claim, f.value))
        tried[str(value)] = worst.value
        if all(excess_of(claim, f.low, f.high) <= 0 for f in covered):
            holds.append(value)
    if not tried:
        return ()
    own = _swept_value(proposal) if claim.at is None else claim.at
    # A cost claim breaks as the parameter grows, an accuracy claim as it shrinks: the needed value is the end that is
    # next to a value that breaks the claim.
    order = [v for v in proposal.sweep.values if str(v) in tried]
    limit = None
    if holds:
        limit = holds[0] if order[0] not in holds else holds[-1]
    return (BreakEven(parameter=proposal.sweep.field, own=own, limit=limit, tried=tried),)


def _swept_value(proposal: Proposal) -> int | float | str:
    """What the proposal itself has in the swept field."""
    node: object = proposal.proposed().model_dump(mode="json")
    assert proposal.sweep is not None
    for step in proposal.sweep.field.split("."):
        node = node[step] if isinstance(node, dict) else node
    return node if isinstance(node, int | float | str) else str(node)


def _figures_of(proposal: Proposal, claim: Claim, figures: Sequence[Figure]) -> list[Figure]:
    """The figures a claim covers, as ratios where it is relative."""
    covered = _covered(proposal, claim, figures)
    if claim.relative_to:
        covered = [ratio for f in covered if (ratio := ratio_to(claim, f, figures))]
    return covered


def _covered(proposal: Proposal, claim: Claim, figures: Sequence[Figure]) -> list[Figure]:
    if METRICS[claim.metric].of_layer:
        # Of a whole layer, unless the claim names a part of it.
        there = {claim.workload} if claim.workload else {f.workload for f in figures if "." not in f.workload}
        return [f for f in figures if (f.metric, f.variant) == (claim.metric, claim.of) and f.workload in there]
    gemms = {g.name for g in proposal.select(claim.workload)} if claim.workload else None
    return [
        f
        for f in figures
        if f.metric == claim.metric
        and f.variant == claim.of
        and f.at == (claim.at if claim.of == "proposal" else None)
        and (gemms is None or f.workload in gemms)
        and (claim.tensors is None or f.tensors == claim.tensors)
    ]


def ratio_to(claim: Claim, figure: Figure, figures: Sequence[Figure]) -> Figure | None:
    """The figure over that of the variant it is claimed relative to, on the same workload and tensors.

    Its interval is the ratio's own where the evidence has it; where both are counted under the same assumptions, it reaches
    over the ratios under each; else it is the widest that the two intervals allow. None where that variant has no such
    figure, as costs have of the proposal alone.
    """
    wanted = (figure.metric, figure.workload, figure.tensors, claim.relative_to, None)
    other = next((f for f in figures if (f.metric, f.workload, f.tensors, f.variant, f.at) == wanted), None)
    if other is None:
        return None

    def over(x: float | None, y: float | None) -> float | None:
        return None if x is None or not y else float(f"{x / y:.6g}")

    others = {(o.assumption, o.other): o.value for o in other.alternatives}
    alternatives = tuple(
        o.model_copy(update={"value": over(o.value, others.get((o.assumption, o.other), other.value))})
        for o in figure.alternatives
    )
    ends = [r for r in (over(figure.low, other.high), over(figure.high, other.low)) if r is not None]
    if claim.relative_to in figure.ratios:
        ends = [r for r in figure.ratios[claim.relative_to] if r is not None]
    elif figure.kind in ("modelled", "assumed") and alternatives:
        ends = [r for r in (over(figure.value, other.value), *(o.value for o in alternatives)) if r is not None]
    return figure.model_copy(
        update={
            "value": over(figure.value, other.value),
            "low": min(ends) if len(ends) > 1 else None,
            "high": max(ends) if len(ends) > 1 else None,
            "alternatives": alternatives,
            "source": f"{figure.source}; ratio to {claim.relative_to} ({other.value:g})"
            if other.value is not None
            else figure.source,
        }
    )


def excess_of(claim: Claim, *values: float | None, nearest: bool = False) -> float:
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
