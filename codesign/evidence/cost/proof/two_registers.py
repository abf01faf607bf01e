"""Theorems of running values in two registers, each of a call in `rtl.two_registers`."""

from __future__ import annotations

from dataclasses import dataclass, replace

from codesign.evidence.cost.proof import semantics
from codesign.evidence.cost.proof.blocks import within
from codesign.evidence.cost.proof.netlist_terms import Reader
from codesign.evidence.cost.proof.observed import Observed
from codesign.evidence.cost.proof.semantics import EXPONENT, Term
from codesign.evidence.cost.proof.smt import Bits, choose
from codesign.evidence.cost.rtl.block import TermWires
from isa_model.formats import Format
from isa_model.instruction import Instruction
from isa_model.stage import Register


@dataclass(frozen=True)
class Both:
    """The wires of a running value and of what its register lost."""

    value: TermWires
    rest: TermWires


def assumed(unit: Observed, spec: Instruction, reader: Reader) -> list[Bits]:
    """Return the assumption that the second register is finite where a step reads it; `if_finite` proves that it stays so."""
    first, rest = (reader.bind(unit.netlist.ports[name]) for name in ("first", "rest"))
    assert spec.remainder
    return [first | semantics.decode(reader.script, spec.remainder.format, rest).finite]


def start(unit: Observed, i: int) -> Both:
    """Prove that a step starts from C and a zero if `first` is set, else from both registers."""
    spec, *wires = unit.calls[i].args
    value, rest = unit.calls[i].result
    reader = unit.reader()
    c, running, kept, first = (reader.bind(unit.bits(wire)) for wire in wires)
    script = reader.script
    of_c = semantics.decode(script, spec.c_format, c, spec.flush_c)
    of_running = semantics.decode(script, spec.stages[next(reversed(spec.stages))].result[-1].format, running)
    of_rest = semantics.decode(script, spec.remainder.format, kept)
    width = max(of_c.significand.width, of_running.significand.width)
    of_c, of_running = (replace(t, significand=t.significand.extended(width)) for t in (of_c, of_running))
    started = replace(_cleared(of_rest, first), nan=script.const(0, 1), infinite=script.const(0, 1))
    claims = []
    for built, meant in ((value, semantics.pick(first, of_c, of_running)), (rest, started)):
        term = unit.term(reader, built, bind=False)
        claims += [*semantics.same(term, meant), *unit.kept(reader, built, term, bind=False)]
    unit.prove("start from C or from both registers", reader, assumed(unit, spec, reader), claims)
    return Both(value, rest)


def present(unit: Observed, i: int) -> TermWires:
    """Prove that a zero in the second register changes no sum's sign, and that any other number is as it was."""
    stage, _, rest = unit.calls[i].args
    result: TermWires = unit.calls[i].result
    reader = unit.reader()
    term = unit.term(reader, rest)
    meant = replace(term, negative=term.negative | term.none) if stage.zero == "ieee" else term
    built = unit.term(reader, result, bind=False)
    claims = [*semantics.same(built, meant), *unit.kept(reader, result, built, bind=False)]
    unit.prove("sign of an absent second register", reader, unit.kept(reader, rest, term), claims)
    return result


def what_is_lost(unit: Observed, i: int) -> TermWires:
    """Prove that a sum, less what a register makes of it, is lost; both are finite."""
    total, value, register = unit.calls[i].args
    result: TermWires = unit.calls[i].result
    reader = unit.reader()
    whole, kept = unit.term(reader, total), unit.term(reader, value)
    meant = semantics.rounded(whole, register, False)
    same = [claim | (kept.zero if n == _SIGN else kept.nan) for n, claim in enumerate(semantics.same(kept, meant))]
    given = [*unit.kept(reader, total, whole, align=False), *unit.kept(reader, value, kept), *same]
    given += [whole.finite, kept.finite]
    built = unit.term(reader, result, bind=False)
    # From the sum's last place to the register's.
    farthest = max(value.position.least - total.position.least, total.width)
    size = max(farthest + value.width + 2, EXPONENT + 1)
    distance = kept.position - whole.position
    finer = distance.less(0) & ~kept.zero

    def signed(term: Term) -> Bits:
        number = term.significand.extended(size)
        return choose(term.negative, -number, number)

    moved = signed(kept) << distance.extended(size)
    claims = [
        built.finite,
        built.significand.eq(0) | built.position.eq(whole.position),
        kept.zero | distance.less(size - value.width - 1),
        finer | signed(whole).eq(moved + signed(built)),
        ~finer | (built.significand.eq(0) & semantics.same(kept, whole, align=False)[_VALUE]),
        *unit.kept(reader, result, built, bind=False),
    ]
    unit.prove(f"lost to {register.format.name}", reader, given, claims)
    return result


_SIGN, _VALUE = 2, 3
"""Places of the signs and of the values among the claims of `semantics.same`."""


def if_finite(unit: Observed, i: int, fmt: Format) -> TermWires:
    """Prove that the second register is a zero where the sum or the first register is special, and is always finite."""
    total, value, kept = unit.calls[i].args
    result: TermWires = unit.calls[i].result
    reader = unit.reader()
    whole, first, term = (unit.term(reader, wires) for wires in (total, value, kept))
    meant = _cleared(term, ~(whole.finite & first.finite))
    built = unit.term(reader, result, bind=False)
    claims = [built.finite, *semantics.same(built, meant), *unit.kept(reader, result, built, bind=False)]
    claims += within(fmt, built)
    given = [*unit.kept(reader, kept, term), term.finite, ~(term.zero & term.negative), *within(fmt, term)]
    unit.prove("no second register of a special number", reader, given, claims)
    return result


def unchanged(unit: Observed, fmt: Format, register: Register, positive_zero: bool) -> None:
    """Prove that rounding to D leaves every number of the first register as it is, as without a second one."""
    reader = unit.reader()
    term = semantics.decode(reader.script, fmt, reader.script.input(fmt.bits))
    given = [~(term.zero & term.negative)] if positive_zero else []
    claims = semantics.same(semantics.rounded(term, register, positive_zero), term, align=False)
    unit.prove(f"{fmt.name} in {register.format.name}", reader, given, claims)


def _cleared(term: Term, when: Bits) -> Term:
    """Return a term, or +0 if a flag is set."""
    nothing = term.none.script.const(0, term.significand.width)
    return replace(
        term,
        negative=term.negative & ~when,
        significand=choose(when, nothing, term.significand),
        none=term.none | when,
    )
