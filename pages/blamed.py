"""The table of planted mutants in docs/verification.md, from checks/blame.json."""

from __future__ import annotations

import json
from pathlib import Path

from models import row

RECORD = Path(__file__).resolve().parent.parent / "checks/blame.json"


def blamed_text() -> str:
    """Return a row per mutant: what was blamed first, and on how many of the vectors D was wrong."""
    record = json.loads(RECORD.read_text())
    lines = ["| unit | planted | wrong D | blamed |", "|---|---|---:|---|"]
    for x in record["rows"]:
        blamed = x["blamed"].split(" (explains")[0]
        lines.append(row(x["design"], x["mutant"], f"{x['mismatches']:,}", blamed))
    right, rows = sum(x["right"] for x in record["rows"]), len(record["rows"])
    said = f"{record['simulator'].split(' rev')[0]}, {record['vectors']:,} vectors a unit"
    run = f"commit {record['commit']}, {record['date']}"
    return "\n".join([*lines, "", f"{right} of {rows} as expected ({said}, {run})."])
