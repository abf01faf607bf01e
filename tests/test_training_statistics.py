"""Gaps between training runs and their uncertainty, on handwritten records; torch is not needed."""

from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest

from codesign.evidence.source import Subject
from codesign.evidence.training import source as evidence
from codesign.evidence.training.experiments import arms, gap_words
from codesign.evidence.training.gaps import (
    NUDGED,
    Spread,
    _sum_bits,
    assay,
    drift_ratio,
    first_drifts,
    gap,
    seeds_to_decide,
    summarise,
)
from codesign.evidence.training.records import Drift, TrainingRecord, TrainingRun, shipped
from codesign.evidence.training.size import find_size
from codesign.figures.figure import Figure
from codesign.figures.quantiles import student_t
from codesign.proposal.load import parse_proposal
from isa_model.diagnostics import parse_yaml

SIZE = find_size("tiny").model_copy(update={"tokens": 256, "steps": 8})


@cache
def recipe(arm):
    return arms()[arm].resolved()


def run(arm, seed, tail, validation=None, drift=None, curve=None, engine="model"):
    found = recipe(arm)
    return TrainingRun(
        arm=arm,
        recipe=found,
        recipe_sha256=found.sha256,
        seed=seed,
        engines=(engine,) * 3,
        steps=tuple(range(1, 9)),
        curve=curve or (tail or 1.0,) * 8,
        tail=tail,
        validation=tail if validation is None else validation,
        drift_at_start=None if drift is None else Drift(error=drift, along=-drift / 2),
        dropped=0.0,
        seconds=1.0,
        tokens_per_second=1.0,
    )


def record(*runs):
    about = {"text_sha256": "", "text_bytes": 1, "commit": "", "machine": "hand", "versions": {}}
    return TrainingRecord(schema_version=1, size="tiny", model=SIZE, runs=runs, **about)


@pytest.mark.parametrize(
    ("degrees", "quantile"),
    [(1, 12.7062), (2, 4.3027), (9, 2.2622), (10, 2.2281), (11, 2.2010), (15, 2.1314), (30, 2.0423), (1000, 1.9623)],
)
def test_students_t_has_its_own_degrees_of_freedom(degrees, quantile):
    """Student's t is exact above 10 degrees of freedom, too, where it is not yet 2."""
    assert student_t(0.975, degrees) == pytest.approx(quantile, abs=6e-5)


def test_the_gap_of_sixteen_seeds_takes_fifteen_degrees():
    """The framework's gap on 16 seeds of the shipped record is [-0.41, +0.11] percent, with 15 degrees of freedom."""
    found = gap(dict(shipped())["tiny.json"], "framework").training
    assert gap_words(found) == "-0.15% [-0.41%, +0.11%]"


def test_as_many_seeds_as_are_said_to_decide_a_bound_decide_it_four_times_in_five():
    """Simulated gaps of zero with the record's deviation have their interval's upper end below the bound in 0.8 of cases."""
    each = (0.004, -0.003, 0.001, -0.002, 0.002)
    runs = [run("bf16", s, 2.0, 3.0) for s in range(5)]
    runs += [run("bits-8", s, 2 * (1 + gap_), 3.0) for s, gap_ in enumerate(each)]
    seeds = seeds_to_decide(record(*runs), "bits-8")
    drawn = np.random.default_rng(0).normal(0, np.std(each, ddof=1), (20000, seeds))
    upper = drawn.mean(1) + student_t(0.975, seeds - 1) * drawn.std(1, ddof=1) / np.sqrt(seeds)
    assert np.mean(upper < 0.0025) == pytest.approx(0.8, abs=0.03)
    assert seeds_to_decide(record(*runs[:6]), "bits-8") is None


@pytest.mark.parametrize("deviation", [1e-6, 2.55e-4, *(0.0005 * i for i in range(1, 21))])
def test_the_seeds_that_decide_a_bound_are_the_fewest(deviation):
    """One seed fewer would not do; two suffice for gaps that hardly vary; two seeds of a record say how gaps vary."""
    runs = [run("bf16", s, 2.0, 3.0) for s in range(2)]
    runs += [run("bits-8", s, 2 * (1 + sign * deviation / np.sqrt(2)), 3.0) for s, sign in enumerate((1, -1))]
    found = seeds_to_decide(record(*runs), "bits-8")
    assert seeds_to_decide(record(*runs[:2]), "bits-8") is None

    def enough(n):
        return (student_t(0.975, n - 1) + student_t(0.8, n - 1)) * deviation <= 0.0025 * np.sqrt(n)

    assert enough(found)
    assert found == 2 or not enough(found - 1)


def test_a_gap_is_over_the_seeds_that_both_have():
    """Training and validation gaps have intervals of their own, over the seeds that both arms have."""
    runs = [run("bf16", s, 2.0, 3.0) for s in (0, 1)]
    runs += [run("bits-8", s, t, v) for s, t, v in ((0, 2.02, 3.03), (1, 2.06, 3.03), (2, 9.0, 9.0))]
    found = gap(record(*runs), "bits-8")
    assert found.seeds == (0, 1)
    assert found.each == pytest.approx((0.01, 0.03))
    assert (found.training.mean, found.validation.mean) == pytest.approx((0.02, 0.01))
    half = student_t(0.975, 1) * 0.01
    assert (found.training.low, found.training.high) == pytest.approx((0.02 - half, 0.02 + half))
    assert (found.validation.low, found.validation.high) == pytest.approx((0.01, 0.01))
    assert gap(record(*runs), "bits-10") is None
    assert gap(record(*runs[2:]), "bits-8") is None


def test_three_seeds_take_two_degrees_of_freedom():
    """Three seeds have the interval of their standard deviation over the root of three, times 4.303."""
    runs = [run("bf16", s, 1.0) for s in range(3)] + [run("bits-8", s, 1.01 + s / 100) for s in range(3)]
    found = gap(record(*runs), "bits-8").training
    assert found.mean == pytest.approx(0.02)
    assert found.high - found.mean == pytest.approx(4.3027 * 0.01 / 3**0.5, rel=1e-4)


def test_one_seed_has_a_gap_and_no_interval():
    """A single seed has a mean and no interval."""
    found = gap(record(run("bf16", 0, 2.0), run("bits-8", 0, 2.1)), "bits-8")
    assert (found.training.mean, found.training.low, found.training.high) == (pytest.approx(0.05), None, None)
    assert gap_words(found.training) == "+5.00%"


def test_a_run_that_diverged_leaves_no_gap():
    """A diverged run leaves no gap of training, validation or both; other seeds keep theirs."""
    runs = [run("bf16", s, 2.0) for s in (0, 1)] + [run("bits-8", 0, 2.0), run("bits-8", 1, None, 2.0)]
    found = gap(record(*runs), "bits-8")
    assert (found.training, found.largest, found.each) == (None, None, (0.0, None))
    assert found.validation.mean == 0
    assert gap_words(found.training) == "diverged"


@pytest.mark.parametrize("field", ["training", "validation"])
def test_no_gap_is_surer_than_that_of_equal_runs(field):
    """Seeds that agree by chance have the interval of BF16 runs with slightly changed weights; wider intervals stay."""
    base = [run("bf16", s, 2.0) for s in (0, 1)]
    same = [run("bits-8", s, 2.02) for s in (0, 1)]
    nudged = [run(NUDGED, s, t) for s, t in ((0, 1.98), (1, 2.02))]
    floor = student_t(0.975, 1) * 0.01
    quiet, noisy, one = (gap(record(*base, *same, *n), "bits-8") for n in ([], nudged, nudged[:1]))
    assert getattr(quiet, field).high == pytest.approx(0.01)
    assert getattr(one, field).high == pytest.approx(0.01)
    assert getattr(noisy, field).high == pytest.approx(0.01 + floor)
    assert getattr(noisy, field).low == pytest.approx(0.01 - floor)
    wide = [run("bits-8", s, t) for s, t in ((0, 2.0), (1, 2.2))]
    assert getattr(gap(record(*base, *wide, *nudged), "bits-8"), field).high == pytest.approx(0.05 + 5 * floor)


def test_the_largest_gap_is_of_the_smoothed_curves_after_a_quarter():
    """The largest gap is that of any seed in either direction, after the first quarter."""
    curve = (9.0, 9.0, 2.0, 2.0, 1.9, 2.0, 2.0, 2.02)
    runs = [run("bf16", s, 2.0) for s in (0, 1)] + [run("bits-8", 0, 2.0), run("bits-8", 1, 2.0, curve=curve)]
    assert gap(record(*runs), "bits-8").largest == pytest.approx(0.05)


def drifting(**tails):
    """Return a record of BF16 and arms with two seeds each, given mean gap, half the distance of seeds, and drift."""
    runs = [run("bf16", s, 1.0, drift=0.0) for s in (0, 1)]
    for arm, (mean, half, drift, *engine) in tails.items():
        for seed, sign in ((0, -1), (1, 1)):
            tail = 1 + mean + sign * half
            runs.append(
                run(arm.replace("_", "-"), seed, tail, drift=drift, **dict(zip(("engine",), engine, strict=False)))
            )
    return record(*runs)


def test_a_record_says_which_worse_numerics_pass_in_it():
    """Among arms whose gap includes zero, the record names the one with the largest drift, with its bits."""
    found = assay(drifting(bits_8=(0.02, 0.01, 0.5), bits_10=(0.0, 0.001, 0.2), bits_17=(0.0, 0.001, 0.01)))
    assert found == (
        "at size tiny 8-bit sums pass, too: +2.00% [-10.71%, +14.71%], with a first gradient 50% off BF16's"
    )
    seen = assay(drifting(bits_8=(0.2, 0.001, 0.5), bits_10=(0.001, 0.001, 0.2)))
    assert seen.startswith("at size tiny 10-bit sums pass, too: +0.10%")
    edge = assay(drifting(bits_8=(0.5, 0.001, 0.5), tensor_promoted=(0.0, 0.001, 0.3), framework=(0.0, 0.001, 0.2)))
    assert "`tensor-promoted` passes, too" in edge
    assert assay(drifting(bits_8=(0.0, 0.0, 0.5))).startswith(
        "at size tiny 8-bit sums pass, too: +0.00% [+0.00%, +0.00%]"
    )
    plain = SimpleNamespace(stages={"add": SimpleNamespace(fraction_bits=None)})
    assert _sum_bits(SimpleNamespace(fprop=SimpleNamespace(instruction=plain, promote_every=None))) is None
    assert "`tensor-exact` passes, too" in assay(drifting(tensor_exact=(0.0, 0.001, 0.3)))


def test_what_proves_nothing_is_no_assay():
    """BF16, nudged runs, FP32 sums, single seeds and significant gaps say nothing about sensitivity."""
    unknown = "at size tiny it is not known which worse numerics would pass, too"
    assert assay(drifting()) == unknown
    assert assay(drifting(bf16_nudged=(0.0, 0.001, 0.5))) == unknown
    assert assay(drifting(bits_8=(0.0, 0.001, 0.5, "fp32"))) == unknown
    assert assay(drifting(bits_8=(0.5, 0.001, 0.5))) == unknown
    assert assay(record(run("bf16", 0, 1.0, drift=0.0), run("bits-8", 0, 1.0, drift=0.5))) == unknown


def test_first_gradients_are_means_over_seeds():
    """Drift and bias are means with Student's interval, and ratios are over common seeds."""
    runs = [run("bits-8", s, 1.0, drift=d) for s, d in ((0, 0.1), (1, 0.3))]
    runs += [run("bits-10", s, 1.0, drift=d) for s, d in ((0, 0.1), (1, 0.1), (2, 0.0), (3, 9.0))]
    made = record(*runs)
    drifts = first_drifts(made, "bits-8")
    half = student_t(0.975, 1) * 0.1
    assert (drifts["error"].mean, drifts["error"].high) == pytest.approx((0.2, 0.2 + half))
    assert (drifts["along"].mean, drifts["along"].low) == pytest.approx((-0.1, -0.1 - half / 2))
    assert first_drifts(record(*runs[:1]), "bits-8") == {}
    ratio = drift_ratio(made, "bits-8", "bits-10")
    assert (ratio.mean, ratio.high) == pytest.approx((2.0, 2.0 + 10 * half))
    assert drift_ratio(made, "bits-10", "bits-10").mean == 1
    assert drift_ratio(record(*runs[:1], *runs[2:]), "bits-8", "bits-10") is None
    assert drift_ratio(record(*runs[:2]), "bits-8", "bits-10") is None


def test_losses_are_smoothed_without_bias():
    """A constant stays constant; the tail is the mean of the last quarter, and None if a loss is not finite."""
    steps, curve, tail = summarise([1.0] * 12 + [2.0] * 4)
    assert (steps, tail) == (tuple(range(1, 17)), 2.0)
    assert curve[11] == 1.0
    assert curve[12] == pytest.approx(1 + 0.1 / (1 - 0.9**13), abs=1e-6)
    steps, curve, tail = summarise([1.0] * 1000)
    assert (len(steps), steps[0], steps[-1], set(curve)) == (100, 10, 1000, {1.0})
    assert summarise([1.0, 3.0])[2] == 3.0
    assert summarise([1.0] * 12 + [2.0, 3.0, 3.0, 3.0])[2] == 2.75
    assert summarise([1.0, 4 / 3])[1] == (1.0, round((0.09 + 0.1 * 4 / 3) / 0.19, 6))
    assert summarise([1.0, float("nan")])[2] is None
    assert summarise([]) == ((), (), None)


TEXT = """proposal: mine
title: x
source: x
base: hopper.wgmma.m64n256k32.f32.e4m3.e4m3
change:
  stages:
    fuse: {fraction_bits: 17, result: {format: fp32, rounding: toward-zero, overflow: infinity}}
software: {group: null}
claims:
  - {metric: training.loss_gap, at_most: 0.05}
"""


def test_every_gap_stands_beside_its_validation_gap_and_what_the_record_can_tell(monkeypatch):
    """Both gaps state the record's sensitivity, drifts do not, and a verdict on a gap repeats it."""
    from codesign.verdicts.claims import judge

    made = drifting(bits_17=(0.0, 0.001, 0.1), tensor_promoted=(0.0, 0.001, 0.2), bits_8=(0.0, 0.001, 0.5))
    monkeypatch.setattr(evidence, "shipped", lambda: (("hand.json", made),))
    mine = parse_proposal(parse_yaml(TEXT, "mine.yaml"))
    figures = {(f.metric.split(".")[1], f.variant): f for f in evidence.SOURCE.gather(Subject(mine)).figures}
    own = figures["loss_gap", "proposal"]
    assert own.caveat == figures["validation_gap", "proposal"].caveat == assay(made)
    assert "8-bit sums pass, too" in own.caveat
    assert figures["gradient_drift", "proposal"].caveat == ""
    assert figures["gradient_drift", "proposal"].ratios == {"software": (0.5, 0.5), "proposal": (1.0, 1.0)}
    assert (own.value, own.low) == pytest.approx((0.0, -12.71e-3), rel=1e-2, abs=1e-9)
    assert isinstance(own, Figure)
    (verdict,) = judge(mine, evidence.SOURCE.gather(Subject(mine)).figures)
    assert verdict.judgement == "supported"
    assert verdict.reason.endswith(assay(made))
    assert Spread(mean=1.0).low is None
