"""Sizes of a unit's blocks, from an instruction alone: what the generator would build, counted instead of built.

The walk follows `rtl/unit.py` with one number in place of all terms that are alike, and keeps only widths and ranges. Sizes
count what a block is made of: bits of a multiplier's array, of a shifter's multiplexers, of compressors, of carries. A size
whose name starts with `path` counts what a signal passes on its way, one with `held` bits times the time that they wait.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from math import log, log2

from codesign.evidence.cost.rtl.block_counts import WIDE, BlockCounts, left, right
from codesign.evidence.cost.rtl.ports import check, scale_inputs, shared_uses, sums_integers, sums_two
from codesign.evidence.cost.rtl.widths import ExponentRange, TermWidths, reach_of
from isa_model.diagnostics import InputError
from isa_model.formats import Format
from isa_model.instruction import Instruction
from isa_model.rounding import Rounding
from isa_model.stage import Register, Stage

WIDEST = 128
"""As in `rtl.term_sums`: largest width of a fixed-point sum, in bits."""


def sizes(spec: Instruction) -> Counter[str]:
    """Return the sizes of the blocks of an instruction's unit, by kind.

    Raises InputError if the generator does not support the instruction.
    """
    check(spec)
    return _Walk(spec).sizes


class _Walk(BlockCounts):
    """The generator's way through an instruction, counting."""

    def __init__(self, spec: Instruction) -> None:
        super().__init__()
        self.spec = spec
        self.add("unit", 1)
        if spec.is_integer:
            (stage,) = spec.stages.values()
            self.integers(spec.span, stage.result[-1].format.mantissa_bits, 1)
            return
        self.keys = self.factor_keys()
        count, running = spec.span, self.decode(spec.c_format, 1)
        term = self.products(count)
        if spec.scaled_stage == -1:
            term = self.onto(term, count)
        *inner, last = spec.stages.values()
        for index, stage in enumerate(inner):
            chain = stage.chain or 1
            count //= stage.terms * chain
            if index == 0 and sums_integers(spec):
                register = stage.result[0].format
                least = min(f.lowest for f in (spec.a, spec.b)) * max(f.max_finite_magnitude for f in (spec.a, spec.b))
                used = (abs(least) * stage.terms * chain).bit_length() + 1
                bits = (
                    register.mantissa_bits + min(register.mantissa_bits, used)
                ) // 2  # what synthesis makes of signs
                self.integers(stage.terms, bits, count * chain)
                term = replace(self.decode(register, count), width=bits, height=bits)
            else:
                zero = self.from_fields(stage.result[-1].format) if stage.accumulator else None
                below = spec.span // count // chain // stage.terms
                term = self.run(stage, term, zero, count, chain, below)
            if spec.scaled_stage == index:
                term = self.onto(term, count)
        count //= last.terms
        below = spec.span // count // last.terms
        if spec.remainder:
            self.two_registers(last, term, running, below)
            return
        result = self.run(last, term, running, 1, count, below)
        kept = last.result[-1].format
        if (kept.exponent_bits, kept.bias) != (spec.accumulator.exponent_bits, spec.accumulator.bias):
            result = self.rounded(result, Register(format=spec.accumulator, rounding=Rounding.NEAREST_EVEN), 1)
        self.add("encode", spec.accumulator.bits)

    # -- numbers -------------------------------------------------------------------------------------------------------

    def decode(self, fmt: Format, count: float, operand: bool = False) -> TermWidths:
        """Count decoders of a format, and return its numbers."""
        if fmt.kind == "integer":
            self.add("decode", count * fmt.mantissa_bits * (2 if fmt.signed else 1))
            return TermWidths(fmt.mantissa_bits, ExponentRange(0, 0, 0), 0, fmt.mantissa_bits)
        term = self.from_fields(fmt)
        if fmt.kind == "table":
            self.add("table", count * (1 << fmt.bits) * (term.width + term.position.bits) / 8)
            return term
        self.add("decode", count * fmt.bits)
        widen = self.spec.widen if operand else None
        flush = bool(self.spec.flush_operands if operand else self.spec.flush_c and fmt == self.spec.c_format)
        places = 0 if flush or widen is None else min(fmt.mantissa_bits, fmt.min_exponent - widen.min_exponent)
        if not places:
            return term
        self.add("zeros", count * term.width)
        self.add("shift", count * term.width * places.bit_length())
        p = term.position
        return replace(term, position=ExponentRange(p.low, p.top + places, p.offset - places))

    def products(self, count: int) -> TermWidths:
        """Count decoders and multipliers of the products, and return them."""
        spec = self.spec
        if sums_integers(spec):
            return TermWidths(0, ExponentRange(0, 0, 0), 0, 0)
        x, y = self.decode(spec.a, count, True), self.decode(spec.b, count, True)
        term = self.times(x, y, count)
        if spec.infinite_from is not None:
            self.add("decode", count * term.width)
            term = replace(term, flags=term.flags + 1)
        self.add("path multiply", x.width + y.width)
        return term

    def times(self, x: TermWidths, y: TermWidths, count: float) -> TermWidths:
        """Count multipliers, and return their products."""
        flags = x.flags + y.flags
        if y.power:
            scaled = y.position if x.common is None else self.plus(x.common, y.position, count)
            return replace(x, common=scaled, flags=flags)
        if x.power:
            return self.times(y, x, count)
        self.multiply(x.width, y.width, count)
        position = self.plus(x.position, y.position, count)
        align = None if x.align is None else self.plus(x.align, y.position, count)
        width = x.width + y.width - (min(x.width, y.width) == 1)
        common = x.common or y.common
        return TermWidths(width, position, x.depth + y.depth, x.height + y.height, common, align, flags=flags)

    # -- scales --------------------------------------------------------------------------------------------------------

    def factor_keys(self) -> list[tuple[int, ...]]:
        """Return for each product of a step the numbers of its scales."""
        inputs = scale_inputs(self.spec)
        return [tuple(k // port.k_group for port in inputs) for k in range(self.spec.span)] if inputs else []

    def onto(self, term: TermWidths, count: int) -> TermWidths:
        """Count products of scales and their application, and return the scaled terms."""
        spec, scale = self.spec, self.spec.scale
        assert scale is not None
        if self.keys:
            span, uses = spec.span // count, shared_uses(spec)
            factors = len({self.keys[i * span] for i in range(count)}) / uses
            first, *others = scale_inputs(spec)
            factor = self.decode(first.level.format, factors)
            for port in others:
                other = self.decode(port.level.format, factors)
                powers = factor.power and other.power
                if powers:
                    factor = replace(factor, position=self.plus(factor.position, other.position, factors))
                else:
                    factor = self.times(factor, other, factors)
            if scale.product:
                factor = self.rounded(factor, scale.product, factors, path=uses == 1)
            if uses > 1:
                self.add("held factor", factor.width + factor.position.bits)
            term = self.times(term, factor, count)
            self.add("path scale", 1 if factor.power else term.width)
        if scale.result:
            term = self.rounded(term, scale.result, count)
        return term

    # -- sums ----------------------------------------------------------------------------------------------------------

    def run(
        self, stage: Stage, term: TermWidths, running: TermWidths | None, count: int, chain: int, below: int
    ) -> TermWidths:
        """Count `count` chains of sums, each of `chain` blocks of terms of `below` products, and return the results."""
        self.add("held chain", count * (chain - 1) * stage.terms * (term.width + term.position.bits))
        for _ in range(chain):
            total = self.sum(stage, term, running, count, below)
            for register in stage.result:
                total = self.rounded(total, register, count)
            if stage.accumulator:
                running = total
        return total

    def two_registers(self, stage: Stage, term: TermWidths, running: TermWidths, below: int) -> None:
        """Count the last step of a running value in two registers, and D."""
        spec, remainder, register = self.spec, stage.remainder, stage.result[-1]
        assert remainder
        exact = stage.model_copy(update={"fraction_bits": None, "rounding": None, "terms": 1})
        kept = replace(self.decode(remainder.format, 1), flags=0)
        again = self.decode(register.format, 1)
        self.add("flip", again.width + again.position.bits)  # C or the first register
        if again.width < running.width:
            again = replace(again, position=running.position, width=running.width, normal=False)
        if remainder.joins == "block":
            own = stage.model_copy(update={"result": (remainder.register,)})
            term = self.rounded(self.sum(own, term, kept, 1, below), remainder.register, 1)
            stage = stage.model_copy(update={"terms": 1})
        everything = [*[term] * stage.terms, again, *([kept] if remainder.joins == "sum" else [])]
        if stage.aligned or reach_of([replace(t, position=t.whole, common=None) for t in everything]) <= WIDEST:
            total = self.sum(stage, term, again, 1, below, kept if remainder.joins == "sum" else None)
        elif sums_two(spec):
            total = self.sliding_sum(stage, term, again, 1)
        else:
            raise InputError.of(
                f"an exact sum over {reach_of(everything)} bits has no remainder in hardware; fixed-point sums go up to "
                f"{WIDEST} bits",
                "give the stage `fraction_bits`; `joins: block` also works in one format to nearest, of C and both registers",
            )
        value = self.rounded(total, register, 1)
        self.add("shift", total.width * total.width.bit_length())
        self.add("flip", total.width)
        self.add("carry", total.width)
        lost = replace(total, flags=0, align=None, normal=False)
        if remainder.joins == "end":
            own = exact.model_copy(update={"result": (remainder.register,)})
            lost = self.sum(own, lost, kept, 1, below)
        self.rounded(lost, remainder.register, 1)
        own = exact.model_copy(update={"result": (spec.joining,)})
        self.rounded(self.sum(own, kept, value, 1, below), spec.joining, 1)
        self.add("encode", spec.accumulator.bits + register.format.bits + remainder.format.bits)

    def sum(
        self,
        stage: Stage,
        term: TermWidths,
        running: TermWidths | None,
        count: int,
        below: int,
        rest: TermWidths | None = None,
    ) -> TermWidths:
        """Count blocks that add terms, a running value and its second register, and return the sums."""
        terms = [*[term] * stage.terms, *([rest] if rest else [])]
        everything = terms if running is None else [*terms, running]
        self.add("flags", count * sum(t.flags for t in everything))
        groups = 1
        if term.common is not None and self.keys:
            groups = len({self.keys[i * below] for i in range(stage.terms)})
        if groups > 1 and not stage.aligned:
            terms = [replace(t, position=t.whole, common=None) for t in terms]
            everything = terms if running is None else [*terms, running]
        if stage.aligned:
            total = self.aligned_sum(stage, term, running, count, groups, rest)
        elif len(everything) == 1 and stage.exponent is None:
            return term
        elif reach_of(everything) <= WIDEST:
            total = self.fixed_point_sum(stage, everything, count)
        elif len(everything) == 2 and stage.result:
            total = self.sliding_sum(stage, everything[0], everything[1], count)
        elif running is not None and reach_of(terms) <= WIDEST and stage.result:
            total = self.sliding_sum(stage, self.fixed_point_sum(stage, terms, count), running, count)
        else:
            raise InputError.of(
                f"an exact sum of {len(everything)} terms over {reach_of(everything)} bits is not supported in hardware; "
                f"fixed-point sums go up to {WIDEST} bits",
                "give the stage fraction_bits, or fewer terms and a result",
            )
        return replace(total, flags=3 if any(t.flags for t in everything) else 0)

    def aligned_sum(
        self,
        stage: Stage,
        term: TermWidths,
        running: TermWidths | None,
        count: int,
        groups: int,
        rest: TermWidths | None = None,
    ) -> TermWidths:
        """Count a window: the largest exponent, a shifter for each term, and an adder."""
        assert stage.fraction_bits is not None
        if running is not None:
            running = replace(running, depth=running.depth + stage.offset, height=running.height - stage.offset)
        own = stage.accumulator_fraction_bits or 0
        finest = max(stage.fraction_bits, own) if running is not None else stage.fraction_bits
        aligns = [t.align or t.position for t in ((term,) if running is None else (term, running))]
        base = min(t.least + t.depth for t in ((term,) if running is None else (term, running)))
        tops = [t.most + t.depth - base for t in ((term,) if running is None else (term, running))]
        if stage.zero_exponent is not None:
            base = min(base, stage.zero_exponent) if not stage.result else base
            tops.append(stage.zero_exponent - base)
        largest = ExponentRange(0, max(tops), base)
        candidates = groups + (running is not None)
        self.add("maximum", count * ((stage.terms - groups) * aligns[0].bits + (candidates - 1) * largest.bits))
        self.add("exponent", count * (groups if term.common else 0) * largest.bits)
        self.add("gated", count * sum(n * a.bits for n, a in zip((stage.terms, 1), aligns, strict=False)))
        own_levels = log2(max(stage.terms // groups, 1)) * (1 + aligns[0].bits / 2)
        levels = own_levels + log2(candidates) * (1 + largest.bits / 2) + (term.common is not None) * largest.bits
        self.add("path maximum", levels)
        self.add("held products", count * stage.terms * (term.width + aligns[0].bits) * levels)
        # Terms of one group lie as far apart as their own exponents can be, others as far as the largest exponents.
        reach = aligns[0].bits if candidates == 1 else largest.bits
        lengths = [self.shifters(stage, term, stage.fraction_bits, groups, count, stage.terms, reach)] * stage.terms
        weights = [finest - stage.fraction_bits] * stage.terms
        if running is not None:
            lengths.append(self.shifters(stage, running, own, 1, count, 1, reach))
            weights.append(finest - own)
        if rest is not None:
            self.add("maximum", count * largest.bits)
            lengths.append(self.shifters(stage, rest, stage.fraction_bits, 1, count, 1, reach))
            weights.append(finest - stage.fraction_bits)
        step = stage.rounding in (Rounding.NEAREST_EVEN, Rounding.NEAREST_AWAY, Rounding.UP, Rounding.DOWN)
        # Where the terms reach no further down than their exponents can differ, the places below hold zeros.
        unused = 0
        if candidates == 1:
            unused = max(lengths[0] - term.width - aligns[0].top, 0)
            lengths = [n - unused for n in lengths]
        width = self.signed_sum(lengths, weights, not step, count)
        low = finest - unused
        return TermWidths(width, replace(largest, offset=largest.offset - low), low, width - low)

    def fixed_point_sum(self, stage: Stage, terms: Sequence[TermWidths], count: int) -> TermWidths:
        """Count an exact sum of numbers in fixed point, each shifted to its place."""
        common = terms[0].common if all(t.common == terms[0].common for t in terms) else None
        own = [t if common is None else replace(t, common=None) for t in terms]
        unit = min(t.least for t in own)
        lengths = []
        for term in own:
            width = term.most + term.width - unit
            self.add("shift", count * left(term.width, width, (term.most - unit).bit_length()))
            lengths.append(term.most + term.width - term.least)
        self.add("path shift", (max(t.most for t in own) - unit).bit_length())
        width = self.signed_sum(lengths, [t.least - unit for t in own], True, count)
        align = None
        if stage.exponent is None and not stage.result:
            positions = [t.align or t.position for t in own]
            self.add("maximum", count * sum(p.bits for p in positions[1:]))
            align = positions[0]
        height = max(t.height for t in terms) + (len(terms) - 1).bit_length() if align else width
        return TermWidths(width, ExponentRange(0, 0, unit), 0, height, common, align)

    def sliding_sum(self, stage: Stage, x: TermWidths, y: TermWidths, count: int) -> TermWidths:
        """Count an exact sum of two terms of wide range, one of which slides past the other."""
        register = stage.result[0].format
        precision = register.mantissa_bits + 1 + (stage.result[0].random_bits or 0)
        if not (x.normal and y.least >= x.least):
            self.normalise(x.width, count)
            p = x.whole
            reach = x.width - 1
            x = replace(x, position=ExponentRange(p.low, p.top + reach, p.offset - reach), common=None, normal=True)
        below = max(0, max(precision + 3, y.width + 2) - x.width)
        coarse = y.normal and precision <= y.width and register.min_lsb_exponent >= y.position.offset + y.position.low
        furthest = x.width + (2 if coarse else precision + 2)
        reach = below + furthest
        width = y.width + reach
        muxes, lost, stages = right(y.width, width, (furthest + y.width).bit_length())
        self.add("shift", count * muxes)
        self.add("sticky", count * lost)
        self.add("path shift", stages)
        bits = max(x.whole.bits, y.whole.bits)
        self.add("exponent", count * 3 * bits)
        self.add("path exponent", bits)
        self.add("held shifted", count * (width + x.width) * stages)
        total = self.signed_sum((x.width + below, width), (0, 0), True, count)
        low = min(y.least - furthest, x.least)
        top = max(y.most - furthest, x.most)
        return TermWidths(total, ExponentRange(0, top - low, low - below), 0, total)

    def integers(self, terms: int, bits: int, count: int) -> None:
        """Count products of integers in two's complement, their sum and the register."""
        a, b = self.spec.a.mantissa_bits, self.spec.b.mantissa_bits
        recoded = min(a, b) >= WIDE - 2 * (self.spec.b.signed or self.spec.a.signed)
        self.add("recoded" if recoded else "array", count * terms * a * b)
        self.add("array sum", count * terms * (a - 1) * (b - 1) * (not recoded))
        self.add("held array", count * terms * a * b)
        self.add("compress", count * ((terms - 1) * (a + b) + terms))
        self.add("carry", count * bits)
        self.add("path multiply", a + b)
        self.add("path compress", log((terms + 2) / 2, 1.5))
        self.add("path carry", bits)
        self.add("held sum", count * terms * (a + b))
        self.add("unit" if self.spec.is_integer else "encode", 0)
