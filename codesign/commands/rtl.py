"""`codesign rtl`: write an instruction's dot-product unit as Verilog."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from codesign.commands.app import Target, app, folder_of
from codesign.commands.progress import Progress
from codesign.commands.terminal import console, table, wrapped

if TYPE_CHECKING:
    from codesign.evidence.cost.proof.proof_record import ProofRecord


@app.command()
def rtl(
    target: Target,
    out: Annotated[Path | None, typer.Option(help="Folder for the files; default: codesign-rtl/<name>.")] = None,
    package: Annotated[
        Path | None,
        typer.Option(
            help="Write a package for verification teams into this folder instead: model and scoreboard in C, benches, vectors."
        ),
    ] = None,
    liberty: Annotated[
        Path | None, typer.Option(help="Liberty file of a cell library; default: a technology-neutral library.")
    ] = None,
    prove: Annotated[
        bool, typer.Option("--prove", help="Prove the RTL, block by block, and the mapped netlist; writes proof.json.")
    ] = False,
    seconds: Annotated[int, typer.Option(min=1, help="Time that a theorem may take before it counts as open.")] = 300,
) -> int:
    """Write the dot-product unit of an instruction as Verilog.

    A test bench and a mapped netlist are written with it. The netlist is compared with the model on at least 100,000
    vectors; a mismatch is an error. With --package nothing is synthesised. With --prove, exit code 1 says that something is
    refuted.
    """
    from codesign.evidence.cost.cell_library import Library
    from codesign.evidence.cost.export import export
    from codesign.proposal.proposal import Proposal
    from codesign.report.lookup import meant
    from isa_model.diagnostics import InputError
    from isa_model.output_files import untracked

    found = meant(target)
    instruction, base = (found.proposed(), found.today) if isinstance(found, Proposal) else (found, None)
    if package:
        from codesign.verification.package import write

        if out or liberty or prove:
            given = "--out" if out else "--liberty" if liberty else "--prove"
            raise InputError.of(f"{given} is for the unit's own files, --package writes others", "one of the two")
        with Progress(f"verification package of {instruction.name}"):
            print(write(instruction, package))
        print(f"files: {package}", file=sys.stderr)
        return 0
    library = Library.read(liberty) if liberty else Library.own()
    folder = out or folder_of("rtl", instruction)
    proof = None
    if prove:
        from codesign.evidence.cost.proof.unit_proof import prove as prove_unit

        with Progress(f"hardware of {instruction.name}: proof"):
            proof = prove_unit(instruction, seconds)
        if proof.status == "refuted":
            _show(proof)
            return 1
    with Progress(f"hardware of {instruction.name}: synthesis and comparison with the model"):
        figures, proof = export(instruction, folder, library, proof, base)
    if proof:
        _show(proof)
    for name, figure in figures.items():
        print(f"{name}: {figure}")
    if out is None:
        untracked(folder.parent)
    print(f"files: {folder}", file=sys.stderr)
    return 0


def _show(proof: ProofRecord) -> None:
    """Print what is proved of each block, and of the whole."""
    rows: list[tuple[str, ...]] = [
        (b.block, b.status, str(b.theorems), str(b.places), f"{b.seconds:.1f}") for b in proof.blocks
    ]
    rows += [(name, "tested only", "", "", "") for name in proof.open]
    if proof.mapped:
        rows.append(("mapped netlist", proof.mapped.status, "", "", f"{proof.mapped.seconds:.1f}"))
    console().print(table("block |  | theorems: | places: | seconds:", rows))
    versions = ", ".join(f"{name} {version}" for name, version in proof.versions.items())
    print(wrapped(f"{proof.name}: {proof.words}; {versions}; {proof.seconds:.0f} s", ""))
    if proof.counterexample:
        found = proof.counterexample
        operands = ", ".join(f"{name} = {' '.join(codes)}" for name, codes in found.operands.items())
        print(wrapped(f"operands that show it: {operands}: the unit gives {found.unit}, golden {found.golden}", ""))
