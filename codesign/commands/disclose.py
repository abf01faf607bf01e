"""`codesign disclose`: publish what an instruction computes, for standards that ask for it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from codesign.commands.app import Target, app, folder_of
from codesign.commands.progress import Progress


@app.command()
def disclose(
    target: Target,
    out: Annotated[Path | None, typer.Option(help="Folder for the files; default: codesign-disclosure/<name>.")] = None,
) -> int:
    """Write what an instruction computes: parameters as JSON, a C reference, pseudo-code and vectors.

    RISC-V IME asks for the reduction algorithm and its parameters of sums that are not exact.
    """
    from codesign.report.lookup import instruction_of
    from codesign.verification.disclosure import write
    from isa_model.output_files import untracked

    instruction = instruction_of(target)
    folder = out or folder_of("disclosure", instruction)
    with Progress(f"disclosure of {instruction.name}"):
        document = write(instruction, folder)
    parameters = dict(document["riscv_ime"])
    print(f"parameters by RISC-V IME ({parameters.pop('source')}):")
    for name, value in parameters.items():
        print(f"  {name}: {value}")
    if "none" in document["vectors"]:
        print(f"no vectors: {document['vectors']['none']}", file=sys.stderr)
    if out is None:
        untracked(folder.parent)
    print(f"files: {folder}", file=sys.stderr)
    return 0
