"""Compare our engines with mmasim, code for code: `python checks/equivalence.py`.

For every instruction of mmasim, operands of every kind in isa_model/stimulus.py go through mmasim and through our compiled CPU
engine (the golden model for FP64), one instruction per core. Prints a line per instruction, with instructions that differ only
in M and N together, and exits with 1 if an output differs. `--record` saves the run. `--fixture` saves a small part of mmasim's
results for the tests, which run without mmasim. Nine tenths of the time is spent in mmasim. Needs a C compiler and
`pip install -e '.[oracle]'`.

NaN codes must be equal, except where mmasim returns the NaN of the host's processor (its fused multiply-add, CDNA1 and CDNA2);
there any NaN is accepted. `Oracle.set_aside` tells which outputs are set aside.
"""

from __future__ import annotations

import argparse
import platform
import re
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatch
from importlib.metadata import version
from math import ceil, sqrt
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isa_model import Instruction, load, matmul
from isa_model.array_codec import decode_array, to_codes
from isa_model.checkout import commit_of
from isa_model.engines import cpu
from isa_model.engines.c_library import compiler
from isa_model.engines.plan import Plan, Unsupported
from isa_model.output_files import fresh_file, head, json_lines, write_file
from isa_model.processes import pool
from isa_model.stimulus import KINDS, StressOperands, draw

FIXTURE_SIDE = 4
"""Rows and columns of each product in the fixture."""


@dataclass(frozen=True)
class InstructionResult:
    """Result of one instruction, or of several that differ only in M and N."""

    instruction: str
    instructions: int
    outputs: int
    mismatches: int
    set_aside: int
    engine: str
    first: str = ""


COUNTS = ("instructions", "outputs", "mismatches", "set_aside")


def compare(name: str, outputs: int) -> InstructionResult:
    """Compare at least `outputs` outputs of an instruction, over all kinds of operands."""
    side = ceil(sqrt(outputs / len(KINDS)))
    mismatches = set_aside = 0
    first = ""
    engine = engine_of(load(name))
    for kind, operands, oracle in cases(name, side):
        got, expected = ours(oracle.spec, operands, engine), canonical(oracle, oracle(operands))
        differs, aside = got != expected, oracle.set_aside(operands)
        mismatches += int((differs & ~aside).sum())
        set_aside += int((differs & aside).sum())
        if (differs & ~aside).any() and not first:
            i, j = (int(x) for x in np.argwhere(differs & ~aside)[0])
            first = f"{kind} [{i}, {j}]: mmasim {expected[i, j]:#x}, ours {got[i, j]:#x}"
    return InstructionResult(name, 1, side * side * len(KINDS), mismatches, set_aside, engine, first)


def cases(name: str, side: int) -> Iterator[tuple[str, StressOperands, Any]]:
    """Yield operands of every kind for an instruction, with `side` rows and columns; the seed depends only on the name."""
    import torch
    from oracle import Oracle

    torch.set_num_threads(1)
    spec = load(name)
    oracle = Oracle(spec)
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    for kind in KINDS:
        yield kind, draw(spec, kind, rng, side, side, spec.shape.k), oracle


def engine_of(spec: Instruction) -> str:
    """Return `cpu`, the compiled engine, or `golden` for FP64, which doubles cannot hold exactly."""
    try:
        Plan(spec)
    except Unsupported:
        return "golden"
    return "cpu"


def ours(spec: Instruction, x: StressOperands, engine: str) -> NDArray[Any]:
    """Return the codes of D by our engine, compiled even where `matmul` would find the product too small to compile."""
    if engine == "cpu":
        return cpu.matmul(spec, x.a, x.b, x.c, x.scale_a, x.scale_b)
    return to_codes(spec.accumulator, matmul(spec, x.a, x.b, x.c, x.scale_a, x.scale_b, engine="golden"))


def canonical(oracle: Any, codes: NDArray[Any]) -> NDArray[Any]:
    """Return mmasim's codes, with our NaN in place of NaNs whose code comes from the host."""
    if oracle.nan_is_the_hosts:
        codes = np.where(np.isnan(decode_array(oracle.spec.accumulator, codes)), oracle.spec.nan_code, codes)
    return codes


def without_m_and_n(name: str) -> str:
    """Return the common name of all instructions that differ from this one only in M and N."""
    return re.sub(r"\.(wgmma|tcgen05)\.m\d+n\d+k", r".\1.m*n*k", name)


def of_a_kind(rows: list[InstructionResult]) -> list[InstructionResult]:
    """Merge the results of instructions that differ only in M and N."""
    together: dict[str, InstructionResult] = {}
    for row in rows:
        name = without_m_and_n(row.instruction)
        before = together.get(name, InstructionResult(name, 0, 0, 0, 0, row.engine))
        counts = {x: getattr(before, x) + getattr(row, x) for x in COUNTS}
        together[name] = replace(before, **counts, first=before.first or row.first)
    return list(together.values())


def record(rows: list[InstructionResult], options: argparse.Namespace, started_at: str, seconds: float) -> None:
    """Save a run as JSON, with the versions and the machine."""
    cc = subprocess.run([*compiler(), "--version"], capture_output=True, text=True).stdout.splitlines()[0]
    run = {
        "what": "outputs of our engines compared with those of the package mmasim, code for code",
        "engines": {
            "cpu": "isa_model/engines/cpu.py: C, compiled for this machine from the spec",
            "golden": "isa_model/golden.py, for FP64",
        },
        **head(f"python checks/equivalence.py --outputs {options.outputs} --only '{options.only}'", started_at),
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("numpy", "torch", "mmasim")},
            "compiler": cc,
        },
        "cores": cpu.cores(),
        "seconds": round(seconds),
        "operands": KINDS,
        "set_aside": "outputs that differ because mmasim drops an infinity or NaN (set_aside in checks/oracle.py)",
        "instructions": sum(row.instructions for row in rows),
        "outputs": sum(row.outputs for row in rows),
        "mismatches": sum(row.mismatches for row in rows),
    }
    write_file(options.record, json_lines(run | {"rows": [asdict(row) for row in of_a_kind(rows)]}))


def fixture(names: list[str], path: Path) -> None:
    """Save a few outputs per instruction, one instruction for all that differ only in M and N, as `codesign conform` reads."""
    arrays: dict[str, NDArray[Any]] = {}
    for name in {without_m_and_n(name): name for name in names}.values():
        blocks: dict[str, list[NDArray[Any]]] = {}
        for _, x, oracle in cases(name, FIXTURE_SIDE):
            if oracle.set_aside(x).any():
                continue
            scales = {"SA": x.scale_a, "SB": None if x.scale_b is None else x.scale_b.T}
            for key, codes in {"A": x.a, "B": x.b.T, **scales}.items():
                if codes is not None:
                    blocks.setdefault(key, []).append(np.ascontiguousarray(codes).view(np.uint8))
            blocks.setdefault("C", []).append(x.c)
            blocks.setdefault("D", []).append(canonical(oracle, oracle(x)))
        arrays.update({f"{name}/all/1/{key}": np.stack(block) for key, block in blocks.items()})
    with fresh_file(path) as fresh, open(fresh, "wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]


def main() -> int:
    """Run the comparison; return the exit code."""
    parser = argparse.ArgumentParser(description="Our engines against mmasim, code for code.")
    parser.add_argument("--outputs", type=int, default=100_000, help="outputs of each instruction (default: 100000)")
    parser.add_argument("--only", default="*", help="pattern of the instructions' names, for instance 'cdna3.*'")
    parser.add_argument("--record", type=Path, help="save the run to this file (JSON)")
    parser.add_argument("--fixture", type=Path, help="save a few outputs of each instruction to this file (.npz)")
    options = parser.parse_args()
    if options.outputs < 1:
        parser.error(f"--outputs {options.outputs}: at least 1")
    for path in filter(None, (options.record, options.fixture)):
        if not path.parent.is_dir():
            parser.error(f"{path}: there is no folder {path.parent}")
    try:
        from oracle import instructions
    except ModuleNotFoundError as missing:
        print(f"{missing}: install it with pip install -e '.[oracle]'", file=sys.stderr)
        return 3
    names = [name for name in instructions() if fnmatch(name, options.only)]
    if not names:
        print(f"mmasim has no instruction that matches {options.only}", file=sys.stderr)
        return 2
    if options.fixture:
        fixture(names, options.fixture)
        return 0
    started_at, started = commit_of("isa_model", "checks"), time.monotonic()
    with pool(cpu.cores(), main=True) as workers:
        rows = []
        for row in workers.map(compare, names, [options.outputs] * len(names), chunksize=4):
            rows.append(row)
            if row.mismatches:
                print(f"{row.instruction}: {row.first}", file=sys.stderr)
            if len(rows) % 100 == 0:
                print(f"{len(rows)} of {len(names)}", file=sys.stderr, flush=True)
    print(f"{'mismatches':>10} {'outputs':>11} {'set aside':>9} instruction")
    for row in of_a_kind(rows):
        count = f" ({row.instructions} of them)" if row.instructions > 1 else ""
        print(
            f"{row.mismatches:>10} {row.outputs:>11} {row.set_aside:>9} {row.instruction}{count} {row.first}".rstrip()
        )
    wrong = sum(row.mismatches for row in rows)
    print(f"{len(rows)} instructions, {sum(row.outputs for row in rows)} outputs, {wrong} mismatches")
    if options.record:
        record(rows, options, started_at, time.monotonic() - started)
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
