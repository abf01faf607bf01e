"""The bench: every kernel beside its peers and ceilings in one run, correctness first, cold L2, and records of the runs.

How a kernel plugs in:

1. Its folder has a `cases.py` with `cases(shapes) -> Iterator[Case]`: cases of its own implementations (variant `ours`) and
   timing twins (`twin`). `shapes` are `shapes.Gemm(m, n, k)`, m tokens; `shape.dgrad` and `shape.wgrad` follow from them.
2. A `Case` (case.py) says what is computed, its FLOPs and least bytes, and how: `prepare(generator)` makes one set of
   operands and outputs on the GPU (outputs full of NaN; random normal data), `launch(set)` enqueues on torch's current
   stream without allocating or synchronising, `check(set)` returns an error figure or raises `Wrong`. Twins have no check.
   Cases of one `shape` are timed in turns; peers are found by `kernel`: `gemm.fprop`, `gemm.dgrad`, `gemm.wgrad` (promoted
   every 128), `gemm.grouped-contiguous`, `gemm.grouped-masked`, `gemm.native`, `gemm.bf16`, `quantise.<what>`.
3. The same `cases.py` has `cubins() -> Iterator[static.Cubin]`: the machine code a user gets, made without a GPU, each with
   a name that `Case.static` repeats. It becomes the static evidence (`python -m kernels.bench.static`).
4. The module's name is added to `REGISTERED` below; nothing else knows the kernels.
5. `codesign bench` runs it all and writes a record; `records.load()` reads the shipped ones, without torch.
"""

from __future__ import annotations

REGISTERED: tuple[str, ...] = (
    "kernels.gemm.cases",
    "kernels.quantise.cases",
    "kernels.bench.peers",
    "kernels.bench.machine",
)
"""Modules with `cases(shapes)`, `cubins()` or both."""
