"""The cost record of a design that ships: a file of its own, since worker processes do not import their starter's program."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from codesign.commit import commit
from codesign.evidence.cost.attribution import SHARED_NAME
from codesign.evidence.cost.cell_library import Library
from codesign.evidence.cost.energy import energy_vectors
from codesign.evidence.cost.measured_unit import measure, measure_shared
from codesign.evidence.cost.records import CostRecord, toolchain
from isa_model.instruction import Instruction

Job = tuple[Instruction | Sequence[Instruction], Library, bool]
"""An instruction, or those of a shared datapath, a library, and whether the comparison is thorough (`measure`)."""


def is_current(record: CostRecord | None, job: Job) -> bool:
    """Return whether a shipped record is of this design's RTL, library and tools, and of a known commit."""
    from codesign.evidence.cost.rtl.ports import shared_uses
    from codesign.evidence.cost.rtl.shared import shared_unit
    from codesign.evidence.cost.rtl.unit import unit

    if record is None or not record.commit or "+" in record.commit:
        return False
    spec, library, thorough = job
    if thorough and not record.equivalence.faults:
        return False
    tools = toolchain(library, record.commit)
    if any(getattr(record, field) != value for field, value in tools.items()):
        return False
    rtlil = unit(spec, shared_uses(spec) > 1) if isinstance(spec, Instruction) else shared_unit(spec)
    return record.rtlil_sha256 == hashlib.sha256(rtlil.encode()).hexdigest()


def record_of(job: Job) -> CostRecord:
    """Map an instruction's unit, or a shared datapath, compare it with the model, and return its record."""
    spec, library, thorough = job
    if isinstance(spec, Instruction):
        return measure(spec, library, *energy_vectors(spec), commit(), thorough=thorough)
    name = f"{SHARED_NAME}, {next(iter(spec[0].stages.values())).fraction_bits} fraction bits of FP8"
    return measure_shared(spec, library, *energy_vectors(spec[0]), name, commit())
