"""Mapped netlists: bit-parallel simulation, area and timing.

A net holds one bit per vector, packed into 64-bit words. One numpy operation evaluates all gates of a cell on one level for
thousands of vectors.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, field
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from typing import TYPE_CHECKING, Any

from codesign.evidence.cost.cell_library import Cell, Library

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Words = NDArray[np.uint64]


@dataclass(frozen=True)
class Gate:
    """An instance of a cell, with the nets of its inputs in the cell's order."""

    cell: str
    inputs: tuple[int, ...]
    output: int


@dataclass
class Netlist:
    """Gates and nets of a design. Nets 0 and 1 are the constants; ports are lists of nets, least significant bit first."""

    library: Library
    gates: list[Gate]
    inputs: dict[str, list[int]]
    outputs: dict[str, list[int]]
    nets: int
    _code: dict[str, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def of_json(cls, module: dict[str, Any], library: Library) -> Netlist:
        """Return the netlist of a module in the output of Yosys's `write_json`."""
        number: dict[Any, int] = {"0": 0, "1": 1, "x": 0}

        def net(bit: Any) -> int:
            return number.setdefault(bit, len(number) - 1)

        gates = []
        for instance in module["cells"].values():
            cell = library.cells[instance["type"]]
            wires = instance["connections"]
            gates.append(Gate(cell.name, tuple(net(wires[p.name][0]) for p in cell.inputs), net(wires[cell.output][0])))
        ports = {"input": {}, "output": {}}  # type: dict[str, dict[str, list[int]]]
        for name, port in module["ports"].items():
            ports[port["direction"]][name] = [net(bit) for bit in port["bits"]]
        return cls(library, gates, ports["input"], ports["output"], len(number) - 1)

    def feeding(self, reader: Netlist, port: str) -> Netlist:
        """Return one netlist of this and `reader`, in which this one's only output drives the reader's input `port`."""
        (mine,) = self.outputs.values()
        number = dict(zip(reader.inputs[port], mine, strict=True)) | {0: 0, 1: 1}

        def net(old: int) -> int:
            return number.setdefault(old, self.nets + len(number) - 2 - len(mine))

        gates = [Gate(g.cell, tuple(map(net, g.inputs)), net(g.output)) for g in reader.gates]
        inputs = {name: [net(x) for x in nets] for name, nets in reader.inputs.items() if name != port}
        outputs = {name: [net(x) for x in nets] for name, nets in reader.outputs.items()}
        return Netlist(
            self.library, [*self.gates, *gates], self.inputs | inputs, outputs, self.nets + len(number) - 2 - len(mine)
        )

    # -- structure -------------------------------------------------------------------------------------------------

    @cached_property
    def order(self) -> list[int]:
        """Indices of the gates in topological order."""
        driver = {gate.output: i for i, gate in enumerate(self.gates)}
        graph = {i: [driver[net] for net in gate.inputs if net in driver] for i, gate in enumerate(self.gates)}
        try:
            return list(TopologicalSorter(graph).static_order())
        except CycleError:
            raise ValueError("the netlist has a combinational loop") from None

    @cached_property
    def levels(self) -> list[int]:
        """Level of each net: 0 for inputs and constants, else one more than the highest level of its gate's inputs."""
        level = [0] * self.nets
        for i in self.order:
            gate = self.gates[i]
            level[gate.output] = 1 + max((level[net] for net in gate.inputs), default=0)
        return level

    def levels_from(self, *ports: str, to: tuple[str, ...] = ()) -> int:
        """Return the number of gates on the longest path from input ports to outputs, all by default; 0 without such ports."""
        level = dict.fromkeys((net for port in ports for net in self.inputs.get(port, ())), 0)
        for i in self.order:
            gate = self.gates[i]
            reached = [level[net] for net in gate.inputs if net in level]
            if reached:
                level[gate.output] = 1 + max(reached)
        reached_by = [nets for name, nets in self.outputs.items() if not to or name in to]
        return max((level.get(net, 0) for nets in reached_by for net in nets), default=0)

    @cached_property
    def batches(self) -> list[tuple[str, Any, Any]]:
        """Gates by level and cell: the cell, the input nets (inputs, gates) and the output nets (gates)."""
        import numpy as np

        groups: dict[tuple[int, str], list[Gate]] = defaultdict(list)
        for gate in self.gates:
            groups[self.levels[gate.output], gate.cell].append(gate)
        return [
            (cell, np.array([g.inputs for g in gates]).T, np.array([g.output for g in gates]))
            for (_, cell), gates in sorted(groups.items())
        ]

    @property
    def area(self) -> float:
        """Area of the gates, in the library's unit."""
        return math.fsum(self.library.cells[gate.cell].area for gate in self.gates)

    @cached_property
    def loads(self) -> list[float]:
        """Capacitance driven by each net, in the library's unit."""
        load = [0.0] * self.nets
        for gate in self.gates:
            for net, pin in zip(gate.inputs, self.library.cells[gate.cell].inputs, strict=True):
                load[net] += pin.capacitance
        return load

    @cached_property
    def arrivals(self) -> list[float]:
        """Arrival time of each net after the inputs, in the library's unit."""
        time = [0.0] * self.nets
        for i in self.order:
            gate = self.gates[i]
            start = max((time[net] for net in gate.inputs), default=0.0)
            time[gate.output] = start + self.delay_of(gate)
        return time

    def delay_of(self, gate: Gate) -> float:
        """Return the delay of a gate. A load beyond four inverters is driven through a chain of inverters with fanout 4.

        The netlist is neither buffered nor sized, so a net with a hundred readers would decide the longest path otherwise.
        """
        cell, load = self.library.cells[gate.cell], self.loads[gate.output]
        inverter = self.library.inverter
        direct = cell.intrinsic + cell.resistance * load
        four = 4 * inverter.inputs[0].capacitance
        if load <= four:
            return direct
        return min(direct, cell.intrinsic + cell.resistance * four + self.library.fo4 * math.log(load / four, 4))

    @property
    def delay(self) -> float:
        """Delay of the longest path, in the library's unit."""
        return max(self.arrivals)

    # -- simulation ------------------------------------------------------------------------------------------------

    def evaluate(self, cell: str, inputs: Any) -> Any:
        """Return the output of a cell for packed bits of its inputs, in the cell's order."""
        code = self._code.get(cell)
        kind: Cell = self.library.cells[cell]
        if code is None:
            code = self._code[cell] = compile(kind.python, cell, "eval")
        return eval(code, {"p": {pin.name: inputs[i] for i, pin in enumerate(kind.inputs)}})

    def packed(self, operands: dict[str, Any]) -> dict[str, Words]:
        """Pack the codes (vectors, elements) of each input."""
        return {name: pack(operands[name], len(nets) // operands[name].shape[1]) for name, nets in self.inputs.items()}

    def start(self, stimulus: dict[str, Any]) -> Words:
        """Return nets (nets, words) with constants and inputs set. `stimulus` holds packed bits (bits, words) by port."""
        import numpy as np

        words = next(iter(stimulus.values())).shape[1]
        state = np.zeros((self.nets, words), np.uint64)
        state[1] = ~np.uint64(0)
        for name, nets in self.inputs.items():
            state[nets] = stimulus[name]
        return state

    def settle(self, state: Words, stuck: dict[int, int] | None = None) -> Words:
        """Evaluate every gate, in place. `stuck` maps nets to the value they are held at, as faults."""
        import numpy as np

        held = {net: ~np.uint64(0) if value else np.uint64(0) for net, value in (stuck or {}).items()}
        for net, value in held.items():
            state[net] = value
        for cell, inputs, outputs in self.batches:
            state[outputs] = self.evaluate(cell, state[inputs])
            for net, value in held.items():
                state[net] = value
        return state

    def run(self, stimulus: dict[str, Any], stuck: dict[int, int] | None = None) -> dict[str, Words]:
        """Return the outputs as packed bits (bits, words)."""
        state = self.settle(self.start(stimulus), stuck)
        return {name: state[nets] for name, nets in self.outputs.items()}


def pack(codes: Any, bits: int) -> Words:
    """Pack codes (vectors, elements) into bits (elements * bits, words). Element i starts at bit i * bits."""
    import numpy as np

    codes = np.ascontiguousarray(codes).astype(np.uint64)
    vectors, elements = codes.shape
    planes = (codes[:, :, None] >> np.arange(bits, dtype=np.uint64)) & np.uint64(1)
    planes = planes.reshape(vectors, elements * bits).T.astype(np.uint8)
    packed = np.packbits(np.pad(planes, ((0, 0), (0, -vectors % 64))), axis=1, bitorder="little")
    return np.ascontiguousarray(packed).view("<u8").astype(np.uint64)


def unpack(words: Words, vectors: int) -> NDArray[np.uint64]:
    """Return the codes (vectors,) of packed bits (bits, words)."""
    import numpy as np

    planes = np.unpackbits(np.ascontiguousarray(words.astype("<u8")).view(np.uint8), axis=1, bitorder="little")
    weights = np.uint64(1) << np.arange(len(words), dtype=np.uint64)
    result: NDArray[np.uint64] = (planes[:, :vectors].astype(np.uint64) * weights[:, None]).sum(axis=0, dtype=np.uint64)
    return result
