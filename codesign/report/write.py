"""A result's files: result.json, report.md with its plots, and one self-contained report.html."""

from __future__ import annotations

import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from codesign.evaluate import Result
from codesign.report import tables
from codesign.report.plots import svg
from isa_model.diagnostics import InputError


def check_folder(folder: Path) -> None:
    """Raise InputError if a report cannot go there, before any work is done for it."""
    if folder.exists() and not (folder / "result.json").exists() and (folder.is_file() or any(folder.iterdir())):
        raise InputError.of(f"{folder} exists and is not a report", "another --out, or move it away")


def write(result: Result, folder: Path) -> Path:
    """Write all files of a report into `folder`, replacing an old report as a whole. Returns the HTML page's path.

    Raises InputError when the folder cannot be written, or holds something that is not a report.
    """
    check_folder(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as temporary:
            fresh = Path(temporary) / "new"
            fresh.mkdir()
            for name, content in contents(result).items():
                (fresh / name).write_text(content, encoding="utf-8")
            with _uninterrupted():
                if folder.exists():
                    folder.rename(Path(temporary) / "old")
                fresh.rename(folder)
    except OSError as error:
        raise InputError.of(f"cannot write {folder}: {(error.strerror or str(error)).lower()}") from None
    return folder / "report.html"


def contents(result: Result) -> dict[str, str]:
    """Every file of the report by name."""
    plots = {plot.name: svg(plot) for plot in result.plots}
    return {
        "result.json": result.model_dump_json(indent=1) + "\n",
        "report.md": _render("report.md.j2", result, plots),
        "report.html": _render("report.html.j2", result, plots),
        **{f"{name}.svg": text for name, text in plots.items()},
    }


def _render(template: str, result: Result, plots: dict[str, str]) -> str:
    import jinja2
    import yaml

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=template.endswith(".html.j2"),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    spec = result.proposed.model_dump(mode="json", exclude_defaults=True, exclude={"source", "checked", "description"})
    return environment.get_template(template).render(
        result=result,
        plots=plots,
        worst=tables.worst_table(result),
        tables=list(tables.figure_tables(result)),
        costs=tables.cost_rows(result),
        marks=tables.MARKS,
        deciding=tables.deciding,
        spec_yaml=yaml.safe_dump(spec, sort_keys=False, width=100, default_flow_style=None),
    )


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Hold Ctrl-C back for the two renames that exchange a report."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
