"""Evidence: the figures that one source found, what a report shows of them, and how they were found."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from codesign.figures.figure import At, Figure, Plot
from codesign.figures.metric import Metric
from isa_model.stage import Spec

RowField = Literal["metric", "variant", "design", "workload", "tensors"]
"""What tells the rows of a table apart. `design` is a variant with the value of the swept field."""
Form = Literal["number", "interval", "number, kind", "over software", "kind", "source"]
"""What a cell shows of its figure; `over software` is its ratio to today's software in the same row."""


class Column(Spec):
    """A column of a table: the figures it selects, and what it shows of them."""

    heading: str
    form: Form = "number"
    """What its cells show of their figures."""
    metric: str | None = None
    """Metric of its figures; None: any."""
    variant: str | None = None
    """Variant of its figures; None: any."""
    at: At | None = None
    """Value of the swept field; None: the proposal's own."""
    step: str | None = None
    """Pass of its figures' GEMMs; None: any."""


class Table(Spec):
    """A view of the evidence's figures, drawn with the report: each cell shows the worst figure of its row and column."""

    title: str = ""
    rows: tuple[RowField, ...]
    """Fields that tell rows apart; each is a column on the left."""
    headings: tuple[str, ...]
    """Headings of these columns."""
    columns: tuple[Column, ...]
    """Columns of cells, to the right of them."""
    labels: dict[str, str] = Field(default_factory=dict)
    """Names of the variants that are shown; empty: all, under their own names."""
    workloads: tuple[str, ...] = ()
    """Workloads that are shown; empty: all."""
    alike: bool = False
    """Whether rows with the same cells are joined."""
    note: str = ""
    """What a reader must know, below the table."""


KIND_AND_SOURCE = (Column(heading="kind", form="kind"), Column(heading="from", form="source"))
"""Last columns of a table whose rows are a figure each."""


def by_gemm(metrics: Sequence[Metric], designs: Sequence[tuple[str, str, At | None]]) -> tuple[Table, ...]:
    """Return a table for each metric, with a row per GEMM and tensor source, and a column per (heading, variant, value)."""
    return tuple(
        Table(
            title=m.name,
            rows=("workload", "tensors"),
            headings=("GEMM", "tensors"),
            columns=tuple(Column(heading=h, metric=m.name, variant=v, at=at) for h, v, at in designs),
            note=f"{m.description[0].upper()}{m.description[1:]}.",
        )
        for m in metrics
    )


class Section(Spec):
    """A part of a report: sentences, then plots, then tables, then notes."""

    title: str
    sentences: tuple[str, ...] = ()
    plots: tuple[Plot, ...] = ()
    tables: tuple[Table, ...] = ()
    notes: tuple[str, ...] = ()
    folded: bool = False
    """Whether it shows figure after figure: it is put after all other sections, closed in HTML."""


class Evidence(Spec):
    """What one source has found."""

    source: str
    """Kind of evidence, such as numerics."""
    figures: tuple[Figure, ...]
    """Everything that was found, in numbers; tables are drawn from them."""
    alarms: tuple[str, ...] = ()
    """Sentences for the headline: what makes every other figure worthless."""
    finding: tuple[str, ...] = ()
    """Sentences for the first screen."""
    sections: tuple[Section, ...] = ()
    """Parts of the report, in their order."""
    method: tuple[str, ...] = ()
    """How it was gathered, in sentences; where there is none, why."""

    @property
    def plots(self) -> tuple[Plot, ...]:
        """Plots of all sections."""
        return tuple(plot for section in self.sections for plot in section.plots)
