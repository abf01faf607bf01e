"""Files and folders: commands replace only their own, write them whole, and read only regular files."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from codesign.__main__ import run
from isa_model import InputError
from isa_model import output_files as files
from isa_model.diagnostics import Unavailable
from isa_model.input_files import parse_json, read_bytes
from isa_model.output_files import check_file, check_folder, reading, scratch, write_file, write_folder
from isa_model.processes import pool

posix = pytest.mark.skipif(sys.platform == "win32", reason="no such files there")


def content(folder: Path) -> dict[str, bytes]:
    """Return the content of every file below a folder, by name."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_records_name_no_folder_of_a_machine():
    """A command in a record has the names of files outside the project alone; the shipped records have no absolute path."""
    assert (
        files.typed("python x.py", Path("/elsewhere/a.json"), "--of", "kernels/b.json")
        == "python x.py a.json --of kernels/b.json"
    )
    root = Path(__file__).parent.parent
    records = [
        f for folder in ("kernels/records", "benchmarks/records", "checks") for f in (root / folder).glob("*.json")
    ]
    assert len(records) > 30
    named = [f.name for f in records if re.search(r'"command": "[^"]*[ =]/', f.read_text(encoding="utf-8"))]
    assert not named


# -- what may be replaced --------------------------------------------------------------------------------------------


def test_a_folder_of_ours_is_replaced_whole_and_can_be_checked_with_sha256sum(tmp_path):
    """The new files take the place of all old ones; SHA256SUMS lists them."""
    write_folder(tmp_path / "r", {"a.txt": "1", "b.txt": "2"}, "a report")
    write_folder(tmp_path / "r", {"a.txt": "3"}, "a report")
    assert sorted(content(tmp_path / "r")) == ["SHA256SUMS", "a.txt"]
    assert os.listdir(tmp_path) == ["r"]
    lines = (tmp_path / "r" / "SHA256SUMS").read_text().splitlines()
    assert lines[0] == "# codesign: a report"
    assert lines[1].endswith("  a.txt")


@pytest.mark.parametrize("foreign", ["notes.md", ".git/HEAD", "a.txt", "own/a.txt"])
def test_a_folder_with_anything_of_the_users_is_left_alone(tmp_path, foreign):
    """Notes, a repository, one of our files that was changed, and folders are each refused in one sentence."""
    folder = tmp_path / "r"
    write_folder(folder, {"a.txt": "1"}, "a report")
    (folder / foreign).parent.mkdir(exist_ok=True)
    (folder / foreign).write_text("mine")
    before = content(folder)
    with pytest.raises(InputError, match=Path(foreign).parts[0]):
        write_folder(folder, {"a.txt": "2"}, "a report")
    assert content(folder) == before


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="nothing is closed to this user")
def test_a_folder_that_is_closed_to_us_is_told_before_any_work(tmp_path):
    """A file or folder is refused if the folder above cannot be written to."""
    tmp_path.chmod(0o500)
    for check in (lambda: check_folder(tmp_path / "a/r", "a report"), lambda: check_file(tmp_path / "f", "", "a file")):
        with pytest.raises(InputError, match="cannot be written to"):
            check()
    tmp_path.chmod(0o700)


def test_a_folder_of_another_command_is_left_alone(tmp_path):
    """A folder of another kind is not replaced: a comparison does not overwrite a report."""
    write_folder(tmp_path / "r", {"a.txt": "1"}, "a report")
    with pytest.raises(InputError, match="not a comparison"):
        write_folder(tmp_path / "r", {"a.txt": "1"}, "a comparison")


@posix
def test_a_link_in_place_of_our_file_is_left_alone(tmp_path):
    """A folder in which a file became a link is not replaced, even if the link's target has the right content."""
    write_folder(tmp_path / "r", {"a.txt": "1"}, "a report")
    (tmp_path / "r" / "a.txt").rename(tmp_path / "elsewhere")
    (tmp_path / "r" / "a.txt").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match=r"a\.txt"):
        write_folder(tmp_path / "r", {"a.txt": "2"}, "a report")
    assert (tmp_path / "elsewhere").read_text() == "1"


@pytest.mark.parametrize("name", ["../x", "/tmp/x", "a/b", "..", ".hidden", "", "a\nb", "SHA256SUMS", "c:x", "x" * 300])
def test_names_of_files_are_plain(tmp_path, name):
    """A name that leads out of the folder, or is no plain one, is refused before anything is written."""
    with pytest.raises(InputError, match="cannot name"):
        write_folder(tmp_path / "r", {name: "x"}, "a report")
    assert os.listdir(tmp_path) == []


def test_the_folder_one_stands_in_is_not_exchanged(tmp_path, monkeypatch):
    """The current folder is not replaced, since the shell would be left in a removed folder."""
    write_folder(tmp_path / "r", {"a.txt": "1"}, "a report")
    monkeypatch.chdir(tmp_path / "r")
    with pytest.raises(InputError, match="folder above"):
        write_folder(Path(), {"a.txt": "2"}, "a report")


@posix
def test_links_to_folders_are_followed_and_stay(tmp_path):
    """`--out` may be a link to the folder."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    write_folder(tmp_path / "link", {"a.txt": "1"}, "a report")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "a.txt").read_text() == "1"


def test_a_file_is_replaced_only_by_its_own_kind(tmp_path):
    """Only a file that holds the mark is replaced; a failure leaves the old file, and no other."""
    path = tmp_path / "record.json"
    write_file(path, '{"command": "codesign bench"}', '"command": "codesign bench', "a record")
    write_file(path, '{"command": "codesign bench", "n": 2}', '"command": "codesign bench', "a record")
    with pytest.raises(InputError, match="is not a comparison"):
        check_file(path, "comparison", "a comparison")
    with pytest.raises(UnicodeEncodeError):
        write_file(path, "half \ud800")
    assert json.loads(path.read_text())["n"] == 2
    assert os.listdir(tmp_path) == ["record.json"]


@posix
@pytest.mark.parametrize("kind", ["fifo", "socket", "folder", "device"])
def test_nothing_but_a_file_is_replaced(tmp_path, kind):
    """A pipe, a socket, a folder and a device are not replaced."""
    path = _odd(tmp_path, kind)
    before = path.stat().st_mode
    with pytest.raises(InputError, match="not a file"):
        write_file(path, "x")
    assert path.stat().st_mode == before


def _odd(folder: Path, kind: str) -> Path:
    """Yield a path that is not a regular file."""
    path = folder / "odd.yaml"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(os.path.relpath(path))  # paths of sockets are short
    elif kind == "folder":
        path.mkdir()
    else:
        return Path("/dev/zero")
    return path


@posix
@pytest.mark.parametrize("kind", ["fifo", "socket", "folder", "device"])
@pytest.mark.parametrize(
    "command",
    [
        "validate {}",
        "evaluate {}",
        "show {}",
        "report --replay {}",
        "compare {} {}",
        "conform hopper --vectors {}",
        "conform --vectors {}",
        "bench --keep {}",
        "rtl hopper.wgmma.m64n8k16.f32.f16.f16 --out r --liberty {}",
        "init {}",
        "train framework --out {}",
        "train framework --plot {}",
    ],
)
def test_inputs_and_outputs_that_are_no_files_are_refused_at_once(tmp_path, monkeypatch, capsys, command, kind):
    """Every command refuses a file that is not regular, in under two seconds."""
    monkeypatch.chdir(tmp_path)
    path = _odd(tmp_path, kind)
    start = time.process_time()
    code = run(command.replace("{}", str(path)).split())
    assert code == 2, capsys.readouterr()
    assert time.process_time() - start < 2 + 8 * ("train" in command)  # torch is imported
    assert "Traceback" not in capsys.readouterr().err


# -- killed, interrupted and side by side ----------------------------------------------------------------------------


def test_what_a_killed_writer_left_is_removed_by_the_next(tmp_path):
    """A half-written folder and file disappear; a folder that had been moved away comes back first."""
    (tmp_path / f".r{files._NEW}").mkdir()
    (tmp_path / f".r{files._NEW}" / "half").write_text("x")
    (tmp_path / f".record.json{files._NEW}").write_text("half")
    write_folder(tmp_path / f".r{files._OLD}", {"a.txt": "1"}, "a report")
    with pytest.raises(InputError):  # the old one is back, and it is not a comparison
        write_folder(tmp_path / "r", {"a.txt": "2"}, "a comparison")
    assert sorted(content(tmp_path)) == ["r/SHA256SUMS", "r/a.txt"]


@posix
def test_a_writer_killed_while_it_writes_leaves_one_run_whole(tmp_path):
    """A process that does nothing but replace a folder of 20 files gets kill -9; each time all files are of one run."""
    program = (
        "import itertools, pathlib, sys; from isa_model.output_files import write_folder; print(flush=True)\n"
        "for i in itertools.count():\n"
        "    write_folder(pathlib.Path(sys.argv[1]), {f'{n}.txt': f'{i} ' * 1000 for n in range(20)}, 'a report')\n"
    )
    folder, chosen = tmp_path / "r", random.Random(0)
    write_folder(folder, {f"{n}.txt": "0 " * 1000 for n in range(20)}, "a report")
    for _ in range(20):
        with subprocess.Popen([sys.executable, "-c", program, str(folder)], stdout=subprocess.PIPE) as process:
            assert process.stdout
            process.stdout.readline()
            time.sleep(chosen.random() * 0.05)
            process.kill()
        texts = {path.read_text() for path in folder.glob("*.txt")}
        assert (len(texts), len(list(folder.iterdir()))) == (1, 21)
    write_folder(folder, {"a.txt": "1"}, "a report")
    assert os.listdir(tmp_path) == ["r"]


def test_where_names_cannot_be_exchanged_at_once_a_folder_is_replaced_all_the_same(tmp_path, monkeypatch):
    """A folder is replaced by two renames if the system cannot exchange names."""
    monkeypatch.setattr(files, "_exchanged", lambda *_: False)
    for text in "12":
        write_folder(tmp_path / "r", {"a.txt": text}, "a report")
    assert content(tmp_path / "r")["a.txt"] == b"2"
    assert os.listdir(tmp_path) == ["r"]


def test_writers_take_turns_and_a_reader_sees_one_run(tmp_path):
    """While two threads replace a folder of two files, a reader never finds one missing, or files of two runs."""
    folder = tmp_path / "r"
    write_folder(folder, {"a.txt": "0", "b.txt": "0"}, "a report")

    def writer(name: str) -> None:
        for i in range(30):
            write_folder(folder, {"a.txt": f"{name}{i}", "b.txt": f"{name}{i}"}, "a report")
            time.sleep(0.004)

    writers = [threading.Thread(target=writer, args=[name]) for name in "xy"]
    for thread in writers:
        thread.start()
    seen = set()
    while any(thread.is_alive() for thread in writers):
        with reading(folder):
            a, b = (folder / "a.txt").read_text(), (folder / "b.txt").read_text()
        assert a == b
        seen.add(a)
    assert len(seen) > 3


def test_scratch_folders_of_killed_processes_are_removed(tmp_path, monkeypatch):
    """A scratch folder in use stays; one whose process was killed is removed when the next is made."""
    monkeypatch.setattr(files.tempfile, "gettempdir", lambda: str(tmp_path))
    program = f"import time, isa_model.output_files as f; f.tempfile.gettempdir = lambda: {str(tmp_path)!r}\n"
    program += "with f.scratch() as s: print(s, flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        other = Path(process.stdout.readline().strip())
        with scratch() as own:
            assert other.exists()
            assert own.exists()
        process.kill()
    assert other.exists()
    with scratch():
        assert not other.exists()
    assert os.listdir(tmp_path) == []


@posix
def test_workers_and_commands_end_with_a_killed_parent(tmp_path):
    """A pool's workers, and a command with a process that it started, are gone soon after kill -9 of their starter."""
    (tmp_path / "main.py").write_text(
        "import os, sys, threading, time\n"
        "from isa_model.processes import pool, run\n"
        "if __name__ == '__main__':\n"
        "    with pool(2) as workers:\n"
        "        pids = [workers.submit(os.getpid).result() for _ in range(2)]\n"
        "        shell = 'sleep 60 & echo $! > child; wait'\n"
        "        threading.Thread(target=run, args=[['sh', '-c', shell], sys.argv[1]], daemon=True).start()\n"
        "        while not os.path.exists(sys.argv[1] + '/child') or not open(sys.argv[1] + '/child').read():\n"
        "            time.sleep(0.01)\n"
        "        print(*pids, open(sys.argv[1] + '/child').read(), flush=True)\n"
        "        time.sleep(60)\n"
    )
    command = [sys.executable, str(tmp_path / "main.py"), str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        pids = [int(x) for x in process.stdout.readline().split()]
        assert len(pids) == 3
        process.send_signal(signal.SIGKILL)
    end = time.monotonic() + 10
    while any(map(_alive, pids)) and time.monotonic() < end:
        time.sleep(0.02)
    assert not any(map(_alive, pids))


@posix
def test_a_killed_worker_is_told_in_a_sentence():
    """A worker that the system ends, for instance for lack of memory, gives exit code 3 instead of a traceback."""
    with pytest.raises(Unavailable, match="a worker process was killed"), pool(1) as workers:
        workers.submit(os.kill, workers.submit(os.getpid).result(), signal.SIGKILL).result()


def test_pools_side_by_side_leave_the_environment_as_it_was():
    """Workers have an environment of their own: pools in two threads, ended in any order, change nothing of the caller's."""
    before = dict(os.environ)
    first, second = pool(1), pool(1)
    workers = first.__enter__()
    second.__enter__()
    assert workers.submit(os.getenv, "OMP_NUM_THREADS").result() == "1"
    first.__exit__(None, None, None)
    second.__exit__(None, None, None)
    assert dict(os.environ) == before


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state != "Z"


# -- reading ---------------------------------------------------------------------------------------------------------


def test_a_file_over_its_limit_is_refused_without_being_read(tmp_path):
    """A sparse file of a terabyte is refused without reading it."""
    path = tmp_path / "big"
    with open(path, "wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(OSError, match="larger than 1 MiB"):
        read_bytes(path, 1 << 20)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "nested deeper"),
        ("[" * 200 + "]" * 200, "nested deeper"),
        ('{"a": ' * 100_000, "nested deeper"),
        ('{"a": 1, "a": 2}', "given twice"),
        ("[NaN]", "NaN"),
        ("[1e99, -Infinity]", "Infinity"),
        ("{", "Expecting"),
        ("1" * 10_000, "digits"),
    ],
)
def test_json_is_strict_and_bounded(text, message):
    """Deep nesting, repeated keys, NaN and damaged text are refused, each with its reason."""
    with pytest.raises(ValueError, match=message):
        parse_json(text)
