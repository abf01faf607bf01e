"""How often intervals hold the truth: many evaluations of one figure, each with seeds of its own.

    python benchmarks/coverage.py --jobs 16 --out benchmarks/records/coverage.json --write docs/statistics.md

Each evaluation has the default design of `codesign evaluate`. The truth is the value of all evaluations' seeds together,
which varies by a twentieth of what one evaluation varies by. Fewer evaluations are made up for by dividing the same seeds into
evaluations in several ways. Of captured tensors there is one tile; its clusters of rows are drawn again with replacement, and
its own value is the truth. With `--keep`, what is simulated is kept in a folder and used again: intervals can be changed and
measured without simulating anew. `--merge` replaces the figures of the record that are measured, and keeps the others; its
parts say which were measured when, on which seeds, by which commit.

The bar is 0.93 to 0.98 for every figure. Of 400 evaluations a true 0.95 shows as less than 0.93 in 3 figures of 100, so that
each figure is tested against the bar: those outside it beyond chance are listed, and the exit code is 1 if there are any.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from math import ceil, floor
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np

from codesign.commit import commit
from codesign.evidence.casts import path_errors as casts
from codesign.evidence.numerics.errors import Errors, estimates, part
from codesign.evidence.numerics.jobs import Job, run
from codesign.evidence.sampling import Sampling
from codesign.figures import markdown
from codesign.figures.intervals import Estimate, difference
from codesign.figures.metric import metric_named
from codesign.figures.quantiles import beta_below
from codesign.proposal.load import load_proposal
from codesign.proposal.variants import LABELS, variants
from codesign.workloads.gemms import gemms
from codesign.workloads.tensors import CAPTURED, SOURCES
from isa_model.output_files import put
from isa_model.processes import pool

PROPOSALS = Path(__file__).parent.parent / "proposals"
PRODUCTS = "group-scaled-mma"
"""Its variants have scales per tensor and per group, promotion, a wide accumulator and an exact one."""
PATH = "transposed-read-requantised"
GEMMS = ("deepseek-v3.fprop.kv-b", "deepseek-v3.dgrad.qkv-a", "deepseek-v3.wgrad.kv-b")
TILES = ("smollm2-135m.fprop.qkv", "smollm2-135m.dgrad.o", "smollm2-135m.wgrad.down")
BASE = "software"
WANTED = (0.93, 0.98)
FEW = 10.0
"""Expected hits, or misses, under which the interval of a share is conservative: there is no exact one for few."""


@dataclass(frozen=True)
class Task:
    """One GEMM on one source, in `evaluations` independent evaluations of its products or of its casts."""

    gemm: str
    tensors: str
    evaluations: int
    of: str
    keep: Path | None = None
    """Folder for what is simulated."""
    first: int = 0
    """First of its seeds."""

    @property
    def seeds(self) -> range:
        """Seeds of all evaluations."""
        return range(self.first, self.first + self.evaluations * len(Sampling().seeds))


def tasks(evaluations: int, keep: Path | None = None, first: int = 0) -> Iterator[Task]:
    """Yield every task, the longest first."""
    for of, names in (("products", GEMMS), ("casts", GEMMS[:2])):
        for name in sorted(names, key=lambda n: -gemms()[n].k):
            for source in SOURCES:
                if source != CAPTURED:
                    yield Task(name, source, evaluations, of, keep, first)
    yield from (Task(name, CAPTURED, evaluations, "products", keep, first) for name in TILES)


def measure(task: Task) -> list[dict[str, Any]]:
    """Return a row per variant and metric, and per ratio to the base: truth, share of evaluations that hold it, width."""
    found, evaluations = _products(task) if task.of == "products" else _casts(task)
    rows = []
    for variant, (whole, each) in found.items():
        for metric, true in whole.items():
            estimated = [one[metric] for one in each]
            about: dict[str, Any] = {"gemm": task.gemm, "tensors": task.tensors, "variant": variant, "metric": metric}
            about["evaluations"] = evaluations
            expected = _fewest(true) / evaluations if true.scale == "share" else None
            ends = [e.interval(0.95) for e in estimated]
            if true.interval(0.95) is not None and not true.by_span() and _varies(true):
                rows.append({**about, "relative_to": None, "expected": expected, **_held(true.total, ends)})
            if variant == BASE or BASE not in found:
                continue
            base_whole, base_each = found[BASE]
            base = base_whole[metric]
            if true.by_span(base) or true.interval(0.95) is None or not (_varies(true) or _varies(base)):
                continue
            if metric_named(metric).unit == "dB":
                ratio = true.value - base.value
                ends = [difference(e, b[metric], 0.95) for e, b in zip(estimated, base_each, strict=True)]
            else:
                ratio = true.over(base, 0.95)[0]
                ends = [e.over(b[metric], 0.95)[1] for e, b in zip(estimated, base_each, strict=True)]
            fewest = None
            if true.scale == "share":
                fewest = min(_fewest(true), _fewest(base)) / evaluations
            rows.append({**about, "relative_to": BASE, "expected": fewest, **_held(ratio, ends)})
    return rows


def _varies(true: Estimate) -> bool:
    """Return whether any cluster changes the value; the columns of a tile's B are the same in all of its clusters."""
    return bool(np.abs(true.influence).max() > 1e-9 * abs(true.value))


def _fewest(share: Estimate) -> float:
    """Return the hits of a share, or the misses if they are fewer."""
    return max(min(share.total, 1 - share.total), 0.0) * share.units


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


def _products(task: Task) -> tuple[Found, int]:
    sums = {v: Errors(**fields) for v, fields in _kept(task, _simulated).items()}
    clusters, evaluations = _clusters(task, len(next(iter(sums.values())).count))
    return {v: (estimates(e), [estimates(part(e, some)) for some in clusters]) for v, e in sums.items()}, evaluations


def _casts(task: Task) -> tuple[Found, int]:
    sums = {v: casts.Sums(**fields) for v, fields in _kept(task, _cast).items()}
    clusters, evaluations = _clusters(task, len(next(iter(sums.values())).count))
    return {
        v: (casts.estimates(e), [casts.estimates(casts.part(e, c)) for c in clusters]) for v, e in sums.items()
    }, evaluations


def _simulated(task: Task) -> dict[str, Errors]:
    proposal, sampling = load_proposal(PROPOSALS / f"{PRODUCTS}.yaml"), Sampling()
    compared = tuple(c for c in variants(proposal) if c.variant in LABELS and c.at is None)
    sampling = sampling.model_copy(update={"seeds": tuple(task.seeds)})
    job = Job(gemms()[task.gemm], task.tensors, sampling, proposal.rule, compared)
    return {about.variant: errors for about, errors in zip(compared, run(job), strict=True)}


def _cast(task: Task) -> dict[str, casts.Sums]:
    proposal = load_proposal(PROPOSALS / f"{PATH}.yaml")
    return casts.sums_of_path(proposal, gemms()[task.gemm], task.tensors, task.seeds)


def _kept(task: Task, simulate: Callable[[Task], Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the sums of every variant: those kept from an earlier run, or new ones. Lists of values are kept in FP32."""
    file = task.keep / f"{task.of}.{task.gemm}.{task.tensors}.{task.first}.npz" if task.keep else None
    found: dict[str, dict[str, Any]] = {}
    if file and file.exists():
        with np.load(file) as kept:
            for name in kept:
                found.setdefault(name.split("/")[0], {})[name.split("/")[1]] = kept[name]
        return found
    for variant, sums in simulate(task).items():
        found[variant] = {name: x.astype(np.float32) if x.ndim > 1 else x for name, x in vars(sums).items()}
    if file:
        file.parent.mkdir(parents=True, exist_ok=True)
        np.savez(file, **{f"{variant}/{name}": x for variant, fields in found.items() for name, x in fields.items()})
    return found


def _clusters(task: Task, count: int) -> tuple[list[Any], int]:
    """Return which clusters each evaluation has, and in how many independent ones they lie.

    An evaluation has a run of seeds of its own; where these are few, the seeds are divided again at random. Of a tile it has
    rows with replacement.
    """
    rng = np.random.default_rng([crc32(task.gemm.encode()), task.first])
    if task.tensors == CAPTURED:
        return [rng.integers(count, size=count) for _ in range(task.evaluations)], 1
    size = len(Sampling().seeds) * (casts.BLOCKS if task.of == "casts" else 1)
    independent = count // size
    times = max(task.evaluations // independent, 1)
    orders = [np.arange(count), *(rng.permutation(count) for _ in range(times - 1))]
    return [c for order in orders for c in order[: independent * size].reshape(-1, size)], independent


def table(record: dict[str, Any]) -> str:
    """Return the table of the documentation: least and largest coverage of each metric, by source."""
    rows = [r for r in record["rows"] if r["coverage"] is not None]
    sources = list(dict.fromkeys(r["tensors"] for r in rows))
    lines = [
        *(_about(part, [r for r in rows if r["part"] == i]) for i, part in enumerate(record["parts"])),
        counts(record),
        "",
        "Least and largest coverage over GEMMs, variants and ratios, in 100:",
        "",
    ]
    made = []
    for metric in dict.fromkeys(r["metric"] for r in rows):
        cells = []
        for source in sources:
            found = [r["coverage"] for r in judged(record) if (r["metric"], r["tensors"]) == (metric, source)]
            cells.append(f"{100 * min(found):.0f}-{100 * max(found):.0f}" if found else "")
        if any(cells):
            made.append((metric, *cells))
    return "\n".join([*lines, markdown.table(f"metric | {' | '.join(sources)}", made)])


def _about(part: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    """Say of a part of the record which figures it has, and how they were made."""
    by_source: dict[str, list[str]] = {}
    for row in rows:
        what = row["gemm"].split(".")[1] + ("'s casts" if row["metric"].startswith("cast.") else "")
        if what not in (known := by_source.setdefault(row["tensors"], [])):
            known.append(what)
    by_whats: dict[str, list[str]] = {}
    for source, whats in by_source.items():
        by_whats.setdefault(", ".join(sorted(whats)), []).append(source)
    each = "; ".join(f"{whats} of {', '.join(sources)}" for whats, sources in by_whats.items())
    of = f"Commit {part['commit']}, {part['date']}, {part['evaluations']} evaluations, seeds from {part['first_seed']}"
    return f"{of}: {each}."


def _drawn(row: dict[str, Any], record: dict[str, Any]) -> int:
    """Return the evaluations behind a row, dependent ones of a tile included."""
    return int(record["parts"][row["part"]]["evaluations"])


def merged(earlier: dict[str, Any], part: dict[str, Any], rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return a record with newly measured rows in the places of earlier ones, and without parts that nothing is left of."""
    kept = [r for r in earlier["rows"] if _cell(r) not in set(map(_cell, rows))]
    parts = [*earlier["parts"], part]
    if part in earlier["parts"]:
        parts = earlier["parts"]
    kept += [{**r, "part": parts.index(part)} for r in rows]
    used = sorted({r["part"] for r in kept})
    order = {(t.gemm, t.tensors, t.of): i for i, t in enumerate(tasks(1))}
    kept.sort(key=lambda r: order[_cell(r)])
    return {"parts": [parts[i] for i in used], "rows": [{**r, "part": used.index(r["part"])} for r in kept]}


def _cell(row: dict[str, Any]) -> tuple[str, str, str]:
    """Return the GEMM, the source and the kind of a row: what is measured together."""
    return row["gemm"], row["tensors"], "casts" if row["metric"].startswith("cast.") else "products"


def text(record: dict[str, Any]) -> str:
    """Return the record as JSON, a row a line."""
    rows = ",\n  ".join(json.dumps(row) for row in record["rows"])
    head = json.dumps({name: x for name, x in record.items() if name != "rows"}, indent=1)
    return f'{head[:-2]},\n "rows": [\n  {rows}\n ]\n}}\n'


def judged(record: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the rows that are judged: those with an interval in most evaluations that is not conservative by design."""
    return [
        r
        for r in record["rows"]
        if 2 * r["without"] <= _drawn(r, record)
        and not (r["relative_to"] and r["half_width"] == 0)
        and (r["expected"] is None or r["expected"] >= FEW)
    ]


def independent(row: dict[str, Any], record: dict[str, Any]) -> int:
    """Return the number of independent evaluations with an interval behind a row; of a tile those drawn from its parts."""
    drawn = _drawn(row, record)
    count: int = drawn if row["tensors"] == CAPTURED else min(row["evaluations"], drawn)
    without: float = row["without"] / drawn
    return round(count * (1 - without))


def chance(row: dict[str, Any], record: dict[str, Any]) -> float:
    """Return the probability of a coverage as far outside the bar as this one where the true coverage is at the bar's end."""
    count = independent(row, record)
    held = round(row["coverage"] * count)
    if row["coverage"] < WANTED[0]:
        return _at_most(held, count, WANTED[0])
    if row["coverage"] > WANTED[1]:
        return _at_most(count - held, count, 1 - WANTED[1])
    return 1.0


def _at_most(hits: int, count: int, share: float) -> float:
    """Return the probability of at most `hits` in `count` independent tries."""
    return 1 - beta_below(share, hits + 1, count - hits)


def by_chance(record: dict[str, Any]) -> tuple[float, float]:
    """Return how many rows would be below and above the bar by chance if every interval held the truth 95 times in 100."""
    low = high = 0.0
    for row in judged(record):
        count = independent(row, record)
        low += _at_most(ceil(WANTED[0] * count) - 1, count, 0.95)
        high += _at_most(count - floor(WANTED[1] * count) - 1, count, 0.05)
    return low, high


def beyond_chance(record: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the rows whose coverage is outside the bar beyond chance, by Holm's step-down test over all judged rows at 5 %."""
    rows = sorted(judged(record), key=lambda r: chance(r, record))
    found = []
    for rank, row in enumerate(rows):
        if chance(row, record) > 0.05 / (len(rows) - rank):
            break
        found.append(row)
    return found


def counts(record: dict[str, Any]) -> str:
    """Return sentences on how many rows are outside the bar: as measured, by chance, and beyond chance."""
    rows, beyond, (least, most) = judged(record), beyond_chance(record), by_chance(record)
    (low, high), (under, over) = (
        (sum(r["coverage"] < WANTED[0] for r in some), sum(r["coverage"] > WANTED[1] for r in some))
        for some in (rows, beyond)
    )
    return (
        f"The coverage of {low} of {len(rows)} figures is below {WANTED[0]}, at worst {min(r['coverage'] for r in rows):.3f}, "
        f"of {high} above {WANTED[1]}; its mean is {np.mean([r['coverage'] for r in rows]):.3f}.\n"
        f"If each were 0.95, {least:.0f} and {most:.0f} would be outside by chance. {under} and {over} are outside "
        "beyond chance\n(binomial, Holm's test at 5 % over all figures)."
    )


def outside(record: dict[str, Any]) -> list[str]:
    """Return a line for each coverage that is outside the bar beyond chance."""
    return [
        f"{r['gemm']} {r['tensors']} {r['variant']} {r['metric']}"
        + (f" over {r['relative_to']}" if r["relative_to"] else "")
        + f": {r['coverage']:.3f}, truth {r['truth']:.3g}"
        + (f", {r['expected']:.2g} hits expected" if r["expected"] is not None else "")
        for r in beyond_chance(record)
    ]


def main() -> int:
    """Measure, and write the record and the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--evaluations", type=int, default=400)
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument(
        "--only", action="append", default=[], help="part of a GEMM's name, a source or `casts`; repeatable"
    )
    parser.add_argument("--first-seed", type=int, default=0, help="others than those a rule was chosen on")
    parser.add_argument("--keep", type=Path, help="folder for what is simulated; used again where it is there")
    parser.add_argument("--out", type=Path, help="record to write")
    parser.add_argument("--merge", action="store_true", help="keep what else the record has")
    parser.add_argument("--write", type=Path, help="page whose table is renewed")
    given = parser.parse_args()
    chosen = [
        t
        for t in tasks(given.evaluations, given.keep, given.first_seed)
        if all(word in (*t.gemm.split("."), t.tensors, t.of) for word in given.only)
    ]
    rows: list[dict[str, Any]] = []
    with pool(given.jobs, main=True) as executor:
        for task, found in zip(chosen, executor.map(measure, chosen), strict=True):
            rows += found
            print(f"{task.of} of {task.gemm}, {task.tensors}: {len(found)} figures", flush=True)
    part = {
        "evaluations": given.evaluations,
        "design": Sampling().model_dump(mode="json", exclude={"seeds"}) | {"seeds": len(Sampling().seeds)},
        "first_seed": given.first_seed,
        "date": date.today().isoformat(),
        "commit": commit(),
        "machine": f"{platform.machine()}, Python {platform.python_version()}, numpy {np.__version__}",
    }
    earlier = json.loads(given.out.read_text()) if given.merge else {"parts": [], "rows": []}
    record = merged(earlier, part, rows)
    print(counts(record), *outside(record), sep="\n")
    if given.out:
        given.out.parent.mkdir(exist_ok=True)
        given.out.write_text(text(record))
    if given.write:
        put(given.write, "coverage", table(record))
    else:
        print(table(record))
    return int(bool(beyond_chance(record)))


if __name__ == "__main__":
    sys.exit(main())
