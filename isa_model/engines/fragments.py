"""Operands packed as `mma.sync` reads them: the layout, and the CUDA kernel that packs codes into it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from isa_model.engines.plan import Plan
from isa_model.engines.routes import Route, digit_count


@dataclass(frozen=True)
class Fragments:
    """Layout of an operand: [tile][block][vector of registers][thread of the warp][register], 32 bits each.

    Operands cut into digits have the registers of the lowest digit first, then those of the next. A block of `terms`
    products is filled up to whole chunks, whose slots go to the threads as mma.sync reads them: thread t holds the
    `elements` slots of chunk i from 4 elements i + elements (t % 4) on, in row t / 4 (for A in row t / 4 + 8, too).
    """

    elements: int
    """Elements in a register."""
    halves: int
    """Groups of 8 rows or columns in a tile: 2 of A, 1 of B."""
    terms: int
    """Products of a block of the first stage."""
    run: int
    """Products next to each other along K that go to the same block."""
    parts: int
    """Blocks that products along K are dealt to in turn."""
    digits: int = 1
    """Digits of an element."""

    @property
    def chunks(self) -> int:
        """Registers of a block, of one digit and half."""
        return -(-self.terms // (4 * self.elements))

    @property
    def registers(self) -> int:
        """Registers of a thread for a block."""
        return self.digits * self.chunks * self.halves

    @property
    def vector(self) -> int:
        """Registers loaded at once."""
        return next(v for v in (4, 2, 1) if self.registers % v == 0)

    def block_number(self, first: int) -> int:
        """Return the index of the block that begins with product `first` of its instruction."""
        span = self.terms * self.parts
        return first // span * self.parts + first % span // self.run

    def pack(self, code_bytes: int, bits: int) -> str:
        """Return the CUDA file of `pack`, which packs codes of `code_bytes` bytes and ignores all but their low `bits` bits.

        `table` has a word for each code and digit, then the magnitude of each code as FP32, whose largest goes to `most`.
        Powers of two in the same layout, from a table of their own, go to `power_out`.
        """
        code = {1: "unsigned char", 2: "unsigned short", 4: "unsigned"}[code_bytes]
        each, width = self.chunks * self.halves, 32 // self.elements
        return f"""
extern "C" __global__ void pack(long places, int blocks, int rows, long row_stride, long k_stride, const unsigned *table,
                                const {code} *codes, unsigned *out, unsigned *most, const unsigned *power_table,
                                unsigned *power_out) {{
  const long place = blockIdx.x * 256l + threadIdx.x; /* all words of one place, one for each digit */
  unsigned magnitude = 0, powers = 0;
  if (place < places) {{
    const unsigned fragment = place / {32 * each}, r = place % {each}, thread = place / {each} % 32;
    const unsigned block = fragment % blocks, chunk = r / {self.halves};
    const int row = (fragment / blocks * {self.halves} + r % {self.halves}) * 8 + thread / 4;
    const long first = (long)(block / {self.parts}) * {self.terms * self.parts} + block % {self.parts} * {self.run};
    unsigned words[{self.digits}] = {{}};
#pragma unroll
    for (unsigned i = 0; i < {self.elements}; ++i) {{
      const unsigned slot = (4 * chunk + thread % 4) * {self.elements} + i;
      if (slot >= {self.terms} || row >= rows) continue;
      const long k = first + slot / {self.run} * {self.run * self.parts} + slot % {self.run};
      const unsigned code = codes[row * row_stride + k * k_stride] & {(1 << bits) - 1};
#pragma unroll
      for (int l = 0; l < {self.digits}; ++l)
        words[l] |= (table[l << {bits} | code] & {0xFFFFFFFF >> (32 - width)}u) << {width} * i;
      magnitude = max(magnitude, table[{self.digits} << {bits} | code]);
      if (power_out) powers |= (power_table[code] & {0xFFFFFFFF >> (32 - width)}u) << {width} * i;
    }}
#pragma unroll
    for (int l = 0; l < {self.digits}; ++l) {{
      const unsigned at = l * {each} + r;
      const long vector = (long)fragment * {self.registers // self.vector} + at / {self.vector};
      const long word = (vector * 32 + thread) * {self.vector} + at % {self.vector};
      out[word] = words[l];
      if (power_out) power_out[word] = powers;
    }}
  }}
  if (most) {{ /* few threads find a larger one */
    magnitude = __reduce_max_sync(0xFFFFFFFFu, magnitude);
    if (threadIdx.x % 32 == 0 && magnitude > *(volatile unsigned *)most) atomicMax(most, magnitude);
  }}
}}
"""


def fragments(plan: Plan, way: Route, is_a: bool, what: Literal["cut", "powers"]) -> Fragments:
    """Return the layout of A or B for its numbers (cut) or for powers of two of their exponents (powers)."""
    stage, halves = plan.first, 2 if is_a else 1
    deal = (stage.interleave.run, stage.interleave.parts) if stage.interleave else (stage.terms, 1)
    if what == "powers" or way.cut == "half":
        return Fragments(2, halves, stage.terms, *deal)
    if way.cut == "digits":
        return Fragments(4, halves, stage.terms, *deal, digit_count(plan.spec.a if is_a else plan.spec.b))
    return Fragments(1, halves, stage.terms, *deal)
