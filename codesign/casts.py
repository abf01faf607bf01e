"""Cast evidence: what a path leaves of a tensor, against the tensor as it was and against one cast straight from it."""

from __future__ import annotations

import zlib
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from codesign.evidence import Figure
from codesign.proposal import Proposal, Value
from codesign.resampling import figures, weights
from codesign.workloads.gemms import Gemm, Role
from codesign.workloads.tensors import CAPTURED, draw, recorded
from isa_model.path import Step, exactly_once, walk

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

TOKENS, FEATURES = 256, 2048
"""Most tokens and features of a tensor that are cast."""

METHOD = (
    f"Casts are of up to {TOKENS} tokens by {FEATURES} features of each tensor, BF16 as drawn or captured; 95 % bootstrap "
    "intervals over tokens. `exact` is one cast straight from the BF16 tensor to the path's last format and groups.",
)


@dataclass(frozen=True)
class Sums:
    """What the metrics of a cast follow from, a row each (tokens; seeds stacked)."""

    error2: Array
    original2: Array
    lost: Array
    nonzero: Array
    changed: Array
    count: Array


def gather(proposal: Proposal, seeds: tuple[int, ...], executor: Executor) -> tuple[Figure, ...]:
    """Figures of the proposal's path, today's, and one exact cast, on every GEMM whose operand the path carries."""
    if proposal.path is None:
        return ()
    jobs = [
        (proposal, gemm, tensors, seeds) for gemm, tensors in proposal.trials if carried(gemm) in proposal.path.operands
    ]
    return tuple(f for found in executor.map(figures_of_path, *zip(*jobs, strict=True)) for f in found) if jobs else ()


def carried(gemm: Gemm) -> Role | None:
    """The operand whose features lie along K, so that whole groups of tokens and of features are at hand; none in wgrad."""
    return None if gemm.tokens_along_k else gemm.a


def figures_of_path(
    proposal: Proposal, gemm: Gemm, tensors: str, seeds: tuple[int, ...], level: float = 0.95
) -> list[Figure]:
    """Every figure of the proposal's path on the operand that the GEMM carries, by variant."""
    assert proposal.path is not None
    paths = {
        "software": proposal.software.path,
        "proposal": proposal.path.steps,
        "exact": exactly_once(proposal.path.steps),
    }
    sums: dict[str, list[Sums]] = {}
    for seed in seeds[:1] if tensors == CAPTURED else seeds:  # what was captured is there once
        x = _tensor(gemm, tensors, seed)
        for variant, steps in paths.items():
            if steps:
                sums.setdefault(variant, []).append(_sums(x, steps))
    picked = weights(gemm.name, tensors, sum(len(part.count) for part in sums["proposal"]))
    values: dict[tuple[str, Value | None], dict[str, Array]] = {
        (variant, None): _values(parts, picked) for variant, parts in sums.items()
    }
    bases = tuple(dict.fromkeys(c.relative_to for c in proposal.claims if c.relative_to))
    return list(figures(gemm.name, tensors, values, bases, level=level))


def _tensor(gemm: Gemm, tensors: str, seed: int) -> Any:
    """The tensor, (tokens, features)."""
    import numpy as np

    if tensors == CAPTURED:
        assert gemm.recorded is not None
        return recorded(gemm.recorded)[0][:TOKENS, :FEATURES]
    rng = np.random.default_rng([seed, zlib.crc32(f"{gemm.name}/{tensors}/cast".encode())])
    return draw(tensors, rng, (min(TOKENS, gemm.m), min(FEATURES, gemm.k)), gemm.a)


def _sums(x: Any, steps: tuple[Step, ...]) -> Sums:
    import numpy as np

    arrived, once = walk(steps, x).values, walk(exactly_once(steps), x).values
    original = x.astype(np.float64)

    def rows(values: Any) -> Array:
        return np.asarray(values.sum(axis=1, dtype=np.float64))

    return Sums(
        error2=rows((arrived - original) ** 2),
        original2=rows(original**2),
        lost=rows((arrived == 0) & (original != 0)),
        nonzero=rows(original != 0),
        changed=rows(arrived != once),
        count=rows(np.ones_like(original)),
    )


def _values(parts: list[Sums], picked: Array) -> dict[str, Array]:
    """Every metric of a cast on the lines of `picked`."""
    import numpy as np

    def total(name: str) -> Array:
        return np.asarray(picked @ np.concatenate([getattr(p, name) for p in parts]))

    with np.errstate(divide="ignore", invalid="ignore"):
        error = np.sqrt(total("error2") / total("original2"))
        return {
            "cast.relative_error": error,
            "cast.sqnr_db": -20 * np.log10(error),
            "cast.underflow_share": total("lost") / np.maximum(total("nonzero"), 1),
            "cast.requantised_share": total("changed") / total("count"),
        }
