"""Adders, multipliers and scaled dot products with published figures, and the bench that measures them.

A circuit is a body for `UnitDesign.define` with an output `d`; its reference is numpy's arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from isa_model.formats import FORMATS, Format
from isa_model.instruction import Instruction
from isa_model.rounding import Rounding
from isa_model.stage import Register, Stage

if TYPE_CHECKING:
    from codesign.evidence.cost.cell_library import Library
    from codesign.evidence.cost.netlist import Netlist
    from codesign.evidence.cost.rtl.block import Block, Wire
    from codesign.evidence.cost.verify import EquivalenceResult


def add_ripple(block: Block, x: Wire, y: Wire) -> dict[str, Wire]:
    """Add two unsigned integers with a full adder per bit."""
    from amaranth.hdl import Cat, Const

    carry, digits = Const(0, 1), []
    for i in range(len(x)):
        half = block.let("half", x[i] ^ y[i])
        digits.append(half ^ carry)
        carry = block.let("carry", (x[i] & y[i]) | (half & carry))
    return {"d": Cat(*digits)}


def multiply_integers(block: Block, x: Wire, y: Wire) -> dict[str, Wire]:
    """Multiply two signed integers; the product has all bits."""
    from codesign.evidence.cost.rtl.carry_save import multiply

    return {"d": multiply(block, x, y, True, True)}


def multiply_by_bits(block: Block, x: Wire, y: Wire) -> dict[str, Wire]:
    """Multiply two signed integers with a row per bit, without recoding."""
    from amaranth.hdl import Const

    from codesign.evidence.cost.rtl.carry_save import add_rows, by_bits

    width = len(x) + len(y)
    rows, correction = by_bits(block, x, y, True, True)
    return {"d": add_rows(block, [*rows, Const(correction % (1 << width), width)], (), width)}


def float_unit(fmt: Format, product: bool) -> Callable[..., dict[str, Wire]]:
    """Return an IEEE multiplier or adder of a format, which rounds to nearest even and supports subnormals and specials."""

    def body(block: Block, x: Wire, y: Wire) -> dict[str, Wire]:
        from codesign.evidence.cost.rtl.decode import decode, times
        from codesign.evidence.cost.rtl.registers import encode, rounded
        from codesign.evidence.cost.rtl.term_sums import add

        register = Register(format=fmt, rounding=Rounding.NEAREST_EVEN)
        stage = Stage(terms=1, accumulator=True, result=(register,), zero="ieee")
        terms = decode(block, fmt, x), decode(block, fmt, y)
        total = times(block, *terms) if product else add(block, "add", stage, terms[:1], terms[1])
        return {"d": encode(block, fmt, rounded(block, total, register, positive_zero=False), fmt, fmt.nan_code)}

    return body


LANES, KEPT = 16, 24
"""Lanes of VS-Quant's unit, and bits of its accumulator."""


def scaled_integers(bits: int, scale_bits: int) -> Callable[..., dict[str, Wire]]:
    """Return VS-Quant's lane: an integer dot product, times two unsigned scales unless `scale_bits` is 0, accumulated."""

    def body(block: Block, a: Wire, b: Wire, c: Wire, scale_a: Wire = None, scale_b: Wire = None) -> dict[str, Wire]:
        from amaranth.hdl import Cat, Const

        from codesign.evidence.cost.rtl.carry_save import add_rows, multiply

        def signed_rows(values: list[Wire], width: int) -> list[Wire]:
            taken = sum(1 << (len(v) - 1) for v in values)
            return [*(Cat(v[:-1], ~v[-1])[:width] for v in values), Const(-taken % (1 << width), width)]

        products = [
            multiply(block, a[i * bits : (i + 1) * bits], b[i * bits : (i + 1) * bits], True, True)
            for i in range(LANES)
        ]
        if scale_bits:
            width = 2 * bits + (LANES - 1).bit_length()
            dot = block.let("dot", add_rows(block, signed_rows(products, width), (), width))
            products = [multiply(block, dot, multiply(block, scale_a, scale_b), True, False)]
        return {"d": add_rows(block, [*signed_rows(products, KEPT), c], (), KEPT)}

    return body


# -- measuring -------------------------------------------------------------------------------------------------------


class CircuitBench:
    """Synthesises circuits and instructions, compares them with their references, and counts the vectors."""

    def __init__(self, library: Library) -> None:
        self.library, self.vectors = library, 0

    def circuit(
        self, body: Callable[..., dict[str, Wire]], ports: dict[str, int], reference: Callable[..., Any]
    ) -> Netlist:
        """Return a mapped circuit that equals `reference`, a function of codes by port, on 10,000 random operands."""
        import numpy as np

        from codesign.evidence.cost.rtl.block import UnitDesign
        from codesign.evidence.cost.synth import synthesise
        from codesign.evidence.cost.unit_vectors import UnitVectors
        from codesign.evidence.cost.verify import compare

        design = UnitDesign()
        design.define("unit", body, ports)
        netlist = synthesise(design.rtlil(), self.library).netlist
        rng = np.random.default_rng(0)
        codes = {name: _random(rng, bits, 10_000) for name, bits in ports.items()}
        operands = {name: _bits(words, ports[name]) for name, words in codes.items()}
        expected = np.array(reference(**codes)).astype("u8")
        self._hold(compare(netlist, [UnitVectors(operands, expected)]))
        return netlist

    def instruction(self, spec: Instruction) -> tuple[float, dict[str, float]]:
        """Return the area of an instruction's unit and of its blocks in NAND2, proven as for a record."""
        from codesign.evidence.cost.rtl.unit import unit as rtl
        from codesign.evidence.cost.synth import block_areas, synthesise
        from codesign.evidence.cost.verify import prove

        netlist = synthesise(rtl(spec), self.library).netlist
        self._hold(prove(netlist, spec))
        nand2 = self.library.nand2.area
        return netlist.area / nand2, {k: v / nand2 for k, v in block_areas(rtl(spec), self.library).items()}

    def _hold(self, comparison: EquivalenceResult) -> None:
        """Count the vectors of a comparison. Raises RuntimeError if there was a mismatch."""
        if comparison.mismatches:
            raise RuntimeError(f"a circuit differs from its reference: {comparison.first}")
        self.vectors += comparison.vectors

    def energy(self, netlist: Netlist) -> tuple[float, float]:
        """Return the capacitance switched per operation on random operands, without and with glitches."""
        import numpy as np

        from codesign.evidence.cost.energy import switched
        from codesign.evidence.cost.pipeline import pipeline
        from codesign.evidence.cost.unit_vectors import UnitVectors

        rng = np.random.default_rng(1)
        operands = {name: _bits(_random(rng, len(nets), 2000), len(nets)) for name, nets in netlist.inputs.items()}
        return switched(pipeline(netlist, 10**6), UnitVectors(operands, np.zeros(2000, "u8")))


def _random(rng: Any, bits: int, count: int) -> Any:
    """Return random words, as Python integers if they have more than 64 bits."""
    import numpy as np

    if bits <= 64:
        return rng.integers(0, 1 << bits, count, dtype="u8")
    return np.array([int.from_bytes(rng.bytes(-(-bits // 8))) & ((1 << bits) - 1) for _ in range(count)], dtype=object)


def _bits(words: Any, bits: int) -> Any:
    """Return the bits (words, bits) of words of any width."""
    import numpy as np

    return np.stack([((words >> i) & 1).astype("u8") for i in range(bits)], axis=1)


def signed(words: Any, bits: int) -> Any:
    """Return the numbers of two's complement words."""
    return words.astype("i8") - ((words.astype("i8") >> (bits - 1)) << bits)


def elements(words: Any, bits: int, count: int) -> Any:
    """Return the signed elements (words, count) of packed words."""
    import numpy as np

    mask = (1 << bits) - 1
    return np.stack([signed(((words >> (i * bits)) & mask).astype("u8"), bits) for i in range(count)], axis=1)


def ieee(name: str, product: bool) -> Callable[..., Any]:
    """Return numpy's product or sum as a function of codes, with the format's NaN."""
    import numpy as np

    fmt = FORMATS[name]
    real, code = {"fp16": (np.float16, "u2"), "fp32": (np.float32, "u4")}[name]

    def reference(x: Any, y: Any) -> Any:
        with np.errstate(all="ignore"):
            p, q = x.astype(code).view(real), y.astype(code).view(real)
            d = p * q if product else p + q
        return np.where(np.isnan(d), fmt.nan_code, d.view(code).astype("u8"))

    return reference
