"""Check with mutmut that the tests notice changes of the code that judges: `python checks/mutation.py [MODULE ...]`.

`[tool.mutmut]` in pyproject.toml lists the modules that are mutated and the tests that must fail. Needs the extra `mutation`;
half an hour on two cores. Writes mutation.json to this folder: the number of mutants by module, and every survivor with the
reason in mutation.yaml why it computes the same. A run continues where the last one ended and tries survivors again; without
the folder mutants/ it runs everything. The exit code is 1 if less than 95 % are killed or a survivor has no reason.
"""

from __future__ import annotations

import ast
import json
import re
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


def mutmut(*arguments: str) -> str:
    """Run mutmut and return its output."""
    command = [sys.executable, "-m", "mutmut", *arguments]
    return subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True).stdout


def results(modules: list[str]) -> dict[str, dict[str, int]]:
    """Return the exit codes of the tests by module and mutant, for the mutants that were run."""
    found = {}
    for path in sorted((ROOT / "mutants").rglob("*.py.meta")):
        name = ".".join(path.relative_to(ROOT / "mutants").with_suffix("").with_suffix("").parts)
        codes = {k: c for k, c in json.loads(path.read_text())["exit_code_by_key"].items() if c is not None}
        if codes and (not modules or name in modules):
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


def survivors(found: dict[str, dict[str, int]]) -> Iterator[dict[str, str]]:
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
    """Mark the survivors of an earlier run as not run, since tests may have been added."""
    for path in (ROOT / "mutants").rglob("*.py.meta"):
        held = json.loads(path.read_text())
        codes = held["exit_code_by_key"]
        held["exit_code_by_key"] = {k: None if c in (SURVIVED, UNTESTED) else c for k, c in codes.items()}
        path.write_text(json.dumps(held))


def main(modules: list[str]) -> int:
    """Run the mutants of some modules, or of all; return the exit code."""
    forget_survivors()
    mutmut("run", *(f"{m}*" for m in modules))
    found = results(modules)
    alive = list(survivors(found))
    killed = {m: sum(c not in (SURVIVED, UNTESTED) for c in codes.values()) for m, codes in found.items()}
    counts = {m: {"mutants": len(codes), "killed": killed[m]} for m, codes in found.items()}
    total = sum(len(codes) for codes in found.values())
    record: dict[str, Any] = {"mutants": total, "killed": sum(killed.values()), "modules": counts, "survivors": alive}
    if not modules:
        RECORD.write_text(json.dumps(record, indent=1) + "\n")
    for name, count in counts.items():
        print(f"{name:32} {count['killed']:5} of {count['mutants']:5} {count['killed'] / count['mutants']:7.1%}")
    unexplained = [s for s in alive if not s["because"]]
    for s in unexplained:
        print(f"\n{s['in']}\n- {s['old']}\n+ {s['new']}")
    share = sum(killed.values()) / max(total, 1)
    print(f"\n{share:.1%} of {total} killed; {len(alive)} survive, {len(unexplained)} of them without a reason")
    return int(share < LEAST or bool(unexplained))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
