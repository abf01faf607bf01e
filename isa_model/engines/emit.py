"""The emitter: one step of an instruction as C text, written from its spec and its plan for any target (target.py).

The text follows golden.py from top to bottom: terms, cut, sum, put. `LANES` stands for the loop over the lanes a step
computes together; a value that outlives one such loop is an array over lanes. The target writes the two inner loops over
the products of a block: the largest exponent and the sum of the cut products.

For lane `j` and position `k` along K, the step reads `A(k, j)` and `B(k, j)` (numbers of the lane type), `EA(k, j)` and
`EB(k, j)` (their alignment exponents, OPERAND_NONE for a zero) and, for group `g` of scales, `SA(g, j)`, `SB(g, j)`,
`ESA(g, j)`, `ESB(g, j)`. It reads and leaves the accumulator in `state[j]`, and that of a `remainder` in `second[j]`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf

from isa_model import golden
from isa_model.engines.c_text import CText
from isa_model.engines.plan import RANGE, Handover
from isa_model.engines.register_text import is_fp32, mode, put
from isa_model.engines.routes import c_is_apart
from isa_model.engines.target import BlockCode, Target, neutral
from isa_model.float64 import LANE_BITS, bins
from isa_model.formats import Format
from isa_model.rounding import Rounding
from isa_model.stage import Register, Stage


@dataclass(frozen=True)
class TermCode:
    """C expressions of a term: parts whose sum is the value, and the alignment exponent."""

    parts: tuple[str, ...]
    exponent: str


@dataclass(frozen=True)
class Kept:
    """What the second register of a running value is to a sum: its C expressions as a term, none where it is no term."""

    joins: str | None
    part: list[str]
    exponent: list[str]


Recipe = Callable[[], TermCode]
"""Term to be computed: a call inside a loop over lanes writes its statements there and returns the term."""


def step(target: Target) -> str:
    """Return the statements of one step: the products of one instruction from `k` on, added to `state[j]` of every lane."""
    return Emitter(target).step()


class Emitter(CText):
    """Writes the text of one step from top to bottom."""

    def __init__(self, target: Target) -> None:
        super().__init__(target.adds_directed)
        self.target, self.plan, self.spec = target, target.plan, target.plan.spec
        self.stages = target.plan.stages

    def step(self) -> str:
        """Return the text of the whole step."""
        blocks = self.spec.shape.k // self.spec.span
        self.reread()
        last = len(self.stages) - 1
        self.loop(last, range(blocks), "k", lambda n, k: self.run_block(last, n, k, "state"))
        return "\n".join(self.lines)

    def reread(self) -> None:
        """Write the reading of C from the D that the previous instruction left in the register (`plan.Handover`)."""
        how = self.plan.handover
        if how == Handover() or self.spec.remainder:
            return
        self.write("LANES {")
        value = self.let("double", "state[j]")
        if how.infinity != inf:
            limit = "NAN" if how.infinity != how.infinity else f"{how.infinity!r}"
            value = self.let("double", f"fabs({value}) == INFINITY ? copysign({limit}, {value}) : {value}")
        if how.nan == how.nan:
            value = self.let("double", f"{value} == {value} ? {value} : {how.nan!r}")
        if not how.has_minus_zero:
            value = self.let("double", f"{value} + 0.0")
        if how.smallest:
            zero = f"copysign(0.0, {value})" if how.keeps_sign else "0.0"
            value = self.let("double", f"fabs({value}) < {how.smallest!r} ? {zero} : {value}")
        # The first step has its C already; reading it twice does no harm if only zeros change.
        again = self.spec.c_format == self.spec.accumulator and how.keeps_specials
        self.write(f"state[j] = {value};" if again else f"state[j] = k == 0 ? state[j] : {value};")
        self.write("}")

    def loop(self, index: int, numbers: range, k: str, body: Callable[[int, str], None]) -> None:
        """Write some blocks of a stage: as a C loop if they follow one another along K, else one by one."""
        if len(numbers) == 1 or any(stage.interleave for stage in self.stages[: index + 1]):
            for n in numbers:
                body(n, k)
            return
        length = self.spec.products_per_result(index) // (self.stages[index].chain or 1)
        i, inner = self.name("i"), self.name("k")
        first = f"({k} + {numbers.start * length})" if numbers.start else k
        self.write(f"for (int {i} = 0; {i} < {len(numbers)}; ++{i}) {{ const int {inner} = {first} + {i} * {length};")
        body(0, inner)
        self.write("}")

    # -- the stages, as golden.dot has them --------------------------------------------------------------------------

    def run_block(self, index: int, n: int, k: str, running: str) -> None:
        """Add block number `n` of a stage to its running value `running[j]`."""
        plain = index == 0 and not self.stages[0].remainder
        short = self.target.short_block(self.block_code(n, k), running) if plain else ""
        meets_c = c_is_apart(self.plan) if n == 0 else ""
        if short and meets_c:  # the short text cannot read C's format
            self.write(f"if (({k}) {meets_c}) {{")
            self.run_any_block(index, n, k, f"{running}[j]")
            self.write(f"}} else {{\n{short}\n}}")
        elif short:
            self.write(short)
        else:
            self.run_any_block(index, n, k, f"{running}[j]")

    def run_any_block(self, index: int, n: int, k: str, value: str) -> None:
        """Add block number `n` of any stage to its running value."""
        register = self.stages[index].result[-1].format
        exponent = self.align(value, register)
        if index == len(self.stages) - 1 and n == 0:  # C has a format of its own
            known = [(self.spec.accumulator, f"% {self.spec.shape.k} == 0"), (self.spec.c_format, "== 0")]
            for fmt, where in known[1:] if self.spec.remainder else known:
                if fmt.min_exponent != register.min_exponent or not exponent.startswith("align"):
                    exponent = f"({k}) {where} ? {self.align(value, fmt)} : {exponent}"
        recipe = self.block(index, n, k, lambda: TermCode((value,), self.let("int", exponent, "e")))
        self.write("LANES {")
        self.write(f"{value} = {recipe().parts[0]};")
        self.write("}")

    def result(self, index: int, r: int, k: str) -> Recipe:
        """Return result number `r` of a stage, scaled if the spec says so."""
        stage, chain = self.stages[index], self.stages[index].chain or 1
        length = self.spec.products_per_result(index)
        if stage.accumulator and chain > 1:
            running = self.array(self.target.running, "run")
            self.write(f"LANES {running}[j] = 0.0;")
            numbers = range(r * chain, (r + 1) * chain)
            self.loop(index, numbers, k, lambda n, inner: self.run_block(index, n, inner, running))
            exponent = self.align(f"{running}[j]", stage.result[-1].format)
            recipe: Recipe = lambda: TermCode((f"{running}[j]",), self.let("int", exponent, "e"))  # noqa: E731
        else:
            start = (lambda: TermCode(("0.0",), "NONE")) if stage.accumulator else None
            recipe = self.block(index, r, k, start)
        return lambda: self.scaled(recipe(), index, f"{k} + {r * length}")

    def terms(self, index: int, n: int) -> tuple[int, ...]:
        """Return the indices of the results of the stage below that form block number `n`."""
        stage = self.stages[index]
        blocks = stage.dealt // stage.terms
        first, part = n // blocks * stage.dealt, n % blocks
        return tuple(golden.deal(stage, range(first, first + stage.dealt))[part])  # type: ignore[arg-type]

    def block_code(self, n: int, k: str) -> BlockCode:
        """Return block number `n` of the first stage."""
        return BlockCode(k, self.terms(0, n))

    def block(self, index: int, n: int, k: str, running: Recipe | None) -> Recipe:
        """Return the sum of block number `n` with the running value, put into the stage's register."""
        stage = self.stages[index]
        if index == 0 and self.plan.fused_products:
            return self.fused_block(stage, self.block_code(n, k), running, self.number(0, n, k))
        kept = self.kept(stage)
        numbers = self.terms(index, n)
        recipes = [self.product(f"{k} + {t}") if index == 0 else self.result(index - 1, t, k) for t in numbers]

        def compute() -> TermCode:
            terms = [recipe() for recipe in recipes]
            own = running() if running else None
            added = own if kept.joins != "block" else None
            largest = self.largest(stage, [t.exponent for t in terms], added, kept)
            if not stage.aligned:
                parts = [p for t in ([*terms, added] if added else terms) for p in t.parts] + kept.part
            else:
                known = self.let("int", f"larger({largest}, {-RANGE})", "known")
                values = [self.to_odd(t.parts) for t in terms]
                parts = [self.cut(index, value, known, stage.fraction_bits) for value in values]
                parts += self.cut_running(index, own, known, largest) + self.cut_kept(index, kept, known)
                if own and stage.opposing == "complement":
                    terms_ = [*values, *(["second[j]"] if kept.part else [])]
                    parts.append(self.inverted(terms_, own.parts[0], f"{known} - {stage.fraction_bits}"))
            return self.summed(index, parts, largest, self.number(index, n, k), own)

        return compute

    def number(self, index: int, n: int, k: str) -> str:
        """Return the C expression of the number along K of block `n` of a stage, counted from `k`."""
        length = self.spec.products_per_result(index) // (self.stages[index].chain or 1)
        return f"({k}) / {length} + {n}"

    def fused_block(self, stage: Stage, block: BlockCode, running: Recipe | None, number: str) -> Recipe:
        """Return `block` for products that the target's loops sum straight from the operands."""
        plan, kept = self.plan, self.kept(stage)
        needs_exponent = stage.aligned or not stage.result
        exponents = self.array("short", "top") if needs_exponent else ""
        # A zero product matters only if it may count above a nonzero product or running value.
        zero = stage.zero_exponent  # if it is below every product's, it counts only among zeros alone
        counts_zeros = needs_exponent and zero is not None and zero > plan.min_product_exponent
        smallest = self.array("short", "low") if counts_zeros else ""
        if needs_exponent:
            self.write(self.target.largest(block, exponents, smallest))

        def largest_of(own: TermCode | None) -> str:
            if not needs_exponent:
                return "NONE"
            name = self.let("int", f"widen({exponents}[j])", "e")
            if smallest:
                raised = f"larger({name}, {zero})"
                name = self.let("int", f"{smallest}[j] <= OPERAND_NONE / 2 ? {raised} : {name}", "e")
            return self.largest(stage, [name], own, kept)

        if not stage.aligned:
            sums = self.array("double", "sum")
            self.write(self.target.exact_sum(block, sums))

            def exact() -> TermCode:
                own = running() if running else None
                added = own.parts if own and kept.joins != "block" else ()
                return self.summed(0, [f"{sums}[j]", *added, *kept.part], largest_of(own), number, own)

            return exact

        lane = self.target.lane
        inverse, tops, sums = self.array(lane, "inverse"), self.array("int", "largest"), self.array(lane, "sum")
        self.write("LANES {")
        largest = largest_of(running() if running else None)
        self.write(f"{tops}[j] = {largest};")
        known = f"larger(larger({largest}, {-RANGE}), {plan.min_product_exponent})"
        exponent = f"{stage.fraction_bits} - {known}"
        if lane == "float" and plan.highest_unit > 126:  # beyond FP32; of products nothing is left there
            exponent = f"larger({exponent}, -126)"
        self.write(f"{inverse}[j] = {'pow2f' if lane == 'float' else 'pow2'}({exponent});")
        self.write("}")
        self.write(self.target.cut_sum(block, inverse, sums))

        def aligned() -> TermCode:
            largest = self.let("int", f"{tops}[j]", "e")
            known = self.let("int", f"larger({largest}, {-RANGE})", "known")
            part = self.let("double", f"(double){sums}[j] * pow2({known} - {stage.fraction_bits})")
            own = running() if running else None
            cut = [*self.cut_running(0, own, known, largest), *self.cut_kept(0, kept, known)]
            return self.summed(0, [part, *cut], largest, number, own)

        return aligned

    def product(self, k: str) -> Recipe:
        """Return one product, times its scales if products are scaled."""

        def compute() -> TermCode:
            x, y = self.let("double", f"A({k}, j)"), self.let("double", f"B({k}, j)")
            product = self.let("double", f"{x} * {y}" + " + 0.0" * self.plan.whole_products, "p")
            parts: tuple[str, ...] = (product,)
            if self.plan.product_bits > LANE_BITS:
                parts = (product, self.let("double", f"product_error({x}, {y}, {product})", "p"))
            if self.plan.infinite_from is not None:
                large = self.let("double", f"infinite_from({product}, {self.plan.infinite_from!r})", "p")
                parts = (large, *parts[1:])
            exponent = self.let("int", f"widen((int)EA({k}, j) + (int)EB({k}, j))", "e")
            return self.scaled(TermCode(parts, exponent), -1, k)

        return compute

    def scaled(self, term: TermCode, index: int, k: str) -> TermCode:
        """Return a term times the scales of its row, column and group of K (golden.scaled)."""
        scale = self.spec.scale
        if scale is None or index != self.spec.scaled_stage or (index == -1 and self.plan.scales_fold):
            return term
        factors, exponents = [], []
        for side, letter, axis in ((scale.a, "A", 1), (scale.b, "B", 0)):
            if side is not None:
                group = self.let("int", f"({k}) / {side.group[axis]}", "g")
                factors.append(f"S{letter}({group}, j)")
                exponents.append(f"ES{letter}({group}, j)")
        factor = self.let("double", " * ".join(factors) or "1.0", "f")
        joined = f"join({', '.join(exponents)})" if len(exponents) > 1 else exponents[0] if exponents else "0"
        exponent = self.let("int", joined, "e")
        if scale.product:
            factor = self.rounded(factor, scale.product)
            exponent = self.let("int", self.align(factor, scale.product.format), "e")
        if scale.power:
            factor = self.let("double", f"{factor} * {(2.0**scale.power).hex()}", "f")
            exponent = self.let("int", f"join({exponent}, {scale.power})", "e")
        parts: list[str] = []
        for part in term.parts:
            product = self.let("double", f"{part} * {factor}", "p")
            parts.append(product)
            if self.plan.scaled_bits > LANE_BITS:
                parts.append(self.let("double", f"product_error({part}, {factor}, {product})", "p"))
        if len(term.parts) > 1:
            # An infinity, a NaN and a zero have the right sign only as the product of the whole sum: parts may differ in sign.
            total = self.to_odd(term.parts)
            whole = self.let("double", f"{total} * {factor}", "p")
            known = f"is_finite({total}) & is_finite({factor}) & ({total} != 0) & ({factor} != 0)"
            alone = self.let("int", f"!({known})", "alone")
            first = self.let("double", f"{alone} ? {whole} : {parts[0]}", "p")
            parts = [first, *(self.let("double", f"{alone} ? copysign(0.0, {whole}) : {p}", "p") for p in parts[1:])]
        if scale.result:
            return self.term(self.rounded(self.to_odd(parts), scale.result), scale.result.format)
        return TermCode(tuple(parts), self.let("int", f"join({term.exponent}, {exponent})", "e"))

    # -- sums --------------------------------------------------------------------------------------------------------

    def kept(self, stage: Stage) -> Kept:
        """Return the second register of a stage's running value as a term of its sums."""
        remainder = stage.remainder
        if remainder is None or remainder.joins == "end":
            return Kept(None if remainder is None else "end", [], [])
        part = f"(second[j] == 0 ? {neutral(stage)} : second[j])"
        return Kept(remainder.joins, [part], [self.align("second[j]", remainder.format)])

    def largest(self, stage: Stage, exponents: Sequence[str], own: TermCode | None, kept: Kept) -> str:
        """Return the exponent a block is aligned to; a term without one counts with the stage's zero exponent."""
        if own and stage.offset:
            exponents = [*exponents, f"({own.exponent} == NONE ? NONE : {own.exponent} + {stage.offset})"]
        elif own:
            exponents = [*exponents, own.exponent]
        if stage.zero_exponent is not None:
            exponents = [f"({e} == NONE ? {stage.zero_exponent} : {e})" for e in exponents]
        result, *others = [*exponents, *kept.exponent]
        for exponent in others:
            result = self.let("int", f"larger({result}, {exponent})", "e")
        return self.let("int", result, "e")

    def cut(self, index: int, value: str, known: str, fraction_bits: int | None) -> str:
        """Return a term of a stage rounded to a multiple of 2**(known - fraction_bits)."""
        stage, unit = self.stages[index], f"{known} - {fraction_bits}"
        growth = max(term.growth for term in self.plan.addends[index])
        toward = {Rounding.DOWN: "rd", Rounding.UP: "ru"}.get(stage.rounding) if stage.rounding else None
        if self.adds_directed and toward and growth + (fraction_bits or 0) <= LANE_BITS - 3:
            magic = self.let("double", f"1.5 * pow2(52 + {unit})", "magic")
            return self.let("double", f"copysign(__dadd_{toward}({value}, {magic}) - {magic}, {value})", "c")
        return self.let("double", f"whole({value} * pow2(-({unit})), {mode(stage.rounding)}) * pow2({unit})", "c")

    def cut_running(self, index: int, own: TermCode | None, known: str, largest: str) -> list[str]:
        """Return the cut running value; an empty list for a block without one."""
        if own is None:
            return []
        stage = self.stages[index]
        kept = self.cut(index, own.parts[0], known, stage.accumulator_fraction_bits)
        if stage.drop_beyond is not None:
            dropped = f"({own.exponent} != NONE) & ({own.exponent} < {largest} - {stage.drop_beyond})"
            kept = self.let("double", f"{dropped} ? {neutral(stage)} : {kept}", "c")
        return [kept]

    def cut_kept(self, index: int, kept: Kept, known: str) -> list[str]:
        """Return the cut second register as a term of a sum; an empty list where it is none."""
        stage = self.stages[index]
        cuts = [self.cut(index, "second[j]", known, stage.fraction_bits) for _ in kept.part]
        return [self.let("double", f"second[j] == 0 ? {neutral(stage)} : {cut}", "c") for cut in cuts]

    def inverted(self, values: Sequence[str], own: str, unit: str) -> str:
        """Return what inverting the terms that oppose the running value takes away beside negating them (golden.add)."""
        signs = [f"((to_bits({value}) ^ to_bits({own})) < 0)" for value in values]
        against = " + ".join(
            f"({x} & (second[j] != 0))" if v == "second[j]" else x for v, x in zip(values, signs, strict=True)
        )
        some = " | ".join(f"({value} != 0)" for value in (*values, own))
        units = self.let("double", f"{some} ? (double)({against}) * pow2({unit}) : 0.0", "units")
        return self.let("double", f"to_bits({own}) < 0 ? {units} : -{units}", "units")

    def summed(
        self, index: int, parts: Sequence[str], largest: str, number: str, own: TermCode | None = None
    ) -> TermCode:
        """Return the sum of the parts in the register, or handed up as it is (golden.exact_sum and golden.put).

        `number` is the number of the block along K, `own` the running value that a second register goes with.
        """
        stage, level = self.stages[index], self.plan.levels[index]
        if len(parts) > 1:
            in_one = self.plan.adds_in_one(index, len(parts))
            if in_one and is_fp32(stage.result[0].format):
                parts = [self.let("double", f"(double)((float){parts[0]} + (float){parts[1]})", "s")]
            elif level.plain or in_one:
                parts = [self.let("double", " + ".join(parts), "s")]
            elif len(parts) > bins(len(parts), level.sum_bits):
                bottom = f"larger({largest}, {-RANGE}) - {level.fraction_bits}" if stage.aligned else str(level.lsb)
                parts = self.binned(parts, bottom, level.sum_bits, keep_sign=stage.zero == "ieee")
        if not stage.result:
            if stage.zero == "positive":
                parts = [self.let("double", f"{parts[0]} + 0.0", "s"), *parts[1:]]
            fixed = stage.exponent is not None
            exponent = self.let("int", f"{largest} == NONE ? NONE : {stage.exponent}", "e") if fixed else largest
            return TermCode(tuple(parts), exponent)
        if stage.remainder and stage.remainder.joins == "block" and own:
            parts = [self.rounded(self.to_odd(parts), stage.remainder.register), *own.parts]
        total = value = self.to_odd(parts)
        registers = stage.result if not self.plan.holds_terms(index) else ()
        for i, register in enumerate(registers, self.spec.register_number(index)):
            value = self.rounded(value, register, level.top, f"philox(seed, ROW_OF(j), COLUMN_OF(j), {number}, {i})")
        if stage.zero == "positive":
            value = self.let("double", f"{value} + 0.0")
        if stage.remainder:
            lost = self.to_odd([*parts, f"-{value}", *(["second[j]"] if stage.remainder.joins == "end" else [])])
            lost = self.let("double", f"is_finite({total}) & is_finite({value}) ? {lost} : 0.0", "lost")
            self.write(f"second[j] = {self.rounded(lost, stage.remainder.register)} + 0.0;")
        return self.term(value, stage.result[-1].format)

    # -- registers ---------------------------------------------------------------------------------------------------

    def rounded(self, value: str, register: Register, top: int = RANGE, word: str = "") -> str:
        """Return a value, smaller than 2**top, rounded to a register; `word` is the random word of a stochastic one."""
        return self.let("double", put(value, register, top, word))

    def term(self, value: str, fmt: Format) -> TermCode:
        """Return a number of a format as a term."""
        return TermCode((value,), self.let("int", self.align(value, fmt), "e"))

    @staticmethod
    def align(value: str, fmt: Format) -> str:
        """Return the C expression of the exponent with which a number of a format aligns."""
        return f"align_integer({value})" if fmt.kind == "integer" else f"align({value}, {fmt.min_exponent})"
