"""One datapath for several instructions, as a GPU has: shared multipliers, alignment, adder and register.

Each lane multiplies significands as wide as the widest of its operands. All modes are aligned to the most fraction bits and
rounded to the widest register; a mode that keeps fewer bits has the others masked, which is the same since both truncate.
Whole numbers are significands with one exponent; their C is added after the window.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from amaranth.hdl import Cat, Const, Mux

from codesign.evidence.cost.rtl import integer
from codesign.evidence.cost.rtl.align import aligned, largest_exponent
from codesign.evidence.cost.rtl.block import Block, TermWires, UnitDesign, Wire, constant, either, flip, pad
from codesign.evidence.cost.rtl.carry_save import signed_sum
from codesign.evidence.cost.rtl.decode import decode, times
from codesign.evidence.cost.rtl.registers import encode, rounded
from codesign.evidence.cost.rtl.term_sums import with_specials
from codesign.evidence.cost.rtl.unit import TOP
from isa_model.formats import Format
from isa_model.instruction import Instruction
from isa_model.stage import Stage


def shared_unit(specs: Sequence[Instruction]) -> str:
    """Return the RTLIL of a unit with inputs a, b, c and mode, one bit per instruction, and output d_out.

    The instructions have one stage, which truncates; they differ in operands, terms, fraction bits and mantissa bits of the
    register. At most one of them is of integers.
    """
    design = UnitDesign()
    ports = {"a": max(s.span * s.a.bits for s in specs), "b": max(s.span * s.b.bits for s in specs), "c": 32}

    def body(block: Block, a: Wire, b: Wire, c: Wire, mode: Wire) -> dict[str, Wire]:
        modes = list(zip(specs, mode, strict=True))
        floats = [(spec, on) for spec, on in modes if spec.a.kind == "float"]
        whole = next(((spec, on) for spec, on in modes if spec.a.kind == "integer"), None)
        widest = max((spec for spec, _ in floats), key=lambda spec: stage_of(spec).fraction_bits or 0)
        stage = stage_of(widest)
        terms = []
        for lane in range(max(spec.span for spec in specs)):
            using = [(spec, on) for spec, on in modes if lane < spec.span]
            x = either(block, [(on, _operand(block, spec.a, a, lane)) for spec, on in using])
            y = either(block, [(on, _operand(block, spec.b, b, lane)) for spec, on in using])
            terms.append(times(block, x, y))
        running = decode(block, widest.c_format, c)
        if whole:
            running = either(block, [(~whole[1], running)])
            running = replace(running, none=block.let("no_c", running.none | whole[1]))
        total, magnitude = _window(block, stage, [*terms, running], floats)
        register = stage.result[-1]
        result = rounded(block, total, register, positive_zero=True)
        for spec, on in floats:
            narrower = register.format.mantissa_bits - stage_of(spec).result[-1].format.mantissa_bits
            if narrower:
                significand = _masked(block, result.significand, narrower, on)
                sign = block.let("sign", result.sign & significand.any())
                result = replace(result, significand=significand, sign=sign)
        code = encode(block, widest.accumulator, result, register.format, widest.nan_code)
        if whole:
            code = Mux(whole[1], _integer(block, whole[0], total, magnitude, c), code)
        return {"d": code}

    design.define(TOP, body, {**ports, "mode": len(specs)})
    return design.rtlil()


def stage_of(spec: Instruction) -> Stage:
    """Return the only stage of an instruction."""
    (stage,) = spec.stages.values()
    return stage


def _operand(block: Block, fmt: Format, vector: Wire, lane: int) -> TermWires:
    """Return a lane's operand. A whole number is a sign and a magnitude."""
    code = vector[lane * fmt.bits : (lane + 1) * fmt.bits]
    if fmt.kind == "float":
        return decode(block, fmt, code)
    sign = code[-1] if fmt.signed else Const(0, 1)
    magnitude = block.let("magnitude", (flip(code, sign) + sign)[: fmt.bits])
    return TermWires(sign, magnitude, constant(0), constant(0), depth=0, height=fmt.bits, none=~code.any())


def _window(
    block: Block, stage: Stage, terms: Sequence[TermWires], modes: Sequence[tuple[Instruction, Wire]]
) -> tuple[TermWires, Wire]:
    """Return the sum of aligned terms, and its magnitude in units of the last fraction bit."""
    bits = stage.fraction_bits
    assert bits is not None
    largest, none = largest_exponent(block, stage, terms)
    addends = aligned(block, stage, terms, largest, bits, bits)
    for spec, on in modes:
        fewer = bits - (stage_of(spec).fraction_bits or 0)
        if fewer:
            addends = [replace(x, magnitude=_masked(block, x.magnitude, fewer, on)) for x in addends]
    sign, magnitude = signed_sum(block, "sum_shared", addends)
    total = TermWires(
        sign, magnitude, largest.plus(-bits), largest, depth=bits, height=len(magnitude) - bits, none=none
    )
    return with_specials(block, total, terms), magnitude


def _masked(block: Block, value: Wire, places: int, when: Wire) -> Wire:
    """Return the value with its lowest places cleared if `when` is set."""
    return block.let("masked", Cat(*(bit & ~when for bit in value[:places]), value[places:]))


def _integer(block: Block, spec: Instruction, total: TermWires, magnitude: Wire, c: Wire) -> Wire:
    """Return the sum of products and C as a code; the products' exponent is that of their top bits."""
    stage = stage_of(spec)
    register = stage.result[-1]
    wraps = (register.overflow or register.format.overflow) == "wrap"
    place = total.depth - (spec.a.bits - 1 + spec.b.bits - 1)  # of a unit in the window
    negative = total.sign
    size = spec.a.bits + spec.b.bits + spec.span.bit_length()
    products = pad(magnitude[place:], size)
    signed = block.let("products", (flip(products, negative) + negative)[:size])

    def body(inner: Block, products: Wire, c: Wire) -> dict[str, Wire]:
        width = register.format.mantissa_bits + (not wraps)
        ports = {"products": Cat(products, products[-1].replicate(width - len(products))), "c": c}
        return integer.total(inner, ports, True, spec.c_format, width, register.format, wraps)

    return block.call("add_integers", body, products=signed, c=c)["code"]
