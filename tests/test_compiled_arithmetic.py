"""Compiled exact sums and casts: the numbers of Python's integers and of numpy, in bounded memory, and without a compiler."""

import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from isa_model import elements, exact, largest, load
from isa_model.array_codec import code_dtype, encode_array
from isa_model.cast import Cast, quantise
from isa_model.elements import elements_of
from isa_model.engines import cpu
from isa_model.engines.c_library import shipped
from isa_model.formats import FORMATS, named
from isa_model.groups import largest_of_groups
from isa_model.rounding import Rounding

FP32 = FORMATS["fp32"]
TARGETS = [
    f for f in (*FORMATS.values(), named("e5m6"), named("e3m3fnuz")) if elements._compiles(f, Rounding.NEAREST_EVEN)
]
BITS = st.integers(0, (1 << 32) - 1)


@pytest.fixture(autouse=True)
def _compiler():
    if shipped("exact.c") is None:
        pytest.skip("no C compiler")


def odd(value):
    """Return a fraction rounded to odd in float64."""
    near = float(value)
    if Fraction(near) == value:
        return near
    toward = np.nextafter(near, np.inf if Fraction(near) < value else -np.inf)
    low, high = sorted((near, float(toward)))
    return low if np.float64(low).view(np.int64) & 1 else high


def fractions(x):
    return [[Fraction(float(v)) for v in row] for row in x]


@given(
    st.integers(0, 1 << 32),
    st.sampled_from([(1, 1), (3, 2)]),
    st.sampled_from([1, 7, 40]),
    st.sampled_from([0.0, 2.0, 6.0]),
    st.sampled_from(["f4", "f8"]),
    st.sampled_from([None, "fp32", "powers"]),
)
def test_compiled_sums_are_those_of_integers(seed, shape, k, spread, dtype, scales):
    """Dot products of any magnitudes, with scales by group or without, are the exact fraction rounded to odd."""
    rng = np.random.default_rng(seed)
    (m, n), drawn = shape, {}
    for name, rows in (("a", m), ("b", n)):
        x = rng.standard_normal((rows, k)) * np.exp(spread * rng.standard_normal((rows, k)))
        x[rng.random((rows, k)) < 0.1] = 0.0
        if scales:  # elements of a narrow format, as scales belong to
            x = np.round(rng.standard_normal((rows, k)) * 4) * 2.0 ** rng.integers(-3, 4, (rows, k))
        drawn[name] = x.astype(dtype)
    by_group = {"fp32": lambda s: rng.random(s).astype("f4"), "powers": lambda s: 2.0 ** rng.integers(-9, 9, s)}
    groups = 1 if k % 2 else 2
    given_scales = [by_group[scales]((rows, groups)).astype("f8") for rows in (m, n)] if scales else [None, None]
    a, b = (
        fractions(x if s is None else x.astype("f8") * np.repeat(s, k // groups, axis=1))
        for x, s in zip(drawn.values(), given_scales, strict=True)
    )
    scale_b = None if given_scales[1] is None else given_scales[1].T
    got = exact.dot(drawn["a"], drawn["b"].T, given_scales[0], scale_b)
    for i in range(m):
        for j in range(n):
            assert got[i, j] == odd(sum(x * y for x, y in zip(a[i], b[j], strict=True)))


@pytest.mark.parametrize("scaled", [False, True])
def test_whole_tiles_and_chunks_are_summed_as_slices_are(scaled):
    """More rows, columns and products than the C code takes at a time give what matrix products of slices give."""
    rng = np.random.default_rng(8)
    a, b = (
        rng.integers(-15, 16, (2, 18, 768)) * 2.0 ** rng.integers(-9, 5, (2, 18, 768)),
        rng.standard_normal((2, 768, 19)),
    )
    scales = (rng.random((2, 18, 6)).astype("f4"), rng.random((2, 12, 19)).astype("f4")) if scaled else (None, None)
    b = np.round(4 * b) if scaled else b
    sliced = exact._sliced_dot(exact._times(a, scales[0], -1), exact._times(b, scales[1], -2))
    assert np.array_equal(exact._compiled_dot(a, b, *scales), sliced)


@pytest.mark.parametrize("scale", [2.0**-120, 2.0**120])
def test_the_ends_of_the_range_are_summed_exactly(scale):
    """Products near FP32's ends and their square in float64 neither overflow nor vanish."""
    a = np.array([[1.0, 1.0 + 2.0**-23, -1.0]], "f4") * np.float32(scale)
    got = exact.dot(a, np.ascontiguousarray(a.T))
    assert got[0, 0] == odd(sum(Fraction(float(x)) ** 2 for x in a[0]))


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
def test_compiled_sums_refuse_what_is_not_finite(bad):
    """An infinity or NaN in an element or a scale is refused, wherever it is."""
    x, ones = np.ones((2, 300), "f4"), np.ones((2, 3))
    worse, scales = x.copy(), ones.copy()
    worse[1, 299] = scales[1, 2] = bad
    for arguments in ((worse, x.T), (x, worse.T), (x, x.T, scales, None), (x, x.T, None, scales.T)):
        with pytest.raises(ValueError, match="finite"):
            exact.dot(*arguments)


def test_sums_without_a_compiler_are_the_same(monkeypatch):
    """numpy computes the same sums where there is no C compiler, only more slowly."""
    rng = np.random.default_rng(3)
    x, scales = rng.integers(-9, 9, (2, 4, 256)).astype("f4"), rng.random((2, 4, 2)).astype("f4")
    arguments = (x, np.swapaxes(x, 1, 2), scales, np.swapaxes(scales, 1, 2))
    compiled = exact.dot(*arguments)
    monkeypatch.setattr(exact, "shipped", lambda name, flags=(): None)
    assert np.array_equal(exact.dot(*arguments), compiled)


@given(
    st.sampled_from(TARGETS),
    st.sampled_from(elements._ROUNDINGS),
    st.lists(BITS, min_size=1, max_size=40),
    BITS,
    st.sampled_from([None, (1, 7), (1, 16), (2, 3)]),
)
def test_compiled_casts_are_those_of_numpy(to, rounding, codes, scale, group):
    """Every bit pattern, over any scale, gets the code, number and counts that numpy gives it."""
    x = np.array([codes, codes[::-1]], np.uint32).view("f4")
    scales = np.full((1, 1) if group is None else (-(-2 // group[0]), -(-len(codes) // group[1])), scale, np.uint32)
    arguments = (to, rounding, group, x, scales.view("f4").astype("f8"), FP32)
    with np.errstate(all="ignore"):
        expected, got = elements._by_numpy(*arguments), elements_of(*arguments)
    assert np.array_equal(got.codes, expected.codes)
    assert np.array_equal(got.numbers, expected.numbers, equal_nan=True)
    there = ~np.isnan(got.numbers)
    assert np.array_equal(np.signbit(got.numbers[there]), np.signbit(expected.numbers[there]))
    for counted in ("nonzero", "lost", "beyond"):
        assert np.array_equal(getattr(got, counted), getattr(expected, counted))


@pytest.mark.parametrize("name", ["int8", "e5m2fnuz", "e4m3fnuz"])
@pytest.mark.parametrize("rounding", elements._ROUNDINGS)
def test_compiled_casts_have_no_negative_zero_where_the_format_has_none(name, rounding):
    """What rounds to zero from below is +0, so that the next cast of a path gives the code of +0, too."""
    made = elements_of(named(name), rounding, None, np.array([[-0.0, -1e-9, 1e-9]], "f4"), np.ones((1, 1)), FP32)
    assert not np.signbit(made.numbers).any()


def test_compiled_casts_count_no_negative_quotient_of_an_unsigned_integer_as_beyond():
    """A negative scale makes it zero, not the largest number."""
    arguments = (
        named("uint4"),
        Rounding.NEAREST_EVEN,
        None,
        np.array([[3.0, -3.0]], "f4"),
        np.full((1, 1), -1.0),
        FP32,
    )
    assert elements_of(*arguments).beyond.tolist() == elements._by_numpy(*arguments).beyond.tolist() == [0]


def test_casts_without_a_compiler_are_the_same(monkeypatch):
    """A tensor quantises to the same codes, scales and shares where there is no C compiler."""
    x = np.random.default_rng(0).standard_normal((8, 300)).astype("f4") * np.float32(1e-3)
    cast = Cast(scale=named("ue8m0"), scale_rounding=Rounding.DOWN, group=(1, 32))
    compiled = quantise(cast, x)
    for module in (elements, largest):
        monkeypatch.setattr(module, "shipped", lambda name, flags=(): None)
    plain = quantise(cast, x)
    assert np.array_equal(compiled.codes, plain.codes)
    assert np.array_equal(compiled.scales, plain.scales)
    assert (compiled.underflow, compiled.overflow) == (plain.underflow, plain.overflow)


@given(
    st.lists(st.lists(BITS, min_size=5, max_size=5), min_size=1, max_size=5),
    st.sampled_from([None, (1, 1), (1, 2), (2, 1), (2, 3), (9, 9)]),
)
def test_compiled_largest_magnitudes_are_those_of_numpy(codes, group):
    """A group's largest magnitude is found among all bit patterns; a NaN makes it NaN."""
    x = np.array(codes, np.uint32).view("f4")
    expected = largest_of_groups(np.abs(x), group)
    assert np.array_equal(largest.largest_magnitudes(x, group), expected, equal_nan=True)


@given(st.lists(st.integers(1, 0x7F800000), min_size=1, max_size=40), st.sampled_from([Rounding.UP, Rounding.DOWN]))
def test_powers_of_two_above_and_below_numbers(codes, rounding):
    """Numbers of FP32 become the powers of two that the general rule gives, subnormal and infinite ones included."""
    x, ue8m0 = np.array(codes, np.uint32).view("f4"), named("ue8m0")
    general = encode_array(ue8m0, x.astype("f8"), rounding, "saturate")  # FP32 numbers have a rule of their own
    assert np.array_equal(encode_array(ue8m0, x, rounding, "saturate"), general)


LONG = """
import resource
from codesign.evidence.numerics.jobs import Job, run
from codesign.evidence.sampling import Sampling
from codesign.proposal.load import load_proposal
from codesign.proposal.variants import variants
from codesign.workloads.gemms import Gemm
proposal = load_proposal("proposals/group-scaled-mma.yaml")
compared = tuple(c for c in variants(proposal) if c.variant in ("software", "proposal", "exact"))
gemm = Gemm("long", 4096, 4096, 1_000_000, "activation", "weight", False, "")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
errors = run(Job(gemm, "normal", Sampling(rows=4, columns=4, seeds=(0, 1)), proposal.rule, compared))
assert all(e.exact2.shape == (2,) for e in errors)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def test_a_gemm_of_a_million_products_takes_little_memory():
    """Two seeds of 16 outputs with k = 10**6 take a few hundred MB, whatever the number of seeds."""
    done = subprocess.run([sys.executable, "-c", LONG], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 400


@pytest.mark.parametrize(
    "name",
    [
        "hopper.wgmma.m64n256k32.f32.e4m3.e4m3",
        "hopper.wgmma.m64n256k8.f32.tf32.tf32",
        "hopper.wgmma.m64n256k16.f16.f16.f16",
        "cdna3.mfma.f32_16x16x32_fp8_bf8",
        "hopper.wgmma.m64n256k32.s32.s8.s8",
    ],
)
def test_products_of_few_columns_have_the_bits_of_those_of_many(name):
    """Products of few columns are compiled with fewer optimisations, and give the same codes for any operands."""
    spec, rng = load(name), np.random.default_rng(3)
    a, b, c = (
        rng.integers(0, 1 << fmt.storage_bits, shape).astype(code_dtype(fmt))
        for fmt, shape in ((spec.a, (16, 512)), (spec.b, (512, 16)), (spec.c_format, (16, 16)))
    )
    few, many = cpu.prepared(spec, cpu.NARROW), cpu.prepared(spec)
    assert np.array_equal(few(a, b, c), many(a, b, c))
    small = a & 3, b & 3, c * 0  # without infinities and NaNs
    assert np.array_equal(few(*small), many(*small))
