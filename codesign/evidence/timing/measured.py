"""Measured times: rows of the bench's records, and the operations of the model that they measure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from functools import cache

from codesign.evidence.timing.model import Operation, Product, Stream
from kernels.bench.records import FOLDER, BenchRecord, BenchRow, load, read
from kernels.gemm.choose import candidates
from kernels.gemm.tile import PROMOTE_128, GemmProblem, OutputType, ScaleLayout, SharedOperand, Tile

WIDTHS = {
    ScaleLayout.TENSOR: (1.0, 1.0),
    ScaleLayout.BLOCK: (1 + 4 / 128, 1 + 4 / 128**2),
    ScaleLayout.GROUP: (1 + 4 / 128, 1 + 4 / 128),
}
"""Bytes per element of A and of B, with their shares of FP32 scales."""


@cache
def benches() -> dict[str, BenchRecord]:
    """Return the newest record of the bench with our own kernels by GPU, the newest first."""
    found: dict[str, BenchRecord] = {}
    for record in load():
        if any(row.timing and row.variant == "ours" for row in record.cases):
            found.setdefault(record.gpu, record)
    return found


def bench(gpu: str = "") -> BenchRecord:
    """Return the newest record of the bench with our own kernels, on one GPU or on any. Raises LookupError if there is none."""
    for name, record in benches().items():
        if gpu in ("", name):
            return record
    where = f" on {gpu}" if gpu else ""
    raise LookupError(f"no record of the bench{where} has our own kernels: `codesign bench` on a Hopper GPU makes one")


EARLIER = ((256, 128, SharedOperand.A), (128, 192, SharedOperand.B))
"""Tiles of wgrad in the H100's record that kernels/gemm no longer has."""


def product(m: int, n: int, k: int, scales: ScaleLayout, promote: int, groups: int = 0) -> Product:
    """Return a GEMM of kernels/gemm; wgrad (`GROUP`) adds to FP32. `promote` is the wgmmas between promotions, 0 for none."""
    wgrad = scales == ScaleLayout.GROUP
    out = OutputType.FP32 if wgrad else OutputType.BF16
    problem = GemmProblem(m, n, k, groups=groups, scales=scales, promote=promote, out=out, add=wgrad)
    return Product(problem, WIDTHS[scales])


def operation(row: BenchRow) -> Operation | None:
    """Return the operation of a row of our kernels or a twin; None for peers and kernels without a model."""
    if row.variant == "peer" or row.implementation == "ours-anew":
        return None
    shape = row.shape
    if row.kernel.startswith("quantise."):
        kernel = row.kernel.removeprefix("quantise.")
        fp32 = kernel == "requantise" and row.implementation == "ours"
        bits = 8 * row.least_bytes / (shape["m"] * shape["k"])
        return Stream(shape["m"], shape["k"], bits, kernel, fp32_requantised=fp32)
    kind = row.kernel.removeprefix("gemm.").split("-")[0]
    if not row.kernel.startswith("gemm.") or kind in ("int8", "fp4"):
        return None
    scales = {"native": ScaleLayout.TENSOR, "wgrad": ScaleLayout.GROUP}.get(kind, ScaleLayout.BLOCK)
    promote = 0 if row.variant == "twin" or kind == "native" else PROMOTE_128
    if every := re.fullmatch(r"ours-promoted-(\d+)", row.implementation):
        promote = int(every[1]) // 32
    x = product(shape["m"], shape["n"], shape["k"], scales, promote, shape.get("groups", 0))
    return replace(x, tile=_tile(x.problem, row.static))


def _tile(p: GemmProblem, name: str) -> Tile | None:
    """Return the tile of a name in a record. Raises LookupError if it is neither a candidate nor one of `EARLIER`."""
    if not name:
        return None
    earlier = [
        Tile(bm, bn, share=share, scales=p.scales, promote=p.promote, out=p.out, add=p.add) for bm, bn, share in EARLIER
    ]
    for tile in (*candidates(p), *earlier):
        if tile.name == name:
            return tile
    raise LookupError(f"kernels/gemm has no tile {name}: the record is of other kernels")


@cache
def tiles(gpu: str) -> tuple[BenchRecord, ...]:
    """Return the records of a GPU with times of every tile that a GEMM could have (benchmarks/tiles.py)."""
    found = (read(path) for path in sorted(FOLDER.glob("tiles-*.json")))
    return tuple(record for record in found if record.gpu == gpu)


def whole_k(gpu: str) -> Iterator[tuple[BenchRow, Operation]]:
    """Yield the row of the fastest tile whose CTAs sum all of K, for each GEMM of which all tiles were measured."""
    fastest: dict[Operation, tuple[float, BenchRow]] = {}
    for record in tiles(gpu):
        for row, found, us in rows(record):
            if isinstance(found, Product) and found.tile and found.tile.split == 1:
                key = replace(found, tile=None, split_k=False)
                fastest[key] = min(fastest.get(key, (us, row)), (us, row), key=lambda x: x[0])
    for whole, (_, row) in fastest.items():
        yield row, whole


def rows(record: BenchRecord) -> Iterator[tuple[BenchRow, Operation, float]]:
    """Yield the rows that the model can time, with their operation and median time in us."""
    for row in record.cases:
        found = operation(row) if row.timing else None
        if found and row.timing:
            yield row, found, row.timing.us
