"""A user's program or kernel, run in processes that end with it, whatever it starts, prints or leaves behind."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path

from isa_model.diagnostics import InputError
from isa_model.input_files import reason

TIME_LIMIT = 600
"""Seconds that a compiler, or one round of questions, may take."""
MOST_SAID = 65536
"""Bytes of what a program prints that are read."""


def run_program(
    name: str, command: list[str], given: bytes = b"", folder: Path | None = None, hint: str = ""
) -> tuple[int, str]:
    """Run a program on what it reads from stdin; return its exit code and the start of what it printed.

    It prints into a file, not into a pipe that a process it left behind would keep open. All that it started is killed when
    it ends. Raises InputError, with the program's `name`, if it cannot be run (with a `hint`) and after TIME_LIMIT.
    """
    with tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as stdin:
        stdin.write(given)
        stdin.seek(0)
        try:
            process = subprocess.Popen(
                command, stdin=stdin, stdout=said, stderr=said, cwd=folder, start_new_session=os.name == "posix"
            )
        except OSError as error:
            raise InputError.of(f"{name} cannot be run: {reason(error)}", hint) from None
        try:
            code = process.wait(TIME_LIMIT)
        except subprocess.TimeoutExpired:
            raise InputError.of(f"{name} took more than {TIME_LIMIT} s") from None
        finally:
            if os.name == "posix":
                with suppress(ProcessLookupError, PermissionError):  # none is left
                    os.killpg(process.pid, signal.SIGKILL)
            else:
                process.kill()
            process.wait()
        said.seek(0)
        return code, said.read(MOST_SAID).decode(errors="replace").strip()


def ended(code: int) -> str:
    """Return how a program ended: its exit code, or the signal that killed it."""
    return f"signal {-code}" if code < 0 else f"exit code {code}"
