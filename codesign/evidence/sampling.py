"""How much of each GEMM is computed."""

from __future__ import annotations

from isa_model.stage import Spec

ROWS, COLUMNS = (2, 4096), (1, 128)
"""Least and most rows and columns of a sample."""
MOST_SEEDS = 1024
"""Most seeds of a sample."""


class Sampling(Spec):
    """Sample of each GEMM that is computed: rows of A and columns of B over the full K, for each seed."""

    rows: int = 16
    """Rows of A for each seed."""
    columns: int = 16
    """Columns of B for each seed."""
    seeds: tuple[int, ...] = tuple(range(16))
    """Seeds; each draws its own tensors, so that figures vary between seeds as they do between tensors."""

    def fresh(self) -> Sampling:
        """Return the same sampling on the same number of other seeds."""
        first = max(self.seeds, default=-1) + 1
        return self.model_copy(update={"seeds": tuple(range(first, first + len(self.seeds)))})
