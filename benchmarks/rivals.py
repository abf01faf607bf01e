"""How often a directed search tells two specs apart: `python benchmarks/rivals.py --record benchmarks/records/rivals.json`.

Pairs are a random spec (random_specs.py) and a neighbour that differs in one field, as a probe has to tell apart, of which a
probe's first questions show no difference. A long search says which of them can differ at all: it has a million questions, and
directed searches of six times the length from other questions. Then counted are those that a directed search as a probe runs it
finds, and those that plain questions find in as much time.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import warnings
from collections import Counter
from collections.abc import Iterator
from multiprocessing import get_context
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from random_specs import random_specs  # noqa: E402

from codesign.commit import commit  # noqa: E402
from codesign.probe.box import Lines, Signature, answers  # noqa: E402
from codesign.probe.directed import Directed  # noqa: E402
from codesign.probe.fit import GENERATIONS, QUESTIONS  # noqa: E402
from codesign.probe.hypotheses import Data, canonical, fits, hypothesis_of  # noqa: E402
from codesign.probe.questions import adversarial, mutated  # noqa: E402
from codesign.probe.space import Space  # noqa: E402
from isa_model.instruction import Instruction  # noqa: E402
from isa_model.output_files import head, json_lines, of_command, typed, write_file  # noqa: E402

COMMAND = "python benchmarks/rivals.py"
EACH = 8
"""Neighbours tried of each spec."""
LONG = 6
"""Length of the directed searches that know better, as a multiple of a probe's."""


def rivals(space: Space, rng: np.random.Generator, own: Data) -> Iterator[tuple[str, Data]]:
    """Yield neighbours of a hypothesis with the name of the field that differs: any field, then any value of it."""
    spec = space.spec(own)
    assert spec is not None
    fields: dict[str, list[Data]] = {}
    for path, other in space.neighbours(own, 0):
        if len(path) not in (0, 2) and path != ("stages",) and fits(own, path):
            fields.setdefault(".".join(map(str, path)), []).append(other)
    for name in rng.permutation(sorted(fields))[:EACH]:
        other = fields[name][int(rng.integers(len(fields[name])))]
        rival = space.spec(other)
        if rival is not None and canonical(rival) != canonical(spec):
            yield str(name), other


def plain(signature: Signature, rng: np.random.Generator) -> Iterator[Lines]:
    """Yield questions as a last check asks them, without end."""
    while True:
        fresh = adversarial(signature, rng, QUESTIONS)
        yield fresh
        yield from (mutated(signature, rng, fresh, QUESTIONS) for _ in range(9))


def told(one: Instruction, other: Instruction, lines: Lines) -> bool:
    """Return whether two specs answer a question differently."""
    return bool((answers(one, lines) != answers(other, lines)).any())


def searched(task: tuple[int, Instruction, int]) -> list[dict[str, Any]]:
    """Return a row for each pair of one random spec that the first questions do not tell apart."""
    number, spec, questions = task
    warnings.simplefilter("ignore")
    signature, rng, own = Signature(spec), np.random.default_rng(number), hypothesis_of(spec)
    space = Space(signature)
    one = space.spec(own)
    assert one is not None and canonical(one) == canonical(spec)
    pool = adversarial(signature, rng, QUESTIONS // 2)
    first, *more = (Lines.join([pool, mutated(signature, rng, pool, QUESTIONS // 2)]) for _ in range(3))
    search, longer = Directed(space, rng, first), [Directed(space, rng, lines) for lines in more]
    rows = []
    for name, rival in rivals(space, rng, own):
        other = space.spec(rival)
        assert other is not None
        if told(one, other, first):
            continue
        began = process_time()
        found = search.find(own, rival, GENERATIONS[-1]) is not None
        row = {"spec": number, "field": name, "directed": found, "directed_s": process_time() - began}
        asked, began, batches = 0, process_time(), plain(signature, rng)
        row |= {"plain": False, "plain_s": None}
        while not row["plain"] and asked < questions:
            row["plain"] = told(one, other, lines := next(batches))
            asked += len(lines.c)
        row["plain_s"] = process_time() - began
        row["differs"] = bool(found or row["plain"]) or any(x.find(own, rival, LONG * GENERATIONS[-1]) for x in longer)
        rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--record", type=Path, help="file for the record")
    parser.add_argument("--specs", type=int, default=400, help="number of random specs")
    parser.add_argument("--questions", type=int, default=1_000_000, help="plain questions of the long search")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    tasks = [(i, spec, options.questions) for i, spec in enumerate(random_specs(options.specs, seed=21))]
    with get_context("fork").Pool(options.processes) as pool:
        rows = []
        for some in pool.imap(searched, tasks):
            rows += some
            for row in some:
                print(json.dumps(row), flush=True)
    each = sum(row["directed_s"] for row in rows) / len(rows)
    known = [row for row in rows if row["differs"]]
    found = {
        "pairs": len(rows),
        "known_to_differ": len(known),
        "directed": sum(row["directed"] for row in known),
        "plain_in_equal_time": sum(row["plain"] and row["plain_s"] <= each for row in known),
        "plain": sum(row["plain"] for row in known),
        "missed_by_field": dict(Counter(row["field"].split(".")[-1] for row in known if not row["directed"])),
        "seconds_each": each,
    }
    print(json.dumps(found, indent=1))
    if options.record:
        record = {"schema_version": 1, **head(typed(COMMAND, *sys.argv[1:]), commit()), **found, "rows": rows}
        write_file(options.record, json_lines(record) + "\n", *of_command(COMMAND))


if __name__ == "__main__":
    main()
