"""Compare the Verilog of every shipped unit with the model, lint it, and plant faults in the generator.

    python checks/unit_rtl.py [--only PATTERN]

For each instruction that a shipped proposal proposes, sweeps or starts from, the Verilog that `codesign rtl` exports is read
back by Yosys and compared with the model on at least 30,000 random, adversarial and special vectors, bit for bit. Verilator
lints it with all warnings, and Icarus Verilog runs a part of the vectors that ship through it, if they are installed. Then the
unit is generated again with planted faults of special values (tests/planted.py), those of scales in units with scales and
those of sums in the others, and the vectors that ship have to notice each wherever the 30,000 do. Writes unit_rtl.json here; a
unit whose RTL and vectors are those of the record, and which held there, is not run again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import pytest
from planted import PLANTED, plant
from simple_gates import GATES

from codesign.commit import commit
from codesign.evidence.cost import synth
from codesign.evidence.cost.export import VECTORS, header, lines, testbench
from codesign.evidence.cost.netlist import Netlist
from codesign.evidence.cost.records import design_sha256, find
from codesign.evidence.cost.rtl.ports import check, ports
from codesign.evidence.cost.rtl.stalled import wrapper
from codesign.evidence.cost.rtl.unit import unit
from codesign.evidence.cost.unit_vectors import UnitVectors, shipped
from codesign.evidence.cost.verify import batches_of, compare, outputs
from codesign.proposal.load import load_proposal
from isa_model.diagnostics import InputError
from isa_model.instruction import Instruction
from isa_model.output_files import scratch, write_file
from isa_model.processes import pool

ROOT = Path(__file__).resolve().parents[1]
RECORD = ROOT / "checks" / "unit_rtl.json"
OF_SCALES = {
    "a cancelled sum is no zero",
    "an infinite scale of a zero is infinite",
    "a product of scales never overflows",
}
"""Planted faults in what scales do to special sums."""
VECTORS_EACH = 30_000
SIMULATED = 100
"""Special vectors that Icarus Verilog simulates, and as many of the others."""


def designs() -> Iterator[tuple[str, Instruction, bool]]:
    """Yield the name and instruction of each unit, and whether faults are planted in it: not in those of swept values."""
    seen = set()
    for path in sorted((ROOT / "proposals").glob("*.yaml")):
        proposal = load_proposal(path)
        if proposal.multiplies_as_today:
            continue
        wanted = [(proposal.base, proposal.today, True), (proposal.proposal, proposal.proposed(), True)]
        wanted += [(f"{proposal.proposal} at {value}", proposal.proposed(value), False) for value in proposal.swept]
        for name, spec, faulty in wanted:
            if design_sha256(spec) not in seen:
                seen.add(design_sha256(spec))
                yield name, spec, faulty


def netlist_of(verilog: str) -> Netlist:
    """Return the netlist of simple gates of a unit's Verilog, read by Yosys."""
    with scratch() as folder:
        (folder / "unit.v").write_text(verilog)
        synth.run(
            "read_verilog unit.v; hierarchy -top unit; proc; flatten -noscopeinfo; opt_expr; opt_clean; alumacc; techmap; "
            "opt_expr; opt_clean; write_json out.json",
            folder,
        )
        return Netlist.of_json(json.loads((folder / "out.json").read_text())["modules"]["unit"], GATES)


def differ(netlist: Netlist, batches: Sequence[UnitVectors]) -> bool:
    """Return whether a batch shows a difference from the model."""
    return any((outputs(netlist, batch) != batch.d).any() for batch in batches)


def warnings(spec: Instruction, verilog: str) -> int | None:
    """Return the number of Verilator's warnings on a unit in its pipeline; None if it is not installed."""
    verilator = Path(sys.executable).with_name("verilator-cli")
    if not verilator.exists():
        return None
    with scratch() as folder:
        (folder / "unit.v").write_text(verilog)
        (folder / "unit_pipeline.v").write_text(wrapper(spec, 3))
        command = [str(verilator), "--lint-only", "-Wall", "-Wno-fatal", "--top-module", "unit_pipeline"]
        command += ["unit.v", "unit_pipeline.v"]
        said = subprocess.run(command, cwd=folder, capture_output=True, text=True).stderr
    return len(re.findall(r"^%(?:Warning|Error)", said, flags=re.M))


def simulated(spec: Instruction, verilog: str, vectors: Sequence[UnitVectors]) -> str | None:
    """Return what the exported test bench prints under Icarus Verilog; None if it is not installed."""
    if not shutil.which("iverilog"):
        return None
    every = [line for batch in vectors for line in lines(spec, batch)]
    some = [*every[:: max(1, len(every) // SIMULATED)][:SIMULATED], *every[-SIMULATED:]]
    with scratch() as folder:
        (folder / "unit.v").write_text(verilog)
        (folder / "testbench.v").write_text(testbench(spec, len(some), dict.fromkeys(ports(spec), 0), 0))
        (folder / VECTORS).write_text("".join(some))
        compiled = ["iverilog", "-g2005", "-o", "run", "unit.v", "testbench.v"]
        subprocess.run(compiled, cwd=folder, check=True)
        return (
            subprocess.run(["vvp", "run"], cwd=folder, capture_output=True, text=True).stdout.strip().splitlines()[-1]
        )


def planted(spec: Instruction, rtlil: str, vectors: Sequence[UnitVectors]) -> dict[str, str]:
    """Return what becomes of each planted fault that changes the unit: `noticed`, `missed` or `without effect`.

    A fault is missed if only the 30,000 vectors show it; it is without effect if none of them does either.
    """
    found = {}
    for name, fault in PLANTED.items():
        if (name in OF_SCALES) != bool(spec.scales):
            continue
        with pytest.MonkeyPatch.context() as patch:
            plant(patch, fault)
            wrong = unit(spec)
        if wrong == rtlil:
            continue
        netlist = netlist_of(synth.readable(wrong))
        if differ(netlist, vectors[::-1]):
            found[name] = "noticed"
        else:
            found[name] = "missed" if differ(netlist, list(batches_of(spec, VECTORS_EACH))) else "without effect"
    return found


def checked(design: tuple[str, Instruction, bool], known: dict[str, Any]) -> dict[str, Any]:
    """Return the entry of a unit in the record, from the record if it is of the same Verilog and vectors."""
    name, spec, faulty = design
    try:
        check(spec)
    except InputError as reason:
        return {"name": name, "refused": str(reason).splitlines()[0]}
    rtlil, vectors = unit(spec), shipped(spec)
    verilog = header(spec, rtlil) + synth.readable(rtlil)
    of_vectors = hashlib.sha256()
    for batch in vectors:
        for codes in (*batch.operands.values(), batch.d):
            of_vectors.update(codes.tobytes())
    digests = {
        "rtlil_sha256": hashlib.sha256(rtlil.encode()).hexdigest(),
        "vectors_sha256": of_vectors.hexdigest(),
    }
    kept = known.get(design_sha256(spec), {})
    same = all(kept.get(key) == value for key, value in digests.items())
    if same and ("planted" in kept) >= faulty and not wrong(kept):
        return kept
    netlist = netlist_of(verilog)
    results = [compare(netlist, batches_of(spec, VECTORS_EACH)), compare(netlist, vectors)]
    record = find(spec, "neutral")
    entry = {
        "name": name,
        **digests,
        "commit": commit("checks/unit_rtl.py", "tests/planted.py"),
        "vectors": results[0].vectors,
        "shipped_vectors": results[1].vectors,
        "mismatches": sum(result.mismatches for result in results),
        "first": next((result.first for result in results if result.first), ""),
        "verilator_warnings": warnings(spec, verilog),
        "icarus": simulated(spec, verilog, vectors),
    }
    if faulty:
        entry["planted"] = planted(spec, rtlil, vectors)
    if record and record.equivalence.faults:
        entry["stuck_nets"] = {"injected": record.equivalence.faults, "noticed": record.equivalence.faults_caught}
    return entry


def wrong(entry: dict[str, Any]) -> bool:
    """Return whether an entry says that something does not hold."""
    fails = "icarus" in entry and entry["icarus"] is not None and not entry["icarus"].startswith("PASS")
    missed = "missed" in entry.get("planted", {}).values()
    return bool(entry.get("mismatches") or entry.get("verilator_warnings") or fails or missed)


def main() -> int:
    """Check every unit, and return 1 if one differs, warns, or has a fault that the vectors that ship miss."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="*", help="pattern of names of units, for instance 'group-scaled-mma*'")
    parser.add_argument("--jobs", type=int, default=2)
    arguments = parser.parse_args()
    known = json.loads(RECORD.read_text())["units"] if RECORD.exists() else {}
    every = list(designs())
    asked = [job for job in every if fnmatch(job[0], arguments.only)]
    with pool(arguments.jobs, main=True) as workers:
        for (name, spec, _), entry in zip(asked, workers.map(partial(checked, known=known), asked), strict=True):
            known[design_sha256(spec)] = entry
            said = {k: v for k, v in entry.items() if "sha256" not in k and k not in ("name", "commit", "first")}
            print(f"{'WRONG ' if wrong(entry) else ''}{name}: {said}", flush=True)
            write_file(RECORD, json.dumps({"units": known}, indent=1) + "\n")
    found = {key: known[key] for key in (design_sha256(spec) for _, spec, _ in every) if key in known}
    write_file(RECORD, json.dumps({"units": found}, indent=1) + "\n")
    failing = [entry["name"] for entry in found.values() if wrong(entry)]
    print(f"{len(found)} units; wrong: {', '.join(failing) or 'none'}")
    return int(bool(failing))


if __name__ == "__main__":
    sys.exit(main())
