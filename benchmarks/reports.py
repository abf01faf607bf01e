"""Every shipped proposal's report, the comparison pages and their index: `python benchmarks/reports.py`.

Writes under reports/, one or two minutes a proposal on two cores; with `--index`, only the index of those that are there. The
commit that the reports name is the one at hand, so start from a clean tree.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from isa_model.output_files import SUMS, write_file

ROOT = Path(__file__).resolve().parent.parent
REPORTS = ROOT / "reports"
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
    """A command of codesign; a refuted claim (exit code 1) is no failure."""
    result = subprocess.run([sys.executable, "-m", "codesign", *arguments], cwd=ROOT, check=False)
    if result.returncode not in (0, 1):
        raise SystemExit(result.returncode)


def make_room(folder: Path) -> None:
    """Remove a report that has no list of its files, as those of old commits; this folder holds nothing but reports."""
    if folder.exists() and not (folder / SUMS).exists():
        shutil.rmtree(folder)


def index() -> str:
    """reports/README.md: a line on each report."""
    from codesign.figures.escape import literal
    from codesign.verdicts.read_result import read_result

    lines = ["# Reports of the shipped proposals", "", "Made by `python benchmarks/reports.py`.", ""]
    lines += [
        f"- [{title}]({name}/comparison.html)" for name, (title, _) in COMPARED.items() if (REPORTS / name).exists()
    ]
    lines += [""] if lines[-1] else []
    lines += ["| proposal | what the evidence says |", "|---|---|"]
    for path in sorted(REPORTS.glob("*/result.json")):
        result = read_result(path)
        name = path.parent.name
        said = f"{result.headline} [Read]({name}/report.md), [page]({name}/report.html)"
        lines.append(f"| **{literal(result.proposal.title)}** (`{name}`) | {said} |")
    missing = [p.stem for p in sorted((ROOT / "proposals").glob("*.yaml")) if not (REPORTS / p.stem).exists()]
    if missing:
        names = ", ".join(f"`{name}`" for name in missing)
        lines += ["", f"Not here, and made by `codesign evaluate NAME` in one or two minutes: {names}."]
    return "\n".join(lines) + "\n"


def main() -> None:
    if sys.argv[1:] == ["--index"]:
        write_file(REPORTS / "README.md", index())
        return
    for proposal in sorted((ROOT / "proposals").glob("*.yaml")):
        make_room(REPORTS / proposal.stem)
        run("evaluate", str(proposal.relative_to(ROOT)), "--out", f"reports/{proposal.stem}")
    for name, (_, proposals) in COMPARED.items():
        make_room(REPORTS / name)
        run("compare", *(f"reports/{p}" for p in proposals.split()), "--out", f"reports/{name}")
    write_file(REPORTS / "README.md", index())


if __name__ == "__main__":
    main()
