"""Running values of two registers: the hardware of `golden.run_in_two` and `golden.joined`.

What the first register loses is read off the sum: the places below the register's last, less that place where the sum was
rounded away from zero. The sum must therefore be exact. An exact sum of two numbers of the register's format, as in Kahan's
summation, is anchored at the lower one; far below the other, the lower one does not move the sum and is itself what is lost.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from amaranth.hdl import Cat, Const, Mux

from codesign.evidence.cost.rtl.block import (
    Block,
    TermWires,
    Wire,
    any_of,
    either,
    gate,
    pad,
    recorded,
    shift_left,
)
from codesign.evidence.cost.rtl.carry_save import Addend, signed_sum
from codesign.evidence.cost.rtl.decode import decode
from codesign.evidence.cost.rtl.ports import sums_two
from codesign.evidence.cost.rtl.registers import encode, rounded
from codesign.evidence.cost.rtl.term_sums import WIDEST, add, range_of, signed_zero, with_specials
from isa_model.diagnostics import InputError
from isa_model.instruction import Instruction
from isa_model.rounding import Rounding
from isa_model.stage import Register, Stage


@recorded
def start(
    block: Block, spec: Instruction, c: Wire, running: Wire, rest: Wire, first: Wire
) -> tuple[TermWires, TermWires]:
    """Return both registers' numbers: C and a zero if `first` is set, else those of the codes `running` and `rest`."""
    assert spec.remainder
    register = _last(spec).result[-1].format
    if (spec.c_format, spec.flush_c) == (register, False):
        value = decode(block, register, block.let("started", Mux(first, c, running)))
    else:
        read = decode(block, spec.c_format, c, spec.flush_c), decode(block, register, running)
        value = either(block, [(first, read[0]), (~first, read[1])])
    kept = decode(block, spec.remainder.format, block.let("kept", gate(rest, ~first)))
    return value, replace(kept, nan=(), infinite=(), optional=True)


def run_in_two(
    block: Block, name: str, spec: Instruction, terms: Sequence[TermWires], running: TermWires, rest: TermWires
) -> tuple[TermWires, TermWires]:
    """Return both registers after a block of terms. Raises InputError if what is lost cannot be had from the sum."""
    stage = _last(spec)
    remainder, register = stage.remainder, stage.result[-1]
    assert remainder
    rest = present(block, stage, running, rest)
    terms = [*terms, rest] if remainder.joins == "sum" else [*terms]
    if remainder.joins == "block":
        total = add(block, f"{name}_block", block_stage(stage), terms, rest)
        terms = [rounded(block, total, remainder.register, positive_zero=False)]
    below: TermWires | None = None
    if stage.aligned or range_of([*terms, running]) <= WIDEST:
        total = add(block, name, stage, terms, running)
    elif sums_two(spec):
        total, below = _two_sum(block, name, stage, terms[0], running)
    else:
        raise InputError.of(
            f"{name}: an exact sum over {range_of([*terms, running])} bits has no remainder in hardware; fixed-point sums go "
            f"up to {WIDEST} bits",
            "give the stage `fraction_bits`; `joins: block` also works in one format to nearest, of C and both registers",
        )
    value = rounded(block, total, register, stage.zero == "positive")
    lost = what_is_lost(block, total, value, register)
    if below is not None:
        lost = replace(
            lost,
            sign=block.let("sign", Mux(below.none, lost.sign, below.sign)),
            significand=block.let("lost", lost.significand | pad(below.significand, lost.width)),
            position=below.position,
            none=block.let("none", lost.none & below.none),
        )
    if remainder.joins == "end":
        lost = add(block, f"{name}_lost", exact_stage(stage, remainder.register), [lost], rest)
    kept = rounded(block, replace(lost, nan=(), infinite=()), remainder.register, positive_zero=True)
    return value, if_finite(block, total, value, kept)


def block_stage(stage: Stage) -> Stage:
    """Return the stage that adds the second register to a block, without the running value."""
    assert stage.remainder
    return stage.model_copy(update={"accumulator": False, "result": (stage.remainder.register,)})


def exact_stage(stage: Stage, register: Register, zero: str = "positive") -> Stage:
    """Return a stage that adds two numbers exactly, and rounds their sum to a register."""
    window = dict.fromkeys(("fraction_bits", "rounding", "zero_exponent"))
    return stage.model_copy(
        update={**window, "accumulator": True, "opposing": "negate", "zero": zero, "result": (register,)}
    )


def joined(block: Block, name: str, spec: Instruction, running: TermWires, rest: TermWires) -> TermWires:
    """Return the sum of both registers, rounded to D's format."""
    stage = _last(spec)
    exact = exact_stage(stage, spec.joining, stage.zero)
    total = add(block, f"{name}_joined", exact, [present(block, exact, running, rest)], running)
    return rounded(block, total, spec.joining, stage.zero == "positive")


def codes(block: Block, spec: Instruction, running: TermWires, rest: TermWires) -> dict[str, Wire]:
    """Return the codes of both registers by output."""
    assert spec.remainder
    first, second = _last(spec).result[-1].format, spec.remainder.format
    return {
        "running": encode(block, first, running, first, first.nan_code),
        "rest": encode(block, second, rest, second, second.nan_code),
    }


def _last(spec: Instruction) -> Stage:
    *_, last = spec.stages.values()
    return last


@recorded
def present(block: Block, stage: Stage, running: TermWires, rest: TermWires) -> TermWires:
    """Return the second register with the sign that changes no sum where it is zero."""
    if stage.opposing == "complement":
        return replace(rest, sign=block.let("sign", Mux(rest.none, running.sign, rest.sign)))
    return replace(rest, sign=block.let("sign", rest.sign | rest.none)) if stage.zero == "ieee" else rest


@recorded
def what_is_lost(block: Block, total: TermWires, value: TermWires, register: Register) -> TermWires:
    """Return `total - value`, where `value` is the exact `total` rounded to a register, unless either is special."""
    directed = register.rounding in (Rounding.UP, Rounding.DOWN, Rounding.TO_ODD)
    position = total.position.alone(block)
    deepest = value.position.least - position.least  # of the register's last place above that of the sum
    width = max(total.width, deepest, 1) if directed else total.width
    distance = Cat(value.position.field, Const(0, 1)).as_signed() - Cat(position.field, Const(0, 1)).as_signed()
    distance = block.let("distance", distance + (value.position.offset - position.offset))
    above = block.let("above", ~distance[-1] & distance.any())
    bits = width.bit_length()
    far = distance[bits:-1].any() if len(distance) - 1 > bits else Const(0, 1)
    place = block.let("place", gate(Mux(far, width, distance[:bits])[:bits], above))
    kept = shift_left(block, Const((1 << width) - 1, width), place, width)
    mask = block.let("cut", ~kept | value.none.replicate(width))
    significand = pad(total.significand, width)
    last = (significand & kept & ~Cat(Const(0, 1), kept)[:width]).any()
    step = block.let("step", _away(last, value) & above)
    low = block.let("low", significand & mask)
    away = block.let("away", ((low ^ (mask & step.replicate(width))) + step)[:width])
    return TermWires(
        block.let("sign", total.sign ^ step),
        away,
        position,
        position,
        depth=0,
        height=width,
        none=block.let("none", ~away.any()),
        summed=True,
    )


def _away(last: Wire, value: TermWires) -> Wire:
    """Return whether a sum was rounded away from zero, where `last` is its bit at the register's last place."""
    return (last ^ value.significand[0]) & ~value.none


@recorded
def if_finite(block: Block, total: TermWires, value: TermWires, kept: TermWires) -> TermWires:
    """Return the second register: what it keeps, or a zero where the sum or the first register is special."""
    special = any_of(block, "special", (*total.nan, *total.infinite, *value.nan, *value.infinite))
    return replace(
        kept,
        sign=block.let("sign", kept.sign & ~special),
        significand=block.let("rest", gate(kept.significand, ~special)),
        none=block.let("none", kept.none | special),
        optional=True,
    )


def _two_sum(block: Block, name: str, stage: Stage, x: TermWires, y: TermWires) -> tuple[TermWires, TermWires]:
    """Return the exact sum of two numbers of one format, and the lower one where it is left out of it, else zero.

    It is left out where it is less than a quarter of the other's last place, so that rounding to nearest does not see it.
    """
    width = x.width
    swap = block.let("swap", y.position.field > x.position.field)

    def chosen(label: str, of_x: Wire, of_y: Wire) -> tuple[Wire, Wire]:
        return block.let(f"high_{label}", Mux(swap, of_y, of_x)), block.let(f"low_{label}", Mux(swap, of_x, of_y))

    sign, low_sign = chosen("sign", x.sign, y.sign)
    high, low = chosen("significand", x.significand, y.significand)
    top, bottom = chosen("exponent", x.position.field, y.position.field)
    furthest = width + 2
    distance = block.let("distance", (top - bottom)[: len(top)])
    far = block.let("far", distance >= furthest)
    amount = block.let("slide", Mux(far, furthest, distance)[: furthest.bit_length()])
    placed = shift_left(block, high, amount, width + furthest)
    addends = [
        Addend(sign, placed, Const(0, 1)),
        Addend(low_sign, block.let("near", gate(low, ~far)), Const(0, 1)),
    ]
    total_sign, magnitude = signed_sum(block, name, addends)
    anchor = block.let("anchor", Mux(far, top - furthest, bottom)[: len(top)])
    position = replace(x.position, field=anchor)
    none = block.let("none", x.none & y.none)
    total = TermWires(total_sign, magnitude, position, position, depth=0, height=len(magnitude), none=none)
    total = with_specials(block, replace(total, sign=signed_zero(block, stage, total, [x, y])), [x, y])
    below = block.let("below", gate(low, far))
    at = replace(x.position, field=bottom)
    return replace(total, summed=True), TermWires(
        low_sign, below, at, at, depth=0, height=width, none=block.let("nothing", ~below.any())
    )
