"""Error bounds against emulated outputs, none of which may be over its bound.

    python checks/bounds.py --outputs 1e9 --record checks/bounds.json      # 9 minutes of a core, and compiling
    python checks/bounds.py --outputs 1e9 --record checks/bounds_gpu.json --engine gpu

Takes the arithmetics of pages/bounds.json one after the other, with operands of every kind: those that stress an instruction
(isa_model/stimulus.py) with a C, and some near the worst input found (pages/bounds.json) without. The exact sum is one in
float64, whose own error is allowed beside the bound: at most (K + 4) 2**-53 S, under a thousandth of any bound. A record is
written after every visit of an arithmetic; the next run goes on from it. Exit code 1 if an output is over its bound.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from codesign.commit import commit
from codesign.evidence.bounds.derive import bound
from codesign.evidence.bounds.witness import Bench, Witness
from codesign.proposal.target import instruction_of
from isa_model.array_codec import to_codes
from isa_model.engines.operands import library, numbers, read
from isa_model.engines.plan import Plan, Unsupported
from isa_model.float64 import Codes
from isa_model.formats import Format
from isa_model.groups import spread
from isa_model.ieee import in_ieee_mode
from isa_model.instruction import Instruction
from isa_model.matmul import matmul
from isa_model.operand_fields import ScaleOperand
from isa_model.output_files import head, json_lines, write_file
from isa_model.stimulus import StressOperands, draw

ROOT = Path(__file__).resolve().parent.parent
NEAR = "near the worst input"
KINDS = ("finite", "normal", "wide", "cancellation", "subnormal", "overflow", NEAR)
PRODUCTS = 64
"""Products of a sum, approximately."""
DRAWN = 32
"""Rows of C that are drawn, and repeated."""
SIDES = {"cpu": (256, 1024), "gpu": (1024, 4096)}
"""Rows and columns of the first matrix of an arithmetic, and of the largest, by engine."""
SECONDS = 0.5
"""Time that one matrix product may take: of all cores, or on the GPU."""


@dataclass(frozen=True)
class Arithmetic:
    """An instruction whose outputs are checked, and the input that comes nearest to its bound."""

    name: str
    spec: Instruction
    witness: Witness | None

    @property
    def k(self) -> int:
        """Products of a sum: two instructions at least."""
        return self.spec.shape.k * max(2, PRODUCTS // self.spec.shape.k)


def arithmetics() -> list[Arithmetic]:
    """Return those of pages/bounds.json that round and that engines compute, neighbours far apart.

    Left out are FP64 registers, which a float64 reference cannot judge, and scales of several levels, which no operands are
    drawn for.
    """
    found = []
    for row in json.loads((ROOT / "pages/bounds.json").read_text(encoding="utf-8"))["rows"]:
        spec = instruction_of(row["instruction"]).dense
        if not row["worst"] or spec.accumulator.name == "fp64" or any(side.coarser for side in spec.scales):
            continue
        try:
            Plan(spec)
        except Unsupported:
            continue
        pairs = tuple(map(tuple, row.get("pairs", ())))
        near = Witness(row["level"], row["heads"], row["boost"], pairs) if pairs else None
        found.append(Arithmetic(row["instruction"], spec, near))
    step = next(n for n in range(len(found) * 5 // 8, 2 * len(found)) if np.gcd(n, len(found)) == 1)
    return [found[i * step % len(found)] for i in range(len(found))]


# -- operands --------------------------------------------------------------------------------------------------------


def operands(about: Arithmetic, kind: str, rng: np.random.Generator, side: int) -> StressOperands:
    """Return the operands of a product of (side, K) and (K, side)."""
    spec, k = about.spec, about.k
    if kind == NEAR:
        return near(about, rng, side)
    if kind == "cancellation":
        return draw(spec, kind, rng, side, side, k)
    of_a, of_b = draw(spec, kind, rng, side, DRAWN, k), draw(spec, kind, rng, DRAWN, side, k)
    c = np.tile(of_b.c, (side // DRAWN, 1))
    return replace(of_a, b=of_b.b, c=c, scale_b=of_b.scale_b)


def near(about: Arithmetic, rng: np.random.Generator, side: int) -> StressOperands:
    """Return the worst input found in every row and column, with a share of the elements of each changed; C is zero."""
    spec, bench, witness = about.spec, Bench(about.spec, about.k), about.witness
    assert witness
    if witness.layout not in bench.layouts:  # it is for a longer K
        witness = replace(witness, level=-1, heads=0)
    a, b, scales = bench.operands(witness)
    each = [changed(fmt, np.repeat(x, side, 0), rng) for fmt, x in ((spec.a, a), (spec.b, b.T))]
    sides = (spec.scale.a, spec.scale.b) if spec.scale else (None, None)
    of_a, of_b = (
        None if own is None or codes is None else np.repeat(codes, -(-side // own.group[axis]), axis)
        for own, codes, axis in zip(sides, scales, (0, 1), strict=True)
    )
    c = np.zeros((side, side), dtype=f"u{spec.c_format.storage_bits // 8}")
    return StressOperands(each[0], np.ascontiguousarray(each[1].T), c, of_a, of_b)


def changed(fmt: Format, codes: Codes, rng: np.random.Generator) -> Codes:
    """Return codes of which a share, other in each row, has another sign or a magnitude up to two units apart."""
    if fmt.kind != "float":
        return codes
    share = rng.choice([0.0, 0.02, 0.2, 1.0], (len(codes), 1))
    bare = codes.astype(np.int64) >> fmt.low_padding
    magnitude, sign = bare & ((1 << fmt.magnitude_bits) - 1), bare >> fmt.magnitude_bits
    moved = np.clip(magnitude + rng.integers(-2, 3, codes.shape), int(not fmt.zero), fmt.max_finite_magnitude)
    magnitude = np.where((rng.random(codes.shape) < share) & (magnitude > 0), moved, magnitude)
    if fmt.signed:
        sign = sign ^ (rng.random(codes.shape) < share / 2)
    if fmt.nan == "negative-zero":
        sign = sign & (magnitude > 0)
    return ((magnitude | sign << fmt.magnitude_bits) << fmt.low_padding).astype(codes.dtype)


# -- outputs ---------------------------------------------------------------------------------------------------------


@in_ieee_mode
def share(about: Arithmetic, x: StressOperands, with_c: bool, seed: int, gpu: bool) -> tuple[int, float]:
    """Return how many outputs a bound covers in one product of matrices, and the largest share of it."""
    spec, k = about.spec, about.k
    limits = bound(spec, k, c=with_c)
    if gpu:
        from isa_model.engines.gpu import matmul_on_device

        a, b, c, scale_a, scale_b = (_on_gpu(y) for y in (x.a, x.b, x.c, x.scale_a, x.scale_b))
        d = numbers(spec.accumulator, matmul_on_device(spec, a, b, c, scale_a, scale_b, seed=seed))
    else:
        a, b, c, scale_a, scale_b = x.a, x.b, x.c, x.scale_a, x.scale_b
        made = matmul(spec, a, b, c, scale_a, scale_b, seed=seed if spec.is_stochastic else None)
        d = numbers(spec.accumulator, to_codes(spec.accumulator, made))
    xp = library(a)
    of_a, of_b = read(spec.a, a, spec.flush_operands), read(spec.b, b, spec.flush_operands)
    of_c = read(spec.c_format, c, spec.flush_c)
    bare = abs(of_a) @ abs(of_b) + abs(of_c) if spec.scale else None
    largest, normal = 1.0, None
    if spec.scale:
        high, low = 2.0**spec.scale.power, 1.0
        for own, codes, is_a in ((spec.scale.a, scale_a, True), (spec.scale.b, scale_b, False)):
            if own is None or codes is None:
                continue
            scales, ends = _scales(own, numbers(own.format, codes), (of_a if is_a else of_b).shape, is_a)
            if is_a:
                of_a = of_a * scales
            else:
                of_b = of_b * scales
            fits = ends[0] >= 2.0**own.format.min_exponent
            normal = fits if normal is None else normal & fits
            low, high = low * ends[0], high * ends[1]
        of_a = of_a * 2.0**spec.scale.power
        if spec.scale.product and normal is not None:
            kept = spec.scale.product.format
            normal = normal & (low >= 2.0**kept.min_exponent) & (high <= 2.0**kept.max_exponent)
        largest = max(high, 1.0) if normal is None else xp.clip(high, 1.0, None)
    mass = abs(of_a) @ abs(of_b) + abs(of_c)
    off = abs(d - (of_a @ of_b + of_c))
    room = mass * (limits.worst + (k + 4) * 2.0**-53) + limits.absolute * largest
    inside = mass <= min(limits.overflow, 1e300)  # not so of a NaN
    for other in (None if bare is None else bare <= min(limits.overflow, 1e300), normal):
        inside = inside if other is None else inside & other
    found = xp.where(off == 0, 0.0, off / room)
    found = xp.where(xp.isnan(found), float("inf"), found)  # an overflow where the bound says that there is none
    return int(inside.sum()), float(xp.where(inside, found, 0.0).max())


def _scales(side: ScaleOperand, scales: Any, shape: tuple[int, ...], is_a: bool) -> tuple[Any, tuple[Any, Any]]:
    """Return the scale of each element, and the smallest and the largest magnitude of a row of A or a column of B."""
    xp = library(scales)
    size = abs(xp.where(xp.isfinite(scales), scales, 0.0))  # a 0 is not normal
    if xp is np:
        every, sizes = spread(scales, side.group, shape), spread(size, side.group, shape)
    else:
        every, sizes = scales, size
        for axis, each in enumerate(side.group):
            every, sizes = (y.repeat_interleave(min(each, shape[axis]), axis) for y in (every, sizes))
        every, sizes = (y[: shape[0], : shape[1]] for y in (every, sizes))
    low, high = (sizes.min(1), sizes.max(1)) if is_a else (sizes.min(0), sizes.max(0))
    if xp is not np:
        low, high = low.values, high.values
    return every, (low[:, None], high[:, None]) if is_a else (low[None, :], high[None, :])


def _on_gpu(codes: Codes | None) -> Any:
    import torch

    return None if codes is None else torch.from_numpy(np.ascontiguousarray(codes).view(f"i{codes.itemsize}")).cuda()


# -- the run ---------------------------------------------------------------------------------------------------------


def visits(about: Arithmetic, row: dict[str, Any], engine: str) -> Iterator[tuple[str, list[int], int, int, float]]:
    """Check one product of matrices of each kind; yield kind, seed, side, outputs covered and largest share of the bound."""
    first, most = SIDES[engine]
    clock = time.perf_counter if engine == "gpu" else time.process_time
    for kind in KINDS:
        if kind == NEAR and about.witness is None:
            continue
        side = row.setdefault("side", first)
        seed = [row["batches"], KINDS.index(kind)]
        x = operands(about, kind, np.random.default_rng(seed), side)
        start = clock()
        with np.errstate(all="ignore"):
            outputs, found = share(about, x, kind != NEAR, row["batches"], engine == "gpu")
        spent = clock() - start
        row["batches"] += 1
        if row["batches"] > 1:  # the first one compiles
            room = (SECONDS / max(spent, 1e-3)) ** 0.5
            row["side"] = int(min(max(side * min(room, 4.0), first), most)) // DRAWN * DRAWN
        yield kind, seed, side, outputs, found


def main() -> int:
    """Check outputs until there are as many as asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--outputs", type=float, default=1e9)
    parser.add_argument("--engine", choices=list(SIDES), default="cpu")
    parser.add_argument("--record", type=Path, help="go on from this file (JSON), and write it")
    parser.add_argument("--arithmetics", type=int, help="take only the first so many, which are unlike each other")
    options = parser.parse_args()
    rows: dict[str, dict[str, Any]] = {}
    spent = 0.0
    if options.record and options.record.exists():
        before = json.loads(options.record.read_text(encoding="utf-8"))
        rows, spent = {row["instruction"]: row for row in before["rows"]}, before["core_seconds"]
    started_at, cores = commit("checks/bounds.py", "pages/bounds.json"), time.process_time()

    def total() -> int:
        return sum(row["outputs"] for row in rows.values())

    def record() -> None:
        if options.record:
            about = {
                "what": "emulated outputs against their error bounds: the largest share of a bound, by kind of operands",
                **head(f"python checks/bounds.py --outputs {options.outputs:g} --engine {options.engine}", started_at),
                "engine": options.engine,
                "outputs": total(),
                "core_seconds": round(spent + time.process_time() - cores),
                "largest": max((x for row in rows.values() for x in row["largest"].values()), default=0.0),
            }
            write_file(options.record, json_lines({**about, "rows": list(rows.values())}))

    known = arithmetics()[: options.arithmetics]
    while total() < options.outputs:
        before_round = total()
        for about in known:
            row = rows.setdefault(about.name, {"instruction": about.name, "batches": 0, "outputs": 0, "largest": {}})
            for kind, seed, side, outputs, found in visits(about, row, options.engine):
                row["outputs"] += outputs
                row["largest"][kind] = max(row["largest"].get(kind, 0.0), float(f"{found:.4g}"))
                if found > 1:
                    record()
                    print(f"{about.name}: {kind}, seed {seed}, {side} rows and columns: {found:.4g} of its bound")
                    return 1
            record()
            print(f"{total():,} {about.name} {max(row['largest'].values()):.4f}", file=sys.stderr, flush=True)
            if total() >= options.outputs:
                break
        if total() == before_round:
            print("no output is covered by a bound", file=sys.stderr)
            return 1
    print(f"{total():,} outputs of {len(rows)} arithmetics, none over its bound")
    return 0


if __name__ == "__main__":
    sys.exit(main())
