"""Sums of a stage: the hardware of `golden.add`.

An aligned sum shifts every term to the largest exponent. An exact sum of narrow range is a fixed-point number. An exact sum of
two terms of wide range shifts one of them past the other, and collects in a sticky bit what does not affect rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from amaranth.hdl import Cat, Const, Mux

from codesign.evidence.cost.rtl.align import aligned, largest_exponent
from codesign.evidence.cost.rtl.block import (
    Block,
    Exponent,
    TermWires,
    Wire,
    all_of,
    any_of,
    constant,
    gate,
    leading_zeros,
    pad,
    recorded,
    shift_left,
    shift_right,
)
from codesign.evidence.cost.rtl.carry_save import Addend, signed_sum
from isa_model.diagnostics import InputError
from isa_model.stage import Stage

WIDEST = 128
"""Largest width of a fixed-point sum, in bits."""


@recorded
def add(block: Block, name: str, stage: Stage, terms: Sequence[TermWires], running: TermWires | None) -> TermWires:
    """Return the sum of a block of terms and the running value, if any, before it is rounded into a register.

    Raises InputError if an exact sum is too wide for an adder.
    """
    everything = [*terms] if running is None else [*terms, running]
    if stage.aligned:
        total = _aligned_sum(block, name, stage, terms, running)
    elif len(everything) == 1 and stage.exponent is None:
        total = terms[0]
        if stage.zero == "positive":
            total = replace(total, sign=block.let("sign", total.sign & ~total.none & total.significand.any()))
    elif range_of(everything) <= WIDEST:
        total = _fixed_point_sum(block, name, stage, everything)
    elif len(everything) == 2 and stage.result:
        total = _sliding_sum(block, name, stage, *everything)
    elif running is not None and range_of(terms) <= WIDEST and stage.result:
        inner = replace(_fixed_point_sum(block, name, stage, terms), nan=(), infinite=())
        total = _sliding_sum(block, f"{name}_running", stage, inner, running)
    else:
        raise InputError.of(
            f"{name}: an exact sum of {len(everything)} terms over {range_of(everything)} bits is not supported in hardware; "
            f"fixed-point sums go up to {WIDEST} bits",
            "give the stage fraction_bits, or fewer terms and a result",
        )
    return replace(with_specials(block, total, everything), summed=True)


def with_specials(block: Block, total: TermWires, terms: Sequence[TermWires]) -> TermWires:
    """Return the sum with the NaN and infinity flags of its terms, and the sign of the infinities."""
    nan = any_of(block, "any_nan", [flag for t in terms for flag in t.nan])
    infinite = [(t.sign, any_of(block, "infinite", t.infinite)) for t in terms if t.infinite]
    if not infinite:
        return replace(total, nan=(nan,), infinite=())
    negative = any_of(block, "minus_infinity", [block.let("minus", flag & sign) for sign, flag in infinite])
    positive = any_of(block, "plus_infinity", [block.let("plus", flag & ~sign) for sign, flag in infinite])
    nan = block.let("is_nan", nan | (negative & positive))
    sign = block.let("sign_of_sum", (total.sign | negative) & ~positive)
    return replace(total, sign=sign, nan=(nan,), infinite=(positive, negative))


def signed_zero(block: Block, stage: Stage, total: TermWires, kept: Sequence[TermWires]) -> Wire:
    """Return the sign of a sum. In a stage that follows IEEE 754, a zero has the sign on which all terms agree."""
    if stage.zero == "positive":
        return total.sign
    agree = all_of(block, "all_negative", [t.sign for t in kept])
    return block.let("sign", total.sign | (agree & ~total.significand.any()))


def moved(running: TermWires, offset: int) -> TermWires:
    """Return a running value that aligns with an exponent `offset` higher."""
    if not offset:
        return running
    align = running.align.plus(offset)
    return replace(running, align=align, depth=running.depth + offset, height=running.height - offset)


def inverted(block: Block, addend: Addend, frame: Wire, some: Wire) -> Addend:
    """Return a term as a sum with the sign `frame` takes it: inverted without an increment where its own sign is another.

    The increment of its magnitude cancels that of two's complement (`signed_sum`). Of zeros alone nothing is taken away.
    """
    against = block.let("against", addend.sign ^ frame)
    return replace(addend, sign=against, step=block.let("unit", against & some))


def _aligned_sum(
    block: Block, name: str, stage: Stage, terms: Sequence[TermWires], running: TermWires | None
) -> TermWires:
    counted = [*terms] if running is None else [*terms, moved(running, stage.offset)]
    largest, none = largest_exponent(block, stage, counted)
    fraction_bits, own = stage.fraction_bits, stage.accumulator_fraction_bits
    assert fraction_bits is not None
    assert own is not None
    finest = max(fraction_bits, own) if running is not None else fraction_bits
    kept = [*terms]
    addends = aligned(block, stage, terms, largest, fraction_bits, finest)
    frame = running.sign if running is not None and stage.opposing == "complement" else Const(0, 1)
    if running is not None and stage.opposing == "complement":
        some = any_of(block, "any_magnitude", [t.significand.any() for t in (*terms, running)])
        addends = [inverted(block, addend, frame, some) for addend in addends]
    if running is not None:
        if stage.drop_beyond is not None:
            gap = largest.field - running.align.field + (largest.offset - running.align.offset)
            dropped = block.let("dropped", (gap > stage.drop_beyond) & ~running.none)
            # A dropped value does not affect the sign of a zero either.
            sign = running.sign | dropped if stage.zero == "ieee" else running.sign
            running = replace(running, significand=gate(running.significand, ~dropped), sign=sign)
        kept.append(running)
        (addend,) = aligned(block, stage, [moved(running, stage.offset)], largest, own, finest)
        addends.append(replace(addend, sign=addend.sign ^ frame) if stage.opposing == "complement" else addend)
    sign, magnitude = signed_sum(block, name, addends)
    if stage.opposing == "complement":
        sign = block.let("sign", (sign ^ frame) & magnitude.any())
    total = TermWires(
        sign,
        magnitude,
        largest.plus(-finest),
        largest,
        depth=finest,
        height=len(magnitude) - finest,
        none=none,
    )
    return replace(total, sign=signed_zero(block, stage, total, kept))


# -- exact sums ------------------------------------------------------------------------------------------------------


def _shared(terms: Sequence[TermWires]) -> Exponent | None:
    """Return the common exponent of all terms; None if they have different ones."""
    common = terms[0].position.common
    return common if all(t.position.common is common for t in terms) else None


def _own(term: TermWires, common: Exponent | None) -> Exponent:
    """Return a term's position without the common exponent of all terms."""
    return replace(term.position, common=None) if common is not None else term.position


def range_of(terms: Sequence[TermWires]) -> int:
    """Return the number of bits between the lowest and the highest digit of terms."""
    positions = [_own(t, _shared(terms)) for t in terms]
    return max(p.most + t.width for p, t in zip(positions, terms, strict=True)) - min(p.least for p in positions)


def _fixed_point_sum(block: Block, name: str, stage: Stage, terms: Sequence[TermWires]) -> TermWires:
    common = _shared(terms)
    positions = [_own(t, common).alone(block) for t in terms]
    unit = min(p.least for p in positions)
    addends = []
    for term, position in zip(terms, positions, strict=True):
        width = position.most + term.width - unit
        amount = position.field + (position.offset - unit)
        amount = block.let("shift", amount[: max((position.most - unit).bit_length(), 1)])
        addends.append(Addend(term.sign, shift_left(block, term.significand, amount, width), Const(0, 1)))
    sign, magnitude = signed_sum(block, name, addends)
    none = all_of(block, "all_none", [t.none for t in terms])
    position = replace(constant(unit), common=common)
    if stage.exponent is not None:
        align, depth, height = constant(stage.exponent), stage.exponent - unit, len(magnitude) + unit - stage.exponent
        if common is not None:
            raise InputError.of(f"{name}: a fixed `exponent` after scaled products is not supported in hardware")
    elif stage.result:
        align, depth, height = position, 0, len(magnitude)
    else:
        align, none = largest_exponent(block, stage, terms)
        depth = 0  # the last digit of a nonzero term is not below the unit
        height = max(t.height for t in terms) + (len(terms) - 1).bit_length()
    total = TermWires(sign, magnitude, position, align, depth=depth, height=height, none=none)
    return replace(total, sign=signed_zero(block, stage, total, terms))


@recorded
def normalised(block: Block, term: TermWires) -> TermWires:
    """Return the number with the top bit of its significand set, unless it is zero. Its alignment exponent is lost."""
    position = term.position.alone(block)

    def body(inner: Block, significand: Wire) -> dict[str, Wire]:
        zeros = inner.let("zeros", leading_zeros(inner, significand))
        return {"normal": shift_left(inner, significand, zeros, len(significand)), "zeros": zeros}

    out = block.call(f"normalise_{term.width}", body, significand=term.significand)
    reach = term.width - 1
    top = position.top + reach
    field = block.let("exponent", (position.field + reach - out["zeros"])[: top.bit_length()])
    moved = Exponent(field, position.offset - reach, position.low, top)
    return replace(
        term, significand=out["normal"], position=moved, align=moved, depth=0, height=term.width, normal=True
    )


def _sliding_sum(block: Block, name: str, stage: Stage, x: TermWires, y: TermWires) -> TermWires:
    """Return x + y for any exponents, exact up to a difference that the stage's first register cannot represent.

    x is fixed, and y is shifted relative to it. Far below x, y becomes a sticky bit. Far above x, y is fixed and x becomes
    negligible. The margins keep the sticky bit below half a unit in the last place of the result and below the places to which
    random bits are added. At least one place below x keeps the sticky bit from carrying into it.
    """
    register = stage.result[0].format
    precision = register.mantissa_bits + 1 + (stage.result[0].random_bits or 0)
    y_position = y.position.alone(block)
    if not (x.normal and y_position.least >= x.position.least):
        x = normalised(block, x)
    x_position = x.position.alone(block)
    below = max(1, max(precision + 3, y.width + 2) - x.width)
    coarse = y.normal and precision <= y.width and register.min_lsb_exponent >= y.position.least
    above = 2 if coarse else precision + 2
    furthest = x.width + above  # largest distance between the last digits of x and y
    reach = below + furthest

    base = min(y_position.offset - furthest, x_position.offset)

    def body(inner: Block, **p: Wire) -> dict[str, Wire]:
        x_exponent = Cat(p["x_exponent"], Const(0, 1)).as_signed()
        y_exponent = Cat(p["y_exponent"], Const(0, 1)).as_signed()
        distance = y_exponent - x_exponent + (y_position.offset - x_position.offset)
        far = inner.let("far", ((distance > furthest) & p["y"].any()) | ~p["x"].any())
        amount = inner.let("amount", furthest - distance)
        amount = inner.let("slide", gate(amount, ~far))
        placed, lost = shift_right(inner, Cat(Const(0, reach), p["y"]), amount, True)
        placed = Cat(placed[0] | lost, placed[1:])
        anchor = Mux(
            far,
            y_exponent + (y_position.offset - furthest - base),
            x_exponent + (x_position.offset - base),
        )
        return {"placed": placed, "position": inner.let("anchor", anchor)}

    low = min(y_position.least - furthest, x_position.least) - base
    top = max(y_position.most - furthest, x_position.most) - base
    out = block.call(
        f"{name}_slide",
        body,
        x=x.significand,
        x_exponent=x_position.field,
        y=y.significand,
        y_exponent=y_position.field,
    )
    addends = [
        Addend(x.sign, pad(x.significand, x.width + below, below=below), Const(0, 1)),
        Addend(y.sign, out["placed"], Const(0, 1)),
    ]
    sign, magnitude = signed_sum(block, name, addends)
    position = Exponent(out["position"][: top.bit_length()], base - below, low, top)
    none = block.let("none", x.none & y.none)
    total = TermWires(sign, magnitude, position, position, depth=0, height=len(magnitude), none=none)
    return replace(total, sign=signed_zero(block, stage, total, [x, y]))
