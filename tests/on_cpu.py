"""The quantisation kernels' CUDA text compiled for the CPU (on_cpu.h), called with numpy arrays."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import numpy as np

from kernels.quantise.build import Choice, read

HERE = Path(__file__).parent
COMPILER = shutil.which("g++") or shutil.which("clang++")


@cache
def folder():
    return tempfile.TemporaryDirectory()


@cache
def build(text: str, function: str, flags: tuple[str, ...] = ("-O1",)):
    """Return a function of CUDA text, compiled for the CPU."""
    assert COMPILER
    path = Path(folder().name) / f"{abs(hash((text, function)))}"
    source, library = path.with_suffix(".cpp"), path.with_suffix(".so")
    source.write_text(f'#include "{HERE}/on_cpu.h"\n{text}')
    always = ["-std=c++17", "-ffp-contract=off", "-fno-strict-aliasing", "-shared", "-fPIC", "-w"]
    subprocess.run([COMPILER, *always, *flags, "-o", library, source], check=True)
    return getattr(ctypes.CDLL(str(library)), function)


ENTRY = """
extern "C" void entry(int x, int y, const long long *v) { run(x, y, [&] { KERNEL(*(const Arguments *)v); }); }
"""


def launch(text: str, function: str, grid: tuple[int, int], *arguments: int) -> None:
    """Run a kernel on addresses and numbers."""
    values = (ctypes.c_longlong * len(arguments))(*arguments)
    build(text + ENTRY.replace("KERNEL", function), "entry")(*map(ctypes.c_int, grid), values)


def filled(size: int, to: int) -> int:
    return -(-size // to) * to


def outputs(m: int, k: int, blocks: bool, width: int | None = None):
    """Return codes (m, width) in rows padded to 16 bytes, and scales, filled with values that kernels must overwrite."""
    width = k if width is None else width
    codes = np.full((m, filled(width, 16)), 0xEE, np.uint8)[:, :width]
    groups = -(-k // 128)
    return codes, np.full((-(-m // 128), groups) if blocks else (groups, filled(m, 4)), -5.0, np.float32)


def tile(choice: Choice, x: np.ndarray, second: np.ndarray | None = None, m: int | None = None):
    """Run the tile kernel; return (codes, scales) of the rows, of the columns, or both in this order.

    `x` and `second` are raw codes: BF16 as uint16, E4M3 as uint8 with FP32 scales, rows to send as int32.
    """
    m, k = (x.shape[0] if m is None else m), x.shape[1]
    packed = k * 3 // 2 if choice.target == "E5M6" else filled(k + -(-k // 128), 16) if choice.send else k
    wanted = [outputs(m, k, choice.blocks, packed)] if choice.rows else [None]
    wanted += [outputs(k, m, choice.blocks)] if choice.columns else [None]
    numbers = [m, k, x.ctypes.data, x.strides[0]]
    if second is None:
        numbers += [0, 0]
    elif choice.send:
        numbers += [second.ctypes.data, x.shape[0]]
    else:
        numbers += [second.ctypes.data, second.strides[0] // (4 if choice.source == "E4M3" else 1)]
    for out in wanted:
        if out is None:
            numbers += [0, 0, 0, 0]
        else:
            codes, scales = out
            numbers += [codes.ctypes.data, codes.strides[0], scales.ctypes.data, scales.strides[0] // 4]
    launch(choice.text, "tile", choice.grid(m, k), *numbers, *[0] * (14 - len(numbers)))
    return [out for out in wanted if out is not None]


def unpack(packed: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """Return BF16 codes of packed E5M6 and FP32 scales (groups, rows)."""
    m, k = packed.shape[0], packed.shape[1] * 2 // 3
    out = np.full((m, k), 0xEEEE, np.uint16)
    arrays = [packed.ctypes.data, packed.strides[0], scales.ctypes.data, scales.strides[0] // 4]
    launch(read("unpack.cu"), "unpack", (-(-k // 128), -(-m // 64)), m, k, *arrays, out.ctypes.data, out.strides[0])
    return out
