"""Probe: a certificate says what decided each field, and what no question shows."""

import json
from dataclasses import replace

import numpy as np
import pytest
import yaml
from toy_boxes import INTEGERS, REGISTER, SIGNATURE, VOLTA, hidden, unseen
from typer.testing import CliRunner

from codesign.commands.app import app
from codesign.commands.cli import register
from codesign.commands.probe import _alike
from codesign.probe.box import Lines, Recorded, answers
from codesign.probe.boxes import open_box
from codesign.probe.certificate import because, probe
from codesign.probe.hypotheses import canonical
from codesign.probe.questions import experiments
from isa_model.array_codec import encode_array
from isa_model.diagnostics import InputError
from isa_model.instruction import Instruction
from isa_model.library import load
from isa_model.matmul import matmul

register("probe")


@pytest.fixture(scope="module")
def volta():
    """The certificate of one floating-point instruction."""
    return probe(hidden(VOLTA), outputs=300)


def test_fields_are_decided_by_questions(volta):
    """Every excluded value gives another answer to the question named; fields that decide sums are the hidden ones."""
    found = volta
    lines = unseen(SIGNATURE)
    assert (answers(found.spec, lines) == answers(load(VOLTA), lines)).all()
    stage, wanted = found.spec.stages["fuse"], load(VOLTA).stages["fuse"]
    assert (stage.terms, stage.fraction_bits, stage.rounding) == (wanted.terms, wanted.fraction_bits, wanted.rounding)
    bits = next(x for x in found.fields if x.field == "stages.0.fraction_bits")
    assert {22, 24} <= {x["value"] for x in bits.excluded}
    assert not bits.alike
    for x in bits.excluded:
        assert found.log["answers"][x["question"]] == x["box"][2:] != x["would_give"][2:]
    zero = next(x for x in found.fields if x.field == "stages.0.zero_exponent")
    assert any(x["value"] == -131 and x["reason"].startswith("proved") for x in zero.alike)
    assert canonical(Instruction.model_validate(yaml.safe_load(found.text))) == canonical(found.spec)


def test_a_nan_that_no_answer_showed_is_open():
    """Recordings without NaNs leave its code open, and the certificate says so."""
    box = hidden(VOLTA)
    lines = Lines.join([x for _, x in experiments(box.signature, np.random.default_rng(3), 0.5)])
    d = box.ask(lines)
    numbers = ~np.isnan(d.view(np.float32))
    found = probe(Recorded(box.signature, lines.pick(numbers), d[numbers]))
    (nan,) = (x for x in found.fields if x.field == "nan")
    assert (nan.value, nan.alike) == (None, ({"value": "any", "reason": "no answer is a NaN"},))


@pytest.mark.parametrize(
    ("first", "field", "value"), [({"result": REGISTER}, "fraction_bits", 37), ({}, "zero_exponent", 17)]
)
def test_nothing_is_proved_of_terms_aligned_above_themselves(first, field, value):
    """A zero of a large exponent cuts every bit, and a sum without a register hands its exponent up."""
    zero = 38 if field == "fraction_bits" else 16
    stages = {
        "p": {"terms": 2, "fraction_bits": 36, "rounding": "toward-zero", "zero_exponent": zero, **first},
        "s": {"terms": 1, "accumulator": True, "fraction_bits": 9, "rounding": "toward-zero", "result": REGISTER},
    }
    given = {"a": "e4m3", "b": "e4m3", "accumulator": "fp32", "shape": {"m": 1, "n": 1, "k": 2}}
    spec, other = (
        Instruction.model_validate({**given, "stages": {**stages, "p": stages["p"] | changed}})
        for changed in ({}, {field: value})
    )
    a, b, c = (
        encode_array(spec.a, np.array([[2.0, 0.0]])),
        encode_array(spec.b, np.ones((2, 1))),
        np.array([[128]], np.float32),
    )
    assert matmul(spec, a, b, c, engine="golden") != matmul(other, a, b, c, engine="golden")
    assert because(spec, other, ("stages", 0, field), 7) == "no difference in 7 questions searched"


@pytest.mark.parametrize(
    ("above", "said"),
    [
        ([{"terms": 1, "accumulator": True}], "they are added to C one after the other in fp32 nearest-even"),
        ([{"terms": 2, "accumulator": True}], "they are added to C 2 at once in fp32 nearest-even"),
        (
            [{"terms": 1, "accumulator": True, "chain": 2}, {"terms": 1, "accumulator": True}],
            "they are added one after the other in fp32 nearest-even; C is added in fp32 nearest-even",
        ),
    ],
)
def test_software_around_an_instruction_is_said_in_words(above, said, volta):
    """Promotion, a split K and the place of C are read off the stages above a chain of instructions."""
    register = {"result": [{"format": "fp32", "rounding": "nearest-even"}]}
    step = {"terms": 32, "accumulator": True, "chain": 4, "fraction_bits": 13, "rounding": "toward-zero"} | register
    stages = {f"s{i}": stage | register for i, stage in enumerate([step, *above])}
    fields = {"shape": {"m": 64, "n": 8, "k": 256}, "a": "e4m3", "b": "e4m3", "accumulator": "fp32", "stages": stages}
    found = replace(volta, spec=Instruction.model_validate(fields))
    assert found.partial_sums == f"partial sums of 128 products start from zero; {said}"
    assert not volta.partial_sums


def test_the_command_writes_a_certificate(tmp_path):
    """`codesign probe` writes the spec, the certificate and the log."""
    out = tmp_path / "found"
    done = CliRunner().invoke(app, ["probe", f"spec:{INTEGERS}", "--outputs", "300", "--out", str(out), "--json"])
    assert done.exit_code == 0, done.output
    certificate = json.loads((out / "certificate.json").read_text())
    assert certificate["verdict"] == "ambiguous"
    assert canonical(load(out / "spec.yaml")) == canonical(load(INTEGERS))
    log = json.loads((out / "log.json").read_text())
    assert len(log["questions"]) == len(log["answers"]) == certificate["counts"]["kept"]
    again = probe(open_box(f"vectors:{out / 'log.json'}", INTEGERS))
    assert canonical(again.spec) == canonical(load(INTEGERS))


def test_a_function_that_changes_the_folder_leaves_the_certificate_where_it_was_asked_for(tmp_path, monkeypatch):
    """`--out` is a path from where the command was called."""
    (tmp_path / "moving_box.py").write_text(
        f"import os\n\ndef moves(a, b, c):\n    os.chdir({str(tmp_path.parent)!r})\n    return c * 0 + 0x7F800000\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    CliRunner().invoke(app, ["probe", "python:moving_box:moves", "--operands", VOLTA, "--out", "found"])
    assert (tmp_path / "found" / "certificate.json").exists()


def test_a_log_that_is_probed_again_says_that_nans_differ(tmp_path):
    """The log has one NaN, and beside it the codes that count as one: the second may be in answers that were not kept."""
    log = {"signature": SIGNATURE.fields, "questions": ["1 0 0 0 1 0 0 0 0"], "answers": ["0"]}
    path = tmp_path / "log.json"
    path.write_text(json.dumps(log | {"nans": ["7fc00000", "ffc00000"]}))
    found = probe(open_box(f"vectors:{path}", VOLTA), seconds=1.0)
    assert found.several_nans.startswith("NaNs have several codes, as 0x7fc00000 and 0xffc00000")
    assert found.log["nans"] == ["7fc00000", "ffc00000"]
    path.write_text(json.dumps(log | {"nans": ["xyz"]}))
    with pytest.raises(InputError, match="`xyz` is no code"):
        open_box(f"vectors:{path}", VOLTA)


def test_the_code_of_a_nan_is_shown_in_hexadecimal():
    """As on the manual page; other numbers stay decimal, and values with another field are counted."""
    alike = ({"value": 2143289344}, {"value": None}, {"value": 1, "with": {}})
    assert _alike("nan", alike) == "0x7fc00000, None, 1 with another field"
    assert _alike("infinite_from", ({"value": 128},)) == "128"


def test_a_last_check_of_endless_size_is_refused():
    """More questions than memory holds are refused before the box is opened."""
    assert CliRunner().invoke(app, ["probe", f"spec:{VOLTA}", "--outputs", "10000000000"]).exit_code == 2
