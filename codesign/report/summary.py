"""A report's first screen: what the proposal buys and costs, how sure that is, and what would change a verdict.

All of it is read from figures and verdicts. A metric takes part by its `topic`, whatever kind of evidence it belongs to.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import inf, isfinite

from codesign.figures.figure import Figure
from codesign.figures.metric import Metric, Topic, metric_named, metrics
from codesign.figures.strips import Mark, Strip, StripPlot
from codesign.figures.words import listed, worst
from codesign.report.tables import interval, number, of_summary
from codesign.verdicts.compare import against_software
from codesign.verdicts.evaluate import Result
from codesign.verdicts.readings import Reading, read
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
GROUPS = ("Better than today's software", "Worse than today's software", "As with today's software")
NAMES = {"proposal": "proposal", "software": "today's software", "today": "today's instruction alone"}
SAME = 0.005
"""Relative difference below which two figures are said to be the same."""
FARTHEST = 4.0
"""Largest ratio that the picture of gains and costs draws; larger ones are arrows."""
ROOM = 16.0
"""Largest distance from a bound, as a ratio, that the picture of claims draws."""


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
    today: Figure | None
    ratio: Reading | None
    """Ratio to today's software; None: it has no figure, or a ratio says nothing."""


# -- in words --------------------------------------------------------------------------------------------------------


def lines(result: Result) -> list[Line]:
    """Return the questions with an answer, in order."""
    found = compared(result)
    said = []
    for topic, question in QUESTIONS.items():
        own = [c for c in found if c.metric.topic == topic]
        if own:
            said.append(Line(question, tuple(_answers(own)), tuple(dict.fromkeys(c.own.kind for c in own))))
    said.append(Line("How sure", tuple(_certainty(result))))
    if changes := tuple(_would_change(result.verdicts)):
        said.append(Line("What would change it", changes))
    return said


def compared(result: Result) -> list[Compared]:
    """Return each metric of the first screen for which the proposal has a figure, beside today's, in the order of topics."""
    found = []
    for metric in metrics().values():
        own = worst(f for f in _summed(metric, result.figures) if f.variant == "proposal")
        if not metric.topic or own is None:
            continue
        at = (own.workload, own.tensors)
        others = {
            f.variant: f for f in result.figures if (f.metric, f.at, f.workload, f.tensors) == (metric.name, None, *at)
        }
        ratio = None
        if metric.comparison == "none" and metric.unit == "1":
            ratio = read(own)  # the metric compares with today already
        elif metric.comparison == "ratio" and "software" in others:
            ratio = against_software(own, result.figures)
        found.append(Compared(metric, own, others.get("software"), others.get("today"), ratio))
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
    """Yield each figure beside today's in words; those that are as today come together, first if the first is one of them."""
    same, others = [], []
    for each in found:
        text = f"{each.metric.short} {_amount(each.own)}"
        if each.metric.comparison != "none" and each.software and _as_today(each):
            same.append(text)
        else:
            others.append(text + _change(each))
    together = [f"as with today's software: {listed(same)}"] if same else []
    first = found[0]
    yield from (*together, *others) if same and same[0].startswith(first.metric.short) else (*others, *together)


def _amount(figure: Figure) -> str:
    """Return a figure with its unit, and with its interval if it has any width."""
    metric = metric_named(figure.metric)
    times = "×" if metric.comparison == "none" and metric.unit == "1" else ""
    unit = "" if metric.unit in ("1", "B", "J", "dB") else f" {metric.unit}"
    exact = figure.value is not None and figure.low == figure.value == figure.high
    return f"{times}{number(figure.value, metric.unit) if exact else interval(figure)}{unit}"


def _as_today(found: Compared) -> bool:
    same = found.software is not None and found.own.value == found.software.value
    return same or (found.ratio is not None and abs(found.ratio.value - 1) < SAME)


def _change(found: Compared) -> str:
    """Return how a figure differs from today's software, in words."""
    if found.metric.comparison == "none" or found.software is None:
        return ""
    before = f"today's software has {_amount(found.software)}"
    if found.ratio is None or not 0 < found.ratio.value < inf:
        return f"; {before}"
    times = found.ratio.value
    if 0.5 < times < 2:
        return f", {abs(times - 1):.0%} {'less' if times < 1 else 'more'}; {before}"
    return f", {number(1 / times if times < 1 else times)} times {'smaller' if times < 1 else 'larger'}; {before}"


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
        yield f"{again} figures that looked bad were measured again on fresh seeds"
    still = [str(i) for i, v in enumerate(result.verdicts, 1) if v.judgement == "undetermined"]
    if still:
        yield f"open: claim{'s' if len(still) > 1 else ''} {listed(still)}"


def _would_change(verdicts: Sequence[Verdict]) -> Iterator[str]:
    """Yield the assumptions that turn a verdict, and the parameters that would keep a claim."""
    for i, verdict in enumerate(verdicts, 1):
        turning = [f"{bar.assumption}: {listed(bar.reversed_by)}" for bar in verdict.bars if bar.reversed_by]
        if turning:
            yield f"claim {i} ({verdict.judgement}) turns with {'; '.join(turning)}"
        if verdict.judgement == "supported":
            continue
        for parameter, (need, own, conditions) in reach(verdict.break_even).items():
            yield f"claim {i} ({verdict.judgement}) would hold with {parameter} {need} instead of {own}{conditions}"


def by_parameter(found: Sequence[BreakEven]) -> dict[str, list[BreakEven]]:
    """Return the break-even values of each parameter."""
    parameters: dict[str, list[BreakEven]] = {}
    for one in found:
        parameters.setdefault(one.parameter, []).append(one)
    return parameters


def needed(found: Sequence[BreakEven]) -> int | float | None:
    """Return the value of one parameter that keeps the bound under every condition; None if there is none."""
    limits = [one.limit for one in found if isinstance(one.limit, int | float)]
    if len(limits) < len(found):
        return None
    return max(limits) if found[0].rising else min(limits)


def conditions(found: Sequence[BreakEven]) -> str:
    """Return the data that break-even values hold for, in words."""
    said = dict.fromkeys(one.condition for one in found if one.condition)
    return f" on {listed(list(said))}" if said else ""


def reach(found: Sequence[BreakEven]) -> dict[str, tuple[int | float, int | float, str]]:
    """Return by parameter the better value that would keep the bound, the proposal's own, and the conditions."""
    within = {}
    for parameter, own in by_parameter(found).items():
        need, value = needed(own), own[0].own
        if need is not None and not isinstance(value, str) and (need > value if own[0].rising else need < value):
            within[parameter] = (need, value, conditions(own))
    return within


# -- as pictures -----------------------------------------------------------------------------------------------------


def gains_and_costs(result: Result) -> StripPlot | None:
    """Return the picture of every gain and cost over today's software; None without any ratio."""
    strips = []
    for found in compared(result):
        if found.ratio is None or found.ratio.value != found.ratio.value:
            continue
        metric = found.metric
        flip = metric.better != "higher"
        marks = [Mark("software", 1.0, about="today's software: 1")]
        before = against_software(found.today, result.figures) if found.today else None
        if found.today and before and before.value == before.value:
            marks.append(_times(before, flip, "today", f"today's instruction alone: {interval(found.today)}"))
        if metric.axis and "today" in metric.axis.one_for:
            marks.append(Mark("today", 1.0, about="today's instruction alone: 1"))
        marks.append(_times(found.ratio, flip, "proposal", f"proposal: {interval(found.own)}"))
        if metric.comparison == "none":
            value = f"×{number(found.own.value)}"
        else:
            ends = (number(f.value if f else None, metric.unit) for f in (found.software, found.own))
            value = " → ".join(ends)
        better = marks[-1].value
        group = GROUPS[0 if better > 1 + SAME else 1 if better < 1 - SAME else 2]
        strips.append(Strip(metric.short, value, tuple(marks), group=group))
    if not strips:
        return None
    groups = dict.fromkeys([strips[0].group, *GROUPS])  # the total error first, whether it changes or not
    return StripPlot(
        title="Gain against cost",
        strips=tuple(sorted(strips, key=lambda s: list(groups).index(s.group))),
        axis="← worse · times as good as today's software · better →",
        log=True,
        lines=((1.0, "bound", ""),),
        legend=tuple((name, v) for v, name in NAMES.items() if any(m.variant == v for s in strips for m in s.marks)),
        most=FARTHEST,
    )


def _times(ratio: Reading, flip: bool, variant: str, about: str) -> Mark:
    """Return the mark of a ratio, turned so that larger is better."""
    value, ends = ratio.value, ratio.ends
    if flip:
        value = _inverse(value)
        ends = (_inverse(ends[1]), _inverse(ends[0])) if ends else None
    low, high = ends or (None, None)
    return Mark(variant, value, low, high, about)


def _inverse(x: float) -> float:
    return inf if x == 0 else 0.0 if x == inf else 1 / x


def claims_picture(verdicts: Sequence[Verdict]) -> StripPlot | None:
    """Return the intervals of all deciding figures against their bounds; None if no figure decided."""
    variants = {"supported": "good", "refuted": "bad", "undetermined": "open"}
    strips = []
    for i, verdict in enumerate(verdicts, 1):
        if verdict.deciding is None:
            continue
        value, low, high = headroom(verdict)
        mark = Mark(variants[verdict.judgement], value, low, high, f"{verdict.judgement}: {interval(verdict.deciding)}")
        strips.append(Strip(f"{i}  {in_words(verdict)}", interval(verdict.deciding), (mark,)))
    if not strips:
        return None
    return StripPlot(
        title="Claims against their bounds",
        strips=tuple(strips),
        axis="← breaks the bound · times better than the bound · keeps it →",
        log=True,
        lines=((1.0, "bound", "bound"),),
        wrong=(1.0, None),
        legend=tuple((j, variants[j]) for j in variants if any(v.judgement == j for v in verdicts)),
        most=ROOM,
    )


def in_words(verdict: Verdict) -> str:
    """Return a claim with the metric's short name in place of its full one."""
    name = verdict.claim.metric
    return verdict.statement.replace(name, metric_named(name).short, 1)


def headroom(verdict: Verdict) -> tuple[float, float | None, float | None]:
    """Return how many times better than the bound the deciding figure and the ends of its interval are.

    1 is at the bound and less than 1 breaks it. Where no ratio exists, such as for a bound of zero, a figure that keeps the
    bound is infinitely better, one at the bound is 1, and one that breaks it is 0.
    """
    claim, figure = verdict.claim, verdict.deciding
    assert figure
    metric = metric_named(claim.metric)
    decibels = metric.unit == "dB"
    value, low, high = figure.value, figure.low, figure.high
    if metric.signed:
        found = Reading(
            value if value is not None else inf, None if low is None or high is None else (low, high)
        ).magnitude()
        value, (low, high) = (found.value if isfinite(found.value) else None), (found.ends or (None, None))

    def of(x: float | None) -> float:
        if x is None:
            return 0.0
        rooms = [
            _room(x, bound, above, decibels)
            for bound, above in ((claim.at_most, False), (claim.at_least, True))
            if bound is not None
        ]
        return min(rooms)

    ends = [of(x) for x in (low, high) if x is not None]
    if low is not None and high is None:
        ends.append(of(None))
    return of(value), (min(ends) if ends else None), (max(ends) if ends else None)


def _room(x: float, bound: float, above: bool, decibels: bool) -> float:
    if decibels:
        return float(10 ** ((x - bound if above else bound - x) / 20))
    if x == bound:
        return 1.0
    if x > 0 and bound > 0:
        return x / bound if above else bound / x
    return inf if (x > bound) == above else 0.0


def tornado(verdict: Verdict) -> StripPlot:
    """Return the range of the deciding figure under each changed assumption, beside the bound. Infinite cases are left out."""
    claim, figure = verdict.claim, verdict.deciding
    assert figure
    metric = metric_named(claim.metric)
    bounds = [b for b in (claim.at_most, claim.at_least) if b is not None]
    rows, values = [], [*bounds, *([figure.value] if figure.value is not None else [])]
    for bar in verdict.bars:
        ends = [v for v in (bar.low, bar.high, figure.value) if v is not None]
        cases = " … ".join(dict.fromkeys((bar.low_case, bar.high_case)))
        values += ends
        rows.append(
            Strip(
                f"{bar.assumption}: {cases}",
                bar=(min(ends), max(ends)) if ends else None,
                colour="vermilion" if bar.reversed_by else "grey",
            )
        )
    ratio = claim.relative_to is not None and metric.comparison == "ratio"
    unit = "" if ratio or metric.unit == "1" else f" ({metric.unit})"
    relative_to = f", relative to {claim.relative_to}" if claim.relative_to else ""
    lines = [(b, "bound", "bound") for b in bounds]
    if figure.value is not None:
        lines.append((figure.value, "figure", "figure"))
    return StripPlot(
        title=f"What decides {verdict.statement}",
        strips=tuple(rows),
        axis=f"{metric.short}{relative_to}{unit}",
        log=min(values, default=0.0) > 0 and max(values) > 20 * min(values),
        lines=tuple(lines),
        wrong=(claim.at_least, claim.at_most),
    )
