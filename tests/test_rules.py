"""Rules of thumb: each speaks where its figure says so, and is silent elsewhere."""

from types import SimpleNamespace

import numpy as np
import pytest

import codesign
from codesign.evidence.sampling import Sampling
from codesign.figures.figure import Figure, Plot, Series
from codesign.proposal.proposal import Claim
from codesign.proposal.shipped import names
from codesign.report import rules
from codesign.verdicts.verdict import Bar, BreakEven, Verdict
from isa_model import load

TOTAL, SUMS, QUANTISED = "numerics.total_error", "numerics.relative_frobenius", "numerics.quantisation_error"


def figure(metric, value, variant="proposal", workload="llama.fprop.o", half=0.0, **more):
    about = {"tensors": "normal", "kind": "computed", "source": "toy", "low": value - half, "high": value + half}
    return Figure(**{"metric": metric, "variant": variant, "workload": workload, "value": value, **about, **more})


def verdict(judgement, deciding=None, bound=1.0, metric=SUMS, **more):
    claim = Claim(metric=metric, at_most=bound)
    return Verdict(
        claim=claim, statement=f"{metric} at most {bound}", judgement=judgement, reason="", deciding=deciding, **more
    )


def bits(own, limit, condition="normal data", **more):
    return BreakEven(
        parameter="stages.fuse.fraction_bits", own=own, limit=limit, tried={"1": 1.0}, condition=condition, **more
    )


def result(*figures, verdicts=(), plots=(), name="mine", proposed=None):
    return SimpleNamespace(
        proposed=proposed or load("hopper.wgmma.m64n256k32.f32.e4m3.e4m3"),
        figures=figures,
        verdicts=verdicts,
        evidence=(SimpleNamespace(plots=plots),),
        sampling=Sampling(),
        proposal=SimpleNamespace(proposal=name, multiplies_as_today=False, in_slices=False, inputs="bf16"),
    )


def said(rule, found):
    return [advice.text for advice in rule(found)]


def test_more_bits_that_would_keep_a_refuted_claim_are_named():
    """The value that keeps the claim on all data counts; a claim that holds, or that no value keeps, needs none."""
    need = (bits(13, 14), bits(13, 15, "outliers data"))
    (text,) = said(rules.within_reach, result(verdicts=(verdict("supported"), verdict("refuted", break_even=need))))
    assert text == (
        "Claim 2 would hold with stages.fuse.fraction_bits 15 (2 more) instead of 13 on normal data and outliers data."
    )
    assert said(rules.within_reach, result(verdicts=(verdict("supported", break_even=need),))) == []
    none = (bits(13, 14), bits(13, None, "outliers data"))
    assert said(rules.within_reach, result(verdicts=(verdict("refuted", break_even=none),))) == []
    open_claim = verdict("undetermined", break_even=(bits(25, 11),))  # its own 25 bits keep it; samples are missing
    assert said(rules.within_reach, result(verdicts=(open_claim,))) == []


def test_fewer_bits_that_would_keep_a_claim_on_cost_are_fewer():
    """A claim on area is kept by smaller values, which are no more bits."""
    need = bits(17, 15, "", rising=False)
    (text,) = said(rules.within_reach, result(verdicts=(verdict("refuted", break_even=(need,)),)))
    assert text == "Claim 1 would hold with stages.fuse.fraction_bits 15 (2 fewer) instead of 17."


def test_lengths_of_one_source_are_named_together():
    """A claim on two GEMMs of three sources would otherwise repeat every source."""
    found = [bits(25, 20, f"{data} data at K = {k}") for k in (4096, 512) for data in ("normal", "outliers")]
    (text,) = said(rules.unused_precision, result(verdicts=(verdict("supported", break_even=tuple(found)),)))
    assert text.endswith("claim 1 on normal data at K = 4096 and 512 and outliers data at K = 4096 and 512.")


def test_a_register_that_limits_the_sums_is_named():
    """Hopper's sums leave in 13 bits, whatever its fraction bits; an FP32 register, or bits that help, limit nothing."""
    none = verdict("refuted", break_even=(bits(13, None), bits(13, 14, "outliers data")))
    hopper = load("hopper.wgmma.m64n256k32.f32.e4m3.e4m3")
    (text,) = said(rules.register_limits, result(verdicts=(none,), proposed=hopper))
    assert text.startswith(
        "More fraction bits alone do not make claim 1 hold on all data, because stage fuse rounds to e8m13"
    )
    blackwell = load("blackwell.tcgen05.m128n128k32.kind::f8f6f4.f32.e4m3.e4m3")
    assert said(rules.register_limits, result(verdicts=(none,), proposed=blackwell)) == []
    helped = verdict("refuted", break_even=(bits(13, 14),))
    held = verdict("supported", break_even=(bits(13, None),))
    assert said(rules.register_limits, result(verdicts=(helped, held), proposed=hopper)) == []


def test_a_smaller_group_that_would_keep_a_claim_is_no_number_of_bits():
    """Of a parameter whose smaller values are better, the smallest that is needed counts."""
    group = BreakEven(parameter="elements that share a scale", own=128, limit=64, tried={"64": 1.0}, rising=False)
    (text,) = said(rules.within_reach, result(verdicts=(verdict("refuted", break_even=(group,)),)))
    assert text == "Claim 1 would hold with elements that share a scale 64 instead of 128."


def test_bits_that_no_claim_needs_are_named_with_their_area():
    """The most demanding claim counts; a claim on them that does not hold forbids it."""
    areas = (figure("cost.area_ratio", 2.0), figure("cost.area_ratio", 1.5, at=17))
    held = (verdict("supported", break_even=(bits(25, 11),)), verdict("supported", break_even=(bits(25, 17),)))
    (text,) = said(rules.unused_precision, result(*areas, verdicts=held))
    assert text.startswith("stages.fuse.fraction_bits 17 instead of 25 is enough for claims 1 and 2, with ×1.5")
    lost = (*held, verdict("refuted", break_even=(bits(25, None),)))
    assert said(rules.unused_precision, result(*areas, verdicts=lost)) == []
    assert said(rules.unused_precision, result(verdicts=(verdict("supported", break_even=(bits(17, 17),)),))) == []


def test_an_open_claim_is_told_how_many_more_seeds_would_decide_it():
    """An interval twice as wide as its distance from the bound needs four times the seeds."""
    wide = verdict("undetermined", figure(SUMS, 0.75, half=0.5))
    (text,) = said(rules.more_samples, result(verdicts=(wide,)))
    assert "About 4 times as many seeds" in text
    assert text.endswith("`codesign evaluate --seeds 0-63`.")
    (text,) = said(rules.more_samples, result(verdicts=(verdict("undetermined", figure(SUMS, 1.0, half=0.2)),)))
    assert "no number of seeds will decide it" in text
    captured = verdict("undetermined", figure(SUMS, 0.75, half=0.5, tensors="captured"))
    (text,) = said(rules.more_samples, result(verdicts=(captured,)))
    assert "More seeds do not help with a captured tensor" in text
    broken = verdict("undetermined", figure("numerics.bias", -2.0, half=0.5), metric="numerics.bias", covered=9)
    (text,) = said(rules.more_samples, result(verdicts=(broken,)))
    assert "lies on one side of the bound 1, but among 9 figures one may by chance" in text
    bare = figure(SUMS, 0.9).model_copy(update={"low": None, "high": None})
    (text,) = said(rules.more_samples, result(verdicts=(verdict("undetermined", bare), verdict("undetermined", bare))))
    assert text.startswith("No interval decides claims 1 and 2")
    modelled = verdict("undetermined", figure("cost.area_ratio", 1.0, half=0.2), metric="cost.area_ratio")
    assert said(rules.more_samples, result(verdicts=(modelled, verdict("supported", figure(SUMS, 0.9))))) == []


def test_an_assumption_that_turns_a_modelled_verdict_is_to_be_measured():
    """Other tensors that turn a sampled one are no measurement to make."""

    def turned(metric):
        bar = Bar(assumption="promotion", low=0.9, low_case="a", high=1.2, high_case="b", reversed_by=("b",))
        return verdict("refuted", figure(metric, 1.1), metric=metric, bars=(bar,))

    (text,) = said(rules.fragile, result(verdicts=(turned("cost.area_ratio"),)))
    assert "would be reversed by promotion: b." in text
    assert (
        said(rules.fragile, result(verdicts=(turned(SUMS), verdict("refuted", figure("cost.area_ratio", 1.1))))) == []
    )


def test_a_claim_that_an_assumed_figure_decides_is_named():
    """A computed one is not; claims that rest on one source are named together."""
    guessed = verdict("supported", figure(SUMS, 0.1, kind="assumed", source="a guess"))
    assert said(rules.assumed, result(verdicts=(verdict("supported", figure(SUMS, 0.1)), guessed))) == [
        "An assumed figure decides claim 2 at 0.1: measure before you build. It rests on: a guess."
    ]
    assert said(rules.assumed, result(verdicts=(guessed, guessed))) == [
        "Assumed figures decide claim 1 at 0.1 and claim 2 at 0.1: measure before you build. They rest on: a guess."
    ]
    assert said(rules.assumed, result(verdicts=(verdict("undetermined"),))) == []


def test_quantisation_that_hides_better_sums_is_named():
    """Sums must be better, and quantisation nearly all of the total error; figures beside one another are of one place."""
    elsewhere = figure(SUMS, 1e-2, "software", workload="llama.fprop.kv")
    better = (figure(SUMS, 1e-6), elsewhere, figure(SUMS, 1e-3, "software"))
    (text,) = said(rules.quantisation_dominates, result(figure(TOTAL, 0.05), figure(QUANTISED, 0.0499), *better))
    assert text.startswith(
        "Quantisation alone causes an error of 0.0499, out of 0.05 in total (llama.fprop.o, normal). That the error of sums is "
        "1.00e-06 instead of 0.001 (llama.fprop.o, normal) is not visible in D"
    )
    assert said(rules.quantisation_dominates, result(figure(TOTAL, 0.05), figure(QUANTISED, 0.03), *better)) == []
    same = (figure(SUMS, 1e-3), figure(SUMS, 1e-3, "software"))
    assert said(rules.quantisation_dominates, result(figure(TOTAL, 0.05), figure(QUANTISED, 0.0499), *same)) == []
    assert said(rules.quantisation_dominates, result()) == []


@pytest.mark.parametrize(
    ("name", "help_"),
    [("group-scaled-mma-ue8m0", False), ("group-scaled-mma", True), ("blackwell-nvf4", True), ("hif4", True)],
)
def test_finer_groups_are_advised_only_where_they_help(name, help_):
    """Power-of-two scales of FP8 shift exponents, whatever the groups; FP32 scales and FP4 elements gain from finer ones."""
    better = (figure(TOTAL, 0.05), figure(QUANTISED, 0.0499), figure(SUMS, 1e-6), figure(SUMS, 1e-3, "software"))
    (text,) = said(rules.quantisation_dominates, result(*better, proposed=codesign.load(name).proposed()))
    assert ("finer groups would improve D" in text) == help_
    assert ("finer groups would not improve D" in text) != help_


@pytest.mark.parametrize(("fmt", "help_"), [("e4m3", False), ("e5m2", False), ("e2m1", True)])
def test_finer_groups_with_power_of_two_scales_help_only_narrow_exponents(fmt, help_):
    """What the advice rests on: quantisation error of normal data in groups of 128 and of 16."""
    x = np.random.default_rng(0).normal(size=(64, 1024)).astype(np.float32)

    def error(group):
        cast = codesign.quantise(fmt, x, group=(1, group), scale="ue8m0")
        return np.linalg.norm(codesign.dequantise(cast) - x) / np.linalg.norm(x)

    assert (error(16) < 0.95 * error(128)) == help_
    assert (
        load(f"blackwell.tcgen05.m128n128k32.kind::f8f6f4.f32.{fmt}.{fmt}").a.exponent_bits < rules.WIDE_RANGE
    ) == help_


def test_operands_in_slices_are_told_to_have_more_of_them():
    """Finer groups and BF16 help operands in one slice alone."""
    found = result(
        *(figure(TOTAL, 1e-7, workload=f"llama.fprop.{i}") for i in range(5)),
        figure(TOTAL, 1e-5),
        figure(QUANTISED, 1e-5),
        figure(SUMS, 1e-7),
        figure(SUMS, 1e-3, "software"),
    )
    found.proposal.in_slices, found.proposal.inputs = True, "fp32"
    (text,) = said(rules.quantisation_dominates, found)
    assert text.endswith("is not visible in D; more slices or products of them would improve D.")
    (text,) = said(rules.worst_place, found)
    assert text.endswith("give it more slices, or keep it in FP32.")


@pytest.mark.parametrize(("worst", "count"), [(0.2, 1), (0.19, 0)])
def test_a_place_that_errs_twice_as_much_as_the_median_is_named(worst, count):
    """Of six places; five are too few for one to stand out."""
    own = [figure(TOTAL, 0.1, workload=f"llama.fprop.{i}") for i in range(5)] + [figure(TOTAL, worst)]
    assert len(said(rules.worst_place, result(*own))) == count
    assert said(rules.worst_place, result(*own[1:])) == []


def test_small_elements_lost_to_coarse_scales_are_named():
    """Half as many again as with today's software, and at least a hundredth of all."""

    def lost(own, before):
        share = "numerics.underflow_share"
        return result(figure(share, own), figure(share, before, "software"))

    (text,) = said(rules.underflow, lost(0.03, 0.02))
    assert text.startswith(
        "On llama.fprop.o, normal, 3.0 % of nonzero elements become zero, instead of 2.0 % with today's"
    )
    assert said(rules.underflow, lost(0.029, 0.02)) == said(rules.underflow, lost(0.009, 0.0)) == []


def layer(**parts):
    series = [Series(label=label, variant="blue", x=(0, 1), y=sides) for label, sides in parts.items()]
    about = {"title": "A layer", "caption": "", "x_label": "", "y_label": "", "categories": ("today", "proposal")}
    return Plot(name="layer-llama", stacked=True, series=tuple(series), **about)


def test_casts_and_communication_that_stay_are_named_with_a_proposal_that_takes_them_off():
    """A part that is small today, or that the proposal takes off, is not; nobody is told to see the page they read."""
    (text,) = said(
        rules.casts_dominate, result(plots=(layer(casts=(10.0, 9.0), transposes=(5.0, 5.0), rest=(85.0, 80.0)),))
    )
    assert text == (
        "Casts and transposes take 15 % of the step of a layer of llama today, and 15 % with the proposal: see "
        "`fused-tma-cast`."
    )
    assert said(rules.casts_dominate, result(plots=(layer(casts=(10.0, 0.0), rest=(90.0, 90.0)),))) == []
    sent = layer(network=(10.0, 10.0), rest=(90.0, 90.0))
    (text,) = said(rules.network_dominates, result(plots=(sent,)))
    assert text.startswith("The network takes 10 %")
    assert text.endswith("see `communication-offload`.")
    (text,) = said(rules.network_dominates, result(plots=(sent,), name="communication-offload"))
    assert "see" not in text
    assert said(rules.network_dominates, result(plots=(layer(network=(1.0, 1.0), rest=(99.0, 99.0)),))) == []


def test_amdahls_law_is_told_where_it_leaves_little():
    """A ceiling of 1.2 is little, one of 1.3 is not, and one of 1 says that nothing was touched."""
    ceilings = [figure("timing.layer_ceiling", v, workload="llama", tensors="") for v in (1.2, 1.3, 1.0)]
    (text,) = said(rules.small_part, result(*ceilings))
    assert text.startswith("A whole layer of llama becomes at most 1.2 times as fast")
    assert text.endswith("took no time.")
    (text,) = said(rules.small_part, result(figure("timing.layer_ceiling", 1.0004, workload="llama"))) or ("",)
    assert text == ""


def test_amdahls_law_names_the_largest_part_that_stays():
    """What the proposal changes is no part to look at next."""
    step = layer(gemms=(60.0, 50.0), attention=(25.0, 25.0), network=(15.0, 15.0))
    ceiling = figure("timing.layer_ceiling", 1.2, workload="llama", tensors="")
    (text,) = said(rules.small_part, result(ceiling, plots=(step,)))
    assert text.endswith("Look at attention next: it takes 25 % of today's step and stays as it is.")


def test_linears_that_certainly_become_slower_are_named():
    """An interval that reaches 1 is no certainty; a pass alone is not named."""
    slow = figure("timing.step_speedup", 0.9, workload="llama", half=0.05, tensors="")
    (text,) = said(rules.slower, result(slow))
    assert text.endswith("is not hidden.")
    gemms = [
        figure("timing.speedup_over_software", value, workload=name, tensors="")
        for name, value in (("llama.fprop.o", 0.9), ("llama.fprop.down", 0.8), ("other.fprop.o", 0.5))
    ]
    (text,) = said(rules.slower, result(slow, *gemms))
    assert text.endswith("Hide it first in llama.fprop.down, which runs at 0.8.")
    assert (
        said(
            rules.slower,
            result(slow.model_copy(update={"high": 1.0}), slow.model_copy(update={"workload": "llama.fprop"})),
        )
        == []
    )


def test_power_of_two_scales_are_named_where_they_are_cheaper():
    """At the proposal's own group; a tenth less counts."""

    def scales(own, power_of_two):
        series = (
            Series(label="UE8M0 scales", variant="area", x=(32.0, 128.0), y=(1.5, power_of_two)),
            Series(label="proposal", variant="proposal", x=(128.0,), y=(own,)),
        )
        return result(plots=(Plot(name="cost-scales", title="", caption="", x_label="", y_label="", series=series),))

    (text,) = said(rules.cheaper_scales, scales(2.0, 1.4))
    assert text.startswith(
        "UE8M0 scales, added to exponents, take 1.4 times today's area with groups of 128, instead of 2"
    )
    assert said(rules.cheaper_scales, scales(1.5, 1.4)) == said(rules.cheaper_scales, result()) == []


def test_every_rule_is_used_and_points_to_shipped_proposals():
    """The list of rules is in the order of the report, and each name that a rule says to see ships."""
    import re
    from pathlib import Path

    text = Path(rules.__file__).read_text(encoding="utf-8")
    written = re.findall(r"^def ([a-z]\w*)\(result: Result\) -> Iterator\[Advice\]", text, re.MULTILINE)
    assert {rule.__name__ for rule in rules.RULES} == set(written)
    seen = re.findall(r"see\(result, ['\"]([a-z0-9-]+)['\"]\)", text) + re.findall(
        r'", "([a-z0-9-]+)"\)$', text, re.MULTILINE
    )
    assert len(seen) == 4
    assert set(seen) <= set(names())
    assert [a.title for a in rules.advice(result(figure("timing.layer_ceiling", 1.1)))] == ["Amdahl's law"]
