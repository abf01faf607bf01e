"""Dot products of their own, by a compiled interpreter of specs (lines.c), for many specs on a few thousand operands each.

It is exact for every spec, and no compiler runs for a new one. `golden.dot` is its definition, and takes its place without a C
compiler.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isa_model import golden
from isa_model.array_codec import code_dtype
from isa_model.engines.c_library import shipped
from isa_model.engines.plan import lowest_exponent
from isa_model.float64 import Codes
from isa_model.formats import Format
from isa_model.instruction import Instruction
from isa_model.rounding import Rounding
from isa_model.stage import Register, Stage

ROUNDINGS: list[Rounding] = [mode for mode in Rounding if mode is not Rounding.STOCHASTIC]
OVERFLOWS = ["ieee", "infinity", "nan", "saturate", "wrap"]
NANS = ["ieee", "all-ones", "negative-zero", "none"]
NONE = -(1 << 63)
MOST_REGISTERS, MOST_STAGES = 4, 16
FORMAT_FIELDS, STAGE_FIELDS = 14, 11


def dots(
    spec: Instruction, a: Codes, b: Codes, c: Codes, scale_a: Codes | None = None, scale_b: Codes | None = None
) -> Codes:
    """Return D as codes (L,) of rows of `a` and `b` (L, K) and elements of `c` (L,), K being that of one instruction.

    `scale_a` and `scale_b` (L, groups of K) are those of each line, of one level. Raises ValueError for a sparse spec and for
    one with random bits, which belong to places of a matrix, and for arrays of another shape or of no whole numbers.
    """
    if spec.is_stochastic or spec.sparsity:
        raise ValueError("lines have no places of a matrix: neither random bits nor sparsity")
    _check(spec, a, b, c, scale_a, scale_b)
    function = shipped("lines.c")
    described = program(spec)
    if function is not None and described is not None:
        given = [_wide(x) for x in (a, b, c, scale_a, scale_b)]
        d = np.empty(len(c), np.uint64)
        data, order = described
        pointers = [ctypes.c_void_p(x.ctypes.data) for x in (data, order, *given, d)]
        if function(pointers[0], ctypes.c_long(len(c)), *pointers[1:]) == 0:
            return d.astype(code_dtype(spec.accumulator))
    nothing: list[list[int]] = [[]] * len(c)
    scales = [nothing if x is None else x.tolist() for x in (scale_a, scale_b)]
    rows = zip(a.tolist(), b.tolist(), c.tolist(), *scales, strict=True)
    return np.array([golden.dot(spec, *row) for row in rows], code_dtype(spec.accumulator))


def _check(spec: Instruction, a: Codes, b: Codes, c: Codes, scale_a: Codes | None, scale_b: Codes | None) -> None:
    """Raise ValueError unless arrays have the shapes of the spec: lines.c would read beyond them."""
    k, scale = spec.shape.k, spec.scale
    groups = [scale.a.group[1] if scale and scale.a else 0, scale.b.group[0] if scale and scale.b else 0]
    scales = [(*c.shape[:1], -(-k // group)) if group else None for group in groups]
    wanted = [(*c.shape[:1], k), (*c.shape[:1], k), c.shape[:1], *scales]
    for name, x, shape in zip(("a", "b", "c", "scale_a", "scale_b"), (a, b, c, scale_a, scale_b), wanted, strict=True):
        given = None if x is None else x.shape
        if given != shape or (x is not None and x.dtype.kind not in "iu"):
            kind = "" if x is None else f"{x.dtype} "
            raise ValueError(f"{name} is {kind}{given}; expected whole numbers {shape}")


def _wide(x: Codes | None) -> NDArray[np.uint64]:
    return np.zeros(1, np.uint64) if x is None else np.ascontiguousarray(x, np.uint64)


# -- the layout of `Program` in lines.c ------------------------------------------------------------------------------


def program(spec: Instruction) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
    """Return a spec as lines.c reads it, and the order of each stage's terms; None for one with rules that it does not read.

    These are tables, several levels of scales, inverted terms, offset exponents and remainders.
    """
    if any(stage.opposing == "complement" or stage.offset or stage.remainder for stage in spec.stages.values()):
        return None
    sides = [side for side in (spec.scale.a, spec.scale.b) if side] if spec.scale else []
    scale_formats = [side.format for side in sides]
    if "table" in {f.kind for f in (spec.a, spec.b, *scale_formats)} or any(side.coarser for side in sides):
        return None
    base, words = _extent(spec, scale_formats)
    scale, k, fmt = spec.scale, spec.shape.k, spec.accumulator
    stages = list(spec.stages.values())
    nan = spec.nan_code
    if nan is None:
        nan = 0 if fmt.kind == "integer" else fmt.max_finite_magnitude << fmt.low_padding
    group_a = scale.a.group[1] if scale and scale.a else 1
    group_b = scale.b.group[0] if scale and scale.b else 1
    nothing = Register(format=spec.accumulator, rounding=Rounding.TOWARD_ZERO)
    product = scale.product if scale and scale.product and sides else None
    result = scale.result if scale else None
    fields = [
        *(k, len(stages), base, words),
        {False: 0, True: 1, "keep-sign": 2}[spec.flush_operands],
        {False: 0, True: 1, "keep-sign": 2}[spec.flush_c],
        _or_none(spec.widen.min_exponent if spec.widen else None),
        _or_none(spec.infinite_from),
        *(_signed(nan), OVERFLOWS.index(fmt.overflow)),
        -2 if spec.scaled_stage is None else spec.scaled_stage,
        scale.power if scale else 0,
        *(int(product is not None), int(result is not None), group_a, group_b),
        -(-k // group_a) if scale and scale.a else 0,
        -(-k // group_b) if scale and scale.b else 0,
    ]
    unused = spec.accumulator
    for each in (spec.a, spec.b, spec.c_format, fmt, scale.a.format if scale and scale.a else unused):
        fields += _format(each)
    fields += _format(scale.b.format if scale and scale.b else unused)
    fields += [*_register(product or nothing), *_register(result or nothing)]
    for stage in stages:
        fields += _stage(stage)
    return np.array(fields, np.int64), np.array(list(_order(spec)), np.int64)


def _or_none(value: int | None) -> int:
    return NONE if value is None else value


def _signed(code: int) -> int:
    """Return 64 bits as the whole number that has them in two's complement."""
    return code - (1 << 64) if code >> 63 else code


@cache
def _format(fmt: Format) -> tuple[int, ...]:
    return (
        *(int(fmt.kind == "integer"), int(fmt.signed), fmt.mantissa_bits, fmt.bias, int(fmt.infinity)),
        *(NANS.index(fmt.nan), int(fmt.zero), fmt.low_padding, fmt.magnitude_bits),
        *(fmt.min_exponent, fmt.min_lsb_exponent, fmt.max_exponent),
        *(_signed(fmt.max_finite_magnitude), _signed(fmt.nan_code or 0)),
    )


def _register(register: Register) -> tuple[int, ...]:
    overflow = OVERFLOWS.index(register.overflow or register.format.overflow)
    return (
        *_format(register.format),
        ROUNDINGS.index(register.rounding),
        overflow,
        int(register.subnormals == "flush"),
    )


@cache
def _stage(stage: Stage) -> tuple[int, ...]:
    registers = [x for register in stage.result for x in _register(register)]
    empty = [0] * ((MOST_REGISTERS - len(stage.result)) * (FORMAT_FIELDS + 3))
    return (
        *(stage.terms, stage.chain or 1, int(bool(stage.accumulator)), _or_none(stage.fraction_bits)),
        *(_or_none(stage.accumulator_fraction_bits), _or_none(stage.drop_beyond)),
        ROUNDINGS.index(stage.rounding) if stage.rounding else 0,
        *(_or_none(stage.zero_exponent), _or_none(stage.exponent)),
        *(int(stage.zero == "ieee"), len(stage.result), *registers, *empty),
    )


def _extent(spec: Instruction, scale_formats: list[Format]) -> tuple[int, int]:
    """Return the exponent of the unit of all magnitudes, and the 64-bit words that hold every value and place of rounding."""
    registers = [r.format for s in spec.stages.values() for r in s.result]
    if spec.scale:
        registers += [r.format for r in (spec.scale.product, spec.scale.result) if r]
    formats = [spec.c_format, spec.accumulator, *registers]
    lows = [f.min_lsb_exponent for f in formats] + [spec.a.min_lsb_exponent + spec.b.min_lsb_exponent]
    highs = [f.max_exponent for f in formats] + [spec.a.max_exponent + spec.b.max_exponent + 2]
    power = spec.scale.power if spec.scale else 0
    factors = [(f.min_lsb_exponent, f.max_exponent + 1) for f in scale_formats] + [(power, power + 1)]
    scales_low = sum(min(0, low) for low, _ in factors)
    scales_high = sum(max(0, high) for _, high in factors)
    fixed = [e for s in spec.stages.values() for e in (s.zero_exponent, s.exponent) if e is not None]
    fixed += [max(lowest_exponent(f, spec.widen), f.max_exponent) for f in (spec.a, spec.b)]
    high = max(max(highs) + scales_high, sum(x for x in fixed if x > 0) + max(scales_high, 0)) + 32
    low = min(min(lows), 0) + scales_low
    return low, (high - low) // 64 + 4


def _order(spec: Instruction) -> Iterator[int]:
    """Yield, for each stage, its terms in the order of its blocks."""
    count = spec.shape.k
    for stage in spec.stages.values():
        yield from _dealt(stage, count)
        count //= stage.inputs


@cache
def _dealt(stage: Stage, count: int) -> list[int]:
    terms: Any = range(count)
    blocks: Any = golden.deal(stage, terms)
    return [i for block in blocks for i in block]
