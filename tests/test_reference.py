"""Exact dot products, group quantisation and LogFMT, each against a reference of its own."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from isa_model import exact, logfmt
from isa_model.array_codec import decode_array
from isa_model.cast import Cast, quantise
from isa_model.float64 import to_odd, two_product, two_sum
from isa_model.formats import named
from isa_model.logfmt import decode_log, encode_log, round_log
from isa_model.rounding import Rounding

FLOATS = st.floats(min_value=-1e30, max_value=1e30, allow_subnormal=False).map(lambda x: 0.0 if abs(x) < 1e-30 else x)


def odd(exact_sum: Fraction) -> float:
    """Return a fraction rounded to odd in float64."""
    if exact_sum == 0:
        return 0.0
    near = float(exact_sum)
    if Fraction(near) == exact_sum:
        return near
    other = float(np.nextafter(near, np.inf if Fraction(near) < exact_sum else -np.inf))
    return near if np.float64(near).view(np.int64) & 1 else other


@given(st.lists(FLOATS, min_size=1, max_size=9), st.booleans())
def test_parts_are_summed_exactly_and_rounded_to_odd(values, cancel):
    """to_odd of any parts is their exact sum, rounded once to odd, cancellation included."""
    parts = values + [-v for v in values[: len(values) // 2]] if cancel else values
    got = to_odd([np.array([v]) for v in parts])[0]
    assert got == odd(sum(map(Fraction, parts), Fraction(0)))


@given(FLOATS, FLOATS)
def test_sums_and_products_lose_nothing(x, y):
    """two_sum and two_product return two floats whose exact sum is the exact result."""
    total, error = two_sum(np.array([x]), np.array([y]))
    assert Fraction(total[0]) + Fraction(error[0]) == Fraction(x) + Fraction(y)
    product = two_product(np.array([x]), np.array([y]))
    assert sum(Fraction(p[0]) for p in product) == Fraction(x) * Fraction(y)


@pytest.mark.parametrize("spread", [0.0, 3.0, 20.0])
def test_exact_dot_is_the_fraction_rounded_to_odd(spread):
    """Each element is the exact dot product, rounded to odd, for like and for wildly different magnitudes."""
    rng = np.random.default_rng(4)
    a = rng.standard_normal((4, 300)) * np.exp(spread * rng.standard_normal((4, 300)))
    b = rng.standard_normal((300, 3)) * np.exp(spread * rng.standard_normal((300, 3)))
    a[0], b[:, 0] = 0.0, np.where(np.arange(300) % 2, b[:, 0], -b[:, 0])
    got = exact.dot(a, b)
    for i in range(4):
        for j in range(3):
            assert got[i, j] == odd(
                sum((Fraction(x) * Fraction(y) for x, y in zip(a[i], b[:, j], strict=True)), Fraction(0))
            )


def test_exact_dot_refuses_what_has_no_exact_value():
    """Infinities, NaNs and spreads beyond float64 are refused."""
    with pytest.raises(ValueError, match="finite"):
        exact.dot(np.array([[np.inf]]), np.array([[1.0]]))
    with pytest.raises(ValueError, match="too far"):
        exact.dot(np.array([[1e300, 1e-300]]), np.array([[1.0], [1.0]]))


def test_a_group_s_largest_element_maps_to_the_format_s_largest_number():
    """With FP32 scales the largest of each 1x128 group becomes 448, and dequantised it is itself to a rounding of FP32."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((5, 256)).astype(np.float32)
    done = quantise(Cast(), x)
    elements = np.abs(done.elements()).reshape(5, 2, 128)
    assert (elements.max(axis=2) == 448).all()
    assert done.scales.shape == (5, 2)
    largest = np.abs(x).reshape(5, 2, 128).max(axis=2)
    assert np.array_equal(decode_array(named("fp32"), done.scales).astype(np.float32), largest / np.float32(448))
    assert done.overflow == 0


def test_quantisation_follows_its_definition_element_by_element():
    """Codes and scales equal the definition, written out on scalars in FP32, for ragged shapes and 2-D blocks."""
    rng = np.random.default_rng(1)
    x = (rng.standard_normal((6, 10)) * 3).astype(np.float32)
    cast = Cast(group=(4, 8), scale=named("ue8m0"))
    done = quantise(cast, x)
    for i in range(6):
        for j in range(10):
            block = x[4 * (i // 4) : 4 * (i // 4) + 4, 8 * (j // 8) : 8 * (j // 8) + 8]
            quotient = np.float32(np.abs(block).max()) / np.float32(448)
            scale = 2.0 ** np.ceil(np.log2(float(quotient)))
            assert decode_array(cast.scale, done.scales)[i // 4, j // 8] == scale
            import ml_dtypes

            assert done.elements()[i, j] == float((x[i, j] / np.float32(scale)).astype(ml_dtypes.float8_e4m3fn))


def test_power_of_two_scales_rounded_up_never_overflow_and_rounded_down_do():
    """Rounded up no element is cut; rounded down (OCP's floor) some are, and the share says how many."""
    x = np.random.default_rng(2).standard_normal((64, 256)).astype(np.float32)
    up = quantise(Cast(scale=named("ue8m0")), x)
    down = quantise(Cast(scale=named("ue8m0"), scale_rounding=Rounding.DOWN), x)
    assert up.overflow == 0
    assert down.overflow > 0


def test_zero_groups_and_lost_elements_are_counted():
    """A group of zeros has a scale and stays zero; elements too small for their group count as underflow."""
    x = np.zeros((2, 128), np.float32)
    x[1, 0], x[1, 1] = 1.0, 1e-9
    done = quantise(Cast(), x)
    assert (done.values()[0] == 0).all()
    assert done.underflow == 0.5


def test_a_nan_or_an_infinity_takes_its_whole_group_along():
    """Scale and elements of its group are NaN, other groups are untouched; what cannot say NaN refuses such numbers."""
    x = np.ones((3, 256), np.float32)
    x[0, 5], x[1, 200], x[2, 0] = np.nan, np.inf, -np.inf
    for scale in ("fp32", "ue8m0"):
        done = quantise(Cast(scale=named(scale)), x)
        assert np.array_equal(np.isnan(done.scale_values()), [[True, False], [False, True], [True, False]])
        assert np.array_equal(np.isnan(done.elements()), np.isnan(done.scale_values()).repeat(128, axis=1))
    for cast in (Cast(to=named("e2m1")), Cast(scale=None, group=None)):
        with pytest.raises(ValueError, match="x holds a NaN or an infinity"):
            quantise(cast, x)


@given(st.integers(3, 12), st.integers(0, 1 << 30))
def test_logfmt_returns_the_nearest_code_in_linear_space(bits, seed):
    """Every element decodes to the closest of all the values its tile's codes stand for; zeros stay zeros."""
    rng = np.random.default_rng(seed)
    tiles = rng.standard_normal((2, 16)) * np.exp(4 * rng.standard_normal((2, 16)))
    tiles[0, 3] = 0.0
    coded = encode_log(bits, tiles)
    got = decode_log(coded)
    assert got[0, 3] == 0
    for t in range(2):
        index = np.arange(1, 1 << (bits - 1))
        values = np.concatenate([[0.0], np.exp(coded.minimum[t] + coded.step[t] * (index - 1))])
        best = np.abs(np.abs(tiles[t])[:, None] - values).min(axis=1)
        assert np.allclose(np.abs(got[t] - tiles[t]), best, rtol=1e-9, atol=0)


def test_logfmt_extremes():
    """The largest and the smallest magnitude of a tile are codes themselves; below max - ln 2**32 numbers give way."""
    tiles = np.array([[1.0, -(2.0**-40), 0.5, 2.0**-20]])
    coded = encode_log(8, tiles)
    got = decode_log(coded)
    assert got[0, 0] == pytest.approx(1.0)
    assert (got[0, 1] == 0 and np.signbit(got[0, 1])) or got[0, 1] == 0
    assert coded.minimum[0] == pytest.approx(-32 * np.log(2))
    for bad in (2, 17):
        with pytest.raises(ValueError, match="3 to 16 bits"):
            encode_log(bad, tiles)


def test_logfmt_tiles_without_numbers():
    """Tiles of length 0 have codes and numbers of that shape."""
    none = np.empty((3, 0))
    assert round_log(8, none).shape == decode_log(encode_log(8, none)).shape == (3, 0)


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize(("bits", "length"), [(3, 128), (8, 128), (8, 1), (16, 16)])
def test_rounding_to_logarithms_gives_the_numbers_that_codes_mean(bits, length, compiled, monkeypatch):
    """round_log returns what decode_log makes of the codes, zeros and the range of a tile included, compiled or not."""
    if not compiled:
        monkeypatch.setattr(logfmt, "shipped", lambda name: None)
    rng = np.random.default_rng(6)
    tiles = rng.standard_normal((512, length)) * 2.0 ** rng.integers(-40, 2, (512, length))
    tiles[rng.random(tiles.shape) < 0.1], tiles[3] = 0.0, -0.0
    assert np.array_equal(round_log(bits, tiles), decode_log(encode_log(bits, tiles)))
    magnitudes = np.abs(np.concatenate([tiles, rng.standard_normal((512, 2))], axis=1))
    ends = magnitudes.max(axis=1), np.where(magnitudes > 0, magnitudes, np.inf).min(axis=1)
    alone = round_log(bits, magnitudes)[:, :-2]
    assert np.array_equal(np.abs(round_log(bits, tiles, ends)), alone)
