"""Sums on the Tensor Cores: which specs take them, that their text compiles, and on a GPU the other engines' codes."""

import importlib.util
import math
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import kernels  # noqa: F401 (the engine `native`)
from isa_model import Instruction, gemm, load, matmul, promoted
from isa_model.array_codec import code_dtype, decode_array
from isa_model.engines import gpu, launch, packing, portable, routes, tensor
from isa_model.engines.fragments import fragments
from isa_model.engines.plan import Plan, Unsupported
from isa_model.formats import Format, named
from isa_model.stimulus import KINDS, draw

FP8 = "hopper.wgmma.m64n256k32.f32.e4m3.e4m3"
TO_ZERO = {"format": "fp32", "rounding": "toward-zero", "overflow": "infinity"}
NEAREST = {"format": "fp32", "rounding": "nearest-even"}
FORMATS = ["e4m3", "e5m2", "e2m1", "e3m2", "e2m3", "fp16", "e4m3fnuz"]


def fused(a="e4m3", b="e4m3", terms=32, bits=13, register=None, zero_exponent=-133, chain=None, **more):
    """One aligned (or with `bits` None exact) sum of products and C, or a chain of them promoted to FP32."""
    stage = {"terms": terms, "accumulator": True, "result": register or TO_ZERO}
    if bits is not None:
        stage |= {
            "fraction_bits": bits,
            "rounding": more.pop("rounding", "toward-zero"),
            "zero_exponent": zero_exponent,
        }
    if "interleave" in more:
        stage["interleave"] = more.pop("interleave")
    stages = {"fuse": stage}
    if chain:
        stage["chain"] = chain
        stages["add"] = {"terms": 1, "accumulator": True, "result": NEAREST, "zero": "ieee"}
    k = terms * (chain or 1) * (stage.get("interleave") or {"parts": 1})["parts"]
    spec = {"name": "fused", "a": a, "b": b, "accumulator": "fp32", "shape": {"m": 4, "n": 4, "k": k}, "stages": stages}
    return Instruction.model_validate(spec | more)


def scaled(bits):
    """Partial sums handed up unrounded, times FP32 scales."""
    return Instruction.model_validate(
        {
            "name": "scaled",
            "a": "e4m3",
            "b": "e5m2",
            "accumulator": "fp32",
            "shape": {"m": 4, "n": 4, "k": 32},
            "scale": {
                "a": {"group": [1, 32], "format": "fp32"},
                "b": {"group": [32, 3], "format": "fp32"},
                "onto": "fuse",
                "product": NEAREST,
            },
            "stages": {
                "fuse": {"terms": 16, "fraction_bits": bits, "rounding": "toward-zero"},
                "add": {"terms": 2, "accumulator": True, "result": NEAREST},
            },
        }
    )


E8M13 = {"format": "e8m13", "rounding": "toward-zero", "overflow": "infinity"}
HALF = {
    "Hopper's FP8": load(FP8),
    "promoted": promoted(load(FP8), 128),
    "Ada's FP8": load("ada.mma.m16n8k32.f32.e5m2.e4m3.f32"),
    "10 bits": fused(bits=10, register=E8M13),
    "17 bits": fused(bits=17),
    "17 bits to nearest": fused(bits=17, register=NEAREST),
    "17 bits into e8m13": fused(bits=17, register=E8M13),
    "no fraction bits": fused(bits=0, a="e5m2"),
    "E5M2": fused("e5m2", "e5m2"),
    "20 products": fused(terms=20, bits=12),
    "5 products": fused("e3m2", "e2m3", terms=5, bits=14, register=NEAREST),
    "interleaved": fused(terms=16, interleave={"run": 2, "parts": 2}),
    "widened": fused(widen="fp16"),
    "flushed": fused(flush_inputs=True),
    "FP16 accumulator": load("hopper.wgmma.m64n8k32.f16.e4m3.e4m3"),
    "scaled sums": scaled(14),
    "C in FP16": fused(c="fp16"),
}
DOUBLE = {
    "25 bits": fused(bits=25),
    "20 bits to nearest": fused("e4m3", "e5m2", bits=20, register=NEAREST),
    "Volta": load("volta.mma.m8n8k4.f32.f16.f16.f32"),
    "Volta, C in FP16": load("volta.mma.m8n8k4.f32.f16.f16.f16"),
    "Turing": load("turing.mma.m16n8k8.f32.f16.f16.f32"),
    "Hopper's FP16": load("hopper.wgmma.m64n8k16.f32.f16.f16"),
    "Hopper's FP8 mma.sync": load("hopper.mma.m16n8k32.f32.e4m3.e5m2.f32"),
    "Blackwell's FP8": load("blackwell.tcgen05.m64n8k32.kind::f8f6f4.f32.e4m3.e4m3"),
    "6 products": fused("fp16", "e4m3", terms=6, bits=23),
    "scaled sums of 25 bits": scaled(25),
    "a window of 36 bits": fused(bits=36, register=NEAREST),
}
EXACT = {
    "exact": fused(bits=None, register=NEAREST),
    "exact towards zero": fused("e4m3", "e2m1", bits=None),
    "a chain of exact sums": fused(bits=None, register=NEAREST, chain=4),
    "INT8": load("hopper.wgmma.m64n256k32.s32.s8.s8"),
    "INT4": load("hopper.mma.m16n8k32.s32.s4.u4.s32.satfinite"),
    "NVFP4": load("blackwell.tcgen05.m128n8k64.kind::mxf4nvf4.block16.f32.e2m1.e2m1.ue4m3"),
}
WIDE = {
    "E5M2 exactly": fused("e5m2", "e5m2", bits=None, register=NEAREST),
    "E4M3 by E5M2 exactly, towards zero": fused("e4m3", "e5m2", bits=None),
    "a chain of wide sums": fused("e5m2", "e4m3", bits=None, register=NEAREST, chain=2),
}
WAYS = {"half": HALF, "double": DOUBLE, "exact": EXACT, "digits": WIDE}
CASES = HALF | DOUBLE | EXACT | WIDE
NEITHER = {
    "products rounded to nearest": fused(rounding="nearest-even"),
    "TF32": load("hopper.wgmma.m64n8k8.f32.tf32.tf32"),
    "zeros that count": fused("e5m2", "e5m2", zero_exponent=-20),
    "exponents too far apart": load("hopper.wgmma.m64n8k16.f32.bf16.bf16"),
}


ON_CUDA_CORES = [
    "ada.mma.m16n8k4.f32.tf32.tf32.f32",
    "hopper.wgmma.m64n256k16.f32.bf16.bf16",
    "cdna1.mfma.f32_32x32x4bf16",
    "cdna1.mfma.f32_32x32x8f16",
    "cdna2.mfma.f32_32x32x8f16",
    "cdna3.mfma.f32_32x32x4_2b_bf16",
]


def random_specs(count, seed=0):
    """Random specs that the Tensor Cores can take."""
    rng = np.random.default_rng(seed)
    while count:
        terms = int(rng.choice([1, 2, 4, 7, 8, 12, 16, 32, 64]))
        bits = None if rng.random() < 0.2 else int(rng.integers(0, 40))
        more = {}
        if rng.random() < 0.3 and terms > 1:
            more["interleave"] = {"run": int(rng.choice([1, max(terms // 2, 1)])), "parts": int(rng.choice([2, 3]))}
        more |= {"widen": "fp64"} if rng.random() < 0.2 else {}
        more |= {"flush_inputs": True} if rng.random() < 0.2 else {}
        more |= {"c": "fp16"} if rng.random() < 0.2 else {}
        formats = [str(name) for name in rng.choice(FORMATS, 2)]
        register = [TO_ZERO, NEAREST, E8M13, NEAREST | {"format": "fp16"}, TO_ZERO | {"subnormals": "flush"}][
            rng.integers(5)
        ]
        spec = fused(*formats, terms, bits, register, [-133, None][rng.integers(2)], [None, 3][rng.integers(2)], **more)
        try:
            if routes.route(Plan(spec)):
                count -= 1
                yield spec
        except Unsupported:
            pass


def products(spec, kind):
    """Operands that fill no tile, over several steps along K."""
    steps = max(2, 64 // spec.shape.k)
    return draw(spec, kind, np.random.default_rng(5), 37, 83, spec.shape.k * steps)


def reference(spec, x):
    return portable.matmul(spec, x.a, x.b, x.c, x.scale_a, x.scale_b)


def has_hopper():
    try:
        import torch
    except ImportError:
        return False
    return torch.cuda.is_available() and torch.cuda.get_device_capability() == (9, 0)


needs_hopper = pytest.mark.skipif(not has_hopper(), reason="no Hopper GPU")


@pytest.mark.parametrize("name", CASES)
def test_each_case_takes_its_way(name):
    """Narrow windows go through HMMA, wide ones through DMMA, lossless sums through one DMMA or, wider than that, digits."""
    way = routes.route(Plan(CASES[name]))
    assert way is not None
    assert way.cut == next(cut for cut, cases in WAYS.items() if name in cases)


@pytest.mark.parametrize("name", NEITHER)
def test_what_tensor_cores_cannot_cut_stays_on_cuda_cores(name):
    """Other roundings, operands of 32 bits, exponents of zeros that show, and exponents too far apart."""
    assert routes.route(Plan(NEITHER[name])) is None


def test_digits_are_taken_where_a_bound_proves_that_nothing_is_lost():
    """Exact sums of finite operands go in INT8 digits; in a window C is bounded and has no bits below; infinities do not."""
    exact, window = Plan(EXACT["exact"]), Plan(DOUBLE["a window of 36 bits"])
    assert routes.with_digits(exact, routes.route(exact), 1e30, 2.0**-149).cut == "digits"
    assert routes.with_digits(exact, routes.route(exact), math.inf, 1.0) is None
    assert routes.with_digits(window, routes.route(window), 2.0**17, 2.0**-18).cut == "digits"
    assert routes.with_digits(window, routes.route(window), 2.0**19 - 1, 2.0**-18).cut == "digits"
    assert routes.with_digits(window, routes.route(window), 2.0**19, 2.0**-18) is None
    assert routes.with_digits(window, routes.route(window), 2.0**17, 2.0**-20) is None
    half = Plan(HALF["Hopper's FP8"])
    assert routes.with_digits(half, routes.route(half), 1.0, 1.0) is None


WIDE = Format(name="wide", exponent_bits=6, mantissa_bits=5, bias=32, infinity=True, nan="ieee")
"""A format whose numbers have 67 bits in units of the smallest."""


def test_scaled_products_of_wide_sums_stay_on_cuda_cores():
    """Digits of INT8 sum products as they are: with scales on the products, the kernel left the scales out."""
    stage = {"terms": 2, "accumulator": True, "result": [{"format": "e8m13", "rounding": "toward-zero"}]}
    spec = {"shape": {"m": 4, "n": 4, "k": 4}, "a": "e2m1", "b": WIDE.model_dump(mode="json"), "stages": {"sum": stage}}
    spec |= {"name": "wide", "accumulator": "fp32"}
    scaled = spec | {"scale": {"a": {"group": [1, 4], "format": "fp32"}}}
    assert routes.route(Plan(Instruction.model_validate(spec))).cut == "digits"
    assert routes.route(Plan(Instruction.model_validate(scaled))) is None


@given(st.sampled_from([*map(named, ("e4m3", "e5m2", "e3m2", "e2m1", "int8", "uint8", "int4")), WIDE]), st.data())
def test_digits_are_the_number(fmt, data):
    """The digits of a code, each a byte with a sign, are its number in units of the smallest; pieces gather all powers."""
    code = data.draw(st.integers(0, (1 << fmt.bits) - 1))
    value = decode_array(fmt, np.array([code], code_dtype(fmt)))[0]
    digits = packing.digits_of(fmt, np.array([value if np.isfinite(value) else 0.0]))
    assert len(digits) == routes.digit_count(fmt)
    assert all(-128 <= d[0] < 128 for d in digits)
    expected = value * 2.0**-fmt.min_lsb_exponent if np.isfinite(value) else 0
    assert sum(int(d[0]) << 8 * i for i, d in enumerate(digits)) == expected


def test_c_starts_the_narrow_way_only_where_it_loses_nothing():
    """A C with bits below those of the smallest product's window, or so large that powers of two run out, does not."""
    plan = Plan(HALF["Hopper's FP8"])
    way = routes.route(plan)
    assert routes.suits(plan, way, 4096, 2.0**-26, 2.0**60)
    assert not routes.suits(plan, way, 4096, 2.0**-27, 1.0)
    assert not routes.suits(plan, way, 4096, 1.0, 2.0**100)


def cuobjdump():
    """The disassembler of a CUDA toolkit, or the one that triton brings along."""
    spec = importlib.util.find_spec("triton")
    beside = Path(spec.origin).parent / "backends/nvidia/bin/cuobjdump" if spec and spec.origin else None
    return shutil.which("cuobjdump") or (str(beside) if beside and beside.exists() else None)


@pytest.mark.parametrize("name", ["Hopper's FP8", "promoted", "17 bits", "25 bits", "Hopper's FP16", "exact"])
def test_text_compiles_without_a_gpu_and_spills_nothing(name, tmp_path):
    """The kernels of the main rules keep everything in registers."""
    pytest.importorskip("cuda.core", reason="the extra `kernels` is not installed")
    plan = Plan(CASES[name])
    way = routes.route(plan)
    way = routes.with_digits(plan, way, 1.0, 1.0) or way
    target = tensor.TensorCores(plan, way)
    rounded = replace(target, rounded=target.state == "float")
    for text in (target.source(), rounded.source(), fragments(plan, way, True, "cut").pack(1, 8)):
        (tmp_path / "cubin").write_bytes(bytes(launch.compiled(text).code))
        if (tool := cuobjdump()) is None:
            pytest.skip("no cuobjdump")
        usage = subprocess.run([tool, "-res-usage", tmp_path / "cubin"], capture_output=True, text=True, check=True)
        assert "STACK:0 " in usage.stdout


@needs_hopper
@pytest.mark.parametrize("name", CASES)
def test_tensor_cores_give_the_other_engines_codes(name):
    """Over random bits, wide exponents, cancellation, both ends of the range and special values."""
    for kind in KINDS:
        x = products(CASES[name], kind)
        got = gpu.matmul(CASES[name], x.a, x.b, x.c, x.scale_a, x.scale_b)
        assert np.array_equal(got, reference(CASES[name], x)), kind


@needs_hopper
@pytest.mark.parametrize("seed", range(40))
def test_random_specs_give_the_other_engines_codes_on_tensor_cores(seed):
    """So do random specs."""
    (spec,) = random_specs(1, seed)
    for kind in KINDS:
        x = products(spec, kind)
        assert np.array_equal(gpu.matmul(spec, x.a, x.b, x.c), reference(spec, x)), kind


@needs_hopper
def test_whole_gemms_with_split_k_run_on_the_gpu():
    """gemm on the GPU engine, K in stretches, gives the portable engine's codes."""
    x = draw(load(FP8), "normal", np.random.default_rng(2), 70, 83, 32 * 11)
    for split_k in (1, 3, 11):
        on_gpu, expected = (gemm(load(FP8), x.a, x.b, split_k=split_k, engine=e) for e in ("gpu", "portable"))
        assert np.array_equal(on_gpu, expected)


@needs_hopper
@pytest.mark.parametrize(
    "name",
    [
        "hopper.wgmma.m64n8k16.f32.bf16.bf16",
        "hopper.mma.m16n8k32.f32.e4m3.e5m2.f32",
        "hopper.wgmma.m64n8k256.s32.b1.b1.and.popc",
        "hopper.mma.m16n8k256.s32.b1.b1.s32.and.popc",
        FP8,
    ],
)
def test_the_chip_itself_is_an_engine(name):
    """`native` issues the instruction, over rows and columns that fill no tile, and agrees with the model."""
    spec = load(name)
    for kind in KINDS:
        x = products(spec, kind)
        chip = matmul(spec, x.a, x.b, x.c, engine="native").view(code_dtype(spec.accumulator))
        assert np.array_equal(chip, reference(spec, x)), kind


@needs_hopper
@pytest.mark.parametrize("name", ["hopper.mma.m8n8k4.f64.f64.f64.f64", "cdna2.mfma.f64_16x16x4f64"])
def test_fp64_is_a_chain_of_the_chips_own_additions(name):
    """FP64's fused multiply-adds give the golden model's codes."""
    spec = load(name)
    for kind in KINDS:
        x = draw(spec, kind, np.random.default_rng(6), 9, 7, spec.shape.k * 3)
        expected = matmul(spec, x.a, x.b, x.c, engine="golden").view(code_dtype(spec.accumulator))
        assert np.array_equal(gpu.matmul(spec, x.a, x.b, x.c), expected), kind


@needs_hopper
@pytest.mark.parametrize("name", ON_CUDA_CORES)
def test_cuda_cores_give_the_other_engines_codes(name):
    """What no Tensor Core takes: exponents of BF16 and TF32 to both ends, odd sums of three parts, trees of FP32 sums."""
    spec = load(name)
    for kind in KINDS:
        x = products(spec, kind)
        assert np.array_equal(gpu.matmul(spec, x.a, x.b, x.c), reference(spec, x)), kind


def test_native_refuses_what_no_chip_computes():
    """A name of another architecture, and a spec that only bears a Hopper name, are ValueErrors that say so."""
    a, b = np.zeros((1, 32), np.uint8), np.zeros((32, 1), np.uint8)
    with pytest.raises(ValueError, match="is not a Hopper instruction"):
        matmul(load("ada.mma.m16n8k32.f32.e4m3.e4m3.f32"), a, b, engine="native")
    with pytest.raises(ValueError, match="differs from hopper"):
        matmul(load(FP8).model_copy(update={"nan": 0x7FC00000}), a, b, engine="native")


@needs_hopper
@pytest.mark.parametrize("name", ["Hopper's FP8", "promoted", "17 bits", "25 bits"])
@pytest.mark.parametrize("packed", [True, False])
def test_products_of_packed_operands_and_rounded_results_are_the_same(name, packed):
    """A packed operand gives the codes of its codes; with a factor, D times it comes in BF16 as torch rounds it."""
    import torch

    spec = CASES[name]
    x = products(spec, next(iter(KINDS)))
    a, b = (
        torch.from_numpy(v.astype(code_dtype(f)).view(f"i{np.dtype(code_dtype(f)).itemsize}")).cuda()
        for v, f in ((x.a, spec.a), (x.b, spec.b))
    )
    d = gpu.matmul_on_device(spec, a, b)
    operands = (gpu.pack(spec, a, True), gpu.pack(spec, b, False)) if packed else (a, b)
    assert torch.equal(gpu.matmul_on_device(spec, *operands), d)
    factor = torch.full((1, 1), 0.37, device="cuda")
    rounded = gpu.matmul_on_device(spec, *operands, factor=factor)
    torch.testing.assert_close(
        rounded, (d.view(torch.float32) * factor).to(torch.bfloat16), rtol=0, atol=0, equal_nan=True
    )
