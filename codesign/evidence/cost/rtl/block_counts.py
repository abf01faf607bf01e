"""Counts of hardware that all units are made of: adders, multipliers, shifters and rounders by their widths."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from math import log, log2

from codesign.evidence.cost.rtl.widths import ExponentRange, TermWidths, sum_of
from isa_model.formats import Format
from isa_model.rounding import Rounding
from isa_model.stage import Register, Stage

WIDE = 10
"""As in `rtl.carry_save`: multipliers of operands this wide are recoded."""
SHORT = 8
"""As in `rtl.registers`: largest number of zeros above a sum that avoid a second shifter."""
_CUT = (Rounding.TOWARD_ZERO, Rounding.TO_ODD)
"""Roundings without a carry."""


class BlockCounts:
    """Sizes of blocks by kind, which grow as blocks are counted."""

    def __init__(self) -> None:
        self.sizes = Counter[str]()

    def add(self, kind: str, size: float) -> None:
        """Count more of a kind of block."""
        self.sizes[kind] += size  # type: ignore[assignment]  # a share of a multiplier is no whole number

    def from_fields(self, fmt: Format) -> TermWidths:
        """Return the numbers of a format."""
        if fmt.kind == "integer":
            return TermWidths(fmt.mantissa_bits, ExponentRange(0, 0, 0), 0, fmt.mantissa_bits)
        low = int(fmt.zero)
        high = max(low, fmt.max_finite_magnitude >> fmt.mantissa_bits)
        if fmt.kind == "table":
            low, high = 0, fmt.max_exponent - fmt.min_exponent
        flags = (fmt.nan_code is not None) + bool(fmt.infinity)
        position = ExponentRange(low, high, fmt.min_exponent - fmt.mantissa_bits - low)
        power = not (fmt.mantissa_bits or fmt.zero)
        return TermWidths(fmt.mantissa_bits + 1, position, fmt.mantissa_bits, 1, power=power, normal=True, flags=flags)

    def multiply(self, x: int, y: int, count: float) -> None:
        """Count multipliers of integers or significands."""
        self.add("recoded" if min(x, y) >= WIDE else "array", count * x * y)
        self.add("array sum", count * (x - 1) * (y - 1) * (min(x, y) < WIDE))
        self.add("held array", count * x * y)

    def plus(self, x: ExponentRange, y: ExponentRange, count: float) -> ExponentRange:
        """Count adders of exponents, and return the sums."""
        total = sum_of(x, y)
        if x.top and y.top:
            self.add("exponent", count * total.bits)
        return total

    def shifters(
        self, stage: Stage, term: TermWidths, fraction_bits: int, groups: int, count: int, terms: int, reach: int
    ) -> int:
        """Count the shifters of terms that are alike, and return the bits that each keeps."""
        assert stage.rounding is not None
        nearest = stage.rounding in (Rounding.NEAREST_EVEN, Rounding.NEAREST_AWAY)
        sticky = stage.rounding not in (Rounding.TOWARD_ZERO, Rounding.NEAREST_AWAY)
        beyond = term.width + max(fraction_bits - term.depth, 0) + 2
        amount = min((term.position.top + beyond).bit_length(), reach)
        self.add("difference", count * (groups * amount + terms * amount))
        above = fraction_bits + nearest - term.depth
        width = max(term.width + above, 1)
        muxes, lost, stages = right(min(term.width, width), width, amount)
        self.add("shift", count * terms * muxes)
        self.add("sticky", count * terms * lost * sticky)
        self.add("path shift", stages if terms > 1 else 0)
        self.add("path fanout", stages * log2(width + 1) if terms > 1 else 0)
        self.add("held shifted", count * terms * width * stages)
        return max(fraction_bits + term.height, 1)

    def signed_sum(self, lengths: Sequence[int], weights: Sequence[int], exact: bool, count: float) -> int:
        """Count a carry-save adder of signed terms with its magnitude, and return the magnitude's bits."""
        width = sum((1 << n) - exact << w for n, w in zip(lengths, weights, strict=True)).bit_length() + 1
        rows, bits = len(lengths) + 1 + any(weights), sum(lengths)
        self.add("flip", count * bits)
        self.add("compress", count * (bits + rows - 2 * max(lengths)))
        self.add("carry", count * width)
        depth = log(rows / 2, 1.5) if rows > 2 else 0
        self.add("path compress", depth)
        self.add("path carry", width)
        self.add("held sum", count * (bits + width * width / 4))
        return width - 1

    def normalise(self, width: int, count: float, path: bool = True, furthest: int | None = None) -> None:
        """Count leading-zero counters and shifters to the left, by `furthest` places at most."""
        levels = max((width - 1).bit_length(), 1)
        shifts = levels if furthest is None else min(levels, max(furthest, 0).bit_length())
        self.add("zeros", count * width * (shifts > 0))
        self.add("normalise", count * width * shifts)
        if path:
            self.add("path normalise", 2 * levels)
            self.add("path fanout", levels * log2(max(width, 1)))
            self.add("held normal", count * width * 2 * levels)

    def rounded(self, term: TermWidths, register: Register, count: float, path: bool = True) -> TermWidths:
        """Count rounders into a register, and return the rounded numbers."""
        fmt, position = register.format, term.whole
        precision, below = fmt.mantissa_bits + 1, max(register.random_bits or 0, 2)
        spare = position.offset + term.width - 1 - fmt.min_exponent
        deep = spare + position.low < -SHORT
        above = 0 if deep else max(0, -(spare + position.low))
        width = term.width + above
        self.normalise(width, count, path, None if deep else position.top + spare + above)
        self.add("round", count * (fmt.magnitude_bits + (register.random_bits or 0)))
        self.add("exponent", count * 3 * position.bits)
        if deep:
            short = precision + below
            muxes, lost, stages = right(short, short, position.bits)
            self.add("shift", count * muxes)
            self.add("sticky", count * (lost + max(width - short, 0)))
            if path:
                self.add("path shift", stages)
                self.add("path deep", position.bits)
        else:
            self.add("sticky", count * max(width - precision, 0))
        if path:
            self.add("path round", 0 if register.rounding in _CUT else fmt.magnitude_bits + (register.random_bits or 0))
            self.add("path exponent", position.bits)
            self.add("held normal", count * fmt.bits * 4)
        return self.from_fields(fmt)


def right(live: int, width: int, amount: int) -> tuple[int, int, int]:
    """Return the multiplexers, the bits of a sticky bit and the levels of a shifter to the right of `live` upper bits."""
    stages = min(amount, max((width - 1).bit_length(), 1))
    muxes = lost = 0
    for i in range(stages):
        step = min(1 << i, width)
        live = min(live + step, width)
        muxes += live
        lost += max(0, step - (width - live))
    return muxes + (width if amount > stages else 0), lost, stages


def left(live: int, width: int, amount: int) -> int:
    """Return the multiplexers of a shifter to the left of `live` lower bits."""
    muxes = 0
    for i in range(amount):
        live = min(live + (1 << i), width)
        muxes += live
    return muxes
