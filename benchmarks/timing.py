"""The timing model fitted to our own kernels, and its errors on rows that were held out: `python benchmarks/timing.py`.

Prints the table and writes it into docs/timing.md, with the constants beside; these go to codesign/evidence/timing/records.
Reads the newest record of the bench with our own kernels of each GPU, and the machine's constants of that GPU; needs no GPU.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from codesign.evidence.timing.measured import benches
from codesign.evidence.timing.records import FOLDER, Fit, make, save
from isa_model.checkout import commit_of
from isa_model.output_files import put

PAGE = Path(__file__).parent.parent / "docs" / "timing.md"
COMMAND = "python benchmarks/timing.py"


def main() -> None:
    commit = commit_of("codesign/evidence/timing", "kernels", ":!codesign/evidence/timing/records")
    fits = [make(record, commit, COMMAND) for record in benches().values()]
    for fit in fits:
        save(fit, FOLDER / f"{'-'.join(fit.gpu.lower().split())}.json")
    for name, table in tables(fits).items():
        print(table, end="\n\n")
        put(PAGE, name, table)
    put(PAGE, "step", step())


def step() -> str:
    """The layer of DeepSeek-V3 as the command prints it."""
    command = [sys.executable, "-m", "codesign", "step", "deepseek-v3"]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return "\n".join(["```", "$ codesign step deepseek-v3", *(line.rstrip() for line in printed.splitlines()), "```"])


def tables(fits: Sequence[Fit]) -> dict[str, str]:
    """What docs/timing.md shows of the fits, the newest first, by the name of the marks it stands between."""
    return {"errors": "\n\n".join("\n".join(_errors(f)) for f in fits), "constants": "\n".join(_constants(fits))}


def _errors(fit: Fit) -> Iterator[str]:
    yield f"{fit.gpu}; bench {fit.bench}; constants {fit.machine}. Rule: {fit.rule}."
    yield ""
    yield "| kernel | rows | mean | bias | worst | at |"
    yield "|---|---:|---:|---:|---:|---|"
    for e in fit.errors:
        yield f"| {e.kernel} | {e.rows} | {e.mean:.1%} | {e.bias:+.1%} | {e.worst:+.1%} | {e.worst_at} |"


def _constants(fits: Sequence[Fit]) -> Iterator[str]:
    yield f"| constant | {' | '.join(f.gpu for f in fits)} |"
    yield "|---|" + "---:|" * len(fits)
    for name in fits[0].constants.model_dump():
        yield f"| `{name}` | {' | '.join(f'{getattr(f.constants, name):.4g}' for f in fits)} |"


if __name__ == "__main__":
    main()
