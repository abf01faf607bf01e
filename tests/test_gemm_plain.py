"""The plain Triton GEMM: its sums in Triton's interpreter, and the instructions it compiles to for Hopper."""

import os
import subprocess
import sys

import numpy as np
import pytest

triton = pytest.importorskip("triton")
torch = pytest.importorskip("torch")

INTERPRETED = """
import torch
from kernels.gemm import plain

torch.manual_seed(0)
m, n, k = 70, 136, 272
a, b = (torch.randn(rows, k).to(torch.float8_e4m3fn) for rows in (m, n))
scale_a, scale_b = torch.rand(3, m) + 0.5, torch.rand(2, 3) + 0.5
out = plain.gemm(a, b, scale_a, scale_b, torch.full((m, n), float("nan")))
wide_a = a.double() * scale_a.T.double().repeat_interleave(128, 1)[:, :k]
wide_b = b.double() * scale_b.double().repeat_interleave(128, 0)[:n].repeat_interleave(128, 1)[:, :k]
exact = wide_a @ wide_b.T
assert (out - exact).norm() / exact.norm() < 1e-6
"""


@pytest.mark.skipif(
    triton.__version__ < "3.7" and np.lib.NumpyVersion(np.__version__) >= "2.5.0",
    reason="the interpreter of Triton 3.6 converts arrays as NumPy 2.5 no longer does",
)
def test_ragged_sizes_in_the_interpreter_equal_the_product_in_float64():
    """Rows, columns and K that fill no tile, in FP32 out, where the interpreter is faithful."""
    subprocess.run([sys.executable, "-c", INTERPRETED], check=True, env={**os.environ, "TRITON_INTERPRET": "1"})


def test_it_compiles_to_four_wgmmas_from_zero_and_one_fma_an_element():
    """The sums are those of `isa_model.promoted`: 128 of K in the Tensor Core's accumulator, then one fused multiply-add."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    from kernels.gemm import plain

    pointers = {"a": "*fp8e4nv", "b": "*fp8e4nv", "scale_a": "*fp32", "scale_b": "*fp32", "out": "*bf16"}
    sizes = dict.fromkeys(("m", "n", "k", "scale_pitch"), "i32")
    tile = {"BM": 128, "BN": 128, "GROUP": 128}
    aligned = {(i,): [["tt.divisibility", 16]] for i in (0, 1, 2, 3, 4, 7)}
    source = ASTSource(
        fn=plain.kernel,
        signature={**pointers, **sizes, **dict.fromkeys(tile, "constexpr")},
        constexprs=tile,
        attrs=aligned,
    )
    ptx = compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": 8}).asm["ptx"]
    assert ptx.count("wgmma.mma_async.sync.aligned.m64n128k32.f32.e4m3.e4m3") == 4
    assert ptx.count("fma.rn.f32") == 64
    assert ptx.count("add.f32") == 0
