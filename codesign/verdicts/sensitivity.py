"""Sensitivity of verdicts on numerics: the figure under other tensors, lengths and casts, and the break-even.

Evidence of other kinds says itself what its figures would be under other assumptions (`Figure.alternatives`); that of
numerics and casts must be computed, with all seeds, so it is done for the figures that decided.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from codesign.evidence.numerics.curves import with_bits
from codesign.figures.figure import Alternative, BreakEven, Figure
from codesign.figures.metric import metric_named
from codesign.proposal.proposal import Claim, Proposal
from codesign.proposal.quantisation import Quantisation
from codesign.proposal.variants import Compared
from codesign.verdicts.break_even import GROUPS, LOG_BITS, Search, each, fewest, with_groups
from codesign.verdicts.claims import Measured, Verdict, asked, bars, claimed, covered_by
from codesign.verdicts.questions import Ask, Enquiry, Question, pursue
from codesign.verdicts.readings import excess
from codesign.workloads.gemms import Gemm
from codesign.workloads.tensors import CAPTURED, SOURCES
from isa_model.instruction import Instruction

LENGTHS = (0.25, 4.0)
"""Other lengths of K, in parts of the true one."""
BY_ACCUMULATION = ("relative_frobenius", "p95_error", "bias", "share_over_1_bf16_ulp", "output_error", "changed_share")
"""Metrics on which fraction bits act; on the others it is the groups."""

Trials = dict[tuple[str, str], Gemm]


def refine(proposal: Proposal, verdicts: Sequence[Verdict], figures: Sequence[Figure], ask: Ask) -> tuple[Verdict, ...]:
    """Return the verdicts with bars and break-even values for those that a figure of numerics or casts decided.

    `figures` are all that the claims were judged on; `ask` computes others.
    """
    trials = {(g.name, t): g for g, t in proposal.trials}
    places = [(i, p) for i, v in enumerate(verdicts) for p in _worst_places(proposal, v, figures, trials)]
    hanging: list[Enquiry[Any]] = [_bars(proposal, v, trials) for v in verdicts]
    found = pursue(hanging + [_search(proposal, verdicts[i].claim, p) for i, p in places], ask)
    refined = []
    for i, (verdict, deciding) in enumerate(zip(verdicts, found, strict=False)):
        limits = tuple(f for (of, _), f in zip(places, found[len(verdicts) :], strict=True) if of == i and f)
        update = {"break_even": verdict.break_even or limits}
        if deciding:
            update |= {"deciding": deciding, "bars": bars(verdict.claim, deciding)}
        refined.append(verdict.model_copy(update=update))
    return tuple(refined)


@dataclass(frozen=True)
class Place:
    """GEMM and tensor source of a figure."""

    gemm: Gemm
    tensors: str


# -- one assumption changed ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """A trial with one assumption changed."""

    assumption: str
    other: str
    gemm: Gemm
    tensors: str
    quantisation: Quantisation


def _bars(proposal: Proposal, verdict: Verdict, trials: Trials) -> Enquiry[Figure | None]:
    """Return the deciding figure with its alternatives and their intervals; None for evidence other than numerics and casts."""
    claim, figure = verdict.claim, verdict.deciding
    gemm = trials.get((figure.workload, figure.tensors)) if figure else None
    if figure is None or gemm is None or not metric_named(claim.metric).by_tensors:
        return None
    cases = list(_cases(claim, gemm, figure.tensors, proposal.rule))
    changed = [proposal if c.quantisation == proposal.rule else proposal.quantised(c.quantisation) for c in cases]
    answers = yield [
        Question(there, case.gemm, case.tensors, asked(there, claim), claim.relative_to)
        for case, there in zip(cases, changed, strict=True)
    ]
    alternatives = []
    for case, (figures,) in zip(cases, answers, strict=True):
        if found := claimed(claim, figures):
            about = {"assumption": case.assumption, "other": case.other}
            ends = {end: getattr(found.figure, end) for end in ("value", "low", "high")}
            alternatives.append(Alternative(**about, **ends))
    return figure.model_copy(update={"alternatives": tuple(alternatives)})


def _cases(claim: Claim, gemm: Gemm, tensors: str, rule: Quantisation) -> Iterator[Case]:
    family, metric = claim.metric.split(".")
    for source in SOURCES:
        if source == tensors or (source == CAPTURED and gemm.recorded is None):
            continue
        # How large outliers are is an assumption of its own.
        outliers = tensors.startswith("outliers") and source.startswith("outliers")
        if outliers or not source.startswith("outliers-"):
            yield Case("size of outliers" if outliers else "tensor source", source, gemm, source, rule)
    if family == "cast":
        return
    if tensors != CAPTURED:
        for factor in LENGTHS:
            k = int(gemm.k * factor)
            yield Case("length of the sums", f"K = {k}", replace(gemm, k=k), tensors, rule)
    if metric in BY_ACCUMULATION:
        return
    floors = {1e-30: "1e-30", 1e-4: "1e-4 (DeepSeek-V3's inference code)"}
    for floor, words in floors.items():
        if floor != rule.floor:
            yield Case("least max-abs of a group", words, gemm, tensors, rule.model_copy(update={"floor": floor}))
    if gemm.b == "weight":
        columns = 1 if (rule.weight_columns or 1) > 1 else 128
        changed = rule.model_copy(update={"weight_columns": columns})
        yield Case("outputs that share a weight's scale", str(columns), gemm, tensors, changed)


# -- break-even ------------------------------------------------------------------------------------------------------


def _worst_places(proposal: Proposal, verdict: Verdict, figures: Sequence[Figure], trials: Trials) -> list[Place]:
    """Return the GEMM with the worst figure for each tensor source that the claim covers: where break-evens are searched.

    Empty where a sweep gave the break-even already, or where the claim is not about the proposal.
    """
    claim = verdict.claim
    if claim.of != "proposal" or verdict.break_even or not metric_named(claim.metric).by_tensors:
        return []
    worst: dict[str, Measured] = {}
    for m in covered_by(proposal, claim, figures):
        known = worst.get(m.figure.tensors)
        if known is None or excess(claim, m.reading.value) > excess(claim, known.reading.value):
            worst[m.figure.tensors] = m
    places = [(m.figure.workload, tensors) for tensors, m in worst.items()]
    return [Place(trials[place], place[1]) for place in places if place in trials]


def _search(proposal: Proposal, claim: Claim, place: Place) -> Enquiry[BreakEven | None]:
    """Search the fewest fraction bits or bits of LogFMT, or the coarsest scale groups, that keep the claim at a place."""
    if claim.metric.startswith("cast."):
        rule = _of_path
    elif proposal.multiplies_as_today:
        return None  # the path alone changes: there is no parameter of the instruction to try
    else:
        rule = _of_bits if claim.metric.split(".")[1] in BY_ACCUMULATION else _of_groups
    made = rule(proposal, claim, place)
    if made is None:
        return None
    search, changed = made
    value = next(search)
    while True:
        ((figures,),) = yield [changed(value)]
        found = claimed(claim, figures)
        assert found
        try:
            value = search.send(found)
        except StopIteration as end:
            return cast(BreakEven, end.value)


Trying = tuple[Search, Callable[[int], Question]]
"""A search, and the question to ask for each value it tries."""


def _of_bits(proposal: Proposal, claim: Claim, place: Place) -> Trying | None:
    instruction = proposal.proposed()
    aligned = next((name for name, stage in instruction.stages.items() if stage.aligned), None)
    if aligned is None:
        return None
    own = instruction.stages[aligned].fraction_bits
    assert own is not None
    search = fewest(f"stages.{aligned}.fraction_bits", own, claim, _words(place))
    return search, lambda bits: multiplied(proposal, claim, place, with_bits(instruction, aligned, bits))


def _of_groups(proposal: Proposal, claim: Claim, place: Place) -> Trying | None:
    instruction = proposal.proposed()
    scale = instruction.scale
    if scale is None or scale.a is None or scale.b is None:
        return None
    known = {n: made for n in GROUPS if (made := with_groups(instruction, n))}
    search = each("scale groups along K", scale.a.group[1], claim, _words(place), list(known), up=False)
    return search, lambda length: multiplied(proposal, claim, place, known[length])


def _of_path(proposal: Proposal, claim: Claim, place: Place) -> Trying | None:
    assert proposal.path
    path, last = proposal.path, proposal.path.steps[-1]

    def changed(**update: object) -> Question:
        steps = (*path.steps[:-1], last.model_copy(update=update))
        other = proposal.model_copy(update={"path": path.model_copy(update={"steps": steps})})
        return Question(other, place.gemm, place.tensors, (), claim.relative_to)

    where = _words(place)
    if last.logfmt is not None:
        return each("bits of LogFMT", last.logfmt, claim, where, LOG_BITS, up=True), lambda n: changed(logfmt=n)
    if last.group and 1 in last.group:
        along = last.group[0] == 1
        search = each("elements that share a scale", max(last.group), claim, where, GROUPS, up=False)
        return search, lambda n: changed(group=(1, n) if along else (n, 1))
    return None


def _words(place: Place) -> str:
    return f"{place.tensors} data, K = {place.gemm.k}"


def multiplied(proposal: Proposal, claim: Claim, place: Place, instruction: Instruction) -> Question:
    """Return the question of a claim's figure at a place, with another instruction in the proposal's."""
    compared: tuple[Compared, ...] = tuple(
        c._replace(instruction=instruction) if c.variant in ("proposal", "exact") else c for c in asked(proposal, claim)
    )
    return Question(proposal, place.gemm, place.tensors, compared, claim.relative_to)
