"""The commands on specs: `codesign validate`, `schema`, `list`, `show` and `init`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from codesign.commands.app import Target, app, complete_proposals
from codesign.commands.tabular import Form, emit, tabular
from codesign.commands.terminal import wrapped
from isa_model.diagnostics import InputError, Problem


@app.command()
@tabular
def validate(
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE",
            help="Proposals, recipes or instruction specs (YAML), or names of shipped proposals.",
            autocompletion=complete_proposals,
        ),
    ],
    form: Form = "table",
) -> int:
    """Check proposal, recipe or instruction files.

    Every fault is shown with its line and a remedy; as data it is a row. Exit code 2 if there is one.
    """
    from codesign.proposal.shipped import proposal_file
    from codesign.proposal.target import parse
    from isa_model.diagnostics import read_yaml

    problems: list[Problem] = []
    for file in files:
        try:
            parse(read_yaml(proposal_file(file)))
            if form == "table":
                print(f"{file}: valid")
        except InputError as error:
            problems += error.problems
    if form != "table":
        fields = ("file", "line", "column", "message", "hint")
        emit(form, [{name: getattr(problem, name) for name in fields} for problem in problems])
        return 2 if problems else 0
    if problems:
        raise InputError(problems)
    return 0


@app.command()
def schema(
    kind: Annotated[
        Literal["proposal", "instruction", "recipe", "result", "space"], typer.Argument(help="Kind of file.")
    ] = "proposal",
) -> int:
    """Print the JSON Schema of a kind of file."""
    from codesign.commands.schemas import json_schema

    print(json.dumps(json_schema(kind), indent=1))
    return 0


@app.command("list")
@tabular
def list_names(
    what: Annotated[
        Literal[
            "all",
            "proposals",
            "families",
            "instructions",
            "formats",
            "workloads",
            "tensors",
            "metrics",
            "recipes",
            "experiments",
        ],
        typer.Argument(help="Kind of names."),
    ] = "all",
    form: Form = "table",
) -> int:
    """List the names that a proposal can use.

    Without an argument, instructions are summarised as families.
    """
    from codesign.commands.listing import listings

    found = listings()
    if form != "table":
        kinds = found if what == "all" else [what]
        emit(form, [{"kind": kind, "name": name, "about": about} for kind in kinds for name, about in found[kind]])
        return 0
    for title, lines in found.items():
        if what == title or (what == "all" and title != "instructions"):
            if what == "all":
                print(f"{title}:")
            for name, about in lines:
                print(f"{'  ' if what == 'all' else ''}{name}" + (f"  {about}" if about else ""))
    return 0


@app.command()
def show(target: Target) -> int:
    """Print the ISA-manual page of an instruction or proposal."""
    from codesign.proposal.manual import page, proposal_page
    from codesign.proposal.proposal import Proposal
    from codesign.report.lookup import meant

    found = meant(target)
    sections = proposal_page(found) if isinstance(found, Proposal) else page(found)
    name = found.proposal if isinstance(found, Proposal) else found.name
    print(name)
    for section in sections:
        print(f"\n{section.title.upper()}")
        for number, line in enumerate(section.lines, 1):
            print(wrapped(line, f"{number:>4}. " if section.steps else "    "))
    return 0


@app.command()
def init(
    path: Annotated[Path, typer.Argument(help="File for the proposal.")] = Path("proposal.yaml"),
    base: Annotated[
        str, typer.Option(help="Catalogue name of the instruction to change.")
    ] = "hopper.wgmma.m64n256k32.f32.e4m3.e4m3",
) -> int:
    """Write a commented proposal and its JSON Schema."""
    from codesign.commands.schemas import SCHEMA, json_schema, starter
    from isa_model.output_files import write_file

    text = starter(path, base)
    schema_path = path.parent / "proposal.schema.json"
    if path.exists():
        raise InputError.of(f"{path} exists", "another name, or move it away")
    write_file(schema_path, json.dumps(json_schema("proposal"), indent=1) + "\n", *SCHEMA)
    write_file(path, text)
    print(f"wrote {path} and {schema_path}; next: codesign validate {path}")
    return 0
