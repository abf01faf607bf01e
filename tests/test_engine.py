"""The engines against the golden model, and the golden model against plain arithmetic."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from strategies import KINDS, codes, instructions, integer_instructions

from isa_model import golden, load, matmul
from isa_model.array_codec import code_dtype, decode_array, encode_array, from_codes
from isa_model.codec import decode
from isa_model.engines.plan import Plan, Unsupported
from isa_model.formats import FORMATS, named
from isa_model.instruction import Instruction

FP8_WGMMA = "hopper.wgmma.m64n256k32.f32.e4m3.e4m3"


def operands(spec, seed, kind, m=3, n=4, steps=2):
    """Random operands of every kind an instruction takes, as raw codes: A, B, C, and the others by matmul's names."""
    rng, others = np.random.default_rng(seed), {}
    k, sparsity = spec.shape.k * steps, spec.sparsity
    of_a, of_b = (spec.stored_k * steps if sparsity and sparsity.operand == x else k for x in "ab")
    a = codes(spec.a, rng, (m, of_a), kind)
    b = np.ascontiguousarray(codes(spec.b, rng, (n, of_b), "like" if kind == "cancel" else kind).T)
    if kind == "cancel":
        b[of_b // 2 : 2 * (of_b // 2)] = b[: of_b // 2]
    books = (spec.codebook.a, spec.codebook.b) if spec.codebook else (None, None)
    for name, fmt, book, x in zip("ab", (spec.a, spec.b), books, (a, b), strict=True):
        if book:  # the codes become indices and, others of them, tables
            others[f"tables_{name}"] = codes(fmt, rng, (*book.tables(x.shape), 1 << book.bits), "bits")
    a, b = (x if book is None else x & ((1 << book.bits) - 1) for x, book in zip((a, b), books, strict=True))
    c = codes(spec.c_format, rng, (m, n), kind)
    c[rng.random((m, n)) < 0.3] = 0
    for name, side, shape in (
        ("scale_a", spec.scale and spec.scale.a, (m, k)),
        ("scale_b", spec.scale and spec.scale.b, (k, n)),
    ):
        if side:
            sizes = [tuple(-(-s // level.along(i)) for i, s in enumerate(shape)) for level in side.levels]
            every = [codes(level.format, rng, size, kind) for level, size in zip(side.levels, sizes, strict=True)]
            others[name] = every if side.coarser else every[0]
    if sparsity:
        lines = m if sparsity.operand == "a" else n
        each = np.tile(np.arange(sparsity.of, dtype=np.uint8), (lines, k // sparsity.group, 1))
        places = np.sort(rng.permuted(each, axis=2)[..., : sparsity.kept], axis=2).reshape(lines, -1)
        others["positions"] = places if sparsity.operand == "a" else places.T
    if spec.is_stochastic:
        others["seed"] = int(rng.integers(0, 1 << 63))
    return a, b, c, others


def is_planned(spec):
    """Return whether engines can compute an instruction."""
    try:
        Plan(spec)
    except Unsupported:
        return False
    return True


def assert_same(spec, a, b, c, scales):
    cpu = matmul(spec, a, b, c, engine="cpu", **scales).view(code_dtype(spec.accumulator))
    reference = matmul(spec, a, b, c, engine="golden", **scales).view(code_dtype(spec.accumulator))
    different = np.argwhere(cpu != reference)
    assert not len(different), (
        f"{different[0]}: cpu {cpu[tuple(different[0])]:#x}, golden {reference[tuple(different[0])]:#x}"
    )


@given(instructions(codebooks=True), st.integers(0, 1 << 30), st.sampled_from(KINDS), st.integers(1, 2))
def test_random_instructions_give_golden_bits(spec, seed, kind, steps):
    """On random instructions, chains of them and operands the portable engine returns the golden model's codes."""
    assume(is_planned(spec))
    assert_same(spec, *operands(spec, seed, kind, m=1, n=2, steps=steps))


@given(integer_instructions(), st.integers(0, 1 << 30), st.sampled_from(KINDS), st.integers(1, 2))
def test_random_integer_instructions_give_golden_bits(spec, seed, kind, steps):
    """So it does on integers of up to 64 bits, without the golden model's help."""
    assert_same(spec, *operands(spec, seed, kind, m=1, n=2, steps=steps))


@settings(max_examples=settings.default.max_examples // 3)
@given(st.one_of(instructions(), integer_instructions()), st.integers(0, 1 << 30), st.sampled_from(KINDS))
def test_a_long_k_is_a_chain_of_instructions(spec, seed, kind):
    """One product over a long K is one instruction after the other, each with the D before as its C."""
    assume(spec.c_format == spec.accumulator and not spec.is_stochastic and not spec.remainder)
    assume(not any(side.coarser for side in spec.scales))
    a, b, c, scales = operands(spec, seed, kind, m=1, n=1, steps=2)
    d, k = c, spec.shape.k
    for step in range(2):
        part = {"scale_a": slice(None), "scale_b": slice(None)}
        if spec.scale and (sides := [s.group[i] for s, i in ((spec.scale.a, 1), (spec.scale.b, 0)) if s]):
            assume(sides[0] == k)
            part = {"scale_a": np.s_[:, step : step + 1], "scale_b": np.s_[step : step + 1]}
        ks = slice(step * k, step * k + k)
        some = {name: codes[part[name]] for name, codes in scales.items()}
        d = matmul(spec, a[:, ks], b[ks], d, engine="golden", **some).view(code_dtype(spec.accumulator))
    assert np.array_equal(d, matmul(spec, a, b, c, engine="golden", **scales).view(d.dtype))


def whole(bits, **fields):
    """A format of integers."""
    return {"name": "whole", "kind": "integer", "mantissa_bits": bits, "overflow": "saturate", **fields}


def test_integer_scales_of_integer_products_align_with_exponent_zero():
    """A scale that is multiplied into its operand leaves the last place of a product where the golden model has it."""
    register = {"format": "e5m1", "rounding": "nearest-even"}
    stage = {"terms": 1, "accumulator": True, "fraction_bits": 0, "rounding": "nearest-even", "result": register}
    spec = {
        "a": "uint4",
        "b": "uint4",
        "accumulator": "e5m1",
        "shape": {"m": 1, "n": 1, "k": 1},
        "stages": {"s": stage},
    }
    spec = Instruction.model_validate(spec | {"scale": {"a": {"group": [1, 1], "format": "uint4"}}})
    assert Plan(spec).scales_fold
    a, b, c, scales = operands(spec, 0, "bits", m=16, n=16)
    assert_same(spec, a, b, c, scales)


def test_d_of_a_wide_integer_instruction_is_no_longer_in_the_format_of_c():
    """The second instruction along K reads an unsigned 64-bit D, though the first C was a signed byte."""
    register = {"format": whole(64, signed=False), "rounding": "nearest-even", "overflow": "wrap"}
    stage = {"terms": 1, "accumulator": True, "result": register}
    spec = {"a": "uint4", "b": "uint4", "c": "int8", "accumulator": register["format"], "stages": {"s": stage}}
    spec = Instruction.model_validate(spec | {"shape": {"m": 1, "n": 1, "k": 1}})
    a, b = np.array([[1, 1]], np.uint8), np.array([[0], [1]], np.uint8)
    assert_same(spec, a, b, np.array([[0xFF]], np.uint8), {})  # -1, then 2**64 - 1, then 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "name",
    [
        FP8_WGMMA,
        "hopper.mma.m16n8k32.f32.e5m2.e4m3.f32",
        "hopper.wgmma.m64n8k16.f16.f16.f16",
        "hopper.wgmma.m64n8k8.f32.tf32.tf32",
        "hopper.mma.m16n8k8.f32.bf16.bf16.f32",
        "hopper.mma.m16n8k16.f16.e5m2.e5m2.f16",
    ],
)
def test_catalogue_instructions_give_golden_bits(name, kind):
    """So do the instructions of the catalogue."""
    for seed in range(4):
        assert_same(load(name), *operands(load(name), seed, kind))


@pytest.mark.parametrize(
    ("row", "expected"), [([3, 1, -1, 1], np.inf), ([1, 1, -1, -3], -np.inf), ([1, 1, -1, -1], np.nan)]
)
def test_an_infinite_scale_multiplies_the_sum_and_not_its_parts(row, expected):
    """A sum too wide for one lane, scaled by a product of scales that overflows, is an infinity of its own sign."""
    fp32 = {"format": "fp32", "rounding": "nearest-even"}
    spec = Instruction.model_validate(
        {
            "a": "bf16",
            "b": "bf16",
            "accumulator": "fp32",
            "shape": {"m": 1, "n": 1, "k": 4},
            "scale": {
                "a": {"group": [1, 4], "format": "fp32"},
                "b": {"group": [4, 1], "format": "fp32"},
                "onto": "group",
                "product": fp32,
            },
            "stages": {"group": {"terms": 4}, "sum": {"terms": 1, "accumulator": True, "result": fp32}},
        }
    )
    a = encode_array(spec.a, np.array([row], np.float64))
    b = encode_array(spec.b, np.ones((4, 1)))
    huge = np.full((1, 1), 3e38, np.float32)
    for engine in ("golden", "cpu"):
        got = matmul(spec, a, b, scale_a=huge, scale_b=huge, engine=engine)
        assert np.array_equal(got, [[np.float32(expected)]], equal_nan=True)


@pytest.mark.parametrize("side", ["a", "b"])
def test_operands_below_the_normal_numbers_of_float64_are_left_to_the_golden_model(side):
    """Their products are ordinary numbers: 1.5 * 2^-1040 times 2^1020, cut up to two bits below its own leading one."""
    formats = [
        {"name": name, "exponent_bits": 5, "mantissa_bits": 5, "bias": bias, "infinity": True, "overflow": "infinity"}
        for name, bias in (("low", 1070), ("high", -992))
    ]
    a, b = formats if side == "a" else formats[::-1]
    spec = Instruction.model_validate(
        {
            "a": a,
            "b": b,
            "accumulator": "fp32",
            "shape": {"m": 1, "n": 1, "k": 1},
            "stages": {
                "sum": {
                    "terms": 1,
                    "accumulator": True,
                    "fraction_bits": 2,
                    "rounding": "up",
                    "result": {"format": "fp32", "rounding": "nearest-even"},
                }
            },
        }
    )
    low, high = 1.5 * 2.0**-1040, 2.0**1020
    numbers = (low, high) if side == "a" else (high, low)
    x, y = (encode_array(f, np.array([[v]])) for f, v in zip((spec.a, spec.b), numbers, strict=True))
    for engine in ("golden", "auto"):
        assert matmul(spec, x, y, engine=engine) == np.float32(1.5 * 2.0**-20)
    with pytest.raises(Unsupported, match="aligns with exponents beyond"):
        Plan(spec)


def test_a_cut_below_the_lanes_of_a_wide_sum_is_left_to_the_golden_model():
    """A sum handed up unrounded and cut at a fixed exponent, far below its leading bit, is refused by the CPU engine."""
    spec = Instruction.model_validate(
        {
            "a": "bf16",
            "b": "bf16",
            "accumulator": "fp32",
            "shape": {"m": 1, "n": 1, "k": 2},
            "stages": {
                "pair": {"terms": 2, "exponent": 0},
                "sum": {
                    "terms": 1,
                    "accumulator": True,
                    "fraction_bits": 7,
                    "rounding": "nearest-even",
                    "result": {"format": "fp32", "rounding": "toward-zero"},
                },
            },
        }
    )
    with pytest.raises(Unsupported, match="wider than a lane"):
        Plan(spec)


def test_all_65536_pairs_of_fp8_codes():
    """One product of every pair of E4M3 codes, by E5M2 codes and by E4M3 codes, equals the exact product truncated to e8m13."""
    every = np.arange(256, dtype=np.uint8)
    for b_name in ("e4m3", "e5m2"):
        spec = load(f"hopper.wgmma.m64n256k32.f32.e4m3.{b_name}")
        a, b = np.zeros((256, 32), np.uint8), np.zeros((32, 256), np.uint8)
        a[:, 5], b[5] = every, every
        got = matmul(spec, a, b, engine="cpu")
        with np.errstate(invalid="ignore"):
            exact = decode_array(spec.a, every)[:, None] * decode_array(spec.b, every)[None, :]
        assert np.array_equal(got.astype(np.float64), exact, equal_nan=True)  # 8 bits fit 13: nothing is lost
        assert np.array_equal(
            got.view(np.uint32)[np.isnan(exact)], np.full(np.isnan(exact).sum(), 0x7FFFFFFF, np.uint32)
        )


def test_golden_follows_the_five_steps_on_a_worked_example():
    """Worked by hand: 2**-14 beside 1 is under the 13 fraction bits and vanishes; 2**-13 stays; the sum is cut to e8m13."""
    spec = load(FP8_WGMMA)
    fp8, fp32 = FORMATS["e4m3"], FORMATS["fp32"]

    def code(value):
        return int(encode_array(fp8, np.array([value]))[0])

    def d(pairs, c=0.0):
        a = [code(x) for x, _ in pairs] + [0] * (32 - len(pairs))
        b = [code(y) for _, y in pairs] + [0] * (32 - len(pairs))
        result = golden.dot(spec, a, b, int(np.float32(c).view(np.uint32)))
        return float(decode(fp32, result).exact())

    assert d([(1, 1), (2**-7, 2**-6)]) == 1 + 2**-13
    assert d([(1, 1), (2**-7, 2**-7)]) == 1
    assert d([(1, 1), (-(2**-7), 2**-7)]) == 1  # sign and magnitude: truncated towards zero, not down
    # 1.875 * 1.875 = 3.515625 has exponent 0, not 1: it is not normalised before alignment
    assert d([(1.875, 1.875), (2**-7, 2**-6)]) == 3.515625  # kept at alignment (2**-13), lost in the register
    assert d([(1, 1)], c=2.0**13) == 2.0**13 + 1
    assert d([(1, 1)], c=2.0**14) == 2.0**14


def test_golden_equals_fractions_when_the_sum_is_exact():
    """An exact sum rounded once to FP32 is the correctly rounded fraction."""
    spec = Instruction.model_validate(
        {
            "a": "bf16",
            "b": "fp16",
            "accumulator": "fp32",
            "shape": {"m": 1, "n": 1, "k": 8},
            "stages": {
                "sum": {
                    "terms": 8,
                    "accumulator": True,
                    "result": {"format": "fp32", "rounding": "nearest-even"},
                }
            },
        }
    )
    rng = np.random.default_rng(7)
    for _ in range(200):
        a, b, c = (
            codes(spec.a, rng, (1, 8), "like"),
            codes(spec.b, rng, (8, 1), "like"),
            codes(spec.accumulator, rng, (1, 1), "like"),
        )
        exact = decode(spec.accumulator, int(c[0, 0])).exact() + sum(
            (
                decode(spec.a, int(x)).exact() * decode(spec.b, int(y)).exact()
                for x, y in zip(a[0], b[:, 0], strict=True)
            ),
            Fraction(0),
        )
        got = matmul(spec, a, b, c, engine="golden")[0, 0]
        neighbours = [np.nextafter(got, np.float32(-np.inf)), np.nextafter(got, np.float32(np.inf))]
        assert all(abs(Fraction(float(got)) - exact) <= abs(Fraction(float(x)) - exact) for x in neighbours)


@pytest.mark.parametrize(
    ("distribution", "native", "promoted_error"),
    [("normal", 1.3e-3, 1.3e-4), ("uniform", 6.6e-2, 5.0e-4), ("offset", 6.9e-3, 5.1e-5)],
)
def test_errors_at_k_4096_are_those_measured_on_an_h200(distribution, native, promoted_error):
    """Relative Frobenius errors at K = 4096 match the measurements on the chip within 10 %."""
    from isa_model import promoted

    rng = np.random.default_rng(11)
    draw = {
        "normal": lambda s: rng.standard_normal(s),
        "uniform": lambda s: rng.random(s),
        "offset": lambda s: rng.standard_normal(s) + 0.5,
    }[distribution]
    fp8 = FORMATS["e4m3"]
    a, b = encode_array(fp8, draw((256, 4096))), encode_array(fp8, draw((4096, 256)))
    exact = decode_array(fp8, a) @ decode_array(fp8, b)  # exact: 50 bits at most
    base = load(FP8_WGMMA)
    for spec, expected in ((base, native), (promoted(base, 128), promoted_error)):
        error = matmul(spec, a, b).astype(np.float64) - exact
        assert np.linalg.norm(error) / np.linalg.norm(exact) == pytest.approx(expected, rel=0.1)


def test_promotion_is_an_fma_of_the_scaled_partial_sums():
    """A promoted instruction equals its base run per group from zero, times the FP32 scale product, added by one FMA."""
    from isa_model import promoted
    from isa_model.operand_fields import ScaleOperand, Scaling

    base, fp32 = load(FP8_WGMMA), FORMATS["fp32"]
    scale = Scaling(a=ScaleOperand(group=(1, 128), format=fp32), b=ScaleOperand(group=(128, 1), format=fp32))
    spec = promoted(base, 128, scale)
    rng = np.random.default_rng(3)
    a, b = (
        encode_array(base.a, rng.standard_normal((5, 384))),
        encode_array(base.b, rng.standard_normal((384, 6))),
    )
    sa, sb = rng.random((5, 3)).astype(np.float32), rng.random((3, 6)).astype(np.float32)
    accumulator = np.zeros((5, 6), np.float32)
    for g in range(3):
        k = slice(128 * g, 128 * g + 128)
        partial = matmul(base, a[:, k], b[k]).astype(np.float64)
        factor = (sa[:, g, None] * sb[None, g]).astype(np.float32).astype(np.float64)
        exact = [
            [Fraction(p) * Fraction(f) + Fraction(float(c)) for p, f, c in zip(*rows, strict=True)]
            for rows in zip(partial.tolist(), factor.tolist(), accumulator.tolist(), strict=True)
        ]
        accumulator = np.array([[_to_float32(x) for x in row] for row in exact], np.float32)
    assert np.array_equal(matmul(spec, a, b, scale_a=sa, scale_b=sb), accumulator)


def _to_float32(x: Fraction) -> np.float32:
    """Correctly rounded: Fraction to float rounds correctly, and odd ends are settled by comparing neighbours."""
    guess = np.float32(float(x))
    around = [guess, np.nextafter(guess, np.float32(np.inf)), np.nextafter(guess, np.float32(-np.inf))]
    return min(around, key=lambda f: (abs(Fraction(float(f)) - x), int(np.float32(f).view(np.uint32)) & 1))


@pytest.mark.parametrize("overflow", ["wrap", "saturate"])
def test_integers_wrap_or_saturate(overflow):
    """INT8 into INT32: exact, and at the ends it wraps around or saturates, as the spec says."""
    spec = Instruction.model_validate(
        {
            "a": "int8",
            "b": "int8",
            "accumulator": "int32",
            "shape": {"m": 16, "n": 8, "k": 32},
            "stages": {
                "sum": {
                    "terms": 32,
                    "accumulator": True,
                    "result": {"format": "int32", "rounding": "toward-zero", "overflow": overflow},
                }
            },
        }
    )
    rng = np.random.default_rng(0)
    a, b = rng.integers(-128, 128, (4, 64), dtype=np.int8), rng.integers(-128, 128, (64, 5), dtype=np.int8)
    c = rng.integers(-(2**31), 2**31, (4, 5), dtype=np.int32)
    c[0] = 2**31 - 1
    for engine in ("golden", "cpu"):
        got = matmul(spec, a, b, c, engine=engine)
        assert got.dtype == np.int32
        exact = c.astype(np.int64)
        for k in (slice(0, 32), slice(32, 64)):
            exact = exact + a[:, k].astype(np.int64) @ b[k].astype(np.int64)
            exact = np.clip(exact, -(2**31), 2**31 - 1) if overflow == "saturate" else (exact + 2**31) % 2**32 - 2**31
        assert np.array_equal(got, exact)


def test_fp64_is_a_chain_of_fused_multiply_adds():
    """FP64 runs on the golden model (the lanes are too narrow for it, and say so) and equals correctly rounded FMAs."""
    spec = Instruction.model_validate(
        {
            "a": "fp64",
            "b": "fp64",
            "accumulator": "fp64",
            "shape": {"m": 8, "n": 8, "k": 4},
            "stages": {
                "fma": {
                    "terms": 1,
                    "accumulator": True,
                    "zero": "ieee",
                    "result": {"format": "fp64", "rounding": "nearest-even"},
                }
            },
        }
    )
    rng = np.random.default_rng(1)
    a, b = rng.standard_normal((2, 8)), rng.standard_normal((8, 2))
    got = matmul(spec, a, b)
    for i in range(2):
        for j in range(2):
            value = 0.0
            for k in range(8):
                value = float(Fraction(a[i, k]) * Fraction(b[k, j]) + Fraction(value))
            assert got[i, j] == value
    with pytest.raises(ValueError, match="cpu engine cannot compute"):
        matmul(spec, a, b, engine="cpu")


def test_a_dtype_of_its_own_or_raw_codes_give_the_same():
    """Arrays of ml_dtypes values and of raw codes are the same operands; odd accumulators come back as codes."""
    import ml_dtypes

    spec = load(FP8_WGMMA)
    rng = np.random.default_rng(0)
    a, b = (
        rng.standard_normal((3, 64)).astype(ml_dtypes.float8_e4m3fn),
        rng.standard_normal((64, 3)).astype(ml_dtypes.float8_e4m3fn),
    )
    assert np.array_equal(matmul(spec, a, b), matmul(spec, a.view(np.uint8), b.view(np.uint8)))
    odd = spec.model_copy(update={"accumulator": named("e8m13"), "nan": None})
    raw = matmul(odd, a, b)
    assert raw.dtype == np.uint32
    assert np.array_equal(decode_array(odd.accumulator, raw), matmul(spec, a, b).astype(np.float64))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"a": np.zeros((2, 33), np.uint8)}, "K differs"),
        (
            {"a": np.zeros((2, 48), np.uint8), "b": np.zeros((48, 2), np.uint8)},
            "not a multiple of the instruction's k = 32",
        ),
        ({"a": np.zeros((2, 32), np.float32)}, "a: an array of e4m3 has dtype float8_e4m3fn, or uint8 codes"),
        ({"a": np.zeros(32, np.uint8)}, "1 dimensions"),
        ({"c": np.zeros((3, 2), np.float32)}, "c is"),
        ({"scale_a": np.ones((2, 1), np.float32)}, "takes none"),
        ({"engine": "fpga"}, "unknown engine"),
    ],
)
def test_operands_that_do_not_fit_are_refused(arguments, message):
    """matmul raises ValueError naming what does not fit."""
    call = {"a": np.zeros((2, 32), np.uint8), "b": np.zeros((32, 2), np.uint8), **arguments}
    with pytest.raises(ValueError, match=message):
        matmul(load(FP8_WGMMA), **call)


def test_scales_must_be_there_and_have_one_entry_per_group():
    """A scaled instruction without scales, or with scales of another shape, is refused."""
    spec = Instruction.model_validate(
        {
            "a": "e4m3",
            "b": "e4m3",
            "accumulator": "fp32",
            "shape": {"m": 1, "n": 1, "k": 32},
            "scale": {"a": {"group": [1, 32], "format": "ue8m0"}},
            "stages": {
                "sum": {
                    "terms": 32,
                    "accumulator": True,
                    "result": {"format": "fp32", "rounding": "nearest-even"},
                }
            },
        }
    )
    a, b = np.zeros((2, 64), np.uint8), np.zeros((64, 2), np.uint8)
    with pytest.raises(ValueError, match="needs scale_a"):
        matmul(spec, a, b)
    with pytest.raises(ValueError, match=r"make it \(2, 2\)"):
        matmul(spec, a, b, scale_a=np.zeros((2, 1), np.uint8))
    assert from_codes(spec.accumulator, np.zeros(1, np.uint32)).dtype == np.float32
