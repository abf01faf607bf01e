"""Sizes of models and their training schedules, by name (sizes.yaml)."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from isa_model.diagnostics import InputError, at, read_yaml, suggest
from isa_model.stage import Spec

VOCABULARY = 256
"""Number of tokens, which are bytes."""


class Size(Spec):
    """Size of a DeepSeek-style mixture-of-experts Transformer, and its training schedule."""

    width: PositiveInt = Field(multiple_of=128)
    """Features of the residual stream."""
    layers: PositiveInt
    heads: PositiveInt
    experts: PositiveInt
    """Routed experts; there is one shared expert of the same size besides."""
    chosen: PositiveInt
    """Routed experts that a token uses."""
    hidden: PositiveInt = Field(multiple_of=128)
    """Hidden features of an expert."""
    length: PositiveInt
    """Length of a sequence, in tokens."""
    capacity: PositiveFloat
    """Slots of an expert over its average number of tokens. Tokens beyond are dropped and counted."""
    tokens: PositiveInt = Field(multiple_of=128, le=1 << 26)
    """Tokens per training step."""
    micro_batches: PositiveInt = 1
    """Micro-batches per step; Wgrad sums over the tokens of one."""
    steps: PositiveInt = Field(le=10_000_000)
    rate: PositiveFloat
    """Peak learning rate, reached after a tenth of the steps. It falls to a tenth along a cosine."""

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
        """Slots of an expert per micro-batch, a multiple of 128."""
        tokens = self.tokens // self.micro_batches
        fair = tokens * self.chosen / self.experts * self.capacity
        return min(-(-int(fair) // 128) * 128, -(-tokens // 128) * 128)


@cache
def sizes() -> dict[str, Size]:
    """Return all sizes by name."""
    data = read_yaml(Path(__file__).with_name("sizes.yaml")).data
    return {name: Size.model_validate(values) for name, values in data.items()}


def find_size(name: str) -> Size:
    """Return a size by name. Raises InputError if it is unknown."""
    if name not in sizes():
        raise InputError.of(f"no size is called `{name}`", suggest(name, sizes()) or f"one of: {', '.join(sizes())}")
    return sizes()[name]
