"""Files and folders that appear whole or not at all."""

from __future__ import annotations

import json
import os
import signal
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from isa_model.diagnostics import InputError


def check_folder(folder: Path, mark: str, kind: str) -> None:
    """Raise InputError if `folder` cannot be (re)written: it exists, is not empty and lacks the file `mark`."""
    if folder.exists() and not (folder / mark).exists() and (folder.is_file() or any(folder.iterdir())):
        raise InputError.of(f"{folder} exists and is not {kind}", "another --out, or move it away")


def write_folder(folder: Path, contents: Mapping[str, str], mark: str, kind: str) -> None:
    """Write files into `folder`, replacing an old one of its kind as a whole (see `check_folder`).

    Raises InputError when the folder cannot be written, or holds something else.
    """
    check_folder(folder, mark, kind)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as temporary:
            fresh = Path(temporary) / "new"
            fresh.mkdir()
            for name, content in contents.items():
                (fresh / name).write_text(content, encoding="utf-8")
            with _uninterrupted():
                if folder.exists():
                    folder.rename(Path(temporary) / "old")
                fresh.rename(folder)
    except OSError as error:
        raise InputError.of(f"cannot write {folder}: {(error.strerror or str(error)).lower()}") from None


def write_file(path: Path, content: str) -> None:
    """Write a text file. Raises InputError when it cannot be written."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.write_text(content, encoding="utf-8")
        os.replace(temporary, path)
    except OSError as error:
        raise InputError.of(f"cannot write {path}: {(error.strerror or str(error)).lower()}") from None


def json_lines(data: Mapping[str, Any]) -> str:
    """JSON with a line for each field and for each object of a list, so that a changed entry is a changed line."""
    fields = []
    for key, value in data.items():
        text = json.dumps(value)
        if isinstance(value, list) and value and isinstance(value[0], dict):
            entries = ",\n".join(f"  {json.dumps(entry)}" for entry in value)
            text = f"[\n{entries}\n ]"
        fields.append(f" {json.dumps(key)}: {text}")
    return "{\n" + ",\n".join(fields) + "\n}\n"


def put(path: Path, name: str, text: str) -> None:
    """Put text between `<!-- NAME: begin -->` and `<!-- NAME: end -->` of a file, in place of what is there.

    Raises InputError when the file cannot be written, ValueError when it has not these marks once.
    """
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, rest = path.read_text(encoding="utf-8").split(begin)
    _, after = rest.split(end)
    write_file(path, f"{before}{begin}\n{text}\n{end}{after}")


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Hold Ctrl-C back for the two renames that exchange a folder."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
