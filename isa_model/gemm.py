"""A whole GEMM as a library runs it on an instruction: ragged edges, split K, scale, bias and output rounding.

With today's instructions the result is that of cuBLAS on an H200, bit for bit (tests/test_whole.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from isa_model.arguments import fp32_of, require, seed_of, whole_number
from isa_model.array_codec import encode_array, from_codes
from isa_model.formats import Format
from isa_model.ieee import in_ieee_mode
from isa_model.instruction import Instruction
from isa_model.matmul import Engine, factors, matmul, scales_of

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


@in_ieee_mode
def gemm(
    instruction: Instruction,
    a: ArrayLike,
    b: ArrayLike,
    scale_a: ArrayLike | Sequence[ArrayLike] | None = None,
    scale_b: ArrayLike | Sequence[ArrayLike] | None = None,
    *,
    split_k: int = 1,
    alpha: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    out: Format | None = None,
    engine: Engine = "auto",
    seed: int | None = None,
) -> NDArray[Any]:
    """Return D = round(alpha * (A B) + bias), (M, N) in the dtype of `out`; the instruction computes the sums.

    `a` (M, K), `b` (K, N), the scales and `engine` are those of `matmul`, but K is free: it is filled up with zeros to
    whole instructions, and group scales cover the filled K.

    - `split_k`: the number of parts that K is cut into, each of whole instructions; the first parts are longer where the
      division leaves a remainder. Each part starts from zero, and their sums are added in ascending order of K.
    - `alpha`, (), (M, 1) or (1, N), is multiplied by; `bias`, (N,), is added. Both are rounded to FP32 first.
    - `out`: the format that the result is rounded to (default: the accumulator's). A result beyond its range becomes
      infinity, or the largest number of a format without infinities.

    - `seed` is that of `matmul` for the first part of K; each further part has the next one.

    Sums of parts, `alpha` and `bias` are computed in FP32. Every rounding is to nearest even.
    Raises ValueError as `matmul` does, for a `split_k` that is more than K's number of instructions, and if any of these
    steps is asked for after an accumulator other than FP32.
    """
    require("instruction", instruction, Instruction, "isa_model.load gives an Instruction")
    if instruction.sparsity:
        raise ValueError(
            "gemm takes no sparse instruction: fill K up to whole instructions, and call matmul with positions"
        )
    if instruction.codebook:
        raise ValueError("gemm takes no codebook: look the elements up, or call matmul with tables")
    a_codes, b_codes = factors(instruction, a, b)
    m, n = a_codes.shape[0], b_codes.shape[1]
    scales = scales_of(instruction, scale_a, scale_b, a_codes.shape, b_codes.shape)
    factor = None if alpha is None else _fp32("alpha", alpha, {"()": (), "(M, 1)": (m, 1), "(1, N)": (1, n)})
    offset = None if bias is None else _fp32("bias", bias, {"(N,)": (n,)})
    if out is not None:
        require("out", out, Format, "isa_model.named gives a Format")
    step = instruction.shape.k
    fill = -a_codes.shape[1] % step
    a_codes = np.pad(a_codes, ((0, 0), (0, fill)), constant_values=instruction.a.zero_code)
    b_codes = np.pad(b_codes, ((0, fill), (0, 0)), constant_values=instruction.b.zero_code)
    steps = a_codes.shape[1] // step
    split_k = whole_number("split_k", split_k)
    if not 1 <= split_k <= max(steps, 1):
        raise ValueError(f"split_k = {split_k}: K has {steps} times the instruction's k = {step}")
    epilogue = split_k > 1 or alpha is not None or bias is not None or out is not None
    if epilogue and instruction.accumulator.name != "fp32":
        raise ValueError(f"an epilogue works in FP32; {instruction.name} accumulates in {instruction.accumulator.name}")
    if split_k > 1 and instruction.scale is not None:
        raise ValueError("split_k cannot cut groups of scales inside the instruction: cut K yourself, at whole groups")
    bounds = [step * (i * (steps // split_k) + min(i, steps % split_k)) for i in range(split_k + 1)]
    total: Any = None
    with np.errstate(over="ignore", invalid="ignore"):
        for i, (first, end) in enumerate(pairwise(bounds)):
            own = None if seed is None else (seed_of(seed) + i) % (1 << 64)
            part = matmul(
                instruction, a_codes[:, first:end], b_codes[first:end], None, *scales, engine=engine, seed=own
            )
            total = part if total is None else total + part
        if factor is not None:
            total = total * factor
        if offset is not None:
            total = total + offset
        if out is None or out.name == "fp32":
            return np.asarray(total)
        return from_codes(out, encode_array(out, total))


def _fp32(name: str, x: ArrayLike, shapes: dict[str, tuple[int, ...]]) -> NDArray[np.float32]:
    """Return numbers rounded to FP32. Raises ValueError unless they have one of the shapes."""
    numbers = fp32_of(name, x)
    if numbers.shape not in shapes.values():
        expected = " or ".join(f"{text} = {shape}" if shape else text for text, shape in shapes.items())
        raise ValueError(f"{name} is {numbers.shape}; expected {expected}")
    return numbers
