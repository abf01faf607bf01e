"""Whole GEMMs: what a library on the chip returns, and each part of the epilogue."""

import json
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from isa_model import gemm, load, matmul, promoted
from isa_model.array_codec import encode_array, to_codes
from isa_model.formats import FORMATS

RECORDED = np.load(Path(__file__).parent / "fixtures" / "h200_scaled_mm.npz", allow_pickle=False)
CASES = sorted({name.split("/")[0] for name in RECORDED.files})
WGMMA = "hopper.wgmma.m64n256k32.f32.{}.{}"


def operands(k, m=3, n=5):
    spec = load(WGMMA.format("e4m3", "e4m3"))
    rng = np.random.default_rng(4)
    return spec, encode_array(spec.a, rng.standard_normal((m, k))), encode_array(spec.b, rng.standard_normal((k, n)))


@pytest.mark.parametrize("case", CASES)
def test_cublas_on_an_h200_is_reproduced_bit_for_bit(case):
    """torch._scaled_mm is the wgmma chain, promoted every 128 without fast accumulation, then scale, bias and rounding."""
    about = json.loads(str(RECORDED[f"{case}/about"]))
    instruction = load(WGMMA.format(about["a"], about["b"]))
    if not about["use_fast_accum"]:
        instruction = promoted(instruction, 128)
    out = FORMATS[about["d"]]
    alpha = np.float32(about["scale_a"]) * np.float32(about["scale_b"])
    got = gemm(instruction, RECORDED[f"{case}/a"], RECORDED[f"{case}/b"], alpha=alpha, bias=about["bias"], out=out)
    assert np.array_equal(to_codes(out, got), RECORDED[f"{case}/d"])


def test_every_kind_of_case_is_recorded():
    """Both kinds of accumulation, three output formats, mixed operands, a bias and a ragged K are among the cases."""
    about = [json.loads(str(RECORDED[f"{case}/about"])) for case in CASES]
    assert {x["use_fast_accum"] for x in about} == {True, False}
    assert {x["d"] for x in about} == {"bf16", "fp16", "fp32"}
    assert {(x["a"], x["b"]) for x in about} == {("e4m3", "e4m3"), ("e4m3", "e5m2"), ("e5m2", "e4m3")}
    assert any(x["bias"] for x in about)
    assert any(RECORDED[f"{case}/a"].shape[1] % 128 for case in CASES)


def test_a_ragged_k_is_filled_with_zeros():
    """A K that is not a multiple of the instruction's gives the result of explicit zeros."""
    spec, a, b = operands(50)
    filled = matmul(spec, np.pad(a, ((0, 0), (0, 14))), np.pad(b, ((0, 14), (0, 0))))
    assert np.array_equal(gemm(spec, a, b), filled)


def test_split_k_adds_stretches_in_ascending_order():
    """Seven instructions in three parts are 3 + 2 + 2, and the parts are added in FP32 in order."""
    spec, a, b = operands(7 * 32)
    parts = [matmul(spec, a[:, 32 * i : 32 * j], b[32 * i : 32 * j]) for i, j in ((0, 3), (3, 5), (5, 7))]
    assert np.array_equal(gemm(spec, a, b, split_k=3), (parts[0] + parts[1]) + parts[2])
    with pytest.raises(ValueError, match="K has 7 times"):
        gemm(spec, a, b, split_k=8)


def test_the_epilogue_rounds_after_each_step():
    """Scale and bias are each rounded to FP32, then the output once."""
    spec, a, b = operands(32)
    d = matmul(spec, a, b)
    alpha, bias = np.linspace(0.1, 1, 5, dtype=np.float32)[None], np.arange(5, dtype=np.float32) / 3
    expected = (d * alpha + bias).astype(ml_dtypes.bfloat16)
    got = gemm(spec, a, b, alpha=alpha, bias=bias, out=FORMATS["bf16"])
    assert got.dtype == ml_dtypes.bfloat16
    assert np.array_equal(got, expected)


def test_an_epilogue_needs_an_fp32_accumulator():
    """An epilogue after an FP16 accumulator is refused."""
    spec = load("hopper.wgmma.m64n8k16.f16.f16.f16")
    with pytest.raises(ValueError, match="accumulates in fp16"):
        gemm(spec, np.zeros((1, 16), np.float16), np.zeros((16, 1), np.float16), alpha=2.0)
