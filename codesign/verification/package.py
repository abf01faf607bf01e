"""A package for verification teams: golden model, scoreboard and coverage in C, a SystemVerilog and a cocotb bench, vectors."""

from __future__ import annotations

from pathlib import Path

from codesign.evidence.cost.export import lines
from codesign.evidence.cost.rtl.ports import check as check_hardware
from codesign.evidence.cost.rtl.ports import draws, ports, results
from codesign.evidence.cost.unit_vectors import UnitVectors, one_step, shipped, widths
from codesign.figures.escape import literal
from codesign.verification.variations import variations
from isa_model.c_golden.source import braces, c_string, check, header, source, variations_table
from isa_model.diagnostics import InputError
from isa_model.formats import Format
from isa_model.instruction import Instruction
from isa_model.output_files import check_folder, write_folder
from isa_model.printable import visible

KIND = "a verification package"
HERE = Path(__file__).parent
VECTORS = "vectors.hex"


def write(spec: Instruction, folder: Path, count: int = 4000) -> str:
    """Write the package of an instruction's unit, one step of it, with at least `count` vectors, into `folder`.

    Returns a sentence on the design under test: `unit.v`, or why there is none. Raises InputError if the folder cannot be
    written, for an instruction that the C model refuses, and for one without vectors.
    """
    check_folder(folder, KIND)
    step = one_step(spec.dense)
    files = contents(step, count)
    unit = _unit(step)
    if unit.startswith("//"):
        files["unit.v"] = unit
        said = "unit.v is the design under test; replace it with your own"
    else:
        said = f"there is no unit.v: {unit}"
    files["README.md"] = _readme(step, said)
    write_folder(folder, files, KIND)
    return said


def contents(step: Instruction, count: int) -> dict[str, str]:
    """Return the files of a package by name, without the design under test."""
    check(step)
    vectors, bins = _vectors(step, count), _bins(step)
    others = variations(step)
    bits, inputs, outputs = widths(step), ports(step), results(step)
    scales = [name for name in inputs if name.startswith("scale_")]
    operand = {"a": "a", "b": "b", "c": "c", "random": "r", **dict.fromkeys(scales, "s")}
    operand |= {"running": "v", "rest": "e", "first": "f"}
    rows = [f"{{'{operand[name]}', {inputs[name] // bits[name]}, {bits[name]}}}" for name in inputs]
    stages = [
        [
            f"{name}: {r.format.name}" + (f", rounding {i + 1}" if len(s.result) > 1 else "")
            for i, r in enumerate(s.result)
        ]
        for name, s in step.stages.items()
    ]
    side = {x: step.scale and getattr(step.scale, x) for x in "ab"}
    named = {"a": step.a, "b": step.b, "c": step.c_format} | {
        f"scale_{x}": y.format if y else None for x, y in side.items()
    }
    arrays = {
        "Port ports[]": [*rows, "{0, 0, 0}"],
        "Output outputs[]": [f"{{{c_string(name)}, {bits}}}" for name, bits in outputs.items()],
        **{f"SpecialName names_{name}[]": _names(fmt) for name, fmt in named.items()},
        "char *const register_points[STAGES][MOST_REGISTERS]": [braces(map(c_string, x or [""])) for x in stages],
        "Bin bins[]": [f"{{{c_string(name)}, {int(reachable)}}}" for name, reachable in bins] or ["{0, 0}"],
        "Variation variations[]": [f"{{{c_string(x.text)}, {x.stage}}}" for x in others],
    }
    text = [
        f"/* Scoreboard of {visible(step.name)}: the golden model, what it is compared with, and how. */\n",
        '#include "golden.c"\n#include "scoreboard.h"\n',
        "#include <stdarg.h>\n#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\n\n",
        f"enum {{ OUTPUTS = {len(outputs)}, BINS = {len(bins)}, VARIATIONS = {len(others)} }};\n",
        f"enum {{ scaled_a = {int(bool(side['a']))}, scaled_b = {int(bool(side['b']))} }};\n",
        variations_table([x.spec for x in others]),
        *(f"static const {kind} = {braces(parts, chr(10))};\n" for kind, parts in arrays.items()),
        "\n",
        (HERE / "coverage.c").read_text(),
        "\n",
        (HERE / "scoreboard.c").read_text(),
    ]
    return {
        "golden.h": header(step, [x.spec for x in others]),
        "golden.c": source(step),
        "scoreboard.h": (HERE / "scoreboard.h").read_text(),
        "scoreboard.c": "".join(text),
        "scoreboard.sv": _scoreboard(inputs, outputs),
        "testbench.sv": _testbench(inputs, outputs, sum(map(len, vectors))),
        "test_scoreboard.py": _cocotb(inputs, outputs),
        "Makefile": (HERE / "Makefile").read_text(),
        VECTORS: "".join(line for batch in vectors for line in lines(step, batch)),
    }


def _unit(step: Instruction) -> str:
    """Return the Verilog of the unit, or a sentence on why there is none."""
    try:
        check_hardware(step)
        from codesign.evidence.cost.export import header as comment
        from codesign.evidence.cost.rtl.unit import unit
        from codesign.evidence.cost.synth import readable

        rtlil = unit(step)
        return comment(step, rtlil) + readable(rtlil)
    except InputError as error:
        return error.problems[0].message
    except ModuleNotFoundError as error:
        return f"its generator needs {error.name} (pip install 'codesign[cost]')"


def _has_goals(step: Instruction) -> bool:
    """Return whether `codesign vectors` covers an instruction."""
    from isa_model.vectors.goals import without

    return not without(step)


def _vectors(step: Instruction, count: int) -> list[UnitVectors]:
    """Return vectors for every bin of coverage, and random ones; where there are no bins, those of the exported test bench."""
    import numpy as np

    from isa_model.vectors.make import covering

    if not _has_goals(step):
        return shipped(step)
    made = covering(step, count).vectors
    operands = {name: np.array([np.atleast_1d(getattr(v, name)) for v in made], "u8") for name in ports(step)}
    return [UnitVectors(operands, np.array([v.d for v in made], "u8"))]


def _bins(step: Instruction) -> list[tuple[str, bool]]:
    """Return the bins of coverage in the order of C's strcmp, each with whether operands can reach it."""
    if not _has_goals(step):
        return []
    from isa_model.vectors.goals import Goals

    found = {"\t".join(goal.bin): not goal.unreachable for goal in Goals(step).all}
    return sorted(found.items(), key=lambda row: row[0].encode())


def _names(fmt: Format | None) -> list[str]:
    """Return the rows of a C table of the special codes of a format, by name."""
    from isa_model.vectors.vector import Specials

    rows = []
    if fmt is not None:
        mask = ((1 << (fmt.bits - fmt.high_padding)) - 1) >> fmt.low_padding << fmt.low_padding
        rows = [f"{{{code:#x}u, {mask:#x}u, {c_string(name)}}}" for name, code in Specials(fmt).codes.items()]
    return [*rows, "{0, 0, 0}"]


# -- benches -----------------------------------------------------------------------------------------------------------


def _scoreboard(inputs: dict[str, int], outputs: dict[str, int]) -> str:
    declared = "\n".join(f"  input logic [{bits - 1}:0] {name}," for name, bits in inputs.items())
    taken = ",\n".join(f"  input logic [{bits - 1}:0] {_input_of(name)}" for name, bits in outputs.items())
    return f"""// The scoreboard, for any bench: operands and outputs of a unit, a vector per clock, LATENCY clocks apart.
// Every mismatch counts; the report at the end says which stage and field explain them.
package golden_pkg;
  localparam int INPUT_BITS = {sum(inputs.values())};
  localparam int OUTPUT_BITS = {sum(outputs.values())};
  import "DPI-C" function int golden_check(input bit [INPUT_BITS-1:0] operands, input bit [OUTPUT_BITS-1:0] results);
  import "DPI-C" function longint unsigned golden_expected(input int output_number);
  import "DPI-C" function int golden_check_inside(input int stage, input int block, input int term, input int exponent,
                                                  input longint unsigned magnitude);
  import "DPI-C" function int golden_report();
  import "DPI-C" function void golden_reset();
endpackage

module scoreboard #(parameter int LATENCY = 0) (
  input logic clk,
  input logic valid,
{declared}
{taken}
);
  import golden_pkg::*;
  wire [OUTPUT_BITS-1:0] results = {{{", ".join(map(_input_of, reversed(outputs)))}}};
  int mismatches = 0, unknown = 0;
  logic [INPUT_BITS:0] delayed [0:LATENCY];
  assign delayed[0] = {{valid, {", ".join(reversed(inputs))}}};
  for (genvar i = 1; i <= LATENCY; i++) begin : stage
    always_ff @(posedge clk) delayed[i] <= delayed[i-1];
  end
  always @(posedge clk) begin
    if (delayed[LATENCY][INPUT_BITS] === 1'b1) begin
      if ($isunknown(results)) unknown = unknown + 1;
      else if (golden_check(delayed[LATENCY][INPUT_BITS-1:0], results) == 0) mismatches = mismatches + 1;
    end
  end
  final begin
    if (unknown > 0) $display("%0d outputs with unknown bits", unknown);
    void'(golden_report());
  end
endmodule
"""


def _input_of(output: str) -> str:
    """Return the name of the scoreboard's input for an output of the unit."""
    return output if output == "d" else f"{output}_out"


def _places(ports: dict[str, int]) -> dict[str, tuple[int, int]]:
    """Return the highest and lowest bit of each port within a word."""
    at, found = 0, {}
    for name, bits in ports.items():
        found[name] = at + bits - 1, at
        at += bits
    return found


def _testbench(inputs: dict[str, int], outputs: dict[str, int], count: int) -> str:
    word, size = sum(inputs.values()), sum(outputs.values())
    wires = ", ".join(f".{name}(now[{high}:{low}])" for name, (high, low) in _places(inputs).items())
    parts = _places(outputs)
    of_unit = ", ".join(f".{name}_out(results[{high}:{low}])" for name, (high, low) in parts.items())
    of_board = ", ".join(f".{_input_of(name)}(results[{high}:{low}])" for name, (high, low) in parts.items())
    stale = " || ".join(
        f"golden_pkg::golden_expected({i}) != 64'(now[{word + high}:{word + low}])"
        for i, (high, low) in enumerate(parts.values())
    )
    return f"""// All vectors of {VECTORS} through the module `unit`; ends with PASS or FAIL. The file's results are checked.
module testbench;
  localparam int COUNT = {count};
  logic [{word + size - 1}:0] vectors [0:COUNT-1];
  logic [{word + size - 1}:0] now;
  logic [{size - 1}:0] results;
  logic clk = 0, valid = 0;
  int i, stale = 0;
  unit dut ({wires}, {of_unit});
  scoreboard board (.clk(clk), .valid(valid), {wires}, {of_board});
  initial begin
    $readmemh("{VECTORS}", vectors);
    for (i = 0; i < COUNT; i = i + 1) begin
      now = vectors[i];
      valid = 1;
      #1 clk = 1;
      #1 clk = 0;
      if ({stale}) stale = stale + 1;
    end
    if (stale > 0) $display("%0d vectors of the file differ from the model", stale);
    if (board.mismatches + board.unknown + stale == 0) $display("PASS: %0d vectors", COUNT);
    else $display("FAIL: %0d of %0d vectors", board.mismatches + board.unknown, COUNT);
    $finish;
  end
endmodule
"""


def _cocotb(inputs: dict[str, int], outputs: dict[str, int]) -> str:
    return f'''"""cocotb 2 bench of the module `unit`: the vectors of {VECTORS} through the scoreboard in libgolden.so."""

import ctypes
import sys
from pathlib import Path

import cocotb
from cocotb.triggers import Timer

HERE = Path(__file__).parent
GOLDEN = ctypes.CDLL(str(HERE / "libgolden.so"))
INPUTS = {_places(inputs)}
"""Highest and lowest bit of each input within a word."""
OUTPUTS = {_places(outputs)}
"""The same of each output, within what is checked."""
INPUT_BITS, OUTPUT_BITS = {sum(inputs.values())}, {sum(outputs.values())}


def words(value, bits):
    """A packed vector as DPI-C passes it: 32-bit words, the lowest first."""
    return value.to_bytes(-(-bits // 32) * 4, "little")


@cocotb.test()
async def scoreboard(dut):
    """Outputs of every vector are the model's; the report names the stage and field that explain what differs."""
    GOLDEN.golden_reset()
    for line in (HERE / "{VECTORS}").read_text().split():
        vector = int(line, 16)
        for name, (high, low) in INPUTS.items():
            getattr(dut, name).value = vector >> low & ((1 << (high - low + 1)) - 1)
        await Timer(1, "step")
        operands = vector & ((1 << INPUT_BITS) - 1)
        results = sum(getattr(dut, f"{{name}}_out").value.to_unsigned() << low for name, (_, low) in OUTPUTS.items())
        GOLDEN.golden_check(words(operands, INPUT_BITS), words(results, OUTPUT_BITS))
    mismatches = GOLDEN.golden_report()
    assert mismatches == 0, f"{{mismatches}} mismatches"


if __name__ == "__main__":  # python test_scoreboard.py FILE.v ...
    from cocotb_tools.runner import get_results, get_runner

    runner = get_runner("icarus")
    sources = [Path(name).resolve() for name in sys.argv[1:]]
    runner.build(sources=sources, hdl_toplevel="unit", build_dir=HERE / "sim", always=True)
    sys.exit(get_results(runner.test(hdl_toplevel="unit", test_module="test_scoreboard", test_dir=HERE))[1])
'''


def _readme(step: Instruction, said: str) -> str:
    covered = "all bins of `codesign vectors` are counted" if _has_goals(step) else "there are no coverage bins of it"
    taken = f"\nRandom bits are the input `random`: {len(draws(step))} draws a vector.\n" if step.is_stochastic else ""
    handed = (
        "\nThe running value has two registers: outputs `running_out` and `rest_out` are compared beside D, and are inputs\n"
        "`running` and `rest` of the next step. With the input `first` a step starts from C.\n"
        if step.remainder
        else ""
    )
    return f"""# Verification package of {literal(step.name)}

One element of D, one step of {step.span} products and C; {covered}. Only the cocotb bench needs Python. {literal(said)}.
{taken}{handed}
| file | is |
|---|---|
| `golden.h`, `golden.c` | the bit-exact model, C99, integers only; a trace keeps every value between operands and D |
| `scoreboard.h`, `scoreboard.c` | comparison, coverage, blame; includes golden.c: compile this file alone |
| `scoreboard.sv` | DPI-C imports (`golden_pkg`) and a module to instantiate or bind, parameter LATENCY |
| `testbench.sv`, `{VECTORS}` | runs the vectors through a module `unit`; outputs on top, then inputs, the first port lowest |
| `test_scoreboard.py` | the same bench for cocotb 2 |

```sh
make                            # Verilator, DPI-C
make cocotb                     # Icarus Verilog, cocotb 2
make RTL="mine.v alu.v"         # your design: a module `unit` with these ports
cc -std=c99 -O2 -shared -fPIC -o libgolden.so scoreboard.c     # other simulators: -sv_lib libgolden
```

A report names what explains the wrong outputs: a field of the spec with another value, or a fault of one term (left out,
sign, bits kept, rounding, exponent, specials or subnormals not seen). It tries each hypothesis on up to 64 wrong and
512 right vectors, from the outputs alone. Where your bench sees inside the unit, `golden_check_inside` (scoreboard.h)
compares a term as it enters the adder, or the sum, with the last vector checked.
"""
