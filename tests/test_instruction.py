"""The spec language: what it can describe, and what it refuses."""

import json

import numpy as np
import pytest
from hypothesis import given
from strategies import instructions

from isa_model import InputError, load, matmul, named, promoted
from isa_model.array_codec import code_dtype, to_codes
from isa_model.diagnostics import parse_yaml
from isa_model.formats import FORMATS, Format
from isa_model.instruction import Instruction
from isa_model.library import raw, validated
from isa_model.operand_fields import ScaleOperand, Scaling
from isa_model.stimulus import KINDS, draw

RNE = {"format": "fp32", "rounding": "nearest-even"}

# One instruction of each rule the architectures have.
RULES = {
    "volta fp16": "volta.mma.m8n8k4.f32.f16.f16.f32",
    "volta fp16, C in FP16": "volta.mma.m8n8k4.f32.f16.f16.f16",
    "turing fp16": "turing.mma.m16n8k8.f16.f16.f16.f16",
    "ampere bf16, two chained blocks": "ampere.mma.m16n8k16.f32.bf16.bf16.f32",
    "ada fp8": "ada.mma.m16n8k32.f32.e4m3.e5m2.f32",
    "hopper int8": "hopper.wgmma.m64n8k32.s32.s8.u8.satfinite",
    "blackwell f8f6f4": "blackwell.tcgen05.m64n8k32.kind::f8f6f4.f32.e3m2.e2m1",
    "blackwell mxf8f6f4": "blackwell.tcgen05.m128n8k32.kind::mxf8f6f4.block32.f32.e4m3.e5m2.ue8m0",
    "blackwell mxf4": "blackwell.tcgen05.m128n8k64.kind::mxf4.block32.f32.e2m1.e2m1.ue8m0",
    "blackwell mxf4nvf4": "blackwell.tcgen05.m128n8k64.kind::mxf4nvf4.block16.f32.e2m1.e2m1.ue4m3",
    "cdna1 fp32, a chain of FMAs": "cdna1.mfma.f32_32x32x2f32",
    "cdna1 bf16": "cdna1.mfma.f32_32x32x4bf16",
    "cdna2 fp16, a tree of roundings": "cdna2.mfma.f32_32x32x8f16",
    "cdna2 bf16, pairs": "cdna2.mfma.f32_32x32x4bf16",
    "cdna3 fp16": "cdna3.mfma.f32_16x16x16_f16",
    "cdna3 fp8, even and odd k apart": "cdna3.mfma.f32_16x16x32_fp8_bf8",
}
NOBODY_BUILT = {
    "name": "a mixture nobody built",
    "a": "e5m6",
    "b": "e4m3",
    "c": "bf16",
    "accumulator": "fp32",
    "shape": {"m": 4, "n": 4, "k": 64},
    "scale": {"a": {"group": [1, 32], "format": "ue8m0"}, "onto": "tree"},
    "stages": {
        "near": {
            "terms": 4,
            "interleave": {"run": 2, "parts": 2},
            "fraction_bits": 9,
            "rounding": "to-odd",
            "zero_exponent": -40,
        },
        "tree": {
            "terms": 2,
            "accumulator": True,
            "chain": 2,
            "result": {"format": "e8m17", "rounding": "nearest-away"},
        },
        "top": {"terms": 2, "accumulator": True, "result": RNE},
    },
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rule", [*RULES, "a mixture nobody built"])
def test_every_rule_runs_on_both_engines(rule, kind):
    """The language describes each architecture's rules without special code, and the engines agree on them."""
    spec = load(RULES[rule]) if rule in RULES else Instruction.model_validate(NOBODY_BUILT)
    x = draw(spec, kind, np.random.default_rng(9), 3, 4, 2 * spec.shape.k)
    cpu, reference = (
        to_codes(spec.accumulator, matmul(spec, x.a, x.b, x.c, x.scale_a, x.scale_b, engine=engine))
        for engine in ("cpu", "golden")
    )
    assert np.array_equal(cpu, reference)


def test_cdna1_rounds_the_exact_sum_once():
    """1 + 2**-24 + 2**-24 in one exact sum rounds to 1 + 2**-23; two FP32 additions in a row would lose both."""
    spec = load(RULES["cdna1 bf16"])
    a, b = np.zeros((1, 4), np.uint16), np.zeros((4, 1), np.uint16)
    a[0, :2], b[:2, 0] = 0x3980, 0x3980  # 2**-12 * 2**-12
    c = np.array([[1.0]], np.float32)
    assert matmul(spec, a, b, c)[0, 0] == np.float32(1 + 2**-23)


def test_mx_scales_move_the_exponents_before_alignment():
    """In mxf8f6f4 a group scaled by 2**30 pushes a product of 1 out of the alignment window."""
    spec = load(RULES["blackwell mxf8f6f4"])
    a, b = np.zeros((1, 32), np.uint8), np.zeros((32, 1), np.uint8)
    a[0, 0], b[0, 0] = 0x38, 0x3C  # 1 * 1
    c = np.array([[1.0]], np.float32)
    one, big = np.array([[127]], np.uint8), np.array([[127 + 30]], np.uint8)
    assert matmul(spec, a, b, c, scale_a=one, scale_b=one)[0, 0] == 2.0
    assert matmul(spec, a, b, c, scale_a=big, scale_b=one)[0, 0] == 2.0**30  # C is 30 binary places below: cut off
    nan = np.array([[255]], np.uint8)
    assert np.isnan(matmul(spec, a, b, c, scale_a=nan, scale_b=one)[0, 0])


def test_nvf4_ignores_the_sign_of_a_scale():
    """The top bit of a UE4M3 scale changes nothing."""
    spec = load(RULES["blackwell mxf4nvf4"])
    rng = np.random.default_rng(2)
    a, b = rng.integers(0, 16, (2, 64), dtype=np.uint8), rng.integers(0, 16, (64, 2), dtype=np.uint8)
    sa, sb = rng.integers(0, 0x7F, (2, 4), dtype=np.uint8), rng.integers(0, 0x7F, (4, 2), dtype=np.uint8)
    assert np.array_equal(matmul(spec, a, b, scale_a=sa, scale_b=sb), matmul(spec, a, b, scale_a=sa | 0x80, scale_b=sb))


def test_a_dropped_accumulator_is_gone():
    """With drop_beyond 25, C at 2**-26 of the products does not even turn the rounding down."""
    spec = load(RULES["cdna3 fp8, even and odd k apart"])
    a, b = np.zeros((1, 32), np.uint8), np.zeros((32, 1), np.uint8)
    a[0, 0], b[0, 0] = 0x40, 0x40  # 1.0 in both fnuz formats
    for exponent, expected in ((-26, 1.0), (-24, 1.0 - 2.0**-24)):
        assert matmul(spec, a, b, np.array([[-(2.0**exponent)]], np.float32))[0, 0] == np.float32(expected)


def test_c_may_have_a_format_of_its_own():
    """A subnormal FP16 C aligns with FP16's smallest exponent and cuts products that the same number in FP32 would not."""
    spec = load(RULES["volta fp16, C in FP16"])
    wide = load(RULES["volta fp16"])
    a, b = np.zeros((1, 4), np.float16), np.zeros((4, 1), np.float16)
    a[0, 0], b[0, 0] = 2.0**-24, 2.0**-16  # aligned with exponent -14 - 16; 2**-40 is below 2**(-14 - 23)
    c = np.array([[2.0**-24]])
    assert matmul(spec, a, b, c.astype(np.float16))[0, 0] == 2.0**-24
    assert matmul(wide, a, b, c.astype(np.float32))[0, 0] == 2.0**-24 + 2.0**-40


def test_an_instruction_loads_from_a_file(tmp_path):
    """An instruction from a YAML file runs on both engines, as those of the catalogue do."""
    path = tmp_path / "mine.yaml"
    path.write_text(
        "shape: {m: 1, n: 1, k: 4}\na: e5m6\nb: e4m3\naccumulator: fp32\nstages:\n  sum: {terms: 4, accumulator: true,"
        " result: {format: fp32, rounding: nearest-even}}\n"
    )
    spec = load(path)
    assert spec.name == "mine"
    assert matmul(spec, np.full((1, 4), 0x3C0, np.uint16), np.full((4, 1), 0x38, np.uint8))[0, 0] == 4.0


SIGN_AND_11 = {"name": "s11", "exponent_bits": 1, "mantissa_bits": 10, "bias": -9, "overflow": "saturate"}


@pytest.mark.parametrize(
    ("fmt", "numbers"),
    [
        (SIGN_AND_11, {0: 0, 1: 1, 0x7FF: 2047, 0x800: 0, 0xFFF: -2047}),
        (
            {"name": "two", "exponent_bits": 2, "mantissa_bits": 1, "bias": 0, "overflow": "saturate"},
            {1: 1, 7: 12, 15: -12},
        ),
        ({"name": "odd", "kind": "table", "values": [0, 1, -3, 5]}, {1: 1, 2: -3, 3: 5}),
    ],
)
def test_integers_hold_products_of_every_format_of_whole_numbers(fmt, numbers):
    """INT32 sums of sign-magnitude numbers, of floats without fractions and of tables of integers are those of integers."""
    stage = {"terms": len(numbers), "accumulator": True, "result": {"format": "int32", "rounding": "nearest-even"}}
    spec = Instruction.model_validate(
        {
            "shape": {"m": 1, "n": 1, "k": len(numbers)},
            **{"a": fmt, "b": "int8", "accumulator": "int32"},
            "stages": {"sum": stage},
        }
    )
    a = np.array([list(numbers)], code_dtype(spec.a))
    b = np.arange(-1, len(numbers) - 1, dtype=np.int8)[:, None]
    expected = 7 + sum(x * y for x, y in zip(numbers.values(), b[:, 0].tolist(), strict=True))
    for engine in ("golden", "portable", "cpu"):
        assert matmul(spec, a, b, np.array([[7]], np.int32), engine=engine)[0, 0] == expected


@pytest.mark.parametrize(
    ("fmt", "whole"),
    [
        (FORMATS["int8"], True),
        (FORMATS["e2m1"], False),
        (Format(**SIGN_AND_11), True),
        (Format(**{**SIGN_AND_11, "bias": -8}), False),
        (Format(**{**SIGN_AND_11, "nan": "all-ones"}), False),
        (Format(name="t", kind="table", values=(0, 1, 2, "nan")), False),
        (Format(name="t", kind="table", values=(0, 1, 2, 0.5)), False),
    ],
)
def test_a_format_of_whole_numbers_has_no_fraction_and_no_special_code(fmt, whole):
    """Halves, infinities and NaNs make a format one that integers cannot sum."""
    assert fmt.is_whole is whole


GOOD = raw("hopper.wgmma.m64n8k32.f32.e4m3.e4m3")
FUSE = GOOD["stages"]["fuse"]


def without(mapping, key):
    return {k: v for k, v in mapping.items() if k != key}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"a": "ue8m0"}, "needs a zero: ue8m0 is for scales"),
        ({"accumulator": "int32"}, "int32 cannot hold products of e4m3: not every code is a whole number"),
        (
            {"a": SIGN_AND_11, "b": SIGN_AND_11, "accumulator": "int32", "nan": None, "infinite_from": 4},
            "products of integers are never infinite",
        ),
        (
            {"a": SIGN_AND_11, "b": SIGN_AND_11, "accumulator": "int32", "nan": None, "widen": "fp32"},
            "integers are summed exactly, so that nothing is aligned",
        ),
        (
            {"a": "int8", "b": "int8", "accumulator": "int32", "nan": None},
            "accumulator int32 does not hold every number of the register e8m13",
        ),
        ({"a": "int8", "widen": "fp16"}, "int8 has no subnormals to be widened"),
        ({"accumulator": "fp16", "nan": 0x7FFF}, "fp16 does not hold every number of the register e8m13"),
        ({"nan": 0x3F800000}, "0x3f800000 is not a NaN of fp32"),
        ({"c": "int32"}, "C in int32 and D in fp32 are different kinds"),
        ({"c": "ue4m3"}, "an accumulator needs a sign and a zero; ue4m3 lacks one"),
        ({"shape": {"m": 64, "n": 8, "k": 40}}, "k = 40 is not a multiple of the 32 products"),
        (
            {"stages": {"fuse": without(FUSE, "rounding")}},
            "`fraction_bits` shortens terms, so `rounding` must say how",
        ),
        ({"stages": {"fuse": without(FUSE, "fraction_bits")}}, "has no meaning in an exact sum"),
        ({"stages": {"fuse": {**FUSE, "rounding": "stochastic"}}}, "draws random numbers"),
        ({"stages": {"fuse": without(FUSE, "result")}}, "needs a `result`: D has a format"),
        ({"stages": {"fuse": {**FUSE, "accumulator": False}}}, "does not add C"),
        ({"stages": {"fuse": {**FUSE, "chain": 2}}}, "the last stage runs to the end of K"),
        (
            {"stages": {"first": FUSE, "second": {"terms": 1, "accumulator": True, "result": RNE}}},
            "its running value starts at zero and needs an end",
        ),
        ({"stages": {"fuse": {**FUSE, "accumulator": False, "chain": 2}}}, "needs a running value"),
        ({"stages": {"fuse": {**FUSE, "interleave": {"run": 3, "parts": 2}}}}, "do not divide"),
        (
            {
                "stages": {
                    "fuse": {
                        **FUSE,
                        "result": {"format": "e4m3", "rounding": "toward-zero", "overflow": "infinity"},
                    }
                }
            },
            "no infinity",
        ),
        (
            {"stages": {"fuse": {**FUSE, "result": {"format": "ue8m0", "rounding": "toward-zero"}}}},
            "needs a sign, a zero and a mantissa",
        ),
        (
            {
                "stages": {
                    "fuse": {
                        **FUSE,
                        "result": {"format": "fp32", "rounding": "toward-zero", "overflow": "wrap"},
                    }
                }
            },
            "only integers wrap",
        ),
        ({"scale": {}}, "`scale` needs `a`, `b` or both"),
        (
            {"scale": {"a": {"group": [1, 32], "format": "fp32"}, "onto": "fuse"}},
            "C would be scaled with the sum",
        ),
        ({"scale": {"a": {"group": [1, 32], "format": "fp32"}, "onto": "fuze"}}, "no stage is called `fuze`"),
        ({"scale": {"a": {"group": [1, 32], "format": "fp32"}, "product": RNE}}, "only one operand has them"),
        (
            {
                "stages": {
                    "fuse": {**without(FUSE, "result"), "accumulator": False},
                    "add": {"terms": 1, "accumulator": True, "result": RNE},
                },
                "scale": {"a": {"group": [1, 16], "format": "fp32"}, "onto": "fuse"},
            },
            "would not share one scale",
        ),
    ],
)
def test_contradictions_are_refused_with_a_reason(change, message):
    """A spec that contradicts itself is refused, and the message names the contradiction."""
    document = parse_yaml(json.dumps({**GOOD, **change}), "spec.yaml")
    with pytest.raises(InputError) as error:
        validated(document)
    assert any(message in p.message for p in error.value.problems), str(error.value)


def test_the_remedy_for_a_k_that_does_not_divide_can_be_pasted():
    """It names the field as a file has it, inside `shape`."""
    with pytest.raises(InputError, match=r"`shape: \{k: 64\}`, or other `terms`"):
        validated(parse_yaml(json.dumps({**GOOD, "shape": {"m": 64, "n": 8, "k": 40}}), "spec.yaml"))


def test_specs_are_frozen_and_hide_no_field():
    """A spec cannot be changed in place, and an unknown field is an error."""
    spec = load("hopper.wgmma.m64n8k32.f32.e4m3.e4m3")
    with pytest.raises(ValueError, match="frozen"):
        spec.name = "other"
    with pytest.raises(InputError, match="unknown field `fraction_bit`"):
        validated(parse_yaml("stages: {fuse: {terms: 1, fraction_bit: 3}}", "x.yaml"))


def test_scales_follow_the_terms_of_interleaved_stages():
    """CDNA3 sums even and odd k apart and joins them again: a promotion every 128 of it takes scales of 128, not of 64."""
    base = load("cdna3.mfma.f32_16x16x32_fp8_bf8")
    fp32 = base.accumulator
    spec = promoted(base, 128, Scaling(a=ScaleOperand(group=(1, 128), format=fp32)))
    x = draw(spec, "normal", np.random.default_rng(3), 3, 4, 256)
    engines = ("cpu", "golden")
    cpu, reference = (matmul(spec, x.a, x.b, x.c, scale_a=x.scale_a, engine=engine) for engine in engines)
    assert np.array_equal(cpu, reference)
    with pytest.raises(ValueError, match="a scale of A covers 64 of K, but each result of `add` sums over 128"):
        promoted(base, 128, Scaling(a=ScaleOperand(group=(1, 64), format=fp32)))


@given(instructions())
def test_a_spec_survives_being_written_and_read(spec):
    """Dumped to plain data and read again, an instruction is the same."""
    assert Instruction.model_validate(spec.model_dump(mode="json")) == spec


def test_integers_are_promoted_with_their_scales():
    """Exact sums of a group become FP32, are multiplied by the product of their scales, and are added by one FMA."""
    fp32 = FORMATS["fp32"]
    sides = {"a": ScaleOperand(group=(1, 64), format=fp32), "b": ScaleOperand(group=(64, 1), format=fp32)}
    spec = promoted(load("hopper.wgmma.m64n8k32.s32.s8.s8"), 64, Scaling(**sides))
    rng = np.random.default_rng(1)
    a, b = (rng.integers(-128, 128, shape).astype(np.int8) for shape in ((3, 128), (128, 5)))
    scales = [rng.standard_normal(shape).astype(np.float32) for shape in ((3, 2), (2, 5))]
    sums = [a[:, ks].astype(np.int64) @ b[ks].astype(np.int64) for ks in (slice(64), slice(64, 128))]
    expected = np.zeros((3, 5), np.float32)
    for group, total in enumerate(sums):  # 40 bits and FP32's 24 fit the 64 bits of a long double
        factor = (scales[0][:, group, None] * scales[1][group]).astype(np.longdouble)
        expected = (total.astype(np.float32) * factor + expected).astype(np.float32)
    for engine in ("golden", "portable"):
        assert np.array_equal(matmul(spec, a, b, None, *scales, engine=engine), expected)


def test_promotion_refuses_what_does_not_fit():
    """Promotion needs whole instructions, and scales cannot be applied twice."""
    base = load("hopper.wgmma.m64n8k32.f32.e4m3.e4m3")
    with pytest.raises(InputError, match="promotion to FP32 would lose"):
        promoted(load("ampere.mma.m8n8k4.f64.f64.f64.f64"), 128)
    with pytest.raises(InputError, match="a multiple of 32"):
        promoted(base, 100)
    fp32 = base.accumulator
    scale = Scaling(a=ScaleOperand(group=(1, 128), format=fp32))
    with pytest.raises(InputError, match="scale them twice"):
        promoted(promoted(base, 128, scale), 128)


def test_a_changed_copy_computes_what_follows_from_its_fields_anew():
    """What was computed from the original's fields does not stay with a copy that has others."""
    spec = load("hopper.wgmma.m64n8k32.f32.e4m3.e4m3")
    assert spec.span == 32
    stages = {name: stage.model_copy(update={"terms": 16}) for name, stage in spec.stages.items()}
    assert spec.model_copy(update={"stages": stages}).span == 16
    wide = named("e4m3").model_copy(update={"name": "wide", "mantissa_bits": 5})
    assert (named("e4m3").bits, wide.bits) == (8, 10)
