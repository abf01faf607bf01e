"""Powers of two as operands and as scales of groups: the numbers that directed experiments are made of."""

from __future__ import annotations

from functools import cache

import numpy as np

from codesign.probe.box import Lines, Signature
from isa_model.codec import decode, encode, number_of
from isa_model.formats import Format
from isa_model.rounding import Rounding


def code_of(fmt: Format, sign: int, exponent: int, fraction: float = 1.0) -> int | None:
    """Return the code of `sign * fraction * 2**exponent`, or None if the format lacks the number."""
    if not -1080 < exponent < 1024:
        return None
    value = sign * fraction * 2.0**exponent
    if value == 0:
        return None
    code = encode(fmt, number_of(value), Rounding.TOWARD_ZERO, "saturate")
    got = decode(fmt, code)
    return code if not got.special and got.exact() == number_of(value).exact() else None


@cache
def powers(fmt: Format) -> dict[int, int]:
    """Return the code of each power of two of a format, by its exponent."""
    found = {e: code_of(fmt, 1, e) for e in range(fmt.min_lsb_exponent, fmt.max_exponent + 1)}
    return {e: code for e, code in found.items() if code is not None}


class Scales:
    """Scales of given powers of two, one a group of the products along K."""

    def __init__(self, signature: Signature) -> None:
        self.tables = [powers(of[0]) if of else {0: 0} for of in signature.scale_formats]
        """Code of each power of two of the scales of A and of B."""
        self.ends = [(min(table), max(table)) for table in self.tables]
        self.low, self.high = (sum(end[i] for end in self.ends) for i in (0, 1))
        """Exponents of the smallest and of the largest product of two scales."""
        k = signature.spec.shape.k
        self.sizes = [side.group[axis] if side else k for side, axis in zip(signature.sides, (1, 0), strict=True)]
        self.size = max((n for n, side in zip(self.sizes, signature.sides, strict=True) if side), default=k)
        """Products that share both scales."""

    def put(self, lines: Lines, line: int, group: int, exponent: int, rng: np.random.Generator) -> None:
        """Set the scales of a group of a line to two whose product is `2**exponent`, or as near as they come."""
        (a_low, a_high), (b_low, b_high) = self.ends
        exponent = min(max(exponent, self.low), self.high)
        x = int(rng.integers(max(a_low, exponent - b_high), min(a_high, exponent - b_low) + 1))
        for scales, table, size, e in zip(lines[3:], self.tables, self.sizes, (x, exponent - x), strict=True):
            if scales is not None:
                scales[line, group * self.size // size : (group + 1) * self.size // size] = table[e]
