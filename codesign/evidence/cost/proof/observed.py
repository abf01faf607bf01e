"""A unit whose wires are observed: the generator's calls, what their wires mean, and what was proved of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, reduce
from typing import Any

from amaranth.hdl import Const, Value

from codesign.evidence.cost.proof.netlist_terms import Bit, FlatNetlist, NotProvable, Reader
from codesign.evidence.cost.proof.semantics import EXPONENT, Term
from codesign.evidence.cost.proof.smt import Answer, Bits, Script, digest, either, solve
from codesign.evidence.cost.rtl.block import Call, Exponent, TermWires, UnitDesign
from codesign.evidence.cost.rtl.carry_save import Addend
from codesign.evidence.cost.rtl.unit import unit, unit_design
from codesign.evidence.cost.synth import run
from isa_model.instruction import Instruction
from isa_model.output_files import scratch

ANY = object()
"""An argument that a call may have any value of."""


@dataclass
class Theorem:
    """One theorem, and the number of places of the unit that it holds in."""

    block: str
    text: str
    answer: Answer
    places: int = 0

    @property
    def sha256(self) -> str:
        return digest(self.text)


class Lifted(Exception):
    """The end of a search for operands."""


@dataclass
class Observed:
    """A unit's netlist with the generator's calls, and the theorems proved of it so far."""

    netlist: FlatNetlist
    calls: list[Call]
    names: dict[int, str]
    seconds: float
    theorems: dict[str, Theorem] = field(default_factory=dict)
    asked: int = 0
    """Number of theorems asked for."""
    lifted: int | None = None
    """Number of a refuted theorem to find operands of the unit for; None while theorems are proved."""
    open: list[str] = field(default_factory=list)
    """Blocks without a theorem. What they drive is taken for what golden gives."""
    refuted: list[int] = field(default_factory=list)
    """Numbers of theorems that were refuted."""
    operands: dict[Bit, int] = field(default_factory=dict)
    """Bits of the unit's inputs that break the theorem `lifted`."""
    assumed: Callable[[Reader], list[Bits]] = lambda reader: []
    """Assumptions on the unit's inputs."""

    # -- wires -----------------------------------------------------------------------------------------------------

    def bits(self, wire: Any) -> list[Bit]:
        """Return the nets of a wire of the generator."""
        if isinstance(wire, Const):
            return [str(wire.value >> i & 1) for i in range(len(wire))]
        return self.netlist.ports[f"{self.names[id(wire)]}_out"]

    def key(self, value: Any) -> Any:
        """Return what identifies the wires of a term."""
        if isinstance(value, TermWires):
            flags = (tuple(tuple(self.bits(flag)) for flag in flags) for flags in (value.nan, value.infinite))
            wires = (tuple(self.bits(w)) for w in (value.sign, value.significand, value.none))
            return (*wires, self.key(value.position), self.key(value.align), *flags)
        if isinstance(value, Exponent):
            return (tuple(self.bits(value.field)), value.offset, self.key(value.common))
        if isinstance(value, Value):
            return tuple(self.bits(value))
        return tuple(map(self.key, value)) if isinstance(value, list | tuple) else value

    def find(self, name: str, *args: Any) -> int:
        """Return the number of the call of a function whose first arguments are these. Raises NotProvable without one."""
        wanted = tuple(None if arg is ANY else self.key(arg) for arg in args)
        for i, key in self.keys.get(name, {}).items():
            if all(w is None or k == w for k, w in zip(key, wanted, strict=False)):
                return i
        raise NotProvable(f"wiring: no `{name}` reads the wires that the definition gives it")

    @cached_property
    def keys(self) -> dict[str, dict[int, Any]]:
        """Keys of the arguments of all calls, by function and number."""
        found: dict[str, dict[int, Any]] = {}
        for i, call in enumerate(self.calls):
            found.setdefault(call.name, {})[i] = self.key(call.args)
        return found

    def inside(self, i: int, name: str) -> list[int]:
        """Return the numbers of the calls of a function directly inside call number `i`, in order."""
        depth, found = self.calls[i].depth, []
        for k in range(i - 1, -1, -1):
            if self.calls[k].depth <= depth:
                break
            if self.calls[k].depth == depth + 1 and self.calls[k].name == name:
                found.append(k)
        return found[::-1]

    # -- terms -----------------------------------------------------------------------------------------------------

    def exponent(self, reader: Reader, exponent: Exponent, bind: bool) -> Bits:
        word = (reader.bind if bind else reader.word)(self.bits(exponent.field)).extended(EXPONENT) + exponent.offset
        return word + self.exponent(reader, exponent.common, bind) if exponent.common else word

    def term(self, reader: Reader, wires: TermWires, bind: bool = True) -> Term:
        """Return what wires mean; with `bind` they are free inputs."""
        read = reader.bind if bind else reader.word
        script = reader.script
        nan, infinite = (either([read(self.bits(f)) for f in flags], script) for flags in (wires.nan, wires.infinite))
        return Term(
            nan,
            infinite & ~nan if wires.infinite else script.const(0, 1),
            read(self.bits(wires.sign)),
            read(self.bits(wires.significand)),
            self.exponent(reader, wires.position, bind),
            read(self.bits(wires.none)),
            self.exponent(reader, wires.align, bind),
        )

    def kept(self, reader: Reader, wires: TermWires, term: Term, bind: bool = True, align: bool = True) -> list[Bits]:
        """Return what the generator takes for granted of a term: `TermWires` and `Exponent` say so.

        Without `align`, the alignment exponent is left out: what only rounds a number does not read it.
        """
        read = reader.bind if bind else reader.word
        special, zero = ~term.finite, term.significand.eq(0)
        claims = [~term.infinite | ~term.none]
        for exponent, idle in ((wires.position, zero), (wires.align, term.none))[: 1 + align]:
            at: Exponent | None = exponent
            while at:
                claims += [special | idle | claim for claim in self.in_range(read(self.bits(at.field)), at)]
                at = at.common
        gap = term.exponent - term.position
        reach = gap + wires.height
        size = max(term.significand.width, EXPONENT)
        fits = ~reach.less(0) & (term.significand.extended(size) >> reach.extended(size)).eq(0)
        numbers = [zero | ~gap.less(wires.depth), zero | fits] if align else []
        numbers.append(~term.none | zero)
        if not wires.summed:
            numbers.append(~zero | term.none)
        if wires.normal:
            lowest = read(self.bits(wires.position.field)).extended(EXPONENT).eq(wires.position.low)
            numbers.append(zero | term.significand[-1] | lowest)
        return [*claims, *(special | claim for claim in numbers)]

    @staticmethod
    def in_range(word: Bits, exponent: Exponent) -> list[Bits]:
        value = word.extended(EXPONENT)
        return [~value.less(exponent.low), ~value.script.const(exponent.top, EXPONENT).less(value)]

    def reader(self, script: Script | None = None) -> Reader:
        """Return a reader for the next theorem."""
        return Reader(self.netlist, script or Script(), lifted=self.lifted == self.asked)

    # -- theorems --------------------------------------------------------------------------------------------------

    def prove(self, block: str, reader: Reader, given: Sequence[Bits], claims: Sequence[Bits]) -> bool:
        """Prove that the claims follow from what is given, and return whether they do."""
        self.asked += 1
        if self.lifted is not None:
            return self._lift(reader, given, claims)
        text = reader.script.text(given, claims)
        theorem = self.theorems.get(text)
        if theorem is None:
            theorem = self.theorems[text] = Theorem(block, text, solve(text, self.seconds))
            if given and solve(reader.script.text(given, [reader.script.const(0, 1)]), self.seconds).status == "proved":
                raise AssertionError(f"{block}: what is given contradicts itself, and proves anything")
        theorem.places += 1
        if theorem.answer.status == "refuted":
            self.refuted.append(self.asked - 1)
        return theorem.answer.status == "proved"

    def leave_open(self, block: str) -> None:
        """Note a block that no theorem is known for."""
        if block not in self.open:
            self.open.append(block)

    def _lift(self, reader: Reader, given: Sequence[Bits], claims: Sequence[Bits]) -> bool:
        """Look for operands of the unit that break a theorem."""
        if self.lifted == self.asked - 1:
            answer = solve(reader.script.text([*given, *self.assumed(reader)], claims), self.seconds)
            if answer.status == "refuted":
                bound = reader.bound.items()
                self.operands = {bit: answer.model.get(value.text, 0) >> place & 1 for bit, (value, place) in bound}
            raise Lifted
        return True

    def total(self, reader: Reader, leaves: Sequence[Sequence[Bit]], width: int) -> Bits:
        return reduce(
            lambda p, q: p + q, (reader.word(leaf).extended(width) for leaf in leaves), reader.script.const(0, width)
        )

    def support(self, bits: Sequence[Bit], stop: set[Bit]) -> set[Bit]:
        """Return which bits of `stop`, or which inputs of the unit, some bits depend on."""
        found: set[Bit] = set()
        seen: set[Bit] = set()
        todo = list(bits)
        while todo:
            bit = todo.pop()
            if isinstance(bit, str) or bit in seen:
                continue
            seen.add(bit)
            if bit in stop or bit not in self.netlist.driver:
                found.add(bit)
                continue
            connections = self.netlist.cells[self.netlist.driver[bit][0]]["connections"]
            todo += [b for port, wires in connections.items() if port != "Y" for b in wires]
        return found

    def linear(self, block: str, total: Sequence[Bit]) -> list[tuple[Bit, ...]]:
        """Prove that a carry-save tree with its final adder leaves the sum of some words in `total`; return those words."""
        reader = self.reader()
        value = reader.total(total)
        leaves = [(bits, v) for bits, values in reader.leaves.items() for v in values]
        everything = reduce(
            lambda p, q: p + q, (v.extended(len(total)) for _, v in leaves), reader.script.const(0, len(total))
        )
        self.prove(f"{block}: the tree adds its rows", reader, [], [value.eq(everything)])
        for row in reader.carries:
            of_row = self.reader()
            x, y, z = (of_row.bind(word) for word in (row.x, row.y, row.z))
            kept = of_row.word(row.sum) + (of_row.word(row.carries) << 1)
            self.prove(f"{block}: 3:2 compressors", of_row, [], [(x + y + z).eq(kept)])
        cell = self.netlist.cells[self.netlist.driver[total[-1]][0]]["connections"]
        last = self.reader()
        p, q = (last.bind(cell[port]) for port in "AB")
        claim = last.word(total).eq(p[1:] + q[1:] + q[:1].extended(len(total)))
        self.prove(f"{block}: final adder", last, [], [claim])
        return [bits for bits, _ in leaves]


def every(flags: Sequence[Bits]) -> Bits:
    return reduce(lambda p, q: p & q, flags)


def _wires(value: Any) -> Iterator[Any]:
    """Yield the wires in a call's arguments or result."""
    if isinstance(value, Const):
        return
    if isinstance(value, Value):
        yield value
    elif isinstance(value, TermWires):
        yield from (value.sign, value.significand, value.none, *value.nan, *value.infinite)
        yield from _wires([value.position, value.align])
    elif isinstance(value, Exponent):
        yield value.field
        yield from _wires(value.common)
    elif isinstance(value, Addend):
        yield from (value.sign, value.magnitude, value.step)
    elif isinstance(value, list | tuple):
        for x in value:
            yield from _wires(x)


def flat(rtlil: str) -> FlatNetlist:
    """Return the flat netlist of a design's word-level cells. Nothing but equal cells is merged."""
    with scratch() as folder:
        source, out = folder / "unit.il", folder / "unit.json"
        source.write_text(rtlil)
        run(
            f"read_rtlil {source}; hierarchy -top unit; proc; flatten -noscopeinfo; opt_merge; opt_clean; write_json {out}",
            folder,
        )
        return FlatNetlist(json.loads(out.read_text())["modules"]["unit"])


def observe_unit(spec: Instruction, seconds: float) -> tuple[Observed, FlatNetlist]:
    """Return a unit whose recorded wires are observed, and the unit as it is shipped."""
    names: dict[int, str] = {}
    observed: dict[str, Any] = {}

    def observe(design: UnitDesign) -> dict[str, Any]:
        for call in design.calls:
            for wire in _wires([call.args, call.result]):
                if not isinstance(wire, Const) and id(wire) not in names:
                    names[id(wire)] = f"observed{len(names)}"
                    observed[names[id(wire)]] = wire
        return observed

    design = unit_design(spec, observe=observe)
    observed_unit = Observed(flat(design.rtlil()), list(design.calls), names, seconds)
    return observed_unit, flat(unit(spec))
