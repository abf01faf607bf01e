"""Files of vectors: JSON lines, hex files for Verilog's $readmemh, and their coverage.

- vectors.jsonl: one JSON object per line, first a header, then the vectors; codes are hex digits without a prefix.
- <field>.hex: one word per line, a vector's codes of that field, code 0 in the lowest bits. Comments at the top describe
  the packing, and hold the header of vectors.jsonl, so that either form can be read alone.
- coverage.json: the number of vectors in each bin.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from isa_model.diagnostics import InputError
from isa_model.input_files import MIB, parse_json, read_text, reason
from isa_model.instruction import Instruction
from isa_model.output_files import check_folder, reading, write_folder
from isa_model.printable import visible
from isa_model.vectors.coverage import CoverageRow
from isa_model.vectors.vector import Field, Vector, Vectors, fields

SCHEMA = "codesign.vectors/1"
COVERAGE_SCHEMA = "codesign.vectors.coverage/1"
LINES, COVERAGE = "vectors.jsonl", "coverage.json"
KIND = "vectors"
LARGEST = 256 * MIB
"""Size of the largest file of vectors that is read, in bytes; 10,000 vectors of K = 32 take 5 MiB."""
_HEADER = "// header: "


# -- writing ---------------------------------------------------------------------------------------------------------


def check(folder: Path) -> None:
    """Raise InputError if vectors cannot be written to `folder`."""
    check_folder(folder, KIND)


def write(vectors: Vectors, coverage: Iterable[CoverageRow], folder: Path) -> None:
    """Write both forms and the coverage into `folder`, replacing older vectors there as a whole.

    Raises InputError if the folder cannot be written or holds something else.
    """
    header = _header(vectors)
    contents = {LINES: lines(vectors)}
    for name, shape in vectors.fields.items():
        contents[f"{name}.hex"] = "\n".join(_hex(vectors, header, name, shape)) + "\n"
    contents[COVERAGE] = json.dumps(coverage_document(vectors, coverage), indent=1) + "\n"
    write_folder(folder, contents, KIND)


def lines(vectors: Vectors) -> str:
    """Return the content of vectors.jsonl."""
    return "\n".join(_lines(vectors, _header(vectors))) + "\n"


def fingerprint(spec: Instruction) -> str:
    """Return the SHA-256 of an instruction's spec as canonical JSON."""
    text = json.dumps(_plain(spec), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def coverage_document(vectors: Vectors, coverage: Iterable[CoverageRow]) -> dict[str, Any]:
    """Return the content of coverage.json: by category and point, the vectors in each bin, and why others have none."""
    return {
        "schema": COVERAGE_SCHEMA,
        "instruction": vectors.spec.name,
        "spec_sha256": fingerprint(vectors.spec),
        "seed": vectors.seed,
        "vectors": len(vectors.vectors),
        "rows": [
            {
                "category": row.category,
                "point": row.point,
                "wanted": len(row.wanted),
                "hit": len(row.wanted) - len(row.missed),
                "missed": row.missed,
                "vectors_by_bin": row.wanted,
                "not_applicable": row.unreachable,
            }
            for row in coverage
        ],
    }


def _plain(spec: Instruction) -> dict[str, Any]:
    return spec.model_dump(mode="json", exclude_defaults=True)


def _header(vectors: Vectors) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "instruction": vectors.spec.name,
        "spec": _plain(vectors.spec),
        "spec_sha256": fingerprint(vectors.spec),
        "seed": vectors.seed,
        "vectors": len(vectors.vectors),
        "fields": {name: shape._asdict() for name, shape in vectors.fields.items()},
    }


def _codes(vector: Vector, name: str) -> tuple[int, ...]:
    value = getattr(vector, name)
    return value if isinstance(value, tuple) else (value,)


def _lines(vectors: Vectors, header: dict[str, Any]) -> Iterator[str]:
    yield json.dumps(header)
    for vector in vectors.vectors:
        line: dict[str, Any] = {"case": vector.case}
        for name, shape in vectors.fields.items():
            codes = [f"{code:0{-(-shape.bits // 4)}x}" for code in _codes(vector, name)]
            line[name] = codes[0] if name in "cd" else codes
        yield json.dumps(line)


def _hex(vectors: Vectors, header: dict[str, Any], name: str, shape: Field) -> Iterator[str]:
    width, count, last = shape.codes * shape.bits, len(vectors.vectors), shape.bits - 1
    yield f"// {SCHEMA}: {name} of {visible(vectors.spec.name)}, {count} vectors, one word a line"
    packing = (
        "one code" if shape.codes == 1 else f"{shape.codes} codes, code i in bits {shape.bits}*i+{last}:{shape.bits}*i"
    )
    yield f"// a word is {width} bits wide: {packing}; a code is {shape.bits} bits of {shape.format}"
    yield f'// reg [{width - 1}:0] {name} [0:{count - 1}]; initial $readmemh("{name}.hex", {name});'
    yield _HEADER + json.dumps(header)
    for vector in vectors.vectors:
        word = sum(code << shape.bits * i for i, code in enumerate(_codes(vector, name)))
        yield f"{word:0{-(-width // 4)}x}"


# -- reading ---------------------------------------------------------------------------------------------------------


def read(path: Path) -> Iterator[tuple[str, Vectors]]:
    """Yield the vectors in a folder or file, with the name of what was read; a folder may hold both forms.

    A .hex file is read with the other ones of its folder. Raises InputError if a file is missing or contradicts its header.
    """
    if path.is_dir():
        forms = [p for p in (path / LINES, path / "d.hex") if p.exists()]
        if not forms:
            raise InputError.of(f"{path} holds no vectors", f"{LINES} or .hex files, as `codesign vectors` writes them")
        with reading(path):
            found = [vectors for form in forms for vectors in read(form)]
        yield from found
    elif path.suffix == ".hex":
        yield f"{path.parent / '*.hex'}", _read_hex(path.parent)
    else:
        yield f"{path}", _read_lines(path)


def _read_lines(path: Path) -> Vectors:
    first, *rest = _text(path).splitlines() or [""]
    header = _object(path, 1, first)
    spec = _spec(path, header)
    shapes = fields(spec)
    vectors = []
    for number, text in enumerate(rest, 2):
        line = _object(path, number, text)
        values: dict[str, Any] = {"scale_a": (), "scale_b": (), "random": ()}
        for name, shape in shapes.items():
            given = line.get(name)
            codes = [given] if isinstance(given, str) else given if isinstance(given, list) else []
            if len(codes) != shape.codes:
                raise InputError.of(f"{path}:{number}: `{name}` has {len(codes)} codes, not {shape.codes}")
            numbers = tuple(_number(path, number, code, shape.bits) for code in codes)
            values[name] = numbers[0] if name in "cd" else numbers
        vectors.append(Vector(**values, case=str(line.get("case", ""))))
    return _checked(path, header, spec, vectors)


def _read_hex(folder: Path) -> Vectors:
    main = folder / "d.hex"
    header, _ = _words(main)
    spec = _spec(main, header)
    values: dict[str, list[Any]] = {}
    for name, shape in fields(spec).items():
        path = folder / f"{name}.hex"
        own, words = _words(path)
        if own != header:
            raise InputError.of(
                f"{path} and {main} have different headers", "all .hex files of one run of `codesign vectors`"
            )
        packed = [_number(path, number, word, shape.bits * shape.codes) for number, word in words]
        mask = (1 << shape.bits) - 1
        values[name] = [tuple(word >> shape.bits * i & mask for i in range(shape.codes)) for word in packed]
        if name in "cd":
            values[name] = [codes[0] for codes in values[name]]
        if len(packed) != header.get("vectors"):
            raise InputError.of(f"{path} holds {len(packed)} words, its header says {header.get('vectors')}")
    vectors = [
        Vector(**{"scale_a": (), "scale_b": (), "random": (), **dict(zip(values, row, strict=True))})
        for row in zip(*values.values(), strict=True)
    ]
    return _checked(main, header, spec, vectors)


def _words(path: Path) -> tuple[dict[str, Any], list[tuple[int, str]]]:
    """Return the header of a hex file, and its words with their line numbers."""
    header: dict[str, Any] = {}
    words = []
    for number, line in enumerate(_text(path).splitlines(), 1):
        if line.startswith(_HEADER):
            header = _object(path, number, line.removeprefix(_HEADER))
        elif line.strip() and not line.startswith("//"):
            words.append((number, line.strip()))
    if not header:
        raise InputError.of(f"{path} has no header", f"a line `{_HEADER.strip()} ...`, as `codesign vectors` writes it")
    return header, words


def _text(path: Path) -> str:
    try:
        return read_text(path, LARGEST)
    except OSError as error:
        raise InputError.of(f"{path} cannot be read: {reason(error)}") from None
    except UnicodeDecodeError:
        raise InputError.of(f"{path} is not a file of vectors: it is not text") from None


def _object(path: Path, number: int, text: str) -> dict[str, Any]:
    try:
        value = parse_json(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise InputError.of(
            f"{path}:{number}: not a JSON object", f"a line as `codesign vectors` writes it into {LINES}"
        )
    return value


def _spec(path: Path, header: dict[str, Any]) -> Instruction:
    if header.get("schema") != SCHEMA:
        raise InputError.of(f"{path}: the header has schema `{header.get('schema')}`", f"this version reads {SCHEMA}")
    try:
        spec = Instruction.model_validate(header.get("spec"))
    except ValidationError as error:
        fault = error.errors()[0]
        place = ".".join(map(str, fault["loc"]))
        raise InputError.of(f"{path}: the header's spec is not an instruction: {place}: {fault['msg']}") from None
    if fingerprint(spec) != header.get("spec_sha256"):
        raise InputError.of(f"{path}: the header's spec does not match its `spec_sha256`", "one of them was changed")
    return spec


def _number(path: Path, number: int, text: Any, bits: int) -> int:
    digits = text if isinstance(text, str) else ""
    if not digits or set(digits) - set("0123456789abcdefABCDEF") or int(digits, 16) >> bits:
        raise InputError.of(f"{path}:{number}: `{text}` is not a hex number of {bits} bits")
    return int(digits, 16)


def _checked(path: Path, header: dict[str, Any], spec: Instruction, vectors: list[Vector]) -> Vectors:
    if not vectors or len(vectors) != header.get("vectors"):
        raise InputError.of(f"{path} holds {len(vectors)} vectors, its header says {header.get('vectors')}")
    seed = header.get("seed")
    if not isinstance(seed, int):
        raise InputError.of(f"{path}: the header's seed is `{seed}`, not a whole number")
    return Vectors(spec, seed, tuple(vectors))
