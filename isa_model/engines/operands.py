"""Operands as engines read them: numbers, alignment exponents and group scales, all with K first."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isa_model.array_codec import values_of, values_of_all_codes
from isa_model.engines.plan import Handover, Plan
from isa_model.float64 import NO_EXPONENT, Codes, Exponents, Float64, exponent_of
from isa_model.formats import Format
from isa_model.instruction import Instruction, ScaleOperand

OPERAND_NO_EXPONENT = -(1 << 14)
"""NO_EXPONENT in 16 bits: the sum of two still fits, and stays below every real exponent."""


@dataclass(frozen=True, slots=True)
class Operand:
    """One operand, K first: values, alignment exponents (int16), and the group scales of stage results if any."""

    values: NDArray[np.floating[Any]]
    exponents: NDArray[np.int16]
    scales: Float64 | None
    scale_exponents: Exponents | None

    def tile(self, part: slice) -> Operand:
        def cut(x: Any) -> Any:
            return None if x is None else np.ascontiguousarray(x[:, part])

        return Operand(*(cut(x) for x in (self.values, self.exponents, self.scales, self.scale_exponents)))


def of_side(spec: Instruction, is_a: bool) -> tuple[Format, ScaleOperand | None, int, int]:
    """An operand's format, scales, and how many neighbours along K and across it share a scale (1 without scales)."""
    scale = (spec.scale.a if is_a else spec.scale.b) if spec.scale else None
    across, along = (0, 1) if is_a else (1, 0)
    groups = (scale.group[along], scale.group[across]) if scale else (1, 1)
    return spec.a if is_a else spec.b, scale, *groups


def side(plan: Plan, is_a: bool, codes: Codes, scale_codes: Codes | None) -> Operand:
    """Decode A or B, K first. Scales that multiply products exactly are multiplied in at once."""
    fmt, scale, k_group, group = of_side(plan.spec, is_a)
    codes = np.ascontiguousarray(codes)
    if scale is None or scale_codes is None:
        return Operand(*_decoded(plan, fmt, codes), None, None)
    scales = values_of(scale.format, scale_codes)[:, np.arange(codes.shape[1]) // group]
    scale_exponents = exponent_of(scales, scale.format)
    if not plan.scales_fold:
        return Operand(*_decoded(plan, fmt, codes), np.ascontiguousarray(scales), scale_exponents)
    values = read(plan.spec, fmt, codes)
    of_k = np.arange(values.shape[0]) // k_group
    exponents = times_exponents(exponent_of(values, plan.spec.widen or fmt), scale_exponents[of_k])
    with np.errstate(invalid="ignore"):
        scaled = values * scales[of_k]
    return Operand(scaled.astype(plan.lane), _short(exponents), None, None)


def read(spec: Instruction, fmt: Format, codes: Codes) -> Float64:
    """Elements of A, B or C."""
    values = values_of(fmt, codes)
    return np.where(np.abs(values) < 2.0**fmt.min_exponent, 0.0, values) if spec.flush_inputs else values


def reread(how: Handover, x: Float64) -> Float64:
    """Numbers of the last register as D is written and read as C again."""
    if how == Handover():
        return x
    y = np.where(np.isinf(x), np.copysign(how.infinity, x), x)
    y = np.where(np.isnan(x), how.nan, y)
    if not how.has_minus_zero:
        y = y + 0.0
    return np.where(np.abs(y) < how.smallest, 0.0, y)


def times_exponents(x: Exponents, y: Exponents) -> Exponents:
    return np.where((x == NO_EXPONENT) | (y == NO_EXPONENT), NO_EXPONENT, x + y).astype(np.int32)


def _decoded(plan: Plan, fmt: Format, codes: Codes) -> tuple[NDArray[np.floating[Any]], NDArray[np.int16]]:
    if fmt.storage_bits > 16:
        values = read(plan.spec, fmt, codes)
        return values.astype(plan.lane), _short(exponent_of(values, plan.spec.widen or fmt))
    table, exponents = _of_all_codes(fmt, plan.spec.widen or fmt, plan.spec.flush_inputs, plan.lane)
    return table[codes], exponents[codes]


@cache
def _of_all_codes(
    fmt: Format, aligned_as: Format, flush: bool, lane: type
) -> tuple[NDArray[np.floating[Any]], NDArray[np.int16]]:
    values = values_of_all_codes(fmt)
    kept = np.where(np.abs(values) < 2.0**fmt.min_exponent, 0.0, values) if flush else values
    return kept.astype(lane), _short(exponent_of(kept, aligned_as))


def _short(exponents: Exponents) -> NDArray[np.int16]:
    return np.where(exponents == NO_EXPONENT, OPERAND_NO_EXPONENT, exponents).astype(np.int16)
