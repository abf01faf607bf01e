"""The random search of checks/search.py: what a round compares, and that it sees a wrong bit."""

import sys
from pathlib import Path

import pytest

from isa_model.engines import portable

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "checks"))

import search


def found(number=6, count=12):
    """A round that compiles nothing."""
    return search.searched(search.Task(number, seed=3, count=count, every=1 << 30, gpu=False))


def test_a_round_compares_engines_and_finds_nothing():
    """Every example goes through the golden model and at least one engine, without a difference."""
    row = found()
    assert row["examples"] == {"floating-point, mixed and tables": 12}
    assert row["differences"] == []
    assert row["compared"]["portable"] + row["left"].get("portable", 0) == 12
    assert row["compared"]["lines"] > 0


def test_a_wrong_bit_of_an_engine_is_found(monkeypatch):
    """An engine whose codes differ in one bit is named, with the instruction and its operands."""
    right = portable.matmul
    monkeypatch.setattr(portable, "matmul", lambda *x, **others: right(*x, **others) ^ 1)
    rows = [row for row in found()["differences"] if row["engine"] == "portable"]
    assert len(rows) > 6
    assert {"spec", "kind", "seed", "steps", "where", "code", "golden"} <= set(rows[0])


def test_a_wrong_bit_of_the_c_model_is_found(monkeypatch):
    """A difference of the C model has every instruction of that model, the operands' kind and seed, and both codes."""
    monkeypatch.setattr(search, "compiled", lambda *specs: lambda which, a, *others: [1 << 40] * len(a))
    rows = [row for row in found(0)["differences"] if row["engine"] == "C model"]
    assert len(rows) == 1
    assert {"specs", "kind", "seed"} < set(rows[0])
    assert len(rows[0]["specs"]) == 12
    assert search.Instruction.model_validate_json(rows[0]["specs"][0]).name == "random"
    assert "C 0x10000000000, Python 0x" in rows[0]["error"]


@pytest.mark.parametrize("number", [2, 5])
def test_rounds_of_integers_and_of_sparse_instructions_take_their_turn(number):
    """Rounds draw each kind of instruction in turn."""
    assert list(found(number, 2)["examples"]) == [list(search.KINDS)[search.ORDER[number]]]


@pytest.mark.parametrize("k", [8, 16])
@pytest.mark.parametrize(
    "picked",
    [{"sparsity": {"operand": x, "kept": 2, "of": 4}} for x in "ab"] + [{"codebook": {"b": {"bits": 3}}}],
    ids=["sparse a", "sparse b", "indices"],
)
def test_the_gpu_gets_positions_and_tables_as_matmul_takes_them(picked, k, monkeypatch):
    """What engines get in a layout of their own, `matmul` with `engine="gpu"` gets in its layout; here, golden computes it."""
    right = search.matmul
    monkeypatch.setattr(search, "matmul", lambda *x, engine, **others: right(*x, engine="golden", **others))
    stage = {"terms": 4, "accumulator": True, "result": {"format": "fp32", "rounding": "nearest-even"}}
    spec = {
        "a": "e4m3",
        "b": "e4m3",
        "accumulator": "fp32",
        "shape": {"m": 4, "n": 4, "k": k},
        "stages": {"sum": stage},
    }
    found = search.Search(search.Task(1, seed=0, count=1, every=1, gpu=True))
    found.example(1, search.Instruction.model_validate(spec | picked), "like", 5, 1)
    assert found.differences == []
    assert found.compared["CUDA"] == 1
