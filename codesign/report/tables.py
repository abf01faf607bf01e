"""Numbers as text, and tables drawn from the figures of their evidence."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import inf, log2

from codesign.figures.evidence import Column, Form, RowField, Table
from codesign.figures.figure import Figure
from codesign.figures.metric import metric_named
from codesign.figures.words import worst


def number(value: float | None, unit: str = "1") -> str:
    """Return a value with three significant digits, dB with one decimal, bytes and joules with a prefix."""
    if value is None:
        return "not finite"
    if unit in ("B", "J") and value:
        prefixes = {1e12: "T", 1e9: "G", 1e6: "M", 1e3: "k", 1.0: "", 1e-3: "m"}
        size = next((p for p in prefixes if abs(value) >= p), 1e-3)
        return f"{value / size:.3g} {prefixes[size]}{unit}"
    if unit == "dB":
        return f"{value:.1f} dB"
    if value == 0:
        return "0"
    if 1e3 <= abs(value) < 1e6:
        return f"{value:,.0f}"
    return f"{value:.3g}" if 1e-3 <= abs(value) < 1e3 else f"{value:.2e}"


SHADES = (log2(1.02), log2(1.25), 1.0)
"""Changes at which the background of a cell deepens, in powers of two."""


def interval(figure: Figure) -> str:
    """Return a figure's value, and its interval unless that reads as the value; a ratio has no unit."""
    unit = "1" if "; ratio to " in figure.source else metric_named(figure.metric).unit
    return with_ends(figure.value, figure.low, figure.high, unit)


def with_ends(value: float | None, low: float | None, high: float | None, unit: str) -> str:
    """Return a value with its interval, unless both ends read as the value; None as an end is infinite, as both no interval."""
    text = number(value, unit)
    if value is None:
        return text
    if low is None and high is None:
        return f"{text} (no interval)"
    ends = "-∞" if low is None else number(low, unit), "∞" if high is None else number(high, unit)
    return text if ends == (text, text) else f"{text} [{', '.join(ends)}]"


Names = tuple[str, ...]
"""Names that identify a row, in words."""


@dataclass(frozen=True)
class Row:
    """Names and cells of a row."""

    names: Names
    cells: tuple[str, ...]
    shades: tuple[str, ...] = ()
    """Background of each cell, a name in the palette; empty: none."""
    about: tuple[str, ...] = ()
    """Text under the pointer of each cell."""


@dataclass(frozen=True)
class DrawnTable:
    """A table as text."""

    title: str
    headings: tuple[str, ...]
    """Headings of names, then of cells."""
    forms: tuple[Form, ...]
    """Content of each cell of a row."""
    rows: tuple[Row, ...]
    kinds: tuple[str, ...]
    """Kinds of the table's figures."""
    note: str


def draw(table: Table, figures: Sequence[Figure]) -> DrawnTable:
    """Return a table drawn from these figures; rows with the same first name come together."""
    groups: dict[Names, list[Figure]] = {}
    metrics = {column.metric for column in table.columns}
    for figure in figures:
        if (None in metrics or figure.metric in metrics) and _shown(table, figure):
            groups.setdefault(tuple(_name(table, field, figure) for field in table.rows), []).append(figure)
    by_place = {(f.metric, f.workload, f.tensors): f for f in figures if f.variant == "software" and f.at is None}
    firsts = {first: i for i, first in enumerate(dict.fromkeys(names[0] for names in groups))}
    shown = [
        i
        for i, field in enumerate(table.rows)
        if i == 0 or field != "design" or len({names[i] for names in groups}) > 1  # a report with one design is of it
    ]
    rows = [
        Row(
            tuple(names[i] for i in shown),
            tuple(_cell(column, own, "design" in table.rows) for column in table.columns),
            *(_shades(table, own, by_place) if any(c.form == "shaded" for c in table.columns) else ()),
        )
        for names, own in sorted(groups.items(), key=lambda group: firsts[group[0][0]])
    ]
    return DrawnTable(
        title=table.title,
        headings=(*(table.headings[i] for i in shown), *(column.heading for column in table.columns)),
        forms=tuple(column.form for column in table.columns),
        rows=tuple(_joined(rows) if table.alike else rows),
        kinds=tuple(dict.fromkeys(f.kind for own in groups.values() for f in own)),
        note=table.note,
    )


def _shades(
    table: Table, row: Sequence[Figure], software: Mapping[tuple[str, str, str], Figure]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the background of each cell of a heat map, and the text under its pointer."""
    shades, about = [], []
    for column in table.columns:
        own = worst(f for f in row if _selected(column, f, any_value=False))
        other = software.get((own.metric, own.workload, own.tensors)) if own else None
        shades.append(shade(own, other))
        about.append(f"{interval(own)}; today's software {interval(other)}" if own and other else "")
    return tuple(shades), tuple(about)


def shade(own: Figure | None, other: Figure | None) -> str:
    """Return the background that shows how much better or worse a figure is than another; empty for about the same."""
    if own is None or other is None:
        return ""
    bad, before = (metric_named(f.metric).badness(f.value) for f in (own, other))
    if bad == before:
        return ""
    if metric_named(own.metric).unit == "dB":
        change = (bad - before) / 6.02
    else:
        change = log2(bad / before) if 0 < bad < inf and 0 < before < inf else inf if bad > before else -inf
    return shade_of(change)


def shade_of(change: float) -> str:
    """Return the background for a change to the worse, in powers of two; empty for a small one."""
    depth = sum(abs(change) >= step for step in SHADES)
    return f"{'worse' if change > 0 else 'better'}-{depth}" if depth else ""


def _shown(table: Table, figure: Figure) -> bool:
    return (
        (not table.labels or "variant" not in table.rows or figure.variant in table.labels)
        and (not table.workloads or figure.workload in table.workloads)
        and any(_selected(column, figure, "design" in table.rows) for column in table.columns)
    )


def _selected(column: Column, figure: Figure, any_value: bool) -> bool:
    return (
        column.metric in (None, figure.metric)
        and column.variant in (None, figure.variant)
        and (any_value or column.at == figure.at)
        and (column.step is None or column.step == figure.workload.split(".")[1])
        and column.tensors in (None, figure.tensors)
    )


def _name(table: Table, field: RowField, figure: Figure) -> str:
    variant = table.labels.get(figure.variant, figure.variant)
    metric = metric_named(figure.metric)
    only = f" ({', '.join(metric.passes)})" if metric.passes else ""
    names: dict[RowField, str] = {
        "metric": metric.short + only + ("" if metric.unit in ("1", "B", "J", "dB") else f", {metric.unit}"),
        "variant": variant,
        "design": variant + ("" if figure.at is None else f" at {figure.at}"),
        "workload": figure.workload,
        "tensors": figure.tensors,
    }
    return names[field]


def _cell(column: Column, row: Sequence[Figure], any_value: bool) -> str:
    summed = [f for f in row if _selected(column, f, any_value)]
    if len(summed) > 1:
        summed = [f for f in summed if of_summary(f)]
    figure = worst(summed)
    if figure is None:
        return "—"
    text = number(figure.value, metric_named(figure.metric).unit)
    forms: dict[Form, Callable[[], str]] = {
        "number": lambda: text,
        "interval": lambda: interval(figure),
        "number, kind": lambda: f"{text} {figure.kind}",
        "shaded": lambda: text,
        "over software": lambda: _over_software(figure, row),
        "kind": lambda: figure.kind,
        "source": lambda: figure.source,
    }
    return forms[column.form]()


def of_summary(figure: Figure) -> bool:
    """Return whether a summary of many GEMMs counts this figure."""
    passes = metric_named(figure.metric).passes
    return not passes or figure.workload.split(".")[1:2] in [[step] for step in passes]


def _over_software(figure: Figure, row: Sequence[Figure]) -> str:
    other = next((f.value for f in row if (f.metric, f.variant) == (figure.metric, "software")), None)
    return number(figure.value / other) if figure.value is not None and other else "—"


def _joined(rows: Sequence[Row]) -> Iterator[Row]:
    """Yield rows; those that differ only in their last name are joined."""
    alike: dict[tuple[Names, tuple[str, ...]], list[str]] = {}
    for row in rows:
        alike.setdefault((row.names[:-1], row.cells), []).append(row.names[-1])
    for (names, cells), last in alike.items():
        yield Row((*names, " = ".join(last)), cells)
