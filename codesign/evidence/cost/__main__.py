"""`python -m codesign.evidence.cost PROPOSAL... [--liberty FILE]`: write the shipped cost records of proposals."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from codesign.commit import commit
from codesign.evidence.cost.attribution import SHARED_NAME, shared, steps
from codesign.evidence.cost.cell_library import Library
from codesign.evidence.cost.measured_unit import measure, measure_shared
from codesign.evidence.cost.records import CostRecord, design_sha256, shared_sha256, write
from codesign.proposal.load import load_proposal
from isa_model.instruction import Instruction
from isa_model.processes import pool

Job = tuple[Instruction | Sequence[Instruction], Library]
"""An instruction, or those of a shared datapath, and a library."""


def main() -> None:
    """Measure each proposal, its base, swept values and attributed steps, and the shared datapath; write their records."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("proposals", nargs="+", type=Path)
    parser.add_argument("--liberty", type=Path, help="a Liberty file; default: the technology-neutral library")
    parser.add_argument("--jobs", type=int, default=2)
    arguments = parser.parse_args()
    library = Library.read(arguments.liberty) if arguments.liberty else Library.own()
    designs: dict[str, Job] = {}
    for path in arguments.proposals:
        proposal = load_proposal(path)
        values = (None, *proposal.swept)
        for spec in (proposal.today, *map(proposal.proposed, values)):
            designs.setdefault(design_sha256(spec), (spec, library))
        for value in values:
            for spec in steps(proposal.today, proposal.proposed(value)).values():
                designs.setdefault(design_sha256(spec), (spec, library))
        for together in shared(proposal.today) or ():
            designs.setdefault(shared_sha256(together), (together, library))
    with pool(arguments.jobs, main=True) as workers:
        for record in workers.map(_record, designs.values()):
            print(f"{write(record)}: {record.area:.0f} NAND2, {record.delay_fo4:.0f} FO4", file=sys.stderr)


def _record(job: Job) -> CostRecord:
    from codesign.evidence.cost.energy import energy_vectors

    spec, library = job
    if isinstance(spec, Instruction):
        return measure(spec, library, *energy_vectors(spec), commit())
    name = f"{SHARED_NAME}, {next(iter(spec[0].stages.values())).fraction_bits} fraction bits of FP8"
    return measure_shared(spec, library, *energy_vectors(spec[0]), name, commit())


if __name__ == "__main__":
    main()
