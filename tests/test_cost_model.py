"""The model of a unit's cost: its coefficients, its published errors, and what it refuses."""

import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("amaranth")

from codesign.evidence.cost.attribution import widened
from codesign.evidence.cost.predict import KINDS, POINTS, MeasuredPoints, cost, family, model, predict
from codesign.evidence.cost.records import design_sha256, find, recipe_sha256
from codesign.evidence.cost.rtl.block_sizes import sizes
from codesign.proposal.load import load_proposal
from isa_model import InputError, load
from isa_model.formats import named

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT / "pages")]

import cost_model  # noqa: E402

HOPPER = "hopper.wgmma.m64n256k32.f32.e4m3.e4m3"
LAWS = model().laws


@pytest.fixture(scope="module")
def measured():
    """The points that the model is fitted to."""
    return MeasuredPoints.model_validate_json(POINTS.read_text())


def test_the_model_is_the_fit_to_the_shipped_points(measured):
    """Fitting the areas of all shipped points again gives the shipped coefficients, none of which is negative."""
    every = cost_model.samples(measured)
    assert len(every) == LAWS["area"].families.designs >= 100
    again = cost_model.fitted("area", every)
    assert again == pytest.approx(LAWS["area"].coefficients, rel=1e-3, abs=1e-3)
    errors = [abs(e) for e in cost_model.errors("area", again, every)]
    assert sum(errors) / len(errors) < LAWS["area"].families.mean, (
        "held-out designs are predicted no better than seen ones"
    )
    assert min(x for law in LAWS.values() for x in law.coefficients.values()) > 0


def test_the_points_are_of_designs_that_span_the_parameters(measured):
    """Each point is of a design that the page lists, made with the present script, and compared with the model."""
    known = {design_sha256(spec) for _, spec in cost_model.designs()}
    assert {p.design_sha256 for p in measured.points} <= known
    assert measured.recipe_sha256 == recipe_sha256()
    assert not measured.commit.endswith("+")
    assert min(p.vectors for p in measured.points) >= 4096


def test_quantities_are_sums_of_sizes_that_are_counted():
    """Every size that a quantity depends on is counted in some design, and each law is of such sizes."""
    counted = {kind for _, spec in cost_model.designs() for kind in sizes(spec)} | {"table"}
    for quantity, kinds in KINDS.items():
        assert set(kinds) <= counted
        assert set(LAWS[quantity].coefficients) <= set(kinds)


@settings(max_examples=30)
@given(st.integers(4, 40), st.sampled_from(["e8m13", "fp32"]))
def test_a_wider_window_is_predicted_to_cost_no_less(bits, register):
    """One fraction bit more never lowers area, path or energy."""
    narrow, wide = (predict(widened(load(HOPPER), n, named(register))) for n in (bits, bits + 1))
    assert wide.area.value >= narrow.area.value
    assert wide.delay_fo4.value >= narrow.delay_fo4.value
    assert wide.energy_low.value >= narrow.energy_low.value


@pytest.mark.parametrize("name", ["group-scaled-mma", "blackwell-nvf4", "int8-group-scaled", "stochastic-accumulator"])
def test_predictions_of_shipped_units_are_within_the_worst_published_error(name):
    """A prediction is off from the record by no more than the worst error published for held-out families."""
    spec = load_proposal(ROOT / f"proposals/{name}.yaml").proposed()
    found, record = predict(spec), find(spec, "neutral")
    assert found.products == spec.span
    assert found.area.value == pytest.approx(record.area, rel=LAWS["area"].families.worst)
    assert found.area.low < found.area.value < found.area.high
    assert found.origin.startswith("predicted")


def test_a_record_is_preferred_to_a_prediction():
    """The cost of a unit with a record is the record's, named; that of another is predicted."""
    base = load(HOPPER)
    known = cost(base)
    assert known.area.low == known.area.high == find(base, "neutral").area
    assert known.origin.startswith(f"record {HOPPER}")
    assert cost(widened(base, 14, named("fp32"))).origin.startswith("predicted")


def test_no_cost_is_predicted_of_what_has_no_hardware():
    """Sparse operands, and exact sums too wide for an adder, are refused with the generator's reason."""
    sparse = load_proposal(ROOT / "proposals/sparse-2-4-fp8.yaml").proposed()
    with pytest.raises(InputError, match="not generated in hardware"):
        predict(sparse)
    exact = {"terms": 32, "accumulator": True, "result": {"format": "fp32", "rounding": "nearest-even"}}
    wide = cost_model.typed(cost_model.unit({"sum": exact}), "bf16", "bf16")
    with pytest.raises(InputError, match="exact sum of"):
        predict(wide)


def test_families_tell_structures_apart():
    """Each design of the page, and each shipped unit, belongs to a family that was held out."""
    names = set(LAWS["area"].by_family)
    assert {family(spec) for _, spec in cost_model.designs()} <= names
    assert family(load(HOPPER)) == "one window"
