"""Probe: folders of questions, logs and operands in files, and what is wrong in them."""

import json

import pytest
import yaml
from toy_boxes import INTEGERS, MX, SIGNATURE, VOLTA, hidden
from typer.testing import CliRunner

from codesign.commands.app import app
from codesign.commands.cli import register
from codesign.probe.boxes import FolderBox, Unanswered, open_box, signature_of
from codesign.probe.certificate import probe
from codesign.probe.exchange import parse_questions, read_round
from codesign.probe.hypotheses import canonical
from isa_model.diagnostics import InputError
from isa_model.library import load

register("probe")


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
    assert rounds == found.counts["rounds"] <= 15
    assert canonical(found.spec) == canonical(probe(direct, outputs=200).spec)


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


def test_answers_without_their_questions_are_refused(tmp_path):
    """A round whose questions are missing or damaged is not guessed at."""
    folder = tmp_path / "round-01"
    folder.mkdir()
    (folder / "answers.txt").write_text("1\n")
    with pytest.raises(InputError, match=r"questions\.txt cannot be read"):
        FolderBox(SIGNATURE, tmp_path).ask(SIGNATURE.empty(1))
    (folder / "questions.txt").write_bytes(b"\xff")
    with pytest.raises(InputError, match="is no text"):
        FolderBox(SIGNATURE, tmp_path).ask(SIGNATURE.empty(1))


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("1\n2\n", "answers.txt has 2 answers to 3 questions"),
        ("1\n1_0\n3\n", "answers.txt:2: `1_0` is no code"),
        ("1\n٣\n3\n", "answers.txt:2: `٣` is no code"),
        ("1\n2 3\n", "answers.txt:2: `2 3` is no code"),
        ("1\n\n\nzz\n3\n", "answers.txt:4: `zz` is no code"),
    ],
)
def test_a_wrong_answer_is_never_read_as_another_code(text, fault, tmp_path):
    """Missing answers, underscores, other scripts' digits and two codes in a line are refused at their line of the file."""
    (tmp_path / "answers.txt").write_text(text)
    with pytest.raises(InputError, match=fault):
        read_round(tmp_path, SIGNATURE, 3)
    (tmp_path / "answers.txt").write_text("1\r\n\n0x2\r\n3")
    assert read_round(tmp_path, SIGNATURE, 3).tolist() == [1, 2, 3]


def test_a_log_of_other_operands_is_refused(tmp_path):
    """Codes of another format of the same size are not read as those of --operands."""
    path, fields = tmp_path / "log.json", SIGNATURE.fields
    log = {"signature": fields, "questions": ["1 0 0 0 1 0 0 0 0"], "answers": ["0"]}
    path.write_text(json.dumps(log))
    assert len(open_box(f"vectors:{path}", VOLTA).d) == 1
    path.write_text(json.dumps(log | {"signature": fields | {"a": "bf16"}}))
    with pytest.raises(InputError, match="'a': 'bf16'"):
        open_box(f"vectors:{path}", VOLTA)
    path.write_text(json.dumps(log | {"questions": ["1_0 0 0 0 1 0 0 0 0"]}))
    with pytest.raises(InputError, match="hexadecimal digits"):
        open_box(f"vectors:{path}", VOLTA)


@pytest.mark.parametrize(
    "change",
    [
        lambda log: log["answers"].pop(),
        lambda log: log["answers"].__setitem__(0, "fffffffff"),
        lambda log: log["answers"].__setitem__(0, "-1"),
        lambda log: log["questions"].__setitem__(0, log["questions"][0] + " 0"),
        lambda log: log["questions"].__setitem__(0, "12345" + log["questions"][0]),
        lambda log: log["questions"].__setitem__(0, "-" + log["questions"][0]),
        lambda log: log.update(questions=[], answers=[]),
        lambda log: log.update(answers=3),
    ],
)
def test_a_damaged_log_is_refused(change, tmp_path):
    """A log with missing, spare or impossible codes is an error of the input, never read some other way."""
    path = tmp_path / "log.json"
    log = {"questions": ["1 0 0 0 1 0 0 0 0", "2 0 0 0 1 0 0 0 0"], "answers": ["0", "1"]}
    path.write_text(json.dumps(log))
    assert len(open_box(f"vectors:{path}", VOLTA).d) == 2
    change(log)
    path.write_text(json.dumps(log))
    with pytest.raises(InputError, match=r"log\.json"):
        open_box(f"vectors:{path}", VOLTA)


def test_a_log_that_is_nested_too_deeply_is_refused(tmp_path):
    """A log from elsewhere is read as any JSON is: strictly, and to a depth."""
    (tmp_path / "log.json").write_text("[" * 100_000)
    with pytest.raises(InputError, match="nested deeper"):
        open_box(f"vectors:{tmp_path / 'log.json'}", "volta.mma.m8n8k4.f32.f16.f16.f32")


@pytest.mark.parametrize(("operand", "accumulator"), [("e4m3", "fp32"), ("fp16", "fp16"), ("int8", "int32")])
def test_operands_in_a_file_need_no_stages(operand, accumulator, tmp_path):
    """A box's shape and formats are all that is known of it; a wrong one is still found at its place."""
    path = tmp_path / "operands.yaml"
    path.write_text(f"shape: {{m: 1, n: 1, k: 8}}\na: {operand}\nb: {operand}\naccumulator: {accumulator}\n")
    fields = signature_of(str(path)).fields
    assert (fields["shape"]["k"], fields["a"], fields["accumulator"]) == (8, operand, accumulator)
    path.write_text(path.read_text().replace(f"b: {operand}", "b: fp99"))
    with pytest.raises(InputError, match=r"operands\.yaml:3:4: unknown number format `fp99`"):
        signature_of(str(path))


@pytest.mark.parametrize(
    "name", ["spec:turing.mma.m8n8k16.s32.s8.u8.s32.satfinite", "gpu:hopper.wgmma.m64n8k32.f32.e4m3.e4m3"]
)
def test_operands_that_contradict_a_box_are_refused(name):
    """A box that has its own shape and formats is not asked with others."""
    with pytest.raises(InputError, match="another shape"):
        open_box(name, VOLTA)


def test_several_levels_of_scales_are_refused(tmp_path):
    """A probe asks one level of scales, and says so before it asks."""
    data = load(MX).model_dump(mode="json", exclude_none=True)
    data["scale"]["a"]["coarser"] = [{"group": None, "format": "fp32"}]
    (tmp_path / "nested.yaml").write_text(yaml.safe_dump(data))
    with pytest.raises(InputError, match="several levels"):
        open_box("python:json:loads", str(tmp_path / "nested.yaml"))
