"""`python -m codesign.evidence.cost PROPOSAL... [--liberty FILE]`: write the shipped cost records of proposals."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from codesign.evidence.cost.attribution import shared, steps
from codesign.evidence.cost.cell_library import Library
from codesign.evidence.cost.records import design_sha256, folded_sha256, shared_sha256, write
from codesign.evidence.cost.rtl.ports import chained_stage, check
from codesign.evidence.cost.shipped_record import Job, is_current, record_of
from codesign.proposal.load import load_proposal
from isa_model.diagnostics import InputError
from isa_model.processes import pool


def main() -> None:
    """Measure each proposal, its base, swept values and attributed steps, and the shared datapath; write their records."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("proposals", nargs="+", type=Path)
    parser.add_argument("--liberty", type=Path, help="a Liberty file; default: the technology-neutral library")
    parser.add_argument(
        "--brief", action="store_true", help="only proposals and bases, compared on a tenth of the random vectors"
    )
    parser.add_argument("--values", nargs="+", help="with --brief: these swept values, not the proposal as it is")
    parser.add_argument("--again", action="store_true", help="measure designs whose shipped record holds, too")
    parser.add_argument("--jobs", type=int, default=2)
    arguments = parser.parse_args()
    library = Library.read(arguments.liberty) if arguments.liberty else Library.own()
    designs: dict[str, Job] = {}
    for path in arguments.proposals:
        proposal = load_proposal(path)
        if proposal.multiplies_as_today:
            continue
        values = (None,) if arguments.brief else (None, *proposal.swept)
        if arguments.values:
            values = tuple(value for value in proposal.swept if str(value) in arguments.values)
        wanted = [proposal.today, *map(proposal.proposed, values)]
        together = () if arguments.brief else shared(proposal.today) or ()
        if not arguments.brief:
            wanted += [x for value in values for x in steps(proposal.today, proposal.proposed(value)).values()]
        for spec in wanted:
            try:
                check(spec)
            except InputError as reason:
                print(f"no cost: {reason}", file=sys.stderr)
                continue
            designs.setdefault(design_sha256(spec), Job(spec, library, not arguments.brief))
            if chained_stage(spec):
                designs.setdefault(folded_sha256(spec), Job(spec, library, False, folded=True))
        for specs in together:
            designs.setdefault(shared_sha256(specs), Job(specs, library, True))
    missing = [job for job in designs.values() if arguments.again or not is_current(job)]
    print(f"{len(designs)} designs, {len(missing)} of them without a record that holds", file=sys.stderr)
    with pool(arguments.jobs) as workers:
        for record in workers.map(record_of, missing):
            print(f"{write(record)}: {record.area:.0f} NAND2, {record.delay_fo4:.0f} FO4", file=sys.stderr)


if __name__ == "__main__":
    main()
