"""Arguments: every layout of an array gives the same bits, and anything else is a ValueError that names the argument."""

import ml_dtypes
import numpy as np
import pytest
from handed_over import LAYOUTS, as_tensor, layouts, no_arrays, own, wrong_codes
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from strategies import codes as draw_codes

from isa_model import FORMATS, gemm, load, matmul, named, promoted
from isa_model.array_codec import code_dtype, decode_array, encode_array, pack, to_codes, unpack
from isa_model.cast import Cast, quantise
from isa_model.codec import decode, encode, number_of
from isa_model.rounding import Rounding
from isa_model.swiglu import swiglu

W = load("hopper.wgmma.m64n256k32.f32.e4m3.e4m3")
NV = load("blackwell.tcgen05.m128n128k64.kind::mxf4nvf4.block16.f32.e2m1.e2m1.ue4m3")
E4M3 = FORMATS["e4m3"]
NAMES = [*FORMATS, "e5m6", "e8m13"]
SHAPES = hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5)
quick = settings(max_examples=100)


def random_codes(fmt, seed, shape):
    return draw_codes(fmt, np.random.default_rng(seed), shape, "bits")


def number(x):
    return number_of(float(x))


# -- codes and numbers -----------------------------------------------------------------------------------------------


@quick
@given(st.sampled_from(NAMES), SHAPES, layouts(), st.booleans(), st.integers(0, 99))
def test_decoding_takes_codes_and_values_in_every_layout(name, shape, layout, values, seed):
    """Arrays of any byte order, stride, owner and number of axes decode as the scalar definition does, 0-D arrays too."""
    fmt = named(name)
    codes = random_codes(fmt, seed, shape)
    got = decode_array(fmt, layout(own(fmt, codes) if values else codes))
    assert got.shape == shape
    for code, value in zip(codes.ravel().tolist(), got.ravel().tolist(), strict=True):
        right = decode(fmt, code)
        if right.special:
            assert np.isnan(value) if right.special == "nan" else np.isinf(value)
        else:
            assert value == float(right.exact())  # of over 53 bits, the nearest
            assert np.signbit(value) == right.negative


@quick
@given(
    st.sampled_from(NAMES),
    hnp.arrays(
        st.sampled_from(["f2", "f4", "f8", "i1", "i4", ml_dtypes.bfloat16]), SHAPES, elements=st.integers(-99, 99)
    ),
    layouts(),
    st.sampled_from([rounding for rounding in Rounding if rounding is not Rounding.STOCHASTIC]),
)
def test_encoding_takes_numbers_in_every_layout(name, x, layout, rounding):
    """Floats of every width and signed integers encode as the scalar definition does; a rounding may be given by name."""
    fmt = named(name)
    x = x if x.dtype.kind == "i" else (x.astype(np.float64) / 7).astype(x.dtype)
    got = encode_array(fmt, layout(x), str(rounding))
    assert got.shape == x.shape
    assert got.dtype == code_dtype(fmt)
    assert got.ravel().tolist() == [encode(fmt, number(v), rounding) for v in x.ravel()]


@quick
@given(st.data())
def test_what_holds_no_numbers_is_refused(data):
    """Objects, text, booleans, masked, complex and unsigned arrays are a ValueError that names the argument."""
    x = data.draw(st.one_of(no_arrays(), st.sampled_from([np.ones((2, 2), f"u{size}") for size in (1, 2, 4, 8)])))
    for call in (lambda: encode_array(E4M3, x), lambda: quantise(Cast(), x)):
        with pytest.raises(ValueError, match=r"^x "):
            call()
    for name, arguments in (("gate", (x, np.ones((2, 2)))), ("up", (np.ones((2, 2)), x))):
        with pytest.raises(ValueError, match=f"^{name} "):
            swiglu(*arguments)


@quick
@given(st.data())
def test_what_holds_no_codes_is_refused(data):
    """Numbers of another dtype, objects and packed tensors are a ValueError that names the argument."""
    x = data.draw(wrong_codes())
    for call in (lambda: decode_array(E4M3, x), lambda: pack(E4M3, x)):
        with pytest.raises(ValueError, match=r"^codes"):
            call()
    if not (isinstance(x, np.ndarray) and x.dtype == np.uint8):
        with pytest.raises(ValueError, match=r"^packed"):
            unpack(E4M3, x)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: encode_array("e4m3", 1.0), "fmt is of type str; isa_model.named"),
        (lambda: encode_array(E4M3, 1.0, overflow=""), "overflow is ''; e4m3 can follow"),
        (lambda: encode(E4M3, 1.0), "number is of type float; isa_model.number_of"),
        (lambda: named(None), "name is of type NoneType"),
        (lambda: promoted(W, None), "every is None; expected a whole number"),
        (lambda: promoted(W, 128.0), r"every is 128\.0; expected a whole number"),
        (lambda: promoted(W.name, 128), "instruction is of type str; isa_model.load"),
        (lambda: encode_array(E4M3, 1.0, "upwards"), "'upwards' is not a valid Rounding"),
        (lambda: encode_array(E4M3, 1.0, overflow="clip"), "overflow is 'clip'; e4m3 can follow nan, saturate"),
        (lambda: encode_array(named("e2m1"), 9.0, overflow="infinity"), "e2m1 can follow saturate"),
        (lambda: encode_array(E4M3, 1.0, "stochastic", rng=3), "needs `rng`"),
        (lambda: encode_array(FORMATS["int32"], np.array([2**53 + 1])), "x holds int64 numbers that float64 cannot"),
        (lambda: encode_array(FORMATS["int32"], np.array([2**63 - 1])), "x holds int64 numbers that float64 cannot"),
        (lambda: pack(named("e2m1"), np.uint8(3)), r"codes has 0 dimensions"),
        (lambda: pack(named("e2m1"), np.zeros((2, 3), np.uint8)), r"codes is \(2, 3\): 3 codes of 4 bits"),
        (lambda: unpack(named("e5m6"), np.zeros((2, 4), np.uint8)), r"packed is \(2, 4\): 4 bytes"),
        (lambda: quantise(Cast(), np.ones(4)), r"x is \(4,\), of 1 dimensions"),
        (
            lambda: quantise(Cast(), np.ones((2, 256)), np.ones((2, 1), "f4")),
            r"scales is \(2, 1\); groups of \(1, 128\)",
        ),
        (lambda: quantise(Cast(), np.ones((2, 128)), np.ones((2, 1))), "scales: an array of fp32 has dtype float32"),
        (lambda: quantise({}, np.ones((2, 128))), "cast is of type dict"),
        (lambda: swiglu(np.ones((2, 3)), np.ones((3, 2))), r"gate is \(2, 3\) and up is \(3, 2\)"),
    ],
)
def test_refusals_name_the_argument_and_its_shape(call, says):
    """The message names the argument, what it is, and what is expected."""
    with pytest.raises(ValueError, match=says):
        call()


@quick
@given(
    st.sampled_from(NAMES),
    hnp.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=5),
    layouts(),
    st.integers(0, 9),
)
def test_packed_codes_come_back(name, shape, layout, seed):
    """`unpack` undoes `pack`, for empty rows as well, in every layout."""
    fmt = named(name)
    codes = random_codes(fmt, seed, (*shape[:-1], 8 * shape[-1]))
    packed = pack(fmt, layout(codes))
    assert packed.shape == (*shape[:-1], shape[-1] * fmt.bits)
    assert np.array_equal(unpack(fmt, layout(packed)), codes)


def test_packed_operands_are_not_taken_for_codes():
    """Bytes that pack two FP4 codes are refused, with `unpack` as the remedy; sign-extended INT4 bytes are codes."""
    packed, scales = np.full((4, 64), 0x21, np.uint8), np.full((4, 4), 0x38, np.uint8)
    with pytest.raises(ValueError, match=r"^b holds 0x21, and e2m1 has codes of 4 bits.*unpack"):
        matmul(NV, packed & 15, packed.T, None, scales, scales)
    codes = np.array([0xF9, 0x09, 0x07, 0xFF], np.uint8)
    assert decode_array(FORMATS["int4"], codes).tolist() == [-7, -7, 7, -1]
    assert np.array_equal(to_codes(FORMATS["int4"], codes), codes & 15)
    for name, code in (("int4", 0x39), ("int4", 0xF7), ("uint4", 0xF9), ("e3m2", 0x40), ("e5m6", 0x1000)):
        with pytest.raises(ValueError, match="codes of"):
            to_codes(named(name), np.array([code], code_dtype(named(name))))


def test_torch_tensors_are_taken_as_they_are():
    """FP8, BF16 and scale tensors, transposed or with a gradient, are arrays of the same bits; packed FP4 is not."""
    torch = pytest.importorskip("torch")
    x = torch.randn(4, 6, requires_grad=True)
    for name in ("float8_e4m3fn", "float8_e5m2", "float8_e8m0fnu", "bfloat16", "float16", "float32", "float64"):
        fmt = next(
            fmt
            for fmt in FORMATS.values()
            if np.dtype(getattr(ml_dtypes, name, None) or name) == own(fmt, np.zeros(1, code_dtype(fmt))).dtype
        )
        y = (x.abs() if name == "float8_e8m0fnu" else x).to(getattr(torch, name))
        assert np.array_equal(decode_array(fmt, y.T), y.detach().double().numpy().T), name
    if hasattr(torch, "float4_e2m1fn_x2"):
        with pytest.raises(ValueError, match="codes packs two codes into a byte"):
            decode_array(named("e2m1"), torch.zeros(4, dtype=torch.uint8).view(torch.float4_e2m1fn_x2))


# -- products --------------------------------------------------------------------------------------------------------

SCALED = load("rtx_blackwell.mma.m16n8k32.kind::mxf8f6f4.block32.f32.e4m3.e5m2.f32.ue8m0")


@settings(max_examples=40)
@given(st.data(), st.sampled_from(["golden", "portable", "auto"]))
def test_products_are_the_same_in_every_layout(data, engine):
    """matmul and gemm give the golden model's bits for codes and for values, in any layout, also for empty matrices."""
    m, n, steps = (data.draw(st.integers(0, 3)) for _ in range(3))
    k, seed = 32 * steps, data.draw(st.integers(0, 9))
    spec = data.draw(st.sampled_from([W, SCALED]))
    a, b, c = (random_codes(f, seed, s) for f, s in ((spec.a, (m, k)), (spec.b, (k, n)), (spec.c_format, (m, n))))
    scales = []
    if spec.scale:
        scales = [random_codes(FORMATS["ue8m0"], seed, shape) for shape in ((m, steps), (steps, n))]
    expected = to_codes(spec.accumulator, matmul(spec, a, b, c, *scales, engine="golden"))
    formats = [spec.a, spec.b, spec.c_format, *[FORMATS["ue8m0"]] * len(scales)]
    given_ = [
        data.draw(layouts())(own(fmt, x) if data.draw(st.booleans()) else x)
        for fmt, x in zip(formats, (a, b, c, *scales), strict=True)
    ]
    got = matmul(spec, *given_, engine=engine)
    assert got.shape == (m, n)
    assert np.array_equal(to_codes(spec.accumulator, got), expected)
    plain = matmul(spec, a, b, None, *scales, engine="golden")
    assert np.array_equal(gemm(spec, *given_[:2], *given_[3:]).view(np.uint32), plain.view(np.uint32))


def test_strides_of_nothing_are_read_as_repeats():
    """Broadcast rows of A and columns of B give the results of full matrices."""
    a, b = random_codes(E4M3, 0, (1, 32)), random_codes(E4M3, 1, (32, 1))
    wide = matmul(W, np.broadcast_to(a, (3, 32)), np.broadcast_to(b, (32, 4)))
    assert np.array_equal(wide.view(np.uint32), np.repeat(np.repeat(matmul(W, a, b).view(np.uint32), 3, 0), 4, 1))


@quick
@given(st.sampled_from(["a", "b", "c"]), wrong_codes((32, 32)), st.sampled_from([matmul, gemm]))
def test_operands_that_are_none_are_refused(name, x, product):
    """The message of matmul and gemm begins with the argument that is wrong."""
    right = np.zeros((32, 32), np.uint8)
    arguments = {"a": right, "b": right, name: x}
    if name == "c" and (x is None or product is gemm or getattr(x, "dtype", None) in (np.float32, np.uint32)):
        return
    with pytest.raises(ValueError, match=f"^{name}[ :]"):
        product(W, **arguments)


@quick
@given(st.lists(st.integers(0, 3), min_size=7, max_size=7), st.booleans())
def test_shapes_fit_or_are_named(sizes, packed):
    """Shapes of A, B, C, alpha and bias that do not fit are a ValueError that gives the shapes."""
    (m, ka, kb, n, *of_c), width = sizes[:6], 32 + sizes[6]
    a, b = np.zeros((m, width * ka), np.uint8), np.zeros((width * kb, n), np.uint8)
    c = np.zeros(of_c, np.float32)
    fits = ka == kb or width * ka == width * kb
    if fits and width * ka % 32 == 0 and c.shape == (m, n):
        assert matmul(W, a, b, c).shape == (m, n)
    else:
        with pytest.raises(ValueError, match=r"\(\d+, \d+\)"):
            matmul(W, a, b, c)
    for name, shapes in (("alpha", [(), (m, 1), (1, n)]), ("bias", [(n,)])):
        for shape in [(), (n,), (m,), (m, 1), (1, n), (m, n), (4, 1), (1, 7), (9,), (1,)]:
            call = {name: np.ones(shape, np.float32)}
            if fits and shape in shapes:
                assert gemm(W, a, b, **call).shape == (m, n)
            else:
                with pytest.raises(ValueError, match=r"K differs" if not fits else f"^{name} is "):
                    gemm(W, a, b, **call)


@pytest.mark.parametrize("more", [1, 64, 4032])
def test_rows_of_b_beyond_k_are_not_dropped(more):
    """gemm refuses a B with more rows than A has columns, or fewer, with the caller's shapes."""
    a, b = np.zeros((4, 64), np.uint8), np.zeros((64 + more, 64), np.uint8)
    with pytest.raises(ValueError, match=rf"a is \(4, 64\) and b is \({64 + more}, 64\): K differs"):
        gemm(W, a, b)
    with pytest.raises(ValueError, match="K differs"):
        gemm(W, a, b[:63])


@pytest.mark.parametrize(
    ("call", "says"),
    [
        ({"a": np.zeros(32, np.uint8)}, r"a is \(32,\), of 1 dimensions"),
        ({"instruction": W.name}, "instruction is of type str; isa_model.load"),
        ({"split_k": 2.0}, r"split_k is 2\.0"),
        ({"split_k": True}, "split_k is True"),
        ({"split_k": 0}, "split_k = 0: K has 1 times"),
        ({"out": "bf16"}, "out is of type str; isa_model.named"),
        ({"engine": ["cpu"]}, "unknown engine"),
        ({"alpha": np.uint32(1)}, "alpha has dtype uint32, which means codes"),
        ({"bias": ["a"] * 2}, "bias has dtype <U1"),
        ({"scale_a": np.ones((2, 1), np.uint8)}, "scale_a is given, but the instruction takes none"),
    ],
)
def test_gemm_refuses_with_a_reason(call, says):
    """An argument of another type or shape is refused, and the message names it."""
    arguments = {"instruction": W, "a": np.zeros((2, 32), np.uint8), "b": np.zeros((32, 2), np.uint8), **call}
    with pytest.raises(ValueError, match=says):
        gemm(**arguments)


def test_scales_of_another_shape_are_refused_with_the_callers_shapes():
    """Scales cover K filled up to whole instructions, and the message says so."""
    a, b, one = np.zeros((4, 100), np.uint8), np.zeros((100, 4), np.uint8), np.full((4, 7), 0x38, np.uint8)
    with pytest.raises(
        ValueError, match=r"scale_a is \(4, 7\); .* over a \(4, 100\), filled up to \(4, 128\), make it \(4, 8\)"
    ):
        gemm(NV, a, b, one, one.T)
    whole = np.full((4, 8), 0x38, np.uint8)
    assert not gemm(NV, a, b, whole, whole.T).any()


# -- quantisation ----------------------------------------------------------------------------------------------------


@quick
@given(
    hnp.arrays(
        st.sampled_from(["f4", "f8", "i2"]),
        hnp.array_shapes(min_dims=2, max_dims=2, min_side=0, max_side=6),
        elements=st.integers(-300, 300),
    ),
    layouts(),
    st.sampled_from([Cast(), Cast(scale="ue8m0", group=(2, 3)), Cast(scale=None, group=None), Cast(group=None)]),
)
def test_quantisation_takes_numbers_in_every_layout(x, layout, cast):
    """Any layout gives the codes, scales and shares of a plain FP32 matrix; passing its own scales changes nothing."""
    plain = quantise(cast, x.astype(np.float32))
    got = quantise(cast, layout(x))
    again = quantise(cast, layout(x), layout(plain.scales))
    for done in (got, again):
        assert done.codes.shape == x.shape
        assert np.array_equal(done.codes, plain.codes)
        assert np.array_equal(done.scales, plain.scales)
        assert (done.underflow, done.overflow) == (plain.underflow, plain.overflow)


def test_layouts_keep_values():
    """The layouts of these tests are what their names say, and include tensors."""
    x = np.arange(6, dtype=np.uint16).reshape(2, 3)
    for layout in LAYOUTS:
        assert np.array_equal(np.asarray(layout(x)), x)
    assert not LAYOUTS[4](x).flags.aligned
    pytest.importorskip("torch")
    assert type(as_tensor(x)).__name__ == "Tensor"
