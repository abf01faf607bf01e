"""How a Hopper GPU adds the products of sparse matrix instructions: experiments, and a comparison with hypotheses.

    python checks/sparsity.py OUT.json

Every experiment says what it asks of the chip. Results go to one JSON file. Needs a Hopper GPU and the extra `kernels`.
`codesign conform hopper --live` compares all sparse instructions with the rules found.

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
from dataclasses import replace
from itertools import combinations
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np

from codesign.commands.conform import machine
from codesign.commit import commit
from isa_model import matmul
from isa_model.array_codec import code_dtype, decode_array, encode_array
from isa_model.instruction import Instruction
from isa_model.library import load
from isa_model.sparse import elements
from isa_model.stimulus import KINDS, StressOperands, draw
from kernels import native

FLOATS = ("wgmma.m64n64k32.f32.e4m3.e4m3", "wgmma.m64n64k32.f32.e5m2.e4m3", "wgmma.m64n64k32.f16.e4m3.e5m2")
FLOATS += ("wgmma.m64n64k16.f32.f16.f16", "wgmma.m64n64k16.f32.bf16.bf16", "wgmma.m64n64k16.f16.f16.f16")
FLOATS += ("wgmma.m64n64k8.f32.tf32.tf32",)
FLOATS += ("mma.m16n8k8.f32.f16.f16.f32", "mma.m16n8k16.f32.f16.f16.f32", "mma.m16n8k16.f16.f16.f16.f16")
FLOATS += ("mma.m16n8k8.f16.f16.f16.f16", "mma.m16n8k8.f32.bf16.bf16.f32", "mma.m16n8k16.f32.bf16.bf16.f32")
FLOATS += ("mma.m16n8k4.f32.tf32.tf32.f32", "mma.m16n8k8.f32.tf32.tf32.f32")
FLOATS += ("mma.m16n8k32.f32.e4m3.e4m3.f32", "mma.m16n8k32.f32.e5m2.e4m3.f32")
CHAIN = 1 << 14
"""Instructions timed one after the other."""
RATES = ("wgmma.m64n256k32.f32.e4m3.e4m3", "wgmma.m64n128k32.f32.e4m3.e4m3", "wgmma.m64n256k16.f32.bf16.bf16")
RATES += ("wgmma.m64n256k8.f32.tf32.tf32", "wgmma.m64n256k32.s32.s8.s8")
WHOLE = ("wgmma.m64n64k32.s32.s8.u8", "wgmma.m64n64k32.s32.u8.s8.satfinite")
WHOLE += ("mma.m16n8k16.s32.s8.u8.s32", "mma.m16n8k32.s32.s8.u8.s32.satfinite")
WHOLE += ("mma.m16n8k32.s32.s4.u4.s32", "mma.m16n8k64.s32.s4.u4.s32.satfinite")


def main() -> None:
    """Run all experiments and write the file."""
    arguments = argparse.ArgumentParser()
    arguments.add_argument("out", type=Path)
    options = arguments.parse_args()
    record: dict[str, Any] = {"commit": commit(), **machine()}
    experiments: list[tuple[str, Callable[[str], Any], tuple[str, ...]]] = [
        ("layout: mismatches of exact sums of small integers, of how many", layout, FLOATS + WHOLE),
        ("order: as layout, positions of a pair descending", lambda x: layout(x, descending=True), FLOATS + WHOLE),
        ("pairs: ones that are left beside two cancelling large products i and j, C one or zero", pairs, FLOATS),
        ("skipped: outputs that NaNs, infinities or numbers in skipped rows of B change", skipped, FLOATS),
        ("hypotheses: mismatches by rule, of how many", hypotheses, FLOATS + WHOLE),
        ("signs: mismatches of dense wgmma with imm-scale -1 and scale-d 0, of how many", signs, FLOATS[:7]),
        (f"rate: us of {CHAIN} wgmmas in turn on every SM, zeros, dense and sparse", rate, RATES),
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


def sparse(name: str) -> str:
    """Return the name of the sparse instruction that stores as many products as a dense one has."""
    short = name.removeprefix("hopper.")
    return "hopper." + re.sub(r"^(\w+)\.(m\d+n\d+)k(\d+)", lambda x: f"{x[1]}.sp.{x[2]}k{2 * int(x[3])}", short)


# -- operands --------------------------------------------------------------------------------------------------------


def on_chip(name: str, x: StressOperands) -> Any:
    """Return the codes of D, computed by the chip."""
    return native.matmul(name, x.a, x.b, x.c, x.positions)


def expected(spec: Instruction, x: StressOperands) -> Any:
    """Return the codes of D under a sparse spec."""
    return matmul(spec, x.a, x.b, x.c, positions=x.positions, engine="cpu").view(code_dtype(spec.accumulator))


def positions(spec: Instruction, seed: int, m: int, k: int) -> Any:
    """Return random positions (M, stored) for K."""
    return draw(spec, "normal", np.random.default_rng(seed), m, 1, k).positions


def tiles(spec: Instruction, outputs: int) -> tuple[int, int]:
    """Return M and N of whole tiles with about so many outputs."""
    n = spec.shape.n * max(1, round(outputs**0.5 / spec.shape.n))
    return 64 * ceil(outputs / n / 64), n


# -- experiments -----------------------------------------------------------------------------------------------------


def layout(short: str, descending: bool = False) -> list[int]:
    """Ask whether the metadata is where we put it: sums of small integers are exact under every rule."""
    name = sparse(f"hopper.{short}")
    spec = load(name)
    rng = np.random.default_rng(1)
    m, n, k = 64, spec.shape.n, spec.shape.k * 2
    where = positions(spec, 1, m, k)
    if descending and spec.sparsity.kept == 2:
        where = where.reshape(m, -1, 2)[..., ::-1].reshape(m, -1)
    low = 0 if spec.a.kind == "integer" else -2
    x, y = rng.integers(low, 3, (m, k // 2)), rng.integers(low, 3, (k, n))
    a, b = (encode_array(fmt, v.astype(float)) for fmt, v in ((spec.a, x), (spec.b, y)))
    c = encode_array(spec.c_format, np.zeros((m, n)))
    got = native.matmul(name, a, b, c, where)
    sums = np.stack([x[i] @ y[rows] for i, rows in enumerate(elements(spec.sparsity, where))]).astype(float)
    return [int((got != encode_array(spec.accumulator, sums)).sum()), got.size]


def pairs(short: str) -> Any:
    """Ask which products share an alignment: two large ones cancel, and ones aligned with them are lost.

    Returns the distinct numbers left with C zero and C one, and the matrix of pairs for C zero if they differ.
    """
    name = sparse(f"hopper.{short}")
    spec = load(name)
    stored, n = spec.stored_k, spec.shape.n
    every = list(combinations(range(stored), 2))
    m = 64 * ceil(len(every) / 64)
    large, small = {"e4m3": (8, -9), "e5m2": (15, -15), "fp16": (15, -14)}.get(spec.a.name, (20, -20))
    values = np.full((m, stored), 2.0**small)
    for row, (i, j) in enumerate(every):
        values[row, i], values[row, j] = 2.0**large, -(2.0**large)
    a, b = encode_array(spec.a, values), encode_array(spec.b, np.ones((spec.shape.k, n)))
    where = positions(spec, 2, m, spec.shape.k)
    out: dict[str, Any] = {}
    for c in (0, 1):
        codes = encode_array(spec.c_format, np.full((m, n), c * 2.0**small))
        d = native.matmul(name, a, b, codes, where)
        left = (decode_array(spec.accumulator, d)[: len(every), 0] * 2.0**-small).tolist()
        out[f"C {c}"] = sorted(set(left))
        if len(set(left)) > 1:
            out[f"matrix C {c}"] = [[i, j, v] for (i, j), v in zip(every, left, strict=True)]
    return out


def skipped(short: str) -> dict[str, int]:
    """Ask whether elements of B that no row uses matter: all rows skip the same ones."""
    name = sparse(f"hopper.{short}")
    spec = load(name)
    rng = np.random.default_rng(3)
    m, n, k = 64, spec.shape.n, spec.shape.k
    out = {}
    for kind in ("wide", "subnormal"):
        x = draw(spec, kind, rng, m, n, k)
        where = np.repeat(x.positions[:1], m, 0)
        used = np.isin(np.arange(k), elements(spec.sparsity, where)[0])
        base = replace(x, positions=where, b=np.where(used[:, None], x.b, 0).astype(x.b.dtype))
        reference = on_chip(name, base)
        for other in ("bits", "special", "overflow"):
            b = np.where(used[:, None], x.b, draw(spec, other, rng, m, n, k).b).astype(x.b.dtype)
            out[f"{kind} {other}"] = int((on_chip(name, replace(base, b=b)) != reference).sum())
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
    """Compare the chip with every rule on all kinds of operands; the first is the catalogue's."""
    name = sparse(f"hopper.{short}")
    spec = load(name)
    cases = list(cases_of(name, 4096 * len(KINDS)))
    results = [on_chip(name, x) for x in cases]
    out: dict[str, Any] = {"of": sum(got.size for got in results)}
    for rule, hypothesis in rules(spec):
        if out.get("as dense") == {}:
            break
        wrong = [int((expected(hypothesis, x) != got).sum()) for x, got in zip(cases, results, strict=True)]
        out[rule] = {kind: count for kind, count in zip(KINDS, wrong, strict=True) if count}
    return out


def cases_of(name: str, outputs: int) -> Iterator[StressOperands]:
    """Yield operands of every kind for a sparse instruction, chained over one to three of them along K."""
    spec, rng = load(name), np.random.default_rng(zlib.crc32(name.encode()))
    m, n = tiles(spec, ceil(outputs / len(KINDS)))
    for i, kind in enumerate(KINDS):
        yield draw(spec, kind, rng, m, n, spec.shape.k * (1 + i % 3))


def rate(short: str) -> dict[str, float]:
    """Ask how long a sparse wgmma takes, and the dense one of as many products: microseconds of a chain on every SM."""
    import torch
    from cuda.core import Device, LaunchConfig, ObjectCode, Stream, launch

    out = {}
    for name in (f"hopper.{short}", sparse(f"hopper.{short}")):
        text = native.source(native.parse(name))
        first = text.index('    asm volatile("wgmma.mma_async')
        end = text.index("\n", first)
        chain = f"    for (int i = 0; i < {CHAIN // 8}; ++i) {{\n" + (text[first:end] + "\n") * 8 + "    }"
        kernel = ObjectCode.from_cubin(native.cubin(text[:first] + chain + text[end:])).get_kernel("run")
        tile = native.parse(name)
        sms = torch.cuda.get_device_properties(0).multi_processor_count
        sizes = (
            sms * 64 * tile.a_bytes,
            tile.n * tile.b_bytes,
            4 * sms * 64 * tile.n,
            4 * sms * 64 * tile.n,
            4 * sms * 128,
        )
        data = [torch.zeros(size, dtype=torch.uint8, device="cuda") for size in sizes]
        data[4].view(torch.int32).fill_(0x44444444)
        Device(0).set_current()
        stream = Stream.from_handle(torch.cuda.current_stream().cuda_stream)
        config = LaunchConfig(grid=(sms, 1), block=128)
        arguments = [np.int32(tile.n), np.int32(tile.b_bytes), *(x.data_ptr() for x in data)]
        times = []
        for _ in range(9):
            ends = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
            ends[0].record()
            launch(stream, config, kernel, *arguments)
            ends[1].record()
            torch.cuda.synchronize()
            times.append(1e3 * ends[0].elapsed_time(ends[1]))
        out[name.removeprefix("hopper.")] = round(sorted(times)[4], 2)
    return out


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
