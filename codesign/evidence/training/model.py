"""A DeepSeek-style mixture-of-experts Transformer on bytes, whose Linears follow a recipe.

It has causal attention with rotary positions, RMSNorm, SwiGLU experts (one shared, others routed), and DeepSeek-V3's router:
sigmoid affinities, the top k after a bias that balances the load (2.1.2), and weights normalised over the chosen experts.

Every expert has the same number of slots. Shapes are therefore constant: one batched GEMM computes all experts, and a CUDA
graph can replay a step. An expert without a free slot drops a token, which is counted; DeepSeek-V3 drops none.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, pad

from codesign.evidence.training.linear import AttentionOut, GatedDown
from codesign.evidence.training.size import VOCABULARY, Size
from codesign.proposal.recipe import GemmRecipe
from codesign.torch.arithmetic import BF16, Arithmetic
from codesign.torch.engines import multiply
from codesign.torch.linear import Rules, linear
from codesign.torch.quantise import QuantisedOperand, plain, quantise
from isa_model.cast import Cast

BALANCE = 0.01
"""Change of a router bias per training step (0.001 in DeepSeek-V3, over far more steps)."""


class Transformer(nn.Module):
    """The model. `forward` returns the mean loss of (sequences, length + 1) bytes, in nats per byte."""

    def __init__(self, size: Size, arithmetic: Arithmetic, seed: int) -> None:
        super().__init__()
        self.size, self.arithmetic = size, arithmetic
        random = torch.Generator().manual_seed(seed)
        self.embedding = _weight(random, VOCABULARY, size.width)
        self.layers = nn.ModuleList(TransformerLayer(size, arithmetic, random) for _ in range(size.layers))
        self.norm = nn.Parameter(torch.ones(size.width))
        self.head = _weight(random, VOCABULARY, size.width)

    def forward(self, tokens: Tensor) -> Tensor:
        recipe = self.arithmetic.recipe
        inputs, targets = tokens[:, :-1], tokens[:, 1:]
        x = _Lookup.apply(self.embedding, inputs)
        if "embedding" not in recipe.high_precision:
            x = _Through.apply(x, recipe.fprop.activation)
        for layer in self.layers:
            x = layer(x, inputs.shape[0])
        x = rms_norm(x, self.norm, "normalisation" in recipe.high_precision)
        if "head" in recipe.high_precision:
            logits = _HighPrecision.apply(x, self.head)
        else:
            logits = linear(x, self.head, None, Rules(self.arithmetic), torch.float32)
        return cross_entropy(logits, targets.reshape(-1))

    def balance(self) -> None:
        """Adjust every router's bias to the loads since the last call, and reset the loads."""
        for router in self.routers:
            router.bias -= BALANCE * torch.sign(router.load - router.load.mean())
            router.load.zero_()

    @property
    def routers(self) -> list[Experts]:
        """Experts of every layer."""
        return [cast(TransformerLayer, layer).experts for layer in self.layers]

    @property
    def loads(self) -> list[Tensor]:
        """Numbers of tokens that chose each expert, by layer."""
        return [router.load for router in self.routers]

    @property
    def dropped(self) -> Tensor:
        """Numbers of dropped choices and of all choices since the start of training."""
        return torch.stack([router.dropped for router in self.routers]).sum(0)


class TransformerLayer(nn.Module):
    """A layer: attention and experts, each after a norm and added to the BF16 residual stream."""

    def __init__(self, size: Size, arithmetic: Arithmetic, random: torch.Generator) -> None:
        super().__init__()
        self.size, self.arithmetic = size, arithmetic
        smaller = (2 * size.layers) ** -0.5
        self.attention_norm = nn.Parameter(torch.ones(size.width))
        self.qkv = _weight(random, 3 * size.width, size.width)
        self.out = _weight(random, size.width, size.width, scale=smaller)
        self.experts_norm = nn.Parameter(torch.ones(size.width))
        self.experts = Experts(size, arithmetic, random, smaller)

    def forward(self, x: Tensor, sequences: int) -> Tensor:
        exact = "normalisation" in self.arithmetic.recipe.high_precision
        qkv = linear(rms_norm(x, self.attention_norm, exact), self.qkv, None, Rules(self.arithmetic))
        heads = qkv.view(sequences, self.size.length, 3, self.size.heads, -1).permute(2, 0, 3, 1, 4)
        q, k, v = heads.unbind(0)
        x = x + AttentionOut.apply(rotated(q), rotated(k), v, self.out, self.arithmetic)
        return cast(Tensor, x + self.experts(rms_norm(x, self.experts_norm, exact)))


class Experts(nn.Module):
    """The experts of a layer: a shared one for every token, and routed ones chosen by the router."""

    load: Tensor
    bias: Tensor
    dropped: Tensor
    picks: Tensor | None = None
    """Experts chosen in the last forward pass, (tokens, chosen)."""
    replay: Tensor | None = None
    """Experts to use instead of the router's choice, so that two models can be compared."""

    def __init__(self, size: Size, arithmetic: Arithmetic, random: torch.Generator, smaller: float) -> None:
        super().__init__()
        self.size, self.arithmetic = size, arithmetic
        self.router = _weight(random, size.experts, size.width)
        self.shared_up = _weight(random, 2 * size.hidden, size.width)
        self.shared_down = _weight(random, size.width, size.hidden, scale=smaller)
        self.up = _weight(random, size.experts, 2 * size.hidden, size.width)
        self.down = _weight(random, size.experts, size.width, size.hidden, scale=smaller)
        self.register_buffer("bias", torch.zeros(size.experts))
        self.register_buffer("load", torch.zeros(size.experts))
        self.register_buffer("dropped", torch.zeros(2))

    def forward(self, x: Tensor) -> Tensor:
        arithmetic = self.arithmetic
        network = arithmetic.recipe.dispatch
        shared = linear(x, self.shared_up, None, Rules(arithmetic))
        shared = GatedDown.apply(shared, self.shared_down, None, arithmetic, None)
        token_of_slot, slot_of_choice, weight_of_slot = self._route(x)
        experts, slots = self.size.experts, self.size.slots
        sent = _Dispatch.apply(x, token_of_slot, slot_of_choice, network.activation).view(experts, slots, -1)
        gate_up = linear(sent, self.up, None, Rules(arithmetic, network.activation))
        row = weight_of_slot.view(experts, slots, 1)
        done = GatedDown.apply(gate_up, self.down, row, arithmetic, network.gradient)
        routed: Tensor = _Combine.apply(done.flatten(0, 1), token_of_slot, slot_of_choice, network.gradient)
        return cast(Tensor, shared) + routed

    def _route(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the token of each slot, the slot of each choice, and the weight of each slot.

        An index past the last one marks an empty slot or a dropped choice.
        """
        tokens, chosen, slots = x.shape[0], self.size.chosen, self.size.slots
        if "gating" in self.arithmetic.recipe.high_precision:
            scores = (x.float() @ self.router.T).sigmoid()
        else:
            scores = linear(x, self.router, None, Rules(self.arithmetic), torch.float32).sigmoid()
        picks = self.replay
        if picks is None:
            picks = (scores.detach() + self.bias).topk(chosen, dim=-1).indices
        self.picks = picks
        weights = scores.gather(1, picks)
        weights = weights / weights.sum(-1, keepdim=True)
        expert = picks.flatten()
        picked = _one_hot(expert, self.size.experts).T.contiguous()
        # Running count of choices of each expert, in one row: on a GPU, torch scans a matrix's column in a single thread.
        so_far = picked.flatten().cumsum(0).view(self.size.experts, -1)
        earlier = pad(so_far[:-1, -1], (1, 0))
        place = so_far.gather(0, expert[None]).squeeze(0) - earlier[expert] - 1
        nowhere = self.size.experts * slots
        slot = torch.where(place < slots, expert * slots + place, nowhere)
        if self.training:
            self.load += picked.sum(1)
            self.dropped += torch.stack(((slot == nowhere).sum(), torch.full_like(slot[0], slot.numel())))
        choice = torch.arange(tokens * chosen, device=x.device)
        choice_of_slot = torch.full((nowhere + 1,), tokens * chosen, device=x.device).scatter(0, slot, choice)[:nowhere]
        slot_of_choice = slot.view(tokens, chosen)
        return choice_of_slot // chosen, slot_of_choice, _Weights.apply(weights, choice_of_slot, slot_of_choice)


def _weight(random: torch.Generator, *shape: int, scale: float = 1.0) -> nn.Parameter:
    """Return a random weight with standard deviation 0.02 times `scale`."""
    return nn.Parameter(torch.randn(*shape, generator=random) * (0.02 * scale))


def _one_hot(x: Tensor, count: int) -> Tensor:
    """Return the one-hot rows (N, count) of integers (N,), without the check on the host in torch's own function."""
    return (x[:, None] == torch.arange(count, device=x.device)).int()


def rms_norm(x: Tensor, weight: Tensor, exact: bool) -> Tensor:
    """Return the RMSNorm in BF16, computed in FP32 if `exact`, else in BF16."""
    y = x.float() if exact else x
    y = y * torch.rsqrt(y.square().mean(-1, keepdim=True) + 1e-6)
    return (y * (weight if exact else weight.to(BF16))).to(BF16)


def rotated(x: Tensor) -> Tensor:
    """Return (..., length, d) with rotary positions in BF16, computed in FP32."""
    length, d = x.shape[-2:]
    frequency = 10000.0 ** (-torch.arange(0, d, 2, device=x.device, dtype=torch.float32) / d)
    angle = torch.arange(length, device=x.device, dtype=torch.float32)[:, None] * frequency
    a, b = x.float().chunk(2, dim=-1)
    return torch.cat((a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()), -1).to(BF16)


# -- the MoE path ----------------------------------------------------------------------------------------------------
# Both directions gather only. Sums run over a token's own choices in a fixed order, so every run has the same bits.


def _slots_of(x: Tensor, token_of_slot: Tensor, crossing: Cast | None) -> Tensor:
    """Return the tokens in their slots, after the cast for the network; empty slots are zero."""
    if crossing is not None:
        x = quantise(crossing, x).values().to(BF16)
    return pad(x, (0, 0, 0, 1))[token_of_slot]


def _tokens_of(y: Tensor, slot_of_choice: Tensor) -> Tensor:
    """Return the sum over each token's slots, in FP32 and rounded to BF16."""
    return pad(y, (0, 0, 0, 1))[slot_of_choice].float().sum(1).to(BF16)


class _Dispatch(torch.autograd.Function):
    """Sending tokens to slots, with the gradient returned in BF16."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, token_of_slot: Tensor, slot_of_choice: Tensor, crossing: Cast | None) -> Tensor:
        ctx.save_for_backward(slot_of_choice)
        return _slots_of(x, token_of_slot, crossing)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Any:
        (slot_of_choice,) = ctx.saved_tensors
        return _tokens_of(dy.flatten(0, -2), slot_of_choice), None, None, None


class _Weights(torch.autograd.Function):
    """Assignment of the weights of choices (tokens, chosen) to slots; empty slots have weight zero."""

    @staticmethod
    def forward(ctx: Any, weights: Tensor, choice_of_slot: Tensor, slot_of_choice: Tensor) -> Tensor:
        ctx.save_for_backward(slot_of_choice)
        return pad(weights.flatten(), (0, 1))[choice_of_slot]

    @staticmethod
    def backward(ctx: Any, dw: Tensor) -> Any:
        return pad(dw, (0, 1))[ctx.saved_tensors[0]], None, None


class _Combine(torch.autograd.Function):
    """Sum of slots to tokens in BF16, with the gradient sent like a dispatch."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, token_of_slot: Tensor, slot_of_choice: Tensor, crossing: Cast | None) -> Tensor:
        ctx.save_for_backward(token_of_slot)
        ctx.crossing = crossing
        return _tokens_of(y, slot_of_choice)

    @staticmethod
    def backward(ctx: Any, dx: Tensor) -> Any:
        return _slots_of(dx, ctx.saved_tensors[0], ctx.crossing), None, None, None


# -- what stays in high precision ------------------------------------------------------------------------------------


class _Lookup(torch.autograd.Function):
    """Lookup of embedding rows in BF16. The gradient is a product with one-hot rows, which has the same bits in every run."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, tokens: Tensor) -> Tensor:
        ctx.save_for_backward(tokens)
        return table[tokens.reshape(-1)].to(BF16)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Any:
        (tokens,) = ctx.saved_tensors
        return _product(plain(_one_hot(tokens.reshape(-1), VOCABULARY)).T, plain(dy)), None


class _HighPrecision(torch.autograd.Function):
    """A Linear with BF16 operands, FP32 sums and an FP32 result."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _product(plain(x), plain(weight).T)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        gradient = plain(dy)
        return _product(gradient, plain(weight)).to(BF16), _product(gradient.T, plain(x))


def _product(a: QuantisedOperand, b: QuantisedOperand) -> Tensor:
    """Return the product of BF16 operands with FP32 sums."""
    return multiply(GemmRecipe(), a, b, "torch")


class _Through(torch.autograd.Function):
    """Quantisation with a straight-through gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, how: Cast | None) -> Tensor:
        return quantise(how, x).values().to(BF16)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Any:
        return dy, None
