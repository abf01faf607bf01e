"""Sums of many rows without carries in between: 3:2 compressors level by level, and one adder at the end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from amaranth.hdl import Cat, Const

from codesign.cost.rtl.block import Block, Wire, flip, gate, pad


def add_rows(block: Block, rows: Sequence[Wire], carries: Sequence[Wire], width: int) -> Wire:
    """The sum of rows and single bits, modulo `2**width`. The bits enter where compressors leave a place free."""
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


def multiply(block: Block, x: Wire, y: Wire) -> Wire:
    """The product of two significands."""
    if len(x) < len(y):
        x, y = y, x
    width = len(x) + len(y)
    if len(y) == 1:
        return pad(gate(x, y), width - 1)

    def body(inner: Block, x: Wire, y: Wire) -> dict[str, Wire]:
        rows = [Cat(Const(0, i), gate(x, y[i])) for i in range(len(y))]
        return {"product": add_rows(inner, rows, (), width)}

    return block.call(f"multiply_{len(x)}x{len(y)}", body, x=x, y=y)["product"]


@dataclass(frozen=True)
class Addend:
    """`(-1)**sign * (magnitude + step) * 2**weight`; `step` is a rounding of one unit."""

    sign: Wire
    magnitude: Wire
    step: Wire
    weight: int = 0


def signed_sum(block: Block, name: str, addends: Sequence[Addend]) -> tuple[Wire, Wire]:
    """Sign (of a zero: 0) and magnitude of a sum; the magnitude is as wide as the addends can make it."""
    exact = all(isinstance(a.step, Const) for a in addends)
    width = sum((1 << len(a.magnitude)) - exact << a.weight for a in addends).bit_length() + 1

    def body(inner: Block, **ports: Wire) -> dict[str, Wire]:
        rows, carries, correction = [], [], 0
        for i, addend in enumerate(addends):
            sign, step = ports[f"sign{i}"], ports[f"step{i}"]
            magnitude = ports[f"magnitude{i}"]
            # -q is ~q + 1 less the weight above it; a step up of the magnitude is a step down of the negative.
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
