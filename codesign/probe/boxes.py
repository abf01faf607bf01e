"""Boxes by name, such as `python:module:function`, `exe:path` and `gpu:INSTRUCTION`, and folders of questions."""

from __future__ import annotations

import importlib
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from codesign.probe.box import Box, Lines, Recorded, Signature, answers
from codesign.probe.exchange import parse_answers, parse_questions, read_round, rows_of, text_of, write_round
from codesign.probe.program import ended, run_program
from isa_model.array_codec import code_dtype
from isa_model.diagnostics import InputError, read_yaml
from isa_model.float64 import Codes
from isa_model.input_files import parse_json
from isa_model.instruction import Instruction
from isa_model.library import is_path, load, validated

TILES = 64
"""Tiles along M and N in one product of matrices, always as many, as a library may choose its kernel by the shape."""
MOST_OF_A_CASE = 400
"""Dot products that are taken of each case of a recording."""


@dataclass
class FunctionBox:
    """A Python function from codes to codes, line by line: of `a`, `b` and `c`, and of `scale_a`, `scale_b` and `positions` as
    far as the operands have them."""

    signature: Signature
    function: Callable[..., Any]

    def ask(self, lines: Lines) -> Codes:
        """Return what the function returns, as codes of D. It gets copies, which it may change."""
        dtype, shape = code_dtype(self.signature.spec.accumulator), lines.c.shape
        given = [x.copy() for x in self.signature.given(lines)]
        with _users_code("the function failed with ", f"expected {dtype} {shape}, a code of D for each line"):
            d = np.asarray(self.function(*given))
        return _codes(d, dtype, shape)


@dataclass
class SpecBox:
    """A spec of the language as a box: to probe what is known, and in tests."""

    signature: Signature
    hidden: Instruction

    def ask(self, lines: Lines) -> Codes:
        """Return the answers of the hidden spec."""
        return answers(self.hidden, lines)


@dataclass
class MatrixBox:
    """A function of whole matrices, D = f(A, B, C) on codes: lines go onto the diagonal of products of m by n."""

    signature: Signature
    function: Callable[..., Codes]
    """Takes A (M, K), B (K, N) and C (M, N) with M and N multiples of those of the signature, then scales of A (M, groups) and
    of B (groups, N) if there are any, and positions (M, runs) if A is sparse; returns D (M, N)."""

    def ask(self, lines: Lines) -> Codes:
        """Return D of every line. Lines lie on the diagonals of tiles of m by n, and many tiles on the diagonal of one call."""
        signature, shape = self.signature, self.signature.spec.shape
        side, d = min(shape.m, shape.n), np.empty(lines.c.shape, code_dtype(signature.spec.accumulator))
        scaled = [name for name, scales in zip("ab", signature.sides, strict=True) if scales]
        for first in range(0, len(d), side * TILES):
            a, b, c, *more = signature.given(lines.pick(slice(first, first + side * TILES)))
            n = np.arange(len(c))
            at = {name: n // side * size + n % side for name, size in (("a", shape.m), ("b", shape.n))}
            sides, matrices = ["a", "b", *scaled, *(["a"] if signature.sparse else [])], []
            for name, x in zip(sides, [a, b, *more], strict=True):
                rows = np.repeat(x[:1], TILES * (shape.m if name == "a" else shape.n), axis=0)
                rows[at[name]] = x
                matrices.append(rows if name == "a" else np.ascontiguousarray(rows.T))
            every_c = np.zeros((TILES * shape.m, TILES * shape.n), c.dtype)
            every_c[at["a"], at["b"]] = c
            result = np.asarray(self.function(*matrices[:2], every_c, *matrices[2:]))
            d[first : first + len(n)] = _codes(result, d.dtype, every_c.shape)[at["a"], at["b"]]
        return d


@dataclass
class ExecutableBox:
    """A program called as `program questions.txt answers.txt` once a round of questions."""

    signature: Signature
    command: Path

    def ask(self, lines: Lines) -> Codes:
        """Run the program on the questions and read its answers."""
        with tempfile.TemporaryDirectory() as folder:
            write_round(Path(folder), self.signature, lines)
            command = [str(self.command.resolve()), "questions.txt", "answers.txt"]
            hint = "an executable file, called as PATH questions.txt answers.txt"
            code, said = run_program(str(self.command), command, folder=Path(folder), hint=hint)
            if code:
                how = f"{self.command} failed with {ended(code)}"
                raise InputError.of(f"{how}: {said[:300]}" if said else how)
            return read_round(Path(folder), self.signature, len(lines.c), f"answers.txt of {self.command}")


class Unanswered(Exception):
    """A round of questions was written and waits for its answers."""

    def __init__(self, folder: Path) -> None:
        super().__init__(str(folder))
        self.folder = folder


@dataclass
class FolderBox:
    """Rounds of questions in a folder, answered elsewhere. The same answers lead to the same questions, so a run goes on
    where the last one stopped."""

    signature: Signature
    folder: Path
    rounds: int = 0

    def ask(self, lines: Lines) -> Codes:
        """Return the answers of the next round; without them, write its questions and raise Unanswered."""
        self.rounds += 1
        round_folder = self.folder / f"round-{self.rounds:02}"
        if (round_folder / "answers.txt").exists():
            if text_of(round_folder / "questions.txt") != rows_of(self.signature.given(lines)):
                message = f"{round_folder} holds other questions than this probe asks"
                hint = "version, --operands, --seconds, --outputs, --seed and answers as before, or a new folder"
                raise InputError.of(message, hint)
            return read_round(round_folder, self.signature, len(lines.c))
        write_round(round_folder, self.signature, lines)
        raise Unanswered(round_folder)


def _codes(d: Any, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Codes:
    """Return an array of a function's as codes of D, as a copy: the function may use its array again in the next round.

    Raises InputError for another shape, and for what is no integer of the size of a code.
    """
    if d.shape != shape or d.dtype.itemsize != dtype.itemsize or d.dtype.kind not in "iu":
        hint = f".view(np.{dtype}) gives the codes of floats" if d.dtype.kind == "f" else ""
        message = f"the function returned {d.dtype} {d.shape}; expected {dtype} {shape}, a code of D for each line"
        raise InputError.of(message, hint)
    return d.astype(d.dtype.newbyteorder("=")).view(dtype)  # type: ignore[no-any-return]


@contextmanager
def _users_code(what: str, hint: str) -> Iterator[None]:
    """Run a user's code: it prints to stderr, since stdout is the command's, and its exceptions become InputError."""
    try:
        with redirect_stdout(sys.stderr):
            yield
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise InputError.of(f"{what}{_said(error)}", hint) from None


def _said(error: BaseException) -> str:
    """Return the type of an error of the user's code and the first line of its message, unless showing it fails, too."""
    try:
        first = next(iter(str(error).splitlines()), "")[:300]
    except Exception:
        first = ""
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


# -- names -----------------------------------------------------------------------------------------------------------


def open_box(name: str, operands: str | None) -> Box:
    """Return the box that a name on the command line means; `operands` names an instruction with its shape and formats.

    Raises InputError for a name that means none, for a function or file that is not there, and for missing operands.
    """
    kind, _, rest = name.partition(":")
    if kind not in OPEN or not rest:
        raise InputError.of(f"no box is called `{name}`", f"one of: {', '.join(f'{k}:...' for k in OPEN)}")
    return OPEN[kind](rest, operands)


def signature_of(name: str | None) -> Signature:
    """Return the signature of an instruction, of the catalogue or a YAML file: its shape, formats and groups of scales.

    A file needs no stages. Raises InputError without a name, for what is wrong in a file, and for several levels of scales.
    """
    if name is None:
        hint = "--operands NAME, an instruction or YAML file with its shape and formats; its sums are not read"
        raise InputError.of("a box does not say which formats it takes", hint)
    if not is_path(name):
        return _of(load(name))
    document = read_yaml(name)
    register = {"format": document.data.get("accumulator", "fp32"), "rounding": "nearest-even"}
    stages = {"any": {"terms": 1, "accumulator": True, "result": register}}
    return _of(validated(replace(document, data={"stages": stages, **document.data})))


def _of(spec: Instruction) -> Signature:
    """Return the signature of a spec. Raises InputError for several levels of scales, which questions cannot have yet."""
    if any(side.coarser for side in spec.scales):
        message = f"{spec.name or 'the operands'}: scales have several levels, of which a probe asks one alone"
        raise InputError.of(message, "operands without `coarser`, and a box that keeps those scales at 1")
    return Signature(spec.dense, sparse=spec if spec.sparsity else None)


def _signature(spec: Instruction, operands: str | None) -> Signature:
    """Return the signature of a spec. Raises InputError if `operands` names another one."""
    own = _of(spec)
    if operands is not None:
        given = signature_of(operands)
        if (given.fields, given.sides) != (own.fields, own.sides):
            message = f"{operands} has another shape, other formats or other scales than {spec.name}"
            raise InputError.of(message, "leave --operands out: this box has its own")
    return own


def _python(name: str, operands: str | None) -> Box:
    module, _, function = name.partition(":")
    if "" not in sys.path:
        sys.path.insert(0, "")
    with _users_code(f"python:{name}: ", "python:module:function"):
        found = getattr(importlib.import_module(module), function)
    if not callable(found):
        raise InputError.of(f"python:{name} is no function", "python:module:function")
    return FunctionBox(signature_of(operands), found)


def _exe(path: str, operands: str | None) -> Box:
    if not Path(path).is_file():
        raise InputError.of(f"{path} is no file", "exe:PATH of a program")
    return ExecutableBox(signature_of(operands), Path(path))


def spec_box(spec: Instruction, operands: str | None = None) -> Box:
    """Return a spec as a box.

    Raises InputError for random bits and several levels of scales, and if `operands` names one of another signature.
    """
    if spec.is_stochastic:
        message = f"{spec.name} draws random bits, which no question sets: the same question has several answers"
        raise InputError.of(message, "a spec with another rounding")
    return SpecBox(_signature(spec, operands), spec.dense)


def _vectors(path: str, operands: str | None) -> Box:
    if path.endswith(".npz"):
        return _recording(Path(path), operands)
    if path.endswith("log.json"):
        return _log(Path(path), signature_of(operands))
    from isa_model.vectors.vector_files import read

    ((_, vectors),) = list(read(Path(path)))[:1]
    spec = vectors.spec
    if spec.sparsity or spec.is_stochastic:
        what = "are of a sparse instruction" if spec.sparsity else "draw random bits"
        raise InputError.of(f"{path}: vectors {what}, which a probe cannot read", "vectors of a dense instruction")

    def column(name: str, fmt: Any) -> Codes:
        return np.array([getattr(v, name) for v in vectors.vectors], code_dtype(fmt))

    signature = _signature(spec, operands)
    scales = [
        None if s is None else column(n, s[0])
        for n, s in zip(("scale_a", "scale_b"), signature.scale_formats, strict=True)
    ]
    lines = Lines(column("a", spec.a), column("b", spec.b), column("c", spec.c_format), *scales)
    return Recorded(signature, lines, column("d", spec.accumulator))


def _recording(path: Path, operands: str | None) -> Box:
    """Return the dot products of one instruction in a recording: a few hundred of each case."""
    from isa_model.conformance import dot_products

    signature, rng = signature_of(operands), np.random.default_rng(0)
    cases = dot_products(path, signature.spec)
    some = [rng.permutation(len(d))[:MOST_OF_A_CASE] for *_, d in cases]
    a, b, c, d = (
        np.concatenate([x[i] for x, i in zip(parts, some, strict=True)]) for parts in zip(*cases, strict=True)
    )
    return Recorded(signature, Lines(a, b, c), d)


def _log(path: Path, signature: Signature) -> Box:
    """Return what an earlier probe asked and was answered."""
    text, own = text_of(path), signature.fields
    try:
        log = parse_json(text)
        if (found := log.get("signature", own)) != own:
            raise ValueError(f"its operands are {found}")
        lines, given = parse_questions(signature, log["questions"]), [str(x) for x in log["answers"]]
        nans = [str(x) for x in log.get("nans", [])]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        message = f"{path} is no log of a probe of these operands: {_said(error)}"
        raise InputError.of(message, "log.json of a certificate") from None
    if not given:
        raise InputError.of(f"{path} holds no answers", "log.json of a certificate")
    name = str(path)
    told = parse_answers(signature, nans, len(nans), name)
    return Recorded(signature, lines, parse_answers(signature, given, len(lines.c), name), tuple(told.tolist()))


def _gpu(name: str, operands: str | None) -> Box:
    from kernels import native

    spec = load(name)
    try:
        native.parse(name)
    except ValueError as error:
        raise InputError.of(str(error), "`codesign list` shows those of Hopper") from None
    signature = _signature(spec, operands)
    native.check_gpu()
    return MatrixBox(signature, lambda *given: native.matmul(name, *given))


def _mmasim(name: str, operands: str | None) -> Box:
    try:
        oracles = importlib.import_module("checks.oracle")
    except ImportError as error:
        raise InputError.of(f"mmasim:{name}: {error}", "pip install -e '.[oracle]' in a checkout") from None
    from isa_model.stimulus import StressOperands

    spec = load(name)
    if name not in oracles.instructions():
        raise InputError.of(f"mmasim has no instruction {name}", "`codesign list` shows those of its ten architectures")
    oracle = oracles.Oracle(spec)
    return MatrixBox(_signature(spec, operands), lambda *given: oracle(StressOperands(*given)))


def _cu(path: str, operands: str | None) -> Box:
    from codesign.probe.compiled_box import open_compiled

    signature = signature_of(operands)
    if signature.sparse:
        raise InputError.of(
            f"cu:{path}: `run` takes no positions of a sparse operand", "python: or exe:, or dense operands"
        )
    return open_compiled(path, signature)


OPEN: dict[str, Callable[[str, str | None], Box]] = {
    "python": _python,
    "exe": _exe,
    "cu": _cu,
    "spec": lambda name, operands: spec_box(load(name), operands),
    "vectors": _vectors,
    "gpu": _gpu,
    "mmasim": _mmasim,
}
"""What opens a box, by the first part of its name."""
