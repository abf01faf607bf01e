"""The pages of all shipped proposals, comparisons of some, and their index: `python pages/reports.py [NAME...]`.

Evaluates the proposals into codesign-reports/, which git ignores, and copies each page, one file with its pictures, to
reports/. A proposal takes about a minute on two cores. Pages name the current commit, so start from a clean tree.
"""

from __future__ import annotations

import html
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from jinja2 import FileSystemLoader

sys.path.insert(0, str(Path(__file__).parent))

from asks import asks

import codesign.report
from codesign.figures.escape import Markdown, literal
from codesign.figures.markdown import table
from codesign.figures.words import percent
from codesign.report.page import MARKS
from codesign.report.summary import SAME, Compared, compared
from codesign.report.tables import interval, number
from codesign.report.write import environment
from codesign.verdicts.evaluate import Result
from codesign.verdicts.read_result import read_result
from isa_model.output_files import write_file

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
MADE, REPORTS = ROOT / "codesign-reports", ROOT / "reports"
COMPARED = {
    "compare-instructions": (
        "Instructions compared",
        "higher-precision-accumulation configurable-accumulation group-scaled-mma group-scaled-mma-ue8m0 "
        "group-scaled-mma-ue4m3 weight-blocks-2d",
    ),
    "compare-paths": (
        "Operand paths compared",
        "fused-tma-cast near-memory-cast warp-level-cast transposed-read-requantised",
    ),
}
COLUMNS = (
    "proposal",
    "claims",
    "total error of D",
    "error of its sums",
    "area of the unit",
    "speed of a layer's Linears",
    "bytes of a layer",
)
"""Columns of a table of proposals on an ask. Errors are today's software's and, after an arrow, the proposal's."""
BYTES = {"HBM": "hbm_bytes", "network": "network_bytes", "kept for backward": "cache_bytes"}
"""Metrics of a layer's bytes, by what the index calls them."""
ABOUT = (
    "Each figure is the one on the first screen of the proposal's report: the worst over GEMMs and tensors, and over layers. "
    "Errors: today's software's → the proposal's at that place. Area: of a dot-product unit, over today's. Speed: how many "
    "times as fast as with today's software. Claims: ✓ supported, ✗ refuted, ? undetermined."
)
LINK = re.compile(r"\[([^\]]*)\]\(([^)]*)\)")
"""Links of asks.yaml, which are relative to docs/."""


def run(*arguments: str) -> None:
    """Run a command of codesign. Exit code 1, a refuted claim, is not a failure."""
    result = subprocess.run([sys.executable, "-m", "codesign", *arguments], cwd=ROOT, check=False)
    if result.returncode not in (0, 1):
        raise SystemExit(result.returncode)


def cells(result: Result) -> tuple[str, ...]:
    """Return what the first screen of a report says, by column without the first; nothing where it has no figure."""
    found = {c.metric.name: c for c in compared(result)}
    judged = [v.judgement for v in result.verdicts]
    claims = ", ".join(f"{judged.count(j)} {MARKS[j]}" for j in MARKS if j in judged)
    errors = (_errors(found.get(f"numerics.{name}")) for name in ("total_error", "relative_frobenius"))
    ratios = (found.get(name) for name in ("cost.area_ratio", "timing.step_speedup"))
    changes = ((word, found.get(f"traffic.{name}")) for word, name in BYTES.items())
    fewer = (
        f"{word} {_signed(c.ratio.value - 1)}"
        for word, c in changes
        if c and c.ratio and abs(c.ratio.value - 1) >= SAME
    )
    return claims, *errors, *(f"×{interval(c.own)}" if c else "" for c in ratios), ", ".join(fewer)


def _errors(found: Compared | None) -> str:
    if found is None:
        return ""
    own, before = number(found.own.value), number(found.software.value) if found.software else ""
    return own if not before else f"{own}, unchanged" if before == own else f"{before} → {own}"


def _signed(change: float) -> str:
    return f"{'+' if change > 0 else '−'}{percent(abs(change))}".replace(" ", "\u00a0")


@dataclass(frozen=True)
class Found:
    """What the evidence says of a proposal."""

    name: str
    title: str
    cells: tuple[str, ...]
    """By column, without the first."""


@dataclass(frozen=True)
class Asked:
    """A row of the index."""

    ask: str
    source: str
    shipped: str
    says: str
    """Conclusion from the evidence, in Markdown."""
    found: tuple[Found, ...]


def asked(folder: Path = MADE, page: Path = REPORTS / "README.md") -> list[Asked]:
    """Return the rows of the index: figures from the results in `folder`; of one that is not there, those of before."""
    before = page.read_text(encoding="utf-8") if page.exists() else ""
    return [
        Asked(
            row.ask,
            row.source,
            row.shipped,
            LINK.sub(r"[\1](../docs/\2)", row.says),
            tuple(_found(row.proposals, folder, before)),
        )
        for row in asks()
    ]


def _found(names: Sequence[str], folder: Path, before: str) -> Iterator[Found]:
    for name in names:
        path = folder / name / "result.json"
        if path.exists():
            result = read_result(path)
            yield Found(name, result.proposal.title, cells(result))
        elif old := re.search(rf"^\| \[(.*?)\]\({name}\.html\) \| (.*) \|$", before, re.MULTILINE):
            yield Found(name, html.unescape(old[1]).replace("\\", ""), tuple(x.strip() for x in old[2].split(" | ")))


def index(rows: Sequence[Asked]) -> str:
    """Return the text of reports/README.md: a section for each ask, with a table of the proposals on it."""
    lines = ["# Reports: what was asked of hardware, what shipped since, and what our evidence says", ""]
    lines += [
        "Each page is one file: download it and open it in a browser, or open [index.html](index.html) in a clone. `codesign "
        "evaluate NAME` makes a page again, with result.json, report.md and the pictures beside; `python pages/reports.py` "
        f"makes all of them. {ABOUT}",
        "",
    ]
    lines += [f"- [{title}]({name}.html)" for name, title in compared_pages()]
    for row in rows:
        lines += ["", f"## {literal(row.ask)}", "", literal(row.source), ""]
        lines += [f"*Shipped since:* {literal(row.shipped)}", "", f"*Our evidence:* {row.says}"]
        if row.found:
            proposals = ((Markdown(f"[{literal(f.title)}]({f.name}.html)"), *f.cells) for f in row.found)
            lines += ["", table(" | ".join(COLUMNS), proposals)]
    return "\n".join(lines) + "\n"


def index_page(rows: Sequence[Asked]) -> str:
    """Return the same index as a page."""
    made = environment(html=True)
    made.loader = FileSystemLoader([HERE, Path(codesign.report.__file__).parent])
    shown = [replace(row, says=LINK.sub(r"\1", row.says)) for row in rows]
    return str(
        made.get_template("index.html.j2").render(
            rows=shown, columns=COLUMNS, about=ABOUT, compared=list(compared_pages())
        )
    )


def compared_pages() -> Iterator[tuple[str, str]]:
    """Yield name and title of each page that compares proposals."""
    yield from ((name, title) for name, (title, _) in COMPARED.items() if (REPORTS / f"{name}.html").exists())


def main() -> None:
    """Make the pages of the proposals that are named, or of all, then the comparisons and the index."""
    REPORTS.mkdir(exist_ok=True)
    for name in sys.argv[1:] or sorted(p.stem for p in (ROOT / "proposals").glob("*.yaml")):
        run("evaluate", f"proposals/{name}.yaml", "--out", f"codesign-reports/{name}")
        shutil.copyfile(MADE / name / "report.html", REPORTS / f"{name}.html")
    for name, (_, proposals) in COMPARED.items():
        if all((MADE / p / "result.json").exists() for p in proposals.split()):
            run("compare", *(f"codesign-reports/{p}" for p in proposals.split()), "--out", f"codesign-reports/{name}")
            shutil.copyfile(MADE / name / "comparison.html", REPORTS / f"{name}.html")
    rows = asked()
    write_file(REPORTS / "README.md", index(rows))
    write_file(REPORTS / "index.html", index_page(rows))


if __name__ == "__main__":
    main()
