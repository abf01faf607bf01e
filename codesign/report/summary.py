"""A report's first screen: what the proposal buys and costs, how sure that is, and what would change a verdict.

All of it is read from figures and verdicts. A metric takes part by its `topic`, whatever kind of evidence it belongs to.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from math import inf

from codesign.figures.figure import Figure
from codesign.figures.metric import Metric, Topic, kind_of, metric_named, metrics
from codesign.figures.words import listed, percent, worst
from codesign.proposal.proposal import Proposal
from codesign.report.shortfall import shortfall
from codesign.report.tables import interval, number, of_summary
from codesign.verdicts.compare import against_software
from codesign.verdicts.evaluate import Result
from codesign.verdicts.readings import Reading, excess, read
from codesign.verdicts.verdict import BreakEven, Verdict

QUESTIONS: dict[Topic, str] = {
    "error": "Error of D",
    "time": "Time",
    "bytes": "Bytes",
    "energy": "Energy",
    "area": "Area",
    "latency": "Latency",
}
"""Questions of the first screen, in order."""
UNCHANGED_UNIT = "the proposal leaves the dot-product unit as it is; other hardware has no cost model"
"""Reason why a proposal that changes operand paths alone has no cost."""
SAME = 0.005
"""Relative difference below which two figures are said to be the same."""


@dataclass(frozen=True)
class Line:
    """A question of the first screen, with its answers."""

    question: str
    answers: tuple[str, ...]
    kinds: tuple[str, ...] = ()
    """Kinds of the figures in the answers."""


@dataclass(frozen=True)
class Compared:
    """A metric's figure of the proposal beside today's, at the place where the proposal's is worst."""

    metric: Metric
    own: Figure
    software: Figure | None
    peak: Figure | None
    """Worst figure of today's software, wherever it is."""
    today: Figure | None
    ratio: Reading | None
    """Ratio to today's software; None: it has no figure, or a ratio says nothing."""


# -- in words --------------------------------------------------------------------------------------------------------


def judged_on(proposal: Proposal) -> str:
    """Return what the proposal is compared with, and on which GEMMs and tensors."""
    changes = proposal.practice_changes
    changed = f", changed: {listed(changes)}" if changes else ""
    where = f"{listed(proposal.workloads)}; tensors: {listed(proposal.tensors)}"
    return f"Today's software: {proposal.practice.title}{changed}. Judged on {where}."


def lines(result: Result) -> list[Line]:
    """Return the questions with an answer, in order."""
    found = compared(result)
    said = []
    for topic, question in QUESTIONS.items():
        own = [c for c in found if c.metric.topic == topic]
        if own:
            said.append(Line(question, tuple(_answers(own)), tuple(dict.fromkeys(c.own.kind for c in own))))
    if absent := tuple(_absent(result, {c.metric.topic for c in found})):
        said.append(Line("No figure", absent))
    said.append(Line("How sure", tuple(_certainty(result))))
    if changes := tuple(_would_change(result)):
        said.append(Line("What would change it", changes))
    return said


def _absent(result: Result, found: Collection[Topic]) -> Iterator[str]:
    """Yield the questions without an answer, with the reason; those with the same reason come together."""
    reasons: dict[str, list[str]] = {}
    for topic, question in QUESTIONS.items():
        if topic not in found:
            metric = next(m for m in metrics().values() if m.topic == topic)
            unit = result.proposal.multiplies_as_today and kind_of(metric.name) == "cost"
            reason = UNCHANGED_UNIT if unit else metric.absent
            reasons.setdefault(reason, []).append(question.lower())
    yield from (f"{listed(questions)}: {reason}" for reason, questions in reasons.items())


def compared(result: Result) -> list[Compared]:
    """Return each metric of the first screen for which the proposal has a figure, beside today's, in the order of topics."""
    found = []
    by_metric: dict[str, list[Figure]] = {}
    for figure in result.figures:
        by_metric.setdefault(figure.metric, []).append(figure)
    for metric in metrics().values():
        figures = by_metric.get(metric.name, [])
        own = worst(f for f in _summed(metric, figures) if f.variant == "proposal")
        if not metric.topic or own is None:
            continue
        at = (own.workload, own.tensors)
        others = {f.variant: f for f in figures if (f.at, f.workload, f.tensors) == (None, *at)}
        ratio = None
        if metric.comparison == "none" and metric.unit == "1":
            ratio = read(own)  # the metric compares with today already
        elif metric.comparison == "ratio" and "software" in others:
            ratio = against_software(own, figures)
        peak = worst(f for f in _summed(metric, figures) if f.variant == "software")
        found.append(Compared(metric, own, others.get("software"), peak, others.get("today"), ratio))
    order = list(QUESTIONS)
    return sorted(found, key=lambda c: (order.index(c.metric.topic), not (c.metric.axis and c.metric.axis.judged)))


def _summed(metric: Metric, figures: Sequence[Figure]) -> Iterator[Figure]:
    """Yield the figures that a summary takes the worst of: of whole layers, or of the passes that the metric names."""
    for f in figures:
        if (f.metric, f.at) != (metric.name, None) or (metric.of_layer and "." in f.workload):
            continue
        if of_summary(f):
            yield f


def _answers(found: Sequence[Compared]) -> Iterator[str]:
    """Yield each figure beside today's in words; unchanged ones come together, first if the first is one of them."""
    same, others = [], []
    for each in found:
        short = each.metric.short
        if each.metric.comparison != "none" and each.software and _as_today(each):
            same.append(f"{short} {number(each.own.value, each.metric.unit)}")
        else:
            others.append(f"{short} {_amount(each.own)}{_change(each)}")
    together = [f"unchanged: {listed(same)}"] if same else []
    first = found[0]
    yield from (*together, *others) if same and same[0].startswith(first.metric.short) else (*others, *together)


def _amount(figure: Figure) -> str:
    """Return a figure with its interval and unit."""
    metric = metric_named(figure.metric)
    times = "×" if metric.comparison == "none" and metric.unit == "1" else ""
    text = interval(figure)
    unit = "cycle" if (text, metric.unit) == ("1", "cycles") else metric.unit
    return f"{times}{text}" + ("" if unit in ("1", "B", "J", "dB") else f" {unit}")


def _place(figure: Figure) -> str:
    """Return the GEMM or layer of a figure, and its tensors, in words."""
    where = ", ".join(filter(None, (figure.workload, figure.tensors)))
    return f" on {where}" if where else ""


def _as_today(found: Compared) -> bool:
    same = found.software is not None and found.own.value == found.software.value
    return same or (found.ratio is not None and abs(found.ratio.value - 1) < SAME)


def _change(found: Compared) -> str:
    """Return what today's software has at the same place, the place, and by how much the figure differs, in words."""
    if found.metric.comparison == "none" or found.software is None:
        return _place(found.own)
    said = f" instead of {_amount(found.software)}{_place(found.own)}"
    if found.ratio is not None and 0 < found.ratio.value < inf:
        times = found.ratio.value
        if 0.5 < times < 2:
            said += f": {percent(abs(times - 1))} {'less' if times < 1 else 'more'}"
        else:
            factor = number(1 / times if times < 1 else times)
            said += f": {factor} times {'smaller' if times < 1 else 'larger'}"
    if found.peak and found.peak.value != found.software.value:
        said += f" (today's software at its worst: {_amount(found.peak)}{_place(found.peak)})"
    return said


def _certainty(result: Result) -> Iterator[str]:
    """Yield what the verdicts rest on."""
    deciding = [v.deciding for v in result.verdicts if v.deciding]
    kinds = [f.kind for f in deciding]
    said = [f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds)]
    if said:
        figures = "figure" if len(kinds) == 1 else "figures"
        yield f"the verdicts rest on {listed(said)} {figures}; brackets are 95 % intervals, or ranges over other assumptions"
    again = sum(v.again for v in result.verdicts)
    if again:
        figures = "1 doubtful figure was" if again == 1 else f"{again} doubtful figures were"
        yield f"{figures} measured again on fresh seeds"
    still = [str(i) for i, v in enumerate(result.verdicts, 1) if v.judgement == "undetermined"]
    if still:
        yield f"undetermined: claim{'s' if len(still) > 1 else ''} {listed(still)}"


def _would_change(result: Result) -> Iterator[str]:
    """Yield the assumptions that turn a verdict, or that an open one hangs on, and what would keep a claim."""
    for i, verdict in enumerate(result.verdicts, 1):
        claim = f"claim {i} ({verdict.judgement})"
        if turning := [f"{bar.assumption}: {listed(bar.reversed_by)}" for bar in verdict.bars if bar.reversed_by]:
            yield f"{claim} would be reversed by {'; '.join(turning)}"
        if verdict.judgement == "supported":
            continue
        for would, cases in across(verdict).items():
            yield f"{claim} would {would} with {'; '.join(cases)}"
        for parameter, (need, own, conditions) in reach(verdict.break_even).items():
            yield f"{claim} would hold with {parameter} {need} instead of {own}{conditions}"
        if needed := shortfall(result, verdict):
            yield f"{claim} {needed}"


def across(verdict: Verdict) -> dict[str, list[str]]:
    """Return the cases in which an undetermined claim's value lies on the other side of its bound: those to hold, and to fail.

    Tensors are no assumption that somebody could settle, so that sampled figures have none.
    """
    claim, figure = verdict.claim, verdict.deciding
    if verdict.judgement != "undetermined" or figure is None or metric_named(claim.metric).sampled:
        return {}

    def meets(value: float | None) -> bool:
        return value is not None and excess(claim, value) <= 0

    own = meets(figure.value)
    cases = [case for bar in verdict.bars for case, value in bar.extremes if meets(value) != own]
    return {"fail" if own else "hold": list(dict.fromkeys(cases))} if cases else {}


def by_parameter(found: Sequence[BreakEven]) -> dict[str, list[BreakEven]]:
    """Return the break-even values of each parameter."""
    parameters: dict[str, list[BreakEven]] = {}
    for one in found:
        parameters.setdefault(one.parameter, []).append(one)
    return parameters


def needed(found: Sequence[BreakEven]) -> int | float | None:
    """Return the value of one parameter that meets the bound under every condition; None if there is none."""
    limits = [one.limit for one in found if isinstance(one.limit, int | float)]
    if len(limits) < len(found):
        return None
    return max(limits) if found[0].rising else min(limits)


def conditions(found: Sequence[BreakEven]) -> str:
    """Return the data that break-even values hold for, in words; the lengths of one source come together."""
    lengths: dict[str, dict[str, None]] = {}
    for one in found:
        data, _, length = one.condition.partition(" at K = ")
        if data:
            lengths.setdefault(data, {}).update({length: None} if length else {})
    said = [data + (f" at K = {listed(list(ks))}" if ks else "") for data, ks in lengths.items()]
    return f" on {listed(said)}" if said else ""


def reach(found: Sequence[BreakEven]) -> dict[str, tuple[int | float, int | float, str]]:
    """Return by parameter the better value that would meet the bound, the proposal's own, and the conditions."""
    within = {}
    for parameter, own in by_parameter(found).items():
        need, value = needed(own), own[0].own
        if need is not None and not isinstance(value, str) and (need > value if own[0].rising else need < value):
            within[parameter] = (need, value, conditions(own))
    return within
