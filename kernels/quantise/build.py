"""Builds of the quantisation kernels: the options that tile.cu is compiled with, and their machine code."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

from kernels import nvrtc
from kernels.launch import SMS, Kernel

THREADS = 256
"""Threads per CTA."""


@dataclass(frozen=True, eq=True)
class Choice:
    """Options of one build of tile.cu: the macros that tile.cuh explains."""

    source: Literal["BF16", "E4M3", "SWIGLU"] = "BF16"
    target: Literal["E4M3", "E5M6"] = "E4M3"
    rows: bool = False
    columns: bool = False
    blocks: bool = False
    power_of_2: bool = False
    send: bool = False
    twin: bool = False

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if name not in ("source", "target") and value not in (False, True):
                raise ValueError(f"{name} must be True or False; it is {value!r}")

    @property
    def name(self) -> str:
        """Name of the machine code, for instance `bf16-rows-columns`."""
        flags = [name for name, value in vars(self).items() if value is True]
        return "-".join([self.source.lower(), *(["e5m6"] if self.target == "E5M6" else []), *flags]).replace("_", "-")

    @property
    def pieces(self) -> int:
        """Pieces of 8 columns per thread: 8 where groups span 128 rows; fewer where each piece costs more arithmetic."""
        return 8 if self.columns or self.blocks else 2 if self.source == "SWIGLU" else 4

    @property
    def across(self) -> bool:
        """True if a thread's pieces are side by side, with several scales of one row; false if one below the other."""
        return self.send

    @property
    def min_blocks(self) -> int:
        """CTAs that an SM must be able to hold, which limits registers. The values are the fastest on an H200."""
        if self.source == "SWIGLU":
            return 6
        return 3 if self.source == "E4M3" and not self.power_of_2 else 4

    @property
    def ahead(self) -> int:
        """CTAs resident on the GPU at once; a CTA is succeeded by the one this many places later."""
        return SMS * self.min_blocks

    @property
    def down_first(self) -> bool:
        """True if CTAs are ordered down the matrix first, then across."""
        return self.columns and not self.rows

    def grid(self, m: int, k: int) -> tuple[int, int]:
        """Return the grid for an (m, k) matrix."""
        rows, columns = (16, 128 * self.pieces) if self.across else (16 * self.pieces, 128)
        across, down = -(-k // columns), -(-m // rows)
        return (down, across) if self.down_first else (across, down)

    @property
    def text(self) -> str:
        """CUDA C++ text of the kernel, without the instructions in hopper.h."""
        macros = {name.upper(): value for name, value in vars(self).items()}
        macros |= {
            "PIECES": self.pieces,
            "ACROSS": self.across,
            "DOWN_FIRST": self.down_first,
            "MIN_BLOCKS": self.min_blocks,
            "AHEAD": self.ahead,
        }
        values = {name: value if isinstance(value, str) else int(value) for name, value in macros.items()}
        return (
            "".join(f"#define {name} {value}\n" for name, value in values.items()) + read("tile.cuh") + read("tile.cu")
        )


def read(name: str) -> str:
    """Return a file of CUDA C++ of this folder."""
    return (Path(__file__).parent / name).read_text()


def all_choices() -> tuple[Choice, ...]:
    """Return every build that a function of this package or a timing twin launches."""
    layouts: tuple[dict[str, Any], ...] = (
        {"rows": True},
        {"columns": True},
        {"rows": True, "columns": True},
        {"rows": True, "blocks": True},
        {"rows": True, "columns": True, "blocks": True},
        {"source": "SWIGLU", "rows": True},
        {"source": "E4M3", "columns": True},
    )
    packed, sent = Choice(target="E5M6", rows=True, power_of_2=True), Choice(rows=True, power_of_2=True, send=True)
    twins = [
        Choice(**layout, twin=True) for layout in layouts if layout.get("source") != "E4M3" and "blocks" not in layout
    ]
    scaled = [Choice(**layout, power_of_2=power) for layout in layouts for power in (False, True)]
    return (*scaled, packed, sent, *twins, replace(packed, twin=True), replace(sent, twin=True))


def cubin(text: str) -> bytes:
    """Return the machine code of a kernel text; see `kernels.nvrtc.cubin`."""
    return nvrtc.cubin(read("hopper.h") + text)


@cache
def kernel(choice: Choice) -> Kernel:
    """Return the tile kernel of a choice, compiled on first use."""
    return Kernel(cubin(choice.text), "tile", THREADS)


@cache
def unpack_kernel() -> Kernel:
    """Return the kernel that unpacks E5M6, compiled on first use."""
    return Kernel(cubin(read("unpack.cu")), "unpack", THREADS)
