"""Netlists of Yosys's simple gates, which need no mapping and so check RTL quickly."""

from __future__ import annotations

import json

from codesign.evidence.cost.cell_library import Cell, Library, Pin
from codesign.evidence.cost.netlist import Netlist
from codesign.evidence.cost.synth import run
from isa_model.output_files import scratch

_FUNCTIONS = {
    "$_BUF_": "A",
    "$_NOT_": "!A",
    "$_AND_": "A*B",
    "$_NAND_": "!(A*B)",
    "$_OR_": "A+B",
    "$_NOR_": "!(A+B)",
    "$_XOR_": "A^B",
    "$_XNOR_": "!(A^B)",
    "$_ANDNOT_": "A*!B",
    "$_ORNOT_": "A+!B",
    "$_MUX_": "(A*!S)+(B*S)",
}


class _Gates(Library):
    """Yosys's gates as a library in which each has area 1."""

    cells = {  # noqa: RUF012  # in place of what a Liberty file would say
        name: Cell(name, 1.0, tuple(Pin(p, 1.0) for p in "ABS" if p in function), "Y", function, 1.0, 0.0)
        for name, function in _FUNCTIONS.items()
    }


GATES = _Gates("gates", "")


def elaborate(rtlil: str) -> Netlist:
    """Return the flat netlist of simple gates of a design."""
    with scratch() as folder:
        source, out = folder / "unit.il", folder / "out.json"
        source.write_text(rtlil)
        run(
            f"read_rtlil {source}; hierarchy -top unit; proc; flatten -noscopeinfo; opt; alumacc; techmap; opt; "
            f"write_json {out}",
            folder,
        )
        return Netlist.of_json(json.loads(out.read_text())["modules"]["unit"], GATES)
