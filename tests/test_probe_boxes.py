"""Users' boxes: functions, matrices, kernels and programs, and what they do wrong."""

import shutil
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from toy_boxes import INTEGER_SPARSE, SIGNATURE, VOLTA, questions

from codesign.probe.box import Lines, Signature, answers
from codesign.probe.boxes import ExecutableBox, FunctionBox, MatrixBox, open_box
from codesign.probe.compiled_box import FUNCTION, open_compiled
from codesign.probe.questions import adversarial
from isa_model.array_codec import to_codes
from isa_model.diagnostics import InputError, Unavailable
from isa_model.engines.c_library import compiler
from isa_model.instruction import Instruction
from isa_model.library import load
from isa_model.matmul import matmul
from isa_model.sparse import elements

RUN = "int run(long l, long k, const void *a, const void *b, const void *c, const void *s, const void *t, void *d)"
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


def script(path, text):
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return ExecutableBox(SIGNATURE, path)


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


def promoted(k):
    """Return what tests/promoted_gemm.cu computes: Hopper's FP8 mma.sync, with promotion to FP32 every 128 products."""
    data = load("hopper.mma.m16n8k32.f32.e4m3.e4m3.f32").model_dump(mode="json", exclude_defaults=True)
    register = {"result": {"format": "fp32", "rounding": "nearest-even"}, "accumulator": True, "terms": 1}
    data["stages"]["add"] |= {"chain": 4}
    stages = {**data["stages"], "promote": register}
    return Instruction.model_validate({**data, "shape": {"m": 1, "n": 1, "k": k}, "stages": stages})


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="needs nvcc")
def test_a_kernel_with_promotion_is_a_box(monkeypatch):
    """The kernel that docs/probe.md shows compiles, and on a Hopper GPU gives the sums of the instruction and the software."""
    monkeypatch.setenv("NVCC_APPEND_FLAGS", "-arch=sm_90a")
    box = open_compiled(str(Path(__file__).parent / "promoted_gemm.cu"), Signature(promoted(256)))
    assert box.library
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available() or torch.cuda.get_device_capability() != (9, 0):
        pytest.skip("compiled; no Hopper GPU to run it on")
    lines = adversarial(box.signature, np.random.default_rng(0), 3000)
    assert (box.ask(lines) == answers(promoted(256), lines)).all()


def test_matrices_give_the_lines_on_their_diagonal():
    """A function of whole matrices answers as the instruction line by line."""
    spec = load(VOLTA)

    def product(a, b, c):
        return to_codes(spec.accumulator, matmul(spec, a, b, c, engine="portable"))

    lines = adversarial(Signature(spec), np.random.default_rng(0), 300)
    assert (MatrixBox(Signature(spec), product).ask(lines) == answers(spec, lines)).all()


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


def test_scales_come_after_c():
    """A function takes the codes of A, B and C, then those of the scales."""
    signature = Signature(load("rtx_blackwell.mma.m16n8k32.kind::mxf8f6f4.block32.f32.e4m3.e4m3.f32.ue8m0"))

    def function(a, b, c, scale_a, scale_b):
        assert (a.shape, b.shape, c.shape) == ((3, 32), (3, 32), (3,))
        assert scale_a.shape == scale_b.shape == (3, 1)
        return c

    assert FunctionBox(signature, function).ask(signature.empty(3)).shape == (3,)


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


def test_a_program_answers_files(tmp_path):
    """A program reads questions.txt and writes a code a line; one that fails is reported with what it said."""
    program = tmp_path / "box.sh"
    program.write_text('#!/bin/sh\nwhile read -r line; do echo "${line##* }"; done < "$1" > "$2"\n')
    program.chmod(0o755)
    lines = adversarial(SIGNATURE, np.random.default_rng(0), 50)
    assert (ExecutableBox(SIGNATURE, program).ask(lines) == lines.c).all()
    program.write_text("#!/bin/sh\necho no license >&2\nexit 3\n")
    with pytest.raises(InputError, match="exit code 3: no license"):
        ExecutableBox(SIGNATURE, program).ask(lines)


def test_answers_of_another_shape_are_reported():
    """A function that returns another shape is a user's error with both shapes."""
    with pytest.raises(InputError, match="expected uint32"):
        FunctionBox(SIGNATURE, lambda a, b, c: c[:2]).ask(SIGNATURE.empty(3))


def test_a_function_that_fails_is_reported_with_what_it_said():
    """An error in the user's function is no fault of codesign, and is named with what was expected."""

    def fails(a, b, c):
        raise KeyError("weights")

    def leaves(a, b, c):
        raise SystemExit(0)

    for function, said in ((fails, "KeyError: 'weights'"), (leaves, "SystemExit: 0"), (lambda a, b: a, "TypeError")):
        with pytest.raises(InputError, match=f"the function failed with {said}"):
            FunctionBox(SIGNATURE, function).ask(SIGNATURE.empty(3))


@pytest.mark.parametrize("values", [["a"] * 3, np.zeros(3, np.float32), [[1], [1, 2], [3]]])
def test_what_a_function_returns_has_to_be_codes(values):
    """Text, ragged lists and floats are refused; floats of the size of a code would be read as codes otherwise."""
    with pytest.raises(InputError):
        FunctionBox(SIGNATURE, lambda a, b, c: values).ask(SIGNATURE.empty(3))


def test_a_function_may_change_its_arguments():
    """A function that works in place leaves the questions as they were asked."""
    lines = adversarial(SIGNATURE, np.random.default_rng(0), 50)
    before = lines.a.copy()

    def in_place(a, b, c):
        a[:] = 0
        return c

    FunctionBox(SIGNATURE, in_place).ask(lines)
    assert (lines.a == before).all()


def test_a_program_without_answers_is_named(tmp_path):
    """A program that writes nothing, writes bytes, or says bytes is reported by its own name."""
    program = tmp_path / "box.sh"
    for text, fault in (
        ("exit 0", "answers.txt of .*box.sh cannot be read"),
        ("printf '\\377' > $2", "answers.txt of .*box.sh is no text"),
        ("printf '\\377' >&2; exit 3", "exit code 3"),
    ):
        program.write_text(f"#!/bin/sh\n{text}\n")
        program.chmod(0o755)
        with pytest.raises(InputError, match=fault):
            ExecutableBox(SIGNATURE, program).ask(SIGNATURE.empty(3))


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
