"""Fuzzing: damaged files of every kind get an answer soon and in little memory. `python tests/fuzzing.py` tries 100,000."""

from __future__ import annotations

import pytest
from fuzzing import fuzz, kinds

COUNTS = {"proposals": 500, "instructions": 300, "recipes": 200}
"""Of YAML 1,000 together; of every other kind 150."""


@pytest.mark.parametrize("kind", list(kinds()))
def test_every_damaged_file_gets_an_answer(kind):
    """Exit code is 0, 1 or 2, within two seconds each and 500 MB in all, with a message under 100 kB."""
    codes, faults, _ = fuzz(kind, COUNTS.get(kind, 150))
    assert not faults, "\n".join(faults[:10])
    assert codes[2] > 0.2 * sum(codes.values())
