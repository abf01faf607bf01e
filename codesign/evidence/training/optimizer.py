"""AdamW on master weights, with moments in the formats of a recipe.

Weights, gradients and moments are one flat buffer each, in rows of 128. One pass updates them all, and the rows are the groups
of narrow moments.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from codesign.proposal.recipe import Recipe
from codesign.torch.gpu_cast import FORMATS as NATIVE
from codesign.torch.quantise import QuantisedOperand, quantise, round_to
from isa_model.cast import Cast
from isa_model.formats import Format

BETA1, BETA2, EPSILON, DECAY, CLIP = 0.9, 0.95, 1e-8, 0.1, 1.0
"""Hyperparameters of DeepSeek-V3, 4.2; epsilon is not given there."""
ROW = 128
"""Elements of a row."""


class AdamW:
    """The optimizer. Data and gradients of the parameters become views of flat FP32 buffers."""

    def __init__(self, parameters: Iterable[nn.Parameter], recipe: Recipe) -> None:
        self.recipe = recipe
        # Matrices come first, since only they have weight decay.
        self.parameters = sorted(parameters, key=lambda p: p.dim() < 2)
        sizes = [p.numel() for p in self.parameters]
        if any(size % ROW for size in sizes):
            raise ValueError(f"every parameter needs a multiple of {ROW} elements")
        device = self.parameters[0].device
        self.master = torch.cat([p.detach().flatten() for p in self.parameters]).view(-1, ROW)
        self.gradient = torch.zeros_like(self.master)
        self.decaying = sum(size for p, size in zip(self.parameters, sizes, strict=True) if p.dim() >= 2) // ROW
        for p, weights, gradient in zip(
            self.parameters, self.master.view(-1).split(sizes), self.gradient.view(-1).split(sizes), strict=True
        ):
            p.data, p.grad = weights.view(p.shape), gradient.view(p.shape)
        self._round_master()
        formats = (recipe.moments.first, recipe.moments.second)
        self.moments = [_stored(fmt, torch.zeros_like(self.master)) for fmt in formats]
        self.schedule = torch.zeros(3, device=device)
        """Learning rate and both bias corrections of the next step, on the device for CUDA graphs."""

    def prepare(self, step: int, rate: float) -> None:
        """Set the schedule of a step, counted from 0."""
        upload(torch.tensor([rate, 1 - BETA1 ** (step + 1), 1 - BETA2 ** (step + 1)]), self.schedule)

    def step(self, micro_batches: int) -> None:
        """Update the weights from gradients summed over `micro_batches`, and clear the gradients."""
        rate, correct1, correct2 = self.schedule
        g = self.gradient.mul_(1.0 / micro_batches)
        g.mul_(CLIP / torch.linalg.vector_norm(g).clamp(min=CLIP))
        m = _read(self.moments[0]).mul_(BETA1).add_(g, alpha=1 - BETA1)
        v = _read(self.moments[1]).mul_(BETA2).addcmul_(g, g, value=1 - BETA2)
        # The update uses the moments in FP32, before they are rounded.
        update = (m / correct1).div_((v / correct2).sqrt_().add_(EPSILON))
        update[: self.decaying].add_(self.master[: self.decaying], alpha=DECAY)
        self.master.sub_(update.mul_(rate))
        self._round_master()
        for kept, fresh, fmt in zip(
            self.moments, (m, v), (self.recipe.moments.first, self.recipe.moments.second), strict=True
        ):
            _store(kept, _stored(fmt, fresh))
        self.gradient.zero_()

    def round_gradient(self) -> None:
        """Round the gradient sum to the recipe's format."""
        if self.recipe.gradients.name != "fp32":
            self.gradient.copy_(round_to(self.recipe.gradients, self.gradient).float())

    def _round_master(self) -> None:
        if self.recipe.master_weights.name != "fp32":
            self.master.copy_(round_to(self.recipe.master_weights, self.master).float())

    # -- checkpoints ---------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Return the state for a checkpoint."""
        kept = [[_bytes(m.elements), m.scales] for m in self.moments]
        return {"master": self.master, "moments": kept}

    def load(self, state: dict[str, Any]) -> None:
        """Restore the state of a checkpoint."""
        self.master.copy_(state["master"])
        for moment, (elements, scales) in zip(self.moments, state["moments"], strict=True):
            moment.elements.view(elements.dtype).copy_(elements)
            if moment.scales is not None:
                moment.scales.copy_(scales)


def upload(x: Tensor, to: Tensor) -> None:
    """Copy from the host without waiting, so that the GPU always has work queued."""
    to.copy_(x.pin_memory() if to.is_cuda else x, non_blocking=True)


def _bytes(elements: Tensor) -> Tensor:
    """Return FP8 as bytes, since checkpoints are read with weights_only, which does not support FP8."""
    return elements.view(torch.uint8) if elements.dtype in NATIVE.values() else elements


def _stored(fmt: Format, x: Tensor) -> QuantisedOperand:
    """Return a moment in its format, with a scale per row if it has fewer than 16 bits."""
    if fmt.bits >= 16:
        return QuantisedOperand(round_to(fmt, x))
    return quantise(Cast(to=fmt, group=(1, ROW)), x)


def _read(moment: QuantisedOperand) -> Tensor:
    values = moment.values()
    return values.clone() if values.data_ptr() == moment.elements.data_ptr() else values


def _store(kept: QuantisedOperand, fresh: QuantisedOperand) -> None:
    kept.elements.copy_(fresh.elements)
    if kept.scales is not None and fresh.scales is not None:
        kept.scales.copy_(fresh.scales)
