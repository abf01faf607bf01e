"""The software baselines of a result side by side."""

from __future__ import annotations

from codesign.report.tables import interval
from codesign.verdicts.evaluate import Result
from codesign.verdicts.finding import worst_by_pass


def baseline_table(result: Result) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """Return the passes, and a row per baseline of its worst total error of D in each; no rows where there is one baseline."""
    proposal = result.proposal
    others = [(b.name, b.title) for b in proposal.others]
    rows = [("software", f"{proposal.practice.title} (today's software)"), *others] if others else []
    worst = {title: worst_by_pass(result.figures, variant) for variant, title in rows}
    found = {title: by_pass for title, by_pass in worst.items() if by_pass}
    steps = list(dict.fromkeys(step for by_pass in found.values() for step in by_pass))
    return steps, [(title, [interval(by_pass[step]) for step in steps]) for title, by_pass in found.items()]
