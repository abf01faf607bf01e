"""Targets of the emitter. A target is one compiler and its machine: C types, abilities, and the text of the inner loops.

A *lane* is one element of D. The text loops over all lanes that a step computes together; `x[j]` is the value of lane `j`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from isa_model import golden
from isa_model.codec import NAN, Number, infinity, largest_finite
from isa_model.engines.plan import Plan
from isa_model.instruction import Instruction
from isa_model.stage import Stage


@dataclass(frozen=True)
class BlockCode:
    """The products of one block of the first stage, as C text: number t lies at k = base + offsets[t]."""

    base: str
    offsets: tuple[int, ...]


@dataclass(frozen=True)
class Target:
    """Properties of a compiler and its machine that the emitter needs to write the step of a plan."""

    plan: Plan

    adds_directed: ClassVar[bool] = False
    """True if the machine adds doubles with directed rounding (CUDA's `__dadd_rz`, `__dadd_ru` and `__dadd_rd`)."""

    @property
    def lane(self) -> str:
        """C type in which products are formed and cut: "float" where Plan.lane allows it and the loops gain from it."""
        return self.plan.lane_name

    @property
    def running(self) -> str:
        """C type of the running value of an inner chain."""
        return "double"

    def largest(self, block: BlockCode, out: str, smallest: str = "") -> str:
        """Return text that sets `out[j]` to the largest sum of exponents of a block, and `smallest[j]` to the smallest."""
        raise NotImplementedError

    def cut_sum(self, block: BlockCode, inverse: str, out: str) -> str:
        """Return text that sets `out[j]` to the sum of products times `inverse[j]`, each rounded to a whole number."""
        raise NotImplementedError

    def exact_sum(self, block: BlockCode, out: str) -> str:
        """Return text that sets `out[j]` to the exact sum of the products of a block."""
        raise NotImplementedError

    def short_block(self, block: BlockCode, running: str) -> str:
        """Return text that adds a block to `running[j]` and rounds to the register at once; "" if there is none.

        The general text uses doubles. Plan.narrow has proved that single precision loses nothing here.
        """
        if not self.plan.narrow or self.lane != "float":
            return ""
        stage = self.plan.first
        (register,) = stage.result
        over = register.overflow or register.format.overflow
        limit = "INFINITY" if over == "infinity" else f"{largest_finite(register.format)!r}f"
        rest = f"largest[j], {stage.fraction_bits}, {register.format.mantissa_bits}, {limit}"
        return f"""{{
short top[W];
float sum[W], inverse[W];
int largest[W];
{self.largest(block, "top")}
LANES {{
largest[j] = larger(widen(top[j]), alignf((float){running}[j]));
inverse[j] = pow2f({stage.fraction_bits} - larger(largest[j], {self.plan.min_product_exponent}));
}}
{self.cut_sum(block, "inverse", "sum")}
LANES {{ {running}[j] = put_narrow(sum[j], (float){running}[j], {rest}); }}
}}"""


def code_of(spec: Instruction, value: str) -> str:
    """Return the C expression of the code of D for a number of the accumulator's format."""
    fmt = spec.accumulator
    if fmt.kind == "integer":
        return f"((long long)({value}) & {(1 << fmt.mantissa_bits) - 1}ll) << {fmt.low_padding}"
    numbers = (infinity(False), infinity(True), NAN, Number(True, 0, 0))
    specials = [f"{golden.written(spec, golden.Term(number, None))}u" for number in numbers]
    ends = ((2.0**-fmt.min_lsb_exponent).hex(), (2.0**fmt.min_exponent).hex())
    fields = (fmt.low_padding, fmt.mantissa_bits, fmt.magnitude_bits, fmt.bias, *ends, *specials)
    return f"encode({value}, {', '.join(map(str, fields))})"


def neutral(stage: Stage) -> str:
    """Return the C text of the zero that changes no sum of a stage, not even the sign of a zero."""
    return "-0.0" if stage.zero == "ieee" else "0.0"
