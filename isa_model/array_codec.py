"""Arrays of codes and of numbers: `decode` and `encode` for arrays, and the dtypes that hold them.

Every public function takes arrays of a format through `to_codes`. Numbers are float64, which holds every number of every
floating-point format; `encode_array` rounds by integer arithmetic on their bits.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
from numpy.typing import NDArray

from isa_model.arguments import array_of, numbers_of, require
from isa_model.codec import decode
from isa_model.float64 import Codes, Float64
from isa_model.formats import FORMATS, Format, Overflow
from isa_model.ieee import in_ieee_mode
from isa_model.rounding import Rounding
from isa_model.tables import finite, last_of_each, numbers_of_table

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


def code_dtype(fmt: Format) -> np.dtype[Any]:
    """Return the unsigned dtype that holds the format's codes."""
    return np.dtype(f"u{fmt.storage_bits // 8}")


_OF_NUMPY = {
    "fp64": "float64",
    "fp32": "float32",
    "tf32": "float32",
    "fp16": "float16",
    "int64": "int64",
    "int32": "int32",
    "int16": "int16",
    "int8": "int8",
}
_OF_ML_DTYPES = {
    "bf16": "bfloat16",
    "e4m3": "float8_e4m3fn",
    "e4m3fn": "float8_e4m3fn",
    "e4m3ieee": "float8_e4m3",
    "e3m4": "float8_e3m4",
    "e5m2": "float8_e5m2",
    "e3m2": "float6_e3m2fn",
    "e2m3": "float6_e2m3fn",
    "e2m1": "float4_e2m1fn",
    "e4m3fnuz": "float8_e4m3fnuz",
    "e5m2fnuz": "float8_e5m2fnuz",
    "e4m3b11fnuz": "float8_e4m3b11fnuz",
    "ue8m0": "float8_e8m0fnu",
    "int4": "int4",
    "uint4": "uint4",
}


def value_dtypes() -> dict[str, np.dtype[Any]]:
    """Return the numpy and ml_dtypes dtypes whose bits are the codes of one of our formats, by the format's name."""
    return {name: _value_dtype(name) for name in (*_OF_NUMPY, *_OF_ML_DTYPES)}


@cache
def _value_dtype(name: str) -> np.dtype[Any]:
    if name in _OF_NUMPY:
        return np.dtype(_OF_NUMPY[name])
    import ml_dtypes  # here, since version 0.7 takes most of a second

    found: np.dtype[Any] = np.dtype(getattr(ml_dtypes, _OF_ML_DTYPES[name]))
    return found


def dtype_of(fmt: Format) -> np.dtype[Any]:
    """Return the dtype of arrays in this format: that of numpy or ml_dtypes if there is one, otherwise `code_dtype`."""
    known = fmt.name in _OF_NUMPY or fmt.name in _OF_ML_DTYPES
    return _value_dtype(fmt.name) if known and FORMATS.get(fmt.name, fmt) == fmt else code_dtype(fmt)


def to_codes(fmt: Format, x: ArrayLike, name: str = "x") -> Codes:
    """Return the codes of an array that holds a format's values or its codes, one per element.

    The dtype tells them apart: values have `dtype_of(fmt)`, codes have `code_dtype(fmt)`, in any byte order and layout;
    torch tensors of the same dtypes will do. Codes of a narrow integer may be sign-extended.
    Raises ValueError, which calls the array `name`, for another dtype, and for codes with bits above the format's: they are
    packed, or of another format.
    """
    require("fmt", fmt, Format, "isa_model.named gives a Format")
    array = array_of(name, x)
    raw = code_dtype(fmt)
    if array.dtype != raw and array.dtype != (own := dtype_of(fmt)):
        names = f"{own}" if own == raw else f"{own}, or {raw} codes"
        raise ValueError(
            f"{name}: an array of {fmt.name} has dtype {names}; got {array.dtype} {array.shape}; encode it first"
        )
    codes: Codes = array.view(raw)
    if fmt.bits == fmt.storage_bits or not codes.size or not int(codes.max()) >> fmt.bits:
        return codes
    if fmt.kind == "integer" and fmt.signed:
        least = raw.type((1 << fmt.storage_bits) - (1 << fmt.bits - 1))
        plain, extended = codes >> fmt.bits == 0, codes >= least
        wrong = codes[~(plain | extended)]
    else:
        wrong = codes[codes >> fmt.bits != 0]
    if wrong.size:
        raise ValueError(
            f"{name} holds {int(wrong[0]):#x}, and {fmt.name} has codes of {fmt.bits} bits, one per element; "
            "isa_model.unpack separates packed codes"
        )
    masked: Codes = codes & raw.type((1 << fmt.bits) - 1)
    return masked


def from_codes(fmt: Format, codes: Codes) -> NDArray[Any]:
    """Return codes as an array of `dtype_of(fmt)`."""
    own = dtype_of(fmt)
    if fmt.kind == "integer" and fmt.bits < 8 and own != codes.dtype:
        # ml_dtypes keeps 4-bit integers sign-extended in a byte
        return decode_array(fmt, codes).astype(np.int8).astype(own)
    return codes.view(own) if own != codes.dtype else codes


@in_ieee_mode
def decode_array(fmt: Format, codes: ArrayLike) -> Float64:
    """Return the values of an array of codes as float64, in the same shape.

    They are exact, except that integers of over 53 bits are rounded to float64.
    Raises ValueError unless `codes` has the unsigned dtype of the format's codes, or the format's own dtype.
    """
    return values_of(fmt, to_codes(fmt, codes, "codes"))


def values_of(fmt: Format, codes: Codes) -> Float64:
    """Return the values of checked codes as float64; bits above the format's are ignored."""
    if fmt.storage_bits <= 16 and codes.size > 1 << fmt.storage_bits:
        return values_of_all_codes(fmt)[codes]
    if fmt == FORMATS["fp32"]:
        with np.errstate(invalid="ignore"):  # signalling NaNs
            return codes.view(np.float32).astype(np.float64)
    return _decode_array(fmt, codes.reshape(-1)).reshape(codes.shape)


@cache
@in_ieee_mode
def values_of_all_codes(fmt: Format) -> Float64:
    """Return the value of every integer of `code_dtype(fmt)`, in order; bits above the format's are ignored."""
    values = _decode_array(fmt, np.arange(1 << fmt.storage_bits, dtype=code_dtype(fmt)))
    values.flags.writeable = False
    return values


def _decode_array(fmt: Format, codes: Codes) -> Float64:
    if fmt.kind == "table":
        table: Float64 = np.array(numbers_of_table(fmt.values))
        found: Float64 = table[codes & codes.dtype.type((1 << fmt.bits) - 1)]
        return found
    field = codes.astype(np.uint64) >> np.uint64(fmt.low_padding)
    if fmt.name == "fp64":
        return field.view(np.float64).copy()
    if fmt.kind == "integer":
        return whole_numbers(fmt, codes).astype(np.float64)
    magnitude = (field & np.uint64((1 << fmt.magnitude_bits) - 1)).astype(np.int64)
    finite, below = np.minimum(magnitude, fmt.max_finite_magnitude), (1 << fmt.mantissa_bits) - 1
    biased, fraction = finite >> fmt.mantissa_bits, finite & below
    subnormal = (biased == 0) & fmt.zero
    significand = np.where(subnormal, fraction, fraction + (1 << fmt.mantissa_bits))
    exponent = np.where(subnormal, fmt.min_exponent, biased - fmt.bias) - fmt.mantissa_bits
    values = np.ldexp(significand.astype(np.float64), exponent.astype(np.int32))
    beyond, payload = magnitude > finite, magnitude & below
    values[beyond & (payload == 0) if fmt.infinity else np.zeros_like(beyond)] = np.inf
    values[beyond & ((payload != 0) | (not fmt.infinity))] = np.nan
    if fmt.signed:
        negative = (field >> np.uint64(fmt.magnitude_bits) & np.uint64(1)).astype(bool)
        if fmt.nan == "negative-zero":
            values[negative & (magnitude == 0)] = np.nan
        values = np.where(negative & ~np.isnan(values), -values, values)
    return values


def whole_numbers(fmt: Format, codes: Codes) -> NDArray[Any]:
    """Return the values of codes of an integer format as int64, or as uint64 if the format is unsigned."""
    above = np.uint64(64 - fmt.mantissa_bits)
    field = codes.astype(np.uint64) >> np.uint64(fmt.low_padding) << above
    return field.view(np.int64) >> above.astype(np.int64) if fmt.signed else field >> above


@in_ieee_mode
def encode_array(
    fmt: Format,
    x: ArrayLike,
    rounding: Rounding = Rounding.NEAREST_EVEN,
    overflow: Overflow | None = None,
    rng: np.random.Generator | None = None,
) -> Codes:
    """Return the codes of an array of real numbers, rounded by the rules of `encode`, in the same shape.

    `overflow` defaults to the format's own rule. `stochastic` rounding draws from `rng`.
    Raises ValueError for elements that are no real numbers or that float64 cannot hold, for `stochastic` without `rng`,
    and for an overflow rule that the format cannot follow.
    """
    require("fmt", fmt, Format, "isa_model.named gives a Format")
    numbers = numbers_of("x", x, unsigned=dtype_of(fmt) if fmt.kind == "integer" else None)
    rule = _overflow_rule(fmt, overflow)
    with np.errstate(over="ignore", invalid="ignore"):  # signalling NaNs
        return _encode(fmt, numbers.reshape(-1), Rounding(rounding), rule, rng).reshape(numbers.shape)


def _overflow_rule(fmt: Format, overflow: Overflow | None) -> Overflow:
    """Return the overflow rule to apply. Raises ValueError for one that the format cannot follow."""
    rule = fmt.overflow if overflow is None else overflow
    possible = {
        "ieee": fmt.infinity,
        "infinity": fmt.infinity,
        "nan": fmt.nan != "none",
        "saturate": True,
        "wrap": fmt.kind == "integer",
    }
    if not (isinstance(rule, str) and possible.get(rule)):
        fits = ", ".join(name for name in get_args(Overflow) if possible[name])
        raise ValueError(f"overflow is {rule!r}; {fmt.name} can follow {fits}")
    return rule


def _encode(
    fmt: Format,
    flat: NDArray[np.floating[Any]],
    rounding: Rounding,
    rule: Overflow,
    rng: np.random.Generator | None,
) -> Codes:
    if flat.dtype == np.float32 and rounding is Rounding.NEAREST_EVEN and rule == "saturate":
        quick = _encode_by_ml_dtypes(fmt, flat)
        if quick is not None:
            return quick
    directed = flat.dtype == np.float32 and rounding in (Rounding.UP, Rounding.DOWN) and rule == "saturate"
    if fmt == FORMATS["ue8m0"] and directed and (flat > 0).all():
        return _encode_powers_of_two(flat, rounding is Rounding.UP)
    if fmt == FORMATS["fp32"] and rounding is Rounding.NEAREST_EVEN and rule in ("ieee", "saturate"):
        return _encode_fp32(flat, rule)
    values = flat.astype(np.float64, copy=False)
    if fmt.kind == "table":
        return _table_codes(fmt, values, rounding)
    bits = values.view(np.int64)
    negative = bits < 0
    field, fraction = bits >> 52 & 0x7FF, bits & ((1 << 52) - 1)
    exponent = field - 1023
    if not field.all():  # zeros, and numbers below the normal ones of float64: 2**52 times as large they are normal
        bits = np.where(field == 0, values * 2.0**52, values).view(np.int64)
        exponent = (bits >> 52 & 0x7FF) - np.where(field == 0, 1023 + 52, 1023)
        field, fraction = bits >> 52 & 0x7FF, bits & ((1 << 52) - 1)
    # |x| = significand * 2**(exponent - 52)
    significand = np.where(field == 0, fraction, fraction + (1 << 52))
    if fmt.kind == "integer":
        shift = 52 - exponent
        rounded = _shift_right_array(significand, np.maximum(shift, 0), rounding, negative, rng).astype(np.uint64)
        return _integer_codes(fmt, values, rounded, np.maximum(-shift, 0).astype(np.uint64), rule)
    biased = exponent + fmt.bias
    lowest = 1 if fmt.zero else 0
    # Clipping changes no result, and keeps `long_code` within 63 bits.
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
    return _float_codes(fmt, values, magnitude, rounding, rule)


def _table_codes(fmt: Format, values: Float64, rounding: Rounding) -> Codes:
    """Return the codes of the numbers of a table that values are rounded to."""
    if rounding is Rounding.STOCHASTIC:
        raise ValueError(f"{fmt.name} is a table: no number is rounded to it stochastically")
    codes = np.array([code for _, code in finite(fmt.values)])[
        np.searchsorted(last_of_each(fmt.values, rounding), values)
    ]
    specials = {"nan": np.isnan(values), "infinity": values == np.inf, "-infinity": values == -np.inf}
    for name, where in specials.items():
        if name in fmt.values:
            codes[where] = fmt.values.index(name)
    return codes.astype(code_dtype(fmt))


def pack(fmt: Format, codes: ArrayLike) -> NDArray[np.uint8]:
    """Return codes (..., L) packed without gaps into bytes (..., L * bits / 8); the first is in the lowest bits.

    Raises ValueError unless `codes` holds the format's codes or values and each row fills whole bytes.
    """
    raw = to_codes(fmt, codes, "codes")
    if raw.ndim == 0:
        raise ValueError("codes has 0 dimensions; expected rows of codes")
    length = raw.shape[-1]
    if length * fmt.bits % 8:
        raise ValueError(f"codes is {raw.shape}: {length} codes of {fmt.bits} bits do not fill whole bytes")
    bits = (raw[..., None] >> np.arange(fmt.bits, dtype=raw.dtype) & 1).astype(np.uint8)
    return np.packbits(bits.reshape(*raw.shape[:-1], length * fmt.bits), axis=-1, bitorder="little")


def unpack(fmt: Format, packed: ArrayLike) -> Codes:
    """Return the codes (..., L) that `pack` packed into bytes (..., L * bits / 8).

    Raises ValueError for a dtype other than uint8, and for rows that do not hold a whole number of codes.
    """
    require("fmt", fmt, Format, "isa_model.named gives a Format")
    data = array_of("packed", packed)
    if data.dtype != np.uint8 or data.ndim == 0:
        raise ValueError(f"packed is {data.dtype} {data.shape}; expected rows of bytes (uint8)")
    length = data.shape[-1]
    if length * 8 % fmt.bits:
        raise ValueError(f"packed is {data.shape}: {length} bytes hold no whole number of codes of {fmt.bits} bits")
    bits = np.unpackbits(data, axis=-1, bitorder="little")
    bits = bits.reshape(*data.shape[:-1], length * 8 // fmt.bits, fmt.bits)
    weights = np.uint64(1) << np.arange(fmt.bits, dtype=np.uint64)
    codes: Codes = (bits * weights).sum(axis=-1, dtype=np.uint64).astype(code_dtype(fmt))
    return codes


def _encode_fp32(x: NDArray[np.floating[Any]], rule: Overflow) -> Codes:
    """Return the codes of numbers rounded to FP32 by the machine, ties to even."""
    found = x.astype(np.float32)
    if np.isfinite(found).all():
        return found.view(np.uint32)
    if rule == "saturate":
        found = np.where(np.isinf(found), np.copysign(np.finfo(np.float32).max, found), found)
    nan = np.uint32(FORMATS["fp32"].nan_code or 0)
    return np.where(np.isnan(found), nan, found.view(np.uint32))


def _encode_powers_of_two(x: NDArray[np.float32], up: bool) -> Codes:
    """Return the codes in ue8m0 of positive numbers rounded up or down; those beyond its numbers become the nearest one."""
    bits = x.view(np.uint32)
    if up:
        large = bits + 0x7FFFFF
        bits = np.where(bits > 0x400000, large, 0) if (x < 2.0**-126).any() else large  # up to 2**-127 the code is 0
    exponents = bits >> 23
    codes: Codes = np.minimum(exponents, 254, out=exponents).astype(np.uint8)
    return codes


def _encode_by_ml_dtypes(fmt: Format, x: NDArray[np.float32]) -> Codes | None:
    """Return the codes of a saturating cast by ml_dtypes, which is several times faster; None if it has no such format."""
    if fmt.kind != "float" or not (fmt.signed and fmt.nan_code is not None and fmt.storage_bits == 8):
        return None
    own = dtype_of(fmt)
    if own.kind != "V":
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
    """Return what `rounding.shift_right` gives for each element; values are below 2**63, shifts not negative."""
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
            if not isinstance(rng, np.random.Generator):
                raise ValueError("stochastic rounding needs `rng`, a numpy.random.Generator")
            draws = rng.integers(0, np.int64(1) << shift, dtype=np.int64)
            step = any_lost & ~deep & (draws >= (np.int64(1) << shift) - lost)
    return quotient + step


def _float_codes(
    fmt: Format, values: Float64, magnitude: NDArray[np.int64], rounding: Rounding, rule: Overflow
) -> Codes:
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
    # A format without a NaN has its largest number for it.
    nan_code = np.uint64(fmt.nan_code if fmt.nan_code is not None else largest << fmt.low_padding)
    if rule == "nan":
        nan = nan | beyond
    if not fmt.signed:
        nan_of_negative = np.uint64(0) if fmt.nan_code is None else nan_code
        codes = np.where(np.signbit(values) & (values != 0) & ~nan, nan_of_negative, codes)
    return np.where(nan, nan_code, codes).astype(code_dtype(fmt))


def _integer_codes(
    fmt: Format, values: Float64, significand: NDArray[np.uint64], shift: NDArray[np.uint64], rule: Overflow
) -> Codes:
    """Return the codes of whole numbers of magnitude `significand` << `shift` with the signs of `values`."""
    negative, huge = np.signbit(values), np.abs(values) >= 2.0**64
    magnitude = np.where(shift < 64, significand << np.minimum(shift, np.uint64(63)), np.uint64(0))
    highest = np.uint64(fmt.max_finite_magnitude)
    limit = np.where(negative, highest + np.uint64(1) if fmt.signed else np.uint64(0), highest)
    if rule == "wrap":
        magnitude = np.where(np.isinf(values), limit, magnitude)
    else:
        magnitude = np.where(huge | (magnitude > limit), limit, magnitude)
    whole = np.where(negative, ~magnitude + np.uint64(1), magnitude)
    whole = np.where(np.isnan(values), np.uint64(0), whole) & np.uint64((1 << fmt.mantissa_bits) - 1)
    return (whole << np.uint64(fmt.low_padding)).astype(code_dtype(fmt))
