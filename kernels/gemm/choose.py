"""Which tile a GEMM gets: a short list of tiles, and a small model of what each would take on a Hopper GPU."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from typing import Any

from kernels.gemm.tile import Problem, Tile


def candidates(p: Problem) -> Iterator[Tile]:
    """Tiles that can compute it, few enough that all are compiled in the tests: none spills."""
    if p.scales and not p.promote:  # a timing twin: the kernels that promote, without promotion
        yield from (replace(tile, promote=0) for tile in candidates(replace(p, promote=4)))
        return
    fixed: dict[str, Any] = {"promote": p.promote, "scales": p.scales, "out": p.out}
    fixed |= {"add": int(p.add), "grouped": int(p.groups > 0)}
    promotes = p.promote == 4
    depth = 2 if (promotes and p.scales) or not p.promote else 1
    large: tuple[tuple[int, int, int], ...] = ((128, 128, 1),)
    if not p.promote and p.out == 2:
        large = ((128, 256, 2), (128, 192, 2), (256, 136, 1))  # beside D in FP32, a ring for 128 x 256 has no room
    elif not p.groups and (promotes or not p.promote):
        large = ((256, 128, 1), (128, 192, 2))
        if p.scales == 2 and p.out == 2:
            large = ((128, 192, 2),)  # the registers for 256 x 128 do not suffice with every compiler
        elif promotes and p.scales < 2:
            large += ((256, 136, 1),)  # where 128 columns just miss a whole number of rounds
    flat = p.m <= 64 and not p.groups  # 128 rows would be half empty
    for bm, bn, share in () if flat else large:
        yield Tile(bm, bn, share=share, **fixed)
    splits = (1, 2) if p.scales == 1 and p.promote in (0, 4) and not p.groups and p.steps > 1 else (1,)
    for bm, widths in ((128, () if flat else (32, 64, 96, 128)), (64, (32, 64))):
        for bn in widths:
            for split in splits:
                fits = p.scales < 2 or bm == 64 or bn < 128
                yield Tile(bm, bn, split=split, depth=depth if fits else 1, **fixed)
    yield Tile(64, 64, share=1, sharers=4, depth=depth, **fixed)


# What the model knows of an H100, in microseconds and bytes per microsecond: fitted to runs of these tiles on DeepSeek-V3's
# shapes, so that each stands for what is not modelled beside it too. How near the choice comes to the fastest of all tiles,
# `python benchmarks/tiles.py kernels/records/tiles-h100.json --show` says.
START_US = 1.6
SPLIT_US = 1.0
CLUSTER_OF_FOUR_US = 1.0
CLUSTERS_OF_FOUR = 30
"""Clusters of four CTAs resident on the GPU at once."""
L2_BYTES = 12e6
SM_BYTES_A_CLOCK = 47.0
"""Bytes one SM can load, per clock."""
MEMORY_BYTES = 3.2e6
MEMORY_BYTES_IN_STEP = 3.4e6
"""Where four CTAs share A: they walk in step, and their rows of B lie side by side."""
CLOCKS, CLOCKS_OF_MANY = 1950.0, 1600.0
"""Clocks per microsecond; with many rows to multiply the power limit sets the clock."""
RAGGED_US = 2.0
"""Microseconds for the last 8 columns of a tile, which no bulk store takes."""
MANY = 1024


def estimate_us(p: Problem, tile: Tile, multiprocessors: int) -> float:
    """Estimated duration in microseconds."""
    clusters = CLUSTERS_OF_FOUR if tile.cluster == 4 else multiprocessors // tile.cluster
    slots = tile.cluster * clusters
    ctas = tile.tiles(p) * tile.split
    active = min(ctas, slots)
    clocks = CLOCKS_OF_MANY if p.m >= MANY else CLOCKS
    math = tile.bm * tile.bn / 32 / clocks
    if p.promote and tile.depth == 1:
        math *= (1.1 if tile.bm == 256 else 1.13) * (1.0 if tile.bn % 64 == 0 else 1.04)
    a_rows = tile.bm / (tile.sharers if tile.share == 1 else 1)
    b_rows = tile.bn / (tile.sharers if tile.share == 2 else 1)
    landing = (tile.bm + tile.bn) * 128 / (SM_BYTES_A_CLOCK * clocks)
    step = max(math, landing, active * (a_rows + b_rows) * 128 / L2_BYTES)
    waves = -(-ctas // slots)
    store = 0.4 + 2e-5 * tile.bm * tile.bn / tile.split  # what of it nothing hides
    store += RAGGED_US if tile.bn % 16 else 0.0
    busy = waves * (-(-p.steps // tile.split) * step + store)
    moved = max(p.groups, 1) * p.n * p.k + p.m * p.k + p.m * p.n * p.out * (2 if p.add else 1)
    memory = moved / (MEMORY_BYTES_IN_STEP if tile.cluster == 4 and waves == 1 else MEMORY_BYTES)
    start = START_US + (SPLIT_US if tile.split > 1 else 0.0) + (CLUSTER_OF_FOUR_US if tile.cluster == 4 else 0.0)
    return start + max(busy, memory) + 0.2 * min(busy, memory)


@cache
def choose(p: Problem, multiprocessors: int) -> Tile:
    """The tile with the shortest estimate; of a timing twin that of its kernel."""
    if p.scales and not p.promote:
        return replace(choose(replace(p, promote=4), multiprocessors), promote=0)
    return min(candidates(p), key=lambda tile: estimate_us(p, tile, multiprocessors))
