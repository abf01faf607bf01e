"""Which tile a GEMM gets: a short list of tiles, and a small model of what each would take on a Hopper GPU."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

from kernels.gemm.tile import Problem, Tile


def candidates(p: Problem) -> Iterator[Tile]:
    """Tiles that can compute it, few enough that each is compiled in the tests: none spills."""
    fixed: dict[str, Any] = {"promote": p.promote, "scales": p.scales, "out": p.out}
    fixed |= {"add": int(p.add), "grouped": int(p.groups > 0)}
    large: tuple[tuple[int, int, int], ...] = ((128, 128, 1),)
    if p.promote == 0 and p.out == 2:
        large = ((128, 256, 2), (128, 192, 2))  # beside D in FP32, a ring for 128 x 256 has no room
    elif not p.groups and (p.promote == 0 or (p.promote == 4 and p.scales)):
        large = ((256, 128, 1), (128, 192, 2))
    for bm, bn, share in large:
        yield Tile(bm, bn, share=share, **fixed)
    promotes = p.promote == 4 and p.scales > 0
    splits = (1, 2) if promotes and p.scales == 1 and not p.groups and p.steps > 1 else (1,)
    for bn in (32, 64, 96, 112, 128):
        depth = 2 if promotes and (p.scales == 1 or bn < 128) else 1
        for split in splits if bn < 128 else (1,):
            yield Tile(128, bn, split=split, depth=depth, **fixed)
    depth = 2 if promotes else 1
    for bn in (32, 64):
        for split in splits:
            yield Tile(64, bn, split=split, depth=depth, **fixed)
        yield Tile(64, bn, resident=2, depth=2 if promotes and p.scales == 1 else 1, **fixed)
    yield Tile(64, 64, share=1, sharers=4, depth=depth, **fixed)


# What the model knows of an H200, in microseconds and bytes per microsecond, fitted to runs of these kernels on DeepSeek-V3's
# shapes. L2 and memory rates agree with kernels/records/machine-h200.json.
START_US = 2.4
SPLIT_US = 1.4
L2_BYTES = 9.3e6
SM_BYTES = 85e3
"""That one multiprocessor takes in."""
MEMORY_BYTES = 3.6e6
MEMORY_BYTES_IN_STEP = 4.0e6
"""Where four CTAs share A: they walk in step, and their rows of B lie side by side."""
MMA_CLOCKS = 1650.0
"""Clocks of the Tensor Cores in a microsecond, under the power limit."""
CLUSTERS_OF_FOUR = 30
"""That an H200 holds at once."""


def estimate_us(p: Problem, tile: Tile, multiprocessors: int) -> float:
    """Estimated duration in microseconds."""
    clusters = CLUSTERS_OF_FOUR if tile.cluster == 4 else multiprocessors // tile.cluster
    slots = tile.resident * tile.cluster * clusters
    ctas = tile.tiles(p) * tile.split
    active = min(ctas, slots)
    math = tile.bm * tile.bn / 32 / MMA_CLOCKS * tile.resident
    if p.promote and tile.depth == 1:
        math *= 1.12 if tile.bm == 256 else 1.25
    a_rows = tile.bm / (tile.sharers if tile.share == 1 else 1)
    b_rows = tile.bn / (tile.sharers if tile.share == 2 else 1)
    landing = (tile.bm + tile.bn) * 128 * tile.resident / SM_BYTES
    step = max(math, landing, active * (a_rows + b_rows) * 128 / L2_BYTES)
    waves = -(-ctas // slots)
    store = 0.25 + 6e-5 * tile.bm * tile.bn * (0.5 if tile.bm == 256 else 1)  # what of it nothing hides
    busy = waves * (-(-p.steps // tile.split) * step + store)
    moved = max(p.groups, 1) * p.n * p.k + p.m * p.k + p.m * p.n * p.out * (2 if p.add else 1)
    memory = moved / (MEMORY_BYTES_IN_STEP if tile.cluster == 4 and waves == 1 else MEMORY_BYTES)
    return START_US + (SPLIT_US if tile.split > 1 else 0.0) + max(busy, memory) + 0.1 * min(busy, memory)


@cache
def choose(p: Problem, multiprocessors: int) -> Tile:
    """The tile with the shortest estimate."""
    return min(candidates(p), key=lambda tile: estimate_us(p, tile, multiprocessors))
