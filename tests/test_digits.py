"""Figures have the same digits on every Python that is supported."""

import builtins
from functools import reduce
from pathlib import Path

import pytest

from codesign.evidence.source import Subject
from codesign.evidence.timing import source as timing
from codesign.evidence.traffic import source as traffic
from codesign.evidence.training import source as training
from codesign.proposal.load import load_proposal

PROPOSALS = Path(__file__).parent.parent / "proposals"


def plain(values, start=0):
    """`sum` as Python 3.11 has it: every addition of floats is rounded."""
    return reduce(lambda a, b: a + b, values, start)


def compensated(values, start=0):
    """`sum` as Python 3.12 has it: of floats, the rounding errors are carried along (Neumaier)."""
    values = list(values)
    if not all(isinstance(v, int | float) for v in values) or not any(isinstance(v, float) for v in values):
        return plain(values, start)
    total, error = float(start), 0.0
    for value in map(float, values):
        next_ = total + value
        error += (total - next_) + value if abs(total) >= abs(value) else (value - next_) + total
        total = next_
    return total + error


@pytest.mark.parametrize("name", ["group-scaled-mma", "fused-tma-cast", "higher-precision-accumulation"])
def test_figures_of_records_do_not_depend_on_how_python_sums(name, monkeypatch):
    """Bytes, times and loss gaps are the same with the rounded sum of Python 3.11 and the compensated one of 3.12."""
    found = []
    for way in (plain, compensated):
        monkeypatch.setattr(builtins, "sum", way)
        proposal = load_proposal(PROPOSALS / f"{name}.yaml")
        found.append([kind.SOURCE.gather(Subject(proposal)) for kind in (traffic, timing, training)])
        monkeypatch.undo()
    assert found[0] == found[1]
