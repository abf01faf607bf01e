"""Results as notebooks use them: shown, as data frames, plotted and saved. Everything is drawn from the result alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from html import escape
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from codesign.verdicts.compare import ComparedProposal, Comparison, axis_of
from codesign.verdicts.diff import Difference
from codesign.verdicts.evaluate import Result
from isa_model.diagnostics import InputError, Unavailable, suggest

if TYPE_CHECKING:
    import pandas

    from codesign.report.rows import Row

_CELL = "text-align: left; vertical-align: top"


@dataclass(frozen=True)
class Drawing:
    """A plot as SVG, which notebooks show."""

    name: str
    svg: str

    def _repr_svg_(self) -> str:
        return self.svg

    def __repr__(self) -> str:
        return f"<Drawing {self.name}>"

    def save(self, path: str | PathLike[str]) -> Path:
        """Write the plot to an SVG file and return its path. Raises InputError for a file that this did not write."""
        from isa_model.output_files import write_file

        mark = "<!-- a plot of codesign -->"
        write_file(Path(path), f"{self.svg}{mark}\n", mark, "a plot of codesign")
        return Path(path)


class Evaluation(Result):
    """Everything that an evaluation found: a result.json, with what a notebook does with it."""

    @classmethod
    def of(cls, result: Result) -> Evaluation:
        """Return a result as an Evaluation."""
        return cls.model_construct(**dict(result))

    @property
    def plot_names(self) -> tuple[str, ...]:
        """Names that `plot` takes."""
        return tuple(self._plots)

    def plot(self, name: str) -> Drawing:
        """Return a plot of the report by name. Raises InputError, which lists the names, for an unknown one."""
        plots = self._plots
        if name not in plots:
            hint = suggest(str(name), plots) or f"one of: {', '.join(plots)}"
            raise InputError.of(f"{self.proposal.proposal} has no plot `{name}`", hint)
        return Drawing(name, plots[name])

    @cached_property
    def _plots(self) -> dict[str, str]:
        """Plots of the report as SVG, by name."""
        from codesign.report.write import contents

        return {name.removesuffix(".svg"): text for name, text in contents(self).items() if name.endswith(".svg")}

    def to_frame(self, rows: Literal["figures", "claims"] = "figures") -> pandas.DataFrame:
        """Return a pandas DataFrame with a row per figure, or per claim. Raises Unavailable without pandas."""
        from codesign.report.rows import claim_rows, figure_rows

        kinds = {"figures": figure_rows, "claims": claim_rows}
        if rows not in kinds:
            raise InputError.of(f"there are no rows of `{rows}`", "figures or claims")
        return _frame(kinds[rows](self))

    def save(self, folder: str | PathLike[str] | None = None) -> Path:
        """Write the report into a folder (default: codesign-reports/<proposal>) and return its HTML page's path.

        An older report there is replaced. Raises InputError if the folder holds anything else.
        """
        from codesign.report.lookup import FOLDER
        from codesign.report.write import write
        from isa_model.output_files import untracked

        page = write(self, FOLDER / self.proposal.proposal if folder is None else Path(folder))
        if folder is None:
            untracked(FOLDER)
        return page

    def _repr_html_(self) -> str:
        from codesign.report.page import MARKS, deciding

        rows = [(f"{MARKS[v.judgement]} {v.judgement}", v.statement, deciding(v)) for v in self.verdicts]
        table = _html_table(("verdict", "claim", "decided by"), rows)
        title, *said = (escape(text) for text in (self.proposal.title, self.headline, self.finding))
        return f"<p><strong>{title}</strong></p>\n{table}\n" + "\n".join(f"<p>{text}</p>" for text in said if text)

    def __repr__(self) -> str:
        return f"<Evaluation of {self.proposal.proposal}: {self.headline}>"

    __str__ = __repr__


class SideBySide(Comparison):
    """A comparison of evaluations, with what a notebook does with it."""

    @classmethod
    def of(cls, comparison: Comparison) -> SideBySide:
        """Return a comparison as a SideBySide."""
        return cls.model_construct(**dict(comparison))

    def to_frame(self) -> pandas.DataFrame:
        """Return a pandas DataFrame with a row per proposal and metric. Raises Unavailable without pandas."""
        from codesign.report.rows import comparison_rows

        return _frame(comparison_rows(self))

    def save(self, folder: str | PathLike[str] | None = None) -> Path:
        """Write the comparison's page and JSON into a folder (default: codesign-reports/compare); return the page's path."""
        from codesign.report.comparison import write
        from codesign.report.lookup import FOLDER
        from isa_model.output_files import untracked

        page = write(self, FOLDER / "compare" if folder is None else Path(folder))
        if folder is None:
            untracked(FOLDER)
        return page

    def _repr_html_(self) -> str:
        from codesign.report.comparison import heading, notes, title

        headings = ("", *map(title, self.entries))
        rows = [(heading(axis), *(_value(entry, axis) for entry in self.entries)) for axis in self.axes]
        return _html_table(headings, rows) + "".join(f"\n<p>{escape(note)}</p>" for note in notes(self))

    def __repr__(self) -> str:
        return f"<SideBySide of {', '.join(e.proposal for e in self.entries if e.role == 'proposal')}>"

    __str__ = __repr__


class Changes(Difference):
    """What changed between two results, with what a notebook does with it."""

    @classmethod
    def of(cls, found: Difference) -> Changes:
        """Return a difference as Changes."""
        return cls.model_construct(**dict(found))

    def to_frame(self) -> pandas.DataFrame:
        """Return a pandas DataFrame with a row per change. Raises Unavailable without pandas."""
        from codesign.report.rows import difference_rows

        return _frame(difference_rows(self))

    def _repr_html_(self) -> str:
        from codesign.report.difference import more, summary, tables

        shown = [
            _html_table((changes.title, "old", "new", "change")[: len(changes.rows[0])], changes.rows)
            for changes in tables(self)
        ]
        said = (more(self, ALL), summary(self))
        return "\n".join([*shown, *(f"<p>{escape(text)}</p>" for text in said if text)])

    def __repr__(self) -> str:
        from codesign.report.difference import summary

        return f"<Changes: {summary(self)}>"

    def __str__(self) -> str:
        from codesign.report.difference import text

        return text(self, ALL)


ALL = "to_frame() has all"
"""Place of all figures that a short text leaves out."""


def _value(entry: ComparedProposal, axis: str) -> str:
    """Return a proposal's figure on an axis with its interval; a dash for none."""
    from codesign.figures.metric import metric_named
    from codesign.report.tables import with_ends

    if axis not in entry.values:
        return "—"
    unit = "1" if axis_of(axis).over_software else metric_named(axis).unit
    return with_ends(entry.values[axis], entry.low.get(axis), entry.high.get(axis), unit)


def _frame(rows: list[Row]) -> pandas.DataFrame:
    try:
        import pandas
    except ImportError:
        raise Unavailable("to_frame needs pandas; `pip install 'codesign[data]'` brings it") from None
    return pandas.DataFrame(rows)


def _html_table(headings: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """Return an HTML table without styles of its own but alignment, so that it fits light and dark notebooks."""
    head = "".join(f'<th style="{_CELL}">{escape(text)}</th>' for text in headings)
    body = "".join(
        "<tr>" + "".join(f'<td style="{_CELL}">{escape(text)}</td>' for text in row) + "</tr>\n" for row in rows
    )
    return f"<table>\n<tr>{head}</tr>\n{body}</table>"
