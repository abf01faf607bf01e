"""Operands as engines read them: numbers, alignment exponents and group scales, all with K first."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isa_model.array_codec import code_dtype, decode_array
from isa_model.formats import Format
from isa_model.instruction import Instruction, ScaleOperand
from isa_model.lanes import NO_EXPONENT, Codes, Exponents, Float64, exponent_of
from isa_model.plan import Plan

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


def side(
    plan: Plan, fmt: Format, codes: Codes, scale: ScaleOperand | None, scale_codes: Codes | None, axis: int
) -> Operand:
    """Decode one operand (K first; `axis` 0: A, 1: B). Scales that multiply products exactly are multiplied in at once."""
    codes = np.ascontiguousarray(codes)
    if scale is None or scale_codes is None:
        return Operand(*_decoded(plan, fmt, codes), None, None)
    k_group, group = (scale.group[1], scale.group[0]) if axis == 0 else scale.group
    scales = np.repeat(decode_array(scale.format, scale_codes), group, axis=1)[:, : codes.shape[1]]
    scale_exponents = exponent_of(scales, scale.format)
    if not plan.scales_fold:
        return Operand(*_decoded(plan, fmt, codes), np.ascontiguousarray(scales), scale_exponents)
    values = read(plan.spec, fmt, codes)
    of_k = np.arange(values.shape[0]) // k_group
    exponents = times_exponents(exponent_of(values, fmt), scale_exponents[of_k])
    with np.errstate(invalid="ignore"):
        values = values * scales[of_k]
    return Operand(values.astype(plan.lane), _short(exponents), None, None)


def read(spec: Instruction, fmt: Format, codes: Codes) -> Float64:
    """Elements of A, B or C."""
    values = decode_array(fmt, codes)
    return np.where(np.abs(values) < 2.0**fmt.min_exponent, 0.0, values) if spec.flush_inputs else values


def times_exponents(x: Exponents, y: Exponents) -> Exponents:
    return np.where((x == NO_EXPONENT) | (y == NO_EXPONENT), NO_EXPONENT, x + y).astype(np.int32)


def _decoded(plan: Plan, fmt: Format, codes: Codes) -> tuple[NDArray[np.floating[Any]], NDArray[np.int16]]:
    if fmt.storage_bits > 16:
        values = read(plan.spec, fmt, codes)
        return values.astype(plan.lane), _short(exponent_of(values, fmt))
    values, exponents = _of_all_codes(fmt, plan.spec.flush_inputs, plan.lane)
    return values[codes], exponents[codes]


@cache
def _of_all_codes(fmt: Format, flush: bool, lane: type) -> tuple[NDArray[np.floating[Any]], NDArray[np.int16]]:
    values = decode_array(fmt, np.arange(1 << fmt.storage_bits, dtype=code_dtype(fmt)))
    if flush:
        values = np.where(np.abs(values) < 2.0**fmt.min_exponent, 0.0, values)
    return values.astype(lane), _short(exponent_of(values, fmt))


def _short(exponents: Exponents) -> NDArray[np.int16]:
    return np.where(exponents == NO_EXPONENT, OPERAND_NO_EXPONENT, exponents).astype(np.int16)
