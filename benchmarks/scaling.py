"""Throughput of data-parallel training: one process and several, with the loop of `codesign train`.

    torchrun --nproc-per-node 2 benchmarks/scaling.py --out scaling.json
    python benchmarks/scaling.py --show scaling.json

Weak scaling gives every GPU the tokens of the size's step; strong scaling shares them, a micro-batch a GPU. One process
makes the same steps first, launched kernel by kernel as several processes do, and replayed as CUDA graphs. Losses are compared
at equal tokens and micro-batches: there all processes together compute what one does, but for the order of sums.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from codesign.evidence.training.loop import Job, Trainer, processes
from codesign.evidence.training.size import Size, find_size
from codesign.proposal.recipe import load_recipe
from isa_model.output_files import json_lines, write_file
from isa_model.provenance import commit


def sizes_of(name: str, ranks: int, steps: int) -> dict[str, Size]:
    """Sizes by kind of scaling, for `ranks` processes: `weak`, `strong`; and `alone`, one process's part of `weak`."""
    size = find_size(name)

    def changed(times: int, parts: int) -> Size:
        fields = {**size.model_dump(), "tokens": size.tokens * times, "micro_batches": parts, "steps": steps}
        return Size.model_validate(fields)

    return {"alone": changed(1, 1), "strong": changed(1, ranks), "weak": changed(ranks, ranks)}


def trained(size: Size, recipe: str, graphs: bool) -> dict[str, Any]:
    """Train from the first weights: tokens a second after the first tenth of the steps, and the losses."""
    trainer = Trainer(Job(recipe, load_recipe(recipe), size, 0, graphs=graphs))
    while trainer.step < size.steps and trainer.diverged_at is None:
        trainer.advance()
    return {
        "engines": list(trainer.engines),
        "replayed": trainer.graphs is not None,
        "tokens_per_second": round(rate(trainer)),
        "losses": [round(loss, 6) for loss in trainer.seen],
    }


def rate(trainer: Trainer) -> float:
    """Tokens a second; not `Trainer.finish`, which also measures gradients."""
    import time

    if trainer.device.type == "cuda":
        torch.cuda.synchronize()
    since, when = trainer.clock or (0, trainer.started)
    return (trainer.step - since) * trainer.job.size.tokens / max(time.monotonic() - when, 1e-9)


def difference(ours: list[float], alone: list[float]) -> float:
    """Largest relative difference of losses, infinite where one run is shorter."""
    if len(ours) != len(alone):
        return math.inf
    return max(abs(a - b) / b for a, b in zip(ours, alone, strict=True))


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Runs of one process, by the first while the others wait, then of all together; in every process its own view."""
    from os import environ

    ranks, first = int(environ.get("WORLD_SIZE", "1")), environ.get("RANK", "0") == "0"
    gpu = torch.cuda.is_available()
    rows: list[dict[str, Any]] = []
    plan = [(recipe, name) for name in arguments.sizes for recipe in arguments.recipes]
    alone = {}
    for recipe, name in plan if first else ():
        for scaling, size in sizes_of(name, ranks, arguments.steps).items():
            # One process makes the steps of weak scaling, too, only where they are the strong ones.
            for graphs in (False, True) if scaling == "alone" and gpu else (False,) if scaling != "weak" else ():
                key = recipe, name, scaling, graphs
                alone[key] = trained(size, recipe, graphs)
                print(f"1 process: {key}: {alone[key]['tokens_per_second']} tokens/s", file=sys.stderr, flush=True)
    with processes() as (rank, world):
        for recipe, name in plan if world > 1 else ():
            for scaling, size in list(sizes_of(name, world, arguments.steps).items())[1:]:
                run = trained(size, recipe, graphs=False)
                if rank:
                    continue
                one = alone[recipe, name, "alone", False]
                same = alone[recipe, name, "strong", False] if scaling == "strong" else None
                rows.append(
                    {
                        "recipe": recipe,
                        "size": name,
                        "scaling": scaling,
                        "tokens": size.tokens,
                        "micro_batches": size.micro_batches,
                        **run,
                        "one_launched": one["tokens_per_second"],
                        "one_replayed": alone[recipe, name, "alone", True]["tokens_per_second"] if gpu else None,
                        "speedup": round(run["tokens_per_second"] / one["tokens_per_second"], 4),
                        "loss_difference": difference(run["losses"], same["losses"]) if same else None,
                    }
                )
                print(f"{world} processes: {json.dumps(rows[-1])[:400]}", file=sys.stderr, flush=True)
                write_file(arguments.out, json_lines(record(rows, arguments, world)))
    return record(rows, arguments, ranks) if first else {}


def record(rows: list[dict[str, Any]], arguments: argparse.Namespace, ranks: int) -> dict[str, Any]:
    """A record: where and with what it was made, and its rows."""
    gpu = torch.cuda.is_available()
    return {
        "schema_version": 1,
        "date": datetime.now(UTC).date().isoformat(),
        "commit": commit("isa_model", "kernels", "codesign", "benchmarks/scaling.py"),
        "command": "torchrun benchmarks/scaling.py",
        "ranks": ranks,
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if gpu else [],
        "versions": {
            "torch": version("torch"),
            "cuda": str(torch.version.cuda),
            "nccl": ".".join(map(str, torch.cuda.nccl.version())) if gpu else "",
        },
        "steps": arguments.steps,
        "rows": rows,
    }


def table(found: dict[str, Any]) -> str:
    """The record's table, in Markdown."""
    lines = [
        f"{found['ranks']} x {(found['gpus'] or ['CPU'])[0]}, {found['date']}, commit {found['commit']}, {found['steps']} steps. "
        "Speedup over one process that launches its kernels.",
        "",
        "| size | recipe | scaling | tokens a step | tokens/s | one process | replayed | speedup | losses differ by |",
        "|---|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for row in found["rows"]:
        apart = row["loss_difference"]
        cells = [
            row["size"],
            row["recipe"],
            row["scaling"],
            row["tokens"],
            row["tokens_per_second"],
            row["one_launched"],
        ]
        cells += [row["one_replayed"] or "", f"{row['speedup']:.2f}", "" if apart is None else f"{apart:.1e}"]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("scaling.json"))
    parser.add_argument("--show", type=Path, help="print the table of a record instead")
    parser.add_argument("--sizes", nargs="+", default=["10m", "100m"])
    parser.add_argument("--recipes", nargs="+", default=["bf16", "deepseek-v3"])
    parser.add_argument("--steps", type=int, default=40)
    arguments = parser.parse_args()
    found = json.loads(arguments.show.read_text()) if arguments.show else measure(arguments)
    if found:
        print(table(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
