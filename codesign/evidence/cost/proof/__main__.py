"""`python -m codesign.evidence.cost.proof TARGET... [--seconds N]`: prove units and their netlists, and write the records."""

from __future__ import annotations

import argparse
import sys

from codesign.commit import commit
from codesign.evidence.cost.cell_library import Library
from codesign.evidence.cost.export import cell_models
from codesign.evidence.cost.proof.proof_record import write
from codesign.evidence.cost.proof.unit_proof import SECONDS, prove, prove_mapped
from codesign.evidence.cost.records import design_sha256
from codesign.evidence.cost.rtl.unit import unit
from codesign.evidence.cost.synth import synthesise
from codesign.proposal.proposal import Proposal
from codesign.proposal.target import meant
from isa_model.instruction import Instruction


def main() -> None:
    """Prove the unit of each instruction, or of each proposal and its swept values, and write their records."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("targets", nargs="+")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="time that a theorem may take")
    parser.add_argument("--rtl-only", action="store_true", help="leave the mapped netlist out")
    parser.add_argument("--base-only", action="store_true", help="leave a proposal's swept values out")
    arguments = parser.parse_args()
    library, started_at = Library.own(), commit()
    specs: dict[str, Instruction] = {}
    for found in map(meant, arguments.targets):
        values = () if arguments.base_only or not isinstance(found, Proposal) else found.swept
        for spec in [found.proposed(x) for x in (None, *values)] if isinstance(found, Proposal) else [found]:
            specs.setdefault(design_sha256(spec), spec)
    for spec in specs.values():
        record = prove(spec, arguments.seconds, started_at)
        if not arguments.rtl_only:
            rtlil = unit(spec)
            mapped = synthesise(rtlil, library)
            cells = cell_models(library, {gate.cell for gate in mapped.netlist.gates})
            record = record.model_copy(update={"mapped": prove_mapped(rtlil, mapped.verilog + cells)})
        print(f"{write(record)}: {record.words}, {record.seconds:.0f} s", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
