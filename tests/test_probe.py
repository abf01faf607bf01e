"""Probe: hidden specs are found from answers alone."""

import json

import numpy as np
import pytest
import yaml
from toy_boxes import INTEGER_SPARSE, INTEGERS, SIGNATURE, VOLTA, hidden, questions, unseen
from typer.testing import CliRunner

from codesign.commands.app import app
from codesign.commands.cli import register
from codesign.probe.box import Lines, Recorded, Session, Signature, answers
from codesign.probe.boxes import FolderBox, FunctionBox, SpecBox, Unanswered, open_box
from codesign.probe.certificate import probe
from codesign.probe.fit import Fit
from codesign.probe.hypotheses import canonical
from codesign.probe.questions import experiments
from isa_model.formats import FORMATS
from isa_model.instruction import Instruction
from isa_model.library import load

register("probe")


@pytest.mark.parametrize("name", ["arm.fmopa.f32.f32.f32", INTEGERS])
def test_a_hidden_instruction_is_found(name):
    """The fitted spec gives the hidden one's answers on questions that were not asked."""
    box = hidden(name)
    found = probe(box, outputs=300)
    assert found.verdict in ("determined", "ambiguous")
    lines = unseen(box.signature)
    assert (answers(found.spec, lines) == answers(box.hidden, lines)).all()


def changed_volta(change, **fields):
    data = load(VOLTA).model_dump(mode="json", exclude_none=True) | fields
    data["stages"]["fuse"] |= change
    return Instruction.model_validate(data)


@pytest.mark.parametrize(
    "spec",
    [
        changed_volta({"opposing": "complement"}),
        changed_volta({"accumulator": {"offset": -2}}),
        changed_volta({"terms": 1, "interleave": {"run": 1, "parts": 2, "hand": 2}}),
        changed_volta({}, flush_inputs="c"),
    ],
    ids=["opposing", "offset", "hand", "flush_inputs"],
)
def test_rules_of_other_architectures_are_found(spec):
    """Inverted terms, an accumulator compared with an offset, blocks dealt out by the hand, and flushed C are in the search."""
    found = probe(SpecBox(Signature(spec), spec), outputs=300)
    assert found.verdict == "ambiguous"
    lines = unseen(Signature(spec))
    assert (answers(found.spec, lines) == answers(spec, lines)).all()


def test_recorded_answers_are_enough():
    """Questions that were not chosen by the probe lead to a spec too."""
    spec = load(VOLTA)
    box = SpecBox(Signature(spec), spec)
    lines = Lines.join([x for _, x in experiments(box.signature, np.random.default_rng(3), 0.5)])
    found = probe(Recorded(box.signature, lines, box.ask(lines)))
    assert found.verdict == "ambiguous"
    assert found.spec.stages["fuse"].fraction_bits == 23


def test_the_spec_of_a_sparse_box_is_sparse(tmp_path):
    """The certificate's YAML is the sparse instruction, and questions in a folder have the positions."""
    box = open_box(f"spec:{INTEGER_SPARSE}", None)
    found = probe(box, outputs=300)
    (tmp_path / "spec.yaml").write_text(found.text)
    written = load(str(tmp_path / "spec.yaml"))
    assert written.sparsity == load(INTEGER_SPARSE).sparsity
    assert canonical(written.dense) == canonical(found.spec) == canonical(load(INTEGER_SPARSE).dense)
    with pytest.raises(Unanswered) as waiting:
        FolderBox(box.signature, tmp_path).ask(box.signature.empty(2))
    row = (waiting.value.folder / "questions.txt").read_text().splitlines()[0].split()
    spec = load(INTEGER_SPARSE)
    assert len(row) == spec.stored_k + spec.shape.k + spec.stored_k // spec.sparsity.run + 1


def test_a_proposal_is_a_box(tmp_path):
    """`spec:` takes a proposal as well as an instruction."""
    out = tmp_path / "found"
    done = CliRunner().invoke(
        app, ["probe", "spec:group-scaled-mma", "--seconds", "1", "--outputs", "0", "--out", str(out), "--json"]
    )
    assert done.exit_code in (0, 1), done.output
    assert yaml.safe_load((out / "spec.yaml").read_text())["scale"]["a"]["format"] == "fp32"


def test_a_box_without_c_is_asked_with_zeros():
    """`takes_c: false` asks no question with another C."""
    spec = load(VOLTA)
    session = Session(SpecBox(Signature(spec, takes_c=False), spec))
    Fit(session).ask_all()
    assert not session.pool.c.any()


def test_nans_with_payloads_count_as_one_and_the_certificate_says_so():
    """A box that passes on the NaN of an operand, as FP64 on GPUs, is found, and the certificate names two of its NaNs."""
    spec = load("hopper.mma.m8n8k4.f64.f64.f64.f64").dense

    def passes_on(a, b, c):
        d = answers(spec, Lines(a, b, c))
        for x in (a, b):
            nan = np.isnan(x.view(np.float64))
            first = x[np.arange(len(x)), nan.argmax(axis=1)]
            d = np.where(nan.any(axis=1), first | np.uint64(1 << 51), d)
        return d

    found = probe(FunctionBox(Signature(spec), passes_on), seconds=30.0, outputs=5_000)
    assert found.verdict == "ambiguous"
    assert canonical(found.spec) == canonical(spec)
    assert found.several_nans.startswith("NaNs have several codes, as 0x7ff8000000000000 and 0xfff8000000000000")
    assert "NaNs have several codes" in found.text
    assert json.loads(found.json())["several_nans"] == found.several_nans


def test_a_second_nan_that_shows_when_answers_are_compared_is_no_conflict():
    """Answers known until then had one NaN, other than the usual one; the box does not vary."""
    codes = iter((0xFFC00000, 0x7F800001))
    session = Session(FunctionBox(SIGNATURE, lambda a, b, c: np.full(len(c), next(codes), np.uint32)))
    given = questions()
    d = session.ask(given)
    session.keep(["any"] * len(d), given, d)
    session.compare(given, d, np.random.default_rng(0))
    assert session.nans == [0xFFC00000, 0x7F800001]
    assert (session.d == FORMATS["fp32"].nan_code).all()


@pytest.mark.parametrize(
    ("name", "codes"), [("e4m3", (0x7F, 0xFF)), ("e5m2", (0x7D, 0xFF)), ("fp16", (0xFE00, 0x7C01))]
)
def test_nans_of_every_accumulator_count_as_one(name, codes):
    """E4M3 has a NaN of each sign, and IEEE formats have payloads."""
    fmt = FORMATS[name]
    spec = SIGNATURE.spec.model_copy(update={"accumulator": fmt, "c": fmt})
    answered = np.resize(np.array(codes), 50)
    box = FunctionBox(Signature(spec), lambda a, b, c: answered.astype(c.dtype))
    session = Session(box)
    assert (session.ask(session.box.signature.empty(50)) == fmt.nan_code).all()
    assert session.nans == list(codes)
