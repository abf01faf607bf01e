"""Theorems of single blocks, each between the wires that a call of the generator reads and those that it drives."""

from __future__ import annotations

from amaranth.hdl import Const

from codesign.evidence.cost.proof import semantics
from codesign.evidence.cost.proof.netlist_terms import Bit
from codesign.evidence.cost.proof.observed import Observed
from codesign.evidence.cost.proof.semantics import Term
from codesign.evidence.cost.proof.smt import Bits
from codesign.evidence.cost.rtl.block import TermWires
from isa_model.formats import Format

SMALL = 12
"""Bits of both factors together up to which a product is one theorem."""


def decode(unit: Observed, i: int) -> TermWires:
    fmt, code, flush, widen = unit.calls[i].args
    result: TermWires = unit.calls[i].result
    reader = unit.reader()
    meant = semantics.decode(reader.script, fmt, reader.bind(unit.bits(code)), flush, widen)
    built = unit.term(reader, result, bind=False)
    kept = unit.kept(reader, result, built, bind=False)
    unit.prove(f"decode {fmt.name}", reader, [], [*semantics.same(built, meant), *kept])
    return result


def times(unit: Observed, i: int) -> TermWires:
    x, y = unit.calls[i].args
    result: TermWires = unit.calls[i].result
    multiplies = not isinstance(y.significand, Const)
    if multiplies:
        product(unit, x, y, result)
    reader = unit.reader()
    of_x, of_y = unit.term(reader, x), unit.term(reader, y)
    given = [*unit.kept(reader, x, of_x), *unit.kept(reader, y, of_y)]
    significand = None
    if multiplies:
        significand = reader.bind(unit.bits(result.significand))
        zero = of_x.significand.eq(0) | of_y.significand.eq(0)
        given.append(significand.eq(0).eq(zero))  # of every product
    meant = semantics.times(of_x, of_y, significand)
    built = unit.term(reader, result, bind=False)
    claims = [*semantics.same(built, meant), *unit.kept(reader, result, built, bind=False)]
    unit.prove("product, exponents and specials", reader, given, claims)
    return result


def product(unit: Observed, x: TermWires, y: TermWires, result: TermWires) -> None:
    """Prove that a significand is the product of two."""
    a, b = (unit.bits(t.significand) for t in (x, y))
    if x.width < y.width:
        a, b = b, a
    width = x.width + y.width
    block = f"multiply {len(a)} x {len(b)} bits"
    if width <= SMALL or min(x.width, y.width) == 1:
        reader = unit.reader()
        p, q = (reader.bind(w).extended(width) for w in (a, b))
        unit.prove(block, reader, [], [reader.word(unit.bits(result.significand)).extended(width).eq(p * q)])
        return
    leaves = unit.linear(block, unit.bits(result.significand))
    # The sum of leaves is 0 for b = 0, and setting bit j of b adds a * 2**j, whatever the other bits: it is a * b.
    none = [bit for bit in b if not isinstance(bit, str)]
    for j in range(-1, len(b)):
        reader = unit.reader()
        p = reader.bind(a).extended(width)
        other = unit.reader(reader.script)
        other.bound = dict(reader.bound)
        if j < 0:
            zero = reader.script.const(0, len(none))
            reader.bound |= {bit: (zero, place) for place, bit in enumerate(none)}
            total = unit.total(reader, leaves, width)
            unit.prove(block, reader, [], [total.eq(0)])
            continue
        reader.bind([bit for bit in b if bit != b[j]])
        other.bound = dict(reader.bound)
        one = reader.script.const(2, 2)
        reader.bound[b[j]], other.bound[b[j]] = (one, 1), (one, 0)
        changed = [leaf for leaf in leaves if b[j] in unit.support(leaf, {*a, *b})]
        grown = unit.total(reader, changed, width) - unit.total(other, changed, width)
        unit.prove(block, reader, [], [grown.eq(p << j)])


def infinite_from(unit: Observed, i: int) -> TermWires:
    wires, power = unit.calls[i].args
    result: TermWires = unit.calls[i].result
    reader = unit.reader()
    value = unit.term(reader, wires)
    meant = semantics.infinite_from(value, power)
    built = unit.term(reader, result, bind=False)
    claims = [*semantics.same(built, meant), *unit.kept(reader, result, built, bind=False)]
    unit.prove("products that become infinite", reader, unit.kept(reader, wires, value), claims)
    return result


def rounded(unit: Observed, i: int) -> TermWires:
    term, register, positive_zero, random = unit.calls[i].args
    result: TermWires = unit.calls[i].result
    reader = unit.reader()
    value = unit.term(reader, term)
    given = unit.kept(reader, term, value, align=False)
    draw = reader.bind(unit.bits(random)[-register.random_bits :]) if random is not None else None
    meant = semantics.rounded(value, register, positive_zero, draw)
    built = unit.term(reader, result, bind=False)
    claims = [
        *semantics.same(built, meant),
        *unit.kept(reader, result, built, bind=False),
        *within(register.format, built),
    ]
    unit.prove(f"round to {register.format.name}", reader, given, claims)
    return result


def within(fmt: Format, value: Term) -> list[Bits]:
    """Return the claim that a number rounded to a format is not beyond its largest, if its highest codes are no numbers."""
    m = fmt.mantissa_bits
    largest = fmt.max_finite_magnitude & ((1 << m) - 1) | 1 << m
    if fmt.kind != "float" or fmt.infinity or largest + 1 == 2 << m:
        return []
    top = value.position.eq(fmt.max_exponent - m)
    size = value.significand.width
    return [~value.finite | ~top | ~value.none.script.const(largest, size).below(value.significand)]


def written(unit: Observed, i: int) -> list[Bit]:
    fmt, term, kept, nan_code = unit.calls[i].args
    reader = unit.reader()
    value = unit.term(reader, term)
    given = [*unit.kept(reader, term, value), *(within(fmt, value) if kept == fmt else ())]
    code = semantics.written(fmt, value, nan_code)
    bits = unit.bits(unit.calls[i].result)
    unit.prove(f"code of {fmt.name}", reader, given, [reader.word(bits).eq(code)])
    return bits
