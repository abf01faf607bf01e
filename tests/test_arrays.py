"""codesign's array functions on what needs more than operands: levels of scales, seeds, positions and tables."""

import re

import numpy as np
import pytest

import codesign
import isa_model
from isa_model import Cast
from isa_model.sparse import pruned

X = np.random.default_rng(0).normal(size=(8, 64)).astype(np.float32)
NVFP4 = {"group": (1, 16), "scale": "ue4m3", "coarser": [{"format": "fp32", "group": [8, 64]}]}


def test_casts_with_several_levels_of_scales_have_values_in_every_kind_of_array():
    """The values are the cast's, from a result as from its codes and scales, of an array as of a tensor."""
    right = isa_model.quantise(Cast(to="e2m1", **NVFP4), X).values()
    found = codesign.quantise("e2m1", X, **NVFP4)
    assert np.array_equal(codesign.dequantise(found), right)
    assert np.array_equal(codesign.dequantise("e2m1", found.codes, found.scales, **NVFP4), right)
    torch = pytest.importorskip("torch")
    tensors = codesign.quantise("e2m1", torch.from_numpy(X), **NVFP4)
    assert all(isinstance(level, torch.Tensor) for level in tensors.scales)
    assert np.array_equal(codesign.dequantise(tensors).numpy(), right)
    assert (tensors.overflow, tensors.underflow) == (found.overflow, found.underflow)


def test_random_casts_take_a_seed():
    """The codes are those of isa_model for the same seed, a whole number of Python or numpy."""
    for seed in (0, 2**64 - 1, np.int64(7)):
        right = isa_model.quantise(Cast(random="elements"), X, seed=int(seed))
        assert np.array_equal(codesign.quantise("e4m3", X, random="elements", seed=seed).codes, right.codes)


@pytest.mark.parametrize("name", ["sparse-2-4-fp8", "stochastic-accumulator", "looked-up"])
def test_products_take_positions_seeds_and_tables(name):
    """matmul passes on what sparse, random and looked-up instructions need besides operands."""
    rng = np.random.default_rng(0)
    if name == "looked-up":
        spec = isa_model.load("hopper.wgmma.m64n256k32.f32.e4m3.e4m3")
        spec = type(spec).model_validate({**spec.model_dump(), "codebook": {"b": {"bits": 2, "group": None}}})
        more = {"tables_b": codesign.encode("e4m3", rng.normal(size=(1, 1, 4)))}
    else:
        spec = codesign.load(name).proposed()
        more = {"seed": 3} if spec.is_stochastic else {}
    a = codesign.encode(spec.a, rng.normal(size=(2, spec.shape.k)))
    b = codesign.encode(spec.b, rng.normal(size=(spec.shape.k, 3)))
    if name == "looked-up":
        b &= 3
    if spec.sparsity:
        lines, positions = pruned(spec.sparsity, b.T)
        b, more = lines.T, {"positions": positions.T}
    assert np.array_equal(codesign.matmul(spec, a, b, **more), isa_model.matmul(spec, a, b, engine="golden", **more))


SPARSE = codesign.load("sparse-2-4-fp8").proposed()
A, B = np.zeros((2, 64), np.uint8), np.zeros((32, 2), np.uint8)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: codesign.quantise("e4m3", X, random="elements", seed=-1), "seed = -1: expected a whole number from 0"),
        (lambda: codesign.quantise("e4m3", X, random="elements", seed="3"), "seed is '3'; expected a whole number"),
        (lambda: isa_model.gemm(codesign.load("stochastic-accumulator").proposed(), A, A.T, seed=-1), "seed = -1"),
        (lambda: codesign.matmul(SPARSE, A, B, positions=[[1], [1, 2]]), "positions is not an array"),
        (lambda: codesign.matmul(SPARSE, A, B, positions=np.ma.array(B, mask=True)), "positions has masked elements"),
        (lambda: codesign.dequantise("e2m1", B, B, **NVFP4), "scales has 2 levels: expected a list of as many arrays"),
        (
            lambda: codesign.dequantise("e2m1", B, [B, B], **NVFP4),
            "scales[0] is (32, 2); groups of (1, 16) make it (32, 1)",
        ),
    ],
)
def test_wrong_seeds_positions_and_levels_are_told(call, said):
    """Each is a ValueError that names the argument."""
    with pytest.raises(ValueError, match=re.escape(said)):
        call()
