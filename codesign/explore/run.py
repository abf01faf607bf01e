"""Ways to compute tasks: the cores of this machine, Dask, or plain workers that share nothing but a folder.

`fulfil` is what all of them do: take a batch that nobody works on, hand it to an executor, write its results. Several
drivers and workers can do so on one folder at once.
"""

from __future__ import annotations

import random
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, CancelledError, Executor, Future, wait
from contextlib import AbstractContextManager, ExitStack, contextmanager
from importlib import import_module
from itertools import zip_longest
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol, TypeVar

from pydantic import Field

from codesign.evidence.sampling import MOST_SEEDS
from codesign.explore.space import Base, Settings, Space
from codesign.explore.store import DiskFull, Store, batch_name
from codesign.explore.task import Result, Task, compute, evaluator, tasks
from codesign.figures.metric import kind_of
from isa_model.diagnostics import InputError, Unavailable
from isa_model.input_files import MIB, parse_json, read_bytes, reason
from isa_model.stage import Spec

BATCH = 32
"""Tasks of a batch: one claim, one pack of results. Larger ones for more workers (docs/explore.md)."""
MOST_ROUND = 1024 * MIB
"""Bytes of the file of a round that are read."""
PAUSE = 0.5
"""Seconds between two looks at what other processes have done."""
MOST_LOOKS = 8
"""Most batches held by others that a process looks at before it pauses: at the end of a round all that are left are held."""
TRIES = 3
"""Times that a batch is begun before a process that dies with it is taken to be the batch's fault."""


class Keyed(Protocol):
    """Something to compute, under the key of its result."""

    @property
    def key(self) -> str: ...


Work = TypeVar("Work", bound=Keyed)
Tell = Callable[[int, int], None]
Compute = Callable[[Sequence[Any]], list[Result]]


class Workers(NamedTuple):
    """Processes that compute batches."""

    executor: Executor
    width: Callable[[], int]
    """Returns how many batches they take at a time, which may grow."""


class Round(Spec):
    """Points of a space that are to be computed, as plain workers read them."""

    space: Space
    base: Base
    points: tuple[tuple[int | float | str, ...], ...]
    """Values of the axes, in their order."""
    seeds: int = Field(ge=1, le=MOST_SEEDS)
    kinds: tuple[str, ...] = ()
    """Kinds of evidence; empty: all that the objectives need."""
    synthesis: bool = False
    """True if units without a cost record are synthesised."""

    @property
    def versions(self) -> dict[str, str]:
        """Version of what computes each kind of evidence."""
        kinds = self.kinds or {kind_of(o.metric) for o in self.space.objectives.values()}
        return {kind: evaluator(kind, self.synthesis and kind == "cost") for kind in sorted(kinds)}

    def tasks(self) -> list[Task]:
        """Return the tasks of all points, those on the same tensors one after the other."""
        sampling = self.space.sampling.model_copy(update={"seeds": tuple(range(self.seeds))})
        settings: list[Settings] = [dict(zip(self.space.axes, values, strict=True)) for values in self.points]
        found = {
            t.key: t for s in settings for t in tasks(self.space, self.base, s, sampling, self.kinds, self.synthesis)
        }
        return sorted(found.values(), key=lambda t: (t.kind, t.workload or "", t.tensors or ""))


class SerialExecutor(Executor):
    """An executor that computes at once, in this process."""

    def submit(self, function: Callable[..., Any], /, *args: Any, **options: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(function(*args, **options))
        except Exception as error:
            future.set_exception(error)
        return future


ALONE = Workers(SerialExecutor(), lambda: 1)
"""This process alone."""


@contextmanager
def cores(processes: int) -> Iterator[Workers]:
    """Yield processes of this machine."""
    from isa_model.processes import pool

    if processes == 1:
        yield ALONE
        return
    with pool(processes) as executor:
        yield Workers(executor, lambda: processes + 1)


@contextmanager
def dask(address: str | None, processes: int) -> Iterator[Workers]:
    """Yield the workers of a Dask scheduler: at an address, in a scheduler file, or started here.

    Raises InputError if no scheduler answers.
    """
    distributed: Any = import_module("distributed")
    cluster = None
    try:
        if address is None:
            cluster = distributed.LocalCluster(n_workers=0, threads_per_worker=1, dashboard_address=":0")
            cluster.adapt(minimum=1, maximum=processes)
            client = distributed.Client(cluster)
        else:
            file = Path(address)
            client = distributed.Client(
                str(parse_json(read_bytes(file, MIB))["address"]) if file.is_file() else address
            )
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise InputError.of(
            f"no Dask scheduler at {address}: {error}", "tcp://HOST:8786, or its scheduler file"
        ) from None
    try:
        print(f"Dask's dashboard: {client.dashboard_link}", file=sys.stderr)
        with client, client.get_executor(retries=TRIES, pure=False) as executor:
            yield Workers(executor, lambda: 4 * max(processes, sum(client.nthreads().values())))
    except (CancelledError, OSError, distributed.KilledWorker) as error:
        # The scheduler was killed, or too many workers.
        raise BrokenExecutor(str(error)) from None
    finally:
        if cluster is not None:
            cluster.close()


def fulfil(
    store: Store,
    wanted: Sequence[Work],
    workers: Workers,
    tell: Tell = lambda done, total: None,
    by: Compute = compute,
    size: int = BATCH,
    known: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, str]:
    """Compute what the store lacks, until it has all of `wanted`; return the reason for each task that failed.

    Batches that another process holds are left to it, and taken over if it dies. Tasks `known` to fail are not tried again.
    Raises BrokenExecutor if a process of the workers dies, DiskFull or InputError if results cannot be written.
    """
    store.refresh()
    parts = [wanted[i : i + size] for i in range(0, len(wanted), size)]
    waiting = {batch_name(t.key for t in part): part for part in parts}
    draw, order = random.Random(store.owner), deque(waiting)
    order.rotate(draw.randrange(len(order) or 1))  # processes begin at different batches
    running: dict[Future[list[Result]], str] = {}
    failed = dict(known)
    due: dict[str, float] = {}
    """When a batch that another process holds is looked at again."""
    in_vain = 0
    try:
        while waiting or running:
            now, before, most = time.monotonic(), len(waiting), workers.width()
            again = PAUSE * min(max(1.0, before / 50), 100.0)  # the more batches, the fewer looks at each
            looks = 0
            for _ in range(len(order)):
                if len(running) >= most or looks >= MOST_LOOKS:
                    break
                name = order.popleft()
                if due.get(name, now) > now:
                    order.append(name)
                    continue
                todo = [t for t in waiting[name] if t.key not in store.results and t.key not in failed]
                if not todo or name in store.batches:
                    del waiting[name]
                elif not store.claim(name):
                    looks += 1
                    due[name] = now + again
                    order.append(name)
                    order.rotate(draw.randrange(len(order)))  # others hold those beside it, too
                else:
                    store.refresh()  # the batch may have been done by who held the claim before
                    todo = [t for t in todo if t.key not in store.results and name not in store.batches]
                    if todo:
                        running[workers.executor.submit(by, todo)] = name
                    else:
                        store.release(name)
                    del waiting[name]
            done = wait(running, timeout=again, return_when=FIRST_COMPLETED).done if running else set()
            for future in done:
                results = future.result()
                failed |= {r["key"]: r["failed"] for r in results if "failed" in r}
                name = running.pop(future)
                store.write([r for r in results if "failed" not in r], name)
                store.release(name)
            tell(max(len(wanted) - (len(waiting) + len(running)) * size, 0), len(wanted))
            in_vain = in_vain + 1 if waiting and not running and len(waiting) == before else 0
            if in_vain:
                time.sleep(min(PAUSE * 2**in_vain, again))
            if waiting and not done:
                store.refresh()
    finally:
        for future in running:
            future.cancel()
        store.release_all()
    return failed


def awaited(store: Store, wanted: Round, todo: Sequence[Task], tell: Tell) -> dict[str, str]:
    """Leave a round to plain workers, and wait until they have done it; return the reason for each task that failed."""
    failed: dict[str, str] = {}
    marks = "".join("1" if t.key in store.results else "0" for t in todo)
    with store.opened({"round": wanted.model_dump(mode="json"), "versions": wanted.versions}, marks) as path:
        left = list(todo)
        while left := [t for t in left if t.key not in store.results and t.key not in failed]:
            tell(len(todo) - len(left), len(todo))
            time.sleep(PAUSE)
            store.refresh()
            failed = store.failures(path)
    return failed


class Runner:
    """A way to compute rounds, and the reasons for the tasks that failed. As a context, it ends its processes."""

    def __init__(
        self,
        store: Store,
        start: Callable[[], AbstractContextManager[Workers]] | None,
        size: int = BATCH,
        by: Compute = compute,
    ) -> None:
        """`start` returns a context manager of workers; None leaves everything to plain workers."""
        self.store, self.start, self.size, self.by = store, start, size, by
        self.tell: Tell = lambda done, total: None
        self.failed: dict[str, str] = {}
        self._open = ExitStack()
        self._workers: Workers | None = None

    def __enter__(self) -> Runner:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def complete(self, wanted: Round) -> None:
        """Compute a round.

        Raises Unavailable if processes keep dying or the disk is full, InputError for any other error of the folder.
        """
        todo = wanted.tasks()
        self.store.refresh()
        if all(t.key in self.store.results for t in todo):
            return
        if self.start is None:
            self.failed |= awaited(self.store, wanted, todo, self.tell)
            return
        for _ in range(TRIES):
            try:
                with self._open:  # the processes end here unless the next round takes them over
                    self._workers = self._workers or self._open.enter_context(self.start())
                    self.failed |= fulfil(self.store, todo, self._workers, self.tell, self.by, _size(todo, self.size))
                    self._open = self._open.pop_all()
                return
            except DiskFull:
                raise
            except (BrokenExecutor, Unavailable):  # a process was killed: its batch is computed again
                self._workers = None
        raise Unavailable("worker processes keep being killed, probably for lack of memory; results so far are kept")


def _size(wanted: Sequence[Task], size: int) -> int:
    """Return the number of tasks in a batch, given that of a usual one: a unit to synthesise is a batch of its own."""
    return 1 if any(t.synthesis for t in wanted) else size


def _read(path: Path) -> tuple[list[Task], bool]:
    """Return the tasks of a round, and whether this version computes them as its driver's does.

    No tasks are left of a round that has just been completed. Raises InputError if the file is no round.
    """
    try:
        content = parse_json(read_bytes(path, MOST_ROUND))
        wanted = Round.model_validate(content["round"])
        tasks, marks = wanted.tasks(), str(content.get("done", ""))
        left = [t for t, mark in zip_longest(tasks, marks[: len(tasks)]) if mark != "1"]
        return left, content["versions"] == wanted.versions
    except FileNotFoundError:
        return [], True
    except (OSError, ValueError, LookupError, TypeError) as error:
        hint = "the driver's version of codesign; a file that no driver wrote can be removed"
        raise InputError.of(
            f"{path} is no round of points that this version can compute ({reason(error)})", hint
        ) from None


def work(
    store: Store,
    idle: float,
    tell: Tell = lambda done, total: None,
    by: Compute = compute,
    size: int = BATCH,
) -> int:
    """Compute the open rounds of a folder as one plain worker, until there is none for `idle` seconds; return how many."""
    ended = time.monotonic() + idle
    first, foreign = len(store.results), set[Path]()
    while time.monotonic() < ended:
        store.refresh()
        for path in store.rounds():
            if path in foreign:
                continue
            wanted, ours = _read(path)
            if not ours:
                foreign.add(path)
                print(f"{path} is of another version of codesign or numpy, and is left to its workers", file=sys.stderr)
                continue
            known = store.failures(path)
            began, before = time.monotonic(), len(store.results)
            failed = fulfil(store, wanted, ALONE, tell, by, _size(wanted, size), known)
            if failed.keys() > known.keys():
                store.fail(path, failed)
            if len(store.results) > before or failed.keys() > known.keys() or time.monotonic() > began + PAUSE:
                ended = time.monotonic() + idle  # there was work, or others to wait for
        time.sleep(min(1.0, idle / 10))
    return len(store.results) - first
