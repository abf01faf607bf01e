"""Export of a unit for a hardware team: Verilog, mapped netlist, test bench with vectors, README."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

from codesign.evidence.cost.cell_library import Library
from codesign.evidence.cost.proof.proof_record import ProofRecord
from codesign.evidence.cost.records import DEPTH, design_sha256, find
from codesign.evidence.cost.rtl import stalled
from codesign.evidence.cost.rtl.ports import check, ports, results, shared_uses
from codesign.evidence.cost.unit_vectors import UnitVectors, shipped, widths
from codesign.figures.escape import literal
from codesign.figures.markdown import table
from isa_model.diagnostics import InputError
from isa_model.instruction import Instruction
from isa_model.output_files import check_folder, write_folder
from isa_model.printable import visible

KIND = "a unit's RTL"
VECTORS = "vectors.hex"
FAULTS = 100
"""Nets held at 0 and at 1, to see whether the vectors notice."""
FILELISTS = {
    "unit": ("unit.v", "testbench.v"),
    "mapped": ("unit_mapped.v", "cells.v", "testbench.v"),
    "pipelined": ("unit_pipelined.v", "cells.v", "testbench.v"),
    "stalls": ("unit.v", "pipeline.v", "testbench_stalls.v"),
}
"""Files of each simulation."""


def export(
    spec: Instruction, folder: Path, library: Library, proof: ProofRecord | None = None, base: Instruction | None = None
) -> tuple[dict[str, str], ProofRecord | None]:
    """Write the files of an instruction's unit into `folder`, replacing older ones, and return its figures as text by name.

    With the proof of its RTL, the mapped netlist is proved, too, and the whole is written and returned. With the base that the
    instruction changes, area and longest path are also given over the base's.

    Needs the extra `cost`. Raises InputError if the generator does not support the instruction or the folder cannot be
    written, RuntimeError if the mapped netlist differs from the model.
    """
    check(spec)
    check_folder(folder, KIND)
    from codesign.evidence.cost import synth, verify
    from codesign.evidence.cost.pipeline import pipeline, verilog
    from codesign.evidence.cost.rtl.unit import unit

    rtlil = unit(spec)
    mapped = synth.synthesise(rtlil, library)
    compared = verify.prove(mapped.netlist, spec)
    if compared.mismatches:
        raise RuntimeError(f"{spec.name}: the mapped netlist differs from the model: {compared.first}")
    cells = cell_models(mapped.netlist.library, {gate.cell for gate in mapped.netlist.gates})
    if proof:
        from codesign.evidence.cost.proof.unit_proof import prove_mapped

        proof = proof.model_copy(update={"mapped": prove_mapped(rtlil, mapped.verilog + cells)})
    staged = pipeline(mapped.netlist, DEPTH)  # whole ports enter at once
    vectors = shipped(spec)
    faults, shown = verify.faults_shown(mapped.netlist, vectors, FAULTS)
    nand2, fo4 = library.nand2.area, library.fo4
    area, delay = mapped.netlist.area / nand2, mapped.netlist.delay / fo4
    over_area = over_delay = ""
    if base and (size := _size(base, library)):
        over_area = f", per product {area / spec.span / (size[0] / base.span):.3g} times the base's"
        over_delay = f", {delay / size[1]:.3g} times the base's"
    figures = {
        "area": f"{area:.0f} NAND2{over_area} ({library.name} library, unsized)",
        "longest path": f"{delay:.0f} FO4{over_delay}, {max(mapped.netlist.levels)} gates",
        f"with registers every {DEPTH} gates": f"{staged.latency} cycle{'s' * (staged.latency != 1)} of "
        f"{staged.period / fo4:.0f} FO4, {staged.register_bits} register bits, {staged.area / nand2:.0f} NAND2",
        **_sharing(spec),
        "equivalence": f"{compared.vectors} vectors, {compared.mismatches} mismatches of the mapped netlist with the model",
        "planted faults": f"{shown} of {faults} nets held at 0 or 1 are noticed by the {sum(map(len, vectors))} vectors here; "
        "the others are in redundant logic, or need other operands",
    }
    head = header(spec, rtlil)
    files = {
        "unit.v": head + synth.readable(rtlil),
        "unit_mapped.v": head + mapped.verilog,
        "unit_pipelined.v": head + verilog(staged),
        "cells.v": cells,
        "pipeline.v": head + stalled.wrapper(spec, staged.latency),
        "testbench.v": testbench(spec, sum(map(len, vectors)), staged.entry, staged.latency),
        "testbench_stalls.v": stalled.testbench(spec, sum(map(len, vectors)), staged.latency, VECTORS),
        **{f"{name}.f": "".join(f"{file}\n" for file in files) for name, files in FILELISTS.items()},
        "README.md": _readme(spec, figures),
        VECTORS: "".join(line for batch in vectors for line in lines(spec, batch)),
    }
    if proof:
        files["proof.json"] = proof.model_dump_json(indent=1) + "\n"
    write_folder(folder, files, KIND)
    return figures, proof


def _size(base: Instruction, library: Library) -> tuple[float, float] | None:
    """Return the area of a unit in NAND2 and its longest path in FO4: by its record in a library, or synthesised now.

    It is None if the generator does not support the instruction.
    """
    from codesign.evidence.cost import synth
    from codesign.evidence.cost.rtl.unit import unit

    record = find(base, library.name)
    # A record with a shared multiplier counts a part of it, where the unit exported here has all of it.
    if record and record.shared is None and record.library_sha256 == library.sha256:
        return record.area, record.delay_fo4
    try:
        check(base)
    except InputError:
        return None
    netlist = synth.synthesise(unit(base), library).netlist
    return netlist.area / library.nand2.area, netlist.delay / library.fo4


def _sharing(spec: Instruction) -> dict[str, str]:
    """Return a note on a multiplier of scales, which cost figures share between units and this unit has in itself."""
    uses = shared_uses(spec)
    if uses == 1:
        return {}
    return {
        "product of scales": f"formed here at every step; cost figures count one multiplier for {uses} steps of units"
    }


def header(spec: Instruction, rtlil: str) -> str:
    """Return the comment at the head of a Verilog file: the unit, its digests, and how codes are packed."""
    lines = [
        f"Dot-product unit of {spec.name}: one element of D, one step of {spec.span} products and C.",
        *([spec.description] if spec.description else []),
        f"Design sha256 {design_sha256(spec)}",
        f"RTLIL sha256 {hashlib.sha256(rtlil.encode()).hexdigest()}",
        f"Generated by codesign with Amaranth {version('amaranth')} and pyosys {version('pyosys')}.",
        "Codes are packed: element i of a vector starts at bit i times the bits of an element.",
        *(f"  {name}: {bits // widths(spec)[name]} x {widths(spec)[name]} bits" for name, bits in ports(spec).items()),
        *(
            ["With `first` a step starts from c, else from running and rest as the step before left them."]
            * bool(spec.remainder)
        ),
    ]
    head = "".join(f"// {visible(line)}\n" for line in lines)
    return f"{head}/* verilator lint_off DECLFILENAME */  // one file holds a module per block\n\n"


def lines(spec: Instruction, batch: UnitVectors) -> list[str]:
    """Return one hexadecimal word per vector: D and both registers, if there are two, on top, the first input lowest."""
    import numpy as np

    bits = widths(spec)
    lines = []
    for i in range(len(batch)):
        word, at = 0, 0
        for name in ports(spec):
            for code in batch.operands[name][i].tolist():
                word |= code << at
                at += bits[name]
        for size, code in zip(results(spec).values(), np.ravel(batch.d[i]).tolist(), strict=True):
            word |= code << at
            at += size
        lines.append(f"{word:0{-(-at // 4)}x}\n")
    return lines


def testbench(spec: Instruction, count: int, entry: Mapping[str, int], latency: int) -> str:
    """Return the test bench of `count` vectors; `entry` and `latency` are those of the pipeline of gates (`Pipeline`)."""
    inputs = ports(spec)
    size = sum(results(spec).values())
    total = sum(inputs.values()) + size
    connections, words, fetches, at = [], [], [], 0
    for name, bits in inputs.items():
        first = f"{entry[name]} * STAGED"
        connections.append(f".{name}({name}_word[{at + bits - 1}:{at}])")
        words.append(f"  reg [{total - 1}:0] {name}_word;")
        fetches.append(f"      if (i >= {first} && i - {first} < COUNT) {name}_word = vectors[i - {first}];")
        at += bits
    entries = ", ".join(f"{name} in cycle {entry[name]}" for name in inputs)
    newline = "\n"
    return f"""// Every vector of {VECTORS} through the unit; ends with PASS or FAIL.
// With PIPELINED defined the unit has a clock and takes a vector per cycle. Inputs enter where they are read ({entries}), and
// D follows {latency} cycles after cycle 0.
`timescale 1ns / 1ps
module testbench;
  localparam integer COUNT = {count};
  reg [{total - 1}:0] vectors [0:COUNT - 1];
{newline.join(words)}
  wire [{size - 1}:0] d;
  integer i, wrong;
`ifdef PIPELINED
  localparam integer STAGED = 1, LATENCY = {latency};
  reg clk = 0;
  unit dut (.clk(clk), {", ".join(connections)}, {stalled.outputs(spec, "d")});
`else
  localparam integer STAGED = 0, LATENCY = 0;
  unit dut ({", ".join(connections)}, {stalled.outputs(spec, "d")});
`endif
  reg [{total - 1}:0] asked;
  initial begin
    $readmemh("{VECTORS}", vectors);
    wrong = 0;
    for (i = 0; i < COUNT + LATENCY; i = i + 1) begin
{newline.join(fetches)}
      #5;
      if (i >= LATENCY) begin
        asked = vectors[i - LATENCY];
        if (d !== asked[{total - 1}:{at}]) begin
          wrong = wrong + 1;
          if (wrong < 10) $display("vector %0d: d = %h, expected %h", i - LATENCY, d, asked[{total - 1}:{at}]);
        end
      end
`ifdef PIPELINED
      clk = 1; #5 clk = 0;
`endif
    end
    if (wrong == 0) $display("PASS: {count} vectors");
    else $display("FAIL: %0d of {count} vectors", wrong);
    $finish;
  end
endmodule
"""


def cell_models(library: Library, used: set[str]) -> str:
    """Return Verilog models of the cells of a netlist, from their Liberty functions."""
    modules = []
    for name in sorted(used):
        cell = library.cells[name]
        inputs = ", ".join(f"input {pin.name}" for pin in cell.inputs)
        function = cell.python.replace('p["', "").replace('"]', "")
        modules.append(
            f"module {name} ({inputs}, output {cell.output}); assign {cell.output} = {function}; endmodule\n"
        )
    return "".join(modules)


def _readme(spec: Instruction, figures: dict[str, str]) -> str:
    return f"""# Dot-product unit of {literal(spec.name)}

Generated from the instruction's spec (design sha256 `{design_sha256(spec)}`); one element of D.

{table(" | ", figures.items())}

| file | is |
|---|---|
| `unit.v` | the design, a module per block; `verilator --lint-only -Wall` accepts it and `pipeline.v` |
| `pipeline.v` | registers around it for synthesis to retime, valid and stall; parameter LATENCY; assertions with `ASSERT` |
| `unit_mapped.v`, `cells.v` | the netlist after synthesis, and models of its cells |
| `unit_pipelined.v` | the netlist with registers every {DEPTH} gates; C and scales enter where they are read |
| `{VECTORS}` | D by the bit-exact model on top, then the inputs, the first port lowest |
| `testbench.v`, `testbench_stalls.v` | run the vectors, the second through `pipeline.v` with random stalls |
| `*.f` | the files of each simulation |

The vectors cross zero, cancelled, tiny, infinite and NaN sums with zero, infinite, NaN and overflowing pairs of scales and with
special values of C; the others are random and adversarial operands. With Icarus Verilog, in this folder:

```sh
iverilog -g2005 -o run -c unit.f && vvp run
iverilog -g2005 -o run -c mapped.f && vvp run
iverilog -g2005 -o run -DPIPELINED -c pipelined.f && vvp run
iverilog -g2005 -o run -DASSERT -c stalls.f && vvp run
```

Areas are of gates alone: no wires, no placement, no sizing.
"""
