"""The CPU engine: a spec's step (emit.py) as vector code of the machine's own C compiler, on all cores.

Compiled once per spec and machine (c_library.py). Where there is no C compiler `matmul` raises `NoCompiler`, and the
numpy engine takes over.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from isa_model.array_codec import code_dtype
from isa_model.engines.c_library import FLAGS, load
from isa_model.engines.c_library import NoCompiler as NoCompiler
from isa_model.engines.emit import Emitter, step
from isa_model.engines.operands import NestedScales, joined, of_side
from isa_model.engines.plan import Plan
from isa_model.engines.register_text import left, mode
from isa_model.engines.target import BlockCode, Target, code_of
from isa_model.float64 import Codes
from isa_model.formats import Format
from isa_model.instruction import Instruction
from isa_model.sparse import elements

WIDTH, NARROW = 64, 16
"""Columns of D computed together, and those for products of few columns; multiples of every vector unit's width."""
SOONER = ("-O2", *FLAGS[1:])
"""Options for products of few columns: compiling takes about half the time, and the products at most a sixth more."""
ROWS = 128
"""Most rows of D in a tile, which is one task of a thread."""
CHUNK = 256
"""Approximate number of products along K that a thread reads at a time."""
WORK_OF_A_THREAD = 1 << 18
"""Multiply-accumulates above which one more thread pays."""

MOST_LINES = 4000
"""Most lines of C to compile. A compiler takes seconds for them and minutes for twice as many; real instructions need 800."""


def matmul(
    spec: Instruction,
    a: Codes,
    b: Codes,
    c: Codes,
    scale_a: Any = None,
    scale_b: Any = None,
    seed: int = 0,
    positions: Codes | None = None,
) -> Codes:
    """Return D as raw codes, from raw codes: `a` (M, K), `b` (K, N), `c` (M, N), scales one per group.

    `positions` (lines, runs) are those of a sparse operand, as `sparse.checked` returns them.
    Raises plan.Unsupported for a spec whose values doubles cannot carry exactly, NoCompiler without a C compiler.
    """
    return prepared(spec)(a, b, c, scale_a, scale_b, seed, positions)


def prepared(spec: Instruction, width: int = WIDTH, most_threads: int | None = None) -> Callable[..., Codes]:
    """Return `matmul` for one spec, compiled once for many small products. Raises as `matmul` does.

    `width` is the number of columns computed together. At most `most_threads` threads run (default: one per core).
    """
    function, dtype = compiled(Plan(spec), width), code_dtype(spec.accumulator)

    def multiply(
        a: Codes,
        b: Codes,
        c: Codes,
        scale_a: Any = None,
        scale_b: Any = None,
        seed: int = 0,
        positions: Codes | None = None,
    ) -> Codes:
        (m, n), k = c.shape, a.shape[1]
        d = np.empty((m, n), dtype)
        scales = joined(spec, scale_a, scale_b)
        picks = None
        if spec.sparsity and positions is not None:
            picks = elements(spec.sparsity, positions).astype(np.int32, "F" if spec.sparsity.operand == "b" else "C")
            k = picks.shape[1]
        matrices: list[Any] = [a, b, c, d, *(_packed(x) if isinstance(x, NestedScales) else x for x in scales), picks]
        strides = [0 if x is None else x.strides[axis] // x.itemsize for x in matrices for axis in (0, 1)]
        pointers = [None if x is None else x.ctypes.data for x in matrices]
        threads = min(most_threads or cores(), 1 + m * n * k // WORK_OF_A_THREAD)
        failed = function(
            *(ctypes.c_long(size) for size in (m, n, k)),
            ctypes.c_int(threads),
            ctypes.c_ulonglong(seed),
            (ctypes.c_long * len(strides))(*strides),
            (ctypes.c_void_p * len(pointers))(*pointers),
        )
        if failed:
            raise MemoryError("no memory for the buffers of a thread")
        return d

    return multiply


def _packed(scales: NestedScales) -> Any:
    """Return scales in the layout of the C type `nested_scale`."""
    packed = np.empty(scales.values.shape, [("value", "f8"), ("exponent", "i8")])
    packed["value"], packed["exponent"] = scales.values, scales.exponents
    return packed


@cache
def cores() -> int:
    """Return the number of cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS
        return os.cpu_count() or 1


# -- compiling -------------------------------------------------------------------------------------------------------


def compiled(plan: Plan, width: int = WIDTH) -> Any:
    """Return the C function of a plan, from the cache folder if it is there. Raises NoCompiler as `matmul` does."""
    text = source(plan, width)
    if text.count("\n") > MOST_LINES:
        raise NoCompiler(f"a step of {text.count(chr(10))} lines of C: at most {MOST_LINES} are compiled")
    # Random bits are drawn in loops that only the first options turn into vector code.
    return _load(text, SOONER if width == NARROW and not plan.spec.is_stochastic else FLAGS)


@cache
def _load(text: str, flags: tuple[str, ...]) -> Any:
    return load(text, flags)


def source(plan: Plan, width: int = WIDTH) -> str:
    """Return the C file of a plan: prelude.h, the types and sizes of this spec, its step, and cpu.c."""
    spec, here = plan.spec, Path(__file__).parent
    burst = max(1, 32 // spec.shape.k) * spec.shape.k
    sparsity, columns_pick = plan.sparsity, _columns_pick(plan)
    chunk = max(1, (sparsity.stored(CHUNK) if sparsity else CHUNK) // burst) * burst
    whole = (
        f"(k) * {sparsity.of}L / {sparsity.kept}" if sparsity else "(k)"
    )  # elements of the operand that is picked from
    of_a = "((k) - k0) * W + j" if columns_pick else "(k) - k0"
    defines = {
        "W": width,
        "ROWS": ROWS,
        "STEP": spec.shape.k,
        "BURST": burst,
        "CHUNK": chunk,
        "MOST_THREADS": 1024,
        "LANES": '_Pragma("omp simd") for (int j = 0; j < W; ++j)',
        "PICKS": "0" if sparsity is None else "OF_COLUMNS" if columns_pick else "OF_ROWS",
        "ALONG_A(k)": whole if columns_pick else "(k)",
        "ALONG_B(k)": "(k)" if columns_pick else whole,
        "A(k, j)": f"a[{of_a}]",
        "EA(k, j)": f"ea[{of_a}]",
        "B(k, j)": "b[((k) - k0) * W + j]",
        "EB(k, j)": "eb[((k) - k0) * W + j]",
        "SA(g, j)": "sa[(g) - k0 / GROUP_A_K]",
        "ESA(g, j)": "esa[(g) - k0 / GROUP_A_K]",
        "SB(g, j)": "sb[((g) - k0 / GROUP_B_K) * W + j]",
        "ESB(g, j)": "esb[((g) - k0 / GROUP_B_K) * W + j]",
        "SCALES_FOLD": int(plan.scales_fold),
        "ROW_OF(j)": "row",
        "COLUMN_OF(j)": "(column + j)",
        "NUMBER_C(code)": _number(spec.c_format, spec.flush_c),
        "CODE_D(x)": f"({code_of(spec, 'x')})",
        "LEFT(x)": left(spec, "(x)"),
        "TWO_REGISTERS": int(spec.remainder is not None),
    }
    types = {"lane": plan.lane_name, "code_c": _type(spec.c_format), "code_d": _type(spec.accumulator)}
    for is_a, letter in ((True, "A"), (False, "B")):
        fmt, scale, along, across = of_side(spec, is_a)
        types[f"code_{letter.lower()}"] = _type(fmt)
        narrow = _is_narrow(fmt) and not spec.flush_operands
        types[f"number_{letter.lower()}"] = "float" if narrow else "double"
        defines[f"NUMBER_{letter}(code)"] = _number(fmt, spec.flush_operands, narrow)
        aligned = spec.widen or fmt
        usual = Emitter.align("x", aligned)
        defines[f"ALIGN_{letter}(x)"] = f"align_narrow(x, {aligned.min_exponent})" if narrow else usual
        defines[f"GROUP_{letter}_K"], defines[f"GROUP_{letter}_{'M' if is_a else 'N'}"] = f"{along}L", f"{across}L"
        defines[f"GROUPS_{letter}"] = (chunk - 1) // along + 2 if scale else 1
        if scale:
            plain = not scale.coarser
            types[f"code_s{letter.lower()}"] = _type(scale.format) if plain else "nested_scale"
            defines[f"NUMBER_S{letter}(code)"] = _number(scale.format, False) if plain else "(code).value"
            defines[f"ALIGN_S{letter}(x, code)"] = Emitter.align("x", scale.format) if plain else "(int)(code).exponent"
    return "\n".join(
        [
            (here / "prelude.h").read_text(),
            *(f"#define {name} {value}" for name, value in defines.items()),
            "typedef struct { double value; int64_t exponent; } nested_scale;",
            *(f"typedef {c_type} {name};" for name, c_type in types.items()),
            "static void step(int k, int k0, const lane *restrict a, const short *restrict ea, const lane *restrict b,",
            "                 const short *restrict eb, const double *restrict sa, const int *restrict esa,",
            "                 const double *restrict sb, const int *restrict esb, double *restrict state,",
            "                 double *restrict second, unsigned row, unsigned column, unsigned long long seed) {",
            step(Cpu(plan)),
            "}",
            (here / "cpu.c").read_text(),
        ]
    )


def _columns_pick(plan: Plan) -> bool:
    """Return whether B is sparse, so that each of its columns picks elements of A."""
    return plan.sparsity is not None and plan.sparsity.operand == "b"


def _type(fmt: Format) -> str:
    return f"uint{fmt.storage_bits}_t"


def _table(fmt: Format) -> str:
    """Return the C expression of the table of a format's numbers."""
    words = {"nan": "NAN", "infinity": "INFINITY", "-infinity": "-INFINITY"}
    numbers = [words[x] if isinstance(x, str) else float(x).hex() for x in fmt.values]
    return f"(const double[]){{{', '.join(numbers)}}}"


def _is_narrow(fmt: Format) -> bool:
    """Return whether a floating-point format has at most 16 bits, and all its numbers are normal ones of a float."""
    return fmt.kind == "float" and fmt.storage_bits <= 16 and fmt.min_lsb_exponent >= -126 and fmt.max_exponent <= 127


def _number(fmt: Format, flush: bool | str, narrow: bool = False) -> str:
    """Return the C expression that decodes `code`; in float if it is `narrow`."""
    if fmt.kind == "table":
        return f"({_table(fmt)})[(code) & {(1 << fmt.bits) - 1}]"
    if fmt.kind == "integer":
        return f"whole_number((code) >> {fmt.low_padding}, {fmt.mantissa_bits}, {int(fmt.signed)})"
    fields = (fmt.low_padding, fmt.mantissa_bits, fmt.magnitude_bits, fmt.bias, (2.0**fmt.min_lsb_exponent).hex())
    rules = (fmt.zero, fmt.max_finite_magnitude, fmt.infinity, fmt.signed, fmt.nan == "negative-zero")
    text = f"{'narrow_number' if narrow else 'number'}(code, {', '.join(str(x) for x in (*fields, *map(int, rules)))})"
    return f"flushed({text}, {(2.0**fmt.min_exponent).hex()}, {int(flush == 'keep-sign')})" if flush else text


@dataclass(frozen=True)
class Cpu(Target):
    """A vectorising C compiler: straight-line text over a vector of lanes, sums held in registers."""

    def largest(self, block: BlockCode, out: str, smallest: str = "") -> str:
        lines = ["{", f"const short *xs = &EA({block.base}, 0), *ys = &EB({block.base}, 0);", "LANES {"]
        lines += [f"const short x{t} = (short)({self._x(k)} + ys[{k} * W + j]);" for t, k in enumerate(block.offsets)]
        for name, compare in ((out, ">"), (smallest, "<")):
            if name:
                best = f"best_{name}"
                lines.append(f"short {best} = x0;")
                lines += [f"{best} = x{t} {compare} {best} ? x{t} : {best};" for t in range(1, len(block.offsets))]
                lines.append(f"{name}[j] = {best};")
        return "\n".join([*lines, "}", "}"])

    def _x(self, k: int) -> str:
        """Return the C expression of what `xs` has of A, `k` products further."""
        return f"xs[{k} * W + j]" if _columns_pick(self.plan) else f"xs[{k}]"

    def cut_sum(self, block: BlockCode, inverse: str, out: str) -> str:
        whole = "wholef" if self.lane == "float" else "whole"
        term = f"{whole}({{product}} * inv, {mode(self.plan.first.rounding)})"
        return self._sum(block, out, term, f"const lane inv = {inverse}[j];")

    def exact_sum(self, block: BlockCode, out: str) -> str:
        return self._sum(block, out, "{product}")

    def _sum(self, block: BlockCode, out: str, term: str, *before: str) -> str:
        """Return text that sets `out[j]` to the sum of a term made of each product."""
        zero = self.plan.neutral
        sums = min(4, len(block.offsets))  # independent sums, so that additions need not wait for each other
        lines = ["{", f"const lane *xs = &A({block.base}, 0), *ys = &B({block.base}, 0);"]
        lines += ["LANES {", *before, *(f"lane s{i} = {zero};" for i in range(sums))]
        for t, k in enumerate(block.offsets):
            product = f"({self._x(k)} * ys[{k} * W + j])"
            if self.plan.infinite_from is not None:
                product = f"(lane)infinite_from({product}, {self.plan.infinite_from!r})"
            lines.append(f"s{t % sums} += {term.format(product=product)};")
        lines.append(f"{out}[j] = {' + '.join(f's{i}' for i in range(sums))};")
        return "\n".join([*lines, "}", "}"])
