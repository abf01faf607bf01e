"""What users' boxes do wrong: functions, kernels and programs that print, leave processes, or return other arrays."""

import json
import time

import numpy as np
import pytest

from codesign.commands.probe import _alike
from codesign.probe.box import Lines, Signature, answers
from codesign.probe.boxes import ExecutableBox, FunctionBox, MatrixBox, open_box, signature_of
from codesign.probe.certificate import probe
from codesign.probe.compiled_box import open_compiled
from codesign.probe.exchange import read_round
from codesign.probe.hypotheses import canonical
from codesign.probe.questions import adversarial
from isa_model.diagnostics import InputError
from isa_model.engines.c_library import compiler
from isa_model.library import load

VOLTA = "volta.mma.m8n8k4.f32.f16.f16.f32"
SIGNATURE = Signature(load(VOLTA))
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
