"""The interpreter of specs on dot products of their own: golden's codes for every spec, with and without a C compiler."""

import numpy as np
import pytest
import strategies
from hypothesis import given, settings
from hypothesis import strategies as st

from isa_model import golden
from isa_model.engines import lines
from isa_model.instruction import Instruction
from isa_model.library import load


def operands(spec, count, rng, kind):
    """Codes of `count` lines: A, B, C, and scales of one level, or None."""
    scale, k = spec.scale, spec.shape.k
    formats = ((spec.a, (count, k)), (spec.b, (count, k)), (spec.c_format, (count,)))
    sides = ((scale and scale.a, 1), (scale and scale.b, 0))
    return [
        *(strategies.codes(fmt, rng, shape, kind) for fmt, shape in formats),
        *(side and strategies.codes(side.format, rng, (count, -(-k // side.group[n])), "bits") for side, n in sides),
    ]


def by_definition(spec, a, b, c, scale_a, scale_b):
    scales = [[[]] * len(c) if x is None else x.tolist() for x in (scale_a, scale_b)]
    return [golden.dot(spec, *row) for row in zip(a.tolist(), b.tolist(), c.tolist(), *scales, strict=True)]


@settings(max_examples=60)
@given(st.data())
def test_lines_have_goldens_codes(data):
    """Any spec, FP64 and tables too, gives on every line what golden.py computes."""
    drawn = st.one_of(strategies.instructions(), strategies.integer_instructions())
    spec = data.draw(drawn.filter(lambda s: not s.is_stochastic and not any(x.coarser for x in s.scales)))
    if spec.shape.k > 200:
        return
    given_lines = operands(
        spec, 8, np.random.default_rng(data.draw(st.integers(0, 99))), data.draw(st.sampled_from(strategies.KINDS))
    )
    assert lines.dots(spec, *given_lines).tolist() == by_definition(spec, *given_lines)


def test_a_batch_stops_where_too_much_differs():
    """A batch computes lines up to where the weights of those that differ exceed the bound, and all within it."""
    spec = load("volta.mma.m8n8k4.f32.f16.f16.f32")
    given_lines = operands(spec, 30, np.random.default_rng(0), "like")
    expected = lines.dots(spec, *given_lines)
    expected[[3, 7, 9]] ^= 1
    batch = lines.Batch(*given_lines, expected=expected, weights=np.full(30, 0.5))
    assert [len(batch.dots(spec, bound)) for bound in (0.0, 0.5, 1.0, 1.5)] == [4, 8, 10, 30]


def test_lines_need_no_compiler(monkeypatch):
    """Without a C compiler the definition itself computes."""
    spec = load("volta.mma.m8n8k4.f32.f16.f16.f32")
    given_lines = operands(spec, 30, np.random.default_rng(0), "cancel")
    compiled = lines.dots(spec, *given_lines)
    monkeypatch.setattr(lines, "shipped", lambda name: None)
    assert (lines.dots(spec, *given_lines) == compiled).all()


def test_a_place_of_rounding_above_every_word_is_left_to_the_definition():
    """An exponent of zeros far above all values needs more words, and gives golden's codes."""
    data = load("volta.mma.m8n8k4.f32.f16.f16.f32").model_dump(mode="json")
    for exponent in (300, 9000):
        data["stages"]["fuse"] |= {"zero_exponent": exponent, "rounding": "up"}
        spec = Instruction.model_validate(data)
        given_lines = operands(spec, 20, np.random.default_rng(1), "zeros")
        assert lines.dots(spec, *given_lines).tolist() == by_definition(spec, *given_lines)


@pytest.mark.parametrize(
    ("below", "change"),
    [
        ({}, {"fraction_bits": 0, "zero_exponent": -12}),
        ({"first": {"terms": 2, "exponent": -999}}, {"zero_exponent": None}),
    ],
)
def test_inverted_terms_need_no_definition(below, change, monkeypatch):
    """Few fraction bits, and terms with an exponent far below, give golden's codes without golden."""
    data = load("rdna3.wmma.f16_16x16x16_f16").model_dump(mode="json", exclude_none=True)
    spec = Instruction.model_validate(data | {"stages": below | {"dot": data["stages"]["dot"] | change}})
    given_lines = operands(spec, 40, np.random.default_rng(1), "like")
    given_lines[2][::2] = 0
    expected = by_definition(spec, *given_lines)
    if lines.shipped("lines.c") is not None:
        monkeypatch.setattr(golden, "dot", None)
    assert lines.dots(spec, *given_lines).tolist() == expected


@pytest.mark.parametrize("change", [{"sparsity": {"operand": "a", "kept": 2, "of": 4}}, "random bits"])
def test_what_lines_have_no_place_for_is_refused(change):
    """Sparse operands and random bits belong to matrices."""
    data = load("volta.mma.m8n8k4.f32.f16.f16.f32").model_dump(mode="json", exclude_none=True)
    if change == "random bits":
        data["stages"]["fuse"]["result"][0] |= {"rounding": "stochastic", "random_bits": 4}
    else:
        data |= change | {"shape": {"m": 8, "n": 8, "k": 8}}
    spec = Instruction.model_validate(data)
    with pytest.raises(ValueError, match="places of a matrix"):
        lines.dots(spec, *operands(spec.dense, 2, np.random.default_rng(0), "bits"))


def test_arrays_of_any_layout_and_width_have_the_same_answers():
    """Columns first, strided, 64 bits wide, and no lines at all."""
    spec = load("hopper.wgmma.m64n256k32.f32.e4m3.e4m3")
    a, b, c, *_ = operands(spec, 5, np.random.default_rng(0), "bits")
    expected = lines.dots(spec, a, b, c)
    for x in (np.asfortranarray(a), np.repeat(a, 2, axis=1)[:, ::2], a.astype(np.int64), a.astype(">u2")):
        assert (lines.dots(spec, x, b, c) == expected).all()
    assert lines.dots(spec, a[:0], b[:0], c[:0]).shape == (0,)


@pytest.mark.parametrize("change", ["k", "lines of a", "lines of b", "two axes of c", "float", "scales"])
def test_arrays_that_do_not_fit_are_refused_before_memory_is_read(change):
    """The compiled interpreter has no lengths but those of the spec and of c."""
    spec = load("hopper.wgmma.m64n256k32.f32.e4m3.e4m3")
    a, b, c, *_ = operands(spec, 5, np.random.default_rng(0), "bits")
    arrays = {
        "k": (a[:, :8], b[:, :8], c),
        "lines of a": (a[:2], b, c),
        "lines of b": (a, b[:2], c),
        "two axes of c": (a, b, c[:, None]),
        "float": (a.astype(float), b, c),
        "scales": (a, b, c, a),
    }[change]
    with pytest.raises(ValueError, match="expected whole numbers"):
        lines.dots(spec, *arrays)


def test_batches_of_odd_shapes_are_empty_or_refused():
    """No products or no rows are an empty D; no K, other shapes and floats are errors."""
    from isa_model.engines.batch import batch

    spec, rng = load("hopper.wgmma.m64n256k32.f32.e4m3.e4m3"), np.random.default_rng(0)
    a, b = (strategies.codes(spec.a, rng, shape, "bits") for shape in ((3, 5, 64), (3, 64, 7)))
    assert (batch(spec, np.asfortranarray(a), b.astype(np.int64)) == batch(spec, a, b)).all()
    assert batch(spec, a[:0], b[:0]).shape == (0, 5, 7)
    assert batch(spec, a[:, :0], b).shape == (3, 0, 7)
    for x, y in ((a[:, :, :0], b[:, :0]), (a[:2], b), (a[:, :, :32], b), (a[0], b[0]), (a.astype(float), b)):
        with pytest.raises(ValueError, match="expected codes"):
            batch(spec, x, y)
