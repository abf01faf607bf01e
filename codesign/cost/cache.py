"""Measured designs kept in the user's cache: by RTLIL, library, recipe, tools, workload and the sources that measure."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from codesign.cost.records import Record, design_sha256
from isa_model.diagnostics import InputError
from isa_model.files import write_file
from isa_model.instruction import Instruction

if TYPE_CHECKING:
    from codesign.cost.library import Library
    from codesign.cost.vectors import Vectors


def key(spec: Instruction, sources: Sequence[str], library: Library, workload: Vectors, operands: str) -> str:
    """Hash of everything a record of a design depends on."""
    tools = [f"{name} {version(name)}" for name in ("amaranth", "pyosys", "numpy")]
    digest = hashlib.sha256()
    for text in (design_sha256(spec), *sources, library.name, library.text, *tools, _method(), operands):
        digest.update(hashlib.sha256(text.encode()).digest())
    for codes in (*workload.operands.values(), workload.d):
        digest.update(hashlib.sha256(codes.tobytes()).digest())
    return digest.hexdigest()


@cache
def _method() -> str:
    """Hash of the modules that synthesise, prove and measure; what they write and compare with shows in other inputs."""
    names = ("energy", "library", "measure", "netlist", "pipeline", "records", "synth", "vectors", "verify")
    texts = [Path(__file__).with_name(f"{name}.py").read_bytes() for name in names]
    return hashlib.sha256(b"".join(texts)).hexdigest()


def _path(key: str) -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "codesign" / "cost" / f"{key}.json"


def read(key: str) -> Record | None:
    try:
        return Record.model_validate_json(_path(key).read_text(encoding="utf-8"))
    except (OSError, ValidationError):
        return None


def write(key: str, record: Record) -> None:
    """Keep a record; a cache that cannot be written is none."""
    path = _path(key)
    try:
        write_file(path, record.model_dump_json())
    except InputError:
        return
