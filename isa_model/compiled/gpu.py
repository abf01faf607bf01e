"""The compiled GPU engine: a spec's step (emit.py) as a CUDA kernel, built at run time by NVRTC.

A thread computes a small tile of D; operands are read K first through the L1 cache. Needs the extra `kernels` (torch
holds the arrays, cuda-core compiles and launches) and an NVIDIA GPU; else `matmul` raises `NoGpu`.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from isa_model.array_codec import code_dtype, decode_array
from isa_model.codec import encode, infinity
from isa_model.compiled.emit import Block, step
from isa_model.formats import Format
from isa_model.instruction import Instruction, ScaleOperand
from isa_model.lanes import NO_EXPONENT, Codes
from isa_model.operands import OPERAND_NO_EXPONENT, Operand
from isa_model.plan import LANE_BITS, Plan
from isa_model.rounding import Rounding
from isa_model.stage import Stage

THREADS_M, THREADS_N = 16, 16


class NoGpu(Exception):
    """This machine cannot run the GPU engine."""


def tile(plan: Plan) -> tuple[int, int]:
    """Rows and columns of D that a thread computes: what fits its registers."""
    return (8, 8) if plan.lane_name == "float" else (4, 4)


def source(plan: Plan) -> str:
    """The CUDA file of a plan: `run` adds A B to C. All arrays are K first, rows and columns filled up to whole tiles."""
    tm, tn = tile(plan)
    prelude = (Path(__file__).parent / "prelude.h").read_text()
    return f"""#define INFINITY __int_as_float(0x7f800000)
#define NAN __int_as_float(0x7fffffff)
{prelude}
{_HELPERS}
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
typedef {plan.lane_name} lane;

extern "C" __global__ void __launch_bounds__({THREADS_M * THREADS_N})
run(int lda, int ldb, int k_end, const lane *__restrict__ a, const unsigned *__restrict__ ea,
    const lane *__restrict__ b, const short *__restrict__ eb, const double *__restrict__ sa,
    const int *__restrict__ esa, const double *__restrict__ sb, const int *__restrict__ esb,
    const {_state_type(plan)} *__restrict__ c, unsigned *__restrict__ d) {{
  const int row = (blockIdx.x * {THREADS_M} + threadIdx.x / {THREADS_N}) * TM;
  const int column = (blockIdx.y * {THREADS_N} + threadIdx.x % {THREADS_N}) * TN;
  a += row; ea += row; sa += row; esa += row;
  b += column; eb += column; sb += column; esb += column;
  c += (long)row * ldb + column; d += (long)row * ldb + column;
  {_state_type(plan)} state[W];
  LANES state[j] = c[(long)(j / TN) * ldb + j % TN];
#pragma unroll 1
  for (int k = 0; k < k_end; k += {plan.spec.shape.k}) {{
{step(plan, Cuda())}
  }}
  LANES d[(long)(j / TN) * ldb + j % TN] = {_encode(plan)};
}}
"""


def _encode(plan: Plan) -> str:
    """The code of `state[j]`, which is a number of the accumulator's format."""
    fmt = plan.spec.accumulator
    if fmt.kind == "integer":
        return f"(unsigned)((long long)state[j] & {(1 << fmt.bits) - 1}ll)"
    infinite = encode(fmt, infinity(False)) if fmt.infinity else 0
    nan = plan.spec.nan_code or 0
    sign = 1 << (fmt.magnitude_bits + fmt.low_padding)
    ends = f"{fmt.mantissa_bits}, {fmt.min_exponent}, {fmt.bias}, {fmt.low_padding}"
    return f"encode(state[j], {ends}, {sign}u, {infinite}u, {nan}u)"


def _state_type(plan: Plan) -> str:
    """float where it holds every number of the accumulator: half the registers."""
    fmt = plan.spec.accumulator
    narrow = fmt.kind == "float" and fmt.mantissa_bits <= 23 and fmt.exponent_bits <= 8 and fmt.min_exponent >= -126
    return "float" if narrow else "double"


_HELPERS = """
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

FN double infinite_from(double p, double limit) { return fabs(p) >= limit ? copysign(INFINITY, p) : p; }

/* The code of a number of a floating-point format. */
FN unsigned encode(double x, int mantissa_bits, int min_exponent, int bias, int padding, unsigned sign, unsigned infinite,
                   unsigned nan) {
  if (x != x) return nan;
  const unsigned s = to_bits(x) < 0 ? sign : 0;
  if (!is_finite(x)) return s | infinite;
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
FN float cut_toward_zero(float x, float y, float magic) {
  const float t = __fmaf_rz(fabsf(x), fabsf(y), magic) - magic;
  return __int_as_float(__float_as_int(t) | ((__float_as_int(x) ^ __float_as_int(y)) & 0x80000000));
}
FN float magic_of(float inverse) { return pow2f(smaller(23 - ((__float_as_int(inverse) >> 23) - 127), 127)); }
FN double cut_nearest(double x, double y, double magic) { return copysign(__fma_rn(x, y, magic) - magic, x * y); }
FN double cut_up(double x, double y, double magic) { return copysign(__fma_ru(x, y, magic) - magic, x * y); }
FN double cut_down(double x, double y, double magic) { return copysign(__fma_rd(x, y, magic) - magic, x * y); }
"""


class Cuda:
    """Inner loops for the GPU: along K outside, over the lanes inside, where every lane has its sum in a register."""

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
        assert stage.rounding is not None
        assert stage.fraction_bits is not None
        bits, lane = plan.product_growth + stage.fraction_bits, plan.lane_name
        room = (LANE_BITS if lane == "double" else 24) - 2
        cuts = {
            Rounding.TOWARD_ZERO: ("cut_toward_zero", 1.0),
            Rounding.NEAREST_EVEN: ("cut_nearest", 1.5),
            Rounding.UP: ("cut_up", 1.5),
            Rounding.DOWN: ("cut_down", 1.5),
        }
        cut, factor = cuts.get(stage.rounding, ("", 0.0))
        if lane == "float" and stage.rounding is not Rounding.TOWARD_ZERO:
            cut = ""
        whole = "wholef" if lane == "float" else "whole"
        if cut and bits <= room and plan.infinite_from is None:
            # In units of the value, not of its last place kept: a product is rounded as it is added to the magic number.
            unit = "pow2(52 - leading({i}))" if lane == "double" else "magic_of({i})"
            before = f"lane magic_{out}[W]; LANES magic_{out}[j] = {factor}f * {unit.format(i=f'{inverse}[j]')};"
            return self._sum(
                block, stage, out, f"{cut}(x[j / TN], y[j % TN], magic_{out}[j])", before, f"* {inverse}[j]"
            )
        product = f"{whole}({self._product(plan)} * {inverse}[j], {stage.rounding.name})"
        return self._sum(block, stage, out, product, "", "")

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


def along_k(block: Block, body: str) -> str:
    """A loop over the products of a block; `kk` is where each is along K. Runs of neighbours become the inner loop."""
    first, offsets = block.offsets[0], [o - block.offsets[0] for o in block.offsets]
    run = next((i for i, o in enumerate(offsets) if o != i), len(offsets))
    stride = offsets[run] if run < len(offsets) else 0
    runs = len(offsets) // run
    if offsets != [i // run * stride + i % run for i in range(len(offsets))]:
        raise AssertionError(f"products {block.offsets} are not runs at equal distances")
    inner = f"""_Pragma("unroll 4") for (int t = 0; t < {run}; ++t) {{
const int kk = {block.base} + {first} + u * {stride} + t;
{body}
}}"""
    return f"for (int u = 0; u < {runs}; ++u) {{\n{inner}\n}}"


# -- running ---------------------------------------------------------------------------------------------------------


def matmul(
    spec: Instruction, a: Codes, b: Codes, c: Codes, scale_a: Codes | None = None, scale_b: Codes | None = None
) -> Codes:
    """D as raw codes, from raw codes: `a` (M, K), `b` (K, N), `c` (M, N), scales one per group; numpy in and out.

    Raises plan.Unsupported for a spec whose values doubles cannot carry exactly, NoGpu without an NVIDIA GPU.
    """
    torch = _torch()
    signed = {1: np.uint8, 2: np.int16, 4: np.int32, 8: np.int64}

    def upload(x: Codes | None) -> Any:
        return None if x is None else torch.from_numpy(np.ascontiguousarray(x).view(signed[x.itemsize])).cuda()

    d = matmul_on_device(spec, *(upload(x) for x in (a, b, c, scale_a, scale_b)))
    codes: Codes = d.cpu().numpy().view(np.uint32).astype(code_dtype(spec.accumulator))
    return codes


def matmul_on_device(
    spec: Instruction, a: Any, b: Any, c: Any = None, scale_a: Any = None, scale_b: Any = None
) -> Any:
    """The same on the GPU: torch tensors of codes (uint8, int16 or int32) in, int32 codes (M, N) out.

    Raises plan.Unsupported and NoGpu as `matmul` does.
    """
    torch = _torch()
    plan = Plan(spec)
    kernel = _kernel(source(plan))
    (m, k), n = a.shape, b.shape[1]
    tm, tn = tile(plan)
    rows, columns = tm * THREADS_M, tn * THREADS_N
    x = _side(plan, spec.a, a.T, spec.scale and spec.scale.a, None if scale_a is None else scale_a.T, 0, rows)
    y = _side(plan, spec.b, b, spec.scale and spec.scale.b, scale_b, 1, columns)
    lda, ldb = x.values.shape[1], y.values.shape[1]
    # An exponent of A meets two of B at once.
    pairs = x.exponents.to(torch.int32)
    pairs = (pairs & 0xFFFF) | (pairs << 16)
    start = torch.zeros((lda, ldb), dtype=_state_type_of(plan), device="cuda")
    if c is not None:
        start[:m, :n] = _numbers(spec.accumulator, c, spec.flush_inputs)
    d = torch.empty((lda, ldb), dtype=torch.int32, device="cuda")
    arrays = [x.values, pairs, y.values, y.exponents, x.scales, x.scale_exponents, y.scales, y.scale_exponents, start, d]
    _launch(kernel, (lda // rows, ldb // columns), (lda, ldb, k), arrays)
    return d[:m, :n]


def _torch() -> Any:
    try:
        import torch
    except ImportError as error:
        raise NoGpu("the GPU engine needs the extra `kernels` (torch, cuda-core)") from error
    if not torch.cuda.is_available():
        raise NoGpu("no NVIDIA GPU is visible here")
    return torch


def _side(plan: Plan, fmt: Format, codes: Any, scale: ScaleOperand | None, scale_codes: Any, axis: int, tile: int) -> Operand:
    """operands.side on the GPU, columns filled up with zeros to a whole number of tiles."""
    torch = _torch()
    columns = codes.shape[1]
    fill = -columns % tile
    if fill:
        codes = torch.nn.functional.pad(codes, (0, fill))
    values = _numbers(fmt, codes, plan.spec.flush_inputs)
    exponents = _exponents(fmt, values)
    scales = scale_exponents = None
    if scale is not None:
        k_group, group = (scale.group[1], scale.group[0]) if axis == 0 else scale.group
        scales = _numbers(scale.format, scale_codes, False).repeat_interleave(group, dim=1)[:, :columns]
        scales = torch.nn.functional.pad(scales, (0, fill)).contiguous()
        scale_exponents = _exponents(scale.format, scales)
        if plan.scales_fold:
            of_k = torch.arange(values.shape[0], device="cuda") // k_group
            values = values * scales[of_k]
            both = (exponents == NO_EXPONENT) | (scale_exponents[of_k] == NO_EXPONENT)
            exponents = torch.where(both, NO_EXPONENT, exponents + scale_exponents[of_k])
            scales = scale_exponents = None
    lane = torch.float32 if plan.lane_name == "float" else torch.float64
    short = exponents.clamp(min=OPERAND_NO_EXPONENT).to(torch.int16)
    return Operand(values.to(lane).contiguous(), short.contiguous(), scales, scale_exponents)


def _numbers(fmt: Format, codes: Any, flush: bool) -> Any:
    """The numbers of codes, as float64 on the GPU."""
    torch = _torch()
    if fmt.storage_bits <= 16:
        index = codes.to(torch.int32) & ((1 << fmt.storage_bits) - 1)
        values = _table(fmt)[index]
    elif fmt.name in ("fp32", "tf32"):
        values = (codes & ~((1 << fmt.low_padding) - 1)).contiguous().view(torch.float32).to(torch.float64)
    else:
        values = torch.from_numpy(decode_array(fmt, codes.cpu().numpy().view(code_dtype(fmt)))).cuda()
    return torch.where(values.abs() < 2.0**fmt.min_exponent, 0.0, values) if flush else values


@cache
def _table(fmt: Format) -> Any:
    return _torch().from_numpy(decode_array(fmt, np.arange(1 << fmt.storage_bits, dtype=code_dtype(fmt)))).cuda()


def _exponents(fmt: Format, values: Any) -> Any:
    """lanes.exponent_of on the GPU, int32."""
    torch = _torch()
    if fmt.kind == "integer":
        return torch.where(values == 0, NO_EXPONENT, 0).to(torch.int32)
    field = (values.view(torch.int64) >> 52 & 0x7FF) - 1023
    nothing = (values == 0) | ~torch.isfinite(values)
    return torch.where(nothing, NO_EXPONENT, field.clamp(min=fmt.min_exponent)).to(torch.int32)


def _state_type_of(plan: Plan) -> Any:
    torch = _torch()
    return torch.float32 if _state_type(plan) == "float" else torch.float64


@cache
def _kernel(text: str) -> Any:
    return compiled(text, "cubin").get_kernel("run")


def compiled(text: str, kind: str) -> Any:
    """Machine code (`cubin`) or assembly (`ptx`) of a CUDA file, by NVRTC; works without a GPU."""
    try:
        from cuda.core import Program, ProgramOptions
    except ImportError as error:
        raise NoGpu("the GPU engine needs the extra `kernels` (torch, cuda-core)") from error
    return Program(text, "c++", ProgramOptions(arch="sm_90a", std="c++17", fma=False)).compile(kind)


def _launch(kernel: Any, grid: tuple[int, int], sizes: tuple[int, ...], arrays: list[Any]) -> None:
    """Launch on torch's stream; a missing array is a null pointer."""
    from cuda.core import Device, LaunchConfig, Stream, launch

    torch = _torch()
    Device(torch.cuda.current_device()).set_current()
    stream = Stream.from_handle(torch.cuda.current_stream().cuda_stream)
    pointers = [0 if x is None else x.data_ptr() for x in arrays]
    numbers = [np.int32(size) for size in sizes]
    launch(stream, LaunchConfig(grid=grid, block=THREADS_M * THREADS_N), kernel, *numbers, *pointers)
