"""Which commit a figure was made with."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def commit(*code: str) -> str:
    """The commit of the source tree this package runs from, with a `+` if any of `code` (paths, git's pathspecs) changed.

    Empty outside a checkout. A copy of the tree without its history says it in the environment variable CODESIGN_COMMIT.
    """
    if said := os.environ.get("CODESIGN_COMMIT"):
        return said
    if not (ROOT / ".git").exists():
        return ""
    try:
        head, changed = (
            subprocess.run(
                ["git", "-C", str(ROOT), *command], capture_output=True, text=True, timeout=10
            ).stdout.strip()
            for command in (["rev-parse", "--short=12", "HEAD"], ["status", "--porcelain", "-uno", "--", *code])
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return head + ("+" if changed else "")
