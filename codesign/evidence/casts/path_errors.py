"""Errors of the tensors that a path delivers, against the tensor at its start and one cast straight from it."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from codesign.figures.estimates import decibel, norm, share
from codesign.figures.figure import At, Figure
from codesign.figures.intervals import Estimate, figures
from codesign.proposal.proposal import Proposal
from codesign.workloads.gemms import Gemm, Role
from codesign.workloads.tensors import CAPTURED, draw, recorded, synthetic
from isa_model.path import Step, casts_of, exactly_once, walk

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

TOKENS, FEATURES = 128, 128
"""Tokens and features of a block that is cast: whole groups in both directions."""
BLOCKS = 2
"""Blocks of each seed, of tensors of their own. They are the clusters: what goes wrong in a block is often the fault of one
token or channel in it, so that many small blocks show more than few large ones."""
RUN = 4
"""Neighbouring tokens of a captured tensor that make one cluster."""


@dataclass(frozen=True)
class Sums:
    """Sums by cluster from which the metrics of a cast are computed."""

    error2: Array
    original2: Array
    lost: Array
    nonzero: Array
    changed: Array
    count: Array
    excess: Array
    """Excess as in `estimates.norm`: 0 for each block, whose norm is its unit; NaN for the parts of a tile."""


def carried(gemm: Gemm) -> Role | None:
    """Return the operand whose features lie along K, so that it has whole groups of tokens and features; None in wgrad."""
    return None if gemm.tokens_along_k else gemm.a


def same_tensors(gemm: Gemm, tensors: str) -> Hashable:
    """Return a value that is equal for GEMMs whose casts are of the same tensors: blocks of one size, or a captured tensor."""
    if tensors == CAPTURED:
        return gemm
    return synthetic(tensors, gemm.a), *_block(gemm)


def figures_of_path(
    proposal: Proposal, gemm: Gemm, tensors: str, seeds: tuple[int, ...], level: float = 0.95
) -> list[Figure]:
    """Return every figure of the proposal's path on the operand that the GEMM carries, by variant."""
    return figures_of_sums(proposal, gemm, tensors, sums_of_path(proposal, gemm, tensors, seeds), level)


def figures_of_sums(
    proposal: Proposal, gemm: Gemm, tensors: str, sums: Mapping[str, Sums], level: float = 0.95
) -> list[Figure]:
    """Return every figure of the proposal's path from the sums of its variants."""
    found: dict[tuple[str, At | None], dict[str, Estimate]] = {(v, None): estimates(of) for v, of in sums.items()}
    bases = tuple(dict.fromkeys(c.relative_to for c in proposal.claims if c.relative_to))
    return list(figures(gemm.name, tensors, found, bases, level))


def sums_of_path(proposal: Proposal, gemm: Gemm, tensors: str, seeds: Sequence[int]) -> dict[str, Sums]:
    """Return the sums of every variant's path, cluster after cluster."""
    return sums_of_paths([proposal], gemm, tensors, seeds)[0]


def sums_of_paths(
    proposals: Sequence[Proposal], gemm: Gemm, tensors: str, seeds: Sequence[int]
) -> list[dict[str, Sums]]:
    """Return the sums of every variant's path for each proposal, cluster after cluster; each path is walked once."""
    several = [_paths(proposal) for proposal in proposals]
    parts: dict[tuple[Step, ...], list[Sums]] = {steps: [] for paths in several for steps in paths.values()}
    alone = {steps: casts_of(exactly_once(steps)) for steps in parts}
    captured = tensors == CAPTURED
    blocks = [(seed, block) for seed in seeds for block in range(BLOCKS)]
    for seed, block in blocks[:1] if captured else blocks:  # captured tensors do not depend on the seed
        x = _tensor(gemm, tensors, seed, block)
        arrived = {steps: walk(steps, x).values for steps in dict.fromkeys((*alone, *alone.values()))}
        sums_of = _summing(x, RUN if captured else len(x))
        for steps, made in parts.items():
            made.append(sums_of(arrived[steps], arrived[alone[steps]]))
    sums = {steps: joined(made) for steps, made in parts.items()}
    return [{variant: sums[steps] for variant, steps in paths.items()} for paths in several]


def _paths(proposal: Proposal) -> dict[str, tuple[Step, ...]]:
    """Return the casts of every variant that has a path."""
    assert proposal.path is not None
    paths = {
        "software": proposal.software.path,
        "proposal": proposal.path.steps,
        "exact": exactly_once(proposal.path.steps),
    }
    return {variant: casts_of(steps) for variant, steps in paths.items() if steps}


def _tensor(gemm: Gemm, tensors: str, seed: int, block: int) -> Any:
    """Return a tensor (tokens, features): a block of a synthetic one, or a captured one whole."""
    import numpy as np

    if tensors == CAPTURED:
        assert gemm.recorded is not None
        return recorded(gemm.recorded)[0]
    rng = np.random.default_rng([seed, block, zlib.crc32(f"{tensors}/cast".encode())])
    return draw(tensors, rng, _block(gemm), gemm.a)


def _block(gemm: Gemm) -> tuple[int, int]:
    """Return the tokens and features of a block."""
    return min(TOKENS, gemm.m), min(FEATURES, gemm.k)


def _summing(x: Any, run: int) -> Callable[[Array, Array], Sums]:
    """Return a function that compares arrived values with `x`, as sums over each `run` of tokens.

    It takes the values that arrive along a path, and those that one cast alone makes. Sums of a block are in units of its own
    norm, so that tensors count alike.
    """
    import numpy as np

    original = x.astype(np.float64)
    alone = run == len(x)
    unit = (float((original**2).mean()) or 1.0) if alone else 1.0
    nonzero = original != 0

    def summed(values: Any) -> Array:
        rows = values.sum(axis=1, dtype=np.float64)
        return np.asarray(np.add.reduceat(rows, np.arange(0, len(rows), run)))

    of_tensor = {
        "original2": summed(original**2) / unit,
        "nonzero": summed(nonzero),
        "count": summed(np.ones_like(original)),
        "excess": summed(np.full(original.shape, 0.0 if alone else np.nan)),
    }

    def sums(arrived: Array, once: Array) -> Sums:
        return Sums(
            error2=summed((arrived - original) ** 2) / unit,
            lost=summed((arrived == 0) & nonzero),
            changed=summed(arrived != once),
            **of_tensor,
        )

    return sums


def joined(parts: Sequence[Sums]) -> Sums:
    """Return several sums as one, cluster after cluster."""
    import numpy as np

    return Sums(**{f.name: np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(Sums)})


def part(sums: Sums, clusters: Any) -> Sums:
    """Return the sums of some clusters: a slice or an array of indices."""
    return Sums(**{f.name: getattr(sums, f.name)[clusters] for f in fields(Sums)})


def estimates(sums: Sums) -> dict[str, Estimate]:
    """Return an estimate of every metric of a cast."""
    error, elements = norm(sums.error2, sums.original2, sums.excess), float(sums.count.sum())
    return {
        "cast.relative_error": error,
        "cast.sqnr_db": decibel(error),
        "cast.underflow_share": share(sums.lost, sums.nonzero, elements),
        "cast.requantised_share": share(sums.changed, sums.count, elements),
    }
