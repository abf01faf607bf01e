"""The GEMM kernel's CUDA text on a CPU (hopper_on_cpu.h), launched through kernels.gemm.launches as on a GPU."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import pytest

from kernels.gemm import launches
from kernels.gemm.choose import Gpu
from kernels.gemm.tile import DESCRIPTOR_HIGH, kernel_text

HERE = Path(__file__).parent
TEXT = kernel_text()
COMPILER = shutil.which("g++")
FLAGS = ("-std=c++17", "-march=native", "-ffp-contract=off", "-fno-strict-aliasing", "-fPIC", "-w", f"-I{HERE}")
FLAGS += (f"-DDESCRIPTOR_HIGH={DESCRIPTOR_HIGH}u",)
SHARED = "extern __shared__ __align__(1024) char shared[];"
ENTRY = """
struct Call { const TensorMap *maps; const Arguments *p; };
extern "C" const char *entry(const void *maps, const Arguments *p, int ctas, int shared_bytes, unsigned seed,
                             const float *scale_a, long long scale_a_count, const float *scale_b, long long scale_b_count) {
  TensorMap aligned[5];
  std::memcpy((void *)aligned, maps, sizeof aligned);
  Call call{aligned, p};
  const Launch launch{ctas, CLUSTER, THREADS, shared_bytes, seed,
                      scale_a, scale_a + scale_a_count, scale_b, scale_b + scale_b_count};
  return simulate(launch, [](void *c) {
    const auto &[maps, p] = *(Call *)c;
    run(maps[0], maps[1], maps[2], maps[3], maps[4], *p);
  }, &call);
}
"""


class Fault(Exception):
    """A fault that the emulated chip found: a deadlock, a race, an access out of bounds."""


class Map(ctypes.Structure):
    """`TensorMap` of hopper_on_cpu.h."""

    _fields_ = [
        ("data", ctypes.c_void_p),
        *[(name, ctypes.c_longlong) for name in ("width", "rows", "pitch")],
        *[(name, ctypes.c_int) for name in ("box_x", "box_y", "element", "swizzle")],
        ("pad", ctypes.c_char * 80),
    ]


def tensor_map(address, *, width, rows, pitch, box, element, swizzle=0):
    """Return a tensor map as kernels.gemm.tensor_map does; refuse what the CUDA driver refuses."""
    size = {"byte": 1, "bf16": 2, "fp32": 4}[element]
    assert address % 16 == 0
    assert pitch % 16 == 0
    assert all(1 <= side <= 256 for side in box)
    assert box[0] * size % 16 == 0
    assert not swizzle or box[0] * size <= swizzle
    return Map(address, width, rows, pitch, *box, size, swizzle)


@cache
def folder():
    return tempfile.TemporaryDirectory()


def compile_text(name, text, *flags):
    assert COMPILER
    source = Path(folder().name) / f"{name}.cpp"
    source.write_text(text)
    result = source.with_suffix(".so" if "-shared" in flags else ".o")
    subprocess.run([COMPILER, *FLAGS, *flags, "-o", result, source], check=True)
    return result


@cache
def chip():
    return compile_text("chip", (HERE / "hopper_on_cpu.cpp").read_text(), "-O3", "-c")


@cache
def entry(tile, text):
    """Return the kernel of a tile, compiled for this CPU."""
    assert text.count(SHARED) == 1
    text = text.replace(SHARED, "char *const shared = shared_memory();")
    constants = f'{tile.constants}\n#include "hopper_on_cpu.h"\n'
    library = compile_text(f"{abs(hash((tile, text)))}", constants + text + ENTRY, "-O1", "-shared", str(chip()))
    function = ctypes.CDLL(str(library)).entry
    function.restype = ctypes.c_char_p
    return function


def _address(t):
    return ctypes.c_void_p(t.data_ptr())


def _count(t):
    return ctypes.c_longlong(t.numel())


def issue(x, tile, *, seed=0, text=TEXT, sms=4):
    """Run the kernel of a tile on CPU tensors and a chip of `sms` SMs. Raises Fault for what the kernel does wrong."""

    class Kernel:
        def __init__(self, tile):
            self.tile = tile

        def launch(self, grid, arguments, shared):
            maps = (Map * 5)()
            for to, given in zip(maps, arguments, strict=False):
                if isinstance(given, Map):
                    ctypes.memmove(ctypes.addressof(to), ctypes.addressof(given), ctypes.sizeof(Map))
            numbers = [ctypes.c_int(grid[0]), ctypes.c_int(shared), ctypes.c_uint(seed)]
            limits = [f(t) for t in (x.scale_a, x.scale_b) for f in (_address, _count)]
            failure = entry(self.tile, text)(maps, ctypes.byref(arguments[5]), *numbers, *limits)
            if failure:
                raise Fault(failure.decode())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launches, "check_device", lambda x: None)
        patch.setattr(launches, "tensor_map", tensor_map)
        patch.setattr(launches, "_kernel", Kernel)
        patch.setattr(launches, "_gpu", lambda device: Gpu(sms))
        launches.prepare(x, scales=tile.scales, promote=tile.promote, add=tile.add, tile=tile)
    return x.out
