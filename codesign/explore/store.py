"""Results in files, shared by every space and every machine that sees the folder; there is no database and no server.

    points/a/<batch>.<hash>.jsonl    results, a line each: written whole under the hash of their content, never changed
    claims/ab/<batch>                a batch that some process works on; its time of change is a heartbeat
    queue/<round>.json               points that plain workers should compute (`run.py`)
    queue/<round>.<hash>.failed      tasks that failed there

Results alone decide what is done, and every process computes the same bytes for the same key. Claims only spare work: if one is
lost, or two processes hold it, a batch is computed twice and its results are the same. A killed process loses the batches that
it was computing; whole files only are seen. Results come in packs of a batch each, so that a million of them are thousands of
files, and a process writes, claims and releases once in many results. Plain workers read no results of others: names say which
batches are done.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import platform
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from os.path import isdir  # as that of an entry, but False for links that go round
from pathlib import Path
from typing import (
    Annotated,
    Any,
    NotRequired,  # pydantic asks for this one before Python 3.12
)
from uuid import uuid4

from pydantic import Field, TypeAdapter
from typing_extensions import TypedDict

from isa_model.diagnostics import InputError, Unavailable
from isa_model.input_files import MIB, read_bytes, reason

STALE = 300.0
"""Seconds without a heartbeat after which a claim is taken over."""
BEAT = STALE / 5
"""Seconds between heartbeats: network file systems may show a time of change a minute late."""
GRANULARITY = 2_000_000_000
"""Nanoseconds within which two changes of a folder may have the same time."""

NOTHING: dict[str, Any] = {}
"""What is kept of a result of which only the key is."""
MOST_PACK = 1024 * MIB
"""Bytes of a pack that are read."""
_Number = Annotated[float, Field(allow_inf_nan=False)] | None


class _Result(TypedDict):
    """A result as packs have it (`task.Result`), to check what a file holds."""

    key: str
    readings: NotRequired[dict[str, list[tuple[str, str, _Number, _Number, _Number, str, str]]]]
    invalid: NotRequired[str]


_RESULT = TypeAdapter(_Result)
_FAILURES = TypeAdapter(dict[str, str])


class DiskFull(Unavailable):
    """A folder of results has no room left."""


class Store:
    """Results by key in a folder, and claims on batches of them."""

    def __init__(self, folder: Path, stale: float = STALE, keys_only: bool = False) -> None:
        """With `keys_only`, no results of others are read: which batches are done is in their names. That is for plain workers.

        Raises InputError if the folder cannot be made or written to.
        """
        self.folder, self.stale, self.keys_only = folder, stale, keys_only
        self.results: dict[str, dict[str, Any]] = {}
        """Results read or written so far."""
        self.owner = f"{platform.node()} {os.getpid()} {_started(os.getpid())}"
        self._seen: dict[str, int] = {}
        self._packs: set[str] = set()
        self.batches: set[str] = set()
        """Batches that others have done, if results are not read."""
        self._held: set[Path] = set()
        self._beating: threading.Thread | None = None
        with self.told():
            for name in ("points", "claims", "queue"):
                (folder / name).mkdir(parents=True, exist_ok=True)
            self._ahead = self._clock() - time.time()

    @contextmanager
    def told(self) -> Iterator[None]:
        """Raise DiskFull for a full disk in the block, and InputError for any other error of the folder."""
        try:
            yield
        except OSError as error:
            why, hint = reason(error), "results so far are kept; the same command goes on with them"
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise InputError.of(f"cannot use {self.folder}: {why}", hint) from None
            raise DiskFull(f"cannot use {self.folder}: {why}; {hint}") from None

    # -- results -------------------------------------------------------------------------------------------------------

    def refresh(self) -> None:
        """Read the results that other processes have written since the last time, or with `keys_only` their names."""
        with self.told():
            for shard in sorted(os.scandir(self.folder / "points"), key=lambda entry: entry.name):
                if not isdir(shard.path) or self._seen.get(shard.name) == (changed := shard.stat().st_mtime_ns):
                    continue
                for pack in sorted(os.scandir(shard.path), key=lambda entry: entry.name):
                    if not pack.name.endswith(".jsonl") or pack.name in self._packs:
                        continue
                    if self.keys_only:
                        self._packs.add(pack.name)
                        self.batches.add(pack.name.split(".")[0])
                    else:
                        self._read(Path(pack.path))
                if time.time() * 1e9 + self._ahead * 1e9 - changed > GRANULARITY:
                    self._seen[shard.name] = changed

    def _read(self, pack: Path) -> None:
        """Read a pack; what a crash of the machine damaged, or is no pack of results, is computed again.

        A damaged pack of a batch is removed: for workers its name says that the batch is done.
        """
        with suppress(OSError, ValueError):
            content = read_bytes(pack, MOST_PACK)
            *batch, own = pack.stem.split(".")
            if own == _name(content):
                self._packs.add(pack.name)
                for result in [_RESULT.validate_json(line) for line in content.splitlines()]:
                    self.results.setdefault(result["key"], dict(result))
            elif batch:
                pack.unlink()

    def write(self, results: Sequence[dict[str, Any]], batch: str = "") -> None:
        """Keep results that are not there yet, as the pack of a batch.

        Raises DiskFull or InputError if they cannot be written.
        """
        fresh = {r["key"]: r for r in results if r["key"] not in self.results}
        if not fresh:
            return
        content = "".join(json.dumps(fresh[key], sort_keys=True) + "\n" for key in sorted(fresh)).encode()
        own = _name(content)
        name = f"{batch}.{own}.jsonl" if batch else f"{own}.jsonl"
        with self.told():
            write_atomically(self.folder / "points" / own[:1] / name, content)
        self._packs.add(name)
        self.results.update(dict.fromkeys(fresh, NOTHING) if self.keys_only else fresh)

    # -- claims --------------------------------------------------------------------------------------------------------

    def claim(self, batch: str) -> bool:
        """Return whether this process now holds the claim on a batch; a stale one is taken over."""
        path = self.folder / "claims" / batch[:2] / batch
        with self.told():
            path.parent.mkdir(exist_ok=True)
            if not self._created(path) and not self._take_over(path):
                return False
        self._held.add(path)
        if self._beating is None or not self._beating.is_alive():
            self._beating = threading.Thread(target=self._beat, daemon=True)
            self._beating.start()
        return True

    def release(self, batch: str) -> None:
        """Give up the claim on a batch."""
        self._give_up(self.folder / "claims" / batch[:2] / batch)

    def release_all(self) -> None:
        """Give up every claim of this process."""
        for path in list(self._held):
            self._give_up(path)

    def _give_up(self, path: Path) -> None:
        self._held.discard(path)
        with suppress(OSError):
            path.unlink()

    def _created(self, path: Path) -> bool:
        """Return whether this process made the claim, which only one can."""
        try:
            handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except FileExistsError:
            return False
        try:
            os.write(handle, self.owner.encode())
        except OSError:  # a claim without an owner would wait until it is stale
            path.unlink()
            raise
        finally:
            os.close(handle)
        return True

    def _take_over(self, path: Path) -> bool:
        """Return whether this process now holds a claim that was stale. A gate lets one process at a time try."""
        gate = path.with_name(f".{path.name}.gate")
        try:
            if not self._is_stale(path):
                return False
            if not self._created(gate):
                if self._is_stale(gate):  # its process died meanwhile
                    gate.unlink()
                return False
        except FileNotFoundError:
            return False  # released
        try:
            if self._is_stale(path):
                path.unlink()
            return self._created(path)
        except FileNotFoundError:
            return self._created(path)
        finally:
            with suppress(OSError):
                gate.unlink()

    def _is_stale(self, path: Path) -> bool:
        """Return whether a claim has had no heartbeat for long, or its process on this machine has ended."""
        age = time.time() + self._ahead - path.stat().st_mtime
        node, *rest = read_bytes(path, MIB).decode(errors="replace").split() or [""]
        named = node == platform.node() and len(rest) == 2 and rest[0].isdecimal()
        ended = named and _started(int(rest[0][:18])) != rest[1]
        return age > self.stale or ended

    def _beat(self) -> None:
        """Renew the time of change of every claim, as long as there is one."""
        while self._held:
            time.sleep(min(BEAT, self.stale / 5))
            for path in list(self._held):
                with suppress(OSError):
                    os.utime(path)

    def _clock(self) -> float:
        """Return the time of the file system, which is that of its server: clocks of machines differ."""
        path = self.folder / "claims" / f".clock.{uuid4().hex}"
        path.write_bytes(b"")
        changed = path.stat().st_mtime
        path.unlink()
        return changed

    # -- rounds for plain workers --------------------------------------------------------------------------------------

    def rounds(self) -> list[Path]:
        """Return the files of the open rounds."""
        with self.told():
            return sorted((self.folder / "queue").glob("*.json"))

    @contextmanager
    def opened(self, content: dict[str, Any], done: str = "") -> Iterator[Path]:
        """Keep a round open for plain workers during the block, and yield its file.

        `done` tells them which tasks have results. After an error the round stays open: workers complete it, and the next run
        of its driver closes it; the file stays as it is meanwhile, so that all workers form the same batches.
        """
        path = self.folder / "queue" / f"{_name(json.dumps(content).encode())}.json"
        with self.told():
            self._forget_failures(path)
            if not path.exists():
                write_atomically(path, json.dumps({**content, "done": done}).encode())
        yield path
        with suppress(OSError):
            path.unlink()
            self._forget_failures(path)

    def fail(self, path: Path, failed: Mapping[str, str]) -> None:
        """Tell the driver of a round which tasks failed, and why."""
        if failed and path.exists():
            text = json.dumps(failed, sort_keys=True).encode()
            with self.told():
                write_atomically(path.with_name(f"{path.stem}.{_name(text)}.failed"), text)

    def failures(self, path: Path) -> dict[str, str]:
        """Return the tasks of a round that workers could not compute, each with the reason."""
        found: dict[str, str] = {}
        for file in path.parent.glob(f"{path.stem}.*.failed"):
            with suppress(OSError, ValueError):
                found |= _FAILURES.validate_json(read_bytes(file, MOST_PACK))
        return found

    def _forget_failures(self, path: Path) -> None:
        for file in path.parent.glob(f"{path.stem}.*.failed"):
            file.unlink(missing_ok=True)


def check_results(folder: Path) -> None:
    """Raise InputError unless a folder holds results or nothing: workers make none, since its name may be mistyped."""
    hint = f"codesign explore SPACE --workers --out {folder}; or mkdir {folder} for workers that begin before it"
    try:
        found = {entry.name for entry in os.scandir(folder)}
    except OSError as error:
        raise InputError.of(f"{folder} is no folder of results: {reason(error)}", hint) from None
    if found and "points" not in found:
        raise InputError.of(f"{folder} holds no results, but other files", hint)


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file whole or not at all, under a name that only the same content has."""
    fresh = path.with_name(f".{path.name}.{uuid4().hex}")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with open(fresh, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    finally:
        with suppress(OSError):
            fresh.unlink()


def _name(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:40]


def _started(process: int) -> str:
    """Return when a process of this machine started, in clock ticks; empty if it has ended, `?` where that is not known."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[19]
    except (OSError, IndexError):
        pass
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return ""
    except OSError:
        return "?"
    return "?"


def batch_name(keys: Iterable[str]) -> str:
    """Return the name of a batch of results."""
    return _name("".join(keys).encode())
