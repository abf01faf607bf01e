"""Statistics of tensors: deviation from a normal distribution, and detection of weights on a coarse grid.

python -m codesign.workloads.statistics      # writes the tables of docs/tensors.md
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from isa_model.output_files import put

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from codesign.workloads.gemms import Gemm, Role

TOP = 0.01
"""Share of channels or tokens that counts as the top."""
GRID_BLOCK = 32
"""Inputs of a weight that share a grid, as in GGUF's Q4 types and in MX."""
FOUR_BITS = 16
"""Number of values of a 4-bit grid."""
DRAWN = (1024, 2048)
"""Shape of synthetic tensors in the tables: tokens and channels, or outputs and inputs of a weight."""
PAGE = Path(__file__).parents[2] / "docs" / "tensors.md"


@dataclass(frozen=True)
class Statistics:
    """Statistics of a matrix (tokens, channels), or of a weight (outputs, inputs)."""

    shape: tuple[int, int]
    kurtosis: float
    """Fourth central moment over the squared variance; 3 for a normal distribution."""
    peak: float
    """Largest magnitude over the root mean square."""
    top_channels: float
    """Share of the sum of squares in the top 1 % of columns, at least one."""
    top_tokens: float
    """Share of the sum of squares in the top 1 % of rows, at least one."""
    zeros: float
    """Share of elements that are zero."""


def statistics(x: NDArray[np.floating]) -> Statistics:
    """Return the statistics of a matrix. Raises ValueError if it is empty, constant or not finite."""
    import numpy as np

    values = np.asarray(x, np.float64)
    if values.ndim != 2 or not values.size or not np.isfinite(values).all() or np.ptp(values) == 0:
        raise ValueError("statistics are of a finite matrix that is not constant")
    values = values / np.abs(values).max()  # powers of small numbers would underflow
    energy = values**2
    deviation = values - values.mean()
    return Statistics(
        shape=(values.shape[0], values.shape[1]),
        kurtosis=float((deviation**4).mean() / (deviation**2).mean() ** 2),
        peak=float(1 / np.sqrt(energy.mean())),
        top_channels=_top(energy.sum(axis=0)),
        top_tokens=_top(energy.sum(axis=1)),
        zeros=float((values == 0).mean()),
    )


def _top(energy: NDArray[np.float64]) -> float:
    import numpy as np

    count = max(round(TOP * len(energy)), 1)
    return float(np.sort(energy)[-count:].sum() / energy.sum())


def grid_values(weight: NDArray[np.floating]) -> int:
    """Return the largest number of distinct values in any whole aligned block of 32 inputs of a weight (outputs, inputs).

    Raises ValueError if a row is shorter than a block.
    """
    import numpy as np

    whole = weight.shape[1] // GRID_BLOCK * GRID_BLOCK
    if not whole:
        raise ValueError(f"rows of {weight.shape[1]} hold no whole block of {GRID_BLOCK}")
    blocks = np.sort(np.asarray(weight[:, :whole]).reshape(-1, GRID_BLOCK), axis=1)
    return int((np.diff(blocks, axis=1) != 0).sum(axis=1).max()) + 1


def on_four_bit_grid(weight: NDArray[np.floating]) -> bool:
    """Return whether every whole block of 32 inputs has at most 16 values, as weights stored in 4 bits have.

    Such weights cannot judge a 4-bit format, since they were rounded before. False also if there are fewer than 128 blocks,
    if rows are shorter than a block, or if all weights are zero.
    """
    rows, inputs = weight.shape
    if rows * (inputs // GRID_BLOCK) < 128 or not weight.any() or grid_values(weight[:128]) > FOUR_BITS:
        return False
    return grid_values(weight) <= FOUR_BITS


def grid_warnings(found: Iterable[Gemm]) -> list[str]:
    """Return a warning if captured weights of these GEMMs lie on a 4-bit grid.

    Raises InputError as `tensor_file.read`.
    """
    from codesign.workloads.tensor_file import read

    on_grid: dict[str, None] = {}
    for gemm in found:
        # A tile of dgrad has one block of inputs, which is enough to detect a grid.
        if (
            gemm.recorded is not None
            and gemm.b == "weight"
            and on_four_bit_grid(read(gemm.recorded.file, gemm.recorded.b))
        ):
            on_grid[gemm.name.split(".")[0]] = None
    if not on_grid:
        return []
    return [
        f"Weights of {', '.join(on_grid)} lie on a 4-bit grid: at most {FOUR_BITS} values in any {GRID_BLOCK} inputs. They "
        "were stored in 4 bits; a 4-bit format's error on them is a second rounding's, not that of the trained weights."
    ]


# -- tables ------------------------------------------------------------------------------------------------------------

HEADINGS = ("tensor", "shape", "kurtosis", "largest / RMS", "top 1 % channels", "top 1 % tokens")


def synthetic() -> Iterator[tuple[str, Statistics]]:
    """Yield the statistics of each synthetic source and role, with seed 0."""
    import numpy as np

    from codesign.workloads.tensors import CAPTURED, SOURCES, draw

    roles: tuple[Role, ...] = ("activation", "gradient", "weight")
    for name in SOURCES:
        if name != CAPTURED:
            for role in roles:
                yield f"{name}, {role}", statistics(draw(name, np.random.default_rng(0), DRAWN, role))


def captured() -> Iterator[tuple[str, Statistics, int | None]]:
    """Yield the statistics of each shipped tile of fprop and dgrad, with `grid_values` of weights."""
    from codesign.workloads.gemms import gemms
    from codesign.workloads.tensor_file import read

    for gemm in gemms().values():
        if gemm.recorded is None or gemm.tokens_along_k:
            continue
        sides = [(gemm.a, gemm.recorded.a)] + ([(gemm.b, gemm.recorded.b)] if gemm.a == "activation" else [])
        model, _, name = gemm.name.split(".")
        for role, key in sides:
            x = read(gemm.recorded.file, key)
            yield f"{model} {name}, {role}", statistics(x), grid_values(x) if role == "weight" else None


def synthetic_table() -> str:
    """Return the table of synthetic sources in Markdown."""
    return _table(HEADINGS, [_row(label, found) for label, found in synthetic()])


def captured_table() -> str:
    """Return the table of captured tiles in Markdown."""
    rows = [(*_row(label, found), "" if values is None else str(values)) for label, found, values in captured()]
    return _table((*HEADINGS, "values in a block of 32"), rows)


def _row(label: str, found: Statistics) -> tuple[str, ...]:
    rows, columns = found.shape
    shares = (f"{100 * share:.1f} %" for share in (found.top_channels, found.top_tokens))
    return (label, f"{rows} x {columns}", f"{found.kurtosis:.3g}", f"{found.peak:.3g}", *shares)


def _table(headings: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [headings, ("---", *["---:"] * (len(headings) - 1)), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    """Write the tables to docs/tensors.md."""
    put(PAGE, "captured", captured_table())
    put(PAGE, "synthetic", synthetic_table())


if __name__ == "__main__":
    main()
