"""Group quantisation: a tensor cast to a narrow format with one scale per group, as FP8 training frameworks do it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, PositiveInt, model_validator

from isa_model.arguments import fp32_of, require
from isa_model.diagnostics import at
from isa_model.formats import FORMATS
from isa_model.ieee import in_ieee_mode
from isa_model.rounding import Rounding
from isa_model.stage import Deterministic, FormatRef, Spec

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray

    from isa_model.lanes import Codes


class Cast(Spec):
    """How a tensor is cast: target format, groups that share a scale, and how a scale follows from a group.

    The scale is the group's largest magnitude over the target's largest number (see `range`); the element is divided by
    it and rounded to the target. Both divisions are IEEE FP32, nearest even, as in DeepSeek-V3's public quantisation kernel.
    A group that holds a NaN or an infinity has a NaN scale, and all its elements are NaN: nothing of it passes for a number.
    """

    to: FormatRef = FORMATS["e4m3"]
    """Format of the elements."""
    group: tuple[PositiveInt, PositiveInt] | None = (1, 128)
    """Rows and columns that share a scale; null: one scale for the whole tensor."""
    scale: FormatRef | None = FORMATS["fp32"]
    """Format of the scales; ue8m0 makes them powers of two; null: elements are cast as they are."""
    scale_rounding: Deterministic = Rounding.UP
    """How a scale is rounded to its format. Up never lets an element exceed the target's range (MXFP8 recipes,
    arXiv 2506.08027: rounding down can make training diverge). FP32 scales are the quotient itself."""
    range: Literal["largest", "binade"] = "largest"
    """What a group's largest magnitude is mapped to: the target's largest finite number, or the power of two below it.
    With scales in ue8m0 rounded down, `binade` is the conversion of OCP MX 1.0 (6.3), which cuts the top of the range."""
    rounding: Deterministic = Rounding.NEAREST_EVEN
    """How an element is rounded to the target."""
    floor: float = Field(default=1e-30, ge=2.0**-126, le=2.0**127)
    """Least magnitude that a group's largest is taken for, so that a zero group has a scale; a normal number of FP32.
    DeepSeek-V3's public inference code uses 1e-4, which would wipe out small gradients."""

    @model_validator(mode="after")
    def _possible(self) -> Cast:
        if self.scale is None and self.group is not None:
            raise at("group", message="without a scale there are no groups", hint="group: null")
        if self.scale is not None and self.scale.kind != "float":
            raise at("scale", message=f"scales are floating point, not {self.scale.name}")
        return self


@dataclass(frozen=True)
class Quantised:
    """Codes of the elements (R, C), codes of the scales (one per group), and the share of elements lost at each end."""

    cast: Cast
    codes: Codes
    scales: Codes
    """In the format of the scales; a single 1.0 in fp32 where there is no scale."""
    underflow: float
    """Share of nonzero elements that became zero."""
    overflow: float
    """Share of elements beyond the target's largest number, which were cut to it."""

    def values(self) -> NDArray[np.float64]:
        """Elements times scales, exact in float64 (at most 24 + 24 bits)."""
        values: NDArray[np.float64] = self.elements() * spread(self.scale_values(), self.cast.group, self.codes.shape)
        return values

    def elements(self) -> NDArray[np.float64]:
        """Elements without their scales."""
        from isa_model.array_codec import decode_array

        return decode_array(self.cast.to, self.codes)

    def scale_values(self) -> NDArray[np.float64]:
        """The scales, one per group."""
        from isa_model.array_codec import decode_array

        return decode_array(self.cast.scale or FORMATS["fp32"], self.scales)


@in_ieee_mode
def quantise(cast: Cast, x: ArrayLike, scales: ArrayLike | None = None) -> Quantised:
    """Cast a matrix (R, C), rounded to FP32; with `scales`, values or codes of them, one per group, in place of its own.

    Raises ValueError unless it is a matrix of numbers and `scales`, if given, one of the groups; and if it holds a NaN or
    an infinity while there are no scales, or elements or scales have no NaN to say so.
    """
    import numpy as np

    from isa_model.array_codec import decode_array, encode_array, to_codes
    from isa_model.lanes import largest_finite

    require("cast", cast, Cast, "isa_model.cast.Cast makes one")
    x = fp32_of("x", x)
    if x.ndim != 2:
        raise ValueError(f"x is {x.shape}, of {x.ndim} dimensions; quantisation takes a matrix")
    says_nan = cast.scale is not None and None not in (cast.to.nan_code, cast.scale.nan_code)
    if not (says_nan or np.isfinite(x).all()):
        raise ValueError("this cast takes finite numbers: it has no scale, or a format without a NaN")
    rows, columns = cast.group or (max(x.shape[0], 1), max(x.shape[1], 1))
    up = -(-x.shape[0] // rows), -(-x.shape[1] // columns)
    padded = np.zeros((up[0] * rows, up[1] * columns), np.float32)
    padded[: x.shape[0], : x.shape[1]] = np.abs(x)
    largest = padded.reshape(up[0], rows, up[1], columns).max(axis=(1, 3))
    target = np.float32(largest_finite(cast.to))
    largest[~np.isfinite(largest)] = np.nan
    full = target if cast.range == "largest" else np.float32(2.0**cast.to.max_exponent)
    quotient = np.maximum(largest, np.float32(cast.floor)) / full
    fmt = cast.scale or FORMATS["fp32"]
    rounding = Rounding.NEAREST_EVEN if fmt.name == "fp32" else cast.scale_rounding
    if scales is None:
        scales = encode_array(fmt, quotient if cast.scale else np.ones_like(quotient), rounding)
    scales = to_codes(fmt, scales, "scales")
    if scales.shape != up:
        raise ValueError(f"scales is {scales.shape}; groups of {(rows, columns)} over x {x.shape} make it {up}")
    divisor = spread(decode_array(fmt, scales).astype(np.float32), cast.group, x.shape)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        scaled = x / divisor
    codes = encode_array(cast.to, scaled, cast.rounding, "saturate")
    lost = (decode_array(cast.to, codes) == 0) & (x != 0)
    return Quantised(
        cast,
        codes,
        scales,
        underflow=float(lost.sum() / max(np.count_nonzero(x), 1)),
        overflow=float((np.abs(scaled) >= target + _half_step(cast)).sum() / max(x.size, 1)),
    )


def _half_step(cast: Cast) -> float:
    """Half the distance between the target's two largest numbers: what is less than this beyond its end rounds back."""
    return 0.0 if cast.to.kind == "integer" else 2.0 ** (cast.to.max_exponent - cast.to.mantissa_bits - 1)


def spread(scales: NDArray[Any], group: tuple[int, int] | None, shape: tuple[int, ...]) -> NDArray[Any]:
    """One scale per element from one per group."""
    import numpy as np

    rows, columns = group or shape
    return np.repeat(np.repeat(scales, rows, axis=0), columns, axis=1)[: shape[0], : shape[1]]
