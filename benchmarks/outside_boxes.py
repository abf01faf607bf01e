"""Boxes that no spec of the language describes, for blind probes (benchmarks/probe.py)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from codesign.probe.box import Box, Lines, Signature, answers
from codesign.probe.boxes import FunctionBox, SpecBox
from isa_model.array_codec import decode_array, encode_array
from isa_model.float64 import Codes
from isa_model.instruction import Instruction
from isa_model.library import load

TENSOR_CORE = "ampere.mma.m16n8k8.f32.f16.f16.f32"
FP8 = "hopper.wgmma.m64n8k32.f32.e4m3.e4m3"
INTEGERS = "arm.mopa.s32.s8.s8"
ONE_BY_ONE = {"terms": 1, "accumulator": True, "result": [{"format": "fp32", "rounding": "nearest-even"}]}


def _values(spec: Instruction, lines: Lines) -> tuple[Any, Any]:
    """Return products (L, K) and C (L,) of floating-point questions as float64."""
    with np.errstate(all="ignore"):
        a, b, c = (decode_array(f, x) for f, x in zip((spec.a, spec.b, spec.c_format), lines[:3], strict=True))
        return a * b, c


def _sequential(k: int) -> Instruction:
    """Return FP32 additions of FP16 products one by one; the smaller K, the sooner a search has tried everything."""
    data = load(TENSOR_CORE).model_dump(mode="json", exclude_none=True)
    return Instruction.model_validate(data | {"stages": {"add": ONE_BY_ONE}, "shape": {"m": 16, "n": 8, "k": k}})


def ones_complement() -> Box:
    """RDNA gfx1151's fault: opposing terms are negated by inverting bits without the increment (ROCm/rocm-systems 12056)."""
    spec = _sequential(2)

    def ask(*given: Codes) -> Codes:
        products, c = _values(spec, Lines(*given))
        with np.errstate(all="ignore"):
            terms = np.concatenate([products, c[:, None]], axis=1)
            largest = np.max(np.abs(terms), axis=1, keepdims=True)
            unit = 2.0 ** (np.floor(np.log2(np.where(largest > 0, largest, 1.0))) - 25)
            steps = np.floor(np.abs(terms) / unit)
            return encode_array(spec.accumulator, np.where(terms < 0, -steps - 1, steps).sum(axis=1) * unit[:, 0])

    return FunctionBox(Signature(spec), ask)


class Noise(SpecBox):
    """A box that now and then gives the neighbouring code."""

    def ask(self, lines: Lines) -> Codes:
        """Return answers of which one in a hundred is off by one."""
        d = super().ask(lines)
        return d ^ (np.random.default_rng().random(d.shape) < 0.01).astype(d.dtype)


def noise() -> Box:
    """One answer in a hundred is off by one."""
    return Noise(Signature(load(TENSOR_CORE)), load(TENSOR_CORE))


def random_order() -> Box:
    """A GEMM whose products are added to C in FP32 in another order each time, as atomic additions do."""
    spec, rng = _sequential(8), np.random.default_rng()

    def ask(a: Codes, b: Codes, c: Codes) -> Codes:
        order = np.argsort(rng.random(a.shape), axis=1)
        return answers(spec, Lines(np.take_along_axis(a, order, 1), np.take_along_axis(b, order, 1), c))

    return FunctionBox(Signature(spec), ask)


def history() -> Box:
    """A sum whose place of alignment is that of the question before if that one was larger: a register that is not cleared."""
    spec = load(TENSOR_CORE)

    def ask(*given: Codes) -> Codes:
        products, c = _values(spec, Lines(*given))
        with np.errstate(all="ignore"):
            terms = np.concatenate([products, c[:, None]], axis=1)
            largest = np.max(np.abs(terms), axis=1)
            largest = np.where((largest > 0) & np.isfinite(largest), largest, 2.0**-133)
            before = np.concatenate([largest[:1], largest[:-1]])
            unit = 2.0 ** (np.floor(np.log2(np.where(before > largest * 4, largest * 4, largest))) - 24)[:, None]
            return encode_array(spec.accumulator, (np.trunc(terms / unit) * unit).sum(axis=1))

    return FunctionBox(Signature(spec), ask)


def position() -> Box:
    """Products of the upper half of K lose their last bit before they are summed, as a lane of narrower multipliers does."""
    spec = load(TENSOR_CORE)

    def ask(a: Codes, b: Codes, c: Codes) -> Codes:
        a = a.copy()
        a[:, spec.shape.k // 2 :] &= ~a.dtype.type(1)
        return answers(spec, Lines(a, b, c))

    return FunctionBox(Signature(spec), ask)


def sticky_bit() -> Box:
    """FP32 additions one by one, of which those of a negative result round as if the bits beyond the guard bit were zeros."""
    spec = _sequential(1)

    def ask(*given: Codes) -> Codes:
        products, total = _values(spec, Lines(*given))
        with np.errstate(all="ignore"):
            for k in range(spec.shape.k):
                exact = total + products[:, k]
                unit = 2.0 ** (np.floor(np.log2(np.where(exact == 0, 1.0, np.abs(exact)))) - 24)
                cut = np.where(np.isfinite(exact), np.trunc(exact / unit) * unit, exact)
                total = decode_array(spec.accumulator, encode_array(spec.accumulator, np.where(exact < 0, cut, exact)))
            return encode_array(spec.accumulator, total)

    return FunctionBox(Signature(spec), ask)


def odd_bound() -> Box:
    """Integer sums that saturate 15 below and 16 above the ends of INT32."""
    spec = load(INTEGERS)

    def ask(a: Codes, b: Codes, c: Codes) -> Codes:
        total = (a.view(np.int8).astype(np.int64) * b.view(np.int8)).sum(axis=1) + c.view(np.int32)
        return np.clip(total, -(2**31) + 16, 2**31 - 16).astype(np.int32).view(np.uint32)

    return FunctionBox(Signature(spec), ask)


def lookup_error() -> Box:
    """One product of FP8 codes, 1.375 times 1.625, is missing, as an entry of a table is (the Pentium's FDIV)."""
    spec = load(FP8)

    def ask(a: Codes, b: Codes, c: Codes) -> Codes:
        return answers(spec, Lines(np.where((a == 0x3B) & (b == 0x3D), 0, a).astype(a.dtype), b, c))

    return FunctionBox(Signature(spec), ask)


def flushed_below() -> Box:
    """Results below 1.5 * 2**-20 are zeros: a bound that no format of registers has."""
    spec = _sequential(1)

    def ask(*given: Codes) -> Codes:
        d = answers(spec, Lines(*given))
        with np.errstate(all="ignore"):
            small = np.abs(decode_array(spec.accumulator, d)) < 1.5 * 2.0**-20
        return np.where(small, 0, d).astype(d.dtype)

    return FunctionBox(Signature(spec), ask)


BOXES: dict[str, Callable[[], Box]] = {
    "one's complement adder": ones_complement,
    "noise": noise,
    "random order": random_order,
    "depends on history": history,
    "depends on position": position,
    "sticky bit of negative sums": sticky_bit,
    "saturates at an odd bound": odd_bound,
    "lookup error": lookup_error,
    "flushes below an odd bound": flushed_below,
}
"""Boxes by what is wrong with them."""
