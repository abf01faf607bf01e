"""Commands that pages show with their output: `python pages/console.py` runs them and writes the output into the pages.

A page is a session in an empty folder. A `yaml` block with a `title` is a file of that name; a `console` block is a command
after `$`, and its output on a terminal of 100 columns. For `codesign evaluate NAME` of a proposal whose report ships, that
report is shown: the output is the same and takes a second.
"""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import tempfile
import termios
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from isa_model.output_files import write_file

ROOT = Path(__file__).resolve().parent.parent
PAGES = ("README.md", "docs/tutorial.md")
COLUMNS = 100
_BLOCK = re.compile(r'^```(?:console|yaml title="(?P<file>[^"]+)")\n(?P<text>.*?)^```$', re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A file or a command of a page, with its place in the text."""

    start: int
    end: int
    text: str
    file: str | None

    @property
    def command(self) -> str:
        """The command line of a console block."""
        return self.text.split("\n", 1)[0].removeprefix("$ ")

    @property
    def output(self) -> str:
        """The output that the page shows."""
        return self.text.split("\n", 1)[1]


def blocks(page: str) -> Iterator[Block]:
    """Yield the files and commands of a page's text, in order."""
    for match in _BLOCK.finditer(page):
        yield Block(match.start("text"), match.end("text"), match["text"], match["file"])


def run(command: str, folder: Path) -> tuple[str, int]:
    """Run a command line in a folder; return what a terminal shows of it, and its exit code."""
    main, other = pty.openpty()
    fcntl.ioctl(other, termios.TIOCSWINSZ, struct.pack("HHHH", 50, COLUMNS, 0, 0))
    tools = folder / ".tools"
    tools.mkdir(exist_ok=True)
    (tools / "codesign").write_text(f'#!/bin/sh\nexec {sys.executable} -m codesign "$@"\n')
    (tools / "codesign").chmod(0o755)
    environment = os.environ | {
        "PATH": f"{tools}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "NO_COLOR": "1",
        "TERM": "xterm",
        "COLUMNS": str(COLUMNS),
    }
    with subprocess.Popen(
        ["bash", "-o", "pipefail", "-c", command], cwd=folder, env=environment, stdout=other, stderr=subprocess.PIPE
    ) as process:
        os.close(other)
        shown = b""
        while part := _read(main):
            shown += part
        assert process.stderr
        progress = re.compile(r", \d+ s(, about .* left)?$")
        told = [line for line in process.stderr.read().decode().splitlines() if not progress.search(line)]
    os.close(main)
    text = re.sub(r"\x1b\[[0-9;]*m", "", shown.decode()).replace("\r\n", "\n")
    lines = [line.rstrip() for line in (*text.splitlines(), *told)]
    return "\n".join(lines).strip("\n") + "\n", process.returncode


def _read(handle: int) -> bytes:
    try:
        return os.read(handle, 1 << 16)
    except OSError:  # Linux's way to say that the other end is closed
        return b""


def shipped(command: str) -> str:
    """Return the command that shows the report that `python pages/reports.py` left, for `codesign evaluate` of a proposal."""
    match = re.fullmatch(r"codesign evaluate ([a-z0-9-]+)", command)
    folder = ROOT / "codesign-reports" / match[1] if match else None
    return f"codesign report {folder}" if folder and folder.exists() else command


def renewed(page: str) -> str:
    """Return a page's text with the output of every command as it is now."""
    found, last = [], 0
    with tempfile.TemporaryDirectory() as folder:
        for block in blocks(page):
            if block.file:
                (Path(folder) / block.file).write_text(block.text)
                continue
            output, _ = run(shipped(block.command), Path(folder))
            if shipped(block.command) != block.command:  # evaluate shows no tables
                output = "\n".join([output.split("\n\n")[0], output.splitlines()[-1], ""])
            output = output.replace(f"{ROOT}/", "").replace(folder, ".")
            found += [page[last : block.start], f"$ {block.command}\n{output}"]
            last = block.end
    return "".join(found) + page[last:]


def main() -> None:
    """Renew the pages given, or all."""
    for name in sys.argv[1:] or PAGES:
        page = ROOT / name
        write_file(page, renewed(page.read_text(encoding="utf-8")))


if __name__ == "__main__":
    main()
