"""Kill commands at random moments and check what they leave: `python checks/kill.py [COMMAND...] [--moments 60]`.

Each command runs alternately with two inputs and one output path. Its first process gets SIGKILL at a random moment: half of
the moments are anywhere in the run, half in its last tenth, where it writes. Afterwards the output must be complete and that
of one of the two inputs. In the end an undisturbed run must give the usual bytes, and no process, folder or file of a killed
run may be left. `train` saves a checkpoint every 0.3 s and resumes from the last one; its times are not compared. Needs Linux
(/proc). Prints a table; `--write` puts it into docs/robustness.md.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from codesign.figures.markdown import table
from isa_model.output_files import put

PAGE = Path(__file__).parent.parent / "docs" / "robustness.md"
CODESIGN = [sys.executable, "-m", "codesign"]
OFTEN = (
    "from functools import partial; from codesign.evidence.training import loop; loop.train = partial(loop.train, every=0.3); "
    "from codesign.__main__ import main; main()"
)
PROPOSAL = """\
proposal: small
title: Killed {0}
source: checks/kill.py
base: hopper.wgmma.m64n256k32.f32.e4m3.e4m3
change: {{stages: {{fuse: {{fraction_bits: 25}}}}}}
workloads: [mpnet-base.fprop.down]
tensors: [normal]
claims: [{{metric: numerics.total_error, at_most: 0.1}}]
"""
INSTRUCTION = """\
description: Killed {0}
shape: {{m: 8, n: 8, k: 4}}
a: fp16
b: fp16
accumulator: fp32
stages:
  fuse:
    terms: 4
    accumulator: true
    fraction_bits: 24
    rounding: toward-zero
    result: {{format: fp32, rounding: toward-zero}}
"""


@dataclass(frozen=True)
class KilledCommand:
    """A command with two inputs and one output path."""

    commands: tuple[list[str], list[str]]
    out: Path


def killed_command(name: str, root: Path) -> KilledCommand:
    """Return a command after writing its inputs to `root`."""
    for i in range(2):
        (root / f"{i}.yaml").write_text(PROPOSAL.format(i))
        (root / f"instruction{i}.yaml").write_text(INSTRUCTION.format(i))
    out = root / "out" / name
    sampling = ["--rows", "2", "--columns", "2", "--seeds", "0"]
    if name == "evaluate":
        one, two = ([*CODESIGN, name, f"{i}.yaml", *sampling, "--out", str(out)] for i in range(2))
    elif name == "report":
        for i in range(2):
            command = [*CODESIGN, "evaluate", f"{i}.yaml", *sampling, "--out", f"result{i}"]
            subprocess.run(command, cwd=root, check=True, capture_output=True)
        one, two = ([*CODESIGN, name, "--replay", f"result{i}", "--out", str(out)] for i in range(2))
    elif name == "train":
        small = ["--arms", "bf16", "--size", "tiny", "--steps", "60", "--work", str(root / "work")]
        out = out / "record.json"
        train = [sys.executable, "-c", OFTEN, name, "framework", *small, "--out", str(out), "--seeds"]
        one, two = [*train, "0"], [*train, "1"]
    elif name == "rtl":
        one, two = ([*CODESIGN, name, f"instruction{i}.yaml", "--out", str(out)] for i in range(2))
    else:
        one, two = ([*CODESIGN, name, f"instruction{i}.yaml", "--count", "700", "--out", str(out)] for i in range(2))
    return KilledCommand((one, two), out)


def content(out: Path) -> dict[str, str]:
    """Return the contents of an output by file name; of a training record, everything but the times."""
    if out.suffix == ".json":
        runs = json.loads(out.read_text())["runs"] if out.exists() else []
        return {str(r["seed"]): str({k: v for k, v in r.items() if "second" not in k}) for r in runs}
    return {p.name: p.read_text() for p in out.iterdir()} if out.exists() else {}


def processes(mark: str) -> list[str]:
    """Return the processes with `mark` in their environment."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (folder / "environ").read_bytes():
                found.append((folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()[:200])
        except OSError:
            continue
    return found


def ended(mark: str) -> None:
    """Wait for the processes of a killed command to end. Raises AssertionError if one still runs after 30 seconds."""
    end = time.monotonic() + 30
    while left := processes(mark):
        assert time.monotonic() < end, f"still running: {left}"
        time.sleep(0.05)


def torture(name: str, moments: int, root: Path) -> tuple[object, ...]:
    """Kill a command at `moments` moments and return the table's row. Raises AssertionError for a wrong or leftover file."""
    chosen = random.Random(name)
    made = killed_command(name, root)
    scratch = root / "tmp"
    scratch.mkdir()
    environment = {**os.environ, "TMPDIR": str(scratch), "PYTHONPATH": os.pathsep.join(sys.path[1:])}
    training = made.out.suffix == ".json"

    def finish(i: int) -> dict[str, str]:
        done = subprocess.run(made.commands[i], cwd=root, env=environment, capture_output=True, text=True)
        assert done.returncode in (0, 1), done.stderr
        return content(made.out)

    def clear() -> None:
        shutil.rmtree(root / "work", ignore_errors=True)
        made.out.unlink(missing_ok=True)

    wanted, seconds = [], 0.0
    for i in range(2):
        begun = time.monotonic()
        wanted.append(finish(i))
        seconds = time.monotonic() - begun
        if training:
            clear()
    outcomes: Counter[str] = Counter()
    for moment in range(moments):
        old = content(made.out)
        i = moment % 2 if training else int(old == wanted[0])
        if training and old:
            clear()
            old = {}
        mark = f"CODESIGN_KILL={uuid.uuid4()}"
        start = {**environment, **dict([mark.split("=")])}
        process = subprocess.Popen(
            made.commands[i], cwd=root, env=start, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        share = chosen.random() if moment % 2 else 0.9 + 0.2 * chosen.random()
        try:
            process.wait(share * seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        killed = process.returncode < 0
        ended(mark)
        found = content(made.out)
        assert found in (old, wanted[i]), f"{name}: neither the old nor the new output, killed at {share:.2f}"
        state = "finished first" if not killed else "new" if found == wanted[i] else "old"
        if training and state == "old" and any((root / "work").glob("*.pt")):
            state = "old, with a checkpoint"
        outcomes[state] += 1
        print(f"{name} {moment + 1}: {state}", file=sys.stderr, flush=True)
    for i in range(2):
        if training:
            made.out.unlink(missing_ok=True)  # checkpoints stay
        assert finish(i) == wanted[i], f"{name}: a run after the killed ones gives something else"
    left = [p for p in root.rglob("*codesign-*") if p.suffix in (".codesign-new", ".codesign-old")]
    left += list(scratch.iterdir())
    assert not left, f"{name} left {left}"
    said = ", ".join(f"{count} {state}" for state, count in sorted(outcomes.items()))
    return f"`{name}`", f"{seconds:.0f} s", moments, said, "same bytes, nothing left"


def main() -> None:
    """Kill every command and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commands", nargs="*", default=["evaluate", "report", "rtl", "vectors", "train"])
    parser.add_argument("--moments", type=int, default=60)
    parser.add_argument("--write", action="store_true", help="put the table into docs/robustness.md")
    arguments = parser.parse_args()
    rows = []
    for name in arguments.commands:
        with tempfile.TemporaryDirectory() as folder:
            rows.append(torture(name, arguments.moments, Path(folder)))
            print(*rows[-1], sep=", ", flush=True)
    if arguments.write:
        put(PAGE, "kill", table("command | a run takes: | moments: | found afterwards | after a full run", rows))


if __name__ == "__main__":
    main()
