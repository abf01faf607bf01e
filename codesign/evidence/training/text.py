"""Training text that needs no network: the bytes of the Python sources and documents installed with the interpreter.

The text depends on the interpreter. Every record has its hash, and losses are compared within one record only.
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
"""Size limit of a file, in bytes; larger ones are tables."""
ENOUGH = 64 << 20
"""Size limit of the text, in bytes."""
HELD_BACK = 20
"""Number of files per validation file, which the hash of its name selects."""


@dataclass(frozen=True)
class TrainingText:
    """Training and validation bytes in the order of file names, and the hash of both."""

    train: Bytes
    validation: Bytes
    sha256: str
    files: int


@cache
def text() -> TrainingText:
    """Return the standard library's text. Raises Unavailable if it has less than a megabyte."""
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
    return TrainingText(np.frombuffer(train, np.uint8), np.frombuffer(validation, np.uint8), digest, files)


def batch(source: Bytes, sequences: int, length: int, *key: int) -> Any:
    """Return random windows of `length` + 1 bytes as (sequences, length + 1) int64. The same key gives the same windows."""
    import numpy as np

    starts = np.random.default_rng(key).integers(0, len(source) - length - 1, sequences)
    return source[starts[:, None] + np.arange(length + 1)].astype(np.int64)
