"""Cache of cost records, in the user's cache folder."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from codesign.evidence.cost.records import CostRecord, design_sha256
from isa_model import user_cache
from isa_model.instruction import Instruction

if TYPE_CHECKING:
    from codesign.evidence.cost.cell_library import Library
    from codesign.evidence.cost.unit_vectors import UnitVectors


def key(spec: Instruction, sources: Sequence[str], library: Library, workload: UnitVectors, operands: str) -> str:
    """Return the hash of everything that a record depends on.

    `sources` is the RTLIL of the design, and `operands` describes the workload.
    """
    tools = [f"{name} {version(name)}" for name in ("amaranth", "pyosys", "numpy")]
    digest = hashlib.sha256()
    for text in (design_sha256(spec), *sources, library.name, library.text, *tools, _method(), operands):
        digest.update(hashlib.sha256(text.encode()).digest())
    for codes in (*workload.operands.values(), workload.d):
        digest.update(hashlib.sha256(codes.tobytes()).digest())
    return digest.hexdigest()


@functools.cache
def _method() -> str:
    """Return the hash of the modules that synthesise, prove and measure."""
    names = (
        "energy",
        "cell_library",
        "measured_unit",
        "netlist",
        "pipeline",
        "records",
        "sized",
        "synth",
        "unit_vectors",
        "verify",
    )
    texts = [Path(__file__).with_name(f"{name}.py").read_bytes() for name in names]
    return hashlib.sha256(b"".join(texts)).hexdigest()


def read(key: str) -> CostRecord | None:
    """Return the cached record of a key; None if there is none that can be read."""
    path = user_cache.read(key, ".json")
    try:
        return CostRecord.model_validate_json(path.read_text(encoding="utf-8")) if path else None
    except (OSError, ValidationError):
        return None


def write(key: str, record: CostRecord) -> None:
    """Keep a record, unless the cache cannot be written."""
    user_cache.keep(key, ".json", record.model_dump_json().encode())
