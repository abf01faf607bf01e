"""The table of a record: our kernels, peers and ceilings of each shape."""

from __future__ import annotations

from typing import Any

from kernels.bench.records import BenchRecord, BenchRow


def table(record: BenchRecord) -> Any:
    """Return a rich table with a row per case, the fastest of each shape first.

    Columns: `us` is the time in bursts and `±%` half its spread; `sustained` is the time under the power limit, us;
    `x peer` is the speed relative to the fastest peer; `of native` and `of copy` are bounds (BenchRecord.bounds) over the
    time.
    """
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    reasons = dict.fromkeys(f"{row.implementation}: {row.why}" for row in record.cases if row.why)
    result = Table(
        box=SIMPLE_HEAD, header_style="bold", pad_edge=False, caption="\n".join(reasons), caption_justify="left"
    )
    for title in ("shape", "kernel", "implementation"):
        result.add_column(title, no_wrap=True)
    for title in ("us", "±%", "TFLOP/s", "GB/s", "sustained", "x peer", "of native", "of copy", "host us", "error"):
        result.add_column(title, justify="right")
    before: dict[str, int] | None = None
    for row in sorted(record.cases, key=lambda r: (list(r.shape.items()), r.timing.us if r.timing else float("inf"))):
        shape = "" if row.shape == before else " ".join(f"{key}{size}" for key, size in row.shape.items())
        if shape and before is not None:
            result.add_section()
        before = row.shape
        name = Text(row.implementation, style="" if row.variant == "peer" else "bold")
        if row.variant == "twin":
            name.append(" (timing only)", style="not bold")
        result.add_row(shape, row.kernel, name, *_figures(record, row))
    return result


def data_rows(record: BenchRecord) -> list[dict[str, Any]]:
    """Return a row per case of a record, with sizes as columns."""
    sizes = dict.fromkeys(name for row in record.cases for name in row.shape)
    return [
        {
            "kernel": row.kernel,
            "implementation": row.implementation,
            "variant": row.variant,
            **{name: row.shape.get(name) for name in sizes},
            "us": row.timing.us if row.timing else None,
            "spread": row.timing.spread if row.timing else None,
            "sustained_us": row.sustained.us if row.sustained else None,
            "tflops": row.tflops,
            "gbps": row.gbps,
            "error": row.error,
            "wrong": row.wrong,
            "why": row.why,
        }
        for row in record.cases
    ]


def _figures(record: BenchRecord, row: BenchRow) -> list[Any]:
    if row.timing is None:
        from rich.text import Text

        why = row.why.split(":")[0]
        return ["", "", "", "", "", "", "", "", "", Text(why, style="red" if row.wrong else "")]
    us = row.timing.us
    bounds = record.bounds(row)
    peers = [r.timing.us for r in record.find(row.kernel, "peer", shape=row.shape) if r.timing and r is not row]
    return [
        f"{us:.1f}",
        f"{row.timing.spread * 50:.1f}",
        f"{row.tflops:.0f}" if row.tflops else "",
        f"{row.gbps:.0f}",
        f"{row.sustained.us:.1f}" if row.sustained else "",
        f"{min(peers) / us:.2f}" if peers and row.variant != "peer" else "",
        *(f"{bounds[bound] / us:.2f}" if bound in bounds else "" for bound in ("native FP8", "copy")),
        f"{row.timing.host_us:.0f}",
        f"{row.error:.1e}" if row.error is not None else "",
    ]
