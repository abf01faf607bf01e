"""Users' boxes: functions, kernels, programs, folders and logs, and what they do wrong."""

import json
import os
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
from typer.testing import CliRunner

from codesign.commands.app import app
from codesign.commands.cli import register
from codesign.commands.probe import _alike
from codesign.probe.box import Lines, Session, Signature, answers
from codesign.probe.boxes import ExecutableBox, FolderBox, FunctionBox, MatrixBox, open_box, signature_of
from codesign.probe.certificate import probe
from codesign.probe.compiled_box import open_compiled
from codesign.probe.exchange import read_round
from codesign.probe.hypotheses import canonical
from codesign.probe.questions import adversarial
from isa_model.array_codec import to_codes
from isa_model.diagnostics import InputError, Unavailable
from isa_model.engines.c_library import compiler
from isa_model.formats import FORMATS
from isa_model.library import load
from isa_model.matmul import matmul

VOLTA = "volta.mma.m8n8k4.f32.f16.f16.f32"
SIGNATURE = Signature(load(VOLTA))
register("probe")
RUN = "int run(long l, long k, const void *a, const void *b, const void *c, const void *s, const void *t, void *d)"


def questions(count=50):
    return adversarial(SIGNATURE, np.random.default_rng(0), count).pick(slice(0, count))


def script(path, text):
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return ExecutableBox(SIGNATURE, path)


def test_a_function_may_return_the_same_array_in_every_round():
    """Answers are kept when the function writes its next ones into the array that it returned before."""
    given, buffer = questions(), np.zeros(50, np.uint32)

    def reuses(a, b, c):
        buffer[:] = c
        return buffer

    box = FunctionBox(SIGNATURE, reuses)
    first = box.ask(given)
    box.ask(given._replace(c=given.c[::-1].copy()))
    assert (first == given.c).all()


def test_codes_of_the_other_byte_order_are_the_same_codes():
    """A big-endian array has the values it says, not those of its bytes."""
    given = questions()
    assert (FunctionBox(SIGNATURE, lambda a, b, c: c.astype(">u4")).ask(given) == given.c).all()


def test_what_a_function_prints_is_not_the_commands_output(capsys):
    """A function that prints leaves stdout to the command's JSON."""
    FunctionBox(SIGNATURE, lambda a, b, c: (print("noise"), c)[1]).ask(questions())
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", "noise\n")


def test_any_exception_of_a_function_is_its_own_fault():
    """An exception outside Exception, as test frameworks raise, is reported like others."""

    class Skipped(BaseException):
        pass

    def fails(a, b, c):
        raise Skipped("no chip")

    with pytest.raises(InputError, match="Skipped: no chip"):
        FunctionBox(SIGNATURE, fails).ask(questions())


@pytest.mark.parametrize("change", [lambda d: d.astype(float), lambda d: d[:, :1], lambda d: d.astype(np.uint64)])
def test_a_matrix_function_returns_codes_of_the_whole_product(change):
    """Floats would be cut to integers and read as codes; a column would be broadcast."""
    with pytest.raises(InputError, match="expected uint32"):
        MatrixBox(SIGNATURE, lambda a, b, c: change(c)).ask(questions())


def test_a_program_may_leave_a_process_behind(tmp_path):
    """A round ends with the program, though what it started holds its output open, and that process ends with it."""
    left = tmp_path / "left"
    box = script(tmp_path / "box.sh", f'(sleep 3; touch {left}) & sed "s/.* //" "$1" > "$2"')
    start, given = time.monotonic(), questions()
    assert (box.ask(given) == given.c).all()
    assert time.monotonic() - start < 2.5
    time.sleep(max(0.0, start + 3.5 - time.monotonic()))
    assert not left.exists()


def test_a_program_that_never_ends_is_killed_with_what_it_started(tmp_path, monkeypatch):
    """After the time limit the program and its children are gone."""
    monkeypatch.setattr("codesign.probe.program.TIME_LIMIT", 0.5)
    left = tmp_path / "left"
    box = script(tmp_path / "box.sh", f"(sleep 1; touch {left}) & wait")
    with pytest.raises(InputError, match="took more than"):
        box.ask(questions())
    time.sleep(1)
    assert not left.exists()


def test_a_program_killed_by_a_signal_is_named_with_it(tmp_path):
    """A crash is a signal, not a negative exit code."""
    with pytest.raises(InputError, match="failed with signal 11"):
        script(tmp_path / "box.sh", "kill -SEGV $$").ask(questions())


def test_what_a_program_prints_without_end_takes_no_memory(tmp_path):
    """Of a flood of text, the start is shown."""
    with pytest.raises(InputError, match="exit code 3: yes") as caught:
        script(tmp_path / "box.sh", "yes yes | head -c 3000000; exit 3").ask(questions())
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("1\n1_0\n3\n", "answers.txt:2: `1_0` is no code"),
        ("1\n٣\n3\n", "answers.txt:2: `٣` is no code"),
        ("1\n2 3\n", "answers.txt:2: `2 3` is no code"),
        ("1\n\n\nzz\n3\n", "answers.txt:4: `zz` is no code"),
    ],
)
def test_a_wrong_answer_is_never_read_as_another_code(text, fault, tmp_path):
    """Underscores, other scripts' digits and two codes in a line are refused at their line of the file."""
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


def test_a_kernel_may_leave_a_process_behind(tmp_path):
    """A round ends when `run` returns, though a process it forked holds its output open."""
    path = tmp_path / "kernel.c"
    path.write_text(
        "#include <string.h>\n#include <unistd.h>\n"
        f"{RUN} {{ if (!fork()) {{ sleep(30); _exit(0); }} memcpy(d, c, l * 4); return 0; }}"
    )
    start, given = time.monotonic(), questions()
    assert (open_compiled(str(path), SIGNATURE).ask(given) == given.c).all()
    assert time.monotonic() - start < 20


def test_a_compiler_that_cannot_be_run_is_named(tmp_path, monkeypatch):
    """NVCC that names no program is the user's fault."""
    path = tmp_path / "kernel.cu"
    path.write_text("")
    for named in (str(tmp_path / "missing"), str(path)):
        monkeypatch.setenv("NVCC", named)
        with pytest.raises(InputError, match="cannot be run"):
            open_compiled(str(path), SIGNATURE)


def test_a_compiler_of_the_environment_that_is_no_command_is_passed_over(monkeypatch):
    """CC with an open quotation mark counts as a compiler that is not there."""
    usual = compiler()
    monkeypatch.setenv("CC", 'cc "')
    assert compiler()[0] == usual[0] or "CC" in usual


def test_answers_of_a_spec_are_codes():
    """A box that returns them in any integer type of their size is the same box."""
    given = questions()
    d = answers(load(VOLTA), given)
    assert (FunctionBox(SIGNATURE, lambda a, b, c: d.view(np.int32)[::-1].copy()[::-1]).ask(given) == d).all()


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


def test_a_program_answers_files(tmp_path):
    """A program reads questions.txt and writes a code a line; one that fails is reported with what it said."""
    program = tmp_path / "box.sh"
    program.write_text('#!/bin/sh\nwhile read -r line; do echo "${line##* }"; done < "$1" > "$2"\n')
    program.chmod(0o755)
    signature = Signature(load(VOLTA))
    lines = adversarial(signature, np.random.default_rng(0), 50)
    assert (ExecutableBox(signature, program).ask(lines) == lines.c).all()
    program.write_text("#!/bin/sh\necho no license >&2\nexit 3\n")
    with pytest.raises(InputError, match="exit code 3: no license"):
        ExecutableBox(signature, program).ask(lines)


@pytest.mark.parametrize(
    ("text", "fault"), [("1\n2\n", "2 answers to 3"), ("1\nzz\n3\n", "answers.txt:2: `zz` is no code")]
)
def test_wrong_answers_are_reported_at_their_line(text, fault, tmp_path):
    """The message names the file, the line, and what a code is."""
    (tmp_path / "answers.txt").write_text(text)
    with pytest.raises(InputError, match=fault):
        read_round(tmp_path, Signature(load(VOLTA)), 3)


def test_answers_of_another_shape_are_reported():
    """A function that returns another shape is a user's error with both shapes."""
    signature = Signature(load(VOLTA))
    with pytest.raises(InputError, match="expected uint32"):
        FunctionBox(signature, lambda a, b, c: c[:2]).ask(signature.empty(3))


def test_a_function_that_fails_is_reported_with_what_it_said():
    """An error in the user's function is no fault of codesign, and is named with what was expected."""
    signature = Signature(load(VOLTA))

    def fails(a, b, c):
        raise KeyError("weights")

    def leaves(a, b, c):
        raise SystemExit(0)

    for function, said in ((fails, "KeyError: 'weights'"), (leaves, "SystemExit: 0"), (lambda a, b: a, "TypeError")):
        with pytest.raises(InputError, match=f"the function failed with {said}"):
            FunctionBox(signature, function).ask(signature.empty(3))


@pytest.mark.parametrize("values", [["a"] * 3, np.zeros(3, np.float32), [[1], [1, 2], [3]]])
def test_what_a_function_returns_has_to_be_codes(values):
    """Text, ragged lists and floats are refused; floats of the size of a code would be read as codes otherwise."""
    signature = Signature(load(VOLTA))
    with pytest.raises(InputError):
        FunctionBox(signature, lambda a, b, c: values).ask(signature.empty(3))


def test_a_function_may_change_its_arguments():
    """A function that works in place leaves the questions as they were asked."""
    signature = Signature(load(VOLTA))
    lines = adversarial(signature, np.random.default_rng(0), 50)
    before = lines.a.copy()

    def in_place(a, b, c):
        a[:] = 0
        return c

    FunctionBox(signature, in_place).ask(lines)
    assert (lines.a == before).all()


def test_a_program_without_answers_is_named(tmp_path):
    """A program that writes nothing, writes bytes, or says bytes is reported by its own name."""
    program = tmp_path / "box.sh"
    signature = Signature(load(VOLTA))
    for text, fault in (
        ("exit 0", "answers.txt of .*box.sh cannot be read"),
        ("printf '\\377' > $2", "answers.txt of .*box.sh is no text"),
        ("printf '\\377' >&2; exit 3", "exit code 3"),
    ):
        program.write_text(f"#!/bin/sh\n{text}\n")
        program.chmod(0o755)
        with pytest.raises(InputError, match=fault):
            ExecutableBox(signature, program).ask(signature.empty(3))


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


@pytest.mark.parametrize(
    "name", ["spec:turing.mma.m8n8k16.s32.s8.u8.s32.satfinite", "gpu:hopper.wgmma.m64n8k32.f32.e4m3.e4m3"]
)
def test_operands_that_contradict_a_box_are_refused(name):
    """A box that has its own shape and formats is not asked with others."""
    with pytest.raises(InputError, match="another shape"):
        open_box(name, VOLTA)


def test_the_gpu_box_takes_hoppers_instructions_alone():
    """Another architecture's instruction is refused by name."""
    with pytest.raises(InputError, match="not a Hopper instruction"):
        open_box(f"gpu:{VOLTA}", None)


@pytest.mark.parametrize("text", ["def f(:", "1 / 0", "raise SystemExit(0)", "f = 3"])
def test_a_module_that_cannot_be_used_is_reported(text, tmp_path, monkeypatch):
    """A module with an error of any kind, or without a function, is the user's to mend."""
    (tmp_path / "unusable_module.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "unusable_module", raising=False)
    with pytest.raises(InputError, match="python:unusable_module:f"):
        open_box("python:unusable_module:f", VOLTA)


def test_a_log_that_is_nested_too_deeply_is_refused(tmp_path):
    """A log from elsewhere is read as any JSON is: strictly, and to a depth."""
    (tmp_path / "log.json").write_text("[" * 100_000)
    with pytest.raises(InputError, match="nested deeper"):
        open_box(f"vectors:{tmp_path / 'log.json'}", "volta.mma.m8n8k4.f32.f16.f16.f32")


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


def test_the_code_of_a_nan_is_shown_in_hexadecimal():
    """As on the manual page; other numbers stay decimal, and values with another field are counted."""
    alike = ({"value": 2143289344}, {"value": None}, {"value": 1, "with": {}})
    assert _alike("nan", alike) == "0x7fc00000, None, 1 with another field"
    assert _alike("infinite_from", ({"value": 128},)) == "128"


def test_the_gpu_box_without_a_gpu_is_unavailable(monkeypatch):
    """A machine without a Hopper GPU says so before any question."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("cuda.core")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(Unavailable, match="no Hopper GPU"):
        open_box("gpu:hopper.wgmma.m64n8k32.f32.e4m3.e4m3", None)


def test_an_instruction_that_mmasim_lacks_is_refused(monkeypatch):
    """A name of the catalogue that is none of mmasim's is the user's to change."""
    monkeypatch.setitem(sys.modules, "checks.oracle", SimpleNamespace(instructions=dict))
    with pytest.raises(InputError, match=f"mmasim has no instruction {VOLTA}"):
        open_box(f"mmasim:{VOLTA}", None)


def test_a_matrix_function_takes_scales_after_c():
    """Scales of A lie along M, those of B along N, as in a product of whole matrices."""
    spec = load("rtx_blackwell.mma.m16n8k32.kind::mxf8f6f4.block32.f32.e4m3.e4m3.f32.ue8m0")

    def product(a, b, c, scale_a, scale_b):
        d = matmul(spec, a, b, c, scale_a=scale_a, scale_b=scale_b, engine="portable")
        return to_codes(spec.accumulator, d)

    lines = adversarial(Signature(spec), np.random.default_rng(0), 300)
    assert (MatrixBox(Signature(spec), product).ask(lines) == answers(spec, lines)).all()


def test_an_exception_that_cannot_be_shown_is_named_by_its_kind():
    """The text of an exception may fail, too."""

    class Mute(Exception):
        def __str__(self):
            raise RuntimeError

    def fails(a, b, c):
        raise Mute

    with pytest.raises(InputError, match="failed with Mute"):
        FunctionBox(SIGNATURE, fails).ask(questions())


def test_a_function_that_changes_the_folder_leaves_the_certificate_where_it_was_asked_for(tmp_path, monkeypatch):
    """`--out` is a path from where the command was called."""
    (tmp_path / "moving_box.py").write_text(
        f"import os\n\ndef moves(a, b, c):\n    os.chdir({str(tmp_path.parent)!r})\n    return c * 0 + 0x7F800000\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    CliRunner().invoke(app, ["probe", "python:moving_box:moves", "--operands", VOLTA, "--out", "found"])
    assert (tmp_path / "found" / "certificate.json").exists()


def test_sums_of_too_many_products_are_refused_before_any_question():
    """Questions about the order of thousands of products would take all memory."""
    shape = SIGNATURE.spec.shape.model_copy(update={"k": 7168})
    signature = Signature(SIGNATURE.spec.model_copy(update={"shape": shape}))
    with pytest.raises(InputError, match="K is 7168"):
        probe(FunctionBox(signature, lambda *_: pytest.fail("asked")))


def test_hypotheses_come_in_the_same_order_in_every_process():
    """Python orders sets of text anew in every process; a folder of rounds needs the same questions in all of them."""
    text = """
from codesign.probe.space import MODES
from codesign.probe.stand_ins import stand_ins
register = {"format": "fp32", "rounding": "up"}
stages = [{"terms": 1, "accumulator": True, "result": [register], "fraction_bits": 8, "rounding": x} for x in MODES]
print(list(stand_ins({"stages": stages})))
"""
    said = [
        subprocess.run(
            [sys.executable, "-c", text], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in "012"
    ]
    assert said[0] == said[1] == said[2] != b""
