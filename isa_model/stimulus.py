"""Random operands that stress an instruction, for runs that compare two models or engines.

`draw` makes the operands of one matrix product, as codes, of one of the `KINDS`. The same state of the generator gives the
same operands.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from isa_model.array_codec import code_dtype, decode_array, encode_array
from isa_model.float64 import Codes, Float64
from isa_model.formats import Format
from isa_model.groups import spread
from isa_model.instruction import Instruction
from isa_model.operand_fields import ScaleOperand, Sparsity
from isa_model.sparse import elements

KINDS = {
    "bits": "every bit random, NaNs and infinities included",
    "finite": "every finite code equally likely, so all exponents",
    "normal": "normally distributed numbers",
    "wide": "exponents spread over 49 binades around 1, as wide as alignment windows",
    "cancellation": "rows that cancel, and a C that cancels the rest except for its last bits",
    "subnormal": "the bottom of the range: subnormals, zeros, products near the smallest numbers of D",
    "overflow": "the top of the range, mostly of one sign",
    "special": "zeros, infinities, NaNs and the largest and smallest numbers among ordinary ones",
}
"""Kinds of operands, each with its description."""

Whole = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class StressOperands:
    """Codes of A (M, K), B (K, N), C (M, N), and of the scales, one per group, if the instruction takes them."""

    a: Codes
    b: Codes
    c: Codes
    scale_a: Codes | None = None
    scale_b: Codes | None = None
    positions: NDArray[np.uint8] | None = None
    """Positions of the stored elements of a sparse operand, which A or B then has alone."""


def draw(spec: Instruction, kind: str, rng: np.random.Generator, m: int, n: int, k: int) -> StressOperands:
    """Return operands of one kind for a product of (m, k) and (k, n). Raises ValueError for a kind not in `KINDS`.

    A sparse operand is drawn whole, and then stored without elements at random positions.
    """
    if kind not in KINDS:
        raise ValueError(f"unknown kind `{kind}`: {', '.join(KINDS)}")
    scale_a = _scales(spec.scale.a, kind, rng, (m, k)) if spec.scale and spec.scale.a else None
    scale_b = _scales(spec.scale.b, kind, rng, (k, n)) if spec.scale and spec.scale.b else None
    a, b = _codes(spec.a, kind, rng, (m, k), k), _codes(spec.b, kind, rng, (k, n), k)
    c = _codes(spec.c_format, kind, rng, (m, n), k)
    if spec.a.kind == "float":
        if kind in ("subnormal", "overflow") and spec.b.kind == "float":
            # A and C are at the end of the range; B brings products slightly beyond
            b = _near_one(spec.b, rng, (k, n), *((-30, 1) if kind == "subnormal" else (-4, 5)))
        if kind == "cancellation":
            a, b = _cancelling(spec.a, a, b, rng)
    x = StressOperands(a, b, c, scale_a, scale_b)
    stored = _stored(spec.sparsity, x, kind, rng) if spec.sparsity else (x, x)
    if spec.a.kind == "float" and kind == "cancellation":
        return replace(stored[0], c=_minus_the_sum(spec, stored[1], rng))
    return stored[0]


def _codes(fmt: Format, kind: str, rng: np.random.Generator, shape: tuple[int, int], k: int) -> Codes:
    """Return the codes of one operand; `k` is the number of products per sum."""
    if kind == "bits" or fmt.kind == "table":
        return rng.integers(0, 1 << fmt.bits, shape, np.uint64, endpoint=False).astype(code_dtype(fmt))
    if fmt.kind == "integer":
        return _integers(fmt, kind, rng, shape)
    if kind == "normal":
        normal: Codes = encode_array(fmt, rng.standard_normal(shape))
        return normal
    if kind == "special":
        return _special(fmt, rng, shape, k)
    one, top = fmt.bias, fmt.max_finite_magnitude >> fmt.mantissa_bits
    mantissa = rng.integers(0, 1 << fmt.mantissa_bits, shape)
    negative = rng.random(shape) < (0.15 if kind == "overflow" else 0.5)
    match kind:
        case "finite":
            exponent = rng.integers(0, top, shape, endpoint=True)
        case "wide":
            exponent = one + rng.integers(-24, 24, shape, endpoint=True)
        case "cancellation":
            exponent = one + rng.integers(-1, 1, shape, endpoint=True)
        case "subnormal":
            exponent = rng.choice([0, 0, 1, 2], shape)
            mantissa[rng.random(shape) < 0.3] = 0
        case _:
            exponent = top - rng.integers(0, 2, shape, endpoint=True)
    return _assembled(fmt, negative, exponent, mantissa, rng)


def _assembled(
    fmt: Format, negative: NDArray[np.bool_], exponent: Whole, mantissa: Whole, rng: np.random.Generator
) -> Codes:
    """Return finite codes of these fields, clipped to the format; bits that are ignored on reading are random."""
    top = fmt.max_finite_magnitude >> fmt.mantissa_bits
    magnitude = np.minimum((np.clip(exponent, 0, top) << fmt.mantissa_bits) + mantissa, fmt.max_finite_magnitude)
    sign = negative & fmt.signed & ((magnitude != 0) | (fmt.nan != "negative-zero"))
    codes = magnitude.astype(np.uint64) | sign.astype(np.uint64) << np.uint64(fmt.magnitude_bits)
    if fmt.low_padding:
        codes = codes << np.uint64(fmt.low_padding) | rng.integers(0, 1 << fmt.low_padding, codes.shape, np.uint64)
    result: Codes = codes.astype(code_dtype(fmt))
    return result


def _integers(fmt: Format, kind: str, rng: np.random.Generator, shape: tuple[int, int]) -> Codes:
    """Return codes of integers: at the ends of the range for `overflow` and `special`, else normally distributed."""
    low = -(1 << fmt.bits - 1) if fmt.signed else 0
    high = low + (1 << fmt.bits) - 1
    if kind in ("overflow", "special"):
        ends = (high, high - 1, low) if kind == "overflow" else (high, low, 0, 1)
        values = rng.choice(ends, shape, p=(0.8, 0.1, 0.1) if kind == "overflow" else None)
    else:
        values = np.clip(np.rint(rng.standard_normal(shape) * 2.0 ** (fmt.bits - 2)), low, high).astype(np.int64)
    return (values & (1 << fmt.bits) - 1).astype(code_dtype(fmt))


def _near_one(fmt: Format, rng: np.random.Generator, shape: tuple[int, int], low: int, high: int) -> Codes:
    """Return codes of numbers whose exponents, nearly equal within a column, are about `low` to `high`."""
    exponent = fmt.bias + rng.integers(low, high, (1, shape[1])) + rng.integers(-1, 2, shape)
    return _assembled(fmt, rng.random(shape) < 0.25, exponent, rng.integers(0, 1 << fmt.mantissa_bits, shape), rng)


def _special(fmt: Format, rng: np.random.Generator, shape: tuple[int, int], k: int) -> Codes:
    """Return codes of ordinary numbers and zeros, with so few infinities and NaNs that some sums of k products have none."""
    codes = encode_array(fmt, rng.standard_normal(shape))
    lottery = rng.random(shape)
    sign = rng.integers(0, 2, shape, np.uint64) * np.uint64(fmt.signed and fmt.nan != "negative-zero")
    rare = 0.3 / k
    chances = {0: 0.3 * fmt.zero, 1: 0.05, fmt.max_finite_magnitude: 0.05}
    if fmt.infinity:
        chances[fmt.max_finite_magnitude + 1] = rare
    if fmt.nan_code is not None:
        chances[fmt.nan_code >> fmt.low_padding] = rare / 2
    for magnitude, chance in chances.items():
        code = (np.uint64(magnitude) | sign << np.uint64(fmt.magnitude_bits)) << np.uint64(fmt.low_padding)
        codes = np.where(lottery < chance, code.astype(codes.dtype), codes)
        lottery = np.where(lottery < chance, 2.0, lottery - chance)
    return codes


def _scales(side: ScaleOperand, kind: str, rng: np.random.Generator, shape: tuple[int, int]) -> Codes:
    """Return codes of scales that suit the kind: near 1, spread out, towards an end of the range, or arbitrary."""
    fmt = side.format
    groups = (-(-shape[0] // side.group[0]), -(-shape[1] // side.group[1]))
    if kind in ("bits", "finite", "special"):
        return _codes(fmt, kind, rng, groups, 30)
    low, high = {"wide": (-24, 25), "subnormal": (-90, 1), "overflow": (0, 70)}.get(kind, (-1, 2))
    exponent = fmt.bias + rng.integers(low, high, groups)
    mantissa = rng.integers(0, 1 << fmt.mantissa_bits, groups)
    return _assembled(fmt, rng.random(groups) < 0.5, exponent, mantissa, rng)


def _stored(
    sparsity: Sparsity, x: StressOperands, kind: str, rng: np.random.Generator
) -> tuple[StressOperands, StressOperands]:
    """Return the operands with one of them as it is stored, and with zeros for the elements that are left out."""
    is_a = sparsity.operand == "a"
    whole = x.a if is_a else x.b.T
    each = np.broadcast_to(
        np.arange(sparsity.of, dtype=np.uint8), (len(whole), whole.shape[1] // sparsity.group, sparsity.of)
    )
    chosen = np.sort(rng.permuted(each, axis=2)[..., : sparsity.kept], axis=2)
    half = chosen.shape[1] // 2
    if kind == "cancellation":  # products cancel if both halves of K keep the same elements
        chosen[:, half : 2 * half] = chosen[:, :half]
    positions = chosen.reshape(len(whole), -1)
    ks = elements(sparsity, positions)
    kept, zeros = np.take_along_axis(whole, ks, 1), np.zeros_like(whole)
    np.put_along_axis(zeros, ks, kept, 1)
    if is_a:
        return replace(x, a=kept, positions=positions), replace(x, a=zeros)
    columns = np.ascontiguousarray(kept.T), np.ascontiguousarray(positions.T)
    return replace(x, b=columns[0], positions=columns[1]), replace(x, b=np.ascontiguousarray(zeros.T))


# -- cancellation ----------------------------------------------------------------------------------------------------


def _cancelling(fmt: Format, a: Codes, b: Codes, rng: np.random.Generator) -> tuple[Codes, Codes]:
    """Return A and B whose products cancel in every other row but for some last bits: B repeats its first half along K."""
    half = a.shape[1] // 2
    if half == 0 or not fmt.signed:
        return a, b
    a, b = a.copy(), b.copy()
    one = a.dtype.type(1)
    flipped = (rng.random((len(a), half)) < 0.1).astype(a.dtype) << a.dtype.type(fmt.low_padding)
    sign = one << a.dtype.type(fmt.magnitude_bits + fmt.low_padding)
    a[::2, half : 2 * half] = (a[:, :half] ^ sign ^ flipped)[::2]
    b[half : 2 * half] = b[:half]
    return a, b


def _minus_the_sum(spec: Instruction, x: StressOperands, rng: np.random.Generator) -> Codes:
    """Return C as minus the sum of products, rounded; half of its elements are off by up to two last places."""
    scale_a, scale_b = (spec.scale.a, spec.scale.b) if spec.scale else (None, None)
    with np.errstate(all="ignore"):
        sums = _values(spec.a, x.a, scale_a, x.scale_a) @ _values(spec.b, x.b, scale_b, x.scale_b)
        codes = encode_array(spec.c_format, -sums)
    off = rng.integers(-2, 3, codes.shape) * (rng.random(codes.shape) < 0.5)
    moved = codes.astype(np.int64) + off
    return np.where(np.isfinite(sums) & (sums != 0), moved.astype(codes.dtype), codes)


def _values(fmt: Format, codes: Codes, side: ScaleOperand | None, scales: Codes | None) -> Float64:
    """Return the values of an operand, each times the scale of its group."""
    values = decode_array(fmt, codes)
    if side is None or scales is None:
        return values
    every: Float64 = spread(decode_array(side.format, scales), side.group, values.shape)
    return values * every
