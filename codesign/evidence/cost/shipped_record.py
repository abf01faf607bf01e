"""The cost record of a design that ships: a file of its own, since worker processes do not import their starter's program."""

from __future__ import annotations

from collections.abc import Sequence

from codesign.commit import commit
from codesign.evidence.cost.attribution import SHARED_NAME
from codesign.evidence.cost.cell_library import Library
from codesign.evidence.cost.energy import energy_vectors
from codesign.evidence.cost.measured_unit import measure, measure_shared
from codesign.evidence.cost.records import CostRecord
from isa_model.instruction import Instruction

Job = tuple[Instruction | Sequence[Instruction], Library]
"""An instruction, or those of a shared datapath, and a library."""


def record_of(job: Job) -> CostRecord:
    """Map an instruction's unit, or a shared datapath, compare it with the model, and return its record."""
    spec, library = job
    if isinstance(spec, Instruction):
        return measure(spec, library, *energy_vectors(spec), commit())
    name = f"{SHARED_NAME}, {next(iter(spec[0].stages.values())).fraction_bits} fraction bits of FP8"
    return measure_shared(spec, library, *energy_vectors(spec[0]), name, commit())
