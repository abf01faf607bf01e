"""Decoding and exact products: the hardware of `golden.term`, `golden.read` and `golden.times`."""

from __future__ import annotations

import zlib
from dataclasses import replace

from amaranth.hdl import Cat, Const, Mux

from codesign.evidence.cost.rtl.block import (
    Block,
    Exponent,
    TermWires,
    Wire,
    add,
    any_of,
    constant,
    leading_zeros,
    recorded,
    shift_left,
)
from codesign.evidence.cost.rtl.carry_save import multiply
from isa_model.codec import decode as number_in
from isa_model.formats import Format
from isa_model.rounding import Rounding
from isa_model.rounding import shift_right as shift_number
from isa_model.stage import is_named


@recorded
def decode(block: Block, fmt: Format, code: Wire, flush: bool | str = False, widen: Format | None = None) -> TermWires:
    """Return the number of a code; `flush` is `Instruction.flush_operands` or `flush_c`.

    A subnormal is normalised as far as the exponents of the format `widen` allow.
    """
    if fmt.kind == "integer":
        return _integer(block, fmt, code[fmt.low_padding :][: fmt.mantissa_bits])
    if fmt.kind == "table":
        out = block.call(f"decode_{label(fmt)}", lambda inner, code: _entries(inner, fmt, code), code=code)
        return from_fields(fmt, **out)
    bits = fmt.magnitude_bits + int(fmt.signed)
    code = code[fmt.low_padding :][:bits]
    places = 0 if flush or widen is None else min(fmt.mantissa_bits, fmt.min_exponent - widen.min_exponent)
    flushed = "_flushed_keep_sign" if flush == "keep-sign" else "_flushed"
    name = f"decode_{label(fmt)}" + (flushed if flush else f"_up_to_{places}" if places else "")
    out = block.call(name, lambda inner, code: _fields(inner, fmt, code, flush, places), code=code)
    term = from_fields(fmt, **out)
    if not places:
        return term
    lower = term.position
    position = Exponent(lower.field, lower.offset - places, lower.low, lower.top + places)
    return replace(term, position=position, align=position.plus(fmt.mantissa_bits))


def _integer(block: Block, fmt: Format, code: Wire) -> TermWires:
    """Return an integer as a term: its sign and magnitude, with the exponent of the last bit."""
    sign = code[-1] if fmt.signed else Const(0, 1)
    magnitude = block.let("magnitude", Mux(sign, -code, code)[: fmt.mantissa_bits]) if fmt.signed else code
    zero = block.let("zero", ~code.any())
    return TermWires(sign, magnitude, constant(0), constant(0), depth=0, height=fmt.mantissa_bits, none=zero)


def label(fmt: Format) -> str:
    """Return a format's name for hardware, with a hash of its fields unless it is a named format."""
    return fmt.name if is_named(fmt) else f"{fmt.name}_{zlib.crc32(fmt.model_dump_json().encode()):08x}"


def from_fields(
    fmt: Format, sign: Wire, exponent: Wire, significand: Wire, zero: Wire, nan: Wire, infinity: Wire
) -> TermWires:
    """Return the term with decoded fields."""
    low = int(fmt.zero)
    high = max(low, fmt.max_finite_magnitude >> fmt.mantissa_bits)  # a format may have subnormals alone
    if fmt.kind == "table":
        low, high = 0, fmt.max_exponent - fmt.min_exponent
    position = Exponent(exponent, fmt.min_exponent - fmt.mantissa_bits - low, low, high)
    return TermWires(
        sign if fmt.signed else Const(0, 1),
        significand if fmt.mantissa_bits or fmt.zero else Const(1, 1),
        position,
        position.plus(fmt.mantissa_bits),
        depth=fmt.mantissa_bits,
        height=1,
        none=zero if fmt.zero else Const(0, 1),
        nan=() if fmt.nan_code is None else (nan,),
        infinite=(infinity,) if fmt.infinity or {"infinity", "-infinity"} & set(fmt.values) else (),
        normal=True,
    )


def _entries(block: Block, fmt: Format, code: Wire) -> dict[str, Wire]:
    """Return the fields and flags of a code of a table, its numbers normalised: a read-only memory."""
    found: dict[str, list[int]] = {}
    for i in range(1 << fmt.bits):
        number = number_in(fmt, i)
        counts = not number.special and not number.is_zero
        exponent = number.leading_exponent if counts else fmt.min_exponent
        significand = shift_number(number.significand, exponent - fmt.mantissa_bits - number.exponent, Rounding.DOWN)
        entry = {
            "sign": int(number.negative),
            "exponent": exponent - fmt.min_exponent,
            "significand": significand,
            "zero": int(number.is_zero),
            "nan": int(number.special == "nan"),
            "infinity": int(number.special == "infinity"),
        }
        for name, value in entry.items():
            found.setdefault(name, []).append(value)
    chosen = [block.let("chosen", code == i) for i in range(1 << fmt.bits)]
    widths = {"exponent": (fmt.max_exponent - fmt.min_exponent).bit_length() or 1, "significand": fmt.mantissa_bits + 1}

    def bit(values: list[int], place: int) -> Wire:
        return any_of(block, "bit", [chosen[i] for i, value in enumerate(values) if value >> place & 1])

    return {name: Cat(*[bit(x, place) for place in range(widths.get(name, 1))]) for name, x in found.items()}


def _fields(block: Block, fmt: Format, code: Wire, flush: bool | str, places: int) -> dict[str, Wire]:
    """Return the fields and flags of a code."""
    m = fmt.mantissa_bits
    magnitude, fraction, biased = code[: fmt.magnitude_bits], code[:m], code[m : fmt.magnitude_bits]
    sign = code[fmt.magnitude_bits] if fmt.signed else Const(0, 1)
    is_zero = magnitude == 0 if fmt.zero else Const(0, 1)
    nan: Wire = Const(0, 1)
    infinity: Wire = Const(0, 1)
    if fmt.nan == "ieee":
        top = biased.all()
        infinity = top & (fraction == 0) if fmt.infinity else Const(0, 1)
        nan = top & (fraction != 0) if fmt.infinity else top
    elif fmt.nan == "all-ones":
        nan = magnitude.all()
    elif fmt.nan == "negative-zero":
        nan = sign & (magnitude == 0)
        is_zero = is_zero & ~sign
    elif fmt.infinity:
        infinity = biased.all() & (fraction == 0)
    exponent, significand = biased, Cat(fraction, Const(1, 1))
    if fmt.zero:
        normal = block.let("normal", biased.any())
        if flush:
            sign, is_zero = sign if flush == "keep-sign" else sign & normal, ~normal
            fraction = Cat(*[bit & normal for bit in fraction])
        exponent, significand = Cat(biased[0] | ~normal, biased[1:]), Cat(fraction, normal)
    if places:
        zeros = block.let("zeros", leading_zeros(block, significand))
        shift = block.let("shift", Mux(zeros > places, places, zeros)[: places.bit_length()])
        significand = shift_left(block, significand, shift, len(significand))
        top = (fmt.max_finite_magnitude >> m) + places
        exponent = block.let("moved", (exponent + places - shift)[: top.bit_length()])
    return {
        "sign": sign,
        "exponent": exponent,
        "significand": significand,
        "zero": is_zero,
        "nan": nan,
        "infinity": infinity,
    }


@recorded
def times(block: Block, x: TermWires, y: TermWires) -> TermWires:
    """Return the exact product of two terms. A power of two is added to the exponent, as a part common to many terms."""
    nan = (*x.nan, *y.nan)
    for infinite, other in ((x.infinite, y), (y.infinite, x)):
        if infinite:
            zero = _is_zero(block, other)
            nan += tuple(block.let("invalid", i & zero) for i in infinite)
    if _is_one(y):
        factor = Exponent(Const(0, 1), 0, 0, 0, common=y.position)
        significand, none, sign, height = x.significand, x.none, x.sign, x.height
    else:
        factor, height = y.position, x.height + y.height
        significand = multiply(block, x.significand, y.significand)
        none = block.let("none", x.none | y.none)
        sign = block.let("sign", x.sign ^ y.sign)
    position = add(block, x.position, factor)
    gap_x, gap_y = gap(x), gap(y)
    if gap_x is not None and gap_y is not None:
        align = position.plus(gap_x + gap_y)
    else:
        align = add(block, x.align, factor.plus(gap_y or 0))
    return TermWires(
        sign,
        significand,
        position,
        align,
        depth=x.depth + y.depth,
        height=height,
        none=none,
        summed=x.summed or y.summed,
        nan=nan,
        infinite=(*x.infinite, *y.infinite),
    )


@recorded
def infinite_from(block: Block, product: TermWires, power: int) -> TermWires:
    """Return the product as an infinity if its magnitude is at least `2**power`."""
    position, width = product.position, product.width
    reached = []
    for i in range(width):
        # if bit i is set, position + i tells whether the power is reached
        field = power - i - position.offset
        if field <= position.top:
            reached.append(product.significand[i] & (position.field >= max(field, 0)))
    if not reached:
        return product
    beyond = any_of(block, "beyond", [block.let("reached", x) for x in reached])
    significand = block.let("finite", Mux(beyond, 0, product.significand)[:width])
    return replace(product, significand=significand, infinite=(*product.infinite, beyond))


def _is_zero(block: Block, term: TermWires) -> Wire:
    """Return whether a term is a zero. An infinity is none, whatever its significand."""
    if not term.summed:
        return term.none
    return block.let("is_zero", ~(term.significand.any() | any_of(block, "infinite", term.infinite)))


def _is_one(term: TermWires) -> bool:
    return isinstance(term.significand, Const) and term.significand.value == 1


def gap(term: TermWires) -> int | None:
    """Return `align - position` if it is constant, else None."""
    same = term.align.field is term.position.field and term.align.common is term.position.common
    return term.align.offset - term.position.offset if same else None
