"""A whole matrix product through an instruction: the public entry that checks shapes and picks an engine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from isa_model.array_codec import code_dtype, from_codes, to_codes
from isa_model.instruction import Instruction, ScaleOperand

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from isa_model.lanes import Codes

Engine = Literal["auto", "golden", "cpu"]


def matmul(
    instruction: Instruction,
    a: ArrayLike,
    b: ArrayLike,
    c: ArrayLike | None = None,
    scale_a: ArrayLike | None = None,
    scale_b: ArrayLike | None = None,
    engine: Engine = "auto",
) -> NDArray[Any]:
    """D = A B + C, computed by the instruction along K in ascending order.

    `a` (M, K), `b` (K, N), `c` (M, N; default zeros) hold values in the numpy or ml_dtypes dtype of their format, or
    its raw codes as unsigned integers. K is a multiple of the instruction's k; M and N are free. `scale_a` is
    (ceil(M / rows), ceil(K / columns)) for A's scale group (rows, columns); `scale_b` likewise over (K, N).
    Returns (M, N) in the accumulator's format: its own dtype where numpy or ml_dtypes has one, else raw codes.

    `engine`: `golden`, the definition, slow; `cpu`, vectorised; `auto`, `cpu` unless it cannot carry the spec.
    Raises ValueError for a shape, dtype or missing scale that does not fit, and for `cpu` where it cannot.
    """
    import numpy as np

    from isa_model.plan import Unsupported

    a_codes, b_codes = _matrix("a", instruction.a, a), _matrix("b", instruction.b, b)
    (m, k), n = a_codes.shape, b_codes.shape[1]
    if b_codes.shape[0] != k:
        raise ValueError(f"a is {a_codes.shape} and b is {b_codes.shape}: K differs")
    if k % instruction.shape.k:
        raise ValueError(f"K = {k} is not a multiple of the instruction's k = {instruction.shape.k}")
    c_codes = np.zeros((m, n), code_dtype(instruction.c_format)) if c is None else None
    if c_codes is None:
        c_codes = _matrix("c", instruction.c_format, c)
    if c_codes.shape != (m, n):
        raise ValueError(f"c is {c_codes.shape}; a and b make it {(m, n)}")
    side_a, side_b = (instruction.scale.a, instruction.scale.b) if instruction.scale else (None, None)
    scales = (_scales("scale_a", side_a, scale_a, (m, k)), _scales("scale_b", side_b, scale_b, (k, n)))
    if engine not in ("auto", "golden", "cpu"):
        raise ValueError(f"unknown engine `{engine}`: auto, golden or cpu")
    d: Codes | None = None
    if engine != "golden":
        from isa_model import vectorised

        try:
            d = vectorised.matmul(instruction, a_codes, b_codes, c_codes, *scales)
        except Unsupported as reason:
            if engine == "cpu":
                raise ValueError(f"the cpu engine cannot compute {instruction.name}: {reason}") from None
    if d is None:
        d = _golden(instruction, a_codes, b_codes, c_codes, *scales)
    return from_codes(instruction.accumulator, d)


def _golden(spec: Instruction, a: Codes, b: Codes, c: Codes, scale_a: Codes | None, scale_b: Codes | None) -> Codes:
    import numpy as np

    from isa_model import golden

    d = np.empty(c.shape, code_dtype(spec.accumulator))
    rows, columns = a.tolist(), b.T.tolist()
    for i in range(d.shape[0]):
        for j in range(d.shape[1]):
            of_row: list[int] = []
            of_column: list[int] = []
            if scale_a is not None and spec.scale and spec.scale.a:
                of_row = scale_a[i // spec.scale.a.group[0]].tolist()
            if scale_b is not None and spec.scale and spec.scale.b:
                of_column = scale_b[:, j // spec.scale.b.group[1]].tolist()
            d[i, j] = golden.dot(spec, rows[i], columns[j], int(c[i, j]), of_row, of_column)
    return d


def _matrix(name: str, fmt: Any, x: Any) -> Codes:
    try:
        codes = to_codes(fmt, x)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    if codes.ndim != 2:
        raise ValueError(f"{name} has {codes.ndim} dimensions; it is a matrix")
    return codes


def _scales(name: str, side: ScaleOperand | None, x: Any, shape: tuple[int, int]) -> Codes | None:
    if side is None:
        if x is not None:
            raise ValueError(f"{name} is given, but the instruction takes none")
        return None
    if x is None:
        raise ValueError(f"the instruction needs {name}")
    codes = _matrix(name, side.format, x)
    expected = tuple(-(-size // group) for size, group in zip(shape, side.group, strict=True))
    if codes.shape != expected:
        raise ValueError(f"{name} is {codes.shape}; groups of {side.group} over {shape} make it {expected}")
    return codes
