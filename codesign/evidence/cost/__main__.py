"""`python -m codesign.evidence.cost PROPOSAL... [--liberty FILE]`: write the shipped cost records of proposals."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from codesign.commit import commit
from codesign.evidence.cost.cell_library import Library
from codesign.evidence.cost.measured_unit import measure
from codesign.evidence.cost.records import CostRecord, design_sha256, write
from codesign.proposal.load import load_proposal
from isa_model.instruction import Instruction
from isa_model.processes import pool


def main() -> None:
    """Measure the base, the proposal and the swept values of each proposal, and write their records."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("proposals", nargs="+", type=Path)
    parser.add_argument("--liberty", type=Path, help="a Liberty file; default: the technology-neutral library")
    parser.add_argument("--jobs", type=int, default=2)
    arguments = parser.parse_args()
    library = Library.read(arguments.liberty) if arguments.liberty else Library.own()
    designs: dict[str, tuple[Instruction, Library]] = {}
    for path in arguments.proposals:
        proposal = load_proposal(path)
        values = proposal.swept
        for spec in (proposal.today, proposal.proposed(), *(proposal.proposed(v) for v in values)):
            designs.setdefault(design_sha256(spec), (spec, library))
    with pool(arguments.jobs) as workers:
        for record in workers.map(_record, designs.values()):
            print(f"{write(record)}: {record.area:.0f} NAND2, {record.delay_fo4:.0f} FO4", file=sys.stderr)


def _record(job: tuple[Instruction, Library]) -> CostRecord:
    from codesign.evidence.cost.energy import energy_vectors

    spec, library = job
    vectors, words = energy_vectors(spec)
    return measure(spec, library, vectors, words, commit())


if __name__ == "__main__":
    main()
