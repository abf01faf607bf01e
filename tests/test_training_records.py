"""Records of training runs: gaps and first gradients, and claims judged on them."""

from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="training needs the extra `kernels`")

from codesign.evidence.source import Subject  # noqa: E402
from codesign.evidence.training import loop, plot  # noqa: E402
from codesign.evidence.training import source as evidence  # noqa: E402
from codesign.evidence.training.experiments import arms, empty_record  # noqa: E402
from codesign.evidence.training.gaps import gap, summarise  # noqa: E402
from codesign.evidence.training.plot import svg  # noqa: E402
from codesign.evidence.training.records import Drift, TrainingRun, as_text, read  # noqa: E402
from codesign.evidence.training.size import find_size  # noqa: E402
from codesign.proposal.load import load_proposal, parse_proposal  # noqa: E402
from codesign.verdicts.claims import judge  # noqa: E402
from isa_model import InputError  # noqa: E402
from isa_model.diagnostics import parse_yaml  # noqa: E402

ROOT = Path(__file__).parent.parent
SMALL = find_size("tiny").model_copy(update={"tokens": 256, "steps": 6})
pytestmark = pytest.mark.usefixtures("one_thread")


def record_of(**tails):
    """Return a record with one run per arm and seed, with constant losses."""
    record = empty_record("tiny", SMALL, 1)
    for arm, values in tails.items():
        name = arm.replace("_", "-")
        recipe = arms()[name].resolved()
        for seed, value in enumerate(values):
            steps, curve, tail = summarise([value] * SMALL.steps)
            run = TrainingRun(
                arm=name,
                recipe=recipe,
                recipe_sha256=recipe.sha256,
                seed=seed,
                engines=("torch",) * 3 if name == "bf16" else ("model",) * 3,
                steps=steps,
                curve=curve,
                tail=tail,
                validation=value,
                dropped=0.0,
                seconds=1.0,
                tokens_per_second=1.0,
            )
            record = record.with_run(run)
    return record


def test_a_gap_is_the_mean_over_seeds_with_students_interval():
    """Gaps of 1 % and 3 % have mean 2 % and the interval 12.706 * 1 % around it; the largest gap of the curves is 3 %."""
    g = gap(record_of(bf16=[2.0, 2.0], framework=[2.02, 2.06]), "framework")
    assert g.training.mean == pytest.approx(0.02)
    assert g.training.high - g.training.mean == pytest.approx(12.706 * 0.01, rel=1e-3)
    assert g.largest == pytest.approx(0.03, rel=1e-3)


def test_a_record_is_read_as_it_was_written(tmp_path):
    """A record with and without runs is read as it was written."""
    for record in (record_of(bf16=[2.0], framework=[2.1]), record_of()):
        (tmp_path / "record.json").write_text(as_text(record), encoding="utf-8")
        assert read(tmp_path / "record.json") == record


def test_gaps_along_training_are_drawn_for_every_arm_but_the_reference():
    """Each experiment with runs has a panel that names its arms except BF16, whose noise is drawn beneath."""
    record = record_of(bf16=[2.0, 2.0], bf16_nudged=[2.01, 1.96], framework=[2.1, 2.2], bits_8=[2.2])
    drawn = svg(record, ["framework", "bits", "moments", "groups"])
    assert drawn.count(">framework (2 seeds)</text>") == 3
    assert drawn.count(">bits-8 (1 seed)</text>") == 1
    assert drawn.count("BF16, nudged") == 4
    assert ">bf16<" not in drawn
    assert "bits-10" not in drawn
    steps = SMALL.tokens / 1e6
    assert plot._noise(record)[-1] == pytest.approx((SMALL.steps * steps, 2.0))


PROPOSAL = """proposal: mine
title: x
source: x
base: hopper.wgmma.m64n256k32.f32.e4m3.e4m3
change:
  stages:
    fuse: {fraction_bits: 17, result: {format: fp32, rounding: toward-zero, overflow: infinity}}
software: {group: null}
claims:
  - {metric: training.loss_gap, at_most: 0.0025}
  - {metric: training.loss_gap, of: software, at_most: 0.0025}
  - {metric: training.loss_gap, of: today, at_most: 0.0025}
"""


def test_claims_on_the_loss_gap_are_judged_from_records(monkeypatch):
    """A small gap supports a claim, a large one refutes it, and a single seed or FP32 sums decide nothing."""
    mine = parse_proposal(parse_yaml(PROPOSAL, "mine.yaml"))

    def judgements(record):
        monkeypatch.setattr(evidence, "shipped", lambda: (("record.json", record),))
        return [v.judgement for v in judge(mine, evidence.SOURCE.gather(Subject(mine)).figures)]

    record = record_of(bf16=[2.0, 2.0], bits_17=[2.002, 2.0021], tensor_promoted=[2.4, 2.41], tensor_unpromoted=[2.0])
    assert judgements(record) == ["supported", "refuted", "undetermined"]
    stand_in = [r.model_copy(update={"engines": ("fp32",) * 3}) for r in record.runs if r.arm != "bf16"]
    for run in stand_in:
        record = record.with_run(run)
    assert judgements(record) == ["undetermined"] * 3


def test_claims_on_the_first_gradient_are_judged_from_records(monkeypatch):
    """Drift and bias are means over seeds with Student's interval; there is no figure for a single seed."""
    record = record_of(bf16=[2.0, 2.0], bits_17=[2.0, 2.0], tensor_promoted=[2.0, 2.0])
    for run, error in zip(record.find("bits-17") + record.find("tensor-promoted"), (0.10, 0.12, 0.2, 0.2), strict=True):
        record = record.with_run(run.model_copy(update={"drift_at_start": Drift(error=error, along=-error / 2)}))
    monkeypatch.setattr(evidence, "shipped", lambda: (("record.json", record),))
    text = PROPOSAL.replace("loss_gap, at_most: 0.0025", "gradient_drift, at_most: 0.25")
    text = text.replace("loss_gap, of: software", "gradient_bias, of: software").replace("0.0025", "0.05")
    mine = parse_proposal(parse_yaml(text, "mine.yaml"))
    figures = {(f.metric, f.variant): f for f in evidence.SOURCE.gather(Subject(mine)).figures}
    own = figures["training.gradient_drift", "proposal"]
    assert (own.value, own.low, own.high) == pytest.approx((0.11, 0.11 - 0.12706, 0.11 + 0.12706), rel=1e-3)
    assert ("training.gradient_drift", "today") not in figures
    assert [v.judgement for v in judge(mine, tuple(figures.values()))] == ["supported", "refuted", "undetermined"]
    assert own.ratios["software"] == pytest.approx((0.55 - 12.706 * 0.05, 0.55 + 12.706 * 0.05), rel=1e-3)
    gaps = {"training.loss_gap", "training.validation_gap"}
    assert {m for m, _ in figures} == {*gaps, "training.gradient_drift", "training.gradient_bias"}


def test_a_diverged_run_refutes(monkeypatch):
    """A diverged run breaks every bound."""
    record = record_of(bf16=[2.0, 2.0], bits_17=[2.0, 2.0])
    record = record.with_run(record.find("bits-17")[1].model_copy(update={"tail": None, "diverged_at": 3}))
    monkeypatch.setattr(evidence, "shipped", lambda: (("record.json", record),))
    mine = parse_proposal(parse_yaml(PROPOSAL, "mine.yaml"))
    assert judge(mine, evidence.SOURCE.gather(Subject(mine)).figures)[0].judgement == "refuted"


def test_no_run_stands_for_what_it_did_not_train():
    """A proposal with a path has no gap, since no recipe has its casts; software on a base with scales is the base."""
    fused, shipped = (load_proposal(ROOT / f"proposals/{n}.yaml") for n in ("fused-tma-cast", "blackwell-mxf8f6f4"))
    assert not evidence.SOURCE.gather(Subject(fused)).figures
    assert shipped.training_recipe("software") == shipped.training_recipe("today")
    assert evidence.SOURCE.gather(Subject(load_proposal(ROOT / "proposals/group-scaled-mma.yaml"))).figures


def test_a_proposal_may_name_a_recipe_and_a_wrong_one_is_shown_where_it_stands():
    """`training` changes the rules of the runs, and an unknown recipe is an error of the file."""
    other = PROPOSAL + "training: {change: {moments: {first: fp32}}}\n"
    mine = parse_proposal(parse_yaml(other, "mine.yaml")).training_recipe()
    assert mine.moments.first.name == "fp32"
    with pytest.raises(InputError, match="no recipe is called `deepsek-v3`"):
        parse_proposal(parse_yaml(PROPOSAL + "training: {recipe: deepsek-v3}\n", "mine.yaml"))


def test_evaluate_trains_a_small_model_when_asked(monkeypatch):
    """`train=True` adds the gaps of a run made now, of the proposal and of software with two seeds each, and a plot."""
    monkeypatch.setattr(evidence, "PROXY_STEPS", 4)
    monkeypatch.setattr("codesign.evidence.training.size.find_size", lambda name: SMALL)
    monkeypatch.setattr(loop.Trainer, "drift", lambda *_: None)
    monkeypatch.setattr(loop, "VALIDATION", 1)
    monkeypatch.setattr(evidence, "shipped", lambda: ())
    found = evidence.SOURCE.gather(Subject(parse_proposal(parse_yaml(PROPOSAL, "mine.yaml")), train=True))
    assert [f.variant for f in found.figures if f.metric == "training.loss_gap"] == ["software", "proposal"]
    assert all(f.low < f.value < f.high and "a run made now" in f.source for f in found.figures)
    assert [s.variant for s in found.plots[0].series] == ["software", "proposal"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["framwork"], "did you mean `framework`?"),
        (["framework", "--arms", "framewrk"], "did you mean `framework`?"),
        (["framework", "--size", "2m"], "no size is called `2m`"),
        (["framework", "--tokens", "200"], "tokens"),
        (["framework", "--micro-batches", "3"], "whole sequences"),
    ],
)
def test_what_cannot_be_trained_is_said_in_one_message(arguments, message, capsys):
    """Unknown experiments, arms and sizes, and unsuitable tokens, exit 2 with a hint."""
    from codesign.__main__ import run

    assert run(["train", *arguments]) == 2
    assert message in capsys.readouterr().err
