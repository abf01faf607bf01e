"""Input files: every file of a user is opened here, and must be a regular file of a bounded size.

A name on the command line or in a proposal can be a pipe that never answers, an endless device, a folder, or a file of any
size. The open file is checked for that before its content takes memory.
"""

from __future__ import annotations

import errno
import io
import json
import os
import stat
from collections import Counter
from collections.abc import Mapping
from math import isinf
from pathlib import Path
from typing import Any

MIB = 1 << 20
MAX_JSON_DEPTH = 100
"""Levels of nested lists and objects in a JSON file; those that codesign writes have about ten."""
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}


def open_file(path: Path | str, limit: int | None = None) -> io.BufferedReader:
    """Open a regular file of at most `limit` bytes for reading.

    Raises OSError with the cause in `strerror`, also for what is no regular file, or larger than the limit.
    """
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except ValueError:  # a NUL in the name
        raise OSError(errno.EINVAL, "no file can have this name", str(path)) from None
    except OSError as error:
        if error.errno == errno.ENXIO:  # how a socket answers
            raise OSError(errno.ENXIO, "it is a socket or device, not a file", str(path)) from None
        raise
    try:
        about = os.fstat(handle)
        if not stat.S_ISREG(about.st_mode):
            kind = _KINDS.get(stat.S_IFMT(about.st_mode), "something else")
            raise OSError(errno.EINVAL, f"it is {kind}, not a file", str(path))
        if limit is not None and about.st_size > limit:
            raise OSError(errno.EFBIG, f"it is larger than {limit / MIB:g} MiB", str(path))
        return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def read_bytes(path: Path | str, limit: int) -> bytes:
    """Return the content of a regular file of at most `limit` bytes. Raises OSError as `open_file` does."""
    with open_file(path, limit) as file:
        content = file.read(limit + 1)
    if len(content) > limit:  # it grew, or claims to be empty, as those of /proc do
        raise OSError(errno.EFBIG, f"it is larger than {limit / MIB:g} MiB", str(path))
    return content


def read_text(path: Path | str, limit: int) -> str:
    """Return the UTF-8 text of a file. Raises OSError as `open_file` does, UnicodeDecodeError for other content."""
    return read_bytes(path, limit).decode("utf-8")


def reason(error: Exception) -> str:
    """Return why a file could not be opened, read, written or understood, as the end of a sentence."""
    if not isinstance(error, OSError):
        return f"{type(error).__name__}: {error}".splitlines()[0][:200]
    said = error.strerror or str(error)
    return said[:1].lower() + said[1:]


def parse_json(text: str | bytes) -> Any:
    """Return the data of a strict JSON text: finite numbers, every key once, at most MAX_JSON_DEPTH levels deep.

    Raises ValueError with what is wrong.
    """
    try:
        data = json.loads(text, parse_constant=_refused, parse_float=_finite, parse_int=_whole, object_pairs_hook=_once)
    except RecursionError:
        raise ValueError(f"it is nested deeper than {MAX_JSON_DEPTH} levels") from None
    level = [data]
    for _ in range(MAX_JSON_DEPTH):
        level = [child for node in level for child in _children(node)]
        if not level:
            return data
    raise ValueError(f"it is nested deeper than {MAX_JSON_DEPTH} levels")


def _children(node: Any) -> list[Any]:
    inner = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    return [child for child in inner if isinstance(child, dict | list)]


def _finite(text: str) -> float:
    """Return a number that a double can hold: `1e999` would be an infinity."""
    value = float(text)
    return _refused(text if len(text) < 40 else f"{text[:37]}...") if isinf(value) else value


def _whole(text: str) -> int:
    value = int(text)
    _finite(text)
    return value


def _refused(constant: str) -> Any:
    raise ValueError(f"{constant} is not a JSON number")


def _once(pairs: list[tuple[str, Any]]) -> Mapping[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        counts = Counter(key for key, _ in pairs)
        twice = next(key for key in found if counts[key] > 1)
        raise ValueError(f"`{twice}` is given twice")
    return found
