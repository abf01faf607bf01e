"""Seconds of `codesign evaluate` by phase and proposal, before and after a change, in one run.

    python benchmarks/evaluate.py --before ad3ee9d --out benchmarks/records/evaluate.json --write docs/engines.md

Each evaluation is a process of its own, from a tree of the given commit or from this one; the two take turns. Compiled code,
Python's too, is cached by a first run that does not count, unless `--cold` empties the cache before every run. Wall seconds
need an idle machine; seconds of CPU, of the process and its children, need it less.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path
from typing import Any

from codesign.commit import commit
from codesign.figures import markdown
from isa_model.output_files import put

ROOT = Path(__file__).resolve().parent.parent
NAMES = ("group-scaled-mma", "fused-tma-cast", "blackwell-nvf4")
DRIVER = r"""
import json, os, sys, time
from pathlib import Path

def cpu():
    # Seconds of this process and of its children, those that still run included.
    tick, me = os.sysconf("SC_CLK_TCK"), str(os.getpid())
    total = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if stat.parent.name == me or fields[1] == me:
            total += sum(map(int, fields[11:15]))
    return total / tick

def main():
    marks = []
    def phase(name, done, of):
        if not marks or marks[-1][0] != name:
            marks.append((name, time.perf_counter(), cpu()))
    phase("start", 0, 0)
    from codesign.evidence.sampling import Sampling
    from codesign.proposal.load import load_proposal
    from codesign.report.write import write
    from codesign.verdicts.evaluate import evaluate
    proposal = load_proposal(Path(sys.argv[1]))
    result = evaluate(proposal, Sampling(), phase)
    phase("report", 0, 0)
    write(result, Path(sys.argv[2]))
    phase("end", 0, 0)
    seconds = {}
    for (name, wall, busy), (_, end, used) in zip(marks, marks[1:]):
        before = seconds.get(name, (0.0, 0.0))
        seconds[name] = (round(before[0] + end - wall, 2), round(before[1] + used - busy, 2))
    print(json.dumps(seconds))

if __name__ == "__main__":
    main()
"""


def measured(tree: Path, name: str, cache: Path) -> dict[str, list[float]]:
    """Return the wall and CPU seconds of each phase of an evaluation from a tree."""
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "driver.py"
        script.write_text(DRIVER)
        environment = {**os.environ, "PYTHONPATH": str(tree), "XDG_CACHE_HOME": str(cache)}
        environment |= {"PYTHONPYCACHEPREFIX": str(cache / "python"), "PYTHONDONTWRITEBYTECODE": ""}
        command = [sys.executable, str(script), str(tree / "proposals" / f"{name}.yaml"), str(Path(folder) / "report")]
        done = subprocess.run(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, list[float]] = json.loads(done.stdout.splitlines()[-1])
    return found


def table(record: dict[str, Any]) -> str:
    """Return the table of the page: wall and CPU seconds of whole evaluations, and where they go."""
    rows = record["rows"]
    lines = [
        f"One run, {record['date']}: {record['machine']}, commit {record['commit']}; before: {record['before']}. "
        f"Load when it began: {record['load']}. Seconds of wall time (and of CPU):",
        "",
    ]
    made = []
    for name in dict.fromkeys(r["proposal"] for r in rows):
        of = {r["tree"]: r["phases"] for r in rows if r["proposal"] == name}
        cells = []
        for tree in ("before", "after"):
            wall, busy = (sum(phase[i] for phase in of[tree].values()) for i in (0, 1)) if tree in of else (0, 0)
            cells.append(f"{wall:.1f} ({busy:.1f})" if tree in of else "")
        phases = ", ".join(f"{phase} {wall:.1f}" for phase, (wall, _) in of["after"].items() if wall >= 0.1)
        made.append((name, *cells, phases))
    return "\n".join([*lines, markdown.table("proposal | before | after | phases after", made)])


def main() -> None:
    """Measure, and write the record and the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=NAMES, metavar="PROPOSAL", help=f"default: {', '.join(NAMES)}")
    parser.add_argument("--before", help="commit to compare with")
    parser.add_argument("--cold", action="store_true", help="compile everything in every run")
    parser.add_argument("--out", type=Path, help="record to write")
    parser.add_argument("--write", type=Path, help="page whose table is renewed")
    given = parser.parse_args()
    rows = []
    load = f"{os.getloadavg()[0]:.1f}"
    with tempfile.TemporaryDirectory() as folder:
        trees = {"after": ROOT}
        if given.before:
            trees = {"before": Path(folder) / "before", **trees}
            trees["before"].mkdir()
            archive = subprocess.run(
                ["git", "-C", str(ROOT), "archive", given.before], stdout=subprocess.PIPE, check=True
            )
            subprocess.run(["tar", "x", "-C", str(trees["before"])], input=archive.stdout, check=True)
        for name in given.names:
            for tree, where in trees.items():
                with tempfile.TemporaryDirectory() as cold:
                    cache = Path(cold) if given.cold else Path(folder)
                    if not given.cold:
                        measured(where, name, cache)
                    rows.append({"proposal": name, "tree": tree, "phases": measured(where, name, cache)})
                wall, busy = (sum(phase[i] for phase in rows[-1]["phases"].values()) for i in (0, 1))
                print(f"{name} {tree}: {wall:.1f} s, CPU {busy:.1f} s: {rows[-1]['phases']}", flush=True)
    record = {
        "date": date.today().isoformat(),
        "commit": commit("benchmarks/evaluate.py"),
        "before": given.before,
        "cold": given.cold,
        "load": load,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "rows": rows,
    }
    if given.out:
        given.out.write_text(json.dumps(record, indent=1) + "\n")
    if given.write:
        put(given.write, "evaluations", table(record))
    else:
        print(table(record))


if __name__ == "__main__":
    main()
