"""Group quantisation: a tensor cast to a narrow format with one scale per group, as FP8 training frameworks do it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from isa_model.arguments import fp32_of, require
from isa_model.diagnostics import at
from isa_model.formats import FORMATS
from isa_model.ieee import in_ieee_mode
from isa_model.rounding import Rounding, round_integer
from isa_model.stage import Deterministic, FormatRef, Spec

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray

    from isa_model.float64 import Codes


FLOORS = 2.0**-149, 2.0**127
"""Least and largest `floor`: the smallest positive FP32 number, and the largest power of two in FP32."""


class Cast(Spec):
    """How a tensor is cast: target format, groups that share a scale, and how a scale follows from a group.

    The scale is the group's largest magnitude over the target's largest number (see `range`); the element is divided by
    it and rounded to the target. Both divisions are IEEE FP32, nearest even, as in DeepSeek-V3's public quantisation kernel.
    A group that holds a NaN or an infinity has a NaN scale, and all its elements are NaN: nothing of it passes for a number.
    A finite group stays finite. A scale beyond its format is the format's largest, and elements that then exceed the target
    are cut to its largest number. A scale that `scale_rounding` rounds to zero makes every element of its group +0.
    An unsigned target takes negative elements for zero.
    """

    to: FormatRef = FORMATS["e4m3"]
    """Format of the elements."""
    group: tuple[PositiveInt, PositiveInt] | None = (1, 128)
    """Rows and columns that share a scale; null: one scale for the whole tensor."""
    scale: FormatRef | None = FORMATS["fp32"]
    """Format of the scales; ue8m0 makes them powers of two; null: elements are cast as they are."""
    scale_rounding: Deterministic = Rounding.UP
    """How a scale is rounded to its format. Up never lets an element exceed the target's range (MXFP8 recipes,
    arXiv 2506.08027: rounding down can make training diverge). FP32 scales are the quotient itself; below FP32's normal
    numbers it is rounded up, so that it is never zero."""
    range: Literal["largest", "binade"] | PositiveFloat = "largest"
    """What a group's largest magnitude is mapped to: the target's largest finite number, the power of two below it, or a
    number no larger, which leaves room for sums in a narrow accumulator.
    With scales in ue8m0 rounded down, `binade` is the conversion of OCP MX 1.0 (6.3), which cuts the top of the range."""
    rounding: Deterministic = Rounding.NEAREST_EVEN
    """How an element is rounded to the target."""
    floor: float = Field(default=1e-30, ge=FLOORS[0], le=FLOORS[1])
    """Least magnitude that a group's largest is taken for, so that a zero group has a scale. DeepSeek-V3's public
    inference code uses 1e-4, which would wipe out small gradients."""

    @model_validator(mode="after")
    def _possible(self) -> Cast:
        if self.scale is None and self.group is not None:
            raise at("group", message="without a scale there are no groups", hint="group: null")
        if not self.to.zero:
            raise at("to", message=f"elements need a zero: {self.to.name} is for scales")
        if self.scale is not None and self.scale.kind != "float":
            raise at("scale", message=f"scales are floating point, not {self.scale.name}")
        return self

    @property
    def full(self) -> float:
        """What a group's largest magnitude is mapped to; of a format wider than FP32, at most FP32's largest number."""
        from isa_model.float64 import largest_finite

        if self.range == "binade":
            return 2.0 ** min(self.to.max_exponent, 127)
        most = min(largest_finite(self.to), largest_finite(FORMATS["fp32"]))
        return most if self.range == "largest" else min(self.range, most)


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
        import numpy as np

        with np.errstate(invalid="ignore"):  # a caller's infinite scale makes a zero NaN
            values: NDArray[np.float64] = self.elements() * spread(
                self.scale_values(), self.cast.group, self.codes.shape
            )
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

    require("cast", cast, Cast, "isa_model.cast.Cast makes one")
    x = fp32_of("x", x)
    if x.ndim != 2:
        raise ValueError(f"x is {x.shape}, of {x.ndim} dimensions; quantisation takes a matrix")
    says_nan = cast.scale is not None and None not in (cast.to.nan_code, cast.scale.nan_code)
    if not (says_nan or np.isfinite(x).all()):
        raise ValueError("this cast takes finite numbers: it has no scale, or a format without a NaN")
    rows, columns = cast.group or (max(x.shape[0], 1), max(x.shape[1], 1))
    up = (-(-x.shape[0] // rows), -(-x.shape[1] // columns)) if cast.group else (1, 1)
    fmt = cast.scale or FORMATS["fp32"]
    if scales is None:
        scales = _scales(cast, largest_of_groups(x, cast.group)) if cast.scale else encode_array(fmt, np.ones((1, 1)))
    scales = to_codes(fmt, scales, "scales")
    if scales.shape != up:
        raise ValueError(f"scales is {scales.shape}; groups of {(rows, columns)} over x {x.shape} make it {up}")
    of_groups = decode_array(fmt, scales)
    divisor = spread(of_groups.astype(np.float32) if FORMATS["fp32"].holds(fmt) else of_groups, cast.group, x.shape)
    kept = x if cast.to.signed else np.maximum(x, np.float32(0))
    with np.errstate(over="ignore", under="ignore", invalid="ignore", divide="ignore"):
        quotients = (kept / divisor).astype(np.float32)
    scaled = np.where((divisor == 0) & np.isfinite(x), np.float32(0), quotients)
    codes = encode_array(cast.to, scaled, cast.rounding, "saturate")
    lost = (decode_array(cast.to, codes) == 0) & (x != 0)
    return Quantised(
        cast,
        codes,
        scales,
        underflow=float(lost.sum() / max(np.count_nonzero(x), 1)),
        overflow=float(beyond(cast, scaled).sum() / max(x.size, 1)),
    )


def extent(group: tuple[int, int] | None, shape: tuple[int, ...]) -> tuple[int, int]:
    """Rows and columns of a group within a matrix of this shape: a group larger than the matrix is the matrix."""
    rows, columns = group or shape
    return max(min(rows, shape[0]), 1), max(min(columns, shape[1]), 1)


def largest_of_groups(x: NDArray[np.float32], group: tuple[int, int] | None) -> NDArray[np.float32]:
    """Largest magnitude of each group, NaN where the group holds a NaN or an infinity."""
    import numpy as np

    rows, columns = extent(group, x.shape)
    up = (-(-x.shape[0] // rows), -(-x.shape[1] // columns)) if group else (1, 1)
    padded = np.zeros((up[0] * rows, up[1] * columns), np.float32)
    padded[: x.shape[0], : x.shape[1]] = np.abs(x)
    largest: NDArray[np.float32] = padded.reshape(up[0], rows, up[1], columns).max(axis=(1, 3))
    largest[~np.isfinite(largest)] = np.nan
    return largest


def _scales(cast: Cast, largest: NDArray[np.float32]) -> Codes:
    """Codes of the scales of groups from their largest magnitudes."""
    import numpy as np

    from isa_model.array_codec import encode_array

    assert cast.scale is not None
    with np.errstate(over="ignore"):
        exact = np.maximum(largest, np.float32(cast.floor)).astype(np.float64) / cast.full
        quotient = exact.astype(np.float32)
    small = exact < 2.0**-126
    quotient[small] = np.ceil(exact[small] * 2.0**149) * 2.0**-149
    rounding = Rounding.NEAREST_EVEN if cast.scale.name == "fp32" else cast.scale_rounding
    return encode_array(cast.scale, quotient, rounding, "saturate")


def beyond(cast: Cast, scaled: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Return which elements, over their scales, would be rounded beyond the target's largest number, had it more exponents."""
    from isa_model.float64 import largest_finite

    top, integer = largest_finite(cast.to), cast.to.kind == "integer"
    step = 1.0 if integer else 2.0 ** (cast.to.max_exponent - cast.to.mantissa_bits)
    rounded = round_integer(scaled.astype("f8") / step, cast.rounding) * step
    too_large: NDArray[np.bool_] = (rounded > top) | (rounded < -top - integer)
    return too_large


def spread(scales: NDArray[Any], group: tuple[int, int] | None, shape: tuple[int, ...]) -> NDArray[Any]:
    """One scale per element from one per group."""
    import numpy as np

    rows, columns = extent(group, shape)
    return np.repeat(np.repeat(scales, rows, axis=0), columns, axis=1)[: shape[0], : shape[1]]
