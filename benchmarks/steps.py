"""What each trick of the kernels gives: without it and with it in one run on the GPU at hand.

    python benchmarks/steps.py kernels/records/steps-h100.json

A step names a trick, a GEMM or a matrix where it tells, and how to be without: another tile, other text of the kernel, or a
launch that waits for the grid before it to end. The record has the bench's schema; a row without a trick is called by the
trick's name and has it said in its notes. The tables of docs/gemm.md and docs/quantise.md are put there by `--show` of the
shipped one, which needs no GPU.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

from isa_model.output_files import put
from kernels.bench.case import Case
from kernels.bench.gemms import scaled_error
from kernels.bench.records import Record, Row, read
from kernels.bench.shapes import Gemm
from kernels.gemm import cases as gemms
from kernels.gemm.choose import candidates, choose, estimate_us
from kernels.gemm.driver import compiled
from kernels.gemm.tile import Problem, Tile, kernel_text
from kernels.quantise import cases as quantise

DOCS = Path(__file__).resolve().parent.parent / "docs"
COMMAND = "python benchmarks/steps.py"
Replaced = tuple[tuple[str, str], ...]
SCALES = {"fprop": 1, "wgrad": 2, "native": 0}


def same(tile: Tile) -> Tile:
    return tile


@dataclass(frozen=True)
class Step:
    """A trick, and how to be without it. `text` is replaced in the kernel's, `alone`: launched when the grid before ended."""

    name: str
    says: str
    kind: str
    """Of SCALES."""
    at: tuple[Gemm, ...]
    tile: Callable[[Tile], Tile] = same
    text: Replaced = ()
    alone: bool = False
    unlike: Callable[[Tile], bool] | None = None
    """The tile is chosen among those that are not like this."""


STEPS = (
    Step(
        "overlap",
        "set up while the grid before still runs (programmatic dependent launch)",
        "fprop",
        (Gemm(4096, 7168, 2048), Gemm(128, 2112, 7168)),
        alone=True,
    ),
    Step(
        "set-up",
        "tile, role and registers settled before the wait for the grid before",
        "fprop",
        (Gemm(4096, 7168, 2048), Gemm(128, 2112, 7168)),
        text=(("  release_next();\n", "  release_next();\n  wait_for_inputs();\n"),),
    ),
    Step(
        "early-b",
        "the first four steps of B asked into L2 while the grid before still runs",
        "fprop",
        (Gemm(64, 7168, 2048), Gemm(128, 32768, 512)),
        text=(("AHEAD = 4;", "AHEAD = 0;"),),
    ),
    Step(
        "look-ahead",
        "the next stage asked for while the last wgmmas run",
        "fprop",
        (Gemm(4096, 7168, 16384), Gemm(4096, 4096, 7168)),
        text=(("ready = barrier_done(full + 8 * ring.stage, ring.parity, k + 1 < tile.to);", "ready = 0;"),),
    ),
    Step(
        "start-together",
        "both warpgroups start a tile together, which frees its stages sooner",
        "fprop",
        (Gemm(4096, 7168, 16384),),
        text=(("if (WGS == 2) named_sync(1, MATH);", ";"),),
    ),
    Step(
        "bands",
        "tiles walked in bands of 2048 rows of A, not column by column",
        "fprop",
        (Gemm(4096, 32768, 512), Gemm(4096, 7168, 16384)),
        text=(("BAND = 2048 / (BM * TEAM_M) > 0 ? 2048 / (BM * TEAM_M) : 1;", "BAND = 1 << 20;"),),
    ),
    Step(
        "sharing",
        "pairs of CTAs share A by multicast",
        "fprop",
        (Gemm(4096, 7168, 16384), Gemm(4096, 4096, 7168)),
        tile=lambda tile: replace(tile, share=0),
    ),
    Step(
        "sharing-by-four",
        "four CTAs share A by multicast",
        "fprop",
        (Gemm(64, 7168, 16384),),
        unlike=lambda tile: tile.sharers == 4,
    ),
    Step(
        "odd-width",
        "tiles of 256 x 136, where 128 columns just miss two whole rounds of the SMs",
        "fprop",
        (Gemm(4096, 2112, 7168),),
        unlike=lambda tile: tile.bn == 136,
    ),
    Step(
        "halves-of-k",
        "two CTAs of a cluster take a half of K each and hand over sums by asynchronous stores",
        "fprop",
        (Gemm(64, 2112, 7168), Gemm(128, 4096, 7168)),
        unlike=lambda tile: tile.split == 2,
    ),
    Step(
        "two-in-flight",
        "two steps of K in flight in each warpgroup: one is promoted while the next multiplies",
        "fprop",
        (Gemm(128, 32768, 512), Gemm(64, 7168, 2048)),
        tile=lambda tile: replace(tile, depth=1),
    ),
    Step(
        "early-d",
        "wgrad: what is added to asked into L2 while its tile is multiplied",
        "wgrad",
        (Gemm(4096, 7168, 4096), Gemm(2112, 7168, 4096)),
        text=(("if (ADD && box <", "if (false && box <"),),
    ),
    Step(
        "waiting",
        "native: a warpgroup waits for its wgmmas before it issues more, which leaves the Tensor Core to the other",
        "native",
        (Gemm(4096, 4096, 7168), Gemm(4096, 7168, 16384)),
        tile=lambda tile: replace(tile, depth=2),
    ),
)


@dataclass(frozen=True)
class CastStep:
    """A trick of a cast (an implementation of `kernels.quantise.cases`) at 4096 x 7168."""

    name: str
    says: str
    kernel: str
    text: Replaced = ()
    alone: bool = False


CASTS = (
    CastStep(
        "overlap", "launched while the grid before still runs (programmatic dependent launch)", "requantise", alone=True
    ),
    CastStep(
        "early-tile",
        "a block asks its tile into L2 before it waits for the grid before",
        "requantise",
        (("prefetch_tile(arguments.in, 0, m, k);", ";"),),
    ),
    CastStep(
        "tile-ahead",
        "a block asks the tile of the block that takes its place into L2",
        "requantise",
        (("prefetch_tile(arguments.in, AHEAD, m, k);", ";"),),
    ),
    CastStep(
        "for-others",
        "what is sent leaves L2 first",
        "dispatch",
        (("store8_for_others(to + c, v);", "*(uint2 *)(to + c) = v;"),),
    ),
)
MATRIX = (4096, 7168)


def changed(step: Step | CastStep, text: str) -> str:
    """The kernel's text without a trick. Raises ValueError where the text has it no more."""
    for old, new in step.text:
        if old not in text:
            raise ValueError(f"step {step.name}: the kernel's text has no {old!r}")
        text = text.replace(old, new)
    return text


def problem(kind: str, shape: Gemm) -> Problem:
    """As kernels.gemm has it: promoted every 128, or native never; wgrad adds to FP32."""
    wgrad = kind == "wgrad"
    return Problem(*shape, 0, SCALES[kind], 0 if kind == "native" else 4, 4 if wgrad else 2, wgrad)


def without(step: Step, shape: Gemm, multiprocessors: int) -> tuple[Tile, str]:
    """The tile and the text of the kernel without the trick. Raises ValueError where the text or the choice has it no more."""
    p, text = problem(step.kind, shape), changed(step, kernel_text())
    tile = choose(p, multiprocessors)
    others = [t for t in candidates(p) if not (step.unlike and step.unlike(t))]
    if step.unlike and tile not in others:
        tile = min(others, key=lambda t: estimate_us(p, t, multiprocessors))
    tile = step.tile(tile)
    if (tile, text) == (choose(p, multiprocessors), kernel_text()) and not step.alone:
        raise ValueError(f"step {step.name}: the kernel of {shape} is without it anyway")
    return tile, text


def cases(multiprocessors: int) -> Iterator[list[Case]]:
    """Of each GEMM and each cast the kernel as it is and without each of its tricks."""
    for kind, shape in dict.fromkeys((step.kind, shape) for step in STEPS for shape in step.at):
        steps = [step for step in STEPS if step.kind == kind and shape in step.at]
        of_kind = {"fprop": partial(gemms._blocks, "gemm.fprop"), "wgrad": gemms._wgrad}.get(kind)
        ours = next(iter(of_kind(shape))) if of_kind else gemms._native(shape)
        yield [ours, *(_gemm(ours, step, shape, multiprocessors) for step in steps)]
    for name in dict.fromkeys(step.kernel for step in CASTS):
        kernel = next(kernel for kernel in quantise._kernels() if kernel.name == name)
        ours = replace(quantise._ours(kernel, *MATRIX), implementation="ours")
        yield [ours, *(_cast(ours, step) for step in CASTS if step.kernel == name)]


def _gemm(ours: Case, step: Step, shape: Gemm, multiprocessors: int) -> Case:
    from kernels.gemm import run
    from kernels.launch import Launch, stream

    tile, text = without(step, shape, multiprocessors)
    p = problem(step.kind, shape)
    made: dict[int, Launch] = {}

    def launch(x: Any) -> None:
        if id(x) not in made:
            operands = run.Operands(x.a, x.b, x.call.scale_a, x.call.scale_b, x.out)
            with patch.object(run, "_kernel", partial(_kernel, text=text)):
                made[id(x)] = run.prepare(operands, p.scales, p.promote, p.add, tile)
            if step.alone:
                made[id(x)].overlaps(False)
        made[id(x)](stream(x.a.device.index))

    check = partial(gemms.wgrad_error, launch=launch) if p.add else scaled_error
    return replace(ours, implementation=step.name, launch=launch, check=check, notes=step.says, static="")


def _cast(ours: Case, step: CastStep) -> Case:
    import kernels.quantise as q
    from kernels.launch import Kernel, Launch, stream
    from kernels.quantise import build

    made: dict[int, Launch] = {}

    @cache
    def kernel(choice: Any) -> Kernel:
        return Kernel(bytes(build.cubin(changed(step, choice.text)).code), "tile", build.THREADS)

    def launch(x: Any) -> None:
        if id(x) not in made:
            with patch.object(build, "kernel", kernel), patch.object(q, "_launches", {}):
                ours.launch(x)
                (made[id(x)],) = q._launches.values()
            if step.alone:
                made[id(x)].overlaps(False)
        made[id(x)](stream(x.inputs[0].device.index))

    return replace(ours, implementation=step.name, launch=launch, notes=step.says, static="")


@cache
def _kernel(tile: Tile, text: str) -> Any:
    from kernels.launch import Kernel

    return Kernel(compiled(tile.around(text)), "run", tile.threads, tile.cluster)


def measured(name: str) -> Record:
    """A record of every step. Raises Unavailable without a Hopper GPU."""
    from kernels.bench.run import header, need_gpu

    need_gpu()
    import torch

    from kernels.bench.measure import Sampler, measure

    multiprocessors = torch.cuda.get_device_properties(0).multi_processor_count
    rows: list[Row] = []
    with Sampler() as sampler:
        for group in cases(multiprocessors):
            rows += measure(group, 0, sampler)
        return Record(cases=tuple(rows), **header(name, COMMAND, 0, sampler))


def lines(record: Record, casts: bool) -> Iterator[str]:
    """A table with a line for each step and shape: microseconds without, with, and what it gives."""
    yield f"{record.gpu}, {record.date}, commit {record.commit} ([record](../kernels/records/{record.name}.json))."
    yield ""
    yield "| step | at | without | with | |"
    yield "|---|---|---:|---:|---:|"
    for step in CASTS if casts else STEPS:
        for row in record.find(implementation=step.name):
            if row.kernel.startswith("quantise.") != casts:
                continue
            (ours,) = record.find(row.kernel, implementation="ours", shape=row.shape)
            if row.timing and ours.timing:
                at = f"{row.kernel.split('.')[1]} " * casts + " x ".join(map(str, row.shape.values()))
                before, after = row.timing.us, ours.timing.us
                yield f"| {row.notes} | {at} | {before:.1f} | {after:.1f} | {before / after - 1:+.1%} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("record", type=Path)
    parser.add_argument("--show", action="store_true", help="put the tables of a record that exists into the docs")
    arguments = parser.parse_args()
    if not arguments.show:
        measured(arguments.record.stem).save(arguments.record)
    record = read(arguments.record)
    for page, casts in (("gemm", False), ("quantise", True)):
        table = "\n".join(lines(record, casts))
        if arguments.show:
            put(DOCS / f"{page}.md", "steps", table)
        print(table)


if __name__ == "__main__":
    main()
