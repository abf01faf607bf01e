"""Every tile that kernels/gemm could take for a GEMM, timed on the GPU at hand: `python benchmarks/tiles.py RECORD.json`.

Shows where the choice (kernels/gemm/choose.py) is not the fastest and by how much, beside what its model estimates: the
figures to fit its constants to on another GPU. The record has the bench's schema. With `--show` it prints the table of a
record that exists, without a GPU.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from math import exp, log
from pathlib import Path

from kernels.bench.case import Case
from kernels.bench.gemms import Operands, scaled_case
from kernels.bench.records import Record, Row, read
from kernels.bench.shapes import TOKENS, Gemm, deepseek_v3
from kernels.gemm.cases import by_group
from kernels.gemm.choose import candidates, choose, estimate_us
from kernels.gemm.tile import Problem, Tile

COMMAND = "python benchmarks/tiles.py"


def problem(shape: Gemm) -> Problem:
    """The forward GEMM with group scales, promoted every 128, BF16 out."""
    return Problem(*shape, 0, 1, 4, 2, False)


def cases(shapes: Sequence[Gemm]) -> Iterator[list[Case]]:
    """Of each shape all its tiles."""
    for shape in shapes:
        yield [_case(shape, tile) for tile in candidates(problem(shape))]


def _case(shape: Gemm, tile: Tile) -> Case:
    def launch(x: Operands) -> None:
        from kernels.gemm import run

        operands = run.Operands(x.a, x.b, x.call.scale_a, x.call.scale_b, x.out)
        run.issue(operands, scales=1, promote=4, tile=tile)

    return scaled_case(
        "gemm.fprop",
        tile.name,
        shape,
        ((1, 128), (128, 128)),
        lambda a, b: (by_group(a), b.scales),
        launch,
        "kernels.gemm with this tile, E4M3, FP32 scales 1x128 by 128x128, promoted every 128, BF16 out",
        variant="ours",
        static=tile.name,
    )


def measured(name: str, tokens: Sequence[int]) -> Record:
    """A record of all tiles of DeepSeek-V3's forward GEMMs. Raises Unavailable without a Hopper GPU."""
    from kernels.bench.run import header, need_gpu

    need_gpu()
    from kernels.bench.measure import Sampler, measure

    rows: list[Row] = []
    with Sampler() as sampler:
        for group in cases(deepseek_v3(tokens)):
            rows += measure(group, 0, sampler)
            print(f"{len(rows)} tiles", flush=True)
        return Record(cases=tuple(rows), **header(name, COMMAND, 0, sampler))


def lines(record: Record) -> Iterator[str]:
    """A line for each shape: the fastest tile and the chosen one, estimates in brackets, and what the choice loses; then the
    geometric mean of that."""
    losses = []
    for shape in dict.fromkeys(Gemm(**row.shape) for row in record.find("gemm.fprop", "ours")):
        us = {
            row.implementation: row.timing.us
            for row in record.find("gemm.fprop", "ours", shape=shape._asdict())
            if row.timing
        }
        tiles = {tile.name: tile for tile in candidates(problem(shape)) if tile.name in us}
        if not tiles:
            continue
        best, chosen = min(tiles, key=lambda name: us[name]), choose(problem(shape), record.sms).name
        said = [
            f"{name} {us[name]:.1f} us ({_estimate(shape, tiles[name], record.sms):.1f})" for name in (best, chosen)
        ]
        losses.append(us[chosen] / us[best])
        words = "chosen" if best == chosen else f"chosen {said[1]}, {losses[-1] - 1:.0%} slower"
        yield f"{'x'.join(map(str, shape))}: {said[0]}; {words}"
    if losses:
        yield f"the choice is {exp(sum(map(log, losses)) / len(losses)) - 1:.1%} slower than the fastest tiles"


def _estimate(shape: Gemm, tile: Tile, sms: int) -> float:
    return estimate_us(problem(shape), tile, sms)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("record", type=Path)
    parser.add_argument("--tokens", default=",".join(map(str, TOKENS)), help="rows of A, with commas")
    parser.add_argument("--show", action="store_true", help="print the table of a record that exists")
    arguments = parser.parse_args()
    if arguments.show:
        record = read(arguments.record)
    else:
        record = measured(arguments.record.stem, [int(m) for m in arguments.tokens.split(",")])
        record.save(arguments.record)
    for line in lines(record):
        print(line)


if __name__ == "__main__":
    main()
