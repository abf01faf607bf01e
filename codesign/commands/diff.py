"""`codesign diff`: what changed from one result to another."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from codesign.commands.app import app, complete_proposals
from codesign.commands.tabular import Form, emit, tabular
from codesign.commands.terminal import console, table

if TYPE_CHECKING:
    from codesign.verdicts.diff import Difference

_Result = Annotated[
    str,
    typer.Argument(
        metavar="RESULT",
        help="Folder of a report, its result.json, or a proposal that has a report.",
        autocompletion=complete_proposals,
    ),
]


@app.command()
@tabular
def diff(old: _Result, new: _Result, form: Form = "table") -> int:
    """Show what changed from one result to another: spec, verdicts and figures.

    A figure changed if its old and new 95 % intervals do not meet. Exit code 1 if anything changed beyond chance.
    """
    from codesign.report.lookup import result_of
    from codesign.report.rows import difference_rows
    from codesign.verdicts.diff import diff as difference
    from codesign.verdicts.read_result import drawing

    (first, before), (second, after) = result_of(old), result_of(new)
    with drawing(first, second):
        found = difference(before, after)
    if form == "table":
        terminal = console()
        for shown in _shown(found):
            terminal.print(shown, **({"highlight": False} if isinstance(shown, str) else {}))
    else:
        emit(form, difference_rows(found), found.model_dump_json(indent=1))
    return int(found.changed)


def _shown(found: Difference) -> Iterator[Any]:
    """Yield tables of what changed, then a sentence on the figures."""
    from codesign.report.difference import more, summary, tables

    for changes in tables(found):
        yield table(f"{changes.title} | old | new{' | change' if changes.title == 'figure' else ''}", changes.rows)
    if rest := more(found, "--csv prints all"):
        yield rest
    yield summary(found)
