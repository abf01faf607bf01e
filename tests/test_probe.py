"""Probe: hidden specs are found from answers alone, what no question shows is listed, and what no spec explains is refused."""

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from codesign.__main__ import run
from codesign.commands.app import app
from codesign.commands.cli import register
from codesign.probe import search
from codesign.probe.box import Lines, Recorded, Session, Signature, answers, rewritten
from codesign.probe.boxes import (
    FolderBox,
    FunctionBox,
    MatrixBox,
    SpecBox,
    Unanswered,
    open_box,
)
from codesign.probe.certificate import because, probe
from codesign.probe.compiled_box import FUNCTION
from codesign.probe.exchange import parse_questions
from codesign.probe.fit import Fit
from codesign.probe.hypotheses import canonical
from codesign.probe.questions import adversarial, experiments, mutated
from codesign.probe.scoring import Scored
from codesign.probe.space import GIVEN, STRUCTURAL, UNREAD, Space
from codesign.probe.stand_ins import absorbed, split
from isa_model.array_codec import encode_array, to_codes
from isa_model.diagnostics import InputError
from isa_model.instruction import Instruction
from isa_model.library import load
from isa_model.matmul import matmul
from isa_model.operand_fields import Scaling
from isa_model.sparse import elements
from isa_model.stage import Register, Stage

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))

from outside_boxes import BOXES
from random_specs import random_specs

VOLTA = "volta.mma.m8n8k4.f32.f16.f16.f32"
INTEGERS = "turing.mma.m8n8k16.s32.s8.u8.s32.satfinite"
register("probe")

REGISTER = {"format": "fp32", "rounding": "toward-zero"}


def hidden(name):
    spec = load(name)
    return SpecBox(Signature(spec), spec)


def unseen(signature, count=6000):
    rng = np.random.default_rng(5)
    fresh = adversarial(signature, rng, 1500)
    return Lines.join([fresh, mutated(signature, rng, fresh, count)])


@pytest.fixture(scope="module")
def volta():
    """The certificate of one floating-point instruction."""
    return probe(hidden(VOLTA), outputs=300)


@pytest.mark.parametrize("name", ["arm.fmopa.f32.f32.f32", INTEGERS])
def test_a_hidden_instruction_is_found(name):
    """The fitted spec gives the hidden one's answers on questions that were not asked."""
    box = hidden(name)
    found = probe(box, outputs=300)
    assert found.verdict in ("determined", "ambiguous")
    lines = unseen(box.signature)
    assert (answers(found.spec, lines) == answers(box.hidden, lines)).all()


def test_fields_are_decided_by_questions(volta):
    """Every excluded value gives another answer to the question named; fields that decide sums are the hidden ones."""
    found = volta
    lines = unseen(Signature(load(VOLTA)))
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


def test_every_field_of_the_language_is_an_axis():
    """A field that the language gains is varied without a change here, unless it is a structure or given."""
    spec = load("rtx_blackwell.mma.m16n8k32.kind::mxf8f6f4.block32.f32.e4m3.e4m3.f32.ue8m0")
    register = {"format": "fp32", "rounding": "nearest-even"}
    stages = [{"terms": 32}, {"terms": 1, "accumulator": {"fraction_bits": 3}, "fraction_bits": 24, "rounding": "down"}]
    stages[1]["result"] = [register]
    space = Space(Signature(spec))
    hypothesis = {"stages": stages, "nan": 0x7FFFFFFF, "scale": {"onto": -1}}
    varied = {path[-1] for path, _ in space.neighbours(hypothesis, 1) if path}
    every = {f for kind in (Instruction, Scaling, Stage, Register) for f in kind.model_fields}
    assert every - STRUCTURAL - GIVEN - UNREAD - {"scale", "random_bits"} <= varied


class Noise(SpecBox):
    """A box that gives another code now and then."""

    share = 0.3

    def ask(self, lines):
        d = super().ask(lines)
        return d ^ (np.random.default_rng().random(d.shape) < self.share).astype(d.dtype)


@pytest.mark.parametrize("share", [0.3, 0.004])
def test_a_box_with_noise_is_refused_with_two_answers_to_one_question(share):
    """Answers that vary are not fitted, however rarely they do."""
    spec = load(INTEGERS)
    box = Noise(Signature(spec), spec)
    box.share = share
    found = probe(box, seconds=1.0)
    assert found.verdict == "refused"
    assert "same question differently" in found.reason
    assert len(set(found.witness["answers"])) == 2


@pytest.mark.parametrize("name", ["random order", "depends on history"])
def test_a_box_that_is_no_function_of_its_operands_is_refused_at_once(name):
    """Sums in another order each time, and a register that is not cleared, need no search."""
    found = probe(BOXES[name](), seconds=100.0)
    assert (found.verdict, found.counts["hypotheses"]) == ("refused", 0)
    assert len(set(found.witness["answers"])) == 2


@pytest.mark.parametrize("name", ["depends on position", "lookup error"])
def test_a_box_with_a_wrong_product_is_refused_at_once(name):
    """A product that is another one when A and B change places is in no spec: one product shows it."""
    found = probe(BOXES[name](), seconds=100.0)
    assert found.verdict == "refused"
    assert "change places or signs" in found.reason
    assert len(found.witness["terms"]) == len(found.witness["other terms"]) == 1
    assert len(set(found.witness["answers"])) == 2


def test_every_spec_answers_alike_when_operands_change_places_or_signs():
    """What a box is refused for at once is in no spec of the language."""
    rng = np.random.default_rng(4)
    for spec in random_specs(40):
        lines = adversarial(Signature(spec), rng, 400)
        others = rewritten(Signature(spec), rng, lines)
        assert (answers(spec, lines) == answers(spec, others)).all()


def test_a_box_outside_the_language_has_a_witness_of_few_operands(monkeypatch):
    """A box whose negative results are one too low is refused where more hypotheses come no nearer, with time left; the nearest
    spec and the smallest operands are shown."""
    monkeypatch.setattr(search, "PATIENCE", 1000)
    spec = load(VOLTA)

    def inverting(a, b, c):
        d = answers(spec, Lines(a, b, c))
        return d - ((d >> 31 == 1) & (d << 1 != 0) & (d & 0x7F800000 != 0x7F800000)).astype(d.dtype)

    found = probe(FunctionBox(Signature(spec), inverting), seconds=100.0)
    assert found.verdict == "refused"
    assert "none of 1,000 hypotheses came a tenth nearer" in found.reason
    assert found.witness["box"] != found.witness["nearest_spec"]
    assert len(found.witness["terms"]) <= 2
    assert found.verdict.upper() in found.text


def test_a_ones_complement_adder_is_refused_with_its_smallest_operands():
    """RDNA gfx1151's fault (ROCm/rocm-systems 12056), negation by inverting bits without the increment, is no spec's sum."""
    spec = load("arm.mopa.s32.s8.s8")

    def adder(a, b, c):
        terms = a.view(np.int8).astype(np.int64) * b.view(np.int8)
        total = np.where(terms < 0, terms - 1, terms).sum(axis=1) + c.view(np.int32)
        return total.astype(np.int32).view(np.uint32)

    found = probe(FunctionBox(Signature(spec), adder), seconds=1.0)
    assert found.verdict == "refused"
    assert len(found.witness["terms"]) == 1
    assert found.witness["c"] == "0x0"
    assert int(found.witness["nearest_spec"], 16) - int(found.witness["box"], 16) in (1, 1 - 2**32)


SUM = (
    FUNCTION
    + """ {
  for (long i = 0; i < lines; ++i) {
    int total = ((const int *)c)[i];
    for (long j = 0; j < k; ++j) total += ((const signed char *)a)[i * k + j] * ((const signed char *)b)[i * k + j];
    ((int *)d)[i] = total;
  }
  return RETURNED;
}
"""
)


@pytest.mark.parametrize(("suffix", "tool"), [(".c", "cc"), (".cu", "nvcc")])
def test_a_users_own_kernel_is_a_box(suffix, tool, tmp_path):
    """A file with the documented function is compiled and asked; its errors are said by the file's name."""
    if shutil.which(tool) is None:
        pytest.skip(f"needs {tool}")
    path, operands = tmp_path / f"kernel{suffix}", "arm.mopa.s32.s8.s8"
    text = SUM if suffix == ".cu" else SUM.replace('extern "C" ', "")
    path.write_text(text.replace("RETURNED", "0"))
    box = open_box(f"cu:{path}", operands)
    lines = adversarial(box.signature, np.random.default_rng(0), 100)
    assert (box.ask(lines) == answers(load(operands), lines)).all()
    for changed, said in (
        (text.replace("RETURNED", "3"), "returned 3"),
        (text.replace("RETURNED", "0").replace("int run(", "int other("), "no function `run`"),
        (text.replace("RETURNED", "*(volatile int *)8"), r"ended its process with signal \d+"),
        ("int run(", "does not compile"),
    )[: 4 if suffix == ".c" else 0]:
        path.write_text(changed)
        with pytest.raises(InputError, match=said):
            open_box(f"cu:{path}", operands).ask(lines)


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


def test_rivals_that_differ_in_two_fields_are_known():
    """A window one bit narrower with another rounding gives nearly the same answers: neither change alone does."""
    stage = {"terms": 1, "accumulator": True, "result": [{"format": "e5m5", "rounding": "down"}]}
    near, far = (
        {**stage, "fraction_bits": n, "rounding": mode} for n, mode in ((31, "nearest-away"), (32, "toward-zero"))
    )
    fields = {"shape": {"m": 4, "n": 4, "k": 1}, "a": "fp16", "b": "fp16", "accumulator": "fp16"}
    spec = Instruction.model_validate(fields | {"stages": {"fuse": near}})
    fit = Fit(Session(SpecBox(Signature(spec), spec)))
    fit.ask_all()
    found = fit.paired(fit.score({"stages": [near]}), {})
    assert {"stages": [far]} in [hypothesis for _, hypothesis in found.values()]
    assert not any(len(paths) > 2 for paths, _ in found.values())


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


def test_two_stages_stand_for_one():
    """A sum cut to its largest term with C beside is next to a sum cut before C is added."""
    cut = {"fraction_bits": 16, "rounding": "nearest-even"}
    register = {"result": [{"format": "fp16", "rounding": "nearest-even"}]}
    one = {"stages": [{"terms": 16, "accumulator": {"fraction_bits": 40}, **cut, **register}]}
    assert {"stages": [{"terms": 16, **cut}, {"terms": 1, "accumulator": True, **register}]} in list(split(one))


def test_a_stage_that_only_rounds_is_absorbed():
    """A register of its own above a chain is next to the chain that rounds to it."""
    narrow, last = {"format": "e8m13", "rounding": "toward-zero"}, {"terms": 1, "accumulator": True, "result": ["fp32"]}
    chain = {"terms": 32, "accumulator": True, "chain": 4}
    found = list(absorbed({"stages": [{**chain, "result": ["wide"]}, {"terms": 1, "result": [narrow]}, last]}))
    assert found == [{"stages": [{**chain, "result": kept}, last]} for kept in ([narrow], ["wide", narrow])]


def test_a_proposal_is_a_box(tmp_path):
    """`spec:` takes a proposal as well as an instruction."""
    out = tmp_path / "found"
    done = CliRunner().invoke(
        app, ["probe", "spec:group-scaled-mma", "--seconds", "1", "--outputs", "0", "--out", str(out), "--json"]
    )
    assert done.exit_code in (0, 1), done.output
    assert yaml.safe_load((out / "spec.yaml").read_text())["scale"]["a"]["format"] == "fp32"


def test_a_box_that_makes_something_of_nothing_is_refused_at_once():
    """Zeros alone give a zero in every spec: another answer needs no search."""
    signature = Signature(load(VOLTA))
    found = probe(FunctionBox(signature, lambda a, b, c: np.full_like(c, 0x7F800000)), seconds=100.0)
    assert found.verdict == "refused"
    assert "0x7f800000 for zeros alone" in found.reason
    assert found.counts["hypotheses"] == 0


def test_a_search_without_time_is_no_result():
    """A budget that is spent leaves the box open: it is neither refused nor certified."""
    spec = load("hopper.mma.m16n8k32.f32.e4m3.e5m2.f32")
    found = probe(SpecBox(Signature(spec), spec), seconds=0.2)
    assert found.verdict == "open"
    assert "time of 0.2 s ended" in found.reason
    assert "OPEN" in found.text


def test_some_hypothesis_is_tried_however_little_time_is_left():
    """A slow machine ends a search, but does not leave it without a start, which would read as a refusal."""
    fit = Fit(Session(hidden(INTEGERS)), budget_s=0.0)
    fit.ask_all()
    assert len(fit.start()) == 1


def test_recorded_answers_are_enough():
    """Questions that were not chosen by the probe lead to a spec too."""
    spec = load(VOLTA)
    box = SpecBox(Signature(spec), spec)
    lines = Lines.join([x for _, x in experiments(box.signature, np.random.default_rng(3), 0.5)])
    found = probe(Recorded(box.signature, lines, box.ask(lines)))
    assert found.verdict == "ambiguous"
    assert found.spec.stages["fuse"].fraction_bits == 23


def test_matrices_give_the_lines_on_their_diagonal():
    """A function of whole matrices answers as the instruction line by line."""
    spec = load(VOLTA)

    def product(a, b, c):
        return to_codes(spec.accumulator, matmul(spec, a, b, c, engine="portable"))

    lines = adversarial(Signature(spec), np.random.default_rng(0), 300)
    assert (MatrixBox(Signature(spec), product).ask(lines) == answers(spec, lines)).all()


INTEGER_SPARSE = "hopper.mma.sp.m16n8k64.s32.s4.s4.s32"


@pytest.mark.parametrize("name", ["ada.mma.sp.m16n8k16.f32.f16.f16.f32", INTEGER_SPARSE])
def test_a_sparse_box_gets_positions(name):
    """Dense questions become sparse ones: a function and a matrix product of the whole instruction answer as its dense part."""
    spec = load(name)
    signature = Signature(spec.dense, sparse=spec)
    lines = adversarial(signature, np.random.default_rng(0), 200)

    def gathers(a, b, c, positions):
        return answers(spec.dense, Lines(a, np.take_along_axis(b, elements(spec.sparsity, positions), 1), c))

    def product(a, b, c, positions):
        return to_codes(spec.accumulator, matmul(spec, a, b, c, positions=positions, engine="portable"))

    for box in (FunctionBox(signature, gathers), MatrixBox(signature, product)):
        assert (box.ask(lines) == answers(spec.dense, lines)).all()


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


def test_several_levels_of_scales_are_refused(tmp_path):
    """A probe asks one level of scales, and says so before it asks."""
    data = load(MX).model_dump(mode="json", exclude_none=True)
    data["scale"]["a"]["coarser"] = [{"group": None, "format": "fp32"}]
    (tmp_path / "nested.yaml").write_text(yaml.safe_dump(data))
    with pytest.raises(InputError, match="several levels"):
        open_box("python:json:loads", str(tmp_path / "nested.yaml"))


def test_a_box_without_c_is_asked_with_zeros():
    """`takes_c: false` asks no question with another C."""
    spec = load(VOLTA)
    session = Session(SpecBox(Signature(spec, takes_c=False), spec))
    Fit(session).ask_all()
    assert not session.pool.c.any()


def test_questions_can_be_answered_elsewhere(tmp_path):
    """Each round waits for its answers; the same answers lead to the same certificate as a box at hand."""
    direct, rounds = hidden(INTEGERS), 0
    while True:
        try:
            found = probe(FolderBox(direct.signature, tmp_path), outputs=200)
            break
        except Unanswered as waiting:
            rounds += 1
            lines = parse_questions(direct.signature, (waiting.folder / "questions.txt").read_text().splitlines())
            (waiting.folder / "answers.txt").write_text("".join(f"{int(x):x}\n" for x in direct.ask(lines)))
    assert rounds == found.counts["rounds"] <= 10
    assert canonical(found.spec) == canonical(probe(direct, outputs=200).spec)


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


def test_the_smallest_question_has_no_codes_to_spare():
    """Codes that do not matter are zeros in the witness, those of B beside a zero of A too."""
    signature = Signature(load(VOLTA))
    found = probe(FunctionBox(signature, lambda a, b, c: np.zeros_like(c)), seconds=1.0)
    assert found.verdict in ("open", "refused")
    assert len(found.witness["terms"]) <= 1


@pytest.mark.parametrize(
    ("option", "make", "said"),
    [
        ("--write-questions", lambda path: path.write_text(""), "is not a folder"),
        ("--read-answers", lambda path: path.write_text(""), "is not a folder"),
        ("--read-answers", lambda path: None, "does not exist"),
    ],
)
def test_a_folder_of_rounds_is_checked_first(option, make, said, tmp_path):
    """A file in the place of the folder, or a folder to go on with that is not there, is an error; nothing is written."""
    path = tmp_path / "rounds"
    make(path)
    done = CliRunner().invoke(app, ["probe", "--operands", VOLTA, option, str(path)])
    assert isinstance(done.exception, InputError)
    assert said in str(done.exception)
    assert not path.is_dir()


def test_a_refusal_without_a_spec_says_that_the_time_was_spent(tmp_path, monkeypatch, capsys):
    """A search without time says so, and one that ends before its first spec writes no empty spec.yaml."""
    found = probe(hidden("hopper.wgmma.m64n8k32.f32.e4m3.e4m3"), seconds=0.001)
    assert "the time of 0.001 s ended" in found.reason
    found = probe(Noise(Signature(load(INTEGERS)), load(INTEGERS)))
    assert found.spec is None
    monkeypatch.setattr("codesign.probe.certificate.probe", lambda *_: found)
    assert run(["probe", f"spec:{VOLTA}", "--out", str(tmp_path / "found")]) == 1
    assert "smallest question" not in capsys.readouterr().out
    assert sorted(x.name for x in (tmp_path / "found").iterdir()) == ["SHA256SUMS", "certificate.json", "log.json"]


def test_hypotheses_that_explain_the_same_are_not_all_given_up(monkeypatch):
    """Of four that explain the same answers, some are changed in the widest steps."""
    fit = Fit(Session(hidden(VOLTA)), budget_s=1000.0)
    fit.ask_all()
    spec = fit.space.spec(plain := {"stages": [{"terms": 4, "accumulator": True, "result": [REGISTER]}]})
    wrong = fit.score(plain).wrong
    alike = [Scored(plain | {"nan": code}, spec, wrong, 1.0) for code in range(4)]
    found = Scored(plain, spec, np.zeros_like(wrong), 0.0)
    monkeypatch.setattr(fit, "_amplify", lambda x: False)
    monkeypatch.setattr(fit, "_reordered", lambda *_: None)
    monkeypatch.setattr(fit, "_step", lambda x, reach: found if reach == 2 else None)
    assert fit.search(alike) is found


def test_a_last_check_of_endless_size_is_refused():
    """More questions than memory holds are refused before the box is opened."""
    assert CliRunner().invoke(app, ["probe", f"spec:{VOLTA}", "--outputs", "10000000000"]).exit_code == 2


MX = "blackwell.tcgen05.m128n8k32.kind::mxf8f6f4.block32.f32.e5m2.e5m2.ue8m0"


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("zero_exponent", [-134, -132])
def test_scaled_questions_reach_the_bottom_of_d(seed, zero_exponent):
    """Scales bring terms to where the exponent of zeros cuts them, one more or less of which then changes D."""
    spec = load(MX)
    (name, stage), *rest = spec.stages.items()
    assert stage.zero_exponent == -133
    other = spec.model_copy(
        update={"stages": {name: stage.model_copy(update={"zero_exponent": zero_exponent}), **dict(rest)}}
    )
    lines = adversarial(Signature(spec), np.random.default_rng(seed), 2200)
    assert (answers(spec, lines) != answers(other, lines)).any()


def test_pairs_of_products_show_how_many_bits_inner_sums_keep():
    """Two products of one inner sum lead to no more bits than its register has: a narrow inner register is tried at once."""
    data = load(VOLTA).model_dump(mode="json", exclude_none=True)
    inner = {"terms": 4, "result": {"format": "e8m8", "rounding": "nearest-away"}}
    last = {"terms": 2, "accumulator": True, "result": {"format": "e8m18", "rounding": "down"}}
    data |= {"shape": {"m": 8, "n": 8, "k": 8}, "stages": {"inner": inner, "last": last}}
    spec = Instruction.model_validate(data)
    fit = Fit(Session(SpecBox(Signature(spec), spec)))
    fit.ask_all()
    assert 8 in fit.widths()
    assert not fit.search(fit.start()).wrong.any()


def test_nans_of_c_are_asked():
    """The code of NaN is read off answers to a C that is one, even where no product can be."""
    data = load(VOLTA).model_dump(mode="json", exclude_none=True)
    spec = Instruction.model_validate(data | {"a": "e3m2", "b": "e3m2", "nan": 0x7FFFFFFF})
    fit = Fit(Session(SpecBox(Signature(spec), spec)))
    fit.ask_all()
    assert fit.registers()["nan"] == 0x7FFFFFFF


def test_scales_come_after_c():
    """A function takes the codes of A, B and C, then those of the scales."""
    signature = Signature(load("rtx_blackwell.mma.m16n8k32.kind::mxf8f6f4.block32.f32.e4m3.e4m3.f32.ue8m0"))

    def function(a, b, c, scale_a, scale_b):
        assert (a.shape, b.shape, c.shape) == ((3, 32), (3, 32), (3,))
        assert scale_a.shape == scale_b.shape == (3, 1)
        return c

    assert FunctionBox(signature, function).ask(signature.empty(3)).shape == (3,)
