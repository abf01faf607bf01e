"""The arithmetic of a recipe: its casts and products, computed by an engine.

A Linear with weight W (outputs, inputs), input X (tokens, inputs) and output gradient dY (tokens, outputs):

    Y = X W^T,   dX = dY W,   dW = dY^T X

All accept leading batch dimensions (experts). Gradients are rounded to BF16 before they are cast.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from codesign.proposal.recipe import GemmRecipe, Recipe
from codesign.torch.engines import Engine, engine_of, multiply
from codesign.torch.quantise import QuantisedOperand, plain, quantise
from isa_model.cast import Cast
from isa_model.formats import FORMATS

BF16 = torch.bfloat16


@dataclass(frozen=True)
class Arithmetic:
    """A recipe and the engine that computes its GEMMs."""

    recipe: Recipe
    engine: Engine = "auto"

    def product(
        self, gemm: GemmRecipe, a: QuantisedOperand, b: QuantisedOperand, out: torch.dtype = torch.float32
    ) -> Tensor:
        """Return A B, summed in FP32 as `gemm` defines and rounded to the dtype `out`."""
        return multiply(gemm, a, b, engine_of(gemm, self.engine, a.elements.device), out)

    def fprop(self, x: QuantisedOperand, weight: QuantisedOperand, out: torch.dtype = BF16) -> Tensor:
        """Return Y in the dtype `out`."""
        return self.product(self.recipe.fprop, x, weight.T, out)

    def dgrad(self, dy: Tensor, weight: Tensor, taken: Cast | None = None) -> Tensor:
        """Return dX in BF16. `taken` is the cast with which dY was sent over the network, if any."""
        rule = self.recipe.dgrad
        gradient = quantise(received(rule.gradient, taken), dy, rule.tensor_scale)
        return self.product(rule, gradient, quantise(rule.weight, weight, rule.tensor_scale), BF16)

    def wgrad(self, dy: Tensor, x: Tensor, power_of_two: bool = False) -> Tensor:
        """Return dW in FP32 from the cached input, which is cast with power-of-two scales if `power_of_two`."""
        rule = self.recipe.wgrad
        cast = rule.activation
        if power_of_two and cast is not None and cast.scale is not None:
            cast = cast.model_copy(update={"scale": FORMATS["ue8m0"]})
        dy_t = quantise(rule.gradient, dy, rule.tensor_scale).T
        return self.product(rule, dy_t, quantise(cast, x, rule.tensor_scale))

    def activation(self, x: Tensor, crossed: Cast | None = None) -> QuantisedOperand:
        """Return the input of Fprop. `crossed` is the cast with which X was sent over the network, if any."""
        rule = self.recipe.fprop
        return quantise(received(rule.activation, crossed), x, rule.tensor_scale)

    def weight(self, weight: Tensor) -> QuantisedOperand:
        """Return the weight of Fprop."""
        return quantise(self.recipe.fprop.weight, weight, self.recipe.fprop.tensor_scale)

    def kept(self, cast: Cast | None, x: Tensor, quantised: QuantisedOperand) -> QuantisedOperand:
        """Return the cached form of an input that was already quantised for Fprop."""
        if cast is None:
            return plain(x)
        return quantised if cast == quantised.cast and quantised.factor is None else quantise(cast, x)


def received(rule: Cast | None, crossed: Cast | None) -> Cast | None:
    """Return the cast for a GEMM of a tensor received with the cast `crossed`, which is kept if the GEMM accepts it.

    Casting again with the same power-of-two scales would not change a number.
    """
    if rule is None or crossed is None or rule.scale is None or crossed.scale is None:
        return rule
    same = (rule.to, rule.group) == (crossed.to, crossed.group)
    holds = rule.scale.name == "fp32" or rule.scale == crossed.scale
    return crossed if same and holds else rule
