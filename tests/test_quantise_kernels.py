"""The quantisation kernels: their CUDA text on a CPU equals isa_model bit for bit; their machine code."""

import ctypes

import machine_code
import ml_dtypes
import numpy as np
import on_cpu
import pytest

from isa_model.array_codec import decode_array, encode_array, pack
from isa_model.cast import Cast, quantise
from isa_model.formats import named
from isa_model.swiglu import silu, swiglu
from kernels.quantise.build import Choice, all_choices, cubin, read

BF16 = np.dtype(ml_dtypes.bfloat16)
SIZES = ((1, 8), (67, 136), (130, 264))
on_a_cpu = pytest.mark.skipif(on_cpu.COMPILER is None, reason="needs a C++ compiler")
OURS = [choice for choice in all_choices() if not choice.twin]


def adversarial(m, k, seed):
    """Return BF16 with every kind of group: random, wide, zeros, subnormal, near overflow, ties, NaN and infinity."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((m, k)).astype(np.float32) * np.exp2(rng.integers(-100, 100, (m, 1))).astype(np.float32)
    kind = rng.integers(0, 9, (m, -(-k // 32))).repeat(32, 1)[:, :k]
    bits = rng.integers(0, 1 << 16, (m, k)).astype(np.uint16)
    values = x.astype(BF16)
    sign = np.where(rng.random((m, k)) < 0.5, -1, 1)
    with np.errstate(all="ignore"):
        ties = (rng.integers(1, 32, (m, k)) * 2.0 ** rng.integers(-12, 5, (m, k)) * sign).astype(BF16)
        for number, other in (
            (1, np.copysign(0, x).astype(BF16)),
            (2, (bits & 0x807F).view(BF16)),  # zeros and subnormals
            (3, (rng.uniform(1e38, 3.38e38, (m, k)) * sign).astype(BF16)),
            (4, ties),
            (5, (x * np.exp2(rng.integers(-30, 1, (m, k))).astype(np.float32)).astype(BF16)),
        ):
            values = np.where(kind == number, other, values)
        values = np.where((kind == 6) & ((bits & 0x7F80) != 0x7F80), bits.view(BF16), values)
    flat = values.reshape(-1)
    if m * k > 1000:
        flat[rng.integers(0, m * k, 3)] = [np.nan, np.inf, -np.inf]
    return flat.reshape(m, k).astype(np.float32).astype(BF16)


def cast_of(choice, group):
    return Cast(to=named(choice.target.lower()), group=group, scale=named("ue8m0" if choice.power_of_2 else "fp32"))


def fp32(scales):
    """Return scales as FP32 codes."""
    return np.ascontiguousarray(scales, np.float32).view(np.uint32)


def equals(got, cast, x, transposed=False):
    """Fail unless codes, scales and padding of a kernel equal isa_model's."""
    codes, scales = got
    expected = quantise(cast, x)
    wanted = fp32(expected.scale_values())
    if cast.group == (1, 128):
        wanted = wanted.T
    if transposed:
        codes = codes.T
        wanted = wanted.T if cast.group == (128, 128) else wanted
    assert np.array_equal(codes, expected.codes)
    have = fp32(scales)
    assert np.array_equal(canonical(have[:, : wanted.shape[1]]), canonical(wanted))
    zero_group = quantise(cast, np.zeros((1, 1), np.float32)).scale_values()[0, 0]
    assert (scales[:, wanted.shape[1] :] == np.float32(zero_group)).all()


def canonical(codes):
    return np.where((codes & 0x7FFFFFFF) > 0x7F800000, 0x7FFFFFFF, codes)


@on_a_cpu
@pytest.mark.parametrize("choice", OURS, ids=lambda choice: choice.name)
def test_every_kernel_equals_isa_model(choice):
    """Codes, scales and padding equal isa_model's on adversarial groups, for odd sizes and partial groups."""
    for seed, (m, k) in enumerate(SIZES):
        if choice.target == "E5M6":
            k = k // 32 * 32 or 32
        x = adversarial(m, k, seed)
        source, second = x.astype(np.float32), None
        if choice.source == "SWIGLU":
            second = adversarial(m, k, seed + 100)
            second[:, ::3] = 1
            source = swiglu(x, second)
            second = second.view(np.uint16)
        codes = x.view(np.uint16)
        if choice.source == "E4M3":
            first = quantise(cast_of(choice, (1, 128)), source)
            codes = np.ascontiguousarray(first.codes)
            scales = first.scale_values().astype(np.float32)
            second = np.zeros((scales.shape[1], -(-m // 4) * 4), np.float32)
            second[:, :m] = scales.T
            with np.errstate(over="ignore", invalid="ignore"):
                source = first.values().astype(np.float32)
        rows = None
        if choice.send:
            second = np.random.default_rng(seed).integers(-1, m + 1, 2 * m + 1).astype(np.int32)
            rows = second.shape[0]
            source = np.where(((second >= 0) & (second < m))[:, None], source[np.clip(second, 0, m - 1)], 0)
        got = on_cpu.tile(choice, codes, second, rows)
        if choice.send:
            buffer, groups = got[0][0], -(-k // 128)
            expected = quantise(cast_of(choice, (1, 128)), source)
            assert np.array_equal(buffer[:, :k], expected.codes)
            assert np.array_equal(buffer[:, k : k + groups], expected.scales)
            continue
        if choice.target == "E5M6":
            packed, scales = got[0]
            expected = quantise(cast_of(choice, (1, 128)), source)
            assert np.array_equal(packed, pack(named("e5m6"), expected.codes))
            assert np.array_equal(scales[:, :m].T.astype(np.float64), expected.scale_values(), equal_nan=True)
            assert np.array_equal(canonical_bf16(on_cpu.unpack(packed, scales)), bf16_of(expected.values()))
            continue
        if choice.rows:
            equals(got[0], cast_of(choice, (128, 128) if choice.blocks else (1, 128)), source)
        if choice.columns:
            equals(got[-1], cast_of(choice, (128, 128) if choice.blocks else (128, 1)), source, transposed=True)


def canonical_bf16(codes):
    return np.where((codes & 0x7FFF) > 0x7F80, 0x7FC0, codes)


def bf16_of(values):
    return canonical_bf16(encode_array(named("bf16"), values))


DIVISIONS = """
static unsigned code(float x) { return e4m3(x); }
static unsigned next(unsigned long long &state) {  // SplitMix64
  unsigned long long z = state += 0x9e3779b97f4a7c15ull;
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull, z = (z ^ z >> 27) * 0x94d049bb133111ebull;
  return (unsigned)((z ^ z >> 31) >> 20);
}
// Every BF16 max-abs with every BF16 element that it can have and that is not far below E4M3's smallest.
extern "C" void pairs(long long *differences, long long *tried) {
  for (unsigned a = 0; a < 0x7f80; ++a) {
    const float largest = __uint_as_float(a << 16), s = std::fmax(largest, 1e-30f) / 448.0f;
    const Scale g = scale_of(largest);
    *differences += g.s != s;
    for (unsigned b = a > 19 * 128 ? a - 19 * 128 : 0; b <= a; b += B_STEP) {
      float x[1] = {__uint_as_float(b << 16)};
      const float q = x[0] / s;
      divide(x, g);
      *differences += code(q) != code(x[0]);
      ++*tried;
    }
  }
}
// FP32 elements whose quotient is within about an ulp of a midpoint of E4M3.
extern "C" void midpoints(long long *differences, long long *tried) {
  unsigned long long state = 1;
  for (long long i = 0; i < 2000000; ++i) {
    const unsigned u = next(state), field = 27 + next(state) % 227;
    const float largest = __uint_as_float(field << 23 | (u & (next(state) % 4 ? 0x7fffff : 0x700000)));
    const Scale g = scale_of(largest);
    const float s = std::fmax(largest, 1e-30f) / 448.0f;
    *differences += g.s != s;
    const unsigned lower = 1 + next(state) % 0x7d;
    const double middle = ((double)of_e4m3(lower - 1) + of_e4m3(lower)) / 2, ulp = std::ldexp(1.0, std::ilogb(middle) - 23);
    const double quotient = middle + ((int)(next(state) % 9) - 4) * 0.25 * ulp;
    float x[1] = {(float)(quotient * s)};
    x[0] = __uint_as_float(__float_as_uint(x[0]) + next(state) % 3 - 1);
    const float q = x[0] / s;
    divide(x, g);
    *differences += code(q) != code(x[0]);
    ++*tried;
  }
}
"""


@on_a_cpu
@pytest.mark.parametrize(
    ("source", "function", "least"), [("BF16", "pairs", 70_000_000), ("SWIGLU", "midpoints", 2_000_000)]
)
def test_no_division_is_missed(source, function, least):
    """The replacement of the division by the scale gives the division's code: all BF16 pairs, and FP32 at midpoints."""
    text = Choice(source, rows=True).text + DIVISIONS.replace("B_STEP", "1")
    entry = on_cpu.build(text, function, ("-O3", "-march=native"))
    differences, tried = ctypes.c_longlong(), ctypes.c_longlong()
    entry(ctypes.byref(differences), ctypes.byref(tried))
    assert tried.value >= least
    assert differences.value == 0


@on_a_cpu
def test_silu_of_every_gate_equals_isa_model():
    """For all 65,536 BF16 gates, silu equals isa_model's to the last bit of FP32, and isa_model's is accurate."""
    text = (
        Choice("SWIGLU", rows=True).text
        + """
extern "C" void all(float *out) { for (unsigned g = 0; g < 65536; ++g) out[g] = silu(__uint_as_float(g << 16)); }"""
    )
    out = np.empty(65536, np.float32)
    on_cpu.build(text, "all")(out.ctypes.data_as(ctypes.c_void_p))
    gates = np.arange(65536, dtype=np.uint16).view(BF16)
    expected = silu(gates)
    assert np.array_equal(canonical(fp32(out)), canonical(fp32(expected)))
    with np.errstate(over="ignore", invalid="ignore"):
        g = gates.astype(np.float64)
        g = g[(g > -87) & (g < 1e30)]
        exact = g / (1 + np.exp(-g))
    normal = np.abs(exact) > 1e-37
    error = np.abs(silu(g[normal]) / exact[normal] - 1)
    assert error[g[normal] > -10].max() < 5e-7
    assert error.max() < 1.5e-6


def test_e5m6_survives_packing():
    """Two codes take three bytes, the first in the low bits; unpacking inverts packing."""
    from isa_model.array_codec import unpack

    codes = np.array([[0xABC, 0x123]], np.uint16)
    assert pack(named("e5m6"), codes).tobytes() == bytes([0xBC, 0x3A, 0x12])
    codes = np.random.default_rng(0).integers(0, 4096, (3, 8)).astype(np.uint16)
    assert np.array_equal(unpack(named("e5m6"), pack(named("e5m6"), codes)), codes)
    with pytest.raises(ValueError, match="whole bytes"):
        pack(named("e5m6"), codes[:, :3])
    with pytest.raises(ValueError, match="whole number"):
        unpack(named("e5m6"), np.zeros((1, 4), np.uint8))


@on_a_cpu
def test_requantised_powers_of_two_change_nothing_but_what_underflows():
    """Requantising with power-of-two scales on both sides is exact for every element that stays normal."""
    x = np.random.default_rng(3).standard_normal((128, 128)).astype(np.float32)
    first = quantise(cast_of(OURS[1], (1, 128)), x)
    scales = np.ascontiguousarray(first.scale_values().astype(np.float32).T)
    choice = Choice("E4M3", columns=True, power_of_2=True)
    ((codes, turned),) = on_cpu.tile(choice, np.ascontiguousarray(first.codes), scales)
    values = decode_array(named("e4m3"), codes).T * turned.astype(np.float64)
    normal = np.abs(decode_array(named("e4m3"), codes).T) >= 2.0**-6
    assert normal.mean() > 0.9
    assert np.array_equal(values[normal], first.values()[normal])


@on_a_cpu
def test_requantising_by_powers_of_two_refuses_other_scales_aloud():
    """A given scale that is not a power of two makes the groups of its elements NaN instead of being rounded."""
    codes = np.full((128, 128), 0x38, np.uint8)  # 1.0
    scales = np.ones((1, 128), np.float32)
    choice = Choice("E4M3", columns=True, power_of_2=True)
    assert (on_cpu.tile(choice, codes, scales)[0][0] == 0x78).all()  # 256 in units of 2^-8
    scales[0, 5] = 1.5
    assert (on_cpu.tile(choice, codes, scales)[0][0] == 0x7F).all()


# -- machine code ----------------------------------------------------------------------------------------------------


TEXTS = [*(choice.text for choice in all_choices()), read("unpack.cu")]


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: "")
def test_machine_code_for_hopper_spills_nothing(text):
    """Every kernel compiles for sm_90a and does not use the stack: nothing is spilled."""
    pytest.importorskip("cuda.core")
    machine_code.assert_no_stack(cubin(text))


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: "")
def test_global_memory_waits_for_the_grid_before(text):
    """A kernel releases the next grid and waits for the previous one before it accesses global memory."""
    pytest.importorskip("cuda.core")
    ops = machine_code.instructions(cubin(text))
    names = [op.base for op in ops]
    wait = names.index("ACQBULK")
    assert names.index("PREEXIT") < wait
    assert not {"LDG", "STG"} & set(names[:wait])
    assert not [op for op in ops if "CONSTANT" in op.opcode]
    assert {"LDG", "STG"} < set(names[wait:])
