"""Coverage of vectors: for each goal of the instruction, the number of finished vectors that an observer finds to meet it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from isa_model.vectors.goals import Goals, without
from isa_model.vectors.observer import Bin, Observer
from isa_model.vectors.vector import Vectors


@dataclass
class CoverageRow:
    """Coverage of one category at one point of the instruction."""

    category: str
    point: str
    wanted: dict[str, int] = field(default_factory=dict)
    """Number of vectors in each bin that operands can reach."""
    unreachable: dict[str, str] = field(default_factory=dict)
    """Bins that no operands can reach, each with the reason."""

    @property
    def missed(self) -> list[str]:
        """Bins without a vector."""
        return [what for what, vectors in self.wanted.items() if not vectors]


def measure(vectors: Vectors, progress: Callable[[int, int], None] = lambda done, total: None) -> list[CoverageRow]:
    """Return the coverage of finished vectors, in the order of the goals.

    `progress` is called with the number of vectors read and their total. Without goals, one row says why.
    """
    if why := without(vectors.spec):
        return [CoverageRow("all", "all", {}, {"all": f"{why}: vectors are random, and coverage is not measured"})]
    observer = Observer(vectors.spec)
    seen: Counter[Bin] = Counter()
    for done, vector in enumerate(vectors.vectors):
        seen.update(observer.hits(vector))
        if done % 64 == 0:
            progress(done, len(vectors.vectors))
    rows: dict[tuple[str, str], CoverageRow] = {}
    for goal in Goals(vectors.spec).all:
        category, point, what = goal.bin
        row = rows.setdefault((category, point), CoverageRow(category, point))
        if goal.unreachable:
            row.unreachable[what] = goal.unreachable
        else:
            row.wanted[what] = seen[goal.bin]
    return list(rows.values())
