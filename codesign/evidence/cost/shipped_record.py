"""The cost record of a design that ships: a file of its own, since worker processes do not import their starter's program."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from codesign.commit import commit
from codesign.evidence.cost.attribution import SHARED_NAME
from codesign.evidence.cost.cell_library import Library
from codesign.evidence.cost.energy import energy_vectors
from codesign.evidence.cost.folded import measure_folded
from codesign.evidence.cost.measured_unit import measure, measure_shared
from codesign.evidence.cost.records import CostRecord, find, toolchain
from isa_model.instruction import Instruction


@dataclass(frozen=True)
class Job:
    """A design to measure."""

    design: Instruction | Sequence[Instruction]
    """An instruction, or those of a shared datapath."""
    library: Library
    thorough: bool
    """Whether the comparison is thorough (`measure`)."""
    folded: bool = False
    """Whether the instruction's unit is folded."""


def is_current(job: Job) -> bool:
    """Return whether there is a shipped record of a design's RTL, library and tools, and of a known commit."""
    from codesign.evidence.cost.rtl import folded
    from codesign.evidence.cost.rtl.ports import shared_uses
    from codesign.evidence.cost.rtl.shared import shared_unit
    from codesign.evidence.cost.rtl.unit import unit

    record = find(job.design, job.library.name, job.folded)
    if record is None or not record.commit or "+" in record.commit:
        return False
    spec = job.design
    if job.thorough and not job.folded and not record.equivalence.faults:
        return False
    tools = toolchain(job.library, record.commit)
    if any(getattr(record, field) != value for field, value in tools.items()):
        return False
    if not isinstance(spec, Instruction):
        rtlil = shared_unit(spec)
    elif job.folded:
        rtlil = folded.front(spec) + folded.tail(spec)
    else:
        rtlil = unit(spec, shared_uses(spec) > 1)
    return record.rtlil_sha256 == hashlib.sha256(rtlil.encode()).hexdigest()


def record_of(job: Job) -> CostRecord:
    """Map an instruction's unit, or a shared datapath, compare it with the model, and return its record."""
    spec, library = job.design, job.library
    if isinstance(spec, Instruction):
        workload = energy_vectors(spec)
        if job.folded:
            return measure_folded(spec, library, *workload, commit())
        return measure(spec, library, *workload, commit(), thorough=job.thorough)
    name = f"{SHARED_NAME}, {next(iter(spec[0].stages.values())).fraction_bits} fraction bits of FP8"
    return measure_shared(spec, library, *energy_vectors(spec[0]), name, commit())
