"""Search of a space: fronts, screening, bounds and budgets."""

import csv
import io
from contextlib import contextmanager
from math import inf

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from toy_space import TEXT, Counting, explored, points_of, space, toy

from codesign.explore.points import ObjectiveFigure, beaten, front
from codesign.explore.run import ALONE
from isa_model.diagnostics import InputError

# -- fronts -------------------------------------------------------------------------------------------------------------
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


# -- search -------------------------------------------------------------------------------------------------------------
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
