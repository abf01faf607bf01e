"""Files built once and kept in a private folder of the user: compiled code, measured designs.

The name of a kept file holds the hash of its content, so that a damaged file is never used but built again. The folder
belongs to the user alone (mode 0700), and nobody else can exchange it: its parents are the user's or root's, and others
may write only to those with the sticky bit. Without such a folder nothing is kept.
"""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from isa_model.output_files import scratch

DAY = 24 * 60 * 60
"""Seconds."""


def folder() -> Path | None:
    """Return the folder `codesign` of the user's cache, made if missing; None if it cannot be made or is not private.

    The cache is $XDG_CACHE_HOME, else ~/.cache (XDG Base Directory Specification 0.8).
    """
    try:
        root = Path(os.environ.get("XDG_CACHE_HOME", ""))
        path = (root if root.is_absolute() else Path.home() / ".cache") / "codesign"
        for missing in reversed([part for part in (path, *path.parents) if not part.exists()]):
            missing.mkdir(mode=0o700, exist_ok=True)
        return path.resolve() if not path.is_symlink() and _is_private(path.resolve()) else None
    except (OSError, RuntimeError):  # no home, no right, no room
        return None


def read(name: str, suffix: str) -> Path | None:
    """Return the undamaged file kept under a name (a hash of everything it depends on), or None."""
    here = folder()
    for path in sorted(here.glob(f"{name}-*{suffix}")) if here else ():
        try:
            info = path.lstat()
            whole = (
                stat.S_ISREG(info.st_mode) and _is_ours(info) and _hash(path.read_bytes()) == path.stem[len(name) + 1 :]
            )
            if whole:
                return path
            path.unlink()
        except OSError:
            continue
    return None


def keep(name: str, suffix: str, content: bytes) -> Path | None:
    """Keep a file and return its path, or None if it cannot be kept. Several processes may do so at once."""
    here = folder()
    if here is None:
        return None
    path = here / f"{name}-{_hash(content)}{suffix}"
    part = None
    try:
        _sweep(here)
        number, part = tempfile.mkstemp(suffix=".part", dir=here)
        with open(number, "wb") as file:
            file.write(content)
        os.replace(part, path)
    except OSError:
        if part is not None:
            with suppress(OSError):
                os.unlink(part)
        return None
    return path


@contextmanager
def kept(name: str, suffix: str, build: Callable[[Path], None]) -> Iterator[Path]:
    """Yield the file kept under a name. If there is none, `build` writes it; if it cannot be kept, it lasts for the block."""
    found = read(name, suffix)
    if found is not None:
        yield found
        return
    with scratch() as folder:
        built = folder / f"built{suffix}"
        build(built)
        yield keep(name, suffix, built.read_bytes()) or built


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:32]


def _sweep(here: Path) -> None:
    """Remove parts of files that killed processes left a day ago or earlier."""
    for left in here.glob("*.part"):
        with suppress(OSError):
            if left.lstat().st_mtime < time.time() - DAY:
                left.unlink()


def _is_ours(info: os.stat_result) -> bool:
    """Return whether a file or folder is the user's, and only the user (or the user's own group) can write it."""
    if not hasattr(os, "getuid"):  # Windows: a profile is private
        return True
    return info.st_uid == os.getuid() and not _others_write(info)


def _others_write(info: os.stat_result) -> bool:
    shared = stat.S_IWOTH if info.st_gid == info.st_uid else stat.S_IWOTH | stat.S_IWGRP
    return bool(info.st_mode & shared)


def _is_private(path: Path) -> bool:
    """Return whether a folder is the user's and nobody else can exchange it; others' rights to it are taken away."""
    if not hasattr(os, "getuid"):
        return True
    if path.lstat().st_uid != os.getuid():
        return False
    if stat.S_IMODE(path.lstat().st_mode) != 0o700:
        path.chmod(0o700)
    for parent in path.parents:
        info = parent.stat()
        if info.st_uid not in (0, os.getuid()) or (_others_write(info) and not info.st_mode & stat.S_ISVTX):
            return False
    return True
