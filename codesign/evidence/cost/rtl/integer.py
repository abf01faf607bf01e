"""Sums of integers: products in two's complement and C or a running value, wrapped or clamped to the register."""

from __future__ import annotations

from collections.abc import Sequence

from amaranth.hdl import Cat, Const, Mux

from codesign.evidence.cost.rtl.block import Block, Wire, recorded
from codesign.evidence.cost.rtl.carry_save import add_rows, multiply
from isa_model.formats import Format
from isa_model.instruction import Instruction
from isa_model.stage import Register


def dot(block: Block, spec: Instruction, a: Sequence[Wire], b: Sequence[Wire], c: Wire) -> Wire:
    """Return the code of D of an integer instruction with one stage."""
    (stage,) = spec.stages.values()
    register = stage.result[-1]
    value = summed(block, spec, a, b, register, bare(spec.c_format, c), spec.c_format)
    padding = Const(0, spec.accumulator.low_padding)
    return block.let("code", Cat(padding, _extended(value, register.format, spec.accumulator.mantissa_bits)))


def bare(fmt: Format, code: Wire) -> Wire:
    """Return the code of an integer without ignored bits."""
    return code[fmt.low_padding :][: fmt.mantissa_bits]


@recorded
def products(block: Block, spec: Instruction, a: Sequence[Wire], b: Sequence[Wire]) -> list[Wire]:
    """Return the products of integers, each as wide as both factors."""
    xs, ys = ([bare(fmt, x) for x in codes] for fmt, codes in ((spec.a, a), (spec.b, b)))
    return [multiply(block, x, y, spec.a.signed, spec.b.signed) for x, y in zip(xs, ys, strict=True)]


@recorded
def summed(
    block: Block,
    spec: Instruction,
    a: Sequence[Wire],
    b: Sequence[Wire],
    register: Register,
    c: Wire = None,
    c_format: Format | None = None,
) -> Wire:
    """Return the sum of products, and of `c` in `c_format` if given, in an integer register; codes, of `c` and of the sum,
    are without ignored bits.
    """
    signed = spec.a.signed or spec.b.signed
    values = products(block, spec, a, b)
    wraps, width = wraps_in(register), width_of(spec, len(values), register, c_format)
    own = {} if c_format is None else {"c": c}
    name = f"sum_{'wrapped' if wraps else 'clamped'}" + ("_products" if c_format is None else "")
    code: Wire = block.call(
        name,
        lambda inner, **ports: total(inner, ports, signed, c_format, width, register.format, wraps),
        **{f"product{i}": value for i, value in enumerate(values)},
        **own,
    )["code"]
    return code


def wraps_in(register: Register) -> bool:
    """Return whether a sum beyond the register's range wraps; otherwise it is clamped."""
    return (register.overflow or register.format.overflow) == "wrap"


def width_of(spec: Instruction, count: int, register: Register, c_format: Format | None) -> int:
    """Return the bits of the adder of `count` products and C, if there is one: those of the register, or of any sum."""
    ends, bits = _reach(spec, count, c_format), register.format.mantissa_bits
    return bits if wraps_in(register) else max(max(-ends[0] - 1, ends[1]).bit_length(), bits) + 1


def _reach(spec: Instruction, count: int, c_format: Format | None) -> tuple[int, int]:
    """Return the smallest and the largest sum of `count` products and C, if there is one."""
    a, b = ((fmt.lowest, fmt.max_finite_magnitude) for fmt in (spec.a, spec.b))
    c = (c_format.lowest, c_format.max_finite_magnitude) if c_format else (0, 0)
    corners = [x * y for x in a for y in b]
    return c[0] + count * min(corners), c[1] + count * max(corners)


def total(
    block: Block, ports: dict[str, Wire], signed: bool, c_format: Format | None, width: int, kept: Format, wraps: bool
) -> dict[str, Wire]:
    rows, correction = [], 0
    for name, value in ports.items():
        if c_format.signed if c_format and name == "c" else signed:
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
