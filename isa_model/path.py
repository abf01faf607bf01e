"""Quantisation paths: the casts of a tensor between the kernel that makes it and the unit that reads it.

A path is a list of steps. Each is a cast (cast.py) with the place where it happens and the tensor it reads: the result of
the step before, or the original. Tensors and groups are (tokens, features): (1, 128) is 128 features of one token, (128, 1)
one feature of 128 tokens. Between steps numbers are FP32: code times scale, rounded to nearest even if a scale has more
than 20 bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from isa_model.arguments import fp32_of
from isa_model.cast import Cast, Quantised, quantise, scales_of_groups
from isa_model.diagnostics import at
from isa_model.groups import largest_of_groups, spread
from isa_model.ieee import in_ieee_mode

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray

    from isa_model.float64 import Codes

Place = Literal["kernel", "register", "copy-engine", "near-memory", "operand-read", "cache", "dispatch", "combine"]
PLACES: dict[str, str] = {
    "kernel": "in a kernel of its own that reads the tensor from memory and writes it back",
    "register": "by an instruction on registers of the kernel that makes the tensor, before the tensor is written",
    "copy-engine": "in the TMA copy from global to shared memory",
    "near-memory": "next to the DRAM, as the tensor leaves memory",
    "operand-read": "as the Tensor Core reads the operand from shared memory, transposed",
    "cache": "as the tensor is stored between the forward and the backward pass",
    "dispatch": "on the way to the experts' GPUs",
    "combine": "on the way back from the experts' GPUs",
}
"""Places of a step, each with its description."""


class Step(Cast):
    """One cast on a tensor's path."""

    at: Place
    """Place where the cast happens."""
    reads: Literal["previous", "original"] = "previous"
    """Tensor that is cast: the result of the step before, or the BF16 original, which is then quantised a second time."""
    logfmt: int | None = Field(default=None, ge=3, le=16)
    """Bits of LogFMT ("Insights into DeepSeek-V3", arXiv 2505.09343, 3.2), which replaces `to` and `scale`; its tiles are
    the groups."""
    scale_from: Literal["elements", "scales"] = "elements"
    """Source of a group's scale: its largest element, or the largest scale that its elements had before. The latter needs
    scales that are powers of two, and lets elements be cast before the whole group is read."""
    on_sms: bool = True
    """True if SMs carry out a `dispatch` or `combine`, as today; false for a separate engine."""

    @model_validator(mode="after")
    def _sensible(self) -> Step:
        if self.coarser:
            raise at("coarser", message="a step of a path has one level of scales", hint="drop `coarser`")
        if self.random:
            message = "a step of a path rounds as `rounding` says, the same for every seed"
            raise at(
                "random", message=message, hint="`quantisation: {random: ...}`, for the operands of the instruction"
            )
        if self.logfmt is not None and (self.group is None or self.group[0] != 1):
            raise at("group", message="a LogFMT tile is within one token", hint="group: [1, 128]")
        if self.logfmt is not None and self.flush_inputs:
            raise at("flush_inputs", message="LogFMT takes logarithms of all elements", hint="drop `flush_inputs`")
        if self.scale_from == "scales" and (self.scale is None or self.scale.mantissa_bits or self.scale.zero):
            message = "the largest of the old scales can replace them only if scales are powers of two"
            raise at("scale_from", message=message, hint="scale: ue8m0")
        if self.scale_from == "scales" and self.reads == "original":
            raise at("scale_from", message="the original has no scales")
        if not self.on_sms and self.at not in ("dispatch", "combine"):
            raise at("on_sms", message=f"a step at `{self.at}` is not communication: `dispatch` and `combine` are")
        if self.at == "copy-engine" and (self.group is None or self.group[0] * self.group[1] > 128 * 128):
            message = "a copy holds a tile of at most 128x128, and needs the whole group to know its largest element"
            raise at("group", message=message)
        return self

    @property
    def bits_per_element(self) -> float:
        """Size of an element with its share of the scale (in LogFMT, of each tile's FP32 minimum and step), in bits."""
        size = self.group[0] * self.group[1] if self.group else 0
        if self.logfmt is not None:
            return self.logfmt + 64 / size
        return self.to.bits + (self.scale.bits / size if self.scale and size else 0.0)


def _in_order(steps: tuple[Step, ...]) -> tuple[Step, ...]:
    for i, step in enumerate(steps):
        left = steps[i - 1].scale if i and steps[i - 1].logfmt is None else None
        if step.scale_from == "scales" and step.scale != left:
            message = "the step before leaves no scales of this format"
            raise at(i, "scale_from", message=message, hint="a step before it with the same `scale`")
    return steps


Steps = Annotated[tuple[Step, ...], AfterValidator(_in_order)]
"""Steps, each of which can follow the one before."""


@dataclass(frozen=True)
class Arrived:
    """A tensor at the end of a path."""

    values: NDArray[np.float64]
    """Numbers of the tensor, elements times scales, (tokens, features)."""
    last: Quantised | None
    """Result of the last step, with codes and scales; None without steps, and after LogFMT."""
    underflow: float
    """Share of nonzero elements that became zero."""
    overflow: float
    """Share of elements that became the largest number, summed over steps."""


@in_ieee_mode
def walk(steps: tuple[Step, ...], x: ArrayLike) -> Arrived:
    """Return a matrix (tokens, features), rounded to FP32, after the casts of a path.

    Raises ValueError unless `x` is a matrix of finite real numbers, and for a step that needs scales which the step before
    did not leave.
    """
    import numpy as np

    original = fp32_of("x", x)
    if original.ndim != 2 or not np.isfinite(original).all():
        raise ValueError(f"x is {original.shape}; expected a matrix of finite numbers")
    passed, values = original, original.astype(np.float64)
    before: Quantised | None = None
    overflow = 0.0
    for i, step in enumerate(steps):
        source, last = original if step.reads == "original" else passed, i == len(steps) - 1
        if step.reads == "original":
            overflow = 0.0
        if step.logfmt is not None:
            values, before = logarithmic(step, source), None
            passed = values.astype(np.float32)
            continue
        before = quantise(step, source, scales_of_step(step, source, before))
        overflow += before.overflow
        if last:
            values = before.values()
        else:
            passed = before.passed_on()
    lost = (values == 0) & (original != 0)
    return Arrived(values, before, float(lost.sum() / max(np.count_nonzero(original), 1)), overflow)


def exactly_once(steps: tuple[Step, ...]) -> tuple[Step, ...]:
    """Return the path of one step that quantises the original directly to the last step's format and groups."""
    if not steps:
        return ()
    return (steps[-1].model_copy(update={"reads": "original", "scale_from": "elements"}),)


def casts_of(steps: tuple[Step, ...]) -> tuple[Step, ...]:
    """Return steps that are equal for paths of the same casts, wherever these happen."""
    found = tuple(step.model_copy(update={"at": "kernel", "on_sms": True}) for step in steps)
    return (found[0].model_copy(update={"reads": "original"}), *found[1:]) if found else ()


def logarithmic(step: Step, x: NDArray[Any]) -> NDArray[np.float64]:
    """Return a matrix rounded to LogFMT. The last tile is filled up with zeros, which do not affect its range."""
    import numpy as np

    from isa_model.logfmt import round_log

    assert step.logfmt is not None
    assert step.group is not None
    length = step.group[1]
    padded = x.astype(np.float64)
    if short := -x.shape[1] % length:
        padded = np.pad(padded, ((0, 0), (0, short)))
    tiles = round_log(step.logfmt, padded.reshape(-1, length))
    return tiles.reshape(padded.shape)[:, : x.shape[1]]


def scales_of_step(step: Step, x: NDArray[np.float32], before: Quantised | None) -> Codes | None:
    """Return the codes of the scales with which a step casts `x`, the result of `before`; None if it has no scales.

    Raises ValueError if they are to be the largest old scales of new groups, and `before` left none of this format.
    """
    if step.scale is None:
        return None
    if step.scale_from == "elements":
        return scales_of_groups(step, x)
    if before is None or before.cast.scale is None or before.cast.scale != step.scale:
        raise ValueError("the step before left no scales of this format")
    return largest_of_groups(spread(before.scales, before.cast.group, x.shape), step.group)
