"""Codes to numbers and back: `decode` and `encode` for one code on exact integers, and their twins for arrays.

The scalar pair is the definition; `decode_array` and `encode_array` return the same bits on float64 lanes.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

from isa_model.formats import FORMATS, Format, Overflow
from isa_model.rounding import Rounding, shift_right

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray

    from isa_model.lanes import Codes, Float64


@dataclass(frozen=True, slots=True)
class Number:
    """`(-1)**negative * significand * 2**exponent`, an infinity, or NaN. The significand is not negative."""

    negative: bool
    significand: int
    exponent: int
    special: Literal["", "infinity", "nan"] = ""

    @property
    def is_zero(self) -> bool:
        return not self.special and self.significand == 0

    def exact(self) -> Fraction:
        """The value as a fraction. Raises ValueError for infinity and NaN."""
        if self.special:
            raise ValueError(f"{self.special} is not a fraction")
        magnitude = Fraction(self.significand) * Fraction(2) ** self.exponent
        return -magnitude if self.negative else magnitude


NAN = Number(False, 0, 0, "nan")


def infinity(negative: bool) -> Number:
    return Number(negative, 0, 0, "infinity")


# -- one code -----------------------------------------------------------------------------------------------------------


def decode(fmt: Format, code: int) -> Number:
    """Return the number that `code` stands for.

    A subnormal keeps the exponent of the smallest normal number, so its significand has leading zeros.
    Raises ValueError when `code` is negative or needs more bits than `fmt.storage_bits`.
    """
    if not 0 <= code < 1 << fmt.storage_bits:
        raise ValueError(f"{code:#x} is not a {fmt.storage_bits}-bit code of {fmt.name}")
    field = code >> fmt.low_padding
    magnitude = field & ((1 << fmt.magnitude_bits) - 1)
    if fmt.kind == "integer":
        value = magnitude - (1 << fmt.mantissa_bits) if fmt.signed and magnitude >> (fmt.mantissa_bits - 1) else magnitude
        return Number(value < 0, abs(value), 0)
    negative = fmt.signed and bool(field >> fmt.magnitude_bits & 1)
    if fmt.nan == "negative-zero" and negative and magnitude == 0:
        return NAN
    biased, fraction = magnitude >> fmt.mantissa_bits, magnitude & ((1 << fmt.mantissa_bits) - 1)
    if magnitude > fmt.max_finite_magnitude:
        return infinity(negative) if fmt.infinity and fraction == 0 else NAN
    if biased == 0 and fmt.zero:
        return Number(negative, fraction, fmt.min_lsb_exponent)
    return Number(negative, fraction + (1 << fmt.mantissa_bits), biased - fmt.bias - fmt.mantissa_bits)


def encode(
    fmt: Format,
    number: Number,
    rounding: Rounding = Rounding.NEAREST_EVEN,
    overflow: Overflow | None = None,
    draw: int = 0,
) -> int:
    """Return the code of `number` rounded to the format.

    The number is rounded as if the exponent had no upper end; what then exceeds the largest finite number follows
    `overflow` (default: the format's own rule). An infinity follows it too. A NaN becomes the format's NaN; where the
    format has none, 0 in integers and the largest number in floats (PTX ISA cvt, e2m1x2 and e3m2x2). A negative number
    becomes 0 in an unsigned integer and NaN in an unsigned float. A value below UE8M0's range becomes its smallest.
    """
    rule = overflow or fmt.overflow
    largest = fmt.max_finite_magnitude
    if number.special == "nan":
        if fmt.nan_code is not None:
            return fmt.nan_code
        return 0 if fmt.kind == "integer" else largest << fmt.low_padding
    if number.negative and not fmt.signed and not number.is_zero:
        return 0 if fmt.kind == "integer" or fmt.nan_code is None else fmt.nan_code
    magnitude = largest + 1
    if not number.special:
        magnitude = _round_magnitude(fmt, number, rounding, draw)
    if fmt.kind == "integer":
        return _integer_code(fmt, number.negative, magnitude, rule, bool(number.special))
    if magnitude > largest:
        if rule == "ieee":
            to_infinity = bool(number.special) or rounding in (
                Rounding.NEAREST_EVEN,
                Rounding.NEAREST_AWAY,
                Rounding.STOCHASTIC,
                Rounding.DOWN if number.negative else Rounding.UP,
            )
            rule = "infinity" if to_infinity else "saturate"
        if rule == "nan":
            assert fmt.nan_code is not None  # a Format without a NaN refuses this rule
            return fmt.nan_code
        magnitude = largest + (rule == "infinity")
    negative = fmt.signed and number.negative and not (fmt.nan == "negative-zero" and magnitude == 0)
    return (negative << fmt.magnitude_bits | magnitude) << fmt.low_padding


def _round_magnitude(fmt: Format, number: Number, rounding: Rounding, draw: int) -> int:
    """Exponent and mantissa fields of |number|, as one integer that may exceed the format's largest.

    Codes grow with the values they stand for and are evenly spaced between powers of two, so rounding the code, seen
    as a number with more fraction bits, rounds the value; a carry out of the mantissa steps into the exponent.
    """
    significand, exponent = number.significand, number.exponent
    if fmt.kind == "integer":
        return shift_right(significand, -exponent, rounding, number.negative, draw)
    if significand == 0:
        return 0
    leading = significand.bit_length() - 1
    biased = exponent + leading + fmt.bias
    if fmt.zero and biased < 1:
        return shift_right(significand, fmt.min_lsb_exponent - exponent, rounding, number.negative, draw)
    if biased < 0:
        return 0
    if fmt.mantissa_bits == 0 and rounding is Rounding.NEAREST_EVEN:
        rounding = Rounding.NEAREST_AWAY  # no digit to be even: IEEE 754 4.3.1 takes the larger neighbour
    long_code = (biased << leading) + significand - (1 << leading)
    return shift_right(long_code, leading - fmt.mantissa_bits, rounding, number.negative, draw)


def _integer_code(fmt: Format, negative: bool, magnitude: int, rule: Overflow, infinite: bool) -> int:
    value = -magnitude if negative else magnitude
    lowest = -fmt.max_finite_magnitude - 1 if fmt.signed else 0
    if infinite or rule != "wrap":
        value = min(max(value, lowest), fmt.max_finite_magnitude)
    return value & ((1 << fmt.mantissa_bits) - 1)


def number_of(value: float | int | Fraction) -> Number:
    """The Number of a Python value; a Fraction must have a power-of-two denominator."""
    if isinstance(value, float) and value != value:
        return NAN
    if isinstance(value, float) and value in (float("inf"), float("-inf")):
        return infinity(value < 0)
    fraction = Fraction(value)
    exponent = 1 - fraction.denominator.bit_length()
    if fraction.denominator != 1 << -exponent:
        raise ValueError(f"{value} is not an integer times a power of two")
    negative = fraction < 0 or str(value).startswith("-")
    return Number(negative, abs(fraction.numerator), exponent)


# -- arrays -------------------------------------------------------------------------------------------------------------


def code_dtype(fmt: Format) -> np.dtype[Any]:
    """The unsigned dtype that holds the format's codes."""
    import numpy as np

    return np.dtype(f"u{fmt.storage_bits // 8}")


@cache
def value_dtypes() -> dict[str, np.dtype[Any]]:
    """numpy and ml_dtypes dtypes whose bits are exactly the codes of one of our formats, by our name of it."""
    import ml_dtypes
    import numpy as np

    return {
        "fp64": np.dtype(np.float64),
        "fp32": np.dtype(np.float32),
        "tf32": np.dtype(np.float32),
        "fp16": np.dtype(np.float16),
        "bf16": np.dtype(ml_dtypes.bfloat16),
        "e4m3": np.dtype(ml_dtypes.float8_e4m3fn),
        "e4m3fn": np.dtype(ml_dtypes.float8_e4m3fn),
        "e4m3ieee": np.dtype(ml_dtypes.float8_e4m3),
        "e3m4": np.dtype(ml_dtypes.float8_e3m4),
        "e5m2": np.dtype(ml_dtypes.float8_e5m2),
        "e3m2": np.dtype(ml_dtypes.float6_e3m2fn),
        "e2m3": np.dtype(ml_dtypes.float6_e2m3fn),
        "e2m1": np.dtype(ml_dtypes.float4_e2m1fn),
        "e4m3fnuz": np.dtype(ml_dtypes.float8_e4m3fnuz),
        "e5m2fnuz": np.dtype(ml_dtypes.float8_e5m2fnuz),
        "e4m3b11fnuz": np.dtype(ml_dtypes.float8_e4m3b11fnuz),
        "ue8m0": np.dtype(ml_dtypes.float8_e8m0fnu),
        "int32": np.dtype(np.int32),
        "int8": np.dtype(np.int8),
        "int4": np.dtype(ml_dtypes.int4),
        "uint4": np.dtype(ml_dtypes.uint4),
    }


def dtype_of(fmt: Format) -> np.dtype[Any]:
    """The dtype arrays of this format have: numpy's or ml_dtypes's own where there is one, else that of raw codes."""
    return value_dtypes().get(fmt.name, code_dtype(fmt)) if FORMATS.get(fmt.name, fmt) == fmt else code_dtype(fmt)


def to_codes(fmt: Format, x: ArrayLike) -> Codes:
    """Raw codes of an array that holds the format's values or its codes.

    Raises ValueError when the dtype is neither the format's own (`dtype_of`) nor the unsigned one of its codes.
    """
    import numpy as np

    array = np.asarray(x)
    own, raw = dtype_of(fmt), code_dtype(fmt)
    if array.dtype == raw:
        return array
    if array.dtype != own:
        names = f"{own}" if own == raw else f"{own}, or {raw} codes"
        raise ValueError(f"an array of {fmt.name} has dtype {names}; got {array.dtype}")
    codes: Codes = np.ascontiguousarray(array).view(raw).reshape(array.shape)
    if fmt.kind == "integer" and fmt.bits < 8:
        codes = codes & raw.type((1 << fmt.bits) - 1)
    return codes


def from_codes(fmt: Format, codes: Codes) -> NDArray[Any]:
    """The codes as an array of the format's own dtype (`dtype_of`)."""
    import numpy as np

    own = dtype_of(fmt)
    if fmt.kind == "integer" and fmt.bits < 8:  # ml_dtypes keeps 4-bit integers sign-extended in a byte
        return decode_array(fmt, codes).astype(np.int8).astype(own)
    return codes.view(own) if own != codes.dtype else codes


def decode_array(fmt: Format, codes: Codes) -> Float64:
    """Values of an array of raw codes, exact in float64; NaN where a code is NaN."""
    if fmt.storage_bits <= 16 and codes.size > 1 << fmt.storage_bits:
        return _values_of_all_codes(fmt)[codes]
    return _decode_array(fmt, codes)


@cache
def _values_of_all_codes(fmt: Format) -> Float64:
    import numpy as np

    return _decode_array(fmt, np.arange(1 << fmt.storage_bits, dtype=code_dtype(fmt)))


def _decode_array(fmt: Format, codes: Codes) -> Float64:
    import numpy as np

    field = codes.astype(np.uint64) >> np.uint64(fmt.low_padding)
    if fmt.name == "fp64":
        return field.view(np.float64).copy()
    magnitude = (field & np.uint64((1 << fmt.magnitude_bits) - 1)).astype(np.int64)
    if fmt.kind == "integer":
        top = 1 << fmt.mantissa_bits
        return np.where(magnitude >> (fmt.mantissa_bits - 1) & fmt.signed, magnitude - top, magnitude).astype(np.float64)
    biased, fraction = magnitude >> fmt.mantissa_bits, magnitude & ((1 << fmt.mantissa_bits) - 1)
    subnormal = (biased == 0) & fmt.zero
    significand = np.where(subnormal, fraction, fraction + (1 << fmt.mantissa_bits))
    exponent = np.where(subnormal, fmt.min_exponent, biased - fmt.bias) - fmt.mantissa_bits
    values = np.ldexp(significand.astype(np.float64), exponent.astype(np.int32))
    beyond = magnitude > fmt.max_finite_magnitude
    values[beyond & (fraction == 0) if fmt.infinity else np.zeros_like(beyond)] = np.inf
    values[beyond & ((fraction != 0) | (not fmt.infinity))] = np.nan
    if fmt.signed:
        negative = (field >> np.uint64(fmt.magnitude_bits) & np.uint64(1)).astype(bool)
        if fmt.nan == "negative-zero":
            values[negative & (magnitude == 0)] = np.nan
        values = np.where(negative & ~np.isnan(values), -values, values)
    return values


def encode_array(
    fmt: Format,
    x: ArrayLike,
    rounding: Rounding = Rounding.NEAREST_EVEN,
    overflow: Overflow | None = None,
    rng: np.random.Generator | None = None,
) -> Codes:
    """Raw codes of an array of numbers (taken as float64), by the rules of `encode`.

    `stochastic` draws from `rng` and raises ValueError without one.
    """
    import numpy as np

    rule = overflow or fmt.overflow
    if isinstance(x, np.ndarray) and x.dtype == np.float32 and rounding is Rounding.NEAREST_EVEN and rule == "saturate":
        quick = _encode_by_ml_dtypes(fmt, x)
        if quick is not None:
            return quick
    values = np.asarray(x, dtype=np.float64)
    if fmt.name == "fp64":
        return values.view(np.uint64).copy()
    bits = np.ascontiguousarray(values).view(np.int64).reshape(values.shape)
    negative = bits < 0
    field, fraction = bits >> 52 & 0x7FF, bits & ((1 << 52) - 1)
    # |x| = significand * 2**(exponent - 52)
    significand = np.where(field == 0, fraction, fraction + (1 << 52))
    exponent = np.maximum(field, 1) - 1023
    if fmt.kind == "integer":
        # Beyond 2**62 the value is past every format here; wrapping looks at the low 62 bits alone.
        shift = 52 - exponent
        magnitude = np.where(
            shift > 0,
            _shift_right_array(significand, np.maximum(shift, 0), rounding, negative, rng),
            significand << np.clip(-shift, 0, 10),
        )
        return _integer_codes(fmt, values, magnitude, overflow or fmt.overflow)
    biased = exponent + fmt.bias
    lowest = 1 if fmt.zero else 0
    # Beyond these ends the result is the same, and the long code below stays inside 63 bits.
    biased = np.clip(biased, -(1 << 12), (1 << fmt.exponent_bits) + 1)
    below = (biased < lowest) | (field == 0)
    long_code = np.where(below, significand, (biased << 52) + (significand - (1 << 52)))
    shift = 52 - fmt.mantissa_bits + np.where(below, lowest - biased, 0)
    magnitude = _shift_right_array(long_code, shift, rounding, negative, rng)
    if fmt.mantissa_bits == 0 and rounding is Rounding.NEAREST_EVEN:
        away = _shift_right_array(long_code, shift, Rounding.NEAREST_AWAY, negative, rng)
        magnitude = np.where(below, magnitude, away)
    if not fmt.zero:
        magnitude = np.where(below, 0, magnitude)
    return _float_codes(fmt, values, magnitude, rounding, overflow or fmt.overflow)


def _encode_by_ml_dtypes(fmt: Format, x: NDArray[np.float32]) -> Codes | None:
    """Saturating casts of float32 by ml_dtypes, which is several times faster and, within the range, the same."""
    import numpy as np

    own = dtype_of(fmt)
    if own.kind != "V" or not (fmt.signed and fmt.nan_code is not None and fmt.storage_bits == 8):
        return None
    top = np.float32(decode(fmt, fmt.max_finite_magnitude).exact())
    codes: Codes = np.clip(x, -top, top).astype(own).view(code_dtype(fmt))
    codes[np.isnan(x)] = fmt.nan_code
    return codes


def _shift_right_array(
    x: NDArray[np.int64],
    shift: NDArray[np.int64],
    rounding: Rounding,
    negative: NDArray[np.bool_],
    rng: np.random.Generator | None,
) -> NDArray[np.int64]:
    """`shift_right` of arrays; values are below 2**63, shifts not negative."""
    import numpy as np

    deep = shift > 62
    shift = np.minimum(shift, 62)
    quotient = np.where(deep, 0, x >> shift)
    lost = np.where(deep, x, x - (quotient << shift))
    half = np.int64(1) << np.maximum(shift - 1, 0)
    any_lost = (lost > 0) & (shift > 0)
    above, tie = any_lost & (lost > half) & ~deep, any_lost & (lost == half) & ~deep
    step: NDArray[np.bool_]
    match rounding:
        case Rounding.TOWARD_ZERO:
            return quotient
        case Rounding.NEAREST_EVEN:
            step = above | (tie & (quotient & 1 == 1))
        case Rounding.NEAREST_AWAY:
            step = above | tie
        case Rounding.UP:
            step = any_lost & ~negative
        case Rounding.DOWN:
            step = any_lost & negative
        case Rounding.TO_ODD:
            step = any_lost & (quotient & 1 == 0)
        case Rounding.STOCHASTIC:
            if rng is None:
                raise ValueError("stochastic rounding needs `rng`, a numpy.random.Generator")
            draws = rng.integers(0, np.int64(1) << shift, dtype=np.int64)
            step = any_lost & ~deep & (draws >= (np.int64(1) << shift) - lost)
    return quotient + step


def _float_codes(
    fmt: Format, values: Float64, magnitude: NDArray[np.int64], rounding: Rounding, rule: Overflow
) -> Codes:
    import numpy as np

    largest = fmt.max_finite_magnitude
    negative, nan, infinite = np.signbit(values), np.isnan(values), np.isinf(values)
    beyond = (magnitude > largest) | infinite
    if rule == "ieee":
        directed = {Rounding.UP: ~negative, Rounding.DOWN: negative}
        nearest = rounding in (Rounding.NEAREST_EVEN, Rounding.NEAREST_AWAY, Rounding.STOCHASTIC)
        to_infinity = infinite | directed.get(rounding, np.full(values.shape, nearest))
    else:
        to_infinity = np.full(values.shape, rule == "infinity")
    magnitude = np.where(beyond, largest + to_infinity, magnitude)
    if fmt.nan == "negative-zero":
        negative = negative & (magnitude != 0)
    codes = magnitude.astype(np.uint64)
    if fmt.signed:
        codes |= negative.astype(np.uint64) << np.uint64(fmt.magnitude_bits)
    codes <<= np.uint64(fmt.low_padding)
    # largest finite number for a NaN that has no code of its own
    nan_code = np.uint64(fmt.nan_code if fmt.nan_code is not None else largest << fmt.low_padding)
    if rule == "nan":
        nan = nan | beyond
    if not fmt.signed:
        nan_of_negative = np.uint64(0) if fmt.nan_code is None else nan_code
        codes = np.where(np.signbit(values) & (values != 0) & ~nan, nan_of_negative, codes)
    return np.where(nan, nan_code, codes).astype(code_dtype(fmt))


def _integer_codes(fmt: Format, values: Float64, magnitude: NDArray[np.int64], rule: Overflow) -> Codes:
    import numpy as np

    lowest = -fmt.max_finite_magnitude - 1 if fmt.signed else 0
    whole = np.where(np.signbit(values), -magnitude, magnitude)
    if not fmt.signed:
        whole = np.maximum(whole, 0)
    if rule != "wrap":
        whole = np.clip(whole, lowest, fmt.max_finite_magnitude)
        whole = np.where(np.abs(values) >= 2.0**62, np.where(np.signbit(values), lowest, fmt.max_finite_magnitude), whole)
    else:
        whole = np.where(np.isinf(values), np.where(np.signbit(values), lowest, fmt.max_finite_magnitude), whole)
    whole = np.where(np.isnan(values), 0, whole)
    return (whole.astype(np.uint64) & np.uint64((1 << fmt.mantissa_bits) - 1)).astype(code_dtype(fmt))
