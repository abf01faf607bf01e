"""What a GEMM kernel is compiled for: the shape of its tile and what it does with scales, as constants before gemm.cu."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kernels.gemm.choose import Problem

SHARED_BYTES = 232_448
"""Shared memory that one CTA of a Hopper SM can have (CUDA programming guide, compute capability 9.0)."""

MAX_STAGES = 12


@dataclass(frozen=True)
class Tile:
    """Parameters of one compiled kernel; gemm.cu says what each means. `stages` 0: as many as shared memory holds."""

    bm: int
    bn: int
    wgs_m: int = 2
    wgs_n: int = 1
    share: int = 0
    split: int = 1
    promote: int = 4
    scales: int = 1
    out: int = 2
    add: int = 0
    grouped: int = 0
    wide: int = 0
    order: int = 0
    resident: int = 1
    stages: int = 0

    @property
    def cluster(self) -> int:
        """CTAs of a cluster."""
        return 2 if self.share else self.split

    @property
    def threads(self) -> int:
        return 128 * (self.wgs_m * self.wgs_n + 1)

    @property
    def instruction_n(self) -> int:
        """N of the wgmma."""
        return self.bn // self.wgs_n // (2 if self.wide else 1)

    @property
    def scale_box(self) -> int:
        """Scales of A that one copy brings: a group's first row may lie anywhere, a copy starts at a multiple of 4."""
        return self.bm + 4 * self.grouped

    @property
    def band(self) -> int:
        """Tiles (pairs of tiles, where two share B) along M that are visited together: 4096 rows of A stay in the L2."""
        return max(1, 4096 // self._pair_rows)

    @property
    def _pair_rows(self) -> int:
        return self.bm * (2 if self.share == 2 else 1)

    @property
    def _pair_columns(self) -> int:
        return self.bn * (2 if self.share == 1 else 1)

    def tiles(self, p: Problem) -> int:
        """Tiles of D, those in pairs counted whole; of a grouped GEMM at most, since the host does not know the groups."""
        rows = -(-p.m // self._pair_rows) + p.groups
        pairs = rows * -(-p.n // self._pair_columns)
        return pairs * (2 if self.share else 1)

    def ctas(self, p: Problem, multiprocessors: int) -> int:
        """CTAs of a launch: all tiles, or what the machine holds at once if that is less and the kernel walks them."""
        return self.tiles(p) * self.split if self.split > 1 else min(self.tiles(p), self.resident * multiprocessors // self.cluster * self.cluster)

    @cached_property
    def sized(self) -> Tile:
        """The same with the number of stages that fits."""
        if self.stages:
            return self
        ends = 4 * 1024 if self.grouped else 0
        left = SHARED_BYTES // self.resident - 1024 * (self.resident - 1) - ends
        return replace(self, stages=min(MAX_STAGES, left // self._stage))

    @property
    def _stage(self) -> int:
        scale_floats = (-(-self.scale_box // 32) * 32 if self.scales else 0) + (-(-self.bn // 32) * 32 if self.scales == 2 else 0)
        return (self.bm + self.bn) * 128 + scale_floats * 4 + 16

    def shared_bytes(self, groups: int = 0) -> int:
        """Dynamic shared memory of a launch, bytes; `groups` of rows in a grouped GEMM."""
        tile = self.sized
        return max(tile.stages * tile._stage + 4 * groups, 4 * tile.bm * (tile.bn + 4) * (tile.split > 1))

    @cached_property
    def source(self) -> str:
        """CUDA C++ of the kernel."""
        constants = ", ".join(f"{name.upper()} = {value}" for name, value in asdict(self.sized).items())
        folder = Path(__file__).parent
        ptx, kernel = ((folder / name).read_text() for name in ("ptx.cuh", "gemm.cu"))
        return f"constexpr int {constants};\n{ptx}\n{_wgmma(self.instruction_n)}\n{kernel}"


def _wgmma(n: int) -> str:
    """The wrappers of wgmma for N = `n`, A in shared memory or in registers: each register must be written out."""
    count = n // 2
    registers = ", ".join(f"%{i}" for i in range(count))
    outs = ", ".join(f'"+f"(d[{i}])' for i in range(count))
    four = ", ".join(f"%{count + i}" for i in range(4))
    shared, held = ("u64 a", f"%{count}", '"l"(a)', 1), ("const u32 (&a)[4]", f"{{{four}}}", '"r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3])', 4)
    return "".join(
        f"""__device__ __forceinline__ void wgmma(float (&d)[{count}], {parameter}, u64 b, int add) {{
  asm volatile("{{ .reg .pred p; setp.ne.b32 p, %{count + taken + 1}, 0;\\n"
               "wgmma.mma_async.sync.aligned.m64n{n}k32.f32.e4m3.e4m3 {{{registers}}}, {a}, %{count + taken}, p, 1, 1; }}"
               : {outs} : {ins}, "l"(b), "r"(add));
}}
"""
        for parameter, a, ins, taken in (shared, held)
    )
