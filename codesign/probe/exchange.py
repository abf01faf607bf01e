"""The exchange of questions and answers as text, for RTL simulators and for machines elsewhere.

`questions.txt` has a line for each question: the codes of the row of A, of the column of B, of the scales of A and of B if
there are any, of the positions of stored elements if an operand is sparse, and of C, in hexadecimal, separated by spaces.
`answers.txt` has as many lines, each with the code of D in hexadecimal. `signature.yaml` names formats.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import yaml

from codesign.probe.box import Lines, Signature
from isa_model.array_codec import code_dtype
from isa_model.diagnostics import InputError
from isa_model.float64 import Codes
from isa_model.input_files import MIB, read_text, reason
from isa_model.output_files import write_file

_CODE = re.compile("(0[xX])?[0-9a-fA-F]+")
"""A code; Python's own `int` also takes underscores and the digits of other scripts."""
MOST_TEXT = 1024 * MIB
"""Bytes of a file of questions or answers that are read."""


def question_text(lines: Lines) -> str:
    """Return questions as text, a line each; those of a sparse box without what is not stored."""
    return rows_of([x for x in lines if x is not None])


def rows_of(given: list[Codes]) -> str:
    """Return the codes of questions as text, those of C last."""
    a, b, c, *more = given
    columns = [a, b, *more, c[:, None]]
    rows = np.concatenate([x.astype(np.uint64) for x in columns], axis=1).tolist()
    return "".join(" ".join(f"{code:x}" for code in row) + "\n" for row in rows)


def parse_questions(signature: Signature, rows: list[str]) -> Lines:
    """Return the questions that lines of text hold.

    Raises ValueError for lines with too many or too few codes, and for a code that is too large.
    """
    spec, k = signature.spec, signature.spec.shape.k
    parts = [(spec.a, k), (spec.b, k), *signature.scale_formats, (spec.c_format, 1)]
    widths = [part[1] if part else 0 for part in parts]
    if any(not _CODE.fullmatch(code) for row in rows for code in row.split()):
        raise ValueError("a code has other characters than hexadecimal digits")
    table = [[int(code, 16) for code in row.split()] for row in rows]
    if any(len(row) != sum(widths) for row in table):
        raise ValueError(f"a question has {sum(widths)} codes")
    bits = [part[0].storage_bits for part in parts if part for _ in range(part[1])]
    if any(not 0 <= code < 1 << size for row in table for code, size in zip(row, bits, strict=True)):
        raise ValueError("a code is too large for its format")
    codes = np.array(table, np.uint64).reshape(len(rows), sum(widths))
    columns = zip(np.split(codes, np.cumsum(widths)[:-1], axis=1), parts, strict=True)
    a, b, *scales, c = (x.astype(code_dtype(part[0])) if part else None for x, part in columns)
    return Lines(a, b, c[:, 0], *scales)  # type: ignore[arg-type,index]


def write_round(folder: Path, signature: Signature, lines: Lines) -> None:
    """Write the questions of one round and what they mean. Raises InputError if the folder cannot be written."""
    scales = [{"format": s[0].name, "count": s[1]} if s else None for s in signature.scale_formats]
    about = {**signature.fields, "scale_a": scales[0], "scale_b": scales[1], "questions": len(lines.c)}
    if signature.sparse:
        about |= signature.sparse.model_dump(mode="json", include={"shape", "sparsity"})
    write_file(folder / "signature.yaml", yaml.safe_dump(about, sort_keys=False))
    write_file(folder / "questions.txt", rows_of(signature.given(lines)))


def read_round(folder: Path, signature: Signature, count: int, name: str = "") -> Codes:
    """Return the answers of a round; `name` is what errors call their file.

    Raises InputError unless there is a code of D for each question.
    """
    path = folder / "answers.txt"
    return parse_answers(signature, text_of(path, name).splitlines(), count, name or str(path))


def parse_answers(signature: Signature, texts: list[str], count: int, name: str) -> Codes:
    """Return the codes of D on the lines of a file that are not blank.

    Raises InputError, with the file's `name` and the line, unless there are `count` of them.
    """
    fmt = signature.spec.accumulator
    numbered = [(number, text.strip()) for number, text in enumerate(texts, 1) if text.strip()]
    for number, text in numbered:
        if not _CODE.fullmatch(text) or int(text, 16) >= 1 << fmt.storage_bits:
            message = f"{name}:{number}: `{text[:40]}` is no code of {fmt.name}"
            raise InputError.of(message, f"up to {-(-fmt.storage_bits // 4)} hexadecimal digits")
    if len(numbered) != count:
        message = f"{name} has {len(numbered)} answers to {count} questions"
        raise InputError.of(message, "one code of D a line, in hexadecimal")
    return np.array([int(text, 16) for _, text in numbered], code_dtype(fmt))


def text_of(path: Path, name: str = "") -> str:
    """Return the text of a file. Raises InputError, with its `name`, if it cannot be read."""
    try:
        return read_text(path, MOST_TEXT)
    except OSError as error:
        raise InputError.of(f"{name or path} cannot be read: {reason(error)}") from None
    except UnicodeDecodeError:
        raise InputError.of(f"{name or path} is no text", "hexadecimal codes") from None
