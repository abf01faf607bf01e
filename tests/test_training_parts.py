"""Which runs a process of `benchmarks/training.py` makes."""

import argparse

import pytest

from benchmarks.training import part_of


def test_a_part_is_a_number_below_the_number_of_parts():
    """Anything else is told before a run is made."""
    assert part_of("0/1") == (0, 1)
    assert part_of("3/4") == (3, 4)
    for text in ("", "a", "1", "1/0", "4/4", "-1/4", "1/-2", "1/2/3", "x/y"):
        with pytest.raises(argparse.ArgumentTypeError, match="is not I/N"):
            part_of(text)
