"""`codesign rtl`: write an instruction's dot-product unit as Verilog."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from codesign.commands.app import Target, folder_of
from codesign.commands.progress import Progress


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
) -> int:
    """Write the dot-product unit of an instruction as Verilog.

    A test bench and a mapped netlist are written with it. The netlist is compared with the model on at least 100,000
    vectors; a mismatch is an error. With --package nothing is synthesised.
    """
    from codesign.evidence.cost.cell_library import Library
    from codesign.evidence.cost.export import export
    from codesign.proposal.target import instruction_of
    from isa_model.diagnostics import InputError
    from isa_model.output_files import untracked

    instruction = instruction_of(target)
    if package:
        from codesign.verification.package import write

        if out or liberty:
            given = "--out" if out else "--liberty"
            raise InputError.of(f"{given} is for the unit's own files, --package writes others", "one of the two")
        with Progress(f"verification package of {instruction.name}"):
            print(write(instruction, package))
        print(f"files: {package}", file=sys.stderr)
        return 0
    library = Library.read(liberty) if liberty else Library.own()
    folder = out or folder_of("rtl", instruction)
    with Progress(f"hardware of {instruction.name}: synthesis and comparison with the model"):
        figures = export(instruction, folder, library)
    for name, figure in figures.items():
        print(f"{name}: {figure}")
    if out is None:
        untracked(folder.parent)
    print(f"files: {folder}", file=sys.stderr)
    return 0
