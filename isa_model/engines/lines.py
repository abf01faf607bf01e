"""Dot products of their own, by a compiled interpreter of specs (lines.c), for many specs on a few thousand operands each.

It is exact for every spec, and no compiler runs for a new one. `golden.dot` is its definition, and takes its place without a C
compiler.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import lru_cache
from math import inf
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from isa_model import golden
from isa_model.array_codec import code_dtype
from isa_model.engines.c_library import shipped
from isa_model.engines.plan import lowest_exponent
from isa_model.float64 import Codes
from isa_model.formats import Format
from isa_model.instruction import Instruction
from isa_model.operand_fields import Scaling
from isa_model.rounding import Rounding
from isa_model.stage import Register, Stage

T = TypeVar("T")
ROUNDINGS: list[Rounding] = [mode for mode in Rounding if mode is not Rounding.STOCHASTIC]
OVERFLOWS = ["ieee", "infinity", "nan", "saturate", "wrap"]
NANS = ["ieee", "all-ones", "negative-zero", "none"]
NONE = -(1 << 63)
MOST_REGISTERS, MOST_STAGES = 4, 16
FORMAT_FIELDS = 14
MOST_KEPT = 20_000
"""Parts of specs whose layout is kept."""


def dots(
    spec: Instruction, a: Codes, b: Codes, c: Codes, scale_a: Codes | None = None, scale_b: Codes | None = None
) -> Codes:
    """Return D as codes (L,) of rows of `a` and `b` (L, K) and elements of `c` (L,), K being that of one instruction.

    `scale_a` and `scale_b` (L, groups of K) are those of each line, of one level. Raises ValueError for a sparse spec and for
    one with random bits, which belong to places of a matrix, and for arrays of another shape or of no whole numbers.
    """
    return Batch(a, b, c, scale_a, scale_b).dots(spec)


class Batch:
    """Lines that many specs are run on, with the answers expected of them, if any, and the weight of each."""

    def __init__(
        self,
        a: Codes,
        b: Codes,
        c: Codes,
        scale_a: Codes | None = None,
        scale_b: Codes | None = None,
        expected: Codes | None = None,
        weights: NDArray[np.float64] | None = None,
    ) -> None:
        self.given = a, b, c, scale_a, scale_b
        self.d = np.empty(len(c), np.uint64)
        self._wide: list[NDArray[np.uint64]] | None = None
        self._expected = None if expected is None else np.ascontiguousarray(expected, np.uint64)
        self._weights = np.ones(len(c)) if weights is None else np.ascontiguousarray(weights, np.float64)

    def dots(self, spec: Instruction, bound: float = inf) -> Codes:
        """Return the codes of D of a spec: of all lines, or of the first ones, up to where the weights of those that are not as
        expected exceed `bound`."""
        if spec.is_stochastic or spec.sparsity:
            raise ValueError("lines have no places of a matrix: neither random bits nor sparsity")
        a, b, c, scale_a, scale_b = self.given
        _check(spec, a, b, c, scale_a, scale_b)
        function, described = shipped("lines.c"), program(spec)
        if function is not None and described is not None:
            if self._wide is None:
                self._wide = [_wide(x) for x in self.given]
                self._pointers = [ctypes.c_void_p(x.ctypes.data) for x in (*self._wide, self.d)]
                self._known = [
                    ctypes.c_void_p(None if x is None else x.ctypes.data) for x in (self._expected, self._weights)
                ]
            computed = ctypes.c_int64()
            data, order = (ctypes.c_void_p(x.ctypes.data) for x in described)
            own = self._pointers
            tail = (*self._known, ctypes.c_double(bound), ctypes.byref(computed))
            if function(data, ctypes.c_long(len(c)), order, *own, *tail) == 0:
                return self.d[: computed.value].astype(code_dtype(spec.accumulator))
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


def _once(make: Callable[[Any], T]) -> Callable[[Any], T]:
    """Return a function that computes its result once for each object: specs share parts, whose hash costs more."""
    known: dict[int, tuple[Any, T]] = {}

    def of(part: Any) -> T:
        kept = known.get(id(part))
        if kept is None:
            if len(known) >= MOST_KEPT:
                known.clear()
            kept = known[id(part)] = part, make(part)
        return kept[1]

    return of


def program(spec: Instruction) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
    """Return a spec as lines.c reads it, and the order of each stage's terms; None for one with rules that it does not read.

    These are tables, several levels of scales, and remainders.
    """
    stages = list(spec.stages.values())
    if any(stage.remainder for stage in stages):
        return None
    sides = [side for side in (spec.scale.a, spec.scale.b) if side] if spec.scale else []
    if "table" in {f.kind for f in (spec.a, spec.b, *(side.format for side in sides))} or any(
        side.coarser for side in sides
    ):
        return None
    base, words = _extent(spec, stages)
    scale, k, fmt = spec.scale, spec.shape.k, spec.accumulator
    nan = spec.nan_code
    if nan is None:
        nan = 0 if fmt.kind == "integer" else fmt.max_finite_magnitude << fmt.low_padding
    group_a = scale.a.group[1] if scale and scale.a else 1
    group_b = scale.b.group[0] if scale and scale.b else 1
    fields = [
        *(k, len(stages), base, words),
        {False: 0, True: 1, "keep-sign": 2}[spec.flush_operands],
        {False: 0, True: 1, "keep-sign": 2}[spec.flush_c],
        _or_none(spec.widen.min_exponent if spec.widen else None),
        _or_none(spec.infinite_from),
        *(_signed(nan), OVERFLOWS.index(fmt.overflow)),
        -2 if spec.scaled_stage is None else spec.scaled_stage,
        spec.scale_power,
        int(bool(scale and scale.product and sides)),
        int(bool(scale and scale.result)),
        *(group_a, group_b),
        -(-k // group_a) if scale and scale.a else 0,
        -(-k // group_b) if scale and scale.b else 0,
    ]
    formats = [spec.a, spec.b, spec.c_format, fmt, *_scale_formats(spec)]
    data = [np.array(fields, np.int64), *map(_format, formats), _registers(scale), *map(_stage, stages)]
    return np.concatenate(data), _order(k, tuple(map(_dealing, stages)))


def _scale_formats(spec: Instruction) -> list[Format]:
    """Return the formats of the scales of A and B; D's where there are none, which is not read."""
    scale, unused = spec.scale, spec.accumulator
    return [scale.a.format if scale and scale.a else unused, scale.b.format if scale and scale.b else unused]


def _or_none(value: int | None) -> int:
    return NONE if value is None else value


def _signed(code: int) -> int:
    """Return 64 bits as the whole number that has them in two's complement."""
    return code - (1 << 64) if code >> 63 else code


@_once
def _format(fmt: Format) -> NDArray[np.int64]:
    fields = [
        *(int(fmt.kind == "integer"), int(fmt.signed), fmt.mantissa_bits, fmt.bias, int(fmt.infinity)),
        *(NANS.index(fmt.nan), int(fmt.zero), fmt.low_padding, fmt.magnitude_bits),
        *(fmt.min_exponent, fmt.min_lsb_exponent, fmt.max_exponent),
        *(_signed(fmt.max_finite_magnitude), _signed(fmt.nan_code or 0)),
    ]
    return np.array(fields, np.int64)


def _register(register: Register) -> list[int]:
    overflow = OVERFLOWS.index(register.overflow or register.format.overflow)
    flush = int(register.subnormals == "flush")
    return [*_format(register.format), ROUNDINGS.index(register.rounding), overflow, flush]


@_once
def _registers(scale: Scaling | None) -> NDArray[np.int64]:
    registers = (scale.product, scale.result) if scale else (None, None)
    return np.array([x for r in registers for x in (_register(r) if r else [0] * (FORMAT_FIELDS + 3))], np.int64)


@_once
def _stage(stage: Stage) -> NDArray[np.int64]:
    registers = [x for register in stage.result for x in _register(register)]
    empty = [0] * ((MOST_REGISTERS - len(stage.result)) * (FORMAT_FIELDS + 3))
    fields = [
        *(stage.terms, stage.chain or 1, int(bool(stage.accumulator)), _or_none(stage.fraction_bits)),
        *(_or_none(stage.accumulator_fraction_bits), _or_none(stage.drop_beyond)),
        ROUNDINGS.index(stage.rounding) if stage.rounding else 0,
        *(_or_none(stage.zero_exponent), _or_none(stage.exponent), int(stage.zero == "ieee"), stage.offset),
        *(int(stage.opposing == "complement"), len(stage.result), *registers, *empty),
    ]
    return np.array(fields, np.int64)


def _extent(spec: Instruction, stages: list[Stage]) -> tuple[int, int]:
    """Return the exponent of the unit of all magnitudes, and the 64-bit words that hold every value and place of rounding."""
    own = [_range(stage) for stage in stages]
    registers = [r.format for r in (spec.scale.product, spec.scale.result) if r] if spec.scale else []
    formats = [spec.c_format, spec.accumulator, *registers]
    lows = [*(f.min_lsb_exponent for f in formats), *(x[0] for x in own)]
    highs = [*(f.max_exponent for f in formats), *(x[1] for x in own)]
    lows.append(spec.a.min_lsb_exponent + spec.b.min_lsb_exponent)
    highs.append(spec.a.max_exponent + spec.b.max_exponent + 2)
    power = spec.scale_power
    sides = [side.format for side in (spec.scale.a, spec.scale.b) if side] if spec.scale else []
    factors = [(f.min_lsb_exponent, f.max_exponent + 1) for f in sides] + [(power, power + 1)]
    scales_low = sum(min(0, low) for low, _ in factors)
    scales_high = sum(max(0, high) for _, high in factors)
    fixed = sum(x[2] for x in own)
    fixed += sum(max(lowest_exponent(f, spec.widen), f.max_exponent, 0) for f in (spec.a, spec.b))
    high = max(max(highs) + scales_high, fixed + max(scales_high, 0)) + 32
    low = min(min(lows), 0) + scales_low - _below(stages)
    return low, (high - low) // 64 + 4


@_once
def _range(stage: Stage) -> tuple[int, int, int]:
    """Return the lowest and the highest exponent of a stage's registers, and the sum of its fixed exponents above 0."""
    formats = [r.format for r in stage.result]
    low, high = min((f.min_lsb_exponent for f in formats), default=0), max((f.max_exponent for f in formats), default=0)
    return low, high, sum(max(e, 0) for e in _fixed(stage)) + max(0, stage.offset)


def _fixed(stage: Stage) -> list[int]:
    """Return the alignment exponents that a stage fixes."""
    return [e for e in (stage.zero_exponent, stage.exponent) if e is not None]


def _below(stages: list[Stage]) -> int:
    """Return how far below all terms the unit may lie that inverted terms take away."""
    places = [(s.fraction_bits or 0) + max(0, -s.offset) for s in stages if s.opposing == "complement"]
    return max(places) + max([0, *(-e for s in stages for e in _fixed(s))]) if places else 0


def _dealing(stage: Stage) -> tuple[Any, ...]:
    """Return how a stage deals out its terms, as a key."""
    x = stage.interleave
    return stage.terms, stage.inputs, (x.run, x.parts, stage.hand) if x else None


@lru_cache(4096)
def _order(k: int, dealings: tuple[tuple[Any, ...], ...]) -> NDArray[np.int64]:
    """Return, for each stage, its terms in the order of its blocks (golden.deal)."""
    found, count = [], k
    for _, inputs, interleave in dealings:
        order = np.arange(count)
        if interleave:
            run, parts, hand = interleave
            spans = order.reshape(-1, parts * hand)
            order = np.concatenate([spans[:, order[: parts * hand] // run % parts == p] for p in range(parts)], axis=1)
        found.append(order.reshape(-1))
        count //= inputs
    return np.concatenate(found).astype(np.int64)
