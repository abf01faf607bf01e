"""Widths and ranges of numbers on wires, without the wires: what `block.TermWires` and `block.Exponent` say of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class ExponentRange:
    """A variable exponent `field + offset`, with the field from `low` to `top`."""

    low: int
    top: int
    offset: int

    @property
    def bits(self) -> int:
        """Bits of the field; 0 for a constant."""
        return self.top.bit_length()


@dataclass(frozen=True)
class TermWidths:
    """Widths and ranges of a number on wires, as in `rtl.block.TermWires`."""

    width: int
    position: ExponentRange
    depth: int
    height: int
    common: ExponentRange | None = None
    """Exponent of a scale that is a power of two, common to a group of terms."""
    align: ExponentRange | None = None
    """Alignment exponent, if it is no constant above the position."""
    power: bool = False
    """True for a power of two, whose significand is the constant 1."""
    normal: bool = False
    flags: int = 0
    """Number of flags for NaN and infinities."""

    @property
    def whole(self) -> ExponentRange:
        """Position with the common exponent added."""
        p, c = self.position, self.common
        return p if c is None else ExponentRange(p.low + c.low, p.top + c.top, p.offset + c.offset)

    @property
    def least(self) -> int:
        """Smallest position of the last digit."""
        return self.whole.offset + self.whole.low

    @property
    def most(self) -> int:
        """Largest position of the last digit."""
        return self.whole.offset + self.whole.top


def sum_of(x: ExponentRange, y: ExponentRange) -> ExponentRange:
    """Return the range of the sum of two exponents."""
    return ExponentRange(x.low + y.low, x.top + y.top, x.offset + y.offset)


def reach_of(terms: Sequence[TermWidths]) -> int:
    """Return the number of bits between the lowest and the highest digit of terms, without a common exponent."""
    if all(t.common == terms[0].common for t in terms):
        terms = [replace(t, common=None) for t in terms]
    return max(t.most + t.width for t in terms) - min(t.least for t in terms)
