"""A whole GEMM as a library runs it on an instruction: ragged edges, split K, scale, bias and output rounding.

With today's instructions this is what cuBLAS returns on an H200, bit for bit (tests/test_whole.py).
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

from isa_model.arguments import fp32_of, require
from isa_model.array_codec import encode_array, from_codes
from isa_model.formats import Format
from isa_model.ieee import in_ieee_mode
from isa_model.instruction import Instruction
from isa_model.matmul import Engine, factors, matmul, scales_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray


@in_ieee_mode
def gemm(
    instruction: Instruction,
    a: ArrayLike,
    b: ArrayLike,
    scale_a: ArrayLike | None = None,
    scale_b: ArrayLike | None = None,
    *,
    split_k: int = 1,
    alpha: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    out: Format | None = None,
    engine: Engine = "auto",
) -> NDArray[Any]:
    """D = round(alpha * (A B) + bias), with the sums taken by the instruction (or `promoted` around one).

    `a` (M, K) and `b` (K, N) as for `matmul`, but K is free: it is filled up with zeros to whole instructions (group
    scales, if any, are those of the filled K). `split_k` cuts K into so many stretches of whole
    instructions, the first ones longer where they do not divide; each starts from zero, and their sums are added in
    FP32, rounded to nearest even, in ascending order of K. `alpha`, (), (M, 1) or (1, N), multiplies and `bias`, (N,), is
    added in FP32, each result rounded to nearest even; their own numbers are rounded to FP32 first. Last the result is
    rounded to `out` (default: the accumulator's format; nearest even), beyond its range to infinity, or to the largest
    number of a format without one.

    Returns (M, N) in the dtype of `out`. Raises ValueError as `matmul`, for a `split_k` that K has too few instructions
    for, and for an epilogue after an accumulator other than FP32.
    """
    import numpy as np

    a_codes, b_codes = factors(instruction, a, b)
    m, n = a_codes.shape[0], b_codes.shape[1]
    scales = scales_of(instruction, scale_a, scale_b, a_codes, b_codes)
    factor = None if alpha is None else _fp32("alpha", alpha, {"()": (), "(M, 1)": (m, 1), "(1, N)": (1, n)})
    offset = None if bias is None else _fp32("bias", bias, {"(N,)": (n,)})
    if out is not None:
        require("out", out, Format, "isa_model.named gives a Format")
    step = instruction.shape.k
    fill = -a_codes.shape[1] % step
    a_codes = np.pad(a_codes, ((0, 0), (0, fill)))
    b_codes = np.pad(b_codes, ((0, fill), (0, 0)))
    steps = a_codes.shape[1] // step
    if isinstance(split_k, bool) or not isinstance(split_k, int | np.integer):
        raise ValueError(f"split_k is {split_k!r}; a whole number is asked")
    if not 1 <= split_k <= max(steps, 1):
        raise ValueError(f"split_k = {split_k}: K has {steps} stretches of the instruction's k = {step}")
    epilogue = split_k > 1 or alpha is not None or bias is not None or out is not None
    if epilogue and instruction.accumulator.name != "fp32":
        raise ValueError(f"an epilogue works in FP32; {instruction.name} accumulates in {instruction.accumulator.name}")
    if split_k > 1 and instruction.scale is not None:
        raise ValueError("split_k with group scales inside the instruction: cut K yourself, so that groups stay whole")
    bounds = [step * (i * (steps // split_k) + min(i, steps % split_k)) for i in range(split_k + 1)]
    total: Any = None
    with np.errstate(over="ignore", invalid="ignore"):
        for first, end in pairwise(bounds):
            part = matmul(instruction, a_codes[:, first:end], b_codes[first:end], None, *scales, engine=engine)
            total = part if total is None else total + part
        if factor is not None:
            total = total * factor
        if offset is not None:
            total = total + offset
        if out is None or out.name == "fp32":
            return np.asarray(total)
        return from_codes(out, encode_array(out, total))


def _fp32(name: str, x: ArrayLike, shapes: dict[str, tuple[int, ...]]) -> NDArray[np.float32]:
    """Numbers rounded to FP32. Raises ValueError unless they have one of the shapes."""
    numbers = fp32_of(name, x)
    if numbers.shape not in shapes.values():
        wanted = " or ".join(f"{text} = {shape}" if shape else text for text, shape in shapes.items())
        raise ValueError(f"{name} is {numbers.shape}; {wanted} is asked")
    return numbers
