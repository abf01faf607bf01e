"""Number formats against ml_dtypes and against their own scalar definition."""

from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from isa_model.array_codec import code_dtype, decode_array, dtype_of, encode_array, from_codes, to_codes, value_dtypes
from isa_model.codec import decode, encode, number_of
from isa_model.diagnostics import InputError
from isa_model.formats import FORMATS, Format, named
from isa_model.rounding import Rounding

SHARED = [name for name in value_dtypes() if name not in ("tf32", "e4m3fn")]
SMALL = [name for name in SHARED if named(name).storage_bits == 8 and named(name).kind == "float"]
BF16 = np.arange(1 << 16, dtype=np.uint16).view(ml_dtypes.bfloat16)
FP16 = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
DETERMINISTIC = [r for r in Rounding if r is not Rounding.STOCHASTIC]


def same(x, y):
    """Return whether values are equal, with signs of zero, and NaN equal to NaN."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    return np.array_equal(x, y, equal_nan=True) and np.array_equal(
        np.signbit(x[~np.isnan(x)]), np.signbit(y[~np.isnan(y)])
    )


def all_codes(fmt):
    if fmt.bits <= 16:
        return np.arange(1 << fmt.bits, dtype=code_dtype(fmt))
    rng = np.random.default_rng(0)
    return rng.integers(0, 1 << fmt.bits, 20_000, dtype=np.uint64).astype(code_dtype(fmt))


@pytest.mark.parametrize("name", SHARED)
def test_every_code_decodes_as_in_ml_dtypes(name):
    """decode_array gives ml_dtypes's (numpy's) value for every code, or for 20,000 of a wide format."""
    fmt = named(name)
    codes = all_codes(fmt)
    with np.errstate(invalid="ignore"):
        theirs = from_codes(fmt, codes).astype(np.float64)
    assert same(decode_array(fmt, codes), theirs)


@pytest.mark.parametrize("name", [*FORMATS, "e5m6", "e8m13", "e3m0fn", "ue5m3", "e2m1f", "e4m3ieee"])
def test_scalar_and_array_decode_agree(name):
    """decode and decode_array give the same number for every code."""
    fmt = named(name)
    codes = all_codes(fmt)[:: max(1, (1 << min(fmt.bits, 14)) // 2048)]
    for code, value in zip(codes.tolist(), decode_array(fmt, codes).tolist(), strict=True):
        number = decode(fmt, code)
        if number.special:
            assert (number.special == "nan") == np.isnan(value)
        else:
            assert float(number.exact()) == value
            assert number.negative == np.signbit(value)


def expected_by_ml_dtypes(name, values):
    """ml_dtypes's conversion, with the differences that the project states written out.

    Where a format has no infinity ml_dtypes turns what is beyond its range (infinities too) into NaN, if it has one; ours
    saturate, as PTX cvt.satfinite does.
    """
    fmt = named(name)
    with np.errstate(over="ignore", invalid="ignore"):
        theirs, exact = values.astype(dtype_of(fmt)).astype(np.float64), values.astype(np.float64)
    if not fmt.infinity and fmt.nan != "none":
        beyond = np.isnan(theirs) & ~np.isnan(exact)
        largest = float(decode(fmt, fmt.max_finite_magnitude).exact())
        theirs[beyond] = np.copysign(largest, exact[beyond])
    return theirs


@pytest.mark.parametrize("name", [n for n in SMALL if n != "ue8m0"])
@pytest.mark.parametrize("source", ["bf16", "fp16", "fp32"])
def test_conversion_agrees_with_ml_dtypes(name, source):
    """Rounding to nearest even from all BF16, all FP16 and random FP32 inputs gives ml_dtypes's results within the range."""
    fmt = named(name)
    if source == "fp32":
        values = np.random.default_rng(1).integers(0, 1 << 32, 200_000, dtype=np.uint32).view(np.float32)
        near = np.random.default_rng(2).standard_normal(200_000).astype(np.float32)
        values = np.concatenate([values, near, near * 2.0**-7])
    else:
        values = {"bf16": BF16, "fp16": FP16}[source]
    with np.errstate(invalid="ignore"):
        values = values[~np.isnan(values.astype(np.float32))] if fmt.nan == "none" else values
        ours = decode_array(fmt, encode_array(fmt, values.astype(np.float64)))
    assert same(ours, expected_by_ml_dtypes(name, values))


@pytest.mark.parametrize("name", ["fp16", "bf16"])
def test_sixteen_bit_conversion_agrees_with_numpy_and_ml_dtypes(name):
    """FP32 to FP16 and BF16 equals numpy's and ml_dtypes's conversion on 400,000 inputs."""
    fmt = named(name)
    rng = np.random.default_rng(3)
    values = np.concatenate(
        [
            rng.integers(0, 1 << 32, 200_000, dtype=np.uint32).view(np.float32),
            rng.standard_normal(200_000).astype(np.float32),
        ]
    )
    with np.errstate(over="ignore", invalid="ignore"):
        theirs = values.astype(dtype_of(fmt)).astype(np.float64)
        ours = decode_array(fmt, encode_array(fmt, values.astype(np.float64)))
    assert same(ours, theirs)


def test_ue8m0_differs_from_ml_dtypes_only_beyond_its_range():
    """UE8M0 agrees with ml_dtypes from 2**-126 up; below, ml_dtypes rounds up what is nearer to 2**-127, and zero is NaN."""
    fmt = named("ue8m0")
    with np.errstate(invalid="ignore"):
        values = BF16.astype(np.float64)
    inside = (values >= 2.0**-126) & (values <= 2.0**127)
    theirs = BF16[inside].astype(ml_dtypes.float8_e8m0fnu).astype(np.float64)
    assert same(decode_array(fmt, encode_array(fmt, values[inside])), theirs)
    assert encode(fmt, number_of(1.25 * 2.0**-127)) == encode(fmt, number_of(0.0)) == 0
    assert np.isnan(np.float32(0).astype(ml_dtypes.float8_e8m0fnu).astype(np.float32))
    assert encode(fmt, number_of(-1.0)) == fmt.nan_code == 0xFF
    assert encode(fmt, number_of(2.0**200)) == 0xFE


def test_beyond_the_range_e4m3_saturates_and_e5m2_overflows():
    """By default 1e6 and infinity become 448 in E4M3 and infinity in E5M2; NaN stays NaN."""
    e4m3, e5m2 = named("e4m3"), named("e5m2")
    assert decode(e4m3, encode(e4m3, number_of(1e6))).exact() == 448
    assert decode(e4m3, encode(e4m3, number_of(float("inf")))).exact() == 448
    assert encode(e4m3, number_of(1e6), overflow="nan") == 0x7F
    assert decode(e5m2, encode(e5m2, number_of(1e6))).special == "infinity"
    assert decode(e5m2, encode(e5m2, number_of(1e6), overflow="saturate")).exact() == 57344
    assert encode(e4m3, number_of(float("nan"))) == 0x7F


def test_nan_without_a_code_becomes_the_largest_number():
    """A NaN becomes the largest E2M1, as PTX cvt does (ml_dtypes makes it a zero), and 0 in an integer."""
    assert decode(named("e2m1"), encode(named("e2m1"), number_of(float("nan")))).exact() == 6
    assert encode(named("int8"), number_of(float("nan"))) == 0


@pytest.mark.parametrize("rounding", DETERMINISTIC)
@pytest.mark.parametrize(
    "name",
    [
        "e4m3",
        "e5m2",
        "e2m1",
        "ue8m0",
        "ue4m3",
        "e4m3fnuz",
        "bf16",
        "fp16",
        "e5m6",
        "fp32",
        "int8",
        "uint4",
        "e8m13",
        "e5m5, below the normal numbers of float64",
    ],
)
def test_scalar_and_array_encode_agree(name, rounding):
    """encode and encode_array give the same code in every rounding mode and overflow rule, ties and ends included."""
    low = Format(name="low", exponent_bits=5, mantissa_bits=5, bias=1070, infinity=True, overflow="infinity")
    fmt = low if "below" in name else named(name)
    codes = all_codes(fmt)[:: max(1, (1 << min(fmt.bits, 15)) // 512)]
    exact = decode_array(fmt, codes)
    exact = exact[np.isfinite(exact)]
    exact.sort()
    between = (exact[1:] + exact[:-1]) / 2
    values = np.concatenate(
        [
            exact,
            between,
            between * (1 + 2.0**-40),
            exact * 1.001,
            exact * 3,
            -exact,
            [0.0, -0.0, np.inf, -np.inf, np.nan, 1e-300, -1e-300],
        ]
    )
    rules = (
        ["saturate"] + (["ieee", "infinity"] if fmt.infinity else []) + (["nan"] if fmt.nan_code is not None else [])
    )
    rules += ["wrap"] if fmt.kind == "integer" else []
    for rule in rules if fmt.kind == "float" else ["saturate", "wrap"]:
        array = encode_array(fmt, values, rounding, rule).tolist()
        scalar = [encode(fmt, number_of(float(v)), rounding, rule) for v in values]
        assert array == scalar


@given(
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from(DETERMINISTIC),
    st.integers(2, 8),
    st.integers(1, 30),
)
def test_rounding_is_correct_against_fractions(value, rounding, exponent_bits, mantissa_bits):
    """Rounding a float64 to any eXmY gives a neighbour of it, and the right one by the mode's definition."""
    fmt = named(f"e{exponent_bits}m{mantissa_bits}")
    exact = Fraction(value)
    code = encode(fmt, number_of(value), rounding, "saturate")
    largest = decode(fmt, fmt.max_finite_magnitude).exact()
    got = decode(fmt, code).exact()
    if abs(exact) > largest:
        assert abs(got) == largest
        return
    sign_bit = 1 << fmt.magnitude_bits
    magnitude = code & (sign_bit - 1)
    below, above = (
        decode(fmt, max(magnitude - 1, 0)).exact(),
        decode(fmt, min(magnitude + 1, fmt.max_finite_magnitude)).exact(),
    )
    target, found = abs(exact), abs(got)
    assert below <= target <= above
    distance = abs(found - target)
    negative = value < 0
    match rounding:
        case Rounding.NEAREST_EVEN | Rounding.NEAREST_AWAY:
            assert distance <= abs(above - target)
            assert distance <= abs(below - target) or found == below
            if distance and distance == abs(above - target):
                assert rounding is Rounding.NEAREST_EVEN
                assert magnitude % 2 == 0
            if distance and distance == abs(below - target) and found != below:
                assert rounding is Rounding.NEAREST_AWAY or magnitude % 2 == 0
        case Rounding.TOWARD_ZERO:
            assert found <= target
        case Rounding.UP:
            assert got >= exact
        case Rounding.DOWN:
            assert got <= exact
        case Rounding.TO_ODD:
            assert distance == 0 or magnitude % 2 == 1
    del negative


def test_stochastic_rounding_is_unbiased_seeded_and_between_neighbours():
    """A value a quarter of the way up is rounded up a quarter of the time; the same seed gives the same codes."""
    fmt = named("e4m3")
    values = np.full(40_000, 1.0 + 0.125 / 4)
    codes = encode_array(fmt, values, Rounding.STOCHASTIC, rng=np.random.default_rng(5))
    again = encode_array(fmt, values, Rounding.STOCHASTIC, rng=np.random.default_rng(5))
    assert np.array_equal(codes, again)
    decoded = decode_array(fmt, codes)
    assert set(decoded.tolist()) == {1.0, 1.125}
    assert abs((decoded == 1.125).mean() - 0.25) < 0.01
    with pytest.raises(ValueError, match="rng"):
        encode_array(fmt, values, Rounding.STOCHASTIC)
    assert encode(fmt, number_of(1.0 + 0.125 / 4), Rounding.STOCHASTIC, draw=(1 << 2) - 1) == encode(
        fmt, number_of(1.125)
    )


def test_encoding_what_was_decoded_returns_every_finite_code():
    """encode(decode(code)) is code, in every format but for codes that write the same number."""
    for name in [n for n in FORMATS if FORMATS[n].bits <= 16 and not FORMATS[n].high_padding]:
        fmt = named(name)
        for code in range(0, 1 << fmt.bits, max(1, (1 << fmt.bits) // 4096)):
            number = decode(fmt, code)
            if not number.special:
                assert encode(fmt, number) == code


def test_inline_formats_are_like_named_ones():
    """e5m2 inline and by name are one format; the suffix gives the specials; e8m13 has FP32's exponents."""
    assert named("e5m10").model_copy(update={"name": "fp16"}) == named("fp16")
    assert named("e4m3fn").model_copy(update={"name": "e4m3"}) == named("e4m3")
    assert named("e4m3fnuz") == FORMATS["e4m3fnuz"]
    assert named("e8m13").max_exponent == 127
    assert named("e2m1f").model_copy(update={"name": "e2m1"}) == named("e2m1")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("e4m9x", "unknown number format"),
        ("fp23", "unknown number format"),
        ("e12m3", "too wide"),
        ("e5m0", "no code left"),
    ],
)
def test_wrong_format_names_are_refused_with_a_hint(name, message):
    """A name that is no format is refused, with a suggestion."""
    with pytest.raises(InputError, match=message) as error:
        named(name)
    assert error.value.problems[0].hint


def test_contradictory_formats_are_refused():
    """A format cannot overflow to an infinity it lacks, wrap as a float, or have an integer's exponent."""
    base = {"name": "x", "exponent_bits": 4, "mantissa_bits": 3, "bias": 7}
    for fields in (
        {**base, "overflow": "infinity"},
        {**base, "overflow": "wrap"},
        {**base, "overflow": "nan"},
        {"name": "i", "kind": "integer", "mantissa_bits": 8, "bias": 1, "overflow": "saturate"},
    ):
        with pytest.raises(ValueError, match=r"needs|wrap|no exponent"):
            Format(**fields)


def test_arrays_of_other_dtypes_are_refused():
    """An array of float32 is refused as E4M3, and the message names the right dtype."""
    with pytest.raises(ValueError, match="float8_e4m3fn, or uint8 codes; got float32"):
        to_codes(named("e4m3"), np.zeros((2, 2), np.float32))


def test_ignored_bits_are_ignored():
    """TF32's low 13 bits and UE4M3's top bit do not change the value."""
    assert decode(named("tf32"), 0x3F80_1FFF) == decode(named("tf32"), 0x3F80_0000)
    assert decode(named("ue4m3"), 0x80 | 0x38) == decode(named("ue4m3"), 0x38)
