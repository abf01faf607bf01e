"""Conformance: an instruction's outputs against those of real hardware, recorded in a file of vectors.

A vector file is an .npz of arrays `<instruction>/<distribution>/<steps>/{A,B,C,D}`: operands A (blocks, M, bytes of K)
and B (blocks, N, bytes of K) as raw bytes along K, C and D (blocks, M, N) as float32, widened from the accumulator's
format; `steps` instructions are chained along K. The instruction is a short name such as `wgmma_e4m3_f32`, or a full one
of the catalogue.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from isa_model.array_codec import code_dtype, encode_array
from isa_model.diagnostics import InputError
from isa_model.gemm import matmul
from isa_model.instruction import Instruction
from isa_model.library import catalogue, load

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Comparison:
    """One instruction's outputs compared: how many, how many differ, and the first that does."""

    instruction: str
    outputs: int
    mismatches: int
    first: str


def conform(architecture: str, vectors: Path, engine: Any = "auto") -> Iterator[Comparison]:
    """Compare every instruction found in a vector file, one after the other.

    Codes are compared bit for bit. Where the file had to widen the accumulator to float32, any two NaNs count as equal.
    Raises InputError when the file is no vector file, or names an instruction the architecture does not have.
    """
    import numpy as np

    try:
        file = np.load(vectors, allow_pickle=False)
        names = list(file.files)
    except (OSError, ValueError, AttributeError) as error:
        raise InputError.of(f"{vectors} is not a file of vectors: {error}") from None
    cases: dict[str, dict[str, None]] = {}
    for name in names:
        parts = name.split("/")
        if len(parts) != 4 or parts[3] not in "ABCD":
            raise InputError.of(
                f"{vectors} holds `{name}`",
                "arrays are called <instruction>/<distribution>/<steps>/A, B, C, D",
            )
        cases.setdefault(parts[0], {})["/".join(parts[:3])] = None
    if not cases:
        raise InputError.of(f"{vectors} holds no vectors")
    for short, keys in cases.items():
        yield _compare(load(find(architecture, short)), file.__getitem__, list(keys), vectors, engine)


def find(architecture: str, short: str) -> str:
    """The catalogue's instruction a short name means: same kind, operand and result qualifiers, of the largest k and n.

    `wgmma_e4m3_f32` is D in f32 of E4M3 operands; `wgmma_e4m3_e5m2_f32` has two operand formats. n and, for mma.sync,
    the format of C do not change what an element computes.
    """
    ours = [name for name in catalogue() if name.startswith(f"{architecture}.")]
    if not ours:
        known = sorted({name.split(".")[0] for name in catalogue()})
        raise InputError.of(f"no architecture is called `{architecture}`", f"one of: {', '.join(known)}")
    if short in ours:
        return short
    kind, *operands, result = short.split("_")
    wanted = (kind, result, *(operands * 2)[:2])
    found = [name for name in ours if (name.split(".")[1], *name.split(".")[3:6]) == wanted]
    if not found:
        raise InputError.of(f"{architecture} has no instruction for the vectors `{short}`", "see `codesign list`")
    return max(found, key=lambda name: (load(name).shape.k, load(name).shape.n))


def _compare(spec: Instruction, read: Callable[[str], Any], keys: list[str], path: Path, engine: Any) -> Comparison:
    import numpy as np

    outputs = mismatches = 0
    first = ""
    for key in keys:
        try:
            a, b = (_codes(spec, side, read(f"{key}/{name}")) for side, name in ((spec.a, "A"), (spec.b, "B")))
            c, d = (read(f"{key}/{name}") for name in "CD")
        except KeyError as error:
            raise InputError.of(f"{path}: {error.args[0]}", "every case has A, B, C and D") from None
        for block in range(len(a)):
            expected = _accumulators(spec, d[block])
            got = matmul(spec, a[block], b[block].T, _accumulators(spec, c[block]), engine=engine)
            raw = got.view(expected.dtype)
            differs = raw != expected
            if spec.accumulator.name != "fp32":
                differs &= ~(np.isnan(d[block]) & _is_nan(spec, raw))
            outputs += differs.size
            mismatches += int(differs.sum())
            if differs.any() and not first:
                i, j = (int(x) for x in np.argwhere(differs)[0])
                first = f"{key} block {block} [{i}, {j}]: chip {expected[i, j]:#x}, model {raw[i, j]:#x}"
    return Comparison(spec.name, outputs, mismatches, first)


def _codes(spec: Instruction, fmt: Any, x: NDArray[Any]) -> NDArray[Any]:
    import numpy as np

    return np.ascontiguousarray(x).view(code_dtype(fmt))


def _accumulators(spec: Instruction, x: NDArray[np.float32]) -> NDArray[Any]:
    """Raw codes of C or D, which the file holds as float32."""
    import numpy as np

    if spec.accumulator.name == "fp32":
        return np.ascontiguousarray(x).view(np.uint32)
    with np.errstate(invalid="ignore"):  # widening a signalling NaN
        return encode_array(spec.accumulator, x.astype(np.float64))


def _is_nan(spec: Instruction, codes: NDArray[Any]) -> NDArray[np.bool_]:
    import numpy as np

    from isa_model.array_codec import decode_array

    return np.isnan(decode_array(spec.accumulator, codes))
