"""The compiled engines: C on this machine, CUDA where there is a GPU, both against the golden model."""

import shutil

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from strategies import KINDS, instructions
from test_engine import is_planned, operands
from test_instruction import NOBODY_BUILT, RULES

from isa_model import Instruction, load, matmul, promoted
from isa_model.array_codec import code_dtype, decode_array, encode_array
from isa_model.engines import cpu, cuda, gpu, launch, portable
from isa_model.engines.plan import Plan
from isa_model.formats import FORMATS, named

FP8_WGMMA = "hopper.wgmma.m64n256k32.f32.e4m3.e4m3"
NAMES = [
    FP8_WGMMA,
    "hopper.mma.m16n8k32.f32.e5m2.e4m3.f32",
    "hopper.wgmma.m64n8k16.f16.f16.f16",
    "hopper.wgmma.m64n8k8.f32.tf32.tf32",
]

needs_compiler = pytest.mark.skipif(not any(map(shutil.which, ("cc", "gcc", "clang"))), reason="no C compiler")


def has_gpu():
    try:
        import torch
    except ImportError:
        return False
    return torch.cuda.is_available()


needs_gpu = pytest.mark.skipif(not has_gpu(), reason="no NVIDIA GPU")


@pytest.fixture(autouse=True, scope="module")
def own_cache(tmp_path_factory):
    """Libraries of random instructions do not fill the user's cache folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


def assert_golden(engine, spec, kinds=KINDS, **shape):
    for kind in kinds:
        a, b, c, scales = operands(spec, 3, kind, **shape)
        got = engine.matmul(spec, a, b, c, **scales)
        reference = matmul(spec, a, b, c, engine="golden", **scales).view(code_dtype(spec.accumulator))
        assert np.array_equal(got, reference), kind


@pytest.fixture(scope="module")
def quick_to_compile():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cpu, "FLAGS", tuple(flag.replace("-O3", "-O1") for flag in cpu.FLAGS))
        yield


def whole_numbers(left="int8", right="int8", zero="positive", **scale):
    """An instruction whose sums of 32 products of whole numbers are scaled and added in FP32."""
    register = {"format": "fp32", "rounding": "nearest-even"}
    stages = {
        "sum": {"terms": 32, "zero": zero},
        "add": {"terms": 1, "accumulator": True, "zero": "ieee", "result": register},
    }
    spec = {"a": left, "b": right, "accumulator": "fp32", "shape": {"m": 4, "n": 4, "k": 32}, "stages": stages}
    return Instruction.model_validate(spec | {"scale": {"onto": "sum", **scale}})


SIGNED = {"a": {"group": [1, 32], "format": "fp32"}, "b": {"group": [32, 1], "format": "e4m3"}}
WHOLE_NUMBERS = {
    "power alone": whole_numbers(power=-4),
    "power alone, signed zeros": whole_numbers(power=-4, zero="ieee"),
    "signed scales and power": whole_numbers(power=7, **SIGNED),
    "rounded twice": whole_numbers(
        power=-40,
        **SIGNED,
        product={"format": "bf16", "rounding": "toward-zero"},
        result={"format": "fp32", "rounding": "nearest-even"},
    ),
    "products": whole_numbers(power=-3, onto="products", zero="ieee", **SIGNED),
    "unsigned by 4 bits": whole_numbers("uint8", "int4", power=-140),
    "by floating point": whole_numbers("int4", "e4m3", power=9, **SIGNED),
}
"""Whole numbers with a constant power of two beside their scales, or without scales."""


@needs_compiler
@settings(max_examples=10)
@given(instructions())
def test_random_instructions_compile_to_golden_bits(quick_to_compile, spec):
    """On random instructions the compiled CPU engine returns the golden model's codes."""
    assume(spec.shape.k <= 64)  # longer ones take a compiler seconds
    assume(is_planned(spec))
    assert_golden(cpu, spec)


@needs_compiler
@pytest.mark.parametrize("name", NAMES)
def test_catalogue_instructions_compile_to_golden_bits(name):
    """So do instructions of the catalogue."""
    assert_golden(cpu, load(name))


@needs_compiler
@pytest.mark.parametrize("shape", [(1, 1), (65, 63), (3, 130)])
def test_panels_that_are_not_full_change_nothing(shape):
    """Rows and columns that do not fill the engine's tiles, and several chained steps, give the portable engine's codes."""
    spec = promoted(load(FP8_WGMMA), 64)
    m, n = shape
    a, b, c, _ = operands(spec, 1, "bits", m=m, n=n, steps=5)
    assert np.array_equal(cpu.matmul(spec, a, b, c), portable.matmul(spec, a, b, c))


@needs_compiler
@pytest.mark.parametrize("operand", ["a", "b"])
def test_each_line_of_a_sparse_operand_picks_its_elements(quick_to_compile, operand):
    """Lines of several tiles and chunks, with scales and random bits, give the portable engine's codes."""
    scale = {"a": {"group": (3, 12), "format": "ue8m0"}, "b": {"group": (6, 5), "format": "ue4m3"}, "onto": "pairs"}
    register = {"format": "fp32", "rounding": "stochastic", "random_bits": 8}
    pairs = {"terms": 4, "fraction_bits": 9, "rounding": "down", "zero_exponent": -3}
    stages = {"pairs": pairs, "sum": {"terms": 1, "accumulator": True, "result": register}}
    sparsity = {"operand": operand, "kept": 2, "of": 3, "run": 2}
    spec = one_product(shape={"m": 1, "n": 1, "k": 6}, stages=stages, scale=scale, sparsity=sparsity)
    a, b, c, others = operands(spec, 1, "like", m=131, n=67, steps=100)
    places = others.pop("positions")
    others["positions"] = places if operand == "a" else places.T
    assert np.array_equal(cpu.matmul(spec, a, b, c, **others), portable.matmul(spec, a, b, c, **others))


@needs_compiler
def test_an_exponent_beyond_single_precision_leaves_nothing_of_products(quick_to_compile):
    """Zeros that count with 2**500, or a C of 2**200, align products so far down that all of them are cut."""
    register = {"format": "e10m12", "rounding": "nearest-even"}
    stage = {"terms": 2, "fraction_bits": 0, "rounding": "nearest-even", "accumulator": True, "result": register}
    for fields in ({"zero_exponent": 500}, {}):
        spec = {"a": "e2m1", "b": "e4m3", "accumulator": "e10m12", "shape": {"m": 4, "n": 4, "k": 4}}
        assert_golden(cpu, Instruction.model_validate(spec | {"stages": {"s": stage | fields}}))


def one_product(**fields):
    """An instruction of one exact product and C, in FP32."""
    register = {
        "format": fields.get("accumulator", "fp32"),
        "rounding": "nearest-even",
        "overflow": fields.pop("over", None),
    }
    stages = {"sum": {"terms": 1, "accumulator": True, "zero": "ieee", "result": [register]}}
    spec = {"a": "e5m2", "b": "e2m1", "accumulator": "fp32", "shape": {"m": 1, "n": 1, "k": 1}, "stages": stages}
    return Instruction.model_validate(spec | fields)


@needs_compiler
@pytest.mark.parametrize(
    "name", [n for n, f in FORMATS.items() if f.storage_bits <= 16 and f.zero] + ["e5m6", "ue3m2fn"]
)
def test_every_code_is_read_as_its_number(quick_to_compile, name):
    """All codes of a format as A and as B, with neighbours of K that have other scales, as the portable engine reads them."""
    fmt = named(name)
    every = np.arange(1 << fmt.storage_bits, dtype=code_dtype(fmt)).reshape(-1, 64)
    whole = fmt.kind == "integer"
    spec = one_product(a=name, b=name, accumulator="int32" if whole else "fp32", flush_inputs=fmt.mantissa_bits == 10)
    one = encode_array(fmt, np.eye(64))
    c = np.zeros((len(every), 64), np.uint32)
    for a, b, start in ((every, one, c), (one, every.T, c.T)):
        assert np.array_equal(cpu.matmul(spec, a, b, start), portable.matmul(spec, a, b, start))


@needs_compiler
@pytest.mark.parametrize("name", ["fp32", "fp16", "bf16", "e4m3", "e5m2", "e4m3fnuz", "e2m3", "e5m6", "tf32"])
def test_every_code_is_written(quick_to_compile, name):
    """All codes of a format (FP32: random ones) as C come back as D, specials by the rules of the format."""
    fmt = named(name)
    size = 1 << min(fmt.storage_bits, 16)
    c = np.random.default_rng(0).permutation(size).astype(code_dtype(fmt)).reshape(64, -1)
    if fmt.storage_bits == 32:
        c = np.random.default_rng(0).integers(0, 1 << 32, c.shape, np.uint32)
    spec = one_product(accumulator=name)
    a, b = np.zeros((64, 1), np.uint8), np.zeros((1, c.shape[1]), np.uint8)
    d = cpu.matmul(spec, a, b, c)
    assert np.array_equal(d, portable.matmul(spec, a, b, c))
    started, ended = (decode_array(fmt, x & c.dtype.type((1 << fmt.bits) - 1)) for x in (c, d))
    numbers = np.isfinite(started)
    assert np.array_equal(ended[numbers], started[numbers])


@needs_compiler
@pytest.mark.parametrize("onto", ["products", "pairs"])
@pytest.mark.parametrize("groups", [((1, 2), (2, 1)), ((3, 6), (6, 5)), ((2, 100), (400, 7))])
def test_groups_of_scales_may_lie_across_the_chunks_of_k(quick_to_compile, onto, groups):
    """Groups that divide neither tiles nor chunks, along K and across it, on operands longer than a chunk."""
    (a_group, b_group), fp32 = groups, {"format": "fp32", "rounding": "nearest-even"}
    scale = {"a": {"group": a_group, "format": "ue8m0"}, "b": {"group": b_group, "format": "ue8m0"}, "onto": onto}
    stages = {"pairs": {"terms": 2}, "sum": {"terms": 1, "accumulator": True, "result": fp32}}
    spec = one_product(a="e4m3", b="e4m3", shape={"m": 1, "n": 1, "k": 2}, stages=stages, scale=scale)
    assert Plan(spec).scales_fold == (onto == "products")
    a, b, c, scales = operands(spec, 1, "like", m=131, n=67, steps=300)
    assert np.array_equal(cpu.matmul(spec, a, b, c, **scales), portable.matmul(spec, a, b, c, **scales))


@needs_compiler
@pytest.mark.parametrize("scale", ["int4", "uint4", "ue8m0"])
@pytest.mark.parametrize("opposing", ["negate", "complement"])
def test_a_scale_gives_a_zero_product_of_integers_its_sign(quick_to_compile, scale, opposing):
    """-1 * 1 * 0 is -0, 0 * -1 * 1 is +0. The sign shows in a sum of zeros, or as a unit where opposing terms are inverted."""
    fp32 = {"format": "fp32", "rounding": "nearest-even"}
    window = {"fraction_bits": 6, "rounding": "toward-zero", "opposing": "complement"}
    sign_counts = {"zero": "ieee"} if opposing == "negate" else window
    stages = {"sum": {"terms": 2, "accumulator": True, "result": fp32, **sign_counts}}
    one = {"m": 1, "n": 1, "k": 2}
    spec = one_product(a="int4", b="int4", shape=one, stages=stages, scale={"a": {"group": [1, 2], "format": scale}})
    a = np.array([[x, y] for x in (0, 1, 15) for y in (0, 1, 15)] * 2, np.uint8)
    b, c = np.array([[1, 1, 15], [1, 15, 0]], np.uint8), np.zeros((18, 3), np.uint32)
    c[::2] = np.float32(-0.0 if opposing == "negate" else 1).view(np.uint32)
    scales = {"scale_a": (np.arange(18)[:, None] // 9 + 127 * (scale == "ue8m0")).astype(np.uint8)}
    reference = matmul(spec, a, b, c, engine="golden", **scales).view(np.uint32)
    assert Plan(spec).scales_fold == (scale == "ue8m0")  # which has neither a sign nor a zero
    for engine in (portable, cpu):
        assert np.array_equal(engine.matmul(spec, a, b, c, **scales), reference)


@needs_compiler
@pytest.mark.parametrize("onto", ["products", "pairs"])
@pytest.mark.parametrize("operand", ["int32", "e8m26"])
def test_a_scaled_zero_has_the_sign_of_the_whole_sum(quick_to_compile, operand, onto):
    """A sum wider than a double has parts of both signs, yet times a scale of zero, or zero times a negative scale, has one."""
    fp32 = {"format": "fp32", "rounding": "nearest-even"}
    ieee = {"zero": "ieee"}
    stages = {"pairs": {"terms": 2, **ieee}, "sum": {"terms": 1, "accumulator": True, "result": fp32, **ieee}}
    scale = {"a": {"group": [1, 2], "format": "e4m3"}, "onto": onto}
    one = {"m": 1, "n": 1, "k": 2}
    spec = one_product(a=operand, b=operand, shape=one, stages=stages, scale=scale)
    assert not Plan(spec).fused_products
    a, b, c, _ = operands(spec, 1, "sparse", m=32, n=8, steps=1)
    c[:] = 1 << 31
    scales = {"scale_a": np.array([[0x00], [0x80], [0x38], [0xB8]] * 8, np.uint8)}  # 0, -0, 1, -1
    reference = matmul(spec, a, b, c, engine="golden", **scales).view(np.uint32)
    assert {0, 1 << 31} < set(reference.ravel().tolist())
    for engine in (portable, cpu):
        assert np.array_equal(engine.matmul(spec, a, b, c, **scales), reference)


@needs_compiler
def test_a_sum_of_several_products_is_not_rounded_before_c_joins_it(quick_to_compile):
    """2**16 + 2**-7 + 2**-8 lies halfway between two FP32 numbers; a C of -2**-60 decides, though no double holds all of it."""
    fp32 = {"format": "fp32", "rounding": "nearest-even"}
    stages = {"sum": {"terms": 4, "accumulator": True, "result": fp32}}
    spec = one_product(a="e4m3", b="e4m3", shape={"m": 1, "n": 1, "k": 4}, stages=stages)
    a, b = (encode_array(spec.a, np.array([[256, 2.0**-4, 2.0**-4, 0]])) for _ in "ab")
    b[0, 1:3] = encode_array(spec.b, np.array([2.0**-3, 2.0**-4]))
    c = np.full((1, 1), -(2.0**-60), np.float32).view(np.uint32)
    assert cpu.matmul(spec, a, b.T, c).view(np.float32) == np.float32(2.0**16 + 2.0**-7)


@needs_compiler
def test_a_zero_holds_the_window_up_only_where_there_is_one(quick_to_compile):
    """An exponent of zeros above those of all numbers counts in blocks that have a zero, and in no other."""
    window = {"fraction_bits": 0, "rounding": "toward-zero", "zero_exponent": 3}
    stages = {
        "sum": {"terms": 2, "accumulator": True, **window, "result": {"format": "fp32", "rounding": "toward-zero"}}
    }
    spec = one_product(a="e4m3", b="e4m3", shape={"m": 1, "n": 1, "k": 2}, stages=stages)
    a, b = (encode_array(spec.a, np.array([[1.0, 2.5], [1.0, 0.0]])) for _ in "ab")
    for c, expected in ((1.0, 4.0), (0.0, 0.0)):
        start = np.full((2, 2), c, np.float32).view(np.uint32)
        got = cpu.matmul(spec, a, b.T, start)
        assert np.array_equal(got, matmul(spec, a, b.T, start, engine="golden").view(np.uint32))
        assert got.view(np.float32)[0, 0] == expected


@needs_compiler
def test_strides_and_threads_change_nothing(monkeypatch):
    """Transposed, reversed and cut out operands, and any number of threads, give the codes of contiguous ones on one."""
    spec = load(FP8_WGMMA)
    a, b, c, _ = operands(spec, 2, "bits", m=150, n=140, steps=20)
    monkeypatch.setattr(cpu, "cores", lambda: 1)
    expected = cpu.matmul(spec, a, b, c)
    monkeypatch.setattr(cpu, "cores", lambda: 7)
    assert np.array_equal(cpu.matmul(spec, a, b, c), expected)
    wide = np.repeat(np.repeat(a, 2, axis=0), 3, axis=1)
    assert np.array_equal(cpu.matmul(spec, wide[::2, 2::3], np.asfortranarray(b), np.asfortranarray(c)), expected)
    assert np.array_equal(cpu.matmul(spec, a[::-1], b[:, ::-1], c[::-1, ::-1]), expected[::-1, ::-1])


@needs_compiler
def test_large_products_are_compiled_and_small_ones_are_not(monkeypatch):
    """`auto` compiles from 2**25 multiply-accumulates on, and without a compiler gives the same codes."""
    spec = load(FP8_WGMMA)
    rng = np.random.default_rng(0)
    a, b = encode_array(spec.a, rng.standard_normal((64, 2048))), encode_array(spec.b, rng.standard_normal((2048, 256)))
    calls = []
    compiled = cpu.matmul
    monkeypatch.setattr(cpu, "matmul", lambda *args: calls.append(1) or compiled(*args))
    large = matmul(spec, a, b)
    assert len(calls) == 1
    matmul(spec, a[:8], b)
    assert len(calls) == 1

    def refuse(*_):
        raise cpu.NoCompiler("none")

    monkeypatch.setattr(cpu, "matmul", refuse)
    assert np.array_equal(matmul(spec, a, b), large)


def test_a_broken_compiler_is_no_compiler(monkeypatch, tmp_path):
    """A compiler that fails is reported as none, so that the portable engine takes over."""
    broken = tmp_path / "cc"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("CC", str(broken))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    cpu._load.cache_clear()
    spec = load(FP8_WGMMA)
    with pytest.raises(cpu.NoCompiler, match="failed"):
        cpu.matmul(spec, np.zeros((1, 32), np.uint8), np.zeros((32, 1), np.uint8), np.zeros((1, 1), np.uint32))
    cpu._load.cache_clear()
    assert not list((tmp_path / "cache").rglob("*.so"))


def test_without_a_gpu_the_gpu_engine_says_so():
    """Asking for the GPU engine on a machine without one is a ValueError that names what is missing."""
    if has_gpu():
        pytest.skip("there is a GPU")
    with pytest.raises(ValueError, match=r"extra `kernels`|no NVIDIA GPU"):
        matmul(load(FP8_WGMMA), np.zeros((1, 32), np.uint8), np.zeros((32, 1), np.uint8), engine="gpu")


@pytest.mark.parametrize("name", NAMES)
def test_cuda_text_compiles_without_a_gpu(name):
    """The CUDA text of an instruction compiles for sm_90a, with the loop on float lanes for FP8 alone."""
    text = cuda.CudaCores(Plan(load(name))).source()
    assert ("__fmaf_rz(x" in text) == (name == FP8_WGMMA)
    pytest.importorskip("cuda.core", reason="the extra `kernels` is not installed")
    assert len(launch.compiled(text).code) > 1000


@needs_gpu
@pytest.mark.parametrize("name", [*RULES.values(), *NAMES, "a mixture nobody built"])
def test_the_gpu_gives_golden_bits(name):
    """On the GPU every architecture's rules give the golden model's codes."""
    assert_golden(gpu, Instruction.model_validate(NOBODY_BUILT) if name == NOBODY_BUILT["name"] else load(name))


@needs_compiler
@pytest.mark.parametrize("spec", WHOLE_NUMBERS.values(), ids=WHOLE_NUMBERS)
def test_scaled_whole_numbers_compile_to_golden_bits(quick_to_compile, spec):
    """Whole numbers times scales and a power of two have the golden model's codes, signs of zeros among them."""
    assert_golden(cpu, spec, steps=2)


@needs_gpu
@pytest.mark.parametrize("spec", WHOLE_NUMBERS.values(), ids=WHOLE_NUMBERS)
def test_scaled_whole_numbers_give_golden_bits_on_the_gpu(spec):
    """And so on the GPU, whether Tensor Cores or CUDA cores sum them."""
    assert_golden(gpu, spec, steps=2)
    assert_golden(gpu, spec, ["bits", "zeros"], m=130, n=70, steps=3)


@needs_gpu
@settings(max_examples=40)
@given(instructions(), st.sampled_from(KINDS))
def test_random_instructions_give_golden_bits_on_the_gpu(spec, kind):
    """And so do random instructions."""
    assume(is_planned(spec))
    assert_golden(gpu, spec, [kind])
