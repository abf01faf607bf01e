"""Several levels of scales: the product that an instruction applies, the cast that makes them, and what is refused."""

import numpy as np
import pytest

from isa_model import Instruction, gemm, matmul
from isa_model.array_codec import decode_array
from isa_model.cast import Cast, quantise
from isa_model.formats import Format, named
from isa_model.vectors import vector_files
from isa_model.vectors.coverage import measure
from isa_model.vectors.make import make

STEP = {"name": "step", "kind": "table", "values": [1, 2]}
TENSOR = {"group": None, "format": "fp32"}
NVFP4 = {"group": [1, 16], "format": "ue4m3", "coarser": [TENSOR]}
HIF4 = {
    "group": [1, 4],
    "format": STEP,
    "coarser": [{"group": [1, 8], "format": STEP}, {"group": [1, 64], "format": "ue6m2f"}],
}
FP32 = {"format": "fp32", "rounding": "nearest-even"}
EXACT = {"sum": {"terms": 4}, "add": {"terms": 16, "accumulator": True, "result": FP32}}


def instruction(a, stages=None, **fields):
    body = {"a": "e2m1", "b": "e4m3", "accumulator": "fp32", "shape": {"m": 1, "n": 1, "k": 64}, **fields}
    return Instruction.model_validate(body | {"scale": {"a": a, "onto": "sum"}, "stages": stages or EXACT})


def test_the_scale_of_an_element_is_the_product_of_its_levels():
    """HiF4's three levels: D is the exact sum of elements times micro-exponents times the scale of 64, rounded once."""
    spec, rng = instruction(HIF4), np.random.default_rng(2)
    a, b = rng.integers(0, 16, (3, 64)).astype("u1"), rng.integers(0, 0x70, (64, 5)).astype("u1")
    scales = [rng.integers(0, 2, (3, 16)).astype("u1"), rng.integers(0, 2, (3, 8)).astype("u1")]
    scales.append(rng.integers(1, 250, (3, 1)).astype("u1"))
    levels = [
        np.repeat(decode_array(level.format, own), level.along(1), axis=1)
        for level, own in zip(spec.scale.a.levels, scales, strict=True)
    ]
    values = decode_array(spec.a, a) * levels[0] * levels[1] * levels[2]
    expected = (values.astype(np.longdouble) @ decode_array(spec.b, b)).astype(np.float32)
    for engine in ("golden", "portable"):
        assert np.array_equal(matmul(spec, a, b, None, scales, engine=engine), expected), engine


def test_a_scale_of_the_whole_operand_is_one_number():
    """NVFP4's FP32 scale multiplies every block's; gemm fills up K."""
    spec = instruction(NVFP4, {"sum": {"terms": 16}, "add": {"terms": 4, "accumulator": True, "result": FP32}})
    a, b = np.full((2, 80), 0x2, "u1"), np.full((80, 1), 0x38, "u1")  # ones
    blocks = np.array([[0x38, 0x40, 0, 0, 0x38, 0, 0, 0]] * 2, "u1")  # 1, 2, 0, 0, 1
    for engine in ("golden", "portable"):
        d = gemm(spec, a, b, [blocks, np.array([[0.75]], np.float32)], engine=engine)
        assert d.tolist() == [[16 * 0.75 * (1 + 2 + 1)]] * 2


def test_the_cast_divides_by_one_level_after_the_other():
    """NVFP4: the tensor's largest magnitude becomes 6 times 448; a block's scale is its largest over 6 in what is left."""
    x = np.random.default_rng(3).standard_normal((4, 64)).astype(np.float32)
    rule = {"to": named("e2m1"), "scale": named("ue4m3"), "group": (1, 16), "scale_rounding": "nearest-even"}
    done = quantise(Cast(**rule, coarser=[TENSOR]), x)
    blocks, (tensor,) = done.scales[0], done.scales[1].view(np.float32).ravel()
    assert tensor == np.float32(np.abs(x).max() / (6.0 * 448))
    alone = quantise(Cast(**rule), (x / tensor).astype(np.float32))
    assert np.array_equal(alone.codes, done.codes)
    assert np.array_equal(alone.scales, blocks)
    assert np.array_equal(done.values(), alone.values() * tensor)
    assert done.scales[0].max() == 0x7E  # the block of the largest element has the largest scale
    spec = instruction(NVFP4, {"sum": {"terms": 16}, "add": {"terms": 4, "accumulator": True, "result": FP32}})
    ones = np.full((64, 1), 0x38, "u1")
    exact = done.values().sum(axis=1)
    assert np.allclose(matmul(spec, done.codes, ones, None, done.scales)[:, 0], exact, rtol=1e-6)


def test_micro_exponents_follow_the_largest_of_their_group():
    """HiF4's cast: scales of 64 reach 7 = 1.75 * 2 * 2; a group of 8 or 4 whose largest needs it has its factor of 2."""
    s1p2 = Format(name="s1p2", exponent_bits=1, mantissa_bits=2, bias=1, overflow="saturate")
    step = Format(**STEP)
    levels = [{"group": (1, 8), "format": step}, {"group": (1, 64), "format": "ue6m2f"}]
    x = np.full((1, 64), 1.0, np.float32)
    x[0, 3], x[0, 12] = 7.0, 3.0
    done = quantise(Cast(to=s1p2, group=(1, 4), scale=step, coarser=levels), x)
    fours, eights, scale = done.scales
    assert decode_array(named("ue6m2f"), scale).tolist() == [[1.0]]
    assert eights[0].tolist() == [1, 0, 0, 0, 0, 0, 0, 0]
    assert fours[0].tolist() == [1, 0, 0, 1] + [0] * 12
    assert np.array_equal(done.values(), x)


@pytest.mark.parametrize(
    ("side", "message"),
    [
        ({**NVFP4, "coarser": [{"group": [1, 24], "format": "fp32"}]}, "not made of whole groups"),
        ({**NVFP4, "coarser": [{"group": [1, 16], "format": "fp32"}]}, "a larger multiple"),
        ({**NVFP4, "coarser": [TENSOR, TENSOR]}, "no group is coarser than the whole operand"),
        ({**NVFP4, "coarser": [TENSOR] * 5}, "at most 3"),
    ],
)
def test_levels_that_do_not_nest_are_refused(side, message):
    """Each level's groups are whole groups of the level below, and the whole operand comes last."""
    with pytest.raises(ValueError) as error:  # noqa: PT011
        instruction(side, {"sum": {"terms": 16}, "add": {"terms": 4, "accumulator": True, "result": FP32}})
    fault = error.value.errors()[0]
    assert message in fault["msg"] + fault.get("ctx", {}).get("hint", "")


def test_scales_of_every_level_are_asked_for():
    """One array is not several levels; each level has its own shape; casts without groups are refused."""
    spec = instruction(NVFP4, {"sum": {"terms": 16}, "add": {"terms": 4, "accumulator": True, "result": FP32}})
    a, b, blocks = np.zeros((1, 64), "u1"), np.zeros((64, 1), "u1"), np.zeros((1, 4), "u1")
    with pytest.raises(ValueError, match="has 2 levels of scales"):
        matmul(spec, a, b, None, blocks)
    with pytest.raises(ValueError, match=r"scale_a\[1\] is \(1, 2\); one group of a \(1, 64\) make it \(1, 1\)"):
        matmul(spec, a, b, None, [blocks, np.ones((1, 2), np.float32)])
    with pytest.raises(ValueError, match="above those of groups"):
        Cast(group=None, coarser=[TENSOR])
    with pytest.raises(ValueError, match="level after level"):
        quantise(Cast(coarser=[TENSOR]), np.ones((1, 128)), np.ones((1, 1)))


def test_vectors_have_the_scales_of_every_level(tmp_path):
    """A field holds the codes of all levels, the finest first; files of either form give the vectors back."""
    spec = instruction(NVFP4, {"sum": {"terms": 16}, "add": {"terms": 4, "accumulator": True, "result": FP32}})
    made = make(spec, 20)
    assert (made.fields["scale_a"].codes, made.fields["scale_a"].bits) == (5, 32)
    v = made.vectors[3]
    row, column = (np.array(x, np.uint8) for x in (v.a, v.b))
    blocks, tensor = np.array([v.scale_a[:4]], np.uint8), np.array([v.scale_a[4:]], np.uint32).view(np.float32)
    d = matmul(spec, row[None], column[:, None], np.array([[v.c]], np.uint32), [blocks, tensor])
    assert d.view(np.uint32)[0, 0] == v.d
    vector_files.write(made, measure(made), tmp_path / "v")
    for _, read in vector_files.read(tmp_path / "v"):
        assert read.vectors[3]._replace(case="") == v._replace(case="")
