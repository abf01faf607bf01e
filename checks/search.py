"""Random instructions of the whole language through every engine, against the golden model; a record of what was compared.

    python checks/search.py --examples 20000 --seed 7 --record checks/search.json                # about 40 minutes of a core
    python checks/search.py --examples 60000 --seed 8 --record checks/search.json --jobs 14 --gpu --minutes 6

The second command is for a machine with a Hopper GPU and 16 cores (extras `test` and `kernels`); where time runs out before the
examples do, the record says how many there were. Exit code 1 for any difference, 0 else; a record is written in both cases.

An example is an instruction of tests/strategies.py, operands of a random kind and one or two steps along K. All of them go
through the portable engine, those of integers through exact integers where doubles are too narrow, and dense single steps
through the interpreter of specs (`lines`). Compilers take a hundred times longer than the rest: one example in `--every`
becomes C at -O1 and, with `--gpu`, CUDA by the route that `matmul` takes, compiled quickly; in one round of ten both are
compiled as users compile them. The C model for benches (isa_model/c_golden) is compiled for 16 examples at once, half of them.
A difference is recorded with the instruction, its operands' kind, seed and steps, and is not shrunk. One of the C model has
all instructions that were compiled together, because their operands are drawn one after the other.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import numpy as np  # noqa: E402
import strategies  # noqa: E402
from golden_in_c import compiled  # noqa: E402
from hypothesis import HealthCheck, Phase, given, seed, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from test_c_golden import assert_equal  # noqa: E402
from test_engine import operands  # noqa: E402

from codesign.commit import commit  # noqa: E402
from isa_model import matmul  # noqa: E402
from isa_model.array_codec import code_dtype  # noqa: E402
from isa_model.c_golden import source  # noqa: E402
from isa_model.diagnostics import InputError  # noqa: E402
from isa_model.engines import cpu, cuda, integers, launch, lines, portable  # noqa: E402
from isa_model.engines.plan import Unsupported  # noqa: E402
from isa_model.instruction import Instruction  # noqa: E402
from isa_model.matmul import factors  # noqa: E402
from isa_model.output_files import head, json_lines, typed, write_file  # noqa: E402
from isa_model.sparse import checked  # noqa: E402

KINDS: dict[str, Callable[[], Any]] = {
    "floating-point, mixed and tables": lambda: strategies.instructions(codebooks=True),
    "integer": strategies.integer_instructions,
    "sparse": strategies.sparse_instructions,
}
ORDER = [0, 0, 1, 0, 0, 2]
"""Kinds of the rounds, one after the other and from the front again."""
ROUND = 96
"""Examples of one call of Hypothesis, and the most that are lost when time runs out."""
MOST_LINES = 1500
"""Most lines of text that the search compiles; longer ones take compilers seconds."""
IN_C = 16
"""Instructions of one C model."""


class Task(NamedTuple):
    """A round of examples."""

    number: int
    seed: int
    count: int
    every: int
    gpu: bool


class Search:
    """One round: what it compared, what engines left, CPU seconds, and differences."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.compared: Counter[str] = Counter()
        self.left: Counter[str] = Counter()
        self.seconds: Counter[str] = Counter()
        self.differences: list[dict[str, Any]] = []
        self.about: dict[str, Any] = {}

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        start = time.process_time() + sum(os.times()[2:4])  # with compilers, which are children
        try:
            yield
        finally:
            self.seconds[name] += time.process_time() + sum(os.times()[2:4]) - start

    def compare(self, name: str, reference: Any, compute: Callable[[], Any]) -> None:
        """Count an engine's codes as compared, left or different."""
        with self.timed(name):
            try:
                codes = compute()
            except Exception as error:
                refused = isinstance(error, Unsupported) or str(error).startswith("the gpu engine cannot compute")
                if refused or (isinstance(error, cpu.NoCompiler) and not error.broken):
                    self.left[name] += 1
                    return
                self.differences.append({**self.about, "engine": name, "error": f"{type(error).__name__}: {error}"})
                return
        self.compared[name] += 1
        if not np.array_equal(codes, reference):
            where = np.argwhere(codes != reference)[0].tolist()
            found, wanted = int(codes[tuple(where)]), int(reference[tuple(where)])
            self.differences.append({**self.about, "engine": name, "where": where, "code": found, "golden": wanted})

    def example(self, number: int, spec: Instruction, kind: str, of_operands: int, steps: int) -> None:
        """Compare the engines on one example."""
        compiles = (number + self.task.number) % self.task.every == 0
        m, n = (3, 4) if compiles else (1, 2)
        self.about = {
            "spec": spec.model_dump_json(exclude_defaults=True),
            "kind": kind,
            "seed": of_operands,
            "steps": steps,
        }
        self.about |= {"m": m, "n": n}
        a, b, c, others = operands(spec, of_operands, kind, m, n, steps)
        dtype = code_dtype(spec.accumulator)
        with self.timed("golden"):
            reference = matmul(spec, a, b, c, engine="golden", **others).view(dtype)
        given = a, b, others  # as `matmul` takes them; engines take elements that are looked up, and lines of positions
        tables = {name: x for name, x in others.items() if name in ("tables_a", "tables_b")}
        others = {name: x for name, x in others.items() if name not in tables}
        a, b = factors(spec, a, b, **tables)
        dense = spec.dense if spec.codebook else spec
        if spec.sparsity:
            line = a if spec.sparsity.operand == "a" else b
            others["positions"] = checked(spec.sparsity, others["positions"], line)
        self.compare("portable", reference, lambda: portable.matmul(dense, a, b, c, **others))
        if spec.is_integer and not spec.sparsity:
            self.compare("exact integers", reference, lambda: integers.matmul(dense, a, b, c))
        plain = not (spec.sparsity or spec.is_stochastic or any(side.coarser for side in spec.scales))
        if steps == 1 and plain:
            self.compare("lines", reference, lambda: of_lines(dense, a, b, c, **others))
        if not compiles:
            return
        flags = cpu.FLAGS if self.task.number % 10 == 0 else ("-O1", *cpu.FLAGS[1:])
        with patch.object(cpu, "FLAGS", flags), patch.object(cpu, "MOST_LINES", MOST_LINES):
            self.compare(f"C, {flags[0]}", reference, lambda: cpu.prepared(dense, cpu.NARROW, 1)(a, b, c, **others))
        if self.task.gpu:
            x, y, names = given
            self.compare("CUDA", reference, lambda: matmul(spec, x, y, c, engine="gpu", **names).view(dtype))

    def models_in_c(self, specs: list[Instruction], kind: str, of_operands: int) -> None:
        """Compare one C model of several instructions, on two vectors each."""
        held = []
        for spec in specs:
            try:
                source.check(spec)
                held.append(spec.dense)
            except InputError:
                self.left["C model"] += 1
        if not held:
            return
        with self.timed("C model"):
            try:
                assert_equal(held, compiled(*held), of_operands, kind, 2)
            except InputError:  # of all of them together
                self.left["C model"] += len(held)
                return
            except Exception as error:
                about = {
                    "specs": [spec.model_dump_json(exclude_defaults=True) for spec in held],
                    "kind": kind,
                    "seed": of_operands,
                }
                text = f"{type(error).__name__}: {error}"
                text = text if len(text) < 1000 else f"{text[:500]} ... {text[-500:]}"
                self.differences.append({**about, "engine": "C model", "error": text})
        self.compared["C model"] += len(held)


def of_lines(spec: Instruction, a: Any, b: Any, c: Any, scale_a: Any = None, scale_b: Any = None) -> Any:
    """Return D (M, N) by the interpreter, each element as a line of its own."""
    (m, n), scale = c.shape, spec.scale
    rows, columns = (x.ravel() for x in np.meshgrid(range(m), range(n), indexing="ij"))
    of_a = None if scale is None or scale.a is None else scale_a[rows // scale.a.group[0]]
    of_b = None if scale is None or scale.b is None else scale_b.T[columns // scale.b.group[1]]
    return lines.dots(spec, a[rows], b.T[columns], c.ravel(), of_a, of_b).reshape(m, n)


def searched(task: Task) -> dict[str, Any]:
    """Return what one round found."""
    examples: list[Any] = []
    kind = list(KINDS)[ORDER[task.number % len(ORDER)]]
    search = Search(task)

    @seed(task.seed * 1_000_003 + task.number)
    @settings(
        max_examples=task.count + 1,
        phases=[Phase.generate],
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.tuples(KINDS[kind](), st.sampled_from(strategies.KINDS), st.integers(0, 1 << 30), st.integers(1, 2)))
    def collect(example: Any) -> None:
        examples.append(example)

    if task.gpu:
        compile_quickly(optimised=task.number % 10 == 0)
    with search.timed("drawing"):
        collect()
    del examples[0]  # the simplest one, in every round
    for number, example in enumerate(examples):
        search.example(number, *example)
    if task.number // len(ORDER) % 2 == 0:
        for first in range(0, len(examples), IN_C):
            some = examples[first : first + IN_C]
            search.models_in_c([spec for spec, *_ in some], *some[0][1:3])
    counted = {name: dict(getattr(search, name)) for name in ("compared", "left", "seconds")}
    return {"examples": {kind: len(examples)}, **counted, "differences": search.differences}


def compile_quickly(optimised: bool) -> None:
    """Compile CUDA in a third of the time, unless `optimised`, and tiles of 2 by 2: a quarter of the text of 4 by 4."""
    cuda.CudaCores.tile = property(lambda self: (2, 2))  # type: ignore[assignment,method-assign]

    def compiled(text: str) -> Any:
        from cuda.core import Program, ProgramOptions

        if text.count("\n") > MOST_LINES:
            raise Unsupported("a text that takes NVRTC seconds")
        quick = {} if optimised else {"ofast_compile": "max"}
        options = ProgramOptions(arch="sm_90a", std="c++17", fma=False, **quick)
        return Program(text, "c++", options).compile("cubin")

    launch.compiled = compiled


def machine(gpu: bool) -> str:
    """Return the processor, the cores and the GPU."""
    name = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
        name = models[0].partition(":")[2].strip() if models else name
    about = f"{name}, {cpu.cores()} cores"
    if gpu:
        from isa_model.engines.launch import import_torch

        about += f", {import_torch().cuda.get_device_name()}"
    return about


def main() -> int:
    """Run rounds until the examples or the time are used up, and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--every", type=int, default=16, help="compile one example in so many as C and CUDA")
    parser.add_argument("--gpu", action="store_true", help="compare the CUDA engine, too")
    parser.add_argument("--minutes", type=float, default=1e9, help="start no round after this time")
    parser.add_argument("--record", type=Path, help="append to this file (JSON)")
    options = parser.parse_args()
    os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    cache = tempfile.mkdtemp(prefix="search-")
    os.environ["XDG_CACHE_HOME"] = cache  # compiled libraries of random instructions
    start, at = time.monotonic(), commit("tests", "checks/search.py")
    about = machine(options.gpu)
    counts: dict[str, Counter[str]] = {name: Counter() for name in ("examples", "compared", "left", "seconds")}
    differences: list[dict[str, Any]] = []
    rounds = -(-options.examples // ROUND)
    try:
        with ProcessPoolExecutor(options.jobs, get_context("spawn")) as pool:
            tasks = iter(
                Task(i, options.seed, min(ROUND, options.examples - i * ROUND), options.every, options.gpu)
                for i in range(rounds)
            )
            running = {pool.submit(searched, task) for _, task in zip(range(options.jobs), tasks, strict=False)}
            while running:
                done = next(as_completed(running))
                running.remove(done)
                found = done.result()
                for name, counter in counts.items():
                    counter.update(found[name])
                differences += found["differences"]
                for row in found["differences"]:
                    print(json.dumps(row), flush=True)
                total = counts["examples"].total()
                spent = time.monotonic() - start
                print(f"{total:,} examples, {len(differences)} differences, {spent:.0f} s", file=sys.stderr, flush=True)
                if spent < 60 * options.minutes and (task := next(tasks, None)):
                    running.add(pool.submit(searched, task))
    finally:
        shutil.rmtree(cache, ignore_errors=True)
        row = {
            **head(typed("python checks/search.py", *sys.argv[1:]), at),
            "machine": about,
            "wall_seconds": round(time.monotonic() - start),
            "total": counts["examples"].total(),
            **{name: dict(sorted(counter.items())) for name, counter in counts.items() if name != "seconds"},
            "cpu_seconds": {name: round(x, 1) for name, x in sorted(counts["seconds"].items())},
            "differences": differences,
        }
        if options.record and row["total"]:
            before = json.loads(options.record.read_text(encoding="utf-8")) if options.record.exists() else {"rows": []}
            what = "random instructions compared with the golden model, by engine (checks/search.py)"
            write_file(options.record, json_lines({"what": what, "rows": [*before["rows"], row]}))
    compared = ", ".join(f"{n:,} {name}" for name, n in counts["compared"].items())
    print(f"{counts['examples'].total():,} examples ({compared}): {len(differences)} differences")
    return bool(differences)


if __name__ == "__main__":
    sys.exit(main())
