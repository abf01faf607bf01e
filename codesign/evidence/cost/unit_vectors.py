"""Vectors that check a unit: random and adversarial operands, with D from the model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from codesign.evidence.cost.rtl.ports import ports, scale_counts
from isa_model.array_codec import code_dtype, to_codes
from isa_model.formats import Format
from isa_model.instruction import Instruction
from isa_model.matmul import matmul

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Codes = NDArray[np.uint64]

KINDS = ("bits", "like", "sparse", "cancel", "ends")
"""Kinds of operands: random bits, numbers of similar size, many zeros, pairs that cancel, both ends of the range."""


@dataclass(frozen=True)
class UnitVectors:
    """Operands and results of many steps."""

    operands: dict[str, Codes]
    """Codes (vectors, elements) by port."""
    d: Codes
    """Codes of D (vectors,)."""

    def __len__(self) -> int:
        return len(self.d)


def one_step(spec: Instruction) -> Instruction:
    """Return the instruction with K reduced to one step, which is what a unit computes."""
    return spec.model_copy(update={"shape": spec.shape.model_copy(update={"k": spec.span})})


def adversarial(spec: Instruction, seed: int, side: int = 96) -> Iterator[UnitVectors]:
    """Yield batches of `side` rows times `side` columns for every kind of operand, with C of the same kind and C near -A B."""
    import numpy as np

    rng = np.random.default_rng(seed)
    step = one_step(spec)
    for kind in KINDS:
        a = codes(spec.a, rng, (side, spec.span), kind)
        b = codes(spec.b, rng, (spec.span, side), "like" if kind == "cancel" else kind)
        if kind == "cancel":
            b[spec.span // 2 : spec.span // 2 * 2] = b[: spec.span // 2]
        scales = [
            None if not count else codes(fmt, rng, shape, kind if kind != "cancel" else "like")
            for count, fmt, shape in _scale_shapes(spec, side)
        ]
        c = codes(spec.c_format, rng, (side, side), kind)
        yield of_matrices(spec, a, b, c, *scales)
        if spec.c_format == spec.accumulator:
            sum_alone = to_codes(spec.accumulator, matmul(step, a, b, np.zeros_like(c), scales[0], scales[1]))
            nearby = rng.integers(-2, 3, c.shape) * rng.integers(0, 2, c.shape) << spec.accumulator.low_padding
            c = negated(spec.accumulator, sum_alone) + nearby
            yield of_matrices(spec, a, b, (c & ((1 << spec.accumulator.bits) - 1)).astype(sum_alone.dtype), *scales)


def negated(fmt: Format, codes: Any) -> Any:
    """Return the codes of the negated numbers, as signed integers."""
    wide = codes.astype("i8")
    return -wide if fmt.kind == "integer" else wide ^ 1 << (fmt.bits - 1 - fmt.high_padding)


def _scale_shapes(spec: Instruction, side: int) -> list[tuple[int, Any, tuple[int, int]]]:
    """Return number along K, format and shape of the scales of A and of B, for `side` rows and columns."""
    count_a, count_b = scale_counts(spec)
    scale = spec.scale
    a, b = (scale.a, scale.b) if scale else (None, None)
    return [
        (count_a, a and a.format, (-(-side // a.group[0]) if a else 0, count_a)),
        (count_b, b and b.format, (count_b, -(-side // b.group[1]) if b else 0)),
    ]


def of_matrices(spec: Instruction, a: Any, b: Any, c: Any, scale_a: Any = None, scale_b: Any = None) -> UnitVectors:
    """Return one vector per element of D, from codes of A (M, span), B (span, N), C (M, N) and their scales."""
    import numpy as np

    step = one_step(spec)
    d = to_codes(step.accumulator, matmul(step, a, b, c, scale_a, scale_b))
    rows, columns = (x.ravel() for x in np.indices(d.shape))
    operands = {"a": a[rows], "b": b.T[columns], "c": c.reshape(-1, 1)}
    if scale_a is not None and step.scale and step.scale.a:
        operands["scale_a"] = scale_a[rows // step.scale.a.group[0]]
    if scale_b is not None and step.scale and step.scale.b:
        operands["scale_b"] = scale_b.T[columns // step.scale.b.group[1]]
    mask = (1 << step.accumulator.bits) - 1
    return UnitVectors({k: v.astype("u8") for k, v in operands.items()}, d.ravel().astype("u8") & np.uint64(mask))


def widths(spec: Instruction) -> dict[str, int]:
    """Return the bits of one element, by port."""
    result = {"a": spec.a.bits, "b": spec.b.bits, "c": spec.c_format.bits}
    if spec.scale and spec.scale.a:
        result["scale_a"] = spec.scale.a.format.bits
    if spec.scale and spec.scale.b:
        result["scale_b"] = spec.scale.b.format.bits
    assert result.keys() == ports(spec).keys()
    return result


def codes(fmt: Format, rng: np.random.Generator, shape: tuple[int, ...], kind: str) -> NDArray[Any]:
    """Return random codes of a format, of one of the `KINDS`."""
    import numpy as np

    dtype = code_dtype(fmt)
    bits = rng.integers(0, 1 << fmt.bits, shape, dtype="u8")
    if kind == "bits" or fmt.kind == "table":
        return bits.astype(dtype)
    if fmt.kind == "integer":
        return _integer_codes(fmt, rng, shape, kind).astype(dtype)
    top = (1 << fmt.exponent_bits) - 1
    middle = fmt.bias if fmt.exponent_bits > 5 else top // 2
    draw = {
        "like": rng.integers(max(middle - 2, 0), min(middle + 3, top + 1), shape),
        "sparse": rng.integers(max(middle - 2, 0), min(middle + 3, top + 1), shape),
        "cancel": np.full(shape, middle),
        "ends": rng.choice([0, 1, max(top - 1, 0), top], shape, p=[0.45, 0.3, 0.2, 0.05]),
    }[kind].astype("u8")
    low = fmt.mantissa_bits + fmt.low_padding
    sign = bits >> np.uint64(fmt.bits - fmt.high_padding - 1) & np.uint64(1) if fmt.signed else np.uint64(0)
    result = sign << np.uint64(low + fmt.exponent_bits) | draw << np.uint64(low) | bits & np.uint64((1 << low) - 1)
    if kind == "sparse" and fmt.zero:
        result[rng.random(shape) < 0.6] = 0
    if kind == "cancel" and fmt.signed and shape[-1] > 1:
        half = shape[-1] // 2
        flip = np.uint64(1 << (low + fmt.exponent_bits))
        result[..., half : 2 * half] = result[..., :half] ^ flip
    return result.astype(dtype)


def _integer_codes(fmt: Format, rng: np.random.Generator, shape: tuple[int, ...], kind: str) -> NDArray[Any]:
    """Return random codes of integers, of one of the `KINDS` except `bits`."""
    mask, top = (1 << fmt.bits) - 1, fmt.max_finite_magnitude
    low = -top - 1 if fmt.signed else 0
    near = rng.integers(-2 if fmt.signed else 0, 3, shape)
    values = {
        "like": near << max(fmt.bits // 2 - 2, 0),
        "sparse": near * (rng.random(shape) < 0.4),
        "cancel": rng.integers(low, top + 1, shape),
        "ends": rng.choice([low, low + 1, -1 if fmt.signed else top - 1, 0, top], shape, p=[0.3, 0.1, 0.1, 0.2, 0.3]),
    }[kind]
    if kind == "cancel" and shape[-1] > 1:
        half = shape[-1] // 2
        values[..., half : 2 * half] = -values[..., :half]
    codes: NDArray[Any] = values & mask
    return codes
