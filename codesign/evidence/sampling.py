"""How much of each GEMM is computed."""

from __future__ import annotations

from codesign.figures.intervals import FEWEST_CLUSTERS
from isa_model.stage import Spec

ROWS, COLUMNS = (2, 4096), (1, 128)
"""Least and most rows and columns of a sample."""
MOST_SEEDS = 1024
"""Most seeds of a sample."""
LONGEST, FEWEST = 16384, 8
"""Longest K at which all rows and columns are computed, and the fewest of them at any K. With 4 of each, intervals of ratios
to software held the truth 85 to 95 times in 100 (outliers and normal, 240 evaluations); with 8, 92 to 100 times."""


class Sampling(Spec):
    """Sample of each GEMM that is computed: rows of A and columns of B over the full K, for each seed."""

    rows: int = 16
    """Rows of A for each seed; fewer where K is beyond 16384 (`at`)."""
    columns: int = 16
    """Columns of B for each seed; fewer where K is beyond 16384."""
    seeds: tuple[int, ...] = tuple(range(16))
    """Seeds; each draws its own tensors, so that figures vary between seeds as they do between tensors."""

    def at(self, k: int) -> Sampling:
        """Return the sampling at a length of K: beyond `LONGEST`, fewer rows and columns with as many elements in all."""
        rows, columns = (min(lines, max(lines * LONGEST // k, FEWEST)) for lines in (self.rows, self.columns))
        return self.model_copy(update={"rows": rows, "columns": columns})

    def half(self) -> Sampling:
        """Return the same sampling on half of the seeds, but on enough for an interval if there are."""
        return self.model_copy(update={"seeds": self.seeds[: max(len(self.seeds) // 2, FEWEST_CLUSTERS)]})

    def fresh(self) -> Sampling:
        """Return the same sampling on the same number of other seeds."""
        first = max(self.seeds, default=-1) + 1
        return self.model_copy(update={"seeds": tuple(range(first, first + len(self.seeds)))})
