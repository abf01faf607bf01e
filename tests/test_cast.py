"""Group quantisation at the ends of its formats: zero, tiny and huge groups, and scales that their format cannot hold."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pydantic import ValidationError

from isa_model.array_codec import decode_array, encode_array
from isa_model.cast import Cast, quantise
from isa_model.codec import largest_finite
from isa_model.elements import codes_of
from isa_model.formats import FORMATS, named
from isa_model.groups import spread
from isa_model.rounding import Rounding

ELEMENTS = [*(n for n, f in FORMATS.items() if f.zero and n != "fp64"), "e8m3", "e5m6", "e1m2f", "e9m3", "e3m3fnuz"]
SCALES = [*(n for n, f in FORMATS.items() if f.kind == "float" and n != "fp64"), "e10m2", "ue5m3", "e2m0f"]
ROUNDINGS = [r for r in Rounding if r is not Rounding.STOCHASTIC]

NESTED = {"scale": "ue4m3", "coarser": [{"group": (4, 64), "format": "fp32"}], "flush_inputs": True}


def cast(**fields):
    return Cast.model_validate({"group": (1, 16), **fields})


def normal(size=1.0, shape=(4, 40)):
    return (size * np.random.default_rng(0).standard_normal(shape)).astype(np.float32)


def test_a_zero_group_is_zero_whatever_its_scale_becomes():
    """A scale that rounds to zero does not turn zeros into NaN."""
    kinds = ["e4m3 ue4m3", "bf16 fp32", "tf32 fp32", "e8m3 fp32", "e2m1 fp16", "e3m2 ue5m3", "int4 fp16", "int8 ue8m0"]
    for to, scale in map(str.split, kinds):
        made = quantise(cast(to=to, scale=scale, scale_rounding="nearest-even"), np.zeros((2, 32), np.float32))
        assert not made.codes.any()
        assert not made.values().any()
        assert (made.underflow, made.overflow) == (0, 0)


def test_a_scale_that_rounds_to_zero_loses_its_group_as_underflow():
    """Elements near 1e-8 with UE4M3 scales rounded to nearest even all become zero, and count as underflow; so with others."""
    for to, scale, size in [("e2m1", "ue4m3", 1e-8), ("e2m3", "ue4m3", 1e-9), ("e4m3", "fp16", 1e-12)]:
        made = quantise(cast(to=to, scale=scale, scale_rounding="nearest-even"), normal(size))
        assert not made.codes.any()
        assert not made.values().any()
        assert (made.underflow, made.overflow) == (1, 0)


def test_a_scale_beyond_its_format_is_the_largest_and_cuts_elements():
    """An FP16 scale is at most 65504: elements of 1e30 become 448 times that, and count as overflow."""
    for scale, largest in [("fp16", 65504.0), ("ue4m3", 448.0), ("e5m2", 57344.0)]:
        made = quantise(cast(scale=scale), np.full((2, 32), -1e30, np.float32))
        assert set(made.values().ravel()) == {-448 * largest}
        assert (made.underflow, made.overflow) == (0, 1)


def test_fp32_scales_below_normal_numbers_are_rounded_up():
    """BF16 elements under an FP32 scale keep BF16's accuracy and are not cut, however small."""
    for size in (1.0, 1e-6, 1e-20, 1e-36):
        x = normal(size)
        made = quantise(cast(to="bf16", scale="fp32", floor=2.0**-149), x)
        assert made.overflow == 0
        assert np.abs(made.values() - x).max() <= 2.0**-8 * np.abs(x).max()


def test_int8_maps_the_largest_element_to_127():
    """An integer's largest number is 127, reached and not exceeded."""
    x = normal(shape=(3, 16))
    made = quantise(cast(to="int8", scale="fp32"), x)
    assert (np.abs(made.elements()).max(axis=1) == 127).all()
    assert made.overflow == 0
    assert np.abs(made.values() - x).max() <= np.abs(x).max() / 127 / 2 * 1.001


def test_an_unsigned_target_takes_negative_elements_for_zero():
    """Negative elements of uint8 and UE4M3 are counted as underflow, and nothing is NaN."""
    x = normal()
    for to, fields in (("uint8", {}), ("ue4m3", {}), ("ue4m3", {"random": "elements"})):
        made = quantise(cast(to=to, **fields), x)
        assert not made.values()[x < 0].any()
        assert (x < 0).mean() <= made.underflow < (x < 0).mean() + 0.05


@pytest.mark.parametrize("rounding", ["nearest-even", "up", "down", "toward-zero"])
@pytest.mark.parametrize(("to", "scale"), [("e4m3", "ue8m0"), ("e5m2", "fp32"), ("bf16", None), ("ue4m3", "ue8m0")])
def test_a_cast_that_flushes_its_inputs_reads_subnormals_as_zeros(to, scale, rounding):
    """Elements below 2^-126 are zeros of their sign, not lost beforehand in their group's scale; others are as before."""
    rng = np.random.default_rng(5)
    x = np.ldexp(rng.uniform(-2, 2, (64, 16)), rng.integers(-150, -118, (64, 1))).astype(np.float32)
    x[0, :4] = 2.0**-126, -(2.0**-126), np.nextafter(np.float32(2.0**-126), 0), -np.nextafter(np.float32(2.0**-126), 0)
    fields = {"to": to, "scale": scale, "rounding": rounding, "floor": 2.0**-149, "group": scale and (1, 16)}
    flushing, plain = cast(**fields, flush_inputs=True), cast(**fields)
    made, other = quantise(flushing, x), quantise(plain, x)
    assert np.array_equal(made.scales, other.scales)
    small, fmt = np.abs(x) < 2.0**-126, plain.to
    zeros = np.where(np.signbit(x) & fmt.signed, 1 << fmt.magnitude_bits, 0)
    assert np.array_equal(made.codes, np.where(small, zeros, other.codes))
    assert (made.codes != other.codes).any()
    lost = (made.elements() == 0) & (x != 0)
    assert made.underflow == pytest.approx(lost.sum() / np.count_nonzero(x))


@pytest.mark.parametrize("random", ["elements", "scales"])
def test_a_cast_at_random_flushes_its_inputs_first(random):
    """A group of subnormals alone is zero, and counts as underflow."""
    x = np.full((1, 16), 2.0**-130, np.float32)
    made = quantise(cast(to="e4m3", scale="fp32", floor=2.0**-149, random=random, flush_inputs=True), x)
    assert not made.codes.any()
    assert made.underflow == 1


@given(st.integers(-130, 127), st.integers(0, 2**32 - 1))
def test_flushing_changes_nothing_under_the_usual_floor(exponent, seed):
    """A group of at least 1e-30 has a scale of 2^-108 or more in ue8m0, over which subnormals round to zeros of E4M3."""
    x = np.ldexp(np.random.default_rng(seed).standard_normal((2, 32)), exponent).clip(-3e38, 3e38).astype(np.float32)
    x[:, ::3] *= np.float32(2.0**-120)
    one, other = (quantise(cast(scale="ue8m0", flush_inputs=flush), x) for flush in (True, False))
    assert np.array_equal(one.codes, other.codes)


@pytest.mark.parametrize(
    "fields",
    [{"to": "ue8m0"}, {"floor": 5e-324}, {"floor": 1e300}, {"floor": 0}, {"range": "inf"}, {"range": 5e-324}, NESTED],
)
def test_casts_that_make_no_sense_are_refused(fields):
    """A cast is refused if its elements have no zero, its floor is no positive FP32 number, or it flushes under two scales."""
    with pytest.raises(ValidationError):
        cast(**fields)


@pytest.mark.parametrize("scale", ["ue8m0", "bf16", "fp32"])
@pytest.mark.parametrize("range", ["largest", 2.0**-149, 2.0**127])
def test_scales_above_scales_of_a_wide_format_leave_numbers_finite(scale, range):
    """The largest number times the largest scales is beyond FP32, which the quotients of the upper level are in."""
    x = normal()
    made = quantise(cast(scale=scale, range=range, coarser=[{"group": [4, 48], "format": "fp32"}]), x)
    assert np.isfinite(made.values()).all()
    if range == "largest":
        assert np.linalg.norm(made.values() - x) < 0.05 * np.linalg.norm(x)


def test_a_group_larger_than_the_matrix_is_the_matrix():
    """A group larger than the matrix takes no memory for its size, and gives the bits of one scale for the matrix."""
    x = normal()
    huge, whole = quantise(cast(group=(10**9, 10**9)), x), quantise(cast(group=None), x)
    assert np.array_equal(huge.codes, whole.codes)
    assert np.array_equal(huge.scales, whole.scales)
    assert np.array_equal(huge.values(), whole.values())


@given(
    to=st.sampled_from(ELEMENTS),
    scale=st.sampled_from(SCALES),
    rounding=st.sampled_from(ROUNDINGS),
    scale_rounding=st.sampled_from(ROUNDINGS),
    span=st.sampled_from(["largest", "binade"]),
    floor=st.sampled_from([2.0**-149, 1e-30, 1e-4, 2.0**127]),
    exponents=st.lists(st.integers(-149, 127), min_size=1, max_size=4),
    seed=st.integers(0, 99),
)
def test_whatever_the_formats_a_finite_group_stays_finite(
    to, scale, rounding, scale_rounding, span, floor, exponents, seed
):
    """For every element format, scale format and rounding: values are codes times scales and finite; what is zero of
    nonzero elements is the underflow; what is cut sits at the end of the format; zeros stay zero."""
    made_of = cast(
        to=to, scale=scale, group=(1, 8), rounding=rounding, scale_rounding=scale_rounding, range=span, floor=floor
    )
    rng = np.random.default_rng(seed)
    x = np.clip(rng.standard_normal((len(exponents), 13)), -1, 1) * np.exp2(np.array(exponents, float))[:, None]
    x = x.astype(np.float32)
    x[rng.random(x.shape) < 0.2] = 0
    made = quantise(made_of, x)
    values, elements = made.values(), made.elements()
    assert np.isfinite(made.scale_values()).all()
    assert np.isfinite(values).all()
    assert np.array_equal(values, elements * spread(made.scale_values(), (1, 8), x.shape))
    assert not values[x == 0].any()
    nonzero = np.count_nonzero(x)
    assert made.underflow == pytest.approx(((elements == 0) & (x != 0)).sum() / max(nonzero, 1))
    ends = (elements == largest_finite(made_of.to)) | (elements == elements.min())
    assert made.overflow <= ends.mean() + 1e-9
    assert not elements[spread(made.scale_values(), (1, 8), x.shape) == 0].any()


@given(to=st.sampled_from(["e4m3", "e5m2", "e2m3", "e2m1", "e5m6"]), seed=st.integers(0, 99), size=st.integers(-60, 60))
def test_power_of_two_scales_rounded_up_quantise_once(to, seed, size):
    """Quantising a second time changes nothing if scales are powers of two, rounded up."""
    x = (np.random.default_rng(seed).standard_normal((3, 32)) * 2.0**size).astype(np.float32)
    made_of = cast(to=to, scale="ue8m0")
    once = quantise(made_of, x)
    again = quantise(made_of, once.values())
    assert np.array_equal(once.values(), again.values())
    assert (again.underflow, again.overflow, once.overflow) == (0, 0, 0)


@given(to=st.sampled_from(ELEMENTS), rounding=st.sampled_from(ROUNDINGS), seed=st.integers(0, 99))
def test_overflow_counts_what_a_wider_range_would_not_cut(to, rounding, seed):
    """An element counts as overflow if the same precision with more exponents rounds it beyond the largest number."""
    fmt = named(to)
    assume(fmt.kind == "float" and fmt.exponent_bits < 8 and fmt.signed)
    wider = named(f"e11m{fmt.mantissa_bits}" if fmt.mantissa_bits else "e11m0f")
    top = largest_finite(fmt)
    x = (top * np.random.default_rng(seed).uniform(-1.3, 1.3, (1, 64))).astype(np.float32)
    made = quantise(Cast(to=fmt, scale=None, group=None, rounding=rounding), x)
    expected = np.abs(decode_array(wider, encode_array(wider, x.astype(np.float64), rounding))) > top
    assert made.overflow == pytest.approx(expected.mean())


@pytest.mark.parametrize("name", ["ue4m3", "ue5m3", "ue8m0", "e5m2", "bf16", "fp32"])
@pytest.mark.parametrize("rounding", [Rounding.NEAREST_EVEN, Rounding.NEAREST_AWAY, Rounding.TOWARD_ZERO, Rounding.UP])
def test_scales_rounded_in_c_are_those_of_the_array_codec(name, rounding):
    """Numbers of all magnitudes, zero, subnormals and NaN have the codes of `encode_array`, saturated."""
    rng = np.random.default_rng(0)
    x = np.exp2(rng.uniform(-149, 127, 20000)).astype(np.float32)
    x = np.concatenate([x, np.array([0, np.nan, 2.0**-149, 2.0**-127, np.finfo(np.float32).max], np.float32)])
    assert np.array_equal(codes_of(named(name), rounding, x), encode_array(named(name), x, rounding, "saturate"))
