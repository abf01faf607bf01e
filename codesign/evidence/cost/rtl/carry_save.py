"""Carry-save arithmetic: multi-operand addition by levels of 3:2 compressors and one final adder, and multipliers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from amaranth.hdl import Cat, Const

from codesign.evidence.cost.rtl.block import Block, Wire, flip, gate, pad, recorded

WIDE = 10
"""Width of the narrower operand from which recoding needs less area than a row per bit; 2 bits less if it is signed."""


def add_rows(block: Block, rows: Sequence[Wire], carries: Sequence[Wire], width: int) -> Wire:
    """Return the sum of rows and single bits, modulo `2**width`. The bits use free places of the compressors."""
    rows, carries = [pad(row, width) for row in rows], list(carries)
    while len(carries) > max(len(rows) - 1, 1):
        rows.append(pad(carries.pop(), width))
    while len(rows) > 2:
        level = []
        for i in range(0, len(rows) - 2, 3):
            x, y, z = rows[i : i + 3]
            half = block.let("half", x ^ y)
            carry = block.let("carry", (x & y) | (half & z))
            level.append(block.let("sum", half ^ z))
            level.append(Cat(carries.pop() if carries else Const(0, 1), carry)[:width])
        rows = [*level, *rows[len(rows) - len(rows) % 3 :]]
    last = carries.pop() if carries else Const(0, 1)
    assert not carries
    if len(rows) == 1:
        rows.append(Const(0, width))
    return block.let("total", (Cat(Const(1, 1), rows[0]) + Cat(last, rows[1]))[1 : width + 1])


def multiply(block: Block, x: Wire, y: Wire, x_signed: bool = False, y_signed: bool = False) -> Wire:
    """Return the product of two significands or integers, which has as many bits as both together."""
    if (len(x), y_signed) < (len(y), x_signed):
        x, y, x_signed, y_signed = y, x, y_signed, x_signed
    width = len(x) + len(y)
    if len(y) == 1 and not (x_signed or y_signed):
        return pad(gate(x, y), width - 1)
    rows_of = _recoded if len(y) >= WIDE - 2 * y_signed else by_bits

    def body(inner: Block, x: Wire, y: Wire) -> dict[str, Wire]:
        rows, correction = rows_of(inner, x, y, x_signed, y_signed)
        if correction:
            rows.append(Const(correction % (1 << width), width))
        return {"product": add_rows(inner, rows, (), width)}

    signs = f"_{'us'[x_signed]}{'us'[y_signed]}" if x_signed or y_signed else ""
    return block.call(f"multiply_{len(x)}x{len(y)}{signs}", body, x=x, y=y)["product"]


def by_bits(block: Block, x: Wire, y: Wire, x_signed: bool, y_signed: bool) -> tuple[list[Wire], int]:
    """Return a row per bit of y, and the constant to add. Bits of negative weight are inverted (Baugh and Wooley)."""
    rows, correction = [], 0
    for j in range(len(y)):
        bits = []
        for i in range(len(x)):
            negative = (x_signed and i == len(x) - 1) != (y_signed and j == len(y) - 1)
            both = x[i] & y[j]
            bits.append(~both if negative else both)
            correction -= negative << (i + j)
        rows.append(Cat(Const(0, j), *bits))
    return rows, correction


def _recoded(block: Block, x: Wire, y: Wire, x_signed: bool, y_signed: bool) -> tuple[list[Wire], int]:
    """Return a row per radix-4 digit of y, from -2 to 2 (MacSorley's form of Booth recoding), and the constant to add."""
    width = len(x) + len(y)
    zero = Const(0, 1)
    x = x if x_signed else Cat(x, zero)
    above = y[-1] if y_signed else zero
    digits, multiples = Cat(zero, y, above, above), Cat(zero, x, x[-1])
    rows: list[Wire] = []
    correction, negated = 0, zero
    for i in range(0, len(y) + (not y_signed), 2):
        low, middle, high = digits[i], digits[i + 1], digits[i + 2]
        one = block.let("one", low ^ middle)
        two = block.let("two", (high ^ middle) & ~one)
        chosen = [(one & multiples[j + 1]) | (two & multiples[j]) for j in range(len(x) + 1)]
        row = block.let("row", flip(Cat(*chosen), high))
        # -q is ~q + 1; the 1 is placed below the next row. The sign bit is inverted, and its weight subtracted.
        below = Cat(Const(0, i - 2), negated, zero) if i else Const(0, 0)
        rows.append(Cat(below, row[:-1], ~row[-1])[:width])
        correction -= 1 << (i + len(x))
        negated = high
    if y_signed:
        rows.append(Cat(Const(0, i), negated))
    return rows, correction


@dataclass(frozen=True)
class Addend:
    """An addend `(-1)**sign * (magnitude + step) * 2**weight`, where `step` is a rounding increment of one unit."""

    sign: Wire
    magnitude: Wire
    step: Wire
    weight: int = 0


@recorded
def signed_sum(block: Block, name: str, addends: Sequence[Addend]) -> tuple[Wire, Wire]:
    """Return the sign (0 for a zero) and the magnitude of a sum."""
    exact = all(isinstance(a.step, Const) for a in addends)
    width = sum((1 << len(a.magnitude)) - exact << a.weight for a in addends).bit_length() + 1

    def body(inner: Block, **ports: Wire) -> dict[str, Wire]:
        rows, carries, correction = [], [], 0
        for i, addend in enumerate(addends):
            sign, step = ports[f"sign{i}"], ports[f"step{i}"]
            magnitude = ports[f"magnitude{i}"]
            # -q is ~q + 1 minus the weight above it; incrementing the magnitude decrements the negative number.
            top = len(magnitude) + addend.weight
            row = flip(magnitude, sign)
            rows.append(inner.let(f"row{i}", Cat(Const(0, addend.weight), row, ~sign)))
            correction -= 1 << top
            carry = sign ^ step
            if addend.weight:
                rows.append(Cat(Const(0, addend.weight), carry))
            else:
                carries.append(inner.let(f"carry{i}", carry))
        rows.append(Const(correction % (1 << width), width))
        total = add_rows(inner, rows, carries, width)
        negative = total[-1]
        magnitude = (flip(total, negative) + negative)[: width - 1]
        return {"sign": negative, "magnitude": magnitude}

    ports: dict[str, Wire] = {}
    for i, addend in enumerate(addends):
        ports |= {f"sign{i}": addend.sign, f"step{i}": addend.step, f"magnitude{i}": addend.magnitude}
    out = block.call(name, body, **ports)
    return out["sign"], out["magnitude"]
