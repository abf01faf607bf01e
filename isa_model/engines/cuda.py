"""CUDA targets, and the kernel for CUDA cores: a thread computes a small tile of D from operands stored K first.

`source` needs no GPU and no CUDA; gpu.py compiles and runs it.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import frexp
from pathlib import Path
from typing import ClassVar

from isa_model.engines.emit import step
from isa_model.engines.plan import FP32
from isa_model.engines.register_text import left
from isa_model.engines.routes import is_short
from isa_model.engines.target import BlockCode, Target, code_of
from isa_model.float64 import LANE_BITS
from isa_model.rounding import Rounding

CUTS = {
    Rounding.TOWARD_ZERO: "cut_toward_zero",
    Rounding.NEAREST_EVEN: "cut_nearest",
    Rounding.UP: "cut_up",
    Rounding.DOWN: "cut_down",
}
"""Functions of cuda.h that round a product as they add it to a magic number."""


@dataclass(frozen=True)
class CudaTarget(Target):
    """Common base of the kernels for CUDA cores and for Tensor Cores."""

    adds_directed: ClassVar[bool] = True
    headers: ClassVar[tuple[str, ...]] = ("prelude.h", "cuda.h")

    threads: ClassVar[int] = 256
    """Threads of a thread block."""

    @property
    def block(self) -> tuple[int, int]:
        """Rows and columns of D that a thread block computes."""
        raise NotImplementedError

    def filled(self, m: int, n: int) -> tuple[int, int]:
        """Return the sizes of D filled up to whole thread blocks."""
        rows, columns = self.block
        return m + -m % rows, n + -n % columns

    @property
    def state(self) -> str:
        """C type of the accumulator: float if it holds every number of C and D, which halves the registers."""
        spec = self.plan.spec
        return "float" if FP32.holds(spec.accumulator) and FP32.holds(spec.c_format) else "double"

    @property
    def seed(self) -> str:
        """Parameter of a kernel that draws random bits."""
        return "unsigned long long seed, " if self.plan.spec.is_stochastic else ""

    def source(self) -> str:
        """Return the CUDA file of the plan, with a kernel `run`."""
        raise NotImplementedError

    def kernel(self, text: str) -> str:
        """Return the CUDA file of a kernel, with the headers in front of it."""
        headers = [(Path(__file__).parent / name).read_text() for name in self.headers]
        return "\n".join([*headers, f"typedef {self.lane} lane;", text])


@dataclass(frozen=True)
class CudaCores(CudaTarget):
    """CUDA cores: the outer loop is along K, the inner one over lanes, each with its sum in a register."""

    @property
    def lane(self) -> str:
        """C type in which products are cut.

        `float` has its own loop, which rounds as it multiplies and sums the bits as integers. It needs blocks of neighbours
        cut toward zero, with room for the magic number.
        """
        plan, stage = self.plan, self.plan.first
        neighbours = stage.interleave is None and (32 % stage.terms == 0 or stage.terms % 32 == 0)
        fits = (
            plan.lane_name == "float"
            and stage.rounding is Rounding.TOWARD_ZERO
            and stage.zero == "positive"
            and plan.infinite_from is None
            and plan.product_growth + (stage.fraction_bits or 0) <= 22
        )
        return "float" if neighbours and fits else "double"

    @property
    def tile(self) -> tuple[int, int]:
        """Rows and columns of D that a thread computes, limited by its registers."""
        return (8, 4) if self.lane == "float" else (4, 4)

    @property
    def block(self) -> tuple[int, int]:
        return 16 * self.tile[0], 16 * self.tile[1]

    def source(self) -> str:
        """Return the CUDA file in which `run` adds A B to C. Arrays are K first, with rows and columns in whole tiles."""
        second = "  double second[W];\n  LANES second[j] = 0.0;" if self.plan.spec.remainder else ""
        return self.kernel(f"""
#define TM {self.tile[0]}
#define TN {self.tile[1]}
#define W (TM * TN)
#define ROW(j) ((j) / TN)
#define COLUMN(j) ((j) % TN)
#define A(k, j) a[(long)(k) * lda + ROW(j)]
#define EA(k, j) (short)ea[(long)(k) * lda + ROW(j)]
#define B(k, j) b[(long)(k) * ldb + COLUMN(j)]
#define EB(k, j) eb[(long)(k) * ldb + COLUMN(j)]

/* a, b: numbers, magnitudes if lane is float. ea, eb: exponents, those of A twice over. sa, esa, sb, esb: group scales.
 * For float lanes: ma, mb: -1 where the number is negative; na, nb: the same, 32 of K in a word; fa, fb: whether
 * something is not finite in a step. */
extern "C" __global__ void __launch_bounds__({self.threads}, 2)
run(int lda, int ldb, int k_end, {self.seed}const lane *__restrict__ a, const unsigned *__restrict__ ea,
    const lane *__restrict__ b, const short *__restrict__ eb, const double *__restrict__ sa,
    const int *__restrict__ esa, const double *__restrict__ sb, const int *__restrict__ esb,
    const int *__restrict__ ma, const int *__restrict__ mb, const unsigned *__restrict__ na,
    const unsigned *__restrict__ nb, const unsigned char *__restrict__ fa, const unsigned char *__restrict__ fb,
    const {self.state} *__restrict__ c, unsigned *__restrict__ d) {{
  const int row = (blockIdx.x * 16 + threadIdx.x / 16) * TM, column = (blockIdx.y * 16 + threadIdx.x % 16) * TN;
  a += row; ea += row; sa += row; esa += row; ma += row; na += row; fa += row;
  b += column; eb += column; sb += column; esb += column; mb += column; nb += column; fb += column;
  {self.state} state[W];
  c += (long)row * ldb + column; d += (long)row * ldb + column;
  LANES state[j] = c[AT(j)];
{second}
#pragma unroll 1
  for (int k = 0; k < k_end; k += {self.plan.spec.shape.k}) {{
{step(self)}
  }}
  LANES d[AT(j)] = {code_of(self.plan.spec, left(self.plan.spec, "state[j]"))};
}}
""")

    # -- the inner loops ---------------------------------------------------------------------------------------------

    def largest(self, block: BlockCode, out: str, smallest: str = "") -> str:
        each = [(out, "max", "0x80008000u"), *([(smallest, "min", "0x7fff7fffu")] if smallest else [])]
        pairs = " ".join(f"unsigned pairs_{name}[W / 2];" for name, _, _ in each)
        start = " ".join(f"pairs_{name}[j] = {first};" for name, _, first in each)
        unpack = " ".join(f"{name}[j] = (short)(pairs_{name}[j / 2] >> (j % 2 * 16));" for name, _, _ in each)
        sums = " ".join(
            f"pairs_{name}[j] = __viadd{which}_s16x2(x[j / (TN / 2)], y[j % (TN / 2)], pairs_{name}[j]);"
            for name, which, _ in each
        )
        body = f"""unsigned x[TM], y[TN / 2];
load(x, ea + (long)kk * lda); load(y, (const unsigned *)(eb + (long)kk * ldb));
_Pragma("unroll") for (int j = 0; j < W / 2; ++j) {{ {sums} }}"""
        return f"""{pairs}
_Pragma("unroll") for (int j = 0; j < W / 2; ++j) {{ {start} }}
{along_k(block, body)}
LANES {{ {unpack} }}"""

    def exact_sum(self, block: BlockCode, out: str) -> str:
        return self._sum(block, out, self._product)

    def cut_sum(self, block: BlockCode, inverse: str, out: str) -> str:
        if self.lane == "float":
            return self._cut_as_integers(block, inverse, out)
        plan, stage = self.plan, self.plan.first
        assert stage.rounding is not None
        slow = self._sum(block, out, f"whole({self._product} * {inverse}[j], {stage.rounding.name})")
        if not self._has_magic:
            return slow
        # Products are cut at their own scale, by adding them to the magic number; `inverse` then scales the sum.
        factor = 1.0 if stage.rounding is Rounding.TOWARD_ZERO else 1.5
        fast = f"""double magic_{out}[W]; LANES magic_{out}[j] = {factor} * pow2(52 - leading({inverse}[j]));
{self._sum_above(block, out, f"magic_{out}")}
LANES {{ {out}[j] = {out}[j] * {inverse}[j]; }}"""
        if plan.infinite_from is None:
            return fast
        # Only blocks with an exponent this large have products that count as infinite.
        largest = f"{stage.fraction_bits} - leading({inverse}[j])"
        far = frexp(plan.infinite_from)[1] - 1 - plan.product_growth
        return f"""{{
int large = 0;
LANES large |= {largest} > {far};
if (large) {{
{slow}
}} else {{
{fast}
}}
}}"""

    def short_block(self, block: BlockCode, running: str) -> str:
        """Return text that cuts products by magic numbers, and the running value, an FP32 number, by a bit mask."""
        plan, stage = self.plan, self.plan.first
        short = is_short(plan) or is_short(plan, in_fp16=True)
        if self.lane == "float" or not short or not self._has_magic or plan.infinite_from is not None:
            return super().short_block(block, running)
        (register,), bits, zero = stage.result, stage.fraction_bits, stage.zero_exponent
        assert bits is not None
        lowest = register.format.min_exponent
        # The `special` branch handles zeros, infinities, NaNs, subnormals, and zeros that count above every term.
        few = f" | (largest[j] < {zero})" if zero is not None else ""
        lows, counted = "", "larger(e, of_c)"
        if zero is not None:
            lows = f"short low[W];\n{self.largest(block, 'top', 'low')}"
            counted = f"larger(e, larger(low[j] <= OPERAND_NONE / 2 ? {zero} : e, of_c == NONE ? {zero} : of_c))"
        toward_zero = register.rounding is Rounding.TOWARD_ZERO
        rounded = f"__double2float_{'rz' if toward_zero else 'rn'}(total)"
        infinite = ""
        if toward_zero and (register.overflow or register.format.overflow) == "infinity":
            infinite = """const int beyond = __double2hiint(total) & 0x7FFFFFFF; /* 2**128 or more? */
y = (y == y) & (beyond >= 0x47F00000) ? copysignf(INFINITY, y) : y;"""
        mask = -1 << (23 - register.format.mantissa_bits) if lowest == -126 else -1
        return f"""{{
short top[W];
int largest[W];
double sum[W], magic[W];
{self.largest(block, "top")}
{{
int special = 0;
LANES {{
const int field = (unsigned)(__float_as_int((float){running}[j]) << 1) >> 24;
largest[j] = larger(widen(top[j]), larger(field - 127, {lowest}));
special |= ((unsigned)(field - 1) > 253){few};
}}
if (special) {{
{lows}
LANES {{
const int e = widen(top[j]), of_c = align((float){running}[j], {lowest});
largest[j] = {counted};
}}
}}
}}
LANES magic[j] = pow2({52 - bits} + larger(largest[j], {plan.min_product_exponent}));
{self._sum_above(block, "sum", "magic")}
LANES {{
const int c = __float_as_int((float){running}[j]), field = (unsigned)(c << 1) >> 24;
const int drop = larger(largest[j] - larger(field, 1) + {127 + 23 - bits}, 0); /* bits below the last one kept */
const int own = field == 255 ? c : drop > 23 ? 0 : c & shifted_ones(drop);
const double total = sum[j] + __int_as_float(own);
float y = {rounded if lowest == -126 else "(float)to_fp16(total)"};
{infinite}
{f"if (y == y) y = __int_as_float(__float_as_int(y) & {mask});" if mask != -1 else ""}
{running}[j] = y + 0.0f;
}}
}}"""

    @property
    def _has_magic(self) -> bool:
        """True if a product can be cut by adding it to a number whose last bit is the last one kept."""
        bits = self.plan.product_growth + (self.plan.first.fraction_bits or 0)
        return self.plan.fused_products and self.plan.first.rounding in CUTS and bits <= LANE_BITS - 2

    @property
    def _product(self) -> str:
        """C expression of a product in a loop of `_sum`."""
        if self.plan.infinite_from is None:
            return "(x[j / TN] * y[j % TN])"
        return f"infinite_from((double)(x[j / TN] * y[j % TN]), {self.plan.infinite_from!r})"

    def _sum(self, block: BlockCode, out: str, term: str) -> str:
        """Return text that sets `out[j]` to the sum of a term made of each product."""
        body = f"""lane x[TM], y[TN];
load(x, a + (long)kk * lda); load(y, b + (long)kk * ldb);
LANES {{ {out}[j] += {term}; }}"""
        return f"""LANES {{ {out}[j] = {self.plan.neutral}; }}
{along_k(block, body)}"""

    def _sum_above(self, block: BlockCode, out: str, magic: str) -> str:
        """Return text that sets `out[j]` to the sum of products, each cut at the last bit of `magic[j]`."""
        rounding = self.plan.first.rounding
        assert rounding is not None
        return self._sum(block, out, f"{CUTS[rounding]}(x[j / TN], y[j % TN], {magic}[j])")

    def _cut_as_integers(self, block: BlockCode, inverse: str, out: str) -> str:
        """Return text that sums cut products in single precision, as integers.

        |x| |y| + magic, rounded toward zero, holds |x y| in whole steps in its low bits. Its bits, inverted where x y is
        negative, add up to the signed sum, plus one magic number for every positive product, minus one magic number
        and minus 1 for every negative product. The signs alone give the number of negative products.
        """
        count, step_k = len(block.offsets), self.plan.spec.shape.k
        first = f"({block.base} + {block.offsets[0]})"
        loads = """float x[TM], y[TN]; int p[TM], q[TN];
load(x, a + (long)kk * lda); load(p, ma + (long)kk * lda);
load(y, b + (long)kk * ldb); load(q, mb + (long)kk * ldb);"""
        fast = f"""{loads}
LANES {{ steps[j] += __float_as_int(__fmaf_rz(x[j / TN], y[j % TN], magic[j])) ^ p[j / TN] ^ q[j % TN]; }}"""
        slow = f"""{loads}
LANES {{
  const float xy = __int_as_float(__float_as_int(x[j / TN] * y[j % TN]) ^ ((p[j / TN] ^ q[j % TN]) & 0x80000000));
  {out}[j] += truncf(xy * {inverse}[j]);
}}"""
        return f"""{{
int special = 0;
_Pragma("unroll") for (int j = 0; j < TM; ++j) special |= fa[(long)({first} / {step_k}) * lda + j];
_Pragma("unroll") for (int j = 0; j < TN; ++j) special |= fb[(long)({first} / {step_k}) * ldb + j];
if (special) {{
  LANES {{ {out}[j] = 0.0f; }}
  {along_k(block, slow, 1)}
}} else {{
  int steps[W], negative[W];
  float magic[W];
  LANES {{ steps[j] = 0; negative[j] = 0; magic[j] = magic_of({inverse}[j]); }}
  {along_k(block, fast)}
  for (int t = 0; t < {count}; t += 32) {{
    unsigned p[TM], q[TN];
    load(p, na + (long)(({first} + t) / 32) * lda); load(q, nb + (long)(({first} + t) / 32) * ldb);
    LANES {{ negative[j] += __popc((p[j / TN] ^ q[j % TN]) >> ({first} % 32) & {(1 << min(count, 32)) - 1}u); }}
  }}
  LANES {{
    {out}[j] = (float)(steps[j] - __float_as_int(magic[j]) * ({count} - 2 * negative[j]) + negative[j]);
  }}
}}
}}"""


def along_k(block: BlockCode, body: str, unroll: int = 4) -> str:
    """Return a loop over the products of a block, each at `kk` along K. The inner loop runs over neighbours."""
    first, offsets = block.offsets[0], [o - block.offsets[0] for o in block.offsets]
    run = next((i for i, o in enumerate(offsets) if o != i), len(offsets))
    stride = offsets[run] if run < len(offsets) else 0
    runs = len(offsets) // run
    if offsets != [i // run * stride + i % run for i in range(len(offsets))]:
        raise AssertionError(f"products {block.offsets} are not runs at equal distances")
    return f"""for (int u = 0; u < {runs}; ++u) {{
_Pragma("unroll {unroll}") for (int t = 0; t < {run}; ++t) {{
const int kk = {block.base} + {first} + u * {stride} + t;
{body}
}}
}}"""
