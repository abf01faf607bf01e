"""C text of registers: a value rounded to one, and the number that the last one leaves as D (golden.rounded, golden.joined)."""

from __future__ import annotations

from isa_model.codec import largest_finite
from isa_model.engines.plan import RANGE
from isa_model.float64 import integer_range
from isa_model.formats import Format
from isa_model.instruction import Instruction
from isa_model.rounding import Rounding
from isa_model.stage import Register


def put(value: str, register: Register, top: int = RANGE, word: str = "") -> str:
    """Return the C expression of a value, smaller than 2**top, rounded to a register."""
    fmt, rounding = register.format, mode(register.rounding)
    overflow = register.overflow or fmt.overflow
    if fmt.kind == "integer":
        low, high = integer_range(fmt)
        ends = f"{low!r}, {high!r}, {2.0**fmt.mantissa_bits!r}"
        return f"put_integer({value}, {rounding}, OVER_{overflow.upper()}, {ends})"
    # No finite sum overflows if `top` fits; an infinite one must then stay infinite.
    never = top <= fmt.max_exponent and overflow in ("infinity", "ieee")
    flush = int(register.subnormals == "flush")
    ends = f"{fmt.min_exponent}, {fmt.max_exponent}, {fmt.mantissa_bits}, {largest_finite(fmt)!r}"
    plus = " + 0.0" if fmt.nan == "negative-zero" else ""  # a format without a negative zero
    how = (
        f"put({value}, {rounding}"
        if not register.random_bits
        else f"put_random({value}, {word}, {register.random_bits}"
    )
    return f"{how}, OVER_{'NEVER' if never else overflow.upper()}, {flush}, {ends}){plus}"


def left(spec: Instruction, state: str) -> str:
    """Return the C expression of the number that the last instruction leaves as D (golden.joined)."""
    if spec.remainder is None:
        return state
    *_, last = spec.stages.values()
    both = put(f"both({state}, second[j])", spec.joining) + (" + 0.0" if last.zero == "positive" else "")
    return f"(second[j] == 0 ? {state} : {both})"


def is_fp32(fmt: Format) -> bool:
    return fmt.kind == "float" and (fmt.mantissa_bits, fmt.min_exponent, fmt.max_exponent) == (23, -126, 127)


def mode(rounding: Rounding | None) -> str:
    """Return the name of a rounding in prelude.h."""
    assert rounding is not None
    return rounding.name
