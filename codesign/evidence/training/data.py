"""Text that is there without a network: the Python sources and documents installed with the interpreter, as bytes.

Which text that is depends on the interpreter, so its hash stands in every record, and gaps are taken within one record.
"""

from __future__ import annotations

import hashlib
import sysconfig
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from isa_model.diagnostics import Unavailable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Bytes = NDArray[np.uint8]

SUFFIXES = (".py", ".txt", ".rst")
LARGEST_FILE = 300_000
"""Bytes: larger files are tables."""
ENOUGH = 64 << 20
HELD_BACK = 20
"""One file in so many is kept for validation, by the hash of its name."""


@dataclass(frozen=True)
class Text:
    """All training bytes and all validation bytes, each in the order of file names, and the hash of both."""

    train: Bytes
    validation: Bytes
    sha256: str
    files: int


@cache
def text() -> Text:
    """The standard library's text. Raises Unavailable where there is less than a megabyte of it."""
    import numpy as np

    root = Path(sysconfig.get_paths()["stdlib"])
    parts: dict[bool, list[bytes]] = {True: [], False: []}
    total = files = 0
    for path in sorted(root.rglob("*"), key=lambda p: p.relative_to(root).as_posix()):
        name = path.relative_to(root).as_posix()
        if path.suffix not in SUFFIXES or "site-packages" in name or "dist-packages" in name or not path.is_file():
            continue
        content = path.read_bytes()
        if not 0 < len(content) <= LARGEST_FILE or total + len(content) > ENOUGH:
            continue
        held_back = hashlib.sha256(name.encode()).digest()[0] % HELD_BACK == 0
        parts[held_back].append(content)
        total, files = total + len(content), files + 1
    if total < 1 << 20 or not parts[True]:
        raise Unavailable(f"{root} has only {total} bytes of Python sources; training needs a megabyte")
    train, validation = (b"".join(parts[held_back]) for held_back in (False, True))
    digest = hashlib.sha256(train + b"\0" + validation).hexdigest()
    return Text(np.frombuffer(train, np.uint8), np.frombuffer(validation, np.uint8), digest, files)


def batch(source: Bytes, sequences: int, length: int, *key: int) -> Any:
    """Random windows of `length` + 1 bytes, (sequences, length + 1) int64; the same for the same key of numbers."""
    import numpy as np

    starts = np.random.default_rng(key).integers(0, len(source) - length - 1, sequences)
    return source[starts[:, None] + np.arange(length + 1)].astype(np.int64)
