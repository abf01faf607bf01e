"""The surrogate of a search: what it predicts, and how much of the front it finds with few points."""

from pathlib import Path
from unittest.mock import patch

import numpy as np
import pyarrow.parquet as pq
import pytest
from toy_space import TEXT, points_of, space

from codesign.explore import surrogate
from codesign.explore.load import load_space
from codesign.explore.points import ObjectiveFigure, Point, front
from codesign.explore.search import propose
from codesign.explore.surrogate import Process, Surrogate


def spread():
    """Points on an axis of numbers and one of three names; the value grows with the first, and one name adds to it."""
    x = np.array([(i / 9, j) for i in range(0, 10, 3) for j in range(3)])
    return x, 2 * x[:, 0] + (x[:, 1] == 1)


def test_a_process_interpolates_and_knows_where_it_knows_nothing():
    """Predictions are near what was learned and between it; deviations grow away from it."""
    x, y = spread()
    process = Process([False, True])
    process.learn(x, y, choose=True)
    mean, deviation = process.predict(np.vstack([x, [[0.5, 0.0], [0.5, 1.0], [0.5, 7.0]]]))
    assert mean[:-3] == pytest.approx(y, abs=0.05)
    assert mean[-3:-1] == pytest.approx([1.0, 2.0], abs=0.1)
    assert deviation[-1] > 3 * deviation[:-1].max()


def test_an_axis_without_effect_gets_the_greatest_length():
    """Values along it are alike, so that one point says much of the others."""
    x, _ = spread()
    process = Process([False, True])
    process.learn(x, np.sin(6 * x[:, 0]), choose=True)
    assert process.lengths[1] == surrogate.LENGTHS[-1] > process.lengths[0]


@pytest.mark.parametrize("most", [surrogate.MOST_CANDIDATES, 20])
def test_proposals_are_new_and_keep_the_conditions(tmp_path, monkeypatch, most):
    """In a small space, and in one of which random points and neighbours of the front are candidates."""
    monkeypatch.setattr(surrogate, "MOST_CANDIDATES", most)
    made, _, points = points_of(tmp_path, TEXT + "where: [bits + terms < 54]\n")
    seen = {tuple(p.settings.values()): p for p in points[::5]}
    names = list(made.axes)
    found = Surrogate(made).propose(seen, 6)
    settings = [{n: made.axes[n].choices[p[n]] for n in names} for p in found]
    assert len({tuple(s.values()) for s in settings}) == 6
    assert all(made.allows(s) and tuple(s.values()) not in seen for s in settings)
    assert Surrogate(made).propose(seen, 6) == found
    everything = {tuple(p.settings.values()): p for p in points}
    assert Surrogate(made).propose(everything, 6) == []


def test_points_without_values_teach_nothing(tmp_path):
    """Those that were ruled out before they got samples, that failed, or that are no proposal; infinity counts as the worst."""
    made, _, points = points_of(tmp_path)
    seen = {tuple(p.settings.values()): p for p in points[::5]}
    assert Surrogate(made).propose(dict(list(seen.items())[:1]), 4) == []
    empty = {tuple(p.settings.values()): Point(p.settings) for p in points[1::5]}
    assert Surrogate(made).propose(empty, 4) == []
    assert len(Surrogate(made).propose(seen | empty, 4)) == 4


def test_a_process_learns_from_the_front_of_many_points(tmp_path, monkeypatch):
    """Its time grows with the cube of the points it learns from; those on the front stay."""
    monkeypatch.setattr(surrogate, "MOST_LEARNED", 12)
    y = np.array([[i, 9.0 - i] for i in range(10)] + [[20.0 + i, 20.0] for i in range(40)])
    learned = Surrogate(space()[0])._learned(y)
    assert len(learned) == 12
    assert set(range(10)) <= set(learned)


STUDY = Path(__file__).parent.parent / "studies" / "accumulator"


def test_a_tenth_of_a_study_finds_its_front():
    """On the points of the accumulator study, whose axes are mostly names: nearly its hypervolume, where TPE alone may not."""
    pytest.importorskip("optuna")
    made, _ = load_space(STUDY.with_suffix(".yaml"))
    table = {tuple(row[name] for name in made.axes): row for row in pq.read_table(STUDY / "table.parquet").to_pylist()}
    logs = {key: np.log([row["error"], row["area"]]) for key, row in table.items()}
    kept = [x for key, x in logs.items() if table[key]["status"] != "breaks a bound"]
    low, high = np.min(kept, axis=0), np.max(kept, axis=0)

    def visited(seed):
        """The share of the study's hypervolume that a search of a tenth of it finds."""
        found = []

        def visit(some):
            found.extend(tuple(s.values()) for s in some)
            return [known(s) for s in some]

        budget = made.budget.model_copy(update={"points": made.size // 10, "seed": seed})
        propose(made.model_copy(update={"budget": budget}), visit)
        return volume(found) / volume(table)

    def known(settings):
        row = table[tuple(settings.values())]
        values = {n: ObjectiveFigure("", "", row[n], row[n], row[n], "computed", "") for n in made.objectives}
        return Point(settings, values, status="breaks a bound" if row["status"] == "breaks a bound" else "not known")

    def volume(keys):
        x = np.array([(logs[k] - low) / (high - low) for k in keys if table[k]["status"] != "breaks a bound"])
        x = x[front(x)]
        x = x[np.argsort(x[:, 0])]
        return float(((np.append(x[1:, 0], 1.0) - x[:, 0]) * (1 - x[:, 1])).sum())

    assert min(visited(seed) for seed in (0, 4)) > 0.98
    with patch.object(Surrogate, "propose", lambda *_: []):
        assert visited(4) < 0.95
