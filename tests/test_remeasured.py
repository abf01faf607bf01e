"""What does not meet a bound is measured again on fresh seeds."""

from toy_evidence import BYTES, ERROR, PLACES, TEXT, Lab, against, figure, software, toy, verdict

from codesign.evidence.casts.source import Delivered
from codesign.proposal.load import parse_proposal
from codesign.proposal.proposal import Claim
from codesign.verdicts.claims import AGAIN, claimed, judge
from isa_model.diagnostics import parse_yaml


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
        "the worst figure meets the bound with its whole interval; 1 of 2 figures measured again on fresh seeds"
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
    """Of two, each is held against 97.5 %: what violates the bound at 95 % alone does not refute."""
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


def test_a_ratio_is_measured_again_with_both_its_sides():
    """The variant that a claim is relative to is computed on the same fresh seeds, and the pair decides."""
    asked = []

    def ask(questions):
        asked.extend(questions)
        return [[[figure(0.4, 0.3, 0.5), software(0.8, 0.75, 0.85)]] * 2 for _ in questions]

    found = against(figure(1.3, 1.2, 1.4), software(1.0), ask=ask)
    (question,) = asked
    assert (question.base, [c.variant for c in question.compared]) == ("software", ["proposal", "software"])
    assert (found.judgement, found.deciding.value, found.again) == ("supported", 0.5, 1)


def test_two_figures_that_are_not_finite_are_not_measured_again():
    """No other sample makes them comparable."""
    lab, nothing = Lab(), (None, None, None)
    found = against(figure(*nothing), software(*nothing), ask=lab)
    assert (found.judgement, lab.asked) == ("undetermined", [])
