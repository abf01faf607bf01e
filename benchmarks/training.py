"""Experiments (a) to (e) on one Hopper GPU in under ten minutes: `python benchmarks/training.py RECORD.json`.

First the bits are checked (the chip against the model in a training step, graphs against launches), then arms are trained in
an order that leaves something to compare whenever time runs out: every arm that the chip computes, seed by seed, then the
fraction bits, which the model computes. Runs that the record has are not made again, so that another call goes on where
this one stopped. Without a GPU: `--size tiny --steps 4` tries the script out.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from pathlib import Path

from codesign.training.experiments import HEADINGS, arms, experiments, find, run, summary
from codesign.training.size import Size, find_size

NATIVE = ("framework", "accumulation", "blocks", "scales", "moments")
"""Experiments whose arms today's chip computes."""
EMULATED = ("bits", "groups")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("record", type=Path)
    parser.add_argument("--size", default="10m")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--tokens", type=int)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--budget", type=float, default=480.0, help="seconds after which no run is begun")
    parser.add_argument("--native-share", type=float, default=0.6, help="of the budget, for what the chip computes")
    arguments = parser.parse_args()
    begun = time.monotonic()
    changes = {k: v for k in ("steps", "tokens") if (v := getattr(arguments, k)) is not None}
    size = Size.model_validate({**find_size(arguments.size).model_dump(), **changes})
    seeds = [int(s) for s in arguments.seeds.split(",")]
    graphs = check()
    plan = [(NATIVE, arguments.native_share), (EMULATED, 1.0), (NATIVE, 1.0)]
    for names, share in plan:
        chosen = list(dict.fromkeys(arm for name in names for arm in find(name).arms))
        left = arguments.budget * share - (time.monotonic() - begun)
        if left > 0:
            record = run(chosen, arguments.size, size, seeds, arguments.record, budget=left, watch=say, graphs=graphs)
    for name, e in experiments().items():
        print(f"\n{name}: {e.question}\n" + " | ".join(HEADINGS))
        for row in summary(record, e.arms):
            print(" | ".join(row))
    print(f"\n{len(record.runs)} runs, {time.monotonic() - begun:.0f} s")


def check() -> bool:
    """The chip against the model on every GEMM of a step, and graphs against launches; whether graphs can be trusted."""
    import torch

    from codesign.training import engines, linear
    from codesign.training.loop import Job, Trainer, train

    if not torch.cuda.is_available():
        print("no GPU: nothing to check")
        return False
    size = find_size("tiny").model_copy(update={"steps": 4})
    counts = {}

    def both(gemm, a, b, engine):  # type: ignore[no-untyped-def]
        d = engines.multiply(gemm, a, b, engine)
        if engine == "native":
            same = torch.equal(d.view(torch.int32), engines.multiply(gemm, a, b, "model").view(torch.int32))
            counts[arm][not same] += 1
        return d

    linear.multiply = both
    try:
        for arm in ("tensor-unpromoted", "tensor-promoted", "framework"):
            counts[arm] = [0, 0]
            Trainer(Job(arm, arms()[arm].resolved(), size, 0, graphs=False)).advance()
            print(f"{arm}: GEMMs of a step that equal the model to the bit, and that do not: {counts[arm]}", flush=True)
    finally:
        linear.multiply = engines.multiply
    job = Job("tensor-promoted", arms()["tensor-promoted"].resolved(), size, 0)
    try:
        losses = [train(j).curve for j in (job, dataclasses.replace(job, graphs=False))]  # type: ignore[union-attr]
    except RuntimeError as error:
        print(f"CUDA graphs cannot be captured, steps are launched instead: {error}", flush=True)
        return False
    print(f"graphs and launches give the same losses: {losses[0] == losses[1]}", flush=True)
    return losses[0] == losses[1]


def say(job, step, loss):  # type: ignore[no-untyped-def]
    """A line at the end of a run."""
    if step == job.size.steps:
        print(f"{job.arm} seed {job.seed}: loss {loss:.4f}", flush=True)


if __name__ == "__main__":
    main()
