"""Bounds on the numbers in an instruction: on the terms and the sums of every stage, from the spec alone.

They tell which bins of coverage no operands can fall into.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction

from isa_model import golden
from isa_model.codec import Number, decode
from isa_model.formats import Format
from isa_model.golden import Term
from isa_model.instruction import Instruction
from isa_model.stage import Register, Stage


@dataclass(frozen=True)
class Reach:
    """Bounds on the nonzero numbers of one level: products, results of a stage, or C."""

    lo: int
    """Smallest alignment exponent."""
    hi: int
    """Largest alignment exponent."""
    last: int
    """Exponent of the last place: every number is a multiple of 2**last."""
    least: int
    """Exponent of the smallest magnitude."""
    largest: Number
    """Largest magnitude."""
    ratio: Fraction
    """Largest ratio of a magnitude to 2**(its alignment exponent)."""
    bits: int
    """Most significant bits of a number."""
    grain: int
    """Most places below a number's alignment exponent: it is a multiple of 2**(its alignment exponent - grain)."""
    signed: bool
    """True if numbers may be negative."""
    spread: int = 0
    """Largest difference of the exponents of two numbers in one block."""

    @property
    def term(self) -> Term:
        """Largest number as a term, with the largest alignment exponent."""
        return Term(self.largest, self.hi)


def of_format(fmt: Format, flush: bool | str = False) -> Reach:
    """Return the bounds of a format's numbers; with `flush`, without its subnormals."""
    top = decode(fmt, fmt.max_finite_magnitude << fmt.low_padding)
    m, lo, hi = fmt.mantissa_bits, fmt.min_exponent, fmt.max_exponent
    if fmt.kind == "integer":
        return Reach(0, 0, 0, 0, top, Fraction(1 << m), m, 0, fmt.signed)
    last = fmt.min_lsb_exponent
    return Reach(lo, hi, last, lo if flush else last, top, 2 - Fraction(1, 1 << m), m + 1, m, fmt.signed, hi - lo)


def times(x: Reach, y: Reach) -> Reach:
    """Return the bounds of products."""
    return Reach(
        lo=x.lo + y.lo,
        hi=x.hi + y.hi,
        last=x.last + y.last,
        least=x.least + y.least,
        largest=golden.times(x.term, y.term).number,
        ratio=x.ratio * y.ratio,
        bits=x.bits + y.bits if min(x.bits, y.bits) > 1 else max(x.bits, y.bits),
        grain=x.grain + y.grain,
        signed=x.signed or y.signed,
        spread=x.spread + y.spread,
    )


def _shifted(x: Reach, power: int) -> Reach:
    """Return the bounds of the numbers of a level times 2**power."""
    largest = replace(x.largest, exponent=x.largest.exponent + power)
    return replace(x, lo=x.lo + power, hi=x.hi + power, last=x.last + power, least=x.least + power, largest=largest)


def in_register(x: Reach, register: Register) -> Reach:
    """Return the bounds of the numbers of a level after they are rounded to a register."""
    fmt = register.format
    full = of_format(fmt)
    kept = golden.rounded(x.term, register).number
    largest = full.largest if kept.special or kept.is_zero else kept
    lo = max(full.lo, x.least)
    hi = max(largest.leading_exponent, lo) if fmt.kind == "float" else 0
    return replace(
        full,
        lo=lo,
        hi=hi,
        last=max(full.last, x.last),
        least=max(full.lo if register.subnormals == "flush" else full.last, x.least),
        largest=largest,
        bits=min(full.bits, x.bits),
        signed=x.signed,
        spread=hi - lo,
    )


@dataclass(frozen=True)
class SumReach:
    """Bounds on the sums of one stage, and on the numbers that are summed."""

    terms: Reach
    running: Reach | None
    """Bounds of the running value, C in the last stage; None if it is always zero."""
    total: Reach
    """Bounds of the sum before it is rounded."""
    kept: int
    """Places that an aligned sum keeps below the largest exponent, of whichever keeps more, terms or running value."""
    carry: int
    """Most places of a sum's leading bit above the largest alignment exponent."""
    width: int
    """Most places of a sum, from its leading bit to its last."""
    cancels: int
    """Most places below the largest alignment exponent that can remain when larger terms cancel."""


class Reaches:
    """Bounds on every level of an instruction, from the products up."""

    def __init__(self, spec: Instruction) -> None:
        self.spec = spec
        self.products = self._products()
        level = self.products
        self.scale_factor = self._scale_factor()
        self.scaled_term: Reach | None = None
        """Bounds of the terms times their scales, before `scale.result` rounds them."""
        self.sums: list[SumReach] = []
        if spec.scaled_stage == -1:
            level = self._scaled(level, -1)
        for index, stage in enumerate(spec.stages.values()):
            level = self._stage(index, stage, level)
            if spec.scaled_stage == index:
                level = self._scaled(level, index)

    def _products(self) -> Reach:
        product = times(*(of_format(fmt, self.spec.flush_operands) for fmt in (self.spec.a, self.spec.b)))
        limit = self.spec.infinite_from
        if limit is None or product.largest.leading_exponent < limit:
            return product
        hi = min(product.hi, limit - 1)
        return replace(product, hi=hi, largest=Number(False, 1, limit - 1), spread=hi - product.lo)

    def _scale_factor(self) -> Reach | None:
        """Return the bounds of the factor that scales multiply a term by."""
        scale = self.spec.scale
        if scale is None:
            return None
        levels = [of_format(side.format) for side in (scale.a, scale.b) if side]
        if not levels:
            return None
        self.scale_product = times(*levels) if len(levels) == 2 else levels[0]
        return in_register(self.scale_product, scale.product) if scale.product else self.scale_product

    def _scaled(self, level: Reach, index: int) -> Reach:
        scale, factor = self.spec.scale, self.scale_factor
        assert scale is not None
        result = self.scaled_term = _shifted(times(level, factor) if factor else level, scale.power)
        if scale.result:
            result = in_register(result, scale.result)
        if factor is None:
            return result
        group = min(side.group[axis] for side, axis in ((scale.a, 1), (scale.b, 0)) if side)
        above = list(self.spec.stages.values())[index + 1]
        one_group = group >= self.spec.products_per_result(index) * above.dealt
        return replace(result, spread=level.spread) if one_group else result

    def _stage(self, index: int, stage: Stage, terms: Reach) -> Reach:
        if index == len(self.spec.stages) - 1:
            sums = self._sum(stage, terms, of_format(self.spec.c_format, self.spec.flush_c))
            self.sums.append(sums)
            return sums.total
        sums = self._sum(stage, terms, None)
        for _ in range(1, min(stage.chain or 1, 64)):
            sums = self._sum(stage, terms, self._result(stage, sums))
        self.sums.append(sums)
        return self._result(stage, sums)

    @staticmethod
    def _result(stage: Stage, sums: SumReach) -> Reach:
        level = sums.total
        for register in stage.result:
            level = in_register(level, register)
        if not stage.result and stage.exponent is not None:
            e = stage.exponent
            ratio = Fraction(level.largest.exact()) / Fraction(2) ** e
            return replace(level, lo=e, hi=e, ratio=ratio, grain=max(e - level.last, 0), spread=0)
        return level

    @staticmethod
    def _sum(stage: Stage, terms: Reach, running: Reach | None) -> SumReach:
        sides = [terms, running] if running else [terms]
        zero = stage.zero_exponent
        bottom = [s.lo if zero is None else max(s.lo, zero) for s in sides]
        hi = max([s.hi for s in sides] + ([zero] if zero is not None else []))
        ratio = terms.ratio * stage.terms + (running.ratio if running else 0)
        last = min(s.last for s in sides)
        kept = max(stage.fraction_bits or 0, (stage.accumulator_fraction_bits or 0) if running else 0)
        grain = hi - last
        if stage.aligned:
            last, grain = max(last, min(bottom) - kept), kept
        largest, _ = golden.add(stage, [terms.term] * stage.terms, running.term if running else None)
        if largest.is_zero:  # every term is below the window, which a zero's exponent sets
            largest = Number(False, 1, last)
        carry = max((ratio.numerator // ratio.denominator).bit_length() - 1, 0)
        lo = min(bottom)
        alone = stage.terms == 1 and running is None
        total = Reach(
            lo=lo,
            hi=hi,
            last=last,
            least=max(terms.least, last) if alone else last,
            largest=largest,
            ratio=ratio,
            bits=terms.bits if alone else largest.leading_exponent - last + 1,
            grain=grain,
            signed=any(s.signed for s in sides),
            spread=hi - lo,
        )
        if not stage.aligned:
            width = cancels = total.bits
        elif stage.terms > 1 or running is None:
            width, cancels = carry + kept + 1, kept
        else:
            width, cancels = _of_two(stage, terms, running)
        return SumReach(terms, running, total, kept, carry, width, cancels)


def _of_two(stage: Stage, term: Reach, running: Reach) -> tuple[int, int]:
    """Return `width` and `cancels` of an aligned sum of one term and the running value, over all their distances."""
    bits, running_bits = stage.fraction_bits or 0, stage.accumulator_fraction_bits or 0
    width = cancels = 0
    for above, below, kept_above, kept_below in (
        (term, running, bits, running_bits),
        (running, term, running_bits, bits),
    ):
        for distance in range(kept_below + 2):
            finest = max(min(kept_above, above.grain), min(kept_below, below.grain + distance))
            ratio = above.ratio + below.ratio / 2**distance
            width = max(width, finest + (ratio.numerator // ratio.denominator).bit_length())
            if below.ratio >= 1 << distance:
                cancels = max(cancels, finest)
    return width, cancels
