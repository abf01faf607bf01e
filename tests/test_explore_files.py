"""Results of explorations as files: nothing is lost where processes are killed, folders are full, or several work at once."""

import errno
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
from toy_space import Counting, explored, slow, space, toy

from codesign.explore import run
from codesign.explore import store as store_module
from codesign.explore.run import ALONE, Round, Runner, SerialExecutor, fulfil, work
from codesign.explore.search import Search
from codesign.explore.store import DiskFull, Store, batch_name, check_results
from codesign.explore.table import rows
from codesign.figures.rows import as_csv
from isa_model.diagnostics import InputError, Unavailable

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The table of a run that nothing disturbed."""
    return explored(tmp_path_factory.mktemp("undisturbed"))


def test_results_are_read_by_others_and_damaged_packs_are_not(tmp_path):
    """A pack is named after its content; what a crash of the machine damaged is as if it were not there."""
    own, results = Store(tmp_path), [{"key": "a", "readings": {}}, {"key": "b", "invalid": "no"}]
    own.write(results)
    own.write(results)
    (pack,) = (tmp_path / "points").rglob("*.jsonl")
    other = Store(tmp_path)
    other.refresh()
    assert list(other.results.values()) == results
    pack.write_bytes(pack.read_bytes()[:-3])
    third = Store(tmp_path)
    third.refresh()
    assert not third.results


def test_one_process_holds_a_claim_until_it_is_released_or_stale(tmp_path):
    """A claim without a heartbeat is taken over by exactly one of those that see it."""
    one, other = Store(tmp_path), Store(tmp_path, stale=10.0)
    name = batch_name(["a"])
    assert one.claim(name)
    assert not other.claim(name)
    one.release(name)
    assert other.claim(name)
    other.release(name)
    assert one.claim(name)
    path = tmp_path / "claims" / name[:2] / name
    os.utime(path, (time.time() - 20, time.time() - 20))
    taken, start = [], threading.Barrier(8)

    def take():
        mine = Store(tmp_path, stale=10.0)
        start.wait()
        taken.append(mine.claim(name))

    threads = [threading.Thread(target=take) for _ in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert sum(taken) == 1
    assert [p.name for p in path.parent.iterdir()] == [name]


def test_the_claim_of_a_process_that_ended_is_free_at_once(tmp_path):
    """On the same machine nobody waits for the heartbeat of a process that is gone."""
    own, name = Store(tmp_path), batch_name(["a"])
    ended = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True, check=True
    )
    path = tmp_path / "claims" / name[:2] / name
    path.parent.mkdir()
    node, _, started = own.owner.split()
    path.write_text(f"{node} {ended.stdout.strip()} {started}")
    assert own.claim(name)


def test_killed_runs_go_on_where_they_stopped(tmp_path, undisturbed):
    """Killed at random moments, then left alone: the table has the same bytes, and kept results were not computed again."""
    draw = random.Random(0)
    command = [sys.executable, str(HERE / "toy_space.py"), str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parent)])}
    counts = []
    for _ in range(3):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment)
        assert process.stdout.readline() == b"started\n"
        time.sleep(draw.uniform(0.2, 0.7))
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        left = Store(tmp_path)
        left.refresh()
        counts.append(len(left.results))
    assert counts == sorted(counts)
    counting = Counting()
    assert explored(tmp_path, by=counting) == undisturbed
    assert len(counting.keys) == 144 - counts[-1]


def test_two_drivers_at_once_share_the_work(tmp_path, undisturbed):
    """Both end with the whole table, and batches are computed by one of them."""
    tables, counts = [], [Counting(), Counting()]

    def drive(counting):
        tables.append(explored(tmp_path, by=lambda batch: (slow(batch), counting(batch))[1], size=8))

    threads = [threading.Thread(target=drive, args=(c,)) for c in counts]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert tables == [undisturbed] * 2
    assert all(c.keys for c in counts)
    assert len([k for c in counts for k in c.keys]) == 144


def test_plain_workers_compute_what_a_driver_asks_for(tmp_path, undisturbed):
    """The driver computes nothing; a worker that only sees the folder does, and ends when there is nothing left."""
    (made, base), done, over = space(), [], threading.Event()

    def worker():
        while not over.is_set():
            done.append(work(Store(tmp_path, keys_only=True), 0.2, by=toy, size=16))

    thread = threading.Thread(target=worker)
    thread.start()
    try:
        points = Search(made, base, Runner(Store(tmp_path), None, 16)).run()
    finally:
        over.set()
        thread.join()
    assert sum(done) == 144
    assert as_csv(rows(made, points)) == undisturbed
    assert not list((tmp_path / "queue").iterdir())


def driven(folder):
    """Explore the toy by plain workers; return the runner when the driver has ended."""
    made, base = space()
    runner = Runner(Store(folder), None)
    Search(made, base, runner).run()
    return runner


def test_a_task_that_workers_cannot_compute_ends_the_round_all_the_same(tmp_path):
    """A worker tries it once and tells the driver, which goes on without it. Nothing of it is kept."""
    tried = []

    def faulty(batch):
        tried.extend(task.key for task in batch)
        return [{"key": r["key"], "failed": "ValueError: no"} if r["key"] == tried[0] else r for r in toy(batch)]

    with ThreadPoolExecutor() as executor:
        driver = executor.submit(driven, tmp_path)
        work(Store(tmp_path, keys_only=True), 2, by=faulty)
        assert driver.result(timeout=10).failed == {tried[0]: "ValueError: no"}
    assert len(tried) == len(set(tried)) == 143  # no samples for the point whose cost is not known
    assert not list((tmp_path / "queue").iterdir())


def test_a_worker_leaves_the_round_of_another_version_alone(tmp_path, capsys):
    """It would compute results that the driver does not ask for."""
    made, base = space()
    wanted = Round(space=made, base=base, points=((13, 8, "wide"),), seeds=16)
    own, counting = Store(tmp_path), Counting()
    with own.opened({"round": wanted.model_dump(mode="json"), "versions": {"numerics": "another"}}) as path:
        assert work(own, 0.2, by=counting) == 0
    assert not counting.keys
    assert capsys.readouterr().err.count(f"{path} is of another version of codesign") == 1


def test_workers_read_names_instead_of_results(tmp_path, monkeypatch):
    """Thousands of workers that each read the results of all others would read them thousands of times."""
    made, base = space()
    wanted = Round(space=made, base=base, points=tuple((b, 8, "wide") for b in range(13, 17)), seeds=16)
    first, counting = Store(tmp_path, keys_only=True), Counting()
    fulfil(first, wanted.tasks()[:4], ALONE, by=toy, size=2)
    monkeypatch.setattr(store_module, "read_bytes", lambda *_: pytest.fail("read"))
    other = Store(tmp_path, keys_only=True)
    fulfil(other, wanted.tasks(), ALONE, by=counting, size=2)
    assert sorted(counting.keys) == sorted(t.key for t in wanted.tasks()[4:])
    assert other.results.keys() == set(counting.keys)


def test_a_round_says_which_of_its_tasks_are_done(tmp_path):
    """Workers leave them out, whoever computed them; a driver that comes back leaves the file, and so the batches."""
    made, base = space()
    wanted = Round(space=made, base=base, points=((13, 8, "wide"), (14, 8, "wide")), seeds=16)
    every, content = wanted.tasks(), {"round": wanted.model_dump(mode="json"), "versions": wanted.versions}
    own, counting = Store(tmp_path), Counting()
    with pytest.raises(KeyboardInterrupt), own.opened(content, "1000") as path:
        raise KeyboardInterrupt
    left = path.read_bytes()
    with own.opened(content, "1110") as again:
        assert (again, path.read_bytes()) == (path, left)
        work(Store(tmp_path, keys_only=True), 0.2, by=counting)
    assert sorted(counting.keys) == sorted(t.key for t in every[1:])
    assert not path.exists()


def test_a_damaged_pack_is_removed_so_that_workers_compute_its_batch_again(tmp_path):
    """For them its name says that the batch is done; a driver, which reads it, finds that it is not."""
    own, batch = Store(tmp_path), batch_name(["a"])
    own.write([{"key": "a", "readings": {}}], batch)
    (pack,) = (tmp_path / "points").rglob("*.jsonl")
    assert pack.name.startswith(f"{batch}.")
    pack.write_bytes(b"{}")
    Store(tmp_path).refresh()
    assert not pack.exists()


def test_a_process_looks_at_few_of_the_batches_that_others_hold(tmp_path, monkeypatch):
    """At the end of a round all that are left are held, and thousands of workers look at them."""
    made, base = space()
    every = Round(space=made, base=base, points=tuple(tuple(s.values()) for s in made.points()), seeds=16).tasks()
    holder, own, tried = Store(tmp_path), Store(tmp_path), []
    assert all(holder.claim(batch_name([t.key])) for t in every)
    monkeypatch.setattr(own, "claim", lambda name: tried.append(name))

    def ending(_):
        raise TimeoutError

    monkeypatch.setattr(run.time, "sleep", ending)
    with pytest.raises(TimeoutError):
        fulfil(own, every, ALONE, by=toy, size=1)
    assert len(tried) == run.MOST_LOOKS < len(every)


def test_a_round_names_its_points_alone(tmp_path):
    """The file of a round has settings, not proposals, so that a million points are a file of megabytes."""
    made, base = space()
    points = tuple(tuple(s.values()) for s in made.points())
    text = json.dumps(Round(space=made, base=base, points=points, seeds=16).model_dump(mode="json"))
    assert Round.model_validate(json.loads(text)).points == points
    assert len(text) < 5000 + 40 * len(points)


@pytest.mark.parametrize("fault", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_folder_that_cannot_be_written_is_told_in_one_message(tmp_path, monkeypatch, fault, undisturbed):
    """No room, a read-only file system, no right: the message names the folder and the reason; results so far are kept."""
    writes, put = [], store_module.write_atomically

    def failing(path, content):
        writes.append(path)
        if len(writes) > 3:
            raise OSError(fault, os.strerror(fault), str(path))
        put(path, content)

    monkeypatch.setattr(store_module, "write_atomically", failing)
    with pytest.raises(Unavailable if fault == errno.ENOSPC else InputError, match=f"cannot use {tmp_path}: "):
        explored(tmp_path, size=8)
    monkeypatch.setattr(store_module, "write_atomically", put)
    counting = Counting()
    assert explored(tmp_path, by=counting) == undisturbed
    assert len(counting.keys) == 144 - 24


def test_a_claim_that_a_full_disk_cuts_off_is_not_left(tmp_path, monkeypatch):
    """Without an owner it would hold up the next run until it is stale."""
    own, name = Store(tmp_path), batch_name(["a"])

    def full(handle, data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", full)
        with pytest.raises(Unavailable, match="no space left"):
            own.claim(name)
    assert own.claim(name)


@pytest.mark.parametrize("content", ["space: toy", "[]", "{}"])
def test_a_file_that_is_of_no_scheduler_is_told(tmp_path, monkeypatch, content):
    """A file without a scheduler's address is refused before workers are asked for."""
    (tmp_path / "file.json").write_text(content)
    monkeypatch.setitem(sys.modules, "distributed", SimpleNamespace(Client=None))
    with pytest.raises(InputError, match="no Dask scheduler at"), run.dask(str(tmp_path / "file.json"), 1):
        pass


def test_an_interrupted_run_leaves_no_claim(tmp_path):
    """Ctrl-C in the midst of a batch: another machine would wait for its claim to become stale."""

    def interrupted(batch):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        explored(tmp_path, by=interrupted)
    assert not [path for path in (tmp_path / "claims").rglob("*") if path.is_file()]


def test_a_file_in_place_of_the_folder_is_told(tmp_path):
    """Before anything is computed."""
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot use"):
        Store(tmp_path / "file" / "results")


def test_workers_use_folders_of_results_and_empty_ones(tmp_path):
    """Workers may begin before their driver, in a folder made for them; others are not theirs to write into."""
    (tmp_path / "empty").mkdir()
    check_results(tmp_path / "empty")
    Store(tmp_path / "results")
    check_results(tmp_path / "results")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "letter.txt").write_text("")
    (tmp_path / "file").write_text("")
    for name, why in (("other", "holds no results"), ("file", "is no folder"), ("missing", "no such file")):
        with pytest.raises(InputError, match=why):
            check_results(tmp_path / name)
    assert [p.name for p in (tmp_path / "other").iterdir()] == ["letter.txt"]


def test_only_a_full_disk_is_told_as_one(tmp_path):
    """What a machine lacks otherwise keeps its own message."""
    own = Store(tmp_path)
    with pytest.raises(Unavailable) as error, own.told():
        raise Unavailable("no GPU")
    assert (type(error.value), str(error.value)) == (Unavailable, "no GPU")
    for fault, kind in ((errno.EDQUOT, DiskFull), (errno.EROFS, InputError)):
        with pytest.raises(kind, match="results so far are kept"), own.told():
            raise OSError(fault, os.strerror(fault))


def test_a_lost_scheduler_is_looked_for_again(tmp_path, monkeypatch):
    """Dask cancels what a killed scheduler had: the round goes on with the next one, or ends with a message."""
    tries = []

    class Scheduler(SerialExecutor):
        def submit(self, function, /, *args, **options):
            made = super().submit(function, *args, **options)
            if len(tries) == 1:
                made = Future()
                made.set_exception(CancelledError())
            return made

        def get_executor(self, **options):
            return self

        def nthreads(self):
            return {"one": 1}

        dashboard_link = ""

    def client(address):
        tries.append(address)
        return Scheduler()

    monkeypatch.setitem(sys.modules, "distributed", SimpleNamespace(Client=client, KilledWorker=KeyError))
    made, base = space()
    wanted = Round(space=made, base=base, points=((13, 8, "wide"),), seeds=16)
    runner = Runner(Store(tmp_path), lambda: run.dask("tcp://host:1", 1), by=toy)
    runner.complete(wanted)
    assert len(tries) == 2
    assert {t.key for t in wanted.tasks()} == runner.store.results.keys()


def test_a_fault_of_the_program_ends_no_other_point(tmp_path):
    """It is told, not kept, and tried again by the next run."""
    made, base = space()
    wanted = Round(space=made, base=base, points=((13, 8, "wide"), (14, 8, "wide")), seeds=16).tasks()

    def faulty(batch):
        return [
            {"key": t.key, "failed": "ValueError: no"} if t is wanted[0] else r
            for t, r in zip(batch, toy(batch), strict=True)
        ]

    own = Store(tmp_path)
    assert fulfil(own, wanted, ALONE, by=faulty) == {wanted[0].key: "ValueError: no"}
    assert len(own.results) == len(wanted) - 1
    assert fulfil(own, wanted, ALONE, by=toy) == {}
    assert not [path for path in (tmp_path / "claims").rglob("*") if path.is_file()]
