"""The spec language: what it can say, and what it refuses."""

import numpy as np
import pytest
from hypothesis import given
from strategies import codes, instructions

from isa_model import InputError, catalogue, load, matmul, promoted
from isa_model.diagnostics import parse_yaml
from isa_model.instruction import Instruction, ScaleOperand, Scaling
from isa_model.library import raw, validated

RNE, RTZ = (
    {"format": "fp32", "rounding": "nearest-even"},
    {"format": "fp32", "rounding": "toward-zero", "overflow": "infinity"},
)
FTZ = {**RNE, "subnormals": "flush"}
# FP32's smallest exponent, 31 mantissa bits, room at the top: the adder behind CDNA3's alignment
WIDE = {"name": "wide", "exponent_bits": 9, "mantissa_bits": 31, "bias": 127, "infinity": True, "nan": "ieee"}
CDNA3_JOIN = {
    "terms": 1,
    "accumulator": {"fraction_bits": 24},
    "fraction_bits": 32,
    "rounding": "down",
    "zero_exponent": -126,
    "zero": "ieee",
    "result": [{"format": WIDE, "rounding": "down"}, RNE],
}


def fused(terms, fraction_bits, zero_exponent, result):
    return {
        "terms": terms,
        "accumulator": True,
        "fraction_bits": fraction_bits,
        "rounding": "toward-zero",
        "zero_exponent": zero_exponent,
        "result": result,
    }


# Section by section what the architectures compute, in the language alone: (a, b, accumulator, k, stages, scale, extra).
ARCHITECTURES = {
    "volta fp16": ("fp16", "fp16", "fp32", 4, {"fuse": fused(4, 23, -131, RTZ)}, None, {}),
    "turing fp16": ("fp16", "fp16", "fp32", 8, {"fuse": fused(8, 24, -132, RTZ)}, None, {}),
    "ampere bf16, two chained blocks": (
        "bf16",
        "bf16",
        "fp32",
        16,
        {"fuse": fused(8, 24, -132, RTZ)},
        None,
        {},
    ),
    "ada fp8": (
        "e4m3",
        "e5m2",
        "fp32",
        32,
        {"fuse": fused(16, 13, -132, {"format": "e8m13", "rounding": "toward-zero"})},
        None,
        {},
    ),
    "blackwell f8f6f4": ("e3m2", "e2m1", "fp32", 32, {"fuse": fused(32, 25, -133, RTZ)}, None, {}),
    "blackwell mxf8f6f4": (
        "e4m3",
        "e5m2",
        "fp32",
        32,
        {"fuse": fused(32, 25, -133, RTZ)},
        {"a": {"group": [1, 32], "format": "ue8m0"}, "b": {"group": [32, 1], "format": "ue8m0"}},
        {},
    ),
    "blackwell mxf4nvf4": (
        "e2m1",
        "e2m1",
        "fp32",
        64,
        {"dot": {"terms": 16, "exponent": 0}, "fuse": fused(4, 35, -139, RTZ)},
        {
            "a": {"group": [1, 16], "format": "ue4m3"},
            "b": {"group": [16, 1], "format": "ue4m3"},
            "onto": "dot",
        },
        {},
    ),
    "cdna1 bf16": (
        "bf16",
        "bf16",
        "fp32",
        4,
        {"sum": {"terms": 2, "accumulator": True, "result": RNE, "zero": "ieee"}},
        None,
        {},
    ),
    "cdna2 fp16, a tree of roundings": (
        "fp16",
        "fp16",
        "fp32",
        16,
        {
            "round": {"terms": 1, "result": FTZ},
            "pair": {"terms": 2, "result": FTZ},
            "four": {"terms": 2, "result": FTZ},
            "add": {"terms": 1, "accumulator": True, "result": FTZ},
        },
        None,
        {"flush_inputs": True},
    ),
    "cdna2 bf16, pairs": (
        "bf16",
        "bf16",
        "fp32",
        4,
        {
            "round": {"terms": 1, "result": FTZ},
            "pair": {"terms": 2, "result": FTZ},
            "add": {"terms": 1, "accumulator": True, "result": FTZ},
        },
        None,
        {"flush_inputs": True},
    ),
    "cdna3 fp16": (
        "fp16",
        "fp16",
        "fp32",
        16,
        {
            "fuse": {"terms": 8, "fraction_bits": 24, "rounding": "toward-zero", "zero_exponent": -999},
            "add": CDNA3_JOIN,
        },
        None,
        {"infinite_from": 128},
    ),
    "cdna3 fp8, even and odd k apart": (
        "e4m3fnuz",
        "e5m2fnuz",
        "fp32",
        32,
        {
            "fuse": {
                "terms": 8,
                "interleave": {"run": 1, "parts": 2},
                "fraction_bits": 24,
                "rounding": "toward-zero",
            },
            "join": {"terms": 2, "fraction_bits": 24, "rounding": "down"},
            "add": {**CDNA3_JOIN, "accumulator": {"fraction_bits": 24, "drop_beyond": 25}},
        },
        None,
        {},
    ),
    "a mixture nobody built": (
        "e5m6",
        "e4m3",
        "fp32",
        64,
        {
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
        {"a": {"group": [1, 32], "format": "ue8m0"}, "onto": "tree"},
        {},
    ),
}


def build(name):
    a, b, accumulator, k, stages, scale, extra = ARCHITECTURES[name]
    spec = {
        "name": name,
        "a": a,
        "b": b,
        "accumulator": accumulator,
        "shape": {"m": 4, "n": 4, "k": k},
        "stages": stages,
        **extra,
    }
    return Instruction.model_validate({**spec, "scale": scale} if scale else spec)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture_can_be_said_and_runs_on_both_engines(name):
    """The language says each architecture's rules without code of its own, and the engines agree on it."""
    spec = build(name)
    rng = np.random.default_rng(9)
    k = 2 * spec.shape.k
    for kind in ("bits", "like", "cancel", "ends"):
        a, b = codes(spec.a, rng, (3, k), kind), np.ascontiguousarray(codes(spec.b, rng, (4, k), kind).T)
        c = codes(spec.accumulator, rng, (3, 4), kind)
        scales = {}
        for key, side, shape in (
            ("scale_a", spec.scale and spec.scale.a, (3, k)),
            ("scale_b", spec.scale and spec.scale.b, (k, 4)),
        ):
            if side:
                scales[key] = codes(
                    side.format, rng, tuple(-(-s // g) for s, g in zip(shape, side.group, strict=True)), kind
                )
        cpu, reference = (matmul(spec, a, b, c, engine=e, **scales).view(np.uint32) for e in ("cpu", "golden"))
        assert np.array_equal(cpu, reference)


def test_cdna1_rounds_the_exact_sum_once():
    """1 + 2**-24 + 2**-24 in one exact sum rounds to 1 + 2**-23; two FP32 additions in a row would lose both."""
    spec = build("cdna1 bf16")
    a, b = np.zeros((1, 4), np.uint16), np.zeros((4, 1), np.uint16)
    a[0, :2], b[:2, 0] = 0x3980, 0x3980  # 2**-12 * 2**-12
    c = np.array([[1.0]], np.float32)
    assert matmul(spec, a, b, c)[0, 0] == np.float32(1 + 2**-23)


def test_mx_scales_move_the_exponents_before_alignment():
    """In mxf8f6f4 a group scaled by 2**30 pushes a product of 1 out of a window it would else share."""
    spec = build("blackwell mxf8f6f4")
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
    spec = build("blackwell mxf4nvf4")
    rng = np.random.default_rng(2)
    a, b = rng.integers(0, 16, (2, 64), dtype=np.uint8), rng.integers(0, 16, (64, 2), dtype=np.uint8)
    sa, sb = rng.integers(0, 0x7F, (2, 4), dtype=np.uint8), rng.integers(0, 0x7F, (4, 2), dtype=np.uint8)
    assert np.array_equal(matmul(spec, a, b, scale_a=sa, scale_b=sb), matmul(spec, a, b, scale_a=sa | 0x80, scale_b=sb))


def test_a_dropped_accumulator_is_gone():
    """With drop_beyond 25, C at 2**-26 of the products does not even turn the rounding down."""
    spec = build("cdna3 fp8, even and odd k apart")
    a, b = np.zeros((1, 32), np.uint8), np.zeros((32, 1), np.uint8)
    a[0, 0], b[0, 0] = 0x40, 0x40  # 1.0 in both fnuz formats
    for exponent, expected in ((-26, 1.0), (-24, 1.0 - 2.0**-24)):
        assert matmul(spec, a, b, np.array([[-(2.0**exponent)]], np.float32))[0, 0] == np.float32(expected)


def test_the_catalogue_holds_every_hopper_instruction():
    """32 widths of 12 kinds of wgmma and 24 of mma.sync, each of which loads under its name."""
    names = catalogue()
    assert len(names) == len(set(names)) == 32 * 12 + 24
    for name in names:
        assert load(name).name == name
    assert load("hopper.wgmma.m64n24k16.f32.bf16.bf16").shape.n == 24


def test_unknown_names_get_a_suggestion():
    """A misspelt instruction is refused with the nearest name."""
    with pytest.raises(InputError, match=r"did you mean `hopper\.wgmma\.m64n256k32\.f32\.e4m3\.e4m3`"):
        load("hopper.wgmma.m64n256k32.f32.e4m3.e4m4")


def test_an_instruction_loads_from_a_file(tmp_path):
    """A YAML file is an instruction as good as the catalogue's, and runs on both engines."""
    path = tmp_path / "mine.yaml"
    path.write_text(
        "shape: {m: 1, n: 1, k: 4}\na: e5m6\nb: e4m3\naccumulator: fp32\nstages:\n  sum: {terms: 4, accumulator: true,"
        " result: {format: fp32, rounding: nearest-even}}\n"
    )
    spec = load(path)
    assert spec.name == "mine"
    assert matmul(spec, np.full((1, 4), 0x3C0, np.uint16), np.full((4, 1), 0x38, np.uint8))[0, 0] == 4.0


GOOD = raw("hopper.wgmma.m64n8k32.f32.e4m3.e4m3")
FUSE = GOOD["stages"]["fuse"]


def without(mapping, key):
    return {k: v for k, v in mapping.items() if k != key}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"b": "int8"}, "mix floating point with integers"),
        ({"a": "ue8m0"}, "needs a zero: ue8m0 is for scales"),
        ({"accumulator": "int32"}, "cannot hold floating-point products"),
        ({"a": "int8", "b": "int8"}, "integer products accumulate in an integer"),
        ({"accumulator": "fp16", "nan": 0x7FFF}, "the register e8m13 does not fit the accumulator fp16"),
        ({"nan": 0x3F800000}, "0x3f800000 is not a NaN of fp32"),
        ({"shape": {"m": 64, "n": 8, "k": 40}}, "k = 40 is not a multiple of the 32 products"),
        (
            {"stages": {"fuse": without(FUSE, "rounding")}},
            "`fraction_bits` cuts terms off, so `rounding` must say how",
        ),
        ({"stages": {"fuse": without(FUSE, "fraction_bits")}}, "has no meaning in an exact sum"),
        ({"stages": {"fuse": {**FUSE, "rounding": "stochastic"}}}, "`stochastic` belongs to a cast"),
        ({"stages": {"fuse": without(FUSE, "result")}}, "needs a `result`: D has a format"),
        ({"stages": {"fuse": {**FUSE, "accumulator": False}}}, "does not add C"),
        ({"stages": {"fuse": {**FUSE, "chain": 2}}}, "the last stage runs on to the end of K"),
        (
            {"stages": {"first": FUSE, "second": {"terms": 1, "accumulator": True, "result": RNE}}},
            "must end somewhere",
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
        ({"scale": {}}, "needs the scales of `a`"),
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
    """A spec that contradicts itself is refused, and the message says what contradicts what."""
    import json

    document = parse_yaml(json.dumps({**GOOD, **change}), "spec.yaml")
    with pytest.raises(InputError) as error:
        validated(document)
    assert any(message in p.message for p in error.value.problems), str(error.value)


def test_specs_are_frozen_and_hide_no_field():
    """A spec cannot be changed in place, and a field it does not know is an error."""
    spec = load("hopper.wgmma.m64n8k32.f32.e4m3.e4m3")
    with pytest.raises(ValueError, match="frozen"):
        spec.name = "other"
    with pytest.raises(InputError, match="unknown field `fraction_bit`"):
        validated(parse_yaml("stages: {fuse: {terms: 1, fraction_bit: 3}}", "x.yaml"))


@given(instructions())
def test_a_spec_survives_being_written_and_read(spec):
    """Dumped to plain data and read again, an instruction is the same."""
    assert Instruction.model_validate(spec.model_dump(mode="json")) == spec


def test_promotion_refuses_what_does_not_fit():
    """Promotion needs whole instructions, and scales cannot be applied twice."""
    base = load("hopper.wgmma.m64n8k32.f32.e4m3.e4m3")
    with pytest.raises(InputError, match="a multiple of 32"):
        promoted(base, 100)
    fp32 = base.accumulator
    scale = Scaling(a=ScaleOperand(group=(1, 128), format=fp32))
    with pytest.raises(InputError, match="scale them twice"):
        promoted(promoted(base, 128, scale), 128)
