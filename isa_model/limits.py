"""Ranges of the spec language's whole numbers, far wider than any known instruction needs.

Within them the golden model and the engines take seconds and little memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic_core import core_schema

from isa_model.diagnostics import at


@dataclass(frozen=True)
class Range:
    """Annotate a field as a whole number from `lowest` to `highest`; for any other value the error names both ends."""

    lowest: int
    highest: int

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> core_schema.CoreSchema:
        inner = core_schema.no_info_after_validator_function(self._inside, handler(source))
        return core_schema.no_info_before_validator_function(self._number, inner)

    def __get_pydantic_json_schema__(self, schema: Any, handler: Any) -> Any:
        return handler(schema) | {"minimum": self.lowest, "maximum": self.highest}

    def _number(self, value: Any) -> Any:
        if isinstance(value, float) and value == value // 1:  # pydantic refuses whole floats of over 64 bits
            return self._inside(int(value))
        return value

    def _inside(self, value: int) -> int:
        if not self.lowest <= value <= self.highest:
            shown = (
                str(value) if value.bit_length() < 64 else f"a number of about {value.bit_length() * 3 // 10} digits"
            )
            raise at(message=f"must be from {self.lowest} to {self.highest}, got {shown}")
        return value


Count = Annotated[int, Range(1, 1 << 16)]
"""A count of products, terms, blocks, rows or columns."""
Group = Annotated[int, Range(1, 1 << 20)]
"""A number of rows or columns that share a scale."""
FractionBits = Annotated[int, Range(0, 128)]
"""A number of bits kept below the largest exponent of a sum."""
Exponent = Annotated[int, Range(-10_000, 10_000)]
"""An exponent of two; exponents of products with their scales stay within half of this range."""
Distance = Annotated[int, Range(0, 10_000)]
"""A difference of two exponents."""
MOST_STAGES = 16
MOST_LEVELS = 3
"""Levels of scales above the finest."""
MOST_ROUNDINGS = 4
"""Registers that one sum is rounded into, one after the other."""
LOWEST_POWER, HIGHEST_POWER = -1074, 1023
"""Floating-point numbers are multiples of 2**LOWEST_POWER and below 2**(HIGHEST_POWER + 1), as in FP64."""
