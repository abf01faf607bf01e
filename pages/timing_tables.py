"""The tables of docs/timing.md: the timing model fitted to our kernels, and its errors on held-out rows.

    python pages/timing_tables.py

Fits the model to the newest record of our kernels on each GPU and that GPU's constants, saves the fits in
codesign/evidence/timing/records, and writes errors and constants into the page. Needs no GPU.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from timing_fit import make

from codesign.evidence.timing.measured import benches
from codesign.evidence.timing.records import FOLDER, Fit
from isa_model.checkout import commit_of
from isa_model.output_files import put
from kernels.bench.records import save

PAGE = Path(__file__).parent.parent / "docs" / "timing.md"
COMMAND = "python pages/timing_tables.py"


def main() -> None:
    """Fit the model, save the fits and write the tables."""
    commit = commit_of(
        "codesign/evidence/timing", "kernels", "pages/timing_fit.py", ":!codesign/evidence/timing/records"
    )
    fits = [make(record, commit, COMMAND) for record in benches().values()]
    for fit in fits:
        save(fit, FOLDER / f"{'-'.join(fit.gpu.lower().split())}.json")
    for name, table in tables(fits).items():
        print(table, end="\n\n")
        put(PAGE, name, table)
    put(PAGE, "step", step())


def step() -> str:
    """Return what the command prints of a layer of DeepSeek-V3."""
    command = [sys.executable, "-m", "codesign", "step", "deepseek-v3"]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return "\n".join(["```", "$ codesign step deepseek-v3", *(line.rstrip() for line in printed.splitlines()), "```"])


def tables(fits: Sequence[Fit]) -> dict[str, str]:
    """Return the tables of the fits, the newest first, by the name of their markers."""
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
