"""A flat netlist of Yosys's word-level cells, read as bit-vector terms back to wires whose values are given."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from codesign.evidence.cost.proof.smt import Bits, Script, choose, join


class NotProvable(Exception):
    """No theorem is known for a part of a unit."""


Bit = int | str
"""A net of Yosys's JSON: its number, or a constant "0", "1" or "x"."""

_BITWISE: dict[str, Callable[[Bits, Bits], Bits]] = {
    "$and": lambda a, b: a & b,
    "$or": lambda a, b: a | b,
    "$xor": lambda a, b: a ^ b,
    "$add": lambda a, b: a + b,
    "$sub": lambda a, b: a - b,
}
_COMPARISON: dict[str, Callable[[Bits, Bits, bool], Bits]] = {
    "$eq": lambda a, b, signed: a.eq(b),
    "$ne": lambda a, b, signed: ~a.eq(b),
    "$lt": lambda a, b, signed: a.less(b) if signed else a.below(b),
    "$gt": lambda a, b, signed: b.less(a) if signed else b.below(a),
    "$le": lambda a, b, signed: ~(b.less(a) if signed else b.below(a)),
    "$ge": lambda a, b, signed: ~(a.less(b) if signed else a.below(b)),
}
_REDUCTION: dict[str, Callable[[Bits], Bits]] = {
    "$reduce_or": Bits.any,
    "$reduce_bool": Bits.any,
    "$reduce_and": lambda a: (~a).eq(0),
    "$logic_not": lambda a: a.eq(0),
}


class Row(NamedTuple):
    """Words of a row of 3:2 compressors: x + y + z = sum + 2 * carries."""

    x: tuple[Bit, ...]
    y: tuple[Bit, ...]
    z: tuple[Bit, ...]
    sum: tuple[Bit, ...]
    carries: tuple[Bit, ...]


class FlatNetlist:
    """The cells of a module in Yosys's JSON, after `proc` and `flatten`."""

    def __init__(self, module: dict[str, Any]) -> None:
        self.cells: list[dict[str, Any]] = list(module["cells"].values())
        self.ports: dict[str, list[Bit]] = {name: port["bits"] for name, port in module["ports"].items()}
        self.inputs = [name for name, port in module["ports"].items() if port["direction"] == "input"]
        self.driver: dict[Bit, tuple[int, int]] = {
            bit: (i, place) for i, cell in enumerate(self.cells) for place, bit in enumerate(cell["connections"]["Y"])
        }
        self.inverted: dict[Bit, Bit] = {
            a: y
            for c in self.cells
            if c["type"] == "$not"
            for a, y in zip(c["connections"]["A"], c["connections"]["Y"], strict=False)
        }
        """Net that is the inverse of a net."""
        self.by_sum: dict[tuple[Bit, ...], Row] = {}
        self.by_carries: dict[tuple[Bit, ...], Row] = {}
        """Rows of compressors by their sum, and by their carries without the last."""
        for row in self._rows():
            self.by_sum[row.sum], self.by_carries[row.carries[:-1]] = row, row

    def _rows(self) -> Iterator[Row]:
        """Yield what looks like a row of 3:2 compressors. That it is one has to be proved (`blocks.Blocks.linear`).

        Carries are `x & y | half & z`, and sums are `half ^ z`, where half is `x ^ y`. The generator folds a constant z.
        """

        def word(cell: dict[str, Any], port: str) -> tuple[Bit, ...]:
            return tuple(cell["connections"][port])

        by_output = {word(cell, "Y"): cell for cell in self.cells}
        by_inputs = {(word(c, "A"), word(c, "B")): word(c, "Y") for c in self.cells if c["type"] == "$xor"}
        for cell in self.cells:
            both = by_output.get(word(cell, "A")) if cell["type"] == "$or" else None
            if both is None or both["type"] != "$and":
                continue
            x, y = word(both, "A"), word(both, "B")
            half, other = by_inputs.get((x, y), ()), by_output.get(word(cell, "B"))
            if half and other and other["type"] == "$and" and word(other, "A") == half:
                z = word(other, "B")
                total = by_inputs.get((half, z), ())
            else:
                z = tuple("0" if bit == "0" else "1" for bit in word(cell, "B"))
                total = tuple(h if c == "0" else self.inverted.get(h, "x") for h, c in zip(half, z, strict=False))
            if len(total) == len(half) > 0:
                yield Row(x, y, z, total, word(cell, "Y"))

    def digest(self, bits: Sequence[Bit]) -> str:
        """Return a hash of the logic of some bits: equal hashes mean equal graphs of cells over equal inputs."""
        known: dict[Bit, str] = {bit: bit for bit in "01x"}
        for name in self.inputs:
            known |= {bit: f"{name}.{i}" for i, bit in enumerate(self.ports[name])}
        cells: dict[int, str] = {}

        def of(bit: Bit) -> str:
            if bit not in known:
                i, place = self.driver[bit]
                if i not in cells:
                    cell = self.cells[i]
                    inputs = [
                        (port, [of(b) for b in wires])
                        for port, wires in sorted(cell["connections"].items())
                        if port != "Y"
                    ]
                    text = f"{cell['type']} {sorted(cell['parameters'].items())} {inputs}"
                    cells[i] = hashlib.sha256(text.encode()).hexdigest()
                known[bit] = f"{cells[i]}.{place}"
            return known[bit]

        return hashlib.sha256(" ".join(map(of, bits)).encode()).hexdigest()


class Reader:
    """Terms of a netlist's words over wires that are bound to given values. Whatever else is not driven is a free input.

    `total` reads adders not gate by gate, but as sums of words that stay opaque, `leaves`. A row of 3:2 compressors
    has free carries, and its sum is x + y + z - 2 * carries. `Blocks.linear` proves what this rests on. If `lifted`, nothing is
    free but the inputs of the unit, so that what refutes a claim is operands of the unit.
    """

    def __init__(self, netlist: FlatNetlist, script: Script, lifted: bool = False) -> None:
        self.netlist, self.script, self.lifted = netlist, script, lifted
        self.bound: dict[Bit, tuple[Bits, int]] = {}
        self.values: dict[int, Bits] = {}
        self.carries: dict[Row, Bits] = {}
        """Values of the carries of the rows of compressors that were met."""
        self.leaves: dict[tuple[Bit, ...], list[Bits]] = {}
        """Opaque words, one value for each use."""

    def bind(self, bits: Sequence[Bit]) -> Bits:
        """Make a wire a free input, apart from bits that are constant or bound already, and return its value."""
        if self.lifted:
            return self.word(bits)
        fresh = list(dict.fromkeys(b for b in bits if not isinstance(b, str) and b not in self.bound))
        if fresh:
            value = self.script.input(len(fresh))
            self.bound |= {bit: (value, i) for i, bit in enumerate(fresh)}
        return self.word(bits)

    def word(self, bits: Sequence[Bit]) -> Bits:
        """Return the value of a wire; a wire of no bits is a 0."""
        if not bits:
            return self.script.const(0, 1)
        parts: list[Bits] = []
        i = 0
        while i < len(bits):
            source, place = self._source(bits[i])
            j = i + 1
            while j < len(bits) and source is not None and self._source(bits[j]) == (source, place + j - i):
                j += 1
            if source is None:
                while j < len(bits) and bits[j] in ("0", "1"):
                    j += 1
                parts.append(self.script.const(sum((b == "1") << k for k, b in enumerate(bits[i:j])), j - i))
            else:
                parts.append(source[place : place + j - i])
            i = j
        return join(parts)

    def total(self, bits: Sequence[Bit]) -> Bits:
        """Return the sum that a carry-propagate adder leaves in a word."""
        i, _ = self.netlist.driver[bits[-1]]
        cell = self.netlist.cells[i]
        a, b = (cell["connections"][port] for port in "AB")
        if cell["type"] != "$add" or a[0] != "1" or list(bits) != cell["connections"]["Y"][1 : len(bits) + 1]:
            raise NotProvable("a total that no carry-propagate adder forms")
        return self._addend(a[1:]) + self._addend(b[1:]) + self._leaf(b[:1]).extended(len(bits))

    def _addend(self, bits: Sequence[Bit]) -> Bits:
        """Return a word that is added: carries moved up by one over a bit, the sum of a row of compressors, or a leaf."""
        if row := self.netlist.by_carries.get(tuple(bits[1:])):
            return (self._carries(row) << 1) + self._leaf(bits[:1]).extended(len(bits))
        if row := self.netlist.by_sum.get(tuple(bits)):
            return self._addend(row.x) + self._addend(row.y) + self._addend(row.z) - (self._carries(row) << 1)
        return self._leaf(bits)

    def _carries(self, row: Row) -> Bits:
        if row not in self.carries:
            self.carries[row] = self.script.input(len(row.carries))
        return self.carries[row]

    def _leaf(self, bits: Sequence[Bit]) -> Bits:
        constant = all(isinstance(bit, str) for bit in bits)
        value = self.word(bits) if constant else self.script.input(len(bits))
        self.leaves.setdefault(tuple(bits), []).append(value)
        return value

    def _source(self, bit: Bit) -> tuple[Bits | None, int]:
        if bit in ("0", "1"):
            return None, 0
        if bit not in self.bound:
            inverse = self.netlist.inverted.get(bit)
            if inverse in self.bound:  # a flag and its inverse are one wire with two names
                value, place = self.bound[inverse]
                self.bound[bit] = (~value[place], 0)
            elif bit in self.netlist.driver:
                i, place = self.netlist.driver[bit]
                return self._cell(i), place
            else:
                self.bound[bit] = (self.script.input(1), 0)
        return self.bound[bit]

    def _cell(self, i: int) -> Bits:
        if i not in self.values:
            self.values[i] = self._gates(i)
        return self.values[i]

    def _gates(self, i: int) -> Bits:
        cell = self.netlist.cells[i]
        kind, wires, parameters = cell["type"], cell["connections"], cell["parameters"]
        width = len(wires["Y"])
        signed = int(parameters.get("A_SIGNED", "0"), 2) == 1
        if kind == "$mux":
            return choose(self.word(wires["S"]), self.word(wires["B"]), self.word(wires["A"]))
        assert wires["A"] or kind != "$reduce_and"
        a = self.word(wires["A"])
        if kind in _BITWISE:
            return _BITWISE[kind](a.extended(width, signed), self.word(wires["B"]).extended(width, signed))
        if kind == "$not":
            return ~a.extended(width, signed)
        if kind == "$neg":
            return -a.extended(width, signed)
        if kind in _COMPARISON:
            b = self.word(wires["B"])
            size = max(a.width, b.width)
            return _COMPARISON[kind](a.extended(size, signed), b.extended(size, signed), signed).extended(width)
        if kind in _REDUCTION:
            return _REDUCTION[kind](a).extended(width)
        raise NotProvable(f"a cell of type {kind}")
