"""`codesign diff`: what changed from one result to another."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from codesign.commands.app import app, complete_proposals
from codesign.commands.tabular import Form, emit, tabular
from codesign.commands.terminal import console, one_line, table

if TYPE_CHECKING:
    from codesign.verdicts.diff import Difference

MOST = 40
"""Most figures in the table; data have all."""
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
    from codesign.report.tables import interval

    for title, changes in (("spec", found.spec), ("made with", found.made)):
        if changes:
            yield table(f"{title} | old | new", ((c.field, _value(c.old), _value(c.new)) for c in changes))
    if found.verdicts:
        verdicts = ((v.claim, v.old or "no such claim", v.new or "no such claim") for v in found.verdicts)
        yield table("claim | old | new", verdicts)
    if found.figures:
        shown = ((f.name, interval(f.old), interval(f.new), f.change) for f in found.figures[:MOST])
        yield table("figure | old | new | change", shown)
        if len(found.figures) > MOST:
            yield f"... and {len(found.figures) - MOST} more figures; --csv prints all."
    yield summary(found)


def _value(value: Any) -> str:
    return "none" if value is None else one_line(value) if isinstance(value, str) else json.dumps(value)


def summary(found: Difference) -> str:
    """Return a sentence on the verdicts that turned and the figures that changed."""
    turned = sum(bool(v.old and v.new) for v in found.verdicts)
    better = sum(change.change == "better" for change in found.figures)
    parts = [
        f"{turned or 'no'} {'verdict' if turned == 1 else 'verdicts'} turned",
        f"{len(found.figures) or 'none'} of {found.compared:,} figures in both lie{'s' * (len(found.figures) < 2)} outside "
        "the other's interval" + (f" ({better} better, {len(found.figures) - better} worse)" if found.figures else ""),
        f"{found.moved} moved within" if found.moved else "",
        f"{found.undecided} moved, but have no interval" if found.undecided else "",
        f"{found.added} are new" if found.added else "",
        f"{found.removed} are gone" if found.removed else "",
    ]
    text = "; ".join(filter(None, parts)) + "."
    return text[0].upper() + text[1:]
