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


@pytest.mark.parametrize("number", [2, 5])
def test_rounds_of_integers_and_of_sparse_instructions_take_their_turn(number):
    """Rounds draw each kind of instruction in turn."""
    assert list(found(number, 2)["examples"]) == [list(search.KINDS)[search.ORDER[number]]]
