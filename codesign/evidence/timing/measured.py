"""Measured times: rows of the bench's records, and the operations of the model that they measure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from functools import cache

from codesign.evidence.timing.model import Operation, Product, Stream
from kernels.bench.records import Record, Row, load
from kernels.gemm.choose import candidates
from kernels.gemm.tile import Problem, Tile

WIDTHS = {0: (1.0, 1.0), 1: (1 + 4 / 128, 1 + 4 / 128**2), 2: (1 + 4 / 128, 1 + 4 / 128)}
"""Bytes per element of A and of B with FP32 scales, by the `scales` of a GEMM: none, 1x128 and 128x128, or 1x128 twice."""


@cache
def benches() -> dict[str, Record]:
    """Return the newest record of the bench with our own kernels by GPU, the newest first."""
    found: dict[str, Record] = {}
    for record in load():
        if any(row.timing and row.variant == "ours" for row in record.cases):
            found.setdefault(record.gpu, record)
    return found


def bench() -> Record:
    """Return the newest record of the bench with our own kernels. Raises LookupError if there is none."""
    for record in benches().values():
        return record
    raise LookupError("no record of the bench has our own kernels: `codesign bench` on a Hopper GPU makes one")


def product(m: int, n: int, k: int, scales: int, promote: int, groups: int = 0) -> Product:
    """Return a GEMM of kernels/gemm.

    `scales` is 0 for one scale per tensor, 1 for fprop and dgrad, 2 for wgrad, which adds to FP32. `promote` is the number of
    wgmmas between promotions, 0 for none.
    """
    problem = Problem(m, n, k, groups, scales, promote, 4 if scales == 2 else 2, scales == 2)
    return Product(problem, WIDTHS[scales])


def operation(row: Row) -> Operation | None:
    """Return the operation of a row of our kernels or a twin; None for peers and kernels without a model."""
    if row.variant == "peer" or row.implementation == "ours-anew":
        return None
    shape = row.shape
    if row.kernel.startswith("quantise."):
        kernel = row.kernel.removeprefix("quantise.")
        fp32 = kernel == "requantise" and row.implementation == "ours"
        bits = 8 * row.least_bytes / (shape["m"] * shape["k"])
        return Stream(shape["m"], shape["k"], bits, kernel, fp32_requantised=fp32)
    if not row.kernel.startswith("gemm."):
        return None
    kind = row.kernel.removeprefix("gemm.").split("-")[0]
    scales = {"native": 0, "wgrad": 2}.get(kind, 1)
    promote = 0 if row.variant == "twin" or not scales else 4
    if every := re.fullmatch(r"ours-promoted-(\d+)", row.implementation):
        promote = int(every[1]) // 32
    x = product(shape["m"], shape["n"], shape["k"], scales, promote, shape.get("groups", 0))
    return replace(x, tile=_tile(x.problem, row.static))


def _tile(p: Problem, name: str) -> Tile | None:
    """Return the tile of a name in a record. Raises LookupError if kernels/gemm no longer has it."""
    if not name:
        return None
    for tile in candidates(p):
        if tile.name == name:
            return tile
    raise LookupError(f"no tile is called {name} today: the record is of other kernels")


def rows(record: Record) -> Iterator[tuple[Row, Operation, float]]:
    """Yield the rows that the model can time, with their operation and median time in us."""
    for row in record.cases:
        found = operation(row) if row.timing else None
        if found and row.timing:
            yield row, found, row.timing.us
