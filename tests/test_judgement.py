"""How claims are judged, on toy evidence whose verdicts are known."""

import pytest
from toy_evidence import BYTES, ERROR, PLACES, TEXT, alternative, figure, toy, verdict

from codesign.figures.figure import Alternative
from codesign.proposal.load import parse_proposal
from codesign.proposal.proposal import Claim
from codesign.verdicts import claims
from codesign.verdicts.claims import bars, decide, judge
from codesign.verdicts.readings import Measured, read
from isa_model.diagnostics import parse_yaml

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
    found = verdict(counted, metric="cost.area_ratio", at_most=0.4)
    assert (found.judgement, found.reason) == ("refuted", "its whole interval violates the bound")


def test_an_infinite_error_meets_a_lower_bound():
    """An error that is not finite is above every lower bound; no decibels are below every one."""
    assert verdict(figure(None, None, None), at_most=None, at_least=0.1).judgement == "supported"
    silent = figure(None, None, None, metric="numerics.sqnr_db")
    assert verdict(silent, metric="numerics.sqnr_db", at_most=None, at_least=-5).judgement == "refuted"
    assert verdict(silent, metric="numerics.sqnr_db", at_most=-5).judgement == "supported"


def test_the_margin_is_in_parts_of_the_nearer_bound():
    """Positive inside; of a bound of zero in the metric's unit; none of what is not finite."""
    assert verdict(figure(0.75)).margin == 0.25
    assert verdict(figure(1.5)).margin == -0.5
    assert [verdict(figure(x), at_least=1, at_most=4).margin for x in (2.0, 3.5, 6.0, 0.5)] == [1.0, 0.125, -0.5, -0.5]
    assert verdict(figure(1.0), at_most=4).margin == 0.75
    assert verdict(figure(0.5), at_most=0).margin == -0.5
    assert verdict(figure(0.5), at_least=0, at_most=2).margin == 0.25
    assert verdict(figure(None, None, None)).margin is None
    assert verdict(figure(None, None, None), at_most=None, at_least=1).margin is None
    assert verdict(figure(0.123456, 0.1, 0.2)).margin == 0.8765


# -- families --------------------------------------------------------------------------------------------------------


def test_one_figure_that_breaks_refutes_all_and_one_in_doubt_leaves_all_open():
    """Every covered figure must meet the bound: not any."""
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
    assert found.reason.startswith("its whole interval violates the bound (")
    assert f"({doubtful.workload}, {doubtful.tensors} looks worse, but is not certain)" in found.reason
    assert verdict(certain, figure(1.1, 0.9, 1.2, place=2)).reason == "its whole interval violates the bound"
    assert verdict(figure(None, None, None), certain).reason == "outputs are not finite"


def test_the_figure_that_decides_breaks_the_bound_by_its_nearer_end():
    """Of two that break it, the one with the larger excess at the end nearer to the bound, not with the larger value."""
    clear, wide = figure(1.5, 1.4, 1.6, place=1), figure(1.6, 1.1, 2.1, place=2)
    found = verdict(wide, clear)
    assert found.deciding == clear
    assert found.reason.endswith(f"({wide.workload}, {wide.tensors} looks worse, but is not certain)")
    lost = figure(None, None, None, place=3)
    assert verdict(clear, lost, lost.model_copy(update={"workload": PLACES[4][0]})).deciding == lost
    tested = [
        claims.Tested(Measured(f, read(f)), read(figure(1.5, *ends)))
        for f, ends in ((clear, (1.05, 2)), (wide, (1.08, 2)))
    ]
    assert decide(toy().claims[0], [], tested)[:2] == ("refuted", tested[1].measured)
    equals = [claims.Tested(t.measured, tested[0].wide) for t in tested]
    assert decide(toy().claims[0], [], equals)[1] == equals[0].measured  # the first of equals


def test_undetermined_names_the_figure_that_reaches_farthest():
    """Of several in doubt the one whose interval violates the bound most; what cannot be compared comes before it."""
    near, far = figure(1.0, 0.9, 1.1, place=1), figure(0.9, 0.5, 1.9, place=2)
    assert verdict(near, far, figure(0.1, place=3)).deciding == far
    assert verdict(near, far).reason == "the bound lies inside the interval"
    bare = figure(0.4, None, None, place=4)
    assert verdict(near, bare).deciding == bare


def test_a_captured_tile_without_an_interval_says_why():
    """More seeds would not help: a few rows of the tile hold the variance. A figure of drawn tensors is named first."""
    tile = figure(0.5, None, None, tensors="captured")
    found = verdict(tile, figure(0.9, 0.7, 1.2, place=1))
    assert (found.judgement, found.deciding) == ("undetermined", tile)
    assert found.reason == "no interval, as a few neighbouring rows of the tile hold most of the variance"
    mixed = verdict(tile, figure(0.4, None, None, place=1))
    assert mixed.reason == "too few rows, columns or seeds for an interval"


def test_a_reservation_about_the_deciding_figure_is_part_of_the_reason():
    """It stands after the reason, and that of another figure does not."""
    own, other = figure(0.9, caveat="of one chip"), figure(0.5, place=1, caveat="not this")
    assert verdict(own, other).reason == "the worst figure meets the bound with its whole interval; of one chip"


def test_an_interval_beyond_the_bound_that_does_not_refute_says_why():
    """At 95 % it violates the bound, at the level for many figures it does not: the reason does not claim a bound inside."""
    beyond = figure(1.2, 1.05, 1.35)
    found = decide(toy().claims[0], [], [claims.Tested(Measured(beyond, read(beyond)), read(figure(1.2, 0.95, 1.45)))])
    assert found[0] == "undetermined"
    assert found[2] == "its whole interval violates the bound, which one of so many figures may do by chance"


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


# -- what turns a verdict --------------------------------------------------------------------------------------------


WITHIN_ONE = Claim(metric=ERROR, at_most=1)


def reversed_by(judgement, *others, **about):
    found = bars(WITHIN_ONE, judgement, figure(0.5, alternatives=others, **about))
    return {b.assumption: b.reversed_by for b in found if b.reversed_by}


def test_a_case_reverses_a_verdict_only_with_its_whole_interval():
    """1.2 [1.1, 1.3] reverses what is supported, 0.8 [0.7, 0.9] what is refuted, 1.2 [0.9, 1.5] neither, and nothing
    what is undetermined."""
    others = (
        alternative("source", "wide", 1.2, 0.3),
        alternative("length", "long", 1.2, 0.1),
        alternative("length", "short", 0.9, 0.05),
        alternative("floor", "low", 0.8, 0.1),
    )
    assert reversed_by("supported", *others) == {"length": ("long",)}
    assert reversed_by("refuted", *others) == {"length": ("short",), "floor": ("low",)}
    assert reversed_by("undetermined", *others) == {}


def test_a_case_without_an_interval_reverses_only_what_is_counted():
    """A sampled figure of too few samples says nothing; a count, or an output that overflows, needs no interval."""
    bare = Alternative(assumption="source", other="bare", value=5.0)
    assert reversed_by("supported", bare) == {}
    assert reversed_by("supported", Alternative(assumption="tile", other="lost", value=None)) == {"tile": ("lost",)}
    counted = figure(0.5, alternatives=(bare,), **BYTES)
    assert bars(Claim(metric="traffic.hbm_bytes", at_most=1), "supported", counted)[0].reversed_by == ("bare",)


def test_bars_name_their_ends_and_the_longest_comes_first():
    """The least and the largest case of an assumption; those that reverse the verdict come before longer ones that do not.

    The figure itself is part of a bar, and a case that is not finite makes the longest.
    """
    others = (
        alternative("a", "one", 0.8),
        alternative("b", "one", 0.6),
        alternative("b", "two", 0.9, 0.05),
        alternative("b", "three", 0.1, 0.05),
        alternative("c", "one", 0.05),
        alternative("d", "one", 1.1),
        alternative("e", "one", 1.5),
        alternative("e", "lost", None),
    )
    found = bars(WITHIN_ONE, "supported", figure(0.5, 0.4, 0.6, alternatives=others))
    assert [b.assumption for b in found] == ["e", "d", "b", "c", "a"]
    ends = [(b.low, b.low_case, b.high, b.high_case) for b in found]
    assert ends[0] == (1.5, "one", None, "lost")
    assert ends[2] == (0.1, "three", 0.9, "two")
    assert found[0].reversed_by == ("one", "lost")
    lost = bars(WITHIN_ONE, "refuted", figure(None, None, None, alternatives=others))
    assert [b.assumption for b in lost if b.reversed_by] == ["a", "b", "c"]


def test_a_verdict_has_the_bars_of_its_deciding_figure():
    """Counted figures bring their cases; those of another covered figure are not shown."""
    cases = tuple(Alternative(assumption="tile", other="64", value=v) for v in (1.2,))
    own = figure(0.9, **BYTES, alternatives=cases)
    other = figure(
        0.5, **BYTES | {"workload": "llama-3-8b"}, alternatives=(cases[0].model_copy(update={"value": 7.0}),)
    )
    (bar,) = verdict(own, other, metric="traffic.hbm_bytes").bars
    assert (bar.assumption, bar.high, bar.reversed_by) == ("tile", 1.2, ("64",))
