"""How a Hopper GPU adds the products of sparse matrix instructions: experiments, and a comparison with hypotheses.

    python checks/sparsity.py OUT.json [--outputs 10000000]

Every experiment says what it asks of the chip. Results go to one JSON file. Needs a Hopper GPU and the extra `kernels`.

A sparse instruction stores half of A's elements and, for each, its position in a group of 4 along K (TF32: of 2; 4-bit
integers: of each pair, in a group of 4 pairs). A hypothesis is a dense instruction over the stored elements, whose column
of B is gathered by the positions, a row of A at a time.
"""

from __future__ import annotations

import argparse
import json
import re
import time
import zlib
from collections.abc import Callable, Iterator
from itertools import combinations
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np

from codesign.commands.conform import machine
from codesign.commit import commit
from isa_model import matmul
from isa_model.array_codec import decode_array, encode_array
from isa_model.engines import cpu, integers
from isa_model.engines.plan import Unsupported
from isa_model.instruction import Instruction
from isa_model.library import catalogue, load
from isa_model.processes import pool
from isa_model.stimulus import KINDS, StressOperands, _minus_the_sum, draw
from kernels import native

FLOATS = ("wgmma.m64n64k32.f32.e4m3.e4m3", "wgmma.m64n64k32.f32.e5m2.e4m3", "wgmma.m64n64k32.f16.e4m3.e5m2")
FLOATS += ("wgmma.m64n64k16.f32.f16.f16", "wgmma.m64n64k16.f32.bf16.bf16", "wgmma.m64n64k16.f16.f16.f16")
FLOATS += ("wgmma.m64n64k8.f32.tf32.tf32",)
FLOATS += ("mma.m16n8k8.f32.f16.f16.f32", "mma.m16n8k16.f32.f16.f16.f32", "mma.m16n8k16.f16.f16.f16.f16")
FLOATS += ("mma.m16n8k8.f16.f16.f16.f16", "mma.m16n8k8.f32.bf16.bf16.f32", "mma.m16n8k16.f32.bf16.bf16.f32")
FLOATS += ("mma.m16n8k4.f32.tf32.tf32.f32", "mma.m16n8k8.f32.tf32.tf32.f32")
FLOATS += ("mma.m16n8k32.f32.e4m3.e4m3.f32", "mma.m16n8k32.f32.e5m2.e4m3.f32")
WHOLE = ("wgmma.m64n64k32.s32.s8.u8", "wgmma.m64n64k32.s32.u8.s8.satfinite")
WHOLE += ("mma.m16n8k16.s32.s8.u8.s32", "mma.m16n8k32.s32.s8.u8.s32.satfinite")
WHOLE += ("mma.m16n8k32.s32.s4.u4.s32", "mma.m16n8k64.s32.s4.u4.s32.satfinite")


def main() -> None:
    """Run all experiments and write the file."""
    arguments = argparse.ArgumentParser()
    arguments.add_argument("out", type=Path)
    arguments.add_argument(
        "--outputs", type=int, default=0, help="of every instruction together, under the rules found"
    )
    options = arguments.parse_args()
    record: dict[str, Any] = {"commit": commit(), **machine()}
    experiments: list[tuple[str, Callable[[str], Any], tuple[str, ...]]] = [
        ("layout: mismatches of exact sums of small integers, of how many", layout, FLOATS + WHOLE),
        ("order: as layout, positions of a pair descending", lambda x: layout(x, descending=True), FLOATS + WHOLE),
        ("pairs: ones that are left beside two cancelling large products i and j, C one or zero", pairs, FLOATS),
        ("skipped: outputs that NaNs, infinities or numbers in skipped rows of B change", skipped, FLOATS),
        ("hypotheses: mismatches by rule, of how many", hypotheses, FLOATS + WHOLE),
        ("signs: mismatches of dense wgmma with imm-scale -1 and scale-d 0, of how many", signs, FLOATS[:7]),
    ]
    for title, experiment, names in experiments:
        start = time.time()
        results: dict[str, Any] = {}
        for name in names:
            try:
                results[name] = experiment(name)
            except Exception as error:  # an experiment that fails must not take the others along
                results[name] = f"{type(error).__name__}: {error}"
        record[title] = results
        print(f"{title} ({time.time() - start:.0f} s)")
        for name, result in results.items():
            print(f"  {name}: {json.dumps(result)[:400]}")
        options.out.write_text(json.dumps(record, indent=1))
    if options.outputs:
        names = [sparse(x) for x in catalogue() if is_base(x)]
        each = ceil(options.outputs / len(names))
        with pool() as workers:
            native.machine_code.update(zip(names, workers.map(native.compiled, names, chunksize=4), strict=True))
            jobs = [(name, workers.submit(wrong_of, *chip(name, each))) for name in names]
            rows = [[name, *job.result()] for name, job in jobs]
        record["all"] = rows
        options.out.write_text(json.dumps(record, indent=1))
        print(f"{len(rows)} instructions, {sum(r[1] for r in rows)} outputs, {sum(r[2] for r in rows)} mismatches")
        for row in rows:
            if row[2]:
                print(row)


def is_base(name: str) -> bool:
    """Return whether a dense instruction has a sparse one of twice its k."""
    if not name.startswith("hopper.") or ".f64" in name or "m8n8" in name:
        return False
    tile = native.parse(name)
    fp8 = tile.a in ("e4m3", "e5m2")
    return not (tile.kind == "mma" and fp8 and (tile.k == 16 or tile.d == "f16"))


def sparse(name: str) -> str:
    """Return the name of the sparse instruction that stores as many products as a dense one has."""
    short = name.removeprefix("hopper.")
    return "hopper." + re.sub(r"^(\w+)\.(m\d+n\d+)k(\d+)", lambda x: f"{x[1]}.sp.{x[2]}k{2 * int(x[3])}", short)


def dense(name: str) -> str:
    """Return the dense instruction of as many products as a sparse one stores."""
    return re.sub(r"\.sp\.(m\d+n\d+)k(\d+)", lambda x: f".{x[1]}k{int(x[2]) // 2}", name)


# -- operands --------------------------------------------------------------------------------------------------------


def groups(spec: Instruction) -> tuple[int, int, int]:
    """Return how many positions a group keeps, of how many, and how many elements stay together at a position."""
    return {32: (1, 2, 1), 4: (2, 4, 2)}.get(4 if spec.a.bits == 4 else spec.a.storage_bits, (2, 4, 1))


def positions(spec: Instruction, rng: np.random.Generator, m: int, k: int) -> Any:
    """Return random positions (M, stored elements or pairs) for a logical K."""
    kept, of, run = groups(spec)
    order = rng.permuted(np.broadcast_to(np.arange(of, dtype=np.uint8), (m, k // (of * run), of)), axis=2)
    return np.sort(order[..., :kept], axis=2).reshape(m, -1)


def rows_of_b(spec: Instruction, where: Any) -> Any:
    """Return the row of B (M, stored) that each stored element of A is multiplied by."""
    kept, of, run = groups(spec)
    first = np.arange(where.shape[1]) // kept * of
    rows = (where + first) * run
    return (rows[:, :, None] + np.arange(run)).reshape(len(where), -1)


def operands(spec: Instruction, kind: str, rng: np.random.Generator, m: int, n: int, k: int) -> tuple[Any, ...]:
    """Return A as stored, B, C and positions of one kind of stimulus, for a logical K."""
    x = draw(spec, kind, rng, m, n, k)
    where = positions(spec, rng, m, k)
    if kind == "cancellation" and k % 16 == 0:
        where[:, where.shape[1] // 2 :] = where[:, : where.shape[1] // 2]
    rows = rows_of_b(spec, where)
    a = np.take_along_axis(x.a, rows, 1)
    full = np.zeros_like(x.a)
    np.put_along_axis(full, rows, a, 1)
    c = (
        _minus_the_sum(spec, StressOperands(full, x.b, x.c), rng)
        if kind == "cancellation" and spec.a.kind == "float"
        else x.c
    )
    return a, x.b, c, where


def expected(spec: Instruction, a: Any, b: Any, c: Any, where: Any) -> Any:
    """Return D under a dense spec over the stored products."""
    try:
        multiply = cpu.prepared(spec)
    except Unsupported:
        multiply = lambda *x: integers.matmul(spec, *x)  # noqa: E731
    rows = rows_of_b(spec, where)
    return np.concatenate(
        [multiply(a[i : i + 1], np.ascontiguousarray(b[rows[i]]), c[i : i + 1]) for i in range(len(a))]
    )


def tiles(spec: Instruction, outputs: int) -> tuple[int, int]:
    """Return M and N of whole tiles with about so many outputs."""
    n = spec.shape.n * max(1, round(outputs**0.5 / spec.shape.n))
    return 64 * ceil(outputs / n / 64), n


# -- experiments -----------------------------------------------------------------------------------------------------


def layout(short: str, descending: bool = False) -> list[int]:
    """Ask whether the metadata is where we put it: sums of small integers are exact under every rule."""
    name, spec = f"hopper.{short}", load(f"hopper.{short}")
    rng = np.random.default_rng(1)
    m, n, k = 64, spec.shape.n, spec.shape.k * 4
    where = positions(spec, rng, m, k)
    kept, _, _ = groups(spec)
    if descending and kept == 2:
        where = where.reshape(m, -1, 2)[..., ::-1].reshape(m, -1)
    low = 0 if spec.a.kind == "integer" else -2
    x, y = rng.integers(low, 3, (m, k // 2)), rng.integers(low, 3, (k, n))
    a, b = (encode_array(fmt, v.astype(float)) for fmt, v in ((spec.a, x), (spec.b, y)))
    c = encode_array(spec.c_format, np.zeros((m, n)))
    got = native.matmul(sparse(name), a, b, c, where)
    sums = np.stack([x[i] @ y[rows] for i, rows in enumerate(rows_of_b(spec, where))]).astype(float)
    return [int((got != encode_array(spec.accumulator, sums)).sum()), got.size]


def pairs(short: str) -> Any:
    """Ask which products share an alignment: two large ones cancel, and ones aligned with them are lost.

    Returns the distinct numbers left with C zero and C one, and the matrix of pairs for C zero if they differ.
    """
    name, spec = f"hopper.{short}", load(f"hopper.{short}")
    stored, n = spec.shape.k, spec.shape.n
    every = list(combinations(range(stored), 2))
    m = 64 * ceil(len(every) / 64)
    large, small = {"e4m3": (8, -9), "e5m2": (15, -15), "fp16": (15, -14)}.get(spec.a.name, (20, -20))
    values = np.full((m, stored), 2.0**small)
    for row, (i, j) in enumerate(every):
        values[row, i], values[row, j] = 2.0**large, -(2.0**large)
    a, b = encode_array(spec.a, values), encode_array(spec.b, np.ones((2 * stored, n)))
    where = positions(spec, np.random.default_rng(2), m, 2 * stored)
    out: dict[str, Any] = {}
    for c in (0, 1):
        codes = encode_array(spec.c_format, np.full((m, n), c * 2.0**small))
        d = native.matmul(sparse(name), a, b, codes, where)
        left = (decode_array(spec.accumulator, d)[: len(every), 0] * 2.0**-small).tolist()
        out[f"C {c}"] = sorted(set(left))
        if len(set(left)) > 1:
            out[f"matrix C {c}"] = [[i, j, v] for (i, j), v in zip(every, left, strict=True)]
    return out


def skipped(short: str) -> dict[str, int]:
    """Ask whether elements of B that no row uses matter: all rows skip the same ones."""
    name, spec = f"hopper.{short}", load(f"hopper.{short}")
    rng = np.random.default_rng(3)
    m, n, k = 64, spec.shape.n, spec.shape.k * 2
    where = np.repeat(positions(spec, rng, 1, k), m, 0)
    used = np.zeros(k, bool)
    used[rows_of_b(spec, where)[0]] = True
    out = {}
    for kind in ("wide", "subnormal"):
        x = draw(spec, kind, rng, m, n, k)
        a = np.ascontiguousarray(x.a[:, : k // 2])
        base = np.where(used[:, None], x.b, 0).astype(x.b.dtype)
        reference = native.matmul(sparse(name), a, base, x.c, where)
        for other in ("bits", "special", "overflow"):
            b = np.where(used[:, None], x.b, draw(spec, other, rng, m, n, k).b).astype(x.b.dtype)
            out[f"{kind} {other}"] = int((native.matmul(sparse(name), a, b, x.c, where) != reference).sum())
    return out


def rules(spec: Instruction) -> Iterator[tuple[str, Instruction]]:
    """Yield hypotheses: the dense instruction of as many products, and variants of it."""
    yield "as dense", spec
    first = next(iter(spec.stages))
    stage = spec.stages[first]

    def variant(**change: Any) -> Instruction:
        text = spec.model_dump(mode="json", exclude_defaults=True)
        text["stages"][first] = {**text["stages"][first], **change}
        return Instruction.model_validate(text)

    if stage.fraction_bits is None:
        return
    for bits in (-2, -1, 1, 2):
        yield f"{bits:+d} fraction bits", variant(fraction_bits=stage.fraction_bits + bits)
    for parts in (2, 4):
        if stage.terms % (2 * parts) == 0 and not stage.interleave:
            yield f"{parts} blocks in turn", variant(terms=stage.terms // parts)
            for run in (1, 2, 4):
                if stage.terms // parts > run:
                    change = {"terms": stage.terms // parts, "interleave": {"run": run, "parts": parts}}
                    yield f"{parts} blocks, runs of {run}", variant(**change)
    if stage.interleave:
        for run in (1, 4, 8):
            yield f"runs of {run}", variant(interleave={"run": run, "parts": 2})
    yield "no zero exponent", variant(zero_exponent=None)


def hypotheses(short: str) -> dict[str, Any]:
    """Compare the chip with every rule on all kinds of operands."""
    name, spec = f"hopper.{short}", load(f"hopper.{short}")
    rng = np.random.default_rng(zlib.crc32(short.encode()))
    m, n = tiles(spec, 4096)
    cases = []
    for number, kind in enumerate(KINDS):
        x = operands(spec, kind, rng, m, n, 2 * spec.shape.k * (1 + number % 3))
        cases.append((kind, x, native.matmul(sparse(name), *x)))
    out: dict[str, Any] = {"of": m * n * len(KINDS)}
    for rule, hypothesis in rules(spec):
        if out.get("as dense") == {}:
            break
        wrong = {kind: int((expected(hypothesis, *x) != got).sum()) for kind, x, got in cases}
        out[rule] = {kind: count for kind, count in wrong.items() if count}
        if rule == "as dense" and any(wrong.values()):
            out["examples"] = [example(spec, x, got) for kind, x, got in cases if wrong[kind]][:4]
    return out


def example(spec: Instruction, x: tuple[Any, ...], got: Any) -> dict[str, Any]:
    """Return the operands of the first output that differs from the dense rule, to think about."""
    a, b, c, where = x
    want = expected(spec, *x)
    i, j = (int(v) for v in np.argwhere(want != got)[0])
    column = b[rows_of_b(spec, where)[i], j]
    codes = [[int(v) for v in y] for y in (a[i], column)]
    return {"a": codes[0], "b": codes[1], "c": int(c[i, j]), "chip": int(got[i, j]), "model": int(want[i, j])}


def chip(name: str, outputs: int) -> tuple[str, list[Any], list[Any]]:
    """Return a sparse instruction's operands of every kind, and the chip's results."""
    spec = load(dense(name))
    m, n = tiles(spec, ceil(outputs / len(KINDS)))
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    cases = [operands(spec, kind, rng, m, n, 2 * spec.shape.k * (1 + i % 3)) for i, kind in enumerate(KINDS)]
    return name, cases, [native.matmul(name, *x) for x in cases]


def wrong_of(name: str, cases: list[Any], results: list[Any]) -> tuple[int, int, dict[str, int]]:
    """Return how many outputs there are, how many differ from the dense rule, and how many of each kind."""
    spec = load(dense(name))
    counts = [int((expected(spec, *x) != got).sum()) for x, got in zip(cases, results, strict=True)]
    wrong = {kind: count for kind, count in zip(KINDS, counts, strict=True) if count}
    return sum(x.size for x in results), sum(counts), wrong


def signs(short: str) -> dict[str, list[int]]:
    """Ask what imm-scale-a, imm-scale-b = -1 and scale-d = 0 of a dense wgmma do."""
    name, spec = f"hopper.{short}", load(f"hopper.{short}")
    text = native.source(native.parse(name))
    rng = np.random.default_rng(5)
    out = {}
    for scale_d, scale_a, scale_b in ((1, -1, 1), (1, 1, -1), (1, -1, -1), (0, 1, 1), (0, -1, 1)):
        changed = re.sub(r", 1, 1, 1((?:, 0, 0)?;)", rf", {scale_d}, {scale_a}, {scale_b}\1", text)
        assert changed != text
        native._kernel.cache_clear()
        native.machine_code[name] = native.cubin(changed)
        wrong = total = 0
        for kind in KINDS:
            x = draw(spec, kind, rng, 64, spec.shape.n, spec.shape.k)
            got = native.matmul(name, x.a, x.b, x.c)
            flip = x.a.dtype.type((scale_a * scale_b < 0) << (spec.a.storage_bits - 1))
            c = x.c if scale_d else np.zeros_like(x.c)
            want = matmul(spec, x.a ^ flip, x.b, c, engine="cpu").view(got.dtype)
            wrong, total = wrong + int((got != want).sum()), total + got.size
        out[f"scale-d {scale_d}, a {scale_a}, b {scale_b}"] = [wrong, total]
    native._kernel.cache_clear()
    native.machine_code.pop(name, None)
    return out


if __name__ == "__main__":
    main()
