"""Conformance: an engine's results compared with those in a file, recorded on hardware or written as vectors.

A recording is an .npz file of arrays called `<instruction>/<distribution>/<steps>/<array>`. `steps` instructions are
chained along K. The instruction is a short name, such as `wgmma_e4m3_f32`, or a full name of the catalogue. The arrays:

- A (blocks, M, K) and B (blocks, N, K), as codes, as values, or as little-endian bytes along K.
- C and D (blocks, M, N), as codes, as values, or as float32: then D was widened from its format, and C is rounded to it.
- SA (blocks, groups of M, groups of K) and SB (blocks, groups of N, groups of K), if there are scales, as A and B.

Vectors are what `codesign vectors` writes (vectors/vector_files.py). They hold their instruction.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from isa_model import npz
from isa_model.array_codec import code_dtype, decode_array, encode_array, to_codes
from isa_model.diagnostics import InputError
from isa_model.formats import FORMATS, Format
from isa_model.instruction import Instruction
from isa_model.library import catalogue, check_architecture, is_known, load
from isa_model.matmul import matmul
from isa_model.printable import unprintable

_STEPS = re.compile("[1-9][0-9]{0,8}")
MOST_BYTES = 1 << 30
"""Size of the largest array of a recording that is read, in bytes."""


@dataclass(frozen=True)
class ConformanceResult:
    """Comparison of one instruction's results with recorded ones."""

    instruction: str
    outputs: int
    """Number of results compared."""
    mismatches: int
    """Number of results that differ."""
    first: str
    """Place and codes of the first result that differs; empty if none does."""


class Results(NamedTuple):
    """Results of one instruction to compare."""

    place: str
    """Place in the file."""
    expected: NDArray[Any]
    """Codes in the file."""
    got: NDArray[Any]
    """Codes from the engine."""
    ignored: NDArray[np.bool_] | bool = False
    """Elements whose codes need not be equal."""


def conform(architecture: str | None, vectors: str | Path, engine: Any = "auto") -> Iterator[ConformanceResult]:
    """Yield the comparison of each instruction found in a file of recorded results or of vectors.

    `vectors` is the path. `architecture` says whose instructions the short names in an .npz file mean; it is None for
    vectors, which name their instruction. `engine` is one of `matmul`. Codes are compared bit for bit; if a recording had
    to widen D to float32, any two NaNs count as equal.
    Raises InputError if the file is neither a recording nor vectors, names an instruction that is not in the catalogue, has
    none of the architecture, or holds an array that does not fit the instruction.
    """
    if architecture is not None:
        check_architecture(architecture)
    vectors = Path(vectors)
    if vectors.suffix == ".npz":
        if architecture is None:
            raise InputError.of(f"{vectors} needs the architecture of its instructions", "for instance hopper")
        cases = _recordings(architecture, vectors, engine)
    else:
        if architecture is not None:
            raise InputError.of(f"{vectors} names the instruction of its vectors itself", f"leave `{architecture}` out")
        cases = _vectors(vectors, engine)
    for instruction, results in cases:
        yield _compare(instruction, results)


def _vectors(path: Path, engine: Any) -> Iterator[tuple[str, Iterator[Results]]]:
    from isa_model.vectors.vector import outputs
    from isa_model.vectors.vector_files import read

    for name, vectors in read(path):
        expected = np.array([v.d for v in vectors.vectors], np.uint64)
        got = np.array(outputs(vectors.spec, vectors.vectors, engine), np.uint64)
        yield vectors.spec.name, iter([Results(f"{name} vector", expected, got)])


def _recordings(architecture: str, vectors: Path, engine: Any) -> Iterator[tuple[str, Iterator[Results]]]:
    file = npz.arrays(vectors)
    cases: dict[str, dict[str, None]] = {}
    for name in file:
        parts = name.split("/")
        if (
            unprintable(name)
            or "\n" in name
            or len(parts) != 4
            or not _STEPS.fullmatch(parts[2])
            or parts[3] not in ("A", "B", "C", "D", "SA", "SB")
        ):
            raise InputError.of(
                f"{vectors} holds `{name}`",
                "arrays are called <instruction>/<distribution>/<steps>/A, B, C, D, and SA, SB for scales",
            )
        if not is_known(parts[0]) or parts[0].startswith(f"{architecture}."):
            cases.setdefault(find(architecture, parts[0]), {})["/".join(parts[:3])] = None
    if not cases:
        raise InputError.of(f"{vectors} holds no results of {architecture}")
    for instruction, keys in cases.items():
        spec = load(instruction)
        yield spec.name, (result for key in keys for result in _recorded(spec, _Case(vectors, file, key), engine))


def dot_products(path: Path, spec: Instruction) -> list[tuple[NDArray[Any], ...]]:
    """Return the dot products that a recording holds of one instruction: its cases of one step, without scales.

    Each case is A and B (L, K), C and D (L,) as codes, a line for each element of D. Raises InputError as `conform`, and if
    there is none.
    """
    file = npz.arrays(path)
    found: list[tuple[NDArray[Any], ...]] = []
    keys = dict.fromkeys(name.rpartition("/")[0] for name in file)
    for key in keys:
        short, _, steps = key.split("/") if key.count("/") == 2 else ("", "", "")
        if steps != "1" or find(spec.name.split(".")[0], short) != spec.name:
            continue
        case = _Case(path, file, key)
        a, b = case.operand("A", spec.a), case.operand("B", spec.b)
        c = case.accumulators("C", spec.c_format, case.read("C"))
        d = case.accumulators("D", spec.accumulator, case.read("D"))
        if a.shape[2] != spec.shape.k or d.shape != (*a.shape[:2], b.shape[1]):
            raise case.wrong("A", f"is {a.shape}; expected K = {spec.shape.k}, and D {(*a.shape[:2], b.shape[1])}")
        block, i, j = (x.reshape(-1) for x in np.indices(d.shape))
        found.append((a[block, i], b[block, j], c.reshape(-1), d.reshape(-1)))
    if not found:
        raise InputError.of(
            f"{path} holds no dot products of {spec.name}", "cases of one step: <instruction>/<kind>/1/A"
        )
    return found


def _compare(instruction: str, results: Iterator[Results]) -> ConformanceResult:
    outputs = mismatches = 0
    first = ""
    for place, expected, got, ignored in results:
        differs = (got != expected) & ~np.asarray(ignored)
        outputs += differs.size
        mismatches += int(differs.sum())
        if differs.any() and not first:
            index = tuple(int(x) for x in np.argwhere(differs)[0])
            first = f"{place} {list(index)}: recorded {expected[index]:#x}, model {got[index]:#x}"
    return ConformanceResult(instruction, outputs, mismatches, first)


def find(architecture: str, short: str) -> str:
    """Return the catalogue's instruction that a short name means: of this kind and these formats, with the largest k and n.

    `wgmma_e4m3_f32` has E4M3 operands and D in f32; `wgmma_e4m3_e5m2_f32` has two operand formats. An element of D does not
    depend on n nor, for mma.sync, on the format of C. Raises InputError for a name that means none.
    """
    check_architecture(architecture)
    if is_known(short):
        return short
    ours = [name for name in catalogue() if name.startswith(f"{architecture}.")]
    kind, *operands = short.split("_")
    wanted = (kind, *operands[-1:], *(operands[:-1] * 2)[:2])
    found = [name for name in ours if (name.split(".")[1], *name.split(".")[3:6]) == wanted]
    if not found:
        raise InputError.of(f"{architecture} has no instruction called `{short}` for short", "see `codesign list`")
    return max(found, key=lambda name: (load(name).shape.k, load(name).shape.n))


@dataclass(frozen=True)
class _Case:
    """One case of a recording. Its arrays are checked as they are read, by the last part of their name."""

    path: Path
    file: dict[str, npz.Array]
    key: str

    def wrong(self, name: str, what: str, hint: str = "") -> InputError:
        return InputError.of(f"{self.path}: {self.key}/{name} {what}", hint)

    def read(self, name: str) -> NDArray[Any]:
        """Return an array. Raises InputError if it is missing, too large, damaged, or not three-dimensional."""
        full = f"{self.key}/{name}"
        if full not in self.file:
            raise self.wrong(name, "is missing", "every case has A, B, C and D, and SA and SB where it is scaled")
        about = self.file[full]
        if about.size > MOST_BYTES:
            raise self.wrong(name, f"has {about.size} bytes", f"at most {MOST_BYTES}")
        if not npz.width_of(about.dtype):
            raise self.wrong(name, f"has elements of type {about.dtype}", "numbers")
        array = npz.read(self.path, about)
        if array.ndim != 3:
            raise self.wrong(name, f"is {array.shape}", "three dimensions, the first for blocks")
        return array

    def operand(self, name: str, fmt: Format) -> NDArray[Any]:
        """Return the codes of A, B or scales. Raises InputError for a dtype that is not of the format."""
        array, dtype = self.read(name), code_dtype(fmt)
        if array.dtype == np.uint8 and dtype.itemsize > 1:
            if array.shape[2] % dtype.itemsize:
                hint = f"a multiple of {dtype.itemsize} bytes along K"
                raise self.wrong(name, f"is {array.shape}, and {fmt.name} has {dtype.itemsize} bytes", hint)
            array = np.ascontiguousarray(array).view(dtype.newbyteorder("<"))
        return self.codes(name, fmt, array)

    def codes(self, name: str, fmt: Format, array: NDArray[Any]) -> NDArray[Any]:
        try:
            return to_codes(fmt, array, f"{self.path}: {self.key}/{name}")
        except ValueError as error:
            raise InputError.of(str(error)) from None

    def accumulators(self, name: str, fmt: Format, array: NDArray[Any]) -> NDArray[Any]:
        """Return the codes of C or D, which the file holds as codes, as values, or as float32."""
        if array.dtype.newbyteorder("=") != np.float32 or fmt == FORMATS["fp32"] or not FORMATS["fp32"].holds(fmt):
            return self.codes(name, fmt, array)
        codes = encode_array(fmt, array)
        with np.errstate(invalid="ignore"):  # signalling NaNs
            lost = ~((decode_array(fmt, codes) == array) | np.isnan(array))
        if name == "D" and lost.any():
            raise self.wrong(name, f"holds {array[lost][0]}, which is not a number of {fmt.name}")
        return codes


def _recorded(spec: Instruction, case: _Case, engine: Any) -> Iterator[Results]:
    scale = spec.scale
    a, b = case.operand("A", spec.a), case.operand("B", spec.b)
    c, d = case.read("C"), case.read("D")
    (blocks, m, k), n = a.shape, b.shape[1]
    if not a.size or not b.size:
        raise case.wrong("B" if a.size else "A", "is empty")
    if k % spec.shape.k:
        raise case.wrong("A", f"is {a.shape}: K = {k} is not a multiple of {spec.shape.k}, the k of {spec.name}")
    steps, named = k // spec.shape.k, int(case.key.split("/")[2])
    if steps != named:
        message = f"is {a.shape}: K = {k} makes {steps} steps of {spec.name}, but its name says {named}"
        raise case.wrong("A", message)
    scaled = {"SA": scale.a if scale else None, "SB": scale.b if scale else None}
    for name, side in scaled.items():
        if not side and f"{case.key}/{name}" in case.file:
            raise case.wrong(name, f"is given, but {spec.name} takes none")
    for name, array, expected in (("B", b, (blocks, n, k)), ("C", c, (blocks, m, n)), ("D", d, (blocks, m, n))):
        if array.shape != expected:
            raise case.wrong(name, f"is {array.shape}; A {a.shape} and B {b.shape} make it {expected}")
    scales = {name: case.operand(name, side.format) for name, side in scaled.items() if side}
    for name, codes in scales.items():
        if len(codes) != blocks:
            raise case.wrong(name, f"is {codes.shape}; A {a.shape} has {blocks} blocks")
    start, expected_d = case.accumulators("C", spec.c_format, c), case.accumulators("D", spec.accumulator, d)
    widened = d.dtype.kind == "f" and spec.accumulator.storage_bits < 32
    for block in range(blocks):
        scale_a = scales["SA"][block] if "SA" in scales else None
        scale_b = scales["SB"][block].T if "SB" in scales else None
        try:
            result = matmul(spec, a[block], b[block].T, start[block], scale_a, scale_b, engine=engine)
        except ValueError as error:
            raise InputError.of(f"{case.path}: {case.key} block {block}: {error}") from None
        got = result.view(expected_d.dtype)
        ignored = np.isnan(d[block]) & np.isnan(decode_array(spec.accumulator, got)) if widened else False
        yield Results(f"{case.key} block {block}", expected_d[block], got, ignored)
