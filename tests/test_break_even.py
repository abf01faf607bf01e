"""Break-even values, over a sweep and by search, on toy evidence."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
from toy_sweep import ERROR, TEXT, figure, swept, toy

from codesign.evidence.numerics.other_cases import BITS
from codesign.evidence.source import Search
from codesign.figures.words import listed
from codesign.proposal.parts import Sweep
from codesign.proposal.proposal import Claim
from codesign.verdicts.break_even import _swept_value, cheapest, each, fewest, rising, sentences
from codesign.verdicts.claims import judge
from codesign.verdicts.verdict import BreakEven

# -- the rule --------------------------------------------------------------------------------------------------------


def test_the_cheapest_value_is_the_first_from_which_on_all_better_ones_hold():
    """The cheapest value is the first from which on all better ones hold; there is none if the best does not hold."""
    order = [13, 15, 17, 19]
    assert cheapest(order, order) == 13
    assert cheapest(order, [15, 19]) == 19
    assert cheapest(order, [15, 17, 19]) == 15
    assert cheapest(order, []) is None
    assert cheapest(order, [13, 15, 17]) is None


@pytest.mark.parametrize(
    ("claim", "up"),
    [
        ({"metric": ERROR, "at_most": 1}, True),
        ({"metric": ERROR, "at_least": 1}, False),
        ({"metric": ERROR, "at_least": 1, "at_most": 2}, True),
        ({"metric": "numerics.sqnr_db", "at_least": 1}, True),
        ({"metric": "numerics.sqnr_db", "at_most": 1}, False),
        ({"metric": "cost.area_ratio", "at_most": 1}, False),
        ({"metric": "cost.area_ratio", "at_least": 1}, True),
        ({"metric": "timing.speedup_over_software", "at_least": 1}, False),
        ({"metric": "training.loss_gap", "at_most": 1}, True),
    ],
)
def test_more_bits_help_accuracy_and_hurt_costs(claim, up):
    """More bits improve accuracy and worsen costs; a bound on the metric's other side is helped by the opposite."""
    assert rising(Claim(**claim)) == up


def test_a_break_even_over_a_sweep_follows_the_metric():
    """If 13 to 19 all hold, the break-even is 13 for an error and 19 for an area.

    A gap is shown, and each tensor source has its own.
    """
    (found,) = judge(toy(), swept({13: 0.9, 15: 0.5, 17: 0.4, 19: 0.3}))[0].break_even
    assert (found.limit, found.holds, found.rising) == (13, ("13", "15", "17", "19"), True)
    assert (found.parameter, found.own, list(found.tried)) == (
        "stages.fuse.fraction_bits",
        20,
        ["13", "15", "17", "19"],
    )
    assert next(sentences([found])) == (
        "stages.fuse.fraction_bits: 13 is the least that meets the bound on normal data, the proposal has 20"
    )
    area = {"metric": "cost.area_ratio", "tensors": "", "workload": "", "kind": "modelled"}
    (cost,) = judge(toy(metric="cost.area_ratio"), swept({13: 0.1, 15: 0.2, 17: 1.5, 19: 1.6}, **area))[0].break_even
    assert (cost.limit, cost.rising, cost.condition) == (15, False, "")
    assert "15 is the most that meets the bound, the proposal has" in next(sentences([cost]))
    (holes,) = judge(toy(), swept({13: 1.9, 15: 0.5, 17: 1.4, 19: 0.3}))[0].break_even
    assert holes.limit == 19
    assert next(sentences([holes])).endswith("the proposal has 20; 15 meets it too, but not every value between does")
    both = swept({17: 0.9, 19: 0.5}) + swept({17: 1.1, 19: 0.9}, tensors="uniform")
    found = judge(toy(), both)[0].break_even
    assert [(b.condition, b.limit) for b in found] == [("normal data", 17), ("uniform data", 19)]


def test_a_swept_value_holds_where_its_worst_gemm_does_with_its_interval():
    """A swept value is judged by its worst figure and does not hold if undetermined; a claim at a value is of that value."""
    figures = swept({17: 0.9, 19: 0.2}) + swept({17: 1.0, 19: 0.3}, workload="deepseek-v3.fprop.q-b", half=0.1)
    (found,) = judge(toy(at=19), figures)[0].break_even
    assert (found.limit, found.own, found.tried) == (19, 19, {"17": 1.0, "19": 0.3})
    assert next(sentences([found])).endswith("on normal data, the proposal's own value")
    assert judge(toy(metric="cast.relative_error"), figures)[0].break_even == ()
    today = [figure(0.5, variant="today"), *figures]
    assert [v.break_even for v in judge(toy(of="today"), today)] == [()]
    narrow = judge(toy(workload="deepseek-v3.fprop.o"), figures)[0].break_even[0]
    assert (narrow.limit, narrow.tried) == (17, {"17": 0.9, "19": 0.2})


def test_variants_that_change_several_fields_have_no_own_value():
    """Named changes, and two sweeps combined, are compared with the proposal as a whole; values that have names are listed."""
    field = "sweep: {field: stages.fuse.fraction_bits, values: [19, 13, 15, 17]}"
    changes = (
        "sweep: {changes: {few: {stages: {fuse: {fraction_bits: 13}}}, many: {stages: {fuse: {fraction_bits: 25}}}}}"
    )
    (found,) = judge(toy(TEXT.replace(field, changes)), swept({"few": 1.5, "many": 0.5}))[0].break_even
    assert (found.parameter, found.own, found.limit, found.holds) == ("change", "own", None, ("many",))
    mixed = Sweep(changes={bits: {"stages": {"fuse": {"fraction_bits": 13}}} for bits in (13, "many")})
    (found,) = judge(toy().model_copy(update={"sweep": mixed}), swept({13: 0.4, "many": 0.5}))[0].break_even
    assert (found.limit, found.holds) == (None, ("13", "many"))
    across = field.replace("17]}", "17], across: {field: stages.fuse.rounding, values: [down, up]}}")
    text = TEXT.replace(field, across).replace("fraction_bits: 20,", "fraction_bits: 20, rounding: toward-zero,")
    (found,) = judge(toy(text), swept({"13, down": 1.5, "13, up": 0.5}))[0].break_even
    assert (found.parameter, found.own) == ("stages.fuse.fraction_bits and stages.fuse.rounding", "own")
    assert found.tried == {"13, down": 1.5, "13, up": 0.5}


def test_values_without_an_order_have_no_cheapest_one():
    """Formats and rounding modes have no order, so the ones that hold are listed."""
    text = TEXT.replace("fraction_bits, values: [19, 13, 15, 17]", "rounding, values: [toward-zero, down, up]")
    text = text.replace("fraction_bits: 20,", "fraction_bits: 20, rounding: toward-zero,")
    (found,) = judge(toy(text), swept({"toward-zero": 0.5, "down": 0.4, "up": 1.5}))[0].break_even
    assert (found.limit, found.own, type(found.own)) == (None, "toward-zero", str)
    spelled = SimpleNamespace(model_dump=lambda mode: {"a": {"format": {"mode": mode}}})
    about = SimpleNamespace(proposed=lambda: spelled, sweep=SimpleNamespace(field="a.format", across=None))
    assert _swept_value(about) == "{'mode': 'json'}"
    assert next(sentences([found])) == (
        "stages.fuse.rounding: toward-zero and down meet the bound on normal data, up does not; the proposal "
        "has toward-zero"
    )
    (one,) = judge(toy(text), swept({"toward-zero": 1.5, "down": 0.4, "up": 1.5}))[0].break_even
    assert next(sentences([one])) == (
        "stages.fuse.rounding: down meets the bound on normal data, toward-zero and up do not; the proposal has toward-zero"
    )


def test_names_of_two_sweeps_are_told_apart_in_a_list():
    """The comma within `e6m9, nearest` would read as one between names; the proposal's own change has no name to give."""
    both = Sweep(changes={"e6m9": {}, "e8m13": {}}, across=Sweep(changes={"nearest": {}, "up": {}}))
    assert both.about == "change"
    tried = dict.fromkeys(both.points, 1.0)
    found = BreakEven(
        parameter=both.about,
        own="own",
        limit=None,
        tried=tried,
        holds=("e6m9, nearest", "e8m13, nearest"),
        condition="d",
    )
    assert list(sentences([found])) == [
        "change: e6m9 nearest and e8m13 nearest meet the bound on d, e6m9 up and e8m13 up do not"
    ]


def test_break_even_in_words():
    """Sentences state the values searched rather than those tried, the most for costs, and lists as lists."""
    about = {"parameter": "bits", "own": 20, "limit": None, "tried": {"40": 2.0}}
    searched = BreakEven(**about, among="1 to 40")
    assert list(sentences([searched])) == ["bits: 40, tried of 1 to 40, does not meet the bound"]
    searched = BreakEven(**about | {"tried": {"20": 2.0, "40": 2.0}}, among="1 to 40")
    assert list(sentences([searched])) == ["bits: 20 and 40, tried of 1 to 40, do not meet the bound"]
    assert list(sentences([BreakEven(**about)])) == ["bits: 40, the only value tried, does not meet the bound"]
    two = BreakEven(**about | {"tried": {"13": 3.0, "40": 2.0}})
    assert list(sentences([two])) == ["bits: no value from 13 to 40 meets the bound"]
    tried = about | {"tried": {"13": 3.0, "20": 2.5, "40": 2.0}, "condition": "normal data"}
    assert list(sentences([BreakEven(**tried)])) == ["bits: no value from 13 to 40 meets the bound on normal data"]
    cost = BreakEven(parameter="p", own=1, limit=2, tried={}, holds=("1", "2", "5", "9"), rising=False)
    assert list(sentences([cost])) == [
        "p: 2 is the most that meets the bound, the proposal has 1; 5 and 9 meet it too, but not every value between does"
    ]
    assert [listed(w) for w in (["a"], ["a", "b"], ["a", "b", "c"], [])] == ["a", "a and b", "a, b and c", ""]


# -- the searches ----------------------------------------------------------------------------------------------------


class There:
    def __init__(self, value):
        from codesign.verdicts.readings import Reading

        self.figure, self.reading = figure(value), Reading.point(value)


def run(search, rule):
    asked = []
    value = next(search)
    while True:
        asked.append(value)
        try:
            value = search.send(There(rule(value)))
        except StopIteration as end:
            return end.value, asked


@pytest.mark.parametrize("limit", [1, 2, 7, 20, 39, 40])
def test_bisection_finds_the_least_number_that_keeps_the_bound(limit):
    """Bisection finds the least number in few trials wherever it is, and reports the trials."""
    claim = Claim(metric=ERROR, at_most=1)
    search = Search("bits", 20, "normal data", BITS, None, bisected=True)
    found, asked = run(fewest(claim, search), lambda n: 0.5 if n >= limit else 1.5)
    assert (found.limit, found.own, found.condition, found.among) == (limit, 20, "normal data", "1 to 40")
    assert len(asked) <= 7
    assert list(found.tried) == [str(n) for n in sorted(asked)]
    assert found.holds == tuple(str(n) for n in sorted(asked) if n >= limit)
    nothing, asked = run(fewest(claim, search), lambda n: 1.5)
    assert (nothing.limit, asked, nothing.holds) == (None, [40, 20], ())


def test_a_value_that_keeps_the_bound_where_the_last_one_does_not_is_named():
    """In front of a narrow register 13 bits may meet a bound that 40 do not; without a value of its own 40 alone is tried."""
    claim = Claim(metric=ERROR, at_most=1)
    search = Search("bits", 13, "normal data", BITS, None, bisected=True)
    found, asked = run(fewest(claim, search), lambda n: 0.5 if n == 13 else 1.5)
    assert (found.limit, found.holds, asked) == (None, ("13",), [40, 13])
    assert next(sentences([found])) == "bits: 13 meets the bound on normal data, 40 does not; the proposal has 13"
    for own in (40, 64, "all"):
        _, asked = run(fewest(claim, replace(search, own=own)), lambda n: 1.5)
        assert asked == [40]


def test_trying_each_value_finds_the_cheapest():
    """Trying each value finds the largest group or the fewest bits from which on all better ones hold."""
    claim = Claim(metric=ERROR, at_most=1)
    values = {512: 2.0, 256: 0.5, 128: 1.5, 64: 0.4, 16: 0.1}
    found, asked = run(each(claim, Search("groups", 128, "c", list(values), None, rising=False)), values.get)
    assert (found.limit, found.holds, found.rising, asked) == (64, ("16", "64", "256"), False, list(values))
    assert found.tried == {"16": 0.1, "64": 0.4, "128": 1.5, "256": 0.5, "512": 2.0}
    found, _ = run(each(claim, Search("bits", 8, "c", (3, 4, 5), None)), {3: 2.0, 4: 0.5, 5: 0.1}.get)
    assert (found.parameter, found.own, found.limit, found.condition, found.rising) == ("bits", 8, 4, "c", True)
