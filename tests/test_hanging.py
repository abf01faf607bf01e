"""The conditions of a verdict: break-even values and other assumptions, searched on toy evidence."""

from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from codesign.evidence.casts.source import Delivered
from codesign.evidence.numerics.other_cases import BITS, with_groups
from codesign.evidence.numerics.source import SOURCE, Multiplied, multiplying
from codesign.evidence.sampling import Sampling
from codesign.evidence.source import Question, Search
from codesign.figures.figure import Figure
from codesign.figures.words import listed
from codesign.proposal.load import load_proposal, parse_proposal
from codesign.proposal.proposal import Claim
from codesign.verdicts.break_even import _swept_value, cheapest, each, fewest, rising, sentences
from codesign.verdicts.claims import judge
from codesign.verdicts.questions import answer, asker
from codesign.verdicts.sensitivity import refine
from codesign.verdicts.verdict import BreakEven
from isa_model.diagnostics import parse_yaml

ERROR = "numerics.relative_frobenius"
TEXT = """proposal: toy
title: Toy
source: the tests
base: hopper.wgmma.m64n256k32.f32.e4m3.e4m3
change:
  stages:
    fuse: {fraction_bits: 20, result: {format: fp32, rounding: toward-zero}}
sweep: {field: stages.fuse.fraction_bits, values: [19, 13, 15, 17]}
workloads: [deepseek-v3.fprop.o, deepseek-v3.fprop.q-b, smollm2-135m.fprop.down]
tensors: [normal, uniform, captured]
claims:
  - {metric: numerics.relative_frobenius, at_most: 1}
"""


def toy(text=TEXT, **claim):
    made = parse_proposal(parse_yaml(text, "toy.yaml"))
    return made.model_copy(update={"claims": (Claim(**{"metric": ERROR, "at_most": 1.0} | claim),)})


def figure(value, at=None, tensors="normal", half=0.0, **more):
    about = {"metric": ERROR, "variant": "proposal", "workload": "deepseek-v3.fprop.o", "kind": "computed"}
    ends = {"low": value - half, "high": value + half}
    return Figure(**{**about, "source": "toy", "value": value, "at": at, "tensors": tensors, **ends, **more})


def swept(values, **more):
    """Return a figure at each swept value, and the proposal's own."""
    return [figure(0.1, **more), *(figure(v, at=at, **more) for at, v in values.items())]


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
        "stages.fuse.fraction_bits: 13 is the least that keeps the bound on normal data, the proposal has 20"
    )
    area = {"metric": "cost.area_ratio", "tensors": "", "workload": "", "kind": "modelled"}
    (cost,) = judge(toy(metric="cost.area_ratio"), swept({13: 0.1, 15: 0.2, 17: 1.5, 19: 1.6}, **area))[0].break_even
    assert (cost.limit, cost.rising, cost.condition) == (15, False, "")
    assert "15 is the most that keeps the bound, the proposal has" in next(sentences([cost]))
    (holes,) = judge(toy(), swept({13: 1.9, 15: 0.5, 17: 1.4, 19: 0.3}))[0].break_even
    assert holes.limit == 19
    assert next(sentences([holes])).endswith("the proposal has 20; 15 keeps it too, but not every value between does")
    both = swept({17: 0.9, 19: 0.5}) + swept({17: 1.1, 19: 0.9}, tensors="uniform")
    found = judge(toy(), both)[0].break_even
    assert [(b.condition, b.limit) for b in found] == [("normal data", 17), ("uniform data", 19)]


def test_a_swept_value_holds_where_its_worst_gemm_does_with_its_interval():
    """A swept value is judged by its worst figure and does not hold if undetermined; a claim at a value is of that value."""
    figures = swept({17: 0.9, 19: 0.2}) + swept({17: 1.0, 19: 0.3}, workload="deepseek-v3.fprop.q-b", half=0.1)
    (found,) = judge(toy(at=19), figures)[0].break_even
    assert (found.limit, found.own, found.tried) == (19, 19, {"17": 1.0, "19": 0.3})
    assert next(sentences([found])).endswith("on normal data, the proposal's own value")
    assert judge(toy(of="today"), figures)[0].break_even == ()
    assert judge(toy(metric="cast.relative_error"), figures)[0].break_even == ()


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
        "stages.fuse.rounding: toward-zero and down keep the bound on normal data, up does not; the proposal "
        "has toward-zero"
    )


def test_break_even_in_words():
    """Sentences state the values searched rather than those tried, the most for costs, and lists as lists."""
    about = {"parameter": "bits", "own": 20, "limit": None, "tried": {"40": 2.0}}
    assert list(sentences([BreakEven(**about, among="1 to 40")])) == ["bits: no value from 1 to 40 keeps the bound"]
    assert list(sentences([BreakEven(**about)])) == ["bits: 40, the only value tried, does not keep the bound"]
    two = BreakEven(**about | {"tried": {"13": 3.0, "40": 2.0}})
    assert list(sentences([two])) == ["bits: no value from 13 to 40 keeps the bound"]
    tried = about | {"tried": {"13": 3.0, "20": 2.5, "40": 2.0}, "condition": "normal data"}
    assert list(sentences([BreakEven(**tried)])) == ["bits: no value from 13 to 40 keeps the bound on normal data"]
    cost = BreakEven(parameter="p", own=1, limit=2, tried={}, holds=("1", "2", "5", "9"), rising=False)
    assert list(sentences([cost])) == [
        "p: 2 is the most that keeps the bound, the proposal has 1; 5 and 9 keep it too, but not every value between does"
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
    assert (nothing.limit, asked, nothing.holds) == (None, [40], ())


def test_trying_each_value_finds_the_cheapest():
    """Trying each value finds the largest group or the fewest bits from which on all better ones hold."""
    claim = Claim(metric=ERROR, at_most=1)
    values = {512: 2.0, 256: 0.5, 128: 1.5, 64: 0.4, 16: 0.1}
    found, asked = run(each(claim, Search("groups", 128, "c", list(values), None, rising=False)), values.get)
    assert (found.limit, found.holds, found.rising, asked) == (64, ("16", "64", "256"), False, list(values))
    assert found.tried == {"16": 0.1, "64": 0.4, "128": 1.5, "256": 0.5, "512": 2.0}
    found, _ = run(each(claim, Search("bits", 8, "c", (3, 4, 5), None)), {3: 2.0, 4: 0.5, 5: 0.1}.get)
    assert (found.parameter, found.own, found.limit, found.condition, found.rising) == ("bits", 8, 4, "c", True)


# -- what is asked ---------------------------------------------------------------------------------------------------


class Lab:
    """Answers questions by a rule of instruction, tensors and GEMM, and keeps the questions."""

    def __init__(self, rule, metric=ERROR, half=0.0):
        self.rule, self.metric, self.half, self.asked = rule, metric, half, []

    def __call__(self, questions):
        self.asked += questions
        return [[self.figures(q)] * len(q.levels) for q in questions]

    def figures(self, q):
        variants = [(c.variant, c.at) for c in getattr(q, "compared", ())] or [("proposal", None), ("software", None)]
        about = {"metric": self.metric, "workload": q.gemm.name, "tensors": q.tensors, "half": self.half}
        return [figure(self.rule(q) if v == "proposal" else 1.0, at, **about | {"variant": v}) for v, at in variants]


def bits(question):
    return question.compared[0].instruction.stages["fuse"].fraction_bits


PLAIN = "\n".join(line for line in TEXT.splitlines() if not line.startswith("sweep")) + "\n"


def test_fraction_bits_are_searched_at_the_worst_gemm_of_each_source():
    """The search finds 17 bits on normal and 21 on uniform data, each with its condition and at its own GEMM."""
    about = toy(PLAIN, workload="deepseek-v3")
    figures = [
        figure(0.2, tensors="normal"),
        figure(0.4, tensors="normal", workload="deepseek-v3.fprop.q-b"),
        figure(0.6, tensors="uniform"),
        figure(0.5, tensors="uniform", workload="deepseek-v3.fprop.q-b"),
    ]
    lab = Lab(lambda q: 0.5 if bits(q) >= {"normal": 17, "uniform": 21}.get(q.tensors, 0) else 1.5)
    (found,) = refine(about, judge(about, figures), figures, lab)
    limits = {b.condition: b.limit for b in found.break_even}
    assert limits == {"normal data, K = 1536": 17, "uniform data, K = 16384": 21}
    assert {(q.gemm.name, q.tensors) for q in lab.asked if bits(q) != 20} == {
        ("deepseek-v3.fprop.q-b", "normal"),
        ("deepseek-v3.fprop.o", "uniform"),
    }


def test_bars_are_computed_with_their_intervals_and_turn_only_beyond_them():
    """Bars vary the tensor source and the length of K.

    Captured tensors are left out if the GEMM has none, and casts if sums are claimed.
    """
    about = toy(PLAIN, workload="deepseek-v3")
    figures = [figure(0.2)]
    lab = Lab(lambda q: {"uniform": 1.2}.get(q.tensors, 1.05 if q.gemm.k > 20000 else 0.5), half=0.1)
    (found,) = refine(about, judge(about, figures), figures, lab)
    others = {(a.assumption, a.other): (a.value, a.low, a.high) for a in found.deciding.alternatives}
    assert others["tensor source", "uniform"] == pytest.approx((1.2, 1.1, 1.3))
    assert others["length of the sums", "K = 65536"] == pytest.approx((1.05, 0.95, 1.15))
    assert others["length of the sums", "K = 4096"] == pytest.approx((0.5, 0.4, 0.6))
    assert {a for a, _ in others} == {"tensor source", "length of the sums"}
    assert not any(o in ("normal", "captured") or o.startswith("outliers-") for _, o in others)
    assert [(b.assumption, b.reversed_by) for b in found.bars] == [
        ("tensor source", ("uniform",)),
        ("length of the sums", ()),
    ]
    lengths = [q.gemm.k for q in lab.asked if q.gemm.k != 16384]
    assert lengths == [4096, 65536]


def test_a_claim_on_what_quantisation_does_is_tried_with_other_casts():
    """A claim on quantisation is tried with another floor, weights scaled per row, other outliers, and captured tensors."""
    about = toy(PLAIN.replace("[normal, uniform, captured]", "[outliers, captured]"), metric="numerics.total_error")
    there = {"metric": "numerics.total_error", "workload": "smollm2-135m.fprop.down"}
    for tensors, wanted in (
        ("outliers", {"tensor source", "size of outliers", "length of the sums", "least max-abs of a group",
                      "outputs that share a weight's scale"}),
        ("captured", {"tensor source", "least max-abs of a group", "outputs that share a weight's scale"}),
    ):  # fmt: skip
        figures = [figure(0.2, tensors=tensors, **there)]
        lab = Lab(lambda q: 0.5, metric="numerics.total_error")
        (found,) = refine(about, judge(about, figures), figures, lab)
        assert {a.assumption for a in found.deciding.alternatives} == wanted
        rules = [q.proposal.quantisation for q in lab.asked]
        assert {r.floor for r in rules} == {1e-30, 1e-4}
        assert {r.weight_columns for r in rules} == {None, 1, 128}
        floored = about.model_copy(update={"quantisation": about.quantisation.model_copy(update={"floor": 1e-4})})
        (other,) = refine(floored, judge(floored, figures), figures, lab)
        assert "1e-30" in {a.other for a in other.deciding.alternatives}
        captured = [a for a in found.deciding.alternatives if a.other == "captured"]
        assert len(captured) == (tensors == "outliers")


def test_scale_groups_are_tried_where_the_instruction_scales():
    """The search finds the coarsest group from which on all finer ones hold, without lengths that the stages forbid."""
    shipped = load_proposal("proposals/group-scaled-mma-ue8m0.yaml")
    claim = Claim(metric="numerics.total_error", at_most=1, workload="deepseek-v3.fprop.o", tensors="normal")
    about = shipped.model_copy(update={"claims": (claim,)})
    lab = Lab(lambda q: 1.5 if q.compared[0].instruction.scale.a.group[1] > 32 else 0.5, "numerics.total_error")
    figures = [figure(0.4, metric="numerics.total_error")]
    (found,) = refine(about, judge(about, figures), figures, lab)
    (groups,) = found.break_even
    assert (groups.parameter, groups.own, groups.limit, groups.rising) == ("scale groups along K", 32, 32, False)
    assert set(groups.tried) <= {"512", "256", "128", "64", "32", "16"}
    assert with_groups(about.proposed(), 32) == about.proposed()
    for side in ("a", "b"):
        change = about.change | {"scale": {side: about.change["scale"][side]}}
        one_sided = about.model_copy(update={"change": change})
        assert one_sided.proposed().scale is not None
        anything = Lab(lambda q: 0.5, "numerics.total_error")
        assert refine(one_sided, judge(one_sided, figures), figures, anything)[0].break_even == ()
    scaled_after = load_proposal("proposals/group-scaled-mma.yaml").proposed()
    assert with_groups(scaled_after, 256).scale.b.group == (256, 1)
    assert with_groups(scaled_after, 16) is None


PATH = """proposal: toy
title: Toy
source: the tests
base: hopper.wgmma.m64n256k32.f32.e4m3.e4m3
path: {operands: [activation], steps: [{at: dispatch, STEP}]}
workloads: [deepseek-v3.fprop.o]
tensors: [normal]
claims:
  - {metric: cast.relative_error, at_most: 1}
"""


@pytest.mark.parametrize(
    ("step", "parameter", "own", "limit"),
    [
        ("logfmt: 8", "bits of LogFMT", 8, 6),
        ("to: e4m3, scale: ue8m0, group: [1, 128]", "elements that share a scale", 128, 64),
        ("to: e4m3, scale: ue8m0, group: [128, 1]", "elements that share a scale", 128, 64),
    ],
)
def test_the_last_step_of_a_path_is_tried_with_other_bits_or_groups(step, parameter, own, limit):
    """The last step of a path is tried with fewer bits of LogFMT, and with longer groups along their longer side."""
    about = toy(PATH.replace("STEP", step), metric="cast.relative_error")
    metric = "cast.relative_error"

    def rule(q):
        last = q.proposal.path.steps[-1]
        return 0.5 if (last.logfmt or 0) >= 6 or 1 < max(last.group or (0,)) <= 64 else 1.5

    lab = Lab(rule, metric)
    figures = [figure(0.4, metric=metric)]
    (found,) = refine(about, judge(about, figures), figures, lab)
    (tried,) = found.break_even
    assert (tried.parameter, tried.own, tried.limit) == (parameter, own, limit)
    assert all((type(q), q.base) == (Delivered, None) for q in lab.asked)
    groups = {q.proposal.path.steps[-1].group for q in lab.asked}
    if "[1" in step:
        assert all(1 in g and (g[0] == 1) == ("[1, 128]" in step) for g in groups)
    assert {a.assumption for a in found.deciding.alternatives} == {"tensor source"}


def test_only_the_last_step_of_a_path_is_changed():
    """Earlier steps stay, the claimed ratio is asked for, and blocks of both sides have no length to vary."""
    step = "to: e5m6, scale: ue8m0, group: [1, 128]}, {at: dispatch, to: e5m6, scale: ue8m0}, {at: dispatch, logfmt: 8"
    metric = "cast.relative_error"
    about = toy(PATH.replace("STEP", step), metric=metric, relative_to="software")
    figures = [figure(0.4, metric=metric), figure(0.5, metric=metric, variant="software")]
    lab = Lab(lambda q: 0.5, metric)
    (found,) = refine(about, judge(about, figures), figures, lab)
    assert found.break_even[0].limit == 3
    assert {q.base for q in lab.asked} == {"software"}
    tried = {q.proposal.path.steps[:-1] for q in lab.asked}
    assert tried == {about.path.steps[:-1]}
    blocks = toy(PATH.replace("STEP", "to: e4m3, scale: ue8m0, group: [128, 128]"), metric=metric)
    figures = [figure(0.4, metric=metric)]
    assert refine(blocks, judge(blocks, figures), figures, Lab(lambda q: 0.5, metric))[0].break_even == ()


def test_an_instruction_without_alignment_or_scales_has_nothing_to_search():
    """Exact or rounded sums have no fraction bits to search, and instructions without scales no groups."""
    text = PLAIN.replace("hopper.wgmma.m64n256k32.f32.e4m3.e4m3", "cdna2.mfma.f32_32x32x8f16")
    text = "".join(line + "\n" for line in text.splitlines() if not line.startswith(("change", "  stages", "    fuse")))
    for metric in (ERROR, "numerics.total_error"):
        about = toy(text, metric=metric)
        figures = [figure(0.4, metric=metric)]
        assert refine(about, judge(about, figures), figures, Lab(lambda q: 0.5, metric))[0].break_even == ()


def test_other_verdicts_stay_as_they_are():
    """Nothing is searched for costs, for today's instruction, for a sweep's own values, or for the sums of a path."""
    area = figure(0.5, metric="cost.area_ratio", tensors="", workload="", kind="modelled")
    about = toy(PLAIN, metric="cost.area_ratio")
    lab = Lab(lambda q: 0.5)
    assert refine(about, judge(about, [area]), [area], lab) == judge(about, [area])
    assert lab.asked == []
    today = toy(PLAIN, of="today")
    figures = [figure(0.5, variant="today")]
    assert refine(today, judge(today, figures), figures, Lab(lambda q: 0.5))[0].break_even == ()
    told = toy()
    figures = [figure(0.5), *swept({13: 0.5, 19: 0.2})]
    verdicts = judge(told, figures)
    assert refine(told, verdicts, figures, Lab(lambda q: 0.5))[0].break_even == verdicts[0].break_even != ()
    carried = toy(PATH.replace("STEP", "logfmt: 8"), metric="numerics.total_error")
    figures = [figure(0.5, metric="numerics.total_error")]
    (found,) = refine(carried, judge(carried, figures), figures, Lab(lambda q: 0.5, "numerics.total_error"))
    assert found.break_even == ()
    assert found.bars != ()
    gone = [figure(0.5, workload="gone")]
    assert refine(toy(PLAIN), judge(toy(PLAIN), gone), gone, Lab(lambda q: 0.5)) == judge(toy(PLAIN), gone)
    nothing = toy(PLAIN)
    assert refine(nothing, judge(nothing, []), [], lab)[0].deciding is None


def test_another_instruction_takes_the_place_of_the_proposals():
    """Another instruction replaces the proposal's; software stays, and an exact accumulator follows the proposal's operands."""
    from codesign.evidence.numerics.curves import with_bits

    about = toy(PLAIN, relative_to="software")
    (gemm, _), claim = about.trials[0], about.claims[0]
    other = with_bits(about.proposed(), "fuse", 33)
    there = figure(0.5, workload=gemm.name)
    question = multiplying(SOURCE.again(about, claim, there), other)
    assert (question.proposal, question.gemm, question.tensors, question.base) == (about, gemm, "normal", "software")
    assert [c.instruction for c in question.compared] == [other, about.software_instruction]
    exact = multiplying(SOURCE.again(about, claim.model_copy(update={"of": "exact"}), there), other)
    assert next((c.variant, c.instruction) for c in exact.compared) == ("exact", other)


def test_questions_are_answered_by_the_model():
    """Answers have the figures of the variants asked for at each level, on the sampling's seeds or twice as many fresh ones."""
    about = toy(PLAIN)
    gemm, _ = about.trials[0]
    from codesign.proposal.variants import variants

    compared = tuple(c for c in variants(about) if c.variant in ("proposal", "software"))
    sampling = Sampling(rows=4, columns=8, seeds=tuple(range(8)))
    question = Multiplied(about, gemm, "normal", "software", compared=compared, levels=(0.95, 0.5))
    ((wide, narrow),) = answer(sampling, question)
    key = [(f.metric, f.variant) for f in wide]
    assert key == [(f.metric, f.variant) for f in narrow]
    assert {v for _, v in key} == {"proposal", "software"}
    for a, b in zip(wide, narrow, strict=True):
        assert a.value == b.value
        if a.metric == ERROR and a.variant == "proposal":
            assert a.low < b.low < a.value < b.high < a.high
            assert set(a.ratios) == {"software"}
    ((fresh,),) = answer(sampling, Multiplied(about, gemm, "normal", "software", compared=compared, fresh=True))
    ((direct,),) = answer(
        sampling.model_copy(update={"seeds": tuple(range(8, 24))}),
        Multiplied(about, gemm, "normal", "software", compared=compared),
    )
    assert fresh == direct != wide
    ((plain,),) = answer(sampling, Multiplied(about, gemm, "normal", compared=compared))
    assert all(f.ratios == {} for f in plain)


def test_questions_on_the_same_data_are_answered_together():
    """Tensors are drawn once for all questions on them, the longest first, and answers come in the order asked."""

    together = []

    class Counted(Question):
        @classmethod
        def answers(cls, questions, sampling):
            together.append([q.gemm.k for q in questions])
            return [[[figure(q.gemm.k)]] for q in questions]

    about = toy(PLAIN)
    trials = [about.trials[i] for i in (0, 2, 0)]
    with ThreadPoolExecutor(1) as executor:
        found = asker(Sampling(), executor)([Counted(about, g, "normal") for g, _ in trials])
    same, other = trials[0][0].k, trials[1][0].k
    assert together == sorted([[same, same], [other]], reverse=True)
    assert [f[0][0].value for f in found] == [same, other, same]
