"""The reports of all shipped proposals, the comparisons of some, and their index: `python pages/reports.py`.

Writes to reports/; a proposal takes one or two minutes on two cores. `--index` writes only the index of the existing reports.
Reports name the current commit, so start from a clean tree.
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
    """Run a command of codesign. Exit code 1, a refuted claim, is not a failure."""
    result = subprocess.run([sys.executable, "-m", "codesign", *arguments], cwd=ROOT, check=False)
    if result.returncode not in (0, 1):
        raise SystemExit(result.returncode)


def make_room(folder: Path) -> None:
    """Remove a report without a list of its files, as old commits wrote; this folder holds only reports."""
    if folder.exists() and not (folder / SUMS).exists():
        shutil.rmtree(folder)


def index() -> str:
    """Return the text of reports/README.md, a line per report."""
    from codesign.figures.escape import literal
    from codesign.verdicts.read_result import read_result

    lines = ["# Reports of the shipped proposals", "", "Made by `python pages/reports.py`.", ""]
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
        lines += ["", f"Not shipped; `codesign evaluate NAME` makes them in one or two minutes: {names}."]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Write all reports, or only the index."""
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
