"""Integer instructions whose sums are wider than a float64 lane: golden.py's results on numpy arrays.

Values are int64 where a stage's bounds fit it, else Python's integers in object arrays. The products of a block are one
matrix product, so that only the registers pay the price of Python's integers.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isa_model import golden
from isa_model.array_codec import code_dtype, decode_array, whole_numbers
from isa_model.float64 import Codes
from isa_model.formats import Format
from isa_model.instruction import Instruction
from isa_model.stage import Register, Stage

Whole = NDArray[Any]
"""An array of int64, uint64 or Python's integers."""
VALUES = 1 << 22
"""Most products of a tile: its rows times its columns times k of an instruction."""


def matmul(spec: Instruction, a: Codes, b: Codes, c: Codes) -> Codes:
    """Return D as raw codes from raw codes `a` (M, K), `b` (K, N), `c` (M, N) of an integer instruction."""
    d: Any = np.empty(c.shape, code_dtype(spec.accumulator))
    left, right, start = _numbers(spec.a, a), _numbers(spec.b, b), whole_numbers(spec.c_format, c)
    side = isqrt(VALUES // spec.shape.k) + 1
    for i in range(0, d.shape[0], side):
        for j in range(0, d.shape[1], side):
            rows, columns = slice(i, i + side), slice(j, j + side)
            running: Whole = start[rows, columns]
            fmt = spec.c_format
            for k in range(0, a.shape[1], spec.shape.k):
                ks = slice(k, k + spec.shape.k)
                running, fmt = _instruction(spec, left[rows, ks], right[ks, columns], running, fmt), spec.accumulator
            d[rows, columns] = _codes(spec.accumulator, running)
    return np.asarray(d)


def _numbers(fmt: Format, codes: Codes) -> Whole:
    """Return the values of codes of a format of whole numbers."""
    if fmt.kind == "integer":
        return whole_numbers(fmt, codes)
    values = decode_array(fmt, codes)
    return values.astype(np.int64) if _bits(fmt) < 64 else np.vectorize(int, otypes=[object])(values)


def _bits(fmt: Format) -> int:
    """Return the bits of the magnitudes of a format of whole numbers."""
    return fmt.mantissa_bits if fmt.kind == "integer" else fmt.max_exponent + 1


def _instruction(spec: Instruction, a: Whole, b: Whole, c: Whole, c_format: Format) -> Whole:
    """Compute one instruction for every element as golden.instruction does, with bounds in bits from stage to stage."""
    bits = _bits(spec.a) + _bits(spec.b)
    values: Sequence[Any] = range(a.shape[1])
    *inner, last = spec.stages.values()
    for index, stage in enumerate((*inner, last)):
        blocks: Sequence[Any] = golden.deal(stage, values)
        bits += (stage.terms - 1).bit_length()
        add = _products if index == 0 else _terms
        sums = [add(a, b, block, bits) for block in blocks]
        chain = len(blocks) if stage is last else stage.chain or 1
        if stage.accumulator:
            start = (c, c_format) if stage is last else (np.zeros_like(c), stage.result[0].format)
            values = [_run(stage, sums[i : i + chain], bits, *start) for i in range(0, len(sums), chain)]
        else:
            values = [_put(stage, total, bits) for total in sums]
        if stage.result:
            bits = stage.result[-1].format.mantissa_bits
    d: Whole = values[0]
    return d


def _products(a: Whole, b: Whole, ks: Sequence[int], bits: int) -> Whole:
    """Return the sum of a block of products, below 2**bits; in float64 if that is exact."""
    x, y = a[:, ks], b[ks]
    if bits <= 53:
        return (x.astype(np.float64) @ y.astype(np.float64)).astype(np.int64)
    return _as(x, bits) @ _as(y, bits)


def _terms(a: Whole, b: Whole, block: Sequence[Whole], bits: int) -> Whole:
    total = _as(block[0], bits)
    for term in block[1:]:
        total = total + _as(term, bits)
    return total


def _run(stage: Stage, sums: Sequence[Whole], bits: int, running: Whole, fmt: Format) -> Whole:
    for total in sums:
        register = stage.result[0]
        if bits < 62 and len(stage.result) == 1 and register.format.signed and fmt.signed:
            running = _added(running, total, register)
        else:
            wide = max(bits, fmt.mantissa_bits) + 1
            running = _put(stage, _as(total, wide) + _as(running, wide), wide)
        fmt = stage.result[-1].format
    return running


def _added(x: Whole, y: Whole, register: Register) -> Whole:
    """Return the sum of two int64 in a register of at most 64 bits. The sign of the sum shows an overflow of int64."""
    x, fmt = x.astype(np.int64), register.format
    total: Whole = x + y
    if (register.overflow or fmt.overflow) == "wrap":
        above = 64 - fmt.mantissa_bits
        return np.asarray(total << above >> above)
    highest = fmt.max_finite_magnitude
    beyond = ((x ^ total) & (y ^ total)) < 0
    total = np.where(beyond, np.where(x < 0, np.iinfo(np.int64).min, np.iinfo(np.int64).max), total)
    return np.clip(total, -highest - 1, highest)


def _put(stage: Stage, total: Whole, bits: int) -> Whole:
    """Put a sum through the stage's registers, one after the other."""
    for register in stage.result:
        total = _rounded(total, register, bits)
        bits = register.format.mantissa_bits
    return total


def _rounded(total: Whole, register: Register, bits: int) -> Whole:
    fmt = register.format
    if bits < fmt.mantissa_bits and fmt.signed:
        return total
    total = _as(total, max(bits, fmt.mantissa_bits))
    highest = fmt.max_finite_magnitude
    lowest = -highest - 1 if fmt.signed else 0
    if (register.overflow or fmt.overflow) == "saturate":
        return np.minimum(np.maximum(total, lowest), highest)
    return (total - lowest & (1 << fmt.mantissa_bits) - 1) + lowest


def _as(x: Whole, bits: int) -> Whole:
    """Return the values in a type that holds magnitudes below 2**(bits + 1)."""
    return x.astype(np.int64 if bits < 62 else object)


def _codes(fmt: Format, values: Whole) -> Codes:
    fields = (values & (1 << fmt.mantissa_bits) - 1) if values.dtype == object else values.view(np.uint64)
    mask = np.uint64((1 << fmt.mantissa_bits) - 1)
    return ((fields.astype(np.uint64) & mask) << np.uint64(fmt.low_padding)).astype(code_dtype(fmt))
