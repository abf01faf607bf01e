"""One step of an instruction as C text, written from its spec and its Plan; the CPU and the GPU engine compile it.

A *lane* is one element of D. `LANES` stands for the loop over the lanes a step computes together; a value that outlives
one such loop is an array over lanes, `[j]`. Inside, the text follows golden.py: terms, cut, sum, put. The two inner loops
over the products of a block, the largest exponent and the sum of the cut products, are the target's (see `Target`).

The step reads, for element `j` and position `k` along K, `A(k, j)` and `B(k, j)` (numbers of the lane type), `EA(k, j)`
and `EB(k, j)` (their alignment exponents, OPERAND_NONE for a zero), and per group of scales `g` `SA(g, j)`, `SB(g, j)`,
`ESA(g, j)`, `ESB(g, j)`. It reads and leaves the accumulator in `C(j)`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf
from typing import Protocol

from isa_model import golden
from isa_model.codec import NAN, Number, infinity, largest_finite
from isa_model.engines.c_text import Text
from isa_model.engines.plan import RANGE, Handover, Plan
from isa_model.float64 import LANE_BITS, bins, integer_range
from isa_model.formats import Format
from isa_model.instruction import Instruction
from isa_model.rounding import Rounding
from isa_model.stage import Register, Stage


@dataclass(frozen=True)
class Term:
    """C expressions of a term: parts whose sum is the value, and the alignment exponent."""

    parts: tuple[str, ...]
    exponent: str


Recipe = Callable[[], Term]
"""A term yet to be computed: called where the text is inside a loop over lanes, writes what it needs there."""


@dataclass(frozen=True)
class Block:
    """Products of one block that are never formed one by one: `size` of them, number t at k = base + offsets[t]."""

    base: str
    offsets: tuple[int, ...]


class Target(Protocol):
    """What differs between compilers: the inner loops over the products of a block, for all lanes at once."""

    @property
    def lane(self) -> str:
        """The C type in which products are cut: float where Plan.lane allows it and the loops gain from it, else double."""

    def largest(self, plan: Plan, block: Block, out: str, smallest: str | None) -> str:
        """Text that sets `out[j]` to the largest sum of exponents, and `smallest[j]` to the smallest if asked for."""

    def cut_sum(self, plan: Plan, block: Block, stage: Stage, inverse: str, out: str) -> str:
        """Text that sets `out[j]` to the sum of the products times `inverse[j]`, each rounded to a whole number."""

    def exact_sum(self, plan: Plan, block: Block, stage: Stage, out: str) -> str:
        """Text that sets `out[j]` to the exact sum of the products."""


def step(plan: Plan, target: Target) -> str:
    """The statements of one step: `plan.spec.shape.k` products of every lane added to `C(j)`; `k` is where they start."""
    return Emitter(plan, target).step()


class Emitter(Text):
    """Writes the text of one step from top to bottom."""

    def __init__(self, plan: Plan, target: Target) -> None:
        super().__init__()
        self.plan, self.spec, self.target = plan, plan.spec, target
        self.stages: list[Stage] = list(plan.spec.stages.values())

    def step(self) -> str:
        last = len(self.stages) - 1
        blocks = self.spec.shape.k // self.spec.span
        self.reread()
        self.loop(last, blocks, "k", lambda n, k: self.run_block(last, n, k, "C(j)"))
        return "\n".join(self.lines)

    def reread(self) -> None:
        """Read as C what the instruction before left in the register as D: `plan.Handover`."""
        how = self.plan.handover
        if how == Handover():
            return
        self.write("LANES {")
        value = self.let("double", "C(j)")
        if how.infinity != inf:
            limit = "NAN" if how.infinity != how.infinity else f"{how.infinity!r}"
            value = self.let("double", f"fabs({value}) == INFINITY ? copysign({limit}, {value}) : {value}")
        if how.nan == how.nan:
            value = self.let("double", f"{value} == {value} ? {value} : {how.nan!r}")
        if not how.has_minus_zero:
            value = self.let("double", f"{value} + 0.0")
        if how.smallest:
            value = self.let("double", f"fabs({value}) < {how.smallest!r} ? 0.0 : {value}")
        # C itself was read already; where only zeros change, reading it once more is cheaper than asking.
        again = self.spec.c_format == self.spec.accumulator and how.keeps_specials
        self.write(f"C(j) = {value};" if again else f"C(j) = k == 0 ? C(j) : {value};")
        self.write("}")

    def loop(self, index: int, count: int, k: str, body: Callable[[int, str], None]) -> None:
        """Blocks 0 to count - 1 of a stage: a C loop where each is the one before, moved along K; else one by one."""
        if count > 1 and not any(s.interleave for s in self.stages[: index + 1]):
            length = self.spec.products_per_result(index) // (self.stages[index].chain or 1)
            i, inner = self.name("i"), self.name("k")
            self.write(f"for (int {i} = 0; {i} < {count}; ++{i}) {{ const int {inner} = {k} + {i} * {length};")
            body(0, inner)
            self.write("}")
        else:
            for n in range(count):
                body(n, k)

    # -- the stages, as golden.dot has them --------------------------------------------------------------------------

    def run_block(self, index: int, n: int, k: str, value: str) -> None:
        """Add block number `n` of a stage to its running value, an array over lanes."""
        register = self.stages[index].result[-1].format
        exponent = self.align(value, register)
        if index == len(self.stages) - 1 and n == 0:  # C is in its own format, and what was D in the accumulator's
            for fmt, where in ((self.spec.accumulator, f"% {self.spec.shape.k} == 0"), (self.spec.c_format, "== 0")):
                if fmt.min_exponent != register.min_exponent or not exponent.startswith("align"):
                    exponent = f"({k}) {where} ? {self.align(value, fmt)} : {exponent}"
        if index == 0 and self.plan.narrow and self.target.lane == "float":
            self.narrow_block(n, k, value)
            return
        recipe = self.block(index, n, k, lambda: Term((value,), self.let("int", exponent, "e")))
        self.write("LANES {")
        self.write(f"{value} = {recipe().parts[0]};")
        self.write("}")

    def narrow_block(self, n: int, k: str, value: str) -> None:
        """The same in single precision throughout, where Plan.narrow says that nothing is lost."""
        stage, block = self.stages[0], Block(k, tuple(self.terms(0, n)))
        tops, sums, inverse = self.array("short", "top"), self.array("float", "sum"), self.array("float", "inverse")
        largest = self.array("int", "largest")
        self.write(self.target.largest(self.plan, block, tops, None))
        self.write("LANES {")
        self.write(f"{largest}[j] = larger(widen({tops}[j]), alignf((float){value}));")
        low = f"larger({largest}[j], {self.plan.min_product_exponent})"
        self.write(f"{inverse}[j] = pow2f({stage.fraction_bits} - {low});")
        self.write("}")
        self.write(self.target.cut_sum(self.plan, block, stage, inverse, sums))
        (register,) = stage.result
        over = register.overflow or register.format.overflow
        limit = "INFINITY" if over == "infinity" else f"{largest_finite(register.format)!r}f"
        rest = f"{largest}[j], {stage.fraction_bits}, {register.format.mantissa_bits}, {limit}"
        self.write(f"LANES {{ {value} = put_narrow({sums}[j], (float){value}, {rest}); }}")

    def result(self, index: int, r: int, k: str) -> Recipe:
        """Result number `r` of a stage, scaled if the spec says so."""
        stage, chain = self.stages[index], self.stages[index].chain or 1
        if stage.accumulator and chain > 1:
            value = self.array("double", "run")
            self.write(f"LANES {value}[j] = 0.0;")
            if any(s.interleave for s in self.stages[: index + 1]):
                for n in range(r * chain, (r + 1) * chain):
                    self.run_block(index, n, k, f"{value}[j]")
            else:
                length = self.spec.products_per_result(index)
                self.loop(
                    index,
                    chain,
                    f"({k} + {r * length})",
                    lambda n, inner: self.run_block(index, n, inner, f"{value}[j]"),
                )
            exponent = self.align(f"{value}[j]", stage.result[-1].format)
            recipe: Recipe = lambda: Term((f"{value}[j]",), self.let("int", exponent, "e"))  # noqa: E731
        elif stage.accumulator:
            recipe = self.block(index, r, k, lambda: Term(("0.0",), "NONE"))
        else:
            recipe = self.block(index, r, k, None)
        first = r * self.spec.products_per_result(index)
        return lambda: self.scaled(recipe(), index, f"{k} + {first}")

    def terms(self, index: int, n: int) -> list[int]:
        """Numbers of the results of the stage below that make block number `n`: `golden.deal`."""
        stage = self.stages[index]
        if stage.interleave is None:
            return list(range(n * stage.terms, (n + 1) * stage.terms))
        run, parts = stage.interleave.run, stage.interleave.parts
        span = stage.terms * parts
        return [n // parts * span + j for j in range(span) if (j // run) % parts == n % parts]

    def block(self, index: int, n: int, k: str, running: Recipe | None) -> Recipe:
        """The sum of block number `n` with the running value, put into the stage's register."""
        stage, numbers = self.stages[index], self.terms(index, n)
        if index == 0 and self.plan.fused_products:
            return self.fused_block(stage, Block(k, tuple(numbers)), running)
        recipes = (
            [self.product(f"{k} + {t}") for t in numbers]
            if index == 0
            else [self.result(index - 1, t, k) for t in numbers]
        )

        def compute() -> Term:
            terms = [recipe() for recipe in recipes]
            own = running() if running else None
            everything = [*terms, own] if own else terms
            largest = self.largest(stage, [t.exponent for t in everything])
            if not stage.aligned:
                parts = [p for t in everything for p in t.parts]
            else:
                known = self.let("int", f"larger({largest}, {-RANGE})", "known")
                parts = [self.cut(self.to_odd(t.parts), known, stage.fraction_bits, stage) for t in terms]
                parts += self.cut_running(stage, own, known, largest)
            return self.summed(index, stage, parts, largest)

        return compute

    def fused_block(self, stage: Stage, block: Block, running: Recipe | None) -> Recipe:
        """The same for products summed straight from the operands: the target's loops, then the rest in the lanes."""
        plan = self.plan
        needs_exponent = stage.aligned or not stage.result
        exponents = self.array("short", "top") if needs_exponent else ""
        # A zero product matters only if it may count above a product or a running value that is none.
        zero = stage.zero_exponent  # below every product's, it counts only where there is nothing but zeros
        counts_zeros = needs_exponent and zero is not None and zero > plan.min_product_exponent
        smallest = self.array("short", "low") if counts_zeros else None
        if needs_exponent:
            self.write(self.target.largest(plan, block, exponents, smallest))

        def largest_of(own: Term | None) -> str:
            names = [self.let("int", f"widen({exponents}[j])", "e")] if needs_exponent else []
            if smallest is not None:
                raised = f"larger({names[0]}, {stage.zero_exponent})"
                names = [self.let("int", f"{smallest}[j] <= OPERAND_NONE / 2 ? {raised} : {names[0]}", "e")]
            return self.largest(stage, names + ([own.exponent] if own else [])) if needs_exponent else "NONE"

        if not stage.aligned:
            sums = self.array("double", "sum")
            self.write(self.target.exact_sum(plan, block, stage, sums))

            def exact() -> Term:
                own = running() if running else None
                parts = [f"{sums}[j]", *(own.parts if own else ())]
                return self.summed(0, stage, parts, largest_of(own))

            return exact

        lane = self.target.lane
        inverse, tops, sums = self.array(lane, "inverse"), self.array("int", "largest"), self.array(lane, "sum")
        self.write("LANES {")
        largest = largest_of(running() if running else None)
        self.write(f"{tops}[j] = {largest};")
        pow2 = "pow2f" if lane == "float" else "pow2"
        known = f"larger(larger({largest}, {-RANGE}), {plan.min_product_exponent})"
        self.write(f"{inverse}[j] = {pow2}({stage.fraction_bits} - {known});")
        self.write("}")
        self.write(self.target.cut_sum(plan, block, stage, inverse, sums))

        def aligned() -> Term:
            largest = self.let("int", f"{tops}[j]", "e")
            known = self.let("int", f"larger({largest}, {-RANGE})", "known")
            part = self.let("double", f"(double){sums}[j] * pow2({known} - {stage.fraction_bits})")
            own = running() if running else None
            return self.summed(0, stage, [part, *self.cut_running(stage, own, known, largest)], largest)

        return aligned

    def product(self, k: str) -> Recipe:
        """One product, and its scales where they apply to products."""

        def compute() -> Term:
            x, y = self.let("double", f"A({k}, j)"), self.let("double", f"B({k}, j)")
            product = self.let("double", f"{x} * {y}", "p")
            parts: tuple[str, ...] = (product,)
            if self.plan.product_bits > LANE_BITS:
                parts = (product, self.let("double", f"product_error({x}, {y}, {product})", "p"))
            if self.plan.infinite_from is not None:
                limit = f"fabs({product}) >= {self.plan.infinite_from!r}"
                large = self.let("double", f"{limit} ? copysign(INFINITY, {product}) : {product}", "p")
                parts = (large, *parts[1:])
            exponent = self.let("int", f"widen((int)EA({k}, j) + (int)EB({k}, j))", "e")
            return self.scaled(Term(parts, exponent), -1, k)

        return compute

    def scaled(self, term: Term, index: int, k: str) -> Term:
        """golden.scaled: the term times the scales of its row, column and group of K."""
        scale = self.spec.scale
        if scale is None or index != self.spec.scaled_stage or (index == -1 and self.plan.scales_fold):
            return term
        factors, exponents = [], []
        for side, letter, axis in ((scale.a, "A", 1), (scale.b, "B", 0)):
            if side is not None:
                group = self.let("int", f"({k}) / {side.group[axis]}", "g")
                factors.append(f"S{letter}({group}, j)")
                exponents.append(f"ES{letter}({group}, j)")
        factor = self.let("double", " * ".join(factors), "f")
        exponent = self.let("int", exponents[0] if len(exponents) == 1 else f"join({', '.join(exponents)})", "e")
        if scale.product:
            factor = self.rounded(factor, scale.product)
            exponent = self.let("int", self.align(factor, scale.product.format), "e")
        parts: list[str] = []
        for part in term.parts:
            product = self.let("double", f"{part} * {factor}", "p")
            parts.append(product)
            if self.plan.scaled_bits > LANE_BITS:
                parts.append(self.let("double", f"product_error({part}, {factor}, {product})", "p"))
        if len(term.parts) > 1:
            # Times an infinity or a NaN, only the sum of the parts has the right sign, and is zero where it should be.
            total = self.to_odd(term.parts)
            special = self.let("int", f"!(is_finite({total}) & is_finite({factor}))", "special")
            first = self.let("double", f"{special} ? {total} * {factor} : {parts[0]}", "p")
            parts = [first, *(self.let("double", f"{special} ? 0.0 : {p}", "p") for p in parts[1:])]
        if scale.result:
            value = self.rounded(self.to_odd(parts), scale.result)
            return Term((value,), self.let("int", self.align(value, scale.result.format), "e"))
        return Term(tuple(parts), self.let("int", f"join({term.exponent}, {exponent})", "e"))

    # -- sums --------------------------------------------------------------------------------------------------------

    def largest(self, stage: Stage, exponents: Sequence[str]) -> str:
        """The exponent a block is aligned to; a term without one counts with the stage's zero exponent."""
        if stage.zero_exponent is not None:
            exponents = [f"({e} == NONE ? {stage.zero_exponent} : {e})" for e in exponents]
        result = exponents[0]
        for exponent in exponents[1:]:
            result = self.let("int", f"larger({result}, {exponent})", "e")
        return self.let("int", result, "e")

    def cut(self, value: str, known: str, fraction_bits: int | None, stage: Stage) -> str:
        unit = f"{known} - {fraction_bits}"
        return self.let("double", f"whole({value} * pow2(-({unit})), {mode(stage.rounding)}) * pow2({unit})", "c")

    def cut_running(self, stage: Stage, own: Term | None, known: str, largest: str) -> list[str]:
        if own is None:
            return []
        kept = self.cut(own.parts[0], known, stage.accumulator_fraction_bits, stage)
        if stage.drop_beyond is not None:
            dropped = f"({own.exponent} != NONE) & ({own.exponent} < {largest} - {stage.drop_beyond})"
            kept = self.let("double", f"{dropped} ? {self.neutral(stage)} : {kept}", "c")
        return [kept]

    @staticmethod
    def neutral(stage: Stage) -> str:
        return "-0.0" if stage.zero == "ieee" else "0.0"

    def summed(self, index: int, stage: Stage, parts: Sequence[str], largest: str) -> Term:
        """golden.exact_sum and golden.put: the parts' sum in the register, or handed up as it is."""
        level = self.plan.levels[index]
        if len(parts) > 1:
            if self.adds_in_one(index, stage, parts) and is_fp32(stage.result[0].format):
                parts = [self.let("double", f"(double)((float){parts[0]} + (float){parts[1]})", "s")]
            elif level.plain or self.adds_in_one(index, stage, parts):
                parts = [self.let("double", " + ".join(parts), "s")]
            elif len(parts) > bins(len(parts), level.sum_bits):
                bottom = f"larger({largest}, {-RANGE}) - {level.fraction_bits}" if stage.aligned else str(level.lsb)
                parts = self.binned(parts, bottom, level.sum_bits, keep_sign=stage.zero == "ieee")
        if not stage.result:
            if stage.zero == "positive":
                parts = [self.let("double", f"{parts[0]} + 0.0", "s"), *parts[1:]]
            fixed = stage.exponent is not None
            exponent = self.let("int", f"{largest} == NONE ? NONE : {stage.exponent}", "e") if fixed else largest
            return Term(tuple(parts), exponent)
        value = self.to_odd(parts)
        for register in stage.result if not self.plan.holds_terms(index) else ():
            value = self.rounded(value, register)
        if stage.zero == "positive":
            value = self.let("double", f"{value} + 0.0")
        return Term((value,), self.let("int", self.align(value, stage.result[-1].format), "e"))

    def adds_in_one(self, index: int, stage: Stage, parts: Sequence[str]) -> bool:
        """Whether a double's rounding of the sum cannot be told from none: two addends no wider than the register, which
        rounds to nearest even at less than half a double's precision (Figueroa 1995)."""
        several = index == 0 and self.plan.fused_products and stage.terms > 1  # a part is the sum of many terms
        if stage.aligned or len(parts) != 2 or not stage.result or several:
            return False
        fmt, terms = stage.result[0].format, self.plan.addends[index]
        precision = fmt.mantissa_bits + 1
        return (
            fmt.kind == "float"
            and stage.result[0].rounding is Rounding.NEAREST_EVEN
            and 2 * precision + 2 <= LANE_BITS
            and all(t.parts == 1 and t.bits <= precision and t.lsb >= fmt.min_lsb_exponent for t in terms)
            and all(t.top <= fmt.max_exponent + 1 for t in terms)
        )

    # -- registers ---------------------------------------------------------------------------------------------------

    def rounded(self, value: str, register: Register) -> str:
        fmt, rounding = register.format, mode(register.rounding)
        overflow = f"OVER_{(register.overflow or fmt.overflow).upper()}"
        if fmt.kind == "integer":
            low, high = integer_range(fmt)
            ends = f"{low!r}, {high!r}, {2.0**fmt.mantissa_bits!r}"
            return self.let("double", f"put_integer({value}, {rounding}, {overflow}, {ends})")
        flush = int(register.subnormals == "flush")
        ends = f"{fmt.min_exponent}, {fmt.max_exponent}, {fmt.mantissa_bits}, {largest_finite(fmt)!r}"
        plus = " + 0.0" if fmt.nan == "negative-zero" else ""  # a format without a negative zero
        return self.let("double", f"put({value}, {rounding}, {overflow}, {flush}, {ends}){plus}")

    @staticmethod
    def align(value: str, fmt: Format) -> str:
        return f"align_integer({value})" if fmt.kind == "integer" else f"align({value}, {fmt.min_exponent})"


def special_codes(spec: Instruction) -> list[int]:
    """The codes of D for an infinity, a negative one, a NaN and a negative zero."""
    numbers = (infinity(False), infinity(True), NAN, Number(True, 0, 0))
    return [golden.written(spec, golden.Term(number, None)) for number in numbers]


def is_fp32(fmt: Format) -> bool:
    return fmt.kind == "float" and (fmt.mantissa_bits, fmt.min_exponent, fmt.max_exponent) == (23, -126, 127)


def mode(rounding: Rounding | None) -> str:
    assert rounding is not None
    return rounding.name
