"""How much of a study's front a search finds with few points."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from codesign.explore import search
from codesign.explore.load import load_space
from codesign.explore.points import ObjectiveFigure, Point, front
from codesign.explore.search import propose

STUDY = Path(__file__).parent.parent / "studies" / "accumulator"


@pytest.fixture(scope="module")
def found():
    """A function of points and a seed: the share of the accumulator study's hypervolume that a search finds with so many."""
    pytest.importorskip("optuna")
    made, _ = load_space(STUDY.with_suffix(".yaml"))
    table = {tuple(row[name] for name in made.axes): row for row in pq.read_table(STUDY / "table.parquet").to_pylist()}
    logs = {key: np.log([row["error"], row["area"]]) for key, row in table.items()}
    kept = [x for key, x in logs.items() if table[key]["status"] != "breaks a bound"]
    low, high = np.min(kept, axis=0), np.max(kept, axis=0)

    def known(settings):
        row = table[tuple(settings.values())]
        values = {n: ObjectiveFigure("", "", row[n], row[n], row[n], "computed", "") for n in made.objectives}
        return Point(settings, values, status="breaks a bound" if row["status"] == "breaks a bound" else "not known")

    def volume(keys):
        x = np.array([(logs[k] - low) / (high - low) for k in keys if table[k]["status"] != "breaks a bound"])
        x = x[front(x)]
        x = x[np.argsort(x[:, 0])]
        return float(((np.append(x[1:, 0], 1.0) - x[:, 0]) * (1 - x[:, 1])).sum())

    def share(points, seed):
        visited = []

        def visit(some):
            visited.extend(tuple(s.values()) for s in some)
            return [known(s) for s in some]

        budget = made.budget.model_copy(update={"points": points, "seed": seed})
        propose(made.model_copy(update={"budget": budget}), visit)
        assert len(set(visited)) == points
        return volume(visited) / volume(table)

    return share


def test_few_points_find_most_of_a_front(found, monkeypatch):
    """On axes that are mostly names, Gaussian processes find with one point in twenty what TPE does not."""
    pytest.importorskip("scipy")
    pytest.importorskip("torch")
    share = found(52, 4)
    monkeypatch.setattr(search, "MOST_GAUSSIAN", 0)
    assert share > 0.95
    assert found(52, 4) < share
