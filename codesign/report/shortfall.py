"""What a refuted claim on area, energy, bytes or time would need, from the figures that it covers and their other cases."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import ceil, inf

from codesign.figures.metric import metric_named
from codesign.figures.words import listed
from codesign.proposal.proposal import Claim
from codesign.report.tables import number
from codesign.verdicts.claims import covered_by
from codesign.verdicts.evaluate import Result
from codesign.verdicts.readings import Measured, excess, keeps
from codesign.verdicts.verdict import Verdict

MOST_NAMED = 3
"""Largest number of GEMMs that are named one by one."""


def shortfall(result: Result, verdict: Verdict) -> str:
    """Return what a refuted claim would need, and where it holds, as the end of a sentence.

    It is empty for sampled figures, whose search for a break-even says more, and where no ratio says it.
    """
    claim = verdict.claim
    metric = metric_named(claim.metric)
    if verdict.judgement != "refuted" or metric.sampled:
        return ""
    covered = covered_by(result.proposal, claim, result.figures)
    failing = [m for m in covered if not keeps(claim, m.reading)]
    cuts = [_cut(claim, m) for m in failing]
    both = None not in (claim.at_most, claim.at_least)  # what is lowered may fall below the other bound
    if not failing or both or not all(0 < whole < 1 for _, whole in cuts):
        return ""
    (value, whole), worst = max(zip(cuts, failing, strict=True), key=lambda found: found[0][1])
    lower, place = f"{_percent(whole)} lower", worst.figure.workload
    if value > 0 and _percent(value) != _percent(whole):
        lower = f"{_percent(value)} lower ({_percent(whole)} for its whole interval)"
    what = metric.short.removesuffix(" over today's")
    if metric.better == "higher" and not what.startswith("speedup of"):
        return ""
    if len(covered) == 1:
        what = what.replace("speedup of", "time of") + (f" on {place}" if place else "")
        return "; ".join([f"would hold if the {what} were {lower}", *_added(result, claim), *_nearest(verdict)])
    what = "time" if metric.better == "higher" else what
    many = "layers" if metric.of_layer else "GEMMs"
    those = f"all {len(covered)} {many}" if len(failing) == len(covered) else f"{len(failing)} of {len(covered)} {many}"
    needed = f"would hold if the {what} were lower on {those}, most of all on {place}: {lower}"
    return "; ".join([needed, *_holds_on(covered, failing)])


def _cut(claim: Claim, measured: Measured) -> tuple[float, float]:
    """Return the share by which a cost must fall for its value to meet the bound, and for its whole interval to meet it.

    A time is the cost where the claim is on a speedup. The share is negative for a value that meets the bound, and infinite if
    no factor would do.
    """
    found = measured.reading
    low, high = found.ends or (inf, inf)
    if metric_named(claim.metric).better == "higher":
        value, end = (x / claim.at_least if claim.at_least else 0.0 for x in (found.value, low))
    else:
        value, end = (claim.at_most / x if claim.at_most and 0 < x < inf else 0.0 for x in (found.value, high))
    return (1 - value, 1 - end) if value > 0 and end > 0 else (inf, inf)


def _percent(share: float) -> str:
    percent = max(ceil(round(100 * share, 6)), 1)
    return f"{percent} %" if percent < 100 else "more than 99 %"


def _added(result: Result, claim: Claim) -> Iterator[str]:
    """Yield a phrase on the parts of the area that the proposal adds, the largest first."""
    prefix = "cost.area_of_"
    if claim.metric != "cost.area_ratio":
        return
    parts = sorted(
        (-f.value, metric_named(f.metric).short.removeprefix("area of "))
        for f in result.figures
        if f.metric.startswith(prefix) and f.at == claim.at and f.value and f.value >= 0.005
    )
    if parts:
        yield f"the proposal adds {listed([f'{-part:.2f} for {name}' for part, name in parts])} to today's area of 1"


def _nearest(verdict: Verdict) -> Iterator[str]:
    """Yield a phrase on the case nearest to the bound, unless a case reaches it or none is nearer than the figure."""
    figure, claim = verdict.deciding, verdict.claim
    if figure is None or figure.value is None or any(bar.reversed_by for bar in verdict.bars):
        return
    extremes = (extreme for bar in verdict.bars for extreme in bar.extremes)
    cases = [(excess(claim, value), case, value) for case, value in extremes if value is not None]
    over, case, value = min(cases, default=(inf, "", 0.0))
    if 0 < over < excess(claim, figure.value):
        unit = "1" if claim.relative_to else metric_named(claim.metric).unit
        yield f"no other assumption reaches the bound; the nearest, {case}, gives {number(value, unit)}"


def _holds_on(covered: Sequence[Measured], failing: Sequence[Measured]) -> Iterator[str]:
    """Yield a phrase on the passes whose GEMMs all meet the bound or, without such a pass, on a few GEMMs that do."""
    bad = {m.figure.workload for m in failing}
    good = list(dict.fromkeys(m.figure.workload for m in covered if m.figure.workload not in bad))
    passes = dict.fromkeys(w.rpartition(".")[0] for w in good if "." in w)  # a layer has no passes
    whole = [p for p in passes if not any(w.startswith(f"{p}.") for w in bad)]
    if named := whole or (good if len(good) <= MOST_NAMED else []):
        yield f"{listed(named)} {'meets' if len(named) == 1 else 'meet'} the bound"
