"""`python -m codesign.evidence.cost.proof TARGET... [--seconds N]`: prove units and their netlists, and write the records."""

from __future__ import annotations

import argparse
import sys

from codesign.commit import commit
from codesign.evidence.cost.cell_library import Library
from codesign.evidence.cost.export import cell_models
from codesign.evidence.cost.proof.proof_record import write
from codesign.evidence.cost.proof.unit_proof import SECONDS, prove, prove_mapped
from codesign.evidence.cost.rtl.unit import unit
from codesign.evidence.cost.synth import synthesise
from codesign.proposal.target import instruction_of


def main() -> None:
    """Prove the unit of each instruction or proposal, and write its record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("targets", nargs="+")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="time that a theorem may take")
    parser.add_argument("--rtl-only", action="store_true", help="leave the mapped netlist out")
    arguments = parser.parse_args()
    library = Library.own()
    for target in arguments.targets:
        spec = instruction_of(target)
        record = prove(spec, arguments.seconds, commit())
        if not arguments.rtl_only:
            rtlil = unit(spec)
            mapped = synthesise(rtlil, library)
            cells = cell_models(library, {gate.cell for gate in mapped.netlist.gates})
            record = record.model_copy(update={"mapped": prove_mapped(rtlil, mapped.verilog + cells)})
        print(f"{write(record)}: {record.words}, {record.seconds:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
