"""The table of planted mutants in docs/verification.md, from checks/blame.json."""

from __future__ import annotations

import json
from pathlib import Path

from codesign.figures.markdown import table

RECORD = Path(__file__).resolve().parent.parent / "checks/blame.json"


def blamed_text() -> str:
    """Return a row per mutant: what was blamed first, and on how many of the vectors D was wrong."""
    record = json.loads(RECORD.read_text())
    rows = (
        (x["design"], x["mutant"], f"{x['mismatches']:,}", x["blamed"].split(" (explains")[0]) for x in record["rows"]
    )
    right, count = sum(x["right"] for x in record["rows"]), len(record["rows"])
    said = f"{record['simulator'].split(' rev')[0]}, {record['vectors']:,} vectors a unit"
    run = f"commit {record['commit']}, {record['date']}"
    made = table("unit | mutation | wrong D: | diagnosis", rows)
    return f"{made}\n\n{right} of {count} as expected ({said}, {run})."
