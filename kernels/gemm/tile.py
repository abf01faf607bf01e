"""A GEMM as the kernels see it, and the tile that a kernel is compiled for: constants in front of its CUDA text."""

from __future__ import annotations

from dataclasses import KW_ONLY, asdict, dataclass, replace
from enum import IntEnum
from functools import cached_property
from pathlib import Path

SHARED_BYTES = 232_448
"""Shared memory available to one CTA on a Hopper SM, bytes (CUDA programming guide, compute capability 9.0)."""
MAX_GROUPS = 1024
"""Largest number of groups in a grouped GEMM; their table is in shared memory."""
PROMOTE_128 = 4
"""Wgmmas between promotions where the interval is 128 products; each wgmma sums 32."""


class ScaleLayout(IntEnum):
    """Layout of the scales; the values are those of SCALES in tile.cuh."""

    TENSOR = 0
    """One scale for A and one for B, applied in the epilogue."""
    BLOCK = 1
    """A in groups of 1x128, B in blocks of 128x128: forward and dgrad."""
    GROUP = 2
    """A and B in groups of 1x128: wgrad."""


class OutputType(IntEnum):
    """Element type of D; the values are bytes per element, as OUT in tile.cuh."""

    BF16 = 2
    FP32 = 4


class Element(IntEnum):
    """Element type of A and B; the values are those of ELEMENT in tile.cuh."""

    E4M3 = 0
    INT8 = 1
    """Summed exactly in int32."""
    E2M1 = 2
    """B packed two a byte, with a power of two for every 32 along K, unpacked to E4M3; A is E4M3."""


class SharedOperand(IntEnum):
    """Operand that the CTAs of a cluster load only once; the values are those of SHARE in tile.cuh."""

    NONE = 0
    A = 1
    """CTAs side by side along N, multicast of A."""
    B = 2
    """CTAs side by side along M, multicast of B."""


@dataclass(frozen=True)
class GemmProblem:
    """Size of a GEMM and the options that its kernel is compiled with."""

    m: int
    n: int
    k: int
    _: KW_ONLY
    groups: int = 0
    """Groups of rows, each with its own B; 0 for a GEMM without groups."""
    scales: ScaleLayout = ScaleLayout.BLOCK
    promote: int = PROMOTE_128
    """Wgmmas between promotions to FP32; 0 for none."""
    out: OutputType = OutputType.BF16
    add: bool = False
    """True if the sum is added to D."""
    element: Element = Element.E4M3

    @property
    def steps(self) -> int:
        """Steps of 128 along K."""
        return -(-self.k // 128)

    @property
    def is_twin(self) -> bool:
        """True for a timing twin: group scales are loaded but nothing is promoted."""
        return self.scales != ScaleLayout.TENSOR and not self.promote


@dataclass(frozen=True)
class Tile:
    """Parameters of one compiled kernel, explained in tile.cuh. With `stages` 0, shared memory sets their number."""

    bm: int
    bn: int
    _: KW_ONLY
    share: SharedOperand = SharedOperand.NONE
    sharers: int = 2
    split: int = 1
    promote: int = PROMOTE_128
    scales: ScaleLayout = ScaleLayout.BLOCK
    out: OutputType = OutputType.BF16
    add: bool = False
    grouped: bool = False
    element: Element = Element.E4M3
    depth: int = 1
    stages: int = 0
    slots: int = 0
    """Places for unpacked steps of E2M1 weights, at most `stages`; set together with them."""

    @property
    def cluster(self) -> int:
        """CTAs per cluster."""
        return self.sharers if self.share else self.split

    @property
    def name(self) -> str:
        """Name of the machine code in the bench's records, for instance `gemm-promoted-256x128-sharea2`."""
        kind = {ScaleLayout.TENSOR: "native", ScaleLayout.BLOCK: "promoted", ScaleLayout.GROUP: "wgrad"}[self.scales]
        element = {Element.E4M3: "", Element.INT8: "int8-", Element.E2M1: "fp4-"}[self.element]
        twin = "-twin" if self.scales and not self.promote else ""
        usual = (0, PROMOTE_128) if self.scales else (0,)
        every = "" if self.promote in usual else f"-every{32 * self.promote}"
        shared = f"-share{self.share.name.lower()}{self.sharers}" if self.share else ""
        split = f"-split{self.split}" if self.split > 1 else ""
        grouped = "-grouped" if self.grouped else ""
        return f"gemm-{element}{kind}{twin}{every}-{self.bm}x{self.bn}{shared}{split}{grouped}"

    @property
    def warpgroups(self) -> int:
        """Math warpgroups per CTA; one more is the producer."""
        return min(2, self.bm // 64)

    @property
    def threads(self) -> int:
        """Threads per CTA: math warpgroups, producers, and the warps that unpack E2M1 (UNPACKERS in tile.cuh)."""
        return 128 * (self.warpgroups + 1 + (self.element == Element.E2M1))

    @property
    def box_columns(self) -> int:
        """Columns of D in one bulk store, whose rows are 128, 64 or 32 bytes long."""
        row_bytes = self._bulk_columns * self.out
        return next(width for width in (128, 64, 32) if row_bytes % width == 0) // self.out

    @property
    def _bulk_columns(self) -> int:
        """Columns of a CTA's part of D that bulk stores write."""
        return self.bn // self.split // 16 * 16

    @property
    def scale_box(self) -> int:
        """Scales of A in one bulk copy. A group may start at any row, but a copy only at a multiple of 4."""
        return self.bm + 4 * self.grouped

    def tiles(self, p: GemmProblem) -> int:
        """Tiles of D in whole clusters; an upper bound for a grouped GEMM, whose groups the host does not know."""
        down = self.bm * (self.sharers if self.share == SharedOperand.B else 1)
        across = self.bn * (self.sharers if self.share == SharedOperand.A else 1)
        clusters = (-(-p.m // down) + p.groups) * -(-p.n // across)
        return clusters * (self.sharers if self.share else 1)

    def ctas(self, p: GemmProblem, sms: int) -> int:
        """CTAs of a launch: one per tile, or as many as are resident at once, which then walk the tiles."""
        resident = sms // self.cluster * self.cluster
        return self.tiles(p) * self.split if self.split > 1 else min(self.tiles(p), resident)

    @cached_property
    def sized(self) -> Tile:
        """Copy of the tile with as many stages, and slots for unpacked weights, as shared memory holds."""
        if self.stages:
            return self
        table = 8 * MAX_GROUPS if self.grouped else 0
        left = SHARED_BYTES - self._staging - self._fixed - table
        if self.element == Element.E2M1:
            each = ((slots, min(16, (left - slots * 128 * self.bn) // self._stage)) for slots in (8, 6, 4, 3, 2))
            slots, stages = next(x for x in each if x[1] >= x[0])
            return replace(self, stages=stages, slots=slots)
        most = 16 if self.bn <= 32 or self.cluster == 4 else 8  # more loads in flight would only wait for each other
        return replace(self, stages=min(most, left // self._stage))

    @property
    def _staging(self) -> int:
        """Bytes for the staging of D and, with split K, for the partial sums of the other CTA, unless the ring holds both."""
        if self.split > 1 and self.bm == 256:
            return 0
        parts = 1 if self.out == OutputType.FP32 else self.bm // self.warpgroups // 64
        one = -(-64 * self._bulk_columns * self.out * parts // 1024) * 1024
        received = 4 * self.bm * self.bn // self.split if self.split > 1 else 0
        return one * self.warpgroups + received

    @property
    def _stage(self) -> int:
        """Bytes of a stage: operands, scales and barriers."""
        scales_a = -(-self.scale_box // 32) * 32 if self.scales else 0
        scales_b = {ScaleLayout.TENSOR: 0, ScaleLayout.BLOCK: 32, ScaleLayout.GROUP: -(-self.bn // 32) * 32}[
            self.scales
        ]
        both = self.bm * 128 + (scales_a + scales_b) * 4 + 16
        if self.element == Element.E2M1:  # packed, with factors and one barrier more
            return both + 64 * self.bn + -(-self.bn // 32) * 128 + 8
        return both + 128 * self.bn

    @property
    def _fixed(self) -> int:
        """Bytes of the barriers of received sums and of the table for unpacking."""
        return 16 + 128 * (self.element == Element.E2M1)

    def shared_bytes(self, groups: int = 0) -> int:
        """Dynamic shared memory of a launch with `groups` groups, bytes."""
        tile = self.sized
        return tile.stages * tile._stage + tile.slots * 128 * tile.bn + tile._staging + tile._fixed + 8 * groups

    @property
    def constants(self) -> str:
        """Parameters as constants for tile.cuh."""
        values = ", ".join(f"{name.upper()} = {int(value)}" for name, value in asdict(self.sized).items())
        return f"constexpr int {values};"

    @cached_property
    def source(self) -> str:
        """CUDA C++ text of the kernel."""
        return self.with_text(kernel_text())

    def with_text(self, text: str) -> str:
        """Return CUDA C++ with another kernel text, to try a change."""
        return f"{self.constants}\n{_read('ptx.cuh')}\n{_wgmma(self.bn, self.element)}\n{text}"


def _read(name: str) -> str:
    return (Path(__file__).parent / name).read_text()


def kernel_text() -> str:
    """Return the kernel's text without its constants and PTX wrappers."""
    return "\n".join(map(_read, ("tile.cuh", "epilogue.cuh", "unpack.cuh", "gemm.cu")))


DESCRIPTOR_HIGH = 1024 >> 4 | 1 << 30
"""High word of an operand's descriptor: atoms 1024 bytes apart, 128-byte swizzle (PTX ISA, wgmma matrix descriptors)."""


def _wgmma(n: int, element: Element) -> str:
    """Return the wrapper of wgmma for N = `n`. PTX needs the accumulator's registers written out one by one."""
    count = n // 2
    registers = ", ".join(f"%{i}" for i in range(count))
    kind, sums, letter, immediates = (
        ("s32.s8.s8", "int", "r", "") if element == Element.INT8 else ("f32.e4m3.e4m3", "float", "f", ", 1, 1")
    )
    outs = ", ".join(f'"+{letter}"(d[{i}])' for i in range(count))
    return f"""__device__ __forceinline__ void wgmma({sums} (&d)[{count}], u32 a, u32 b, int add) {{
  asm volatile("{{ .reg .pred p; .reg .b64 a, b; setp.ne.b32 p, %{count + 2}, 0;\\n"
               "mov.b64 a, {{%{count}, {DESCRIPTOR_HIGH}}}; mov.b64 b, {{%{count + 1}, {DESCRIPTOR_HIGH}}};\\n"
               "wgmma.mma_async.sync.aligned.m64n{n}k32.{kind} {{{registers}}}, a, b, p{immediates}; }}"
               : {outs} : "r"(a), "r"(b), "r"(add));
}}
"""
