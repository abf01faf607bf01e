"""Theorems of integer sums: products in two's complement, the tree, and the register that wraps or clamps."""

from __future__ import annotations

from dataclasses import dataclass

from codesign.evidence.cost.proof.netlist_terms import Bit, NotProvable
from codesign.evidence.cost.proof.observed import Observed
from codesign.evidence.cost.proof.smt import choose
from codesign.evidence.cost.rtl import integer
from isa_model.formats import Format
from isa_model.instruction import Instruction

Code = tuple[Bit, ...]


@dataclass(frozen=True)
class Factors:
    """Codes of two integers that are multiplied."""

    a: Code
    b: Code


@dataclass(frozen=True)
class Whole:
    """An integer of a format: its code, without ignored bits."""

    format: Format
    code: Code


def bare(fmt: Format, code: Code) -> Code:
    """Return a code without ignored bits."""
    return code[fmt.low_padding :][: fmt.mantissa_bits]


def extended(value: Whole, fmt: Format) -> list[Bit]:
    """Return the code of an integer in a wider format."""
    fill: Bit = value.code[-1] if value.format.signed else "0"
    return [*"0" * fmt.low_padding, *value.code, *[fill] * (fmt.mantissa_bits - len(value.code))]


def summed(unit: Observed, i: int) -> Whole:
    """Prove call number `i` of `integer.summed`, and return the register."""
    spec, a, b, register, c, c_format = unit.calls[i].args
    (inner,) = unit.inside(i, "products")
    values = [tuple(unit.bits(p)) for p in unit.calls[inner].result]
    for x, y, value in zip(a, b, values, strict=True):
        product(unit, spec, bare(spec.a, tuple(unit.bits(x))), bare(spec.b, tuple(unit.bits(y))), value)
    signed = spec.a.signed or spec.b.signed
    addends = [(value, signed) for value in values]
    if c_format is not None:
        addends.append((tuple(unit.bits(c)), c_format.signed))
    code = tuple(unit.bits(unit.calls[i].result))
    width = integer.width_of(spec, len(values), register, c_format)
    total = _total(unit, code, width)
    _rows(unit, addends, total, width)
    kept, block = register.format, f"integer sum of {len(addends)}"
    reader = unit.reader()
    word = reader.bind(total)
    if integer.wraps_in(register):
        meant = word[: kept.mantissa_bits]
    else:
        low, high = (reader.script.const(x, width) for x in (kept.lowest, kept.max_finite_magnitude))
        meant = choose(word.less(low), low, choose(high.less(word), high, word))[: kept.mantissa_bits]
    unit.prove(f"{block}: register", reader, [], [reader.word(code).eq(meant)])
    return Whole(kept, code)


def product(unit: Observed, spec: Instruction, a: Code, b: Code, result: Code) -> None:
    """Prove that a word is the product of two integers."""
    reader = unit.reader()
    x, y = reader.bind(a).extended(len(result), spec.a.signed), reader.bind(b).extended(len(result), spec.b.signed)
    unit.prove(f"multiply integers of {len(a)} and {len(b)} bits", reader, [], [reader.word(result).eq(x * y)])


def _total(unit: Observed, code: Code, width: int) -> list[Bit]:
    """Return the word that the final adder before a code drives."""
    todo, seen = list(code), set(code)
    while todo:
        bit = todo.pop(0)
        if bit not in unit.netlist.driver:
            continue
        cell = unit.netlist.cells[unit.netlist.driver[bit][0]]
        connections = cell["connections"]
        if cell["type"] == "$add" and connections["A"][0] == "1":
            found: list[Bit] = connections["Y"][1 : width + 1]
            return found
        before = [b for port, wires in connections.items() if port != "Y" for b in wires if b not in seen]
        seen.update(before)
        todo += before
    raise NotProvable("an integer sum without an adder")


def _rows(unit: Observed, addends: list[tuple[Code, bool]], total: list[Bit], width: int) -> None:
    """Prove that a word is the sum of integers, modulo two to its width. It is their sum if `integer.width_of` holds that."""
    block = f"integer sum of {len(addends)}"
    leaves = unit.linear(block, total)
    owners: dict[Bit, int] = {b: k for k, (code, _) in enumerate(addends) for b in code if not isinstance(b, str)}
    rows: dict[int, list[tuple[Bit, ...]]] = {}
    constant = 0
    for leaf in leaves:
        if all(isinstance(bit, str) for bit in leaf):
            constant += sum((bit == "1") << place for place, bit in enumerate(leaf))
        else:
            rows.setdefault(min(owners[bit] for bit in unit.support(leaf, set(owners))), []).append(leaf)
    for k, (code, signed) in enumerate(addends):
        # The sign bit has negative weight: a row has it inverted, and is too large by its weight.
        beside = 1 << (len(code) - 1) if signed else 0
        constant += beside
        reader = unit.reader()
        value = reader.bind(code).extended(width, signed)
        row = unit.total(reader, rows.get(k, []), width)
        unit.prove(f"{block}: rows", reader, [], [(row - beside).eq(value)])
    if constant % (1 << width):
        raise NotProvable(f"{block}: the constants of the rows do not cancel")
