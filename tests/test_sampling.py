"""What a trial draws stands for the whole tensor: order statistics, weights, scales of whole tensors, D as the user gets it."""

import io
import pickle
from dataclasses import replace
from types import FunctionType

import numpy as np
import pytest

from codesign.evidence.numerics.errors import errors_of
from codesign.evidence.numerics.jobs import MOST_HELD, Held, Job, run, run_together
from codesign.evidence.numerics.lines import drawn
from codesign.evidence.numerics.source import _figures_of_jobs, figures_of
from codesign.evidence.numerics.trial import Trial
from codesign.evidence.sampling import Sampling
from codesign.proposal.flows import NOTHING
from codesign.proposal.load import parse_proposal
from codesign.proposal.proposal import Quantisation
from codesign.proposal.variants import variants
from codesign.workloads.distributions import GATED, NORMAL, OFFSET_NORMAL, PRODUCT, STUDENT_4, UNIFORM, Scales
from codesign.workloads.gemms import Gemm, gemms
from codesign.workloads.tensors import SOURCES, draw, synthetic
from isa_model.cast import quantise
from isa_model.diagnostics import parse_yaml

FP8 = "hopper.wgmma.m64n256k32.f32.e4m3.e4m3"
SOME = Sampling(rows=8, columns=8, seeds=tuple(range(8)))


def proposal(base=FP8, more="", workloads="[deepseek-v3.fprop.kv-b]", tensors="[normal]"):
    text = f"""proposal: p
title: t
source: s
base: {base}
{more}
workloads: {workloads}
tensors: {tensors}
claims: [{{metric: numerics.total_error, at_most: 0.1}}]
"""
    return parse_proposal(parse_yaml(text, "p.yaml"))


def found(made, sampling=SOME, tensors=None):
    compared = tuple(variants(made))
    ((gemm, source), *_) = made.trials
    results = run(Job(gemm, tensors or source, sampling, made, compared))
    figures = figures_of(gemm.name, tensors or source, compared, results, ("software",))
    return {(f.variant, f.metric.removeprefix("numerics.")): f for f in figures}


# -- distributions ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("element", [NORMAL, OFFSET_NORMAL, UNIFORM, STUDENT_4, GATED, PRODUCT])
def test_extremes_are_those_of_elements_drawn_one_by_one(element):
    """The largest and smallest of 127 have the quantiles that drawing all 127 gives."""
    rng = np.random.default_rng(0)
    whole = np.abs(element.draw(rng, (20_000, 127)))
    largest, smallest = element.ends(rng, np.full(20_000, 127))
    quantiles = [0.1, 0.5, 0.9]
    assert np.quantile(largest, quantiles) == pytest.approx(np.quantile(whole.max(axis=1), quantiles), rel=0.02)
    assert np.quantile(smallest, quantiles) == pytest.approx(np.quantile(whole.min(axis=1), quantiles), rel=0.08)
    again = element.largest(rng, np.full(20_000, 127))
    assert np.quantile(again, quantiles) == pytest.approx(np.quantile(largest, quantiles), rel=0.02)
    assert element.largest(rng, [0.0]) == [0.0]
    one = element.largest(rng, np.ones(50_000))
    assert np.quantile(one, quantiles) == pytest.approx(np.quantile(whole, quantiles), rel=0.03)


@pytest.mark.parametrize("element", [NORMAL, OFFSET_NORMAL, UNIFORM, STUDENT_4, GATED, PRODUCT])
def test_tabulated_magnitudes_have_the_probabilities_asked_for(element):
    """At the magnitude found, log(within / beyond) is the logit it was found for, to what the table's steps allow."""
    logits = np.linspace(-15.0, 15.0, 1001)
    magnitudes = element._magnitude(logits)
    assert np.log(element.within(magnitudes)) - np.log(element.beyond(magnitudes)) == pytest.approx(logits, abs=0.02)
    assert element.largest(np.random.default_rng(0), np.full(9, 1e30)).max() < np.inf


@pytest.mark.parametrize("element", [NORMAL, OFFSET_NORMAL, UNIFORM, STUDENT_4, GATED, PRODUCT])
def test_elements_have_the_moments_stated(element):
    """Mean and mean square are those of a million draws."""
    drawn_ones = element.draw(np.random.default_rng(5), (1_000_000,))
    assert drawn_ones.mean() == pytest.approx(element.mean, abs=0.005)
    assert (drawn_ones**2).mean() == pytest.approx(element.mean_square, rel=0.01)


@pytest.mark.parametrize("source", ["normal", "uniform", "offset-normal", "swiglu", "outliers-small"])
@pytest.mark.parametrize("kind", ["fprop", "dgrad", "wgrad"])
def test_the_mean_square_of_products_is_the_one_expected(source, kind):
    """Products of drawn lines have the mean square that distributions, weights and scales along K foretell."""
    roles = {"fprop": ("activation", "weight"), "dgrad": ("gradient", "weight"), "wgrad": ("gradient", "activation")}
    gemm = Gemm("g", 512, 512, 64, *roles[kind], kind == "wgrad", "")
    made = proposal()
    (software,) = [c for c in variants(made) if c.variant == "software"]
    errors = errors_of(Trial(gemm, source, range(400), 8, 8, made.rule).result(software))
    assert errors.excess.mean() == pytest.approx(0, abs=4 * errors.excess.std() / 20)
    assert abs(errors.excess.mean()) < 0.1


@pytest.mark.parametrize("scales", [Scales(), Scales(share=0.01, size=20.0), Scales(sigma=0.8)])
def test_weighted_samples_have_the_means_of_the_axis(scales):
    """Weights sum to the lines on average, and weighted squares to their mean; what is rare is there every time."""
    rng = np.random.default_rng(4)
    picked = [scales.some(rng, 8) for _ in range(4000)]
    weights = np.array([w for _, w in picked])
    squares = np.array([(w * s**2).mean() for s, w in picked])
    expected = np.exp(2 * scales.sigma**2) * (1 + scales.share * (scales.size**2 - 1))
    assert weights.mean() == pytest.approx(1, abs=0.02)
    assert squares.mean() == pytest.approx(expected, rel=0.05)
    if scales.share:
        assert all((s == 20).sum() == 2 for s, _ in picked)
        assert {(scales.along(rng, 576) == 20).sum() for _ in range(60)} == {5, 6}


def test_what_is_not_computed_is_as_large_as_in_a_whole_tensor():
    """The largest magnitudes of whole tensors, with their outlier tokens and channels, are those of tensors drawn whole."""
    gemm = Gemm("g", 256, 256, 512, "activation", "weight", False, "")
    tensor = synthetic("outliers", "activation")
    lines = drawn(tensor, [[seed, 1] for seed in range(60)], 4, gemm.m, gemm.k, False)
    hidden = np.log(lines.hidden(gemm.m - 1, gemm.k))
    whole = [
        np.log(np.abs(draw("outliers", np.random.default_rng(s), (256, 512), "activation")).max()) for s in range(240)
    ]
    assert np.median(hidden) == pytest.approx(np.median(whole), abs=0.15)
    assert lines.hidden(gemm.m - 1, gemm.k) is lines.hidden(gemm.m - 1, gemm.k)


def test_a_weights_block_has_the_scale_of_all_its_outputs():
    """Scales of sampled columns of 128x128 blocks are spread as those of whole blocks are, above those of the columns."""
    made = proposal(workloads="[deepseek-v3.fprop.kv-b]")
    spec = made.software_instruction
    trial = Trial(gemms()["deepseek-v3.fprop.kv-b"], "normal", range(20), 4, 8, made.practice.quantisation)
    scales = np.abs(trial.operands(spec)[1].scales.view(np.float32).astype("f8"))
    cast = trial._key("b", spec, NOTHING)[1]
    assert cast.group == (128, 128)
    whole = quantise(cast, draw("normal", np.random.default_rng(1), (4096, 512), "weight")).scale_values()
    assert scales.mean() == pytest.approx(whole.mean(), rel=0.02)
    assert scales.std() == pytest.approx(whole.std(), rel=0.2)
    own = np.abs(trial.b.x).reshape(20, 8, 4, 128).max(axis=3) / 448
    assert (scales >= own * 0.999999).all()


def test_one_scale_for_a_tensor_is_of_the_whole_tensor():
    """Today's single scale follows the largest element of the true shape: more of a heavy-tailed tensor underflows than
    the largest sampled element would suggest."""
    made = proposal(tensors="[outliers]", workloads="[deepseek-v3.fprop.gate-up]")
    trial = Trial(made.trials[0][0], "outliers", range(8), 8, 8, Quantisation())
    a, _ = trial.operands(made.today)
    sampled = np.abs(trial.a.x).max(axis=(1, 2)) / 448
    assert np.median(a.factor) > 2 * np.median(sampled)
    (today,) = [f for (v, m), f in found(made).items() if (v, m) == ("today", "underflow_share")]
    assert 1e-3 < today.value < 1e-2


# -- outcomes --------------------------------------------------------------------------------------------------------


def test_outputs_that_overflow_an_fp16_accumulator_lose():
    """An accumulator that overflows everywhere has figures that are not finite, and an overflow share of 1."""
    made = proposal("hopper.wgmma.m64n256k32.f16.e4m3.e4m3", workloads="[llama-3-8b.fprop.qkv]")
    figures = found(made)
    assert figures["today", "total_error"].value is None
    assert figures["today", "relative_frobenius"].value is None
    assert figures["today", "overflow_share"].value == 1
    assert figures["exact", "relative_frobenius"].value < 1e-7


@pytest.mark.parametrize(("every", "k"), [(256, 576), (128, 576), (256, 2112)])
def test_k_that_is_no_multiple_is_filled_up_with_zeros(every, k):
    """Lengths that promotion, scales or the instruction do not divide are computed as with zeros behind them."""
    made = proposal(more=f"software: {{promote_every: {every}, group: {every}}}")
    ragged = Trial(Gemm("g", 64, 64, k, "activation", "weight", False, ""), "normal", range(2), 4, 4, made.rule)
    for compared in variants(made):
        of = ragged.result(compared)
        assert of.operands[0].codes.shape[2] % compared.multiplying(ragged.gemm).shape.k == 0
        assert (of.operands[0].codes[:, :, k:] == 0).all()
        exact = (ragged.a.x.astype("f8")) @ np.swapaxes(ragged.b.x.astype("f8"), 1, 2)
        assert np.linalg.norm(of.d - exact) / np.linalg.norm(exact) < 0.06


def test_a_gemm_of_fewer_lines_than_are_drawn_over_all_seeds_is_computed_unscaled():
    """8 seeds of 8 rows are more than the 24 rows of the tensor; operands without scales are taken as they are."""
    gemm = Gemm("g", 24, 40, 100, "activation", "weight", False, "")
    for base in ("hopper.wgmma.m64n256k16.f32.bf16.bf16", "hopper.wgmma.m64n256k16.f16.f16.f16"):
        made = proposal(base)
        trial = Trial(gemm, "normal", range(8), 8, 8, made.rule)
        for compared in variants(made):
            of = trial.result(compared)
            assert of.d.shape == (8, 8, 8)
            assert np.linalg.norm(of.d - of.original) / np.linalg.norm(of.original) < 1e-2


@pytest.mark.parametrize(
    "sampling",
    [Sampling(rows=2, columns=1), Sampling(seeds=(0,)), Sampling(seeds=tuple(range(7)))],
    ids=["few outputs", "one seed", "few seeds"],
)
def test_too_little_sampled_has_values_and_no_interval(sampling):
    """Two rows by a column, or fewer than eight seeds, give figures on which nothing can be decided."""
    for figure in found(proposal(), sampling).values():
        assert (figure.low, figure.high) == (None, None)
        assert figure.value is not None


def test_fresh_seeds_are_others():
    """A fresh sampling has as many seeds and none of the old ones, whatever these are."""
    for seeds in ((0, 1), (7,), tuple(range(16)), (5, 3)):
        again = Sampling(seeds=seeds).fresh()
        assert len(again.seeds) == len(seeds)
        assert not set(seeds) & set(again.seeds)


def test_equal_operands_are_equally_lost():
    """Where software and proposal have the same operands the ratio of what they lose is exactly 1."""
    figures = found(proposal(more="software: {promote_every: 128}"))
    ratio = figures["exact", "quantisation_error"].ratios["software"]
    same = figures["proposal", "underflow_share"].ratios["software"]
    assert ratio is not None
    assert same == (1.0, 1.0) or same[0] is None or same[0] <= 1 <= same[1]


def test_underflow_is_of_each_operand_and_does_not_move_with_what_is_sampled():
    """The share is the worse operand's, and sampling four times as many columns leaves it where it was."""
    made = proposal("hopper.wgmma.m64n256k32.f32.e4m3.e4m3", workloads="[smollm2-135m.fprop.down]", tensors="[swiglu]")
    few = found(made, Sampling(rows=8, columns=8))["software", "underflow_share"]
    many = found(made, Sampling(rows=8, columns=32))["software", "underflow_share"]
    assert few.low <= many.value <= few.high
    assert many.value == pytest.approx(few.value, rel=0.02)  # activations decide, and these are the same


def test_a_captured_tile_is_computed_whole_whatever_is_asked():
    """All rows and columns of a tile count, for every sampling alike; its tokens are the clusters of its interval."""
    made = proposal(workloads="[smollm2-135m.fprop.qkv]", tensors="[captured]")
    one, other = found(made), found(made, Sampling(rows=2, columns=1, seeds=(3,)))
    assert one == other
    assert all(f.low is not None for (v, m), f in one.items() if f.value is not None)


def test_an_error_on_a_tile_that_one_token_holds_spans_all_tokens():
    """Where one token holds the norm, the interval reaches from the least to the largest error of neighbouring tokens."""
    figures = found(proposal(workloads="[smollm2-135m.fprop.down]", tensors="[captured]"))
    assert figures["software", "total_error"].value > 0
    low, high = figures["software", "total_error"].low, figures["software", "total_error"].high
    assert low < 0.1 * high
    assert figures["software", "p95_error"].low is None
    assert figures["software", "median_row_error"].low is not None


def test_every_synthetic_source_and_role_has_a_tensor():
    """Sources are captured, or have a distribution for every role."""
    for name, source in SOURCES.items():
        assert source.tensors is None or set(source.tensors) == {"activation", "weight", "gradient"}, name


def test_seeds_draw_random_bits_of_their_own():
    """A stochastic register gives a seed the same D alone and among others, however seeds are dealt to batches."""
    register = "{format: bf16, rounding: stochastic, random_bits: 16}"
    made = proposal(more=f"change: {{accumulator: bf16, stages: {{fuse: {{result: {register}}}}}}}")
    spec, gemm = made.proposed(), Gemm("g", 512, 512, 256, "activation", "weight", False, "")
    several = Trial(gemm, "normal", range(5, 9), 4, 4, made.rule).outcome(spec)
    for i, seed in enumerate(range(5, 9)):
        assert np.array_equal(Trial(gemm, "normal", seed, 4, 4, made.rule).outcome(spec).d[0], several.d[i])


# -- what GEMMs share ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tensors", ["normal", "outliers"])
def test_gemms_of_one_length_run_together_as_they_do_alone(tensors):
    """Errors are those of each GEMM alone; where operands are alike, the same object serves all, and where a scale depends on
    the whole tensor it does not."""
    made = proposal(workloads="[deepseek-v3.fprop.gate-up, deepseek-v3.fprop.qkv-a, deepseek-v3.dgrad.o]")
    compared, few = tuple(variants(made)), Sampling(rows=3, columns=5, seeds=tuple(range(9)))
    jobs = [Job(gemm, tensors, few, made.rule, compared) for gemm in made.select("deepseek-v3") if gemm.k == 7168]
    assert len({job.data for job in jobs}) == 1
    together = run_together(jobs)
    for job, results in zip(jobs, together, strict=True):
        for mine, alone in zip(results, run(job), strict=True):
            assert all(
                np.array_equal(x, y, equal_nan=True)
                for x, y in zip(vars(mine).values(), vars(alone).values(), strict=True)
            )
    found = {job.gemm.name.removeprefix("deepseek-v3."): results for job, results in zip(jobs, together, strict=True)}
    for compared_as, first, second in zip(compared, found["fprop.qkv-a"], found["dgrad.o"], strict=True):
        # A gradient is distributed as an activation is in `normal` alone; scales of whole tensors differ with their sizes.
        assert (first is second) == (tensors == "normal" and compared_as.instruction.scale is not None)


def test_a_path_with_tokens_along_k_is_not_taken_for_one_with_features():
    """A gradient of dgrad and one of wgrad, alike but for what their sums run over, each pass through their own groups."""
    made = proposal(more="path: {operands: [gradient], steps: [{at: combine, logfmt: 8, group: [1, 128]}]}")
    compared, few = (
        tuple(c for c in variants(made) if c.variant == "proposal"),
        Sampling(rows=2, columns=3, seeds=(1, 2)),
    )
    jobs = [
        Job(Gemm(name, 256, 256, 256, "gradient", b, turned, ""), "normal", few, made.rule, compared)
        for name, b, turned in (
            ("deepseek-v3.dgrad.q-b", "weight", False),
            ("deepseek-v3.wgrad.q-b", "activation", True),
        )
    ]
    (along,), (across,) = run_together(jobs)
    for job, mine in zip(jobs, (along, across), strict=True):
        assert np.array_equal(mine.total2, run(job)[0].total2)
    assert (along.quantisation2 != across.quantisation2).all()


def test_gemms_that_share_figures_keep_their_names():
    """Figures of GEMMs that are drawn and computed alike differ in their workload alone."""
    made = proposal()
    jobs = [
        Job(
            Gemm(name, 64, 64, 256, "activation", "weight", False, ""), "normal", SOME, made.rule, tuple(variants(made))
        )
        for name in ("first", "second")
    ]
    figures = _figures_of_jobs(("software",), jobs)
    assert [{f.workload for f in own} for own in figures] == [{"first"}, {"second"}]
    first, second = ([f.model_copy(update={"workload": ""}) for f in own] for own in figures)
    assert first == second


def test_variants_of_the_same_errors_have_the_same_figures_and_ratios_of_one():
    """Variants that share errors share intervals; the ratio of one to another is exactly 1."""
    made = proposal()
    today, software = (c for c in variants(made) if c.variant in ("today", "software"))
    ((gemm, source), *_) = made.trials
    (errors,) = run(Job(gemm, source, SOME, made.rule, (today,)))
    figures = list(figures_of(gemm.name, source, (today, software), (errors, errors), ("software",)))
    pairs = zip(figures[: len(figures) // 2], figures[len(figures) // 2 :], strict=True)
    assert all((x.metric, x.value, x.low, x.high) == (y.metric, y.value, y.low, y.high) for x, y in pairs)
    assert {f.ratios["software"] for f in figures if f.variant == "today" and f.metric == "numerics.total_error"} == {
        (1, 1)
    }


def test_long_sums_are_sampled_in_fewer_lines():
    """Up to K = 16384 all rows and columns are computed, beyond as many as have no more elements, but at least 8."""
    usual = Sampling()
    assert [usual.at(k) for k in (1, 7168, 16384)] == [usual] * 3
    assert [(usual.at(k).rows, usual.at(k).columns) for k in (24576, 32768, 1 << 20)] == [(10, 10), (8, 8), (8, 8)]
    few = Sampling(rows=2, columns=64).at(1 << 16)
    assert (few.rows, few.columns) == (2, 16)
    gemm = Gemm("g", 64, 64, 33_000, "activation", "weight", False, "")
    made = proposal()
    (software,) = [c for c in variants(made) if c.variant == "software"]
    (errors,) = run(Job(gemm, "normal", Sampling(seeds=(1,)), made.rule, (software,)))
    assert errors.sizes.shape == (1, 64)


def test_a_search_keeps_the_codes_of_a_million_products_and_little_else():
    """The questions of a search on k = 10**6 draw once: their operands' codes, a byte an element, stay in memory."""
    made, held = proposal(), Held()
    compared = tuple(c for c in variants(made) if c.variant == "proposal")
    gemm = Gemm("long", 4, 4, 1_000_000, "activation", "weight", False, "")
    job = Job(gemm, "outliers", Sampling(rows=4, columns=4, seeds=tuple(range(16))), made.rule, compared)
    some = replace(job, sampling=job.sampling.model_copy(update={"seeds": (0,)}))
    assert 16 * 8 * gemm.k < MOST_HELD
    run_together([some], [[held]])
    (kept,) = held.values()
    assert 8 * gemm.k < held_bytes(kept) < 1.1 * 8 * gemm.k


def held_bytes(kept):
    """Return the bytes of an object and all that it refers to, functions aside."""

    class Sizes(pickle.Pickler):
        def reducer_override(self, value):
            return (str, ()) if isinstance(value, FunctionType) else NotImplemented

    with io.BytesIO() as written:
        Sizes(written).dump(kept)
        return written.tell()
