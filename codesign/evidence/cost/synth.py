"""Synthesis of RTLIL to mapped netlists by Yosys and abc (package `pyosys`), with one script for every design."""

from __future__ import annotations

import json
import re
import subprocess
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from codesign.evidence.cost.cell_library import Library
from codesign.evidence.cost.netlist import Netlist
from codesign.evidence.cost.rtl import lint
from isa_model import processes
from isa_model.output_files import scratch

PREPARE = "hierarchy -top unit; proc; {flatten} opt -full; wreduce; alumacc; opt; techmap; opt -fast"
ABC = "strash; dc2; dc2; dch; amap -m; topo; stime -p"
"""Script of abc, as Yosys's default does not terminate on carry-save trees. It sizes no gates: sized areas are noisy."""
FINISH = "opt_clean -purge"


@dataclass(frozen=True)
class Synthesised:
    """Results of synthesising one design."""

    netlist: Netlist
    verilog: str
    delay: float
    """Delay of the longest path according to abc, in the library's unit."""


def synthesise(rtlil: str, library: Library) -> Synthesised:
    """Flatten a design and map it to the library's cells. Needs the extra `cost`."""
    data, verilog, log = _yosys(rtlil, library, flatten=True)
    delays = re.findall(r"Delay\s*=\s*([\d.]+)", log)
    return Synthesised(Netlist.of_json(data["modules"]["unit"], library), verilog, float(delays[-1]))


def readable(rtlil: str) -> str:
    """Return the design before synthesis as Verilog that linters accept, one module per block."""
    with scratch() as folder:
        source, out, nets = folder / "unit.il", folder / "unit.v", folder / "unit.json"
        source.write_text(lint.widened(rtlil))
        run(
            f"read_rtlil {source}; hierarchy -top unit; proc; opt_merge; opt_clean -purge; rename -enumerate -pattern w%; "
            f"write_json {nets}; write_verilog -noattr {out}",
            folder,
        )
        return lint.with_unused(out.read_text(), json.loads(nets.read_text())["modules"])


def block_areas(rtlil: str, library: Library) -> dict[str, float]:
    """Return the area of all instances of each module, mapped with the hierarchy kept.

    The sum differs from the area of the flat design.
    """
    data, _, _ = _yosys(rtlil, library, flatten=False)
    modules = data["modules"]
    total: dict[str, float] = {}

    def visit(name: str) -> None:
        for cell in modules[name]["cells"].values():
            if cell["type"] in library.cells:
                total[name] = total.get(name, 0.0) + library.cells[cell["type"]].area
            else:
                visit(cell["type"])

    visit("unit")
    return total


def _yosys(rtlil: str, library: Library, flatten: bool) -> tuple[dict[str, Any], str, str]:
    """Return the mapped design as JSON and as Verilog, and the log of abc."""
    with scratch() as folder:
        paths = {name: folder / name for name in ("unit.il", "cells.lib", "abc.script", "abc.log", "out.json", "out.v")}
        paths["unit.il"].write_text(rtlil)
        paths["cells.lib"].write_text(library.text)
        paths["abc.script"].write_text(ABC.replace("; ", "\n") + "\n")
        run(
            f"read_rtlil {paths['unit.il']}; {PREPARE.format(flatten='flatten -noscopeinfo;' if flatten else '')}; "
            f"tee -q -o {paths['abc.log']} abc -liberty {paths['cells.lib']} -script {paths['abc.script']}; {FINISH}; "
            f"write_json {paths['out.json']}; write_verilog -noattr {paths['out.v']}",
            folder,
        )
        return json.loads(paths["out.json"].read_text()), paths["out.v"].read_text(), paths["abc.log"].read_text()


def run(commands: str, folder: Path) -> None:
    """Run Yosys commands in a process of their own, since Yosys ends its process on an error."""
    import sys

    if find_spec("pyosys") is None:
        raise ModuleNotFoundError("No module named 'pyosys'", name="pyosys")
    program = (
        "import sys; from pyosys import libyosys as ys; d = ys.Design(); "
        "[ys.run_pass(c.strip(), d) for c in sys.argv[1].split(';') if c.strip()]"
    )
    done = processes.run([sys.executable, "-c", program, commands], folder)
    if done.returncode:
        raise RuntimeError(f"Yosys failed: {done.stdout[-2000:]}{done.stderr[-2000:]}")


def abc(commands: str, folder: Path, seconds: float | None = None) -> str:
    """Return what the abc that comes with Yosys prints for its commands, run in a folder; empty after `seconds`.

    Raises RuntimeError if abc fails.
    """
    found = find_spec("pyosys")
    if found is None or found.origin is None:
        raise ModuleNotFoundError("No module named 'pyosys'", name="pyosys")
    try:
        done = processes.run([str(Path(found.origin).with_name("yosys-abc")), "-c", commands], folder, seconds)
    except subprocess.TimeoutExpired:
        return ""
    if done.returncode:
        raise RuntimeError(f"abc failed: {done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.stdout
