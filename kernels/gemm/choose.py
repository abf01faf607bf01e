"""Choice of the tile of a GEMM: a short list of tiles, and a small model of the time of each on a Hopper GPU."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache, partial

from kernels.gemm.tile import PROMOTE_128, GemmProblem, OutputType, ScaleLayout, SharedOperand, Tile


def candidates(p: GemmProblem) -> Iterator[Tile]:
    """Yield the tiles that can compute a GEMM. They are so few that the tests compile them all, and none spills."""
    if p.is_twin:  # a twin must differ from its kernel only in the promotion
        yield from (replace(tile, promote=0) for tile in candidates(replace(p, promote=PROMOTE_128)))
        return
    tile = partial(Tile, scales=p.scales, promote=p.promote, out=p.out, add=p.add, grouped=p.groups > 0)
    flat = p.m <= 64 and not p.groups  # tiles of 128 rows would be half empty
    if not flat:
        for bm, bn, share in _large(p):
            yield tile(bm, bn, share=share)
    depth = _depth(p)
    # Splitting K gives SMs work where D has too few tiles. It is built only for forward and dgrad GEMMs.
    splittable = p.scales == ScaleLayout.BLOCK and p.promote == PROMOTE_128 and not p.groups and p.steps > 1
    for bm, widths in ((128, () if flat else (32, 64, 96, 128)), (64, (32, 64))):
        for bn in widths:
            # A scale for every column and two steps in flight spill at 128 x 128.
            spills = p.scales == ScaleLayout.GROUP and bm == bn == 128
            for split in (1, 2) if splittable else (1,):
                yield tile(bm, bn, split=split, depth=1 if spills else depth)
    yield tile(64, 64, share=SharedOperand.A, sharers=4, depth=depth)


def _large(p: GemmProblem) -> tuple[tuple[int, int, SharedOperand], ...]:
    """Return rows, columns and shared operand of the tiles for many rows."""
    a, b = SharedOperand.A, SharedOperand.B
    if not p.promote and p.out == OutputType.BF16:
        # Without a second accumulator, 256 columns fit the registers. Beside D in FP32 their ring does not fit shared memory.
        return (128, 256, b), (128, 192, b), (256, 136, a)
    if p.groups or p.promote not in (0, PROMOTE_128):
        return ((128, 128, a),)
    if p.scales == ScaleLayout.GROUP and p.out == OutputType.BF16:
        return ((128, 192, b),)  # 256 x 128 spills with some versions of the compiler
    if p.scales == ScaleLayout.GROUP or not p.promote:
        return (256, 128, a), (128, 192, b)
    # 136 columns where tiles of 128 just miss a whole number of waves.
    return (256, 128, a), (128, 192, b), (256, 136, a)


def _depth(p: GemmProblem) -> int:
    """Return the steps of K in flight per warpgroup; tile.cuh builds 2 for group scales every 128, and without promotion."""
    grouped_scales = p.scales != ScaleLayout.TENSOR and p.promote == PROMOTE_128
    return 2 if grouped_scales or not p.promote else 1


# Constants of the model for an H100, fitted to runs of these tiles on DeepSeek-V3's shapes; each also absorbs effects that are
# not modelled. `python benchmarks/tiles.py kernels/records/tiles-h100.json --show` compares the choice with the fastest tile.
START_US = 1.6
SPLIT_US = 1.0
CLUSTER_OF_FOUR_US = 1.0
CLUSTERS_OF_FOUR = 30
"""Clusters of four CTAs resident on the GPU at once."""
L2_BYTES = 12e6
"""Bytes per microsecond from L2."""
SM_BYTES_A_CLOCK = 47.0
"""Bytes one SM can load, per clock."""
MEMORY_BYTES = 3.2e6
"""Bytes per microsecond from HBM."""
MEMORY_BYTES_IN_STEP = 3.4e6
"""Bytes per microsecond from HBM if four CTAs share A; they advance together and read adjacent rows of B."""
CLOCKS, CLOCKS_OF_MANY = 1950.0, 1600.0
"""Clocks per microsecond; from MANY rows on, the power limit sets the clock."""
RAGGED_US = 2.0
"""Time to store the last 8 columns of a tile, which no bulk store covers, microseconds."""
MANY = 1024


def estimate_us(p: GemmProblem, tile: Tile, sms: int) -> float:
    """Return the estimated duration on a GPU with `sms` SMs, microseconds."""
    clusters = CLUSTERS_OF_FOUR if tile.cluster == 4 else sms // tile.cluster
    slots = tile.cluster * clusters
    ctas = tile.tiles(p) * tile.split
    active = min(ctas, slots)
    clocks = CLOCKS_OF_MANY if p.m >= MANY else CLOCKS
    math = tile.bm * tile.bn / 32 / clocks
    if p.promote and tile.depth == 1:
        math *= (1.1 if tile.bm == 256 else 1.13) * (1.0 if tile.bn % 64 == 0 else 1.04)
    a_rows = tile.bm / (tile.sharers if tile.share == SharedOperand.A else 1)
    b_rows = tile.bn / (tile.sharers if tile.share == SharedOperand.B else 1)
    load = (tile.bm + tile.bn) * 128 / (SM_BYTES_A_CLOCK * clocks)
    step = max(math, load, active * (a_rows + b_rows) * 128 / L2_BYTES)
    waves = -(-ctas // slots)
    store = 0.4 + 2e-5 * tile.bm * tile.bn / tile.split  # the part of the epilogue that is not hidden
    store += RAGGED_US if tile.bn % 16 else 0.0
    busy = waves * (-(-p.steps // tile.split) * step + store)
    moved = max(p.groups, 1) * p.n * p.k + p.m * p.k + p.m * p.n * p.out * (2 if p.add else 1)
    memory = moved / (MEMORY_BYTES_IN_STEP if tile.cluster == 4 and waves == 1 else MEMORY_BYTES)
    start = START_US + (SPLIT_US if tile.split > 1 else 0.0) + (CLUSTER_OF_FOUR_US if tile.cluster == 4 else 0.0)
    return start + max(busy, memory) + 0.2 * min(busy, memory)


@cache
def choose(p: GemmProblem, sms: int, split_k: bool = True) -> Tile:
    """Return the tile with the shortest estimate on a GPU with `sms` SMs; a timing twin gets its kernel's tile.

    Without `split_k`, only tiles whose CTAs sum all of K: the bits of a row then do not depend on the other rows.
    """
    if p.is_twin:
        return replace(choose(replace(p, promote=PROMOTE_128), sms, split_k), promote=0)
    return min(
        (tile for tile in candidates(p) if split_k or tile.split == 1), key=lambda tile: estimate_us(p, tile, sms)
    )
