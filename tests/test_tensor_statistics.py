"""Statistics of tensors with known values, and the tables of docs/tensors.md."""

import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codesign.workloads.tensors import CAPTURED, SOURCES
from codesign.workloads.weight_grid import grid_values, on_four_bit_grid
from isa_model.cast import Cast, quantise
from isa_model.formats import FORMATS
from isa_model.rounding import Rounding

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "tensors.md"
sys.path.insert(0, str(ROOT / "pages"))

from tensor_tables import captured_table, statistics  # noqa: E402


def test_statistics_of_known_distributions():
    """Statistics equal those of known distributions.

    Normal: kurtosis 3, 1 % of channels have little more than 1 % of the energy. Uniform on [-1, 1]: kurtosis 1.8, peak sqrt
    3. Signs: kurtosis 1, peak 1, exactly 1 %.
    """
    rng = np.random.default_rng(0)
    normal = statistics(rng.standard_normal((1000, 1000)))
    assert normal.kurtosis == pytest.approx(3, abs=0.03)
    assert 4.5 < normal.peak < 6.5
    assert 0.01 < normal.top_channels < 0.013
    assert 0.01 < normal.top_tokens < 0.013
    uniform = statistics(rng.uniform(-1, 1, (1000, 1000)))
    assert uniform.kurtosis == pytest.approx(1.8, abs=0.01)
    assert uniform.peak == pytest.approx(3**0.5, rel=0.01)
    signs = statistics(np.where(rng.random((200, 300)) < 0.5, -1.0, 1.0))
    assert signs.kurtosis == pytest.approx(1, abs=1e-3)
    assert (signs.peak, signs.top_channels, signs.top_tokens, signs.zeros) == (1, 0.01, 0.01, 0)


def test_statistics_by_hand():
    """Statistics of [[3, 0], [0, 0], [0, 4]] equal those by hand: energy 9 and 16 of 25 by column, peak 4 / sqrt(25 / 6)."""
    found = statistics(np.array([[3.0, 0.0], [0.0, 0.0], [0.0, 4.0]]))
    assert found.shape == (3, 2)
    assert found.peak == pytest.approx(4 / (25 / 6) ** 0.5)
    assert found.top_channels == pytest.approx(16 / 25)
    assert found.top_tokens == pytest.approx(16 / 25)
    assert found.zeros == pytest.approx(4 / 6)
    deviations = np.array([3, 0, 0, 0, 0, 4]) - 7 / 6
    assert found.kurtosis == pytest.approx((deviations**4).mean() / (deviations**2).mean() ** 2)


@given(st.integers(-120, 120), st.integers(0, 5))
def test_statistics_do_not_depend_on_the_unit(exponent, seed):
    """Scaling by a power of two from 2^-120 to 2^120 changes no statistic."""
    x = np.random.default_rng(seed).standard_normal((20, 30))
    assert statistics(x * 2.0**exponent) == statistics(x)


def test_one_channel_of_a_hundred_is_seen_and_turned_with_the_tensor():
    """One of 100 channels, 20 times larger, has 400 of 499 parts of the energy; in the transpose it is a token."""
    x = np.ones((50, 100))
    x[:, 7] = 20.0
    found, turned = statistics(x), statistics(x.T)
    assert found.top_channels == pytest.approx(400 / 499)
    assert (turned.top_tokens, turned.top_channels) == (found.top_channels, found.top_tokens)
    assert turned.kurtosis == pytest.approx(found.kurtosis)


@pytest.mark.parametrize("x", [np.ones((3, 3)), np.zeros((0, 4)), np.ones(5), np.array([[1.0, np.inf]])])
def test_what_has_no_statistics_is_refused(x):
    """Constant, empty, one-dimensional and infinite arrays are refused."""
    with pytest.raises(ValueError, match="a finite matrix that is not constant"):
        statistics(x)


@given(st.integers(2, 32), st.integers(0, 3))
def test_values_of_a_block_are_counted(levels, seed):
    """The number of distinct values is the largest of any block."""
    rng = np.random.default_rng(seed)
    weight = np.zeros((6, 100))
    weight[3, 32:64] = rng.permutation(np.resize(rng.standard_normal(levels), 32))
    assert grid_values(weight) == levels
    with pytest.raises(ValueError, match="no whole block of 32"):
        grid_values(weight[:, :31])


def test_a_grid_of_sixteen_values_is_told_from_one_of_seventeen():
    """Blocks of 16 values with scales and offsets of their own, as in Q4_1, are a 4-bit grid.

    One block of 17 values, few blocks, zeros and BF16 numbers are not.
    """
    rng = np.random.default_rng(0)
    grid = rng.integers(0, 16, (256, 4, 32)) * rng.random((256, 4, 1)) + rng.standard_normal((256, 4, 1))
    weight = grid.reshape(256, 128).astype(np.float32)
    assert on_four_bit_grid(weight)
    assert not on_four_bit_grid(weight[:8])
    assert not on_four_bit_grid(np.zeros((256, 128)))
    assert not on_four_bit_grid(rng.standard_normal((256, 128)))
    assert not on_four_bit_grid(rng.integers(0, 4, (256, 16)).astype(float))
    weight[255, 96:128] = np.minimum(np.arange(32), 16)
    assert not on_four_bit_grid(weight)


def test_the_error_of_a_4_bit_format_on_a_4_bit_grid_is_not_that_of_the_weights():
    """NVFP4's error on normal weights is 0.095.

    On weights stored in Q4_1 it is 0.095 to the stored ones, and 0.123 to the original.
    """
    weight = np.random.default_rng(0).standard_normal((128, 2048))
    blocks = weight.reshape(128, -1, 32)
    low = blocks.min(axis=-1, keepdims=True)
    step = (blocks.max(axis=-1, keepdims=True) - low) / 15
    stored = (np.round((blocks - low) / step) * step + low).reshape(weight.shape)
    assert on_four_bit_grid(stored)

    def error(values, truth):
        cast = Cast(to=FORMATS["e2m1"], group=(1, 16), scale=FORMATS["ue4m3"], scale_rounding=Rounding.NEAREST_EVEN)
        tensor_scale = np.abs(values).max() / (6 * 448)
        rounded = quantise(cast, (values / tensor_scale).astype("f4")).values() * tensor_scale
        return np.linalg.norm(rounded - truth) / np.linalg.norm(truth)

    assert error(weight, weight) == pytest.approx(0.095, abs=0.001)
    assert error(stored, stored) == pytest.approx(0.095, abs=0.001)
    assert error(stored, weight) == pytest.approx(0.123, abs=0.001)


def test_the_pages_tables_are_those_of_the_tensors():
    """docs/tensors.md has every captured figure and every synthetic source that the command writes."""
    page = PAGE.read_text()
    assert f"<!-- captured: begin -->\n{captured_table()}\n<!-- captured: end -->" in page
    rows = page.split("<!-- synthetic: begin -->")[1].split("<!-- synthetic: end -->")[0].strip().splitlines()[2:]
    drawn = [f"{name}, {role}" for name in SOURCES if name != CAPTURED for role in ("activation", "gradient", "weight")]
    assert [row.split(" | ")[0].strip("| ") for row in rows] == drawn
