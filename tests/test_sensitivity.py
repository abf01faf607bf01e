"""The deciding figure in other cases, and what is asked for break-evens, on toy evidence."""

from dataclasses import replace

import pytest
from toy_sweep import ERROR, PLAIN, figure, swept, toy

from codesign.evidence.casts.source import Delivered
from codesign.evidence.numerics.other_cases import other_cases, other_lengths, with_groups
from codesign.evidence.numerics.source import SOURCE, multiplying
from codesign.evidence.sampling import Sampling
from codesign.figures.figure import Alternative
from codesign.proposal.load import load_proposal
from codesign.proposal.proposal import Claim
from codesign.verdicts.break_even import sentences
from codesign.verdicts.claims import judge
from codesign.verdicts.sensitivity import _is_window, refine


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
    assert limits == {"normal data at K = 1536": 17, "uniform data at K = 16384": 21}
    assert {b.among for b in found.break_even} == {"1 to 40"}
    for tensors in ("normal", "uniform"):  # bisected: 40 values in 7 questions at most
        assert sum(q.tensors == tensors for q in lab.asked if bits(q) != 20) <= 7
    assert {(q.gemm.name, q.tensors) for q in lab.asked if bits(q) != 20} == {
        ("deepseek-v3.fprop.q-b", "normal"),
        ("deepseek-v3.fprop.o", "uniform"),
    }


def test_a_claim_that_worse_sums_keep_has_the_most_bits_that_keep_it():
    """An error of at least 1 is kept by up to 16 bits; of a claim with bounds on both sides no break-even is searched, unless
    they are those of a magnitude."""
    figures = [figure(1.5)]
    about = toy(PLAIN, workload="deepseek-v3.fprop.o", at_most=None, at_least=1.0)
    lab = Lab(lambda q: 1.5 if bits(q) <= 16 else 0.5)
    (found,) = refine(about, judge(about, figures), figures, lab)
    (one,) = found.break_even
    assert (one.limit, one.rising, one.among) == (16, False, "1 to 40")
    assert next(sentences([one])).startswith("stages.fuse.fraction_bits: 16 is the most that meets the bound")
    window = toy(PLAIN, at_most=2.0, at_least=1.0)
    assert refine(window, judge(window, figures), figures, lab)[0].break_even == ()
    bias = "numerics.bias"
    magnitude = toy(PLAIN, metric=bias, at_most=2.0, at_least=-2.0)
    figures = [figure(1.5, metric=bias)]
    (found,) = refine(magnitude, judge(magnitude, figures), figures, Lab(lambda q: 1.5, metric=bias))
    assert [one.limit for one in found.break_even] == [1]


def test_of_equally_bad_gemms_the_first_is_searched():
    """Two GEMMs with the same figure have one break-even, at the first of them."""
    about = toy(PLAIN, workload="deepseek-v3")
    figures = [figure(0.4), figure(0.4, workload="deepseek-v3.fprop.q-b")]
    (found,) = refine(about, judge(about, figures), figures, Lab(lambda q: 0.5))
    assert [b.condition for b in found.break_even] == ["normal data at K = 16384"]


def test_a_case_that_was_evaluated_already_is_not_computed_again():
    """Uniform data are among the proposal's tensors: their figure is taken as it is, others are asked for."""
    about = toy(PLAIN, workload="deepseek-v3.fprop.o", tensors="normal")
    figures = [figure(0.4), figure(0.75, tensors="uniform", half=0.25), figure(9.0, tensors="uniform", workload="gone")]
    lab = Lab(lambda q: 0.5)
    (found,) = refine(about, judge(about, figures), figures, lab)
    cases = {a.other: (a.value, a.low, a.high) for a in found.deciding.alternatives if a.assumption == "tensor source"}
    assert cases["uniform"] == (0.75, 0.5, 1.0)
    assert cases["outliers"] == (0.5, 0.5, 0.5)
    assert "outliers" in {q.tensors for q in lab.asked}
    assert "uniform" not in {q.tensors for q in lab.asked}


def test_other_cases_are_computed_on_half_of_the_seeds():
    """A case beside a figure takes half of the seeds, but enough for an interval; fresh figures and searches take theirs."""
    about = toy(PLAIN, workload="deepseek-v3")
    found = figure(0.2, tensors="normal")
    case, search = SOURCE.cases(about, about.claims[0], found)[0].question, SOURCE.again(about, about.claims[0], found)
    for seeds, left in ((16, 8), (40, 20), (10, 8), (4, 4)):
        sampling = Sampling(seeds=tuple(range(seeds)))
        assert case.sampled(sampling).seeds == sampling.seeds[:left]
        assert search.sampled(sampling).seeds == sampling.seeds
    assert case.data != search.data


def test_cases_that_the_evidence_has_are_kept():
    """A source that computes no further cases leaves the deciding figure's own, with their bars."""
    case = Alternative(assumption="tile", other="64", value=1.5)
    bytes_ = figure(0.5, metric="traffic.hbm_bytes", tensors="", workload="deepseek-v3", alternatives=(case,))
    about = toy(PLAIN, metric="traffic.hbm_bytes")
    (found,) = refine(about, judge(about, [bytes_]), [bytes_], Lab(lambda q: 0.5))
    assert found.deciding == bytes_
    assert [b.reversed_by for b in found.bars] == [("64",)]


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


def test_lengths_tried_are_those_of_a_gemm():
    """A quarter of K = 3 is no length, of K = 4 it is 1; four times K is tried up to the longest K of a workload."""
    gemm, _ = toy(PLAIN).trials[0]
    for k, others in ((1, [4]), (3, [12]), (4, [1, 16]), (2**18, [2**16, 2**20]), (10**6, [250_000])):
        assert [other.k for other in other_lengths(replace(gemm, k=k))] == others


def test_the_casts_tried_differ_from_the_proposals():
    """The other floor than the rule's, both if it has a third, and row-wise weights against blocks, whichever it has not."""
    about = toy(PLAIN)
    gemm, _ = about.trials[0]
    assert gemm.b == "weight"

    def casts(**rule):
        rule = about.rule.model_copy(update=rule)
        for case in other_cases("numerics.total_error", gemm, "normal", rule):
            if case.assumption == "outputs that share a weight's scale":
                yield case.other, case.rule.weight_columns, case.rule.floor == rule.floor
            elif case.rule != rule:
                yield case.other.split(" ")[0], case.rule.floor, case.rule.weight_columns == rule.weight_columns

    small, large = ("1e-30", 1e-30, True), ("1e-4", 1e-4, True)
    blocks, rows = ("128", 128, True), ("1", 1, True)
    assert list(casts(floor=1e-30, weight_columns=None)) == [large, blocks]
    assert list(casts(floor=1e-4, weight_columns=1)) == [small, blocks]
    assert list(casts(floor=1e-5, weight_columns=128)) == [small, large, rows]
    assert list(casts(floor=1e-4, weight_columns=2)) == [small, rows]


def test_scale_groups_are_tried_where_the_instruction_scales():
    """The search finds the coarsest group from which on all finer ones hold, without lengths that the stages forbid."""
    shipped = load_proposal("proposals/group-scaled-mma-ue8m0.yaml")
    claim = Claim(metric="numerics.total_error", at_most=1, workload="deepseek-v3.fprop.o", tensors="normal")
    about = shipped.model_copy(update={"claims": (claim,)})
    lab = Lab(lambda q: 1.5 if q.compared[0].instruction.scale.a.group[1] > 32 else 0.5, "numerics.total_error")
    figures = [figure(0.4, metric="numerics.total_error")]
    (found,) = refine(about, judge(about, figures), figures, lab)
    (groups,) = found.break_even
    assert (groups.parameter, groups.own, groups.limit, groups.rising) == (
        "elements of K that share a scale",
        32,
        32,
        False,
    )
    assert set(groups.tried) <= {"512", "256", "128", "64", "32", "16"}
    assert (groups.among, len(groups.tried) > 3) == ("", True)
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


@pytest.mark.parametrize(
    ("low", "high", "window"), [(None, 1.0, False), (0.5, None, False), (0.0, 1.0, True), (0.5, 1.0, True)]
)
def test_a_claim_with_bounds_on_both_sides_is_a_window(low, high, window):
    """So is one on a signed metric whose lower bound is not below zero."""
    assert _is_window(Claim(metric="numerics.quantisation_bias", at_least=low, at_most=high)) == window
