"""How much of what they should the vectors do: goals on one side, what an observer saw of the finished vectors beside."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from isa_model.vectors.goals import Goals
from isa_model.vectors.observer import Bin, Observer
from isa_model.vectors.vector import Vectors


@dataclass
class CoverageRow:
    """One category at one point of the instruction."""

    category: str
    point: str
    wanted: dict[str, int] = field(default_factory=dict)
    """Vectors in each bin that is wanted."""
    unreachable: dict[str, str] = field(default_factory=dict)
    """Bins that no operands reach, each with the reason."""

    @property
    def missed(self) -> list[str]:
        return [what for what, vectors in self.wanted.items() if not vectors]


def measure(vectors: Vectors, progress: Callable[[int, int], None] = lambda done, total: None) -> list[CoverageRow]:
    """The coverage of finished vectors, in the order of the goals. `progress` is told how many are read, of how many."""
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
