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
from codesign.figures.words import figures_of
from codesign.report.rules import worst_of
from codesign.report.tables import number
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


LINK = re.compile(r"\[([^\]]*)\]\(([^)]*)\)")
"""Links of asks.yaml, which are relative to docs/."""


def run(*arguments: str) -> None:
    """Run a command of codesign. Exit code 1, a refuted claim, is not a failure."""
    result = subprocess.run([sys.executable, "-m", "codesign", *arguments], cwd=ROOT, check=False)
    if result.returncode not in (0, 1):
        raise SystemExit(result.returncode)


def finding(result: Result) -> str:
    """Return what the evidence says of a proposal in a few clauses: D, its sums, area, bytes, time, claims."""
    claims = [v.judgement for v in result.verdicts]
    judged = ", ".join(f"{claims.count(j)} {j}" for j in ("supported", "refuted", "undetermined") if j in claims)
    clauses = [*_clauses(result), f"claims: {judged}"]
    text = "; ".join(clauses)
    return f"{text[0].upper()}{text[1:]}."


def _clauses(result: Result) -> Iterator[str]:
    total, sums = (
        {v: worst_of(result, f"numerics.{metric}", v) for v in ("software", "proposal")}
        for metric in ("total_error", "relative_frobenius")
    )
    if all(total.values()):
        before, after = (number(f.value) for f in total.values() if f)
        yield (
            f"D is as accurate as with today's software (total error {after})"
            if before == after
            else (f"total error of D {after}, with today's software {before}")
        )
    if all(sums.values()) and len({number(f.value) for f in sums.values() if f}) > 1:
        before, after = (number(f.value) for f in sums.values() if f)
        yield f"error of the sums alone {after}, with today's software {before}"
    for metric, text in (
        ("cost.area_ratio", "area of a dot-product unit x{}"),
        ("timing.step_speedup", "Linears of a layer's step x{} as fast"),
    ):
        own = figures_of(result.figures, metric)
        if own:
            ends = sorted(number(f.value) for f in own)
            yield text.format(ends[0] if ends[0] == ends[-1] else f"{ends[0]} to {ends[-1]}")
    for metric, text in (("traffic.hbm_bytes", "HBM bytes"), ("traffic.network_bytes", "network bytes")):
        old, new = (
            next((f.value for f in result.figures if (f.metric, f.variant) == (metric, v)), None)
            for v in ("software", "proposal")
        )
        if old and new and abs(new / old - 1) >= 0.005:
            yield f"{abs(new / old - 1):.0%} {'more' if new > old else 'fewer'} {text} in a layer's step"


@dataclass(frozen=True)
class Found:
    """What the evidence says of a proposal."""

    name: str
    title: str
    finding: str


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
    """Return the rows of the index: findings from the results in `folder`; of one that is not there, its finding of before."""
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
            yield Found(name, result.proposal.title, finding(result))
        elif old := re.search(rf"\[([^\]]*)\]\({name}\.html\) \(`{name}`\)(?:: | \| )(.*?)(?:<br>| \|)", before):
            yield Found(name, html.unescape(old[1]).replace("\\", ""), old[2])


def index(rows: Sequence[Asked]) -> str:
    """Return the text of reports/README.md: a row for each ask, with a sentence and a link for each proposal on it."""
    lines = ["# Reports: what was asked of hardware, what shipped since, and what our evidence says", ""]
    lines += [
        "Each page is one file: download it and open it in a browser, or open [index.html](index.html) in a clone. `codesign "
        "evaluate NAME` makes a page again, with result.json, report.md and the pictures beside; `python pages/reports.py` "
        "makes all of them. Figures are the worst over GEMMs and tensors.",
        "",
    ]
    lines += [f"- [{title}]({name}.html)" for name, title in compared_pages()]
    made = []
    for row in rows:
        reports = (f"[{literal(f.title)}]({f.name}.html) (`{f.name}`): {f.finding}" for f in row.found)
        said = "<br>".join([row.says, *reports])
        ask = f"**{literal(row.ask)}**<br>{literal(row.source)}"
        made.append((Markdown(ask), literal(row.shipped), Markdown(said)))
    lines += ["", table("asked for | shipped since | what our evidence says", made)]
    return "\n".join(lines) + "\n"


def index_page(rows: Sequence[Asked]) -> str:
    """Return the same index as a page."""
    made = environment(html=True)
    made.loader = FileSystemLoader([HERE, Path(codesign.report.__file__).parent])
    shown = [replace(row, says=LINK.sub(r"\1", row.says)) for row in rows]
    return str(made.get_template("index.html.j2").render(rows=shown, compared=list(compared_pages())))


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
