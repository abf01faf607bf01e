"""What changed between two results, in words: tables of spec, provenance, claims and figures, and a sentence."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from codesign.report.tables import interval
from codesign.verdicts.diff import Difference

MOST = 40
"""Most figures shown; data have all."""


@dataclass(frozen=True)
class ChangeTable:
    """Changes of one kind: what changed, its old and its new value, and, of figures, whether it got better or worse."""

    title: str
    rows: tuple[tuple[str, ...], ...]


def tables(found: Difference) -> Iterator[ChangeTable]:
    """Yield what changed by kind; of figures, the `MOST` with the largest changes."""
    for title, changes in (("spec", found.spec), ("made with", found.made)):
        if changes:
            yield ChangeTable(title, tuple((c.field, _value(c.old), _value(c.new)) for c in changes))
    if found.verdicts:
        verdicts = ((v.claim, v.old or "no such claim", v.new or "no such claim") for v in found.verdicts)
        yield ChangeTable("claim", tuple(verdicts))
    if found.figures:
        shown = ((f.name, interval(f.old), interval(f.new), f.change) for f in found.figures[:MOST])
        yield ChangeTable("figure", tuple(shown))


def more(found: Difference, where: str) -> str:
    """Return a sentence on the figures that `tables` leaves out; empty if there are none. `where` has all."""
    left = len(found.figures) - MOST
    return f"... and {left} more figures; {where}." if left > 0 else ""


def text(found: Difference, where: str) -> str:
    """Return what changed as lines of text."""
    lines = []
    for part in tables(found):
        lines.append(part.title)
        for name, old, new, *change in part.rows:
            lines.append(f"  {name}: {old} → {', '.join([new, *change])}")
    lines += [f"  {rest}"] if (rest := more(found, where)) else []
    return "\n".join([*lines, summary(found)])


def _value(value: Any) -> str:
    return "none" if value is None else " ".join(value.split()) if isinstance(value, str) else json.dumps(value)


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
    said = "; ".join(filter(None, parts)) + "."
    return said[0].upper() + said[1:]
