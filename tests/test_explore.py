"""Spaces of proposals: their files, the keys of their points, search, fronts, break-even, and the page."""

import ast
import csv
import io
import json
import re
from contextlib import contextmanager
from dataclasses import replace
from math import inf
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from strategies import KINDS, codes, instructions
from toy_space import TEXT, Counting, explored, points_of, space, toy

from codesign.__main__ import run
from codesign.commands.explore import _show
from codesign.evidence.numerics.source import Multiplied
from codesign.evidence.numerics.trial import Trial
from codesign.evidence.sampling import Sampling
from codesign.evidence.source import sources
from codesign.explore import page, picture, task
from codesign.explore.assumptions import assumptions
from codesign.explore.break_even import surfaces
from codesign.explore.load import load_space
from codesign.explore.points import ObjectiveFigure, Point, beaten, front, judge, knee, known
from codesign.explore.run import ALONE
from codesign.explore.space import patched, written
from codesign.explore.table import exported
from codesign.explore.task import compute, tasks
from codesign.proposal.load import load_proposal, parse_proposal
from codesign.proposal.shipped import proposal_file
from codesign.proposal.variants import variants
from codesign.verdicts.claims import covered_by
from codesign.workloads.gemms import select
from isa_model import matmul
from isa_model.array_codec import code_dtype
from isa_model.diagnostics import Document, InputError, Unavailable, parse_yaml
from isa_model.engines.batch import batch
from isa_model.engines.plan import Unsupported

# -- space files -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "place", "message"),
    [
        (("fraction_bits", "fraction_bit"), "toy.yaml:5:17", "no field `fraction_bit` in stages.fuse"),
        (("range: [13, 24]", "range: [24, 13]"), "toy.yaml:5", "a range has a first value"),
        (("range: [13, 24]", "range: [13]"), "toy.yaml:5", "needs at least 2 entries, got 1"),
        (("range: [13, 24]", "range: [13, 99999]"), "toy.yaml:5", "a range of 99987 values; at most 65536"),
        (("fuse.terms", "fuse.fraction_bits"), "toy.yaml:6:11", "the axis `bits` varies it, too"),
        (("fuse.terms, values: [8, 16, 32]", "fuse, values: [8]"), "toy.yaml:6:11", "the axis `bits` varies it, too"),
        (("range: [13, 24]", "values: []"), "toy.yaml:5", "one of `values`, `range` and `alternatives`, got nothing"),
        (("relative_frobenius", "relative_frobenus"), "toy.yaml:11:19", "unknown metric"),
        (("base: configurable-accumulation", "base: nothing"), "toy.yaml:3:7", "no proposal is called `nothing`"),
        (("wide: {}", "wide: {chnge: {}}"), "", ""),
        (("tensors: [normal]", "tensors: [normal]\nwhere: [bit > 3]"), "toy.yaml:10", "no axis is called `bit`"),
        (("tensors: [normal]", "tensors: [normal]\nwhere: ['open(1)']"), "toy.yaml:10", "a condition has no call"),
        (("tensors: [normal]", "tensors: [normal]\nwhere: ['bits >']"), "toy.yaml:10", "is not an expression"),
        (("wgrad.o]", "wgrad.oo]"), "toy.yaml:8:13", "unknown workload `deepseek-v3.wgrad.oo`"),
        (("[8, 16, 32]", "[-1, -2]"), "toy.yaml:6", "no value gives a proposal"),
        (("fraction_bits, range: [13, 24]", "zero, values: [positive, ieee]"), "", ""),
        (("tion\n", "tion\nchange: {shape: {k: 64}}\n"), "toy.yaml:4", "a proposal has no field `shape`"),
        (("wgrad.o]\ntensors: [normal]", "wgrad.o]"), "toy.yaml:8", "no workload has captured tensors"),
        (("relative_frobenius}", "relative_frobenius, at: 3}"), "toy.yaml:11", "a point has no swept values"),
    ],
)
def test_faults_of_a_space_are_told_at_their_place(change, place, message):
    """Each names the line, and what is wrong. An alternative may be wrong as long as another one gives a proposal."""
    text = TEXT.replace(*change)
    assert text != TEXT
    if not message:
        space(text)
        return
    with pytest.raises(InputError) as error:
        space(text)
    told = "\n".join(map(str, error.value.problems))
    assert place in told
    assert message in told


def test_only_the_axis_at_fault_is_told():
    """An axis that gives no proposal at any value leaves none to the other axes either, which are not to blame."""
    with pytest.raises(InputError) as error:
        space(TEXT.replace("[8, 16, 32]", "[7, 9]"))
    assert [(p.path, p.line) for p in error.value.problems] == [(("axes", "terms"), 6)]


def test_conditions_compare_axes_and_leave_points_out():
    """`where` keeps the points for which every condition holds; text compared with a number is a fault."""
    made, _ = space(
        TEXT.replace(
            "tensors: [normal]", "tensors: [normal]\nwhere: [\"bits > 20 or register == 'narrow'\", 'terms in (8, 16)']"
        )
    )
    points = list(made.points())
    assert points == [p for p in points if (p["bits"] > 20 or p["register"] == "narrow") and p["terms"] < 32]
    assert len(points) == 4 * 2 * 2 + 8 * 2
    made, _ = space(TEXT.replace("tensors: [normal]", "tensors: [normal]\nwhere: [bits > 3 or register < 3]"))
    assert len(list(made.points())) == made.size
    with pytest.raises(InputError, match="cannot be computed"):
        made.model_copy(update={"where": ("register < 3",)}).allows({"register": "wide"})


def test_patches_are_written_into_the_proposal():
    """Mappings merge, other values replace, and null stays null: in a proposal it removes a field of the base."""
    assert written({"a": {"b": 1, "c": 2}, "d": [1]}, {"a": {"b": None}, "d": [2]}) == {
        "a": {"b": None, "c": 2},
        "d": [2],
    }
    made, base = space()
    data = patched(made, base, {"bits": 15, "terms": 8, "register": "narrow"})
    assert data["change"]["stages"]["fuse"]["fraction_bits"] == 15
    assert data["change"]["stages"]["fuse"]["result"]["format"] == "e8m13"
    assert "sweep" not in data


# -- keys and figures --------------------------------------------------------------------------------------------------


def keys(text, **point):
    made, base = space(text)
    return {t.kind: t.key for t in tasks(made, base, point, made.sampling)}


def test_keys_depend_on_what_figures_depend_on():
    """Names and prose of a space change no key; workloads, sampling, the specification and the evaluator do."""
    point = {"bits": 15, "terms": 8, "register": "wide"}
    own = keys(TEXT, **point)
    assert keys(TEXT.replace("space: toy", "space: other").replace("A toy", "Another"), **point) == own
    assert keys(TEXT.replace("range: [13, 24]", "values: [15]"), **point) == own
    other = keys(TEXT.replace("wgrad.o", "wgrad.down"), **point)
    assert other["cost"] == own["cost"]
    assert other["numerics"] != own["numerics"]
    assert keys(TEXT + "seeds: 8\n", **point)["numerics"] != own["numerics"]
    assert keys(TEXT, **{**point, "bits": 16})["cost"] != own["cost"]


@pytest.mark.parametrize("kind", sources())
def test_every_file_behind_a_figure_is_in_its_key(kind):
    """All that a kind of evidence imports, the records of kernels and the captured tensors: a changed one is a new key."""
    home = Path(task.__file__).parent.parent
    start = home / "evidence" / kind / "source.py"
    behind, found, todo = {path.resolve() for path in task.files_behind(kind)}, set(), [start]
    while todo:
        if (path := todo.pop()) not in found:
            found.add(path)
            todo += imported_files(path)
    assert start in found
    bench = home.parent / "kernels" / "bench"
    # These say what ran, and which GPU a proposal may name.
    aside = {home / "commit.py", bench / "records.py", bench / "__init__.py"}
    assert found - aside <= behind
    assert {*(home / "workloads" / "captured").iterdir()} <= behind
    assert kind != "timing" or {*(home.parent / "kernels" / "records").glob("*.json")} <= behind


def imported_files(path):
    """Return the files of this project that a file imports, at its top or within a function."""
    root = Path(task.__file__).parent.parent.parent
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    files = [root.joinpath(*name.split(".")) for name in names]
    return [f for file in files for f in (file.with_suffix(".py"), file / "__init__.py") if f.exists()]


def test_keys_depend_on_the_code_that_computes(monkeypatch):
    """A changed evaluator gives new keys, and a process with another version refuses to compute."""
    made, base = space()
    (one, *_) = tasks(made, base, next(made.points()), made.sampling)
    monkeypatch.setattr(task, "evaluator", lambda kind, synthesis: "changed")
    (other, *_) = tasks(made, base, next(made.points()), made.sampling)
    assert one.key != other.key
    assert "another version" in compute([one])[0]["failed"]


@settings(max_examples=40, phases=[Phase.generate])
@given(instructions(), st.integers(0, 2**32 - 1), st.sampled_from(KINDS))
def test_products_computed_together_equal_each_alone(spec, seed, kind):
    """For any instruction, `batch` returns the codes that `matmul` does for each product; or refuses the instruction."""
    rng, k = np.random.default_rng(seed), 2 * spec.shape.k
    a, b = codes(spec.a, rng, (2, 3, k), kind), codes(spec.b, rng, (2, k, 2), kind)
    scales = []
    for side, axis, shape in ((spec.scale and spec.scale.a, 1, (2, 3)), (spec.scale and spec.scale.b, 0, (2, 2))):
        groups = -(-k // side.group[axis]) if side else 0
        made = codes(side.format, rng, (*shape, groups), kind) if side else None
        scales.append(made if made is None or axis else made.swapaxes(1, 2))
    try:
        together = batch(spec, a, b, *scales)
    except Unsupported:
        return
    for i in range(2):
        own = [None if s is None else s[i] for s in scales]
        alone = matmul(spec.per_line(), a[i], b[i], scale_a=own[0], scale_b=own[1], engine="portable")
        assert (together[i] == alone.view(code_dtype(spec.accumulator))).all()


def test_nested_scales_need_no_compiler(monkeypatch):
    """A few outputs of an instruction with several levels of scales are those of its compiled engine, without compiling it."""
    proposal = load_proposal(proposal_file("hif4"))
    (gemm,) = select("deepseek-v3.fprop.kv-b")
    spec, drawn = proposal.proposed(), (gemm, "outliers", (0, 1), 3, 2, proposal.rule)
    compiled = Trial(*drawn).outcome(spec).d
    monkeypatch.setattr("codesign.evidence.numerics.trial.multiplier", None)
    assert (Trial(*drawn, compiled=False).outcome(spec).d == compiled).all()


def test_figures_are_those_of_an_evaluation():
    """A task's readings equal those of the question that an evaluation asks about the same claim, intervals included."""
    text = TEXT.replace("relative_frobenius}", "relative_frobenius, relative_to: software, at_most: 1}")
    made, base = space(text.replace("wgrad.o]", "fprop.kv-b]") + "rows: 8\ncolumns: 8\nseeds: 8\n")
    point = {"bits": 15, "terms": 32, "register": "wide"}
    (own,) = (t for t in tasks(made, base, point, made.sampling) if t.kind == "numerics")
    data = {
        **own.data,
        "proposal": "p",
        "title": "t",
        "claims": [{"metric": "numerics.relative_frobenius", "at_most": 1}],
    }
    proposal = parse_proposal(Document(own.file, data, []))
    compared = tuple(c for c in variants(proposal) if c.variant in ("proposal", "software"))
    ((gemm, tensors),) = proposal.trials
    question = Multiplied(proposal, gemm, tensors, "software", compared=compared)
    ((figures,),) = Multiplied.answers([question], Sampling(rows=8, columns=8, seeds=tuple(range(8))))
    (measured,) = covered_by(proposal, made.objectives["error"], figures)
    ((name, source, value, low, high, kind, _),) = compute([own])[0]["readings"]["numerics.relative_frobenius"]
    assert (name, source, kind) == (gemm.name, "normal", "computed")
    assert (value, low, high) == pytest.approx((measured.reading.value, *measured.reading.ends), rel=1e-5)


def test_a_point_that_is_no_proposal_says_why():
    """The reason is a result, which is kept; it ends nothing."""
    made, base = space()
    (own, *_) = tasks(made, base, {"bits": 15, "terms": 8, "register": "wide"}, made.sampling)
    broken = replace(own, data=written(own.data, {"change": {"stages": {"fuse": {"terms": 7}}}}))
    (found,) = compute([broken])
    assert "invalid" in found
    results = {
        t.key: {"key": t.key, "invalid": "no"}
        for t in tasks(made, base, {"bits": 13, "terms": 8, "register": "wide"}, made.sampling)
    }
    assert (
        known(made, base, {"bits": 13, "terms": 8, "register": "wide"}, made.sampling, results, {}).status
        == "no proposal"
    )


# -- fronts ------------------------------------------------------------------------------------------------------------

boxes = st.lists(st.tuples(*[st.tuples(st.integers(0, 9), st.integers(0, 3))] * 2), min_size=1, max_size=30)


@given(boxes)
def test_the_front_holds_what_nothing_dominates(found):
    """By the definition, for any points, equal ones included."""
    x = np.array([[a for a, _ in row] for row in found], float)
    dominated = [any((y <= row).all() and (y < row).any() for y in x) for row in x]
    assert front(x).tolist() == [not d for d in dominated]


@given(boxes)
def test_certainly_beaten_points_are_beaten_whatever_the_intervals_hold(found):
    """Another point's worse ends dominate their better ends; and every point for which that holds is found."""
    best = np.array([[a for a, _ in row] for row in found], float)
    worst = best + np.array([[w for _, w in row] for row in found], float)
    for i, j in enumerate(beaten(best, worst)):
        rivals = [k for k in range(len(found)) if k != i and (worst[k] <= best[i]).all() and (worst[k] < best[i]).any()]
        assert (j in rivals) if rivals else j == -1


def test_values_order_by_the_metric():
    """Not finite is worst, more decibels are better, and figures that are not sampled count with their value."""
    made, _ = space(TEXT.replace("numerics.relative_frobenius", "numerics.sqnr_db"))
    sqnr, area = (o.about for o in made.objectives.values())
    assert ObjectiveFigure("", "", 30.0, 28.0, 33.0, "computed", "").badness(sqnr) == (-33.0, -30.0, -28.0)
    assert ObjectiveFigure("", "", 1.1, 0.9, 1.3, "modelled", "").badness(area) == (1.1, 1.1, 1.1)
    assert ObjectiveFigure("", "", None, None, None, "computed", "").badness(sqnr) == (inf, inf, inf)
    assert ObjectiveFigure("", "", 30.0, None, None, "computed", "").badness(sqnr) == (-inf, -30.0, inf)


def test_a_value_that_is_not_finite_breaks_bounds_alone(tmp_path):
    """An objective without a bound keeps such a point, which loses to those that are finite; with a bound it is left out."""

    def endless(batch):
        found = toy(batch)
        for asked, result in zip(batch, found, strict=True):
            for rows in result["readings"].values() if asked.kind == "numerics" else ():
                if asked.data["change"]["stages"]["fuse"]["fraction_bits"] == 24:
                    rows[0][2:5] = [None, None, None]
        return found

    for text, status in ((TEXT, "dominated"), (TEXT.replace("frobenius}", "frobenius, at_most: 1}"), "breaks a bound")):
        _, _, points = points_of(tmp_path / status, text, endless)
        assert {p.status for p in points if p.settings["bits"] == 24} == {status}


# -- search ------------------------------------------------------------------------------------------------------------


def table(text):
    return list(csv.DictReader(io.StringIO(text)))


def on_front(text):
    return {row["point"] for row in table(text) if row["status"] == "front"}


def test_screening_finds_the_same_front_with_less_evidence(tmp_path):
    """Points that are certainly beaten with few seeds get no more, and the table says which point beats them."""
    full, few = Counting(), Counting()
    all_of_it = explored(tmp_path / "full", TEXT + "seeds: 16\n", full)
    screened = explored(tmp_path / "few", TEXT + "seeds: 16\nscreen: 8\n", few)
    assert on_front(screened) == on_front(all_of_it)
    left = [row for row in table(screened) if row["status"] == "screened out"]
    assert left
    assert all(row["seeds"] == "8" and "certainly dominated by" in row["note"] for row in left)
    assert len(few.keys) < len(full.keys) + 72


def test_a_bound_on_the_area_spares_samples(tmp_path):
    """A point that is too large gets no samples, and the table says so."""
    counting = Counting()
    text = explored(tmp_path, TEXT.replace("area_ratio}", "area_ratio, at_most: 1.5}"), counting)
    large = [row for row in table(text) if row["status"] == "breaks a bound"]
    assert large
    assert all("area is 1" in row["note"] and not row["error"] for row in large)
    assert len(counting.keys) == 2 * 72 - len(large)


def test_a_large_space_is_searched_within_its_budget(tmp_path):
    """The search visits as many points as the budget has, the same ones again in a second run, which computes nothing."""
    pytest.importorskip("optuna")
    budget = "budget: {points: 24, generation: 8}\nwhere: [bits + terms < 54]\n"
    first, again = Counting(), Counting()
    text = explored(tmp_path, TEXT + budget, first)
    assert len(table(text)) == 24
    assert all(int(row["bits"]) + int(row["terms"]) < 54 for row in table(text))
    assert explored(tmp_path, TEXT + budget, again) == text
    assert not again.keys
    assert explored(tmp_path / "anew", TEXT + budget) == text


def test_a_search_that_finds_no_point_says_so(tmp_path):
    """It does so even if its budget is too small for many draws."""
    pytest.importorskip("optuna")
    rare = "budget: {points: 2}\nwhere: [m == 7]\n"
    with pytest.raises(InputError, match="none of 2000 points drawn"):
        explored(tmp_path, TEXT.replace("axes:", "axes:\n  m: {field: change.shape.m, range: [1, 60000]}") + rare)


def test_processes_stay_for_the_next_round(tmp_path):
    """A round of a search takes over the pool or cluster of the one before."""
    starts = []

    @contextmanager
    def start():
        starts.append("begun")
        yield ALONE
        starts.append("ended")

    explored(tmp_path, TEXT + "screen: 8\n", start=start)
    assert starts == ["begun", "ended"]


def test_a_grown_space_computes_only_what_is_new(tmp_path):
    """Results are shared by all spaces of a folder."""
    explored(tmp_path, TEXT.replace("[13, 24]", "[13, 20]"))
    counting = Counting()
    grown = explored(tmp_path, TEXT, counting)
    assert len(counting.keys) == len(set(counting.keys)) == 2 * 4 * 3 * 2
    assert grown == explored(tmp_path / "anew")


# -- answers -----------------------------------------------------------------------------------------------------------


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
    assert f"cannot use {out}: no space left; results so far are kept" in capsys.readouterr().err
    assert run(["explore", str(file), "--dask", "local", "--workers"]) == 2
    assert run(["explore", "work", str(out), "--idle", "0.1"]) == 0
    assert load_space(file)[0].size == 2
