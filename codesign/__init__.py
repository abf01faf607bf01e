"""Judges hardware proposals: load a proposal, evaluate it, compare results.

import codesign

proposal = codesign.load("group-scaled-mma")
result = codesign.evaluate(proposal)
print(result.headline)
"""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from typing import TYPE_CHECKING

from isa_model import __version__

if TYPE_CHECKING:
    from codesign.proposal.proposal import Proposal
    from codesign.verdicts.compare import Comparison
    from codesign.verdicts.evaluate import Result

__all__ = ["__version__", "compare", "evaluate", "load"]


def load(source: str | PathLike[str]) -> Proposal:
    """Return the proposal in a YAML file, or the shipped one of a name. Raises InputError with every fault of the file."""
    from codesign.proposal.load import load_proposal
    from codesign.proposal.shipped import proposal_file

    return load_proposal(proposal_file(str(source)))


def evaluate(
    proposal: Proposal,
    *,
    rows: int = 16,
    columns: int = 16,
    seeds: Sequence[int] = range(16),
    train: bool = False,
    model: bool = False,
) -> Result:
    """Gather all evidence on a proposal and judge its claims.

    Of each GEMM, `rows` rows of A and `columns` columns of B are computed for each of `seeds`. With `train`, a small model is
    also trained on the proposal, which takes a minute or two and needs torch; with `model`, a small language model runs on it,
    which needs the extra `model`. Unavailable is raised without these.
    """
    from codesign.evidence.sampling import Sampling
    from codesign.verdicts.evaluate import evaluate as gather_and_judge

    return gather_and_judge(
        proposal, Sampling(rows=rows, columns=columns, seeds=tuple(seeds)), train=train, model=model
    )


def compare(results: Sequence[Result]) -> Comparison:
    """Return the comparison of the results of two or more proposals. Raises InputError for fewer, or for one given twice."""
    from codesign.verdicts.compare import compare as side_by_side

    return side_by_side(results)
