"""Evidence of language models: figures from records, claims judged on them, and runs made now."""

import json
import subprocess
import sys
from math import exp, log
from pathlib import Path

import pytest

from codesign.evidence.model import records as store
from codesign.evidence.model import source as evidence
from codesign.evidence.model.questions import numerics, questions
from codesign.evidence.model.records import ModelRecord, ModelRun, numerics_of, read, without, write
from codesign.evidence.source import Subject
from codesign.proposal.load import load_proposal, parse_proposal
from codesign.proposal.shipped import names
from codesign.report.tables import draw
from codesign.torch.rules import recipe_on
from codesign.verdicts.claims import judge
from isa_model import InputError
from isa_model.diagnostics import parse_yaml

HOPPER = "hopper.wgmma.m64n256k32.f32.e4m3.e4m3"
SEQUENCES = 16
PROPOSAL = f"""
proposal: test
title: sums with 17 bits
source: a test
base: {HOPPER}
change: {{stages: {{fuse: {{fraction_bits: 17, result: {{format: fp32}}}}}}}}
claims:
  - {{metric: model.perplexity_ratio, at_most: 1.002}}
  - {{metric: model.perplexity_ratio, of: today, at_most: 1.002}}
  - {{metric: model.kl, relative_to: today, at_most: 1.0}}
  - {{metric: model.flip_rate, at_most: 0.03}}
  - {{metric: model.layer_error, at_most: 0.05}}
"""


def run(name, key, ratio, kl=0.0, flips=0.0, only="*", **layers):
    """Return a run whose loss differs from the reference's by log(ratio), a little more in every other sequence."""
    wobble = [0.1 if i % 2 else -0.1 for i in range(SEQUENCES)]
    return ModelRun(
        name=name,
        numerics=key,
        sums="",
        engine="model",
        only=only,
        loss=tuple(3.0 + 0.1 * i + log(ratio) * (1 + w) for i, w in enumerate(wobble)),
        kl=tuple(kl * (1 + w) for w in wobble),
        flips=tuple(flips * (1 + w) for w in wobble),
        layers={name.replace("__", "."): value for name, value in layers.items()},
    )


def record(*runs):
    about = {"model": "m", "about": "", "model_sha256": "0", "text": "words", "text_sha256": "0", "dtype": "float32"}
    return ModelRecord(
        schema_version=1,
        sequences=SEQUENCES,
        length=65,
        commit="abc",
        machine="CPU",
        versions={},
        runs=(run("bf16", numerics_of(recipe_on("bf16")), 1.0), *runs),
        **about,
    )


@pytest.fixture
def subject():
    return Subject(parse_proposal(parse_yaml(PROPOSAL, "p.yaml")))


def made(monkeypatch, *runs):
    monkeypatch.setattr(evidence, "shipped", lambda: (("record.json", record(*runs)),))


def key(subject, variant="proposal", at=None):
    return numerics_of(numerics(subject.proposal)[variant, at])


def test_claims_are_judged_from_a_record(subject, monkeypatch):
    """A ratio of 1.001 keeps 1.002 and one of 1.01 breaks it; a smaller divergence is smaller on the same sequences."""
    layers = {"model__layers__0__mlp__up": 0.03, "model__layers__1__mlp__up": 0.04}
    made(
        monkeypatch,
        run("proposal", key(subject), 1.001, kl=0.001, flips=0.004, **layers),
        run("today", key(subject, "today"), 1.01, kl=0.003, flips=0.02),
    )
    verdicts = judge(subject.proposal, evidence.SOURCE.gather(subject).figures)
    assert [v.judgement for v in verdicts] == ["supported", "refuted", "supported", "supported", "supported"]


def test_a_ratio_is_paired_by_sequence(subject, monkeypatch):
    """Losses that differ by 0.1 between sequences, and by a constant between numerics, give a ratio without spread."""
    made(monkeypatch, run("proposal", key(subject), 1.02))
    figures = {f.metric: f for f in evidence.SOURCE.gather(subject).figures}
    ratio, perplexity = figures["model.perplexity_ratio"], figures["model.perplexity"]
    assert ratio.value == pytest.approx(1.02, rel=1e-5)
    assert ratio.high / ratio.low < 1.003
    assert perplexity.value == pytest.approx(exp(3.75) * 1.02, rel=1e-5)
    assert perplexity.high / perplexity.low > 1.5


def test_a_model_that_overflows_breaks_every_bound(subject, monkeypatch):
    """A loss that is not finite refutes a bound on perplexity and on divergence."""
    broken = run("proposal", key(subject), 1.0).model_copy(update={"loss": (None,) * 16, "kl": (None,) * 16})
    made(monkeypatch, broken)
    verdicts = judge(subject.proposal, evidence.SOURCE.gather(subject).figures)
    assert verdicts[0].judgement == "refuted"


def test_a_record_without_these_numerics_gives_no_figure(subject, monkeypatch):
    """Then a claim is undetermined, and the reason names the command that makes a run."""
    made(monkeypatch, run("other", "0" * 64, 1.0))
    found = evidence.SOURCE.gather(subject)
    assert not found.figures
    verdict = judge(subject.proposal, found.figures)[0]
    assert verdict.judgement == "undetermined"
    assert "codesign model" in verdict.model_dump_json()


def test_the_operand_that_does_the_damage_and_the_layers_are_shown(subject, monkeypatch):
    """A sentence has the divergence with each part left out; plots have a point for each layer."""
    recipe = numerics(subject.proposal)["proposal", None]
    parts = [run(p, numerics_of(without(recipe, p)), 1.0, kl=0.001 * i) for i, p in enumerate(store.LEFT_OUT, 1)]
    alone = [run("p", key(subject), 1.0, kl=0.002 * (i + 1), only=f"*.layers.{i}.*") for i in range(2)]
    layers = {"model__layers__0__up": 0.03, "model__layers__1__up": 0.04}
    made(monkeypatch, run("proposal", key(subject), 1.0, kl=0.004, **layers), *parts, *alone)
    section = evidence.SOURCE.gather(subject).sections[0]
    assert (
        "exact sums 0.001, and with activations in BF16, too, 0.002, or with weights in BF16 0.003"
        in section.sentences[0]
    )
    errors, damage = section.plots
    assert (errors.series[0].x, errors.series[0].y) == ((0.0, 1.0), (0.03, 0.04))
    assert damage.series[0].y == pytest.approx((0.002, 0.004))


def test_a_model_that_never_ran_the_proposal_takes_a_few_rows(subject, monkeypatch):
    """Then only today's distance from BF16 is shown, without layers and Linears, and a sentence says so."""
    layers = {"model__layers__0__up": 0.03, "model__layers__1__up": 0.04}
    today = run("today", key(subject, "today"), 1.01, kl=0.003, **layers)
    for runs, shown in (([today], False), ([today, run("proposal", key(subject), 1.0, **layers)], True)):
        made(monkeypatch, *runs)
        found = evidence.SOURCE.gather(subject)
        (section,) = found.sections
        metrics = {row.names[0] for row in draw(section.tables[0], found.figures).rows}
        assert ("error of a Linear's output" in metrics) == shown == bool(section.plots)
        assert "perplexity" in metrics
        assert any("no run of the proposal" in sentence for sentence in section.sentences) != shown


def test_a_record_is_read_as_it_was_written(tmp_path):
    """A record goes through its file unchanged; another file is refused, not overwritten."""
    made = record(run("a", "1" * 64, 1.1, model__up=0.1))
    write(made, tmp_path / "r.json")
    assert read(tmp_path / "r.json") == made
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(InputError, match="not a record"):
        read(tmp_path / "other.json")
    with pytest.raises(InputError):
        write(made, tmp_path / "other.json")


def test_every_shipped_record_is_of_known_numerics():
    """Runs of shipped records are those of the questions or of shipped proposals."""
    known = {numerics_of(r.recipe, r.attention) for r in questions()} | {numerics_of(recipe_on("bf16"))}
    for name, shipped in store.shipped():
        assert shipped.commit, name
        assert {r.numerics for r in shipped.runs} <= known, name


def test_promotion_in_the_recipe_and_in_the_instruction_are_one_numerics():
    """Today's software by its recipe has the numerics of its instruction with promotion around it."""
    proposal = load_proposal(names()["group-scaled-mma"])
    recipe = proposal.training_recipe("software")
    around = recipe.on(proposal.software_instruction, None, proposal.practice.quantisation)
    assert numerics_of(recipe) == numerics_of(around)


def test_a_text_of_your_own_is_read_and_a_missing_one_is_reported(tmp_path):
    """`--text` reads UTF-8; a file that is not there, or not text, is one message."""
    from codesign.evidence.model.language_model import load_text

    (tmp_path / "a.txt").write_text("words, wörds")
    (tmp_path / "b.bin").write_bytes(b"\xff\xfe\x00")
    assert load_text(tmp_path / "a.txt") == ("a.txt", "words, wörds")
    assert load_text(None)[1]
    for name in ("b.bin", "c.txt"):
        with pytest.raises(InputError, match=name):
            load_text(tmp_path / name)


TINY = """
import sys, torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
torch.manual_seed(0)
tokens = Tokenizer(models.BPE({c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}, []))
tokens.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
PreTrainedTokenizerFast(tokenizer_object=tokens, eos_token="!").save_pretrained(sys.argv[1])
sizes = dict(hidden_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, intermediate_size=128)
LlamaForCausalLM(LlamaConfig(vocab_size=256, initializer_range=0.1, **sizes)).save_pretrained(sys.argv[1])
from transformers import BertConfig, BertModel
import codesign.torch
sizes = dict(hidden_size=64, num_hidden_layers=1, num_attention_heads=4, intermediate_size=128)
model, ids = BertModel(BertConfig(vocab_size=99, **sizes)).eval(), torch.arange(14).view(2, 7)
expected = model(ids).last_hidden_state
with codesign.torch.emulate(model, on="bf16", attention=True) as emulation:
    got = model(ids).last_hidden_state
assert emulation.attention.calls == 1 and len(emulation.replaced) == 7, emulation
assert torch.allclose(got, expected, atol=0.01) and not torch.equal(got, expected)
from codesign.__main__ import run
folder, out, on = sys.argv[1:]
raise SystemExit(run(["model", on, "--model", folder, "--length", "8", "--out", out]))
"""


def test_models_of_hugging_face_run_on_an_instruction(tmp_path):
    """An encoder is emulated as it is; `codesign model` runs a folder's causal model, and writes a record."""
    pytest.importorskip("torch", reason="needs the extra `model`")
    pytest.importorskip("transformers", reason="needs the extra `model`")
    folder, out = tmp_path / "tiny", tmp_path / "record.json"
    done = subprocess.run([sys.executable, "-c", TINY, str(folder), str(out), HOPPER], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "perplexity" in done.stdout
    found = read(out)
    assert {r.name for r in found.runs} == {"bf16", HOPPER}
    assert all(r.kl[0] > 0 for r in found.runs if r.name != "bf16")
    assert json.loads(out.read_text())["text"].startswith("pydoc_data.topics")


def test_an_emulated_model_is_a_model_in_the_harness(tmp_path):
    """lm-evaluation-harness scores an emulated model on a task of local data."""
    pytest.importorskip("lm_eval", reason="needs the extra `harness`")
    example = Path(__file__).parent.parent / "benchmarks" / "harness.py"
    folder, out = tmp_path / "tiny", tmp_path / "record.json"
    script = TINY.split("from transformers import BertConfig")[0]
    subprocess.run([sys.executable, "-c", script, str(folder), str(out)], check=True, capture_output=True)
    done = subprocess.run([sys.executable, str(example), str(folder), HOPPER], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "bits_per_byte" in done.stdout


@pytest.mark.parametrize(
    ("sweep", "swept"),
    [
        ("{changes: {a: {stages: {fuse: {fraction_bits: 15}}}, b: {stages: {fuse: {fraction_bits: 19}}}}}", ["a", "b"]),
        (
            "{field: stages.fuse.fraction_bits, values: [15, 19], across: {field: accumulator, values: [fp32, fp64]}}",
            ["15, fp32", "15, fp64", "19, fp32", "19, fp64"],
        ),
    ],
)
def test_every_kind_of_sweep_has_numerics(sweep, swept):
    """Models run on each variant of a sweep, whether it is made of values, of changes or of two sweeps."""
    proposal = parse_proposal(parse_yaml(PROPOSAL + f"sweep: {sweep}\n", "test.yaml"))
    assert [at for variant, at in numerics(proposal) if at is not None] == swept
