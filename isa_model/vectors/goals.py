"""Goals for the vectors of an instruction: every bin of coverage that its spec implies, and why some are unreachable."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any, NamedTuple

from isa_model.instruction import Instruction
from isa_model.rounding import Rounding
from isa_model.stage import Register, Stage
from isa_model.vectors.observer import (
    APART,
    HAIR,
    NEAR,
    Bin,
    distance,
    fraction_bits,
    integer_edges,
    register_point,
    rounding_classes,
    window,
)
from isa_model.vectors.reach import Reach, Reaches, SumReach, of_format, times
from isa_model.vectors.vector import Specials

CLASSES = {"tie, even below": 1, "tie, odd below": 1} | {
    f"{name}, {side}": bits for name, bits in (("near tie", NEAR), ("hair", HAIR)) for side in ("below", "above")
}
"""Positions of a magnitude about halfway between its neighbours, with the bits that must be lost for each."""


def without(spec: Instruction) -> str:
    """Return why no goals are known for an instruction, whose vectors are then random; empty if they are."""
    stages = spec.stages.values()
    if "table" in {f.kind for f in (spec.a, spec.b, *(s.format for s in spec.scales))}:
        return "a format given by a table"
    if any(side.coarser for side in spec.scales):
        return "several levels of scales"
    if spec.is_stochastic:
        return "random bits"
    if any(s.remainder or s.opposing == "complement" or s.offset for s in stages):
        return "a remainder, inverted terms or offset exponents"
    return ""


class Goal(NamedTuple):
    """One bin that vectors of an instruction should fall into."""

    bin: Bin
    aim: tuple[Any, ...] = ()
    """Arguments for the construction of a vector, by the bin's category (directed.py)."""
    unreachable: str = ""
    """Reason why no operands can reach the bin; empty if some may."""


class Goals:
    """All goals of an instruction, and the bounds on its numbers."""

    def __init__(self, spec: Instruction) -> None:
        self.spec = spec
        self.reaches = Reaches(spec)
        self.stages: list[tuple[str, Stage]] = list(spec.stages.items())

    @cached_property
    def all(self) -> list[Goal]:
        """Every goal, category by category."""
        return [
            *self._special_values(),
            *self._alignment(),
            *self._places(),
            *self._rounding(),
            *self._cancellation(),
            *self._subnormals(),
            *self._overflow(),
            *self._scales(),
        ]

    def _special_values(self) -> Iterator[Goal]:
        spec = self.spec
        sides = {"A": Specials(spec.a), "B": Specials(spec.b), "C": Specials(spec.c_format)}
        for x, y in (("A", "B"), ("A", "C"), ("B", "C")):
            for first, first_code in sides[x].codes.items():
                for second, second_code in sides[y].codes.items():
                    bin = Bin("special values", f"{x} x {y}", f"{first} x {second}")
                    yield Goal(bin, (x, first_code, y, second_code))
        for side, specials in sides.items():
            fmt = specials.format
            has = {"NaN": fmt.nan_code is not None, "infinities": fmt.infinity, "negative zero": "-0" in specials.codes}
            for name, present in has.items() if fmt.kind == "float" else ():
                if not present:
                    yield Goal(Bin("special values", f"{side}: {name}", "all"), (), f"{fmt.name} has no {name}")

    def _sides(self, i: int) -> Iterator[tuple[bool, str, Reach | None, str]]:
        """Yield the terms of stage number `i`, then its running value if it has one.

        Each is given by whether it is the running value, its point, its bounds, and why it is always zero, if so.
        """
        (name, stage), sums = self.stages[i], self.reaches.sums[i]
        yield False, f"{name}: terms", sums.terms, ""
        if stage.accumulator:
            why = "" if sums.running else "the running value is always zero: one block to a chain"
            yield True, f"{name}: accumulator", sums.running, why

    def _signed(self, category: str, point: str, i: int, j: int, sign: str, whys: dict[str, str]) -> Iterator[Goal]:
        """Yield the goals of sums of one sign that reach a register; `whys` tells for each bin why none can fall into it."""
        unsigned = "" if sign == "+" or self.reaches.sums[i].total.signed else "no sum is negative"
        for what, why in whys.items():
            yield Goal(Bin(category, point, sign + what), (i, j, sign, what), why or unsigned)

    # -- alignment ---------------------------------------------------------------------------------------------------

    def _alignment(self) -> Iterator[Goal]:
        if not any(stage.aligned for _, stage in self.stages):
            yield Goal(Bin("alignment distance", "every stage", "all"), (), "all sums are exact: nothing is aligned")
        for i, (name, stage) in enumerate(self.stages):
            if not stage.aligned:
                continue
            for accumulator, point, _, always_zero in self._sides(i):
                furthest = self.furthest(i, accumulator)
                for d in range(window(stage, accumulator) + 2):
                    bin = Bin("alignment distance", point, distance(stage, accumulator, d))
                    why = "" if furthest >= d else f"exponents reach only {max(furthest, 0)} apart"
                    yield Goal(bin, (i, accumulator, d), always_zero or why)
            yield from self._zero_exponent(i, f"{name}: zeros", stage, self.reaches.sums[i])

    def _zero_exponent(self, i: int, point: str, stage: Stage, sums: SumReach) -> Iterator[Goal]:
        """Yield the goals in which a zero sets the largest exponent: that it does, and the places around the last kept."""
        zero = stage.zero_exponent
        sides = [r for r in (sums.terms, sums.running) if r and zero is not None and r.lo < zero]
        for what, places in (("a zero above every number", None), ("last place kept", 0), ("first place lost", 1)):
            why = ""
            if zero is None:
                why = "zeros have no exponent"
            elif not sides:
                why = f"no number has an exponent below the zeros' {zero}"
            elif places is not None and min(r.last for r in sides) > zero - sums.kept - places:
                why = f"no number below it has a place at 2**{zero - sums.kept - places}"
            yield Goal(Bin("alignment distance", point, what), (i, None, places), why)

    def furthest(self, i: int, accumulator: bool) -> int:
        """Return the largest distance of a number below the largest exponent of a sum."""
        stage, sums = self.stages[i][1], self.reaches.sums[i]
        zero = [] if stage.zero_exponent is None else [stage.zero_exponent]
        if accumulator:
            return max([sums.terms.hi, *zero]) - sums.running.lo if sums.running else -1
        apart = [sums.terms.spread] if stage.terms > 1 else [0]
        above = [sums.running.hi] if sums.running else []
        return max(apart + [e - sums.terms.lo for e in (*above, *zero)])

    def _places(self) -> Iterator[Goal]:
        """Yield the goals that show which terms are summed together.

        Each term of a block is small in turn, below a large one half a block away.
        """
        for i, (name, stage) in enumerate(self.stages):
            terms = self.reaches.sums[i].terms
            if stage.terms == 1:
                yield Goal(Bin("places", name, "all"), (), "one term at a time")
                continue
            why = ""
            if stage.aligned and self._cut_bits(i, False, terms, terms.spread) < 1:
                why = "terms never take places from each other"
            elif not stage.aligned and terms.spread < APART:
                why = "terms are all of like size"
            for place in range(stage.terms):
                other = (place + stage.terms // 2) % stage.terms
                yield Goal(Bin("places", name, f"{place} below {other}"), (i, place, other), why)

    # -- rounding ----------------------------------------------------------------------------------------------------

    def _rounding(self) -> Iterator[Goal]:
        if self.spec.is_integer:
            yield Goal(Bin("rounding", "every stage", "all"), (), "integers are summed exactly")
            return
        for i, (name, stage) in enumerate(self.stages):
            sums = self.reaches.sums[i]
            for accumulator, point, side, always_zero in self._sides(i) if stage.aligned else ():
                furthest = self.furthest(i, accumulator)
                lost = min(self._cut_bits(i, accumulator, side, furthest), side.bits) if side else 0
                # Scales that are powers of two do not change the significands of products.
                product = i == 0 and not accumulator and sums.terms.bits == self.reaches.products.bits
                signed, aim = side is None or side.signed, ("cut", i, accumulator)
                yield from self._classes(f"{point} aligned", aim, lost, signed, always_zero, product)
            for j, register in enumerate(stage.result):
                point, lost, kept = (
                    register_point(name, stage, j),
                    self.lost_bits(i, j),
                    register.format.mantissa_bits + 1,
                )
                product = stage.terms == 1 and not sums.running and sums.terms is self.reaches.products and j == 0
                yield from self._classes(point, ("register", i, j), lost, sums.total.signed, "", product, kept)
        yield from self._scale_rounding()

    def _scale_rounding(self) -> Iterator[Goal]:
        scale, reaches = self.spec.scale, self.reaches
        if scale and scale.product:
            lost = reaches.scale_product.bits - scale.product.format.mantissa_bits - 1
            yield from self._classes("scales: product", ("scale product",), lost, reaches.scale_product.signed)
        if scale and scale.result and reaches.scaled_term:
            lost = reaches.scaled_term.bits - scale.result.format.mantissa_bits - 1
            yield from self._classes("scales: result", ("scale result",), lost, reaches.scaled_term.signed)

    def _classes(
        self,
        point: str,
        aim: tuple[Any, ...],
        lost: int,
        signed: bool,
        why: str = "",
        product: bool = False,
        kept: int | None = None,
    ) -> Iterator[Goal]:
        """Yield the goals of one rounding that loses up to `lost` bits.

        With `product`, what is rounded is one product; `kept` is the number of leading bits it keeps, None if that varies.
        """
        for sign in "+-":
            for name, needed in CLASSES.items():
                reason = why
                if not reason and lost < needed:
                    reason = f"at most {lost} bits are lost" if lost > 0 else "nothing is ever lost"
                elif not reason and sign == "-" and not signed:
                    reason = "no number is negative"
                elif not reason and product and not any(self.significands(name, lost, kept)):
                    reason = f"no product of {self.spec.a.name} and {self.spec.b.name} has this position"
                yield Goal(Bin("rounding", point, sign + name), (*aim, sign, name), reason)

    def _cut_bits(self, i: int, accumulator: bool, side: Reach, furthest: int) -> int:
        """Return how many places of a term at most `furthest` below the largest exponent can be below the last one kept."""
        stage = self.stages[i][1]
        if accumulator and stage.drop_beyond is not None:
            furthest = min(furthest, stage.drop_beyond)
        return furthest - fraction_bits(stage, accumulator) + min(side.lo - side.last, side.grain)

    def lost_bits(self, i: int, j: int) -> int:
        """Return how many places of a sum can be below the last one of register number `j` of stage number `i`."""
        stage, sums = self.stages[i][1], self.reaches.sums[i]
        m = stage.result[j].format.mantissa_bits
        limit = min(sums.total.largest.leading_exponent, stage.result[j].format.max_exponent) - m - sums.total.last
        limit = min(limit, sums.total.bits - m - 1)
        if j:
            return min(limit, min(r.format.mantissa_bits for r in stage.result[:j]) - m)
        return min(limit, sums.width - 1 - m) if stage.aligned else limit

    def significands(self, name: str, lost: int, kept: int | None = None) -> Iterator[tuple[int, int]]:
        """Yield significands of A and B whose product has the position of this name, with up to `lost` bits lost.

        With `kept` the product keeps that many leading bits; without, any number of bits.
        """
        a, b = (range(1, 1 << min(fmt.mantissa_bits + 1, 7), 2) for fmt in (self.spec.a, self.spec.b))
        for x in a:
            for y in b:
                n = x * y
                cuts = range(1, lost + 1) if kept is None else [n.bit_length() - kept]
                if any(name in rounding_classes(n, bits) for bits in cuts):
                    yield x, y

    # -- cancellation ------------------------------------------------------------------------------------------------

    def _cancellation(self) -> Iterator[Goal]:
        for i, (name, stage) in enumerate(self.stages):
            sums = self.reaches.sums[i]
            alone = "" if stage.terms > 1 else "one term at a time"
            signed = "" if sums.terms.signed else "no term is negative"
            either = "" if sums.terms.signed or (sums.running and sums.running.signed) else "no number is negative"
            running = "" if sums.running else "no running value takes part"
            yield Goal(Bin("cancellation", name, "to zero, terms alone"), (i, "terms"), alone or signed)
            if stage.accumulator:
                yield Goal(Bin("cancellation", name, "to zero, with the accumulator"), (i, "both"), running or either)
            last = ""
            if alone and running:
                last = alone
            elif stage.aligned and min(r.last for r in (sums.terms, sums.running) if r) > sums.total.hi - sums.kept:
                last = "no number reaches the last place of the window"
            elif stage.aligned and sums.cancels < sums.kept:
                last = "what cancels the running value does not reach the last place"
            for sign in "+-":
                yield Goal(Bin("cancellation", name, f"{sign}the last bit"), (i, "last", sign), last or either)
            why = self._no_negative_zeros(i, stage)
            yield Goal(Bin("cancellation", name, "nothing but negative zeros"), (i, "negative zeros"), why)

    def _no_negative_zeros(self, i: int, stage: Stage) -> str:
        """Return why the terms of a stage and its running value are never all negative zeros; empty if they may be."""
        spec = self.spec
        if spec.a.kind == spec.b.kind == "integer" or spec.is_integer:
            return "integers have no negative zero"
        if not (spec.a.signed or spec.b.signed):
            return "no product is negative"
        if any(s.zero == "positive" for _, s in self.stages[:i]):
            return "a zero of the stage below is positive"
        if stage.accumulator and i < len(self.stages) - 1:
            return "the running value starts at +0"
        if stage.accumulator and (spec.flush_c is True or "-0" not in Specials(spec.accumulator).codes):
            return "C is never a negative zero"
        return ""

    # -- the ends of registers ---------------------------------------------------------------------------------------

    def registers(self) -> Iterator[tuple[int, int, str, Register]]:
        """Yield every register: the numbers of its stage and within the stage, its point, the register."""
        for i, (name, stage) in enumerate(self.stages):
            for j, register in enumerate(stage.result):
                yield i, j, register_point(name, stage, j), register

    def _subnormals(self) -> Iterator[Goal]:
        if self.spec.is_integer:
            yield Goal(Bin("subnormal result", "every stage", "all"), (), "integers have no subnormals")
            return
        for i, j, point, register in self.registers():
            fmt, sums = register.format, self.reaches.sums[i]
            last = max([sums.total.last, *(r.format.min_lsb_exponent for r in self.stages[i][1].result[:j])])
            least = sums.total.least if j == 0 else last
            none = f"no sum but zero is below 2**{least}" if least >= fmt.min_exponent else ""
            if self.spec.flush_c and sums.running and sums.terms.last - sums.running.bits >= fmt.min_exponent:
                none = none or "C is never subnormal, and no term is small enough to leave a subnormal number of it"
            coarse = none or (f"sums are multiples of 2**{last}" if last > fmt.min_lsb_exponent else "")
            fine = coarse or (f"sums are multiples of 2**{last}" if last >= fmt.min_lsb_exponent else "")
            for sign, outward in (("+", Rounding.UP), ("-", Rounding.DOWN)):
                if register.subnormals == "flush":
                    whys = {"flushed": none}
                else:
                    rounds_out = register.rounding in (outward, Rounding.NEAREST_EVEN, Rounding.NEAREST_AWAY)
                    rounds_in = register.rounding not in (outward, Rounding.TO_ODD)
                    whys = {"smallest": coarse}
                    if fmt.mantissa_bits > 1:
                        whys |= {"largest": coarse, "between": none}
                    whys["to zero"] = fine or ("" if rounds_in else f"{register.rounding} never rounds to zero")
                    never_out = "" if rounds_out else f"{register.rounding} never rounds up to it"
                    whys["up to the smallest normal"] = fine or never_out
                yield from self._signed("subnormal result", point, i, j, sign, whys)

    def _overflow(self) -> Iterator[Goal]:
        for i, j, point, register in self.registers():
            if register.format.kind == "integer":
                yield from self._integer_overflow(i, j, point, register)
            else:
                yield from self._float_overflow(i, j, point, register)

    def _float_overflow(self, i: int, j: int, point: str, register: Register) -> Iterator[Goal]:
        fmt, sums, stage = register.format, self.reaches.sums[i], self.stages[i][1]
        top = of_format(fmt).largest
        tops = [of_format(r.format).largest.exact() for r in stage.result[:j]]
        over = min([sums.total.largest.exact(), *tops]) - top.exact()
        last_place = fmt.max_exponent - fmt.mantissa_bits
        in_places = over / 2**last_place if last_place >= 0 else over * 2**-last_place
        if j:
            lost = min(r.format.mantissa_bits for r in stage.result[:j]) - fmt.mantissa_bits
        elif stage.aligned:
            carry = sums.carry if sums.terms.hi >= fmt.max_exponent - sums.carry else 0
            lost = carry + sums.kept - fmt.mantissa_bits
        else:
            lost = min(last_place - sums.total.last, sums.total.bits - fmt.mantissa_bits - 1)
        low = "no sum is so large"
        coarse = "sums of this size are too coarse"
        whys = {
            "largest finite": low if over < 0 else coarse if lost < 0 else "",
            "over by less than half a last place": low if over <= 0 else coarse if lost < 2 else "",
            "over by half a last place": low if 2 * in_places < 1 else coarse if lost < 1 else "",
            "over by more than half a last place": low if 2 * in_places <= 1 else coarse if lost < 2 else "",
            "over by a last place or more": low if in_places < 1 else "",
        }
        for sign in "+-":
            yield from self._signed("overflow", point, i, j, sign, whys)

    def _integer_overflow(self, i: int, j: int, point: str, register: Register) -> Iterator[Goal]:
        fmt, sums = register.format, self.reaches.sums[i]
        largest, terms = int(sums.total.largest.exact()), self.stages[i][1].terms
        negative = terms * int(sums.terms.largest.exact()) if sums.terms.signed else 0
        lowest = -negative - (int(sums.running.largest.exact()) + 1 if sums.running and sums.running.signed else 0)
        for what, value in integer_edges(fmt).items():
            why = "" if lowest <= value <= largest else "no sum is so large" if value > 0 else "no sum is so small"
            yield Goal(Bin("overflow", point, what), (i, j, "", what), why)

    # -- scales ------------------------------------------------------------------------------------------------------

    def _scales(self) -> Iterator[Goal]:
        scale = self.spec.scale
        if scale is None:
            yield Goal(Bin("scale extremes", "scales", "all"), (), "the instruction has no scales")
            return
        sides = {name: Specials(side.format) for name, side in (("A", scale.a), ("B", scale.b)) if side}
        operands = (self.spec.a, self.spec.b)
        kinds = {
            "finite": "",
            "zero": "",
            "infinity": self._no_infinite_term(),
            "nan": "" if any(f.nan_code is not None for f in operands) else "no operand is a NaN",
        }
        for name, specials in sides.items():
            for value, code in specials.codes.items():
                for kind, why in kinds.items():
                    bin = Bin("scale extremes", f"scale of {name} x term", f"{value} x {kind}")
                    yield Goal(bin, (name, code, kind), why)
        if len(sides) == 2:
            for first, code in sides["A"].codes.items():
                for second, other in sides["B"].codes.items():
                    bin = Bin("scale extremes", "scale of A x scale of B", f"{first} x {second}")
                    yield Goal(bin, ("both", code, other))

    def _no_infinite_term(self) -> str:
        """Return why no infinity reaches the scales; empty if one may."""
        spec, below = self.spec, (self.spec.scaled_stage or 0) + 1
        product = times(of_format(spec.a), of_format(spec.b)).largest
        none_arises = spec.infinite_from is None or product.leading_exponent < spec.infinite_from
        if none_arises and not (spec.a.infinity or spec.b.infinity):
            return "no operand is infinite"
        for i, _, point, register in self.registers():
            rule = register.overflow or register.format.overflow
            if i < below and rule not in ("ieee", "infinity"):
                return f"{point} holds no infinity"
        return ""
