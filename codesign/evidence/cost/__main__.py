"""`python -m codesign.evidence.cost PROPOSAL... [--liberty FILE]`: write the shipped cost records of proposals."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from codesign.evidence.cost.attribution import shared, steps
from codesign.evidence.cost.cell_library import Library
from codesign.evidence.cost.records import design_sha256, shared_sha256, write
from codesign.evidence.cost.shipped_record import Job, record_of
from codesign.proposal.load import load_proposal
from isa_model.processes import pool


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
    with pool(arguments.jobs) as workers:
        for record in workers.map(record_of, designs.values()):
            print(f"{write(record)}: {record.area:.0f} NAND2, {record.delay_fo4:.0f} FO4", file=sys.stderr)


if __name__ == "__main__":
    main()
