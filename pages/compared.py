"""The tables of docs/conformance.md: outputs compared by source and by architecture, from the records."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from codesign.figures.markdown import table
from isa_model.library import architectures, catalogue

ROOT = Path(__file__).resolve().parent.parent
CHIP = "kernels/records/conformance_h200.json"
MODEL = "isa_model/catalogue/records/equivalence.json"
RECORDINGS = "isa_model/catalogue/records/recordings.json"
QEMU = "isa_model/catalogue/records/qemu.json"
SEARCHED = "checks/search.json"
SOURCES = {
    CHIP: ("the chip, live: NVIDIA H200", "instructions"),
    MODEL: ("the package mmasim 2.1.1", "rows"),
    RECORDINGS: ("recordings by others: V100, A100, A2, Ada, L40S, H100, H200, B200", "rows"),
    QEMU: ("QEMU 11.1.3", "rows"),
}
"""Records, what the model was compared with in each, and the key of its rows."""


def compared_text() -> str:
    """Return the table of sources: instructions, outputs, mismatches and the record."""
    lines = []
    for path, (what, rows) in SOURCES.items():
        record = _read(path)
        instructions = record.get("instructions", len({row["instruction"] for row in record[rows]}))
        count = len(instructions) if isinstance(instructions, list) else instructions
        link = f"[{Path(path).name}](../{path})"
        counts = (f"{n:,}" for n in (count, record["outputs"], record["mismatches"]))
        lines.append((what, *counts, f"{record['date']}, {record['commit']}", link))
    return table("compared with | instructions: | outputs: | mismatches: | date, commit | record", lines)


def architectures_text() -> str:
    """Return the table of architectures: instructions of the catalogue, and outputs compared with each source."""
    named = Counter(name.split(".")[0] for name in catalogue())
    outputs = {}
    for path, (_, rows) in SOURCES.items():
        outputs[path] = Counter[str]()
        for row in _read(path)[rows]:
            outputs[path][row["instruction"].split(".")[0]] += row["outputs"]
    lines = []
    for name in architectures():
        cells = [f"{outputs[path][name]:,}" if outputs[path][name] else "" for path in SOURCES]
        lines.append((f"`{name}`", f"{named[name]:,}", *cells))
    lines.append(("**all**", *(f"{sum(count.values()):,}" for count in (named, *outputs.values()))))
    return table("architecture | instructions: | chip: | mmasim: | recordings: | QEMU:", lines)


def searched_text() -> str:
    """Return the table of random searches: examples, comparisons by engine, and differences."""
    rows = _read(SEARCHED)["rows"]
    lines = ["| run | examples | compared, by engine | differences |", "|---|---:|---|---:|"]
    total: Counter[str] = Counter()
    for x in [*rows, None]:
        if x:
            total.update(x["compared"])
        of, examples, wrong = (
            (x["compared"], x["total"], len(x["differences"]))
            if x
            else (total, sum(r["total"] for r in rows), sum(len(r["differences"]) for r in rows))
        )
        run = f"{x['date']}, {x['commit']}; {x['machine']}" if x else "**all**"
        engines = ", ".join(f"{name} {count:,}" for name, count in sorted(of.items()))
        lines.append(f"| {run} | {examples:,} | {engines} | {wrong} |")
    return "\n".join(lines)


def _read(path: str) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((ROOT / path).read_text(encoding="utf-8"))
    return record
