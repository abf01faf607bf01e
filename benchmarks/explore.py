"""Explorations measured: guided against exhaustive, points a second, overheads, claims by many processes, killed runs.

    python benchmarks/explore.py --guided --processor --overhead --claims --crowd --killed
    python benchmarks/explore.py --show

Each part replaces its rows of benchmarks/records/explore.json; the table goes into docs/explore.md. `--guided` takes the
results of `codesign explore studies/accumulator.yaml` in the folder `--results`, and computes what is missing there.
Its other space, bounded_sums.yaml, takes no samples.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, nullcontext, suppress
from datetime import UTC, datetime
from pathlib import Path
from statistics import mean, median
from typing import Any
from unittest.mock import patch

import numpy as np
import psutil
from crowd import crowd

from codesign.explore import run, search
from codesign.explore.load import load_space
from codesign.explore.points import Point, badness, front
from codesign.explore.run import ALONE, Round, Runner
from codesign.explore.search import Search
from codesign.explore.space import Space
from codesign.explore.store import Store
from isa_model.checkout import commit_of
from isa_model.output_files import json_lines, of_command, put, write_file

ROOT = Path(__file__).parent.parent
RECORD = ROOT / "benchmarks" / "records" / "explore.json"
STUDY = ROOT / "studies" / "accumulator.yaml"
SPACES = (ROOT / "benchmarks" / "bounded_sums.yaml", STUDY)
TOY = ROOT / "tests" / "toy_space.py"
COMMAND = "python benchmarks/explore.py"
SEEDS = 10
"""Seeds of each search."""
Row = dict[str, Any]


# -- guided against exhaustive -----------------------------------------------------------------------------------------


def hypervolume(values: Any, reference: Any) -> float:
    """Area that points dominate below a reference, both objectives larger for worse."""
    kept = values[(values <= reference).all(axis=1)]
    kept = kept[front(kept)] if len(kept) else kept
    kept = kept[np.argsort(kept[:, 0])]
    edges = [*kept[1:, 0], reference[0]]
    return float(sum((right - x) * (reference[1] - y) for (x, y), right in zip(kept, edges, strict=True)))


def volume_of(space: Space, points: Sequence[Point], scale: tuple[Any, Any]) -> float:
    """Hypervolume of the points that keep every bound: logarithms of the objectives, from 0 to 1 over the exhaustive points."""
    kept = [p for p in points if p.status in ("front", "dominated", "screened out")]
    low, spread = scale
    values = (np.log(badness(space, kept)[1]) - low) / spread if kept else np.empty((0, 2))
    return hypervolume(values, np.ones(2))


def guided(results: Path) -> list[Row]:
    """Whole spaces; then the search, TPE in its place, and points at random, with a tenth of the points, for ten seeds each."""
    return [row for path in SPACES for row in guided_on(path, Store(results))]


def guided_on(path: Path, store: Store) -> list[Row]:
    """Rows of one space."""
    space, base = load_space(path)

    def explored(which: Space) -> list[Point]:
        return Search(which, base, Runner(store, lambda: nullcontext(ALONE))).run()

    every = explored(space)
    kept = [p for p in every if p.status in ("front", "dominated", "screened out")]
    logs = np.log(badness(space, kept)[1])
    scale = logs.min(axis=0), logs.max(axis=0) - logs.min(axis=0)
    best, own = volume_of(space, every, scale), {p.name for p in every if p.status == "front"}

    def row(name: str, runs: Sequence[Sequence[Point]]) -> Row:
        shares = sorted(volume_of(space, points, scale) / best for points in runs)
        found = [len(own & {p.name for p in points if p.status == "front"}) for points in runs]
        return {
            "part": "guided",
            "space": space.space,
            "search": name,
            "seeds": len(runs),
            "points": len(runs[0]),
            "in_full": round(mean(sum(p.seeds == space.seeds for p in points) for points in runs)),
            "front": f"{round(mean(found))} of {len(own)}",
            "least_hypervolume": round(shares[0], 5),
            "median": round(median(shares), 5),
            "within_1_%": sum(share >= 0.99 for share in shares),
        }

    tenth = space.size // 10

    def searched(seed: int) -> list[Point]:
        budget = space.budget.model_copy(update={"points": tenth, "seed": seed})
        return explored(space.model_copy(update={"budget": budget}))

    whole = f"all points, screened with {space.screen} of {space.seeds} seeds" if space.screen else "all points"
    rows = [row(whole, [every]), row("the search", [searched(seed) for seed in range(SEEDS)])]
    if tenth <= search.MOST_GAUSSIAN:
        with patch.object(search, "MOST_GAUSSIAN", 0):
            rows.append(row("TPE", [searched(seed) for seed in range(SEEDS)]))
    return [*rows, row("at random", [random.Random(seed).sample(every, tenth) for seed in range(SEEDS)])]


# -- speed -------------------------------------------------------------------------------------------------------------


def processor(_: Path) -> list[Row]:
    """Points of the study a second, one kind of sampled evidence on one GEMM, on 1, 2, 4 ... processes up to all cores."""
    space, base = load_space(STUDY)
    space = space.model_copy(update={"workloads": ("deepseek-v3.wgrad.down",)})
    base = base.model_copy(update={"data": {**base.data, "workloads": ["deepseek-v3.wgrad.down"]}})
    every = random.Random(0).sample([tuple(s.values()) for s in space.points()], space.size)
    cores = os.cpu_count() or 1
    rows: list[Row] = []
    for rows_, seeds in ((8, 8), (16, 16)):
        sampled = space.model_copy(update={"rows": rows_, "columns": rows_})
        alone = 0.0
        for processes in sorted({2**i for i in range(cores.bit_length()) if 2**i <= cores} | {cores}):
            points = tuple(every[: 24 * processes])
            wanted = Round(space=sampled, base=base, points=points, seeds=seeds, kinds=("numerics",))
            with tempfile.TemporaryDirectory() as folder:
                wanted.tasks()
                wall = time.perf_counter()
                with Runner(Store(Path(folder)), lambda n=processes: run.cores(n), 4) as runner:  # type: ignore[misc]
                    runner.complete(wanted)
                wall = time.perf_counter() - wall
            rate = len(points) / wall
            alone = alone or rate
            rows.append(
                {
                    "part": "processor",
                    "processes": processes,
                    "rows": rows_,
                    "seeds": seeds,
                    "points": len(points),
                    "seconds": round(wall, 2),
                    "points_a_second": round(rate, 2),
                    "times_one_process": round(rate / alone, 2),
                    "load": round(os.getloadavg()[0], 1),
                }
            )
    return rows


def overhead(_: Path) -> list[Row]:
    """Seconds that an empty task takes: here, in a pool of processes, and in Dask."""
    # Processes find the module by these.
    sys.path.insert(0, str(TOY.parent))
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(TOY.parent)])
    from toy_space import Empty, nothing

    ways: dict[str, Callable[[], Any]] = {
        "this process": lambda: run.cores(1),
        "2 processes": lambda: run.cores(2),
        "Dask, 2 local workers": lambda: run.dask(None, 2),
    }
    rows = []
    for name, start in ways.items():
        for size in (1, run.BATCH):
            tasks = [Empty(f"{name} {size} {i}") for i in range(100 * size)]
            with tempfile.TemporaryDirectory() as folder, start() as workers:
                run.fulfil(Store(Path(folder) / "first"), tasks[: workers.width()], workers, by=nothing, size=1)
                wall = time.perf_counter()
                run.fulfil(Store(Path(folder)), tasks, workers, by=nothing, size=size)
                wall = time.perf_counter() - wall
            rows.append(
                {
                    "part": "overhead",
                    "way": name,
                    "batch": size,
                    "milliseconds_a_task": round(1000 * wall / len(tasks), 3),
                }
            )
    return rows


def _claiming(folder: str, worker: int, seconds: float) -> tuple[int, int]:
    """Claim, write and release batches of one result for some seconds; return how many, and how many claims failed."""
    store, draw = Store(Path(folder)), random.Random(worker)
    done = lost = 0
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        name = f"{draw.randrange(16**8):08x}{worker:04x}" if draw.random() < 0.9 else f"{draw.randrange(16):040x}"
        if not store.claim(name):
            lost += 1
            continue
        store.write([{"key": f"{name} {worker} {done}", "readings": {}}])
        store.release(name)
        done += 1
    return done, lost


def claims(_: Path) -> list[Row]:
    """Batches a second that processes claim, write and release in one folder, a tenth of the claims on contested names."""
    rows, seconds = [], 4.0
    for workers in (1, 4, 16):
        with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor(workers) as pool:
            list(pool.map(time.sleep, [0.2] * workers))
            found = list(pool.map(_claiming, [folder] * workers, range(workers), [seconds] * workers))
            store = Store(Path(folder))
            store.refresh()
        done = sum(d for d, _ in found)
        rows.append(
            {
                "part": "claims",
                "processes": workers,
                "batches_a_second": round(done / seconds, 1),
                "claims_lost": sum(x for _, x in found),
                "results_missing": done - len(store.results),
                "load": round(os.getloadavg()[0], 1),
            }
        )
    return rows


def crowds(_: Path) -> list[Row]:
    """Plain workers that mostly wait, as light processes on one folder."""
    return [crowd(workers, seconds) for workers, seconds in ((50, 10.0), (200, 20.0), (500, 30.0))]


# -- killed runs -------------------------------------------------------------------------------------------------------

SCHEDULER = "tcp://127.0.0.1:28786"
WORKER = ["-m", "distributed.cli.dask_worker", SCHEDULER, "--nthreads", "1", "--no-nanny", "--no-dashboard"]
TOGETHER: dict[str, dict[str, list[str]]] = {
    "two drivers": {"driver": ["alone"], "other driver": ["alone"]},
    "a driver and its two processes": {"driver": ["pool"]},
    "a driver and two plain workers": {"driver": ["asks"], "worker": ["works"], "other worker": ["works"]},
    "a driver, Dask's scheduler and two workers": {
        "scheduler": ["-m", "distributed.cli.dask_scheduler", "--host", SCHEDULER, "--no-dashboard"],
        "worker": WORKER,
        "other worker": WORKER,
        "driver": [SCHEDULER],
    },
}
"""Processes that explore the toy together, by role: the way of toy_space.py, or the module of another program."""


def killed(_: Path, moments: int = 15) -> list[Row]:
    """Explorations of a toy in each way, of whose processes one is killed (SIGKILL) at each random moment and started again."""
    return [_killed(name, roles, moments) for name, roles in TOGETHER.items()]


class _Started:
    """A running process, with what it prints."""

    def __init__(self, arguments: list[str], folder: Path, said: Path) -> None:
        self.said, self.drives = said, arguments[0] not in ("-m", "works")
        command = arguments if arguments[0] == "-m" else [str(TOY), str(folder), *arguments]
        paths = os.pathsep.join([str(ROOT), str(TOY.parent)])
        with said.open("w") as file:
            self.process = subprocess.Popen(
                [sys.executable, *command],
                stdout=file,
                stderr=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": paths},
            )
        while self.drives and not said.read_text() and self.process.poll() is None:
            time.sleep(0.05)

    @property
    def table(self) -> str:
        """The table that a driver printed at its end; empty before."""
        lines = self.said.read_text().splitlines() if self.drives and self.process.poll() == 0 else []
        return lines[1] if lines[1:] else ""

    def kill(self, victim: Any = None) -> None:
        """Kill one of its processes, or all."""
        for process in [victim] if victim else self.processes():
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.poll() if victim else self.process.wait()

    def processes(self) -> list[Any]:
        """The process and its children."""
        try:
            own = psutil.Process(self.process.pid)
            return [own, *own.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []


def _killed(name: str, roles: dict[str, list[str]], moments: int) -> Row:
    draw, kills, tables, same = random.Random(0), 0, 0, True
    with tempfile.TemporaryDirectory() as root, ExitStack() as stack:
        said = (Path(root) / f"{i}.txt" for i in itertools.count())
        undisturbed = _Started(["alone"], Path(root) / "whole", next(said))
        undisturbed.process.wait()
        running: dict[str, _Started] = {}
        stack.callback(lambda: [process.kill() for process in running.values()])
        folder = Path(root) / "0"
        while kills < moments or not tables:
            for role, arguments in roles.items():
                if role not in running or running[role].process.poll() is not None:
                    running[role] = _Started(arguments, folder, next(said))
            time.sleep(draw.uniform(0.0, 1.0))
            if kills < moments:
                whose = draw.choice(list(running.values()))
                whose.kill(draw.choice(whose.processes() or [None]))
                kills += 1
            if ended := [x.table for x in running.values() if x.table]:
                same = same and set(ended) == {undisturbed.table}
                tables += 1
                if kills < moments:  # all results are there: begin again
                    [process.kill() for process in running.values()]
                    running.clear()
                    folder = Path(root) / f"{kills}"
        for driver in [x for x in running.values() if x.drives]:  # one that still looks at a batch holds its claim
            driver.process.wait()
        left = [p for p in folder.rglob("*") if p.is_file() and p.suffix != ".jsonl" and p.parent.name != "queue"]
    return {
        "part": "killed",
        "processes": name,
        "moments": kills,
        "tables": tables,
        "tables_are_the_same": same,
        "leftovers": len(left),
    }


# -- record ------------------------------------------------------------------------------------------------------------

PARTS: dict[str, Callable[[Path], list[Row]]] = {
    "guided": guided,
    "processor": processor,
    "overhead": overhead,
    "claims": claims,
    "crowd": crowds,
    "killed": killed,
}


def table(record: Row) -> str:
    """The record as Markdown."""
    lines = []
    for part in PARTS:
        rows = [r for r in record["rows"] if r["part"] == part]
        if rows:
            columns = [name for name in rows[0] if name != "part"]
            lines += [
                "",
                f"**{part}** ({record['dates'][part]})",
                "",
                f"| {' | '.join(c.replace('_', ' ') for c in columns)} |",
            ]
            lines += [f"|{'---|' * len(columns)}"]
            lines += [f"| {' | '.join(str(r[c]) for c in columns)} |" for r in rows]
    return "\n".join([f"`{COMMAND}`", *lines])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for part, function in PARTS.items():
        parser.add_argument(f"--{part}", action="store_true", help=function.__doc__)
    parser.add_argument("--show", action="store_true", help="only write the record's table into docs/explore.md")
    parser.add_argument("--results", type=Path, default=Path("codesign-explore"), help="folder of results of the study")
    arguments = parser.parse_args()
    record: Row = json.loads(RECORD.read_text()) if RECORD.exists() else {"command": COMMAND, "dates": {}, "rows": []}
    machine = f"{os.cpu_count()} cores, Python {sys.version.split()[0]}, numpy {np.__version__}"
    for part, function in PARTS.items():
        if getattr(arguments, part):
            made = function(arguments.results)
            record["rows"] = [r for r in record["rows"] if r["part"] != part] + made
            commit = commit_of("isa_model", "codesign", "benchmarks/explore.py", "studies")
            record["dates"][part] = f"{datetime.now(UTC):%Y-%m-%d}, commit {commit}; {machine}"
            write_file(RECORD, json_lines(record), *of_command(COMMAND))
    text = table(record)
    put(ROOT / "docs" / "explore.md", "measured", text)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
