"""The answer of an exploration: break-even, assumptions, the page, and points as proposals."""

import base64
import json
import re
from dataclasses import replace

import pytest
import yaml
from toy_space import TEXT, points_of, space

from codesign.__main__ import run
from codesign.commands.explore import _show
from codesign.explore import page, picture, reports
from codesign.explore.assumptions import assumptions
from codesign.explore.break_even import surfaces
from codesign.explore.load import load_space
from codesign.explore.points import ObjectiveFigure, Point, judge, knee
from codesign.explore.table import exported
from codesign.proposal.load import parse_proposal
from codesign.verdicts.evaluate import evaluate
from isa_model.diagnostics import InputError, Unavailable, parse_yaml


def test_break_even_is_the_least_value_that_keeps_a_bound(tmp_path):
    """At all settings of the remaining axes, with the whole interval: 2^-bits, 12 bits more where the register is narrow."""
    text = TEXT.replace("relative_frobenius}", "relative_frobenius, at_most: 2.0e-5}").replace("[13, 24]", "[13, 30]")
    made, _, points = points_of(tmp_path, text)
    found = {(s.axis, s.other): s for s in surfaces(made, points)}["bits", "terms"]
    assert [cells for *_, cells in found.rows] == [(29, 28, 28)]
    said = (
        "The least bits that keeps error in bounds on normal data at every setting of the other axes: 29 at K = 4096."
    )
    assert list(found.sentences) == [said]
    ((*place, _),) = found.rows
    assert list(replace(found, rows=((*place, (None, 28, 28)),)).sentences) == []  # not at every setting
    wide, _, points = points_of(
        tmp_path, text.replace(", narrow: {change: {stages: {fuse: {result: {format: e8m13}}}}}", ", same: {rate: 1}")
    )
    assert next(s for s in surfaces(wide, points) if s.axis == "bits").rows[0][-1] == (17, 16, 16)


def test_the_front_under_other_assumptions():
    """On a GEMM alone, or where predicted areas lie at an end of their intervals, other points are on the front."""
    made, _ = space()
    points = []
    for bits, (x, y), area, source in ((13, (1.0, 0.5), 1.0, "records"), (14, (2.0, 0.25), 2.0, "predicted")):
        errors = [ObjectiveFigure(g, "normal", v, v, v, "computed", "") for g, v in (("x", x), ("y", y))]
        size = ObjectiveFigure("", "", area, area / 4, area * 2, "modelled", source)
        settings = {"bits": bits, "terms": 8, "register": "wide"}
        points.append(Point(settings, {"error": errors[0], "area": size}, {"error": errors, "area": [size]}))
    judge(made, points)
    assert [p.status for p in points] == ["front", "dominated"]
    assert [(a.text, a.stay, a.join) for a in assumptions(made, points)] == [
        ("x normal alone", 1, 0),
        ("y normal alone", 1, 1),
        ("predicted area: the low end of each interval", 1, 1),
        ("predicted area: the high end of each interval", 1, 0),
    ]


def test_the_page_says_what_no_point_of_the_front_has(tmp_path):
    """There is a sentence on each axis, in which semicolons separate names that contain commas."""
    found = page.page(*points_of(tmp_path, TEXT.replace("relative_frobenius}", "relative_frobenius, at_most: 1.0e-5}")))
    assert "No point of the front has bits = 13, 14, 15 or 16." in found
    assert page._either(["a, b", "c", 1]) == "a, b; c; or 1"


def test_the_page_is_whole_without_scripts_and_without_the_extra(tmp_path, monkeypatch):
    """Verdict, static picture, front and reasons are plain HTML; the script is added where the extra is installed."""
    made, base, points = points_of(tmp_path, TEXT.replace("area_ratio}", "area_ratio, at_most: 1.5}"))
    monkeypatch.setattr(picture, "script", lambda: None)
    plain = page.page(made, base, points)
    assert page.headline(made, points) in plain
    assert "<svg" in plain
    assert "vegaEmbed" not in plain
    best = knee(made, points)
    assert f"◆ {best.name}" in plain
    assert "area is 1.5" in plain
    monkeypatch.setattr(picture, "script", lambda: "QQ==")
    assert "vegaEmbed" in page.page(made, base, points)
    hostile = made.model_copy(update={"title": "</script><b>", "space": "x"})
    assert "</script><b>" not in page.page(hostile, base, points)


def test_a_page_holds_the_changes_of_visited_points_alone(tmp_path):
    """A search visits few of the values that a wide axis has."""
    made, base, points = points_of(tmp_path)
    some = [p for p in points if p.settings["terms"] != 16]
    axes = json.loads(re.search(r'id="parts">(.*?)</script>', page.page(made, base, some))[1])["axes"]
    assert list(axes["terms"]) == ["8", "32"]


def test_an_axis_of_equal_values_reaches_to_both_sides_of_them(tmp_path):
    """Points that all have one speed lie between ticks, not at the end of an axis without length."""
    made, _, points = points_of(tmp_path, TEXT)
    same = [replace(p, values={name: replace(v, value=1.03) for name, v in p.values.items()}) for p in points]
    plot = picture.interactive(made, same)["hconcat"][0]["encoding"]
    assert plot["x"]["scale"]["domain"] == pytest.approx([0.927, 1.133])


def test_the_command_says_why_points_could_not_be_judged(tmp_path, capsys):
    """It prints their number with an example beside the front; the page has both, too."""
    made, _, points = points_of(tmp_path, TEXT)
    for point in points[:3]:
        point.status, point.note = "no proposal", "no such format"
    _show(made, points, "table")
    label = "bits = 13, terms = 8, register = wide"
    assert f"no proposal: 3, such as {label}: no such format\n" in capsys.readouterr().err


def test_a_point_is_exported_as_a_valid_proposal(tmp_path, monkeypatch):
    """Its claims are the space's bounds, and its instruction has the point's settings."""
    text = TEXT.replace("area_ratio}", "area_ratio, at_most: 1.5}")
    made, base, points = points_of(tmp_path, text)
    monkeypatch.setattr(picture, "script", lambda: None)
    page.write(made, base, points, tmp_path)
    chosen = next(p for p in points if p.settings == {"bits": 17, "terms": 16, "register": "narrow"})
    proposal = parse_proposal(parse_yaml(exported(tmp_path, chosen.name), "point.yaml"))
    fuse = proposal.proposed().stages["fuse"]
    assert (fuse.fraction_bits, fuse.terms, fuse.result[-1].format.name) == (17, 16, "e8m13")
    assert [(c.metric, c.at_most) for c in proposal.claims] == [("cost.area_ratio", 1.5)]
    with pytest.raises(InputError, match="no point `abc`"):
        exported(tmp_path, "abc")


def test_every_point_of_the_front_links_its_proposal(tmp_path, monkeypatch):
    """The address holds the file that `export` prints, so that the page needs nothing beside it, and no script."""
    monkeypatch.setattr(picture, "script", lambda: None)
    made, base, points = points_of(tmp_path)
    page.write(made, base, points, tmp_path)
    text = (tmp_path / "toy" / "index.html").read_text()
    links = re.findall(r'<a href="data:text/yaml;base64,([^"]+)" download="toy-(\w+).yaml">proposal</a>', text)
    assert {name for _, name in links} == {p.name for p in points if p.status == "front"}
    assert all(base64.b64decode(held).decode() == exported(tmp_path, name) for held, name in links)
    assert ">report</a>" not in text


def test_reports_of_the_front_are_made_once_and_linked(tmp_path, monkeypatch):
    """The knee first; one of the same proposal, sampling and commit stays, and a changed one is made again."""
    monkeypatch.setattr(picture, "script", lambda: "QQ==")
    small = "rows: 8\ncolumns: 8\nseeds: 8\n"
    made, base, points = points_of(tmp_path, TEXT.replace("wgrad.o]", "fprop.kv-b]") + small)
    evaluated, kept = [], []

    def noting(proposal, sampling, phase):
        phase("numerics", 0, 0)
        evaluated.append((proposal.proposal, sampling))
        kept[:] = kept or [evaluate(proposal, sampling)]
        return kept[0]

    monkeypatch.setattr(reports, "evaluate", noting)
    best, phases = knee(made, points), []
    for _ in range(2):
        reports.evaluate_points(made, base, points, tmp_path, 1, lambda name, *_: phases.append(name))
    assert evaluated == [(f"toy-{best.name}", made.sampling)]
    assert any(name.startswith(f"report of {best.name}: ") for name in phases)
    text = page.write(made, base, points, tmp_path).read_text()
    address = f"../reports/toy-{best.name}/report.html"
    assert text.count(f'<a href="{address}">report</a>') == text.count(">report</a>") - 1 == 1  # and the script's own
    assert json.loads(re.search(r'id="parts">(.*?)</script>', text)[1])["reports"] == {best.name: address}
    assert (tmp_path / "toy" / address).exists()
    other = made.model_copy(update={"seeds": 9})
    reports.evaluate_points(other, base, points, tmp_path, 1, lambda *_: None)
    assert len(evaluated) == 2


def refused(*_):
    """A report on a full disk."""
    raise Unavailable("no space left")


def test_the_command_explores_and_exports(tmp_path, capsys, monkeypatch):
    """One real point from the command line: the front, the files, and the proposal of the point."""
    file = tmp_path / "one.yaml"
    file.write_text(
        TEXT.replace("range: [13, 24]", "values: [13]")
        .replace("[8, 16, 32]", "[32]")
        .replace("wgrad.o]", "fprop.kv-b]")
        + "rows: 8\ncolumns: 8\nseeds: 8\n"
    )
    monkeypatch.setattr(picture, "script", lambda: None)
    out = tmp_path / "out"
    assert run(["explore", str(file), "--out", str(out), "--processes", "1", "--csv"]) == 0
    name = capsys.readouterr().out.splitlines()[1].split(",")[0]
    assert {p.name for p in (out / "toy").iterdir()} == {
        "index.html",
        "table.csv",
        "table.parquet",
        "space.json",
        "SHA256SUMS",
    }
    assert run(["explore", "export", str(out), name]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["change"]["stages"]["fuse"]["fraction_bits"] == 13
    assert run(["explore", "export", str(out)]) == 2
    capsys.readouterr()
    monkeypatch.setattr(page, "write", refused)
    assert run(["explore", str(file), "--out", str(out)]) == 3
    assert "codesign: no space left" in capsys.readouterr().err
    assert run(["explore", str(file), "--dask", "local", "--workers"]) == 2
    assert run(["explore", "work", str(out), "--idle", "0.1"]) == 0
    capsys.readouterr()
    assert run(["explore", "work", str(tmp_path / "mistyped"), "--idle", "0.1"]) == 2
    assert f"{tmp_path / 'mistyped'} is no folder of results" in capsys.readouterr().err
    assert not (tmp_path / "mistyped").exists()
    assert load_space(file)[0].size == 2
