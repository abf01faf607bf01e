"""Pipelining of mapped netlists: stages of a given depth, and the cost of their registers.

An input enters in the stage that reads it first: C and scales are fetched when they are needed, and are not carried along
with the operands.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from codesign.evidence.cost.netlist import Netlist


@dataclass(frozen=True)
class Pipeline:
    """A netlist with registers at its outputs and on every net that a later stage reads."""

    netlist: Netlist
    stage: tuple[int, ...]
    """Stage of each net; that of an input is the one it enters in."""
    latency: int
    """Latency from operands to D in cycles, which is the number of stages."""
    loop: int
    """Fewest cycles from C to D, or from both registers to both, which is how long an accumulator waits for its next step."""
    register_bits: int
    area: float
    """Area of gates and flip-flops, in the library's unit."""
    period: float
    """Longest delay between registers, the flip-flop's included, in the library's unit."""

    @property
    def entry(self) -> dict[str, int]:
        """Cycle in which each input port enters."""
        return {port: min(self.stage[net] for net in nets) for port, nets in self.netlist.inputs.items()}


def pipeline(netlist: Netlist, depth: int, elements: Mapping[str, int] | None = None) -> Pipeline:
    """Cut a netlist into stages of at most `depth` levels.

    Gates are placed as early or as late as possible, whichever needs fewer registers. Each element of an input port enters
    by itself; `elements` holds their bits by port, by default whole ports. Raises ValueError if `depth` is under 1.
    """
    if depth < 1:
        raise ValueError(f"a stage of {depth} levels holds no gate")
    early = netlist.levels
    late = _late(netlist)
    stage = min(
        (
            _entering(netlist, [max(0, level - 1) // depth for level in levels], elements or {})
            for levels in (early, late)
        ),
        key=lambda stages: _register_bits(netlist, stages),
    )
    stages = max(stage) + 1
    bits = _register_bits(netlist, stage)
    flop = netlist.library.flip_flop
    time = [0.0] * netlist.nets
    for i in netlist.order:
        gate = netlist.gates[i]
        here = stage[gate.output]
        start = max((time[net] if stage[net] == here else 0.0 for net in gate.inputs), default=0.0)
        time[gate.output] = start + netlist.delay_of(gate)
    return Pipeline(
        netlist,
        tuple(stage),
        latency=stages,
        loop=-(-_loop(netlist) // depth),
        register_bits=bits,
        area=netlist.area + bits * flop.area,
        period=max(time) + flop.intrinsic + flop.resistance * netlist.library.inverter.inputs[0].capacitance,
    )


def _loop(netlist: Netlist) -> int:
    """Return the gates on the longest path from a running value to the next."""
    if "running" in netlist.inputs:
        return netlist.levels_from("running", "rest", to=("running_out", "rest_out"))
    return netlist.levels_from("c")


def verilog(cut: Pipeline) -> str:
    """Return the Verilog module `unit` with clock `clk`; D follows operands that enter in cycle 0 after `latency` edges."""
    netlist, stage = cut.netlist, cut.stage
    name = {0: "1'b0", 1: "1'b1"}
    for port, nets in netlist.inputs.items():
        name |= {net: f"{port}[{i}]" for i, net in enumerate(nets)}
    for gate in netlist.gates:
        name[gate.output] = f"n{gate.output}"

    def at(net: int, when: int) -> str:
        """Return the name of a net's value in a stage: the net itself, or one of its registers."""
        return name[net] if net < 2 or when == stage[net] else f"r{net}_{when - stage[net]}"

    ports = {
        **{p: ("input", n) for p, n in sorted(netlist.inputs.items())},
        **{p: ("output", n) for p, n in sorted(netlist.outputs.items())},
    }
    lines = [f"module unit (input clk, {', '.join(f'{kind} [{len(n) - 1}:0] {p}' for p, (kind, n) in ports.items())});"]
    lines += [f"  wire n{gate.output};" for gate in netlist.gates]
    copies = [
        (net, k)
        for net, last in enumerate(last_reads(netlist, stage))
        for k in range(1, last - stage[net] + 1)
        if net > 1
    ]
    lines += [f"  reg r{net}_{k};" for net, k in copies]
    for i, gate in enumerate(netlist.gates):
        cell, here = netlist.library.cells[gate.cell], stage[gate.output]
        pins = [f".{pin.name}({at(net, here)})" for pin, net in zip(cell.inputs, gate.inputs, strict=True)]
        lines.append(f"  {cell.name} g{i} ({', '.join(pins)}, .{cell.output}(n{gate.output}));")
    lines.append("  always @(posedge clk) begin")
    lines += [f"    r{net}_{k} <= {at(net, stage[net] + k - 1)};" for net, k in copies]
    lines.append("  end")
    for port, nets in netlist.outputs.items():
        lines += [f"  assign {port}[{i}] = {at(net, cut.latency)};" for i, net in enumerate(nets)]
    return "\n".join([*lines, "endmodule", ""])


def _entering(netlist: Netlist, stage: list[int], elements: Mapping[str, int]) -> list[int]:
    """Return the stages with each element of an input in the first stage that reads it."""
    last = max(stage)
    first = [last] * netlist.nets
    for gate in netlist.gates:
        for net in gate.inputs:
            first[net] = min(first[net], stage[gate.output])
    for port, nets in netlist.inputs.items():
        size = elements.get(port, len(nets))
        for start in range(0, len(nets), size):
            element = nets[start : start + size]
            enters = min(first[net] for net in element)
            for net in element:
                stage[net] = enters
    return stage


def _late(netlist: Netlist) -> list[int]:
    """Return the highest possible level of each net; inputs are at 0."""
    top = max(netlist.levels)
    level = [top] * netlist.nets
    for i in reversed(netlist.order):
        gate = netlist.gates[i]
        for net in gate.inputs:
            level[net] = min(level[net], level[gate.output] - 1)
    driven = {gate.output for gate in netlist.gates}
    return [level[net] if net in driven else 0 for net in range(netlist.nets)]


def _register_bits(netlist: Netlist, stage: Sequence[int]) -> int:
    """Return the number of flip-flops: a net is registered from its stage to the last one that reads it."""
    until = last_reads(netlist, stage)
    return sum(until[net] - stage[net] for net in range(2, netlist.nets))  # constants need no register


def last_reads(netlist: Netlist, stage: Sequence[int]) -> list[int]:
    """Return the last stage that reads each net; outputs are read after the last stage."""
    until = list(stage)
    for gate in netlist.gates:
        for net in gate.inputs:
            until[net] = max(until[net], stage[gate.output])
    for net in (net for nets in netlist.outputs.values() for net in nets):
        until[net] = max(stage) + 1
    return until
