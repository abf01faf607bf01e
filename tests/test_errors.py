"""Errors of outcomes on numbers worked by hand."""

import numpy as np
import pytest

from codesign.evidence.numerics.errors import errors_of, estimates
from codesign.evidence.numerics.operands import Operand
from codesign.evidence.numerics.trial import Outcome
from codesign.figures.estimates import LOSSLESS
from isa_model.formats import FORMATS


def operand(lines, lost=0.0, nonzero=4.0):
    ones = np.ones((1, lines))
    codes = np.zeros((1, lines, 4), np.uint8)
    return Operand(codes, None, codes.astype("f8"), None, ones, nonzero * ones, lost * ones, 0 * ones)


def outcome(d, exact, original, output="fp32", **more):
    d, exact, original = (np.array([x], "f8") for x in (d, exact, original))
    weights = {"rows": np.ones(d.shape[:2]), "columns": np.ones((1, d.shape[2])), "power": np.ones(1)}
    sides = (operand(d.shape[1], lost=1.0), operand(d.shape[2], lost=2.0))
    return Outcome(d, exact, original, FORMATS[output], operands=sides, **{**weights, **more})


def values(of):
    return {name.removeprefix("numerics."): e.total for name, e in estimates(errors_of(of)).items()}


def test_metrics_on_numbers_worked_by_hand():
    """Every metric on a row of four outputs whose errors are known."""
    exact, d = [[1.0, -2.0, 4.0, 8.0]], [[1.0, -1.75, 4.0, 8.0]]
    m = values(outcome(d, exact, [[1.0, -2.0, 4.0, 9.0]]))
    assert m["relative_frobenius"] == m["output_error"] == pytest.approx(0.25 / np.sqrt(85))
    assert m["bias"] == pytest.approx(-0.25 / 15)
    assert m["share_over_1_bf16_ulp"] == m["changed_share"] == 0.25
    assert m["quantisation_error"] == pytest.approx(1 / np.sqrt(102))
    assert m["total_error"] == m["median_row_error"] == pytest.approx(np.sqrt(1.0625 / 102))
    assert m["sqnr_db"] == pytest.approx(-20 * np.log10(np.sqrt(1.0625 / 102)))
    assert m["p95_error"] == pytest.approx(0.25 / np.sqrt(85 / 4))
    assert (m["underflow_share"], m["overflow_share"]) == (0.5, 0.0)  # of B, the worse


def test_d_is_judged_as_it_leaves_the_gemm():
    """An error that vanishes in the rounding to BF16 is an accumulation error and none of the output; half of an output
    that falls on the other side of a tie changes it."""
    exact, d = [[1.0, 1.0 + 2**-8 - 2**-20]], [[1.0 + 2**-12, 1.0 + 2**-8 + 2**-20]]
    m = values(outcome(d, exact, exact, "bf16"))
    assert m["changed_share"] == 0.5
    assert m["relative_frobenius"] == pytest.approx(2**-12 / np.sqrt(2), rel=0.01)
    assert m["output_error"] == m["total_error"] == pytest.approx(2**-8 / np.sqrt(2), rel=0.01)
    kept = values(outcome(d, exact, exact, "fp32"))
    assert kept["output_error"] == kept["relative_frobenius"]


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
def test_an_output_that_is_not_finite_is_an_infinite_error(bad):
    """One infinite or NaN output makes every error of D infinite, and is a share of the overflow."""
    m = values(outcome([[1.0, bad, 4.0, 8.0]], [[1.0, -2.0, 4.0, 8.0]], [[1.0, -2.0, 4.0, 8.0]]))
    for name in (
        "relative_frobenius",
        "output_error",
        "total_error",
        "median_row_error",
        "p95_error",
        "bias",
        "sqnr_db",
    ):
        assert not np.isfinite(m[name]), name
    assert m["overflow_share"] == 0.25
    assert m["quantisation_error"] == 0
    beyond = values(outcome([[1e39]], [[1.0]], [[1.0]], "bf16"))
    assert not np.isfinite(beyond["output_error"])


def test_a_weight_of_zeros_has_no_error():
    """A product that is zero and exact has no error, in figures 0, and 400 dB."""
    m = values(outcome([[0.0, 0.0]], [[0.0, 0.0]], [[0.0, 0.0]]))
    assert m["total_error"] == m["relative_frobenius"] == m["median_row_error"] == m["bias"] == 0
    assert m["sqnr_db"] == LOSSLESS


def test_weights_count_as_so_many_rows():
    """A row of weight 3 counts as three of it, in sums, shares and quantiles."""
    rng = np.random.default_rng(0)
    exact = rng.standard_normal((3, 6))
    d, original = exact + 0.01 * rng.standard_normal((3, 6)), exact + 0.1 * rng.standard_normal((3, 6))
    rows = [0, 1, 2, 2, 2]
    repeated = values(outcome(d[rows], exact[rows], original[rows], "bf16"))
    weighted = values(outcome(d, exact, original, "bf16", rows=np.array([[1.0, 1.0, 3.0]])))
    for name, value in repeated.items():
        assert weighted[name] == pytest.approx(value), name


def test_outputs_far_below_the_largest_number_do_not_overflow_however_few_they_are():
    """With room of a million, only elements that are cut count; near the largest number the outputs' share has an upper limit,
    and infinite outputs always count."""
    few = np.ones((16, 16))
    far, near = (
        estimates(errors_of(outcome(few, few, few, filled=filled)))["numerics.overflow_share"]
        for filled in (2.0**-30, 0.1)
    )
    assert far.plus is None
    assert near.plus is not None
    d = np.where(np.eye(16) > 0, np.inf, 1.0)
    assert estimates(errors_of(outcome(d, few, few, filled=2.0**-30)))["numerics.overflow_share"].total == 1 / 16
