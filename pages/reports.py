"""The pages of all shipped proposals, comparisons of some, and their index: `python pages/reports.py [NAME...]`.

Evaluates the proposals into codesign-reports/, which git ignores, and copies each page, one file with its pictures, to
reports/. A proposal takes about a minute on two cores. Pages name the current commit, so start from a clean tree.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from codesign.figures.escape import literal
from codesign.figures.figure import Figure
from codesign.report.tables import number
from codesign.verdicts.evaluate import Result
from codesign.verdicts.read_result import read_result
from isa_model.output_files import write_file

ROOT = Path(__file__).resolve().parent.parent
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
        {v: _worst(result, f"numerics.{metric}", v) for v in ("software", "proposal")}
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
        own = [f for f in result.figures if (f.metric, f.variant, f.at) == (metric, "proposal", None)]
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


def _worst(result: Result, metric: str, variant: str) -> Figure | None:
    own = [f for f in result.figures if (f.metric, f.variant, f.at) == (metric, variant, None)]
    return max(own, key=lambda f: float("inf") if f.value is None else f.value, default=None)


def index() -> str:
    """Return the text of reports/README.md, a line for each page; of a page that was not made now, its line of before."""
    page = REPORTS / "README.md"
    before = {
        line.split("`")[1]: line
        for line in (page.read_text(encoding="utf-8") if page.exists() else "").splitlines()
        if ".html)" in line and "`" in line
    }
    lines = ["# Reports of the shipped proposals", ""]
    lines += [
        "Each page is one file: download it and open it in a browser. `codesign evaluate NAME` makes it again, with "
        "result.json, report.md and the pictures beside; `python pages/reports.py` makes all of them.",
        "",
    ]
    lines += [
        f"- [{title}]({name}.html)" for name, (title, _) in COMPARED.items() if (REPORTS / f"{name}.html").exists()
    ]
    lines += ["", "| proposal | what the evidence says (worst over GEMMs and tensors) |", "|---|---|"]
    for path in sorted((ROOT / "proposals").glob("*.yaml")):
        name = path.stem
        if (MADE / name / "result.json").exists() and (REPORTS / f"{name}.html").exists():
            result = read_result(MADE / name / "result.json")
            lines.append(f"| [{literal(result.proposal.title)}]({name}.html) (`{name}`) | {finding(result)} |")
        elif name in before:
            lines.append(before[name])
    return "\n".join(lines) + "\n"


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
    write_file(REPORTS / "README.md", index())


if __name__ == "__main__":
    main()
