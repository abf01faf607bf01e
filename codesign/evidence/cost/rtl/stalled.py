"""Behavioural pipeline of a unit, with valid and stall, and its test bench."""

from __future__ import annotations

from codesign.evidence.cost.rtl.ports import ports, results
from isa_model.instruction import Instruction


def outputs(spec: Instruction, wires: str) -> str:
    """Return the connections of a unit's outputs to a vector of wires, D lowest."""
    if len(results(spec)) == 1:
        return f".d_out({wires})"
    at, found = 0, []
    for name, bits in results(spec).items():
        found.append(f".{name}_out({wires}[{at + bits - 1}:{at}])")
        at += bits
    return ", ".join(found)


def wrapper(spec: Instruction, latency: int) -> str:
    """Return the Verilog module `unit_pipeline`: the unit with `LATENCY` registers behind it, for synthesis to retime."""
    inputs = ports(spec)
    bits = sum(results(spec).values())
    declared = "".join(f"  input [{width - 1}:0] {name},\n" for name, width in inputs.items())
    connected = ", ".join(f".{name}({name})" for name in inputs)
    names = [f"{name}_out" for name in results(spec)]
    given = ",\n".join(
        f"  output [{size - 1}:0] {name}" for name, size in zip(names, results(spec).values(), strict=True)
    )
    out = names[0] if len(names) == 1 else f"{{{', '.join(reversed(names))}}}"
    return f"""// Registers behind the combinational unit, for synthesis to retime into it. D follows its operands after LATENCY
// cycles in which stall is low; a stall holds everything.
module unit_pipeline #(
  parameter integer LATENCY = {latency}
) (
  input clk,
  input rst_n,
  input stall,
  input valid_in,
{declared}  output valid_out,
{given}
);
  wire [{bits - 1}:0] d;
  unit core ({connected}, {outputs(spec, "d")});

  reg [{bits - 1}:0] stage [0:LATENCY - 1];
  reg valid [0:LATENCY - 1];
  integer i;
  always @(posedge clk)
    if (!rst_n) begin
      for (i = 0; i < LATENCY; i = i + 1) valid[i] <= 1'b0;
    end else if (!stall) begin
      valid[0] <= valid_in;
      stage[0] <= d;
      for (i = 1; i < LATENCY; i = i + 1) begin
        valid[i] <= valid[i - 1];
        stage[i] <= stage[i - 1];
      end
    end
  assign valid_out = valid[LATENCY - 1];
  assign {out} = stage[LATENCY - 1];

`ifdef ASSERT
  reg [{bits - 1}:0] held;
  reg was_stalled;
  always @(posedge clk) begin
    held <= {out};
    was_stalled <= stall && rst_n;
    if (rst_n && valid_out && ^{out} === 1'bx) $display("ASSERT: an X in a valid D");
    if (rst_n && was_stalled && {out} !== held) $display("ASSERT: D changed in a stall");
{_nan_of_c(spec)}  end
`endif
endmodule
"""


def _nan_of_c(spec: Instruction) -> str:
    """Return the assertion that a NaN of C makes D a NaN; nothing for formats without IEEE's NaN."""
    fmt = spec.c_format
    if fmt.nan != "ieee" or fmt != spec.accumulator or fmt.low_padding or fmt.high_padding or spec.remainder:
        return ""
    m, top = fmt.mantissa_bits, fmt.magnitude_bits - 1

    def is_nan(name: str) -> str:
        return f"&{name}[{top}:{m}] && |{name}[{m - 1}:0]"

    return f'    if (rst_n && valid_in && {is_nan("c")} && !({is_nan("d")})) $display("ASSERT: a NaN of C is lost");\n'


def testbench(spec: Instruction, count: int, latency: int, vectors: str) -> str:
    """Return a test bench that runs the vectors through `unit_pipeline` with random stalls and gaps."""
    inputs = ports(spec)
    size = sum(results(spec).values())
    total = sum(inputs.values()) + size
    connections, at = [], 0
    for name, bits in inputs.items():
        connections.append(f".{name}(word[{at + bits - 1}:{at}])")
        at += bits
    return f"""// Every vector of {vectors} through unit_pipeline, with random stalls and gaps; ends with PASS or FAIL.
`timescale 1ns / 1ps
module testbench;
  localparam integer COUNT = {count}, LATENCY = {latency};
  reg [{total - 1}:0] vectors [0:COUNT - 1];
  reg [{total - 1}:0] word, asked;
  reg clk = 0, rst_n = 0, stall = 0, valid_in = 0;
  wire valid_out;
  wire [{size - 1}:0] d;
  integer sent, seen, wrong, seed;
  unit_pipeline #(.LATENCY(LATENCY)) dut (
    .clk(clk), .rst_n(rst_n), .stall(stall), .valid_in(valid_in), {", ".join(connections)},
    .valid_out(valid_out), {outputs(spec, "d")}
  );
  initial begin
    $readmemh("{vectors}", vectors);
    sent = 0; seen = 0; wrong = 0; seed = 1; word = vectors[0];
    #5 clk = 1; #5 clk = 0; rst_n = 1;
    while (seen < COUNT) begin
      stall = ($random(seed) & 3) == 0;
      valid_in = sent < COUNT && ($random(seed) & 7) != 0;
      word = vectors[sent < COUNT ? sent : 0];
      #5;
      if (valid_out && !stall) begin
        asked = vectors[seen];
        if (d !== asked[{total - 1}:{at}]) begin
          wrong = wrong + 1;
          if (wrong < 10) $display("vector %0d: d = %h, expected %h", seen, d, asked[{total - 1}:{at}]);
        end
        seen = seen + 1;
      end
      if (valid_in && !stall) sent = sent + 1;
      clk = 1; #5 clk = 0;
    end
    if (wrong == 0) $display("PASS: {count} vectors");
    else $display("FAIL: %0d of {count} vectors", wrong);
    $finish;
  end
endmodule
"""
