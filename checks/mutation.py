"""Check with mutmut that the tests notice changes of the code that judges.

    python checks/mutation.py [--minutes N] [MODULE ...]

`[tool.mutmut]` in pyproject.toml lists the modules that are mutated and the tests that must fail; a mutant runs only the tests
that reach its function. Needs the extra `mutation`. A run continues where the last one ended, so that it can be made in parts,
by time or by module, and tries survivors again; without the folder mutants/ it starts anew. Writes mutation.json here:
by module the mutants there are, those tried and those killed, and every survivor with the reason in mutation.yaml why it
computes the same; of modules of which nothing was tried, what the record said before. The exit code is 1 if less than 95 % of
those tried are killed, a survivor has no reason, or some were not tried.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from difflib import ndiff
from functools import cache
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
RECORD, REASONS = Path(__file__).with_suffix(".json"), Path(__file__).with_suffix(".yaml")
LEAST = 0.95
SAME_LENGTH = "both sequences have one length by construction; `strict` only guards that"
SURVIVED, UNTESTED = 0, 33
"""Exit codes of mutmut: tests pass; no test calls the function."""


def mutmut(minutes: float | None, modules: list[str]) -> None:
    """Run the mutants of some modules, or of all, for so long; what was tried by then is kept."""
    names = [name for module in modules for name in untried(module)]
    if modules and not names:
        return
    command = [sys.executable, "-m", "mutmut", "run", *names]
    with subprocess.Popen(command, cwd=ROOT, start_new_session=True) as process:
        try:
            process.wait(None if minutes is None else 60 * minutes)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGINT)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)


def untried(module: str) -> list[str]:
    """Return the mutants of a module that were not tried; a pattern for all of them if its source has changed."""
    source = module.replace(".", "/") + ".py"
    made, codes = ROOT / "mutants" / source, results().get(module)
    if not codes or made.stat().st_mtime <= (ROOT / source).stat().st_mtime:
        return [f"{module}.*"]
    return [mutant for mutant, code in codes.items() if code is None]


def results() -> dict[str, dict[str, int | None]]:
    """Return the exit codes of the tests by module and mutant; None for mutants that were not tried."""
    found = {}
    for path in sorted((ROOT / "mutants").rglob("*.py.meta")):
        name = ".".join(path.relative_to(ROOT / "mutants").with_suffix("").with_suffix("").parts)
        if codes := json.loads(path.read_text())["exit_code_by_key"]:
            found[name] = codes
    return found


def change(mutant: str) -> tuple[str, str]:
    """Return the code that a mutant replaces and its replacement."""
    module, name = mutant.rsplit(".", 1)
    bodies = _functions(ROOT / "mutants" / (module.replace(".", "/") + ".py"))
    old, new = bodies[name.split("__mutmut_")[0] + "__mutmut_orig"], bodies[name]
    lines = [line for line in ndiff(old, new) if line[:2] in ("- ", "+ ")]
    before, after = (" ".join(line[2:].strip() for line in lines if line[0] == mark) for mark in "-+")
    return before, after


@cache
def _functions(path: Path) -> dict[str, list[str]]:
    """Return the lines of every function of a mutated module, without the line of its name."""
    nodes = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.FunctionDef)]
    return {n.name: ast.unparse(n).splitlines()[1:] for n in nodes if "__mutmut_" in n.name}


def survivors(found: dict[str, dict[str, int | None]]) -> Iterator[dict[str, str]]:
    """Yield every survivor with the reason why no test can notice it."""
    reasons = yaml.safe_load(REASONS.read_text()) if REASONS.exists() else []
    known = {(r["in"], r["old"], r["new"]): r["because"] for r in reasons}
    for codes in found.values():
        for mutant in (m for m, code in codes.items() if code in (SURVIVED, UNTESTED)):
            place = mutant.split("__mutmut_")[0]
            old, new = change(mutant)
            same_length = _without_strict(old) == _without_strict(new)
            because = SAME_LENGTH if same_length else known.get((place, old, new), "")
            yield {"in": place, "old": old, "new": new, "because": because}


def _without_strict(line: str) -> str:
    return re.sub(r",? ?strict=\w+", "", line)


def forget_survivors() -> None:
    """Mark the survivors of an earlier run as not run, and find again which test reaches what: tests may have been added."""
    (ROOT / "mutants" / "mutmut-stats.json").unlink(missing_ok=True)
    for path in (ROOT / "mutants").rglob("*.py.meta"):
        held = json.loads(path.read_text())
        codes = held["exit_code_by_key"]
        held["exit_code_by_key"] = {k: None if c in (SURVIVED, UNTESTED) else c for k, c in codes.items()}
        path.write_text(json.dumps(held))


def main(modules: list[str], minutes: float | None) -> int:
    """Run the mutants of some modules, or of all; return the exit code."""
    forget_survivors()
    mutmut(minutes, modules)
    found = results()
    tried = {m: [c for c in codes.values() if c is not None] for m, codes in found.items()}
    counts = {
        m: {
            "mutants": len(codes),
            "tried": len(tried[m]),
            "killed": sum(c not in (SURVIVED, UNTESTED) for c in tried[m]),
        }
        for m, codes in found.items()
    }
    alive = list(survivors(found))
    earlier = json.loads(RECORD.read_text()) if RECORD.exists() else {"modules": {}, "survivors": []}
    for module in [m for m, c in counts.items() if not c["tried"]]:
        if earlier["modules"].get(module, {}).get("mutants") == counts[module]["mutants"]:
            counts[module] = earlier["modules"][module]
            alive += [s for s in earlier["survivors"] if s["in"].startswith(f"{module}.")]
    total = {name: sum(count[name] for count in counts.values()) for name in ("mutants", "tried", "killed")}
    record: dict[str, Any] = {**total, "modules": counts, "survivors": alive}
    RECORD.write_text(json.dumps(record, indent=1) + "\n")
    for name, count in counts.items():
        print(f"{name:40} {count['killed']:5} of {count['tried']:5} tried, of {count['mutants']:5}")
    unexplained = [s for s in alive if not s["because"]]
    for s in unexplained:
        print(f"\n{s['in']}\n- {s['old']}\n+ {s['new']}")
    share = total["killed"] / max(total["tried"], 1)
    print(f"\n{share:.1%} of {total['tried']} tried are killed, of {total['mutants']}; {len(alive)} survive, ", end="")
    print(f"{len(unexplained)} of them without a reason")
    return int(share < LEAST or bool(unexplained) or total["tried"] < total["mutants"])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="*", metavar="MODULE", help="such as codesign.figures.intervals; default: all")
    parser.add_argument("--minutes", type=float, help="time after which to stop; the next run goes on from there")
    given = parser.parse_args()
    sys.exit(main(given.modules, given.minutes))
