"""The pictures of a whole report: gain against cost, claims against their bounds, and what a verdict depends on."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf, isfinite

from codesign.figures.metric import metric_named
from codesign.figures.strips import Mark, Strip, StripPlot
from codesign.report.summary import SAME, compared
from codesign.report.tables import interval, number
from codesign.verdicts.compare import against_software
from codesign.verdicts.evaluate import Result
from codesign.verdicts.readings import Reading
from codesign.verdicts.verdict import Verdict

GROUPS = ("Better than today's software", "Worse than today's software", "As with today's software")
NAMES = {"proposal": "proposal", "software": "today's software", "today": "today's instruction alone"}
FARTHEST = 4.0
"""Largest ratio that the picture of gains and costs draws; larger ones are arrows."""
ROOM = 16.0
"""Largest distance from a bound, as a ratio, that the picture of claims draws."""


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
        axis="← violates the bound · times better than the bound · meets it →",
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
