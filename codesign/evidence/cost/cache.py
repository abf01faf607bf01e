"""Measured designs kept in the user's cache: by RTLIL, library, recipe, tools, workload and the sources that measure."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from codesign.evidence.cost.records import Record, design_sha256
from isa_model import user_cache as cache
from isa_model.instruction import Instruction

if TYPE_CHECKING:
    from codesign.evidence.cost.library import Library
    from codesign.evidence.cost.vectors import Vectors


def key(spec: Instruction, sources: Sequence[str], library: Library, workload: Vectors, operands: str) -> str:
    """Hash of everything a record of a design depends on."""
    tools = [f"{name} {version(name)}" for name in ("amaranth", "pyosys", "numpy")]
    digest = hashlib.sha256()
    for text in (design_sha256(spec), *sources, library.name, library.text, *tools, _method(), operands):
        digest.update(hashlib.sha256(text.encode()).digest())
    for codes in (*workload.operands.values(), workload.d):
        digest.update(hashlib.sha256(codes.tobytes()).digest())
    return digest.hexdigest()


@functools.cache
def _method() -> str:
    """Hash of the modules that synthesise, prove and measure; what they write and compare with shows in other inputs."""
    names = ("energy", "library", "measure", "netlist", "pipeline", "records", "synth", "vectors", "verify")
    texts = [Path(__file__).with_name(f"{name}.py").read_bytes() for name in names]
    return hashlib.sha256(b"".join(texts)).hexdigest()


def read(key: str) -> Record | None:
    path = cache.read(key, ".json")
    try:
        return Record.model_validate_json(path.read_text(encoding="utf-8")) if path else None
    except (OSError, ValidationError):
        return None


def write(key: str, record: Record) -> None:
    """Keep a record; a cache that cannot be written is none."""
    cache.keep(key, ".json", record.model_dump_json().encode())
