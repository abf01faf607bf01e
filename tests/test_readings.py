"""Readings of figures: signs, decibels, ratios and bounds, on toy evidence."""

from math import inf, isnan

import pytest
from toy_evidence import BIAS, BYTES, DB, ERROR, against, figure, software, verdict

from codesign.figures.figure import Alternative
from codesign.figures.metric import metrics
from codesign.proposal.proposal import Claim
from codesign.verdicts.readings import Reading, breaks, difference, excess, farthest, keeps, nearest, ratio, read


def test_excess_counts_from_the_bound_that_is_broken_most():
    """Positive beyond, negative within; the nearest and the farthest end of an interval; NaN breaks nothing."""
    claim = Claim(metric=ERROR, at_least=1, at_most=3)
    assert [excess(claim, x) for x in (0.0, 1.0, 2.5, 4.0)] == [1.0, 0.0, -0.5, 1.0]
    assert excess(claim, float("nan")) == -inf
    assert (nearest(claim, Reading(2, (0, 4))), farthest(claim, Reading(2, (0, 4.5)))) == (-3, 1.5)
    assert (nearest(claim, Reading(5, (4, 6))), nearest(claim, Reading(0, (-1, 0.5)))) == (1, 0.5)
    assert (nearest(claim, Reading(5, None)), farthest(claim, Reading(5, None))) == (2, 2)
    upper, lower = Claim(metric=ERROR, at_most=3), Claim(metric=ERROR, at_least=1)
    assert (nearest(upper, Reading(5, (4, 6))), nearest(lower, Reading(0, (-1, 0.5)))) == (1, 0.5)
    assert (excess(upper, 1.0), excess(lower, 5.0)) == (-2, -4)
    assert not breaks(claim, Reading(5, None))
    assert not keeps(claim, Reading(2, None))
    assert not keeps(claim, Reading(float("nan"), (2, 2)))


# -- signs, decibels, gaps -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "low", "high", "bound", "judgement"),
    [
        (-0.9, -0.95, -0.85, {"at_most": 0.001}, "refuted"),
        (-0.0005, -0.0009, -0.0001, {"at_most": 0.001}, "supported"),
        (-0.0001, -0.0012, 0.0009, {"at_most": 0.001}, "undetermined"),
        (0.0001, -0.0009, 0.0012, {"at_most": 0.001}, "undetermined"),
        (-0.9, -0.95, -0.85, {"at_least": 0.5}, "supported"),
        (-0.1, -0.6, 0.3, {"at_least": 0.5, "at_most": None}, "undetermined"),
        (-0.9, -0.95, -0.85, {"at_least": -0.001, "at_most": 0.001}, "refuted"),
        (0.0005, 0.0004, 0.0006, {"at_least": -0.001, "at_most": 0.001}, "supported"),
    ],
)
def test_a_signed_metric_is_judged_by_its_magnitude(value, low, high, bound, judgement):
    """A bias of -0.9 is no small bias; an interval around zero starts at zero."""
    bound = {"at_most": None, **bound}
    found = verdict(figure(value, low, high, **BIAS), **BIAS, **bound)
    assert (found.judgement, found.deciding.value) == (judgement, value)


def test_signed_metrics_are_compared_by_the_ratio_of_magnitudes():
    """-0.9 against +0.001 is 900 times as much, whatever the sign; the paired interval loses its sign, too."""
    own, other = figure(-0.9, **BIAS), figure(0.001, variant="software", **BIAS)
    found = verdict(own, other, relative_to="software", **BIAS)
    assert (found.judgement, found.deciding.value) == ("refuted", 900)
    paired = own.model_copy(update={"ratios": {"software": (-950.0, -850.0)}})
    found = verdict(paired, other, relative_to="software", **BIAS)
    assert (found.deciding.low, found.deciding.high) == (850, 950)
    assert verdict(other.model_copy(update={"variant": "proposal"}), own.model_copy(update={"variant": "software"}),
                   relative_to="software", **BIAS).judgement == "supported"  # fmt: skip


def test_decibels_are_compared_by_their_difference():
    """-3 dB is 2 dB less than -1 dB, and not three times as much."""
    own, other = figure(-3.0, -3.1, -2.9, **DB), figure(-1.0, -1.2, -0.8, variant="software", **DB)
    found = verdict(own, other, relative_to="software", at_least=1, at_most=None, **DB)
    assert (found.judgement, found.deciding.value) == ("refuted", -2)
    assert (found.deciding.low, found.deciding.high) == pytest.approx((-2.3, -1.7))
    assert verdict(own, other, relative_to="software", at_least=-2.5, at_most=None, **DB).judgement == "supported"
    assert "difference from software (-1)" in found.deciding.source


def test_decibels_take_the_paired_interval_of_their_difference():
    """What both have in common cancels; no error at all is 400 dB, and none of it finite is below every bound."""
    own = figure(20.0, 14.0, 26.0, ratios={"software": (5.5, 6.5)}, **DB)
    found = verdict(own, figure(14.0, 8.0, 20.0, variant="software", **DB), relative_to="software", at_least=5,
                    at_most=None, **DB)  # fmt: skip
    assert found.judgement == "supported"
    assert (found.deciding.value, found.deciding.low, found.deciding.high) == (6, 5.5, 6.5)
    less = figure(14.0, 8.0, 20.0, ratios={"software": (-6.5, -5.5)}, **DB)
    found = verdict(
        less, figure(20.0, variant="software", **DB), relative_to="software", at_least=5, at_most=None, **DB
    )
    assert (found.judgement, found.deciding.low, found.deciding.high) == ("refuted", -6.5, -5.5)
    exact = [figure(400.0, **DB), figure(400.0, variant="software", **DB)]
    assert verdict(*exact, relative_to="software", at_least=0, at_most=None, **DB).judgement == "supported"
    lost = figure(None, None, None, variant="software", **DB)
    assert verdict(own, lost, relative_to="software", at_least=5, at_most=None, **DB).judgement == "supported"


def test_loss_gaps_are_compared_by_their_difference():
    """A gap of 0.1 % against one of -0.1 % is 0.2 % more, not -1 times as much."""
    about = {"metric": "training.loss_gap", "workload": "run", "tensors": ""}
    own, other = figure(0.001, 0.0005, 0.0015, **about), figure(-0.001, -0.0015, -0.0005, variant="software", **about)
    found = verdict(own, other, metric="training.loss_gap", relative_to="software", at_most=0.003)
    assert (found.judgement, found.deciding.value, found.deciding.high) == ("supported", 0.002, 0.003)
    lost = own.model_copy(update={"value": None, "low": None, "high": None})
    assert verdict(lost, other, metric="training.loss_gap", relative_to="software").judgement == "refuted"


# -- ratios ----------------------------------------------------------------------------------------------------------


def test_zero_against_zero_is_equal():
    """Both exact, or both shares zero: no worse, whatever the intervals; half as much it is not."""
    assert against(figure(0.0), software(0.0)).judgement == "supported"
    found = against(figure(0.0, 0.0, 0.01), software(0.0, 0.0, 0.01))
    assert (found.judgement, found.deciding.value) == ("supported", 1)
    assert against(figure(0.0), software(0.0), at_most=0.5).judgement == "refuted"


def test_something_against_nothing_is_infinitely_more():
    """x / 0 breaks every upper bound; where the zero is of a sample, the least that its interval allows is taken."""
    found = against(figure(0.5), software(0.0))
    assert (found.judgement, found.deciding.value) == ("refuted", None)
    assert against(figure(0.5, 0.4, 0.6), software(0.0, 0.0, 0.1)).judgement == "refuted"
    assert against(figure(0.1, 0.01, 0.2), software(0.0, 0.0, 0.1)).judgement == "undetermined"
    assert against(figure(0.0), software(0.5, 0.4, 0.6), at_most=0).judgement == "supported"


def test_what_is_not_finite_on_one_side_wins_or_loses_and_on_both_is_not_comparable():
    """The proposal alone overflows: refuted; software alone: supported; both: undetermined, and said."""
    nothing = (None, None, None)
    assert against(figure(*nothing), software(0.5)).judgement == "refuted"
    assert against(figure(0.5), software(*nothing)).judgement == "supported"
    found = against(figure(*nothing), software(*nothing))
    assert found.judgement == "undetermined"
    assert found.reason == "neither figure is finite: they cannot be compared"
    assert found.margin is None
    assert found.bars == ()


def test_a_ratio_takes_the_paired_interval_where_there_is_one():
    """Else the widest that the two allow; an end that is missing is open; without either interval nothing is decided."""
    own, other = figure(1.0, 0.9, 1.2), software(2.0, 1.5, 2.5)
    found = against(own, other, at_most=0.7)
    assert (found.judgement, found.deciding.low, found.deciding.high) == ("undetermined", 0.36, 0.8)
    paired = own.model_copy(update={"ratios": {"software": (0.45, 0.55)}})
    found = against(paired, other, at_most=0.7)
    assert (found.judgement, found.deciding.low, found.deciding.high) == ("supported", 0.45, 0.55)
    assert found.deciding.ratios == {}
    assert found.deciding.source == "toy; ratio to software (2)"
    assert against(own, software(None, None, None)).deciding.source == "toy; ratio to software (not finite)"
    assert against(own, software(2.0, None, None)).deciding.source == "toy; ratio to software (2)"
    half_open = own.model_copy(update={"ratios": {"software": (0.45, None)}})
    assert against(half_open, other, at_most=0.7).judgement == "undetermined"
    assert against(half_open, other, at_most=0.4).judgement == "refuted"
    assert against(own.model_copy(update={"ratios": {"today": (0.1, 0.2)}}), other, at_most=0.7).deciding.high == 0.8
    assert against(figure(1.0, None, None), other).judgement == "undetermined"
    assert against(own, software(2.0, None, None)).judgement == "undetermined"
    assert against(own, software(2.0, place=1)).deciding is None


def test_ratios_of_readings():
    """Zeros, infinities and open intervals, one by one."""
    one, zero, lost = Reading(1, (0.5, 2)), Reading(0, (0, 0.5)), Reading.point(inf)
    assert ratio(one, one) == Reading(1, (0.25, 4))
    assert ratio(zero, one) == Reading(0, (0, 1))
    assert ratio(one, zero) == Reading(inf, (1, inf))
    assert ratio(zero, zero) == Reading.point(1)
    assert ratio(one, lost) == Reading.point(0)
    assert ratio(lost, one) == Reading.point(inf)
    assert ratio(Reading(1, (0.5, inf)), lost) == ratio(Reading(1, None), lost) == Reading.point(0)
    assert isnan(ratio(lost, lost).value)
    assert ratio(Reading(0, (0, 0)), Reading(0.5, (0, 1))) == Reading(0, (0, 0))
    assert ratio(Reading(1, (0.5, inf)), Reading(1, (0, 2))) == Reading(1, (0.25, inf))
    for side in ((Reading(1, None), one), (one, Reading(1, None))):
        assert ratio(*side) == Reading(1, None)
    assert difference(one, Reading(3, (2, 5))) == Reading(-2, (-4.5, 0))
    assert difference(one, Reading(3, None)) == Reading(-2, None)
    assert difference(Reading(3, None), one) == Reading(2, None)
    assert difference(one, lost) == Reading.point(-inf)
    assert isnan(difference(lost, lost).value)
    assert Reading(-3, None).magnitude() == Reading(3, None)
    assert Reading(-1, (-3, 2)).magnitude() == Reading(1, (0, 3))
    assert Reading(2, (1, 3)).magnitude() == Reading(2, (1, 3))
    assert Reading(-2, (-3, -1)).magnitude() == Reading(2, (1, 3))
    assert Reading(1, (0, 2)).magnitude() == Reading(1, (0, 2))
    assert ratio(Reading(0.5, (0, 1)), Reading.point(0)) == Reading(inf, (0, inf))
    assert difference(Reading(1, None), lost) == Reading.point(-inf)


def cases(**values):
    return tuple(Alternative(assumption=k, other="64", value=v) for k, v in values.items())


def test_what_is_counted_is_compared_under_each_assumption_of_either_side():
    """Both sides change together; an assumption that only one side depends on counts, too."""
    own = figure(4.0, 1.0, 9.0, alternatives=cases(tile=6.0, reads=4.4), **BYTES)
    other = software(8.0, 1.0, 9.0, alternatives=cases(tile=15.0, nodes=5.0), **BYTES)
    found = against(own, other, metric="traffic.hbm_bytes")
    assert (found.deciding.value, found.deciding.low, found.deciding.high) == (0.5, 0.4, 0.8)
    values = {c.assumption: c.value for c in found.deciding.alternatives}
    assert values == {"tile": 0.4, "reads": 0.55, "nodes": 0.8}
    plain = against(figure(4.0, 3.0, 5.0, **BYTES), software(8.0, 5.0, 10.0, **BYTES), metric="traffic.hbm_bytes")
    assert (plain.deciding.low, plain.deciding.high) == (0.3, 1.0)
    lost = figure(4.0, 1.0, 9.0, alternatives=(Alternative(assumption="tile", other="64", value=None),), **BYTES)
    assert against(lost, other, metric="traffic.hbm_bytes").deciding.high is None


def test_every_metric_says_how_it_is_compared():
    """Decibels and gaps by difference, what compares two designs already not at all."""
    rules = {m.name: m.comparison for m in metrics().values()}
    assert {n for n, rule in rules.items() if rule == "difference"} == {
        "numerics.sqnr_db",
        "cast.sqnr_db",
        "training.loss_gap",
        "training.validation_gap",
    }
    assert all(rule == "none" for n, rule in rules.items() if n.startswith("cost.") or "speedup" in n)
    assert all(m.comparison == "ratio" or (m.comparison, m.unit) == ("none", "1") for m in metrics().values() if m.axis)
    signed = {m.name for m in metrics().values() if m.signed}
    assert signed == {"bounds.bias", "numerics.bias", "numerics.quantisation_bias", "training.gradient_bias"}
    assert read(figure(None, None, None)).value == inf
