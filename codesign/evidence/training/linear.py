"""Linears of a recipe together with what comes before them: autograd functions that cache what the framework caches.

Outputs and input gradients are BF16, weight gradients FP32. `codesign.torch.linear` has the Linear alone.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import silu

from codesign.proposal.recipe import GemmRecipe
from codesign.torch.arithmetic import BF16, Arithmetic
from codesign.torch.engines import multiply
from codesign.torch.quantise import plain, quantise
from isa_model.cast import Cast


class GatedDown(torch.autograd.Function):
    """Y = (r SiLU(G) U) W^T: SwiGLU and the down-projection, with the router's factor r per row unless it is None.

    `gate_up` (..., tokens, 2 H) is [G, U]. SwiGLU's inputs are cached as the recipe says, and its output is recomputed.
    `crossed` is the cast with which the gradient dY is sent over the network, if any.
    """

    @staticmethod
    def forward(
        ctx: Any, gate_up: Tensor, weight: Tensor, row: Tensor | None, arithmetic: Arithmetic, crossed: Cast | None
    ) -> Tensor:
        recipe = arithmetic.recipe
        hidden = _gated(gate_up.float(), row)
        quantised = arithmetic.activation(hidden)
        ctx.arithmetic, ctx.weight, ctx.row, ctx.crossed = arithmetic, weight, row, crossed
        ctx.input = quantise(recipe.cache.swiglu_input, gate_up)
        # Without a rule for SwiGLU's inputs, its output is cached like the input of any Linear.
        ctx.hidden = None
        if recipe.cache.swiglu_input is None:
            ctx.hidden = arithmetic.kept(recipe.cache.linear_input, hidden, quantised)
        return arithmetic.fprop(quantised, arithmetic.weight(weight))

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Any:
        dh = ctx.arithmetic.dgrad(dy, ctx.weight, ctx.crossed).float()
        gate, up = ctx.input.values().chunk(2, dim=-1)
        hidden = _gated(torch.cat((gate, up), -1), ctx.row) if ctx.hidden is None else ctx.hidden.values()
        dw = ctx.arithmetic.wgrad(dy, hidden)
        sigmoid = gate.sigmoid()
        active = gate * sigmoid
        drow = None
        if ctx.row is not None:
            drow = (dh * active * up).sum(-1, keepdim=True)
            dh = dh * ctx.row
        dgate = dh * up * (sigmoid * (1 + gate * (1 - sigmoid)))
        return torch.cat((dgate, dh * active), -1).to(BF16), dw, drow, None, None


def _gated(gate_up: Tensor, row: Tensor | None) -> Tensor:
    """Return SwiGLU computed in FP32 and rounded to BF16."""
    gate, up = gate_up.chunk(2, dim=-1)
    hidden = silu(gate) * up
    return (hidden if row is None else hidden * row).to(BF16)


class AttentionOut(torch.autograd.Function):
    """Y = softmax(Q K^T / sqrt(d)) V W^T: causal attention and the Linear after it.

    q, k and v are (sequences, heads, length, d). Attention multiplies BF16 with FP32 sums and an FP32 softmax. Its output O
    is cached as the recipe says; the Linear's Wgrad and attention's backward pass read it.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, weight: Tensor, arithmetic: Arithmetic) -> Tensor:
        recipe = arithmetic.recipe
        if "attention" not in recipe.high_precision:
            q, k, v = (quantise(recipe.fprop.activation, x).values().to(BF16) for x in (q, k, v))
        scores = _sums(q, k.mT) * q.shape[-1] ** -0.5
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
        p = scores.masked_fill(mask, float("-inf")).softmax(-1).to(BF16)
        x = _joined(_sums(p, v).to(BF16))
        quantised = arithmetic.activation(x)
        ctx.arithmetic, ctx.weight, ctx.operands = arithmetic, weight, (q, k, v, p)
        ctx.input = arithmetic.kept(recipe.cache.attention_output or recipe.cache.linear_input, x, quantised)
        return arithmetic.fprop(quantised, arithmetic.weight(weight))

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Any:
        q, k, v, p = ctx.operands
        cached = ctx.input.values()
        dx = ctx.arithmetic.dgrad(dy, ctx.weight)
        dw = ctx.arithmetic.wgrad(dy, cached, power_of_two=ctx.arithmetic.recipe.cache.attention_power_of_two)
        do = dx.view(q.shape[0], q.shape[2], q.shape[1], q.shape[3]).transpose(1, 2)
        # The inner product of O and dO reads O from the cache, too, if the recipe casts it there.
        kept = ctx.arithmetic.recipe.cache.attention_output is not None
        o = (cached if kept else _joined(_sums(p, v).to(BF16)).float()).view(do.transpose(1, 2).shape)
        delta = (o.transpose(1, 2) * do.float()).sum(-1, keepdim=True)
        ds = (p.float() * (_sums(do, v.mT) - delta) * q.shape[-1] ** -0.5).to(BF16)
        dq, dk, dv = _sums(ds, k), _sums(ds.mT, q), _sums(p.mT, do)
        return dq.to(BF16), dk.to(BF16), dv.to(BF16), dw, None


def _joined(o: Tensor) -> Tensor:
    """Return (sequences, heads, length, d) as (tokens, heads * d)."""
    return o.transpose(1, 2).reshape(o.shape[0] * o.shape[2], -1)


def _sums(a: Tensor, b: Tensor) -> Tensor:
    """Return batched products of BF16 in FP32, with FP32 sums."""
    x, y = a.flatten(0, 1).to(BF16), b.flatten(0, 1).to(BF16)
    return multiply(GemmRecipe(), plain(x), plain(y), "torch").view(*a.shape[:-1], b.shape[-1])
