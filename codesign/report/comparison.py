"""A comparison as a table on the terminal, as one self-contained HTML page, and as Markdown to paste into a review."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import inf, log2
from pathlib import Path

from rich.console import Console
from rich.table import Table

from codesign.figures.drawing import svg
from codesign.figures.figure import Plot, Series
from codesign.figures.metric import metric_named
from codesign.figures.strips import Mark, Strip, StripPlot, strips
from codesign.figures.words import listed
from codesign.report.tables import number, shade_of, with_ends
from codesign.report.write import environment
from codesign.verdicts.compare import Against, ComparedProposal, Comparison, axis_of
from isa_model.output_files import write_folder

FRONT, LEADS = "★", "☆"
KIND = "a comparison"
MOST_COLUMNS = 8
"""Most columns of a table, that of its names included."""
COLOURS = ("proposal", "twin", "energy", "area", "delay", "orange", "sky", "curve")
"""Colours of the proposals in the plots."""
FARTHEST = 8.0
"""Largest ratio that the plot of all quantities draws; larger ones are arrows."""


@dataclass(frozen=True)
class Cell:
    """A figure of a design, and its ratio to today's."""

    figure: str
    ratio: str = ""
    shade: str = ""
    """Background, by how much better or worse than today's it is."""


def title(entry: ComparedProposal) -> str:
    """Return a design's name, with a star if it is on the front, or on that of the proposals alone."""
    star = FRONT if entry.front else LEADS if entry.leads else ""
    return f"{star} {entry.proposal}".strip()


def heading(axis: str) -> str:
    """Return a metric's name, with an arrow in the better direction."""
    better = "↑" if metric_named(axis).better == "higher" else "↓"
    return _name(axis) + f" {better}"


def _name(axis: str) -> str:
    return metric_named(axis).short + (" over software's" if axis_of(axis).over_software else "")


def kinds(comparison: Comparison, axis: str) -> str:
    """Return the kinds of a metric's figures."""
    own = [e.kinds[axis] for e in comparison.entries if axis in e.kinds and e.role == "proposal"]
    return ", ".join(dict.fromkeys(own))


def cell(entry: ComparedProposal, axis: str) -> Cell:
    """Return a design's figure on an axis, and its ratio to today's; a dash for none."""
    if axis not in entry.values:
        return Cell("—")
    metric, over = metric_named(axis), axis_of(axis).over_software
    figure = with_ends(entry.values[axis], entry.low.get(axis), entry.high.get(axis), "1" if over else metric.unit)
    ratio = entry.against.get(axis)
    if ratio is None:
        return Cell(figure)
    bad = _worse(axis, ratio)
    shade = shade_of(log2(bad) if 0 < bad < inf else inf if bad else -inf)
    if over or metric.comparison == "none":
        return Cell(f"×{figure}", "", shade)  # the figure is the ratio
    return Cell(figure, f"×{with_ends(ratio.value, ratio.low, ratio.high, '1')}", shade)


def _worse(axis: str, ratio: Against) -> float:
    """Return how many times worse than today a ratio is; infinite for one that is not finite."""
    if ratio.value is None:
        return inf
    if metric_named(axis).better == "higher":
        return 1 / ratio.value if ratio.value else inf
    return ratio.value


def columns(entries: Sequence[ComparedProposal], most: int = MOST_COLUMNS) -> list[list[ComparedProposal]]:
    """Return the designs of each table: today's software first in each, and no more columns than `most` with the names."""
    first = next((e for e in entries if e.role == "software"), None)
    rest = [e for e in entries if e is not first]
    size = max(most - 2, 1)
    return [[*([first] if first else []), *rest[i : i + size]] for i in range(0, max(len(rest), 1), size)]


def headline(comparison: Comparison) -> str:
    """Return the outcome of a comparison in a sentence."""
    if not comparison.judged:
        return "Not comparable: they have no total error on the same GEMM and tensors."
    front = [e.proposal for e in comparison.entries if e.front and e.role == "proposal"]
    if not front:
        return "No proposal is on the Pareto front."
    today = ["today's software"] if any(e.front for e in comparison.entries if e.role == "software") else []
    return f"On the Pareto front: {listed(front + today)}."


def notes(comparison: Comparison) -> list[str]:
    """Return the notes below the tables."""
    said = []
    asked = [a for a in comparison.objectives if a not in comparison.judged]
    if comparison.judged:
        judged = ", ".join(map(_name, comparison.judged))
        said.append(f"Objectives of the Pareto front: {judged}.")
        starred = [e for e in comparison.entries if e.front]
        if any(e.role == "proposal" for e in starred):
            said.append(f"{FRONT} On the front: nothing here, today's software included, beats it.")
        elif starred:
            said.append(f"{FRONT} On the front: today's alone. On these objectives no proposal here pays.")
        if any(e.leads and not e.front for e in comparison.entries):
            said.append(f"{LEADS} Beaten by today's software, but by no other proposal.")
        said.append(
            "A design beats another if it is certainly better on one objective, and certainly worse on none. Certain is what "
            "holds under every assumption made, or what intervals show that do not touch, of figures or of their paired ratios "
            "to today's software."
        )
        if asked:
            said.append(f"Not judged, as not all have it in common: {', '.join(map(_name, asked))}.")
        said += [f"{e.proposal} is beaten by {listed(_beaten(e))}." for e in comparison.entries if e.beaten_by]
        unknown = [e.proposal for e in comparison.entries if e.role == "proposal" and not e.front and not e.beaten_by]
        if unknown:
            said.append(f"Too little was sampled to judge {listed(unknown)}.")
    else:
        said.append("Not comparable: they have no total error on the same GEMM and tensors, so none is starred.")
    said += [
        f"{_name(axis)}: not comparable, as no two have it on the same {'model' if metric_named(axis).of_layer else 'GEMM'}."
        for axis in comparison.apart
    ]
    said.append(
        "↓ lower is better, ↑ higher is better. Each figure is the worst over the places that all proposals have in common, "
        "with its interval unless that rounds to the same digits. × is the ratio to today's software, or to today's unit, at "
        "that place, of the proposal's own base. — means no evidence."
    )
    if comparison.covered:
        pairs = "pair" if len(comparison.covered) == 1 else "pairs"
        said.append(f"Errors are compared on {len(comparison.covered)} {pairs} of GEMM and tensors.")
    return said


def _beaten(entry: ComparedProposal) -> list[str]:
    """Return what beats a design, each with the objectives on which it is better."""
    better = ((by, ", ".join(map(_name, entry.beaten_on.get(by, ())))) for by in entry.beaten_by)
    return [f"{by} ({axes})" if axes else by for by, axes in better]


# -- output ----------------------------------------------------------------------------------------------------------


def show(comparison: Comparison, console: Console) -> None:
    """Print tables with a row per metric and a column per design, as many columns as fit the terminal."""
    for designs in columns(comparison.entries, min(MOST_COLUMNS, max(3, (console.width - 20) // 18 + 1))):
        table = Table(header_style="bold", pad_edge=False)
        table.add_column("")
        for entry in designs:
            table.add_column(title(entry), justify="right")
        for axis in comparison.axes:
            cells = (cell(entry, axis) for entry in designs)
            table.add_row(
                f"{heading(axis)} ({kinds(comparison, axis)})",
                *("\n".join(filter(None, (c.figure, c.ratio))) for c in cells),
            )
        console.print(table)
    for line in notes(comparison):
        console.print(line, highlight=False)


def write(comparison: Comparison, folder: Path) -> Path:
    """Write page, Markdown and JSON into `folder`. Returns the page's path. Raises InputError as `write_folder`."""
    drawn = {
        "comparison": comparison,
        "tables": columns(comparison.entries),
        "heading": heading,
        "kinds": kinds,
        "cell": cell,
        "title": title,
        "headline": headline(comparison),
        "notes": notes(comparison),
        "places": _places(comparison),
    }
    markdown = environment(html=False).get_template("comparison.md.j2").render(drawn)
    plots = {"profile": strips(found) if (found := profile(comparison)) else "", "scatter": _scatter(comparison)}
    page = environment(html=True).get_template("comparison.html.j2").render(drawn, markdown=markdown, plots=plots)
    files = {
        "comparison.json": comparison.model_dump_json(indent=1) + "\n",
        "comparison.html": page,
        "comparison.md": markdown,
    }
    write_folder(folder, files, KIND)
    return folder / "comparison.html"


def _places(comparison: Comparison) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """Yield each pair of GEMM and tensors with the error of every design, shaded by its ratio to today's software."""
    software = next((e for e in comparison.entries if e.role == "software"), None)
    for place in comparison.covered:
        cells = []
        for entry in comparison.entries:
            value = entry.places.get(place)
            base = software.places.get(place) if software else None
            shade = shade_of(log2(value / base)) if value and base else ""
            cells.append((number(value) if place in entry.places else "—", shade))
        yield place, cells


def _label(entry: ComparedProposal) -> str:
    """Return a design's name in a legend, where all rows of today's software are one."""
    return entry.proposal.split(", for ")[0] if entry.role != "proposal" else entry.proposal


def _colours(comparison: Comparison) -> dict[str, str]:
    """Return the colour of each design, by its name."""
    proposals = [e.proposal for e in comparison.entries if e.role == "proposal"]
    found = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(proposals)}
    return found | {e.proposal: e.role for e in comparison.entries if e.role != "proposal"}


def profile(comparison: Comparison) -> StripPlot | None:
    """Return all designs over all quantities as parallel coordinates, each a ratio to today; None without any ratio."""
    colours = _colours(comparison)
    rows = []
    for axis in comparison.axes:
        marks = []
        for entry in comparison.entries:
            ratio = entry.against.get(axis)
            if ratio is not None:
                worse = _worse(axis, ratio)
                better = 1 / worse if worse else inf
                marks.append(
                    Mark(colours[entry.proposal], better, about=f"{entry.proposal}: {cell(entry, axis).figure}")
                )
        if marks:
            rows.append(Strip(metric_named(axis).short, marks=tuple(marks)))
    if not rows:
        return None
    return StripPlot(
        title="All quantities side by side",
        strips=tuple(rows),
        axis="← worse · times as good as today · better →",
        log=True,
        lines=((1.0, "bound", ""),),
        legend=tuple(dict.fromkeys((_label(e), colours[e.proposal]) for e in comparison.entries)),
        most=FARTHEST,
        joined=True,
    )


def _scatter(comparison: Comparison) -> str:
    """Return the plot of error against cost, a point for each design; empty without both in common."""
    errors = [a for a in comparison.judged if metric_named(a).sampled]
    prices = [a for a in comparison.judged if metric_named(a).dearer and metric_named(a).better == "lower"]
    if not errors or not prices:
        return ""
    x, y, colours = prices[0], errors[0], _colours(comparison)
    found: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for e in comparison.entries:
        if (px := e.values.get(x)) is not None and (py := e.values.get(y)) is not None:
            found.setdefault((_label(e), f"{colours[e.proposal]}_points"), []).append((px, py))
    points = [
        Series(label=label, variant=variant, x=tuple(px for px, _ in at), y=tuple(py for _, py in at))
        for (label, variant), at in found.items()
    ]
    values = [v for s in points for v in s.y if v]
    wide = bool(values) and max(values) > 5 * min(values)
    return svg(
        Plot(
            name="scatter",
            title="Error against cost",
            caption="",
            x_label=heading(x),
            y_label=heading(y),
            y_scale="log10" if wide else "linear",
            series=tuple(points),
        )
    )
