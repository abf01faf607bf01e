"""The CUDA text of a spec's step for Hopper's Tensor Cores, along the way that routes.py finds.

A warp computes a tile of D and holds it as `mma.sync` leaves it; operands are packed beforehand as threads read them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

from isa_model.engines.cuda import HELPERS, CudaEmitter, encoded, state_type
from isa_model.engines.emit import Block
from isa_model.engines.plan import Plan
from isa_model.engines.routes import FARTHEST, KEPT, Route, limbs, pieces, product_exponents
from isa_model.rounding import Rounding
from isa_model.stage import Stage

TM, TN = 1, 4
"""Tiles of 16 rows and of 8 columns that a warp computes."""
WARPS_M, WARPS_N = 4, 2
THREADS = 32 * WARPS_M * WARPS_N


@dataclass(frozen=True)
class Fragments:
    """How an operand lies in memory: [tile][block][vector of registers][thread of the warp][register], 32 bits each.
    Registers are those of the lowest digit, if operands are cut into digits, then of the next.

    Slots of a block of `terms` products, filled up to whole chunks, go to the threads as mma.sync has them: thread t holds,
    of chunk i, the `elements` slots from 4 elements i + elements (t % 4) on of row t / 4 (of A of row t / 4 + 8 too).
    """

    elements: int
    halves: int
    terms: int
    limbs: int = 1

    @property
    def chunks(self) -> int:
        return -(-self.terms // (4 * self.elements))

    @property
    def registers(self) -> int:
        return self.limbs * self.chunks * self.halves

    @property
    def vector(self) -> int:
        return next(v for v in (4, 2, 1) if self.registers % v == 0)


def fragments(plan: Plan, way: Route, is_a: bool, what: Literal["cut", "powers"]) -> Fragments:
    stage = next(iter(plan.spec.stages.values()))
    halves = 2 if is_a else 1
    if what == "powers" or way.cut == "half":
        return Fragments(2, halves, stage.terms)
    if way.cut == "limbs":
        return Fragments(4, halves, stage.terms, limbs(plan.spec.a if is_a else plan.spec.b))
    return Fragments(1, halves, stage.terms)


ROWS, COLUMNS = TM * 16 * WARPS_M, TN * 8 * WARPS_N
"""The tile of D that a thread block computes."""


def deal(stage: Stage) -> tuple[int, int]:
    """Run and parts of a stage's interleave; a stage without one deals whole blocks to one part."""
    return (stage.interleave.run, stage.interleave.parts) if stage.interleave else (stage.terms, 1)


@lru_cache(maxsize=64)
def source(plan: Plan, way: Route) -> str:
    """The CUDA file of a plan: `run` adds A B to C (zeros where C is a null pointer)."""
    prelude = (Path(__file__).parent / "prelude.h").read_text()
    mma = (Path(__file__).parent / "mma.h").read_text()
    emitter = _Emitter(plan, Tensor(way))
    kind = state_type(plan)
    canonical = "x != x ? NAN : x" if kind == "float" else "x"
    return f"""#define INFINITY __int_as_float(0x7f800000)
#define NAN __int_as_float(0x7fffffff)
{prelude}
{HELPERS}
{mma}
#define TM {TM}
#define TN {TN}
#define W (4 * TM * TN)
#define LANES _Pragma("unroll") for (int j = 0; j < W; ++j)
#define EACH(i, n) _Pragma("unroll") for (int i = 0; i < (n); ++i)
#define ROW(j) ((j) / (4 * TN) * 16 + (j) % 4 / 2 * 8)
#define COLUMN(j) ((j) / 4 % TN * 8 + (j) % 2)
#define SA(g, j) sa[(long)(g) * lda + ROW(j)]
#define ESA(g, j) esa[(long)(g) * lda + ROW(j)]
#define SB(g, j) sb[(long)(g) * ldb + COLUMN(j)]
#define ESB(g, j) esb[(long)(g) * ldb + COLUMN(j)]
#define C(j) state[j]
typedef double lane;

/* cut_a, cut_b: numbers, BF16 or the upper halves of FP64; max_a, max_b: powers of two of their exponents, BF16; packed
 * as `Fragments` says. sa, esa, sb, esb: group scales, K first. blocks: blocks of the first stage along K. */
extern "C" __global__ void __launch_bounds__({THREADS}, {way.blocks_per_multiprocessor})
run(int lda, int ldb, int k_end, int blocks, const unsigned *__restrict__ cut_a, const unsigned *__restrict__ max_a,
    const unsigned *__restrict__ cut_b, const unsigned *__restrict__ max_b, const double *__restrict__ sa,
    const int *__restrict__ esa, const double *__restrict__ sb, const int *__restrict__ esb,
    const {kind} *__restrict__ c, unsigned *__restrict__ d) {{
  const int thread = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int tile_m = (blockIdx.x * {WARPS_M} + warp / {WARPS_N}) * TM;
  const int tile_n = (blockIdx.y * {WARPS_N} + warp % {WARPS_N}) * TN;
  const int row = tile_m * 16 + thread / 4, column = tile_n * 8 + thread % 4 * 2;
  sa += row; esa += row; sb += column; esb += column;
  {emitter.pointers()}
  const unsigned minus_one = minus_unit_matrix(thread);
  {kind} state[W];
  LANES {{
    const {kind} x = c ? c[(long)(row + ROW(j)) * ldb + column + COLUMN(j)] : 0;
    state[j] = {canonical};
  }}
#pragma unroll 1
  for (int k = 0; k < k_end; k += {plan.spec.shape.k}) {{
{emitter.step()}
  }}
  LANES d[(long)(row + ROW(j)) * ldb + column + COLUMN(j)] = {encoded(plan)};
}}
"""


class _Emitter(CudaEmitter):
    """Writes a block of the first stage in short where its route allows it."""

    target: Tensor

    def pointers(self) -> str:
        return self.target.pointers(self.plan)

    def array(self, kind: str, stem: str) -> str:
        single = stem == "run" and self.target.way.whole and len(self.stages) == 2
        return super().array("float" if single else kind, stem)

    def run_block(self, index: int, n: int, k: str, value: str) -> None:
        if index > 0 or not self.target.way.whole:
            super().run_block(index, n, k, value)
            return
        array = "state" if value == "C(j)" else value.removesuffix("[j]")
        with self.apart_from_c(n, k, value):
            self.write(self.target.whole_block(self.plan, Block(k, tuple(self.terms(0, n))), array))


@dataclass(frozen=True)
class Tensor:
    """Inner loops for the Tensor Cores; lane 4 (TN m + n) + i is register i of tile (m, n) as mma.sync leaves it."""

    way: Route
    lane: str = "double"

    def pointers(self, plan: Plan) -> str:
        """Where this thread's registers of the first block lie."""
        lines = []
        for what, short in (("cut", "cut"), ("powers", "max")):
            for letter, tile in (("a", "tile_m"), ("b", "tile_n")):
                f = fragments(plan, self.way, letter == "a", what)  # type: ignore[arg-type]
                lines.append(f"{short}_{letter} += (long){tile} * blocks * {32 * f.registers} + thread * {f.vector};")
        return " ".join(lines)

    def _load(self, plan: Plan, letter: str, short: str, block: Block, tile: str) -> str:
        """A declaration that loads the registers of a tile and block into `{short}{letter}`."""
        f = fragments(plan, self.way, letter == "a", "cut" if short == "cut" else "powers")
        name = f"{short}_{letter}"
        at = f"((long)({tile}) * blocks + {self._number(plan, block)}) * {32 * f.registers}"
        return f"unsigned {name}_[{f.registers}]; packed<{f.registers}, {f.vector}>({name}_, {name} + {at});"

    @staticmethod
    def _number(plan: Plan, block: Block) -> str:
        """Which block of the first stage along K this is."""
        stage = next(iter(plan.spec.stages.values()))
        run, parts = deal(stage)
        first = block.offsets[0]
        inside = first // (stage.terms * parts) * parts + first % (stage.terms * parts) // run
        return f"(({block.base}) / {stage.terms} + {inside})"

    def _loop(self, plan: Plan, block: Block, loads: str, body: str) -> str:
        """The body for every tile of the warp, with the operands' registers `loads` names and `j0`, its first lane."""
        of_a = [self._load(plan, "a", short, block, "m") for short in loads.split()]
        of_b = [self._load(plan, "b", short, block, "n") for short in loads.split()]
        return f"""EACH(n, TN) {{
{chr(10).join(of_b)}
EACH(m, TM) {{
const int j0 = (m * TN + n) * 4;
{chr(10).join(of_a)}
{body}
}}
}}"""

    def _powers(self, plan: Plan) -> str:
        f = fragments(plan, self.way, False, "powers")
        return f"float top[4]; powers<{f.chunks}, {self.way.step}>(top, max_a_, max_b_);"

    def largest(self, plan: Plan, block: Block, out: str, smallest: str | None) -> str:
        low, _ = product_exponents(plan)
        # Zeros lie below everything that counts (`_zeros_do_not_count`): there may as well be one in every block.
        none = f"LANES {smallest}[j] = 2 * OPERAND_NONE;" if smallest else ""
        shift = 23 + self.way.step.bit_length() - 1
        body = f"""{self._powers(plan)}
EACH(i, 4) {out}[j0 + i] = top[i] == 0 ? 2 * OPERAND_NONE : (__float_as_int(top[i]) >> {shift}) + {low - 1};"""
        return none + self._loop(plan, block, "max", body)

    def cut_sum(self, plan: Plan, block: Block, stage: Stage, inverse: str, out: str) -> str:
        chunks = fragments(plan, self.way, False, "cut").chunks
        if self.way.cut == "half":  # beyond 2**120, no product is left
            text = f"""float magic[4], sum[4];
EACH(i, 4) magic[i] = pow2f(smaller({KEPT} - leading({inverse}[j0 + i]), 120));
truncated<{chunks}>(sum, magic, cut_a_, cut_b_, minus_one);"""
        elif self.way.cut == "double":
            text = f"""double magic[4], sum[4];
EACH(i, 4) magic[i] = pow2(52 - leading({inverse}[j0 + i]));
truncated<{chunks}>(sum, magic, cut_a_, cut_b_);"""
        else:
            text = self._exact(plan, stage)
        return self._loop(plan, block, "cut", f"{text}\nEACH(i, 4) {out}[j0 + i] = sum[i] * {inverse}[j0 + i];")

    def exact_sum(self, plan: Plan, block: Block, stage: Stage, out: str) -> str:
        return self._loop(plan, block, "cut", f"{self._exact(plan, stage)}\nEACH(i, 4) {out}[j0 + i] = sum[i];")

    def _exact(self, plan: Plan, stage: Stage) -> str:
        """Text that sets `sum[i]` to the exact sum of a tile's products."""
        chunks = fragments(plan, self.way, False, "cut").chunks
        if self.way.cut == "exact":
            zero = "-0.0" if stage.zero == "ieee" else "0.0"
            return f"double sum[4]; EACH(i, 4) sum[i] = {zero};\nchain<{chunks}, SIGNED>(sum, cut_a_, cut_b_);"
        of_a, of_b, gathered = limbs(plan.spec.a), limbs(plan.spec.b), pieces(plan)
        # Sums of digits start from 2**31 where a piece begins, so that a piece is a positive whole number: the lower half
        # of a double whose last place is the piece's unit. What that adds is taken away again.
        start = sum(1 << first for first, _ in gathered)
        wide = not plan.fused_products  # wider than FP64: two pieces apart, which come to an upper and a lower double
        digits = f"int digits[{of_a + of_b - 1}][4]; double sum[4]{', low[4]' if wide else ''};"
        lines = [digits, f"products<{of_a}, {of_b}, {chunks}, {start}>(digits, cut_a_, cut_b_);", "EACH(i, 4) {"]
        lines += self._added("sum", plan, gathered[2:] if wide else gathered)
        if wide:
            lines += self._added("low", plan, gathered[:2])
        return "\n".join([*lines, "}"])

    @staticmethod
    def _added(name: str, plan: Plan, gathered: list[tuple[int, int]]) -> list[str]:
        """Text that sets `name[i]` to the sum of some pieces."""
        units = [plan.spec.a.min_lsb_exponent + plan.spec.b.min_lsb_exponent + 8 * first for first, _ in gathered]
        added = [2.0 ** (unit + 52) + 2.0 ** (unit + 31) for unit in units]
        if len(added) == 2:  # at once: the sum of both is a double with the lower one's last place
            added = [0.0, sum(added)]
        lines: list[str] = []
        for unit, extra, (first, count) in reversed(list(zip(units, added, gathered, strict=True))):
            whole = " + ".join(f"(digits[{first + i}][i] << {8 * i})" for i in range(count))
            part = f"__hiloint2double({1023 + 52 + unit << 20}, {whole})" + (f" - {extra!r}" if extra else "")
            lines.append(f"{name}[i] = {f'{name}[i] + ({part})' if lines else part};")
        return lines

    def whole_block(self, plan: Plan, block: Block, name: str) -> str:
        """A block in one piece, down to the register; `name` is an array over lanes that holds FP32."""
        stage = next(iter(plan.spec.stages.values()))
        loads = "max cut" if self.way.step else "cut"
        return self._loop(plan, block, loads, self._short(plan, stage, name))

    def _short(self, plan: Plan, stage: Stage, name: str) -> str:
        (register,) = stage.result
        kept = register.format.mantissa_bits
        mask = "" if kept == 23 else f"y = __int_as_float(__float_as_int(y) & {-1 << (23 - kept)});"
        toward_zero = register.rounding is Rounding.TOWARD_ZERO
        mode = "rz" if toward_zero else "rn"
        chunks = fragments(plan, self.way, False, "cut").chunks
        low, _ = product_exponents(plan)
        bits = stage.fraction_bits or 0
        shift = 23 + self.way.step.bit_length() - 1
        if self.way.cut == "half":
            # Exponents stay where FP32 has them. Without a product, e is one below the lowest of all: `suits` says that no
            # C has a bit there to lose. Infinities must not get into the magic numbers.
            # C is cut by adding a number whose last bit is the last one kept.
            reach = FARTHEST + 127 << 23
            zero = " + 0.0f" if bits > kept else ""
            return f"""float sum[4], magic[4], own[4];
{self._powers(plan)}
EACH(i, 4) {{
const int c = __float_as_int({name}[j0 + i]);
const int most = __viaddmax_s32(__float_as_int(top[i]) >> {shift - 23}, {low - 1 + 127 << 23}, c & 0x7FFFFFFF);
magic[i] = __int_as_float(smaller(most, {reach}) & 0x7F800000) * {2.0 ** (KEPT - bits)!r}f;
const float large = __int_as_float(c & 0x80000000 | __float_as_int(magic[i]));
own[i] = __fmaf_rn(large, -0.25f, __fmaf_rz(large, 0.25f, {name}[j0 + i]));
}}
truncated<{chunks}>(sum, magic, cut_a_, cut_b_, minus_one);
EACH(i, 4) {{ float y = __fadd_{mode}(sum[i], own[i]){zero}; {mask} {name}[j0 + i] = y; }}"""
        lines: list[str] = []
        if self.way.step:
            # Exponents are FP32 fields, biased by 127. `drop`: bits of C below the last one kept.
            lines.append(f"""double magic[4]; float own[4];
{self._powers(plan)}
EACH(i, 4) {{
const int c = __float_as_int({name}[j0 + i]), of_c = (unsigned)(c << 1) >> 24;
const int found = top[i] == 0 ? -1000 : __float_as_int(top[i]) >> {shift};
const int e = __viaddmax_s32(found, {low - 1 + 127}, of_c), drop = e - of_c + {23 - bits};
own[i] = __int_as_float(drop > 23 ? 0 : c & shifted_ones({"larger(drop, 0)" if bits > 23 else "drop"}));
magic[i] = __hiloint2double((e << 20) + {1023 - 127 + 52 - bits << 20}, 0);
}}""")
        if self.way.cut == "double":
            lines.append(f"double sum[4]; truncated<{chunks}>(sum, magic, cut_a_, cut_b_);")
        else:
            lines.append(self._exact(plan, stage))
        if self.way.step:
            total = "sum[i] + own[i]"
        else:
            terms = f"sum[i], {name}[j0 + i]" if plan.fused_products else f"sum[i], low[i], {name}[j0 + i]"
            once = toward_zero and plan.fused_products
            total = f"__dadd_rz({terms})" if once else f"sum_to_odd({terms})"
            if self.way.adds_exactly:
                total = f"sum[i] + {name}[j0 + i]"
        # Sums of whole units of FP32's smallest number do not vanish into a negative zero.
        plus_zero = " + 0.0f" if self.way.cut == "double" or kept < 23 else ""
        lines.append(
            f"EACH(i, 4) {{ float y = __double2float_{mode}({total}); {mask} {name}[j0 + i] = y{plus_zero}; }}"
        )
        return "\n".join(lines)


def pack(f: Fragments, run: int, parts: int, code_bytes: int, bits: int) -> str:
    """The CUDA file of `pack`: codes of so many bytes, `bits` of which count, into the layout of a `Fragments`.

    `table` has a word for each code and digit, then the magnitude of each code as FP32, whose largest goes to `most`."""
    code, each = {1: "unsigned char", 2: "unsigned short", 4: "unsigned"}[code_bytes], f.chunks * f.halves
    return f"""
extern "C" __global__ void pack(long places, int blocks, int rows, long row_stride, long k_stride, const unsigned *table,
                                const {code} *codes, unsigned *out, unsigned *most) {{
  const long place = blockIdx.x * 256l + threadIdx.x; /* all words of one place, one for each digit */
  unsigned magnitude = 0;
  if (place < places) {{
    const unsigned fragment = place / {32 * each}, r = place % {each}, thread = place / {each} % 32;
    const unsigned block = fragment % blocks, chunk = r / {f.halves};
    const int row = (fragment / blocks * {f.halves} + r % {f.halves}) * 8 + thread / 4;
    const long first = (long)(block / {parts}) * {f.terms * parts} + block % {parts} * {run};
    unsigned words[{f.limbs}] = {{}};
#pragma unroll
    for (unsigned i = 0; i < {f.elements}; ++i) {{
      const unsigned slot = (4 * chunk + thread % 4) * {f.elements} + i;
      if (slot >= {f.terms} || row >= rows) continue;
      const long k = first + slot / {run} * {run * parts} + slot % {run};
      const unsigned code = codes[row * row_stride + k * k_stride] & {(1 << bits) - 1};
#pragma unroll
      for (int l = 0; l < {f.limbs}; ++l)
        words[l] |= (table[l << {bits} | code] & {0xFFFFFFFF >> (32 - 32 // f.elements)}u) << {32 // f.elements} * i;
      magnitude = max(magnitude, table[{f.limbs} << {bits} | code]);
    }}
#pragma unroll
    for (int l = 0; l < {f.limbs}; ++l) {{
      const unsigned at = l * {each} + r;
      const long vector = (long)fragment * {f.registers // f.vector} + at / {f.vector};
      out[(vector * 32 + thread) * {f.vector} + at % {f.vector}] = words[l];
    }}
  }}
  if (most) {{ /* few find more than was found before */
    magnitude = __reduce_max_sync(0xFFFFFFFFu, magnitude);
    if (threadIdx.x % 32 == 0 && magnitude > *(volatile unsigned *)most) atomicMax(most, magnitude);
  }}
}}
"""
