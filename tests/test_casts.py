"""What a path leaves of a tensor: counted on tensors worked by hand, and drawn or captured for the seeds asked."""

import zlib
from dataclasses import fields

import numpy as np
import pytest

from codesign.evidence.casts import path_errors as casts
from codesign.evidence.casts.path_errors import (
    FEATURES,
    RUN,
    TOKENS,
    carried,
    estimates,
    figures_of_path,
    joined,
    part,
    sums_of_path,
)
from codesign.evidence.casts.source import SOURCE
from codesign.evidence.sampling import Sampling
from codesign.evidence.source import Subject
from codesign.proposal.load import parse_proposal
from codesign.workloads.tensors import draw, recorded
from isa_model.diagnostics import parse_yaml
from isa_model.path import exactly_once, walk

TEXT = """proposal: toy
title: Toy
source: the tests
base: hopper.wgmma.m64n256k32.f32.e4m3.e4m3
path: {operands: [activation], steps: [{at: dispatch, to: e4m3, scale: fp32, group: [1, 128]}]}
software: {path: [{at: dispatch, to: e5m2, scale: fp32, group: [1, 128]}]}
workloads: [smollm2-135m.fprop.down, smollm2-135m.dgrad.down, smollm2-135m.wgrad.down]
tensors: [normal, captured]
claims:
  - {metric: cast.relative_error, relative_to: software, at_most: 1}
"""
TOY = parse_proposal(parse_yaml(TEXT, "toy.yaml"))
FPROP, DGRAD, WGRAD = (next(iter(TOY.select(w))) for w in TOY.workloads)


class Inline:
    def map(self, rule, *arguments):
        return map(rule, *arguments)


def sums(x, run=None, path=TOY.path):
    x = np.asarray(x, np.float32)
    arrived, once = (walk(steps, x).values for steps in (path.steps, exactly_once(path.steps)))
    return casts._summing(x, run or len(x))(arrived, once)


def test_the_sums_of_a_tensor_worked_by_hand():
    """Rows 448 and 224 scale to 1 and 1/2: 1.06 rounds to 1, 2^-20 is lost, zeros are neither lost nor counted as nonzero."""
    x = np.zeros((2, 128), np.float32)
    x[0, :5] = [448, 1.0625, 2.0**-20, 416, 1.0]
    x[1, :2] = [224, 0.53125]
    found = sums(x)
    power = float((x.astype(np.float64) ** 2).mean())
    error = (0.0625**2 + 2.0**-40 + 0.03125**2) / power
    assert found.error2 == pytest.approx([error])
    assert found.original2 == pytest.approx([256.0])
    assert (found.lost, found.nonzero, found.changed, found.count) == ([1], [7], [0], [256])
    assert found.excess == [0]  # a seed's own norm is its unit
    runs = sums(x, run=1)
    assert np.isnan(runs.excess).all()
    assert runs.error2 == pytest.approx([0.0625**2 + 2.0**-40, 0.03125**2])
    assert list(runs.lost) == [1, 0]
    assert list(runs.nonzero) == [5, 2]
    assert list(runs.count) == [128, 128]
    nothing = sums(np.zeros((2, 128)))
    assert (nothing.error2, nothing.original2, nothing.lost) == ([0], [0], [0])


def test_elements_are_changed_where_one_cast_would_leave_another():
    """E5M2 before E4M3 loses a bit of some: 1.125 becomes 1, in one cast it stays."""
    twice = parse_proposal(parse_yaml(TEXT.replace("steps: [{", "steps: [{at: dispatch, to: e5m2}, {"), "toy.yaml"))
    x = np.full((1, 128), 448, np.float32)
    x[0, 0] = 1.125
    assert sums(x, path=twice.path).changed == [1]
    assert sums(x).changed == [0]


def test_metrics_of_sums_of_several_tensors():
    """Sums add up cluster after cluster, and some of them can be taken out again."""
    one = casts.Sums(*(np.array([v]) for v in (4.0, 100.0, 1.0, 50.0, 5.0, 100.0, 0.0)))
    two = casts.Sums(*(np.array([v]) for v in (5.0, 125.0, 3.0, 50.0, 15.0, 100.0, 0.0)))
    both = joined([one, two])
    assert list(both.error2) == [4, 5]
    assert list(part(both, slice(1, 2)).lost) == [3]
    found = {name: e.value for name, e in estimates(both).items()}
    assert found == pytest.approx(
        {
            "cast.relative_error": 0.2,
            "cast.sqnr_db": -20 * np.log10(0.2),
            "cast.underflow_share": 0.04,
            "cast.requantised_share": 0.1,
        }
    )


def test_a_tile_that_one_run_of_tokens_holds_spans_its_runs():
    """An error that is in one of nine parts of a tile alone is anything between those of the parts; of nine seeds it is not."""
    columns = {f.name: np.ones(9) for f in fields(casts.Sums)}
    columns |= {"error2": np.where(np.arange(9) == 3, 1.0, 0.01)}
    tile = estimates(casts.Sums(**{**columns, "excess": np.full(9, np.nan)}))["cast.relative_error"]
    assert tile.held
    assert tile.interval(0.95) == pytest.approx((0.1, 1))
    seeds = estimates(casts.Sums(**{**columns, "excess": np.zeros(9)}))["cast.relative_error"]
    assert not seeds.held


def test_each_seed_has_blocks_of_its_own_and_what_was_captured_is_there_once():
    """Activations and gradients along their features, never in wgrad; clusters are two blocks a seed, or runs of tokens of the
    tile."""
    assert [carried(g) for g in (FPROP, DGRAD, WGRAD)] == ["activation", "gradient", None]
    drawn = sums_of_path(TOY, FPROP, "normal", (3, 5, 7))
    assert {v: len(s.count) for v, s in drawn.items()} == {"software": 6, "proposal": 6, "exact": 6}
    assert list(drawn["proposal"].count) == [TOKENS * FEATURES] * 6
    assert list(drawn["proposal"].changed) == [0] * 6
    for block in (0, 1):
        rng = np.random.default_rng([5, block, zlib.crc32(b"normal/cast")])
        x = draw("normal", rng, (TOKENS, FEATURES), "activation")
        assert drawn["proposal"].error2[2 + block] == sums(x).error2[0]
    tile = recorded(FPROP.recorded)[0]
    captured = sums_of_path(TOY, FPROP, "captured", (3, 5, 7))
    assert len(captured["proposal"].count) == -(-len(tile) // RUN)
    assert captured["proposal"].count.sum() == tile.size
    assert captured["proposal"].original2.sum() == pytest.approx((tile.astype(np.float64) ** 2).sum())


def test_small_tensors_are_cast_whole():
    """Fewer tokens or features than a block takes are all there are."""
    small = FPROP.__class__(**{**vars(FPROP), "m": 16, "k": 64})
    assert list(sums_of_path(TOY, small, "normal", (0,))["exact"].count) == [16 * 64] * 2


def gather(proposal, seeds):
    return SOURCE.gather(Subject(proposal, Sampling(seeds=seeds), Inline())).figures


def test_every_carried_operand_of_every_trial_has_figures():
    """By GEMM and source in their order; a variant without steps has none; ratios to what claims are relative to."""
    found = gather(TOY, tuple(range(8)))
    assert list(dict.fromkeys((f.workload, f.tensors) for f in found)) == [
        (FPROP.name, "normal"),
        (FPROP.name, "captured"),
    ]
    assert {f.variant for f in found} == {"software", "proposal", "exact"}
    assert {f.metric.split(".")[0] for f in found} == {"cast"}
    own = next(f for f in found if (f.variant, f.metric, f.tensors) == ("proposal", "cast.relative_error", "normal"))
    other = next(f for f in found if (f.variant, f.metric, f.tensors) == ("software", "cast.relative_error", "normal"))
    assert own.low < own.value < own.high < other.low
    assert set(own.ratios) == {"software"}
    (wide,) = (
        f for f in figures_of_path(TOY, FPROP, "normal", tuple(range(8)), 0.99)
        if (f.variant, f.metric) == (own.variant, own.metric)
    )  # fmt: skip
    assert wide.low < own.low < own.high <= wide.high
    plain = TOY.model_copy(update={"path": None})
    assert gather(plain, (0,)) == ()
    nothing = TOY.model_copy(update={"workloads": ("smollm2-135m.wgrad.down",)})
    assert gather(nothing, (0,)) == ()
    bare = TOY.model_copy(update={"software": TOY.software.model_copy(update={"path": ()})})
    assert set(sums_of_path(bare, FPROP, "normal", (0,))) == {"proposal", "exact"}
