"""Conformance: what an engine computes against results in a file, recorded on hardware or written as vectors.

A recording is an .npz of arrays `<instruction>/<distribution>/<steps>/{A,B,C,D}`: operands A (blocks, M, bytes of K)
and B (blocks, N, bytes of K) as raw bytes along K; C and D (blocks, M, N) as raw codes (unsigned integers), or as float32,
widened from the accumulator's format. Scales are SA (blocks, groups of M, groups of K) and SB (blocks, groups of N, groups
of K), as raw bytes. `steps` instructions are chained along K. The instruction is a short name such as `wgmma_e4m3_f32`, or
a full one of the catalogue. Vectors are what `codesign vectors` writes (vectors/files.py); they carry their instruction
with them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from isa_model.array_codec import code_dtype, encode_array
from isa_model.diagnostics import InputError
from isa_model.formats import Format
from isa_model.instruction import Instruction
from isa_model.library import catalogue, check_architecture, is_known, load
from isa_model.product import matmul

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


class Results(NamedTuple):
    """Some results of one instruction: where they stand in their file, the codes there, and the engine's."""

    place: str
    expected: NDArray[Any]
    got: NDArray[Any]
    either: NDArray[np.bool_] | bool = False
    """Where any two codes count as equal."""


def conform(architecture: str | None, vectors: Path, engine: Any = "auto") -> Iterator[Comparison]:
    """Compare every instruction found in a recording or in vectors, one after the other.

    `architecture` says whose instructions the names in an .npz mean; vectors need none. Codes are compared bit for bit.
    Where a recording had to widen the accumulator to float32, any two NaNs count as equal.
    Raises InputError when the file is neither, names an instruction that is not in the catalogue, or has none of the
    architecture.
    """
    if architecture is not None:
        check_architecture(architecture)
    if vectors.suffix == ".npz":
        if architecture is None:
            raise InputError.of(f"whose instructions are those of {vectors}?", "an architecture, for instance hopper")
        cases = _recordings(architecture, vectors, engine)
    else:
        if architecture is not None:
            raise InputError.of(f"{vectors} says itself whose vectors it holds", f"leave `{architecture}` out")
        cases = _vectors(vectors, engine)
    for instruction, results in cases:
        yield _compare(instruction, results)


def _vectors(path: Path, engine: Any) -> Iterator[tuple[str, Iterator[Results]]]:
    import numpy as np

    from isa_model.vectors.files import read
    from isa_model.vectors.vector import outputs

    for name, vectors in read(path):
        expected = np.array([v.d for v in vectors.vectors], np.uint64)
        got = np.array(outputs(vectors.spec, vectors.vectors, engine), np.uint64)
        yield vectors.spec.name, iter([Results(f"{name} vector", expected, got)])


def _recordings(architecture: str, vectors: Path, engine: Any) -> Iterator[tuple[str, Iterator[Results]]]:
    import numpy as np

    try:
        file = np.load(vectors, allow_pickle=False)
        names = list(file.files)
    except (OSError, ValueError, AttributeError) as error:
        raise InputError.of(f"{vectors} is not a file of vectors: {error}") from None
    cases: dict[str, dict[str, None]] = {}
    for name in names:
        parts = name.split("/")
        if len(parts) != 4 or parts[3] not in ("A", "B", "C", "D", "SA", "SB"):
            raise InputError.of(
                f"{vectors} holds `{name}`",
                "arrays are called <instruction>/<distribution>/<steps>/A, B, C, D, and SA, SB for scales",
            )
        if not is_known(parts[0]) or parts[0].startswith(f"{architecture}."):
            cases.setdefault(find(architecture, parts[0]), {})["/".join(parts[:3])] = None
    if not cases:
        raise InputError.of(f"{vectors} holds no vectors of {architecture}")
    for instruction, keys in cases.items():
        spec = load(instruction)
        yield spec.name, _recorded(spec, file.__getitem__, list(keys), vectors, engine)


def _compare(instruction: str, results: Iterator[Results]) -> Comparison:
    import numpy as np

    outputs = mismatches = 0
    first = ""
    for place, expected, got, either in results:
        differs = (got != expected) & ~np.asarray(either)
        outputs += differs.size
        mismatches += int(differs.sum())
        if differs.any() and not first:
            index = tuple(int(x) for x in np.argwhere(differs)[0])
            first = f"{place} {list(index)}: recorded {expected[index]:#x}, model {got[index]:#x}"
    return Comparison(instruction, outputs, mismatches, first)


def find(architecture: str, short: str) -> str:
    """The catalogue's instruction a short name means: same kind, operand and result qualifiers, of the largest k and n.

    `wgmma_e4m3_f32` is D in f32 of E4M3 operands; `wgmma_e4m3_e5m2_f32` has two operand formats. n and, for mma.sync,
    the format of C do not change what an element computes.
    """
    check_architecture(architecture)
    if is_known(short):
        return short
    ours = [name for name in catalogue() if name.startswith(f"{architecture}.")]
    kind, *operands, result = short.split("_")
    wanted = (kind, result, *(operands * 2)[:2])
    found = [name for name in ours if (name.split(".")[1], *name.split(".")[3:6]) == wanted]
    if not found:
        raise InputError.of(f"{architecture} has no instruction for the vectors `{short}`", "see `codesign list`")
    return max(found, key=lambda name: (load(name).shape.k, load(name).shape.n))


def _recorded(
    spec: Instruction, read: Callable[[str], Any], keys: list[str], path: Path, engine: Any
) -> Iterator[Results]:
    import numpy as np

    scale = spec.scale
    for key in keys:
        try:
            a, b = (_codes(side, read(f"{key}/{name}")) for side, name in ((spec.a, "A"), (spec.b, "B")))
            c, d = (read(f"{key}/{name}") for name in "CD")
            scale_a = _codes(scale.a.format, read(f"{key}/SA")) if scale and scale.a else None
            scale_b = _codes(scale.b.format, read(f"{key}/SB")) if scale and scale.b else None
        except KeyError as error:
            raise InputError.of(
                f"{path}: {error.args[0]}", "every case has A, B, C and D, and SA and SB where it is scaled"
            ) from None
        for block in range(len(a)):
            expected = _accumulators(spec.accumulator, d[block])
            got = matmul(
                spec,
                a[block],
                b[block].T,
                _accumulators(spec.c_format, c[block]),
                None if scale_a is None else scale_a[block],
                None if scale_b is None else scale_b[block].T,
                engine=engine,
            ).view(expected.dtype)
            widened = d.dtype.kind == "f" and spec.accumulator.name != "fp32"
            either = np.isnan(d[block]) & _is_nan(spec, got) if widened else False
            yield Results(f"{key} block {block}", expected, got, either)


def _codes(fmt: Format, x: NDArray[Any]) -> NDArray[Any]:
    import numpy as np

    return np.ascontiguousarray(x).view(code_dtype(fmt))


def _accumulators(fmt: Format, x: NDArray[Any]) -> NDArray[Any]:
    """Raw codes of C or D, which the file holds as such or as float32."""
    import numpy as np

    if x.dtype.kind == "u":
        return np.ascontiguousarray(x)
    if fmt.name == "fp32":
        return np.ascontiguousarray(x).view(np.uint32)
    with np.errstate(invalid="ignore"):  # widening a signalling NaN
        return encode_array(fmt, x.astype(np.float64))


def _is_nan(spec: Instruction, codes: NDArray[Any]) -> NDArray[np.bool_]:
    import numpy as np

    from isa_model.array_codec import decode_array

    return np.isnan(decode_array(spec.accumulator, codes))
