"""The tables of docs/cost.md that are written from records, each between two marks."""

from __future__ import annotations

from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs" / "cost.md"


def put(name: str, table: str) -> None:
    """Put a table between `<!-- NAME: begin -->` and `<!-- NAME: end -->`, in place of what is there."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, rest = DOCS.read_text(encoding="utf-8").split(begin)
    temporary = DOCS.with_name(f".{DOCS.name}.tmp")
    temporary.write_text(f"{before}{begin}\n{table}\n{end}{rest.split(end)[1]}", encoding="utf-8")
    temporary.replace(DOCS)
