"""Tables of commands: the same options for data everywhere, and plain lines where output is piped."""

import csv
import inspect
import io
import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from rich.table import Table
from rich.text import Text

from codesign.__main__ import run
from codesign.commands import doctor
from codesign.commands.app import app
from codesign.commands.cli import register
from codesign.commands.tabular import emit
from codesign.commands.terminal import console
from isa_model.engines import cpu

ROOT = Path(__file__).parent.parent
FORMS = ("as_json", "as_csv", "as_parquet")
needs_pyarrow = pytest.mark.skipif(not find_spec("pyarrow"), reason="needs the extra `data`")


# -- data --------------------------------------------------------------------------------------------------------------


def test_every_command_with_a_table_has_the_same_options():
    """Commands that print a table take --json, --csv and --parquet; the others take none of them."""
    register()
    found = {c.name or c.callback.__name__: inspect.signature(c.callback).parameters for c in app.registered_commands}
    tabular = {name for name, parameters in found.items() if set(FORMS) <= set(parameters)}
    assert {name for name, parameters in found.items() if set(FORMS) & set(parameters)} == tabular
    assert set(found) - tabular == {"schema", "show", "rtl", "init", "disclose"}


@pytest.mark.parametrize("command", [["list", "tensors"], ["step", "deepseek-v3", "group-scaled-mma"], ["doctor"]])
def test_json_csv_and_parquet_have_the_same_rows(command, capsys):
    """The three forms of a table agree in columns, rows and values."""
    assert run([*command, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert rows
    assert run([*command, "--csv"]) == 0
    lines = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [list(line) for line in lines] == [list(row) for row in rows]
    assert [list(line.values()) for line in lines] == [
        ["" if value is None else str(value) for value in row.values()] for row in rows
    ]


@needs_pyarrow
def test_parquet_goes_to_a_file_that_others_read(tmp_path):
    """--parquet writes the rows to stdout; values of several kinds in a column become text."""
    import pyarrow.parquet

    with open(tmp_path / "rows.parquet", "wb") as file:
        command = [sys.executable, "-m", "codesign", "list", "tensors", "--parquet"]
        done = subprocess.run(command, cwd=ROOT, stdout=file, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    found = pyarrow.parquet.read_table(tmp_path / "rows.parquet").to_pylist()
    assert {"kind": "tensors", "name": "normal"}.items() <= found[0].items()
    code = "from codesign.commands.tabular import emit; emit('parquet', [{'at': 1, 'x': None}, {'at': 'a', 'x': 2.5}])"
    data = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True).stdout
    mixed = pyarrow.parquet.read_table(pyarrow.BufferReader(data)).to_pylist()
    assert mixed == [{"at": "1", "x": None}, {"at": "a", "x": 2.5}]


def test_faults_of_files_are_rows(tmp_path, capsys):
    """validate --json prints place, message and hint of every fault, exits 2, and prints an empty list for valid files."""
    (tmp_path / "bad.yaml").write_text("proposal: x\nbase: hopper\n")
    assert run(["validate", "group-scaled-mma", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []
    assert run(["validate", "group-scaled-mma", str(tmp_path / "bad.yaml"), "--json"]) == 2
    out, err = capsys.readouterr()
    faults = json.loads(out)
    assert err == ""
    assert [(f["line"], f["column"]) for f in faults if "no instruction" in f["message"]] == [(2, 7)]
    assert list(faults[0]) == ["file", "line", "column", "message", "hint"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["list", "--json", "--csv"], "--json and --csv exclude each other"),
        (["doctor", "--csv", "--parquet"], "--csv and --parquet exclude each other"),
        (["report", "--replay", "x", "--json"], "--replay writes files"),
        (["diff", "a"], "Missing argument"),
        (["diff", "no-such-a", "no-such-b"], "no report or proposal is called `no-such-a`"),
        (["diff", "x\x1b", "y"], "U+001B"),
        (["diff", "", ""], "result.json cannot be read"),
        (["doctor", "more"], "unexpected extra argument"),
    ],
)
def test_options_that_do_not_fit_are_refused(arguments, said, tmp_path, monkeypatch, capsys):
    """Exit code 2 and one message; nothing is written."""
    monkeypatch.chdir(tmp_path)
    assert run(arguments) == 2
    out, err = capsys.readouterr()
    assert said.lower() in err.lower()
    assert out == ""
    assert not list(tmp_path.iterdir())


def test_parquet_is_not_sent_to_a_terminal(monkeypatch, capsys):
    """--parquet on a terminal names the redirection; without pyarrow, the extra."""
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    assert run(["list", "--parquet"]) == 3
    assert "'codesign[data]'" in capsys.readouterr().err
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    assert run(["list", "--parquet"]) == 2
    assert "--parquet > rows.parquet" in capsys.readouterr().err


def test_numbers_that_json_lacks_are_null(capsys):
    """Infinities and NaNs are null, so that every JSON reader takes the output."""
    emit("json", [{"a": float("inf"), "b": float("nan"), "c": 1e300}])
    assert json.loads(capsys.readouterr().out, parse_constant=pytest.fail) == [{"a": None, "b": None, "c": 1e300}]


# -- plain tables ------------------------------------------------------------------------------------------------------


def piped(table, capsys):
    console().print(table)
    return capsys.readouterr().out.splitlines()


def test_a_piped_table_has_a_line_a_row_whatever_its_cells_hold(capsys):
    """Line ends within a cell become spaces, so that no text looks like another row; nothing trails."""
    table = Table("claim", "by", caption="note\nmore", pad_edge=False)
    table.add_row(Text("a\n✓ supported  everything"), "b\r\nc\td")
    table.add_row("x" * 300, "")
    lines = piped(table, capsys)
    assert lines[1].startswith("a ✓ supported everything  ")
    assert lines[1].endswith("  b c d")
    assert lines[2] == "x" * 300
    assert lines[3:] == ["note", "more"]
    assert all(line == line.rstrip() for line in lines)


def test_a_name_longer_than_its_column_keeps_its_end_on_a_terminal(capsys, monkeypatch):
    """It is folded; an ellipsis would hide what tells two names apart."""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "50")
    table = Table("verdict", "claim", "decided by", pad_edge=False)
    table.add_row("supported", "numerics.relative_frobenius", "hopper.wgmma.m64n256k32.f32.e4m3.e4m3")
    console().print(table)
    out = capsys.readouterr().out
    assert "…" not in out
    cells = [line.split("│") for line in out.splitlines() if "│" in line]
    assert "".join(line[2].strip() for line in cells) == "numerics.relative_frobenius"
    assert max(len(line) for line in out.splitlines() if "\x1b" not in line) <= 50


def test_a_long_cell_widens_its_own_row_alone(capsys):
    """Columns line up at the width of usual cells; a very long cell does not push those of other rows."""
    table = Table("name", "us", "about", pad_edge=False)
    table.columns[1].justify = "right"
    table.add_row("short", "7", "one")
    table.add_row("y" * 500, "123", "two")
    lines = piped(table, capsys)
    assert lines[1].index("one") < 100
    assert lines[1].split() == ["short", "7", "one"]
    assert lines[2].endswith("123  two")


# -- doctor ------------------------------------------------------------------------------------------------------------


def test_the_doctor_names_engine_records_and_cache(capsys):
    """Every part is there once, in order, with a state; this machine's parts work."""
    assert run(["doctor", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    parts = list(dict.fromkeys(row["part"] for row in rows))
    assert [p for p in parts if p != "package"] == ["codesign", "python", "engine", "gpu", "record", "cache"]
    assert {row["state"] for row in rows} <= {"ok", "missing", "none"}
    assert any(row["name"].startswith("times: ") and row["state"] == "ok" for row in rows)


@pytest.mark.skipif(sys.platform == "win32", reason="no /bin/false")
def test_the_doctor_says_why_numpy_computes(monkeypatch, tmp_path):
    """Without a compiler the engine is numpy and the state `missing`; a broken one is a fault, which exits 3."""
    monkeypatch.setattr(cpu, "_load", cpu._load.__wrapped__)  # as in a process of its own
    monkeypatch.setenv("CC", "/bin/false")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    broken = doctor.engine()
    assert (broken.name, broken.state) == ("numpy", "fault")
    assert "/bin/false failed" in broken.about
    monkeypatch.delenv("CC")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert (doctor.engine().name, doctor.engine().state) == ("numpy", "missing")
    monkeypatch.setattr(doctor, "findings", lambda: [broken])
    assert run(["doctor", "--csv"]) == 3
