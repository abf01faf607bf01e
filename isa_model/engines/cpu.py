"""The compiled CPU engine: a spec's step (emit.py) as vector code of the machine's own C compiler, on all cores.

Compiled once per spec and machine, kept in the user's cache folder. Where there is no C compiler `matmul` raises
`NoCompiler`, and gemm.py takes the numpy engine.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isa_model.array_codec import encode_array
from isa_model.engines.decoding import Operand, read, side
from isa_model.engines.emit import Block, step
from isa_model.engines.plan import Plan
from isa_model.instruction import Instruction
from isa_model.lanes import Codes
from isa_model.stage import Stage

WIDTH = 64
"""Columns of D in a panel, computed together: a multiple of every vector unit's width."""
ROWS = 64
"""Rows of D in one task of a thread."""
FLAGS = ("-O3", "-march=native", "-fopenmp-simd", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math")


class NoCompiler(Exception):
    """This machine has no working C compiler."""


def matmul(
    spec: Instruction, a: Codes, b: Codes, c: Codes, scale_a: Codes | None = None, scale_b: Codes | None = None
) -> Codes:
    """D as raw codes, from raw codes: `a` (M, K), `b` (K, N), `c` (M, N), scales one per group.

    Raises plan.Unsupported for a spec whose values doubles cannot carry exactly, NoCompiler without a C compiler.
    """
    plan = Plan(spec)
    function = compiled(plan)
    m, n = c.shape
    k = a.shape[1]
    panels = -(-n // WIDTH)
    x = side(plan, True, a.T, None if scale_a is None else scale_a.T)
    y = side(plan, False, b, scale_b)
    b_values, b_exponents = _panels(y.values, panels), _panels(y.exponents, panels)
    d = _panels(read(spec, spec.c_format, c), panels)
    scales = [*_scales(x), *(None if s is None else _panels(s, panels) for s in _scales(y))]

    def work(task: tuple[int, int]) -> None:
        panel, row = task
        rows = min(ROWS, m - row)
        b_scales = [None if s is None else s[panel] for s in scales[2:]]
        function(
            *(ctypes.c_long(v) for v in (rows, k, m)),
            *(_pointer(v, row) for v in (x.values, x.exponents)),
            *(_pointer(v[panel]) for v in (b_values, b_exponents)),
            *(_pointer(v, row) for v in scales[:2]),
            *(_pointer(v) for v in b_scales),
            _pointer(d[panel], row * WIDTH),
        )

    tasks = [(p, i) for p in range(panels) for i in range(0, m, ROWS)]
    threads = min(len(tasks), os.cpu_count() or 1)
    if threads <= 1:
        for task in tasks:
            work(task)
    else:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(work, tasks))
    values = d.transpose(1, 0, 2).reshape(m, panels * WIDTH)[:, :n]
    codes = encode_array(spec.accumulator, values)
    if spec.nan_code is not None:
        codes[np.isnan(values)] = spec.nan_code
    return codes


def _scales(operand: Operand) -> list[NDArray[Any] | None]:
    return [operand.scales, operand.scale_exponents]


def _panels(x: NDArray[Any], panels: int) -> NDArray[Any]:
    """Columns in panels of WIDTH, filled up with zeros: (rows, N) to (panels, rows, WIDTH)."""
    rows, n = x.shape
    result = np.zeros((panels, rows, WIDTH), x.dtype)
    whole = n // WIDTH
    result[:whole] = x[:, : whole * WIDTH].reshape(rows, whole, WIDTH).transpose(1, 0, 2)
    if n % WIDTH:
        result[whole, :, : n % WIDTH] = x[:, whole * WIDTH :]
    return result


def _pointer(x: NDArray[Any] | None, offset: int = 0) -> ctypes.c_void_p:
    return ctypes.c_void_p(None if x is None else x.ctypes.data + offset * x.itemsize)


# -- compiling -------------------------------------------------------------------------------------------------------


@cache
def compiled(plan: Plan) -> Any:
    """The C function of a plan, from the cache folder if it was compiled before."""
    return _load(source(plan))


@cache
def _load(text: str) -> Any:
    compiler = shutil.which(os.environ.get("CC", "cc")) or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise NoCompiler("no C compiler (cc, gcc, clang) was found")
    key = hashlib.sha256("\0".join([text, *FLAGS, compiler, platform.machine(), platform.processor(), _cpu()]).encode())
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "codesign"
    library = folder / f"{key.hexdigest()[:32]}.so"
    if not library.exists():
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError:
            folder = Path(tempfile.mkdtemp(prefix="codesign-"))
            library = folder / library.name
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            c_file, built = Path(scratch) / "step.c", Path(scratch) / "step.so"
            c_file.write_text(text)
            command = [compiler, *FLAGS, "-shared", "-fPIC", "-o", str(built), str(c_file), "-lm"]
            result = subprocess.run(command, capture_output=True, text=True, check=False)
            if result.returncode:
                raise NoCompiler(f"{compiler} failed: {result.stderr.strip()[:500]}")
            built.replace(library)
    function = ctypes.CDLL(str(library)).run
    function.restype = None
    return function


@cache
def _cpu() -> str:
    """What `-march=native` depends on: libraries in a shared home folder must not meet another processor."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.node()
    return "".join(sorted({line for line in text.splitlines() if line.startswith(("model name", "flags", "Features"))}))


def source(plan: Plan) -> str:
    """The C file of a plan: `run` adds A B to the rows of one panel of C."""
    prelude = (Path(__file__).parent / "prelude.h").read_text()
    return f"""{prelude}
#define W {WIDTH}
#define LANES _Pragma("omp simd") for (int j = 0; j < W; ++j)
#define A(k, j) a[(k) * lda]
#define EA(k, j) ea[(k) * lda]
#define B(k, j) b[(k) * W + j]
#define EB(k, j) eb[(k) * W + j]
#define SA(g, j) sa[(g) * lda]
#define ESA(g, j) esa[(g) * lda]
#define SB(g, j) sb[(g) * W + j]
#define ESB(g, j) esb[(g) * W + j]
#define C(j) c[j]
typedef {plan.lane_name} lane;

static void step(long lda, int k, const lane *restrict a, const short *restrict ea, const lane *restrict b,
                 const short *restrict eb, const double *restrict sa, const int *restrict esa,
                 const double *restrict sb, const int *restrict esb, double *restrict c) {{
{step(plan, Cpu(plan.lane_name))}
}}

void run(long rows, long k_end, long lda, const lane *a, const short *ea, const lane *b, const short *eb,
         const double *sa, const int *esa, const double *sb, const int *esb, double *c) {{
  for (long k = 0; k < k_end; k += {plan.spec.shape.k})
    for (long i = 0; i < rows; ++i)
      step(lda, (int)k, a + i, ea + i, b, eb, sa + i, esa + i, sb, esb, c + i * W);
}}
"""


@dataclass(frozen=True)
class Cpu:
    """Inner loops for a vectorising C compiler: straight-line text over a vector of lanes, sums held in registers."""

    lane: str

    def largest(self, plan: Plan, block: Block, out: str, smallest: str | None) -> str:
        lines = ["LANES {"]
        for t, offset in enumerate(block.offsets):
            k = f"{block.base} + {offset}"
            lines.append(f"const short x{t} = (short)(EA({k}, j) + EB({k}, j));")
        for name, compare in ((out, ">"), (smallest, "<")):
            if name is None:
                continue
            best = f"best_{name}"
            lines.append(f"short {best} = x0;")
            lines += [f"{best} = x{t} {compare} {best} ? x{t} : {best};" for t in range(1, len(block.offsets))]
            lines.append(f"{name}[j] = {best};")
        return "\n".join([*lines, "}"])

    def cut_sum(self, plan: Plan, block: Block, stage: Stage, inverse: str, out: str) -> str:
        whole = "wholef" if self.lane == "float" else "whole"
        assert stage.rounding is not None
        term = f"{whole}({{product}} * inv, {stage.rounding.name})"
        return self._sum(plan, block, stage, out, term, f"const lane inv = {inverse}[j];")

    def exact_sum(self, plan: Plan, block: Block, stage: Stage, out: str) -> str:
        return self._sum(plan, block, stage, out, "{product}", "")

    def _sum(self, plan: Plan, block: Block, stage: Stage, out: str, term: str, before: str) -> str:
        zero = "-0.0" if stage.zero == "ieee" else "0.0"
        lanes = min(4, len(block.offsets))  # sums taken side by side, so that one addition need not wait for the last
        lines = ["LANES {", before, *(f"lane s{i} = {zero};" for i in range(lanes))]
        for t, offset in enumerate(block.offsets):
            k = f"{block.base} + {offset}"
            product = f"(A({k}, j) * B({k}, j))"
            if plan.infinite_from is not None:
                lines.append(f"const lane p{t} = {product};")
                limit = f"{plan.infinite_from!r}"
                product = f"(fabs(p{t}) >= {limit} ? (lane)copysign(INFINITY, p{t}) : p{t})"
            lines.append(f"s{t % lanes} += {term.format(product=product)};")
        lines.append(f"{out}[j] = {' + '.join(f's{i}' for i in range(lanes))};")
        return "\n".join([*lines, "}"])
