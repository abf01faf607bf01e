"""Alignment of a block of terms to their largest exponent: the hardware of the first half of `golden.add`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from amaranth.hdl import Cat, Const, Mux

from codesign.evidence.cost.rtl.block import (
    Block,
    Exponent,
    TermWires,
    Wire,
    all_of,
    any_of,
    gate,
    pad,
    recorded,
    shift_right,
    tree,
)
from codesign.evidence.cost.rtl.carry_save import Addend
from isa_model.rounding import Rounding
from isa_model.stage import Stage


@recorded
def largest_exponent(block: Block, stage: Stage, terms: Sequence[TermWires]) -> tuple[Exponent, Wire]:
    """Return the exponent that a block is aligned to, and whether no term has one.

    Terms with the same offset and common exponent are compared by their fields; the largest of each group are then compared
    with offsets and common exponents added.
    """
    zero = stage.zero_exponent
    members_of = groups(terms, [t.align for t in terms])
    base = min(t.align.least for t in terms)
    if zero is not None and not stage.result:
        base = min(base, zero)  # the next stage uses the exponent, even for a block of zeros
    candidates, none = [], []
    for members in members_of:
        fields = [_zero_if(block, t.none, t.align.field) for t in members]
        winner = group_maximum(block, fields)
        empty = all_of(block, "empty", [t.none for t in members])
        align = members[0].align
        exponent = Exponent(winner, align.offset, min(t.align.low for t in members), max(t.align.top for t in members))
        full = replace(exponent, common=align.common).alone(block)
        above = full.offset - base
        field = block.let("candidate", full.field + above) if above else full.field
        top = full.top + above
        candidates.append((_zero_if(block, empty, field[: top.bit_length()]), top))
        none.append(empty)
    field = tree([c for c, _ in candidates], lambda x, y: _maximum(block, x, y))
    top = max(top for _, top in candidates)
    if zero is not None and zero > base:
        top = max(top, zero - base)
        floor = gate(
            Const(zero - base, top.bit_length()), any_of(block, "any_none", [t.none for t in terms if not t.optional])
        )
        field = _maximum(block, pad(field, top.bit_length()), floor)
    all_none = all_of(block, "all_none", none)
    return Exponent(block.let("largest", field), base, 0, top), all_none if zero is None else Const(0, 1)


@recorded
def group_maximum(block: Block, fields: Sequence[Wire]) -> Wire:
    """Return the largest field of terms whose exponents differ only in their fields."""
    return tree(fields, lambda x, y: _maximum(block, x, y))


@recorded
def aligned(
    block: Block, stage: Stage, terms: Sequence[TermWires], largest: Exponent, fraction_bits: int, unit_bits: int
) -> list[Addend]:
    """Return the terms cut to `fraction_bits` below the largest exponent, in units of `unit_bits` below it."""
    assert stage.rounding is not None
    addends: dict[int, Addend] = {}
    for members in groups(terms, [t.position for t in terms]):
        position = members[0].position
        common = position.common.alone(block) if position.common else None
        # largest - align, with constants and the common exponent subtracted once per group
        depth = min(t.depth for t in members)
        reference = Cat(largest.field, Const(0, 1)).as_signed() + (largest.offset - position.offset - depth)
        if common:
            reference = reference - (common.field + common.offset)
        top = max(t.position.top for t in members)
        beyond = max(t.width + max(fraction_bits - depth, 0) for t in members) + 2
        reference = _saturated(block, reference, top + beyond)
        for term in members:
            amount = block.let("shift", (reference - term.position.field)[: max(len(reference), 1)])
            sign, magnitude, step = _cut(block, term, depth, amount, fraction_bits, stage.rounding)
            addends[id(term)] = Addend(sign, magnitude, step, unit_bits - fraction_bits)
    return [addends[id(t)] for t in terms]


def groups(terms: Sequence[TermWires], exponents: Sequence[Exponent]) -> list[list[TermWires]]:
    """Return groups of terms whose exponents differ only in their fields."""
    groups: dict[tuple[int, int], list[TermWires]] = {}
    for term, exponent in zip(terms, exponents, strict=True):
        groups.setdefault((exponent.offset, id(exponent.common)), []).append(term)
    return list(groups.values())


def _zero_if(block: Block, none: Wire, field: Wire) -> Wire:
    return field if isinstance(none, Const) and none.value == 0 else block.let("counted", gate(field, ~none))


def _maximum(block: Block, x: Wire, y: Wire) -> Wire:
    width = max(len(x), len(y))

    def body(inner: Block, x: Wire, y: Wire) -> dict[str, Wire]:
        return {"largest": Mux(x > y, x, y)}

    return block.call(f"maximum_{width}", body, x=pad(x, width), y=pad(y, width))["largest"]


def _saturated(block: Block, value: Wire, limit: int) -> Wire:
    """Return a value in the bits of `limit`, saturated if it is larger. It may be negative only where it does not matter."""
    width = limit.bit_length()
    value = block.let("reference", value)
    if len(value) - 1 <= width:
        return value[: len(value) - 1] if len(value) > 1 else value
    large = block.let("large", value[width:-1].any())
    return block.let("saturated", value[:width] | (large.replicate(width)))


def _cut(
    block: Block, term: TermWires, depth: int, amount: Wire, fraction_bits: int, rounding: Rounding
) -> tuple[Wire, Wire, Wire]:
    """Return the sign, magnitude and rounding increment of a term shifted right by `amount` and cut."""
    nearest = rounding in (Rounding.NEAREST_EVEN, Rounding.NEAREST_AWAY)
    sticky = rounding not in (Rounding.TOWARD_ZERO, Rounding.NEAREST_AWAY)
    name = f"align_{term.width}_{depth}_{term.height}_by_{len(amount)}_to_{fraction_bits}_{rounding.value.replace('-', '_')}"

    def body(inner: Block, sign: Wire, significand: Wire, amount: Wire) -> dict[str, Wire]:
        above = fraction_bits + nearest - depth  # places kept below the significand's last
        lost: list[Wire] = []
        if above < 0:
            lost = [significand[:-above].any()] if sticky else []
            significand = significand[-above:]
            if not len(significand):
                significand = Const(0, 1)
        else:
            significand = pad(significand, len(significand) + above, below=above)
        shifted, fallen = shift_right(inner, significand, amount, sticky)
        height = max(fraction_bits + term.height, 1)
        shifted = shifted[: height + nearest]
        remainder = any_of(inner, "remainder", [*lost, fallen])
        kept, half = (shifted[1:], shifted[0]) if nearest else (shifted, Const(0, 1))
        if not len(kept):
            kept = Const(0, 1)
        step = rounding_step(rounding, sign, kept[0], half, remainder)
        if rounding is Rounding.TO_ODD:
            kept = kept | remainder
        return {"magnitude": kept, "step": step}

    out = block.call(name, body, sign=term.sign, significand=term.significand, amount=amount)
    step = out["step"] if nearest or rounding in (Rounding.UP, Rounding.DOWN) else Const(0, 1)
    return term.sign, out["magnitude"], step


def rounding_step(rounding: Rounding, sign: Wire, last: Wire, half: Wire, remainder: Wire) -> Wire:
    """Return whether a magnitude is incremented: `half` is the first bit cut off, `remainder` whether a lower one is set.

    For `up`, `down` and `to-odd`, `remainder` covers all bits cut off, and `half` is ignored.
    """
    match rounding:
        case Rounding.NEAREST_EVEN:
            return half & (last | remainder)
        case Rounding.NEAREST_AWAY:
            return half
        case Rounding.UP:
            return remainder & ~sign
        case Rounding.DOWN:
            return remainder & sign
    return Const(0, 1)
