"""A result's files: result.json, report.md with its plots, and one self-contained report.html."""

from __future__ import annotations

from pathlib import Path

from codesign.evidence.timing.plots import VARIANTS
from codesign.figures.drawing import bytes_by_operation, svg, tornado
from codesign.figures.escape import fenced, literal, sentence
from codesign.report import tables
from codesign.report.baseline_table import baseline_table
from codesign.verdicts.break_even import sentences
from codesign.verdicts.evaluate import Result
from codesign.verdicts.read_result import FAULTS, read_result
from isa_model.diagnostics import InputError
from isa_model.output_files import check_folder, json_lines, write_folder

KIND = "a report"


def check(folder: Path) -> None:
    """Raise InputError if a report cannot go there, before any work is done for it."""
    check_folder(folder, KIND)


def write(result: Result, folder: Path) -> Path:
    """Write all files of a report into `folder`, replacing an old report as a whole. Returns the HTML page's path.

    Raises InputError when the folder cannot be written, or holds something that is not a report.
    """
    write_folder(folder, contents(result), KIND)
    return folder / "report.html"


def replayed(source: Path, folder: Path) -> Path:
    """Write the report of a result.json into `folder`, which may be its own. Returns the HTML page's path.

    Raises InputError as `read_result` and `write`, and for figures that cannot be drawn together.
    """
    result = read_result(source)
    try:
        check_folder(folder, KIND, source)
        files = contents(result)
    except FAULTS as error:
        raise InputError.of(
            f"{source} contradicts itself: it cannot be drawn ({type(error).__name__}: {error})", "evaluate it again"
        ) from None
    write_folder(folder, files, KIND, source)
    return folder / "report.html"


def contents(result: Result) -> dict[str, str]:
    """Every file of the report by name."""
    plots = {plot.name: svg(plot) for plot in (*result.plots, *result.timing_plots, *result.curves, *result.cost_plots)}
    plots |= {f"claim-{i}": tornado(v) for i, v in enumerate(result.verdicts, 1) if v.deciding and v.bars}
    models = dict.fromkeys(m.model for found in result.moves.values() for m in found if not tables.moves_alike(result))
    plots |= {f"bytes-{model}": bytes_by_operation(result.moves, model) for model in models}
    return {
        "result.json": json_lines(result.model_dump(mode="json")),
        "report.md": _render("report.md.j2", result, plots),
        "report.html": _render("report.html.j2", result, plots),
        **{f"{name}.svg": text for name, text in plots.items()},
    }


def _render(template: str, result: Result, plots: dict[str, str]) -> str:
    import jinja2
    import yaml

    html = template.endswith(".html.j2")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=html,
        finalize=None if html else sentence,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"literal": literal, "fenced": fenced}
    spec = result.proposed.model_dump(mode="json", exclude_defaults=True, exclude={"source", "checked", "description"})
    return environment.get_template(template).render(
        result=result,
        plots=plots,
        worst=tables.worst_table(result),
        baselines=baseline_table(result),
        tables=list(tables.figure_tables(result)),
        costs=tables.cost_rows(result),
        casts=tables.cast_table(result) if result.casts else None,
        worst_casts=tables.worst_casts(result),
        by_pass=tables.errors_by_pass(result),
        alike=any(" = " in label for label in result.labels.values()),
        traffic=tables.traffic_rows(result),
        moves_alike=tables.moves_alike(result),
        timing=tables.timing_rows(result),
        timed=tuple(VARIANTS.values()),
        steps=tables.step_rows(result),
        layers=tables.layer_rows(result),
        training=tables.training_rows(result),
        caveats=list(dict.fromkeys(f.caveat for f in result.training if f.caveat)),
        marks=tables.MARKS,
        short=tables.SHORT,
        deciding=tables.deciding,
        margin=tables.margin,
        break_even=lambda verdict: list(sentences(verdict.break_even)),
        spec_yaml=yaml.safe_dump(spec, sort_keys=False, width=100, default_flow_style=None),
    )
