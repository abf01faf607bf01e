"""Group quantisation: a tensor cast to a narrow format with one scale per group, as FP8 training frameworks do it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, PositiveInt, ValidationError, model_validator

from isa_model.arguments import fp32_of, require, seed_of
from isa_model.codec import largest_finite
from isa_model.diagnostics import at
from isa_model.formats import FORMATS, later
from isa_model.groups import count, spread
from isa_model.ieee import in_ieee_mode
from isa_model.limits import MOST_LEVELS
from isa_model.operand_fields import ScaleLevel, ScaleOperand
from isa_model.rounding import Rounding
from isa_model.stage import Deterministic, FormatRef, Spec

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray

    from isa_model.elements import Elements
    from isa_model.float64 import Codes


FP32 = FORMATS["fp32"]
FLOORS = 2.0**-149, 2.0**127
"""Least and greatest `floor` and `range`: the smallest positive FP32 number, and the largest power of two in FP32."""
Range = Literal["largest", "binade"] | Annotated[float, Field(ge=FLOORS[0], le=FLOORS[1])]
"""Number that a largest magnitude is mapped to, by name or as it is."""


class CastLevel(ScaleLevel):
    """A level of scales above those of a cast's groups; rules that are left out are the cast's."""

    range: Literal["largest", "binade"] | None = later(None)
    """Number that the level's largest magnitude is mapped to, times the largest scales of all finer levels."""
    scale_rounding: Deterministic | None = later(None)
    """Rounding of the level's scales."""


class Cast(Spec):
    """A cast of a tensor: target format, groups that share a scale, and how a group determines its scale.

    The scale is the group's largest magnitude divided by the target's largest number (see `range`). Each element is divided
    by the scale and rounded to the target. Both divisions are IEEE FP32, nearest even, as in DeepSeek-V3's public
    quantisation kernel.
    A group that holds a NaN or an infinity has a NaN scale, and all its elements are NaN. A finite group stays finite: a
    scale beyond its format becomes the format's largest number, and so does an element beyond the target. If
    `scale_rounding` rounds a scale to zero, all elements of its group are +0. Negative elements become zero in an unsigned
    target.
    """

    to: FormatRef = FORMATS["e4m3"]
    """Format of the elements."""
    group: tuple[PositiveInt, PositiveInt] | None = (1, 128)
    """Numbers of rows and columns that share a scale; null: one scale for the whole tensor."""
    scale: FormatRef | None = FP32
    """Format of the scales; ue8m0 makes them powers of two; null: elements are cast without scales."""
    scale_rounding: Deterministic = Rounding.UP
    """Rounding of a scale to its format. With `up` no element exceeds the target's range (MXFP8 recipes, arXiv 2506.08027:
    rounding down can make training diverge). An FP32 scale is the quotient itself; below FP32's normal numbers it is
    rounded up, so that it is never zero."""
    range: Range = "largest"
    """Number that a group's largest magnitude is mapped to: the target's largest finite number, the power of two below it,
    or a given smaller number, which leaves room for sums in a narrow accumulator.
    With scales in ue8m0 rounded down, `binade` is the conversion of OCP MX 1.0 (6.3), which cuts the top of the range."""
    rounding: Deterministic = Rounding.NEAREST_EVEN
    """Rounding of an element to the target."""
    flush_inputs: bool = later(False)
    """True if elements below 2^-126, the subnormals of FP32 and BF16, are read as zeros of their sign when they are divided
    and rounded, as Rubin's cvt with `.scaled::n1::ue8m0` does. Scales are of the elements as they are."""
    random: Literal["elements", "scales"] | None = later(None)
    """What is rounded at random, so that a cast has no bias. elements: each to one of its neighbours, the nearer the more
    likely, in place of `rounding`. scales: each group's scale, after its elements are rounded, times <x, x> / <x, Q(x)>
    of its elements and the rounded ones (MS-EDEN, arXiv 2601.22813), in place of `scale_rounding`. Words are
    Philox4x32-10's, by row and column."""
    coarser: tuple[CastLevel, ...] = later((), max_length=MOST_LEVELS)
    """Further levels of scales, from the finer to the coarser groups, as NVFP4's tensor above its blocks. The coarsest is
    computed first: it maps its group's largest magnitude to the largest number times the largest scales of all finer levels,
    at most to 2^127, as quotients are FP32.
    The tensor is divided by it in FP32, and the next level follows."""
    floor: float = Field(default=1e-30, ge=FLOORS[0], le=FLOORS[1])
    """Least value of a group's largest magnitude, so that a group of zeros has a scale. DeepSeek-V3's public inference code
    uses 1e-4, which would lose small gradients."""

    @model_validator(mode="after")
    def _possible(self) -> Cast:
        if self.scale is None and self.group is not None:
            raise at("group", message="a cast without a scale has no groups", hint="group: null")
        if self.coarser:
            if self.scale is None or self.group is None:
                raise at(
                    "coarser", message="levels of scales are above those of groups", hint="a `group` and a `scale`"
                )
            try:
                ScaleOperand(group=self.group, format=self.scale, coarser=self.coarser)
            except ValidationError as error:
                fault = error.errors()[0]
                raise at(*fault["loc"], message=fault["msg"], hint=fault.get("ctx", {}).get("hint", "")) from None
        if self.random == "scales" and (self.scale is None or self.scale.mantissa_bits == 0):
            message = "a correction needs scales with a mantissa, to be rounded to"
            raise at("random", message=message, hint="`scale: ue4m3` or `fp32`, or `random: elements`")
        if self.flush_inputs and self.coarser:
            message = "only casts with one level of scales flush their inputs"
            raise at("flush_inputs", message=message, hint="drop `coarser`, or `flush_inputs`")
        if self.random and self.coarser:
            raise at("random", message="only casts with one level of scales round at random", hint="drop `coarser`")
        if not self.to.zero:
            raise at("to", message=f"elements need a zero: {self.to.name} is for scales")
        if self.scale is not None and self.scale.kind == "integer":
            raise at("scale", message=f"scales are floating point, not {self.scale.name}")
        return self

    @property
    def full(self) -> float:
        """Number that a group's largest magnitude is mapped to, at most FP32's largest."""
        return self.mapped(self.range)

    def mapped(self, span: str | float) -> float:
        """Return the number that `span`, a `range`, means for the target."""
        if span == "binade":
            return 2.0 ** min(self.to.max_exponent, 127)
        most = min(largest_finite(self.to), largest_finite(FP32))
        return min(span, most) if isinstance(span, float | int) else most


@dataclass(frozen=True)
class Quantised:
    """A tensor after a cast."""

    cast: Cast
    scales: Any
    """Codes of the scales, one per group, in the format of the scales; a single 1.0 in fp32 if the cast has none. With
    `coarser` levels, a list of such arrays, the finest first."""
    made: Elements
    """Rounded elements, with counts by row."""

    @property
    def codes(self) -> Codes:
        """Codes of the elements, (R, C)."""
        return self.made.codes

    @property
    def underflow(self) -> float:
        """Share of nonzero elements that became zero."""
        return float(self.made.lost.sum() / max(self.made.nonzero.sum(), 1))

    @property
    def overflow(self) -> float:
        """Share of elements beyond the target's largest number, which they became."""
        return float(self.made.beyond.sum() / max(self.made.numbers.size, 1))

    def values(self) -> NDArray[np.float64]:
        """Return the elements times their scales, (R, C), exact in float64 (at most 24 + 24 bits)."""
        import numpy as np

        with np.errstate(invalid="ignore"):  # an infinite scale, given by a caller, makes a zero NaN
            values: NDArray[np.float64] = self.made.numbers * spread(
                self.scale_values(), self.cast.group, self.codes.shape
            )
        return values

    def passed_on(self) -> NDArray[np.float32]:
        """Return `values` rounded to FP32, to nearest even, as the next kernel takes them."""
        import numpy as np

        with np.errstate(invalid="ignore", over="ignore", under="ignore"):
            if not (FP32.holds(self.cast.scale or FP32) and self.made.numbers.dtype == np.float32):
                return self.values().astype(np.float32)
            scales = spread(self.scale_values().astype(np.float32), self.cast.group, self.codes.shape)
            passed: NDArray[np.float32] = self.made.numbers * scales
        return passed

    def elements(self) -> NDArray[np.float64]:
        """Return the elements without their scales, (R, C)."""
        return self.made.numbers.astype("f8")

    def scale_values(self) -> NDArray[np.float64]:
        """Return the scales, one per group; of several levels, the products for the finest groups."""
        from isa_model.array_codec import decode_array
        from isa_model.engines.operands import nested

        if self.cast.coarser:
            side = ScaleOperand(group=self.cast.group, format=self.cast.scale, coarser=self.cast.coarser)
            products: NDArray[np.float64] = nested(side, self.scales).values
            return products

        return decode_array(self.cast.scale or FP32, self.scales)


@in_ieee_mode
def quantise(cast: Cast, x: ArrayLike, scales: ArrayLike | None = None, seed: int = 0) -> Quantised:
    """Return a matrix (R, C), rounded to FP32, after a cast.

    `seed`, from 0 to 2**64 - 1, is that of a cast that rounds at random.
    `scales`, values or codes in the format of the scales, replace those computed from the groups: one per group,
    (ceil(R / rows), ceil(C / columns)), or (1, 1) for one scale in all.
    Raises ValueError unless `x` is a matrix of real numbers, `scales` fits it and `seed` is a seed; and if `x` holds a NaN or
    an infinity and the cast has no scale, or a format without a NaN.
    """
    import numpy as np

    from isa_model.array_codec import decode_array, encode_array, to_codes
    from isa_model.elements import elements_of

    require("cast", cast, Cast, "isa_model.Cast makes one")
    seed, x = seed_of(seed), fp32_of("x", x)
    if x.ndim != 2:
        raise ValueError(f"x is {x.shape}, of {x.ndim} dimensions; expected a matrix")
    has_nans = cast.scale is not None and None not in (cast.to.nan_code, cast.scale.nan_code)
    if not (has_nans or np.isfinite(x).all()):
        raise ValueError("x holds a NaN or an infinity; this cast has no scale, or a format without a NaN")
    if cast.coarser:
        if scales is not None:
            raise ValueError("scales are computed level after level: a cast of several levels takes none")
        return _nested(cast, x)
    fmt = cast.scale or FP32
    if scales is None:
        scales = scales_of_groups(cast, x) if cast.scale else encode_array(fmt, np.ones((1, 1)))
    scales = to_codes(fmt, scales, "scales")
    expected = count(cast.group, x.shape)
    if scales.shape != expected:
        raise ValueError(
            f"scales is {scales.shape}; groups of {cast.group or x.shape} over x {x.shape} make it {expected}"
        )
    numbers = decode_array(fmt, scales)
    if cast.flush_inputs:
        small = (np.abs(x) < 2.0**FP32.min_exponent) & (x != 0)
        x = np.where(small, np.copysign(np.float32(0), x), x)
    made = elements_of(cast.to, cast.rounding, cast.group, x, numbers, fmt)
    if cast.random:
        from isa_model.random_cast import corrected_scales, elements_at_random

        divisor = spread(numbers.astype(np.float32) if FP32.holds(fmt) else numbers, cast.group, x.shape)
        with np.errstate(over="ignore", under="ignore", invalid="ignore", divide="ignore"):
            quotients = np.where(divisor == 0, np.float32(0), (x / divisor).astype(np.float32, copy=False))
        if cast.random == "elements":
            made = elements_at_random(made, cast.to, quotients, seed)
        else:
            scales = corrected_scales(fmt, cast.group, numbers, quotients, made.numbers, seed)
    if cast.flush_inputs:
        flushed = small.sum(axis=1)
        made = replace(made, nonzero=made.nonzero + flushed, lost=made.lost + flushed)
    return Quantised(cast, scales, made)


def _nested(cast: Cast, x: NDArray[np.float32]) -> Quantised:
    """Return a matrix after a cast with several levels of scales: the coarsest, then the others on what it leaves."""
    import numpy as np

    from isa_model.array_codec import decode_array

    *finer, top = cast.coarser
    below = cast.model_copy(update={"coarser": tuple(finer)})
    full = cast.mapped(top.range or cast.range)
    for fmt in (cast.scale, *(level.format for level in finer)):
        full *= largest_finite(fmt)  # type: ignore[arg-type]  # a cast with levels has a scale
    full = min(full, FLOORS[1])  # the quotients are FP32
    own = {"group": top.group, "scale": top.format, "scale_rounding": top.scale_rounding or cast.scale_rounding}
    codes = scales_of_groups(cast.model_copy(update=own), x, full)
    divisor = spread(decode_array(top.format, codes), top.group, x.shape)
    with np.errstate(over="ignore", under="ignore", invalid="ignore", divide="ignore"):
        quotients = (x / divisor).astype(np.float32)
    rest = quantise(below, np.where((divisor == 0) & np.isfinite(x), np.float32(0), quotients))
    nonzero = x != 0
    lost = (rest.elements() == 0) & nonzero
    made = replace(rest.made, nonzero=nonzero.sum(axis=1), lost=lost.sum(axis=1))
    return Quantised(cast, [*(rest.scales if finer else [rest.scales]), codes], made)


@in_ieee_mode
def scales_of_groups(cast: Cast, x: NDArray[np.float32], full: float | None = None) -> Codes:
    """Return the codes of the scales of a matrix's groups, which map the largest magnitude to `full` (default: the cast's)."""
    from isa_model.largest import largest_magnitudes

    return scales_of(cast, largest_magnitudes(x, cast.group), full)


@in_ieee_mode
def scales_of(cast: Cast, largest: NDArray[np.float32], full: float | None = None) -> Codes:
    """Return the codes of the scales that map the largest magnitudes of groups to `full` (default: the cast's).

    The result has the shape of `largest`. An infinity or NaN makes a NaN.
    """
    import numpy as np

    from isa_model.elements import codes_of

    assert cast.scale is not None
    full = full or cast.full
    if not np.isfinite(largest).all():
        largest = np.where(np.isfinite(largest), largest, np.float32(np.nan))
    largest = np.maximum(largest, np.float32(cast.floor))
    with np.errstate(over="ignore", under="ignore"):
        if np.float32(full) == full:
            quotient = largest / np.float32(full)
        else:
            quotient = (largest.astype(np.float64) / full).astype(np.float32)
    small = quotient < 2.0**-126
    if small.any():
        quotient[small] = np.ceil(largest[small].astype(np.float64) / full * 2.0**149) * 2.0**-149
    rounding = Rounding.NEAREST_EVEN if cast.scale.name == "fp32" else cast.scale_rounding
    return codes_of(cast.scale, rounding, quotient)
