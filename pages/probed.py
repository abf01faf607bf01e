"""The table of docs/probe.md: what blind probes found out, from the record of benchmarks/probe.py."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import median
from typing import Any

RECORD = "benchmarks/records/probe.json"
KINDS = {
    "catalogue": "instructions of the catalogue, one of each kind of sums",
    "random": "random specs of the language",
    "outside": "boxes outside the language",
}
OUTCOMES = ("same spec", "same bits", "refused", "wrong")


def probed_text() -> str:
    """Return a row for each kind of box: how many, what was found, questions and seconds of processor time."""
    record = json.loads((Path(__file__).resolve().parent.parent / RECORD).read_text())
    heads = ["boxes", "number", *OUTCOMES, "questions (median)", "seconds (median)"]
    lines = ["| " + " | ".join(heads) + " |", "|---|" + "---:|" * (len(heads) - 1)]
    for kind, about in KINDS.items():
        rows: list[dict[str, Any]] = [row for row in record["rows"] if row["kind"] == kind]
        counts = [sum(row["outcome"] == outcome for row in rows) for outcome in OUTCOMES]
        middles = [f"{median(found):,.0f}" if (found := [r[n] for r in rows if n in r]) else "" for n in COUNTED]
        lines.append(f"| {about} | " + " | ".join(map(str, [len(rows), *counts, *middles])) + " |")
    lines += [
        "",
        f"Record of {record['date']}, commit {record['commit']}: [probe.json](../{RECORD}), `{record['command']}`. ",
    ]
    lines[-1] += f"Outputs compared with each hidden spec: {record['outputs']:,}. "
    lines[-1] += f"Kinds of sums in the catalogue: {record['kinds_of_the_catalogue']}."
    return "\n".join(lines)


COUNTED = ("questions", "processor_s")
