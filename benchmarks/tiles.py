"""Times of every tile that kernels/gemm can choose for a GEMM: `python benchmarks/tiles.py RECORD.json [--kind fp4]`.

Shows where the chosen tile (kernels/gemm/choose.py) is not the fastest, by how much, and what the model estimates: the figures
to fit its constants to. The record has the bench's schema. `--show` prints the table of an existing record and needs no GPU.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from math import exp, log
from pathlib import Path
from statistics import fmean

from isa_model.output_files import typed
from kernels.bench.case import Case
from kernels.bench.gemm_cases import BenchOperands, scaled_case
from kernels.bench.records import BenchRecord, BenchRow, read
from kernels.bench.shapes import TOKENS, BenchGemm, deepseek_v3
from kernels.gemm.cases import by_group, fp4_cases, problem_of
from kernels.gemm.choose import Gpu, candidates, estimate_us, gpu_of
from kernels.gemm.tile import GemmProblem, Tile

COMMAND = "python benchmarks/tiles.py"
KINDS = ("fprop", "fp4")
"""GEMMs whose tiles are timed: forward ones of E4M3, and those with E2M1 weights."""


def cases(kind: str, shapes: Sequence[BenchGemm]) -> Iterator[list[Case]]:
    """Yield the cases of all tiles of each shape's GEMM."""
    case = {"fprop": _case, "fp4": _fp4_case}[kind]
    for shape in shapes:
        yield [case(shape, tile) for tile in candidates(problem_of(kind, shape))]


def _fp4_case(shape: BenchGemm, tile: Tile) -> Case:
    def launch(x: BenchOperands) -> None:
        from kernels.gemm.launches import GemmOperands, issue

        _, _, scale_a, weights = x.call
        operands = GemmOperands(x.a, weights.codes, scale_a, weights.scales, x.out, shifts=weights.shifts)
        issue(operands, scales=tile.scales, promote=tile.promote, tile=tile)

    kernel = next(fp4_cases(shape))
    return replace(kernel, implementation=tile.name, launch=launch, static=tile.name)


def _case(shape: BenchGemm, tile: Tile) -> Case:
    def launch(x: BenchOperands) -> None:
        from kernels.gemm.launches import GemmOperands, issue

        operands = GemmOperands(x.a, x.b, x.call.scale_a, x.call.scale_b, x.out)
        issue(operands, scales=tile.scales, promote=tile.promote, tile=tile)

    return scaled_case(
        "gemm.fprop",
        tile.name,
        shape,
        tiles=((1, 128), (128, 128)),
        arrange=lambda a, b: (by_group(a), b.scales),
        launch=launch,
        notes="kernels.gemm with this tile, E4M3, FP32 scales 1x128 by 128x128, promoted every 128, BF16 out",
        variant="ours",
        static=tile.name,
    )


def measured(path: Path, kind: str, tokens: Sequence[int]) -> BenchRecord:
    """Measure all tiles of DeepSeek-V3's GEMMs of a kind. Raises Unavailable without a Hopper GPU."""
    from kernels.bench.bench import header, need_gpu

    need_gpu()
    from kernels.bench.measure import Sampler, measure

    rows: list[BenchRow] = []
    with Sampler() as sampler:
        for group in cases(kind, deepseek_v3(tokens)):
            rows += measure(group, 0, sampler)
            print(f"{len(rows)} tiles", flush=True)
        command = typed(COMMAND, path, "--kind", kind, "--tokens", ",".join(map(str, tokens)))
        return BenchRecord(cases=tuple(rows), **header(path.stem, command, 0, sampler))


Measured = dict[BenchGemm, tuple[GemmProblem, dict[Tile, float]]]


def times(record: BenchRecord) -> Measured:
    """Return the problem and the microseconds of every tile of each shape."""
    found: Measured = {}
    for kind in KINDS:
        for shape in dict.fromkeys(BenchGemm(**row.shape) for row in record.find(f"gemm.{kind}", "ours")):
            rows = record.find(f"gemm.{kind}", "ours", shape=shape._asdict())
            us = {row.implementation: row.timing.us for row in rows if row.timing}
            p = problem_of(kind, shape)
            tiles = {tile: us[tile.name] for tile in candidates(p) if tile.name in us}
            if tiles:
                found[shape] = p, tiles
    return found


def chosen(p: GemmProblem, tiles: Iterable[Tile], gpu: Gpu) -> Tile:
    """Return the tile with the shortest estimate, as `choose` does."""
    return min(tiles, key=lambda tile: estimate_us(p, tile, gpu))


def loss(found: Measured, gpu: Gpu) -> float:
    """Return the mean logarithm of the chosen tiles' times over the fastest ones'."""
    return fmean(log(tiles[chosen(p, tiles, gpu)] / min(tiles.values())) for p, tiles in found.values())


def lines(record: BenchRecord) -> Iterator[str]:
    """Yield a line per shape: the fastest and the chosen tile with estimates in brackets, and the time that the choice loses.

    The last line is the geometric mean of the losses.
    """
    gpu, found = gpu_of(record.gpu, record.sms), times(record)
    for shape, (p, tiles) in found.items():
        best, own = min(tiles, key=tiles.__getitem__), chosen(p, tiles, gpu)
        said = [f"{tile.name} {tiles[tile]:.1f} us ({estimate_us(p, tile, gpu):.1f})" for tile in (best, own)]
        words = "chosen" if best == own else f"chosen {said[1]}, {tiles[own] / tiles[best] - 1:.0%} slower"
        yield f"{'x'.join(map(str, shape))}: {said[0]}; {words}"
    if found:
        yield f"the choice is {exp(loss(found, gpu)) - 1:.1%} slower than the fastest tiles"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("record", type=Path)
    parser.add_argument("--kind", choices=KINDS, default=KINDS[0], help="the GEMMs to time")
    parser.add_argument("--tokens", default=",".join(map(str, TOKENS)), help="rows of A, separated by commas")
    parser.add_argument("--show", action="store_true", help="print the table of an existing record")
    arguments = parser.parse_args()
    if arguments.show:
        record = read(arguments.record)
    else:
        record = measured(arguments.record, arguments.kind, [int(m) for m in arguments.tokens.split(",")])
        record.save(arguments.record)
    for line in lines(record):
        print(line)


if __name__ == "__main__":
    main()
