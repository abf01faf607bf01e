"""Group quantisation in torch, bit for bit that of isa_model.cast, on the CPU and the GPU (tests/test_training.py).

A `tensor_scale`, a scale of the whole tensor over those of its groups, is that of codesign.evidence.numerics.operands.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from codesign.torch import gpu_cast
from codesign.torch.rules import uncast
from isa_model.cast import Cast
from isa_model.codec import largest_finite
from isa_model.formats import FORMATS, Format
from isa_model.rounding import Rounding


@dataclass(frozen=True)
class QuantisedOperand:
    """An operand of a GEMM (..., R, C): elements and the scales of their groups."""

    elements: Tensor
    """Elements before scaling, in a dtype that holds them exactly."""
    scales: Tensor | None = None
    """FP32 scales (..., groups of rows, groups of columns); None: no scales."""
    group: tuple[int, int] | None = None
    """Rows and columns of a group; None: one group per matrix."""
    cast: Cast | None = None
    """Cast of the operand; None: BF16."""
    factor: Tensor | None = None
    """FP32 scale (..., 1, 1) by which the tensor was divided before its groups were scaled; None: 1."""
    _kept: dict[Any, Any] | None = field(default=None, repr=False, compare=False)

    def reusable(self) -> QuantisedOperand:
        """Return this operand for use in many products: it and its transpose keep what an engine makes of it."""
        return replace(self, _kept={})

    def kept(self, name: Any, make: Callable[[], Any]) -> Any:
        """Return what an engine makes of this operand under a name, made once if it is reusable."""
        if self._kept is None:
            return make()
        if name not in self._kept:
            self._kept[name] = make()
        return self._kept[name]

    @property
    def format(self) -> Format:
        """Format of the elements."""
        return self.cast.to if self.cast else FORMATS["bf16"]

    @property
    def T(self) -> QuantisedOperand:
        """Transposed operand."""
        group = self.group and self.group[::-1]
        scales = None if self.scales is None else self.scales.mT
        return QuantisedOperand(self.elements.mT, scales, group, self.cast, self.factor, self._kept)

    def values(self) -> Tensor:
        """Return the elements times their scales, rounded once to FP32."""
        x = self.elements.float()
        x = x if self.scales is None else _by_group(torch.mul, x, self.scales, self.group)
        return x if self.factor is None else x * self.factor

    def codes(self) -> Tensor:
        """Return the raw codes of the elements as uint8, int16 or int32."""
        return codes_of(self.format, self.elements)


def plain(x: Tensor) -> QuantisedOperand:
    """Return a tensor as a BF16 operand."""
    return QuantisedOperand(x.to(torch.bfloat16))


def quantise(cast: Cast | None, x: Tensor, tensor_scale: bool = False) -> QuantisedOperand:
    """Cast each of the matrices (..., R, C), to BF16 if `cast` is None.

    `tensor_scale` first scales a matrix so that its largest group has the largest scale, if scales have a narrow range.
    The bits are those of isa_model.cast.quantise. Raises ValueError for unsigned integers, tables, several levels of scales,
    rounding at random, a floor below 1e-30 and scales that may be rounded to zero, which are not supported here.
    """
    if cast is None:
        return plain(x)
    if why := uncast(cast, tensor_scale):
        raise ValueError(why)
    if cast.scale is None:
        return QuantisedOperand(round_to(cast.to, x.float(), cast.rounding), None, None, cast)
    factor = None
    if tensor_scale and cast.group is not None and cast.scale.exponent_bits < 7:
        full = torch.tensor(largest_finite(cast.to)) * torch.tensor(largest_finite(cast.scale))
        factor = _largest(x, None).clamp_(min=cast.floor) / full.to(x.device)
        x = x / factor
    if factor is None and gpu_cast.applies(cast, x):
        return QuantisedOperand(*gpu_cast.cast_on_gpu(cast, x), cast.group, cast)
    largest = _largest(x, cast.group).clamp_(min=cast.floor)
    largest.masked_fill_(largest == float("inf"), float("nan"))  # all elements of such a group become NaN
    # The divisor is a tensor, since torch on a GPU replaces division by a number with multiplication by its inverse.
    scales = largest / torch.full_like(largest, cast.full)
    if cast.scale.name != "fp32":
        scales = _scale_to(cast.scale, scales, cast.scale_rounding)
    safe = cast.range == "largest" and (cast.scale.name == "fp32" or cast.scale_rounding is Rounding.UP)
    scaled = _by_group(torch.div, x, scales, cast.group)
    if factor is not None:  # groups whose scale became zero are zero
        scaled = torch.nan_to_num(scaled, nan=0.0, posinf=0.0, neginf=0.0) if not bool((scales > 0).all()) else scaled
    return QuantisedOperand(round_to(cast.to, scaled, cast.rounding, within=safe), scales, cast.group, cast, factor)


def _extent(x: Tensor, group: tuple[int, int]) -> tuple[int, int]:
    """Return the rows and columns of a group within matrices; a group larger than a matrix is the matrix."""
    return min(group[0], max(x.shape[-2], 1)), min(group[1], max(x.shape[-1], 1))


def _padded(x: Tensor, group: tuple[int, int]) -> Tensor:
    """Return matrices padded with zeros to whole groups."""
    down, right = -x.shape[-2] % group[0], -x.shape[-1] % group[1]
    return torch.nn.functional.pad(x, (0, right, 0, down)) if down or right else x


def _grouped(x: Tensor, group: tuple[int, int]) -> Tensor:
    """Return (..., R, C) as (..., groups, rows, groups, columns)."""
    *batch, rows, columns = x.shape
    return x.reshape(*batch, rows // group[0], group[0], columns // group[1], group[1])


def _largest(x: Tensor, group: tuple[int, int] | None) -> Tensor:
    """Return the largest magnitude of each group in FP32."""
    largest = torch.linalg.vector_norm
    top: Tensor
    if group is None:
        top = largest(x, float("inf"), dim=(-2, -1), keepdim=True, dtype=torch.float32)
    else:
        group = _extent(x, group)
        top = largest(_grouped(_padded(x, group), group), float("inf"), dim=(-3, -1), dtype=torch.float32)
    return top


def _by_group(operation: Any, x: Tensor, scales: Tensor, group: tuple[int, int] | None) -> Tensor:
    """Return `operation(x, scale of the element's group)` in FP32."""
    if group is None:
        result: Tensor = operation(x, scales)
        return result
    group = _extent(x, group)
    padded = _padded(x, group)
    made: Tensor = operation(_grouped(padded, group), scales[..., :, None, :, None]).reshape(padded.shape)
    return made[..., : x.shape[-2], : x.shape[-1]]


def _scale_to(fmt: Format, x: Tensor, rounding: Rounding) -> Tensor:
    """Return positive scales rounded to a format, with saturation."""
    if fmt.name != "ue8m0":
        return round_to(fmt, x, rounding).float()
    bits = x.view(torch.int32)
    # All scales are normal (LEAST_FLOOR), so the exponent field gives the result; nearest means nearest in value.
    power = ((bits + gpu_cast.ADDED[rounding]) & 0x7F800000).view(torch.float32)
    return torch.where(x.isnan(), x, power)


def round_to(fmt: Format, x: Tensor, rounding: Rounding = Rounding.NEAREST_EVEN, within: bool = False) -> Tensor:
    """Return FP32 numbers rounded to a format with saturation, in a dtype that holds them exactly.

    `within` asserts that all are within its range. Raises ValueError for rounding other than to nearest even, towards zero,
    up and down.
    """
    native = gpu_cast.FORMATS.get(fmt.name)
    if rounding is Rounding.NEAREST_EVEN and native is not None:
        top = largest_finite(fmt)
        return (x if within else x.clamp(-top, top)).to(native)
    if rounding is Rounding.NEAREST_EVEN and fmt.name == "bf16":
        return x.to(torch.bfloat16)
    if fmt.name == "fp32":
        return x
    if fmt.kind == "integer":
        return _integers(fmt, x, rounding)
    values = _rounded(fmt, x, rounding)
    fits = fmt.mantissa_bits <= 7 and fmt.exponent_bits <= 8
    return values.to(native or (torch.bfloat16 if fits else torch.float32))


def _rounded(fmt: Format, x: Tensor, rounding: Rounding) -> Tensor:
    """Return rounded FP32 numbers: normal ones by mantissa bits, subnormal ones as multiples of the smallest number."""
    if rounding not in (Rounding.NEAREST_EVEN, Rounding.TOWARD_ZERO, Rounding.UP, Rounding.DOWN):
        raise ValueError(f"elements are not rounded {rounding} here")
    lost = 23 - fmt.mantissa_bits
    step = 2.0 ** (fmt.min_exponent - fmt.mantissa_bits)
    if lost < 1 or step < 2.0**-100:
        raise ValueError(f"{fmt.name} is too wide a format to cast to here")
    magnitude, mask = x.abs(), (1 << lost) - 1
    bits, steps = magnitude.view(torch.int32), magnitude * (1.0 / step)
    away = {Rounding.UP: ~x.signbit(), Rounding.DOWN: x.signbit()}.get(rounding)
    if rounding is Rounding.NEAREST_EVEN:
        normal = bits + (mask >> 1) + (bits >> lost & 1)
        small = steps.round()
    elif away is None:
        normal, small = bits, steps.floor()
    else:
        normal = torch.where(away, bits + mask, bits)
        small = torch.where(away, steps.ceil(), steps.floor())
    normal = (normal & ~mask).view(torch.float32)
    rounded = torch.where(magnitude < 2.0**fmt.min_exponent, small * step, normal).clamp(max=largest_finite(fmt))
    rounded = torch.where(magnitude.isnan(), magnitude, rounded)
    if not fmt.signed:
        return rounded
    # Formats whose NaN is the code of negative zero have no negative zero.
    return (
        torch.where(rounded == 0, rounded, rounded.copysign(x)) if fmt.nan == "negative-zero" else rounded.copysign(x)
    )


def _integers(fmt: Format, x: Tensor, rounding: Rounding) -> Tensor:
    """Return FP32 numbers rounded to a signed integer format of at most 8 bits, with saturation, in BF16."""
    if fmt.bits > 8 or rounding is not Rounding.NEAREST_EVEN:
        raise ValueError(f"integers of at most 8 bits are rounded to nearest even, not {fmt.name} {rounding}")
    top = largest_finite(fmt)
    return x.round().clamp(-top - 1, top).to(torch.bfloat16)


def codes_of(fmt: Format, elements: Tensor) -> Tensor:
    """Return the raw codes of numbers of a format."""
    if fmt.kind == "integer":
        return (elements.to(torch.int16) & ((1 << fmt.bits) - 1)).to(torch.uint8)
    if elements.dtype in (torch.float8_e4m3fn, torch.float8_e5m2):
        return elements.view(torch.uint8)
    if fmt.name == "bf16":
        return elements.view(torch.int16)
    bits = elements.float().view(torch.int32)
    magnitude = bits & 0x7FFFFFFF
    if fmt.name == "fp32":
        return bits
    if fmt.name == "ue8m0":
        return (magnitude >> 23).to(torch.uint8)
    normal = (magnitude >> (23 - fmt.mantissa_bits)) - ((127 - fmt.bias) << fmt.mantissa_bits)
    scaled = magnitude.view(torch.float32) * 2.0 ** (fmt.mantissa_bits - fmt.min_exponent)
    codes = torch.where(magnitude.view(torch.float32) < 2.0**fmt.min_exponent, scaled.int(), normal)
    if fmt.signed:
        codes = codes | torch.where(bits < 0, 1 << fmt.magnitude_bits, 0)
    return codes.to({8: torch.uint8, 16: torch.int16, 32: torch.int32}[fmt.storage_bits])
