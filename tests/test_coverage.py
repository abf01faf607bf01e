"""The bar of the coverage record: which figures lie outside it beyond chance."""

import json
import sys
from math import comb
from pathlib import Path

import numpy as np
import pytest

from codesign.figures.intervals import Estimate

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))

import coverage


def record(*held, evaluations=400):
    row = {
        "gemm": "g",
        "tensors": "normal",
        "variant": "software",
        "metric": "numerics.total_error",
        "relative_to": None,
    }
    rows = [
        {
            **row,
            "evaluations": evaluations,
            "expected": None,
            "truth": 1.0,
            "coverage": h,
            "half_width": 0.1,
            "without": 0,
            "part": 0,
        }
        for h in held
    ]
    return {"parts": [{"evaluations": evaluations}], "rows": rows}


def test_the_chance_of_a_coverage_is_the_binomial_tail_at_the_end_of_the_bar():
    """360 of 400 are held, or fewer, with the tail of 0.93; 398, or more, with that of 0.98; inside the bar it is 1."""
    low, high, inside = record(0.9, 0.995, 0.95)["rows"]
    about = record(0.9, 0.995, 0.95)

    def share(p, among):
        return sum(comb(400, k) * p**k * (1 - p) ** (400 - k) for k in among)

    assert coverage.chance(low, about) == pytest.approx(share(0.93, range(361)))
    assert coverage.chance(high, about) == pytest.approx(share(0.98, range(398, 401)))
    assert coverage.chance(inside, about) == 1


def test_few_figures_just_outside_the_bar_are_chance_and_one_far_outside_is_not():
    """Of a hundred figures at 0.925 none is beyond chance; 0.85 is, and so is a coverage of 1 of 1,000 evaluations."""
    assert coverage.beyond_chance(record(*[0.925] * 100)) == []
    (found,) = coverage.beyond_chance(record(0.85, *[0.925] * 100))
    assert found["coverage"] == 0.85
    assert len(coverage.beyond_chance(record(1.0, 0.95, evaluations=1000))) == 1
    assert "0.850, truth 1" in coverage.outside(record(0.85))[0]


def test_the_counts_say_what_is_outside_by_chance_and_beyond_chance():
    """Raw counts below and above the bar stand beside those that chance would put there if all were 0.95."""
    about = record(0.85, 0.925, 0.99, 0.95)
    said = coverage.counts(about)
    assert "The coverage of 2 of 4 figures is below 0.93, at worst 0.850, of 1 above 0.98; its mean is 0.929." in said
    assert "If each were 0.95, 0 and 0 would be outside by chance. 1 and 0 are outside beyond chance" in said

    def share(among):
        return sum(comb(400, k) * 0.95**k * 0.05 ** (400 - k) for k in among)

    assert coverage.by_chance(about) == pytest.approx((4 * share(range(372)), 4 * share(range(393, 401))))


def test_a_figure_without_an_interval_in_some_evaluations_counts_the_others():
    """Of 400 evaluations a quarter have no interval: 300 are behind the coverage; with more than half it is not judged."""
    about = record(0.9, 0.9)
    about["rows"][0]["without"], about["rows"][1]["without"] = 100, 201
    (row,) = coverage.judged(about)
    assert coverage.independent(row, about) == 300
    about["rows"][1]["without"] = 200
    assert len(coverage.judged(about)) == 2


def test_a_share_of_nearly_all_is_known_by_its_misses():
    """99 of 100 units are one miss, 1 of 100 is one hit, and a share beyond one has no misses."""
    some = np.zeros(16)
    assert coverage._fewest(Estimate(0.99, some, "share", 100.0)) == pytest.approx(1)
    assert coverage._fewest(Estimate(0.01, some, "share", 100.0)) == pytest.approx(1)
    assert coverage._fewest(Estimate(0.9, some, "share", 100.0, plus=Estimate(0.2, some, "share", 9.0))) == 0


def test_a_value_that_no_cluster_changes_does_not_vary():
    """Digits lost in sums are no change."""
    changes = np.where(np.arange(16) == 3, 1.0, 0.0)
    assert coverage._varies(Estimate(-2.0, -1e-3 * changes))
    assert not coverage._varies(Estimate(-2.0, 1e-10 * changes))
    assert not coverage._varies(Estimate(0.0, 0 * changes))


def test_figures_that_are_conservative_by_design_are_not_judged():
    """Ratios that are 1 by construction and shares of fewer than ten expected hits are left out."""
    about = record(1.0, 1.0, 0.5)
    about["rows"][0] |= {"relative_to": "software", "half_width": 0}
    about["rows"][1] |= {"expected": 3.0}
    about["rows"][2] |= {"coverage": None, "without": 400}
    assert coverage.judged(about) == []


def test_a_record_says_which_part_was_measured_when():
    """New figures of a GEMM, a source and a kind replace all earlier ones of it; others stay with the part they are of; a part
    of which nothing is left is gone, and one that goes on is one part."""
    row = {"gemm": "deepseek-v3.fprop.kv-b", "tensors": "normal", "metric": "numerics.bias", "evaluations": 9}
    old = [row, {**row, "metric": "cast.sqnr_db"}, {**row, "tensors": "outliers"}]
    first = coverage.merged({"parts": [], "rows": []}, {"evaluations": 800}, old)
    assert [r["part"] for r in first["rows"]] == [0, 0, 0]
    new = {**row, "metric": "numerics.total_error", "evaluations": 5}
    second = coverage.merged(first, {"evaluations": 400}, [new])
    assert second["parts"] == [{"evaluations": 800}, {"evaluations": 400}]
    assert [(r["tensors"], r["metric"], r["part"]) for r in second["rows"]] == [
        ("normal", "numerics.total_error", 1), ("outliers", "numerics.bias", 0), ("normal", "cast.sqnr_db", 0),
    ]  # fmt: skip
    assert coverage._drawn(second["rows"][0], second) == 400
    last = coverage.merged(second, {"evaluations": 400}, old[1:])
    assert (last["parts"], {r["part"] for r in last["rows"]}) == ([{"evaluations": 400}], {0})


def test_the_table_of_the_documentation_is_that_of_the_record():
    """Every cell and count of docs/statistics.md is of benchmarks/records/coverage.json."""
    root = Path(__file__).parent.parent
    record = json.loads((root / "benchmarks/records/coverage.json").read_text())
    table = f"<!-- coverage: begin -->\n{coverage.table(record)}\n<!-- coverage: end -->"
    assert table in (root / "docs/statistics.md").read_text()
