"""Numbers as text, and the tables every kind of report shows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from codesign.claims import Verdict
from codesign.evaluate import Result
from codesign.evidence import Figure
from codesign.metrics import METRICS, NUMERICS

MARKS = {"supported": "✓", "refuted": "✗", "undetermined": "?"}


@dataclass(frozen=True)
class Row:
    """One GEMM and tensor source (or swept value): cells by variant, in the order of the table's columns."""

    name: str
    tensors: str
    cells: tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """One metric over all GEMMs, variants side by side."""

    metric: str
    description: str
    unit: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]


def number(value: float | None, unit: str = "1") -> str:
    """A figure as text: three significant digits or a whole number, dB with one decimal."""
    if value is None:
        return "not finite"
    if unit == "dB":
        return f"{value:.1f} dB"
    if value == 0:
        return "0"
    if 1e3 <= abs(value) < 1e6:
        return f"{value:,.0f}"
    return f"{value:.3g}" if 1e-3 <= abs(value) < 1e3 else f"{value:.2e}"


def interval(figure: Figure) -> str:
    """The figure's value with its interval."""
    unit = METRICS[figure.metric].unit
    return f"{number(figure.value, unit)} [{number(figure.low, unit)}, {number(figure.high, unit)}]"


def deciding(verdict: Verdict) -> str:
    """The figure that decided, in words."""
    if verdict.deciding is None:
        return "—"
    figure = verdict.deciding
    return f"{interval(figure)} " + (f"on {figure.workload}, {figure.tensors}" if figure.workload else figure.source)


def cost_rows(result: Result) -> list[tuple[str, ...]]:
    """A row per design and cost: what, of which design, the figure with its interval, its kind and what it stands on."""
    own = result.proposal.proposal
    return [
        (f.metric, own if f.at is None else f"{own} at {f.at}", interval(f), f"{f.kind}: {f.source}")
        for f in result.costs
    ]


SHORT = {
    "numerics.relative_frobenius": "accumulation error",
    "numerics.max_relative": "largest error / largest value",
    "numerics.bias": "bias",
    "numerics.share_over_1_bf16_ulp": "outputs off by over 1 BF16 ulp",
    "numerics.quantisation_error": "quantisation error",
    "numerics.total_error": "total error",
    "numerics.sqnr_db": "SQNR",
    "numerics.underflow_share": "underflow",
    "numerics.overflow_share": "overflow",
}


def worst_table(result: Result) -> tuple[tuple[str, ...], list[tuple[str, tuple[str, ...]]]]:
    """Headings, and a row per variant: its worst figure of each metric."""
    metrics = list(dict.fromkeys(f.metric for f in result.worst))
    by_key = {(f.variant, f.metric): f for f in result.worst}
    variants = dict.fromkeys(f.variant for f in result.worst)
    rows = [(result.labels[v], tuple(number(by_key[v, m].value, METRICS[m].unit) for m in metrics)) for v in variants]
    return tuple(SHORT.get(m, m) for m in metrics), rows


def figure_tables(result: Result) -> Iterator[Table]:
    """A table per metric: one row per GEMM and tensor source, a column per variant."""
    keys = list(dict.fromkeys((f.variant, f.at) for f in result.figures))
    columns = tuple(result.labels[v] if at is None else f"{v} at {at}" for v, at in keys)
    by_key = {(f.metric, f.workload, f.tensors, f.variant, f.at): f for f in result.figures}
    rows = list(dict.fromkeys((f.workload, f.tensors) for f in result.figures))
    for metric in NUMERICS:
        about = METRICS[metric]
        yield Table(
            metric=metric,
            description=about.description,
            unit=about.unit,
            columns=columns,
            rows=tuple(
                Row(
                    workload,
                    tensors,
                    tuple(
                        number(by_key[metric, workload, tensors, variant, at].value, about.unit) for variant, at in keys
                    ),
                )
                for workload, tensors in rows
            ),
        )
