"""The composition: golden's own code runs on the wires of a unit, and each of its steps asks for the theorem of a block.

`golden.instruction` decides which terms meet in which step. Its steps are replaced in a copy of the module: each looks for the
call of the generator that read exactly these wires, proves the block, and goes on with the wires that the block drives.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from types import ModuleType
from typing import Any, TypeVar

from codesign.evidence.cost.proof import blocks, integers, semantics, two_registers
from codesign.evidence.cost.proof.integers import Code, Whole
from codesign.evidence.cost.proof.netlist_terms import Bit, NotProvable
from codesign.evidence.cost.proof.observed import ANY, Observed
from codesign.evidence.cost.proof.smt import Bits
from codesign.evidence.cost.proof.sums import add
from codesign.evidence.cost.proof.two_registers import Both
from codesign.evidence.cost.rtl.block import TermWires
from codesign.evidence.cost.rtl.ports import draws, registers, scale_inputs, sums_integers
from codesign.evidence.cost.rtl.term_sums import WIDEST, range_of
from codesign.evidence.cost.rtl.two_registers import block_stage, exact_stage
from isa_model import golden
from isa_model.formats import Format
from isa_model.instruction import Instruction
from isa_model.stage import Register, Remainder, Stage

T = TypeVar("T")


@dataclass(frozen=True)
class Start:
    """The zero from which a chain of blocks starts."""

    format: Format


@dataclass(frozen=True)
class Factors:
    """A product of terms that the unit brackets otherwise: a term, and factors that it may multiply first."""

    terms: tuple[TermWires, ...]


def prove_unit(spec: Instruction, unit: Observed) -> None:
    """Prove that the unit computes `golden.instruction` of one step, block by block. Raises NotProvable where it cannot."""
    steps = _Steps(spec, unit)
    if "integer" in (spec.a.kind, spec.b.kind) and not (spec.is_integer or sums_integers(spec)):
        raise NotProvable("integers whose products are summed as numbers")
    on_wires = _copy_of_golden()
    for name in ("operand", "read", "products", "term", "times", "add", "put", "rounded", "written", "run_in_two"):
        setattr(on_wires, name, getattr(steps, name))
    a, b, c = (steps.elements(name, count) for name, count in (("a", spec.span), ("b", spec.span), ("c", 1)))
    scales: dict[bool, list[list[Code]]] = {True: [], False: []}
    for port in scale_inputs(spec):
        scales[port.is_a].append(steps.elements(port.name, port.per_step))
    of_a, of_b = (own if len(own) > 1 else own[0] if own else () for own in (scales[True], scales[False]))
    random = steps.elements("random", len(draws(spec))) if spec.is_stochastic else []
    places = {
        (d.block, spec.register_number(d.stage) + d.register): code for d, code in zip(draws(spec), random, strict=True)
    }
    if spec.remainder:
        unit.assumed = partial(two_registers.assumed, unit, spec)
    running = steps.started(c[0]) if spec.remainder else steps.read(spec, spec.c_format, c[0], spec.flush_c)
    value = on_wires.instruction(spec, a, b, running, of_a, of_b, 0, lambda *place: places[place])
    outputs = steps.of_both(value) if spec.remainder else {"d": steps.written(spec, value)}
    for name, bits in outputs.items():
        if list(bits) != unit.netlist.ports[f"{name}_out"]:
            raise NotProvable(f"wiring: {'D' if name == 'd' else name} is not the code of the last register")


def _copy_of_golden() -> ModuleType:
    """Return a module of golden's code with names of its own."""
    found = importlib.util.find_spec(golden.__name__)
    assert found is not None
    assert found.loader is not None
    copy = importlib.util.module_from_spec(found)
    found.loader.exec_module(copy)
    return copy


class _Steps:
    """The steps of golden on wires. Each has the signature of the function it replaces."""

    def __init__(self, spec: Instruction, unit: Observed) -> None:
        self.spec, self.unit = spec, unit
        self.done: dict[tuple[str, int], Any] = {}

    def elements(self, port: str, count: int) -> list[Code]:
        bits = self.unit.netlist.ports[port]
        size = len(bits) // count
        return [tuple(bits[i * size : (i + 1) * size]) for i in range(count)]

    def _once(self, prove: Callable[..., T], i: int, *given: Any) -> T:
        """Return the result of a theorem on a call, which is proved the first time."""
        key = (prove.__name__, i)
        if key not in self.done:
            self.done[key] = prove(self.unit, i, *given)
        result: T = self.done[key]
        return result

    def _decode(self, fmt: Format, code: Code, flush: bool | str, widen: Format | None) -> TermWires:
        for i, call in enumerate(self.unit.calls):
            same = call.name == "decode" and call.args[0] == fmt and call.args[2:] == (flush, widen)
            if same and tuple(self.unit.bits(call.args[1])) == code:
                return self._once(blocks.decode, i)
        raise NotProvable(f"wiring: an element of {fmt.name} is not decoded")

    def operand(self, spec: Instruction, fmt: Format, code: Code) -> TermWires:
        return self._decode(fmt, code, spec.flush_operands, spec.widen)

    def read(self, spec: Instruction, fmt: Format, code: Code, flush: bool | str) -> TermWires | Whole:
        if spec.is_integer:
            return Whole(fmt, integers.bare(fmt, code))
        return self._decode(fmt, code, flush, None)

    def products(self, spec: Instruction, a: Sequence[Code], b: Sequence[Code]) -> Sequence[Any]:
        if spec.a.kind == "integer":  # multiplied where they are summed
            return [integers.Factors(x, y) for x, y in zip(a, b, strict=True)]
        pairs = zip(a, b, strict=True)
        found = [self.times(self.operand(spec, spec.a, x), self.operand(spec, spec.b, y)) for x, y in pairs]
        if spec.infinite_from is None:
            return found
        return [self._once(blocks.infinite_from, self.unit.find("infinite_from", x, spec.infinite_from)) for x in found]

    def term(self, fmt: Format, code: Code | int) -> TermWires | Start:
        return Start(fmt) if isinstance(code, int) else self._decode(fmt, code, False, None)

    def _number(self, x: Any) -> Any:
        """Return a term; an integer in a register is decoded."""
        return (
            self._decode(x.format, ("0",) * x.format.low_padding + x.code, False, None) if isinstance(x, Whole) else x
        )

    def times(self, x: Any, y: Any) -> Any:
        x = self._number(x)
        if not isinstance(y, TermWires):  # the constant scale 2**power
            power = y.number.exponent
            return replace(x, position=x.position.plus(power), align=x.align.plus(power)) if power else x
        terms = (*(x.terms if isinstance(x, Factors) else (x,)), y)
        direct = self._call("times", x, y)
        if direct is not None:
            return self._once(blocks.times, direct)
        if len(terms) < 3:
            return Factors(terms)
        first, *others = terms
        factor = others[0]
        for other in others[1:]:
            factor = self._once(blocks.times, self.unit.find("times", factor, other))
        self.rebracketed(terms)
        return self._once(blocks.times, self.unit.find("times", first, factor))

    def _call(self, name: str, *args: Any) -> int | None:
        """Return the number of the call that read these terms; None if there is none."""
        with suppress(NotProvable):
            return None if any(isinstance(x, Factors) for x in args) else self.unit.find(name, *args)
        return None

    def rebracketed(self, terms: Sequence[TermWires]) -> None:
        """Prove that (x * y) * z = x * (y * z) for terms as those of some wires: specials, signs, zeros and exponents.

        That whole significands associate is taken for granted: they are free words that are zero where a factor is.
        """
        reader = self.unit.reader()
        x, y, z = (self.unit.term(reader, t) for t in terms)
        given = [claim for t, s in zip(terms, (x, y, z), strict=True) for claim in self.unit.kept(reader, t, s)]
        width = sum(t.width for t in terms)

        def times(p: semantics.Term, q: semantics.Term, product: Bits) -> semantics.Term:
            given.append(product.eq(0).eq(p.significand.eq(0) | q.significand.eq(0)))
            return semantics.times(p, q, product)

        one, other, whole = (reader.script.input(width) for _ in range(3))
        claims = semantics.same(times(times(x, y, one), z, whole), times(x, times(y, z, other), whole))
        self.unit.prove("product of scales first", reader, given, claims)

    def add(self, stage: Stage, block: Sequence[Any], running: Any) -> tuple[Any, None]:
        if isinstance(block[0], integers.Factors):
            of_a, of_b = [x.a for x in block], [x.b for x in block]
            i = self.unit.find("summed", ANY, of_a, of_b, ANY, running.code if isinstance(running, Whole) else ANY)
            return self._once(integers.summed, i), None
        if isinstance(running, Start):
            running = self._decode(running.format, tuple("0" * running.format.bits), False, None)
        block = [self._number(x) for x in block]
        i = self.unit.find("add", ANY, stage, block, running)
        return self._once(add, i), None

    def put(self, stage: Stage, total: Any, _: None, draw: Callable[[int], Any]) -> TermWires | Whole:
        if isinstance(total, Whole):
            return total
        for i, register in enumerate(stage.result):
            zero = i == len(stage.result) - 1 and stage.zero == "positive"
            total = self._rounded(total, register, zero, draw(i) if register.random_bits else None)
        result: TermWires = total
        return result

    def rounded(self, value: TermWires, register: Register) -> TermWires:
        return self._rounded(value, register, False, None)

    def _rounded(self, value: TermWires, register: Register, positive_zero: bool, random: Any) -> TermWires:
        return self._once(blocks.rounded, self.unit.find("rounded", value, register, positive_zero, random))

    def started(self, c: Code) -> Both:
        """Return both registers that a step starts from."""
        ports = [self.elements(name, 1)[0] for name in (*registers(self.spec), "first")]
        return self._once(two_registers.start, self.unit.find("start", self.spec, c, *ports))

    def run_in_two(self, stage: Stage, remainder: Remainder, block: Sequence[TermWires], running: Both) -> Both:
        """Return both registers after a block, in the steps of `golden.run_in_two`."""
        rest = self._once(two_registers.present, self.unit.find("present", stage, running.value, running.rest))
        if remainder.joins == "block":
            total, _ = self.add(block_stage(stage), block, rest)
            block = [self._rounded(total, remainder.register, False, None)]
        if not stage.aligned and range_of([*block, running.value]) > WIDEST:
            raise NotProvable("a sum of two numbers of any exponents, and what rounding it loses")
        total, _ = self.add(stage, [*block, rest] if remainder.joins == "sum" else block, running.value)
        register, positive = stage.result[-1], stage.zero == "positive"
        value = self._rounded(total, register, positive, None)
        lost: Any = self._once(two_registers.what_is_lost, self.unit.find("what_is_lost", total, value, register))
        if remainder.joins == "end":
            lost, _ = self.add(exact_stage(stage, remainder.register), [lost], rest)
        kept = self._rounded(replace(lost, nan=(), infinite=()), remainder.register, True, None)
        i = self.unit.find("if_finite", total, value, kept)
        return Both(value, self._once(two_registers.if_finite, i, remainder.format))

    def of_both(self, both: Both) -> dict[str, list[Bit]]:
        """Return the codes of D, as `golden.joined` forms it, and of both registers, by output."""
        *_, last = self.spec.stages.values()
        joining, positive = self.spec.joining, last.zero == "positive"
        exact = exact_stage(last, joining, last.zero)
        rest = self._once(two_registers.present, self.unit.find("present", exact, both.value, both.rest))
        total, _ = self.add(exact, [rest], both.value)
        d = self._rounded(total, joining, positive, None)
        two_registers.unchanged(self.unit, last.result[-1].format, joining, positive)
        codes = {"d": (self.spec.accumulator, d, self.spec.nan_code)}
        for (name, fmt), value in zip(registers(self.spec).items(), (both.value, both.rest), strict=True):
            codes[name] = fmt, value, fmt.nan_code
        return {
            name: self._once(blocks.written, self.unit.find("encode", fmt, value, fmt, nan_code))
            for name, (fmt, value, nan_code) in codes.items()
        }

    def written(self, spec: Instruction, value: TermWires | Whole) -> list[Bit]:
        if isinstance(value, Whole):
            return integers.extended(value, spec.accumulator)
        kept = list(spec.stages.values())[-1].result[-1].format
        return self._once(blocks.written, self.unit.find("encode", spec.accumulator, value, kept, spec.nan_code))
