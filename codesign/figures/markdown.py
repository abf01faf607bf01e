"""Tables in Markdown, for pages, records and packages."""

from __future__ import annotations

import re
from collections.abc import Iterable

from codesign.figures.escape import Markdown

_BARE_PIPE = re.compile(r"(?<!\\)\|")


def table(head: str, rows: Iterable[Iterable[object]]) -> str:
    """Return a table with a row of cells for each of `rows`; a cell of None is empty.

    `head` names the columns with ` | ` between them; a name that ends with a colon is of a column aligned to the right. Cells
    may have markup, but neither a column nor HTML begins in one, unless it is `Markdown`.
    """
    names = head.split(" | ")
    rules = ("---:" if name.endswith(":") else "---" for name in names)
    return "\n".join([_line(name.removesuffix(":") for name in names), f"|{'|'.join(rules)}|", *map(_line, rows)])


def _line(cells: Iterable[object]) -> str:
    return f"| {' | '.join(map(_text, cells))} |"


def _text(cell: object) -> str:
    text = "" if cell is None else str(cell)
    return text if isinstance(cell, Markdown) else _BARE_PIPE.sub(r"\\|", text).replace("<", "&lt;")
