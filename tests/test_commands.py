"""Commands around an evaluation: names instead of files, folders of reports, completion, plain tables, progress."""

import json
import os
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from codesign.__main__ import run
from codesign.commands.progress import Progress
from codesign.evidence.progress import CountingExecutor
from codesign.evidence.sampling import Sampling
from codesign.evidence.source import sources
from codesign.proposal import shipped
from codesign.proposal.load import parse_proposal
from codesign.verdicts.evaluate import evaluate
from isa_model.diagnostics import parse_yaml

ROOT = Path(__file__).parent.parent
SMALL = """proposal: small
title: t
source: s
base: hopper.wgmma.m64n256k32.f32.e4m3.e4m3
change: {stages: {fuse: {fraction_bits: 20}}}
workloads: [deepseek-v3.fprop.kv-b]
tensors: [normal]
claims: [{metric: numerics.total_error, at_most: 0.5}]
"""
TINY = ["--rows", "4", "--columns", "4", "--seeds", "0"]


@pytest.fixture
def empty(tmp_path, monkeypatch):
    """Change to an empty folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_shipped_proposals_are_found_by_name_from_anywhere(empty, capsys):
    """validate and show accept the name of a shipped proposal in any folder."""
    for name in shipped.names():
        assert run(["validate", name]) == 0
    assert set(shipped.names()) == {path.stem for path in (ROOT / "proposals").glob("*.yaml")}
    capsys.readouterr()
    assert run(["list", "proposals"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(shipped.names())
    assert run(["show", "group-scaled-mma"]) == 0
    assert "Multiply each result of fuse by scale_a * scale_b" in capsys.readouterr().out


def test_a_file_of_ones_own_goes_before_a_shipped_proposal(empty, capsys):
    """A file takes precedence over a shipped proposal of the same name."""
    (empty / "group-scaled-mma").write_text("proposal: x\n")
    assert run(["validate", "group-scaled-mma"]) == 2
    assert "missing field `title`" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["evaluate", "validate", "show", "vectors", "report"])
def test_a_misspelt_name_is_answered_with_the_right_one(empty, capsys, command):
    """Every command suggests the shipped proposal whose name is nearly the one given."""
    assert run([command, "group-scaled-mmma"]) == 2
    assert "did you mean `group-scaled-mma`?" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--vectors", "none.npz"], ["--live"]])
def test_a_misspelt_architecture_is_answered_with_the_right_one(arguments, capsys):
    """`conform hoper` suggests hopper before it looks for a file or a GPU."""
    assert run(["conform", "hoper", *arguments]) == 2
    assert "did you mean `hopper`?" in capsys.readouterr().err


def test_a_report_goes_into_the_current_folder_and_is_printed_again(empty, capsys):
    """evaluate writes to codesign-reports; report finds it by folder, file or proposal, and prints verdicts and tables."""
    (empty / "small.yaml").write_text(SMALL)
    assert run(["evaluate", "small.yaml", *TINY]) == 0
    first = capsys.readouterr()
    assert first.err.splitlines()[-1] == "report: codesign-reports/small/report.html"
    assert {path.name for path in empty.iterdir()} == {"small.yaml", "codesign-reports"}
    for target in ("codesign-reports/small", "codesign-reports/small/result.json", "small.yaml"):
        assert run(["report", target]) == 0
        again = capsys.readouterr()
        assert again.out.startswith(first.out)
        assert "Worst over all GEMMs and tensors" in again.out
        assert again.err == "report: codesign-reports/small/report.html\n"
    assert run(["report"]) == 2
    assert run(["report", "codesign-reports/small", "--replay", "codesign-reports/small"]) == 2


def test_a_result_stands_for_its_proposal(empty, capsys):
    """Who is handed a result.json alone can show its instruction and bound its sums, in the same words as from the proposal."""
    (empty / "small.yaml").write_text(SMALL)
    assert run(["evaluate", "small.yaml", *TINY]) == 0
    capsys.readouterr()
    for command in ("show", "bound"):
        said = []
        for target in ("small.yaml", "codesign-reports/small/result.json"):
            assert run([command, target]) == 0
            said.append(capsys.readouterr().out)
        assert said[0] == said[1]
    assert run(["evaluate", target]) == 2
    assert "is a result, not a proposal" in capsys.readouterr().err
    (empty / "other.json").write_text("{}")
    assert run(["show", "other.json"]) == 2
    assert "other.json is no result.json" in capsys.readouterr().err


def test_evaluating_a_shipped_proposal_leaves_the_shipped_reports_alone(monkeypatch):
    """The default folder of reports is not tracked by git, so that shipped reports are not overwritten."""
    from codesign.report.lookup import FOLDER

    assert not FOLDER.is_absolute()
    ignored = (ROOT / ".gitignore").read_text().split()
    assert {f"/{FOLDER}/", "/codesign-rtl/", "/codesign-vectors/"} <= set(ignored)
    tracked = subprocess.run(["git", "ls-files", str(FOLDER)], cwd=ROOT, capture_output=True, text=True)
    assert tracked.stdout == ""


def test_a_proposal_without_a_report_is_told_how_to_get_one(empty, capsys):
    """report names the command that makes a report, and in a clone the page that ships."""
    assert run(["report", "group-scaled-mma"]) == 2
    err = " ".join(capsys.readouterr().err.split())
    assert "codesign evaluate group-scaled-mma" in err
    assert "reports/group-scaled-mma.html" in err


def test_vectors_have_a_folder_by_default(empty, capsys):
    """The default folder for an instruction's files is named after it."""
    assert run(["vectors", "group-scaled-mma", "--count", "900"]) == 0
    assert (empty / "codesign-vectors/group-scaled-mma").is_dir()


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_is_asked_for_in_either_way(flag, capsys):
    """-h equals --help, for the program and for each command."""
    assert run([flag]) == 0
    assert "--version" in capsys.readouterr().out
    assert run(["evaluate", flag]) == 0
    assert "codesign-reports" in re.sub(r"\s", "", capsys.readouterr().out)


def test_the_version_is_printed(capsys):
    """--version prints one line."""
    assert run(["--version"]) == 0
    assert re.fullmatch(r"codesign( \d+\.\d+\.\d+|, not installed)\n", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("shell", "asked"),
    [
        ("bash", {"COMP_WORDS": "codesign {}", "COMP_CWORD": "{}"}),
        ("zsh", {"_TYPER_COMPLETE_ARGS": "codesign {}"}),
        ("fish", {"_TYPER_COMPLETE_ARGS": "codesign {}", "_TYPER_COMPLETE_FISH_ACTION": "get-args"}),
    ],
)
def test_three_shells_complete_commands_and_names(shell, asked, tmp_path):
    """Completion in three shells offers commands, shipped proposals, the user's files and instructions."""
    (tmp_path / "group.yaml").write_text("")

    def answer(**variables):
        environment = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
        done = subprocess.run(
            [sys.executable, "-m", "codesign"], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.stderr == ""
        return done.stdout

    assert "_CODESIGN_COMPLETE" in answer(_CODESIGN_COMPLETE=f"source_{shell}")
    for typed, expected in (
        ("eva", ["evaluate"]),
        ("evaluate group", ["group-scaled-mma", "group.yaml"]),
        ("show hopper.wgmma.m64n8k32", ["hopper.wgmma.m64n8k32.f32.e4m3.e4m3"]),
    ):
        variables = {k: v.format(len(typed.split()) if k == "COMP_CWORD" else typed) for k, v in asked.items()}
        found = answer(_CODESIGN_COMPLETE=f"complete_{shell}", **variables)
        assert all(word in found for word in expected), found


def test_piped_tables_have_no_frames_and_a_line_a_row(empty, capsys):
    """Piped tables are rows of text without frames and colours, neither cut nor folded."""
    (empty / "small.yaml").write_text(SMALL)
    few = ["--rows", "2", "--columns", "2", "--seeds", "0", "--out", "small"]
    assert run(["evaluate", "small.yaml", *few]) in (0, 1)
    capsys.readouterr()
    for arguments in (["report", "./small"], ["step", "deepseek-v3", "group-scaled-mma"]):
        assert run(arguments) == 0
        out = capsys.readouterr().out
        assert not set(out) & set("─━│┃┏┓└┘├┤┡┩╇╈═║\x1b")
        assert "…" not in out
    claims = json.loads((empty / "small/result.json").read_text())["verdicts"]
    assert run(["report", "./small"]) == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith(("✓", "✗", "~", "?"))]
    assert len(rows) == len(claims)


def test_an_evaluation_names_its_phases_and_ends_them():
    """Each phase of an evaluation is reported until its parts are done, also the repeated measurement."""
    told = []
    evaluate(
        parse_proposal(parse_yaml(SMALL, "small.yaml")),
        Sampling(rows=2, columns=2, seeds=(0,)),
        lambda *heard: told.append(heard),
    )
    names = list(dict.fromkeys(name for name, _, _ in told))
    assert sorted(names[:-1]) == sorted(source.doing for source in sources().values() if source.in_pool)
    assert names[-1] == "measuring again what decides"
    for name in ("sampling", "measuring again what decides"):
        last = [(done, total) for heard, done, total in told if heard == name][-1]
        assert last[0] == last[1] > 0


def test_counted_calls_are_told_as_they_end():
    """Every call is counted when submitted and when done, also through map."""
    told = []
    with ThreadPoolExecutor(2) as pool:
        assert list(CountingExecutor(pool, lambda *heard: told.append(heard)).map(abs, [-1, -2, -3])) == [1, 2, 3]
    assert [done for done, _ in told] == [1, 2, 3]
    assert told[-1] == (3, 3)


def test_a_long_phase_speaks_where_there_is_no_terminal(capsys):
    """Without a terminal, short phases print nothing, and long ones a line from time to time."""
    with Progress("evaluating p", every=0.05) as progress:
        progress.phase("hardware cost", 1, 4)
        time.sleep(0.3)
    lines = capsys.readouterr().err.splitlines()
    assert lines
    assert re.fullmatch(r"evaluating p: hardware cost, 1 of 4, \d+ s", lines[0])
    with Progress("evaluating p") as progress:
        progress.phase("sampling", 1, 4)
    assert capsys.readouterr().err == ""


def test_the_time_left_counts_down_and_is_not_said_once_it_has_passed(monkeypatch):
    """A bar of phases says that the time is that of the phase; a last part that takes long is not "about 1 s" for ever."""
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    progress = Progress("evaluating p")

    def shown():
        (column,) = progress.bar.columns[-1:]
        return str(column.render(progress.bar.tasks[0]))

    progress.phase("sampling", 0, 12)
    now[0] = 20.0
    progress.phase("sampling", 10, 12)
    assert shown() == "about 4 s of this phase left"
    now[0] = 21.5
    assert shown() == "about 2 s of this phase left"
    now[0] = 23.5
    assert shown() == ""
    alone = Progress("timing")
    now[0] = 33.5
    alone.update(1, 3, "gemm")
    assert str(alone.bar.columns[-1].render(alone.bar.tasks[0])) == "gemm, about 20 s left"


def test_on_a_narrow_terminal_no_number_is_cut(capsys, monkeypatch):
    """A table too wide for the terminal becomes one list per row, with every figure whole."""
    from rich.table import Table

    from codesign.commands.terminal import console

    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "60")
    table = Table("proposal", *(f"speedup of part {i}" for i in range(12)))
    for column in table.columns[1:]:
        column.justify = "right"
    table.add_row("one", *(f"1.2345{i}" for i in range(12)))
    console().print(table)
    out = capsys.readouterr().out
    assert all(f"1.2345{i}" in out for i in range(12))
    assert "…" not in out
    assert max(map(len, out.splitlines())) <= 60
