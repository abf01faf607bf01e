"""The bench: every kernel with its peers and ceilings in one run, checked before it is timed, with a cold L2.

To add a kernel:

1. Write `cases(shapes) -> Iterator[Case]` in a `cases.py` in its folder: cases of our implementations (variant `ours`) and
   of their timing twins (`twin`). `shapes` are `shapes.BenchGemm(m, n, k)` with m tokens; each has a `dgrad` and a `wgrad`.
2. Give each `Case` (case.py) its FLOPs and least bytes, and three functions. `prepare(generator)` makes one set of operands
   and outputs on the GPU: random normal data, outputs full of NaN. `launch(set)` enqueues on torch's current stream without
   allocating or synchronising. `check(set)` returns an error or raises `WrongOutput`; twins have no check. Cases of one `shape`
   are timed in turns. Peers are found by `kernel`: `gemm.fprop`, `gemm.dgrad`, `gemm.wgrad` (promoted every 128),
   `gemm.grouped-contiguous`, `gemm.grouped-masked`, `gemm.native`, `gemm.bf16`, `quantise.<name>`.
3. Write `cubins() -> Iterator[static.Cubin]` in the same file: the machine code that a user gets, compiled without a GPU,
   each with the name in `Case.static`. `python -m kernels.bench.static` makes the static evidence of it.
4. Add the module's name to `REGISTERED` below; the bench names the kernels nowhere else. The timing model reads rows of
   kernels that `operation` in codesign/evidence/timing/measured.py knows.

`codesign bench` runs all cases and writes a record; `records.load()` reads the shipped records without torch.
"""

from __future__ import annotations

REGISTERED: tuple[str, ...] = (
    "kernels.gemm.cases",
    "kernels.quantise.cases",
    "kernels.bench.peers",
    "kernels.bench.machine",
)
"""Modules that have `cases(shapes)`, `cubins()` or both."""
