"""Choice of the tile of a GEMM: a short list of tiles, and a small model of the time of each on a Hopper GPU."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

from kernels.gemm.tile import PROMOTE_128, Element, GemmProblem, OutputType, ScaleLayout, SharedOperand, Tile
from kernels.launch import SMS


def candidates(p: GemmProblem) -> Iterator[Tile]:
    """Yield the tiles that can compute a GEMM. They are so few that the tests compile them all, and none spills."""
    if p.is_twin:
        yield from (without_promotion(tile, p.m) for tile in candidates(replace(p, promote=PROMOTE_128)))
        return
    tile = partial(
        Tile, scales=p.scales, promote=p.promote, out=p.out, add=p.add, grouped=p.groups > 0, element=p.element
    )
    flat = p.m <= 64 and not p.groups  # tiles of 128 rows would be half empty
    if not flat:
        yield from _large(p, tile)
    depth = _depth(p)
    # Splitting K gives SMs work where D has too few tiles. It is built only for forward and dgrad GEMMs.
    splittable = p.scales == ScaleLayout.BLOCK and p.promote == PROMOTE_128 and not p.groups and p.steps > 1
    if splittable and not flat and -(-p.m // 256) * -(-p.n // 128) <= SMS // 2:  # CTAs that split K do not walk tiles
        yield tile(256, 128, split=2)
    narrow = (32, 64, 128) if p.element == Element.E2M1 else (32, 64)
    for bm, widths in ((128, () if flat else (32, 64, 96, 128)), (64, narrow)):
        for bn in widths:
            spills = bn == 128 and bm == 64  # two steps in flight, in a single warpgroup
            for split in (1, 2) if splittable else (1,):
                yield tile(bm, bn, split=split, depth=1 if spills else depth)
    yield tile(64, 64, share=SharedOperand.A, sharers=4, depth=depth)


def without_promotion(tile: Tile, m: int) -> Tile:
    """Return a twin's tile: its kernel's, but with 256 rows where promotion alone keeps the kernel to 128."""
    narrow = (tile.bm, tile.bn, tile.share, tile.grouped) == (128, 128, SharedOperand.A, False) and m > tile.bm
    return replace(tile, promote=0, bm=256, depth=1) if narrow else replace(tile, promote=0)


def _large(p: GemmProblem, tile: Callable[..., Tile]) -> tuple[Tile, ...]:
    """Return the tiles for many rows."""
    a, b = SharedOperand.A, SharedOperand.B
    if not p.promote and p.out == OutputType.BF16:
        # Without a second accumulator, 256 columns fit the registers. Beside D in FP32 their ring does not fit shared memory.
        return tile(128, 256, share=b), tile(128, 192, share=b), tile(256, 136, share=a)
    if p.groups:  # a group's scales for 256 rows at any start do not fit a copy's box
        return tile(128, 192, share=a), tile(128, 128, share=a)
    if p.scales == ScaleLayout.GROUP or p.promote not in (0, PROMOTE_128):
        return (tile(128, 128, share=a),)
    if p.element == Element.INT8 and p.promote:
        return (tile(128, 128, share=a, depth=2),)  # converting sums to FP32 takes as long as promoting them
    wide = tile(256, 128, share=a), tile(128, 192, share=b)
    if p.element == Element.E2M1 or not p.promote:
        return wide
    return *wide, tile(256, 136, share=a)  # 136 columns where tiles of 128 just miss a whole number of waves


def _depth(p: GemmProblem) -> int:
    """Return the steps of K in flight per warpgroup; tile.cuh builds 2 for block scales every 128, and without promotion."""
    return 2 if not p.promote or (p.scales == ScaleLayout.BLOCK and p.promote == PROMOTE_128) else 1


FITTED = "NVIDIA H100 80GB HBM3"
RECORDS = Path(__file__).parent.parent / "records"
MANY = 1024
"""Rows from which on the power limit sets the clock."""


@dataclass(frozen=True)
class Gpu:
    """Constants of the model of a GPU, by default an H100's.

    They were fitted to runs of all tiles on DeepSeek-V3's shapes (kernels/records/tiles-h100.json), and each also absorbs
    effects that are not modelled. `python benchmarks/tiles.py RECORD.json --show` compares the choice with the fastest tile.
    """

    sms: int = 132
    start_us: float = 1.6
    split_us: float = 1.0
    """Time to exchange the sums of 128 rows where K is split."""
    wave_us: float = 2.0
    """Time to start each further wave of CTAs where K is split, since such CTAs do not go on to another tile."""
    cluster_of_four_us: float = 1.0
    clusters_of_four: int = 30
    """Clusters of four CTAs resident on the GPU at once."""
    l2_bytes: float = 12e6
    """Bytes per microsecond from L2."""
    sm_bytes_a_clock: float = 47.0
    """Bytes one SM can load, per clock."""
    memory_bytes: float = 3.2e6
    """Bytes per microsecond from HBM."""
    memory_bytes_in_step: float = 3.4e6
    """Bytes per microsecond from HBM if four CTAs share A; they advance together and read adjacent rows of B."""
    clocks: float = 1950.0
    """Clocks per microsecond below MANY rows."""
    clocks_of_many: float = 1600.0
    """Clocks per microsecond from MANY rows on."""
    ragged_us: float = 2.0
    """Time to store the last 8 columns of a tile, which no bulk store covers."""


OWN: dict[str, dict[str, Any]] = {"NVIDIA H200": {"split_us": 1.5}}
"""Constants of a GPU that its own record of all tiles asks for."""
BANDWIDTHS = {
    "l2_bytes": "tma-l2-read.gbps",
    "memory_bytes": "tma-memory-read.gbps",
    "memory_bytes_in_step": "tma-memory-read.gbps",
}
"""Constants that follow a bandwidth of kernels.bench.machine, and that bandwidth's name."""


@cache
def _measured() -> dict[str, dict[str, float]]:
    """Return the microbenchmarks of the shipped records, by GPU and name."""
    records = [json.loads(path.read_text(encoding="utf-8")) for path in RECORDS.glob("machine-*.json")]
    return {r["gpu"]: {constant["name"]: constant["value"] for constant in r["constants"]} for r in records}


@cache
def gpu_of(name: str, sms: int = 132) -> Gpu:
    """Return the constants of a GPU by name: an H100's, with bandwidths in proportion to its machine record, and its own.

    `python -m kernels.bench.machine --out kernels/records/machine-NAME.json` makes the record; without one the bandwidths
    are an H100's, too.
    """
    found = replace(Gpu(sms), **OWN.get(name, {}))
    if name in _measured():
        here, there = _measured()[name], _measured()[FITTED]
        found = replace(
            found, **{field: getattr(found, field) * here[of] / there[of] for field, of in BANDWIDTHS.items()}
        )
    return found


def estimate_us(p: GemmProblem, tile: Tile, gpu: Gpu) -> float:
    """Return the estimated duration on a GPU, microseconds."""
    clusters = gpu.clusters_of_four if tile.cluster == 4 else gpu.sms // tile.cluster
    slots = tile.cluster * clusters
    ctas = tile.tiles(p) * tile.split
    active = min(ctas, slots)
    clocks = gpu.clocks_of_many if p.m >= MANY else gpu.clocks
    math = tile.bm * tile.bn / 32 / clocks
    if p.promote and tile.depth == 1:
        math *= (1.1 if tile.bm == 256 else 1.13) * (1.0 if tile.bn % 64 == 0 else 1.04)
    a_rows = tile.bm / (tile.sharers if tile.share == SharedOperand.A else 1)
    b_rows = tile.bn / (tile.sharers if tile.share == SharedOperand.B else 1)
    weights = 17 / 32 if p.element == Element.E2M1 else 1.0  # bytes an element of B, with E2M1's scales
    load = (tile.bm + tile.bn * weights) * 128 / (gpu.sm_bytes_a_clock * clocks)
    unpack = (330 + (4 if tile.bm == 64 else 7) * tile.bn) / clocks if p.element == Element.E2M1 else 0.0
    step = max(math, load, unpack, active * (a_rows + b_rows * weights) * 128 / gpu.l2_bytes)
    waves = -(-ctas // slots)
    store = 0.4 + 2e-5 * tile.bm * tile.bn / tile.split  # the part of the epilogue that is not hidden
    store += gpu.ragged_us if tile.bn % 16 else 0.0
    busy = waves * (-(-p.steps // tile.split) * step + store)
    moved = max(p.groups, 1) * p.n * p.k * weights + p.m * p.k + p.m * p.n * p.out * (2 if p.add else 1)
    memory = moved / (gpu.memory_bytes_in_step if tile.cluster == 4 and waves == 1 else gpu.memory_bytes)
    start = gpu.start_us + (gpu.split_us * max(tile.bm // 128, 1) if tile.split > 1 else 0.0)
    start += gpu.cluster_of_four_us if tile.cluster == 4 else 0.0
    start += (waves - 1) * gpu.wave_us if tile.split > 1 else 0.0
    return start + max(busy, memory) + 0.2 * min(busy, memory)


@cache
def choose(p: GemmProblem, gpu: Gpu, split_k: bool = True) -> Tile:
    """Return the tile with the shortest estimate on a GPU; a timing twin gets its kernel's (`without_promotion`).

    Without `split_k`, only tiles whose CTAs sum all of K: the bits of a row then do not depend on the other rows.
    """
    if p.is_twin:
        return without_promotion(choose(replace(p, promote=PROMOTE_128), gpu, split_k), p.m)
    return min(
        (tile for tile in candidates(p) if split_k or tile.split == 1), key=lambda tile: estimate_us(p, tile, gpu)
    )
