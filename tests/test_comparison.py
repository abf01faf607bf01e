"""Proposals side by side, on toy evidence."""

from types import SimpleNamespace

import pytest
from toy_results import HOPPER, OTHER, SUMS, TOTAL, area, errors, figure, moved, result, rows

from codesign.figures.figure import Alternative
from codesign.report import lookup as report_lookup
from codesign.report.comparison import heading, headline, notes, title
from codesign.verdicts.compare import OVERFLOW, compare
from codesign.verdicts.readings import counterpart
from isa_model import InputError


def test_a_smaller_area_at_the_same_error_beats():
    """The larger one is beaten and says by what; today's rows stand beside, ratios to them 1 by definition."""
    made = compare([result("a", errors(0.1), [area(1.5)]), result("b", errors(0.1), [area(1.2)])])
    found = rows(made)
    assert list(found) == ["a", "b", "today's software", "today's instruction alone"]
    assert [e.role for e in made.entries] == ["proposal", "proposal", "software", "today"]
    assert (found["a"].front, found["a"].beaten_by) == (False, ("b",))
    assert (found["b"].front, found["b"].beaten_by) == (True, ())
    assert found["today's software"].values == {TOTAL: 0.5, "cost.area_ratio": 1.0}
    assert found["today's instruction alone"].values == {TOTAL: 0.9, "cost.area_ratio": 1.0}
    assert found["today's software"].front
    assert found["today's instruction alone"].beaten_by == ("today's software",)
    assert (found["a"].title, found["a"].headline, found["today's software"].title) == ("A", "about a", HOPPER)
    assert found["today's software"].headline == ""
    assert made.judged == (TOTAL, "cost.area_ratio")
    assert made.covered == ("llama.fprop.o, normal",)
    assert "a is beaten by b (unit area over today's)." in notes(made)
    assert headline(made) == "On the Pareto front: b and today's software."
    assert made.apart == ()


def test_todays_software_beats_what_costs_more_and_gains_nothing():
    """A proposal with software's error and a larger area is on no front."""
    made = compare([result("a", errors(0.5), [area(1.5)]), result("b", errors(0.1), [area(1.2)])])
    assert rows(made)["a"].beaten_by == ("b", "today's software")


def test_where_todays_software_beats_every_proposal_the_best_of_them_are_marked():
    """A star for today's software alone says that nothing pays; a hollow one says which proposal is ahead of the others."""
    made = compare([result("a", errors(0.5), [area(1.5)]), result("b", errors(0.5), [area(1.2)])])
    found = rows(made)
    assert [name for name, e in found.items() if e.front] == ["today's software"]
    assert [name for name, e in found.items() if e.leads] == ["b"]
    assert [title(e) for e in made.entries][:3] == ["a", "☆ b", "★ today's software"]
    assert headline(made) == "No proposal is on the Pareto front."
    said = notes(made)
    assert "★ On the front: today's alone. On these objectives no proposal here pays." in said
    assert "☆ Beaten by today's software, but by no other proposal." in said


def test_ratios_to_one_figure_of_software_tell_apart_what_intervals_do_not():
    """What two designs share cancels in their paired ratios; without them, or over another figure, it does not."""

    def paired(name, ratio, software=0.5):
        first, *others = errors(0.5 * ratio, half=0.1)
        own = first.model_copy(update={"ratios": {"software": (ratio - 0.01, ratio + 0.01)}})
        theirs = [f.model_copy(update={"value": software}) if f.variant == "software" else f for f in others]
        return result(name, [own, *theirs], [area(1.2)])

    better, worse = paired("a", 0.8), paired("b", 0.9)
    assert rows(compare([better, worse]))["b"].beaten_by == ("a",)
    assert rows(compare([better, paired("b", 0.9, software=0.51)]))["b"].leads


def test_what_is_better_only_within_its_interval_beats_nothing():
    """0.100 and 0.101, each to 0.01, are the same; so is an area without doubt but equal."""
    made = compare(
        [result("a", errors(0.1, half=0.01), [area(1.2)]), result("b", errors(0.101, half=0.01), [area(1.2)])]
    )
    assert rows(made)["a"].front
    assert rows(made)["b"].front
    better = compare([result("a", errors(0.1), [area(1.2)]), result("b", errors(0.2), [area(1.2)])])
    assert rows(better)["b"].beaten_by == ("a",)
    unsure = compare([result("a", errors(0.1, half=None), [area(1.2)]), result("b", errors(0.2), [area(1.3)])])
    assert (rows(unsure)["a"].front, rows(unsure)["a"].beaten_by, rows(unsure)["b"].front) == (False, (), True)
    assert "Too little was sampled to judge a." in notes(unsure)
    touching = compare([result("a", errors(0.1, half=0.05), [area(1)]), result("b", errors(0.2, half=0.05), [area(1)])])
    assert rows(touching)["b"].front


def test_outputs_that_overflow_are_beaten_by_that_alone():
    """However small, fast and exact elsewhere; and nothing is beaten by it."""
    lost = [*errors(None), figure(SUMS, 0.0)]
    made = compare([result("lost", lost, [area(0.5)]), result("b", errors(0.1), [area(1.2)])])
    found = rows(made)
    assert (found["lost"].front, found["lost"].beaten_by) == (False, (OVERFLOW,))
    assert found["b"].front
    assert TOTAL in made.judged


def test_only_the_same_gemms_and_tensors_are_compared():
    """The worst is over what both have; with nothing in common none is starred and that is said."""
    both = [*errors(0.1), *errors(0.9, workload="llama.wgrad.o")]
    made = compare([result("a", both, [area(1.2)]), result("b", errors(0.2), [area(1.2)])])
    assert rows(made)["a"].values[TOTAL] == 0.1
    apart = compare(
        [result("a", errors(0.1, workload="deepseek-v3.wgrad.o"), [area(1.2)]), result("b", errors(0.2), [area(1.1)])]
    )
    assert apart.judged == ()
    assert not any(e.front or e.beaten_by for e in apart.entries)
    assert TOTAL not in rows(apart)["a"].values
    assert apart.apart == (TOTAL,)
    said = notes(apart)
    assert headline(apart) == "Not comparable: they have no total error on the same GEMM and tensors."
    assert said[0] == "Not comparable: they have no total error on the same GEMM and tensors, so none is starred."
    assert "total error: not comparable, as no two have it on the same GEMM." in said
    software = [*errors(0.1), figure(TOTAL, 0.5, variant="software", tensors="uniform")]
    half = compare([result("a", software), result("b", errors(0.2) + errors(0.9, tensors="uniform"))])
    assert (half.covered, rows(half)["b"].values[TOTAL]) == (("llama.fprop.o, normal",), 0.2)
    tensors = compare([result("a", errors(0.1, tensors="uniform")), result("b", errors(0.2))])
    assert tensors.judged == ()


def test_bytes_are_ratios_to_software_over_models_that_both_have():
    """Only whole models; a model that one of them has alone does not count; more bytes lose."""
    metric = "traffic.hbm_bytes"
    a = [
        *moved(metric, 5.0, 10.0),
        *moved(metric, 90.0, 10.0, "llama"),
        *moved(metric, 70.0, 10.0, "deepseek-v3.fprop"),
    ]
    b = [*moved(metric, 8.0, 10.0), *moved(metric, 90.0, 10.0, "deepseek-v3.fprop")]
    made = compare([result("a", errors(0.1), traffic=a), result("b", errors(0.1), traffic=b)])
    found = rows(made)
    assert (found["a"].values[metric], found["b"].values[metric]) == (0.5, 0.8)
    assert found["b"].beaten_by == ("a",)
    today = found["today's software"]
    assert (today.low[metric], today.values[metric], today.high[metric], today.kinds[metric]) == (1, 1, 1, "modelled")
    assert metric not in found["today's instruction alone"].values
    lone = compare([result("a", errors(0.1), traffic=a), result("b", errors(0.1), traffic=moved(metric, 8, 10, "x"))])
    assert metric not in lone.axes
    assert metric not in rows(lone)["today's software"].values
    assert "HBM bytes over software's: not comparable, as no two have it on the same model." in notes(lone)


def test_the_worst_of_what_is_shared_counts():
    """The largest error of three places, the least speedup of three models."""

    def speeds(*values):
        models = ("deepseek-v3", "llama", "third")
        return [figure("timing.step_speedup", v, workload=m, tensors="") for v, m in zip(values, models, strict=True)]

    def places(*values):
        return [f for v, t in zip(values, ("normal", "uniform", "outliers"), strict=True) for f in errors(v, tensors=t)]

    made = compare(
        [
            result("a", places(0.1, 0.3, 0.2), timing=speeds(1.2, 1.1, 1.3)),
            result("b", places(0.1, 0.1, 0.1), timing=speeds(1, 2, 3)),
        ]
    )
    assert rows(made)["a"].values == {TOTAL: 0.3, "timing.step_speedup": 1.1}
    assert made.covered == ("llama.fprop.o, normal", "llama.fprop.o, outliers", "llama.fprop.o, uniform")


def test_what_one_has_alone_is_shown_and_not_judged():
    """An area of one proposal is in the table; the front is found on what all have."""
    made = compare([result("a", errors(0.1), [area(1.2)]), result("b", errors(0.2))])
    assert "cost.area_ratio" in made.axes
    assert made.judged == (TOTAL,)
    assert rows(made)["b"].beaten_by == ("a",)
    assert rows(made)["today's software"].values["cost.area_ratio"] == 1


def test_speed_is_better_above_and_compared_under_the_same_assumptions():
    """Intervals that overlap may hide a certain order: each case of one against the same case of the other."""

    def speed(value, slow):
        cases = (Alternative(assumption="rate", other="low", value=slow),)
        about = {"workload": "deepseek-v3", "tensors": "", "alternatives": cases}
        return [figure("timing.step_speedup", value, 0.3, **about)]

    made = compare([result("a", errors(0.1), timing=speed(1.2, 1.1)), result("b", errors(0.1), timing=speed(1.1, 1.0))])
    assert rows(made)["b"].beaten_by == ("a",)
    mixed = compare(
        [result("a", errors(0.1), timing=speed(1.2, 0.9)), result("b", errors(0.1), timing=speed(1.1, 1.0))]
    )
    assert rows(mixed)["a"].front
    assert rows(mixed)["b"].front
    assert heading("timing.step_speedup").endswith("↑")
    assert heading(TOTAL) == "total error ↓"
    worse = compare(
        [result("a", errors(0.1), timing=[figure("timing.step_speedup", v, workload="deepseek-v3", tensors="")])
         for v in (1.2,)]
        + [result("b", errors(0.1), timing=[figure("timing.step_speedup", 1.1, workload="deepseek-v3", tensors="")])]
    )  # fmt: skip
    assert rows(worse)["b"].beaten_by == ("a",)


@pytest.mark.parametrize(
    ("metric", "good", "bad", "beaten"),
    [
        ("timing.step_speedup", (1.2, {"x": 1.15}), (1.1, {"y": 1.12}), True),
        ("timing.step_speedup", (1.2, {"x": 1.05}), (1.1, {"y": 1.12}), False),
        ("timing.step_speedup", (1.2, {"x": 1.15}), (1.1, {"y": 1.25}), False),
        ("timing.step_speedup", (1.2, {"x": 1.1}), (1.1, {"y": 1.0}), False),
        ("timing.step_speedup", (1.2, {"x": 1.15}), (1.1, {}), False),
        ("cost.area_ratio", (1.1, {"x": 1.15}), (1.2, {"y": 1.18}), True),
        ("cost.area_ratio", (1.1, {"x": 1.2}), (1.2, {"y": 1.3}), False),
        ("cost.area_ratio", (1.1, {"x": 1.25}), (1.2, {"y": 1.3}), False),
    ],
)
def test_a_certain_order_holds_in_every_case_of_either_side(metric, good, bad, beaten):
    """A case that one side has alone is held against the other's value; a tie is no order; cases of one side alone are none."""

    def with_cases(value, others):
        cases = tuple(Alternative(assumption=k, other="case", value=v) for k, v in others.items())
        workload = "deepseek-v3" if metric.startswith("timing") else ""
        return [figure(metric, value, 0.3, workload=workload, tensors="", alternatives=cases)]

    kind = "timing" if metric.startswith("timing") else "costs"
    made = compare([result(n, errors(0.1), **{kind: with_cases(*v)}) for n, v in (("good", good), ("bad", bad))])
    assert ("good" in rows(made)["bad"].beaten_by) == beaten
    assert "bad" not in rows(made)["good"].beaten_by


def test_intervals_that_touch_are_no_order():
    """Of speedups, where more is better: the lower end of one must lie above the upper end of the other."""

    def speed(value):
        return [figure("timing.step_speedup", value, 0.25, workload="deepseek-v3", tensors="")]

    for other, beaten in ((1.5, False), (1.75, False), (1.875, True)):
        made = compare([result("a", errors(0.1), timing=speed(other)), result("b", errors(0.1), timing=speed(1.25))])
        assert ("a" in rows(made)["b"].beaten_by) == beaten


AXES = (TOTAL, "cost.area_ratio", "timing.step_speedup", "traffic.hbm_bytes")


def beating(*pairs):
    """Return the comparison of designs of which each pair has an axis: there the first is better than the second, and no
    other order is certain."""

    def on(axis, name):
        good, bad = pairs[axis] if axis < len(pairs) else ("", "")
        value, half = {good: (1.0, 0.0), bad: (2.0, 0.0)}.get(name, (1.5, 0.75))
        return 3.0 - value if AXES[axis].startswith("timing") else value, half

    def design(name):
        (total, half), size, (speed, around), (new, within) = (on(axis, name) for axis in range(len(AXES)))
        timing = [figure("timing.step_speedup", speed, around, workload="deepseek-v3", tensors="")]
        made = errors(total, software=50.0, today=90.0, half=half)
        return result(name, made, [area(*size)], moved(AXES[3], new, 1.0, half=within), timing)

    return rows(compare([design(name) for name in sorted({n for pair in pairs for n in pair})]))


def test_only_rows_of_the_front_beat():
    """What only a beaten row beats is on the front itself, and so on down a chain: nobody names a beaten row."""
    found = beating(("a", "b"), ("b", "c"), ("c", "d"), ("d", "e"))
    assert {n: found[n].beaten_by for n in "abcde"} == {"a": (), "b": ("a",), "c": (), "d": ("c",), "e": ()}
    assert {n: found[n].front for n in "abcde"} == {"a": True, "b": False, "c": True, "d": False, "e": True}
    backwards = beating(("d", "c"), ("c", "b"), ("b", "a"))
    assert [n for n in "abcd" if backwards[n].front] == ["b", "d"]


def test_in_a_circle_none_is_on_the_front():
    """Each is beaten by another, and what they beat is not on the front either; each names what beats it."""
    found = beating(("a", "b"), ("b", "c"), ("c", "a"), ("a", "d"))
    assert {n: found[n].beaten_by for n in "abcd"} == {"a": ("c",), "b": ("a",), "c": ("b",), "d": ("a",)}
    assert not any(found[n].front for n in "abcd")


def test_a_row_names_only_those_of_the_front_that_beat_it():
    """The best of three beats both others; the second beats the third, but is named nowhere."""
    made = rows(compare([result(n, errors(v)) for n, v in (("c", 0.3), ("b", 0.2), ("a", 0.1))]))
    assert made["c"].beaten_by == made["b"].beaten_by == ("a",)


def test_objectives_take_the_place_of_the_usual_axes():
    """The total error stays, and what is no objective is shown and not judged."""

    def energy(value):
        return figure("cost.energy_ratio", value, workload="", tensors="")

    both = [result("a", errors(0.1), [area(1.2), energy(0.9)]), result("b", errors(0.1), [area(1.1), energy(1.0)])]
    made = compare(both, ["cost.energy_ratio"])
    assert (made.objectives, made.judged) == (("cost.energy_ratio",), (TOTAL, "cost.energy_ratio"))
    assert (rows(made)["a"].front, rows(made)["b"].beaten_by) == (True, ("a",))
    usual = compare(both)
    assert (usual.objectives, usual.judged, usual.axes) == ((), (TOTAL, "cost.area_ratio"), made.axes)
    assert rows(usual)["a"].beaten_by == ("b",)
    with pytest.raises(InputError, match=r"`cost.area_rati` is no objective\n *= .*`cost.area_ratio`"):
        compare(both, [TOTAL, "cost.area_rati"])
    with pytest.raises(InputError, match=rf"`x` is no objective\n *= one of: {TOTAL}, {SUMS}, "):
        compare(both, ["x"])


def ratios(made, name):
    return {axis: (r.value, r.low, r.high) for axis, r in rows(made)[name].against.items()}


def test_each_figure_stands_beside_its_ratio_to_today():
    """Errors by the interval of the ratio; areas and bytes are ratios already; today's software is 1, whatever its interval."""
    both = [
        result("a", errors(0.1, half=0.02), [area(1.2, 0.125)], moved("traffic.hbm_bytes", 5.0, 10.0)),
        result("b", errors(0.1, half=0.02), [area(1.3)], moved("traffic.hbm_bytes", 5.0, 10.0)),
    ]
    made = compare(both)
    assert ratios(made, "a") == {
        TOTAL: (0.2, 0.153846, 0.25),
        "cost.area_ratio": (1.2, 1.075, 1.325),
        "traffic.hbm_bytes": (0.5, 0.5, 0.5),
    }
    assert set(ratios(made, "today's software").values()) == {(1.0, 1.0, 1.0)}
    assert ratios(made, "today's instruction alone") == {TOTAL: (1.8, 1.69231, 1.91667), "cost.area_ratio": (1, 1, 1)}


def test_a_figure_has_no_ratio_to_what_is_not_there_or_not_finite_either():
    """Alone not finite is infinitely worse; software alone, infinitely better; without an interval there is a value."""
    made = compare(
        [
            result("lost", errors(None)),
            result("won", errors(0.1, software=None)),
            result("both", errors(None, software=None)),
            result("alone", [figure(TOTAL, 0.1), figure(TOTAL, 0.9, variant="today")]),
            result("bare", errors(0.1, half=None)),
            result("wide", errors(0.5, half=0.1)[:1] + errors(0.5, half=0.2)[1:]),
        ]
    )
    found = {name: ratios(made, name).get(TOTAL) for name in ("lost", "won", "both", "alone", "bare", "wide")}
    assert found == {
        "lost": (None, None, None),
        "won": (0.0, 0.0, 0.0),
        "both": None,
        "alone": None,
        "bare": (0.2, None, None),
        "wide": (1.0, 0.571429, 2.0),
    }
    assert ratios(made, "today's software, for won and 1 more") == {}


def test_errors_are_listed_by_place():
    """Each row's own error on every pair that all have, and not that of a swept value."""
    places = ("normal", "uniform", "outliers")
    both = [
        result(
            name,
            [f for v, t in zip(values, places, strict=False) for f in errors(v, software=v + 0.5, tensors=t)]
            + [figure(TOTAL, 9.0, at=13)],
        )
        for name, values in (("a", (0.1, 0.2, 0.3)), ("b", (0.4, 0.1)))
    ]
    found = rows(compare(both))
    assert (found["a"].values[TOTAL], found["b"].values[TOTAL]) == (0.2, 0.4)
    assert found["a"].places == {"llama.fprop.o, normal": 0.1, "llama.fprop.o, uniform": 0.2}
    assert found["b"].places == {"llama.fprop.o, normal": 0.4, "llama.fprop.o, uniform": 0.1}
    assert found["today's software, for a"].places == {"llama.fprop.o, normal": 0.6, "llama.fprop.o, uniform": 0.7}


def test_places_are_those_of_the_first_error_in_common():
    """Without a total error in common, those of sums; areas have no place, and what one has alone is not in common."""
    made = compare(
        [result(n, [figure(TOTAL, 0.1, tensors=t), figure(SUMS, 0.2)]) for n, t in (("a", "normal"), ("b", "uniform"))]
    )
    assert (made.covered, made.apart) == (("llama.fprop.o, normal",), (TOTAL,))
    assert (rows(made)["a"].places, rows(made)["b"].places) == ({"llama.fprop.o, normal": 0.1}, {})
    alone = compare([result("a", errors(0.1)), result("b", costs=[area(1.2)])])
    assert (alone.covered, alone.apart, rows(alone)["a"].values[TOTAL]) == ((), (), 0.1)
    areas = compare([result(n, costs=[area(1.2)]) for n in "ab"])
    assert (areas.covered, areas.axes, areas.judged) == ((), ("cost.area_ratio",), ())


def test_todays_rows_are_told_apart_where_bases_or_casts_differ():
    """One row for each way of today, named after the proposals it belongs to."""
    made = compare(
        [
            result("a", errors(0.1, software=0.3)),
            result("b", errors(0.1, software=0.4), base=OTHER),
            result("c", errors(0.1, software=0.3)),
        ]
    )
    names = [e.proposal for e in made.entries if e.role == "software"]
    assert names == ["today's software, for a and 1 more", "today's software, for b"]
    assert [e.title for e in made.entries if e.role == "software"] == [HOPPER, OTHER]


def test_sums_of_a_path_are_todays():
    """A proposal that changes no instruction has no accumulation error of its own."""
    both = [*errors(0.1), figure(SUMS, 0.01)]
    made = compare([result("a", both, today=True), result("b", both)])
    assert SUMS not in rows(made)["a"].values
    assert rows(made)["a"].values[TOTAL] == 0.1
    assert rows(made)["b"].values[SUMS] == 0.01


def test_results_are_found_by_their_file_folder_or_proposal(monkeypatch, tmp_path):
    """A proposal's report must be of what it says now; another file is read as it is."""
    mine, other = SimpleNamespace(proposal="mine"), SimpleNamespace(proposal="other")
    read = []

    def reading(path):
        read.append(path)
        return SimpleNamespace(proposal=mine)

    monkeypatch.setattr(report_lookup, "read_result", reading)
    monkeypatch.setattr(report_lookup, "load_proposal", lambda path: {"a.yaml": mine, "b.yml": other}[path.name])
    monkeypatch.setattr(report_lookup, "FOLDER", tmp_path)
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match=r"a.yaml has no report here\n *= codesign evaluate a.yaml"):
        report_lookup.result_of("a.yaml")
    for name in ("mine", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "result.json").touch()
    targets = [str(tmp_path / "folder"), "a.yaml", str(tmp_path / "x.json")]
    assert [report_lookup.result_of(target)[1].proposal for target in targets] == [mine] * 3
    assert read == [tmp_path / "folder" / "result.json", tmp_path / "mine" / "result.json", tmp_path / "x.json"]
    with pytest.raises(InputError, match=r"b.yml changed since its report\n *= codesign evaluate b.yml"):
        report_lookup.result_of("b.yml")


def test_a_comparison_takes_two_proposals_each_once():
    """One alone and one twice are refused, with the name."""
    a, b = result("a", errors(0.1)), result("b", errors(0.1))
    with pytest.raises(InputError, match=r"a comparison takes two proposals or more\n *= codesign compare A B"):
        compare([a])
    with pytest.raises(InputError, match=r"`b` is there twice\n *= each proposal once; `codesign diff` shows"):
        compare([a, b, b])


def test_ratios_are_computed_once_for_each_row(monkeypatch):
    """Hundreds of results are compared in seconds: searches through all figures do not grow with the pairs of rows."""
    from codesign.verdicts import compare as comparing

    searched = []
    monkeypatch.setattr(comparing, "counterpart", lambda *given: searched.append(1) or counterpart(*given))
    counts = []
    for n in (10, 20):
        searched.clear()
        compare([result(f"p{i}", errors(0.1 + i / 1000, half=0.2), [area(1.2)]) for i in range(n)])
        counts.append(len(searched))
    assert counts[1] < 2.5 * counts[0]
