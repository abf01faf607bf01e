"""What was asked of hardware, what shipped since and what our evidence says: asks.yaml, and its table in docs/asks.md."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import yaml

from codesign.figures.markdown import table

ASKS = Path(__file__).resolve().parent / "asks.yaml"


@dataclass(frozen=True)
class Ask:
    """A row of asks.yaml."""

    ask: str
    source: str
    shipped: str
    says: str
    """Conclusion from the reports, or the reason why there is no proposal."""
    proposals: tuple[str, ...]


def asks() -> list[Ask]:
    """Return the rows in their order."""
    rows = yaml.safe_load(ASKS.read_text(encoding="utf-8"))
    return [Ask(**{**row, "proposals": tuple(row["proposals"])}) for row in rows]


def asks_text() -> str:
    """Return the table of docs/asks.md, with a link to the report of each proposal."""
    rows = []
    for row in asks():
        links = ", ".join(f"[{name}](../reports/{name}.html)" for name in row.proposals)
        rows.append((f"**{row.ask}** ({row.source})", row.shipped, row.says, links))
    return table("asked | shipped since | what our evidence says | reports", rows)
