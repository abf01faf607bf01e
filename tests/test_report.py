"""What a report's first screen says and draws, its heat maps, the objectives of a comparison, and the index, on toy results."""

import re
import sys
from math import inf
from pathlib import Path
from types import SimpleNamespace

import pytest

from codesign.figures.evidence import Column, Table, heat_map
from codesign.figures.figure import Figure
from codesign.figures.metric import metric_named
from codesign.proposal.load import load_proposal
from codesign.proposal.proposal import Claim, Software
from codesign.proposal.shipped import names
from codesign.report import page, pictures, summary
from codesign.report.comparison import MOST_COLUMNS, cell, columns, notes, profile
from codesign.report.tables import draw
from codesign.verdicts.compare import compare
from codesign.verdicts.verdict import Bar, BreakEven, Verdict
from isa_model import InputError

ROOT = Path(__file__).parent.parent
TOTAL, SUMS, AREA = "numerics.total_error", "numerics.relative_frobenius", "cost.area_ratio"


def figure(metric, value, variant="proposal", workload="llama.fprop.o", half=0.0, **more):
    ends = {"low": None if value is None else value - half, "high": None if value is None else value + half}
    about = {"tensors": "normal", "kind": "computed", "source": "toy"}
    return Figure(
        **{"metric": metric, "variant": variant, "workload": workload, "value": value, **ends, **about, **more}
    )


def verdict(judgement="supported", deciding=None, metric=SUMS, **more):
    bounds = (
        {"at_most": 1.0}
        if not {"at_most", "at_least"} & set(more)
        else {k: more.pop(k) for k in ("at_most", "at_least") if k in more}
    )
    return Verdict(
        claim=Claim(metric=metric, **bounds),
        statement=f"{metric} at most 1",
        judgement=judgement,
        reason="",
        deciding=deciding,
        **more,
    )


def result(*figures, verdicts=(), name="a", **more):
    proposal = SimpleNamespace(proposal=name, title=name, base="hopper", multiplies_as_today=False)
    return SimpleNamespace(**{"figures": figures, "verdicts": verdicts, "headline": "", "proposal": proposal, **more})


# -- the first screen ------------------------------------------------------------------------------------------------


def test_the_first_screen_says_what_is_bought_and_what_it_costs():
    """The total error leads, changed or not; bytes of a whole layer, area and cycles follow, each with its kind."""
    made = result(
        figure(TOTAL, 0.05, half=0.01),
        figure(TOTAL, 0.05, "software", half=0.01),
        figure(SUMS, 1e-6),
        figure(SUMS, 1e-3, "software"),
        figure("traffic.hbm_bytes", 9e9, workload="llama", tensors="", kind="modelled"),
        figure("traffic.hbm_bytes", 10e9, "software", workload="llama", tensors=""),
        figure("traffic.hbm_bytes", 99e9, workload="llama.fprop", tensors=""),
        figure(AREA, 2.0, half=0.5, workload="", tensors="", kind="modelled"),
        figure("cost.extra_cycles", 1.0, workload="", tensors="", kind="assumed"),
        figure(SUMS, 1e-2, "software", workload="llama.fprop.kv"),
    )
    said = {line.question: line for line in summary.lines(made)}
    assert list(said) == ["Error of D", "Bytes", "Area", "Latency", "No figure", "How sure"]
    assert said["Error of D"].answers == (
        "unchanged: total error 0.05",
        "accumulation error 1.00e-06 instead of 0.001 on llama.fprop.o, normal: 1,000 times smaller (today's software at its "
        "worst: 0.01 on llama.fprop.kv, normal)",
    )
    assert said["Bytes"].answers == ("HBM bytes 9 GB instead of 10 GB on llama: 10 % less",)
    assert said["Area"].answers == ("unit area over today's ×2 [1.5, 2.5]",)
    assert (said["Latency"].answers, said["Latency"].kinds) == (("added latency 1 cycle",), ("assumed",))
    assert said["No figure"].answers == (
        "time: no kernel of it is timed; Method says why",
        f"energy: {metric_named('cost.energy_ratio').absent}",
    )
    made.proposal.multiplies_as_today = True
    absent = {line.question: line.answers for line in summary.lines(made)}["No figure"]
    assert absent[-1] == f"energy: {summary.UNCHANGED_UNIT}"


def test_the_head_names_the_software_and_where_the_proposal_is_judged():
    """The baseline that fits the base is named, and what the proposal changes in it; what it repeats is no change."""
    made = load_proposal(names()["batch-invariant-split-k"])
    title = made.practice.title
    head = f"Today's software: {title}, changed: K never split. Judged on {made.workloads[0]}"
    assert summary.judged_on(made).startswith(head)
    assert summary.judged_on(made).endswith(f"{made.tensors[-1]}.")
    for change, words in (
        ({}, ""),
        ({"promote_every": 128, "group": 128}, ""),
        (
            {"promote_every": 256, "group": None},
            "sums promoted to FP32 every 256 products and no scale for each group of K",
        ),
        ({"promote_every": None, "group": None}, "sums never promoted to FP32 and no scale for each group of K"),
        ({"quantisation": {"tensor_scale": True}}, "its own `tensor_scale`"),
    ):
        other = load_proposal(names()["group-scaled-mma"]).model_copy(update={"software": Software(**change)})
        changed = f", changed: {words}" * bool(words)
        assert summary.judged_on(other).startswith(f"Today's software: DeepSeek-V3's recipe{changed}. Judged")


def test_the_first_screen_says_how_sure_and_what_would_change_a_verdict():
    """Kinds of what decided, open claims, assumptions that turn a verdict, and the parameter that would keep a claim."""
    bar = Bar(assumption="promotion", low=0.9, low_case="x", high=2.0, high_case="never", reversed_by=("never",))
    need = BreakEven(parameter="bits", own=13, limit=15, tried={"15": 1.0}, condition="normal data")
    spare = need.model_copy(update={"limit": 11})
    verdicts = (
        verdict(deciding=figure(SUMS, 0.5), break_even=(spare,)),
        verdict("refuted", figure(SUMS, 2.0, kind="modelled"), bars=(bar,), break_even=(need,)),
        verdict("undetermined", figure(SUMS, 1.0), again=2, break_even=(spare,)),
    )
    said = {line.question: line.answers for line in summary.lines(result(verdicts=verdicts))}
    assert said["How sure"] == (
        "the verdicts rest on 2 computed and 1 modelled figures; brackets are 95 % intervals, or ranges over other assumptions",
        "2 doubtful figures were measured again on fresh seeds",
        "undetermined: claim 3",
    )
    assert said["What would change it"] == (
        "claim 2 (refuted) would be reversed by promotion: never",
        "claim 2 (refuted) would hold with bits 15 instead of 13 on normal data",
    )


def test_a_refuted_claim_on_time_or_area_says_what_it_would_need():
    """The least change of the whole interval, what the area consists of, the nearest other case, and where the claim holds."""
    bar = Bar(assumption="clock", low=0.9, low_case="low", high=1.04, high_case="high")
    area = figure(AREA, 1.5, half=0.1, workload="", tensors="", kind="modelled")
    parts = (("scaling", 0.4), ("bits", 0.1), ("order", -0.02))
    step = figure("timing.step_speedup", 1.0, workload="llama", tensors="", half=0.05)
    gemms = {"llama.fprop.o": 1.0, "llama.fprop.kv": 1.6, "llama.dgrad.o": 1.5, "llama.dgrad.kv": 1.4}
    times = [figure("timing.speedup_over_software", x, workload=w, tensors="") for w, x in gemms.items()]
    one = figure("traffic.l2_bytes", 5e9, workload="llama", tensors="")

    def refuted(figure, **bounds):
        return verdict("refuted", figure, figure.metric, **bounds)

    verdicts = (
        refuted(area, at_most=1.2),
        refuted(step, at_least=1.05, bars=(bar,)),
        refuted(times[0], at_least=1.25),
        refuted(times[0], at_least=2.0),
        refuted(one, at_most=4e9),
        verdict("refuted", figure("cast.relative_error", 2.0), "cast.relative_error"),
        verdict("undetermined", area, AREA, at_most=1.5),
        refuted(area, at_most=0),
    )
    added = (figure(f"cost.area_of_{name}", x, workload="", tensors="") for name, x in parts)
    made = result(area, *added, step, *times, one, verdicts=verdicts)
    said = {line.question: line.answers for line in summary.lines(made)}
    assert said["What would change it"] == (
        "claim 1 (refuted) would hold if the unit area were 20 % lower (25 % for its whole interval); the proposal adds 0.40 "
        "for scaling and 0.10 for fraction bits to today's area of 1",
        "claim 2 (refuted) would hold if the time of a layer's Linears on llama were 5 % lower (10 % for its whole interval); "
        "no other assumption reaches the bound; the nearest, clock: high, gives 1.04",
        "claim 3 (refuted) would hold if the time were lower on 1 of 4 GEMMs, most of all on llama.fprop.o: 20 % lower; "
        "llama.dgrad meets the bound",
        "claim 4 (refuted) would hold if the time were lower on all 4 GEMMs, most of all on llama.fprop.o: 50 % lower",
        "claim 5 (refuted) would hold if the L2 bytes on llama were 20 % lower",
    )


def test_what_a_claim_would_need_is_neither_0_nor_100_percent_nor_the_wrong_way():
    """A bound just missed needs 1 %, one out of reach more than 99 %; nothing is said of a ceiling or of two bounds."""
    area = figure(AREA, 1.2000000001, workload="", tensors="")
    ceiling = figure("timing.layer_ceiling", 1.0, workload="llama", tensors="")
    layers = [figure("timing.step_speedup", x, workload=w, tensors="") for w, x in (("llama", 1.0), ("qwen", 1.5))]
    claims = (
        (area, {"at_most": 1.2}),
        (area, {"at_most": 1e-6}),
        (area, {"at_most": 1.1, "at_least": 1.0}),
        (ceiling, {"at_least": 1.1}),
        (layers[0], {"at_least": 1.2}),
    )
    verdicts = tuple(verdict("refuted", each, each.metric, **bounds) for each, bounds in claims)
    said = {line.question: line.answers for line in summary.lines(result(area, ceiling, *layers, verdicts=verdicts))}
    assert said["What would change it"] == (
        "claim 1 (refuted) would hold if the unit area were 1 % lower",
        "claim 2 (refuted) would hold if the unit area were more than 99 % lower",
        "claim 5 (refuted) would hold if the time were lower on 1 of 2 layers, most of all on llama: 17 % lower; qwen meets "
        "the bound",
    )


def test_outputs_changed_are_those_in_bf16():
    """FP32 shows the last bit of every sum, so wgrad does not count in a summary."""
    changed = "numerics.changed_share"
    made = result(figure(changed, 0.1), figure(changed, 0.9, workload="llama.wgrad.o"))
    (found,) = summary.compared(made)
    assert found.own.value == 0.1


def test_gains_lie_right_of_today_and_costs_left():
    """An error ten times smaller and a speedup are further right, a larger area further left; intervals turn with them."""
    made = result(
        figure(TOTAL, 0.1, half=0.05),
        figure(TOTAL, 1.0, "software"),
        figure(TOTAL, 2.0, "today"),
        figure("timing.step_speedup", 1.25, workload="llama", tensors=""),
        figure(AREA, 2.0, half=0.5, workload="", tensors=""),
    )
    rows = {strip.name: strip for strip in pictures.gains_and_costs(made).strips}
    better, worse, _ = pictures.GROUPS
    assert [row.group for row in rows.values()] == [better, better, worse]
    marks = {mark.variant: mark for mark in rows["total error"].marks}
    assert marks["proposal"].value == pytest.approx(10)
    assert (marks["proposal"].low, marks["proposal"].high) == (pytest.approx(1 / 0.15), pytest.approx(20))
    assert (marks["software"].value, marks["today"].value) == (1.0, 0.5)
    assert {m.variant: m.value for m in rows["unit area over today's"].marks} == {
        "software": 1.0,
        "today": 1.0,
        "proposal": 0.5,
    }
    assert rows["speedup of a layer's Linears"].marks[-1].value == 1.25
    assert rows["total error"].value == "1 → 0.1"
    assert pictures.gains_and_costs(result()) is None


@pytest.mark.parametrize(
    ("metric", "bounds", "ends", "room"),
    [
        (SUMS, {"at_most": 1.0}, (0.5, 0.25, 2.0), (2.0, 0.5, 4.0)),
        ("timing.step_speedup", {"at_least": 1.1}, (2.2, 1.1, 4.4), (2.0, 1.0, 4.0)),
        (SUMS, {"at_most": 1.0}, (0.0, 0.0, 0.5), (inf, 2.0, inf)),
        ("traffic.sm_share", {"at_most": 0.0}, (0.0, 0.0, 0.1), (1.0, 0.0, 1.0)),
        ("numerics.sqnr_db", {"at_least": 20.0}, (26.0, 20.0, 40.0), (1.995, 1.0, 10.0)),
        ("numerics.bias", {"at_most": 0.1}, (-0.05, -0.1, 0.02), (2.0, 1.0, inf)),
        (SUMS, {"at_most": 1.0}, (None, None, None), (0.0, None, None)),
    ],
)
def test_the_room_to_a_bound_is_above_one_where_it_is_kept(metric, bounds, ends, room):
    """Whichever side is good: 1 is at the bound, 0 breaks it without measure, and infinity keeps it without measure."""
    value, low, high = ends
    found = verdict(
        deciding=figure(metric, value).model_copy(update={"low": low, "high": high}), metric=metric, **bounds
    )
    assert pictures.headroom(found) == tuple(None if r is None else pytest.approx(r, rel=1e-3) for r in room)


@pytest.mark.parametrize(
    ("margin", "words"),
    [
        (0.0, "the value is at the bound"),
        (0.004, "the value is at the bound"),
        (-0.004, "the value just misses the bound"),
        (0.25, "the value is 25 % below the bound"),
        (-0.25, "the value is 25 % above the bound"),
        (0.995, "the value is over 99 % below the bound"),
        (-3.75, "the value is 4.75 times the bound"),
    ],
)
def test_a_margin_says_on_which_side_of_the_bound_the_value_is(margin, words):
    """Less than half a percent either way is at the bound."""
    assert page.margin(verdict(deciding=figure(SUMS, 1.0), margin=margin)) == words


def test_a_margin_is_on_the_side_that_the_claim_names():
    """A value that keeps a least is above it; one between two bounds is inside them; a bound of zero has no percent."""
    least, both, zero = {"at_least": 1.0}, {"at_least": 1.0, "at_most": 2.0}, {"at_most": 0.0}
    said = [
        page.margin(verdict(deciding=figure(SUMS, 1.0), margin=m, **b))
        for b in (least, both, zero)
        for m in (0.2, -0.2)
    ]
    assert said == [
        "the value is 20 % above the bound",
        "the value is 20 % below the bound",
        "the value is 20 % inside its bounds",
        "the value is 20 % outside its bounds",
        "the value is 0.2 below the bound",
        "the value is 0.2 above the bound",
    ]


def test_an_open_claim_names_the_modelled_case_on_the_other_side_of_its_bound():
    """It would decide the claim once it is settled; other tensors, and cases on the same side, would not."""
    bar = Bar(assumption="base unit", low=0.9, low_case="shared", high=1.3, high_case="alone", reversed_by=())
    modelled = verdict("undetermined", figure(AREA, 1.2), metric=AREA, bars=(bar,))
    sampled = verdict("undetermined", figure(SUMS, 1.2), bars=(bar,))
    said = {line.question: line.answers for line in summary.lines(result(verdicts=(modelled, sampled)))}
    assert said["What would change it"] == ("claim 1 (undetermined) would hold with base unit: shared",)


# -- tables ----------------------------------------------------------------------------------------------------------


def test_a_column_of_designs_is_there_only_for_several():
    """A report with one design is of it; those of a sweep are told apart."""
    table = Table(
        rows=("metric", "design"), headings=("metric", "design"), columns=(Column(heading="value", form="interval"),)
    )
    one = [figure(AREA, 1.2, workload="", tensors=""), figure("cost.energy_ratio", 1.1, workload="", tensors="")]
    drawn = draw(table, one)
    assert drawn.headings == ("metric", "value")
    assert [row.names for row in drawn.rows] == [("unit area over today's",), ("unit energy over today's",)]
    several = draw(table, [*one, figure(AREA, 1.3, workload="", tensors="", at=17)])
    assert several.headings == ("metric", "design", "value")
    assert [row.names[1] for row in several.rows] == ["proposal", "proposal at 17", "proposal"]


# -- heat maps -------------------------------------------------------------------------------------------------------


def test_a_heat_map_has_a_column_for_each_tensor_source_and_shades_what_changes():
    """Better is blue, worse orange, the deeper the more; the pointer shows both figures."""

    def pair(tensors, own, before):
        return (figure(TOTAL, own, tensors=tensors, half=0.1), figure(TOTAL, before, "software", tensors=tensors))

    figures = (*pair("normal", 1.0, 1.0), *pair("uniform", 1.0, 3.0), *pair("outliers", 1.3, 1.0))
    table = heat_map("Heat", [metric_named(TOTAL)], ["normal", "uniform", "outliers", "captured"], "Note.")
    drawn = draw(table, figures)
    (row,) = drawn.rows
    assert row.names == ("llama.fprop.o",)
    assert row.cells == ("1", "1", "1.3", "—")
    assert row.shades == ("", "better-3", "worse-2", "")
    assert row.about[1] == "1 [0.9, 1.1]; today's software 3"


# -- comparisons -----------------------------------------------------------------------------------------------------


def design(name, error, area, speed=None):
    errors = [
        figure(TOTAL, v, variant, half=0.001) for variant, v in (("proposal", error), ("software", 0.5), ("today", 0.9))
    ]
    more = [figure("timing.step_speedup", speed, workload="llama", tensors="")] if speed else []
    return result(*errors, figure(AREA, area, workload="", tensors=""), *more, name=name)


def test_the_front_is_on_the_objectives_asked_for():
    """A larger area does not count where nobody asks for it; the total error always does; an unknown objective is refused."""
    results = [design("small", 0.1, 1.1), design("large", 0.1, 2.0, 1.5)]
    assert {e.proposal: e.front for e in compare(results).entries}["large"] is False
    made = compare(results, ["cost.energy_ratio"])
    assert made.judged == (TOTAL,)
    assert {e.proposal: e.front for e in made.entries}["large"] is True
    assert "Not judged, as not all have it in common: unit energy over today's." in notes(made)
    with pytest.raises(InputError, match=r"`cost\.area` is no objective\n *= .*cost\.area_ratio"):
        compare(results, ["cost.area"])


def test_a_design_is_beaten_only_by_designs_that_nothing_beats():
    """Intervals make certainty intransitive: c beats b and b beats a, but c is not certainly better than a."""

    def wide(name, low, high, area):
        made = design(name, (low + high) / 2, area)
        own = made.figures[0].model_copy(update={"low": low, "high": high})
        return result(own, *made.figures[1:], name=name)

    made = compare([wide("a", 0.10, 0.30, 1.0), wide("b", 0.25, 0.35, 0.9), wide("c", 0.20, 0.24, 0.95)])
    found = {e.proposal: e for e in made.entries}
    assert found["a"].beaten_by == ("b", "c") or found["a"].beaten_by == ("c",)
    assert found["c"].front
    assert all(found[other].front for e in made.entries for other in e.beaten_by)


def test_a_cell_shows_a_figure_and_its_ratio_to_today():
    """At the same GEMM and tensors, with its interval; of a ratio to today's unit, that alone."""
    made = compare([design("a", 0.25, 1.5), design("b", 0.1, 1.0)])
    a, b = made.entries[:2]
    assert (cell(a, TOTAL).figure, cell(a, TOTAL).shade) == ("0.25 [0.249, 0.251]", "better-3")
    assert cell(a, TOTAL).ratio == "×0.5 [0.497, 0.503]"
    assert (cell(a, AREA).figure, cell(a, AREA).ratio, cell(a, AREA).shade) == ("×1.5", "", "worse-2")
    assert cell(b, "timing.step_speedup").figure == "—"
    assert a.places == {"llama.fprop.o, normal": 0.25}
    rows = {strip.name: strip for strip in profile(made).strips}
    assert [m.value for m in rows["total error"].marks[:2]] == [2.0, 5.0]


def test_a_table_has_at_most_eight_columns_and_today_in_each():
    """Ten designs take two tables; each begins with today's software."""
    made = compare([design(f"d{i}", 0.1 + i / 100, 1.0 + i / 10) for i in range(8)])
    tables = columns(made.entries)
    assert [len(t) for t in tables] == [MOST_COLUMNS - 1, 4]
    assert all(t[0].role == "software" for t in tables)
    assert {e.proposal for t in tables for e in t} == {e.proposal for e in made.entries}


# -- the index -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def reports():
    sys.path.insert(0, str(ROOT))
    from pages import reports

    return reports


def test_each_shipped_proposal_answers_an_ask(reports):
    """Every proposal is in one row of the index, and every row cites its source and says what shipped."""
    rows = reports.asks()
    assert sorted(name for row in rows for name in row.proposals) == sorted(names())
    assert all(re.search(r"\d\.\d|no section numbers", row.source) for row in rows)
    assert all(row.shipped.endswith(".") and row.says.endswith(".") for row in rows)
    assert all(row.says.startswith("No proposal") for row in rows if not row.proposals)


def test_the_index_keeps_figures_of_pages_that_were_not_made_again(reports, tmp_path):
    """Read from its own text; a title with markup or brackets comes back as it was; the page links to each report."""
    row = reports.Asked(
        "More bits",
        "a report, 3.5",
        "Nothing.",
        "Half the bytes ([gemm](../docs/gemm.md)).",
        (reports.Found("e5m6-storage", "E5M6 `and` <more>", ("1 ✓, 1 ?", "0.2 → 0.1", "", "", "", "×1", "")),),
    )
    text = reports.index([row])
    (tmp_path / "README.md").write_text(text, encoding="utf-8")
    again = [found for asked in reports.asked(tmp_path, tmp_path / "README.md") for found in asked.found]
    assert again == list(row.found)
    assert "Half the bytes ([gemm](../docs/gemm.md))." in text
    assert "<dd>Half the bytes (gemm).</dd>" in reports.index_page([row])
    link = '<a href="e5m6-storage.html">E5M6 `and` &lt;more&gt;</a>'
    assert f"<td>{link}</td><td>1 ✓, 1 ?</td><td>0.2 → 0.1</td>" in reports.index_page([row])


def test_a_row_of_the_index_has_the_figures_of_the_first_screen(reports):
    """Errors as today's and the proposal's, ratios with intervals, bytes that differ; nothing where there is no figure."""
    made = result(
        figure(TOTAL, 0.1),
        figure(TOTAL, 0.2, "software"),
        figure(SUMS, 1e-3),
        figure(SUMS, 1e-3, "software"),
        figure(AREA, 2.0, half=0.5, workload="", tensors=""),
        figure("traffic.hbm_bytes", 9e9, workload="llama", tensors=""),
        figure("traffic.hbm_bytes", 10e9, "software", workload="llama", tensors=""),
        verdicts=(verdict(), verdict("refuted"), verdict("refuted")),
    )
    area, size = "×2 [1.5, 2.5]", "HBM −10\u00a0%"
    assert reports.cells(made) == ("1 ✓, 2 ✗", "0.2 → 0.1", "0.001, unchanged", area, "", size)
    assert reports.cells(result()) == ("",) * 6
