"""Synthesis in explorations: the cost of the front is synthesised, that of the cloud predicted, and each says which."""

import json
import re
from dataclasses import replace

import pytest
from toy_space import TEXT, Counting, explored, points_of, space, toy

from codesign.evidence.cost import records
from codesign.evidence.cost import source as cost
from codesign.evidence.source import Subject
from codesign.explore import page, picture, search, task
from codesign.explore.run import Round, Runner, work
from codesign.explore.search import Search
from codesign.explore.store import Store
from codesign.explore.task import compute, tasks
from codesign.proposal.load import load_proposal
from codesign.proposal.shipped import proposal_file
from isa_model.diagnostics import InputError, Unavailable

POINT = {"bits": 15, "terms": 32, "register": "wide"}


@pytest.fixture(autouse=True)
def installed(monkeypatch):
    """The toy synthesises without the extra `cost`."""
    monkeypatch.setattr(search, "find_spec", lambda name: name)


def predicting(batch):
    """The toy with predicted areas, and larger synthesised ones where all 32 products are summed at once."""
    found = toy(batch)
    for asked, result in zip(batch, found, strict=True):
        for row in result["readings"].get("cost.area_ratio", ()):
            fuse = asked.data["change"]["stages"]["fuse"]
            row[-1] = (
                "records point over base (neutral; synthesised for this report)" if asked.synthesis else "predicted"
            )
            row[2:5] = [x + 0.05 * (asked.synthesis and fuse.get("terms", 32) == 32) for x in row[2:5]]
    return found


def budget(count):
    return f"{TEXT}budget: {{synthesis: {count}}}\n"


def test_the_front_is_synthesised_and_the_cloud_predicted(tmp_path):
    """Points that join the front when others turn out larger are synthesised, too; no other point is."""
    asked = []

    def noting(batch):
        asked.extend(t for t in batch if t.synthesis)
        return predicting(batch)

    _, _, before = points_of(tmp_path / "before", TEXT, predicting)
    _, _, points = points_of(tmp_path, budget(72), noting)
    first, last = ({p.name for p in found if p.status == "front"} for found in (before, points))
    assert last - first
    assert {p.values["area"].origin for p in points if p.status == "front"} == {"synthesised"}
    assert {p.values["area"].origin for p in points if p.status != "front"} == {"synthesised", "predicted"}
    assert len(asked) == len({t.key for t in asked}) == sum(not p.values["area"].predicted for p in points) < 72


def test_no_more_units_are_synthesised_than_the_budget_has(tmp_path):
    """The others of the front stay predicted, and the page tags each."""
    made, base, points = points_of(tmp_path, budget(16), predicting)
    assert sum(not p.values["area"].predicted for p in points) == 16
    text = page.page(made, base, points)
    assert '<span class="tag">synthesised</span>' in text
    assert '<span class="tag">predicted</span>' in text
    assert "16 at most" in text


def test_a_point_screened_out_by_a_prediction_is_open_again(tmp_path):
    """If the point that beat it turns out larger, it gets all seeds and joins the front."""
    text = budget(72) + "seeds: 16\nscreen: 8\n"
    _, _, screened = points_of(tmp_path / "a", text, predicting)
    _, _, full = points_of(tmp_path / "b", budget(72) + "seeds: 16\n", predicting)
    fronts = [{p.name: p.seeds for p in points if p.status == "front"} for points in (screened, full)]
    assert fronts[0] == fronts[1]
    assert any(p.status == "screened out" and p.seeds == 8 for p in screened)
    assert all(p.seeds == 8 for p in screened if p.status == "screened out")


def test_a_second_run_synthesises_nothing_and_gives_the_same_table(tmp_path):
    """Also if results of a larger budget are in the folder."""
    table = explored(tmp_path, budget(3), predicting)
    explored(tmp_path, budget(72), predicting)
    counting = Counting()
    assert explored(tmp_path, budget(3), counting) == table
    assert not counting.keys


def test_a_unit_is_a_batch_of_its_own(tmp_path):
    """Processes share the units of a round, which take minutes each, whatever --batch says."""
    sizes = []

    def noting(batch):
        sizes.append((batch[0].synthesis, len(batch)))
        return predicting(batch)

    points_of(tmp_path / "a", budget(72), noting)
    made, base = space(budget(72))
    own = Store(tmp_path / "b")
    wanted = Round(
        space=made, base=base, points=((13, 8, "wide"), (14, 8, "wide")), seeds=16, kinds=("cost",), synthesis=True
    )
    with own.opened({"round": wanted.model_dump(mode="json"), "versions": wanted.versions}):
        assert work(own, 0.2, by=noting) == 2
    assert {size for synthesis, size in sizes if synthesis} == {1}
    assert max(size for synthesis, size in sizes if not synthesis) > 1


def test_synthesis_has_keys_of_its_own_with_the_versions_of_its_tools(monkeypatch):
    """A predicted cost is not taken for a synthesised one; another Yosys synthesises again, and predicts the same."""
    made, base = space()

    def key(synthesis):
        (one,) = tasks(made, base, POINT, made.sampling, ("cost",), synthesis)
        return one.key

    before, version = [key(False), key(True)], task.metadata.version
    assert before[0] != before[1]
    monkeypatch.setattr(task.metadata, "version", lambda name: "0.1" if name == "pyosys" else version(name))
    task.evaluator.cache_clear()
    assert key(False) == before[0]
    assert key(True) != before[1]
    task.evaluator.cache_clear()


def test_a_search_without_the_extra_says_what_is_missing(tmp_path, monkeypatch):
    """Before anything is computed."""
    monkeypatch.setattr(search, "find_spec", lambda name: None)
    made, base = space(budget(1))
    with pytest.raises(
        Unavailable, match=r"budget.synthesis needs amaranth and pyosys: pip install 'codesign\[cost\]'"
    ):
        Search(made, base, Runner(Store(tmp_path), None)).run()


def test_a_task_synthesises_a_unit_without_a_record(monkeypatch):
    """Its figures are those that an evaluation has for a claim; a unit that is too large stays predicted."""
    made, base = space()
    measured = []

    def measure(spec, *_):
        measured.append(spec.span)
        own = records.find(load_proposal(proposal_file("configurable-accumulation")).proposed(), "neutral")
        return own.model_copy(update={"commit": ""})

    monkeypatch.setattr(cost, "measure", measure)
    monkeypatch.setattr(cost, "find_spec", lambda name: name)
    (asked,) = tasks(made, base, {**POINT, "bits": 18}, made.sampling, ("cost",), True)
    ((*_, source),) = compute([asked])[0]["readings"]["cost.area_ratio"]
    assert (measured, "synthesised for this report" in source) == ([32], True)
    monkeypatch.setattr(cost, "MOST_AREA", 1000)
    ((*_, source),) = compute([asked])[0]["readings"]["cost.area_ratio"]
    assert (measured, source.startswith("predicted")) == ([32], True)
    (other,) = tasks(made, base, {**POINT, "bits": 18}, made.sampling, ("cost",))
    assert compute([other])[0]["readings"]["cost.area_ratio"] == compute([asked])[0]["readings"]["cost.area_ratio"]


def test_figures_synthesise_nothing_unless_they_are_asked_to(monkeypatch, capsys):
    """Neither does a unit without hardware, which has no figures."""
    monkeypatch.setattr(cost, "find", lambda *_, **__: None)
    monkeypatch.setattr(cost, "measure", lambda *_: pytest.fail("synthesised"))
    proposal = load_proposal(proposal_file("configurable-accumulation"))
    assert all(
        f.source.startswith("predicted")
        for f in cost.SOURCE.figures(Subject(proposal))
        if f.metric == "cost.area_ratio"
    )
    refused = InputError.of("no hardware")
    monkeypatch.setattr(cost, "predict", lambda spec: (_ for _ in ()).throw(refused))
    monkeypatch.setattr(cost, "predicted", lambda *_: (_ for _ in ()).throw(refused))
    assert cost.SOURCE.figures(Subject(proposal, synthesis=True)) == []
    assert not capsys.readouterr().err


def test_hovering_tells_where_values_come_from(tmp_path):
    """The interactive picture has the origin of each objective."""
    made, _, points = points_of(tmp_path, budget(3), predicting)
    shown = picture.interactive(made, [replace(p) for p in points])
    assert {row["origin"] for row in shown["data"]["values"]} == {
        "error computed, area predicted",
        "error computed, area synthesised",
    }
    assert re.search("origin", json.dumps(shown["hconcat"][0]["encoding"]["tooltip"]))
