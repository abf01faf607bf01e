"""The tables of docs/engines.md, from the records of benchmarks/engine.py."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

from codesign.figures.markdown import table
from kernels.bench.records import FOLDER

PEERS = ("ours", "mmasim", "mmaemu")


def gpus_text() -> str:
    """Return the speed of the GPU engine on two chips, beside its peers on the first."""
    return _table("cuda", {"H100": ("engines_h100", PEERS), "H200": ("engines_h200", ("ours",))})


def cpus_text() -> str:
    """Return the speed of the CPU engine on all cores of a machine, and on one core of another, beside its peers."""
    return _table("cpu", {"16 cores": ("engines_h100", PEERS), "a core": ("engines_one_core", PEERS)})


def _words(rate: float | None) -> str:
    """Return a rate with two digits, such as 2.2e13; nothing if it was not measured."""
    return f"{rate:.1e}".replace("e+", "e").replace("e0", "e") if rate else ""


@cache
def _record(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    return found


def _table(device: str, columns: dict[str, tuple[str, tuple[str, ...]]]) -> str:
    """Return rates of `device`, a row for each instruction of the first record; of proposals those with scales alone."""
    said, head, cells = [], ["instruction"], []
    for label, (name, peers) in columns.items():
        record = _record(name)
        machine = record["gpu" if device == "cuda" else "cpu"]
        made = f"{machine}, {record['date']}, commit {record['commit']}, [record](../kernels/records/{name}.json)"
        said.append(f"{label}: {made}")
        head += [f"{label}, {peer}:" for peer in peers]
        cells += [({r["instruction"]: r for r in record["rows"] if r["device"] == device}, peer) for peer in peers]
    rows = []
    for name in cells[0][0]:
        if not name.startswith("proposals/") or "scaled" in name:
            rows.append((f"`{name}`", *(_words(found.get(name, {}).get(peer)) for found, peer in cells)))
    return f"{'; '.join(said)}.\n\n{table(' | '.join(head), rows)}"
