"""Formats given by a table: the number of every code, for codes that no exponent and mantissa field describes.

`nf4`: QLoRA (arXiv 2305.14314), appendix E: 16 quantiles of the normal distribution, constants in FP32.
`posit8`: Standard for Posit Arithmetic (2022), 8 bits, es = 2. `hif8`: HiFloat8 (arXiv 2409.16626).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from functools import cache
from itertools import pairwise
from math import inf, nan, nextafter
from struct import pack, unpack
from typing import Any, Literal

from isa_model.rounding import Rounding

Entry = float | Literal["nan", "infinity", "-infinity"]
SPECIALS = {"nan": nan, "infinity": inf, "-infinity": -inf}
MOST_VALUES = 1 << 10


def entry(value: Any) -> Any:
    """Return an infinity or NaN as a word, any other value as it is."""
    if isinstance(value, float) and (value != value or value in (inf, -inf)):
        return "nan" if value != value else "infinity" if value > 0 else "-infinity"
    return value


def numbers_of_table(values: Sequence[Entry]) -> list[float]:
    """Return the numbers of a table as doubles."""
    return [SPECIALS[x] if isinstance(x, str) else float(x) for x in values]


@cache
def finite(values: tuple[Entry, ...]) -> tuple[tuple[float, int], ...]:
    """Return the finite numbers in ascending order, each with its lowest code."""
    first: dict[float, int] = {}
    for code, number in enumerate(values):
        if not isinstance(number, str):
            first.setdefault(float(number), code)
    return tuple(sorted(first.items()))


@cache
def extent(values: tuple[Entry, ...]) -> tuple[int, int, int, int]:
    """Return a table's smallest and largest leading exponent, its smallest last place, and its most significand bits."""
    exact = [Fraction(abs(number)) for number, _ in finite(values) if number]
    leading = [_exponent(x) for x in exact]
    last = [1 - x.denominator.bit_length() + _zeros(x.numerator) for x in exact]
    bits = max(high - low + 1 for high, low in zip(leading, last, strict=True))
    return min(leading), max(leading), min(last), bits


def _exponent(x: Fraction) -> int:
    """Return floor(log2(x)) of a multiple of a power of two."""
    return x.numerator.bit_length() - x.denominator.bit_length()


def _zeros(n: int) -> int:
    """Return the number of zeros below the last bit that is set."""
    return (n & -n).bit_length() - 1


def takes_upper(low: tuple[float, int], high: tuple[float, int], x: Fraction, rounding: Rounding) -> bool:
    """Return whether `x`, strictly between two neighbours (number, code), is rounded to the upper one.

    `toward-zero` takes the neighbour of smaller magnitude. A tie of `nearest-even` goes to the even code, and `to-odd` takes
    the odd one, if just one code of both is; else they go toward zero.
    """
    upper_is_smaller = abs(high[0]) <= abs(low[0])
    distance = 2 * x - Fraction(low[0]) - Fraction(high[0])
    one_even = low[1] % 2 != high[1] % 2
    match rounding:
        case Rounding.UP:
            return True
        case Rounding.DOWN:
            return False
        case Rounding.TO_ODD if one_even:
            return high[1] % 2 == 1
        case Rounding.TOWARD_ZERO | Rounding.TO_ODD:
            return upper_is_smaller
    if distance:
        return distance > 0
    if rounding is Rounding.NEAREST_EVEN and one_even:
        return high[1] % 2 == 0
    return upper_is_smaller == (rounding is Rounding.NEAREST_EVEN)


@cache
def last_of_each(values: tuple[Entry, ...], rounding: Rounding) -> tuple[float, ...]:
    """Return, for each finite number but the last, the largest double that is rounded to it or to a smaller one."""
    numbers = finite(values)
    ends = []
    for low, high in pairwise(numbers):
        middle = float((Fraction(low[0]) + Fraction(high[0])) / 2)
        candidates = {low[0], nextafter(high[0], -inf), nextafter(middle, -inf), middle, nextafter(middle, inf)}
        inside = [x for x in candidates if low[0] < x < high[0] and not takes_upper(low, high, Fraction(x), rounding)]
        ends.append(max([low[0], *inside]))
    return tuple(ends)


# -- tables that have a name -------------------------------------------------------------------------------------------


def posit(bits: int, exponent_bits: int) -> Iterator[Entry]:
    """Yield the numbers of a posit format in the order of its codes; NaR is a NaN."""
    for code in range(1 << bits):
        negative = code >> (bits - 1)
        body = (-code if negative else code) & ((1 << (bits - 1)) - 1)
        if not body:
            yield "nan" if negative else 0.0
            continue
        text = f"{body:0{bits - 1}b}"
        run = len(text) - len(text.lstrip(text[0]))
        regime = run - 1 if text[0] == "1" else -run
        rest = text[run + 1 :]
        exponent = int(rest[:exponent_bits].ljust(exponent_bits, "0"), 2)
        fraction = rest[exponent_bits:]
        significand = 1 + int(fraction or "0", 2) / (1 << len(fraction))
        yield (-1.0) ** negative * significand * 2.0 ** ((regime << exponent_bits) + exponent)


HIF8_PREFIXES = ("11", 4), ("10", 3), ("01", 2), ("001", 1), ("0001", 0)
"""Prefixes of HiFloat8, each with its number of exponent bits."""


def hif8() -> Iterator[Entry]:
    """Yield the numbers of HiFloat8: a prefix tells how many of the bits below are the exponent, in sign and magnitude."""
    for code in range(256):
        sign, body = -1.0 if code >> 7 else 1.0, code & 0x7F
        if body == 0x6F:
            yield "infinity" if sign > 0 else "-infinity"
        elif body < 8:  # 2**-22 to 2**-16
            yield sign * 2.0 ** (body - 23) if body else "nan" if code >> 7 else 0.0
        else:
            text = f"{body:07b}"
            prefix, digits = next((p, d) for p, d in HIF8_PREFIXES if text.startswith(p))
            rest = text[len(prefix) :]
            magnitude = int("1" + rest[1:digits], 2) if digits else 0
            exponent = -magnitude if rest[:digits].startswith("1") else magnitude
            fraction = rest[digits:]
            yield sign * (1 + int(fraction, 2) / (1 << len(fraction))) * 2.0**exponent


NORMAL = (
    "-1.0 -0.6961928009986877 -0.5250730514526367 -0.39491748809814453 -0.28444138169288635 -0.18477343022823334 "
    "-0.09105003625154495 0.0 0.07958029955625534 0.16093020141124725 0.24611230194568634 0.33791524171829224 "
    "0.44070982933044434 0.5626170039176941 0.7229568362236023 1.0"
)
TABLES: dict[str, tuple[Entry, ...]] = {
    "nf4": tuple(unpack("f", pack("f", float(x)))[0] for x in NORMAL.split()),
    "posit8": tuple(posit(8, 2)),
    "hif8": tuple(hif8()),
}
