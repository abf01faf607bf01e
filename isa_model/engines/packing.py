"""Operands packed for the Tensor Cores' kernel, in the order of its reads (fragments.py)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from isa_model.array_codec import values_of_all_codes
from isa_model.engines import routes, tensor
from isa_model.engines.fragments import fragments
from isa_model.engines.launch import import_torch, kernel, launch
from isa_model.engines.operands import flushed
from isa_model.engines.plan import Plan
from isa_model.float64 import NO_EXPONENT, Float64, exponent_of
from isa_model.formats import Format


@dataclass(frozen=True)
class PackedOperand:
    """An operand that is used in many products, with what the Tensor Cores' kernel reads."""

    codes: Any
    """Raw codes: (M, K) of A, (K, N) of B."""
    way: routes.Route
    cut: Any
    powers: Any

    @property
    def shape(self) -> Any:
        """Shape of the codes."""
        return self.codes.shape


def halves(plan: Plan, way: routes.Route, is_a: bool, codes: Any) -> tuple[Any, Any]:
    """Return what the route `half` reads of A (M, K), or of B as (N, K): numbers, and their powers of two if it takes them."""
    out = (
        import_torch().empty(_size(plan, way, is_a, "cut", codes), dtype=import_torch().int32, device="cuda")
        if way.step
        else None
    )
    return packed(plan, way, is_a, codes, "cut", powers=out), out


def _size(plan: Plan, way: routes.Route, is_a: bool, what: Literal["cut", "powers"], codes: Any) -> int:
    """Return the number of words of A (M, K), or B as (N, K), in the layout of `Fragments`."""
    f, (size, k) = fragments(plan, way, is_a, what), codes.shape
    tile = tensor.TensorCores(plan, way).block[0 if is_a else 1]
    return int(-(-size // tile) * tile // (8 * f.halves) * (k // f.terms) * 32 * f.registers)


def packed(
    plan: Plan,
    way: routes.Route,
    is_a: bool,
    codes: Any,
    what: Literal["cut", "powers"],
    most: Any = None,
    powers: Any = None,
) -> Any:
    """Return A (M, K), or B as (N, K), in the layout of `Fragments`.

    `most` takes the largest magnitude as FP32, `powers` the powers of two in the same layout.
    """
    torch, spec, f = import_torch(), plan.spec, fragments(plan, way, is_a, what)
    fmt, (size, k) = spec.a if is_a else spec.b, codes.shape
    words = _size(plan, way, is_a, what, codes)
    out = torch.empty(words, dtype=torch.int32, device="cuda")
    of_powers = way.step, routes.power_shifts(plan, way.step)[0 if is_a else 1]

    def table(elements: int, step: int = 0, shift: int = 0) -> Any:
        return _words(fmt, spec.widen or fmt, spec.flush_operands, elements, step, shift)

    tables = [
        table(f.elements, *(of_powers if what == "powers" else ())),
        powers if powers is None else table(2, *of_powers),
    ]
    places = words // f.digits
    sizes = (np.int64(places), k // f.terms, size, *(np.int64(stride) for stride in codes.stride()))
    pack = kernel(f.pack(codes.element_size(), fmt.storage_bits), "pack")
    launch(pack, (-(-places // 256), 1), 256, sizes, [tables[0], codes, out, most, tables[1], powers])
    return out


@cache
def _words(fmt: Format, aligned_as: Format, flush: bool | str, elements: int, step: int, shift: int) -> Any:
    """Return the table that `pack` reads: a word for each code and digit, then each code's magnitude in FP32.

    With a step the word is 2**(step * exponent + shift) in BF16. Otherwise it is the number. Four elements to a register:
    digits, the lowest first; two: BF16; one: the upper half of FP64.
    """
    values = flushed(fmt, values_of_all_codes(fmt), flush)
    magnitudes = np.abs(values).astype(np.float32).view(np.uint32)
    if step:
        exponents = exponent_of(values, aligned_as)
        words = [np.where(exponents == NO_EXPONENT, 0, (step * exponents + shift + 127) << 7)]
    elif elements == 2:
        words = [values.astype(np.float32).view(np.int32) >> 16 & 0xFFFF]
    elif elements == 1:
        words = [values.view(np.int64) >> 32]
    else:
        words = digits_of(fmt, np.where(np.isfinite(values), values, 0.0))
    return (
        import_torch()
        .from_numpy(np.concatenate([*words, magnitudes]).astype(np.int64).astype(np.uint32).view(np.int32))
        .cuda()
    )


def digits_of(fmt: Format, values: Float64) -> list[NDArray[np.int64]]:
    """Return finite numbers of a format as base-256 digits, each from -128 to 127, the lowest first (routes.digit_count)."""
    left, digits = values * 2.0**-fmt.min_lsb_exponent, []  # whole, of more than 64 bits in wide formats
    for _ in range(routes.digit_count(fmt)):
        rest = np.fmod(left, 256.0)
        digit = rest - 256.0 * (rest >= 128) + 256.0 * (rest < -128)
        digits.append(digit.astype(np.int64))
        left = (left - digit) / 256.0
    return digits
