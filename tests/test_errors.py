"""Errors of outcomes and their metrics, on numbers worked by hand."""

from dataclasses import fields, replace

import numpy as np
import pytest

from codesign.evidence.numerics.errors import Errors, bf16_ulp, errors_of, estimates, joined, part
from codesign.evidence.numerics.operands import Operand
from codesign.evidence.numerics.trial import Outcome, Trial
from codesign.figures.estimates import LOSSLESS, added, decibel, largest, norm, quantile, quotient, share
from codesign.proposal.quantisation import Quantisation
from codesign.workloads.gemms import select
from isa_model import load
from isa_model.formats import FORMATS
from isa_model.instruction import Instruction
from isa_model.library import changed, raw


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


def test_an_output_at_the_end_of_a_saturating_register_overflows():
    """FP16 sums of 64 products of 100 x 100 that saturate stand at 65504: a finite error, and an overflow. Sums that fit are
    none, and where infinities are kept errors are infinite, too."""
    base = load("hopper.wgmma.m64n256k32.f16.e4m3.e4m3")
    (gemm,), rule = select("gemm.fprop.2x2x64"), Quantisation(scales="none")

    def of(overflow, size):
        stages = {
            n: s.model_copy(update={"result": tuple(r.model_copy(update={"overflow": overflow}) for r in s.result)})
            for n, s in base.stages.items()
        }
        trial = Trial(gemm, "uniform", (0,), 2, 2, rule)
        trial.a, trial.b = (replace(x, x=np.full_like(x.x, size)) for x in (trial.a, trial.b))
        return values(trial.outcome(base.model_copy(update={"stages": stages})))

    cut = of("saturate", 100.0)
    assert cut["overflow_share"] == 1
    assert cut["total_error"] == pytest.approx(1 - 65504 / (64 * 100**2), rel=0.01)
    assert of("saturate", 8.0)["overflow_share"] == of("infinity", 8.0)["overflow_share"] == 0
    assert of("infinity", 100.0)["overflow_share"] == 1
    assert of("infinity", 100.0)["total_error"] == np.inf


ARM = "arm.fmmla.f32.e4m3.e4m3.lscale0.osm0"


@pytest.mark.parametrize("power", [-4, 7])
def test_a_constant_scale_is_taken_back_before_errors_are_measured(power):
    """FP32 sums times a power of two have the figures of those without, and fill its registers that much more or less."""
    plain = load(ARM)
    scaled = Instruction.model_validate(changed(raw(ARM), {"scale": {"power": power, "onto": "dot"}}))
    (gemm,), rule = select("gemm.fprop.4x4x64"), Quantisation()
    trial = Trial(gemm, "normal", (0, 1), 4, 4, rule)
    one, other = trial.outcome(plain), trial.outcome(scaled)
    assert np.array_equal(one.d, other.d)
    assert 0 < values(one)["total_error"] < 0.1
    assert values(one) == values(other)
    assert other.filled == one.filled * 2.0**power


def test_a_constant_scale_counts_where_a_register_overflows():
    """64 products of 100 x 100 overflow FP16, but not once they are multiplied by 2^-5."""
    name = "arm.fmmla.f16.e4m3.e4m3.lscale0.osm0"
    (gemm,), rule = select("gemm.fprop.2x2x64"), Quantisation(scales="none")
    trial = Trial(gemm, "uniform", (0,), 2, 2, rule)
    trial.a, trial.b = (replace(x, x=np.full_like(x.x, 96.0)) for x in (trial.a, trial.b))
    cut = trial.outcome(load(name))
    assert not np.isfinite(cut.d).any()
    kept = trial.outcome(Instruction.model_validate(changed(raw(name), {"scale": {"power": -5, "onto": "dot"}})))
    assert (kept.d == 64 * 96.0**2).all()
    assert kept.filled == 64 * 96.0**2 / 2**5 / 2.0**15
    assert values(kept)["overflow_share"] == 0


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


# -- sums worked by hand ---------------------------------------------------------------------------------------------


def lines(of, per_line, nonzero, lost, cut):
    """Return an operand of `of` lines of 4 elements with these counts of each line (clusters, lines)."""
    shape = np.array(nonzero).shape
    codes = np.zeros((*shape, per_line), np.uint8)
    counts = (np.array(x, float) for x in (nonzero, lost, cut))
    assert shape[1] == of
    return Operand(codes, None, codes.astype("f8"), None, np.ones(shape), *counts)


def two_seeds(**more):
    """Return an outcome of two seeds, two rows and two columns with weights; the second seed's scales are zero."""
    of = {
        "d": [[[1.5, -2.0], [3.0, 0.25]], [[1.0, np.inf], [0.0, 5.0]]],
        "exact": [[[1.0, -2.0], [4.0, 0.0]], [[1.0, 1.0], [0.0, 5.0]]],
        "original": [[[2.0, -2.0], [4.0, 1.0]], [[0.0, 1.0], [0.0, 5.0]]],
        "rows": [[1.0, 3.0], [1.0, 1.0]],
        "columns": [[2.0, 1.0], [1.0, 1.0]],
        "power": [4.0, 0.0],
        "expected": [9.0, 2.0],
    }
    arrays = {name: np.array(x, float) for name, x in of.items()}
    a = lines(2, 4, [[4, 3], [2, 4]], [[1, 0], [0, 2]], [[0, 1], [0, 0]])
    b = lines(2, 6, [[6, 5], [3, 4]], [[0, 2], [1, 1]], [[3, 0], [0, 1]])
    return Outcome(**{**arrays, "output": FORMATS["fp32"], "operands": (a, b), "filled": 0.25, **more})


def test_the_sums_of_a_seed_worked_by_hand():
    """Weights 2, 1, 6 and 3 of four outputs whose errors are 1/2, 0, -1 and 1/4, in units of the seed's scales, 2."""
    found = part(errors_of(two_seeds()), 0)
    by_hand = {
        "error2": (2 / 4 + 6 + 3 / 16) / 4,
        "exact2": (2 + 4 + 6 * 16) / 4,
        "signed": (2 / 2 - 6) / 2,  # the error of a product of zero has no sign
        "magnitude": (2 + 2 + 6 * 4) / 2,
        "over_ulp": 11,
        "output2": (2 / 4 + 6 + 3 / 16) / 4,
        "changed": 11,
        "quantisation2": (2 + 3) / 4,
        "quantisation_along": (2 * (1 - 2) * 2 - 3) / 4,
        "total2": (2 / 4 + 6 + 3 * 9 / 16) / 4,
        "original2": (8 + 4 + 96 + 3) / 4,
        "not_finite": 0,
        "filled": 0.25,
        "count": 12,
        "outputs": 12**2 / (4 + 1 + 36 + 9),
        "nonzero_a": 4 + 3 * 3,
        "lost_a": 1,
        "cut_a": 3,
        "size_a": 4 * 4,
        "elements_a": 4 * 4**2 / (1 + 9),
        "nonzero_b": 2 * 6 + 5,
        "lost_b": 2,
        "cut_b": 2 * 3,
        "size_b": 3 * 6,
        "elements_b": 6 * 3**2 / (4 + 1),
        "excess": 111 / 4 / (4 * 9 / 4) - 1,
        "error_most": 6 / 4,
        "output_most": 6 / 4,
        "quantisation_most": 3 / 4,
        "total_most": 6 / 4,
    }
    assert {name: float(getattr(found, name)) for name in by_hand} == pytest.approx(by_hand)
    assert found.sizes.tolist() == [0.25, 0, 0.5, 0.125]
    assert found.weights.tolist() == [2, 1, 6, 3]
    assert found.row_errors == pytest.approx([np.sqrt(2 / 4 / (8 + 4)), np.sqrt((2 + 9 / 16) / (32 + 1))])
    assert found.row_weights.tolist() == [1, 3]


def test_the_sums_of_a_seed_with_an_infinite_output_and_scales_of_zero():
    """An infinite output is over any ulp, changed and not finite; where scales are zero sums are in units of 1. A row of an
    error over nothing is infinite too, one without error is zero."""
    found = part(errors_of(two_seeds()), 1)
    sums = {
        "error2": np.inf,
        "exact2": 27,
        "over_ulp": 1,
        "output2": np.inf,
        "changed": 1,
        "total2": np.inf,
        "original2": 26,
        "quantisation_along": 0,
        "error_most": np.inf,
        "output_most": np.inf,
        "quantisation_most": 1,
        "total_most": np.inf,
    }
    sums |= {"quantisation2": 1, "not_finite": 1, "count": 4, "outputs": 4, "excess": 26 / (4 * 2) - 1, "filled": 0.25}
    assert {name: float(getattr(found, name)) for name in sums} == pytest.approx(sums)
    assert found.row_errors.tolist() == [np.inf, 0]
    some = two_seeds(d=np.array([[[1.0, 1], [1, 1]]] * 2), original=np.zeros((2, 2, 2)))
    assert errors_of(some).row_errors.tolist() == [[np.inf, np.inf]] * 2


def test_the_unit_of_a_seed_is_the_root_of_its_power():
    """A sixteenth of the power makes every sum of squares sixteen times larger; the excess over what is expected stays."""
    found, other = errors_of(two_seeds(power=np.array([0.25, 0.0]))), errors_of(two_seeds())
    assert found.error2[0] == pytest.approx(16 * other.error2[0])
    assert found.magnitude[0] == pytest.approx(4 * other.magnitude[0])
    assert found.excess == pytest.approx(other.excess)


def test_infinite_outputs_of_both_signs_and_where_the_product_is_zero_are_infinite_errors():
    """Their signed errors have no sum, and so the bias is infinite as every error is."""
    bad = np.array([[[np.inf, -np.inf], [np.nan, 0.0]]] * 2)
    found = errors_of(two_seeds(d=bad, exact=np.array([[[1.0, 1], [0, 0]]] * 2)))
    assert found.not_finite.tolist() == [9, 3]
    values = {name: e.value for name, e in estimates(found).items()}
    assert values["numerics.bias"] == values["numerics.relative_frobenius"] == np.inf


def test_an_output_without_weight_counts_for_nothing():
    """A row of weight zero may hold anything, even an infinite output."""
    weights = np.array([[1.0, 3.0], [0.0, 1.0]])
    found = errors_of(two_seeds(rows=weights))
    assert found.not_finite.tolist() == [0, 0]
    assert found.error2[1] == 0
    assert found.count.tolist() == [12, 2]


def test_without_a_known_mean_square_every_excess_is_unknown():
    """The parts of a tile have no expectation."""
    assert np.isnan(errors_of(two_seeds(expected=None)).excess).all()
    assert not np.isnan(errors_of(two_seeds()).excess).any()


def test_the_distance_of_bf16_numbers():
    """2^-7 of the leading power of two, and below the least normal number, 2^-126, that of subnormals."""
    x = np.array([1.0, -1.99, 2.0, 3.0, 2.0**-126, 2.0**-127, 0.0, 1e38])
    assert bf16_ulp(x).tolist() == [2**-7, 2**-7, 2**-6, 2**-6, 2**-133, 2**-133, 2**-133, 2.0**119]


def test_an_error_of_just_one_ulp_is_not_over_one():
    """More than the distance of neighbouring BF16 numbers at the exact product counts, less or as much does not."""
    exact = np.array([[1.0, 1.0, -1.0]])
    found = errors_of(outcome(exact + np.array([2**-7, 1.01 * 2**-7, -1.01 * 2**-7]), exact, exact))
    assert found.over_ulp == [2]


def test_d_is_rounded_to_nearest_even():
    """In BF16 a tie between 1 and 1 + 2^-7 is 1, one between 1 + 2^-7 and 1 + 2^-6 is 1 + 2^-6."""
    d = [[1 + 2**-8, 1 + 3 * 2**-8]]
    found = errors_of(outcome(d, [[1.0, 1 + 2**-6]], [[1.0, 1 + 2**-6]], "bf16"))
    assert (found.output2, found.changed, found.total2) == ([0], [0], [0])
    assert found.error2 == pytest.approx(2 * 2**-16)


# -- clusters of a captured tile -------------------------------------------------------------------------------------


def captured(rows, columns=3):
    """Return the outcome of a tile whose row i is of numbers i + 1, with an error of 1 in the first column."""
    exact = np.repeat(np.arange(1.0, rows + 1)[:, None], columns, axis=1)[None]
    d = exact + (np.arange(columns) == 0)
    counts = np.arange(1.0, rows + 1)[None]
    a = lines(rows, 4, counts, 0 * counts, counts / 2)
    b = lines(columns, 4, np.ones((1, columns)), np.ones((1, columns)) / 4, np.zeros((1, columns)))
    weights = {"rows": np.ones((1, rows)), "columns": np.ones((1, columns)), "power": np.array([4.0])}
    return Outcome(d, exact, exact, FORMATS["fp32"], **weights, operands=(a, b), captured=True)


def test_neighbouring_rows_of_a_tile_are_one_cluster():
    """70 rows make 24 clusters of 3, the last of one row and nothing else; what belongs to all rows is there for each."""
    found = errors_of(captured(70))
    assert found.count.tolist() == [9] * 23 + [3]
    assert found.exact2[:2] == pytest.approx([3 * (1 + 4 + 9) / 4, 3 * (16 + 25 + 36) / 4])
    assert found.exact2[-1] == pytest.approx(3 * 70**2 / 4)
    assert found.error2 == pytest.approx([3 / 4] * 23 + [1 / 4])
    assert found.nonzero_a[:2].tolist() == [6, 15]
    assert found.cut_a[-1] == 35
    assert found.elements_a.tolist() == [12] * 23 + [4]
    assert found.outputs.tolist() == [9] * 23 + [3]
    assert found.nonzero_b.tolist() == [3] * 24
    assert found.lost_b.tolist() == [0.75] * 24
    assert found.elements_b.tolist() == [12] * 24
    assert found.row_weights[-1].tolist() == [1, 0, 0]
    assert found.row_errors[-1] == pytest.approx([1 / 70 / np.sqrt(3), 0, 0])
    assert found.filled.tolist() == [1] * 24


@pytest.mark.parametrize(("rows", "clusters", "run"), [(31, 31, 1), (32, 32, 1), (33, 17, 2), (64, 32, 2), (65, 22, 3)])
def test_a_tile_has_at_most_thirty_two_clusters(rows, clusters, run):
    """As few rows as that allows make one cluster, and no row is lost."""
    found = errors_of(captured(rows))
    assert found.sizes.shape == (clusters, 3 * run)
    assert found.count.sum() == 3 * rows
    assert found.error2.sum() * 4 == pytest.approx(rows)


def test_seeds_are_clusters_as_they_are():
    """40 seeds of 2 rows stay 40 clusters; an operand that all share is counted in each."""
    exact = np.ones((40, 2, 1))
    a, b = lines(2, 4, np.ones((40, 2)), np.zeros((40, 2)), np.zeros((40, 2))), lines(1, 4, [[3.0]], [[1.0]], [[0.0]])
    weights = {"rows": np.ones((40, 2)), "columns": np.ones((1, 1)), "power": np.ones(1)}
    found = errors_of(Outcome(exact, exact, exact, FORMATS["fp32"], **weights, operands=(a, b)))
    assert found.count.tolist() == [2] * 40
    assert found.lost_b.tolist() == [1] * 40
    assert found.nonzero_b.tolist() == [3] * 40


# -- estimates of metrics --------------------------------------------------------------------------------------------


def some_errors(**more):
    """Return sums of nine clusters, drawn at random and all different."""
    rng = np.random.default_rng(1)
    drawn = {f.name: rng.uniform(1, 2, 9) for f in fields(Errors)}
    drawn |= {f"{name}_{side}": drawn[f"{name}_{side}"] / 100 for name in ("lost", "cut") for side in "ab"}
    drawn |= {
        name: drawn[name] / 100 for name in ("changed", "over_ulp", "error2", "output2", "quantisation2", "total2")
    }
    drawn |= {
        "not_finite": np.zeros(9),
        "overflowed": np.full(9, 0.01),
        "filled": np.full(9, 0.5),
        "excess": rng.uniform(-0.1, 0.2, 9),
    }
    drawn |= {name: rng.uniform(1, 2, (9, 5)) for name in ("sizes", "weights", "row_errors", "row_weights")}
    drawn |= {"outputs": np.full(9, 40.0), "elements_a": np.full(9, 300.0), "elements_b": np.full(9, 200.0)}
    return Errors(**{**drawn, **more})


def same(one, other):
    """Return whether two estimates agree in everything."""
    arrays = [(one.influence, other.influence), (one.most, other.most)] + [
        (x.ranks.values, y.ranks.values) for x, y in [(one, other)] if x.ranks
    ]
    plain = [
        [getattr(e, n) for n in ("value", "scale", "units", "halved", "tile", "held", "span")] for e in (one, other)
    ]
    parts = [(*e.beside, *([e.plus] if e.plus else [])) for e in (one, other)]
    return (
        plain[0] == plain[1]
        and all(np.array_equal(a, b) for a, b in arrays)
        and len(parts[0]) == len(parts[1])
        and all(same(a, b) for a, b in zip(*parts, strict=True))
        and (one.ranks is None) == (other.ranks is None)
    )


def test_every_metric_is_estimated_from_its_own_sums():
    """Norms are over the product or the original, corrected by its excess; shares are over outputs or the elements of each
    operand; quantiles over rows, and over outputs in units of the product's root mean square."""
    e = some_errors()
    a, b = ((getattr(e, f"lost_{s}"), getattr(e, f"nonzero_{s}"), units) for s, units in (("a", 2700), ("b", 1800)))
    cut_a, cut_b = ((getattr(e, f"cut_{s}"), getattr(e, f"size_{s}"), units) for s, units in (("a", 2700), ("b", 1800)))
    expected = {
        "output_error": norm(e.output2, e.exact2, e.excess, e.output_most),
        "changed_share": share(e.changed, e.count, 360),
        "total_error": norm(e.total2, e.original2, e.excess, e.total_most),
        "sqnr_db": decibel(norm(e.total2, e.original2, e.excess, e.total_most)),
        "median_row_error": quantile(e.row_errors, e.row_weights, 0.5),
        "quantisation_error": norm(e.quantisation2, e.original2, e.excess, e.quantisation_most),
        "quantisation_bias": quotient(e.quantisation_along, e.original2, e.excess),
        "relative_frobenius": norm(e.error2, e.exact2, e.excess, e.error_most),
        "p95_error": quantile(e.sizes, e.weights, 0.95, (e.exact2, e.count), e.excess),
        "bias": quotient(e.signed, e.magnitude, e.excess),
        "share_over_1_bf16_ulp": share(e.over_ulp, e.count, 360),
        "underflow_share": largest(share(*a), share(*b)),
        "overflow_share": added(largest(share(*cut_a), share(*cut_b)), share(e.overflowed, e.count, 360)),
    }
    found = estimates(e)
    assert list(found) == [f"numerics.{name}" for name in expected]
    for name, one in expected.items():
        assert same(found[f"numerics.{name}"], one), name
    assert norm(e.error2, e.exact2, e.excess).value != norm(e.error2, e.exact2).value
    tile = estimates(replace(e, excess=np.full(9, np.nan)))
    of_tiles = [
        "output_error",
        "total_error",
        "sqnr_db",
        "quantisation_error",
        "quantisation_bias",
        "relative_frobenius",
        "bias",
    ]
    assert [name for name, one in tile.items() if one.tile] == [f"numerics.{name}" for name in of_tiles]
    assert all(np.all(one.most == 0) for one in tile.values())


def test_metrics_are_computed_by_name():
    """Only those named are there, in their order."""
    names = {"numerics.bias", "numerics.total_error"}
    assert list(estimates(some_errors(), names)) == ["numerics.total_error", "numerics.bias"]
    assert estimates(some_errors(), ()) == {}


def test_quantiles_of_outputs_that_are_not_finite_are_infinite():
    """One infinite output anywhere makes the quantiles of errors infinite, with as many clusters as there are."""
    found = estimates(some_errors(not_finite=np.where(np.arange(9) == 4, 1.0, 0.0)))
    for name in ("numerics.p95_error", "numerics.median_row_error"):
        assert (found[name].value, found[name].influence.tolist()) == (np.inf, [0] * 9)


def test_an_overflow_of_outputs_is_ruled_out_far_below_every_largest_number():
    """Up to a millionth of the largest number no output overflows, and the share is that of the operands alone, unless one
    did; above it the share of outputs has an upper limit."""
    name = "numerics.overflow_share"
    far, near = np.full(9, 2.0**-20), np.where(np.arange(9) == 2, 2.0**-19, 0.0)
    assert estimates(some_errors(filled=far, overflowed=np.zeros(9)))[name].plus is None
    assert estimates(some_errors(filled=near))[name].plus is not None
    once = np.where(np.arange(9) == 4, 1.0, 0.0)
    overflow = estimates(some_errors(filled=far, overflowed=once))[name]
    assert overflow.plus.value > 0
    assert overflow.plus.units == 360


def test_outcomes_of_trials_follow_each_other_and_their_errors_can_be_taken_apart():
    """Errors of joined outcomes have the clusters of each, and every sum of a part is that of its clusters."""
    one, other = two_seeds(), two_seeds(power=np.array([0.25, 0.0]))
    both = errors_of(joined([one, other]))
    assert both.count.tolist() == [12, 4, 12, 4]
    for f in fields(Errors):
        for alone, places in ((one, slice(0, 2)), (other, np.array([2, 3]))):
            assert np.array_equal(getattr(part(both, places), f.name), getattr(errors_of(alone), f.name)), f.name


def test_joined_outcomes_fill_registers_as_the_fullest_of_them_does():
    """How far outputs are from the largest number is the nearest of any trial."""
    assert joined([two_seeds(filled=0.25), two_seeds(filled=0.5)]).filled == 0.5
