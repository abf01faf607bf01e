"""Formats given by a table of numbers: codes, rounding, instructions that read them, and what is refused."""

from fractions import Fraction

import numpy as np
import pytest
from pydantic import ValidationError

from codesign.proposal.quantisation import Quantisation, cast_of
from isa_model import Instruction, gemm, matmul
from isa_model.array_codec import code_dtype, decode_array, encode_array
from isa_model.cast import Cast, quantise
from isa_model.codec import decode, encode, number_of
from isa_model.formats import FORMATS, Format, named
from isa_model.rounding import Rounding
from isa_model.tables import finite
from isa_model.vectors.make import make
from isa_model.vectors.vector import outputs

ODD = Format(name="odd", kind="table", values=[-3, 0.5, 7, "nan", 1, 1, "infinity", 100])
TABLES = [
    *(FORMATS[name] for name in ("nf4", "hif8", "posit8")),
    ODD,
    Format(name="signs", kind="table", values=[1, -1]),
]


@pytest.mark.parametrize("fmt", TABLES, ids=lambda f: f.name)
def test_arrays_are_rounded_to_the_numbers_that_scalars_are(fmt):
    """At every number, between all neighbours, beyond both ends and for specials, in every rounding mode."""
    numbers = np.array([x for x, _ in finite(fmt.values)])
    middles = (numbers[1:] + numbers[:-1]) / 2
    near = [np.nextafter(x, end) for x in (numbers, middles) for end in (-np.inf, np.inf)]
    rest = [0.0, -0.0, np.inf, -np.inf, np.nan, 1e300, 5e-324, -5e-324]
    xs = np.concatenate([numbers, middles, *near, np.random.default_rng(0).standard_normal(50) * numbers.max(), rest])
    for rounding in Rounding:
        if rounding is not Rounding.STOCHASTIC:
            expected = [encode(fmt, number_of(float(x)), rounding) for x in xs]
            assert encode_array(fmt, xs, rounding).tolist() == expected, rounding
    with pytest.raises(ValueError, match="stochastically"):
        encode_array(fmt, xs, Rounding.STOCHASTIC)
    with pytest.raises(ValueError, match="stochastically"):
        encode(fmt, number_of(0.3), Rounding.STOCHASTIC)


@pytest.mark.parametrize("fmt", TABLES, ids=lambda f: f.name)
def test_codes_are_their_numbers_and_survive_writing(fmt):
    """Scalar and array agree on every code; a finite number is rounded to itself; a table is written with its numbers."""
    codes = np.arange(1 << fmt.bits, dtype=code_dtype(fmt))
    for code, value in zip(codes.tolist(), decode_array(fmt, codes).tolist(), strict=True):
        number = decode(fmt, code)
        assert (value != value) == (number.special == "nan")
        if not number.special:
            assert number.exact() == Fraction(value)
            assert decode(fmt, encode(fmt, number)).exact() == number.exact()
    for data in (fmt.model_dump(mode="json"), fmt.model_dump(exclude_defaults=True)):
        assert Format.model_validate(data) == fmt


def test_rounding_takes_the_nearest_neighbour_and_a_tie_the_even_code():
    """By hand: between 1 (code 4) and 7 (code 2), and between 7 (code 2) and 100 (code 7), where the tie is 53.5."""
    assert [encode(ODD, number_of(x)) for x in (3.9, 4.1, 53.5, 53.6)] == [4, 2, 2, 7]
    assert encode(ODD, number_of(53.5), Rounding.NEAREST_AWAY) == 7
    assert encode(ODD, number_of(53.5), Rounding.TO_ODD) == 7
    assert [encode(ODD, number_of(x), Rounding.TOWARD_ZERO) for x in (-0.1, 0.4, 99.0)] == [1, 1, 2]
    assert [encode(ODD, number_of(float(x))) for x in ("nan", "inf", "-inf", "1e9", "-1e9")] == [3, 6, 0, 7, 0]


def test_posits_and_hifloat8_have_their_published_ends():
    """posit8: 2**-24 to 2**24, 1 is 0x40. HiFloat8: 2**-22 to 2**15, infinities 0x6F and 0xEF, NaN 0x80, 0.5 is 0x18."""
    posit8, hif8 = FORMATS["posit8"], FORMATS["hif8"]
    assert [decode(posit8, code).exact() for code in (0x01, 0x40, 0x7F, 0xC0)] == [Fraction(1, 1 << 24), 1, 1 << 24, -1]
    assert decode(posit8, 0x80).special == decode(hif8, 0x80).special == "nan"
    found = [decode(hif8, code).exact() for code in (0x01, 0x08, 0x0F, 0x18, 0x6E)]
    assert found == [Fraction(1, 1 << 22), 1, Fraction(15, 8), Fraction(1, 2), 1 << 15]
    assert [decode(hif8, code).special for code in (0x6F, 0xEF)] == ["infinity"] * 2


SPEC = {
    "a": "nf4",
    "b": "e4m3",
    "accumulator": "fp32",
    "shape": {"m": 1, "n": 1, "k": 4},
    "stages": {"s": {"terms": 4, "accumulator": True, "result": {"format": "fp32", "rounding": "nearest-even"}}},
}


def test_an_instruction_multiplies_the_numbers_of_a_table():
    """D of NF4 weights and E4M3 activations is the exact sum rounded once, also where K is filled up with zeros."""
    spec, rng = Instruction.model_validate(SPEC), np.random.default_rng(3)
    a, b = rng.integers(0, 16, (5, 6)).astype("u1"), rng.integers(0, 0x70, (6, 7)).astype("u1")
    exact = decode_array(spec.a, a)[:, :4].astype(np.longdouble) @ decode_array(spec.b, b)[:4]
    rest = decode_array(spec.a, a)[:, 4:].astype(np.longdouble) @ decode_array(spec.b, b)[4:]
    expected = (exact.astype(np.float32).astype(np.longdouble) + rest).astype(np.float32)
    for engine in ("golden", "portable"):
        assert np.array_equal(gemm(spec, a, b, engine=engine), expected)


def test_a_cast_goes_to_the_numbers_of_a_table():
    """A group's largest magnitude becomes the table's largest number; every element its nearest."""
    x = np.random.default_rng(1).standard_normal((4, 64)).astype(np.float32)
    done = quantise(Cast(to=named("nf4"), group=(1, 64)), x)
    scaled = x / done.scale_values().astype(np.float32)
    table = np.array([x for x, _ in finite(FORMATS["nf4"].values)])
    nearest = table[np.abs(scaled[..., None] - table).argmin(axis=-1)]
    assert np.array_equal(done.elements(), nearest)
    assert np.abs(done.elements()).max() == 1
    assert done.overflow == 0


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"values": [1, 2, 3]}, "a table of 3 numbers"),
        ({"values": []}, "a table of 0 numbers"),
        ({"values": [-1, 0]}, "a number above zero"),
        ({"values": [1, 2], "exponent_bits": 3}, "imply `exponent_bits: 0`"),
        ({"values": [1, 2], "mantissa_bits": 3}, "imply `mantissa_bits: 0`"),
        ({"values": [1, 2], "overflow": "nan"}, "imply `overflow: saturate`"),
        ({"values": [1, 2], "kind": "float", "mantissa_bits": 1}, "`values` are the numbers of a table"),
        ({"values": [1, 2], "name": "nf4"}, "another format's name"),
        ({"values": ["one", 2]}, "values"),
        ({"values": [1] * 2048}, "values"),
    ],
)
def test_tables_that_are_none_are_refused(fields, message):
    """Each with what would be right."""
    with pytest.raises(ValueError, match=message):
        Format(**{"name": "x", "kind": "table"} | fields)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"accumulator": "nf4"}, "which are for operands and scales"),
        ({"c": "nf4"}, "which are for operands and scales"),
        ({"widen": "fp32"}, "nf4 has no subnormals"),
        ({"a": {"name": "x", "kind": "table", "values": [1, 2]}}, "needs a zero"),
        (
            {"stages": {"s": {**SPEC["stages"]["s"], "result": {"format": "nf4", "rounding": "up"}}}},
            "operands and scales",
        ),
    ],
)
def test_tables_are_for_operands_and_scales(change, message):
    """No register, C or D is a table; an operand's table has a zero, with which K is filled up."""
    with pytest.raises(ValueError, match=message):
        Instruction.model_validate(SPEC | change)


def test_vectors_of_tables_are_random():
    """Codes of a table are drawn like any bits, as goals of coverage are about fields of formats, which a table has not."""
    made = make(Instruction.model_validate(SPEC), 100)
    assert all(v.case.startswith("random") for v in made.vectors)
    assert outputs(made.spec, made.vectors, "portable") == [v.d for v in made.vectors]
    assert matmul(Instruction.model_validate(SPEC), np.full((1, 4), 7, "u1"), np.zeros((4, 1), "u1"))[0, 0] == 0


@pytest.mark.parametrize("name", ["posit8", "hif8"])
def test_formats_that_are_finest_near_one_are_scaled_to_a_number(name):
    """Scaled to 16, normal numbers lose a few percent; scaled to the format's largest number, several times as much."""
    x = np.random.default_rng(0).standard_normal((4, 512)).astype(np.float32)

    def error(rule):
        back = quantise(cast_of(rule, FORMATS[name], "activation", None, 1), x).values()
        return np.linalg.norm(back - x) / np.linalg.norm(x)

    assert error(Quantisation(range=16)) < 0.04
    assert error(Quantisation()) > 0.1


@pytest.mark.parametrize("bad", [0, -16, 1e-300, 1e308, float("inf"), float("nan"), True])
def test_a_range_is_a_number_of_fp32(bad):
    """Scales are FP32 quotients: a range beyond FP32, or an infinity, which JSON does not have, is refused."""
    with pytest.raises(ValidationError):
        Quantisation(range=bad)
