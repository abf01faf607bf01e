"""Sensitivity of verdicts: the deciding figure in other cases, and the break-even of the proposal's parameters.

Some figures have their alternatives already (`Figure.alternatives`). Those of sampled figures must be computed with all
seeds, so the source is asked for them only for the figures that decided.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from codesign.evidence.source import Question, Search, source_of
from codesign.figures.figure import Alternative, Figure
from codesign.figures.metric import metric_named
from codesign.proposal.proposal import Claim, Proposal
from codesign.verdicts.break_even import each, fewest, rising
from codesign.verdicts.claims import bars, claimed, covered_by
from codesign.verdicts.questions import Ask, Enquiry, pursue
from codesign.verdicts.readings import Measured, excess
from codesign.verdicts.verdict import BreakEven, Verdict


def refine(proposal: Proposal, verdicts: Sequence[Verdict], figures: Sequence[Figure], ask: Ask) -> tuple[Verdict, ...]:
    """Return the verdicts with the bars and break-even values that sources compute.

    `figures` are those that the claims were judged on; `ask` computes others.
    """
    searches = [(i, v.claim, s) for i, v in enumerate(verdicts) for s in _searches(proposal, v, figures)]
    enquiries: list[Enquiry[Any]] = [_other_cases(proposal, v, figures) for v in verdicts]
    found = pursue(enquiries + [_search(claim, search) for _, claim, search in searches], ask)
    refined = []
    for i, (verdict, deciding) in enumerate(zip(verdicts, found, strict=False)):
        limits = tuple(f for (of, *_), f in zip(searches, found[len(verdicts) :], strict=True) if of == i)
        update: dict[str, Any] = {"break_even": verdict.break_even or limits}
        if deciding:
            update |= {"deciding": deciding, "bars": bars(verdict.claim, verdict.judgement, deciding)}
        refined.append(verdict.model_copy(update=update))
    return tuple(refined)


def _other_cases(proposal: Proposal, verdict: Verdict, figures: Sequence[Figure]) -> Enquiry[Figure | None]:
    """Return the deciding figure with its alternatives and their intervals; None if its source has no cases to compute.

    A case that the proposal was evaluated on is among `figures` already.
    """
    claim, figure = verdict.claim, verdict.deciding
    cases = source_of(claim.metric).cases(proposal, claim, figure) if figure else ()
    if figure is None or not cases:
        return None
    known = [_known(proposal, case.question, figures) for case in cases]
    answers = iter((yield [case.question for case, there in zip(cases, known, strict=True) if not there]))
    alternatives = []
    for case, there in zip(cases, known, strict=True):
        (computed,) = [there] if there else next(answers)
        if found := claimed(claim, computed):
            ends = {end: getattr(found.figure, end) for end in ("value", "low", "high")}
            alternatives.append(Alternative(assumption=case.assumption, other=case.other, **ends))
    return figure.model_copy(update={"alternatives": tuple(alternatives)})


def _known(proposal: Proposal, question: Question, figures: Sequence[Figure]) -> Sequence[Figure]:
    """Return the figures that answer a question if the proposal was evaluated on its data; none otherwise."""
    if question.proposal != proposal or (question.gemm, question.tensors) not in proposal.trials:
        return ()
    return [f for f in figures if (f.workload, f.tensors) == (question.gemm.name, question.tensors)]


def _searches(proposal: Proposal, verdict: Verdict, figures: Sequence[Figure]) -> list[Search]:
    """Return the searches for a claim's break-even, at the worst figure of each tensor source that it covers.

    There is none if a sweep gave the break-even already, if the claim is not about the proposal, or if it has bounds on both
    sides. A claim such as "the error is at least 2 %" is kept by worse values.
    """
    claim = verdict.claim
    if claim.of != "proposal" or verdict.break_even or _is_window(claim):
        return []
    worst: dict[str, Measured] = {}
    for m in covered_by(proposal, claim, figures):
        known = worst.get(m.figure.tensors)
        if known is None or excess(claim, m.reading.value) > excess(claim, known.reading.value):
            worst[m.figure.tensors] = m
    found = (source_of(claim.metric).search(proposal, claim, m.figure) for m in worst.values())
    return [
        s if rising(claim) else replace(s, values=s.values[::-1], rising=not s.rising) for s in found if s and s.values
    ]


def _is_window(claim: Claim) -> bool:
    """Return whether a claim has bounds on both sides; a signed metric's -x and x bound its magnitude from above."""
    if claim.at_least is None or claim.at_most is None:
        return False
    return not (metric_named(claim.metric).signed and claim.at_least < 0)


def _search(claim: Claim, search: Search) -> Enquiry[BreakEven]:
    trying = fewest(claim, search) if search.bisected else each(claim, search)
    known: dict[int, Sequence[Figure]] = {}
    if not search.bisected:
        answers = yield [search.question(value) for value in search.values]
        known = {value: figures for value, (figures,) in zip(search.values, answers, strict=True)}
    value = next(trying)
    while True:
        if value not in known:
            ((known[value],),) = yield [search.question(value)]
        found = claimed(claim, known[value])
        assert found
        try:
            value = trying.send(found)
        except StopIteration as end:
            result: BreakEven = end.value
            return result
