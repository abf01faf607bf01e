"""Hostile results: sizes, names and figures that a report or a comparison cannot draw."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from test_hostile import PROPOSAL, SECTION, change

from codesign.__main__ import run
from codesign.evidence.sampling import Sampling
from codesign.proposal.load import parse_proposal
from codesign.report import write as report
from codesign.verdicts.evaluate import evaluate, spec_sha256
from codesign.verdicts.read_result import read_result
from isa_model import InputError
from isa_model.diagnostics import parse_yaml
from isa_model.input_files import parse_json


@pytest.fixture(scope="module")
def result():
    """Return a small result."""
    return evaluate(parse_proposal(parse_yaml(PROPOSAL, "p.yaml")), Sampling(rows=2, columns=2, seeds=(0,)))


NOTHING = {"label": "", "variant": "today"}


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ((*SECTION, "plots", 0, "name"), "claim-1", "is the name of a plot of the report"),
        ((*SECTION, "plots"), lambda plots: [*plots, plots[0] | {"name": plots[0]["name"].upper()}], "two plots have"),
        ((*SECTION, "plots"), lambda plots: [plots[0] | {"name": f"p{i}"} for i in range(201)], "plots, more than"),
        (
            (*SECTION, "plots", 0, "series"),
            [NOTHING | {"x": [0] * 60_000, "y": [1] * 60_000}],
            "points in its plots, more than",
        ),
        (
            (*SECTION, "plots", 0, "series"),
            [NOTHING | {"x": [0] * 2000, "y": [1] * 2000, "labels": [""] * 2000}],
            "2,0.. names of points",
        ),
        ((*SECTION, "tables"), lambda tables: tables * 2000, "tables, more than"),
        (("evidence", 0, "sections", 0, "tables", 0, "columns"), [{"heading": ""}] * 400_000, "columns of its tables"),
        (("evidence", 0, "figures", 0), lambda f: f | {"low": 5.0, "high": 1.0}, "ends before it starts"),
    ],
)
def test_a_result_that_would_take_minutes_or_hide_a_plot_is_refused(result, tmp_path, path, value, message):
    """What drawing cannot take, would replace something else, or is no interval is told when a result is read."""
    data = json.loads(report.contents(result)["result.json"])
    section = data["evidence"][0]["sections"][1]
    section["tables"] = section.get("tables") or [data["evidence"][0]["sections"][0]["tables"][0]]
    change(data, path, value)
    (tmp_path / "result.json").write_text(json.dumps(data))
    with pytest.raises(InputError, match=message):
        read_result(tmp_path / "result.json")


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("evidence", 0, "sections", 0, "tables", 0), lambda table: table | {"rows": [], "headings": []}),
        (("verdicts", 0), lambda verdict: verdict | {"deciding": verdict["deciding"] | {"metric": "no.such"}}),
    ],
)
def test_a_result_whose_tables_cannot_be_drawn_is_refused_before_a_line_is_printed(
    result, tmp_path, capsys, path, value
):
    """`report` says in one message that a result cannot be drawn, as `report --replay` does."""
    data = json.loads(report.contents(result)["result.json"])
    change(data, path, value)
    (tmp_path / "result.json").write_text(json.dumps(data))
    assert run(["report", str(tmp_path)]) == 2
    said = capsys.readouterr()
    assert (said.out, "contradicts itself: it cannot be drawn" in said.err) == ("", True)


def test_results_of_the_largest_figures_are_compared(result, tmp_path, capsys):
    """Figures at the end of a double's range make a page, without a word on the error stream but its name."""
    data = json.loads(report.contents(result)["result.json"])
    for evidence in data["evidence"]:
        for figure in evidence["figures"]:
            figure |= {"value": 1e308, "low": -1e308, "high": 1e308}
    area = {"metric": "cost.area_ratio", "workload": "", "tensors": "", "kind": "modelled", "source": ""}
    ends = {"value": 1e308, "low": -1e308, "high": 1e308}
    data["evidence"][0]["figures"] += [area | ends | {"variant": v} for v in ("proposal", "software", "today")]
    for name in ("a", "b"):
        named = result.proposal.model_copy(update={"proposal": name})
        data["proposal"]["proposal"] = name
        data["proposed"] = named.proposed().model_dump(mode="json")
        data["provenance"]["spec_sha256"] = spec_sha256(named, named.proposed())
        (tmp_path / name).mkdir()
        (tmp_path / name / "result.json").write_text(json.dumps(data))
    assert run(["compare", str(tmp_path / "a"), str(tmp_path / "b"), "--out", str(tmp_path / "c")]) == 0
    assert capsys.readouterr().err == f"page: {tmp_path / 'c' / 'comparison.html'}\n"
    assert (tmp_path / "c" / "comparison.html").exists()


@pytest.mark.parametrize("number", ["1e999", "-1e999", "1" + "0" * 400])
def test_numbers_that_no_double_holds_are_no_json(number):
    """A number beyond a double's range would become an infinity, which JSON cannot write again."""
    with pytest.raises(ValueError, match="is not a JSON number"):
        parse_json(f'{{"a": {number}}}')


def test_a_repeated_key_among_many_is_found_at_once():
    """The search for a key that is given twice takes time in proportion to the keys."""
    keys = ",".join(f'"{i}":0' for i in range(100_000))
    with pytest.raises(ValueError, match="`99999` is given twice"):
        parse_json(f'{{{keys},"99999":1}}')


def test_names_of_reports_stay_in_the_folder_of_reports(result, tmp_path, monkeypatch, capsys):
    """A name with a separator is a path; one too long for a file, or empty, is answered like any unknown name."""
    monkeypatch.chdir(tmp_path)
    report.write(result, tmp_path / "x")
    (tmp_path / "codesign-reports").mkdir()
    for target, message in (
        ("../x", "cannot be read"),
        ("n" * 300, "no report or proposal"),
        ("", "no report is named"),
    ):
        for arguments in (["report", target], ["report", "--replay", target]):
            assert run(arguments) == 2
            assert message in capsys.readouterr().err
    assert run(["validate", "n" * 300]) == 2
    assert "no proposal is called" in capsys.readouterr().err


def test_a_report_on_a_terminal_without_its_characters_is_printed(result, tmp_path):
    """Where stdout's encoding lacks a character, its escape is printed; the result is not blamed."""
    report.write(result, tmp_path / "r")
    home = str(Path(report.__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": home, "PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-m", "codesign", "report", str(tmp_path / "r")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, "contradicts" in done.stderr) == (0, False), done.stderr
    assert "claims hold" in done.stdout
