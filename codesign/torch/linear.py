"""The emulated Linear: a custom operator of torch, whose product and gradients follow a recipe.

`codesign::linear` and the two operators of its gradients are opaque to torch, so that autograd, torch.compile, automatic mixed
precision, DistributedDataParallel and FSDP treat them like any other operator.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from codesign.torch.arithmetic import BF16, Arithmetic
from codesign.torch.quantise import QuantisedOperand
from isa_model.cast import Cast


@dataclass(frozen=True)
class Rules:
    """Arithmetic of a Linear."""

    arithmetic: Arithmetic
    crossed: Cast | None = None
    """Cast with which the input was sent over the network, if any."""

    @property
    def key(self) -> str:
        """Name under which the operators find these rules."""
        arithmetic, crossed = self.arithmetic, self.crossed
        known = _keys.get((id(arithmetic), id(crossed)))
        if known is not None and _rules[known].arithmetic is arithmetic and _rules[known].crossed is crossed:
            return known
        cast = crossed.model_dump_json() if crossed else ""
        text = f"{type(arithmetic).__qualname__} {arithmetic.recipe.sha256} {arithmetic.engine} {cast}"
        name = hashlib.sha256(text.encode()).hexdigest()[:16]
        _rules[name] = self
        _keys[id(arithmetic), id(crossed)] = name
        return name


_rules: dict[str, Rules] = {}
_keys: dict[tuple[int, int], str] = {}


def rules_of(key: str) -> Rules:
    """Return the rules of a key."""
    return _rules[key]


TAKEN = (torch.float32, torch.float16, torch.bfloat16)
"""Dtypes of the tensors of emulated Linears."""


def check(x: Tensor, weight: Tensor) -> None:
    """Raise ValueError unless X (..., inputs) fits the weight (..., outputs, inputs) and has a dtype that is emulated."""
    if x.shape[-1:] != weight.shape[-1:]:
        raise ValueError(
            f"the input is {tuple(x.shape)}; a Linear of {weight.shape[-1]} inputs takes (..., {weight.shape[-1]})"
        )
    if x.dtype not in TAKEN:
        raise ValueError(f"the input has dtype {x.dtype}; one of: {', '.join(map(str, TAKEN))}")


def linear(
    x: Tensor, weight: Tensor, bias: Tensor | None, rules: Rules | str, out: torch.dtype | None = None
) -> Tensor:
    """Return Y = X W^T + b (..., tokens, outputs) in the dtype `out`, by default that of X.

    `x` is (..., tokens, inputs), `weight` (outputs, inputs), or both have one leading dimension of experts. The bias is added
    in FP32, before the only rounding to `out`. `rules` may be the key of rules that were used before.
    Raises ValueError if X does not fit the weight, or has a dtype that is not emulated.
    """
    check(x, weight)
    y: Tensor = _linear(x, weight, bias, rules if isinstance(rules, str) else rules.key, out or x.dtype)
    return y


def product(
    x: QuantisedOperand, weight: QuantisedOperand, bias: Tensor | None, rules: Rules, out: torch.dtype
) -> Tensor:
    """Return Y as `linear` does, of operands that are quantised already; without a gradient."""
    if bias is None:
        return rules.arithmetic.fprop(x, weight, out)
    return (rules.arithmetic.fprop(x, weight, torch.float32) + bias.float()).to(out)


def _flat(x: Tensor, weight: Tensor) -> Tensor:
    """Return tokens as a matrix, or as a batch of matrices for a batch of weights."""
    return x.reshape(-1, x.shape[-1]) if weight.dim() == 2 else x


# -- operators -------------------------------------------------------------------------------------------------------


@torch.library.custom_op(
    "codesign::linear",
    mutates_args=(),
    schema="(Tensor x, Tensor weight, Tensor? bias, str rules, ScalarType out) -> Tensor",
)
def _linear(x: Tensor, weight: Tensor, bias: Tensor | None, rules: str, out: torch.dtype) -> Tensor:
    found = _rules[rules]
    shape = (*x.shape[:-1], weight.shape[-2])
    if x.numel() == 0:  # no token, or no inputs to sum
        y = x.new_zeros(shape, dtype=out)
        return y if bias is None else y + bias.to(out)
    x = found.arithmetic.activation(_flat(x.detach(), weight), found.crossed)  # type: ignore[assignment]
    y = product(x, found.arithmetic.weight(weight.detach()), bias, found, out)  # type: ignore[arg-type]
    flat: Tensor = torch.ops.aten._unsafe_view(y, shape)  # an operator must not return a view
    return flat


@_linear.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor | None, rules: str, out: torch.dtype) -> Tensor:
    return x.new_empty((*x.shape[:-1], weight.shape[-2]), dtype=out)


@torch.library.custom_op(
    "codesign::linear_input_gradient",
    mutates_args=(),
    schema="(Tensor dy, Tensor weight, str rules, ScalarType out) -> Tensor",
)
def _input_gradient(dy: Tensor, weight: Tensor, rules: str, out: torch.dtype) -> Tensor:
    shape = (*dy.shape[:-1], weight.shape[-1])
    if dy.numel() == 0:
        return dy.new_zeros(shape, dtype=out)
    return _rules[rules].arithmetic.dgrad(_flat(dy, weight).to(BF16), weight).to(out).reshape(shape)


@_input_gradient.register_fake
def _(dy: Tensor, weight: Tensor, rules: str, out: torch.dtype) -> Tensor:
    return dy.new_empty((*dy.shape[:-1], weight.shape[-1]), dtype=out)


@torch.library.custom_op(
    "codesign::linear_weight_gradient",
    mutates_args=(),
    schema="(Tensor dy, Tensor x, Tensor weight, str rules) -> Tensor",
)
def _weight_gradient(dy: Tensor, x: Tensor, weight: Tensor, rules: str) -> Tensor:
    found = _rules[rules]
    if dy.numel() == 0:
        return torch.zeros_like(weight)
    x, dy = _flat(x, weight), _flat(dy, weight).to(BF16)
    quantised = found.arithmetic.activation(x, found.crossed)
    sent = quantised.cast is found.crossed and found.crossed is not None
    cast = quantised.cast if sent else found.arithmetic.recipe.cache.linear_input
    cached = found.arithmetic.kept(cast, x, quantised)
    return found.arithmetic.wgrad(dy, cached.values()).to(weight.dtype)


@_weight_gradient.register_fake
def _(dy: Tensor, x: Tensor, weight: Tensor, rules: str) -> Tensor:
    return torch.empty_like(weight)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, bias, ctx.rules, _ = inputs
    ctx.save_for_backward(x, weight)
    ctx.bias = None if bias is None else bias.dtype


def _backward(ctx: Any, dy: Tensor) -> Any:
    x, weight = ctx.saved_tensors
    of_x, of_weight, of_bias = ctx.needs_input_grad[:3]
    dx = _input_gradient(dy, weight, ctx.rules, x.dtype) if of_x else None
    dw = _weight_gradient(dy, x, weight, ctx.rules) if of_weight else None
    db = dy.float().flatten(0, -2).sum(0).to(ctx.bias) if of_bias else None
    return dx, dw, db, None, None


_linear.register_autograd(_backward, setup_context=_save)
