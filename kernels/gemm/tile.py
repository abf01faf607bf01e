"""A GEMM, and what its kernel is compiled for: the shape of its tile and what it does with scales, constants of its text."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path

SHARED_BYTES = 232_448
"""Shared memory that one CTA of a Hopper SM can have (CUDA programming guide, compute capability 9.0)."""

MAX_GROUPS = 1024
"""Groups of rows in a grouped GEMM: their table lies in shared memory."""


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


@dataclass(frozen=True)
class Tile:
    """Parameters of one compiled kernel; tile.cuh says what each means. `stages` 0: as many as shared memory holds."""

    bm: int
    bn: int
    share: int = 0
    sharers: int = 2
    split: int = 1
    promote: int = 4
    scales: int = 1
    out: int = 2
    add: int = 0
    grouped: int = 0
    depth: int = 1
    stages: int = 0

    @property
    def cluster(self) -> int:
        """CTAs of a cluster."""
        return self.sharers if self.share else self.split

    @property
    def name(self) -> str:
        """As records of the bench name its machine code."""
        kind = ("native", "promoted", "wgrad")[self.scales] + ("-twin" if self.scales and not self.promote else "")
        every = f"-every{32 * self.promote}" if self.promote not in (0, 4) or (self.promote and not self.scales) else ""
        shared = f"-share{'ab'[self.share - 1]}{self.sharers}" if self.share else ""
        split = f"-split{self.split}" if self.split > 1 else ""
        return f"gemm-{kind}{every}-{self.bm}x{self.bn}{shared}{split}{'-grouped' if self.grouped else ''}"

    @property
    def warpgroups(self) -> int:
        """Warpgroups that multiply; one more loads."""
        return min(2, self.bm // 64)

    @property
    def threads(self) -> int:
        return 128 * (self.warpgroups + 1)

    @property
    def box_columns(self) -> int:
        """Columns of D that one bulk store writes: rows of 128, 64 or 32 bytes."""
        row_bytes = self._boxed * self.out
        return next(width for width in (128, 64, 32) if row_bytes % width == 0) // self.out

    @property
    def _boxed(self) -> int:
        return self.bn // self.split // 16 * 16

    @property
    def scale_box(self) -> int:
        """Scales of A that one copy brings: a group's first row may lie anywhere, a copy starts at a multiple of 4."""
        return self.bm + 4 * self.grouped

    @property
    def _team_rows(self) -> int:
        return self.bm * (self.sharers if self.share == 2 else 1)

    @property
    def _team_columns(self) -> int:
        return self.bn * (self.sharers if self.share == 1 else 1)

    def tiles(self, p: Problem) -> int:
        """Tiles of D, teams counted whole; of a grouped GEMM at most, since the host does not know the groups."""
        rows = -(-p.m // self._team_rows) + p.groups
        teams = rows * -(-p.n // self._team_columns)
        return teams * (self.sharers if self.share else 1)

    def ctas(self, p: Problem, multiprocessors: int) -> int:
        """CTAs of a launch: all tiles, or what the machine holds at once if that is less and the kernel walks them."""
        held = multiprocessors // self.cluster * self.cluster
        return self.tiles(p) * self.split if self.split > 1 else min(self.tiles(p), held)

    @cached_property
    def sized(self) -> Tile:
        """The same with the number of stages that fits."""
        if self.stages:
            return self
        table = 8 * MAX_GROUPS if self.grouped else 0
        left = SHARED_BYTES - self._staging - 8 - table
        most = 16 if self.bn <= 32 or self.cluster == 4 else 8  # more loads only wait for each other
        return replace(self, stages=min(most, left // self._stage))

    @property
    def _staging(self) -> int:
        """Bytes in which D is staged for its bulk stores, and the sums of the other half of K received."""
        parts = 1 if self.out == 4 else self.bm // self.warpgroups // 64
        one = -(-64 * self._boxed * self.out * parts // 1024) * 1024
        received = 4 * self.bm * self.bn // self.split if self.split > 1 else 0
        return one * self.warpgroups + received

    @property
    def _stage(self) -> int:
        of_a = -(-self.scale_box // 32) * 32 if self.scales else 0
        of_b = (0, 32, -(-self.bn // 32) * 32)[self.scales]
        return (self.bm + self.bn) * 128 + (of_a + of_b) * 4 + 16

    def shared_bytes(self, groups: int = 0) -> int:
        """Dynamic shared memory of a launch, bytes; `groups` of rows in a grouped GEMM."""
        tile = self.sized
        return tile.stages * tile._stage + tile._staging + 8 + 8 * groups

    @property
    def constants(self) -> str:
        """The parameters as tile.cuh reads them."""
        values = ", ".join(f"{name.upper()} = {value}" for name, value in asdict(self.sized).items())
        return f"constexpr int {values};"

    @cached_property
    def source(self) -> str:
        """CUDA C++ of the kernel."""
        return self.around(kernel_text())

    def around(self, text: str) -> str:
        """The same with another text of the kernel, to try it."""
        return f"{self.constants}\n{read('ptx.cuh')}\n{_wgmma(self.bn)}\n{text}"


def read(name: str) -> str:
    """A file of CUDA C++ beside this one."""
    return (Path(__file__).parent / name).read_text()


def kernel_text() -> str:
    """The kernel, after its parameters and the instructions it uses."""
    return "\n".join(map(read, ("tile.cuh", "epilogue.cuh", "gemm.cu")))


DESCRIPTOR_HIGH = 1024 >> 4 | 1 << 30
"""High word of an operand's descriptor: atoms 1024 bytes apart, 128-byte swizzle (PTX ISA, wgmma matrix descriptors)."""


def _wgmma(n: int) -> str:
    """The wrapper of wgmma for N = `n`: its accumulator's registers must be written out one by one."""
    count = n // 2
    registers = ", ".join(f"%{i}" for i in range(count))
    outs = ", ".join(f'"+f"(d[{i}])' for i in range(count))
    return f"""__device__ __forceinline__ void wgmma(float (&d)[{count}], u32 a, u32 b, int add) {{
  asm volatile("{{ .reg .pred p; .reg .b64 a, b; setp.ne.b32 p, %{count + 2}, 0;\\n"
               "mov.b64 a, {{%{count}, {DESCRIPTOR_HIGH}}}; mov.b64 b, {{%{count + 1}, {DESCRIPTOR_HIGH}}};\\n"
               "wgmma.mma_async.sync.aligned.m64n{n}k32.f32.e4m3.e4m3 {{{registers}}}, a, b, p, 1, 1; }}"
               : {outs} : "r"(a), "r"(b), "r"(add));
}}
"""
