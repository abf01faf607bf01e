"""Registers in a mapped netlist: cut into stages of so many levels of gates, and what that costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from codesign.cost.netlist import Netlist


@dataclass(frozen=True)
class Pipeline:
    """A netlist with a register at its outputs and wherever a net is read in a later stage than it is driven in."""

    netlist: Netlist
    stage: tuple[int, ...]
    """Of each net; inputs and constants are in stage 0."""
    latency: int
    """Cycles from operands to D: as many as stages."""
    register_bits: int
    area: float
    """Gates and flip-flops, in the library's unit."""
    period: float
    """Longest delay from register to register, the flip-flop's own included, in the library's unit."""


def pipeline(netlist: Netlist, depth: int) -> Pipeline:
    """Cut a netlist into stages of at most `depth` levels.

    Gates stand as early or as late as they can, whichever takes fewer registers. Raises ValueError for a depth under 1.
    """
    if depth < 1:
        raise ValueError(f"a stage of {depth} levels holds no gate")
    early = netlist.levels
    late = _late(netlist)
    stage = min(
        ([max(0, level - 1) // depth for level in levels] for levels in (early, late)),
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
        register_bits=bits,
        area=netlist.area + bits * flop.area,
        period=max(time) + flop.intrinsic + flop.resistance * netlist.library.inverter.inputs[0].capacitance,
    )


def _late(netlist: Netlist) -> list[int]:
    """The highest level each net can have; inputs stay at 0."""
    top = max(netlist.levels)
    level = [top] * netlist.nets
    for i in reversed(netlist.order):
        gate = netlist.gates[i]
        for net in gate.inputs:
            level[net] = min(level[net], level[gate.output] - 1)
    driven = {gate.output for gate in netlist.gates}
    return [level[net] if net in driven else 0 for net in range(netlist.nets)]


def _register_bits(netlist: Netlist, stage: Sequence[int]) -> int:
    """Flip-flops of a cut: each net is kept from its stage to the last that reads it; outputs are registered."""
    last = max(stage)
    until = list(stage)
    for gate in netlist.gates:
        for net in gate.inputs:
            until[net] = max(until[net], stage[gate.output])
    for net in (net for nets in netlist.outputs.values() for net in nets):
        until[net] = last + 1
    return sum(until[net] - stage[net] for net in range(2, netlist.nets))  # constants need no register
