"""Evidence: the figures that one source found, how a report shows them, and how they were found."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from codesign.figures.figure import At, Figure, Plot
from codesign.figures.metric import Metric
from isa_model.stage import Spec

RowField = Literal["metric", "variant", "design", "workload", "tensors"]
"""Field that identifies the rows of a table. `design` is a variant with the value of the swept field."""
Form = Literal["number", "interval", "number, kind", "over software", "shaded", "kind", "source"]
"""Content of a cell. `over software` is the figure's ratio to that of today's software in the same row; `shaded` is a number
on a background that shows this ratio: the cells of a heat map."""


class Column(Spec):
    """A column of a table: a selection of figures, and the form in which cells show them."""

    heading: str
    form: Form = "number"
    """Content of its cells."""
    metric: str | None = None
    """Metric of the figures; None: any."""
    variant: str | None = None
    """Variant of the figures; None: any."""
    at: At | None = None
    """Value of the swept field; None: the proposal's own."""
    step: str | None = None
    """Pass of the figures' GEMMs; None: any."""
    tensors: str | None = None
    """Tensor source of the figures; None: any."""


class Table(Spec):
    """A view of the evidence's figures, drawn with the report: each cell shows the worst figure of its row and column."""

    title: str = ""
    rows: tuple[RowField, ...]
    """Fields that identify a row; each is a column on the left."""
    headings: tuple[str, ...]
    """Headings of the columns of `rows`."""
    columns: tuple[Column, ...]
    """Columns of cells, to the right."""
    labels: dict[str, str] = Field(default_factory=dict)
    """Names of the variants shown; empty: all, under their own names."""
    workloads: tuple[str, ...] = ()
    """Workloads shown; empty: all."""
    alike: bool = False
    """True if rows with the same cells are joined."""
    note: str = ""
    """Note below the table."""


KIND_AND_SOURCE = (Column(heading="kind", form="kind"), Column(heading="from", form="source"))
"""Last columns of a table with one figure a row."""


def by_gemm(metrics: Sequence[Metric], designs: Sequence[tuple[str, str, At | None]]) -> tuple[Table, ...]:
    """Return a table for each metric, with a row per GEMM and tensor source, and a column per (heading, variant, value)."""
    return tuple(
        Table(
            title=f"{m.short} ({m.name})",
            rows=("workload", "tensors"),
            headings=("GEMM", "tensors"),
            columns=tuple(Column(heading=h, metric=m.name, variant=v, at=at) for h, v, at in designs),
            note=f"{m.description[0].upper()}{m.description[1:]}.",
        )
        for m in metrics
    )


def heat_map(title: str, metrics: Sequence[Metric], tensors: Sequence[str], note: str) -> Table:
    """Return a heat map of the proposal: a row for each GEMM, and for each metric a column per tensor source."""
    return Table(
        title=title,
        rows=("workload",),
        headings=("GEMM",),
        columns=tuple(
            Column(heading=f"{m.short}, {t}", form="shaded", metric=m.name, variant="proposal", tensors=t)
            for m in metrics
            for t in tensors
        ),
        note=f"{note} Blue is better than today's software, orange is worse; the deeper, the more: 2 %, 25 %, a factor of 2.",
    )


class Section(Spec):
    """A part of a report: sentences, then plots, then tables, then notes."""

    title: str
    sentences: tuple[str, ...] = ()
    plots: tuple[Plot, ...] = ()
    tables: tuple[Table, ...] = ()
    notes: tuple[str, ...] = ()
    folded: bool = False
    """True for long lists of figures: placed after all other sections, and closed in HTML."""


class Evidence(Spec):
    """Findings of one source."""

    source: str
    """Kind of evidence, such as numerics."""
    figures: tuple[Figure, ...]
    """All figures found; tables are drawn from them."""
    alarms: tuple[str, ...] = ()
    """Sentences for the headline, on faults that make every other figure worthless."""
    finding: tuple[str, ...] = ()
    """Sentences that sum the evidence up, for the terminal; in a report at the head of its first section."""
    sections: tuple[Section, ...] = ()
    """Parts of the report, in their order."""
    method: tuple[str, ...] = ()
    """Sentences on how the evidence was gathered, or on why there is none."""

    @property
    def plots(self) -> tuple[Plot, ...]:
        """Plots of all sections."""
        return tuple(plot for section in self.sections for plot in section.plots)
