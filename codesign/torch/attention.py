"""Attention whose two products are an instruction's: S = Q K^T and O = P V, with the softmax between them in FP32.

Q, K and V are cast as Fprop casts activations, in groups along the K of their product; P likewise. The gradient is that of
attention in FP32: it passes through the casts. There is no online rescaling: every row of S is whole before the softmax.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from codesign.torch.arithmetic import Arithmetic
from codesign.torch.linear import Rules, rules_of


@torch.library.custom_op(
    "codesign::batched_product", mutates_args=(), schema="(Tensor a, Tensor b, str rules) -> Tensor"
)
def _batched_product(a: Tensor, b: Tensor, rules: str) -> Tensor:
    arithmetic = rules_of(rules).arithmetic
    x, y = a.reshape(-1, *a.shape[-2:]), b.reshape(-1, *b.shape[-2:])
    d = arithmetic.fprop(arithmetic.activation(x), arithmetic.weight(y), torch.float32)
    return d.reshape(*a.shape[:-1], b.shape[-2])


@_batched_product.register_fake
def _(a: Tensor, b: Tensor, rules: str) -> Tensor:
    return a.new_empty((*a.shape[:-1], b.shape[-2]), dtype=torch.float32)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:2])


def _backward(ctx: Any, dy: Tensor) -> Any:
    a, b = ctx.saved_tensors
    return (dy @ b.float()).to(a.dtype), (dy.mT @ a.float()).to(b.dtype), None


_batched_product.register_autograd(_backward, setup_context=_save)


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
    *,
    rules: str,
) -> Tensor:
    """Return what torch's scaled_dot_product_attention does, with both products computed by the rules of a key."""
    if enable_gqa:
        times = query.shape[-3] // key.shape[-3]
        key, value = (x.repeat_interleave(times, dim=-3) for x in (key, value))
    batch = torch.broadcast_shapes(query.shape[:-2], key.shape[:-2])
    q, k, v = (x.expand(*batch, *x.shape[-2:]) for x in (query, key, value))
    scores = _batched_product(q, k, rules) * (query.shape[-1] ** -0.5 if scale is None else scale)
    if is_causal:
        hidden = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
        scores = scores.masked_fill(hidden, float("-inf"))
    if attn_mask is not None:
        keeps = attn_mask.dtype == torch.bool
        scores = scores.masked_fill(~attn_mask, float("-inf")) if keeps else scores + attn_mask
    p = scores.softmax(-1)
    if attn_mask is not None:
        p = p.nan_to_num(0.0)  # a row without any key, which torch makes zero
    p = functional.dropout(p, dropout_p) if dropout_p else p
    o: Tensor = _batched_product(p, v.mT, rules)
    return o.to(query.dtype)


class EmulatedAttention(TorchFunctionMode):
    """Mode in which torch's scaled_dot_product_attention multiplies by a recipe's Fprop; counts its calls."""

    def __init__(self, arithmetic: Arithmetic) -> None:
        super().__init__()
        self.rules = Rules(Arithmetic(arithmetic.recipe.of_two_activations(), arithmetic.engine)).key
        self.calls = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Replace attention, and pass everything else on."""
        if func is functional.scaled_dot_product_attention:
            self.calls += 1
            return attention(*args, **(kwargs or {}), rules=self.rules)
        return func(*args, **(kwargs or {}))
