"""A result's files: result.json, report.md with its plots, and one self-contained report.html."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from codesign.figures.drawing import svg
from codesign.figures.escape import fenced, literal, sentence
from codesign.figures.palette import plot_rules, standalone, themes
from codesign.figures.strips import strips
from codesign.report import page
from codesign.report.pictures import claims_picture, gains_and_costs, tornado
from codesign.report.rules import advice
from codesign.report.summary import judged_on, lines
from codesign.verdicts.evaluate import Result
from codesign.verdicts.read_result import drawing, read_result
from isa_model.output_files import check_folder, json_lines, write_folder

KIND = "a report"
HERE = Path(__file__).parent


def check(folder: Path) -> None:
    """Raise InputError if a report cannot be written there; to be called before any work is done for it."""
    check_folder(folder, KIND)


def write(result: Result, folder: Path) -> Path:
    """Write all files of a report into `folder`, replacing an old report as a whole. Returns the HTML page's path.

    Raises InputError when the folder cannot be written, or holds something that is not a report.
    """
    write_folder(folder, contents(result), KIND)
    return folder / "report.html"


def replayed(source: Path, folder: Path) -> Path:
    """Write the report of a result.json into `folder`, which may be its own. Returns the HTML page's path.

    Raises InputError as `read_result` and `write` do, and for figures that cannot be drawn together.
    """
    result = read_result(source)
    check_folder(folder, KIND, source)
    with drawing(source):
        files = contents(result)
    write_folder(folder, files, KIND, source)
    return folder / "report.html"


def contents(result: Result) -> dict[str, str]:
    """Return every file of the report by name."""
    plots = {plot.name: svg(plot) for plot in page.plots(result)}
    rows = {"gain-and-cost": gains_and_costs(result), "claims": claims_picture(result.verdicts)}
    rows |= {f"claim-{i}": tornado(v) for i, v in enumerate(result.verdicts, 1) if v.deciding and v.bars}
    plots |= {name: strips(plot) for name, plot in rows.items() if plot}
    data = result.model_dump(mode="json", exclude={"evidence"})
    data["evidence"] = [found.model_dump(mode="json", exclude_defaults=True) for found in result.evidence]
    drawn = {"proposal": result.proposal, "headline": result.headline, "plots": plots}
    drawn |= {
        "judged": judged_on(result.proposal),
        "glance": lines(result),
        "gains": page.gains(result),
        "bounds": page.bounds(result),
    }
    drawn |= {"verdicts": page.verdict_texts(result), "advice": advice(result), "parts": list(page.parts(result))}
    return {
        "result.json": json_lines(data, nested=("evidence",)),
        "report.md": environment(html=False).get_template("report.md.j2").render(drawn),
        "report.html": environment(html=True).get_template("report.html.j2").render(drawn),
        **{f"{name}.svg": standalone(text) for name, text in plots.items()},
    }


def environment(html: bool) -> Any:
    """Return the Jinja environment of the HTML or Markdown templates, which escapes every value."""
    import jinja2

    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=html,
        finalize=None if html else sentence,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    made.filters |= {"literal": literal, "fenced": fenced, "code": code, "css": css, "unbroken": unbroken}
    if html:
        made.globals |= {"style": style(), "script": (HERE / "page.js").read_text(encoding="utf-8")}
    return made


def style() -> str:
    """Return the CSS of pages: the colours of both themes, the rules of pages, and those of plots."""
    return themes() + (HERE / "page.css").read_text(encoding="utf-8") + plot_rules()


def css(text: str) -> str:
    """Return a text as a string of CSS."""
    return '"' + re.sub(r"[^\w ,./%×()-]", lambda found: f"\\{ord(found[0]):x} ", text) + '"'


def code(text: str) -> Any:
    """Return a text as HTML, escaped, with the parts between backquotes as code, and intervals and numbers unbroken."""
    from markupsafe import Markup, escape

    coded = re.sub(r"`([^`]*)`", r"<code>\1</code>", str(escape(text)))
    return Markup(re.sub(r"\[[^][<>]{1,32}\]|\b\d[\d.]*e-\d+", r'<span class="ends">\g<0></span>', coded))


def unbroken(text: str) -> Any:
    """Return a text as HTML, escaped, that breaks at spaces alone: not within a number."""
    from markupsafe import Markup, escape

    return Markup(re.sub(r"\S+", r'<span class="ends">\g<0></span>', str(escape(text))))
