"""Routes through Hopper's Tensor Cores: the sums of a spec that they can compute, and how. tensor.py writes the text.

Each route makes the Tensor Cores lose exactly what the spec loses:

- `half`. Hopper's HMMA shifts 16 products and C to their largest exponent and cuts them 25 bits below, toward zero
  (isa_model/catalogue/hopper.yaml; checked live). C = 2**X therefore cuts every product at 2**(X - 25); X is free, and each
  element of D can have its own. To subtract 2**X again, half of A holds -2**X of eight columns and half of B the unit
  matrix. The sum of the other half, eight products, remains: exact, in 24 bits.
- `double`. DMMA is a chain of FP64 fused multiply-adds, each rounded toward zero, here above a magic number C whose
  last bit is the last one kept. It always rounds down, so magnitudes are summed: T over all products, P over the positive
  ones. The signed sum is 2 P - T.
- `exact`. DMMA again, where no product loses a bit and FP64 holds the sum.
- `digits`. INT8 MMA, for operands of few base-256 digits without infinities and NaNs; sums may be wider than FP64.

The largest exponent of a block is found by a sum, too: the exponent of the sum of 2**(step * exponent) gives it if fewer than
2**step terms are added.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import frexp
from typing import Literal

from isa_model.codec import largest_finite
from isa_model.engines.plan import RANGE, Plan, highest_exponent, lowest_exponent, significand_bits
from isa_model.float64 import LANE_BITS
from isa_model.formats import Format
from isa_model.rounding import Rounding
from isa_model.stage import Stage

KEPT = 25
"""Fraction bits that Hopper's HMMA keeps of 16 products and C."""
FARTHEST = 100
"""Largest exponent for which powers of two 25 bits above are built."""
LONGEST = 128
"""Products of a block that a thread can hold."""


@dataclass(frozen=True)
class Route:
    """Way in which the Tensor Cores compute the sums of the first stage."""

    cut: Literal["half", "double", "exact", "digits"]
    whole: bool
    """True if the short text computes a whole block, C and register included."""
    step: int
    """Binades between two exponents in the sum that finds the largest; 0 for no such sum."""
    adds_exactly: bool = False
    """True if FP64 is known to hold the sum with C, too."""


def route(plan: Plan) -> Route | None:
    """Return the route of a plan, or None if its sums cannot go through the Tensor Cores."""
    spec, stage = plan.spec, plan.first
    if (
        spec.scaled_stage == -1
        or plan.infinite_from is not None
        or stage.terms > LONGEST
        or not plan.handover.keeps_specials
    ):
        return None
    if stage.interleave and (stage.interleave.to == "chains" or stage.interleave.hand):
        return None
    if stage.offset or stage.opposing == "complement" or spec.remainder:
        return None
    if max(spec.a.storage_bits, spec.b.storage_bits) > 16 or "table" in (spec.a.kind, spec.b.kind):
        return None
    if not plan.operands_fit_fp32:
        return None
    if not plan.fused_products:  # sums wider than FP64
        wide = stage.fraction_bits is None and is_short(plan) and digit_count(spec.a) + digit_count(spec.b) <= 10
        return Route("digits", True, 0) if wide and pieces(plan) else None
    needs_exponent = stage.aligned or not stage.result
    low, high = product_exponents(plan)
    values = high - low + 1
    step = 0 if not needs_exponent else 8 if values <= 30 else 4 if values <= 62 else -1
    if step < 0 or not _zeros_do_not_count(plan, stage, low):
        return None
    growth = plan.product_growth + (stage.terms - 1).bit_length()
    cut: Literal["half", "double", "exact"]
    alone = not (stage.aligned and stage.accumulator)  # otherwise a large C may cut bits that the window has room for
    if alone and _loses_nothing(plan, stage) and (stage.zero == "positive" or stage.terms % 4 == 0):
        cut = "exact"
    elif not stage.aligned or stage.rounding is not Rounding.TOWARD_ZERO or stage.zero != "positive":
        return None
    elif growth + (stage.fraction_bits or 0) <= 24 and max(map(significand_bits, (spec.a, spec.b))) <= 8:
        cut = "half"
    elif growth + (stage.fraction_bits or 0) < LANE_BITS - 1:
        cut = "double"
    else:
        return None
    far_from_overflow = high + growth < FARTHEST
    return Route(cut, is_short(plan) and far_from_overflow, step)


def with_digits(plan: Plan, way: Route, bound: float, smallest_unit: float) -> Route | None:
    """Return a route by INT8 digits in place of `way`, or None if bits might be lost.

    Operands are finite and keep sums and C below `bound`; C is a multiple of `smallest_unit`.
    """
    stage = plan.first
    if way.cut == "digits":
        return way if bound < 2.0**RANGE else None
    if way.cut == "half" or not _loses_nothing(plan, stage) or stage.zero != "positive" or not bound < 2.0**RANGE:
        return None
    last = plan.spec.a.min_lsb_exponent + plan.spec.b.min_lsb_exponent
    if stage.aligned and stage.accumulator:
        assert stage.fraction_bits is not None
        reach = max(frexp(bound)[1] - 1, product_exponents(plan)[1]) - stage.fraction_bits
        if reach > last or smallest_unit < 2.0**reach:
            return None
        if way.whole and not c_is_apart(plan):  # C loses no bit either, so no exponent is needed
            way = replace(way, step=0)
    exactly = smallest_unit >= 2.0**last and bound < 2.0 ** (last + LANE_BITS)
    digits = digit_count(plan.spec.a) + digit_count(plan.spec.b)
    return replace(way, cut="digits", adds_exactly=exactly) if digits <= 7 and pieces(plan) else None


def _loses_nothing(plan: Plan, stage: Stage) -> bool:
    """Return whether FP64 holds the sum of a block of products and, without C, no product has bits below the last one kept."""
    low = plan.spec.a.min_lsb_exponent + plan.spec.b.min_lsb_exponent
    high = product_exponents(plan)[1]
    bits = high + plan.product_growth + (stage.terms - 1).bit_length() - low
    return bits < LANE_BITS and (stage.fraction_bits is None or stage.fraction_bits >= high - low)


def digit_count(fmt: Format) -> int:
    """Return the number of base-256 digits, each from -128 to 127, of a format's numbers in units of its smallest number."""
    largest = int(largest_finite(fmt) * 2.0**-fmt.min_lsb_exponent)
    return next(n for n in range(1, 99) if largest <= 127 * (256**n - 1) // 255)


def _largest_digits(fmt: Format) -> list[int]:
    """Return the largest magnitude of each digit of a format's numbers, the lowest digit first."""
    count, top = digit_count(fmt), int(largest_finite(fmt) * 2.0**-fmt.min_lsb_exponent)
    return [128] * (count - 1) + [top // 256 ** (count - 1) + 1]


def pieces(plan: Plan) -> list[tuple[int, int]]:
    """Return the pieces of 32 bits that gather the sums of products of digits, one sum for each power of 256.

    A piece is its lowest power and its number of powers. The list is empty if a single sum does not fit.
    """
    a, b = _largest_digits(plan.spec.a), _largest_digits(plan.spec.b)
    terms = plan.first.terms
    sums = [0] * (len(a) + len(b) - 1)
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            sums[i + j] += terms * x * y
    result: list[tuple[int, int]] = []
    first = 0
    while first < len(sums):
        fits = [n for n in (1, 2, 3) if sum(s << 8 * i for i, s in enumerate(sums[first : first + n])) < 1 << 31]
        if not fits:
            return []
        result.append((first, min(fits[-1], len(sums) - first)))
        first += result[-1][1]
    return result


def suits(plan: Plan, way: Route, k: int, smallest_unit: float, largest: float) -> bool:
    """Return whether any C that is a multiple of `smallest_unit` up to `largest` can start a block on the route `half`."""
    low, high = product_exponents(plan)
    bits = plan.first.fraction_bits or 0
    return (
        smallest_unit >= 2.0 ** (low - 1 - bits) and largest + k * 2.0 ** (high + plan.product_growth) < 2.0**FARTHEST
    )


def product_exponents(plan: Plan) -> tuple[int, int]:
    """Return the lowest and the highest exponent with which a product aligns."""
    top = sum(highest_exponent(f, plan.spec.widen) for f in (plan.spec.a, plan.spec.b))
    return plan.min_product_exponent, top


def power_shifts(plan: Plan, step: int) -> tuple[int, int]:
    """Return the offsets of `step` times the exponents of A and B with which the lowest exponent of a product reads as 1."""
    low = [lowest_exponent(f, plan.spec.widen) for f in (plan.spec.a, plan.spec.b)]
    of_a = -step * (low[0] + highest_exponent(plan.spec.a, plan.spec.widen)) // 2
    return of_a, step * (1 - sum(low)) - 127 - of_a


def _zeros_do_not_count(plan: Plan, stage: Stage, low: int) -> bool:
    """Return whether a zero's exponent is so low that it changes nothing but a sum of zeros."""
    zero = stage.zero_exponent
    if zero is None:
        return True
    running = [plan.spec.c_format, *(r.format for r in stage.result)] if stage.accumulator else []
    return zero <= min([low, *(f.min_exponent for f in running)])


def is_short(plan: Plan, in_fp16: bool = False) -> bool:
    """Return whether a block of the first stage adds the running value and is rounded once, to FP32 or a part of it.

    With `in_fp16`: once to FP16, to nearest.
    """
    stage = plan.first
    if not stage.accumulator or len(stage.result) != 1 or "integer" in (plan.spec.a.kind, plan.spec.b.kind):
        return False
    (register,) = stage.result
    fmt, c_format = register.format, plan.spec.c_format
    told = (stage.fraction_bits is None or stage.fraction_bits > 0) and fmt.mantissa_bits > 0  # a NaN keeps a bit
    once = register.rounding is Rounding.TOWARD_ZERO or (
        register.rounding is Rounding.NEAREST_EVEN and fmt.mantissa_bits == 23
    )
    range_of = (fmt.kind, fmt.min_exponent, fmt.max_exponent)
    if in_fp16:
        once = register.rounding is Rounding.NEAREST_EVEN and fmt.mantissa_bits == 10
    return (
        range_of == (("float", -14, 15) if in_fp16 else ("float", -126, 127))
        and (c_format.kind == "float" and c_format.min_exponent >= -126 and c_format.max_exponent <= 127)
        and max(fmt.mantissa_bits, c_format.mantissa_bits) <= 23
        and once
        and told
        and (plan.levels[0].plain or not stage.aligned)
        and stage.accumulator_fraction_bits == stage.fraction_bits
        and stage.rounding in (None, Rounding.TOWARD_ZERO)
        and stage.drop_beyond is None
        and not stage.offset
        and stage.zero == "positive"
        and register.subnormals == "keep"
        and (register.overflow or fmt.overflow) in ("infinity", "ieee")
    )


def c_is_apart(plan: Plan) -> str:
    """Return the condition on `k`, as C text after the `k`, for a block to meet a C whose exponents differ from the register's.

    It holds at the start of K or of every instruction. The text is empty if no block meets such a C.
    """
    spec, (stage, *others) = plan.spec, plan.spec.stages.values()
    lowest = stage.result[-1].format.min_exponent if stage.result else 0
    if not others and spec.accumulator.min_exponent != lowest:
        return f"% {spec.shape.k} == 0"
    return "== 0" if not others and spec.c_format.min_exponent != lowest else ""
