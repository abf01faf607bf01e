"""A space whose points cost nothing to evaluate: errors and areas by formula; and a process that evaluates it, to be killed."""

import json
import sys
import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from codesign.explore.load import parse_space
from codesign.explore.run import ALONE, BATCH, Runner, cores, dask, work
from codesign.explore.search import Search
from codesign.explore.store import Store
from codesign.explore.table import rows
from codesign.figures.rows import as_csv
from isa_model.diagnostics import parse_yaml

TEXT = """\
space: toy
title: A toy
base: configurable-accumulation
axes:
  bits: {field: change.stages.fuse.fraction_bits, range: [13, 24]}
  terms: {field: change.stages.fuse.terms, values: [8, 16, 32]}
  register: {alternatives: {wide: {}, narrow: {change: {stages: {fuse: {result: {format: e8m13}}}}}}}
workloads: [deepseek-v3.wgrad.o]
tensors: [normal]
objectives:
  error: {metric: numerics.relative_frobenius}
  area: {metric: cost.area_ratio}
"""


def space(text=TEXT):
    """The space and base of a text."""
    return parse_space(parse_yaml(text, "toy.yaml"))


def toy(batch):
    """Errors halve with each bit, intervals narrow with seeds, areas grow with bits and shrink with terms."""
    made = []
    for task in batch:
        fuse = task.data["change"]["stages"]["fuse"]
        bits, terms = fuse["fraction_bits"], fuse.get("terms", 32)
        narrow = fuse["result"]["format"] == "e8m13"
        if task.kind == "numerics":
            value, width = 2.0**-bits * (4096 if narrow else 1) * (1 + 1 / terms), 0.8 / len(task.sampling.seeds) ** 0.5
            ends = [value * (1 - width), value * (1 + width)]
            row = ["deepseek-v3.wgrad.o", "normal", value, *ends, "computed", "toy"]
            made.append({"key": task.key, "readings": {"numerics.relative_frobenius": [row]}})
        else:
            value = 1 + bits / 50 + 1 / terms - 0.1 * narrow
            made.append(
                {"key": task.key, "readings": {"cost.area_ratio": [["", "", value, value, value, "modelled", "toy"]]}}
            )
    return made


@dataclass(frozen=True)
class Empty:
    """A task that computes nothing."""

    key: str


def nothing(batch):
    """Results of empty tasks."""
    return [{"key": task.key, "readings": {}} for task in batch]


class Counting:
    """The toy evaluation, which notes what it was asked."""

    def __init__(self):
        self.keys = []

    def __call__(self, batch):
        self.keys += [task.key for task in batch]
        return toy(batch)


def alone():
    """This process as an executor."""
    return nullcontext(ALONE)


def points_of(folder, text=TEXT, by=toy, size=BATCH, start=alone):
    """Explore a toy in a folder; return its space, its base and its points."""
    made, base = space(text)
    with Runner(Store(Path(folder)), start, size, by) as runner:
        return made, base, Search(made, base, runner).run()


def explored(folder, text=TEXT, by=toy, size=BATCH, start=alone):
    """Explore a toy in a folder; return its table as text."""
    made, _, points = points_of(folder, text, by, size, start)
    return as_csv(rows(made, points))


def slow(batch):
    """The toy, slowly enough to be killed between two batches."""
    time.sleep(0.01)
    return toy(batch)


if __name__ == "__main__":  # toy_space.py FOLDER [pool|asks|works|tcp://...]
    from toy_space import slow as by  # processes find it by this name

    folder, way = sys.argv[1], sys.argv[2] if sys.argv[2:] else "alone"
    ways = {"alone": alone, "pool": lambda: cores(2), "asks": None}
    print("started", flush=True)
    if way == "works":
        work(Store(Path(folder), keys_only=True), idle=3600, by=by, size=2)
    else:
        made = explored(folder, by=by, size=2, start=ways[way] if way in ways else lambda: dask(way, 2))
        print(json.dumps(made), flush=True)
