"""The command line as a user sees it: output, messages and exit codes."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from codesign.__main__ import run, shadowed
from isa_model import catalogue, golden, load
from isa_model.library import changed, raw

ROOT = Path(__file__).parent.parent
PROPOSAL = str(ROOT / "proposals/group-scaled-mma.yaml")
FP8 = "hopper.wgmma.m64n256k32.f32.e4m3.e4m3"


def command(*arguments, cwd=ROOT, env=None):
    """Run `python -m codesign` in a process of its own, from the source tree."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **(env or {})}
    return subprocess.run(
        [sys.executable, "-m", "codesign", *arguments],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_evaluate_prints_verdicts_and_writes_a_report(tmp_path, capsys):
    """A small evaluation exits 0, prints each claim on stdout and the report's path on stderr."""
    text = (ROOT / "proposals/group-scaled-mma.yaml").read_text()
    text = text.replace(
        "[deepseek-v3.fprop, deepseek-v3.dgrad, deepseek-v3.wgrad, mpnet-base, proxy-100m]", "[deepseek-v3.fprop.kv-b]"
    )
    text = text.replace("workload: deepseek-v3.fprop\n", "workload: deepseek-v3.fprop.kv-b\n")
    for refuted in ("cost.area_ratio\n    at_most: 1.15\n", "timing.speedup_over_software\n    at_least: 1.1\n"):
        text = text.replace(f"  - metric: {refuted}", "")  # that exits 1
    (tmp_path / "p.yaml").write_text(text.replace("tensors: [normal, outliers, captured]", "tensors: [normal]"))
    code = run(
        [
            "evaluate",
            str(tmp_path / "p.yaml"),
            "--out",
            str(tmp_path / "r"),
            "--rows",
            "8",
            "--columns",
            "8",
            "--seeds",
            "1-8",
        ]
    )
    out, err = capsys.readouterr()
    assert code == 0
    assert "✓ supported" in out
    assert err.splitlines()[-1] == f"report: {tmp_path}/r/report.html"  # a slow machine may have said what takes long
    assert "\x1b" not in out  # no colours where there is no terminal
    assert json.loads((tmp_path / "r" / "result.json").read_text())["sampling"]["seeds"] == list(range(1, 9))


def test_a_refuted_claim_exits_1_and_json_goes_to_stdout(tmp_path, capsys):
    """A refuted claim gives exit code 1; --json prints the result alone."""
    (tmp_path / "p.yaml").write_text(f"""proposal: p
title: t
source: s
base: {FP8}
workloads: [deepseek-v3.fprop.kv-b]
tensors: [normal]
claims: [{{metric: numerics.relative_frobenius, at_most: 1.0e-12}}]
""")
    code = run(
        [
            "evaluate",
            str(tmp_path / "p.yaml"),
            "--out",
            str(tmp_path / "r"),
            "--rows",
            "4",
            "--columns",
            "4",
            "--json",
        ]
    )
    assert code == 1
    assert json.loads(capsys.readouterr().out)["verdicts"][0]["judgement"] == "refuted"


def test_validate_reports_all_files_and_exits_2(tmp_path, capsys):
    """Valid files are reported as valid; the errors of all others are printed together on stderr, without a traceback."""
    (tmp_path / "bad.yaml").write_text("proposal: x\nbase: hopper\n")
    code = run(["validate", PROPOSAL, str(tmp_path / "bad.yaml"), str(tmp_path / "none.yaml")])
    out, err = capsys.readouterr()
    assert code == 2
    assert out == f"{PROPOSAL}: valid\n"
    assert "bad.yaml:2:7: no instruction is called `hopper`" in err
    assert "none.yaml: cannot be read" in err
    assert "Traceback" not in err


def test_validate_knows_instruction_files(tmp_path, capsys):
    """A file with stages is validated as an instruction."""
    (tmp_path / "i.yaml").write_text("a: e4m3\nstages: {}\n")
    assert run(["validate", str(tmp_path / "i.yaml")]) == 2
    assert "missing field `accumulator`" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["evaluate"],
        ["evaluate", PROPOSAL, "--rows", "0"],
        ["evaluate", PROPOSAL, "--seeds", "a"],
        ["evaluate", PROPOSAL, "--seeds", "1,1"],
        ["no-such-command"],
        ["schema", "nothing"],
        ["show", "hopper.wgmma"],
        ["evaluate", "none.yaml"],
        ["conform", "hopper", "--vectors", "none.npz"],
        ["init", "/no/such/folder/p.yaml"],
        ["evaluate", PROPOSAL, "--out", str(ROOT / "tests")],
    ],
)
def test_wrong_usage_exits_2_without_a_traceback(arguments):
    """Invalid arguments and input exit 2, with a message on stderr and nothing on stdout."""
    done = command(*arguments)
    assert done.returncode == 2, done.stderr
    assert done.stderr.strip()
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    "arguments",
    [
        ["evaluate", PROPOSAL, "--seeds", "1-2-3"],
        ["evaluate", PROPOSAL, "--seeds", "1_0"],
        ["evaluate", PROPOSAL, "--seeds", "0-1000000000"],
        ["evaluate", PROPOSAL, "--seeds", "9" * 30],
        ["evaluate", PROPOSAL, "--rows", "1000000000"],
        ["evaluate", PROPOSAL, "--out", f"{PROPOSAL}/r"],
        ["evaluate", PROPOSAL, "--out", "/"],
        ["vectors", FP8, "--count", "100000000000"],
        ["report", PROPOSAL, "--out", "elsewhere"],
        ["train", "bits", "--seeds", "9" * 30],
        ["train", "bits", "--steps", "9" * 30],
        ["train", "bits", "--tokens", "12800000000000000"],
        ["train", "bits", "--arms", ""],
        ["train", "bits", "--work", os.devnull],
        ["train", "bits", "--work", f"{PROPOSAL}/work"],
    ],
)
def test_what_no_run_could_do_is_refused_before_it_begins(arguments, tmp_path, monkeypatch, capsys):
    """Invalid counts, seeds, steps and output paths are reported before any work is done."""
    monkeypatch.chdir(tmp_path)
    assert run(arguments) == 2
    out, err = capsys.readouterr()
    assert err.strip()
    assert out == ""
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device that is full")
@pytest.mark.parametrize("arguments", [["list"], ["--version"]])  # a long output, and one that is written at the end
def test_output_that_finds_no_space_is_told_in_a_sentence(arguments):
    """A full disk behind stdout gives one sentence and exit code 3, without a traceback."""
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "codesign", *arguments]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    assert (done.returncode, done.stderr) == (
        3,
        "codesign: cannot write: no space left; make some, or write elsewhere\n",
    )


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_closed_pipe_does_not_change_the_exit_code(unbuffered):
    """`codesign ... | head -1` exits with what the command found, also where messages go into the pipe."""
    for arguments, code in ((["list", "instructions"], 0), (["validate", "no.yaml"], 2)):
        command = [sys.executable, "-m", "codesign", *arguments]
        reader, writer = os.pipe()
        os.close(reader)
        environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
        assert subprocess.run(command, stdout=writer, stderr=writer, cwd=ROOT, env=environment).returncode == code
        os.close(writer)


@pytest.mark.skipif(sys.platform == "win32", reason="limits of the size of files")
def test_an_unbuffered_output_is_written_as_a_whole_or_fails(tmp_path):
    """Python alone would drop what a full disk does not take of an unbuffered stdout, and exit with 0."""
    command = (
        f"ulimit -f 8; trap '' XFSZ; {sys.executable} -m codesign list instructions --csv > {tmp_path / 'rows.csv'}"
    )
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode != 0


@pytest.mark.skipif(sys.platform == "win32", reason="a shell that closes streams")
def test_a_command_runs_without_stdout():
    """Where stdout is closed, its output goes nowhere."""
    command = f"{sys.executable} -m codesign list formats >&-"
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_help_exits_0():
    """--help lists each command."""
    done = command("--help")
    assert done.returncode == 0
    for name in ("evaluate", "validate", "schema", "list", "show", "conform", "init"):
        assert name in done.stdout


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("group-scaled-mma", ("1 row x 128 of K", "128 of K x 1 column")),
        ("weight-blocks-2d", ("128 of K x 128 columns",)),
    ],
)
def test_show_names_the_groups_of_scales_by_their_size(name, sizes, capsys):
    """One row is no `row(s)`."""
    assert run(["show", name]) == 0
    out = " ".join(capsys.readouterr().out.split())
    for size in sizes:
        assert f"one per {size}" in out


def test_show_prints_a_page_from_the_spec(capsys):
    """The page of an instruction shows operands, steps with the spec's numbers, and its NaN."""
    assert run(["show", FP8]) == 0
    out = capsys.readouterr().out
    for text in (
        "OPERATION",
        "OPERANDS",
        "SEMANTICS",
        "SPECIAL VALUES",
        "e4m3, 1-4-3 bits",
        "take 32 products at a time",
        "keep 13 fraction bits",
        "towards zero",
        "e8m13",
        "0x7fffffff",
    ):
        assert text in out
    assert run(["show", "hopper.wgmma.m64n8k32.s32.s8.u8.satfinite"]) == 0
    out = capsys.readouterr().out
    assert "write the sum to int32 (clamped)." in out
    assert "NaN" not in out.split("ORIGIN")[0]
    assert run(["show", "volta.mma.m8n8k4.f32.f16.f16.f16"]) == 0
    assert "    C: fp16, 1-5-10 bits" in capsys.readouterr().out
    assert run(["show", PROPOSAL]) == 0
    assert "Multiply each result of fuse by scale_a * scale_b" in capsys.readouterr().out


def test_show_describes_constant_scales_own_registers_and_infinities_that_saturate(tmp_path, capsys):
    """A page states a constant scale's power of two, the bits of a register's own format, and what becomes of infinities."""
    file = tmp_path / "mine.yaml"
    file.write_text(
        json.dumps(changed(raw("arm.fmmla.f16.e5m2.e5m2.lscale0.osm1"), {"scale": {"power": -4, "onto": "dot"}}))
    )
    assert run(["show", str(file)]) == 0
    page = capsys.readouterr().out
    assert "registers: wide16, 1-6-10 bits" in page
    assert "Multiply each result of dot by 2^-4 and add -4 to its exponent; nothing is rounded." in page
    assert "makes D that infinity.\n" in page
    register = "{format: fp16, rounding: nearest-even, overflow: saturate}"
    stage = f"{{terms: 4, accumulator: true, result: {register}}}"
    file.write_text(f"shape: {{m: 1, n: 1, k: 4}}\na: e5m2\nb: e5m2\naccumulator: fp16\nstages: {{sum: {stage}}}\n")
    assert run(["show", str(file)]) == 0
    words = "makes D that infinity, or the largest number in a register that gives it beyond its range."
    assert words in " ".join(capsys.readouterr().out.split())
    assert golden.dot(load(str(file)), [0x7C, 0, 0, 0], [0x3C] * 4, 0) == 0x7BFF


def test_list_names_everything_a_proposal_can_name(capsys):
    """Instructions alone are listed one per line; all kinds together have headings, and instructions as families."""
    assert run(["list", "instructions"]) == 0
    names = capsys.readouterr().out.split()
    assert FP8 in names
    assert names == catalogue()
    assert run(["list"]) == 0
    out = capsys.readouterr().out
    for text in (
        "  hopper.wgmma.m64n{n}k32.f32.{a}.{b}  FP8",
        "(n: 8 to 256 by 8; a: e4m3, e5m2; b: e4m3, e5m2)",
        "formats:",
        "  e4m3 ",
        "deepseek-v3.wgrad.down",
        "numerics.sqnr_db",
        "outliers",
    ):
        assert text in out


def test_conform_prints_a_table_and_exits_by_mismatches(tmp_path, capsys):
    """The recorded vectors conform with exit code 0; one changed bit gives exit code 1 and is located."""
    import numpy as np

    fixture = ROOT / "tests/fixtures/h200_mma_sync.npz"
    file = np.load(fixture)
    arrays = {k: file[k].copy() for k in file.files if k.startswith("hopper.mma.m16n8k8.f32.bf16.bf16.f32/")}
    np.savez(tmp_path / "v.npz", **arrays)
    assert run(["conform", "hopper", "--vectors", str(tmp_path / "v.npz")]) == 0
    assert "0 mismatches" in capsys.readouterr().out
    arrays["hopper.mma.m16n8k8.f32.bf16.bf16.f32/normal/1/D"].view(np.uint32)[1, 2, 3] ^= 1
    np.savez(tmp_path / "v.npz", **arrays)
    assert run(["conform", "hopper", "--vectors", str(tmp_path / "v.npz")]) == 1
    assert "normal/1 block 1 [2, 3]" in capsys.readouterr().out


def test_init_writes_a_valid_commented_proposal_and_its_schema(tmp_path, capsys):
    """The file written by init is valid, names its schema, and is not overwritten."""
    path = tmp_path / "my-idea.yaml"
    assert run(["init", str(path)]) == 0
    assert path.read_text().startswith("# yaml-language-server: $schema=proposal.schema.json\n")
    assert json.loads((tmp_path / "proposal.schema.json").read_text())["title"] == "Proposal"
    assert run(["validate", str(path)]) == 0
    assert run(["init", str(path)]) == 2
    assert "exists" in capsys.readouterr().err
    for number, base in enumerate(
        (
            "hopper.mma.m16n8k32.f32.e4m3.e4m3.f32",
            "ada.mma.m16n8k32.f16.e4m3.e4m3.f16",
            "cdna1.mfma.f32_32x32x4bf16",
            "cdna3.mfma.f32_16x16x32_fp8_bf8",
            "blackwell.tcgen05.m128n8k32.kind::mxf8f6f4.block32.f32.e4m3.e4m3.ue8m0",
            "blackwell.tcgen05.m128n8k64.kind::mxf4nvf4.block16.f32.e2m1.e2m1.ue4m3",
            "hopper.mma.m8n8k4.f64.f64.f64.f64",
        )
    ):
        other = str(tmp_path / f"idea-{number}.yaml")
        assert run(["init", other, "--base", base]) == 0
        assert run(["validate", other]) == 0


@pytest.mark.parametrize("stem", ["0", "1e3", "null", "2026-11-24", "Été", "--", "a b_c"])
def test_init_takes_a_name_from_any_file_name(tmp_path, stem):
    """A file name that YAML reads as a number, date or null, or that has other letters, still gives a valid name."""
    path = tmp_path / f"{stem}.yaml"
    assert run(["init", "--", str(path)]) == 0
    assert run(["validate", "--", str(path)]) == 0


def test_schemas_are_json_schema_and_the_shipped_one_is_current(capsys):
    """Every schema is printed as JSON, and proposals/proposal.schema.json equals the printed one."""
    for kind in ("instruction", "result", "proposal"):
        assert run(["schema", kind]) == 0
        printed = json.loads(capsys.readouterr().out)
        assert printed["type"] == "object"
    assert printed == json.loads((ROOT / "proposals/proposal.schema.json").read_text())


def test_a_shadowing_package_is_named_in_one_line_and_exits_3(tmp_path):
    """Another package `kernels` that hides ours stops the command with exit code 3."""
    (tmp_path / "kernels").mkdir()
    (tmp_path / "kernels" / "__init__.py").write_text("")
    assert shadowed() == ""
    done = command("list", cwd=tmp_path, env={"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"})
    assert done.returncode == 3
    assert done.stderr.count("\n") == 1
    assert "another package `kernels`" in done.stderr


def test_an_internal_error_exits_101(monkeypatch, capsys):
    """An internal error prints its traceback, asks for a report, and exits 101."""
    import codesign.commands.cli

    def broken(_):
        raise RuntimeError("boom")

    monkeypatch.setattr(codesign.commands.cli, "run_app", broken)
    assert run(["list"]) == 101
    err = capsys.readouterr().err
    assert "boom" in err
    assert "fault of codesign" in err


def test_validate_imports_nothing_heavy():
    """Validating a proposal imports no numpy, matplotlib, torch, jinja2 or engine, so that it stays quick."""
    code = (
        f"import sys; from codesign.__main__ import run; assert run(['validate', {PROPOSAL!r}]) == 0; "
        "heavy = {'numpy', 'matplotlib', 'torch', 'jinja2', 'ml_dtypes', 'isa_model.engines.portable'} & set(sys.modules); "
        "assert not heavy, heavy"
    )
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - started < 30  # a hang guard; the 0.3 s are measured by the benchmark


def test_a_closed_pipe_is_no_error():
    """`codesign list | head -1` ends quietly."""
    done = subprocess.run(
        f'"{sys.executable}" -m codesign list instructions | head -1',
        shell=True,
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.stdout.split() == catalogue()[:1]
    assert done.stderr == ""
