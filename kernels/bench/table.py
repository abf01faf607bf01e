"""A record as a table: ours, peers and ceilings of each shape side by side."""

from __future__ import annotations

from typing import Any

from kernels.bench.records import Record, Row


def table(record: Record) -> Any:
    """A rich table, one row a case, the fastest of each shape first."""
    from rich.table import Table

    result = Table(header_style="bold", pad_edge=False)
    for title in ("shape", "kernel", "implementation"):
        result.add_column(title)
    for title in ("us", "±%", "TFLOP/s", "GB/s", "x best peer", "of native FP8", "of copy", "host us", "error"):
        result.add_column(title, justify="right")
    before: dict[str, int] | None = None
    for row in sorted(record.cases, key=lambda r: (list(r.shape.items()), r.timing.us if r.timing else float("inf"))):
        shape = "" if row.shape == before else " ".join(f"{key}={size}" for key, size in row.shape.items())
        if shape and before is not None:
            result.add_section()
        before = row.shape
        name = row.implementation if row.variant == "peer" else f"[bold]{row.implementation}[/bold]"
        if row.variant == "twin":
            name += " (timing only)"
        result.add_row(shape, row.kernel, name, *_figures(record, row))
    return result


def _figures(record: Record, row: Row) -> list[str]:
    if row.timing is None:
        return [f"[red]{row.why}[/red]" if row.wrong else row.why]
    us = row.timing.us
    bounds = record.bounds(row)
    peers = [r.timing.us for r in record.find(row.kernel, "peer", shape=row.shape) if r.timing and r is not row]
    return [
        f"{us:.1f}",
        f"{row.timing.spread * 50:.1f}",
        f"{row.tflops:.0f}" if row.tflops else "",
        f"{row.gbps:.0f}",
        f"{min(peers) / us:.2f}" if peers and row.variant != "peer" else "",
        *(f"{bounds[bound] / us:.2f}" if bound in bounds else "" for bound in ("native FP8", "copy")),
        f"{row.timing.host_us:.0f}",
        f"{row.error:.1e}" if row.error is not None else "",
    ]
