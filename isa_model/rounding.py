"""Rounding modes, and the one integer operation they all come down to.

`shift_right` divides a magnitude by a power of two and rounds the quotient; the golden model and the scalar codec use it.
`round_integer` is its counterpart for arrays: it rounds floats to whole numbers.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.floating[Any]]


class Rounding(StrEnum):
    """Rounding mode: the choice between the two neighbours of a value.

    `to-odd` takes the neighbour towards zero and sets its last bit if anything was lost; hardware calls that a sticky or
    jammed bit. `stochastic` takes the neighbour away from zero with a probability equal to the fraction lost, as far as the
    random bits resolve it.
    """

    NEAREST_EVEN = "nearest-even"
    NEAREST_AWAY = "nearest-away"
    TOWARD_ZERO = "toward-zero"
    UP = "up"
    DOWN = "down"
    TO_ODD = "to-odd"
    STOCHASTIC = "stochastic"


def shift_right(
    magnitude: int,
    bits: int,
    rounding: Rounding,
    negative: bool = False,
    draw: int = 0,
    draw_bits: int | None = None,
) -> int:
    """Return `magnitude / 2**bits`, rounded to a whole number.

    `magnitude` is not negative; `negative` is the sign of the value it belongs to, which matters to `up` and `down`.
    A negative `bits` shifts left, which loses nothing. `draw` matters to `stochastic` alone: a random whole number, uniform in
    [0, 2**draw_bits) (default: in [0, 2**bits)). It is added to the bits that are lost, of which the first `draw_bits` count,
    before they are cut off.
    """
    if bits <= 0:
        return magnitude << -bits
    quotient = magnitude >> bits
    lost = magnitude - (quotient << bits)
    half = 1 << (bits - 1)
    match rounding:
        case Rounding.TOWARD_ZERO:
            return quotient
        case Rounding.NEAREST_EVEN:
            return quotient + (lost > half or (lost == half and quotient & 1 == 1))
        case Rounding.NEAREST_AWAY:
            return quotient + (lost >= half)
        case Rounding.UP:
            return quotient + (lost > 0 and not negative)
        case Rounding.DOWN:
            return quotient + (lost > 0 and negative)
        case Rounding.TO_ODD:
            return quotient | (lost > 0)
        case Rounding.STOCHASTIC:
            return (magnitude + (draw if draw_bits is None else draw << bits >> draw_bits)) >> bits


def round_integer(x: Floats, rounding: Rounding, out: Floats | None = None) -> Any:
    """Return each float rounded to a whole number, as a float; infinities and NaNs stay.

    The result is written to `out` if given, which may be `x` itself.
    Raises ValueError for `stochastic`, which needs random numbers: see `encode_array`.
    """
    import numpy as np

    match rounding:
        case Rounding.TOWARD_ZERO:
            return np.trunc(x, out=out)
        case Rounding.NEAREST_EVEN:
            return np.rint(x, out=out)
        case Rounding.UP:
            return np.ceil(x, out=out)
        case Rounding.DOWN:
            return np.floor(x, out=out)
        case Rounding.STOCHASTIC:
            raise ValueError("stochastic rounding needs random numbers")
    whole = np.trunc(x)
    with np.errstate(invalid="ignore"):  # infinity - infinity; the comparison below is then false
        lost = np.abs(x - whole)
        away = lost >= 0.5 if rounding is Rounding.NEAREST_AWAY else (lost > 0) & (np.fmod(whole, 2) == 0)
    return np.add(whole, np.copysign(away.astype(x.dtype), x), out=out)
