"""Throughput of data-parallel training: one process and several, with the loop of `codesign train`.

    torchrun --nproc-per-node 2 benchmarks/scaling.py --out scaling.json
    python benchmarks/scaling.py --show scaling.json

Weak scaling gives every GPU the tokens of the size's step; strong scaling shares them, a micro-batch a GPU. One process
makes the same steps first, launched kernel by kernel as several processes do, and replayed as CUDA graphs. Losses are compared
at equal tokens and micro-batches: there all processes together compute what one does, but for the order in which gradients
are added. Training doubles such a difference in every step and more, so the first FIRST losses are compared, and where they
differ by more than ALIKE the exit code is 1.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from codesign.evidence.training.loop import Trainer, TrainingJob, processes
from codesign.evidence.training.size import Size, find_size
from codesign.figures import markdown
from codesign.proposal.recipe import load_recipe
from isa_model.checkout import commit_of
from isa_model.output_files import json_lines, write_file

FIRST, ALIKE = 3, 0.001
"""First losses that are compared, and the relative difference that the order of sums may have made by then."""


def sizes_of(name: str, ranks: int, steps: int) -> dict[str, Size]:
    """Sizes by kind of scaling, for `ranks` processes: `weak`, `strong`; and `one`, the part of a process in `weak`."""
    size = find_size(name)

    def changed(times: int, parts: int) -> Size:
        fields = {**size.model_dump(), "tokens": size.tokens * times, "micro_batches": parts, "steps": steps}
        return Size.model_validate(fields)

    return {"one": changed(1, 1), "strong": changed(1, ranks), "weak": changed(ranks, ranks)}


def trained(name: str, scaling: str, recipe: str, size: Size, graphs: bool = False) -> dict[str, Any]:
    """Train from the first weights: a row with tokens a second after the first tenth of the steps, and the losses."""
    trainer = Trainer(TrainingJob(recipe, load_recipe(recipe), size, 0, graphs=graphs))
    while trainer.step < size.steps and trainer.diverged_at is None:
        trainer.advance()
    if trainer.device.type == "cuda":
        torch.cuda.synchronize()
    row = {
        "ranks": trainer.world,
        "size": name,
        "scaling": scaling,
        "recipe": recipe,
        "replayed": trainer.graphs is not None,
        "engines": list(trainer.engines),
        "tokens": size.tokens,
        "micro_batches": size.micro_batches,
        "tokens_per_second": trainer.tokens_per_second(time.monotonic()),
        "losses": [round(loss, 6) for loss in trainer.seen],
    }
    if trainer.rank == 0:
        print(json.dumps({**row, "losses": row["losses"][-1:]}), file=sys.stderr, flush=True)
    return row


def measure(arguments: argparse.Namespace) -> dict[str, Any] | None:
    """The record, written after every run; None in all processes but the first.

    The first process trains alone before it joins the others, which wait.
    """
    first, ranks = os.environ.get("RANK", "0") == "0", int(os.environ.get("WORLD_SIZE", "1"))
    found = header(ranks, arguments.steps)
    plan = [
        (name, recipe, sizes_of(name, ranks, arguments.steps))
        for name in arguments.sizes
        for recipe in arguments.recipes
    ]

    def keep(row: dict[str, Any]) -> None:
        found["rows"].append(row)
        if first:
            write_file(arguments.out, json_lines(found))

    for name, recipe, sizes in plan if first else ():
        keep(trained(name, "one", recipe, sizes["one"]))
        if torch.cuda.is_available():
            keep(trained(name, "one", recipe, sizes["one"], graphs=True))
        if ranks > 1:
            keep(trained(name, "strong", recipe, sizes["strong"]))
    with processes():
        for name, recipe, sizes in plan if ranks > 1 else ():
            for scaling in ("strong", "weak"):
                keep(trained(name, scaling, recipe, sizes[scaling]))
    return found if first else None


def header(ranks: int, steps: int) -> dict[str, Any]:
    """Where and with what a record was made, and no rows yet."""
    gpu = torch.cuda.is_available()
    return {
        "schema_version": 1,
        "date": datetime.now(UTC).date().isoformat(),
        "commit": commit_of("isa_model", "kernels", "codesign", "benchmarks/scaling.py"),
        "command": "torchrun benchmarks/scaling.py",
        "ranks": ranks,
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if gpu else [],
        "versions": {
            "torch": version("torch"),
            "cuda": str(torch.version.cuda),
            "nccl": ".".join(map(str, torch.cuda.nccl.version())) if gpu else "",
        },
        "steps": steps,
        "rows": [],
    }


def differences(record: dict[str, Any]) -> list[float]:
    """Largest relative difference between the first losses of all processes and of one, for each strong run; infinite where a
    run is shorter."""
    found = []
    for row in record["rows"]:
        if row["scaling"] == "strong" and row["ranks"] > 1:
            alone, ours = one(record, row, scaling="strong")["losses"], row["losses"]
            pairs = zip(ours, alone, strict=False)
            found.append(
                max(abs(a / b - 1) for a, b in list(pairs)[:FIRST]) if len(ours) == len(alone) > 0 else math.inf
            )
    return found


def one(record: dict[str, Any], row: dict[str, Any], scaling: str = "one", replayed: bool = False) -> dict[str, Any]:
    """The run of one process that a row is compared with."""
    wanted = {"ranks": 1, "size": row["size"], "recipe": row["recipe"], "scaling": scaling, "replayed": replayed}
    return next(
        (r for r in record["rows"] if wanted.items() <= r.items()), {"tokens_per_second": math.nan, "losses": []}
    )


def table(record: dict[str, Any]) -> str:
    """The record's table, in Markdown."""
    rows = []
    apart = iter(differences(record))
    for row in record["rows"]:
        if row["ranks"] > 1:
            rate, launched = row["tokens_per_second"], one(record, row)["tokens_per_second"]
            replayed = one(record, row, replayed=True)["tokens_per_second"]
            cells = [row["size"], row["recipe"], row["scaling"], row["tokens"], launched, replayed, rate]
            cells += [f"{rate / launched:.2f}", f"{next(apart):.1e}" if row["scaling"] == "strong" else ""]
            rows.append(cells)
    speeds = "tokens a step: | one, launched: | one, replayed: | all: | speedup: | first losses differ by:"
    return (
        f"{record['ranks']} x {(record['gpus'] or ['CPU'])[0]}, {record['date']}, commit {record['commit']}, "
        f"{record['steps']} steps. Tokens a second; speedups over one process that launches its kernels.\n\n"
        + markdown.table(f"size | recipe | scaling | {speeds}", rows)
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("scaling.json"))
    parser.add_argument("--show", type=Path, help="print the table of a record instead")
    parser.add_argument("--sizes", nargs="+", default=["10m", "100m"])
    parser.add_argument("--recipes", nargs="+", default=["bf16", "deepseek-v3"])
    parser.add_argument("--steps", type=int, default=40)
    arguments = parser.parse_args()
    record = json.loads(arguments.show.read_text()) if arguments.show else measure(arguments)
    if record is None:
        return 0
    print(table(record))
    return int(any(not apart <= ALIKE for apart in differences(record)))


if __name__ == "__main__":
    sys.exit(main())
