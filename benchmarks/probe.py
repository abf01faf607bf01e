"""How much a blind probe finds out: `python benchmarks/probe.py --only random --record benchmarks/records/probe.json`.

Instructions of the catalogue with their names hidden (one of each kind of sums), random specs of random_specs.py, and
boxes outside the language. Each fitted spec is compared with the hidden one on outputs that the probe did not see.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import warnings
from collections.abc import Iterator
from multiprocessing import get_context
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from outside_boxes import BOXES  # noqa: E402
from random_specs import random_specs  # noqa: E402

from codesign.commit import commit  # noqa: E402
from codesign.probe.box import Lines, Signature, answers  # noqa: E402
from codesign.probe.boxes import SpecBox  # noqa: E402
from codesign.probe.certificate import Certificate, probe  # noqa: E402
from codesign.probe.hypotheses import canonical  # noqa: E402
from codesign.probe.questions import adversarial, mutated  # noqa: E402
from isa_model.instruction import Instruction  # noqa: E402
from isa_model.library import catalogue, load  # noqa: E402
from isa_model.output_files import head, json_lines, of_command, typed, write_file  # noqa: E402

COMMAND = "python benchmarks/probe.py"
KINDS = ("catalogue", "random", "outside")


def kinds(all_formats: bool) -> list[str]:
    """Return an instruction of each kind of sums in the catalogue; operand formats count as kinds only if asked for."""
    found: dict[str, str] = {}
    for name in catalogue():
        spec = load(name).dense
        about = canonical(spec)
        if not all_formats:
            about |= {"a": spec.a.storage_bits, "b": spec.b.storage_bits, "nan": 0}
        found.setdefault(json.dumps(about, sort_keys=True), name)
    return list(found.values())


def unseen(signature: Signature, count: int) -> Iterator[Lines]:
    """Yield at least `count` questions that no probe asked, some thousand at a time."""
    rng = np.random.default_rng(99)
    fresh = adversarial(signature, rng, min(count // 4, 8000))
    yield fresh
    yield from (mutated(signature, rng, fresh, 20_000) for _ in range(count // 20_000))


def judge(hidden: Instruction, certificate: Certificate, outputs: int) -> dict[str, Any]:
    """Return how a fitted spec compares with the hidden one: `unlike` outputs, and differences that no list of the
    certificate has."""
    if certificate.verdict == "open":
        explains = certificate.spec is not None and certificate.witness is None
        return {"outcome": "open", "explains": explains, "unlike": None, "compared": 0}
    if certificate.verdict == "refused" or certificate.spec is None:
        return {"outcome": "refused", "unlike": None, "compared": 0}
    found, wanted = (dict(leaves(canonical(x))) for x in (certificate.spec, hidden))
    differ = {path for path in found.keys() | wanted.keys() if found.get(path) != wanted.get(path)}
    if not differ:
        return {"outcome": "same spec", "unlike": 0, "compared": 0}
    listed = [x.field for x in certificate.fields if x.alike]
    unlisted = sorted(path for path in differ if not any(path == x or path.startswith(f"{x}.") for x in listed))
    unlike = compared = 0
    for some in unseen(Signature(hidden), outputs):
        unlike += int((answers(hidden, some) != answers(certificate.spec, some)).sum())
        compared += len(some.c)
    outcome = "wrong" if unlike else "same bits"
    return {"outcome": outcome, "unlike": unlike, "compared": compared, "unlisted": unlisted}


def leaves(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the path and value of everything in plain data that has no parts."""
    if isinstance(node, dict | list) and node:
        for key, value in node.items() if isinstance(node, dict) else enumerate(node):
            yield from leaves(value, f"{path}.{key}" if path else str(key))
    else:
        yield path, node


def one(task: tuple[str, str, Instruction, float, int]) -> dict[str, Any]:
    """Probe one hidden spec."""
    kind, name, hidden, seconds, outputs = task
    warnings.simplefilter("ignore")
    began = process_time()
    try:
        certificate = probe(SpecBox(Signature(hidden), hidden), seconds, outputs)
    except Exception as error:
        return {"kind": kind, "name": name, "outcome": f"crash: {type(error).__name__}: {error}"[:200]}
    row = {"kind": kind, "name": name, "verdict": certificate.verdict, **judge(hidden, certificate, outputs)}
    row |= {
        "outputs": outputs,
        "questions": certificate.counts["questions"],
        "hypotheses": certificate.counts["hypotheses"],
    }
    row |= {"unshown": sum(bool(x.alike) for x in certificate.fields), "processor_s": round(process_time() - began, 1)}
    return row


def outside(kind: str, seconds: float, outputs: int) -> dict[str, Any]:
    """Probe a box that no spec of the language describes."""
    certificate = probe(BOXES[kind](), seconds, outputs)
    witness = certificate.witness or {}
    row = {"kind": "outside", "name": kind, "verdict": certificate.verdict, "outcome": certificate.verdict}
    return {**row, "reason": certificate.reason, "witness": witness}


def either(task: Any) -> dict[str, Any]:
    """Probe a hidden spec, or a box outside the language."""
    return outside(*task[1:]) if task[0] == "outside" else one(task)


def tasks_of(kind: str, options: argparse.Namespace) -> list[tuple[Any, ...]]:
    """Return the boxes of a kind: kind, name, what is hidden (an instruction, or nothing for a box outside), time, outputs."""
    budget = (options.seconds, options.outputs)
    if kind == "outside":
        return [(kind, name, *budget) for name in BOXES]
    if kind == "random":
        return [(kind, f"{i}", spec, *budget) for i, spec in enumerate(random_specs(options.random))]
    names = kinds(options.all_formats)
    random.Random(1).shuffle(names)
    return [(kind, name, load(name).dense, *budget) for name in names]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--record", type=Path, help="file for the record; other kinds of boxes in it stay")
    parser.add_argument("--only", choices=KINDS, nargs="+", default=KINDS, help="kinds of boxes")
    parser.add_argument("--random", type=int, default=300, help="number of random specs")
    parser.add_argument("--all-formats", action="store_true", help="every pair of operand formats as a kind")
    parser.add_argument("--seconds", type=float, default=10.0, help="processor time of a search")
    parser.add_argument(
        "--outputs", type=int, default=1_000_000, help="outputs of the last check, and compared where specs differ"
    )
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--resume", action="store_true", help="keep rows of these kinds, too, that are of this commit")
    options = parser.parse_args()
    record: dict[str, Any] = {"schema_version": 2, "runs": {}, "rows": []}
    if options.record and options.record.exists():
        record = json.loads(options.record.read_text())
    own = head(typed(COMMAND, *(x for x in sys.argv[1:] if x != "--resume")), commit())
    tasks: list[tuple[Any, ...]] = []
    for kind in options.only:
        if not options.resume or record["runs"].get(kind, own)["commit"] != own["commit"]:
            record["rows"] = [row for row in record["rows"] if row["kind"] != kind]
        done = {row["name"] for row in record["rows"] if row["kind"] == kind}
        wanted = tasks_of(kind, options)
        record["runs"][kind] = {**own, "boxes": len(wanted)}
        tasks += [task for task in wanted if task[1] not in done]
    with get_context("fork").Pool(options.processes) as pool:
        for row in pool.imap_unordered(either, tasks):
            record["rows"] = sorted([*record["rows"], row], key=lambda r: (r["kind"], r["name"]))
            print(json.dumps(row), flush=True)
            if options.record:
                write_file(options.record, json_lines(record) + "\n", *of_command(COMMAND))


if __name__ == "__main__":
    main()
