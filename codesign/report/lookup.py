"""Find the report, the instruction or the proposal that a command's argument names."""

from __future__ import annotations

from os.path import exists  # as Path.exists, but False for names that no file can have
from pathlib import Path

from codesign.proposal import target as named
from codesign.proposal.load import load_proposal
from codesign.proposal.proposal import Proposal
from codesign.proposal.shipped import HOME, names, proposal_file
from codesign.verdicts.evaluate import Result
from codesign.verdicts.read_result import read_result
from isa_model.diagnostics import InputError, suggest
from isa_model.instruction import Instruction
from isa_model.library import is_path

FOLDER = Path("codesign-reports")
"""Default folder of reports in the current folder; each report has a subfolder named after its proposal."""
SHIPPED = HOME.parent / "reports"
"""Folder of the pages of the shipped proposals, in a clone."""


def result_of(target: str) -> tuple[Path, Result]:
    """Return the file and the result that `target` names: a result.json, a report's folder, or a proposal with a report.

    Raises InputError for anything else, and for a proposal that has changed since its report or has none.
    """
    path = Path(target)
    by_name = not (is_path(target) or target in names() or exists(path))
    if by_name and exists(own := FOLDER / target / "result.json"):
        path = own
    if path.suffix not in (".yaml", ".yml") and (exists(path) or target not in names()):
        if not exists(path) and not is_path(target) and path.suffix != ".json":
            hint = suggest(target, names()) or "a report's folder, a proposal's file, or the name of a shipped one"
            raise InputError.of(f"no report or proposal is called `{target}`", hint)
        file = path / "result.json" if path.is_dir() else path
        return file, read_result(file)
    proposal = load_proposal(proposal_file(target))
    file, page = FOLDER / proposal.proposal / "result.json", SHIPPED / f"{target}.html"
    if file.exists():
        result = read_result(file)
        if result.proposal == proposal:
            return file, result
    hint = f"codesign evaluate {target}" + (f"; the page that ships is {page}" if page.exists() else "")
    raise InputError.of(f"{target} {'changed since its report' if file.exists() else 'has no report here'}", hint)


def meant(target: str) -> Instruction | Proposal:
    """Return the instruction or proposal that a file or name stands for; for a result.json, its proposal.

    Raises InputError if there is none.
    """
    return read_result(Path(target)).proposal if target.endswith(".json") else named.meant(target)


def instruction_of(target: str) -> Instruction:
    """Return the instruction that a file or name stands for; for a proposal or a result.json, the changed one."""
    found = meant(target)
    return found.proposed() if isinstance(found, Proposal) else found
