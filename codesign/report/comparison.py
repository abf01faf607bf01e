"""A comparison as a table on the terminal and as one self-contained HTML page."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table

from codesign.figures.metric import metric_named
from codesign.figures.words import listed
from codesign.report.tables import number
from codesign.report.write import environment
from codesign.verdicts.compare import ComparedProposal, Comparison, axis_of
from isa_model.output_files import write_folder

FRONT = "★"
KIND = "a comparison"


def heading(axis: str) -> str:
    """Return a metric's column heading, with an arrow in the better direction."""
    better = "↑" if metric_named(axis).better == "higher" else "↓"
    return _name(axis) + f" {better}"


def _name(axis: str) -> str:
    return metric_named(axis).short + (" over software's" if axis_of(axis).over_software else "")


def kinds(comparison: Comparison, axis: str) -> str:
    """Return the kinds of a column's figures."""
    own = [e.kinds[axis] for e in comparison.entries if axis in e.kinds and e.role == "proposal"]
    return ", ".join(dict.fromkeys(own))


def cell(entry: ComparedProposal, axis: str) -> str:
    """Return a proposal's figure on an axis; a dash for none."""
    unit = "1" if axis_of(axis).over_software else metric_named(axis).unit
    return number(entry.values[axis], unit) if axis in entry.values else "—"


def notes(comparison: Comparison) -> list[str]:
    """Return the notes below the table."""
    said = []
    if comparison.judged:
        judged = ", ".join(map(_name, comparison.judged))
        said.append(
            f"{FRONT} On the Pareto front: nothing else here is certainly better on one and certainly worse on none of: "
            f"{judged}. Certain is what holds under every assumption made, or what intervals that do not touch show."
        )
        said += [f"{e.proposal} is beaten by {listed(e.beaten_by)}." for e in comparison.entries if e.beaten_by]
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
        "↓ lower is better, ↑ higher is better. Each figure is the worst over the places that all proposals have in "
        "common; — means no evidence. Ratios are to the software of the proposal's own base."
    )
    if comparison.covered:
        said.append(f"Errors are compared on {len(comparison.covered)} pairs of GEMM and tensors.")
    return said


def show(comparison: Comparison, console: Console) -> None:
    """Print the table, a row per proposal."""
    table = Table(header_style="bold", pad_edge=False)
    table.add_column("", no_wrap=True)
    table.add_column("proposal", no_wrap=True)
    for axis in comparison.axes:
        table.add_column(f"{heading(axis)} ({kinds(comparison, axis)})", justify="right")
    for entry in comparison.entries:
        table.add_row(FRONT if entry.front else "", entry.proposal, *(cell(entry, axis) for axis in comparison.axes))
    console.print(table)
    for line in notes(comparison):
        console.print(line, highlight=False)


def write(comparison: Comparison, folder: Path) -> Path:
    """Write page and JSON into `folder`. Returns the page's path. Raises InputError as `write_folder`."""
    pairs = [(a, b) for a, b in (_axes_of_plot(comparison),) if a and b]
    page = (
        environment(html=True)
        .get_template("comparison.html.j2")
        .render(
            comparison=comparison,
            heading=heading,
            kinds=kinds,
            cell=cell,
            front=FRONT,
            notes=notes(comparison),
            plot=_scatter(comparison, *pairs[0]) if pairs else "",
        )
    )
    files = {"comparison.json": comparison.model_dump_json(indent=1) + "\n", "comparison.html": page}
    write_folder(folder, files, KIND)
    return folder / "comparison.html"


def _axes_of_plot(comparison: Comparison) -> tuple[str, str]:
    """Return the first cost and the first error that all proposals have; empty strings if there is none."""
    errors = [a for a in comparison.judged if metric_named(a).sampled]
    prices = [a for a in comparison.judged if metric_named(a).dearer and metric_named(a).better == "lower"]
    return (prices[0] if prices else "", errors[0] if errors else "")


def _scatter(comparison: Comparison, x: str, y: str) -> str:
    """Return the plot of error against cost, a point for each proposal, as an SVG element."""
    import matplotlib.pyplot as plt

    from codesign.figures.drawing import styled, written
    from codesign.figures.labels import place

    with styled():
        figure, axes = plt.subplots(figsize=(7.2, 4.2), layout="constrained")
        points = [
            (e, px, py)
            for e in comparison.entries
            if (px := e.values.get(x)) is not None and (py := e.values.get(y)) is not None
        ]
        for entry, px, py in points:
            style = (
                {"marker": "*", "s": 130, "color": "#009E73"} if entry.front else {"marker": "o", "color": "#777777"}
            )
            axes.scatter([px], [py], zorder=3, **style)
        values = [py for *_, py in points if py]
        if values and min(values) > 0 and max(values) > 5 * min(values):
            axes.set_yscale("log")
        axes.margins(x=0.25, y=0.15)
        axes.set_xlabel(heading(x))
        axes.set_ylabel(heading(y))
        place(axes, [(px, py, entry.proposal) for entry, px, py in points], size=10)
        return written(figure)
