"""The CUDA text of a spec's step: a kernel in which a thread computes a small tile of D.

Operands are read K first through the L1 cache. `source` needs no GPU and no CUDA; gpu.py compiles and runs it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import frexp
from pathlib import Path
from typing import ClassVar

from isa_model.engines.emit import Block, Emitter, Term, special_codes
from isa_model.engines.plan import RANGE, Plan
from isa_model.engines.routes import c_is_apart, is_short
from isa_model.float64 import LANE_BITS
from isa_model.formats import Format
from isa_model.rounding import Rounding
from isa_model.stage import Register, Stage

THREADS_M, THREADS_N = 16, 16


def lane(plan: Plan) -> str:
    """The type in which products are cut.

    `float` has a loop of its own, which rounds as it multiplies and sums the bits as integers: for blocks of neighbours
    cut towards zero, with room for the magic number.
    """
    stage = next(iter(plan.spec.stages.values()))
    neighbours = stage.interleave is None and (32 % stage.terms == 0 or stage.terms % 32 == 0)
    fits = (
        plan.lane_name == "float"
        and stage.rounding is Rounding.TOWARD_ZERO
        and stage.zero == "positive"
        and plan.infinite_from is None
        and plan.product_growth + (stage.fraction_bits or 0) <= 22
    )
    return "float" if neighbours and fits else "double"


def tile(plan: Plan) -> tuple[int, int]:
    """Rows and columns of D that a thread computes: what fits its registers."""
    return (8, 4) if lane(plan) == "float" else (4, 4)


def source(plan: Plan) -> str:
    """The CUDA file of a plan: `run` adds A B to C. All arrays are K first, rows and columns filled up to whole tiles."""
    tm, tn = tile(plan)
    prelude = (Path(__file__).parent / "prelude.h").read_text()
    return f"""#define INFINITY __int_as_float(0x7f800000)
#define NAN __int_as_float(0x7fffffff)
{prelude}
{HELPERS}
#define TM {tm}
#define TN {tn}
#define W (TM * TN)
#define LANES _Pragma("unroll") for (int j = 0; j < W; ++j)
#define A(k, j) a[(long)(k) * lda + (j) / TN]
#define EA(k, j) (short)ea[(long)(k) * lda + (j) / TN]
#define B(k, j) b[(long)(k) * ldb + (j) % TN]
#define EB(k, j) eb[(long)(k) * ldb + (j) % TN]
#define SA(g, j) sa[(long)(g) * lda + (j) / TN]
#define ESA(g, j) esa[(long)(g) * lda + (j) / TN]
#define SB(g, j) sb[(long)(g) * ldb + (j) % TN]
#define ESB(g, j) esb[(long)(g) * ldb + (j) % TN]
#define C(j) state[j]
typedef {lane(plan)} lane;

/* a, b: numbers, magnitudes if lane is float. ea, eb: exponents, those of A twice over. sa, esa, sb, esb: group scales.
 * For float lanes: ma, mb: -1 where the number is negative; na, nb: the same, 32 of K in a word; fa, fb: whether
 * something is not finite in a step. */
extern "C" __global__ void __launch_bounds__({THREADS_M * THREADS_N}, 2)
run(int lda, int ldb, int k_end, const lane *__restrict__ a, const unsigned *__restrict__ ea,
    const lane *__restrict__ b, const short *__restrict__ eb, const double *__restrict__ sa,
    const int *__restrict__ esa, const double *__restrict__ sb, const int *__restrict__ esb,
    const int *__restrict__ ma, const int *__restrict__ mb, const unsigned *__restrict__ na,
    const unsigned *__restrict__ nb, const unsigned char *__restrict__ fa, const unsigned char *__restrict__ fb,
    const {state_type(plan)} *__restrict__ c, unsigned *__restrict__ d) {{
  const int row = (blockIdx.x * {THREADS_M} + threadIdx.x / {THREADS_N}) * TM;
  const int column = (blockIdx.y * {THREADS_N} + threadIdx.x % {THREADS_N}) * TN;
  a += row; ea += row; sa += row; esa += row; ma += row; na += row; fa += row;
  b += column; eb += column; sb += column; esb += column; mb += column; nb += column; fb += column;
  c += (long)row * ldb + column; d += (long)row * ldb + column;
  {state_type(plan)} state[W];
  LANES state[j] = c[(long)(j / TN) * ldb + j % TN];
#pragma unroll 1
  for (int k = 0; k < k_end; k += {plan.spec.shape.k}) {{
{CudaEmitter(plan, Cuda(lane(plan))).step()}
  }}
  LANES d[(long)(j / TN) * ldb + j % TN] = {encoded(plan)};
}}
"""


def encoded(plan: Plan) -> str:
    """The code of `state[j]`, which is a number of the accumulator's format."""
    fmt = plan.spec.accumulator
    if fmt.kind == "integer":
        return f"(unsigned)((long long)state[j] & {(1 << fmt.mantissa_bits) - 1}ll) << {fmt.low_padding}"
    sign = 1 << (fmt.magnitude_bits + fmt.low_padding)
    codes = ", ".join(f"{code}u" for code in (sign, *special_codes(plan.spec)))
    return f"encode(state[j], {fmt.mantissa_bits}, {fmt.min_exponent}, {fmt.bias}, {fmt.low_padding}, {codes})"


def state_type(plan: Plan) -> str:
    """float where it holds every number of C and D: half the registers."""

    def fits(fmt: Format) -> bool:
        return fmt.kind == "float" and fmt.mantissa_bits <= 23 and fmt.exponent_bits <= 8 and fmt.min_exponent >= -126

    return "float" if fits(plan.spec.accumulator) and fits(plan.spec.c_format) else "double"


class CudaEmitter(Emitter):
    """Adds two or three parts by the chip's rounding modes, and ends blocks in FP32 where they are rounded to it once."""

    def to_odd(self, parts: Sequence[str]) -> str:
        if not 2 <= len(parts) <= 3:
            return super().to_odd(parts)
        return self.let("double", f"sum_to_odd({', '.join(parts)})", "odd")

    def cut(self, value: str, known: str, fraction_bits: int | None, stage: Stage) -> str:
        index = next(i for i, s in enumerate(self.stages) if s is stage)
        growth = max(term.growth for term in self.plan.addends[index])
        if stage.rounding not in (Rounding.DOWN, Rounding.UP) or growth + (fraction_bits or 0) > LANE_BITS - 3:
            return super().cut(value, known, fraction_bits, stage)
        mode = "rd" if stage.rounding is Rounding.DOWN else "ru"
        magic = self.let("double", f"1.5 * pow2(52 + {known} - {fraction_bits})", "magic")
        return self.let("double", f"copysign(__dadd_{mode}({value}, {magic}) - {magic}, {value})", "c")

    def summed(self, index: int, stage: Stage, parts: Sequence[str], largest: str) -> Term:
        self.top = self.plan.levels[index].top
        term = super().summed(index, stage, parts, largest)
        self.top = RANGE
        return term

    top = RANGE
    """What is being rounded is below 2 to this power."""

    def rounded(self, value: str, register: Register) -> str:
        text = super().rounded(value, register)
        if register.format.kind == "float" and self.top <= register.format.max_exponent:
            overflow = f"OVER_{(register.overflow or register.format.overflow).upper()},"
            self.lines[-1] = self.lines[-1].replace(overflow, "OVER_NEVER,")
        return text

    def run_block(self, index: int, n: int, k: str, value: str) -> None:
        stage = self.stages[0]
        magic = (
            isinstance(self.target, Cuda) and self.target.magic(self.plan, stage) and self.plan.infinite_from is None
        )
        short = is_short(self.plan) or is_short(self.plan, in_fp16=True)
        if index > 0 or not magic or self.target.lane == "float" or not short:
            super().run_block(index, n, k, value)
            return
        with self.apart_from_c(n, k, value):
            self.short_block(stage, Block(k, tuple(self.terms(0, n))), value)

    @contextmanager
    def apart_from_c(self, n: int, k: str, value: str) -> Iterator[None]:
        """What is written inside does not meet C where C's format is not the register's: the longer text meets it."""
        apart = c_is_apart(self.plan) if n == 0 else ""
        if apart:
            self.write(f"if (({k}) {apart}) {{")
            super().run_block(0, n, k, value)
            self.write("} else {")
        yield
        if apart:
            self.write("}")

    def short_block(self, stage: Stage, block: Block, value: str) -> None:
        """A block of products cut by magic numbers, with the running value, an FP32 number cut by its bits."""
        assert isinstance(self.target, Cuda)
        plan, (register,), bits, zero = self.plan, stage.result, stage.fraction_bits, stage.zero_exponent
        assert bits is not None
        tops, largest = self.array("short", "top"), self.array("int", "largest")
        sums, magic = self.array("double", "sum"), self.array("double", "magic")
        self.write(self.target.largest(plan, block, tops, None))
        lowest = register.format.min_exponent
        # Zeros, infinities and NaNs, subnormals, and zeros that count above every term, are seen to apart.
        few = f" | ({largest}[j] < {zero})" if zero is not None else ""
        self.write(f"""{{
int special = 0;
LANES {{
const int field = (unsigned)(__float_as_int((float){value}) << 1) >> 24;
{largest}[j] = larger(widen({tops}[j]), larger(field - 127, {lowest}));
special |= ((unsigned)(field - 1) > 253){few};
}}
if (special) {{""")
        lows = self.array("short", "low") if zero is not None else None
        if lows:
            self.write(self.target.largest(plan, block, tops, lows))
        counted = f"larger({lows}[j] <= OPERAND_NONE / 2 ? {zero} : e, of_c == NONE ? {zero} : of_c)"
        self.write(f"""LANES {{
const int e = widen({tops}[j]), of_c = align((float){value}, {lowest});
{largest}[j] = {f"larger(e, {counted})" if lows else "larger(e, of_c)"};
}}
}}
}}
LANES {magic}[j] = pow2({52 - bits} + larger({largest}[j], {plan.min_product_exponent}));""")
        self.write(self.target.sum_above(block, stage, sums, magic))
        toward_zero = register.rounding is Rounding.TOWARD_ZERO
        over = (register.overflow or register.format.overflow) == "infinity" and toward_zero
        infinite = "y = (y == y) & (beyond >= 0x47F00000) ? copysignf(INFINITY, y) : y;" if over else ""
        mask = -1 << (23 - register.format.mantissa_bits) if lowest == -126 else -1
        rounded = (
            f"__double2float_{'rz' if toward_zero else 'rn'}(total)" if lowest == -126 else "(float)to_fp16(total)"
        )
        self.write(f"""LANES {{
const int c = __float_as_int((float){value}), field = (unsigned)(c << 1) >> 24;
const int drop = larger({largest}[j] - larger(field, 1) + {127 + 23 - bits}, 0); /* bits below the last one kept */
const int own = field == 255 ? c : drop > 23 ? 0 : c & shifted_ones(drop);
const double total = {sums}[j] + __int_as_float(own);
float y = {rounded};
{"const int beyond = __double2hiint(total) & 0x7FFFFFFF; /* 2**128 or more? */" if over else ""}
{infinite}
{f"if (y == y) y = __int_as_float(__float_as_int(y) & {mask});" if mask != -1 else ""}
{value} = y + 0.0f;
}}""")


HELPERS = """
/* N neighbours at an address that is a multiple of their size, in as few loads as there are 16 bytes. */
template <int N, typename T> FN void load(T (&x)[N], const T *p) {
  constexpr int V = 16 / sizeof(T) < N ? 16 / sizeof(T) : N;
  struct alignas(V * sizeof(T)) Vector { T v[V]; };
#pragma unroll
  for (int i = 0; i < N / V; ++i) {
    const Vector v = reinterpret_cast<const Vector *>(p)[i];
#pragma unroll
    for (int l = 0; l < V; ++l) x[i * V + l] = v.v[l];
  }
}

/* x + y rounded to odd: of the two doubles around it, the odd one. */
FN double sum_to_odd(double x, double y) {
  const double down = __dadd_rd(x, y), up = __dadd_ru(x, y);
  return __double2loint(down) & 1 ? down : up;
}
/* The same of three, where the first two do not add exactly (Shewchuk 1997; see lanes.to_odd). */
static __device__ __noinline__ double slow_sum_to_odd(double x, double y, double z) {
  const double xy = x + y, e = sum_error(x, y, xy), ez = e + z, low = sum_error(e, z, ez);
  const double head = xy + ez, next = sum_error(xy, ez, head);
  const double top = head + next, a = sum_error(head, next, top), high = top + low, b = sum_error(top, low, high);
  const double ab = a + b, left = jam(ab, sum_error(a, b, ab)), total = high + left;
  const double odd = total != 0 ? jam(total, sum_error(high, left, total)) : (x == 0) & (y == 0) & (z == 0) ? xy + z : 0.0;
  return is_finite(xy + z) ? odd : xy + z;
}
FN double sum_to_odd(double x, double y, double z) {
  const double down = __dadd_rd(x, y), up = __dadd_ru(x, y);
  return __double2loint(down) == __double2loint(up) ? sum_to_odd(up, z) : slow_sum_to_odd(x, y, z);
}

/* The nearest FP16 number. */
FN double to_fp16(double x) { return convert(x, NEAREST_EVEN, 15, 10); }
/* Bits n and above; none from 32 on. */
FN int shifted_ones(int n) {
  int mask;
  asm("shl.b32 %0, -1, %1;" : "=r"(mask) : "r"(n));
  return mask;
}

FN double infinite_from(double p, double limit) { return fabs(p) >= limit ? copysign(INFINITY, p) : p; }

/* The code of a number of a floating-point format. */
FN unsigned encode(double x, int mantissa_bits, int min_exponent, int bias, int padding, unsigned sign, unsigned infinite,
                   unsigned minus_infinite, unsigned nan, unsigned minus_zero) {
  if (x != x) return nan;
  const unsigned s = to_bits(x) < 0 ? sign : 0;
  if (!is_finite(x)) return s ? minus_infinite : infinite;
  if (x == 0) return s ? minus_zero : 0;
  const int e = larger(leading(x), min_exponent);
  const long long significand = (long long)(fabs(x) * pow2(mantissa_bits - e)); /* the leading bit adds to the field */
  const int field = e + bias - 1 + (min_exponent == -bias);
  return s | (unsigned)((((long long)field << mantissa_bits) + significand) << padding);
}

/* x * y rounded to a multiple of a unit; magic is 2**52 units (1.5 * 2**52 for signed x * y), far above |x * y|. */
FN double cut_toward_zero(double x, double y, double magic) {
  const double t = __fma_rz(fabs(x), fabs(y), magic) - magic;
  return from_bits(to_bits(t) | ((to_bits(x) ^ to_bits(y)) & (1ll << 63)));
}
FN float magic_of(float inverse) { return pow2f(smaller(23 - ((__float_as_int(inverse) >> 23) - 127), 127)); }
FN double cut_nearest(double x, double y, double magic) { return copysign(__fma_rn(x, y, magic) - magic, x * y); }
FN double cut_up(double x, double y, double magic) { return copysign(__fma_ru(x, y, magic) - magic, x * y); }
FN double cut_down(double x, double y, double magic) { return copysign(__fma_rd(x, y, magic) - magic, x * y); }
"""


@dataclass(frozen=True)
class Cuda:
    """Inner loops for the GPU: along K outside, over the lanes inside, where every lane has its sum in a register."""

    lane: str

    def largest(self, plan: Plan, block: Block, out: str, smallest: str | None) -> str:
        pairs = f"unsigned pairs_{out}[W / 2];"
        low = f"unsigned pairs_{smallest}[W / 2];" if smallest else ""
        start = f"pairs_{out}[j] = 0x80008000u;" + (f" pairs_{smallest}[j] = 0x7fff7fffu;" if smallest else "")
        sums = f"pairs_{out}[j] = __viaddmax_s16x2(x[j / (TN / 2)], y[j % (TN / 2)], pairs_{out}[j]);"
        if smallest:
            sums += f" pairs_{smallest}[j] = __viaddmin_s16x2(x[j / (TN / 2)], y[j % (TN / 2)], pairs_{smallest}[j]);"
        unpack = f"{out}[j] = (short)(pairs_{out}[j / 2] >> (j % 2 * 16));"
        if smallest:
            unpack += f" {smallest}[j] = (short)(pairs_{smallest}[j / 2] >> (j % 2 * 16));"
        body = f"""unsigned x[TM], y[TN / 2];
load(x, ea + (long)kk * lda); load(y, (const unsigned *)(eb + (long)kk * ldb));
_Pragma("unroll") for (int j = 0; j < W / 2; ++j) {{ {sums} }}"""
        return f"""{pairs} {low}
_Pragma("unroll") for (int j = 0; j < W / 2; ++j) {{ {start} }}
{along_k(block, body)}
LANES {{ {unpack} }}"""

    def cut_sum(self, plan: Plan, block: Block, stage: Stage, inverse: str, out: str) -> str:
        if self.lane == "float":
            return self._cut_as_integers(plan, block, inverse, out)
        assert stage.rounding is not None
        assert stage.fraction_bits is not None
        product = f"whole({self._product(plan)} * {inverse}[j], {stage.rounding.name})"
        slow = self._sum(block, stage, out, product, "", "")
        if not self.magic(plan, stage):
            return slow
        # In units of the value, not of its last place kept: a product is rounded as it is added to the magic number.
        factor = 1.0 if stage.rounding is Rounding.TOWARD_ZERO else 1.5
        fast = f"""double magic_{out}[W]; LANES magic_{out}[j] = {factor} * pow2(52 - leading({inverse}[j]));
{self.sum_above(block, stage, out, f"magic_{out}")}
LANES {{ {out}[j] = {out}[j] * {inverse}[j]; }}"""
        if plan.infinite_from is None:
            return fast
        # Only a block with an exponent as large as this has products that count as infinite.
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

    CUTS: ClassVar = {
        Rounding.TOWARD_ZERO: "cut_toward_zero",
        Rounding.NEAREST_EVEN: "cut_nearest",
        Rounding.UP: "cut_up",
        Rounding.DOWN: "cut_down",
    }

    def magic(self, plan: Plan, stage: Stage) -> bool:
        """Whether a product can be cut as it is added to a number whose last bit is the last one kept."""
        bits = plan.product_growth + (stage.fraction_bits or 0)
        return plan.fused_products and stage.rounding in self.CUTS and bits <= LANE_BITS - 2

    def sum_above(self, block: Block, stage: Stage, out: str, magic: str) -> str:
        """Text that sets `out[j]` to the sum of products, each cut at the last bit of `magic[j]`."""
        assert stage.rounding is not None
        return self._sum(block, stage, out, f"{self.CUTS[stage.rounding]}(x[j / TN], y[j % TN], {magic}[j])", "", "")

    @staticmethod
    def _cut_as_integers(plan: Plan, block: Block, inverse: str, out: str) -> str:
        """Sum of cut products in single precision, as integers.

        |x| |y| + magic, rounded towards zero, holds |x y| in whole steps in its low bits. Its bits, inverted where x y is
        negative, add up to the signed sum, the magic numbers (as many as positive less negative products) and one
        less for every negative product, whose number is known from the signs alone.
        """
        count = len(block.offsets)
        first = f"({block.base} + {block.offsets[0]})"
        body = """float x[TM], y[TN]; int p[TM], q[TN];
load(x, a + (long)kk * lda); load(p, ma + (long)kk * lda);
load(y, b + (long)kk * ldb); load(q, mb + (long)kk * ldb);
LANES { steps[j] += __float_as_int(__fmaf_rz(x[j / TN], y[j % TN], magic[j])) ^ p[j / TN] ^ q[j % TN]; }"""
        slow = f"""float x[TM], y[TN]; int p[TM], q[TN];
load(x, a + (long)kk * lda); load(p, ma + (long)kk * lda);
load(y, b + (long)kk * ldb); load(q, mb + (long)kk * ldb);
LANES {{
  const float xy = __int_as_float(__float_as_int(x[j / TN] * y[j % TN]) ^ ((p[j / TN] ^ q[j % TN]) & 0x80000000));
  {out}[j] += truncf(xy * {inverse}[j]);
}}"""
        return f"""{{
int special = 0;
_Pragma("unroll") for (int j = 0; j < TM; ++j) special |= fa[(long)({first} / {plan.spec.shape.k}) * lda + j];
_Pragma("unroll") for (int j = 0; j < TN; ++j) special |= fb[(long)({first} / {plan.spec.shape.k}) * ldb + j];
if (special) {{
  LANES {{ {out}[j] = 0.0f; }}
  {along_k(block, slow, 1)}
}} else {{
  int steps[W], negative[W];
  float magic[W];
  LANES {{ steps[j] = 0; negative[j] = 0; magic[j] = magic_of({inverse}[j]); }}
  {along_k(block, body, 4)}
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

    def exact_sum(self, plan: Plan, block: Block, stage: Stage, out: str) -> str:
        return self._sum(block, stage, out, self._product(plan), "", "")

    @staticmethod
    def _product(plan: Plan) -> str:
        if plan.infinite_from is None:
            return "(x[j / TN] * y[j % TN])"
        return f"infinite_from((double)(x[j / TN] * y[j % TN]), {plan.infinite_from!r})"

    @staticmethod
    def _sum(block: Block, stage: Stage, out: str, term: str, before: str, after: str) -> str:
        zero = "-0.0" if stage.zero == "ieee" else "0.0"
        body = f"""lane x[TM], y[TN];
load(x, a + (long)kk * lda); load(y, b + (long)kk * ldb);
LANES {{ {out}[j] += {term}; }}"""
        return f"""{before}
LANES {{ {out}[j] = {zero}; }}
{along_k(block, body)}
""" + (f"LANES {{ {out}[j] = {out}[j] {after}; }}" if after else "")


def along_k(block: Block, body: str, unroll: int = 4) -> str:
    """A loop over the products of a block; `kk` is where each is along K. Runs of neighbours become the inner loop."""
    first, offsets = block.offsets[0], [o - block.offsets[0] for o in block.offsets]
    run = next((i for i, o in enumerate(offsets) if o != i), len(offsets))
    stride = offsets[run] if run < len(offsets) else 0
    runs = len(offsets) // run
    if offsets != [i // run * stride + i % run for i in range(len(offsets))]:
        raise AssertionError(f"products {block.offsets} are not runs at equal distances")
    inner = f"""_Pragma("unroll {unroll}") for (int t = 0; t < {run}; ++t) {{
const int kk = {block.base} + {first} + u * {stride} + t;
{body}
}}"""
    return f"for (int u = 0; u < {runs}; ++u) {{\n{inner}\n}}"
