"""Judgement of claims: a bound, the figures it covers, and the figure that decides.

A claim is supported if every figure it covers meets the bound with its whole interval. Since all must, no correction for
their number is needed. Among many figures some miss a bound by chance. Sampled figures that do not meet the bound are
therefore measured again on fresh seeds, and the claim is refuted if one of these R figures violates the bound with an interval
of level 1 - 5 %/R. A true claim is refuted, and a false one supported, at most one time in twenty.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from sys import float_info

from codesign.evidence.source import Answer, Question, source_of
from codesign.figures.figure import Alternative, Figure
from codesign.figures.metric import metric_named
from codesign.proposal.parts import Sweep
from codesign.proposal.proposal import Claim, Proposal
from codesign.verdicts.break_even import swept
from codesign.verdicts.questions import Ask, Enquiry, pursue
from codesign.verdicts.readings import (
    Measured,
    Reading,
    breaks,
    decided,
    excess,
    farthest,
    keeps,
    nearest,
    read,
    read_case,
    relative,
)
from codesign.verdicts.verdict import Bar, Judgement, Verdict
from codesign.workloads.tensors import CAPTURED

ERROR = 0.05
"""Highest probability of a wrong verdict on a claim."""
AGAIN = 8
"""Most figures of a claim that are measured again, the worst first."""


def judge(proposal: Proposal, figures: Sequence[Figure], ask: Ask | None = None) -> tuple[Verdict, ...]:
    """Return a verdict per claim, in the proposal's order.

    `ask` measures figures again. Without it the given figures decide: a claim is refuted if the whole interval of one breaks
    the bound.
    """
    return tuple(pursue([_judged(proposal, claim, figures) for claim in proposal.claims], ask))


def statement(claim: Claim, sweep: Sweep | None = None) -> str:
    """Return the claim in words; `sweep`, that of the proposal, names the field whose value it is `at`."""
    metric = metric_named(claim.metric)
    ratio = claim.relative_to is not None and metric.comparison == "ratio"
    unit = f" {metric.unit}" if metric.unit != "1" and not ratio else ""
    bounds = [
        f"{words} {bound:g}{unit}"
        for words, bound in (("at least", claim.at_least), ("at most", claim.at_most))
        if bound is not None and not (metric.signed and bound < 0)
    ]
    subject = ("magnitude of " if metric.signed else "") + claim.metric
    subject += "" if claim.of == "proposal" else f" of {claim.of}"
    if claim.relative_to:
        subject += f", {'relative to' if ratio else 'less that of'} {claim.relative_to},"
    where = [
        f"on {claim.workload}" if claim.workload else "",
        f"with {claim.tensors} tensors" if claim.tensors else "",
        f"at {_swept_field(sweep)}{claim.at}" if claim.at is not None else "",
    ]
    return " ".join([subject, " and ".join(bounds), *filter(None, where)])


def _swept_field(sweep: Sweep | None) -> str:
    """Return the name of the one field that takes values; empty for named changes and for two sweeps."""
    return f"{sweep.field.rsplit('.', 1)[-1]} " if sweep and sweep.field and sweep.across is None else ""


# -- the figures it covers -------------------------------------------------------------------------------------------


def covered_by(proposal: Proposal, claim: Claim, figures: Sequence[Figure]) -> list[Measured]:
    """Return the figures that a claim covers; for a relative claim, compared with those of the other variant."""
    bases = [f for f in figures if (f.metric, f.variant) == (claim.metric, claim.relative_to)]
    found = (_measured(claim, f, bases) for f in _covered(proposal, claim, figures))
    return [m for m in found if m]


def _measured(claim: Claim, figure: Figure, bases: Sequence[Figure]) -> Measured | None:
    found = relative(claim.relative_to, figure, bases) if claim.relative_to else (figure, read(figure))
    return Measured(*found, certain=figure.value is None) if found else None


def _covered(proposal: Proposal, claim: Claim, figures: Sequence[Figure]) -> Iterator[Figure]:
    metric = metric_named(claim.metric)
    gemms = None
    if metric.of_layer:
        # A figure of the whole layer, unless the claim names a part of it.
        gemms = {claim.workload} if claim.workload else {f.workload for f in figures if "." not in f.workload}
    elif claim.workload:
        gemms = {g.name for g in proposal.select(claim.workload)}
    for f in figures:
        there = (gemms is None or f.workload in gemms) and claim.tensors in (None, f.tensors)
        if there and (f.metric, f.variant, f.at) == (claim.metric, claim.of, claim.at):
            yield f


# -- the verdict -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tested:
    """A figure that did not meet the bound at first, with the reading that may refute the claim."""

    measured: Measured
    """Figure, from fresh seeds if it was measured again."""
    wide: Reading | None
    """Reading whose interval may refute the claim; None for a figure that looked bad and was not measured again."""
    again: bool = False


def _judged(proposal: Proposal, claim: Claim, figures: Sequence[Figure]) -> Enquiry[Verdict]:
    text = statement(claim, proposal.sweep)
    covered = covered_by(proposal, claim, figures)
    if not covered:
        return Verdict(claim=claim, statement=text, judgement="undetermined", reason=metric_named(claim.metric).absent)
    kept = [m for m in covered if keeps(claim, m.reading)]
    doubtful = [m for m in covered if not keeps(claim, m.reading)]
    chosen, rest = _again(proposal, claim, doubtful)
    tested = [Tested(m, m.reading) for m in (*(m for m, _ in chosen), *rest)]
    if chosen:
        tests = sum(_varies(m) for m, _ in chosen) + sum(not _varies(m) for m in covered)
        levels = (1 - ERROR, 1 - ERROR / tests)
        answers = yield [replace(question, fresh=_varies(m), levels=levels) for m, question in chosen]
        if answers:
            tested = [_remeasured(claim, m, found) for (m, _), found in zip(chosen, answers, strict=True)]
            tested += [Tested(m, m.reading if _settled(m) else None) for m in rest]
    judgement, decides, reason = decide(claim, kept, tested)
    again = sum(t.again for t in tested)
    if again:
        reason += f"; {again} of {len(covered)} figures measured again on fresh seeds"
    if decides.figure.caveat:
        reason += f"; {decides.figure.caveat}"
    return Verdict(
        claim=claim,
        statement=text,
        judgement=judgement,
        reason=reason,
        deciding=decides.figure,
        covered=len(covered),
        again=again,
        margin=_margin(claim, decides.reading.value),
        bars=bars(claim, judgement, decides.figure),
        break_even=swept(proposal, claim, lambda there: covered_by(proposal, there, figures)),
    )


def _again(
    proposal: Proposal, claim: Claim, doubtful: Sequence[Measured]
) -> tuple[list[tuple[Measured, Question]], list[Measured]]:
    """Return the figures to measure again with their questions, the worst first, and the rest."""
    chosen: list[tuple[Measured, Question]] = []
    rest: list[Measured] = []
    for m in sorted(doubtful, key=lambda m: -excess(claim, m.reading.value)):
        can = len(chosen) < AGAIN and not _settled(m)
        question = source_of(claim.metric).again(proposal, claim, m.figure) if can else None
        if question:
            chosen.append((m, question))
        else:
            rest.append(m)
    return chosen, rest


def _settled(measured: Measured) -> bool:
    """Return whether another sample of the same size adds nothing: an output is infinite, or there is no interval."""
    return measured.certain or not decided(measured.reading)


def _varies(measured: Measured) -> bool:
    """Return whether the data depend on seeds; a captured tensor does not, and is tested as it is."""
    return measured.figure.tensors != CAPTURED


def claimed(claim: Claim, figures: Sequence[Figure]) -> Measured | None:
    """Return the figure that a claim is about among those of one GEMM and tensor source."""
    own = next((f for f in figures if (f.metric, f.variant, f.at) == (claim.metric, claim.of, claim.at)), None)
    return _measured(claim, own, figures) if own else None


def _remeasured(claim: Claim, before: Measured, answer: Answer) -> Tested:
    now, wide = (claimed(claim, figures) for figures in answer)
    assert now
    assert wide
    return Tested(now, wide.reading, _varies(before))


def decide(claim: Claim, kept: Sequence[Measured], tested: Sequence[Tested]) -> tuple[Judgement, Measured, str]:
    """Return the judgement of a claim, the figure that decided, and the reason.

    `kept` are the figures that kept the bound at first, `tested` the others.
    """
    broken = [(nearest(claim, t.wide), t.measured) for t in tested if t.wide and breaks(claim, t.wide)]
    if broken:
        _, decides = max(broken, key=lambda found: found[0])
        return "refuted", decides, _broken(claim, decides, [t.measured for t in tested])
    now = [*kept, *(t.measured for t in tested)]
    doubtful = [m for m in now if not keeps(claim, m.reading)]
    if not doubtful:
        worst = max(now, key=lambda m: excess(claim, m.reading.value))
        return "supported", worst, "the worst figure meets the bound with its whole interval"
    reason, those = _open(doubtful)
    decides = max(those, key=lambda m: farthest(claim, m.reading))
    if breaks(claim, decides.reading):
        reason = "its whole interval violates the bound, which one of so many figures may do by chance"
    return "undetermined", decides, reason


def _broken(claim: Claim, decides: Measured, tested: Sequence[Measured]) -> str:
    """Return the reason for a refutation, with any figure that looks worse than the deciding one but is not certain."""
    worst = max(tested, key=lambda m: excess(claim, m.reading.value))
    reason = "outputs are not finite" if decides.certain else "its whole interval violates the bound"
    if excess(claim, worst.reading.value) > excess(claim, decides.reading.value):
        where = f"{worst.figure.workload}, {worst.figure.tensors}"
        reason += f" ({where} looks worse, but is not certain)"
    return reason


def _open(doubtful: Sequence[Measured]) -> tuple[str, Sequence[Measured]]:
    """Return the reason for an undetermined verdict, and the figures that it applies to."""
    incomparable = [m for m in doubtful if m.reading.value != m.reading.value]
    if incomparable:
        return "neither figure is finite: they cannot be compared", incomparable
    unsampled = [m for m in doubtful if not decided(m.reading)]
    if unsampled:
        tiles = [m for m in unsampled if m.figure.tensors == CAPTURED]
        if len(tiles) == len(unsampled):
            return "no interval, as a few neighbouring rows of the tile hold most of the variance", tiles
        return "too few rows, columns or seeds for an interval", unsampled
    return "the bound lies inside the interval", doubtful


def _margin(claim: Claim, value: float) -> float | None:
    """Return the distance to the bound that is broken most, or kept least, in parts of it; None if it is not finite.

    A bound of zero is measured in parts of the other bound, or, if there is none, in the metric's unit.
    """
    sides = [(1.0, claim.at_most), (-1.0, claim.at_least)]
    bounds = [(sign * (value - bound), abs(bound)) for sign, bound in sides if bound is not None]
    over, size = max(bounds)
    return float(f"{-over / (size or max(s for _, s in bounds) or 1.0):.4g}") if isfinite(over) else None


# -- the figure in other cases ------------------------------------------------------------------------------


def bars(claim: Claim, judgement: Judgement, figure: Figure) -> tuple[Bar, ...]:
    """Return a bar for each assumption of the deciding figure, with the cases that reverse the verdict.

    A case reverses the verdict if its whole interval violates the bound of a supported claim, or keeps that of a refuted one.
    Assumptions with such a case come first, then the longest bars.
    """
    opposite = {"supported": breaks, "refuted": keeps}.get(judgement)
    by_assumption: dict[str, list[Alternative]] = {}
    for other in figure.alternatives:
        by_assumption.setdefault(other.assumption, []).append(other)
    made = []
    for assumption, others in by_assumption.items():
        # A case that is not finite is worse than any number.
        ordered = sorted(others, key=lambda o: read_case(o, figure).value)
        low, high = ordered[0], ordered[-1]
        made.append(
            Bar(
                assumption=assumption,
                low=low.value,
                low_case=low.other,
                high=high.value,
                high_case=high.other,
                reversed_by=tuple(o.other for o in others if opposite and opposite(claim, read_case(o, figure))),
            )
        )

    def length(bar: Bar) -> float:
        ends = [float_info.max if v is None else v for v in (bar.low, bar.high, figure.value)]
        return max(ends) - min(ends)

    return tuple(sorted(made, key=lambda bar: (not bar.reversed_by, -length(bar))))
