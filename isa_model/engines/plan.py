"""The plan of a spec: bounds on widths and exponents at every stage, for arithmetic on float64 or float32 lanes.

The inequalities here make the engines exact for all data.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import reduce
from math import inf, nan
from typing import Literal

from isa_model.codec import largest_finite
from isa_model.float64 import LANE_BITS
from isa_model.formats import Format, named
from isa_model.instruction import Instruction
from isa_model.limits import HIGHEST_POWER
from isa_model.rounding import Rounding
from isa_model.stage import Stage

FP32 = named("fp32")
RANGE = 880
"""Largest magnitude of an exponent; within it, sums, products and reciprocals of units are normal float64 numbers."""
LOWEST_NORMAL = -1022
"""Exponent of the smallest normal float64 number; the leading bit of a smaller one is not read off its exponent field."""
ODD_BITS = LANE_BITS - 2
"""Most bits to which a term that was rounded to odd in one lane can be cut without a second rounding error."""


class Unsupported(Exception):
    """A valid spec whose values do not fit the lanes of the engines; the golden model computes it."""


@dataclass(frozen=True)
class Level:
    """Bounds on the terms of one level: products, or results of a stage.

    Each part of a term has at most `bits` significant bits; a term is a multiple of 2**`lsb`, smaller than 2**`top` in
    magnitude, and smaller than 2**(its alignment exponent + `growth`). That exponent is at most `highest`. `plain`: the sum
    was taken in one lane. Otherwise it has `sum_bits` bits; the last place of an aligned sum is `fraction_bits` below its
    largest exponent.
    """

    bits: int
    lsb: int
    top: int
    growth: int
    highest: int
    parts: int = 1
    plain: bool = True
    sum_bits: int = 0
    fraction_bits: int = 0


@dataclass(frozen=True)
class Handover:
    """Change of the running value between two instructions along K: the first writes it as D, the next reads it as C."""

    smallest: float = 0.0
    """Magnitude below which a number is read as a zero."""
    keeps_sign: bool = False
    """True if that zero has the number's sign; otherwise it is +0."""
    has_minus_zero: bool = True
    infinity: float = inf
    """Value that an infinity becomes, without its sign: a magnitude or NaN."""
    nan: float = nan
    """Value that a NaN becomes."""

    @property
    def keeps_specials(self) -> bool:
        return self.infinity == inf and self.nan != self.nan


def handover(spec: Instruction) -> Handover:
    """Return what `golden.written` and `golden.read` do to a running value between two instructions."""
    fmt = spec.accumulator
    if fmt.kind == "integer":
        return Handover()
    largest = largest_finite(fmt)
    return Handover(
        smallest=2.0**fmt.min_exponent if spec.flush_c else 0.0,
        keeps_sign=spec.flush_c == "keep-sign",
        has_minus_zero=fmt.nan != "negative-zero",
        infinity=inf if fmt.infinity else nan if fmt.overflow == "nan" else largest,
        nan=largest if fmt.nan_code is None else nan,
    )


def significand_bits(fmt: Format) -> int:
    return fmt.mantissa_bits + (fmt.kind != "integer")


def _of_format(fmt: Format, widen: Format | None = None) -> Level:
    growth = fmt.mantissa_bits if fmt.kind == "integer" else 1
    top, highest = fmt.max_exponent + 1, highest_exponent(fmt, widen)
    return Level(significand_bits(fmt), fmt.min_lsb_exponent, top, growth, highest)


def lowest_exponent(fmt: Format, widen: Format | None) -> int:
    """Return the lowest exponent with which a number of an operand's format aligns."""
    if fmt.kind == "integer":
        return 0
    return fmt.min_exponent if widen is None else max(widen.min_exponent, fmt.min_lsb_exponent)


def highest_exponent(fmt: Format, widen: Format | None) -> int:
    """Return the highest exponent with which a number of an operand's format aligns."""
    return 0 if fmt.kind == "integer" else max(fmt.max_exponent, (widen or fmt).min_exponent)


def _product(x: Level, y: Level) -> Level:
    bits = x.bits + y.bits
    parts = x.parts if bits <= LANE_BITS else 2 * x.parts
    sums = x.lsb + y.lsb, x.top + y.top, x.growth + y.growth, x.highest + y.highest
    return Level(min(bits, LANE_BITS), *sums, parts)


class Plan:
    """Bounds that the engines need to compute a spec exactly. Raises Unsupported if they cannot."""

    def __init__(self, spec: Instruction) -> None:
        self.sparsity = spec.sparsity
        spec = self.spec = spec.dense
        self.stages: list[Stage] = list(spec.stages.values())
        if spec.accumulator.min_lsb_exponent < -RANGE:
            raise Unsupported(f"{spec.accumulator.name} has numbers below those of float64 lanes")
        for fmt in (spec.a, spec.b, spec.c_format, spec.accumulator, *([spec.widen] if spec.widen else [])):
            if not LOWEST_NORMAL <= fmt.min_exponent <= HIGHEST_POWER:  # what a subnormal of the format aligns with
                raise Unsupported(f"{fmt.name} aligns with exponents beyond those of normal numbers of float64 lanes")
        self.handover = handover(spec)
        scale = spec.scale
        product = _product(_of_format(spec.a, spec.widen), _of_format(spec.b, spec.widen))
        self.min_product_exponent = sum(lowest_exponent(f, spec.widen) for f in (spec.a, spec.b))
        infinite = spec.infinite_from is not None and product.top > spec.infinite_from
        self.infinite_from: float | None = None
        if infinite and spec.infinite_from is not None:  # only a zero product lies below its last place
            self.infinite_from = 2.0 ** max(spec.infinite_from, _in_range(product).lsb)
        scale_formats = [level.format for side in spec.scales for level in side.levels]
        for fmt in scale_formats:
            if fmt.kind == "integer":
                _check_register(fmt)
        scale_levels = [_of_format(fmt) for fmt in scale_formats]
        folded_bits = significand_bits(spec.a) + significand_bits(spec.b) + sum(s.bits for s in scale_levels)
        self.whole_products = spec.a.kind == spec.b.kind == "integer"
        # A zero product of integers is +0, but a scale may make a zero negative, by its own sign or by being zero. A scale
        # multiplied into its operand comes too early for that.
        signed_zeros = self.whole_products and any(fmt.signed or fmt.zero for fmt in scale_formats)
        self.scales_fold = (
            scale is not None
            and bool(scale_formats)
            and not scale.power
            and not (signed_zeros and (self.first.zero == "ieee" or self.first.opposing == "complement"))
            and scale.onto == "products"
            and scale.product is None
            and scale.result is None
            and folded_bits <= LANE_BITS
            and self.infinite_from is None
            and self.sparsity is None  # a scale's group has more elements of one operand than of the other
        )
        if self.scales_fold and scale:
            self.min_product_exponent += sum(lowest_exponent(fmt, None) for fmt in scale_formats)
        self.product_bits = significand_bits(spec.a) + significand_bits(spec.b)
        self.product_growth = product.growth
        self.scaled_bits = 0
        level = self._scaled(product, -1, scale_levels)
        # The first stage sums products straight from the operands, unless a term needs more than one part.
        unscaled = spec.scaled_stage != -1 or self.scales_fold
        self.fused_products = (
            level.parts == 1
            and unscaled
            and self.first.opposing == "negate"  # else the sign of every product counts
            and self._sum(self.first, level, with_running=False).plain
        )
        self.lane = self._lane(product)
        self.levels: list[Level] = []
        self.addends: list[tuple[Level, ...]] = []
        """Bounds on a term of each stage, then on its running value if it has one."""
        for index, stage in enumerate(self.stages):
            summed = self._sum(stage, level)
            self.addends.append((level, self._running(stage)) if stage.accumulator else (level,))
            if stage.remainder:
                _check_register(stage.remainder.format)
            self.levels.append(summed)
            result = summed
            for register in stage.result:
                result = _of_format(register.format)
                _check_register(register.format, register.random_bits or 0)
            level = self._scaled(result, index, scale_levels)
        self.narrow = self._narrow()

    def holds_terms(self, index: int) -> bool:
        """Return whether each block of a stage is one term that fits its register, so that nothing is rounded."""
        stage = self.stages[index]
        if stage.terms > 1 or stage.accumulator or stage.aligned or len(stage.result) != 1:
            return False
        ((term,), (register,)) = self.addends[index], stage.result
        fmt = register.format
        return (
            fmt.kind == "float"
            and term.parts == 1
            and term.bits <= significand_bits(fmt)
            and term.lsb >= (fmt.min_exponent if register.subnormals == "flush" else fmt.min_lsb_exponent)
            and term.top <= fmt.max_exponent
            and fmt.nan != "negative-zero"
            and (register.overflow or fmt.overflow) in ("ieee", "infinity")
        )

    def adds_in_one(self, index: int, parts: int) -> bool:
        """Return whether the sum of `parts` parts of a stage can be rounded to a double first without changing the result.

        This holds for two addends no wider than a register that rounds to nearest even at less than half a double's
        precision (Figueroa 1995).
        """
        stage = self.stages[index]
        several = index == 0 and self.fused_products and stage.terms > 1  # a part is the sum of many terms
        if stage.aligned or parts != 2 or not stage.result or several or stage.remainder:
            return False
        fmt, terms = stage.result[0].format, self.addends[index]
        precision = fmt.mantissa_bits + 1
        return (
            fmt.kind == "float"
            and stage.result[0].rounding is Rounding.NEAREST_EVEN
            and 2 * precision + 2 <= LANE_BITS
            and all(t.parts == 1 and t.bits <= precision and t.lsb >= fmt.min_lsb_exponent for t in terms)
            and all(t.top <= fmt.max_exponent + 1 for t in terms)
        )

    @property
    def first(self) -> Stage:
        """The first stage, which sums products."""
        return self.stages[0]

    @property
    def operands_fit_fp32(self) -> bool:
        """True if FP32 holds every number of A and B; a product in its range says nothing of them."""
        return all(fmt.kind == "integer" or FP32.holds(fmt) for fmt in (self.spec.a, self.spec.b))

    @property
    def neutral(self) -> float:
        """Zero from which a sum of products starts: the negative one, unless no product is a negative zero."""
        return -0.0 if self.first.zero == "ieee" and not self.whole_products else 0.0

    @property
    def highest_unit(self) -> int:
        """Largest exponent of the last place that a term of the first stage keeps."""
        return aligned_to(self.first, self.addends[0]) - (self.first.fraction_bits or 0)

    @property
    def lane_name(self) -> str:
        """C type of a lane."""
        return "float" if self.lane == "float32" else "double"

    def _scaled(self, level: Level, index: int, scales: list[Level]) -> Level:
        """Return the bounds on the results of a stage after their scales."""
        scale = self.spec.scale
        if scale is not None and index == self.spec.scaled_stage:
            count = len(scale.a.levels) if scale.a else 0
            sides = [_in_range(reduce(_product, side)) for side in (scales[:count], scales[count:]) if side]
            if index < 0:
                self._check_operands(level, scales[:count], scales[count:])
            factor = _in_range(reduce(_product, sides or [Level(1, 0, 1, 1, 0)]))
            if factor.parts > 1:
                raise Unsupported("the product of the scales is wider than a lane")
            if scale.product:
                _check_register(scale.product.format)
                factor = _of_format(scale.product.format)
            shifted = {name: getattr(factor, name) + scale.power for name in ("lsb", "top", "highest")}
            factor = replace(factor, **shifted)
            self.scaled_bits = level.bits + factor.bits
            level = _product(level, factor)
            if scale.result:
                _in_range(level)
                _check_register(scale.result.format)
                level = _of_format(scale.result.format)
        return _in_range(level)

    def _check_operands(self, product: Level, of_a: list[Level], of_b: list[Level]) -> None:
        """Raise Unsupported for products, or operands with their scales where these are folded, beyond lanes."""
        if not self.scales_fold:
            _in_range(product)
            return
        for fmt, levels in ((self.spec.a, of_a), (self.spec.b, of_b)):
            _in_range(reduce(_product, levels, _of_format(fmt)))

    def _running(self, stage: Stage) -> Level:
        """Return the bounds on a running value: a number of its register or, in the last stage, of C's format."""
        running = _of_format(self.spec.accumulator if not stage.result else stage.result[-1].format)
        if stage is self.stages[-1]:
            running = _widest(running, _of_format(self.spec.c_format))
        growth = running.growth + max(-stage.offset, 0)
        return replace(running, growth=growth, highest=running.highest + stage.offset)

    def _sum(self, stage: Stage, term: Level, with_running: bool = True) -> Level:
        """Return the bounds on the sum of a block of terms and, if asked for, the running value."""
        running = self._running(stage)
        takes = bool(stage.accumulator) and with_running
        count = stage.terms + takes
        if stage.remainder:
            rest = _of_format(stage.remainder.format)
            term = replace(_widest(term, rest), parts=term.parts)
            count += 1
        if stage.opposing == "complement":  # a unit of the last place for each term
            term = replace(term, lsb=term.lsb - term.growth - (stage.fraction_bits or 0))
            running = replace(running, lsb=running.lsb - running.growth - (stage.fraction_bits or 0))
            count *= 2
        growth = max(term.growth, running.growth if takes else 0) + (count - 1).bit_length()
        lsb = min(term.lsb, running.lsb) if takes else term.lsb
        highest = aligned_to(stage, [term, running] if takes else [term])
        top = (max(term.top, running.top) if takes else term.top) + (count - 1).bit_length()
        parts = term.parts * (stage.terms + bool(stage.remainder)) + takes
        kept = 0
        fixed = stage.exponent or 0
        if fixed < -RANGE or highest > RANGE:
            raise Unsupported("an alignment exponent reaches beyond those of float64 lanes")
        if stage.fraction_bits is None:
            bits = top - lsb
        else:
            own = stage.accumulator_fraction_bits if takes else None
            least, kept = sorted((stage.fraction_bits, stage.fraction_bits if own is None else own))
            bits = growth + kept
            if stage.rounding in (Rounding.UP, Rounding.DOWN, Rounding.TO_ODD):  # the smallest term may become one unit
                unit = highest - least
                top = max(top, unit + (count - 1).bit_length())
                if lsb - unit < LOWEST_NORMAL:
                    raise Unsupported("a term so far below the unit that it vanishes before it is rounded")
            top += stage.rounding is not Rounding.TOWARD_ZERO
            if term.parts > 1 and term.growth + stage.fraction_bits > ODD_BITS:
                raise Unsupported(f"{stage.fraction_bits} fraction bits of terms wider than a lane")
            parts = count
        plain = bits <= LANE_BITS
        whole = self.spec.is_integer or any(r.format.kind == "integer" for r in stage.result)
        if whole and max(top, significand_bits(self.spec.accumulator)) >= LANE_BITS:
            raise Unsupported(f"sums of {top} bits are wider than a lane")
        if growth + kept > RANGE:
            raise Unsupported("a term reaches too far above the exponent it aligns with")
        if stage.exponent is not None:
            growth, highest = top - stage.exponent, stage.exponent
        parts = 1 if plain else parts
        return _in_range(Level(min(bits, LANE_BITS), lsb, top, growth, highest, parts, plain, bits, kept))

    def _lane(self, product: Level) -> Literal["float32", "float64"]:
        """Return float32 where every cut product and their sum fit its 24 bits and lie far inside its range."""
        stage = self.first
        narrow = (
            self.fused_products
            and stage.fraction_bits is not None
            and self.spec.scaled_stage != -1
            and product.bits <= 24
            and self.operands_fit_fp32
            and stage.fraction_bits + product.growth + stage.terms.bit_length() <= 24
            and product.lsb > -60
            and product.top < 60
            and self._highest(product) - stage.fraction_bits
            < 150  # an infinite product times the inverse unit stays one
            # a tiny product must not vanish before a rounding that depends on its sign or presence
            and stage.rounding in (Rounding.TOWARD_ZERO, Rounding.NEAREST_EVEN, Rounding.NEAREST_AWAY)
        )
        return "float32" if narrow else "float64"

    def _highest(self, product: Level) -> int:
        """Return the highest exponent that the first stage aligns to."""
        stage = self.first
        return aligned_to(stage, [product, *([self._running(stage)] if stage.accumulator else [])])

    def _narrow(self) -> bool:
        """Return whether single precision holds a step of the first stage, with its running value and register."""
        stage = self.first
        if self.lane_name != "float" or not stage.accumulator or len(stage.result) != 1:
            return False
        (register,) = stage.result
        fmt = register.format
        stored = (fmt, self.spec.c_format, self.spec.accumulator)
        formats = {(f.min_exponent, f.max_exponent) for f in stored if f.kind == "float"}
        zero = stage.zero_exponent
        return (
            formats == {(-126, 127)}
            and self.levels[0].sum_bits <= 24
            and stage.rounding is Rounding.TOWARD_ZERO
            and stage.accumulator_fraction_bits == stage.fraction_bits
            and stage.drop_beyond is None
            and not stage.offset
            and stage.zero == "positive"
            and (zero is None or zero < min(-126, self.min_product_exponent))
            and register.rounding is Rounding.TOWARD_ZERO
            and register.subnormals == "keep"
            and (register.overflow or fmt.overflow) in ("infinity", "ieee", "saturate")
        )


def aligned_to(stage: Stage, addends: Iterable[Level]) -> int:
    """Return the largest exponent that a block of a stage can be aligned to."""
    of_terms = max(level.highest for level in addends)
    return of_terms if stage.zero_exponent is None else max(of_terms, stage.zero_exponent)


def _widest(x: Level, y: Level) -> Level:
    sums = max(x.top, y.top), max(x.growth, y.growth), max(x.highest, y.highest)
    return Level(max(x.bits, y.bits), min(x.lsb, y.lsb), *sums)


def _check_register(fmt: Format, random_bits: int = 0) -> None:
    if fmt.mantissa_bits + random_bits > LANE_BITS - (3 if fmt.kind == "float" else 1):
        raise Unsupported(f"{fmt.name}{' with its random bits' if random_bits else ''} is as wide as the lanes")
    if fmt.kind == "float" and not -RANGE <= fmt.min_lsb_exponent <= fmt.max_exponent <= RANGE:
        raise Unsupported(f"{fmt.name} has numbers beyond those that lanes round to")


def _in_range(level: Level) -> Level:
    if not -RANGE <= level.lsb <= level.top <= RANGE:
        raise Unsupported("exponents reach beyond those of float64 lanes")
    return level
