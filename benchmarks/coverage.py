"""How often intervals hold the truth: many evaluations of one figure, each with seeds of its own.

    python benchmarks/coverage.py --jobs 16 --out benchmarks/records/coverage.json --write docs/statistics.md

Each evaluation has the default design of `codesign evaluate`. The truth is the value of all evaluations' seeds together,
which varies by a twentieth of what one evaluation varies by. Of captured tensors there is one tile; its clusters of rows are
drawn again with replacement, and its own value is the truth.
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np

from codesign.commit import commit
from codesign.evidence.casts import path_errors as casts
from codesign.evidence.numerics.errors import estimates, part
from codesign.evidence.numerics.source import Job, pool, run
from codesign.evidence.numerics.trial import Sampling
from codesign.figures.intervals import Estimate, difference
from codesign.figures.metric import metric_named
from codesign.proposal.load import load_proposal
from codesign.proposal.variants import LABELS, variants
from codesign.workloads.gemms import gemms
from codesign.workloads.tensors import CAPTURED, SOURCES

PROPOSALS = Path(__file__).parent.parent / "proposals"
PRODUCTS = "group-scaled-mma"
"""Its variants have scales per tensor and per group, promotion, a wide accumulator and an exact one."""
PATH = "transposed-read-requantised"
GEMMS = ("deepseek-v3.fprop.kv-b", "deepseek-v3.dgrad.qkv-a", "deepseek-v3.wgrad.kv-b")
TILES = ("smollm2-135m.fprop.qkv", "smollm2-135m.dgrad.o", "smollm2-135m.wgrad.down")
BASE = "software"
WANTED = (0.93, 0.98)
FEW = 10.0
"""Expected hits under which the interval of a share is conservative: there is no exact one for few."""
BEGIN, END = "<!-- coverage -->\n", "<!-- end of coverage -->\n"


@dataclass(frozen=True)
class Task:
    """One GEMM on one source, in `evaluations` independent evaluations of its products or of its casts."""

    gemm: str
    tensors: str
    evaluations: int
    of: str


def tasks(evaluations: int) -> Iterator[Task]:
    """Yield every task, the longest first."""
    for of, names in (("products", GEMMS), ("casts", GEMMS[:2])):
        for name in sorted(names, key=lambda n: -gemms()[n].k):
            for source in SOURCES:
                if source != CAPTURED:
                    yield Task(name, source, evaluations, of)
    yield from (Task(name, CAPTURED, evaluations, "products") for name in TILES)


def measure(task: Task) -> list[dict[str, Any]]:
    """Return a row per variant and metric, and per ratio to the base: truth, share of evaluations that hold it, width."""
    found = _products(task) if task.of == "products" else _casts(task)
    rows = []
    for variant, (whole, each) in found.items():
        for metric, true in whole.items():
            estimated = [one[metric] for one in each]
            about = {"gemm": task.gemm, "tensors": task.tensors, "variant": variant, "metric": metric}
            expected = true.total * true.units / task.evaluations if true.scale == "share" else None
            ends = [e.interval(0.95) for e in estimated]
            rows.append({**about, "relative_to": None, "expected": expected, **_held(true.total, ends)})
            if variant == BASE or BASE not in found:
                continue
            base_whole, base_each = found[BASE]
            base = base_whole[metric]
            if metric_named(metric).unit == "dB":
                ratio = true.value - base.value
                ends = [difference(e, b[metric], 0.95) for e, b in zip(estimated, base_each, strict=True)]
            else:
                ratio = true.over(base, 0.95)[0]
                ends = [e.over(b[metric], 0.95)[1] for e, b in zip(estimated, base_each, strict=True)]
            fewest = None
            if true.scale == "share":
                fewest = min(true.total, base.total) * min(true.units, base.units) / task.evaluations
            rows.append({**about, "relative_to": BASE, "expected": fewest, **_held(ratio, ends)})
    return rows


def _held(truth: float, ends: list[tuple[float, float] | None]) -> dict[str, Any]:
    """The truth, in how many evaluations the interval holds it, in how many there is none, and the median half width."""
    given = [e for e in ends if e is not None]
    slack = 1e-9 * abs(truth)
    held = sum(low - slack <= truth <= high + slack for low, high in given)
    half = float(np.median([(high - low) / 2 for low, high in given])) if given else None
    return {
        "truth": truth if np.isfinite(truth) else None,
        "coverage": held / len(given) if given else None,
        "without": len(ends) - len(given),
        "half_width": half,
    }


Found = dict[str, tuple[Mapping[str, Estimate], list[Mapping[str, Estimate]]]]


def _products(task: Task) -> Found:
    proposal, sampling = load_proposal(PROPOSALS / f"{PRODUCTS}.yaml"), Sampling()
    compared = tuple(c for c in variants(proposal) if c.variant in LABELS and c.at is None)
    seeds = tuple(range(task.evaluations * len(sampling.seeds)))
    job = Job(gemms()[task.gemm], task.tensors, sampling.model_copy(update={"seeds": seeds}), proposal, compared)
    found = {}
    for about, errors in zip(compared, run(job), strict=True):
        clusters = _clusters(task, len(errors.count), len(sampling.seeds))
        found[about.variant] = estimates(errors), [estimates(part(errors, some)) for some in clusters]
    return found


def _casts(task: Task) -> Found:
    proposal, design = load_proposal(PROPOSALS / f"{PATH}.yaml"), Sampling()
    seeds = range(task.evaluations * len(design.seeds))
    found = {}
    for variant, sums in casts.sums_of_path(proposal, gemms()[task.gemm], task.tensors, seeds).items():
        clusters = _clusters(task, len(sums.count), len(design.seeds))
        found[variant] = casts.estimates(sums), [casts.estimates(casts.part(sums, some)) for some in clusters]
    return found


def _clusters(task: Task, count: int, size: int) -> list[Any]:
    """Which clusters each evaluation has: a run of seeds of its own, or rows of a tile with replacement."""
    if task.tensors != CAPTURED:
        return [slice(i * size, (i + 1) * size) for i in range(task.evaluations)]
    rng = np.random.default_rng(crc32(task.gemm.encode()))
    return [rng.integers(count, size=count) for _ in range(task.evaluations)]


def table(record: dict[str, Any]) -> str:
    """Return the table of the documentation: least and largest coverage of each metric, by source."""
    rows = [r for r in record["rows"] if r["coverage"] is not None]
    sources = list(dict.fromkeys(r["tensors"] for r in rows))
    lines = [
        f"{record['evaluations']} evaluations each, {record['date']}, commit {record['commit']}, {record['machine']}; the",
        "least and the largest coverage over GEMMs, variants and ratios, without shares of fewer than ten expected hits:",
        "",
        "| metric | " + " | ".join(sources) + " |",
        "|---|" + "---|" * len(sources),
    ]
    for metric in dict.fromkeys(r["metric"] for r in rows):
        cells = []
        for source in sources:
            found = [r["coverage"] for r in rows if (r["metric"], r["tensors"]) == (metric, source) and _common(r)]
            cells.append(f"{min(found):.2f} to {max(found):.2f}" if found else "")
        if any(cells):
            lines.append(f"| {metric} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _common(row: dict[str, Any]) -> bool:
    return row["expected"] is None or row["expected"] >= FEW


def outside(record: dict[str, Any]) -> list[str]:
    """Return a line for each coverage that is not as wanted."""
    return [
        f"{r['gemm']} {r['tensors']} {r['variant']} {r['metric']}"
        + (f" over {r['relative_to']}" if r["relative_to"] else "")
        + f": {r['coverage']:.3f}, truth {r['truth']:.3g}"
        + (f", {r['expected']:.2g} hits expected" if r["expected"] is not None else "")
        for r in record["rows"]
        if r["coverage"] is not None and not WANTED[0] <= r["coverage"] <= WANTED[1]
    ]


def main() -> None:
    """Measure, and write the record and the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--evaluations", type=int, default=400)
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument(
        "--only", action="append", default=[], help="part of a GEMM's name, a source or `casts`; repeatable"
    )
    parser.add_argument("--out", type=Path, help="record to write")
    parser.add_argument("--write", type=Path, help="page whose table is renewed")
    given = parser.parse_args()
    chosen = [
        t for t in tasks(given.evaluations) if all(word in (*t.gemm.split("."), t.tensors, t.of) for word in given.only)
    ]
    rows: list[dict[str, Any]] = []
    with pool(given.jobs) as executor:
        for task, found in zip(chosen, executor.map(measure, chosen), strict=True):
            rows += found
            print(f"{task.of} of {task.gemm}, {task.tensors}: {len(found)} figures", flush=True)
    record = {
        "evaluations": given.evaluations,
        "design": Sampling().model_dump(mode="json"),
        "date": date.today().isoformat(),
        "commit": commit(),
        "machine": f"{platform.machine()}, Python {platform.python_version()}, numpy {np.__version__}",
        "rows": rows,
    }
    for line in outside(record):
        print(line)
    if given.out:
        given.out.parent.mkdir(exist_ok=True)
        given.out.write_text(json.dumps(record, indent=1) + "\n")
    if given.write:
        text = given.write.read_text()
        before, after = text[: text.index(BEGIN) + len(BEGIN)], text[text.index(END) :]
        given.write.write_text(before + table(record) + after)
    else:
        print(table(record))


if __name__ == "__main__":
    main()
