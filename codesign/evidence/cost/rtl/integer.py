"""Integer instructions: an exact sum of two's complement products and C, wrapped or clamped to the register."""

from __future__ import annotations

from collections.abc import Sequence

from amaranth.hdl import Cat, Const, Mux

from codesign.evidence.cost.rtl.block import Block, Wire
from codesign.evidence.cost.rtl.carry_save import add_rows, multiply
from isa_model.formats import Format
from isa_model.instruction import Instruction


def dot(block: Block, spec: Instruction, a: Sequence[Wire], b: Sequence[Wire], c: Wire) -> Wire:
    """Return the code of D of an integer instruction with one stage."""
    (stage,) = spec.stages.values()
    register = stage.result[-1]
    wraps = (register.overflow or register.format.overflow) == "wrap"
    signed = spec.a.signed or spec.b.signed
    values = [multiply(block, x, y, spec.a.signed, spec.b.signed) for x, y in zip(a, b, strict=True)]
    ends = _reach(spec)
    bits = register.format.mantissa_bits
    width = bits if wraps else max(-ends[0] - 1, ends[1]).bit_length() + 1
    code = block.call(
        f"sum_{'wrapped' if wraps else 'clamped'}",
        lambda inner, **ports: total(inner, ports, signed, spec.c_format, width, register.format, wraps),
        **{f"product{i}": value for i, value in enumerate(values)},
        c=c,
    )["code"]
    return block.let("code", _extended(code, register.format, spec.accumulator.bits))


def _reach(spec: Instruction) -> tuple[int, int]:
    """Return the smallest and the largest sum of a step."""
    a, b, c = ((fmt.lowest, fmt.max_finite_magnitude) for fmt in (spec.a, spec.b, spec.c_format))
    corners = [x * y for x in a for y in b]
    return c[0] + spec.span * min(corners), c[1] + spec.span * max(corners)


def total(
    block: Block, ports: dict[str, Wire], signed: bool, c_format: Format, width: int, kept: Format, wraps: bool
) -> dict[str, Wire]:
    rows, correction = [], 0
    for name, value in ports.items():
        if c_format.signed if name == "c" else signed:
            # The sign bit has negative weight: it is inverted, and a constant is subtracted.
            rows.append(Cat(value[:-1], ~value[-1])[:width])
            correction -= 1 << (len(value) - 1)
        else:
            rows.append(value[:width])
    rows.append(Const(correction % (1 << width), width))
    total = add_rows(block, rows, (), width)
    if wraps:
        return {"code": total}
    bits = kept.mantissa_bits
    negative = total[-1]
    fits = block.let("fits", ~(total[bits - kept.signed :] ^ negative.replicate(width - bits + kept.signed)).any())
    if not kept.signed:
        fits = fits & ~negative
    end = Mux(negative, Const(kept.lowest & ((1 << bits) - 1), bits), Const(kept.max_finite_magnitude, bits))
    return {"code": Mux(fits, total[:bits], end)}


def _extended(code: Wire, fmt: Format, bits: int) -> Wire:
    """Return the code extended to a wider integer format."""
    fill = code[-1] if fmt.signed else Const(0, 1)
    return Cat(code, fill.replicate(bits - len(code))) if bits > len(code) else code
