"""Matrix products computed by an instruction: arguments are checked here, and an engine is chosen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, get_args
from warnings import warn

import numpy as np
from numpy.typing import NDArray

from isa_model import golden, sparse
from isa_model.arguments import array_of, require, seed_of
from isa_model.array_codec import code_dtype, from_codes, to_codes
from isa_model.float64 import Codes
from isa_model.formats import Format
from isa_model.ieee import in_ieee_mode
from isa_model.instruction import Instruction
from isa_model.operand_fields import Codebook, ScaleOperand
from isa_model.philox import philox

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

Engine = Literal["auto", "golden", "portable", "cpu", "gpu", "native"]
ENGINES = get_args(Engine)
_registered: dict[str, Callable[..., Codes]] = {}
WORTH_COMPILING = 1 << 25
"""Multiply-accumulates from which the cpu engine compiles; for fewer, numpy is faster than a compiler."""


@in_ieee_mode
def matmul(
    instruction: Instruction,
    a: ArrayLike,
    b: ArrayLike,
    c: ArrayLike | None = None,
    scale_a: ArrayLike | Sequence[ArrayLike] | None = None,
    scale_b: ArrayLike | Sequence[ArrayLike] | None = None,
    engine: Engine = "auto",
    positions: ArrayLike | None = None,
    seed: int | None = None,
    tables_a: ArrayLike | None = None,
    tables_b: ArrayLike | None = None,
) -> NDArray[Any]:
    """Return D = A B + C, computed by the instruction along K in ascending order.

    `a` (M, K), `b` (K, N) and `c` (M, N; default: zeros) hold values in the numpy or ml_dtypes dtype of their format, or
    codes as unsigned integers. K is a multiple of the instruction's k; M and N are free. `scale_a` has the shape
    (ceil(M / rows), ceil(K / columns)) for A's scale group (rows, columns); `scale_b` likewise over (K, N). An operand with
    `coarser` levels of scales has a list of such arrays, the finest first; one scale of the whole operand is (1, 1).
    `seed`, from 0 to 2**64 - 1, is that of the random bits of an instruction with stochastic registers; no other takes one.
    D (M, N) has the dtype of the accumulator's format if numpy or ml_dtypes has one; otherwise it holds codes.

    With sparsity, the sparse operand is (M, stored) or (stored, N). `positions`, unsigned integers of that shape, says where
    in its group each stored element belongs; of runs, there is one position each. `isa_model.sparse.pruned` makes both from
    a whole matrix. Scales cover all of K.

    With a codebook, an operand holds indices, unsigned integers, and `tables_a` or `tables_b` the numbers or codes that they
    stand for, (groups of rows, groups of columns, entries).

    All engines give the same codes:

    - `golden`: the definition, slow.
    - `portable`: numpy.
    - `cpu`: compiled C for large products if there is a C compiler, otherwise `portable`.
    - `gpu`: compiled CUDA; needs the extra `kernels` and an NVIDIA GPU.
    - `native`: the GPU's own instruction, if it has it; needs `import kernels`.
    - `auto`: `cpu`, or `golden` for instructions whose sums doubles cannot carry.

    Raises ValueError for a shape or dtype that does not fit, for a scale or seed that is missing or not taken, and if the
    chosen engine cannot compute the instruction.
    """
    a_codes, b_codes = factors(instruction, a, b, tables_a, tables_b)
    instruction = instruction.dense if instruction.codebook else instruction
    m, n, k = len(a_codes), b_codes.shape[1], logical_k(instruction, a_codes, b_codes)
    if k % instruction.shape.k:
        raise ValueError(
            f"a is {a_codes.shape}: K = {k} is not a multiple of the instruction's k = {instruction.shape.k} "
            "(isa_model.gemm fills up K with zeros)"
        )
    if c is None:
        c_codes: Codes = np.zeros((m, n), code_dtype(instruction.c_format))
    else:
        c_codes = _matrix("c", instruction.c_format, c)
    if c_codes.shape != (m, n):
        raise ValueError(f"c is {c_codes.shape}; a {a_codes.shape} and b {b_codes.shape} make it {(m, n)}")
    scales = scales_of(instruction, scale_a, scale_b, (m, k), (k, n))
    if engine not in ENGINES:
        raise ValueError(f"unknown engine `{engine}`; one of: {', '.join(ENGINES)}")
    places = None
    if sparsity := instruction.sparsity:
        places = sparse.checked(sparsity, positions, a_codes if sparsity.operand == "a" else b_codes)
    elif positions is not None:
        raise ValueError("positions is given, but the instruction is not sparse")
    known = _seed(instruction, seed) if instruction.is_stochastic or seed is not None else 0
    codes = _run(engine, instruction, a_codes, b_codes, c_codes, *scales, known, places)
    return from_codes(instruction.accumulator, codes)


def _seed(instruction: Instruction, seed: int | None) -> int:
    """Return the seed. Raises ValueError if it is missing, not taken, or no whole number of 64 bits."""
    if not instruction.is_stochastic:
        raise ValueError("seed is given, but the instruction draws no random bits")
    if seed is None:
        raise ValueError("the instruction rounds stochastically: it needs a seed, a whole number from 0 to 2**64 - 1")
    return seed_of(seed)


def factors(
    instruction: Instruction, a: ArrayLike, b: ArrayLike, tables_a: Any = None, tables_b: Any = None
) -> tuple[Codes, Codes]:
    """Return the codes of A (M, K) and B (K, N), looked up in tables if the instruction has a codebook.

    Raises ValueError if their shapes do not fit each other, and for tables that are missing, not taken or do not fit.
    """
    require("instruction", instruction, Instruction, "isa_model.load gives an Instruction")
    books = instruction.codebook
    a_codes = looked_up("a", instruction.a, books.a if books else None, a, tables_a)
    b_codes = looked_up("b", instruction.b, books.b if books else None, b, tables_b)
    k = logical_k(instruction, a_codes, b_codes)
    sparsity = instruction.sparsity
    stored = {x: sparsity.stored(k) if sparsity and sparsity.operand == x else k for x in "ab"}
    if (a_codes.shape[1], b_codes.shape[0]) != (stored["a"], stored["b"]):
        fit = "(M, K) and (K, N) fit"
        if sparsity:
            fit += f", of {sparsity.operand} {sparsity.kept} of {sparsity.of} along K"
        raise ValueError(f"a is {a_codes.shape} and b is {b_codes.shape}: K differs; {fit}")
    return a_codes, b_codes


def looked_up(name: str, fmt: Format, codebook: Codebook | None, x: ArrayLike, tables: Any) -> Codes:
    """Return the codes of an operand, whose elements are indices into `tables` if it has a codebook (golden.looked_up).

    Raises ValueError for operands that are no matrix or hold no indices, and for tables that are missing, not taken or do not
    fit.
    """
    if codebook is None:
        if tables is not None:
            raise ValueError(f"tables_{name} is given, but {name} is not looked up")
        return _matrix(name, fmt, x)
    entries, indices = 1 << codebook.bits, array_of(name, x)
    if indices.ndim != 2 or indices.dtype.kind != "u" or indices.max(initial=0) >= entries:
        about = f"{name} is {indices.dtype} {indices.shape}"
        raise ValueError(f"{about}; expected a matrix of unsigned integers below {entries}, indices into its tables")
    expected = (*codebook.tables((indices.shape[0], indices.shape[1])), entries)
    if tables is None:
        raise ValueError(f"the instruction needs tables_{name}, {expected}")
    codes = to_codes(fmt, tables, f"tables_{name}")
    if codes.shape != expected:
        groups = f"groups of {codebook.group} over {name} {indices.shape}" if codebook.group else f"one table of {name}"
        raise ValueError(f"tables_{name} is {codes.shape}; {groups} of {entries} entries make it {expected}")
    rows, columns = (
        np.arange(size) // group for size, group in zip(indices.shape, codebook.group or indices.shape, strict=True)
    )
    found: Codes = codes[rows[:, None], columns[None, :], indices]
    return found


def logical_k(instruction: Instruction, a: Codes, b: Codes) -> int:
    """Return K, with the elements that sparsity leaves out."""
    of_b = instruction.sparsity is not None and instruction.sparsity.operand == "a"
    return len(b) if of_b else int(a.shape[1])


def scales_of(
    instruction: Instruction, scale_a: Any, scale_b: Any, a: tuple[int, int], b: tuple[int, int]
) -> tuple[Any, Any]:
    """Return the codes of the scales, one per group of A (M, K) and of B (K, N), over K filled up to whole instructions.

    Raises ValueError for scales that are missing, not taken, or of another shape.
    """
    sides = (instruction.scale.a, instruction.scale.b) if instruction.scale else (None, None)
    fill = -a[1] % instruction.shape.k
    filled = (a[0], a[1] + fill), (b[0] + fill, b[1])
    return (
        _scales("scale_a", sides[0], scale_a, "a", a, filled[0]),
        _scales("scale_b", sides[1], scale_b, "b", b, filled[1]),
    )


def register(engine: Engine, compute: Callable[..., Codes]) -> None:
    """Provide an engine from a package above this one: a function of codes (spec, a, b, c, scale_a, scale_b) to codes."""
    _registered[engine] = compute


def _run(
    engine: Engine,
    spec: Instruction,
    a: Codes,
    b: Codes,
    c: Codes,
    scale_a: Any,
    scale_b: Any,
    seed: int,
    positions: Codes | None,
) -> Codes:
    from isa_model.engines.plan import Unsupported

    if not c.size:
        return c.astype(code_dtype(spec.accumulator))
    if not a.shape[1]:
        engine = "auto"  # no instruction is issued
    if engine == "golden":
        return _golden(spec, a, b, c, scale_a, scale_b, seed, positions)
    if engine == "native":
        if engine not in _registered:
            raise ValueError("the native engine, the GPU's own instruction, needs `import kernels`")
        return _registered[engine](spec, a, b, c, scale_a, scale_b, *([] if positions is None else [positions]))
    try:
        if engine == "gpu":
            from isa_model.engines import gpu

            if positions is None:
                return gpu.matmul(spec, a, b, c, scale_a, scale_b, seed)
            if spec.is_stochastic:
                raise Unsupported(
                    "it multiplies sparse operands line by line, and random bits are those of whole matrices"
                )
            multiply: Callable[..., Codes] = partial(gpu.matmul, spec.dense)
            return sparse.matmul(multiply, spec, a, b, c, scale_a, scale_b, positions)
        from isa_model.engines import portable

        if engine != "portable" and c.size * a.shape[1] >= WORTH_COMPILING:
            from isa_model.engines import cpu

            try:
                return cpu.matmul(spec, a, b, c, scale_a, scale_b, seed, positions)
            except cpu.NoCompiler as reason:
                if reason.broken:
                    warn(f"{reason}; numpy computes instead, more slowly", RuntimeWarning, stacklevel=4)
        return portable.matmul(spec, a, b, c, scale_a, scale_b, seed, positions)
    except Unsupported as reason:
        if engine != "gpu" and spec.is_integer:
            from isa_model.engines import integers

            if positions is None:
                return integers.matmul(spec, a, b, c)
            multiply = lambda *line: integers.matmul(spec.dense, *line[:3])  # noqa: E731
            return sparse.matmul(multiply, spec, a, b, c, None, None, positions)
        if engine == "auto":
            return _golden(spec, a, b, c, scale_a, scale_b, seed, positions)
        raise ValueError(f"the {engine} engine cannot compute {spec.name}: {reason}") from None


def _golden(
    spec: Instruction, a: Codes, b: Codes, c: Codes, scale_a: Any, scale_b: Any, seed: int, positions: Codes | None
) -> Codes:
    by_a = spec.sparsity is None or spec.sparsity.operand == "a"
    d = np.empty(c.shape, code_dtype(spec.accumulator))
    rows, columns = a.tolist(), b.T.tolist()
    for i in range(d.shape[0]):
        for j in range(d.shape[1]):
            row_scales: Any = []
            column_scales: Any = []
            if spec.scale and spec.scale.a:
                row_scales = _along_k(spec.scale.a, scale_a, 0, i)
            if spec.scale and spec.scale.b:
                column_scales = _along_k(spec.scale.b, scale_b, 1, j)
            places = [] if positions is None else positions[i if by_a else j].tolist()
            draw = partial(philox, seed, i, j)
            d[i, j] = golden.dot(spec, rows[i], columns[j], int(c[i, j]), row_scales, column_scales, places, draw)
    return d


def _along_k(side: ScaleOperand, scales: Any, axis: int, i: int) -> Any:
    """Return the codes of the scales of row (axis 0) or column `i` along K, of each level if there are several."""
    lines = sparse.scales_of_line(side, scales, axis, i)
    return [line.ravel().tolist() for line in lines] if side.coarser else lines.ravel().tolist()


def _matrix(name: str, fmt: Any, x: Any) -> Codes:
    codes = to_codes(fmt, x, name)
    if codes.ndim != 2:
        raise ValueError(f"{name} is {codes.shape}, of {codes.ndim} dimensions; expected a matrix")
    return codes


def _scales(
    name: str, side: ScaleOperand | None, x: Any, of: str, given: tuple[int, ...], shape: tuple[int, int]
) -> Any:
    if side is None:
        if x is not None:
            raise ValueError(f"{name} is given, but the instruction takes none")
        return None
    if x is None:
        raise ValueError(f"the instruction needs {name}")
    if side.coarser and not (isinstance(x, list | tuple) and len(x) == len(side.levels)):
        raise ValueError(f"{name} has {len(side.levels)} levels of scales: expected a list of as many arrays")
    every = []
    for i, (level, own) in enumerate(zip(side.levels, x if side.coarser else [x], strict=True)):
        called = f"{name}[{i}]" if side.coarser else name
        codes = _matrix(called, level.format, own)
        expected = tuple(-(-size // level.along(axis)) for axis, size in enumerate(shape))
        if codes.shape != expected:
            operand = f"{of} {given}" if given == shape else f"{of} {given}, filled up to {shape},"
            groups = f"groups of {level.group} over" if level.group else "one group of"
            raise ValueError(f"{called} is {codes.shape}; {groups} {operand} make it {expected}")
        every.append(codes)
    return every if side.coarser else every[0]
