"""Structured sparsity: stored elements with positions, in the golden model and in every engine."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from strategies import KINDS, sparse_instructions
from test_engine import operands as engine_operands

from isa_model import gemm, load, matmul
from isa_model.array_codec import code_dtype, encode_array
from isa_model.diagnostics import InputError
from isa_model.instruction import Instruction
from isa_model.library import changed, raw
from isa_model.sparse import elements, pruned
from isa_model.vectors.make import make

DENSE = "hopper.wgmma.m64n8k32.f32.e4m3.e4m3"


def made(**change):
    """A dense wgmma of 32 products with sparsity, 2 of 4 in A unless told, over K = 64."""
    sparsity = {"operand": "a", "kept": 2, "of": 4} | change
    return Instruction.model_validate(changed(raw(DENSE), {"sparsity": sparsity, "shape": {"k": 64}}))


def operands(spec, seed, kind="like", m=2, n=2):
    """Random operands of a sparse instruction, by the names of matmul's arguments."""
    a, b, c, others = engine_operands(spec, seed, kind, m, n)
    return {"a": a, "b": b, "c": c, **others}


@given(sparse_instructions(), st.integers(0, 1 << 30), st.sampled_from(KINDS))
def test_engines_give_golden_bits_of_random_sparse_instructions(spec, seed, kind):
    """On random sparse instructions of every kind, `auto` returns the golden model's codes."""
    x = operands(spec, seed, kind)
    auto, reference = (matmul(spec, **x, engine=e).view(code_dtype(spec.accumulator)) for e in ("auto", "golden"))
    assert np.array_equal(auto, reference)


@settings(max_examples=settings.default.max_examples // 3)
@given(sparse_instructions(), st.integers(0, 1 << 30))
def test_a_sparse_instruction_is_the_dense_one_on_gathered_operands(spec, seed):
    """One element of D is the dense instruction's on the stored elements and those picked by hand."""
    x = operands(spec, seed, m=1, n=1)
    places, sparsity = x.pop("positions").ravel().tolist(), spec.sparsity
    kept, of, run = sparsity.kept, sparsity.of, sparsity.run
    ks = [(i // kept * of + p) * run + j for i, p in enumerate(places) for j in range(run)]
    picked = {"b": x["b"][ks]} if sparsity.operand == "a" else {"a": x["a"][:, ks]}
    dense = matmul(spec.dense, **x | picked, engine="golden")
    positions = np.array([places], np.uint8)
    assert elements(sparsity, positions)[0].tolist() == ks
    d = matmul(spec, **x, positions=positions if sparsity.operand == "a" else positions.T)
    assert np.array_equal(d.view(code_dtype(spec.accumulator)), dense.view(code_dtype(spec.accumulator)))


def test_elements_left_out_do_not_matter():
    """A NaN of B that no position picks leaves D as it is: what is left out is no term, not a zero."""
    spec, x = made(), operands(made(), 1)
    x["positions"][:] = x["positions"][:1]
    unused = np.setdiff1d(np.arange(128), elements(spec.sparsity, x["positions"])[0])
    plain = matmul(spec, **x)
    x["b"][unused] = 0x7F
    assert np.array_equal(matmul(spec, **x), plain)


def test_pruning_keeps_the_largest_of_each_group():
    """`pruned` keeps the largest magnitudes in their order; of equal ones the first, of runs those with the largest sum."""
    line = np.array([[1.0, -3, 2, 0, 5, 5, 5, 5]])
    stored, positions = pruned(made().sparsity, line)
    assert stored.tolist() == [[-3, 2, 5, 5]]
    assert positions.tolist() == [[1, 2, 0, 1]]
    stored, positions = pruned(made(kept=1, of=2, run=2).sparsity, line)
    assert stored.tolist() == [[1, -3, 5, 5]]
    assert positions.tolist() == [[0, 0]]


def test_pruned_matrices_multiply_exactly():
    """A pruned matrix of small integers times B is the exact product of the pruned matrix with zeros where it was cut."""
    rng = np.random.default_rng(3)
    for operand in "ab":
        spec = made(operand=operand)
        lines, other = rng.integers(-3, 4, (5, 128)), rng.integers(-3, 4, (128, 6))
        stored, positions = pruned(spec.sparsity, lines.astype(float))
        whole = np.zeros((5, 128))
        np.put_along_axis(whole, elements(spec.sparsity, positions), stored, 1)
        kept, full = encode_array(spec.a, stored), encode_array(spec.a, other.astype(float))
        if operand == "a":
            got, want = matmul(spec, kept, full, positions=positions), whole @ other
        else:
            got, want = matmul(spec, full.T, kept.T, positions=positions.T), other.T @ whole.T
        assert np.array_equal(got, want)


@pytest.mark.parametrize(
    ("change", "where", "message"),
    [
        ({"sparsity": {"kept": 4, "of": 4}}, ("sparsity", "kept"), "4 of 4 leaves nothing out"),
        ({"sparsity": {"kept": 2, "of": 4}, "shape": {"k": 66}}, ("shape", "k"), "not a multiple of the 4 elements"),
        ({"sparsity": {"kept": 2, "of": 4}, "shape": {"k": 96}}, ("shape", "k"), "stores 48 products"),
        (
            {
                "sparsity": {"kept": 2, "of": 4},
                "shape": {"k": 64},
                "scale": {"a": {"group": [1, 32], "format": "fp32"}, "onto": "fuse"},
                "stages": {
                    "fuse": {"accumulator": False, "result": None},
                    "add": {"terms": 1, "accumulator": True, "result": {"format": "fp32", "rounding": "nearest-even"}},
                },
            },
            ("scale", "a", "group"),
            "each result of `fuse` sums over 64",
        ),
    ],
)
def test_contradictions_are_refused_where_they_are(change, where, message):
    """Groups that keep all, a k of partial groups or blocks, and scales finer than a sum of stored products are refused."""
    with pytest.raises(ValidationError) as refused:
        Instruction.model_validate(changed(raw(DENSE), change))
    fault = refused.value.errors()[0]
    assert (*fault["loc"], *fault["ctx"]["at"]) == where
    assert message in fault["msg"]


def test_wrong_positions_are_told():
    """Positions that are missing, misshapen, beyond their group or not ascending are refused, and so are needless ones."""
    spec = made()
    x = operands(spec, 1)
    good = x.pop("positions")
    for positions, message in (
        (None, "needs `positions`"),
        (good[:, 1:], "expected unsigned integers of shape"),
        (good.astype(float), "expected unsigned integers of shape"),
        (good + np.uint8(4), "a group has 4 places"),
        (np.full_like(good, 1), "must ascend"),
    ):
        with pytest.raises(ValueError, match=message):
            matmul(spec, **x, positions=positions)
    with pytest.raises(ValueError, match=r"K differs.*of a 2 of 4 along K"):
        matmul(spec, x["a"][:, :32], x["b"], positions=good)
    with pytest.raises(ValueError, match="the instruction is not sparse"):
        matmul(load(DENSE), np.zeros((1, 32), np.uint8), np.zeros((32, 1), np.uint8), positions=good)
    with pytest.raises(ValueError, match="gemm takes no sparse instruction"):
        gemm(spec, x["a"], x["b"])


def test_vectors_are_those_of_the_dot_product_unit():
    """Vectors of a sparse instruction have its stored products as inputs."""
    vectors = make(made(), 600)
    assert vectors.spec == made().dense
    assert {len(v.a) for v in vectors.vectors} == {32}


def test_hardware_is_refused():
    """The RTL generator refuses a sparse instruction, and says which unit it can build."""
    from codesign.evidence.cost.rtl.ports import check

    with pytest.raises(InputError, match="multiplexers"):
        check(made())
