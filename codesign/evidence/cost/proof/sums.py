"""Theorems of sums: the exponent they are aligned to, each addend, the tree, and what the whole stands for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from amaranth.hdl import Const

from codesign.evidence.cost.proof import semantics
from codesign.evidence.cost.proof.netlist_terms import Bit, NotProvable, Reader
from codesign.evidence.cost.proof.observed import Observed, every
from codesign.evidence.cost.proof.semantics import EXPONENT, Term
from codesign.evidence.cost.proof.smt import Bits, choose, either
from codesign.evidence.cost.rtl.align import groups
from codesign.evidence.cost.rtl.block import Exponent, TermWires
from codesign.evidence.cost.rtl.carry_save import Addend
from isa_model.rounding import Rounding
from isa_model.stage import Stage


@dataclass(frozen=True)
class Anchor:
    """What a sum's wires are relative to, for one theorem."""

    position: Bits
    """Exponent of the sum's last bit."""
    none: Bits
    exponent: Bits
    given: Sequence[Bits]


def add(unit: Observed, i: int) -> TermWires:
    """Prove call number `i` of `term_sums.add`, and return the wires of the sum."""
    _, stage, block, running = unit.calls[i].args
    result: TermWires = unit.calls[i].result
    terms: list[TermWires] = [*block, *([running] if running is not None else [])]
    if stage.offset or stage.opposing == "complement":
        raise NotProvable("a running value that aligns elsewhere, or terms inverted without an increment")
    sums = unit.inside(i, "signed_sum")
    exact = not stage.aligned
    sliding = exact and not isinstance(result.position.field, Const)
    if len(sums) != 1 or (sliding and len(terms) != 2):
        unit.leave_open(f"exact sum of {len(terms)} of any exponents")
        return result
    addends: Sequence[Addend] = unit.calls[sums[0]].args[1]
    maxima = unit.inside(i, "largest_exponent")
    if maxima:
        largest(unit, stage, terms, maxima[0])
    if exact:
        if stage.exponent is None and not stage.result:
            raise NotProvable("an exact sum that is passed on with the exponent of its largest term")
        if sliding:
            slid(unit, stage, terms, addends, result, unit.inside(i, "normalised"))
        for term, addend in zip(terms, addends, strict=True) if not sliding else ():
            placed(unit, term, addend, result.position)
    else:
        top = unit.calls[maxima[0]].result[0]
        own = [stage.accumulator_fraction_bits if t is running else stage.fraction_bits for t in terms]
        for term, addend, bits in zip(terms, addends, own, strict=True):
            if addend.weight != max(own) - bits:
                raise NotProvable("an addend of another weight")
            aligned(unit, stage, term, top, addend, bits, stage.drop_beyond if term is running else None)
    signed_sum(unit, sums[0])

    def anchor(reader: Reader) -> Anchor:
        if not exact:
            top, none = unit.calls[maxima[0]].result
            exponent = unit.exponent(reader, top, bind=True)
            given = Observed.in_range(reader.bind(unit.bits(top.field)), top)
            flag, nones = reader.bind(unit.bits(none)), [reader.bind(unit.bits(t.none)) for t in terms]
            given.append(flag.eq(every(nones)) if stage.zero_exponent is None else ~flag)
            return Anchor(exponent - max(own), flag, exponent, given)
        position = unit.exponent(reader, result.position, bind=True)
        none = every([reader.bind(unit.bits(t.none)) for t in terms])
        exponent = position if stage.exponent is None else reader.script.const(stage.exponent, EXPONENT)
        at: Exponent | None = result.position
        given = []
        while at:
            given += Observed.in_range(reader.bind(unit.bits(at.field)), at)
            at = at.common
        return Anchor(position, none, exponent, given)

    assembled(unit, stage, terms, anchor, unit.calls[sums[0]].result, result, drops=running is not None)
    return result


def largest(unit: Observed, stage: Stage, terms: Sequence[TermWires], i: int) -> None:
    """Prove that an exponent is the largest of finite terms: first among the fields of a group, then among groups."""
    block = f"exponent maximum of {len(terms)}"
    exponent, flag = unit.calls[i].result
    winners = [unit.calls[k].result for k in unit.inside(i, "group_maximum")]
    members_of = groups(terms, [t.align for t in terms])
    for members, winner in zip(members_of, winners, strict=True):
        reader = unit.reader()
        nones = [reader.bind(unit.bits(t.none)) for t in members]
        fields = [reader.bind(unit.bits(t.align.field)).extended(EXPONENT) for t in members]
        largest = reader.word(unit.bits(winner)).extended(EXPONENT)
        one_of = either([~n & f.eq(largest) for n, f in zip(nones, fields, strict=True)], reader.script)
        claims = [n | ~largest.less(f) for n, f in zip(nones, fields, strict=True)]
        unit.prove(f"{block}: fields", reader, [], [*claims, one_of | every(nones)])

    reader = unit.reader()
    script = reader.script
    given, counting = [], []
    nones = [reader.bind(unit.bits(t.none)) for t in terms]
    for members, winner in zip(members_of, winners, strict=True):
        empty = every([reader.bind(unit.bits(t.none)) for t in members])
        align = members[0].align
        field = Exponent(winner, align.offset, min(t.align.low for t in members), max(t.align.top for t in members))
        value = unit.exponent(reader, field, bind=True)
        given += [empty | claim for claim in Observed.in_range(reader.bind(unit.bits(winner)), field)]
        common = align.common
        if common:
            value = value + unit.exponent(reader, common, bind=True)
        while common:
            given += Observed.in_range(reader.bind(unit.bits(common.field)), common)
            common = common.common
        counting.append((~empty, value))
    if stage.zero_exponent is not None:
        zeros = [none for none, t in zip(nones, terms, strict=True) if not t.optional]
        counting.append((either(zeros, script), script.const(stage.zero_exponent, EXPONENT)))
    word = reader.word(unit.bits(exponent.field))
    top = word.extended(EXPONENT) + exponent.offset
    none = ~either([counts for counts, _ in counting], script)
    # Of zeros alone, a register keeps no exponent.
    idle = none | every(nones) if stage.result else none
    claims = [
        reader.word(unit.bits(flag)).eq(none),
        *Observed.in_range(word, exponent),
        idle | either([counts & own.eq(top) for counts, own in counting], script),
        *(idle | ~counts | ~top.less(own) for counts, own in counting),
    ]
    unit.prove(f"{block}: groups", reader, given, claims)


def aligned(
    unit: Observed,
    stage: Stage,
    wires: TermWires,
    largest: Exponent,
    addend: Addend,
    bits: int,
    drop_beyond: int | None = None,
) -> None:
    """Prove that a finite term is shifted right to the largest exponent and cut, given that its own is not larger.

    One that lies more than `drop_beyond` below it is a zero, with the sign that no other sign depends on.
    """
    reader = unit.reader()
    term = unit.term(reader, wires)
    top = unit.exponent(reader, largest, bind=True)
    given = [*unit.kept(reader, wires, term), term.finite, term.none | ~top.less(term.exponent)]
    given += Observed.in_range(reader.bind(unit.bits(largest.field)), largest)
    assert stage.rounding is not None
    meant = semantics.cut(term, top - bits, stage.rounding, len(addend.magnitude) + 2)
    negative = term.negative
    if drop_beyond is not None:
        dropped = dropped_below(term, top, drop_beyond)
        meant = choose(dropped, reader.script.const(0, meant.width), meant)
        negative = negative | dropped if stage.zero == "ieee" else negative
    magnitude, step = (reader.word(unit.bits(w)).extended(meant.width) for w in (addend.magnitude, addend.step))
    claims = [(magnitude + step).eq(meant), reader.word(unit.bits(addend.sign)).eq(negative)]
    dropping = "" if drop_beyond is None else " or drop"
    unit.prove(f"shift and round{dropping}, {wires.width} bits", reader, given, claims)


def dropped_below(running: Term, largest: Bits, drop_beyond: int) -> Bits:
    """Return `golden.is_dropped`: whether a running value lies too far below the largest exponent to count."""
    return ~running.none & running.exponent.less(largest - drop_beyond)


def placed(unit: Observed, wires: TermWires, addend: Addend, last: Exponent) -> None:
    """Prove that a finite term is shifted left to its place in an exact sum, whose last bit has the exponent `last`."""
    reader = unit.reader()
    term = unit.term(reader, wires)
    distance = term.position - unit.exponent(reader, last, bind=True)
    size = max(len(addend.magnitude), term.significand.width, EXPONENT) + 1
    meant = term.significand.extended(size) << distance.extended(size)
    fits = (
        ~distance.less(0)
        & distance.less(size)
        & ((meant >> distance.extended(size)).eq(term.significand.extended(size)))
    )
    claims = [
        reader.word(unit.bits(addend.magnitude)).extended(size).eq(meant),
        term.significand.eq(0) | fits,
        reader.word(unit.bits(addend.sign)).eq(term.negative),
    ]
    if not isinstance(addend.step, Const) or addend.weight:
        raise NotProvable("an exact addend that is rounded")
    given = [*unit.kept(reader, wires, term), term.finite]
    unit.prove(f"shift to its place, {wires.width} bits", reader, given, claims)


def normalised(unit: Observed, i: int) -> TermWires:
    """Prove call number `i` of `term_sums.normalised`: the same number with its top bit set. Its exponent is of no use."""
    (wires,) = unit.calls[i].args
    result: TermWires = unit.calls[i].result
    reader = unit.reader()
    term = unit.term(reader, wires)
    built = unit.term(reader, result, bind=False)
    claims = [*semantics.same(built, term, align=False), *unit.kept(reader, result, built, False, align=False)]
    unit.prove(f"normalise {wires.width} bits", reader, unit.kept(reader, wires, term, align=False), claims)
    return result


def slid(
    unit: Observed,
    stage: Stage,
    terms: Sequence[TermWires],
    addends: Sequence[Addend],
    result: TermWires,
    moved: Sequence[int],
) -> None:
    """Prove that a sum of two numbers of any exponents, formed in a window, rounds to the register as the exact sum does.

    The window holds the sum itself; or x and, for the bits of y below it, a last bit that is set if one of them is; or y and,
    for an x far below it, some number in its place. Then no number at which rounding changes, a multiple of half a unit in
    the last place of the result, lies between the sum in the window and the exact one: both are between two neighbouring
    multiples of 2**position * `cell`, and half a unit is such a multiple.
    """
    register = stage.result[0]
    if register.random_bits:
        raise NotProvable("a stochastic register for a sum of any exponents")
    wires = [normalised(unit, moved[0]) if moved else terms[0], terms[1]]
    reader = unit.reader()
    x, y = (unit.term(reader, w) for w in wires)
    given = [
        claim for w, t in zip(wires, (x, y), strict=True) for claim in [*unit.kept(reader, w, t, align=False), t.finite]
    ]
    a, b = (reader.word(unit.bits(addend.magnitude)) for addend in addends)
    signs = [reader.word(unit.bits(addend.sign)) for addend in addends]
    field = result.position
    last = unit.exponent(reader, field, bind=False)
    precision = register.format.mantissa_bits + 1
    width = max(a.width, b.width) + 2
    a_wide, b_wide = a.extended(width), b.extended(width)

    def has_bits(magnitude: Bits, cell: int) -> Bits:
        """Return whether half a unit of a number from `magnitude` on is a multiple of 2**cell, or the format has none finer."""
        finest = (last + (cell + 1)).less(register.format.min_lsb_exponent + 1)
        return ~magnitude.below(1 << (cell + precision)) | finest

    def value(magnitude: Bits, term: Term) -> list[Bits]:
        off = reader.script.const(0, 1)
        return semantics.same(Term(off, off, off, magnitude, last, off, last), replace(term, negative=off), align=False)

    x_exact, y_exact = every(value(a, x)), every(value(b, y))
    jammed = semantics.shift_right(
        y.significand.extended(width), last - y.position, Rounding.TO_ODD, reader.script.const(0, 1)
    )
    below = jammed.eq(b_wide) & y.position.less(last) & ~a[0] & b_wide.below(a_wide) & has_bits(a_wide - b_wide, 1)
    cell = a.width
    low = b_wide[:cell].eq(0) & a.any() & ~x.significand.eq(0) & ~y.significand.eq(0)
    far = low & ~(last + cell).less(x.position + x.significand.width)
    far = far & has_bits(b_wide - (1 << cell), cell)
    claims = [
        signs[0].eq(x.negative),
        signs[1].eq(y.negative),
        (x_exact & (y_exact | below)) | (y_exact & far),
        *(~(a.any() | b.any()) | claim for claim in Observed.in_range(reader.word(unit.bits(field.field)), field)),
    ]
    for addend in addends:
        if not isinstance(addend.step, Const) or addend.weight:
            raise NotProvable("an exact addend that is rounded")
    unit.prove(f"window of two numbers, {wires[0].width} and {wires[1].width} bits", reader, given, claims)


def signed_sum(unit: Observed, i: int) -> None:
    """Prove that a tree gives the sign and magnitude of a sum."""
    _, addends = unit.calls[i].args
    sign, magnitude = unit.calls[i].result
    block = f"sum of {len(addends)}"
    width = len(magnitude) + 1
    bound = sum((1 << len(a.magnitude)) - isinstance(a.step, Const) << a.weight for a in addends)
    if bound >= 1 << (width - 1):
        raise NotProvable(f"{block}: {width} bits are not enough")
    (bit,) = unit.bits(sign)
    total = unit.netlist.cells[unit.netlist.driver[bit][0]]["connections"]["Y"][1 : width + 1]
    leaves = unit.linear(block, total)
    owners: dict[Bit, int] = {}
    for k, a in enumerate(addends):
        for wire in (a.sign, a.magnitude, a.step):
            owners |= {b: owners.get(b, k) for b in unit.bits(wire) if not isinstance(b, str)}
    groups_of: dict[int, list[tuple[Bit, ...]]] = {}
    constant = 0
    for leaf in leaves:
        owner = {owners[b] for b in unit.support(leaf, set(owners)) if b in owners}
        if all(isinstance(b, str) for b in leaf):
            constant += sum((b == "1") << place for place, b in enumerate(leaf))
        else:
            groups_of.setdefault(min(owner, default=0), []).append(leaf)
    for k, a in enumerate(addends):
        # A row is the inverted magnitude of a negative number, its inverted sign above it, and a carry.
        top = len(a.magnitude) + a.weight
        constant += 1 << top
        reader = unit.reader()
        negative, value, step = (reader.bind(unit.bits(w)) for w in (a.sign, a.magnitude, a.step))
        number = (value.extended(width) + step.extended(width)) << a.weight
        row = unit.total(reader, groups_of.get(k, []), width) - (1 << top)
        unit.prove(f"{block}: rows", reader, [], [row.eq(choose(negative, -number, number))])
    if constant % (1 << width):
        raise NotProvable(f"{block}: the constants of the rows do not cancel")
    reader = unit.reader()
    value = reader.bind(total)
    claims = [
        reader.word(unit.bits(sign)).eq(value[-1]),
        reader.word(unit.bits(magnitude)).eq(choose(value[-1], -value, value)[: width - 1]),
    ]
    unit.prove(f"{block}: sign and magnitude", reader, [value.eq(1 << (width - 1)).eq(0)], claims)


def assembled(
    unit: Observed,
    stage: Stage,
    terms: Sequence[TermWires],
    anchor: Callable[[Reader], Anchor],
    total: tuple[Any, Any],
    result: TermWires,
    drops: bool = False,
) -> None:
    """Prove the specials, the zero and the exponent of a sum, given its sign and magnitude.

    With `drops` the last term is a running value, which `drop_beyond` may leave out.
    """
    reader = unit.reader()
    parts = [unit.term(reader, t) for t in terms]
    at = anchor(reader)
    negative, magnitude = (reader.bind(unit.bits(w)) for w in total)
    zero = magnitude.eq(0)
    given = [~(negative & zero), ~at.none | zero]  # if no term has an exponent, all are zeros
    given += [claim if stage.aligned else zero | claim for claim in at.given]
    given += [~t.infinite | ~t.none for t in parts]
    if stage.zero == "ieee":
        signs = [t.negative for t in parts]
        if drops and stage.drop_beyond is not None:
            signs[-1] = signs[-1] | dropped_below(parts[-1], at.exponent, stage.drop_beyond)
        negative = negative | (magnitude.eq(0) & every(signs))
    off = reader.script.const(0, 1)
    meant = semantics.add_specials(parts, Term(off, off, negative, magnitude, at.position, at.none, at.exponent))
    built = unit.term(reader, result, bind=False)
    claims = [
        *semantics.same(built, meant, align=not stage.result),
        *unit.kept(reader, result, built, False, align=not stage.result),
    ]
    unit.prove(f"specials of a sum of {len(terms)}", reader, given, claims)
