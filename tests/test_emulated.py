"""The GPU engine without a GPU: its kernels as C++ on this machine, the Tensor Cores' instructions by their rules.

What the chip's instructions compute is in emulated.h, written from the catalogue; the rest is the engine's own text.
"""

import ctypes
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from strategies import KINDS, instructions
from test_compiled import WHOLE_NUMBERS
from test_engine import is_planned, operands
from test_registers import INFINITIES, of_an_infinity
from test_running_values import two_registers
from test_tensor import CASES, reference

from isa_model import Instruction, load, matmul
from isa_model.array_codec import code_dtype
from isa_model.engines import gpu, packing, portable, tensor
from isa_model.engines import operands as operands_module
from isa_model.engines.plan import Plan
from isa_model.stimulus import draw

torch = pytest.importorskip("torch", reason="the extra `kernels` is not installed")
compiler = shutil.which("g++")
pytestmark = pytest.mark.skipif(compiler is None, reason="no g++")

FLAGS = ("-std=c++20", "-O1", "-w", "-fno-strict-aliasing", "-frounding-math", "-ffp-contract=off", "-fPIC", "-pthread")
DRIVER = """
template <int I, class... A> auto arg(void (*)(A...)) -> std::tuple_element_t<I, std::tuple<A...>>;
extern "C" void drive(int gx, int gy, int threads, int in_warps, long *v) {{
  for (int x = 0; x < gx; ++x)
    for (int y = 0; y < gy; ++y)
      for (int first = 0; first < threads; first += 32) {{
        auto one = [=](int t) {{ blockIdx = {{(unsigned)x, (unsigned)y, 0}}; threadIdx = {{(unsigned)t, 0, 0}}; {call}; }};
        std::vector<std::thread> warp;
        for (int t = first; t < first + 32; ++t)
          if (in_warps) warp.emplace_back(one, t); else one(t);
        for (auto &t : warp) t.join();
      }}
}}
"""


class OnThisMachine:
    """torch, but what is asked for on the GPU is made here."""

    def __getattr__(self, name):
        function = getattr(torch, name)
        if name in ("zeros", "empty", "arange"):
            return lambda *sizes, **fields: function(*sizes, **fields | {"device": "cpu"})
        return function


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder for kernels, with emulated.h compiled once for all of them."""
    path = tmp_path_factory.mktemp("kernels")
    shutil.copy(Path(__file__).parent / "emulated.h", path)
    subprocess.run([compiler, *FLAGS, "-x", "c++-header", path / "emulated.h"], check=True)
    return path


def compiled(text, name, folder):
    """The kernel of a CUDA file as a C function, and whether it has Tensor Core instructions."""
    in_warps = "mma.sync" in text
    text = re.sub(r'asm\("\{ \.reg \.f16 h;.*\n', "y = (double)(_Float16)x;\n", text)
    text = re.sub(r'asm\("shl\.b32.*?\);', "mask = (unsigned)n >= 32u ? 0 : (int)(0xFFFFFFFFu << n);", text)
    text = re.sub(r"(template <bool CUT> )?FN void (hmma|imma|dmma)\([^{]*\{\n(?:  .*\n)*?\}\n", "", text)
    text = text.replace("threadIdx.x % 32 == 0 &&", "")  # packing runs thread after thread: each tells its own largest
    assert "asm(" not in text
    parameters = re.search(rf"\n?{name}\((.*?)\)\s*\{{", text[text.index('extern "C"') :], re.DOTALL)[1].split(",")
    call = ", ".join(f"(decltype(arg<{i}>(&{name})))v[{i}]" for i in range(len(parameters)))
    source, library = folder / "kernel.cpp", folder / f"{len(list(folder.iterdir()))}.so"
    source.write_text(f'#include "emulated.h"\n{text}{DRIVER.format(call=f"{name}({call})")}')
    subprocess.run([compiler, *FLAGS, "-shared", "-o", library, source], check=True)
    return ctypes.CDLL(str(library)).drive, in_warps


@pytest.fixture
def emulated(monkeypatch, folder):
    """gpu.py with kernels that run here."""
    known = {}

    def kernel(text, name="run"):
        if (text, name) not in known:
            known[text, name] = compiled(text, name, folder)
        return known[text, name]

    def launch(kernel, grid, threads, sizes, arrays):
        values = [*map(int, sizes), *(0 if x is None else x.data_ptr() for x in arrays)]
        drive, in_warps = kernel
        drive(*grid, threads, int(in_warps), (ctypes.c_long * len(values))(*values))

    monkeypatch.setattr(torch.Tensor, "cuda", lambda self: self)
    monkeypatch.setattr(gpu, "_is_hopper", lambda: True)
    for module in (gpu, packing):
        for name, here in (("import_torch", OnThisMachine), ("kernel", kernel), ("launch", launch)):
            monkeypatch.setattr(module, name, here)
    for constant in ("WARPS_M", "WARPS_N"):  # warps share nothing, so one does
        monkeypatch.setattr(tensor, constant, 1)
    caches = (packing._words, gpu._source)
    for cache in caches:
        cache.cache_clear()
    yield
    for cache in caches:
        cache.cache_clear()


@pytest.mark.parametrize("name", ["Hopper's FP8", "25 bits", "exact"])
def test_sums_on_emulated_tensor_cores_are_the_other_engines(emulated, name):
    """Cut by HMMA and by DMMA, and exact in digits of INT8: with finite numbers of all exponents, and with NaNs."""
    spec = CASES[name]
    for kind in ("finite", "cancellation", "special"):
        x = draw(spec, kind, np.random.default_rng(5), 17, 9, 64)
        assert np.array_equal(gpu.matmul(spec, x.a, x.b, x.c), reference(spec, x)), kind
    x.c[:] = 0  # where C is zero more is known of the sums
    assert np.array_equal(gpu.matmul(spec, x.a, x.b, x.c), reference(spec, x))


@pytest.mark.parametrize("name", ["hopper.wgmma.m64n8k16.f32.bf16.bf16", "volta.mma.m8n8k4.f16.f16.f16.f16"])
def test_kernels_for_cuda_cores_are_the_other_engines(emulated, name):
    """On exponents to both ends, where zeros count, and in FP32 and FP16 registers."""
    spec = load(name)
    for kind in ("bits", "cancellation", "subnormal", "special"):
        x = draw(spec, kind, np.random.default_rng(5), 17, 9, 32)
        assert np.array_equal(gpu.matmul(spec, x.a, x.b, x.c), reference(spec, x)), kind


@pytest.mark.parametrize("spec", WHOLE_NUMBERS.values(), ids=WHOLE_NUMBERS)
def test_kernels_scale_whole_numbers(emulated, spec):
    """Whole numbers times scales and a power of two, on emulated Tensor Cores and CUDA cores."""
    for kind in KINDS:
        a, b, c, scales = operands(spec, 5, kind, m=5, n=6, steps=2)
        assert np.array_equal(gpu.matmul(spec, a, b, c, **scales), portable.matmul(spec, a, b, c, **scales)), kind


@settings(max_examples=4, suppress_health_check=HealthCheck)
@given(instructions(), st.sampled_from(KINDS))
def test_random_kernels_are_the_other_engines(emulated, spec, kind):
    """So are those of random instructions, chains of two and registers of any format among them."""
    assume(is_planned(spec))
    a, b, c, scales = operands(spec, 5, kind, m=5, n=6, steps=2)
    assert np.array_equal(gpu.matmul(spec, a, b, c, **scales), portable.matmul(spec, a, b, c, **scales))


@pytest.mark.parametrize("joins", ["sum", "block", "end"])
def test_a_kernel_keeps_two_registers(emulated, joins):
    """A running value in two registers goes along K on the GPU as in the golden model, cut to a window or not."""
    spec = two_registers(joins)
    for kind in ("cancel", "like", "ends"):
        a, b, c, _ = operands(spec, 7, kind, m=5, n=6, steps=3)
        wanted = matmul(spec, a, b, c, engine="golden")
        assert np.array_equal(gpu.matmul(spec, a, b, c), wanted.view(np.uint32)), kind


WIDE = {
    "name": "x",
    "exponent_bits": 8,
    "mantissa_bits": 4,
    "bias": 97,
    "infinity": True,
    "nan": "ieee",
    "overflow": "ieee",
}


@pytest.mark.parametrize("formats", [{"c": WIDE, "accumulator": "fp32"}, {"c": "bf16", "accumulator": WIDE}], ids="cd")
def test_a_kernel_holds_a_c_and_a_d_beyond_fp32(emulated, formats):
    """Numbers of 8 exponent bits and another bias, up to 2**158, stay finite in a kernel's running value."""
    register = {"format": formats["accumulator"], "rounding": "up", "overflow": "ieee"}
    stage = {"terms": 4, "accumulator": True, "fraction_bits": 20, "rounding": "up", "result": register}
    wide = {"exponent_bits": 7, "mantissa_bits": 3, "bias": 50, "overflow": "saturate"}  # products up to 2**154
    spec = {"a": {"name": "y", **wide}, "b": {"name": "y", **wide}, "shape": {"m": 4, "n": 4, "k": 4}}
    spec = Instruction.model_validate({**spec, **formats, "stages": {"sum": stage}})
    a, b, c, _ = operands(spec, 3, "ends", m=5, n=6, steps=2)
    wanted = matmul(spec, a, b, c, engine="golden").view(code_dtype(spec.accumulator))
    assert np.array_equal(gpu.matmul(spec, a, b, c), wanted)


@pytest.mark.parametrize("overflow", INFINITIES)
def test_an_infinite_operand_follows_the_rule_for_overflow_on_the_gpu(emulated, overflow):
    """A bound on finite sums does not take the rule away from an infinity."""
    assert of_an_infinity(overflow, "gpu") == INFINITIES[overflow]


@pytest.mark.parametrize(
    "name", ["Hopper's FP8", "flushed", "widened", "scaled sums", "INT8", "NVFP4", "Hopper's FP16"]
)
def test_operands_are_decoded_alike_by_numpy_and_torch(name):
    """Numbers, exponents and scales of both operands are equal, element for element."""
    spec = CASES[name]
    plan, x = Plan(spec), draw(spec, "bits", np.random.default_rng(3), 37, 83, spec.shape.k * 2)
    for is_a, codes, scales in ((True, x.a.T, x.scale_a), (False, x.b, x.scale_b)):
        scales = scales.T if is_a and scales is not None else scales
        as_torch = [None if v is None else torch.from_numpy(v.view(f"i{v.itemsize}")) for v in (codes, scales)]
        ours = operands_module.decode(plan, is_a, codes, scales, "float64")
        theirs = operands_module.decode(plan, is_a, *as_torch, "float64")
        for field in ("values", "exponents", "scales", "scale_exponents"):
            a, b = getattr(ours, field), getattr(theirs, field)
            assert (a is None) == (b is None), field
            assert a is None or (a.dtype == b.numpy().dtype and np.array_equal(a, b.numpy(), equal_nan=True)), field
