"""What the proposals of later asks rest on: FP4 held by FP8, narrow weights, exact sums, kernels without split K."""

import re
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from codesign.evidence.numerics.errors import errors_of, estimates
from codesign.evidence.numerics.trial import Trial
from codesign.evidence.timing.measured import tiles
from codesign.evidence.timing.model import Product
from codesign.evidence.timing.operations import of_gemm, schemes_of, software
from codesign.evidence.timing.times import timer
from codesign.proposal.load import load_proposal, parse_proposal
from codesign.proposal.quantisation import Quantisation
from codesign.proposal.variants import variants
from codesign.workloads.gemms import select, shaped
from isa_model import Cast, InputError, load, matmul, quantise
from isa_model.array_codec import decode_array
from isa_model.diagnostics import parse_yaml
from isa_model.formats import FORMATS
from kernels.gemm.choose import choose, gpu_of
from kernels.gemm.tile import GemmProblem

ROOT = Path(__file__).parent.parent
FP4, SPLIT = (load_proposal(ROOT / f"proposals/{name}.yaml") for name in ("fp4-weights", "batch-invariant-split-k"))


def numbers(fmt):
    """Return the finite numbers of a format."""
    values = decode_array(FORMATS[fmt], np.arange(1 << FORMATS[fmt].bits, dtype=np.uint8))
    return {Fraction(float(v)) for v in values[np.isfinite(values)]}


E2M1, E4M3 = numbers("e2m1"), numbers("e4m3")


def held(factor):
    """Return whether E4M3 holds every number of E2M1 times a factor."""
    return all(number * factor in E4M3 for number in E2M1)


def test_fp4_is_held_by_fp8_while_scales_differ_by_a_factor_of_2_to_14_at_most():
    """Factors of two groups whose scales have the ratio r are f and f / r. Both must be numbers of E4M3, as 1 is one of E2M1;
    among all of them the largest ratio is 2^14, which only a power-of-two scale of the block reaches."""
    possible = [factor for factor in E4M3 if factor > 0 and held(factor)]
    largest = {f: max(r for r in range(20) if f / 2**r in possible) for f in possible}
    assert max(largest.values()) == 14
    assert [f for f, r in largest.items() if r == 14] == [64]
    assert [r for r in range(20) if held(Fraction(64, 2**r))] == list(range(15))
    assert not held(Fraction(128))


@pytest.mark.parametrize(("ratio", "same"), [(0, True), (14, True), (15, False)])
def test_a_cast_of_fp4_blocks_to_fp8_loses_nothing_up_to_the_threshold(ratio, same):
    """With a power-of-two scale for 128x128, rounded up; the block has every number of E2M1 at the largest and least scale."""
    rng = np.random.default_rng(0)
    scales = 2.0 ** -rng.integers(0, ratio + 1, (128, 4))
    scales[0] = 1, 2.0**-ratio, 1, 1
    grid = np.array(sorted(map(float, E2M1)))
    block = rng.choice(grid, (128, 128)) * np.repeat(scales, 32, axis=1)
    block[0, :64] = np.resize(grid, 64) * np.repeat(scales[0, :2], 32)
    cast = Cast(to="e4m3", group=(128, 128), scale="ue8m0")
    assert np.array_equal(quantise(cast, block).values(), block) == same
    assert not np.array_equal(quantise(cast.model_copy(update={"scale": FORMATS["fp32"]}), block).values(), block)


def test_weights_in_a_narrow_format_are_where_every_variant_starts():
    """FP4 weights pass the proposal's own cast unchanged, so that only activations lose anything; software has no more error,
    and a kernel of today reads as many bytes of them."""
    for tensors in ("normal", "captured"):
        gemm = next(g for g, t in FP4.trials if t == tensors)
        trial = Trial(gemm, tensors, range(2), 8, 8, FP4.rule)
        compared = {c.variant: c for c in variants(FP4) if c.at is None}
        found = {name: trial.result(c) for name, c in compared.items()}
        for name in ("software", "proposal"):
            _, b = trial.operands(compared[name].instruction, compared[name].flows)
            assert np.array_equal(b.values * b.factor[..., None], trial.b.x), name
        errors = {name: estimates(errors_of(o))["numerics.quantisation_error"].value for name, o in found.items()}
        assert errors["software"] == errors["proposal"] > 0
    today, proposed, _ = schemes_of(FP4)
    assert today.weight.bits == proposed.weight.bits == 4 + 8 / 32


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("workloads:\n", "workloads:\n  - deepseek-v3.dgrad.o\n", "groups of `weights` run along K in fprop alone"),
        (
            "weights: {to: e2m1, group: [1, 32]",
            "weights: {to: e2m1, group: [2, 32]",
            "in groups within an output feature",
        ),
        ("group: [1, 32], scale: ue8m0}\n", "group: null}\n", "in groups within an output feature"),
    ],
)
def test_weights_that_evidence_cannot_follow_are_refused(old, new, expected):
    """Another pass than fprop, and groups over several output features."""
    text = (ROOT / "proposals/fp4-weights.yaml").read_text(encoding="utf-8")
    assert old in text
    with pytest.raises(InputError, match=re.escape(expected)):
        parse_proposal(parse_yaml(text.replace(old, new), "mine.yaml"))


def test_exact_sums_are_the_same_in_every_split_and_order():
    """Halves of K in one accumulator or in two, and K shuffled, give the same bits; today's sums do not."""
    rng = np.random.default_rng(0)
    a, b = (rng.integers(0, 127, shape, dtype=np.uint8) for shape in ((16, 1024), (1024, 16)))
    a |= rng.integers(0, 2, a.shape, dtype=np.uint8) << 7
    order = rng.permutation(1024)
    same = {}
    for spec in (SPLIT.proposed(), SPLIT.today):
        whole = matmul(spec, a, b)
        resumed = matmul(spec, a[:, 512:], b[512:], matmul(spec, a[:, :512], b[:512]))
        shuffled = matmul(spec, a[:, order], b[order])
        halves = [decode_array(spec.accumulator, matmul(spec, a[:, k], b[k])) for k in (slice(512), slice(512, 1024))]
        added = np.array_equal(sum(halves), decode_array(spec.accumulator, whole))
        same[spec.name] = [np.array_equal(whole, resumed), np.array_equal(whole, shuffled), added]
    assert same[SPLIT.proposal] == [True, True, True]
    assert same[SPLIT.base] == [True, False, False]


def test_kernels_that_split_no_k_are_timed_by_the_fastest_such_tile():
    """As measured of every tile; where the fastest tile does not split K, nothing is lost, and the proposal may split it."""
    clock = timer("NVIDIA H200")
    for shape, loses in (({"m": 64, "n": 2112, "k": 7168}, True), ({"m": 64, "n": 7168, "k": 2048}, False)):
        measured = {
            r.implementation: r.timing.us
            for record in tiles("NVIDIA H200")
            for r in record.cases
            if r.shape == shape and r.timing
        }
        whole = min(us for tile, us in measured.items() if "split" not in tile)
        step = shape_of_step(SPLIT, shape)
        assert not step.split_k
        assert clock.time(step).us == pytest.approx(whole, rel=0.05)
        assert (clock.time(step).us > 1.2 * clock.time(replace(step, split_k=True)).us) == loses
        assert choose(step.problem, gpu_of("NVIDIA H200"), split_k=False).split == 1
    assert choose(GemmProblem(64, 2112, 7168), gpu_of("NVIDIA H200")).split == 2


def shape_of_step(proposal, shape):
    """Return the product of today's software for a GEMM of a shape."""
    (gemm,) = proposal.select(shaped(shape["m"], shape["n"], shape["k"]))
    steps = of_gemm(gemm, schemes_of(proposal)[0], software(proposal))
    return next(s.operation for s in steps if isinstance(s.operation, Product))


def test_a_null_in_a_combined_sweep_removes_a_field():
    """Each change of a combination is merged into the instruction after the other, so that null removes what the first left."""
    mine = load_proposal(ROOT / "proposals/stochastic-accumulator.yaml")
    (register,) = mine.proposed("e6m9, nearest").stages["fuse"].result
    assert (register.format.name, register.rounding, register.random_bits) == ("e6m9", "nearest-even", None)


def test_the_bias_of_quantisation_is_the_part_along_the_product():
    """Operands of E2M1 rounded toward zero shrink products; the same numbers rounded up in magnitude stretch them."""
    gemm, instruction = shaped_gemm(), load("blackwell.tcgen05.m128n128k32.kind::f8f6f4.f32.e2m1.e2m1")
    found = {}
    for rounding in ("toward-zero", "nearest-even"):
        outcome = Trial(gemm, "normal", range(4), 8, 8, Quantisation(rounding=rounding)).outcome(instruction)
        along = ((outcome.exact - outcome.original) * outcome.original).sum() / (outcome.original**2).sum()
        found[rounding] = estimates(errors_of(outcome))["numerics.quantisation_bias"].value
        assert found[rounding] == pytest.approx(along, rel=0.2)
    assert found["toward-zero"] < -0.2 < found["nearest-even"] < 0.1


def shaped_gemm():
    """Return a small GEMM of fprop."""
    (gemm,) = select(shaped(64, 64, 256))
    return gemm
