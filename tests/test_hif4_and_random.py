"""HiFloat4's cast against its public rule, and casts without a bias."""

import numpy as np
import pytest
from pydantic import ValidationError

from codesign.proposal.load import load_proposal
from isa_model import matmul
from isa_model.array_codec import to_codes
from isa_model.cast import Cast, quantise
from isa_model.instruction import Instruction
from isa_model.path import Step

DOUBLED = {"name": "e1", "exponent_bits": 1, "mantissa_bits": 0, "bias": 0, "signed": False, "zero": False}
BASE = {"name": "base", "exponent_bits": 6, "mantissa_bits": 2, "bias": 48, "signed": False, "zero": False}
HIF4 = Cast.model_validate(
    {
        "to": {
            "name": "s1p2",
            "exponent_bits": 1,
            "mantissa_bits": 2,
            "bias": 1,
            "nan": "none",
            "overflow": "saturate",
        },
        "group": (1, 4),
        "scale": {**DOUBLED, "overflow": "saturate"},
        "range": "binade",
        "scale_rounding": "down",
        "rounding": "nearest-away",
        "coarser": [
            {"group": (1, 8), "format": {**DOUBLED, "overflow": "saturate"}},
            {
                "group": (1, 64),
                "format": {**BASE, "nan": "all-ones", "overflow": "saturate"},
                "range": "largest",
                "scale_rounding": "nearest-even",
            },
        ],
    }
)
NVFP4 = {"to": "e2m1", "group": (1, 16), "scale": "ue4m3", "scale_rounding": "up"}


def normal(rows, columns):
    return np.random.default_rng(0).standard_normal((rows, columns)).astype(np.float32)


def hifloat4(x):
    """The public quantiser's steps (HiFloat4/hif4_gpu, quant_hifx) with FP32 divisions in place of BF16 reciprocals."""
    groups = np.abs(x.reshape(-1, 8, 2, 4))
    fours = groups.max(3, keepdims=True)
    eights = fours.max(2, keepdims=True)
    base = eights.max(1, keepdims=True) / np.float32(7)
    exponent = np.floor(np.log2(base))
    base = np.rint(base * 2.0 ** (2 - exponent)) * 2.0 ** (exponent - 2)
    two = np.where(eights / base >= 4, 2, 1)
    three = np.where(fours / base / two >= 2, 2, 1)
    quarters = np.minimum(np.floor(groups / base / two / three * 4 + 0.5), 7)
    return (np.sign(x.reshape(groups.shape)) * quarters / 4 * three * two * base).reshape(x.shape)


def test_hifloat4_is_its_public_rule():
    x = normal(64, 128)
    assert np.array_equal(quantise(HIF4, x).values(), hifloat4(x))


def test_hifloat4_errs_less_than_nvfp4_on_normal_numbers():
    x = normal(64, 1024)
    nvfp4 = Cast.model_validate(
        {**NVFP4, "scale_rounding": "nearest-even", "coarser": [{"group": None, "format": "fp32"}]}
    )
    errors = [np.square(quantise(cast, x).values() - x).sum() for cast in (HIF4, nvfp4)]
    assert errors[0] < 0.8 * errors[1]


@pytest.mark.parametrize("random", ["elements", "scales"])
def test_random_casts_have_no_bias(random):
    """The mean over seeds of <x, Q(x)> / <x, x> - 1 is within four standard errors of 0; to nearest it is not."""
    x = normal(32, 1024) * 50
    share = [
        (quantise(Cast.model_validate({**NVFP4, "random": random}), x, seed=s).values() * x).sum() for s in range(16)
    ]
    share = np.array(share) / np.square(x).sum() - 1
    error = 4 * share.std(ddof=1) / 4
    nearest = (quantise(Cast.model_validate(NVFP4), x).values() * x).sum() / np.square(x).sum() - 1
    assert abs(share.mean()) < error
    assert abs(nearest) > error


def test_every_element_rounded_at_random_is_a_neighbour_and_right_on_average():
    """Groups of one largest element 6 have scale 1: 1.25 becomes 1 or 1.5, each as often as the other."""
    x = np.tile(np.float32([6, *[1.25] * 15]), (64, 16))
    values = quantise(Cast.model_validate({**NVFP4, "random": "elements"}), x, seed=3).values()
    assert set(np.unique(values)) == {1.0, 1.5, 6.0}
    assert values[x == 1.25].mean() == pytest.approx(1.25, abs=0.01)


@pytest.mark.parametrize("random", ["elements", "scales"])
def test_a_seed_gives_the_same_bits_and_another_other_ones(random):
    x, cast = normal(16, 64), Cast.model_validate({**NVFP4, "random": random})
    first, again, other = (quantise(cast, x, seed=s).values() for s in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_zeros_stay_zeros_with_corrected_scales():
    assert (
        not quantise(Cast.model_validate({**NVFP4, "random": "scales"}), np.zeros((4, 32), np.float32)).values().any()
    )


def test_a_path_has_no_random_casts():
    with pytest.raises(ValidationError, match="random"):
        Step.model_validate({"at": "register", **NVFP4, "random": "elements"})


def test_scales_that_do_not_exist_are_not_corrected():
    with pytest.raises(ValidationError, match="random"):
        Cast.model_validate({"to": "e4m3", "group": None, "scale": None, "random": "scales"})


def test_twelve_fraction_bits_cut_nothing_of_a_block_of_hif4():
    """The proposal's aligned sum of a block gives the bits of an exact one."""
    spec = load_proposal("proposals/hif4.yaml").proposed()
    exact = spec.model_dump()
    exact["stages"]["block"] |= {"fraction_bits": None, "rounding": None}
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 16, (16, 64)).astype(np.uint8), rng.integers(0, 16, (64, 16)).astype(np.uint8)
    levels = [rng.integers(0, most, (16, 64 // group)).astype(np.uint8) for group, most in ((4, 2), (8, 2), (64, 200))]
    d = [
        matmul(unit, a, b, scale_a=levels, scale_b=[level.T.copy() for level in levels])
        for unit in (spec, Instruction.model_validate(exact))
    ]
    assert np.array_equal(to_codes(spec.accumulator, d[0]), to_codes(spec.accumulator, d[1]))
