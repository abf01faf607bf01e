"""The commit of the source tree this package runs from, for records of what made a figure."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

_ROOT = Path(__file__).resolve().parent.parent


def commit_of(*paths: str) -> str:
    """Return the checkout's commit, with a `+` if any of `paths` (git pathspecs) has uncommitted changes.

    Outside a checkout it is empty. A copy of the tree without its history may give its commit in the environment variable
    CODESIGN_COMMIT.
    """
    if given := os.environ.get("CODESIGN_COMMIT"):
        return given
    if not (_ROOT / ".git").exists():
        return ""
    try:
        head, changed = (
            subprocess.run(
                ["git", "-C", str(_ROOT), *command], capture_output=True, text=True, timeout=10
            ).stdout.strip()
            for command in (["rev-parse", "--short=12", "HEAD"], ["status", "--porcelain", "-uno", "--", *paths])
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return head + ("+" if changed else "")
