"""The tables of docs/timing.md: the timing model fitted to our kernels, and its errors on held-out rows.

    python pages/timing_tables.py

Fits the model to the newest record of our kernels on each GPU and that GPU's constants, saves the fits in
codesign/evidence/timing/records, and writes errors and constants into the page. Needs no GPU.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from math import fsum
from pathlib import Path

from timing_fit import make

from codesign.evidence.timing.measured import benches
from codesign.evidence.timing.model import LARGE
from codesign.evidence.timing.ratio_errors import FILE as RATIOS
from codesign.evidence.timing.ratio_errors import Ratio, RatioErrors, ends_of_chips, ends_of_model
from codesign.evidence.timing.ratio_errors import held as inside_of
from codesign.evidence.timing.records import FOLDER, Error, Fit
from codesign.figures.markdown import table
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
    made = [make(record, commit, COMMAND) for record in benches().values()]
    fits = [fit for fit, _ in made]
    ratios = RatioErrors(
        commit=commit,
        command=COMMAND,
        benches=tuple(fit.bench for fit in fits),
        rows=tuple(row for _, rows in made for row in rows),
    )
    save(ratios, RATIOS)
    for fit in fits:
        save(fit, FOLDER / f"{'-'.join(fit.gpu.lower().split())}.json")
    for name, text in tables(fits, ratios).items():
        print(text, end="\n\n")
        put(PAGE, name, text)
    put(PAGE, "step", step())


def step() -> str:
    """Return what the command prints of a layer of DeepSeek-V3."""
    command = [sys.executable, "-m", "codesign", "step", "deepseek-v3"]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return "\n".join(["```", "$ codesign step deepseek-v3", *(line.rstrip() for line in printed.splitlines()), "```"])


def tables(fits: Sequence[Fit], ratios: RatioErrors) -> dict[str, str]:
    """Return the tables of the fits, the newest first, and of ratios, by the name of their markers."""
    return {
        "errors": "\n\n".join("\n".join(_errors(f)) for f in fits),
        "ratios": _ratios(ratios.rows),
        "constants": _constants(fits),
    }


def _ratios(rows: Sequence[Ratio]) -> str:
    """Return the errors of ratios, a line per pair of kernels, and how many rows their intervals hold."""
    lines: list[tuple[object, ...]] = []
    whole: list[bool] = []
    for name in dict.fromkeys(r.pair for r in rows):
        found = [r for r in rows if r.pair == name]
        off = [r.modelled / r.measured - 1 for r in found]
        factors = [f"{low:.3f} to {high:.3f}" for low, high in (ends_of_model(found), ends_of_chips(found))]
        inside = inside_of(found)
        whole += inside
        shares = (f"{fsum(map(abs, off)) / len(off):.1%}", f"{fsum(off) / len(off):+.1%}", f"{max(off, key=abs):+.1%}")
        counts = (len(found), len({r.linear for r in found}))
        lines.append((name, *counts, *shares, *factors, f"{sum(inside)} of {len(inside)}"))
    lines.append(("all", len(rows), *[""] * 6, f"{sum(whole)} of {len(whole)} ({sum(whole) / len(whole):.0%})"))
    ends = "measured over modelled: | another chip's over measured:"
    return table(f"pair of kernels | rows: | Linears: | mean: | bias: | worst: | {ends} | covered:", lines)


def errors_table(errors: Iterable[Error]) -> str:
    """Return the table of errors of the timing model, a row per kernel."""
    rows = ((e.kernel, e.rows, f"{e.mean:.1%}", f"{e.bias:+.1%}", f"{e.worst:+.1%}", e.worst_at) for e in errors)
    return table("kernel | rows: | mean: | bias: | worst: | at", rows)


def _errors(fit: Fit) -> Iterator[str]:
    yield f"{fit.gpu}; bench {fit.bench}; constants {fit.machine}. Rule: {fit.rule}."
    r, (held, among) = fit.reach, fit.reach.held
    yield (
        f"95 % intervals reach a factor of {r.product:.3f} (GEMMs of {LARGE} rows and more), {r.small:.3f} (of fewer) and "
        f"{r.stream:.3f} (casts); those found on other Linears cover {held} of {among} rows ({held / among:.0%})."
    )
    yield ""
    yield errors_table(fit.errors)


def _constants(fits: Sequence[Fit]) -> str:
    names = fits[0].constants.model_dump()
    rows = ((f"`{name}`", *(f"{getattr(f.constants, name):.4g}" for f in fits)) for name in names)
    return table("constant" + "".join(f" | {f.gpu}:" for f in fits), rows)


if __name__ == "__main__":
    main()
