"""Registers: the hardware of `golden.rounded`, which rounds a sum, and of `encode`, which forms the code of D."""

from __future__ import annotations

from dataclasses import replace

from amaranth.hdl import Cat, Const, Mux

from codesign.evidence.cost.rtl.align import rounding_step
from codesign.evidence.cost.rtl.block import (
    Block,
    TermWires,
    Wire,
    any_of,
    gate,
    leading_zeros,
    pad,
    recorded,
    shift_left,
    shift_right,
)
from codesign.evidence.cost.rtl.decode import from_fields, label
from isa_model.formats import Format
from isa_model.rounding import Rounding
from isa_model.stage import Register

SHORT = 8
"""Largest number of zeros put above a sum to avoid a second shifter for subnormal results."""


@recorded
def rounded(block: Block, term: TermWires, register: Register, positive_zero: bool, random: Wire = None) -> TermWires:
    """Return the term rounded to the register's format. If `positive_zero`, a zero result is +0.

    A stochastic register takes the upper ones of the bits `random`.
    """
    fmt = register.format
    sign, magnitude, over = _magnitude(block, term, register, random)
    rule = register.overflow or fmt.overflow
    largest = fmt.max_finite_magnitude
    infinite = any_of(block, "infinite", term.infinite)
    over = block.let("over", over | infinite)
    to_infinity: Wire = Const(int(rule == "infinity"), 1)
    if rule == "ieee":
        away = {
            Rounding.NEAREST_EVEN: Const(1, 1),
            Rounding.NEAREST_AWAY: Const(1, 1),
            Rounding.STOCHASTIC: Const(1, 1),
            Rounding.UP: ~sign,
            Rounding.DOWN: sign,
        }.get(register.rounding, Const(0, 1))
        to_infinity = block.let("to_infinity", away | infinite)
    nan = (*term.nan, over) if rule == "nan" else term.nan
    magnitude = block.let("limited", Mux(over, Const(largest, fmt.magnitude_bits), magnitude))
    normal = block.let("normal", magnitude[fmt.mantissa_bits :].any())
    if register.subnormals == "flush":
        magnitude = block.let("flushed", gate(magnitude, normal))
    zero = block.let("zero", ~magnitude.any())
    if fmt.nan == "negative-zero" or positive_zero:
        sign = block.let("sign", sign & ~zero)
    biased = magnitude[fmt.mantissa_bits :]
    result = from_fields(
        fmt,
        sign,
        exponent=Cat(biased[0] | ~normal, biased[1:]),
        significand=Cat(magnitude[: fmt.mantissa_bits], normal),
        zero=zero,
        nan=Const(0, 1),
        infinity=Const(0, 1),
    )
    infinity = block.let("infinity", over & to_infinity)
    if rule in ("saturate", "nan"):
        return replace(result, nan=nan, infinite=())
    return replace(result, nan=nan, infinite=(infinity,))


@recorded
def encode(block: Block, fmt: Format, term: TermWires, kept: Format, nan_code: int | None) -> Wire:
    """Return the code of a term that the format can represent. A NaN is written as `nan_code`."""
    same = (kept.exponent_bits, kept.bias) == (fmt.exponent_bits, fmt.bias)
    if not same:
        register = Register(format=fmt, rounding=Rounding.NEAREST_EVEN)
        term = rounded(block, term, register, positive_zero=False)
    narrow = fmt.mantissa_bits + 1 - term.width
    significand = pad(term.significand, fmt.mantissa_bits + 1, below=narrow)
    normal = significand[-1]
    magnitude = Cat(significand[:-1], gate(term.position.field[: fmt.exponent_bits], normal))
    magnitude = pad(magnitude, fmt.magnitude_bits)
    largest = fmt.max_finite_magnitude
    if term.infinite:
        infinite = any_of(block, "infinite", term.infinite)
        code = largest + (fmt.kept_infinity == "infinity")
        magnitude = Mux(infinite, Const(code, fmt.magnitude_bits), magnitude)
    code = Cat(Const(0, fmt.low_padding), magnitude, term.sign)
    nan = any_of(block, "nan", (*term.nan, *(term.infinite if fmt.kept_infinity == "nan" else ())))
    written = largest << fmt.low_padding if nan_code is None else nan_code
    code = Mux(nan, Const(written, fmt.bits), pad(code, fmt.bits))
    return block.let("code", code)


def _magnitude(block: Block, term: TermWires, register: Register, random: Wire) -> tuple[Wire, Wire, Wire]:
    """Return the sign, the exponent and mantissa fields of the rounded number, and whether it exceeds the largest number."""
    fmt, rounding = register.format, register.rounding
    precision, draw = fmt.mantissa_bits + 1, register.random_bits or 0
    below = max(draw, 2)  # places below the last that count one by one; in lower ones, only whether a bit is set
    position = term.position.alone(block)
    # The field whose value is the biased exponent of a number that fills the significand, less `spare`.
    spare = position.offset + term.width - 1 - fmt.min_exponent
    deep = spare + position.low < -SHORT
    above = 0 if deep else max(0, -(spare + position.low))
    name = (
        f"round_{term.width}_{position.low}_{position.top}_{spare}_{label(fmt)}_{rounding.value.replace('-', '_')}"
        f"_{len(position.field)}" + (f"_{draw}" if draw else "")
    )
    width = term.width + above

    def body(inner: Block, sign: Wire, significand: Wire, field: Wire, random: Wire = None) -> dict[str, Wire]:
        wide = pad(significand, width)
        zeros = inner.let("zeros", leading_zeros(inner, wide))
        # Places by which the exponent may decrease before the number is subnormal.
        room = Cat(field, Const(0, 1)).as_signed() + (spare + above)
        if deep:
            nothing = ~significand.any()
            normal = shift_left(inner, wide, zeros, width)
            missing = inner.let("missing", zeros - room)  # places below the smallest normal number
            subnormal = inner.let("subnormal", ~missing[-1] & (missing != 0))
            cut = max(width - precision - below, 0)
            short, rest = normal[cut:], inner.let("rest", normal[:cut].any()) if cut else Const(0, 1)
            short = pad(short, precision + below, below=precision + below - len(short))
            short, lost = shift_right(inner, short, gate(missing, subnormal), True)
            digits = Cat(rest | lost, short)
            biased = inner.let("biased", room - zeros + 1)
            exponent = gate(biased, ~subnormal & ~nothing)
        else:
            room = inner.let("room", room)
            limited = inner.let("limited", room < zeros)
            amount = Mux(limited, room, zeros)[: len(zeros)]
            digits = shift_left(inner, wide, inner.let("amount", amount), width)
            biased = inner.let("biased", room - amount + 1)
            exponent = gate(biased, digits[-1])
        cut = len(digits) - precision
        if cut < below:
            digits, cut = Cat(Const(0, below - cut), digits), below
        kept, half, rest = digits[cut:], digits[cut - 1], inner.let("below", digits[: cut - 1].any())
        remainder = rest if rounding in (Rounding.NEAREST_EVEN, Rounding.NEAREST_AWAY) else rest | half
        if draw:
            step = inner.let("drawn", digits[cut - draw : cut] + random)[draw]
        else:
            step = rounding_step(rounding, sign, kept[0], half, remainder)
        if rounding is Rounding.TO_ODD:
            kept = Cat(kept[0] | remainder, kept[1:])
        magnitude = inner.let("magnitude", Cat(kept[:-1], exponent) + step)
        bits = fmt.magnitude_bits
        excess = magnitude[bits:].any() if len(magnitude) > bits else Const(0, 1)
        over = excess | (magnitude[:bits] > fmt.max_finite_magnitude)
        return {"magnitude": pad(magnitude, bits), "over": over}

    own = {"random": random[len(random) - draw :]} if draw else {}
    out = block.call(name, body, sign=term.sign, significand=term.significand, field=position.field, **own)
    return term.sign, out["magnitude"], out["over"]
