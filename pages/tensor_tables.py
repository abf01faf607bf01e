"""Writes the tables of docs/tensors.md: how far each source of tensors is from a normal distribution.

python pages/tensor_tables.py
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from codesign.figures.markdown import table
from codesign.workloads.gemms import Role, gemms
from codesign.workloads.tensor_file import read
from codesign.workloads.tensors import CAPTURED, SOURCES, draw
from codesign.workloads.weight_grid import grid_values
from isa_model.output_files import put

TOP = 0.01
"""Share of channels or tokens that counts as the top."""
DRAWN = (1024, 2048)
"""Shape of synthetic tensors in the tables: tokens and channels, or outputs and inputs of a weight."""
PAGE = Path(__file__).resolve().parent.parent / "docs" / "tensors.md"


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
    count = max(round(TOP * len(energy)), 1)
    return float(np.sort(energy)[-count:].sum() / energy.sum())


# -- tables ------------------------------------------------------------------------------------------------------------

HEAD = "tensor | shape: | kurtosis: | largest / RMS: | top 1 % channels: | top 1 % tokens:"


def synthetic() -> Iterator[tuple[str, Statistics]]:
    """Yield the statistics of each synthetic source and role, with seed 0."""
    roles: tuple[Role, ...] = ("activation", "gradient", "weight")
    for name in SOURCES:
        if name != CAPTURED:
            for role in roles:
                yield f"{name}, {role}", statistics(draw(name, np.random.default_rng(0), DRAWN, role))


def captured() -> Iterator[tuple[str, Statistics, int | None]]:
    """Yield the statistics of each shipped tile of fprop and dgrad, with `grid_values` of weights."""
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
    return table(HEAD, (_row(label, found) for label, found in synthetic()))


def captured_table() -> str:
    """Return the table of captured tiles in Markdown."""
    rows = [(*_row(label, found), values) for label, found, values in captured()]
    return table(f"{HEAD} | values in a block of 32:", rows)


def _row(label: str, found: Statistics) -> tuple[str, ...]:
    rows, columns = found.shape
    shares = (f"{100 * share:.1f} %" for share in (found.top_channels, found.top_tokens))
    return (label, f"{rows} x {columns}", f"{found.kurtosis:.3g}", f"{found.peak:.3g}", *shares)


def main() -> None:
    """Write the tables to docs/tensors.md."""
    put(PAGE, "captured", captured_table())
    put(PAGE, "synthetic", synthetic_table())


if __name__ == "__main__":
    main()
