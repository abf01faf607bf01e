"""Results as rows of plain data, for data frames, CSV, JSON and Parquet: a row per figure, per claim or per change."""

from __future__ import annotations

from typing import Any

from codesign.figures.figure import Figure
from codesign.figures.metric import metric_named
from codesign.verdicts.compare import Comparison
from codesign.verdicts.diff import Difference
from codesign.verdicts.evaluate import Result

Row = dict[str, Any]
"""Values of a row by column; None where there is none."""


def figure_rows(result: Result) -> list[Row]:
    """Return a row per figure; a `value` of None is not finite, ends of None are those of `Figure`."""
    return [{"proposal": result.proposal.proposal, **_figure(figure)} for figure in result.figures]


def claim_rows(result: Result) -> list[Row]:
    """Return a row per claim: its verdict, its bounds, and the figure that decided it."""
    return [
        {
            "proposal": result.proposal.proposal,
            "claim": v.statement,
            "judgement": v.judgement,
            "at_least": v.claim.at_least,
            "at_most": v.claim.at_most,
            "margin": v.margin,
            **(_figure(v.deciding) if v.deciding else dict.fromkeys(_FIGURE)),
            "reason": v.reason,
        }
        for v in result.verdicts
    ]


def comparison_rows(comparison: Comparison) -> list[Row]:
    """Return a row per proposal and axis of a comparison."""
    return [
        {
            "proposal": entry.proposal,
            "role": entry.role,
            "metric": axis,
            "value": value,
            "low": entry.low.get(axis),
            "high": entry.high.get(axis),
            "kind": entry.kinds.get(axis),
            "front": entry.front,
        }
        for entry in comparison.entries
        for axis, value in entry.values.items()
    ]


def difference_rows(difference: Difference) -> list[Row]:
    """Return a row per change: of a field of the spec, of a verdict, or of a figure outside the other's interval."""
    return [
        *({"what": "spec", "name": c.field, "old": c.old, "new": c.new, "change": ""} for c in difference.spec),
        *(
            {"what": "verdict", "name": v.claim, "old": v.old, "new": v.new, "change": v.change}
            for v in difference.verdicts
        ),
        *(
            {"what": "figure", "name": f.name, "old": f.old.value, "new": f.new.value, "change": f.change}
            for f in difference.figures
        ),
    ]


_FIGURE = (
    "metric",
    "variant",
    "at",
    "workload",
    "tensors",
    "value",
    "low",
    "high",
    "unit",
    "kind",
    "source",
    "caveat",
)


def _figure(figure: Figure) -> Row:
    found = {name: getattr(figure, name) for name in _FIGURE if name != "unit"}
    return {name: metric_named(figure.metric).unit if name == "unit" else found[name] for name in _FIGURE}
