"""Products of a trial's operands: D by the bit-exact model on an engine, and exact sums."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from codesign.evidence.numerics.operands import Operand
from isa_model.array_codec import code_dtype, decode_array
from isa_model.instruction import Instruction

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Float64 = NDArray[np.float64]


def together(instruction: Instruction, a: Operand, b: Operand) -> Float64 | None:
    """Return D of all seeds by the portable engine; None if it does not take the instruction or would need much memory."""
    import numpy as np

    from isa_model.engines import portable
    from isa_model.engines.batch import batch
    from isa_model.engines.plan import Unsupported

    seeds, rows, columns = len(a.codes), a.codes.shape[1], b.codes.shape[1]
    if seeds * rows * columns > MOST_TOGETHER or instruction.is_stochastic or instruction.sparsity:
        return None
    codes: Any
    try:
        if any(isinstance(x.scales, tuple) for x in (a, b)):  # several levels of scales are those of one product
            spec, c = instruction.per_line(), np.zeros((rows, columns), code_dtype(instruction.c_format))
            scales = ((of_seed(a.scales, i), of_seed(b.scales, i, turned=True)) for i in range(seeds))
            codes = np.stack(
                [portable.matmul(spec, x, y.T, c, *s) for x, y, s in zip(a.codes, b.codes, scales, strict=True)]
            )
        else:
            scale_b = None if b.scales is None else b.scales.swapaxes(1, 2)
            codes = batch(instruction, a.codes, b.codes.swapaxes(1, 2), a.scales, scale_b)
    except Unsupported:
        return None
    return np.asarray(decode_array(instruction.accumulator, codes))


def of_seed(scales: Any, i: int, turned: bool = False) -> Any:
    """Return the scales of an operand's seed number `i`, a list of levels if there are several; transposed if `turned`."""
    import numpy as np

    if scales is None:
        return None
    levels = scales if isinstance(scales, tuple) else (scales,)
    own = [np.ascontiguousarray(level[i].T) if turned else level[i] for level in levels]
    return own if isinstance(scales, tuple) else own[0]


MOST_TOGETHER = 1 << 16
"""Most outputs that the portable engine computes as one tile; more are worth compiling for."""


def multiplier(instruction: Instruction) -> Callable[..., Any]:
    """Return a function from codes of A (M, K), B (K, N), their scales, a seed and positions to codes of D.

    Positions are None, or (lines, runs) of the sparse operand. It is compiled where there is a compiler, or else `matmul`.
    """
    key = instruction.model_dump_json()
    if key not in _multipliers:
        _multipliers[key] = _multiplier(instruction)
    return _multipliers[key]


_multipliers: dict[str, Callable[..., Any]] = {}


def _multiplier(instruction: Instruction) -> Callable[..., Any]:
    import numpy as np

    from isa_model.engines import cpu
    from isa_model.engines.plan import Unsupported
    from isa_model.matmul import matmul

    def portable(a: Any, b: Any, scale_a: Any, scale_b: Any, seed: int, positions: Any) -> Any:
        own = seed if instruction.is_stochastic else None
        places = positions.T if instruction.sparsity and instruction.sparsity.operand == "b" else positions
        d = matmul(instruction, a, b, scale_a=scale_a, scale_b=scale_b, seed=own, positions=places)
        return d.view(code_dtype(instruction.accumulator))

    try:
        compiled = cpu.prepared(instruction, cpu.NARROW, most_threads=1)
    except (cpu.NoCompiler, Unsupported):
        return portable
    dtype = code_dtype(instruction.c_format)
    return lambda a, b, scale_a, scale_b, seed, positions: compiled(
        a, b, np.zeros((len(a), b.shape[1]), dtype), scale_a, scale_b, seed, positions
    )


def exact(a: Any, b: Any, *scales: Any) -> Float64:
    """Return the exact products of A (seeds, rows, K) and B (seeds, columns, K), rounded once, with scales if there are any."""
    import numpy as np

    from isa_model.exact import dot

    scale_a, scale_b = scales or (None, None)
    return dot(a, np.swapaxes(b, 1, 2), scale_a, None if scale_b is None else np.swapaxes(scale_b, 1, 2))
