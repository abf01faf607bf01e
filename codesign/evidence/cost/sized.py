"""A second recipe: the unit sized for a clock that all designs have in common, with as many pipeline stages as that takes."""

from __future__ import annotations

import re
from collections.abc import Mapping

from codesign.evidence.cost.cell_library import Library
from codesign.evidence.cost.netlist import Netlist
from codesign.evidence.cost.pipeline import Pipeline, last_reads, pipeline
from codesign.evidence.cost.records import Sized
from codesign.evidence.cost.synth import abc
from isa_model.output_files import scratch

CLOCK_FO4 = 30.0
"""Period that every unit is sized for, flip-flops included, in FO4 inverter delays of the library."""
DEPTHS = (48, 40, 34, 28, 24, 20, 17, 14, 12)
"""Levels of gates between registers, tried from the deepest."""
SCRIPT = "topo; buffer -c; topo; upsize -c -D {budget}; dnsize -c -D {budget}; stime -p"
"""Script of abc: nets with many readers are buffered, then gates on paths that are too long get larger, and others smaller."""


def has_sizes(library: Library) -> bool:
    """Return whether a library has inverters of several sizes."""
    return sum(c.function != "" and len(c.inputs) == 1 and c.truth_table == 0b01 for c in library.cells.values()) > 1


def sized(netlist: Netlist, elements: Mapping[str, int]) -> Sized | None:
    """Return the unit with the fewest stages that meets the clock, buffered and sized; None if none of `DEPTHS` does.

    `elements` is as for `pipeline`.
    """
    library = netlist.library
    flop, most = library.flip_flop, budget(library)
    for depth in DEPTHS:
        cut = pipeline(netlist, depth, elements)
        area, delay = buffered(cut, most)
        if delay <= most:
            return Sized(
                clock_fo4=CLOCK_FO4,
                levels=depth,
                cycles=cut.latency,
                register_bits=cut.register_bits,
                area=round((area + cut.register_bits * flop.area) / library.nand2.area, 1),
                period_fo4=round(CLOCK_FO4 - (most - delay) / library.fo4, 2),
            )
    return None


def budget(library: Library) -> float:
    """Return what the clock leaves for gates: the period less a flip-flop that drives four inverters, in the library's unit."""
    flop = library.flip_flop
    register = flop.intrinsic + flop.resistance * 4 * library.inverter.inputs[0].capacitance
    return CLOCK_FO4 * library.fo4 - register


def buffered(cut: Pipeline, most: float) -> tuple[float, float]:
    """Return the area of a pipeline's gates, and the longest delay between registers, once sized for a delay.

    Raises RuntimeError if abc fails, or finds that the sized gates compute something else.
    """
    with scratch() as folder:
        paths = {name: folder / name for name in ("cells.lib", "unit.blif")}
        paths["cells.lib"].write_text(cut.netlist.library.text)
        paths["unit.blif"].write_text(blif(cut))
        scale = _picoseconds(cut.netlist.library.text)
        script = SCRIPT.format(budget=round(most * scale))
        script = (
            f"read_lib -w {paths['cells.lib']}; read_blif {paths['unit.blif']}; {script}; cec -n {paths['unit.blif']}"
        )
        said = abc(script, folder)
        found = re.findall(r"Area\s*=\s*([\d.]+).*?Delay\s*=\s*([\d.]+) ps", said)
        if not found or "Networks are equivalent" not in said:
            raise RuntimeError(f"abc failed: {said[-2000:]}")
        area, delay = map(float, found[-1])
        return area, delay / scale


def blif(cut: Pipeline) -> str:
    """Return the gates between registers as mapped BLIF.

    What a stage reads from an earlier one is an output there, and an input of its own.
    """
    netlist, stage = cut.netlist, cut.stage
    driven = {gate.output for gate in netlist.gates}
    until = last_reads(netlist, stage)
    inputs: set[str] = set()
    lines = []
    for gate in netlist.gates:
        cell, here = netlist.library.cells[gate.cell], stage[gate.output]
        wires = []
        for net in gate.inputs:
            direct = net in driven and stage[net] == here
            wires.append(f"n{net}" if direct else f"r{net}_{here}")
            if not direct:
                inputs.add(wires[-1])
        pins = " ".join(f"{pin.name}={wire}" for pin, wire in zip(cell.inputs, wires, strict=True))
        lines.append(f".gate {cell.name} {pins} {cell.output}=n{gate.output}")
    outputs = [f"n{net}" for net in sorted(driven) if until[net] > stage[net]]
    head = [".model unit", f".inputs {' '.join(sorted(inputs))}", f".outputs {' '.join(outputs)}"]
    return "\n".join([*head, *lines, ".end", ""])


def _picoseconds(text: str) -> float:
    """Return the picoseconds of a Liberty file's unit of time."""
    match = re.search(r"time_unit\s*:\s*\"?(\d+)\s*([pn])s", text)
    assert match
    return float(match[1]) * {"p": 1.0, "n": 1000.0}[match[2]]
