"""What registers of unusual formats hold, and what one instruction along K leaves to the next, on every engine."""

import shutil

import numpy as np
import pytest

from isa_model import Instruction, load, matmul, named
from isa_model.array_codec import code_dtype, decode_array, encode_array, from_codes, to_codes, whole_numbers
from isa_model.codec import decode, encode, largest_finite, number_of
from isa_model.engines import cpu, cuda, gpu, integers, portable
from isa_model.engines.plan import Plan, Unsupported
from isa_model.float64 import round_to
from isa_model.formats import Format
from isa_model.stage import Register

ENGINES = [
    "golden",
    "portable",
    pytest.param(
        "compiled",
        marks=pytest.mark.skipif(not any(map(shutil.which, ("cc", "gcc", "clang"))), reason="no C compiler"),
    ),
]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """Libraries of these instructions do not fill the user's cache folder; they need not be fast."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(cpu, "FLAGS", tuple(flag.replace("-O3", "-O1") for flag in cpu.FLAGS))


def codes_of(spec, engine, a, b, c):
    """Raw codes of D."""
    compiled = {"compiled": cpu, "gpu": gpu}
    operands = [np.asarray(x, code_dtype(f)) for x, f in ((a, spec.a), (b, spec.b), (c, spec.c_format))]
    if engine in compiled:
        return compiled[engine].matmul(spec, *operands)
    return to_codes(spec.accumulator, matmul(spec, *operands, engine=engine))


def instruction(register, k=1, **fields):
    """One sum of k products and C."""
    stage = {"terms": k, "accumulator": True, "zero": "ieee", "result": register}
    spec = {
        "a": "fp16",
        "b": "fp16",
        "accumulator": "fp32",
        "shape": {"m": 1, "n": 1, "k": k},
        "stages": {"sum": stage},
    }
    return Instruction.model_validate(spec | fields)


@pytest.mark.parametrize("engine", ENGINES)
def test_an_instruction_reads_the_d_before_as_its_c(engine):
    """CDNA2 leaves -0 where a sum is flushed, and the next instruction reads it as +0: one call over K is two calls."""
    spec = load("cdna2.mfma.f32_4x4x2bf16")
    a, b = np.zeros((1, 4), np.uint16), np.zeros((4, 1), np.uint16)
    a[0, 0], b[0] = encode_array(spec.a, np.array([-1.5, 2.0**-126]))
    a[0, 2:], b[2:] = encode_array(spec.a, np.array([-(2.0**-70), 2.0**-70]))  # products that are flushed to -0
    c = np.array([[2.0**-126]], np.float32).view(np.uint32)
    first = codes_of(spec, engine, a[:, :2], b[:2], c)
    assert first == 0x80000000
    assert codes_of(spec, engine, a[:, 2:], b[2:], first) == 0
    assert codes_of(spec, engine, a, b, c) == 0


@pytest.mark.parametrize("engine", ENGINES)
def test_a_subnormal_between_two_instructions_is_flushed_and_at_the_end_is_not(engine):
    """`flush_inputs` zeroes a running value as it is read, not as it is written."""
    spec = instruction({"format": "fp32", "rounding": "nearest-even"}, a="bf16", b="bf16", flush_inputs=True)
    small, one, zero = encode_array(spec.a, np.array([2.0**-65, 1.0, 0.0]))
    tiny = np.array([[2.0**-130]], np.float32).view(np.uint32)
    assert codes_of(spec, engine, [[small]], [[small]], [[0]]) == tiny
    assert codes_of(spec, engine, [[small, zero]], [[small], [one]], [[0]]) == 0
    assert codes_of(spec, engine, [[zero, small]], [[one], [small]], tiny) == tiny


@pytest.mark.parametrize("engine", ENGINES)
def test_c_aligns_by_the_format_it_is_stored_in(engine):
    """A subnormal of an FP16 register is a normal number of the FP32 accumulator, and aligns as one in the next instruction."""
    window = {"terms": 1, "accumulator": True, "fraction_bits": 3, "rounding": "toward-zero"}
    register = {"format": "fp16", "rounding": "toward-zero"}
    spec = instruction(register, stages={"sum": window | {"result": register}}, flush_inputs=False)
    small, one, zero = (int(encode_array(spec.a, np.array([x]))[0]) for x in (2.0**-9, 1.0, 0.0))
    tiny = 2.0**-18  # FP16's subnormals align with 2**-14 and would be cut at 2**-17
    assert codes_of(spec, engine, [[small]], [[small]], [[0]]).view(np.float32) == tiny
    assert codes_of(spec, engine, [[small, zero]], [[small], [one]], [[0]]).view(np.float32) == tiny


@pytest.mark.parametrize("engine", ENGINES)
def test_a_nan_of_c_stays_one_where_d_has_none(engine):
    """An accumulator without a code for NaN still reads one of C as a NaN; between two instructions it is a number."""
    fmt = Format(name="x", exponent_bits=3, mantissa_bits=2, bias=3, infinity=True, nan="none", overflow="ieee")
    spec = instruction({"format": fmt, "rounding": "toward-zero"}, accumulator=fmt)
    not_a_number, largest = fmt.max_finite_magnitude + 2, fmt.max_finite_magnitude
    assert decode(fmt, not_a_number).special == "nan"
    zero, infinite = 0, 0x7C00
    assert codes_of(spec, engine, [[zero]], [[zero]], [[not_a_number]]) == largest
    assert codes_of(spec, engine, [[infinite]], [[0x3C00]], [[not_a_number]]) == largest
    assert codes_of(spec, engine, [[zero, infinite]], [[zero], [0x3C00]], [[not_a_number]]) == largest + 1


FNUZ = {"format": "e4m3fnuz", "rounding": "toward-zero"}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("flush", ["keep", "flush"])
def test_a_register_without_a_negative_zero_holds_none(engine, flush):
    """What rounds or is flushed to a zero in e4m3fnuz is +0, also where zeros have signs and the accumulator has a -0."""
    spec = instruction(FNUZ | {"subnormals": flush})
    tiny = int(encode_array(spec.a, np.array([-(2.0**-9)]))[0])
    scale = int(encode_array(spec.a, np.array([1.0 if flush == "flush" else 2.0**-9]))[0])
    assert codes_of(spec, engine, [[tiny]], [[scale]], [[0x80000000]]) == 0
    assert codes_of(spec, engine, [[0x8000]], [[scale]], [[0x80000000]]) == 0


def of_an_infinity(overflow, engine):
    """The code of D for FP16's infinity, which first goes through an inner register far above every finite product."""
    inner = {"terms": 1, "result": {"format": "fp32", "rounding": "nearest-even", "overflow": overflow}}
    outer = {"terms": 1, "accumulator": True, "result": {"format": "fp32", "rounding": "nearest-even"}}
    return codes_of(instruction({}, stages={"inner": inner, "outer": outer}), engine, [[0x7C00]], [[0x3C00]], [[0]])


INFINITIES = {"saturate": 0x7F7FFFFF, "nan": 0x7FC00000, "infinity": 0x7F800000, "ieee": 0x7F800000}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("overflow", INFINITIES)
def test_an_infinite_operand_follows_the_rule_for_overflow(engine, overflow):
    """A register that no finite sum overflows still clamps an infinity, or makes it a NaN, where its rule says so."""
    assert of_an_infinity(overflow, engine) == INFINITIES[overflow]


ALONE = named("e1m7")


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("overflow", "expected"), [("saturate", 127 / 64), ("infinity", np.inf), ("ieee", 127 / 64)])
def test_a_format_of_subnormals_alone_has_a_largest_number(engine, overflow, expected):
    """e1m7 with infinities ends at 127/64: a sum beyond saturates there, not at the infinity's code."""
    assert largest_finite(ALONE) == 127 / 64
    spec = instruction({"format": ALONE, "rounding": "toward-zero", "overflow": overflow}, accumulator=ALONE, c="fp32")
    one, three = encode_array(spec.a, np.array([1.0, 3.0]))
    got = codes_of(spec, engine, [[one]], [[three]], [[0]])
    assert got == encode(ALONE, number_of(expected))
    assert decode_array(ALONE, got) == expected


def test_what_saturates_in_a_format_of_subnormals_alone_is_flushed():
    """With `subnormals: flush` such a register holds zeros and infinities only."""
    register = Register(format=ALONE, rounding="toward-zero", overflow="saturate", subnormals="flush")
    assert round_to(np.array([3.0, -1.0]), register).tolist() == [0.0, -0.0]


def whole(acc, over="saturate", k=4, **fields):
    register = {"format": acc, "rounding": "toward-zero", "overflow": over}
    return instruction(register, k, **({"a": "int8", "b": "int8", "accumulator": acc} | fields))


@pytest.mark.parametrize("engine", ENGINES[:2])
@pytest.mark.parametrize("bits", [8, 24, 52, 53, 54, 62, 63, 64])
@pytest.mark.parametrize("signed", [True, False])
def test_integer_accumulators_saturate_and_wrap_at_their_ends(engine, bits, signed):
    """Sums at both ends of accumulators of up to 64 bits are clamped, or taken modulo 2**bits."""
    name = f"{'' if signed else 'u'}int{bits}"
    fmt = named(name)
    highest = fmt.max_finite_magnitude
    lowest = -highest - 1 if signed else 0
    a, b = np.array([[5, 7, -3, 1]], np.int8), np.ones((4, 2), np.int8)
    b[:, 1] = -1
    for over in ("saturate", "wrap"):
        spec = whole(name, over)
        for start in (highest, highest - 10, lowest, lowest + 10):
            c = np.full((1, 2), start & ((1 << bits) - 1), code_dtype(fmt))
            exact = [start + 10, start - 10]
            if over == "saturate":
                expected = [min(max(x, lowest), highest) for x in exact]
            else:
                expected = [(x - lowest) % (1 << bits) + lowest for x in exact]
            got = codes_of(spec, engine, a.view(np.uint8), b.view(np.uint8), c)
            assert whole_numbers(fmt, got).tolist() == [expected]


def test_int64_is_no_slow_proposal():
    """INT8 into INT64 goes through numpy, gives int64, and equals numpy's own integers."""
    rng = np.random.default_rng(0)
    spec = whole("int64", k=32)
    a, b = (rng.integers(-128, 128, shape).astype(np.int8) for shape in ((64, 512), (512, 65)))
    d = matmul(spec, a, b)
    assert d.dtype == np.int64
    assert np.array_equal(d, a.astype(np.int64) @ b.astype(np.int64))
    with pytest.raises(Unsupported, match="wider than a lane"):
        Plan(spec)


@pytest.mark.parametrize("name", ["int64", "uint64", "int63", "int3", "uint5", "int24"])
def test_whole_numbers_of_any_width_survive_being_encoded(name):
    """encode_array agrees with encode at both ends of integers of up to 64 bits, and arrays come back as they went."""
    fmt = named(name)
    highest = fmt.max_finite_magnitude
    ends = [
        0.0,
        -1.0,
        1.0,
        -0.5,
        1e30,
        -1e30,
        np.inf,
        -np.inf,
        np.nan,
        float(highest),
        -float(highest),
        2.0**62,
        2.0**63,
    ]
    for over in ("saturate", "wrap"):
        codes = encode_array(fmt, np.array(ends), overflow=over)
        assert codes.tolist() == [encode(fmt, number_of(x), overflow=over) for x in ends]
        assert np.array_equal(to_codes(fmt, from_codes(fmt, codes)), codes)
    for code, value in zip(codes.tolist(), whole_numbers(fmt, codes).tolist(), strict=True):
        assert decode(fmt, code).exact() == value


@pytest.mark.parametrize("engine", ENGINES)
def test_ignored_bits_below_an_integer_are_ignored(engine):
    """An integer in the upper bits of its code is read and written there."""
    fmt = Format(name="upper", kind="integer", mantissa_bits=20, low_padding=12, overflow="saturate")
    spec = whole(fmt, a=Format(name="high", kind="integer", mantissa_bits=4, low_padding=4, overflow="saturate"), k=1)
    got = codes_of(spec, engine, [[0xF7, 0x5F]], [[3], [2]], [[0x00001FFF]])  # -1 * 3 + 5 * 2 + 1
    assert got == 8 << 12


def test_an_accumulator_wider_than_the_kernels_codes_is_refused_by_the_gpu_engine():
    """The CUDA text leaves 32 bits: a wider accumulator is refused instead of cut off."""
    torch = pytest.importorskip("torch", reason="the extra `kernels` is not installed")
    spec = whole("int48", k=1)
    assert cuda.CudaCores(Plan(spec)).source()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gpu, "import_torch", lambda: torch)
        codes = torch.zeros((1, 1), dtype=torch.int8)
        with pytest.raises(Unsupported, match="32 bits"):
            gpu.matmul_on_device(spec, codes, codes)


def test_the_engine_of_wide_integers_cuts_its_tiles_anywhere(monkeypatch):
    """Tiles of a few elements give the codes of one tile."""
    rng = np.random.default_rng(1)
    spec = whole("int64", "wrap", k=8, a="int64", b="int32")
    a, b = (rng.integers(0, 2**63, s, dtype="u8").astype(t) for s, t in (((7, 16), "u8"), ((16, 9), "u4")))
    c = rng.integers(0, 2**63, (7, 9), dtype="u8")
    expected = integers.matmul(spec, a, b, c)
    monkeypatch.setattr(integers, "VALUES", 64)
    assert np.array_equal(integers.matmul(spec, a, b, c), expected)
    exact = c.view(np.int64).astype(object) + a.view(np.int64).astype(object) @ b.view(np.int32).astype(object)
    assert np.array_equal(expected, (exact % 2**64).astype("u8"))
    with pytest.raises(Unsupported):
        portable.matmul(spec, a, b, c)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("fmt", ["uint31", "uint32", "uint33", "int32", "int33"])
def test_an_integer_c_keeps_its_top_bit(engine, fmt):
    """A C in unsigned integers of 32 bits is a number from 0 to 2**32 - 1, a signed one a negative number from 2**31 on."""
    register = {"format": fmt, "rounding": "nearest-even", "overflow": "saturate"}
    spec = instruction(register, a="uint8", b="uint8", accumulator=fmt)
    top = 1 << named(fmt).mantissa_bits - 1
    assert codes_of(spec, engine, [[3]], [[5]], [[top]]) == top + 15


def far(bias, **fields):
    """A format of four exponent bits and three of mantissa around 2**(7 - bias)."""
    return {
        "name": "far",
        "exponent_bits": 4,
        "mantissa_bits": 3,
        "bias": bias,
        "infinity": True,
        "nan": "ieee",
        **fields,
    }


def product_of(of_a, of_b, of_c=0, **fields):
    """D of one product, by `matmul` and by the golden model, which have to agree."""
    body = {"a": "e4m3", "b": "e4m3", "accumulator": "fp32", "shape": {"m": 1, "n": 1, "k": 1}, **fields}
    spec = Instruction.model_validate(body)
    x, y, z = (
        encode_array(f, np.array([[float(v)]])) for f, v in ((spec.a, of_a), (spec.b, of_b), (spec.c_format, of_c))
    )
    found = [matmul(spec, x, y, z, engine=engine) for engine in ("auto", "golden")]
    assert found[0].tobytes() == found[1].tobytes()
    return found[0][0, 0]


def test_formats_at_both_ends_of_fp64_are_right_in_every_engine():
    """Registers near 2**-1070 overflow, products of huge numbers come back, and what is always subnormal is flushed."""
    one = {"terms": 1, "accumulator": True}
    tiny = [{"format": far(1072), "rounding": "toward-zero", "overflow": x} for x in ("nan", "saturate")]
    last = {"format": "fp32", "rounding": "nearest-even"}
    nan, largest = (product_of(1, 1, stages={"s": {**one, "result": [first, last]}}) for first in tiny)
    assert np.isnan(nan)
    assert largest == 0  # 1.875 * 2**-1058 is none of FP32
    huge = far(-1009)
    scale = {"power": -1100, "onto": "products"}
    stages = {"s": {**one, "result": last}}
    assert product_of(2.0**1020, 2.0**100, a=huge, b="bf16", scale=scale, stages=stages) == 2.0**20
    assert product_of(2.0**1020, 2.0**-1000, a=huge, b=far(1007), stages=stages) == 2.0**20
    top = {"name": "top", "exponent_bits": 1, "mantissa_bits": 3, "bias": -1023, "infinity": True}
    assert product_of(2.0**1023, 2.0**-1000, a=top, b=far(1007), stages=stages) == 2.0**23
    assert product_of(2.0**1023, 2.0**-1000, a=top, b=far(1007), stages=stages, flush_inputs=True) == 0
    kept = {**one, "result": {**last, "format": top, "subnormals": "flush"}}
    assert product_of(1, 1, 2.0**1023, accumulator=top, stages={"s": kept}) == 0


@pytest.mark.parametrize("engine", ENGINES)
def test_an_infinite_product_beside_a_far_zero_stays_infinite(engine):
    """Where zeros align at 2**500, single precision has no unit to divide by: an infinity must not become infinity times 0."""
    stage = {"terms": 2, "accumulator": True, "fraction_bits": 2, "rounding": "toward-zero", "zero_exponent": 500}
    spec = instruction(
        None, k=2, a="e5m2", b="e5m2", stages={"s": stage | {"result": {"format": "fp32", "rounding": "down"}}}
    )
    infinity, one = 0x7C, 0x3C
    for a in (infinity, infinity | 0x80):
        d = codes_of(spec, engine, [[a, 0]], [[one], [one]], [[0]])
        assert d.tolist() == [[0x7F800000 if a == infinity else 0xFF800000]]
