"""`codesign probe`: fit a spec to a black box, and write a certificate of what decided it."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from codesign.commands.app import app
from codesign.commands.tabular import Form, emit, tabular
from codesign.commands.terminal import console
from codesign.figures.rows import Row
from isa_model.diagnostics import InputError

if TYPE_CHECKING:
    from codesign.probe.certificate import Certificate


@app.command()
@tabular
def probe(
    box: Annotated[
        str | None,
        typer.Argument(
            metavar="BOX",
            help="python:MODULE:FUNCTION, cu:FILE, exe:PATH, vectors:FILE, gpu:INSTRUCTION, mmasim:INSTRUCTION or spec:NAME.",
        ),
    ] = None,
    operands: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Instruction or YAML file with the box's shape and formats; its sums are not read."
        ),
    ] = None,
    write_questions: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write the first questions for a box elsewhere.")
    ] = None,
    read_answers: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Go on with the answers put there; may write more questions.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the certificate; default: codesign-probe/<box>.")] = None,
    seconds: Annotated[
        float,
        typer.Option(
            min=1, help="Processor time for the search; as much again for rivals that differ in one field, and in two."
        ),
    ] = 60.0,
    outputs: Annotated[int, typer.Option(min=0, max=1_000_000, help="Questions of the last check.")] = 20_000,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the questions.")] = 0,
    form: Form = "table",
) -> int:
    """Fit a spec to a black box, and certify what decided it.

    Exit code 1 if no spec is certified: refused, with the smallest operands and the nearest spec, or open, as the time ended.
    """
    from codesign.probe.boxes import FolderBox, Unanswered, open_box, signature_of, spec_box
    from codesign.probe.certificate import probe as fit
    from codesign.proposal.target import instruction_of
    from isa_model.output_files import check_folder, untracked, write_folder

    given = [x for x in (box, write_questions, read_answers) if x is not None]
    if len(given) != 1:
        raise InputError.of("probe needs one box", "BOX, or --write-questions DIR, or --read-answers DIR")
    name = box or str(given[0])
    folder = out or Path("codesign-probe") / (re.sub(r"[^A-Za-z0-9_.+-]+", "-", name).strip("-.") or "box")
    check_folder(folder, KIND)
    here = Path.cwd()  # a user's function may change it
    if box and box.startswith("spec:"):
        opened = spec_box(instruction_of(box.removeprefix("spec:")), operands)
    elif box:
        opened = open_box(box, operands)
    else:
        rounds = Path(str(given[0]))
        if rounds.exists() and not rounds.is_dir():
            raise InputError.of(f"{rounds} is not a folder", "a folder of rounds of questions")
        if write_questions and rounds.exists() and any(rounds.iterdir()):
            raise InputError.of(f"{rounds} is not empty", f"--read-answers {rounds} goes on with it")
        if read_answers and not rounds.exists():
            raise InputError.of(f"{rounds} does not exist", f"--write-questions {rounds} begins it")
        opened = FolderBox(signature_of(operands), rounds)
    try:
        certificate = fit(opened, seconds, outputs, seed)
    except Unanswered as waiting:
        print(
            f"questions: {waiting.folder}/questions.txt; put answers.txt beside it, then --read-answers",
            file=sys.stderr,
        )
        return 0
    import json

    files = {"certificate.json": certificate.json(), "log.json": json.dumps(certificate.log) + "\n"}
    if certificate.spec is not None:
        files["spec.yaml"] = certificate.text
    write_folder(here / folder, files, KIND)
    if out is None:
        untracked(here / folder.parent)
    if form == "table":
        show(certificate)
    else:
        emit(form, rows(certificate), certificate.json())
    print(f"certificate: {folder}", file=sys.stderr)
    return int(certificate.verdict in ("open", "refused"))


KIND = "a certificate of `codesign probe`"


def rows(certificate: Certificate) -> list[Row]:
    """Return a row for each field of a certificate."""
    return [
        {
            "field": x.field,
            "value": None if x.value is None else _value(x.field, x.value),
            "excluded": len(x.excluded),
            "alike": _alike(x.field, x.alike),
        }
        for x in certificate.fields
    ]


def _value(field: str, value: Any) -> str:
    """Return a field's value as text, the code of a NaN in hexadecimal, as the manual page has it."""
    return f"{value:#x}" if field == "nan" and isinstance(value, int) else str(value)


def _alike(field: str, values: tuple[dict[str, Any], ...]) -> str:
    """Return values as text; those that need another field changed as well are counted."""
    alone = [_value(field, x["value"]) for x in values if "with" not in x]
    pairs = len(values) - len(alone)
    return ", ".join([*alone, *([f"{pairs} with another field"] if pairs else [])])


def _what_follows(certificate: Certificate) -> str:
    """Return what is printed after the reason of a refusal, as the end of its sentence."""
    if certificate.witness is None:
        return "."
    return (
        "; the question and both answers:"
        if "answers" in certificate.witness
        else "; smallest question and nearest spec:"
    )


def show(certificate: Certificate) -> None:
    """Print the verdict, the spec and what decided each of its fields."""
    from rich.table import Table

    terminal = console()
    counts = certificate.counts
    terminal.print(
        f"{certificate.verdict}: {counts['kept']} answers, {counts['checked']} outputs checked, {counts['hypotheses']} "
        f"hypotheses run, {counts['processor_s']} s",
        highlight=False,
    )
    if certificate.verdict == "ambiguous":
        terminal.print("This spec gives every answer; so would the values in the last column.", highlight=False)
    if certificate.partial_sums:
        terminal.print(f"{certificate.partial_sums}.", highlight=False)
    if certificate.several_nans:
        terminal.print(f"{certificate.several_nans}.", highlight=False)
    if certificate.reason:
        terminal.print(f"{certificate.reason}{_what_follows(certificate)}", highlight=False)
        for key, value in (certificate.witness or {}).items():
            terminal.print(f"  {key}: {value}", highlight=False, markup=False)
    if certificate.text:
        print(certificate.text)
    if certificate.fields:
        table = Table("field", "value", "excluded values", "values no question tells apart", header_style="bold")
        for row in rows(certificate):
            if str(row["value"]).startswith(("[", "{")):  # several fields at once: in certificate.json
                continue
            table.add_row(row["field"], str(row["value"] or "default"), str(row["excluded"]), row["alike"] or "none")
        terminal.print(table)
