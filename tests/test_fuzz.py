"""Fuzzing: damaged files of every kind get an answer soon and in little memory. `python tests/fuzzing.py` tries 100,000."""

from __future__ import annotations

import pytest
from fuzzing import fuzz, kinds

COUNTS = {"proposals": 1000, "instructions": 600, "recipes": 400}
"""Of YAML 2,000 together; of every other kind 300."""


@pytest.mark.parametrize("kind", list(kinds()))
def test_every_damaged_file_gets_an_answer(kind):
    """Exit code is 0, 1 or 2, within two seconds each and 500 MB in all, with a message under 100 kB."""
    codes, faults, _ = fuzz(kind, COUNTS.get(kind, 300))
    assert not faults, "\n".join(faults[:10])
    assert codes[2] > 0.2 * sum(codes.values())
