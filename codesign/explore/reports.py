"""Reports of points, as `codesign evaluate` writes them: beside the page of their space, which links those that exist."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from codesign.commit import commit
from codesign.explore.points import Point, by_knee
from codesign.explore.search import Phase
from codesign.explore.space import REPORTS, Base, Space
from codesign.explore.table import proposal_of
from codesign.proposal.load import parse_proposal
from codesign.report.write import check, write
from codesign.verdicts.evaluate import evaluate
from codesign.verdicts.read_result import read_result
from isa_model.diagnostics import Document, InputError


def evaluate_points(space: Space, base: Base, points: Sequence[Point], out: Path, count: int, phase: Phase) -> None:
    """Write the reports of `count` points of the front, the knee first, into `out`/reports/SPACE-POINT.

    A report of the same proposal, sampling and commit stays. Raises InputError if a folder cannot be written, and as
    `evaluate` does.
    """
    for point in by_knee(space, points)[:count]:
        data = proposal_of(space, base, point.settings, point.name, point.label)
        proposal = parse_proposal(Document(base.name, data, []))
        folder = folder_of(space, point, out)
        try:
            old = read_result(folder / "result.json")
            if (old.proposal, old.sampling, old.provenance.commit) == (proposal, space.sampling, commit()):
                continue
        except InputError:
            pass
        check(folder)

        def told(name: str, done: int, total: int, of: str = point.name) -> None:
            phase(f"report of {of}: {name}", done, total)

        write(evaluate(proposal, space.sampling, told), folder)


def folder_of(space: Space, point: Point, out: Path) -> Path:
    """Return the folder of a point's report."""
    return out / REPORTS / f"{space.space}-{point.name}"


def links(space: Space, points: Sequence[Point], out: Path) -> dict[str, str]:
    """Return the addresses of existing reports by point, relative to the page of the space."""
    there = {path.parent.name for path in (out / REPORTS).glob(f"{space.space}-*/report.html")}
    every = {p.name: f"{space.space}-{p.name}" for p in points}
    return {name: f"../{REPORTS}/{folder}/report.html" for name, folder in every.items() if folder in there}
