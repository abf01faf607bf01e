"""What the proposals of later asks rest on: FP4 weights as FP8, weights in a narrow format."""

import re
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from codesign.evidence.numerics.errors import errors_of, estimates
from codesign.evidence.numerics.trial import Trial
from codesign.evidence.timing.operations import schemes_of
from codesign.proposal.load import load_proposal, parse_proposal
from codesign.proposal.variants import variants
from isa_model import Cast, InputError, quantise
from isa_model.array_codec import decode_array
from isa_model.diagnostics import parse_yaml
from isa_model.formats import FORMATS

ROOT = Path(__file__).parent.parent
FP4 = load_proposal(ROOT / "proposals/fp4-weights.yaml")


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
        found = {c.variant: trial.result(c) for c in variants(FP4) if c.at is None}
        for name in ("software", "proposal"):
            b = found[name].operands[1]
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
