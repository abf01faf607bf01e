"""What becomes of a tensor between the kernel that makes it and the unit that reads it: casts, one after the other.

A path is a list of steps. Each is a cast (cast.py) with the place where it happens, and what it reads: what the step before
left, or the original once more. Tensors are (tokens, features), and so are groups: (1, 128) is 128 features of one token,
(128, 1) the other way round. Between steps numbers are FP32: code times scale, rounded to nearest even where a scale has
more than 20 bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from isa_model.arguments import fp32_of
from isa_model.cast import Cast, Quantised, quantise
from isa_model.diagnostics import at
from isa_model.ieee import in_ieee_mode

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray

Place = Literal["kernel", "register", "copy-engine", "near-memory", "operand-read", "cache", "dispatch", "combine"]
PLACES: dict[str, str] = {
    "kernel": "in a kernel of its own that reads the tensor from memory and writes it back",
    "register": "by an instruction on the registers of the kernel that makes the tensor, before it is written",
    "copy-engine": "in the TMA copy from global to shared memory",
    "near-memory": "beside the DRAM, as the tensor leaves memory",
    "operand-read": "as the Tensor Core reads the operand from shared memory, transposed",
    "cache": "as it is stored from the forward to the backward pass",
    "dispatch": "on the way to the experts' GPUs",
    "combine": "on the way back from the experts' GPUs",
}
"""Where a step happens, in words."""


class Step(Cast):
    """One cast on a tensor's path."""

    at: Place
    """Where it happens."""
    reads: Literal["previous", "original"] = "previous"
    """What it casts: what the step before left, or the BF16 original, quantised a second time."""
    logfmt: int | None = Field(default=None, ge=3, le=16)
    """Bits of LogFMT ("Insights into DeepSeek-V3", arXiv 2505.09343, 3.2) in place of `to` and `scale`; its tiles are the
    groups."""
    scale_from: Literal["elements", "scales"] = "elements"
    """Whether a group's scale follows from its largest element, or is the largest scale that its elements had before:
    powers of two only, and no element is looked at before the first is cast."""
    on_sms: bool = True
    """Of `dispatch` and `combine`: whether SMs carry it out, as today, or an engine of its own."""

    @model_validator(mode="after")
    def _sensible(self) -> Step:
        if self.logfmt is not None and (self.group is None or self.group[0] != 1):
            raise at("group", message="LogFMT has tiles of one token", hint="group: [1, 128]")
        if self.scale_from == "scales" and (self.scale is None or self.scale.mantissa_bits or self.scale.zero):
            raise at(
                "scale_from",
                message="the largest scale takes the old ones' place only among powers of two",
                hint="scale: ue8m0",
            )
        if self.scale_from == "scales" and self.reads == "original":
            raise at("scale_from", message="the original has no scales")
        if not self.on_sms and self.at not in ("dispatch", "combine"):
            raise at("on_sms", message=f"a step at `{self.at}` is no communication")
        if self.at == "copy-engine" and (self.group is None or self.group[0] * self.group[1] > 128 * 128):
            raise at(
                "group", message="a copy holds no more than a tile of 128x128: the group's largest must be known first"
            )
        return self

    @property
    def bits_per_element(self) -> float:
        """Bits of an element with its share of the scale (for LogFMT: of an FP32 minimum and step per tile)."""
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
"""Steps that can follow one another."""


@dataclass(frozen=True)
class Arrived:
    """What a path leaves of a tensor: its numbers, and the shares of its elements that were lost at each end on the way."""

    values: NDArray[np.float64]
    last: Quantised | None
    """What the last step made, with its codes and scales; None without steps, and after LogFMT."""
    underflow: float
    """Share of nonzero elements that became zero."""
    overflow: float
    """Share of elements cut to the largest number, each step's added."""


@in_ieee_mode
def walk(steps: tuple[Step, ...], x: ArrayLike) -> Arrived:
    """Send a matrix (tokens, features) down a path. Without steps it arrives as it is.

    Raises ValueError for numbers that are not finite, and for a step that needs scales the step before does not have.
    """
    import numpy as np

    original = fp32_of("x", x)
    if original.ndim != 2 or not np.isfinite(original).all():
        raise ValueError(f"x is {original.shape}; a path takes a matrix of finite numbers")
    values: NDArray[np.float64] = original.astype(np.float64)
    before: Quantised | None = None
    overflow = 0.0
    for step in steps:
        source = original if step.reads == "original" else values.astype(np.float32)
        if step.reads == "original":
            overflow = 0.0
        if step.logfmt is not None:
            values, before = _logarithmic(step, source), None
            continue
        scales = _largest_scales(step, before, original.shape) if step.scale_from == "scales" else None
        before = quantise(step, source, scales)
        values, overflow = before.values(), overflow + before.overflow
    lost = (values == 0) & (original != 0)
    return Arrived(values, before, float(lost.sum() / max(np.count_nonzero(original), 1)), overflow)


def exactly_once(steps: tuple[Step, ...]) -> tuple[Step, ...]:
    """The path's last format and groups, quantised once, straight from the original."""
    if not steps:
        return ()
    return (steps[-1].model_copy(update={"reads": "original", "scale_from": "elements"}),)


def _logarithmic(step: Step, x: NDArray[Any]) -> NDArray[np.float64]:
    """LogFMT there and back; a ragged end is filled with zeros, which have no logarithm and so no part in a tile's range."""
    import numpy as np

    from isa_model.logfmt import decode_log, encode_log

    assert step.logfmt is not None
    assert step.group is not None
    length = step.group[1]
    padded = np.pad(x.astype(np.float64), ((0, 0), (0, -x.shape[1] % length)))
    tiles = decode_log(encode_log(step.logfmt, padded.reshape(-1, length)))
    return tiles.reshape(padded.shape)[:, : x.shape[1]]


def _largest_scales(step: Step, before: Quantised | None, shape: tuple[int, ...]) -> Any:
    """Codes of the largest of the old scales in each new group."""
    import numpy as np

    from isa_model.cast import extent, spread

    if before is None or before.cast.scale is None or before.cast.scale != step.scale:
        raise ValueError("the step before left no scales of this format")
    rows, columns = extent(step.group, shape)
    old = spread(before.scales, before.cast.group, shape)
    up = -(-shape[0] // rows), -(-shape[1] // columns)
    padded = np.zeros((up[0] * rows, up[1] * columns), old.dtype)  # code 0 of UE8M0 is its least
    padded[: shape[0], : shape[1]] = old
    return padded.reshape(up[0], rows, up[1], columns).max(axis=(1, 3))
