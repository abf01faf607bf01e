"""Operands as engines read them: numbers, alignment exponents and group scales, all with K first.

Arrays are numpy's or torch's, on any device: every function uses the library and the device of its input.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from isa_model.array_codec import code_dtype, values_of
from isa_model.engines.plan import Plan
from isa_model.float64 import NO_EXPONENT, Codes
from isa_model.formats import Format
from isa_model.instruction import Instruction
from isa_model.operand_fields import ScaleOperand

OPERAND_NO_EXPONENT = -(1 << 14)
"""NO_EXPONENT in 16 bits: the sum of two still fits, and stays below every real exponent."""


@dataclass(frozen=True, slots=True)
class DecodedOperand:
    """One operand, K first."""

    values: Any
    """Numbers, of shape (K, columns)."""
    exponents: Any
    """Alignment exponents (int16); OPERAND_NO_EXPONENT for none."""
    scales: Any = None
    """Scales of stage results by group of K and column, if there are any."""
    scale_exponents: Any = None
    """Alignment exponents (int32) of the scales."""

    def tile(self, part: slice) -> DecodedOperand:
        """Return some columns of the operand."""
        arrays = (self.values, self.exponents, self.scales, self.scale_exponents)
        return DecodedOperand(*(None if x is None else contiguous(x[:, part]) for x in arrays))

    def along(self, axis: int) -> DecodedOperand:
        """Return the operand with one more axis of length 1, for the other operand's columns."""
        arrays = (self.values, self.exponents, self.scales, self.scale_exponents)
        return DecodedOperand(*(None if x is None else np.expand_dims(x, axis) for x in arrays))


@dataclass(frozen=True, slots=True)
class NestedScales:
    """Scales of several levels multiplied: one for each of the finest groups."""

    values: Any
    """Products of the scales of all levels, in float64."""
    exponents: Any
    """Alignment exponents (int32) of the products."""

    @property
    def T(self) -> NestedScales:
        """Scales with rows and columns exchanged."""
        return NestedScales(self.values.T, self.exponents.T)


Scales = Codes | NestedScales | None
"""Scales of an operand as engines take them: codes of one level, or products of all levels."""


def joined(spec: Instruction, scale_a: Any, scale_b: Any) -> tuple[Scales, Scales]:
    """Return the scales of both operands as engines take them, from codes: of one level, or a list of those of each level."""
    a, b = (spec.scale.a, spec.scale.b) if spec.scale else (None, None)
    return (
        nested(a, scale_a) if a and a.coarser else scale_a,
        nested(b, scale_b) if b and b.coarser else scale_b,
    )


def nested(side: ScaleOperand, codes: Sequence[Any]) -> NestedScales:
    """Return the exact products of scales, from the codes of each level, the finest first. Arrays are numpy's."""
    rows, columns = (np.arange(n) * g for n, g in zip(codes[0].shape, side.group, strict=True))
    values, exponents = np.ones(codes[0].shape), np.zeros(codes[0].shape, np.int32)
    for level, own in zip(side.levels, codes, strict=True):
        spread = own[np.ix_(rows // level.along(0), columns // level.along(1))]
        numbers_of = numbers(level.format, np.ascontiguousarray(spread))
        with np.errstate(invalid="ignore"):
            values = values * numbers_of
        exponents = times_exponents(exponents, exponents_of(numbers_of, level.format))
    return NestedScales(values, exponents)


def of_side(spec: Instruction, is_a: bool) -> tuple[Format, ScaleOperand | None, int, int]:
    """Return the format of A or B, its scales, and the group size along K and across it (1 without scales)."""
    scale = (spec.scale.a if is_a else spec.scale.b) if spec.scale else None
    across, along = (0, 1) if is_a else (1, 0)
    groups = (scale.group[along], scale.group[across]) if scale else (1, 1)
    return spec.a if is_a else spec.b, scale, *groups


def decode(plan: Plan, is_a: bool, codes: Any, scale_codes: Any, dtype: str) -> DecodedOperand:
    """Decode A or B, K first, to numbers of `dtype`. Scales that multiply exactly are multiplied in here."""
    fmt, scale, k_group, group = of_side(plan.spec, is_a)
    xp, aligned_as, flush = library(codes), plan.spec.widen or fmt, plan.spec.flush_operands
    codes = contiguous(codes)
    folds = scale is not None and plan.scales_fold
    if fmt.storage_bits <= 16 and not folds:
        values, exponents = (x[_index(fmt, codes)] for x in _tables(fmt, aligned_as, flush, dtype, device_of(codes)))
    else:
        values = read(fmt, codes, flush)
        exponents = exponents_of(values, aligned_as)
    scales: Any = None
    scale_exponents: Any = None
    if scale is not None:
        scales, scale_exponents = decode_scales(scale, scale_codes, codes.shape[1], group)
    if folds:
        of_k = _steps(codes.shape[0], scales) // k_group
        with np.errstate(invalid="ignore"):
            values = values * scales[of_k]
        exponents = times_exponents(exponents, scale_exponents[of_k])
        scales = scale_exponents = None
    return DecodedOperand(xp.asarray(values, dtype=getattr(xp, dtype)), _short(exponents), scales, scale_exponents)


def decode_scales(scale: ScaleOperand, codes: Any, columns: int, group: int) -> tuple[Any, Any]:
    """Return the scales of `columns` columns and their alignment exponents; columns beyond the last group get its scale."""
    if isinstance(codes, NestedScales):
        groups = _group_of(codes.values, columns, group)
        return contiguous(codes.values[:, groups]), contiguous(codes.exponents[:, groups])
    scales = contiguous(numbers(scale.format, codes)[:, _group_of(codes, columns, group)])
    return scales, exponents_of(scales, scale.format)


def _group_of(scales: Any, columns: int, group: int) -> Any:
    """Return the group of each column, on the device of the scales: a CUDA graph cannot capture a copy from the CPU."""
    return library(scales).clip(_steps(columns, scales) // group, None, scales.shape[1] - 1)


def _steps(count: int, like: Any) -> Any:
    """Return the numbers from 0 up in an array like another one."""
    return np.arange(count) if library(like) is np else _torch().arange(count, device=like.device)


def read(fmt: Format, codes: Any, flush: bool | str) -> Any:
    """Return elements of A, B or C in float64; `flush` is `Instruction.flush_operands` or `flush_c`."""
    return flushed(fmt, numbers(fmt, codes), flush)


def flushed(fmt: Format, values: Any, flush: bool | str) -> Any:
    """Return numbers of a format with zeros for subnormals if `flush` says so."""
    if not flush or fmt.kind != "float":
        return values
    xp = library(values)
    zeros = xp.zeros_like(values)
    if flush == "keep-sign":
        zeros = xp.copysign(zeros, values)
    return xp.where(abs(values) < 2.0**fmt.min_exponent, zeros, values)


def numbers(fmt: Format, codes: Any) -> Any:
    """Return the numbers of codes in float64."""
    xp = library(codes)
    if xp is np:
        return values_of(fmt, codes)
    if fmt.storage_bits <= 16:
        return _tables(fmt, fmt, False, "float64", device_of(codes))[0][_index(fmt, codes)]
    if fmt.name in ("fp32", "tf32"):
        return contiguous(codes & ~((1 << fmt.low_padding) - 1)).view(xp.float32).to(xp.float64)
    return xp.from_numpy(values_of(fmt, codes.cpu().numpy().view(code_dtype(fmt)))).to(codes.device)


def exponents_of(values: Any, fmt: Format) -> Any:
    """Return the exponents (int32) with which numbers of a format align, as float64.exponent_of does."""
    xp = library(values)
    if fmt.kind == "integer":
        return xp.asarray(xp.where(values == 0, NO_EXPONENT, 0), dtype=xp.int32)
    field = (contiguous(values).view(xp.int64) >> 52 & 0x7FF) - 1023
    none = (values == 0) | ~xp.isfinite(values)
    return xp.asarray(xp.where(none, NO_EXPONENT, xp.clip(field, fmt.min_exponent, None)), dtype=xp.int32)


def times_exponents(x: Any, y: Any) -> Any:
    """Return the alignment exponents of products of terms with exponents `x` and `y`."""
    xp = library(x)
    return xp.asarray(xp.where((x == NO_EXPONENT) | (y == NO_EXPONENT), NO_EXPONENT, x + y), dtype=xp.int32)


def _short(exponents: Any) -> Any:
    """Return alignment exponents in 16 bits."""
    xp = library(exponents)
    return xp.asarray(xp.clip(exponents, OPERAND_NO_EXPONENT, None), dtype=xp.int16)


# -- numpy and torch ---------------------------------------------------------------------------------------------------


def device_of(x: Any) -> Any:
    """Return the device of a torch tensor; None for an array of numpy."""
    return None if isinstance(x, np.ndarray) else x.device


def library(x: Any) -> Any:
    """Return the module that makes arrays like `x`: numpy or torch."""
    return np if device_of(x) is None else _torch()


def _torch() -> Any:
    import torch

    return torch


def contiguous(x: Any) -> Any:
    """Return an array with contiguous rows."""
    return np.ascontiguousarray(x) if library(x) is np else x.contiguous()


def _index(fmt: Format, codes: Any) -> Any:
    """Return codes as indices of a table; torch stores them in signed integers."""
    xp = library(codes)
    return codes if xp is np else codes.to(xp.int32) & ((1 << fmt.storage_bits) - 1)


@cache
def _tables(fmt: Format, aligned_as: Format, flush: bool | str, dtype: str, device: Any) -> tuple[Any, Any]:
    """Return the number of every code in `dtype`, and its alignment exponent in 16 bits."""
    values = read(fmt, np.arange(1 << fmt.storage_bits, dtype=code_dtype(fmt)), flush)
    tables = values.astype(dtype), _short(exponents_of(values, aligned_as))
    return tables if device is None else tuple(_torch().from_numpy(table).to(device) for table in tables)
