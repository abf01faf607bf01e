"""How often a directed search tells two specs apart: `python benchmarks/rivals.py --record benchmarks/records/rivals.json`.

A pair is a random spec (random_specs.py) and a neighbour that differs in one field and gives the same answers to a probe's
first questions. A long search shows which pairs can differ at all: 100,000 plain questions, and a directed search from other
questions that waits three times as long for a step forward. The record counts the pairs that a probe's directed search tells
apart, and those that plain questions tell apart in the same time.
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
EACH = 2
"""Values tried of each field, at most."""
CHECKED = 20_000
"""Questions of a probe's last check, by default."""
LONG = 3
"""Generations that the long directed search waits, as a multiple of a probe's."""


def rivals(space: Space, rng: np.random.Generator, own: Data) -> Iterator[tuple[str, Data, Instruction]]:
    """Yield neighbours of a hypothesis, at most EACH for a field, with the name of the field that differs."""
    spec = space.spec(own)
    assert spec is not None
    fields: dict[str, list[Data]] = {}
    for path, other in space.neighbours(own, 0):
        if len(path) not in (0, 2) and path != ("stages",) and fits(own, path):
            fields.setdefault(".".join(map(str, path)), []).append(other)
    for name, others in fields.items():
        for i in rng.permutation(len(others))[:EACH]:
            rival = space.spec(others[i])
            if rival is not None and canonical(rival) != canonical(spec):
                yield name, others[i], rival


def plain(signature: Signature, rng: np.random.Generator) -> Iterator[Lines]:
    """Yield questions as a probe asks them at random, without end."""
    while True:
        fresh = adversarial(signature, rng, QUESTIONS // 2)
        yield Lines.join([fresh, mutated(signature, rng, fresh, QUESTIONS // 2)])
        yield from (mutated(signature, rng, fresh, QUESTIONS) for _ in range(9))


def searched(task: tuple[int, Instruction, int]) -> list[dict[str, Any]]:
    """Return a row for each pair of one random spec that the first questions do not tell apart."""
    number, spec, questions = task
    warnings.simplefilter("ignore")
    signature, rng, own = Signature(spec), np.random.default_rng(number), hypothesis_of(spec)
    space = Space(signature)
    one = space.spec(own)
    assert one is not None
    assert canonical(one) == canonical(spec)
    first, second = (next(plain(signature, rng)) for _ in range(2))
    d = answers(one, first)
    pairs = [x for x in rivals(space, rng, own) if (answers(x[-1], first) == d).all()]
    search, longer = Directed(space, rng, first), Directed(space, rng, second)
    rows = []
    for name, rival, _ in pairs:
        began = process_time()
        found = search.find(own, rival, GENERATIONS[-1]) is not None
        row = {"spec": number, "field": name, "directed": found, "directed_s": process_time() - began}
        shown = any((search.first(x) != search.first(y)).any() for x, y in search.levels(own, rival))
        rows.append(row | {"shown": shown, "plain": False})
    batches, asked, began = plain(signature, rng), 0, process_time()
    while asked < questions and (left := [x for x in zip(rows, pairs, strict=True) if not x[0]["plain"]]):
        lines = next(batches)
        d, asked = answers(one, lines), asked + len(lines.c)
        for row, (*_, other) in left:
            row["plain"] = bool((answers(other, lines) != d).any())
        for row, _ in left:
            row |= {"plain_s": process_time() - began, "questions": asked}
    for row, (_, rival, _) in zip(rows, pairs, strict=True):
        known = row["directed"] or row["plain"]
        row["differs"] = known or longer.find(own, rival, LONG * GENERATIONS[-1]) is not None
    return rows


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return how many pairs can differ, and how many of these each search finds."""
    seconds = sum(row["directed_s"] for row in rows) / max(len({row["spec"] for row in rows}), 1)
    known = [row for row in rows if row["differs"]]
    missed = [row for row in known if not row["directed"]]
    return {
        "pairs": len(rows),
        "known_to_differ": len(known),
        "shown_by_inner_sums": sum(row["shown"] for row in known),
        "plain": sum(row["plain"] for row in known),
        "plain_in_equal_time": sum(row["plain"] and row["plain_s"] <= seconds for row in known),
        "directed": len(known) - len(missed),
        "missed_though_shown": sum(row["shown"] for row in missed),
        "missed_by_last_check_too": sum(row["questions"] > CHECKED for row in missed),
        "missed_fields": dict(Counter(row["field"].split(".")[-1] for row in missed)),
        "directed_s_of_a_spec": seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--record", type=Path, help="file for the record")
    parser.add_argument("--specs", type=int, default=150, help="number of random specs")
    parser.add_argument("--questions", type=int, default=100_000, help="plain questions of the long search")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    tasks = [(i, spec, options.questions) for i, spec in enumerate(random_specs(options.specs, seed=21))]
    rows: list[dict[str, Any]] = []
    with get_context("fork").Pool(options.processes) as pool:
        for done, some in enumerate(pool.imap(searched, tasks), 1):
            rows += some
            about = {"specs": done, **summary(rows)}
            print(json.dumps(about), flush=True)
            if options.record:
                record = {"schema_version": 1, **head(typed(COMMAND, *sys.argv[1:]), commit()), **about, "rows": rows}
                write_file(options.record, json_lines(record) + "\n", *of_command(COMMAND))


if __name__ == "__main__":
    main()
