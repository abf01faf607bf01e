"""Bits do not depend on the mode that another library left a thread in."""

import ctypes
import os
import platform
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib import import_module

import numpy as np
import pytest

from isa_model import FORMATS, gemm, ieee, load, matmul
from isa_model.array_codec import decode_array, encode_array
from isa_model.cast import Cast, quantise
from isa_model.engines import c_library, cpu
from isa_model.logfmt import decode_log, encode_log
from isa_model.path import Step, walk
from isa_model.swiglu import swiglu

BF16 = load("hopper.wgmma.m64n64k16.f32.bf16.bf16")
FLUSH_TO_ZERO, DENORMALS_ARE_ZERO, UPWARD, TOWARD_ZERO = 1 << 15, 1 << 6, 0x4000, 0x6000
MODES = [FLUSH_TO_ZERO, DENORMALS_ARE_ZERO, FLUSH_TO_ZERO | DENORMALS_ARE_ZERO, UPWARD, TOWARD_ZERO]
needs_mxcsr = pytest.mark.skipif(
    platform.machine() != "x86_64" or sys.platform != "linux", reason="the test sets x86's MXCSR in glibc's fenv_t"
)


@contextmanager
def mode(bits):
    """Set bits of MXCSR for the block, as torch.set_flush_denormal, -ffast-math and fesetround do."""
    library = ctypes.CDLL("libm.so.6")
    before, changed = (ctypes.create_string_buffer(32) for _ in range(2))
    library.fegetenv(before)
    library.fegetenv(changed)
    ctypes.c_uint32.from_buffer(changed, 28).value |= bits
    library.fesetenv(changed)
    try:
        yield
    finally:
        library.fesetenv(before)


def tiny(shape, seed=0):
    """Return FP32 numbers, most of which are subnormal."""
    return np.random.default_rng(seed).integers(0, 1 << 24, shape, np.uint32).view(np.float32)


def products(engine="auto"):
    """D whose products and C lie about FP32's subnormal range, on as many threads as the engine takes."""
    rng = np.random.default_rng(0)
    a, b = ((rng.integers(0x1C00, 0x2080, shape)).astype(np.uint16) for shape in ((256, 64), (64, 320)))
    return matmul(BF16, a, b, tiny((256, 320)), engine=engine).view(np.uint32)


SMALL = tiny((2, 128))
SCALED, QUADRUPLE, WIDE = SMALL * np.float32(2.0**120), tiny((4, 4)) * 4, SMALL.astype(np.float64)
UP = np.linspace(0.1, 1, 16).reshape(4, 4)
SUBNORMAL = {
    "decode": lambda: decode_array(FORMATS["fp32"], tiny(99)).view(np.uint64),
    "decode fp64": lambda: decode_array(FORMATS["fp64"], np.arange(9, dtype=np.uint64)).view(np.uint64),
    "encode": lambda: encode_array(FORMATS["fp32"], tiny(99)),
    "encode by ml_dtypes": lambda: encode_array(FORMATS["e4m3"], SCALED, overflow="saturate"),
    "encode fp64": lambda: encode_array(FORMATS["fp64"], np.arange(9, dtype=np.uint64).view(np.float64)),
    "quantise": lambda: quantise(Cast(floor=1e-44), tiny((2, 256))).scales,
    "quantise codes": lambda: quantise(Cast(floor=1e-44), tiny((2, 256))).codes,
    "walk": lambda: walk((Step(at="kernel", floor=1e-44),), tiny((2, 256))).values.view(np.uint64),
    "swiglu": lambda: swiglu(QUADRUPLE, UP).view(np.uint32),
    "logfmt": lambda: decode_log(encode_log(8, WIDE)).view(np.uint64),
    "portable": lambda: products("portable"),
    "gemm": lambda: gemm(
        BF16, np.full((2, 32), 0x1F80, np.uint16), np.full((32, 2), 0x2000, np.uint16), alpha=0.75
    ).view("u4"),
}


@needs_mxcsr
@pytest.mark.parametrize("function", SUBNORMAL)
def test_subnormal_bits_are_the_same_in_every_mode(function):
    """Flushed outputs, flushed inputs and other rounding directions change no bit, and are restored afterwards."""
    right = SUBNORMAL[function]()
    assert right.any()
    for bits in MODES:
        with mode(bits):
            got = SUBNORMAL[function]()
            kept = not ieee.is_ieee()
        assert np.array_equal(got, right), hex(bits)
        assert kept, hex(bits)


@needs_mxcsr
def test_the_mode_matters_where_nobody_switches_it():
    """The tests above can fail: numpy alone gives different bits in these modes."""
    x = tiny(99)
    assert not np.array_equal((x * np.float32(1)).view(np.uint32), np.zeros(99, np.uint32))
    with mode(FLUSH_TO_ZERO):
        assert np.count_nonzero((x * np.float32(1)).view(np.uint32)) < np.count_nonzero(x.view(np.uint32))


@needs_mxcsr
def test_the_compiled_engine_keeps_subnormals_on_all_threads(monkeypatch, tmp_path):
    """In a thread that flushes, the cpu engine gives portable's bits, on the threads that it starts as well."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(cpu, "FLAGS", tuple(flag.replace("-O3", "-O1") for flag in cpu.FLAGS))
    monkeypatch.setattr(import_module("isa_model.matmul"), "WORTH_COMPILING", 0)
    monkeypatch.setattr(cpu, "cores", lambda: 3)
    try:
        c_library.compiler()
    except cpu.NoCompiler:
        pytest.skip("no C compiler")
    right = products("portable")
    with mode(FLUSH_TO_ZERO | DENORMALS_ARE_ZERO):
        assert np.array_equal(products("cpu"), right)
    with ThreadPoolExecutor(1) as pool, mode(FLUSH_TO_ZERO):
        assert np.array_equal(pool.submit(products, "cpu").result(), right)


@needs_mxcsr
def test_without_a_way_to_switch_the_mode_bits_are_refused(monkeypatch):
    """Without fesetenv in the C library, a flushing thread gets a ValueError, and any other its results."""
    monkeypatch.setattr(ieee, "_switch", lambda: None)
    assert SUBNORMAL["encode"]().any()
    with mode(FLUSH_TO_ZERO), pytest.raises(ValueError, match="flushes subnormal numbers to zero"):
        SUBNORMAL["encode"]()


def test_an_error_restores_the_mode():
    """An error inside leaves the thread's mode as it was."""
    if platform.machine() != "x86_64" or sys.platform != "linux":
        pytest.skip("x86 only")
    with mode(FLUSH_TO_ZERO):
        with pytest.raises(ValueError, match="real numbers"):
            encode_array(FORMATS["e4m3"], "text")
        assert not ieee.is_ieee()


def test_torch_s_switch_changes_no_bit():
    """After torch.set_flush_denormal(True), in a process of its own, engines and quantise keep subnormals."""
    pytest.importorskip("torch")
    text = """
import numpy as np, torch
from isa_model import load, matmul
from isa_model.cast import Cast, quantise
spec = load("hopper.wgmma.m64n64k16.f32.bf16.bf16")
a, c = np.full((2, 16), 0x1F80, np.uint16), np.full((2, 2), 7, np.uint32)
x = np.full((1, 128), 3, np.uint32).view(np.float32)
def all_bits():
    engines = [matmul(spec, a, a.T, c, engine=e).view(np.uint32) for e in ("golden", "portable", "auto")]
    done = quantise(Cast(floor=1e-44), x)
    return [*engines, done.codes, done.scales]
before = all_bits()
assert before[0].any() and torch.set_flush_denormal(True)
assert np.float32(2**-130) * np.float32(0.5) == 0
assert all((x == y).all() for x, y in zip(before, all_bits()))
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", text], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
