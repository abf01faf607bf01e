"""The table of docs/bounds.md, and the record behind it: `python pages/bounds.py` searches an input for every instruction.

An input of the record that still attains half of its bound is run again and kept; `--all` searches all, in ten minutes on two
cores. `python pages/reference.py` writes the table from the record alone.
"""

from __future__ import annotations

import json
import sys
from contextlib import redirect_stdout
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path
from typing import Any

from codesign.__main__ import run
from codesign.commit import commit
from codesign.evidence.bounds.derive import Bound, bound
from codesign.evidence.bounds.formula import formulas
from codesign.evidence.bounds.rounding_errors import of_mode
from codesign.evidence.bounds.witness import Bench, Witness, search
from codesign.figures.markdown import table
from codesign.proposal.shipped import names
from codesign.proposal.target import instruction_of
from isa_model.diagnostics import InputError
from isa_model.instruction import Instruction
from isa_model.library import catalogue, load
from isa_model.output_files import json_lines, write_file
from isa_model.rounding import Rounding

RECORD = Path(__file__).with_name("bounds.json")
EMULATED = Path(__file__).resolve().parent.parent / "checks/bounds.json"
K = 4096


def arithmetics() -> dict[str, tuple[str, int]]:
    """Return a name for each arithmetic of the catalogue and of the proposals that change one, and how many names share it."""
    found: dict[str, tuple[str, int]] = {}
    changed = [name for name, path in names().items() if "\nchange:" in path.read_text(encoding="utf-8")]
    for name in (*catalogue(), *changed):
        spec: Instruction = load(name) if "." in name else instruction_of(name)
        data = spec.canonical({"name", "description", "source", "checked", "known", "shape"})
        key = json.dumps(data, sort_keys=True)
        first, count = found.get(key, (name, 0))
        found[key] = first, count + 1
    return found


def example_text() -> str:
    """Return the output of the command for Hopper's FP8 instruction."""
    command = ["bound", "hopper.wgmma.m64n256k32.f32.e4m3.e4m3"]
    with redirect_stdout(StringIO()) as written:
        run(command)
    return f"```console\n$ codesign {' '.join(command)} | cat\n{written.getvalue()}```"


def modes_text() -> str:
    """Return the table of the errors of one rounding, by rounding mode."""
    rows = []
    for mode in Rounding:
        errors = of_mode(mode, 32)
        mean = "2^-random_bits" if mode is Rounding.STOCHASTIC else f"{errors.mean:g}"
        spread = f"{errors.variance**0.5:g}"
        rows.append((f"`{mode}`", f"{errors.worst:g}", mean, spread, "yes" if errors.inward else ""))
    return table("rounding | worst: | mean: | spread: | never outwards", rows)


def table_text() -> str:
    """Return the table of bounds: a row for each formula, with its instructions and the worst input found."""
    record = json.loads(RECORD.read_text(encoding="utf-8"))
    groups: dict[str, list[dict[str, Any]]] = {}
    exact = 0
    for about in record["rows"]:
        if not about["worst"]:
            exact += about["names"]
            continue
        groups.setdefault("; ".join(formulas(bound(instruction_of(about["instruction"]), K))), []).append(about)
    lines = [
        table(
            "instruction | R | at K = 4096: | normal operands: | attained by input:",
            (_row(formula, members) for formula, members in groups.items()),
        ),
        "",
        f"Sums of the other {exact:,} instructions are exact: of integers, or of formats so narrow that the window loses "
        f"nothing. Inputs found: [pages/bounds.json](../pages/bounds.json), {record['date']}, commit {record['commit']}, "
        "`python pages/bounds.py`.",
    ]
    return "\n".join(lines)


def emulated_text() -> str:
    """Return a sentence on the emulated outputs that were compared with their bounds."""
    record = json.loads(EMULATED.read_text(encoding="utf-8"))
    kinds: dict[str, float] = {}
    for about in record["rows"]:
        for kind, share in about["largest"].items():
            kinds[kind] = max(kinds.get(kind, 0.0), share)
    shares = ", ".join(f"{kind} {share:.3f}" for kind, share in kinds.items())
    command = "`python checks/bounds.py --outputs 1e9 --record checks/bounds.json`"
    return (
        f"{record['outputs']:,} outputs of {len(record['rows'])} instructions of the catalogue and of proposals, by the "
        f"{record['engine']} engine on adversarial operands of every kind and near the worst inputs: none exceeds its bound.\n"
        f"Largest shares of a bound: {shares}.\nRecord: [checks/bounds.json](../checks/bounds.json), {record['date']}, commit "
        f"{record['commit']}, {command}; `--engine gpu` on an NVIDIA GPU."
    )


def _row(formula: str, members: list[dict[str, Any]]) -> tuple[str, ...]:
    """Return the row of instructions with one formula."""
    first = members[0]["instruction"]
    more = sum(about["names"] for about in members) - 1
    instruction = instruction_of(first)
    shares = [about["attained"] for about in members if "attained" in about]
    return (
        f"`{first}`" + (f" and {more:,} more" if more else ""),
        formula,
        f"{bound(instruction, K).worst:.3g}",
        f"{bound(instruction, K, normal=True).worst:.3g}",
        f"{min(shares):.0%}" if shares else "",
    )


def kept(name: str, about: dict[str, Any] | None) -> tuple[Bound, Witness | None]:
    """Return the bound, and the input of the record, run again; None if it attains less than half."""
    instruction = instruction_of(name)
    limits = bound(instruction, K)
    if about is None or "pairs" not in about or not limits.worst:
        return limits, None
    given = Witness(about["level"], about["heads"], about["boost"], tuple(map(tuple, about["pairs"])))
    made = Bench(instruction, K).run(given)
    return limits, made if made and round(made.attained(limits), 4) >= 0.5 else None


def main() -> None:
    """Search an input for every arithmetic and write the record."""
    before = {} if "--all" in sys.argv else {r["instruction"]: r for r in json.loads(RECORD.read_text())["rows"]}
    rows, made_at = [], commit()
    for name, count in arithmetics().values():
        try:
            limits, found = kept(name, before.get(name))
        except InputError as refused:  # no bound is derived for some fields
            print(refused, file=sys.stderr)
            continue
        if not found:
            limits, found = search(instruction_of(name), K)
        about: dict[str, Any] = {"instruction": name, "names": count, "worst": limits.worst}
        if found:
            about |= {"found": found.relative, "attained": round(found.attained(limits), 4)}
            about |= {"level": found.level, "heads": found.heads, "boost": found.boost, "pairs": found.pairs}
        rows.append(about)
        print(name, about.get("attained"), file=sys.stderr, flush=True)
    record = {"k": K, "date": datetime.now(UTC).date().isoformat(), "commit": made_at, "rows": rows}
    write_file(RECORD, json_lines(record))


if __name__ == "__main__":
    main()
