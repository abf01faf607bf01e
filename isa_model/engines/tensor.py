"""The kernel for Hopper's Tensor Cores, by the route that routes.py finds.

A warp computes a tile of D in `mma.sync`'s register layout; operands are packed in advance in the order of its reads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from isa_model.engines.cuda import CudaTarget
from isa_model.engines.emit import step
from isa_model.engines.fragments import Fragments, fragments
from isa_model.engines.routes import FARTHEST, KEPT, Route, digit_count, pieces, product_exponents
from isa_model.engines.target import BlockCode, code_of
from isa_model.rounding import Rounding

TM = 1
"""Tiles of 16 rows that a warp computes."""
WARPS_M, WARPS_N = 4, 2
"""Warps of a thread block along M and N."""


@dataclass(frozen=True)
class TensorCores(CudaTarget):
    """Hopper's Tensor Cores; lane 4 (TN m + n) + i is register i of tile (m, n) as mma.sync leaves it."""

    way: Route
    rounded: bool = False
    """True to write D times `factor` in BF16, not D's codes; for an FP32 accumulator on float lanes."""

    headers: ClassVar[tuple[str, ...]] = (*CudaTarget.headers, "mma.h")

    @property
    def lane(self) -> str:
        return "double"

    @property
    def running(self) -> str:
        return "float" if self.way.whole and len(self.plan.stages) == 2 else "double"

    @property
    def threads(self) -> int:  # type: ignore[override]
        return 32 * WARPS_M * WARPS_N

    @property
    def tiles_n(self) -> int:
        """Tiles of 8 columns that a warp computes: fewer leave registers for a third block on a multiprocessor."""
        return 2 if self._is_small else 4

    @property
    def _is_small(self) -> bool:
        return self.way.cut == "half" and self.way.whole and len(self.plan.stages) == 1

    @property
    def _resident(self) -> int:
        """Fewest thread blocks per multiprocessor, from the registers that a thread needs."""
        return 1 if not self.way.whole or self.way.cut == "double" else 3 if self._is_small else 2

    @property
    def block(self) -> tuple[int, int]:
        return TM * 16 * WARPS_M, self.tiles_n * 8 * WARPS_N

    def layout(self, letter: str, what: Literal["cut", "powers"]) -> Fragments:
        """Return the layout of operand "a" or "b"."""
        return fragments(self.plan, self.way, letter == "a", what)

    def source(self) -> str:
        """Return the CUDA file in which `run` adds A B to C (zeros where C is a null pointer)."""
        canonical = "x != x ? NAN : x" if self.state == "float" else "x"
        pointers = [
            f"{name}_{letter} += (long){tile} * blocks * {32 * f.registers} + thread * {f.vector};"
            for what, name in LOADED.items()
            for letter, tile in (("a", "tile_m"), ("b", "tile_n"))
            for f in (self.layout(letter, what),)
        ]
        return self.kernel(f"""
#define TM {TM}
#define TN {self.tiles_n}
#define W (4 * TM * TN)
#define EACH(i, n) _Pragma("unroll") for (int i = 0; i < (n); ++i)
#define ROW(j) ((j) / (4 * TN) * 16 + (j) % 4 / 2 * 8)
#define COLUMN(j) ((j) / 4 % TN * 8 + (j) % 2)

/* cut_a, cut_b: numbers, BF16 or the upper halves of FP64; max_a, max_b: powers of two of their exponents, BF16; packed
 * as `Fragments` says. sa, esa, sb, esb: group scales, K first. blocks: blocks of the first stage along K. */
extern "C" __global__ void __launch_bounds__({self.threads}, {self._resident})
run(int lda, int ldb, int k_end, int blocks, {self.seed}const unsigned *__restrict__ cut_a, const unsigned *__restrict__ max_a,
    const unsigned *__restrict__ cut_b, const unsigned *__restrict__ max_b, const double *__restrict__ sa,
    const int *__restrict__ esa, const double *__restrict__ sb, const int *__restrict__ esb,
    const {self.state} *__restrict__ c, {self._outputs}) {{
  const int thread = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int tile_m = (blockIdx.x * {WARPS_M} + warp / {WARPS_N}) * TM;
  const int tile_n = (blockIdx.y * {WARPS_N} + warp % {WARPS_N}) * TN;
  const int row = tile_m * 16 + thread / 4, column = tile_n * 8 + thread % 4 * 2;
  sa += row; esa += row; sb += column; esb += column;
  {" ".join(pointers)}
  const unsigned minus_one = minus_unit_matrix(thread);
  {self.state} state[W];
  d += (long)row * ldb + column;
  LANES {{
    const {self.state} x = c ? c[(long)row * ldb + column + AT(j)] : 0;
    state[j] = {canonical};
  }}
#pragma unroll 1
  for (int k = 0; k < k_end; k += {self.plan.spec.shape.k}) {{
{step(self)}
  }}
  {self._store}
}}
""")

    @property
    def _outputs(self) -> str:
        return "const float *factor, unsigned short *__restrict__ d" if self.rounded else "unsigned *__restrict__ d"

    @property
    def _store(self) -> str:
        if not self.rounded:
            return f"LANES d[AT(j)] = {code_of(self.plan.spec, 'state[j]')};"
        return """const float times = *factor;
  for (int j = 0; j < W; j += 2) {
    unsigned pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(state[j + 1] * times), "f"(state[j] * times));
    *reinterpret_cast<unsigned *>(d + AT(j)) = pair;
  }"""

    # -- the inner loops ---------------------------------------------------------------------------------------------

    def largest(self, block: BlockCode, out: str, smallest: str = "") -> str:
        low, _ = product_exponents(self.plan)
        # Zeros lie below every exponent that counts (`_zeros_do_not_count`), so a zero may be assumed in every block.
        none = f"LANES {smallest}[j] = 2 * OPERAND_NONE;" if smallest else ""
        body = f"""{self._powers}
EACH(i, 4) {out}[j0 + i] = top[i] == 0 ? 2 * OPERAND_NONE : (__float_as_int(top[i]) >> {self._shift}) + {low - 1};"""
        return none + self._loop(block, ["powers"], body)

    def cut_sum(self, block: BlockCode, inverse: str, out: str) -> str:
        if self.way.cut == "half":  # beyond 2**120, no product is left
            text = f"""float magic[4], sum[4];
EACH(i, 4) magic[i] = pow2f(smaller({KEPT} - leading({inverse}[j0 + i]), 120));
truncated<{self._chunks}>(sum, magic, cut_a_, cut_b_, minus_one);"""
        elif self.way.cut == "double":
            text = f"""double magic[4], sum[4];
EACH(i, 4) magic[i] = pow2(52 - leading({inverse}[j0 + i]));
truncated<{self._chunks}>(sum, magic, cut_a_, cut_b_);"""
        else:
            text = self._exact
        return self._loop(block, ["cut"], f"{text}\nEACH(i, 4) {out}[j0 + i] = sum[i] * {inverse}[j0 + i];")

    def exact_sum(self, block: BlockCode, out: str) -> str:
        return self._loop(block, ["cut"], f"{self._exact}\nEACH(i, 4) {out}[j0 + i] = sum[i];")

    def short_block(self, block: BlockCode, running: str) -> str:
        """Return text that computes a whole block, register included; "" if the route cannot. `running` holds FP32."""
        if not self.way.whole:
            return ""
        text = self._half(running) if self.way.cut == "half" else self._wide(running)
        return self._loop(block, ["powers", "cut"] if self.way.step else ["cut"], text)

    def _half(self, running: str) -> str:
        """Return the text of a short block whose products HMMA cuts, for one tile.

        Exponents stay in FP32's exponent field, so that the largest is a maximum of floats, which passes over a NaN. Without
        a product, `most` is one below the lowest product exponent; `routes.suits` ensures that no C has bits to lose there.
        Infinities must not enter the magic numbers. C is cut by adding a number whose last bit is the last one kept.
        """
        low, _ = product_exponents(self.plan)
        bits = self.plan.first.fraction_bits or 0
        mode, mask, kept = self._register()
        return f"""float sum[4], magic[4], own[4];
{self._powers}
EACH(i, 4) {{
const float c = {running}[j0 + i];
const float products = __int_as_float((__float_as_int(top[i]) >> {self._shift - 23}) + {low - 1 + 127 << 23});
const float most = fminf(fmaxf(products, fabsf(c)), {2.0**FARTHEST!r}f);
const int power = __float_as_int(most) & 0x7F800000;
magic[i] = __int_as_float(power) * {2.0 ** (KEPT - bits)!r}f;
const float large = __int_as_float(__float_as_int(c) & 0x80000000 | power);
own[i] = __fmaf_rn(large, {-(2.0 ** (KEPT - 2 - bits))!r}f, __fmaf_rz(large, {2.0 ** (KEPT - 2 - bits)!r}f, c));
}}
truncated<{self._chunks}>(sum, magic, cut_a_, cut_b_, minus_one);
EACH(i, 4) {{
float y = __fadd_{mode}(sum[i], own[i]){" + 0.0f" if bits > kept else ""};
{mask}
{running}[j0 + i] = y;
}}"""

    def _wide(self, running: str) -> str:
        """Return the text of a short block that is summed in FP64 or in digits, for one tile."""
        low, _ = product_exponents(self.plan)
        bits = self.plan.first.fraction_bits or 0
        mode, mask, kept = self._register()
        fused = self.plan.fused_products
        lines: list[str] = []
        if self.way.step:
            # Exponents are FP32 fields, biased by 127. `drop`: bits of C below the last one kept.
            lines.append(f"""double magic[4]; float own[4];
{self._powers}
EACH(i, 4) {{
const int c = __float_as_int({running}[j0 + i]), of_c = (unsigned)(c << 1) >> 24;
const int found = top[i] == 0 ? -1000 : __float_as_int(top[i]) >> {self._shift};
const int e = __viaddmax_s32(found, {low - 1 + 127}, of_c), drop = e - of_c + {23 - bits};
own[i] = __int_as_float(drop > 23 ? 0 : c & shifted_ones({"larger(drop, 0)" if bits > 23 else "drop"}));
magic[i] = __hiloint2double((e << 20) + {1023 - 127 + 52 - bits << 20}, 0);
}}""")
        truncated = f"double sum[4]; truncated<{self._chunks}>(sum, magic, cut_a_, cut_b_);"
        lines.append(truncated if self.way.cut == "double" else self._exact)
        terms = f"sum[i], {running}[j0 + i]" if fused else f"sum[i], low[i], {running}[j0 + i]"
        if self.way.step:
            total = "sum[i] + own[i]"
        elif self.way.adds_exactly:
            total = f"sum[i] + {running}[j0 + i]"
        else:
            total = f"__dadd_rz({terms})" if mode == "rz" and fused else f"sum_to_odd({terms})"
        # A negative sum of whole units of FP32's smallest number cannot round to a negative zero.
        plus_zero = " + 0.0f" if self.way.cut == "double" or kept < 23 else ""
        rounded = f"float y = __double2float_{mode}({total});"
        lines.append(f"EACH(i, 4) {{ {rounded} {mask} {running}[j0 + i] = y{plus_zero}; }}")
        return "\n".join(lines)

    def _register(self) -> tuple[str, str, int]:
        """Return CUDA's suffix of the register's rounding, text that cuts an FP32 `y` to it, and its mantissa bits."""
        (register,) = self.plan.first.result
        kept = register.format.mantissa_bits
        mask = "" if kept == 23 else f"y = __int_as_float(__float_as_int(y) & {-1 << (23 - kept)});"
        return "rz" if register.rounding is Rounding.TOWARD_ZERO else "rn", mask, kept

    def _loop(self, block: BlockCode, loads: list[Literal["cut", "powers"]], body: str) -> str:
        """Return the body for every tile of the warp, with the operands' registers loaded; `j0` is its first lane."""
        of_a, of_b = (
            "\n".join(self._load(x, what, block, tile) for what in loads) for x, tile in (("a", "m"), ("b", "n"))
        )
        return f"""EACH(n, TN) {{
{of_b}
EACH(m, TM) {{
const int j0 = (m * TN + n) * 4;
{of_a}
{body}
}}
}}"""

    def _load(self, letter: str, what: Literal["cut", "powers"], block: BlockCode, tile: str) -> str:
        """Return a declaration that loads the registers of a tile and block, as `cut_a_` and so on."""
        f, name = self.layout(letter, what), f"{LOADED[what]}_{letter}"
        number = f"(({block.base}) / {f.terms} + {f.block_number(block.offsets[0])})"
        at = f"((long)({tile}) * blocks + {number}) * {32 * f.registers}"
        return f"unsigned {name}_[{f.registers}]; packed<{f.registers}, {f.vector}>({name}_, {name} + {at});"

    @property
    def _chunks(self) -> int:
        return self.layout("b", "cut").chunks

    @property
    def _powers(self) -> str:
        """Text that sets `top[i]` to a sum of powers of two whose exponent gives the largest exponent of a tile's products."""
        return f"float top[4]; powers<{self.layout('b', 'powers').chunks}, {self.way.step}>(top, max_a_, max_b_);"

    @property
    def _shift(self) -> int:
        """Shift of `top[i]` that leaves the largest exponent, bits."""
        return 23 + self.way.step.bit_length() - 1

    @property
    def _exact(self) -> str:
        """Text that sets `sum[i]` to the exact sum of a tile's products."""
        plan = self.plan
        if self.way.cut == "exact":
            zeros = f"double sum[4]; EACH(i, 4) sum[i] = {plan.neutral};"
            return f"{zeros}\nchain<{self._chunks}, SIGNED>(sum, cut_a_, cut_b_);"
        of_a, of_b, gathered = digit_count(plan.spec.a), digit_count(plan.spec.b), pieces(plan)
        # The lowest sum of each piece starts from 2**31, so that a piece is a positive whole number: the lower half of a
        # double whose last place is the piece's unit. `_added` subtracts this offset again.
        start = sum(1 << first for first, _ in gathered)
        wide = not plan.fused_products  # wider than FP64: an upper and a lower double, of two pieces each
        lines = [
            f"int digits[{of_a + of_b - 1}][4]; double sum[4]{', low[4]' if wide else ''};",
            f"products<{of_a}, {of_b}, {self._chunks}, {start}>(digits, cut_a_, cut_b_);",
            "EACH(i, 4) {",
            *self._added("sum", gathered[2:] if wide else gathered),
            *(self._added("low", gathered[:2]) if wide else ()),
            "}",
        ]
        return "\n".join(lines)

    def _added(self, name: str, gathered: list[tuple[int, int]]) -> list[str]:
        """Return text that sets `name[i]` to the sum of some pieces."""
        last = self.plan.spec.a.min_lsb_exponent + self.plan.spec.b.min_lsb_exponent
        units = [last + 8 * first for first, _ in gathered]
        added = [2.0 ** (unit + 52) + 2.0 ** (unit + 31) for unit in units]
        if len(added) == 2:  # subtracted at once: their sum is a double with the lower one's last place
            added = [0.0, sum(added)]
        lines: list[str] = []
        for unit, extra, (first, count) in reversed(list(zip(units, added, gathered, strict=True))):
            whole = " + ".join(f"(digits[{first + i}][i] << {8 * i})" for i in range(count))
            part = f"__hiloint2double({1023 + 52 + unit << 20}, {whole})" + (f" - {extra!r}" if extra else "")
            lines.append(f"{name}[i] = {f'{name}[i] + ({part})' if lines else part};")
        return lines


LOADED: dict[Literal["cut", "powers"], str] = {"cut": "cut", "powers": "max"}
"""Names of the kernel's arrays, without the operand's letter."""
