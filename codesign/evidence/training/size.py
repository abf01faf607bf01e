"""Sizes: the model and how it is trained, by name (sizes.yaml)."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from isa_model.diagnostics import InputError, at, read_yaml, suggest
from isa_model.stage import Spec

VOCABULARY = 256
"""Bytes."""


class Size(Spec):
    """A DeepSeek-style mixture-of-experts Transformer and its schedule."""

    width: PositiveInt = Field(multiple_of=128)
    """Features of the residual stream."""
    layers: PositiveInt
    heads: PositiveInt
    experts: PositiveInt
    """Routed ones; one shared expert of the same size stands beside them."""
    chosen: PositiveInt
    """Routed experts per token."""
    hidden: PositiveInt = Field(multiple_of=128)
    """Features inside an expert."""
    length: PositiveInt
    """Tokens of a sequence."""
    capacity: PositiveFloat
    """Slots of an expert over the tokens it gets on average; tokens beyond are dropped by that expert, and counted."""
    tokens: PositiveInt = Field(multiple_of=128, le=1 << 26)
    """Tokens of a step."""
    micro_batches: PositiveInt = 1
    """Parts in which the gradient of a step is computed; the sums of Wgrad run over the tokens of one."""
    steps: PositiveInt = Field(le=10_000_000)
    rate: PositiveFloat
    """Peak learning rate: reached after a tenth of the steps, falling to a tenth of itself along a cosine."""

    @model_validator(mode="after")
    def _fits(self) -> Size:
        if self.width % self.heads or self.width // self.heads % 2:
            raise at("heads", message=f"{self.heads} heads do not divide {self.width} features into even parts")
        if self.chosen > self.experts:
            raise at("chosen", message=f"{self.chosen} of {self.experts} experts cannot be chosen")
        if self.tokens % (self.length * self.micro_batches):
            raise at("tokens", message=f"{self.tokens} tokens are not whole sequences of {self.length} per micro-batch")
        if self.tokens // self.micro_batches % 128:
            raise at("micro_batches", message="a micro-batch needs a multiple of 128 tokens")
        return self

    @property
    def slots(self) -> int:
        """Tokens that an expert takes of one micro-batch: a multiple of 128."""
        tokens = self.tokens // self.micro_batches
        fair = tokens * self.chosen / self.experts * self.capacity
        return min(-(-int(fair) // 128) * 128, -(-tokens // 128) * 128)

    @property
    def macs_per_token(self) -> int:
        """Multiply-accumulates per token in Linears, forward and backward, empty slots of experts included."""
        routed = self.slots * self.experts / (self.tokens // self.micro_batches)
        layer = 4 * self.width**2 + (1 + routed) * 3 * self.width * self.hidden
        return int(3 * self.layers * layer)


@cache
def sizes() -> dict[str, Size]:
    """All sizes by name."""
    data = read_yaml(Path(__file__).with_name("sizes.yaml")).data
    return {name: Size.model_validate(values) for name, values in data.items()}


def find_size(name: str) -> Size:
    """A size by name. Raises InputError for an unknown one."""
    if name not in sizes():
        raise InputError.of(f"no size is called `{name}`", suggest(name, sizes()) or f"one of: {', '.join(sizes())}")
    return sizes()[name]
