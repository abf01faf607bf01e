"""The quantisation kernels as machine code: the choices that make one of the tile kernel, and NVRTC."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

from kernels.launch import MULTIPROCESSORS, Kernel

HERE = Path(__file__).parent
THREADS = 256


@dataclass(frozen=True, eq=True)
class Choice:
    """What one build of tile.cu does; the fields are its macros, explained there."""

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
                raise ValueError(f"{name} is {value!r}; True or False is right")

    @property
    def name(self) -> str:
        """Name of its machine code: `bf16-rows-columns`, for instance."""
        flags = [name for name, value in vars(self).items() if value is True]
        return "-".join([self.source.lower(), *(["e5m6"] if self.target == "E5M6" else []), *flags]).replace("_", "-")

    @property
    def pieces(self) -> int:
        """Pieces of 8 columns per thread: 8 where groups span 128 rows; fewer where each piece costs more arithmetic."""
        return 8 if self.columns or self.blocks else 2 if self.source == "SWIGLU" else 4

    @property
    def across(self) -> bool:
        """Whether a thread's pieces lie beside one another, not one below the other: the scales of a row then go together."""
        return self.send

    @property
    def min_blocks(self) -> int:
        """Blocks that a multiprocessor must be able to hold, which bounds registers; the fastest on an H200."""
        if self.source == "SWIGLU":
            return 6
        return 3 if self.source == "E4M3" and not self.power_of_2 else 4

    @property
    def ahead(self) -> int:
        """Blocks that run at once: the one so many after a block takes its place."""
        return MULTIPROCESSORS * self.min_blocks

    @property
    def down_first(self) -> bool:
        """Whether blocks go down the matrix first, and then across."""
        return self.columns and not self.rows

    def grid(self, m: int, k: int) -> tuple[int, int]:
        """Tiles of an (m, k) matrix along the two dimensions of the grid."""
        rows, columns = (16, 128 * self.pieces) if self.across else (16 * self.pieces, 128)
        across, down = -(-k // columns), -(-m // rows)
        return (down, across) if self.down_first else (across, down)

    @property
    def text(self) -> str:
        """CUDA C++ of the kernel, all but the instructions of hopper.h."""
        macros = {name.upper(): value for name, value in vars(self).items()}
        macros |= {
            "PIECES": self.pieces,
            "ACROSS": self.across,
            "DOWN_FIRST": self.down_first,
            "MIN_BLOCKS": self.min_blocks,
            "AHEAD": self.ahead,
        }
        values = {name: value if isinstance(value, str) else int(value) for name, value in macros.items()}
        return "".join(f"#define {name} {value}\n" for name, value in values.items()) + read("tile.cu")


def read(name: str) -> str:
    """A file of CUDA C++ beside this one."""
    return (HERE / name).read_text()


def all_choices() -> tuple[Choice, ...]:
    """Every build that a function of this package, or a timing twin, runs."""
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


def cubin(text: str, log: Any = None) -> Any:
    """Machine code for Hopper, by NVRTC; works without a GPU. `log`, a text file, gets ptxas's word on registers and spills.

    Raises ValueError without cuda-core.
    """
    try:
        from cuda.core import Program, ProgramOptions
    except ImportError as error:
        raise ValueError("the kernels need the extra `kernels` (torch, cuda-core)") from error
    options = ProgramOptions(arch="sm_90a", std="c++17", ptxas_options="-v" if log else None)
    return Program(read("hopper.h") + text, "c++", options).compile("cubin", logs=log)


@cache
def kernel(choice: Choice) -> Kernel:
    """The tile kernel of a choice, compiled on first use."""
    return Kernel(bytes(cubin(choice.text).code), "tile", THREADS)


@cache
def unpack_kernel() -> Kernel:
    """The kernel that unpacks E5M6."""
    return Kernel(bytes(cubin(read("unpack.cu")).code), "unpack", THREADS)
