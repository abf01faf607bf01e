"""Which tile a GEMM gets: a small model of Hopper's SMs over a short list of tiles."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import product

from kernels.gemm.tile import Tile

REGISTERS = 208
"""Accumulator registers that a math thread can hold beside its addresses, of the 224 it has."""


@dataclass(frozen=True)
class Problem:
    """A GEMM as the kernels see it: sizes, groups of rows (0: not grouped), and the fixed parameters of its kernel."""

    m: int
    n: int
    k: int
    groups: int
    scales: int
    promote: int
    out: int
    add: bool

    @property
    def steps(self) -> int:
        """Stretches of 128 along K."""
        return -(-self.k // 128)


def candidates(p: Problem) -> Iterator[Tile]:
    """Tiles that can compute it."""
    fixed = {"promote": p.promote, "scales": p.scales, "out": p.out, "add": int(p.add), "grouped": int(p.groups > 0)}
    shapes = ((64, 1, 1), (64, 1, 2), (128, 2, 1), (256, 2, 1))
    splits = (1,) if p.groups else (1, 2, 4, 8)
    for (bm, wgs_m, wgs_n), bn in product(shapes, range(16, 257, 16)):
        wn, halves = bn // wgs_n, bm // wgs_m // 64
        held = halves * wn // 2 + (wn // 2 if p.promote else 0)
        if wn % 16 or held > REGISTERS or (p.promote > 4 and halves > 1):
            continue
        for split in splits:
            if split == 1 or (split <= p.steps and bm < 256):
                tile = Tile(bm, bn, wgs_m, wgs_n, split=split, **fixed)
                if tile.sized.stages >= 3:
                    yield tile
        if bm > 64:
            for share in (1, 2):
                tile = Tile(bm, bn, wgs_m, wgs_n, share=share, **fixed)
                if tile.sized.stages >= 3:
                    yield tile


L2_BYTES = 40.0
"""Bytes a clock that one SM takes from the L2 while all do."""

MEMORY_BYTES = 2400.0
"""Bytes a clock from device memory, for all SMs together."""


def cycles(p: Problem, tile: Tile, multiprocessors: int) -> float:
    """Estimated duration, clocks."""
    rows = p.m // max(p.groups, 1)
    mma = tile.bm * tile.bn / 32
    promotion = tile.bm * tile.bn / 128 * (4 / p.promote if p.promote else 0)
    alone = tile.wgs_m * tile.wgs_n == 1
    math = mma + promotion + 100 if alone else max(mma * 1.04, mma / 2 + promotion / 2 + 150)
    a_rows = tile.bm / (2 if tile.share == 1 else 1)
    b_rows = tile.bn / (2 if tile.share == 2 else 1)
    step = max(math, (a_rows + b_rows) * 128 / L2_BYTES)
    store = tile.bm * tile.bn * tile.out / 64 + 400
    steps = -(-p.steps // tile.split)
    waves = -(-tile.tiles(p) * tile.split // (multiprocessors // tile.cluster * tile.cluster))
    busy = waves * (steps * step + store) + (1500 if tile.split > 1 else 0)
    moved = max(p.groups, 1) * p.n * p.k + p.m * p.k + p.m * p.n * tile.out * (2 if p.add else 1)
    del rows
    return max(busy, moved / MEMORY_BYTES) + 3000


@cache
def choose(p: Problem, multiprocessors: int) -> Tile:
    """The tile with the shortest estimate."""
    return min(candidates(p), key=lambda tile: cycles(p, tile, multiprocessors))
