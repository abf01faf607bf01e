"""How claims are judged, on toy evidence whose verdicts are known."""

from math import inf, isnan, sqrt

import numpy as np
import pytest

from codesign.evidence.casts.source import Delivered
from codesign.figures.figure import Alternative, Figure
from codesign.figures.metric import metrics
from codesign.proposal.load import parse_proposal
from codesign.proposal.proposal import Claim
from codesign.verdicts import claims
from codesign.verdicts.claims import AGAIN, Measured, bars, claimed, decide, judge, statement
from codesign.verdicts.questions import pursue
from codesign.verdicts.readings import Reading, breaks, difference, excess, farthest, keeps, nearest, ratio, read
from isa_model import InputError
from isa_model.diagnostics import parse_yaml

ERROR = "numerics.total_error"
TEXT = """proposal: toy
title: Toy
source: the tests
base: hopper.wgmma.m64n256k32.f32.e4m3.e4m3
change:
  stages:
    fuse: {fraction_bits: 20, result: {format: fp32, rounding: toward-zero}}
workloads: [deepseek-v3, smollm2-135m]
tensors: [normal, uniform, outliers]
claims:
  - {metric: numerics.total_error, at_most: 1}
"""
TOY = parse_proposal(parse_yaml(TEXT, "toy.yaml"))
PLACES = [(g.name, t) for g, t in TOY.trials]


def toy(**claim):
    """The toy proposal with one claim."""
    return TOY.model_copy(update={"claims": (Claim(**{"metric": ERROR, "at_most": 1.0} | claim),)})


def figure(value, low=..., high=..., place=0, **more):
    """A figure; without ends its interval is a point."""
    workload, tensors = PLACES[place]
    about = {"metric": ERROR, "variant": "proposal", "workload": workload, "tensors": tensors, "kind": "computed"}
    ends = {"low": value if low is ... else low, "high": value if high is ... else high}
    return Figure(**{**about, "source": "toy", "value": value, **ends, **more})


def verdict(*figures, ask=None, **claim):
    (found,) = judge(toy(**claim), figures, ask)
    return found


class Lab:
    """What answers questions: figures by place, at 95 % and at the level asked; it counts what it was asked."""

    def __init__(self, **by_place):
        self.by_place, self.asked = by_place, []

    def __call__(self, questions):
        self.asked += questions
        return [[self.figures(q, level) for level in q.levels] for q in questions]

    def figures(self, question, level):
        place = PLACES.index((question.gemm.name, question.tensors))
        value, half = self.by_place[f"p{place}"]
        half *= {True: 1.0, False: 1.5}[level == 0.95]
        return [figure(value, value - half, value + half, place)]


# -- one figure and its bound ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "low", "high", "judgement"),
    [
        (0.9, 0.8, 1.0, "supported"),
        (1.1, 1.01, 1.2, "refuted"),
        (1.1, 1.0, 1.2, "undetermined"),
        (0.9, 0.8, 1.1, "undetermined"),
        (None, None, None, "refuted"),
        (0.1, None, None, "undetermined"),
        (5.0, None, None, "undetermined"),
        (0.9, 0.8, None, "undetermined"),
        (1.5, 1.2, None, "refuted"),
        (0.0, 0.0, 0.0, "supported"),
    ],
)
def test_one_figure_against_an_upper_bound(value, low, high, judgement):
    """Kept by the whole interval, broken by it, or neither; not finite is broken; without an interval nothing is decided."""
    assert verdict(figure(value, low, high)).judgement == judgement


def test_an_interval_wider_than_both_bounds_decides_nothing():
    """Between two bounds, an interval that reaches beyond both neither keeps nor breaks."""
    assert verdict(figure(1.5, 0.5, 2.5), at_least=1, at_most=2).judgement == "undetermined"
    assert verdict(figure(2.5, 2.1, 2.9), at_least=1, at_most=2).judgement == "refuted"
    assert verdict(figure(0.5, 0.1, 0.9), at_least=1, at_most=2).judgement == "refuted"
    assert verdict(figure(1.5, 1.0, 2.0), at_least=1, at_most=2).judgement == "supported"


def test_too_small_a_sample_says_how_to_sample_more():
    """The reason names what would decide; a point of what is counted, not sampled, needs no interval."""
    found = verdict(figure(0.5, None, None))
    assert found.reason == "too few rows, columns or seeds for an interval"
    counted = figure(0.5, None, None, metric="cost.area_ratio", kind="modelled", workload="", tensors="")
    assert verdict(counted, metric="cost.area_ratio").judgement == "supported"


def test_an_infinite_error_meets_a_lower_bound():
    """An error that is not finite is above every lower bound; no decibels are below every one."""
    assert verdict(figure(None, None, None), at_most=None, at_least=0.1).judgement == "supported"
    silent = figure(None, None, None, metric="numerics.sqnr_db")
    assert verdict(silent, metric="numerics.sqnr_db", at_most=None, at_least=-5).judgement == "refuted"
    assert verdict(silent, metric="numerics.sqnr_db", at_most=-5).judgement == "supported"


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


def test_the_margin_is_in_parts_of_the_nearer_bound():
    """Positive inside; of a bound of zero in the metric's unit; none of what is not finite."""
    assert verdict(figure(0.75)).margin == 0.25
    assert verdict(figure(1.5)).margin == -0.5
    assert verdict(figure(2.0), at_least=1, at_most=4).margin == 1.0
    assert verdict(figure(0.5), at_most=0).margin == -0.5
    assert verdict(figure(None, None, None)).margin is None


# -- signs, decibels, gaps -------------------------------------------------------------------------------------------


BIAS = {"metric": "numerics.bias"}


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


DB = {"metric": "numerics.sqnr_db"}


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


def against(own, other, **claim):
    return verdict(own, other, relative_to="software", **claim)


def software(*numbers, **more):
    return figure(*numbers, variant="software", **more)


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


BYTES = {"metric": "traffic.hbm_bytes", "tensors": "", "kind": "modelled", "workload": "deepseek-v3"}


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


# -- families --------------------------------------------------------------------------------------------------------


def test_one_figure_that_breaks_refutes_all_and_one_in_doubt_leaves_all_open():
    """Every covered figure must keep the bound: not any."""
    good, bad, open_ = figure(0.5, place=0), figure(1.5, place=1), figure(1.0, 0.9, 1.1, place=2)
    found = verdict(good, bad, open_)
    assert (found.judgement, found.deciding, found.covered) == ("refuted", bad, 3)
    assert (verdict(good, open_).judgement, verdict(good, open_).deciding) == ("undetermined", open_)
    worst = figure(0.8, place=3)
    assert (verdict(good, worst).judgement, verdict(good, worst).deciding) == ("supported", worst)


def test_the_figure_that_decides_is_the_one_that_breaks_for_certain():
    """A worse figure in doubt does not decide, and the reason says that it is there."""
    certain, doubtful = figure(1.2, 1.1, 1.3, place=1), figure(3.0, 0.2, 9.0, place=2)
    found = verdict(certain, doubtful, figure(1.15, 1.05, 1.2, place=3))
    assert found.deciding == certain
    assert found.reason.startswith("its whole interval breaks the bound (")
    assert f"({doubtful.workload}, {doubtful.tensors} looks worse, but is not certain)" in found.reason
    assert verdict(certain, figure(1.1, 0.9, 1.2, place=2)).reason == "its whole interval breaks the bound"
    assert verdict(figure(None, None, None), certain).reason == "outputs are not finite"


def test_undetermined_names_the_figure_that_reaches_farthest():
    """Of several in doubt the one whose interval breaks the bound most; what cannot be compared comes before it."""
    near, far = figure(1.0, 0.9, 1.1, place=1), figure(0.9, 0.5, 1.9, place=2)
    assert verdict(near, far, figure(0.1, place=3)).deciding == far
    assert verdict(near, far).reason == "the bound lies inside the interval"
    bare = figure(0.4, None, None, place=4)
    assert verdict(near, bare).deciding == bare


def test_an_interval_beyond_the_bound_that_does_not_refute_says_why():
    """At 95 % it breaks the bound, at the level for many figures it does not: the reason does not claim a bound inside."""
    beyond = figure(1.2, 1.05, 1.35)
    found = decide(toy().claims[0], [], [claims.Tested(Measured(beyond, read(beyond)), read(figure(1.2, 0.95, 1.45)))])
    assert found[0] == "undetermined"
    assert found[2] == "its whole interval breaks the bound, which one of so many figures may do by chance"


def test_figures_are_covered_by_workload_tensors_variant_and_value():
    """A claim's own place, source, variant and swept value are judged, and nothing else."""
    name, tensors = PLACES[0]
    right, wrong = figure(0.5), figure(5.0, place=PLACES.index((name, "uniform")))
    elsewhere = figure(5.0, place=next(i for i, (w, t) in enumerate(PLACES) if w != name and t == tensors))
    assert verdict(right, wrong, workload=name, tensors=tensors).judgement == "supported"
    assert verdict(right, elsewhere, workload=name).covered == 1
    assert verdict(right, wrong, tensors=tensors).covered == 1
    assert verdict(right, figure(5.0, at=13), figure(5.0, variant="today")).covered == 1
    assert verdict(figure(0.5, at=13), right, at=13).deciding.at == 13
    assert verdict(figure(0.5, variant="today"), figure(5.0), of="today").judgement == "supported"
    layer = [figure(v, **BYTES | {"workload": w}) for w, v in (("deepseek-v3", 0.5), ("deepseek-v3.fprop", 5.0))]
    assert verdict(*layer, metric="traffic.hbm_bytes").judgement == "supported"
    assert verdict(*layer, metric="traffic.hbm_bytes", workload="deepseek-v3.fprop").judgement == "refuted"


def test_why_there_is_no_figure():
    """Each metric says why it may have no figure."""
    reason = "the proposal has no `path`, or its path does not carry that operand"
    assert verdict(metric="cast.relative_error").reason == reason
    path = {"operands": ["activation"], "steps": [{"at": "dispatch", "to": "e4m3", "scale": "ue8m0"}]}
    carried = parse_proposal(parse_yaml(TEXT + f"path: {path}\n".replace("'", ""), "toy.yaml"))
    claim = Claim(metric="cast.relative_error", at_most=1)
    (found,) = judge(carried.model_copy(update={"claims": (claim,)}), [])
    assert (found.judgement, found.reason) == ("undetermined", reason)
    assert "no hardware record" in verdict(metric="cost.area_ratio").reason
    assert "no training record" in verdict(metric="training.loss_gap").reason


# -- measured again --------------------------------------------------------------------------------------------------


def test_what_does_not_keep_the_bound_is_measured_again_on_fresh_seeds():
    """Only that figure, on seeds of its own; the fresh figure decides and is shown."""
    lab = Lab(p1=(0.8, 0.1))
    found = verdict(figure(0.5), figure(1.3, 1.2, 1.4, place=1), ask=lab)
    assert (found.judgement, found.again, found.deciding.value) == ("supported", 1, 0.8)
    (question,) = lab.asked
    assert question.fresh
    assert question.levels == (0.95, 0.95)
    assert (question.gemm.name, question.tensors) == PLACES[1]
    assert [c.variant for c in question.compared] == ["proposal"]
    assert question.proposal == toy()
    assert found.reason == (
        "the worst figure keeps the bound with its whole interval; 1 of 2 figures measured again on fresh seeds"
    )
    assert verdict(figure(1.3, 1.2, 1.4), ask=Lab(p0=(1.3, 0.1))).judgement == "refuted"
    found = verdict(figure(1.3, 1.2, 1.4), ask=Lab(p0=(1.02, 0.1)))
    assert (found.judgement, found.deciding.value) == ("undetermined", 1.02)


def test_what_is_measured_again_is_the_swept_value_that_is_claimed():
    """With the instruction of that value, and its figure among those of others."""
    text = TEXT + "sweep: {field: stages.fuse.fraction_bits, values: [13, 15]}\n"
    about = parse_proposal(parse_yaml(text, "toy.yaml"))
    claim = Claim(metric=ERROR, at_most=1, at=15)
    asked = []

    def ask(questions):
        asked.extend(questions)
        return [[[figure(9.0), figure(5.0, at=13), figure(0.5, at=15)]] * 2 for _ in questions]

    (found,) = judge(about.model_copy(update={"claims": (claim,)}), [figure(1.3, 1.2, 1.4, at=15)], ask)
    assert (found.judgement, found.deciding.value) == ("supported", 0.5)
    assert [(c.variant, c.at) for c in asked[0].compared] == [("proposal", 15)]
    assert asked[0].compared[0].instruction.stages["fuse"].fraction_bits == 15
    assert claimed(claim, [figure(9.0), figure(5.0, at=13)]) is None


def test_the_more_is_measured_again_the_wider_the_interval_that_refutes():
    """Of two, each is held against 97.5 %: what breaks the bound at 95 % alone does not refute."""
    lab = Lab(p0=(1.12, 0.1), p1=(1.0, 0.05))
    first = [figure(1.3, 1.2, 1.4, place=i) for i in range(2)]
    found = verdict(*first, ask=lab)
    assert {q.levels for q in lab.asked} == {(0.95, 0.975)}
    assert found.judgement == "undetermined"
    assert found.reason.endswith("; 2 of 2 figures measured again on fresh seeds")
    assert verdict(*first, ask=Lab(p0=(1.2, 0.1), p1=(1.0, 0.05))).judgement == "refuted"


def test_no_more_than_the_worst_few_are_measured_again():
    """The others can no longer support the claim, and must not refute it: they were picked for being bad."""
    first = [figure(1.2 + i / 100, 1.1, 1.4, place=i) for i in range(AGAIN + 3)]
    lab = Lab(**{f"p{i}": (0.5, 0.1) for i in range(AGAIN + 3)})
    found = verdict(*first, ask=lab)
    assert {(q.gemm.name, q.tensors) for q in lab.asked} == set(PLACES[3 : AGAIN + 3])
    assert (found.judgement, found.again) == ("undetermined", AGAIN)
    assert found.deciding.value in (1.2, 1.21, 1.22)


def test_what_another_sample_cannot_change_is_not_measured_again():
    """Outputs that are infinite, samples too small for an interval, and what is no sample."""
    lab = Lab()
    assert verdict(figure(None, None, None), ask=lab).judgement == "refuted"
    assert verdict(figure(2.0, None, None), ask=lab).judgement == "undetermined"
    assert verdict(figure(2.0, **BYTES), metric="traffic.hbm_bytes", ask=lab).judgement == "refuted"
    assert verdict(figure(2.0, metric="training.loss_gap", workload="run", tensors=""), metric="training.loss_gap",
                   ask=lab).judgement == "refuted"  # fmt: skip
    assert verdict(figure(0.5), ask=lab).again == 0
    lost = verdict(figure(None, None, None), figure(0.5, variant="software"), relative_to="software", ask=lab)
    assert (lost.judgement, lost.reason) == ("refuted", "outputs are not finite")
    assert lab.asked == []
    both = verdict(figure(None, None, None), figure(1.3, 1.2, 1.4, place=1), ask=Lab(p1=(0.5, 0.1)))
    assert (both.judgement, both.again, both.deciding.value) == ("refuted", 1, None)


def test_a_captured_tensor_is_tested_as_it_is():
    """No seed gives another tensor: its cast is not fresh, and all captured figures of the claim count as tests."""
    path = {"operands": ["activation"], "steps": [{"at": "dispatch", "to": "e4m3", "scale": "ue8m0"}]}
    text = TEXT.replace("tensors: [normal, uniform, outliers]", "tensors: [normal, captured]")
    text = text.replace(
        "workloads: [deepseek-v3, smollm2-135m]", "workloads: [smollm2-135m, mpnet-base]"
    ) + f"path: {path}\n".replace("'", "")
    about = parse_proposal(parse_yaml(text, "toy.yaml"))
    claim = Claim(metric="cast.relative_error", at_most=1)
    places = [(g.name, t) for g, t in about.trials if t == "captured"][:4]
    asked = []

    def ask(questions):
        asked.extend(questions)
        return [
            [[figure(1.3, 1.2, 1.4, metric=claim.metric, workload=q.gemm.name, tensors=q.tensors)]] * 2
            for q in questions
        ]

    first = [
        figure(v, v - 0.1, v + 0.1, metric=claim.metric, workload=w, tensors=t)
        for v, (w, t) in zip((1.3, 0.5, 0.5, 0.5), places, strict=True)
    ]
    (found,) = judge(about.model_copy(update={"claims": (claim,)}), first, ask)
    (question,) = asked
    assert not question.fresh
    assert type(question) is Delivered
    assert question.levels == (0.95, 1 - 0.05 / 4)
    assert (found.judgement, found.again) == ("refuted", 0)


def simulated(true, spread, times=300):
    """Shares of verdicts on a claim `at_most: 1` over figures of known truth, each measured with normal noise."""
    from statistics import NormalDist

    rng = np.random.default_rng(1)
    about = toy()

    def sample(place, noise, levels=(0.95,)):
        value = true[place] + noise * rng.standard_normal()
        halves = [noise * NormalDist().inv_cdf((1 + level) / 2) for level in levels]
        return [[figure(value, value - h, value + h, place)] for h in halves]

    def ask(questions):
        places = [PLACES.index((q.gemm.name, q.tensors)) for q in questions]
        return [sample(p, spread / sqrt(2), q.levels) for p, q in zip(places, questions, strict=True)]

    seen = []
    for _ in range(times):
        (found,) = judge(about, [sample(i, spread)[0][0] for i in range(len(true))], ask)
        seen.append(found.judgement)
    return {j: seen.count(j) / times for j in ("supported", "refuted", "undetermined")}


def test_a_true_claim_over_many_figures_is_refuted_at_most_one_time_in_twenty():
    """All 69 keep the bound by 0.5 %, known to 3 %: where the first sample alone decided, seven in ten were refuted."""
    shares = simulated([0.995] * 69, 0.03)
    assert shares["refuted"] <= 0.05 + 2 * sqrt(0.05 * 0.95 / 300)
    on_the_bound = simulated([1.0] * 20, 0.03)
    assert on_the_bound["refuted"] <= 0.05 + 2 * sqrt(0.05 * 0.95 / 300)


def test_a_false_claim_is_supported_at_most_one_time_in_twenty():
    """One figure breaks the bound by 0.1 %, the others keep it with ease; by 20 % it is found out."""
    assert simulated([1.001] + [0.5] * 5, 0.03)["supported"] <= 0.05 + 2 * sqrt(0.05 * 0.95 / 300)
    assert simulated([1.2] + [0.5] * 5, 0.03, 50)["refuted"] == 1
    assert simulated([0.8] * 69, 0.03, 20)["supported"] == 1


# -- what turns a verdict --------------------------------------------------------------------------------------------


def alternative(assumption, other, value, half=0.0):
    ends = {} if value is None else {"low": value - half, "high": value + half}
    return Alternative(assumption=assumption, other=other, value=value, **ends)


def test_a_case_turns_a_verdict_only_with_its_whole_interval():
    """0.79 [0.55, 1.03] lies on neither side of 1; 1.2 [1.1, 1.3] turns what holds, 0.8 [0.7, 0.9] what is refuted."""
    claim = Claim(metric=ERROR, at_most=1)
    wide, beyond, within = (
        alternative("source", "wide", 1.2, 0.3),
        alternative("length", "long", 1.2, 0.1),
        alternative("floor", "low", 0.8, 0.1),
    )
    held = {
        b.assumption: b.reversed_by for b in bars(claim, figure(0.5, 0.4, 0.6, alternatives=(wide, beyond, within)))
    }
    assert held == {"length": ("long",), "source": (), "floor": ()}
    lost = {
        b.assumption: bool(b.reversed_by)
        for b in bars(claim, figure(1.5, 1.4, 1.6, alternatives=(wide, beyond, within)))
    }
    assert lost == {"floor": True, "source": False, "length": False}
    open_ = bars(claim, figure(1.0, 0.9, 1.1, alternatives=(wide, beyond, within)))
    assert not any(b.reversed_by for b in open_)
    bare = Alternative(assumption="source", other="bare", value=5.0)
    assert not bars(claim, figure(0.5, alternatives=(bare,)))[0].reversed_by
    counted = figure(0.5, alternatives=(bare,), **BYTES)
    assert bars(Claim(metric="traffic.hbm_bytes", at_most=1), counted)[0].reversed_by


def test_bars_name_their_ends_and_the_longest_comes_first():
    """The least and the largest case of an assumption; those that turn the verdict before longer ones that do not."""
    others = (
        alternative("a", "one", 0.6),
        alternative("a", "two", 0.9),
        alternative("a", "three", 0.4),
        alternative("b", "one", 1.5),
        alternative("b", "lost", None),
        alternative("c", "one", 0.45),
        alternative("d", "one", 1.1),
    )
    found = bars(Claim(metric=ERROR, at_most=1), figure(0.5, alternatives=others))
    assert [b.assumption for b in found] == ["b", "d", "a", "c"]
    assert (found[0].low, found[0].low_case, found[0].high, found[0].high_case) == (1.5, "one", None, "lost")
    assert (found[2].low, found[2].low_case, found[2].high, found[2].high_case) == (0.4, "three", 0.9, "two")
    assert found[0].reversed_by == ("one", "lost")
    lost = bars(Claim(metric=ERROR, at_most=1), figure(None, None, None, alternatives=others))
    assert {b.assumption for b in lost if b.reversed_by} == {"a", "c"}


# -- words -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("claim", "words"),
    [
        ({"at_most": 0.01}, "numerics.total_error at most 0.01"),
        ({"at_least": 0.01, "at_most": 1}, "numerics.total_error at least 0.01 and at most 1"),
        ({"at_most": 1, "relative_to": "software", "at": 13}, "numerics.total_error, relative to software, at most 1 at 13"),
        ({"metric": "numerics.bias", "at_most": 0.1}, "magnitude of numerics.bias at most 0.1"),
        ({"metric": "numerics.bias", "at_most": 0.1, "at_least": -0.1}, "magnitude of numerics.bias at most 0.1"),
        (
            {"metric": "numerics.sqnr_db", "at_least": 1, "relative_to": "software"},
            "numerics.sqnr_db, less that of software, at least 1 dB",
        ),
        ({"metric": "timing.microseconds", "at_most": 1, "relative_to": "software"},
         "timing.microseconds, relative to software, at most 1"),
        ({"metric": "timing.microseconds", "at_most": 5, "of": "software"}, "timing.microseconds of software at most 5 us"),
        ({"at_most": 1, "workload": "deepseek-v3.fprop", "tensors": "normal"},
         "numerics.total_error at most 1 on deepseek-v3.fprop with normal tensors"),
    ],
)  # fmt: skip
def test_a_claim_in_words(claim, words):
    """The statement says magnitude, ratio or difference, whichever is judged."""
    assert statement(Claim(**{"metric": ERROR} | claim)) == words


def refused(claims, **more):
    other = "  - {metric: numerics.overflow_share, at_most: 1}\n"
    text = TEXT.replace("  - {metric: numerics.total_error, at_most: 1}\n", f"  - {claims}\n{other}")
    for field, value in more.items():
        text = (
            "".join(line + "\n" for line in text.splitlines() if not line.startswith(f"{field}:"))
            + f"{field}: {value}\n"
        )
    with pytest.raises(InputError) as error:
        parse_proposal(parse_yaml(text, "toy.yaml"))
    return str(error.value)


def test_decibels_and_loss_gaps_may_be_below_zero():
    """A level of -3 dB, a difference of -1 dB and a loss gap of -0.1 % are bounds like others."""
    for about in ("numerics.sqnr_db", "training.loss_gap"):
        assert Claim(metric=about, at_least=-3.0).at_least == -3
    assert Claim(metric="numerics.sqnr_db", at_least=-1.0, relative_to="software").at_least == -1


@pytest.mark.parametrize(
    ("claim", "words", "remedy"),
    [
        ("{metric: numerics.bias, at_most: true}", "`true` is not a number", "a number, such as 0.01"),
        ("{metric: numerics.bias, at_least: false}", "`false` is not a number", "a number"),
        ("{metric: cost.area_ratio, relative_to: software, at_most: 1.2}", "is already relative to today", "leave"),
        (
            "{metric: timing.step_speedup, relative_to: software, at_least: 1}",
            "is already relative to today",
            "leave",
        ),
        ("{metric: cost.area_ratio, of: today, at_most: 1.2}", "has no figure of `today`", "proposal"),
        ("{metric: traffic.hbm_bytes, relative_to: exact, at_most: 1}", "has no figure of `exact`", "software"),
        ("{metric: cast.sqnr_db, of: today, at_least: 1}", "has no figure of `today`", "software"),
        ("{metric: cost.area_ratio, tensors: normal, at_most: 1}", "does not depend on tensors", "leave"),
        ("{metric: training.loss_gap, workload: deepseek-v3, at_most: 1}", "does not depend on the workload", "leave"),
        ("{metric: traffic.hbm_bytes, at: 13, at_most: 1}", "no figure for each swept value", "leave"),
        ("{metric: numerics.total_error, of: today, at: 13, at_most: 1}", "`today` has no figure", "leave"),
        ("{metric: timing.step_speedup, at: 13, at_least: 1}", "no figure for each swept value", "leave"),
        ("{metric: numerics.bias, at_least: -0.1}", "judged by its magnitude", "at_most: 0.1"),
        ("{metric: numerics.bias, at_least: -0.1, at_most: 0.2}", "judged by its magnitude", "at_most: 0.1"),
        ("{metric: numerics.bias, at_most: -0.1}", "judged by its magnitude", "at_most: 0.1"),
        ("{metric: numerics.total_error, relative_to: today, at_most: -1}", "a ratio of magnitudes", "at_most: 1"),
        ("{metric: numerics.total_error, at_most: -1}", "is never below zero", "a bound above zero, such as 1"),
        ("{metric: cost.area_ratio, at_least: -1}", "is never below zero", "a bound above zero"),
        ("{metric: timing.speedup_over_software, at_least: -0.5}", "is never below zero", "a bound above zero"),
        ("{metric: numerics.total_error, relative_to: proposal, at_most: 1}", "relative to itself", ""),
        ("{metric: numerics.total_error}", "a claim needs a bound", "`at_most: 0.1` or `at_least: 0.1`"),
        ("{metric: numerics.total_error, at_least: 2, at_most: 1}", "at_least 2 is above at_most 1", ""),
    ],
)
def test_claims_that_say_nothing_are_refused_where_they_stand(claim, words, remedy):
    """Each at its line and column, with the remedy."""
    told = refused(claim)
    place, line, _, *hint = told.splitlines()
    assert words in place
    assert remedy in "".join(hint)
    row, column = map(int, place.split(":")[1:3])
    assert TEXT.splitlines()[row - 1].startswith("  - {metric")
    mark = told.splitlines()[2].index("^") - len("     | ")
    assert column == mark + 1
    field = line[mark + len("     | ") :]
    assert field.startswith(("at", "relative_to", "of", "tensors", "workload", "{", "true", "false"))


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("tensors", "[normal, uniform, normal]", "`normal` appears twice"),
        ("workloads", "[deepseek-v3, deepseek-v3]", "`deepseek-v3` appears twice"),
        ("sweep", "{field: stages.fuse.fraction_bits, values: [13, 15, 13]}", "`13` appears twice"),
        (
            "path",
            "{operands: [activation, activation], steps: [{at: dispatch, to: e4m3}]}",
            "`activation` appears twice",
        ),
    ],
)
def test_what_is_there_twice_is_refused(field, value, words):
    """At the second one."""
    told = refused("{metric: numerics.total_error, at_most: 1}", **{field: value})
    assert words in told
    assert "= remove one of them" in told


def test_the_same_claim_twice_is_refused():
    """Two that differ only in who says so count as one; two that differ otherwise do not."""
    twice = "{metric: numerics.total_error, at_most: 1}\n  - {metric: numerics.total_error, at_most: 1, source: me}"
    assert "the same as claim 1" in refused(twice)
    both = TEXT + "  - {metric: numerics.total_error, at_most: 2}\n"
    assert len(parse_proposal(parse_yaml(both, "toy.yaml")).claims) == 2


# -- enquiries -------------------------------------------------------------------------------------------------------


def test_enquiries_move_side_by_side():
    """The questions of all are asked at once; each gets its own answers, and those that end early wait for none."""

    def enquiry(*steps):
        got = []
        for count in steps:
            answers = yield [f"{len(steps)}/{i}" for i in range(count)]
            got += answers
        return got

    asked = []

    def ask(questions):
        asked.append(list(questions))
        return [q.upper() + "!" for q in questions]

    assert pursue([enquiry(1, 2), enquiry(), enquiry(2)], ask) == [["2/0!", "2/0!", "2/1!"], [], ["1/0!", "1/1!"]]
    assert asked == [["2/0", "1/0", "1/1"], ["2/0", "2/1"]]
    assert pursue([enquiry(1)], None) == [[]]
    assert pursue([], ask) == []


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
    signed = {m.name for m in metrics().values() if m.signed}
    assert signed == {"numerics.bias", "numerics.quantisation_bias", "training.gradient_bias"}
    assert read(figure(None, None, None)).value == inf
