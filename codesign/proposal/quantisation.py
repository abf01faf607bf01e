"""Quantisation of BF16 tensors to the operands of an instruction."""

from __future__ import annotations

from math import floor, log2, sqrt
from typing import Annotated, Literal

from pydantic import Field, PositiveInt, model_validator

from codesign.workloads.gemms import Gemm, Role
from isa_model.cast import FLOORS, Cast, CastLevel, Range
from isa_model.diagnostics import at
from isa_model.formats import FORMATS, Format, later
from isa_model.instruction import Instruction
from isa_model.operand_fields import ScaleOperand
from isa_model.rounding import Rounding
from isa_model.stage import Deterministic, Spec

WHOLE = 1 << 30
"""Length of a group that covers all of K."""
WIDE = 7
"""Exponent bits from which on a format has room for any tensor. Products of elements scaled to its largest number, 2**64 or
more, would overflow FP32."""


Slice = Annotated[int, Field(ge=0, le=7)]
"""Number of a slice of an operand, 0 for the largest."""


class CoarsestScales(Spec):
    """Rules of the coarsest of several levels of scales, where they differ from those of the others."""

    range: Literal["largest", "binade"] | None = None
    """Number to which the largest magnitude of its group is scaled, times the largest scales of the finer levels."""
    scale_rounding: Deterministic | None = None
    """Rounding mode of its scales."""


class Slices(Spec):
    """Operands as sums of slices, whose products are instructions of their own: 3xTF32, BF16x9, the Ozaki scheme.

    Slice 0 is the cast of an element, slice 1 the cast of what slice 0 leaves of it, and so on; the differences are exact in
    FP32. At every step along K, an instruction for each of `products` adds to the same accumulator.
    Slices with scales (integers and other narrow formats) have one for each row of A and column of B, a power of two. Each of
    their products has an accumulator of its own, which is scaled and added in FP32.
    """

    products: tuple[tuple[Slice, Slice], ...] = Field(min_length=1, max_length=64)
    """Pairs of a slice of A and a slice of B that are multiplied, in this order: `[[1, 0], [0, 1], [0, 0]]` for 3xTF32."""
    rounding: Deterministic = Rounding.NEAREST_EVEN
    """Rounding of every slice but the last, whose rounding is that of the elements."""
    promote_every: PositiveInt | None = None
    """Elements of K after which partial sums leave the instruction and are added in FP32, to nearest even; null: all of K.
    Slices with scales need it."""

    @model_validator(mode="after")
    def _once(self) -> Slices:
        for i, pair in enumerate(self.products):
            if pair in self.products[:i]:
                raise at("products", i, message=f"slices {list(pair)} are multiplied twice", hint="remove one of them")
        return self

    @property
    def count(self) -> int:
        """Number of slices of an operand."""
        return 1 + max(map(max, self.products))


class Quantisation(Spec):
    """Rules by which BF16 operands are quantised. Groups along K are those of the instruction's scales.

    A field that is left out has the value of the baseline (`codesign/proposal/baselines.yaml`).
    """

    weight_columns: int | None = Field(default=None, ge=1, le=65536)
    """Output features of a weight that share a scale (DeepSeek-V3: 128, for blocks of 128x128). Default: the baseline's value,
    or the instruction's group if the instruction applies the scales itself."""
    rounding: Deterministic = Rounding.NEAREST_EVEN
    """Rounding mode of the elements (DeepSeek-V3 leaves it open; its public code rounds to nearest even)."""
    scale_rounding: Deterministic | None = None
    """Rounding mode of scales in a format narrower than FP32; `up` unless the baseline says otherwise."""
    range: Range | None = None
    """Number to which a group's largest magnitude is scaled: the format's `largest`, the `binade` below it (OCP MX), or a
    smaller number; a larger one is as `largest`. Formats that are finest near 1, as posit8 and HiF8, need one: `range: 16`."""
    random: Literal["elements", "scales"] | None = None
    """What is rounded at random, so that the cast has no bias: `elements`, in place of `rounding`, or the `scales` of
    groups, each corrected first for what rounding its elements took (MS-EDEN, arXiv 2601.22813)."""
    coarsest: CoarsestScales | None = None
    """Rules of the coarsest level, if the instruction has several levels of scales; default: those of the others."""
    powers_of_two: bool | None = None
    """True if FP32 scales are rounded to powers of two, by `scale_rounding`."""
    scales: Literal["tensor", "row", "none"] | None = None
    """Elements that share a scale outside the sum if the instruction applies no scales: the whole `tensor` (default); a `row`
    of A or column of B, that is a token or an output feature; or `none`: operands are rounded unscaled. Formats of 16 bits
    and more, or of 7 exponent bits and more, are scaled only for `headroom`."""
    headroom: bool | None = None
    """True if scales outside the sum prevent overflow: the largest element is scaled to a power of two so small that no sum of
    products exceeds the accumulator's range."""
    tensor_scale: bool | None = None
    """True if a whole operand is first scaled in FP32 so that its largest group has the largest scale, as for NVFP4, whose
    scale format has a narrow range. Only for operands with group scales."""
    slices: Slices | None = later(None)
    """Slices whose sum an operand is, as in emulations of FP32; default: the baseline's, or one, which is
    `products: [[0, 0]]`."""
    floor: float = Field(default=1e-30, ge=FLOORS[0], le=FLOORS[1])
    """Lower limit of a group's largest magnitude (1e-4 in DeepSeek-V3's public inference code, which would erase small
    gradients)."""

    def over(self, other: Quantisation) -> Quantisation:
        """Return these rules, completed by the fields of `other` that are left out here."""
        own = {name: value for name in type(self).model_fields if (value := getattr(self, name)) is not None}
        return other.model_copy(update=own)


def scale_group(along: int, across: int, k_axis: int, columns: int | None = None) -> tuple[int, int]:
    """Return the group of a tensor's scale, `along` K, which is axis `k_axis`, and `across`, or `columns` if they fit."""
    if columns and columns % across == 0:
        across = columns
    return (across, along) if k_axis == 1 else (along, across)


def cast_of(
    rule: Quantisation,
    fmt: Format,
    role: Role,
    side: ScaleOperand | None,
    k_axis: int,
    limit: float | None = None,
) -> Cast:
    """Return the cast of an operand whose axis `k_axis` is K.

    `side` holds the scales that the instruction applies, if any; the cast has their groups, and a weight has blocks if they
    fit; elements of a wide format are scaled to 1. Otherwise `rule.scales` decides. `limit` is the largest element without
    overflow (`largest_safe_element`).
    """
    group, scale = None, None
    span = rule.range or "largest"
    rounding = rule.scale_rounding or Rounding.UP
    if side is not None:
        columns = rule.weight_columns if role == "weight" and not side.coarser else None
        group = scale_group(side.group[k_axis], side.group[1 - k_axis], k_axis, columns)
        scale = side.format
        span = 1.0 if fmt.exponent_bits >= WIDE else span
    elif rule.scales != "none" and ((fmt.bits < 16 and fmt.exponent_bits < WIDE) or limit is not None):
        scale = FORMATS["fp32"]
        if rule.scales == "row":
            group = (1, WHOLE) if k_axis == 1 else (WHOLE, 1)
    levels = [CastLevel(group=level.group, format=level.format) for level in side.coarser] if side else []
    if levels and rule.coarsest:
        levels[-1] = levels[-1].model_copy(update=rule.coarsest.model_dump())
    if scale == FORMATS["fp32"] and rule.powers_of_two:
        scale = FORMATS["ue8m0"]
    return Cast(
        to=fmt,
        group=group,
        scale=scale,
        scale_rounding=rounding,
        range=min(limit, FLOORS[1]) if limit is not None and scale and side is None else span,
        rounding=rule.rounding,
        random=rule.random,
        coarser=tuple(levels),
        floor=rule.floor,
    )


def operand_cast(
    rule: Quantisation, instruction: Instruction, gemm: Gemm, which: Literal["a", "b"]
) -> tuple[Cast, ScaleOperand | None]:
    """Return the cast of an operand of a GEMM, and the scales that the instruction applies to it."""
    role, fmt, k_axis = (gemm.a, instruction.a, 1) if which == "a" else (gemm.b, instruction.b, 0)
    side = getattr(instruction.scale, which) if instruction.scale else None
    limit = largest_safe_element(instruction, gemm.k) if rule.headroom else None
    return cast_of(rule, fmt, role, side, k_axis, limit), side


def largest_safe_element(instruction: Instruction, k: int) -> float | None:
    """Return the largest operand element, a power of two, with which sums over `k` cannot overflow any register.

    None if no operand element can cause overflow. A sum of n products of elements up to r is at most n r^2 (SageAttention2++,
    arXiv 2505.21136, bounds FP16 accumulators of FP8 products this way).
    """
    from isa_model.codec import largest_finite

    least = None
    product = largest_finite(instruction.a) * largest_finite(instruction.b)
    last = len(instruction.stages) - 1
    for index, stage in enumerate(instruction.stages.values()):
        products = k if index == last else min(k, instruction.products_per_result(index))
        for register in stage.result:
            if register.format.kind == "integer":
                continue
            most = largest_finite(register.format) / products
            if product > most:
                limit = 2.0 ** floor(log2(sqrt(most)))
                least = limit if least is None else min(least, limit)
    return least
