"""Operands looked up in tables that come with them: the definition, the tables of groups, and what is refused."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from strategies import instructions
from test_engine import operands

from isa_model import gemm, golden, load, matmul
from isa_model.array_codec import code_dtype
from isa_model.instruction import Instruction
from isa_model.library import changed, raw

BASE = "hopper.wgmma.m64n8k32.f32.e4m3.e4m3"


def made(**codebook):
    """A wgmma of E4M3 whose B is looked up by 3 bits, in one table unless told."""
    return Instruction.model_validate(changed(raw(BASE), {"codebook": {"b": {"bits": 3, **codebook}}}))


@settings(max_examples=60)
@given(instructions(codebooks=True).filter(lambda s: s.codebook), st.integers(0, 1 << 30))
def test_a_table_says_what_its_indices_stand_for(spec, seed):
    """One element of D by the definition, which gets tables along K, is that of whole matrices, whose engine gets entries."""
    a, b, c, others = operands(spec, seed, "like", m=1, n=1, steps=1)
    if any(name.startswith(("scale", "seed")) for name in others):
        return
    along = {name: x.reshape(-1, x.shape[2]).tolist() for name, x in others.items()}
    d = golden.dot(spec, a[0].tolist(), b[:, 0].tolist(), int(c[0, 0]), **along)
    assert d == matmul(spec, a, b, c, **others).view(code_dtype(spec.accumulator))[0, 0]


def test_each_group_has_its_own_table():
    """Blocks of 16 of K by 4 columns: 2 by 2 tables for B (32, 8), each met by its own block alone."""
    spec, rng = made(group=[16, 4]), np.random.default_rng(0)
    a = rng.integers(0, 0x70, (2, 32), dtype=np.uint8)
    indices, tables = rng.integers(0, 8, (32, 8), dtype=np.uint8), rng.integers(0, 0x70, (2, 2, 8), dtype=np.uint8)
    entries = np.array([[tables[k // 16, n // 4, indices[k, n]] for n in range(8)] for k in range(32)], np.uint8)
    assert np.array_equal(matmul(spec, a, indices, tables_b=tables), matmul(load(BASE), a, entries))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, r"the instruction needs tables_b, \(1, 1, 8\)"),
        ({"tables_b": np.zeros((1, 1, 4), np.uint8)}, r"tables_b is \(1, 1, 4\); one table of b"),
        ({"tables_a": np.zeros((1, 1, 8), np.uint8), "tables_b": np.zeros((1, 1, 8), np.uint8)}, "a is not looked up"),
        ({"b": np.full((32, 8), 8, np.uint8), "tables_b": np.zeros((1, 1, 8), np.uint8)}, "integers below 8, indices"),
    ],
)
def test_tables_that_do_not_fit_are_named(arguments, message):
    """Tables that are missing, of another shape or not taken, and indices beyond their table, are errors."""
    given_arguments = {"a": np.zeros((2, 32), np.uint8), "b": np.zeros((32, 8), np.uint8), **arguments}
    with pytest.raises(ValueError, match=message):
        matmul(made(), **given_arguments)


def test_what_a_codebook_cannot_be():
    """Indices as wide as their entries, tables of a sparse operand, and a codebook of nothing are refused with a remedy."""
    for change, message in (
        ({"codebook": {"b": {"bits": 8}}}, "indices of 8 bits save nothing"),
        ({"codebook": {}}, "`codebook` needs `a`, `b` or both"),
        (
            {"codebook": {"b": {"bits": 3}}, "sparsity": {"kept": 2, "of": 4}, "shape": {"k": 64}},
            "a sparse instruction looks no elements up",
        ),
    ):
        with pytest.raises(ValidationError, match=message):
            Instruction.model_validate(changed(raw(BASE), change))
    with pytest.raises(ValueError, match="gemm takes no codebook"):
        gemm(made(), np.zeros((2, 32), np.uint8), np.zeros((32, 8), np.uint8))
