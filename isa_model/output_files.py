"""Output files and folders: written whole or not at all, and replacing only what codesign itself wrote.

A folder that codesign writes holds SHA256SUMS (the form of `sha256sum`), which names every other file in it and the kind of
the folder. A folder that holds anything else, or a file changed since, is not touched. A new folder is made beside the old
one and exchanged with it in one system call: a process killed at any moment leaves the old folder or the new one. Writers
lock the folder above, and readers of several files share that lock. A writer removes first what killed writers left.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import signal
import stat
import sys
import tempfile
import time
from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from isa_model.diagnostics import InputError, Unavailable
from isa_model.input_files import MIB, open_file, read_bytes, reason

SUMS = "SHA256SUMS"
_NEW, _OLD = ".codesign-new", ".codesign-old"
_PATIENCE = 60.0
"""Seconds to wait for another writer."""
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,199}")


# -- folders ---------------------------------------------------------------------------------------------------------


def check_folder(folder: Path, kind: str, source: Path | None = None) -> None:
    """Raise InputError unless `folder` can be written: it is missing, empty, or of this kind and unchanged since.

    `kind` names its content, such as "a report". The folder may also hold `source`, the file its content is made from.
    """
    target = Path(os.path.realpath(folder))
    try:
        _check_above(target)
        if not os.path.lexists(target):
            return
        if not target.is_dir():
            raise InputError.of(f"{folder} exists and is not a folder", "another --out, or move it away")
        sums = _sums(target, kind)
        foreign = [e.name for e in sorted(target.iterdir()) if not _ours(e, sums) and not _same(e, source)]
        stands_in_it = Path.cwd().is_relative_to(target)
    except OSError as error:
        raise _unwritable(folder, error) from None
    if foreign:
        what = ", ".join(foreign[:3]) + (f" and {len(foreign) - 3} more" if len(foreign) > 3 else "")
        raise InputError.of(
            f"{folder} is not {kind} as codesign wrote it; these are not from codesign, or were changed: {what}",
            "another --out, or move them away",
        )
    if stands_in_it:
        raise InputError.of(f"{folder}, the current folder, would be replaced", "run this from a folder above it")


def write_folder(folder: Path, contents: Mapping[str, str | bytes], kind: str, source: Path | None = None) -> None:
    """Write files and their SHA256SUMS into `folder`, replacing an older one of its kind as a whole (see `check_folder`).

    Raises Unavailable if there is no space, InputError if the folder cannot be written otherwise or holds something else, or if
    a name is no plain file name.
    """
    for name in contents:
        if not _PLAIN.fullmatch(name) or name == SUMS:
            raise InputError.of(f"`{name}` cannot name a file of {kind}", "letters, digits, `.`, `_`, `+` and `-`")
    encoded = {name: x.encode("utf-8") if isinstance(x, str) else x for name, x in contents.items()}
    sums = "".join(f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in encoded.items())
    encoded[SUMS] = f"# codesign: {kind}\n{sums}".encode()
    with _replacing(folder, lambda: check_folder(folder, kind, source)) as (fresh, target):
        fresh.mkdir()
        if target.exists():
            shutil.copymode(target, fresh)
        for name, data in encoded.items():
            (fresh / name).write_bytes(data)
        with _uninterrupted():
            _exchange(fresh, target)


def untracked(folder: Path) -> None:
    """Write a .gitignore into a default folder of outputs, unless it has one, so that git tracks nothing there."""
    with suppress(OSError), open(folder / ".gitignore", "x", encoding="utf-8") as file:
        file.write("# Written by codesign.\n*\n")


@contextmanager
def reading(folder: Path) -> Iterator[None]:
    """Keep writers of `folder` waiting while several of its files are read."""
    with _locked(Path(os.path.realpath(folder)).parent, shared=True):
        yield


def _sums(folder: Path, kind: str) -> dict[str, str]:
    """Return the SHA-256 of each file by SHA256SUMS of a folder; empty if that is missing or of another kind."""
    try:
        first, *lines = read_bytes(folder / SUMS, MIB).decode("utf-8").splitlines()
    except (FileNotFoundError, ValueError):
        return {}
    if first != f"# codesign: {kind}":
        return {}
    return {name: digest for digest, _, name in (line.partition("  ") for line in lines)} | {SUMS: ""}


def _ours(entry: Path, sums: Mapping[str, str]) -> bool:
    """Return whether an entry of a folder is a file with the content that codesign wrote."""
    if entry.name not in sums or not stat.S_ISREG(entry.lstat().st_mode):
        return False
    if entry.name == SUMS:
        return True
    with open_file(entry) as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == sums[entry.name]


def _same(entry: Path, source: Path | None) -> bool:
    return source is not None and entry.is_file() and not entry.is_symlink() and entry.samefile(source)


def _exchange(fresh: Path, target: Path) -> None:
    """Put `fresh` in the place of `target`; what was there is at `fresh` afterwards, or removed."""
    if not target.exists():
        fresh.rename(target)
    elif not _exchanged(fresh, target):
        # A process killed between these two steps leaves no `target`; the next writer puts the old one back (_sweep).
        old = target.with_name(f".{target.name}{_OLD}")
        target.rename(old)
        fresh.rename(target)
        shutil.rmtree(old, ignore_errors=True)


def _exchanged(one: Path, other: Path) -> bool:
    """Exchange two names in one system call; return False if the system or file system cannot do that."""
    import ctypes

    with suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None, use_errno=True)
        a, b = os.fsencode(one), os.fsencode(other)
        if sys.platform == "darwin":
            return bool(libc.renamex_np(a, b, 2) == 0)  # RENAME_SWAP
        return bool(libc.renameat2(-100, a, -100, b, 2) == 0)  # AT_FDCWD, RENAME_EXCHANGE
    return False


# -- files -----------------------------------------------------------------------------------------------------------


def check_file(path: Path, mark: str, kind: str) -> None:
    """Raise InputError unless `path` can be written: it is missing, or a file that contains `mark`, the sign of its `kind`."""
    target = Path(os.path.realpath(path))
    try:
        _check_above(target)
        if not os.path.lexists(target):
            return
        with open_file(target) as file:
            known = mark.encode() in file.read(4 * MIB)
    except OSError as error:
        raise _unwritable(path, error) from None
    if not known:
        raise InputError.of(f"{path} exists and is not {kind}", "another name, or move it away")


@contextmanager
def fresh_file(path: Path, mark: str = "", kind: str = "a file") -> Iterator[Path]:
    """Yield a path to write to; when the block ends without an error, that file takes the place of `path`.

    Other writers wait meanwhile: the `path` that the block may read is the one that is replaced. Missing folders are made.
    Raises InputError if the file cannot be written, and as `check_file`.
    """
    with _replacing(path, lambda: check_file(path, mark, kind)) as (fresh, target):
        yield fresh
        fresh.replace(target)


def write_file(path: Path, content: str, mark: str = "", kind: str = "a file") -> None:
    """Write a text file, whole or not at all. Raises InputError as `fresh_file` does."""
    with fresh_file(path, mark, kind) as fresh:
        fresh.write_text(content, encoding="utf-8")


def head(command: str, commit: str) -> dict[str, str]:
    """Return the first fields of a record made today: the command that makes it, the date (UTC) and the commit it runs."""
    return {"command": command, "date": datetime.now(UTC).date().isoformat(), "commit": commit}


def typed(*words: object) -> str:
    """Return the words of a command as one text for a record, without folders of a machine: absolute paths by name alone."""
    return " ".join(Path(word).name if Path(word).is_absolute() else word for word in map(str, words))


def of_command(command: str) -> tuple[str, str]:
    """Return the mark and kind (see `check_file`) of JSON records with a field `command`, the command that made them."""
    program = command.split(" --")[0]
    return f'"command": "{program}', f"what `{program}` writes"


def json_lines(data: Mapping[str, Any], nested: Container[str] = ()) -> str:
    """Return JSON with a line for each field and for each object of a list, so that a changed entry is a changed line.

    The objects of lists that are fields named in `nested` are written in the same way themselves.
    """
    fields = []
    for key, value in data.items():
        text = json.dumps(value)
        if isinstance(value, list) and value and isinstance(value[0], dict):
            lines = (json_lines(entry).rstrip() if key in nested else f"  {json.dumps(entry)}" for entry in value)
            entries = ",\n".join(lines)
            text = f"[\n{entries}\n ]"
        fields.append(f" {json.dumps(key)}: {text}")
    return "{\n" + ",\n".join(fields) + "\n}\n"


def put(path: Path, name: str, text: str) -> None:
    """Replace what a file has between `<!-- NAME: begin -->` and `<!-- NAME: end -->` by `text`.

    Raises InputError if the file cannot be written, ValueError unless it has each of these marks once.
    """
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, rest = path.read_text(encoding="utf-8").split(begin)
    _, after = rest.split(end)
    write_file(path, f"{before}{begin}\n{text}\n{end}{after}")


# -- scratch ---------------------------------------------------------------------------------------------------------


@contextmanager
def scratch() -> Iterator[Path]:
    """Yield an empty folder for intermediate files and remove it afterwards; those of killed processes are removed too."""
    root = Path(tempfile.gettempdir())
    for left in root.glob(f"codesign-*{_NEW}"):
        with suppress(OSError):
            handle = _handle(left)
            _flock(handle, shared=False)  # fails while its process lives
            shutil.rmtree(left, ignore_errors=True)
            os.close(handle)
    folder, handle = _taken(root)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(handle)


def _taken(root: Path) -> tuple[Path, int]:
    """Return a new folder, and the handle that holds its lock."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix="codesign-", suffix=_NEW, dir=root))
        with suppress(FileNotFoundError, BlockingIOError):  # another process removed it before it was locked
            handle = _handle(folder)
            _flock(handle, shared=False)
            if folder.exists():
                return folder, handle
            os.close(handle)


# -- locks and leftovers ---------------------------------------------------------------------------------------------


def _handle(folder: Path) -> int:
    """Return an open folder to lock; on Windows, which has no such lock, the null device."""
    return os.open(os.devnull if sys.platform == "win32" else folder, os.O_RDONLY)


@contextmanager
def _locked(folder: Path, shared: bool = False) -> Iterator[None]:
    """Hold the lock of a folder. Raises InputError if another process keeps it for a minute."""
    handle = _handle(folder)
    try:
        end = time.monotonic() + _PATIENCE
        while True:
            try:
                _flock(handle, shared)
                break
            except BlockingIOError:
                if time.monotonic() > end:
                    raise InputError.of(
                        f"another process keeps writing in {folder}", "end it, or wait for it"
                    ) from None
                time.sleep(0.002)
        yield
    finally:
        os.close(handle)


def _flock(handle: int, shared: bool) -> None:
    """Lock an open folder. Raises BlockingIOError if another process has it; does nothing on systems without locks."""
    if sys.platform != "win32":
        import fcntl

        try:
            fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            raise
        except OSError:  # a file system without locks
            return


@contextmanager
def _replacing(path: Path, check: Callable[[], None]) -> Iterator[tuple[Path, Path]]:
    """Yield a name beside `path` to write to, and the resolved `path`, which no other writer touches meanwhile.

    `check` decides whether `path` may be replaced. Raises Unavailable if there is no space, InputError for every other OSError.
    """
    target = Path(os.path.realpath(path))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _locked(target.parent):
            _sweep(target.parent)
            check()
            fresh = target.with_name(f".{target.name}{_NEW}")
            try:
                yield fresh, target
            finally:
                _remove(fresh)
    except OSError as error:
        raise _unwritable(path, error) from None


def _sweep(parent: Path) -> None:
    """Remove what killed writers left in a folder, and put back what one had moved away. Needs the folder's lock."""
    for left in parent.glob(f".*{_OLD}"):
        target = parent / left.name[1:].removesuffix(_OLD)
        if not target.exists():
            left.rename(target)
    for left in [*parent.glob(f".*{_NEW}"), *parent.glob(f".*{_OLD}")]:
        _remove(left)


def _remove(path: Path) -> None:
    """Remove a file or folder, if it is there and can be removed."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


def _check_above(target: Path) -> None:
    """Raise OSError unless a new entry can be made in the nearest folder above `target` that exists."""
    above = next((folder for folder in target.parents if os.path.lexists(folder)), target)
    if not above.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, f"{above} is not a folder", str(above))
    if not os.access(above, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, f"{above} cannot be written to", str(above))


def _unwritable(path: Path, error: OSError) -> InputError | Unavailable:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return Unavailable(f"cannot write {path}: no space left; make some, or write elsewhere")
    return InputError.of(f"cannot write {path}: {reason(error)}")


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Delay Ctrl-C and termination to the end of the block."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
