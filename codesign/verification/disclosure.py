"""A disclosure of an instruction for standards that ask for it: parameters as JSON, C reference, pseudo-code, vectors.

RISC-V IME defines floating-point sums by (G, psm, rnd) for each (SEW, W, lambda). psm = 1 is a sum that is not exact: an
implementation shall publish its reduction algorithm and the values of its parameters (riscv/integrated-matrix-extension, pull
request 46, merged in May 2026; the notes of release fa55752 describe the three parameters).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from codesign.proposal.manual import KNOWN, page
from codesign.verification.pseudocode import pseudocode
from isa_model.c_golden.source import header, levels, source
from isa_model.diagnostics import InputError
from isa_model.input_files import MIB, parse_json, read_text
from isa_model.instruction import Instruction
from isa_model.output_files import check_folder, write_folder
from isa_model.vectors.vector_files import LINES, fingerprint, lines

SCHEMA = "codesign.disclosure/1"
KIND = "a disclosure"
FILE = "disclosure.json"
IME = "https://github.com/riscv/integrated-matrix-extension/pull/46"


def write(spec: Instruction, folder: Path, count: int = 4000) -> dict[str, Any]:
    """Write the disclosure of an instruction into `folder`, and return the content of its JSON file.

    Raises InputError if the folder cannot be written, and for an instruction that the C reference refuses.
    """
    check_folder(folder, KIND)
    files = {"golden.h": header(spec), "golden.c": source(spec), "pseudocode.md": pseudocode(spec)}
    vectors, why_not = _vectors(spec, count)
    if vectors:
        files[LINES] = vectors
    document = disclosed(spec, why_not)
    files[FILE] = json.dumps(document, indent=1) + "\n"
    write_folder(folder, files, KIND)
    return document


def disclosed(spec: Instruction, why_no_vectors: str = "") -> dict[str, Any]:
    """Return the content of disclosure.json."""
    sections = {section.title: list(section.lines) for section in page(spec)}
    return {
        "schema": SCHEMA,
        "instruction": spec.name,
        "description": spec.description,
        "known": KNOWN[spec.known] if spec.known else "a proposal, or described by its author",
        "source": spec.source,
        "algorithm": sections["Semantics"],
        "special_values": sections["Special values"],
        "riscv_ime": ime(spec),
        "parameters": spec.model_dump(mode="json", exclude_defaults=True),
        "parameters_sha256": fingerprint(spec),
        "reference": {
            "files": ["golden.c", "golden.h"],
            "function": "golden_run",
            "language": "C99, integers only",
            "operands": _operands(spec.dense),
        },
        "pseudocode": "pseudocode.md",
        "vectors": {"file": LINES} if not why_no_vectors else {"none": why_no_vectors},
    }


def _operands(spec: Instruction) -> list[str]:
    scales = [f"{-(-spec.shape.k // group)} codes of {level.format.name}" for level, group in levels(spec)]
    return [
        f"a: {spec.shape.k} codes of {spec.a.name}",
        f"b: {spec.shape.k} codes of {spec.b.name}",
        f"c: a code of {spec.c_format.name}",
        *(f"scale, level {i}: {text}" for i, text in enumerate(scales)),
        *(
            ["goes_on, running, rest: 1 and both registers of the trace of the instruction before; 0 starts from C"]
            if spec.remainder
            else []
        ),
    ]


def ime(spec: Instruction) -> dict[str, Any]:
    """Return RISC-V IME's parameters of an instruction, by IME's names, and where it is not of IME's form.

    IME adds up groups of G sub-dot-products, each of W products (W = SEW over the width of an input), and adds each group's sum
    S to C: C = round(C + S), with S rounded to odd before if rnd is 1. An exact S has psm 0, any other psm 1.
    """
    sew, width, inner = spec.accumulator.bits, spec.a.bits, list(spec.stages.values())[:-1]
    last = list(spec.stages.values())[-1]
    found: dict[str, Any] = {"source": IME, "SEW": sew}
    if spec.b.bits != width or sew % width:
        return found | {"not_of_this_form": f"inputs of {width} and {spec.b.bits} bits do not divide SEW"}
    w = sew // width
    found |= {"W": w, "lambda": spec.stored_k // w if spec.stored_k % w == 0 else spec.stored_k / w}
    if spec.is_integer:
        return found | {"note": "integer sums: IME wraps modulo 2^SEW, in any order"}
    group = spec.products_per_result(len(inner) - 1) * last.terms
    registers = [r for stage in inner for r in stage.result]
    before_c = inner[-1].result[-1:] if inner else ()
    to_odd = any(r.rounding == "to-odd" for r in before_c)
    aligned = any(stage.aligned for stage in (*inner, last))
    exact = not aligned and len(registers) == int(to_odd)
    found |= {"G": group // w if group % w == 0 else group / w, "psm": int(not exact), "rnd": int(to_odd)}
    if last.aligned:
        found["not_of_this_form"] = "C is aligned and cut together with the products; IME adds C to a finished sum"
    elif last.remainder:
        found["not_of_this_form"] = "a second register keeps what rounding the sum with C loses; IME keeps one"
    elif last.result and last.result[-1].format != spec.accumulator:
        found["not_of_this_form"] = f"the sum with C is rounded to {last.result[-1].format.name}, not to SEW's format"
    return found


def _vectors(spec: Instruction, count: int) -> tuple[str, str]:
    """Return the text of vectors, or why there are none."""
    from isa_model.vectors.make import covering

    try:
        return lines(covering(spec, count)), ""
    except InputError as error:
        return "", error.problems[0].message


def read(path: Path) -> Instruction:
    """Return the instruction that a disclosure.json describes. Raises InputError for another or a changed file."""
    try:
        document = parse_json(read_text(path, MIB))
    except (OSError, ValueError) as error:
        raise InputError.of(
            f"{path} cannot be read as JSON: {error}", "a file that `codesign disclose` wrote"
        ) from None
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        raise InputError.of(f"{path} has no schema `{SCHEMA}`", "a file that `codesign disclose` wrote")
    try:
        spec = Instruction.model_validate(document.get("parameters"))
    except ValidationError as error:
        fault = error.errors()[0]
        raise InputError.of(f"{path}: parameters.{'.'.join(map(str, fault['loc']))}: {fault['msg']}") from None
    if fingerprint(spec) != document.get("parameters_sha256"):
        raise InputError.of(f"{path}: the parameters do not match their `parameters_sha256`", "one of them was changed")
    return spec
