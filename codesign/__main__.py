"""The `codesign` command: its exit codes, and the errors that commands do not handle.

0: done. 1: a claim is refuted, or a mismatch was found. 2: invalid input or usage. 3: the environment lacks something.
101: a fault of codesign.
"""

from __future__ import annotations

import errno
import gc
import io
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any


class _Pipe(io.FileIO):
    """A pipe or file for output. What is written after the reader closed the pipe is dropped, so that the command goes on."""

    def write(self, data: Any) -> int:
        """Write bytes, as FileIO does."""
        try:
            return super().write(data)
        except BrokenPipeError:
            return memoryview(data).nbytes


def main() -> None:
    """Run the command line and exit. Characters that the encoding of stdout or stderr lacks are written as escapes."""
    for name in ("stdout", "stderr"):
        setattr(sys, name, _output(getattr(sys, name)))
    try:
        code = run(sys.argv[1:])
    except KeyboardInterrupt:
        print("codesign: interrupted", file=sys.stderr)
        code = 130
    gc.freeze()  # nothing is searched for garbage on the way out
    sys.exit(code)


def _output(stream: Any) -> Any:
    """Return a standard stream that is whole or fails: the null device if it is closed, buffered if it is no terminal.

    Python drops what a full disk does not take of an unbuffered stream (PYTHONUNBUFFERED).
    """
    if stream is None:
        return open(os.devnull, "w", encoding="utf-8")
    if not isinstance(stream, io.TextIOWrapper):
        return stream
    if stream.isatty():
        stream.reconfigure(errors="backslashreplace")
        return stream
    return io.TextIOWrapper(
        io.BufferedWriter(_Pipe(stream.fileno(), "w", closefd=False)),
        encoding=stream.encoding,
        errors="backslashreplace",
        line_buffering=stream.line_buffering or stream.write_through,
    )


def _spare_plugins() -> None:
    """Stand in for pydantic's search for plugins, which imports `importlib.metadata` even where they are disabled."""
    loader = ModuleType("pydantic.plugin._loader")
    vars(loader)["get_plugins"] = tuple
    sys.modules.setdefault(loader.__name__, loader)


def _bringer(package: str | None) -> str:
    """Return the requirement that installs a package: codesign, or codesign with an extra."""
    extras = {
        "amaranth": "cost",
        "bitwuzla": "cost",
        "pyosys": "cost",
        "torch": "kernels",
        "cuda": "kernels",
        "distributed": "explore",
        "triton": "kernels",
        "pynvml": "kernels",
    }
    extra = extras.get((package or "").split(".")[0])
    return f"'codesign[{extra}]'" if extra else "codesign"


def run(arguments: list[str]) -> int:
    """Run the command line and return its exit code. Raises KeyboardInterrupt on Ctrl-C."""
    shadow = shadowed()
    if shadow:
        print(f"codesign: {shadow}", file=sys.stderr)
        return 3
    # Short commands are mostly imports. They start faster with fewer garbage collections and no search for pydantic plugins.
    gc.set_threshold(500_000, 50, 50)
    if os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "1") == "1":
        _spare_plugins()
    from isa_model.diagnostics import InputError, Unavailable
    from isa_model.printable import unprintable, visible

    for argument in arguments:
        if character := unprintable(argument):
            print(f"the argument `{visible(argument)}` holds {character}\n     = a name without it", file=sys.stderr)
            return 2
    try:
        from codesign.commands.cli import run_app

        code = run_app(arguments)
        sys.stdout.flush()
        return code
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    except Unavailable as error:
        print(f"codesign: {error}", file=sys.stderr)
        return 3
    except ModuleNotFoundError as error:
        if error.name and error.name.split(".")[0] in ("codesign", "isa_model", "kernels"):
            raise
        print(
            f"codesign: the package `{error.name}` is missing; `pip install {_bringer(error.name)}` brings it",
            file=sys.stderr,
        )
        return 3
    except MemoryError:
        print(
            "codesign: this machine has too little free memory for it; close others, or ask for less", file=sys.stderr
        )
        return 3
    except Exception as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # discard the output that remains
            print("codesign: cannot write: no space left; make some, or write elsewhere", file=sys.stderr)
            return 3
        import traceback

        traceback.print_exc()
        print(
            f"codesign: internal error ({type(error).__name__}); this is a fault of codesign, please report it",
            file=sys.stderr,
        )
        return 101


def shadowed() -> str:
    """Return a message if another package called `isa_model` or `kernels` hides ours, else an empty string."""
    from importlib.util import find_spec

    home = Path(__file__).resolve().parent.parent
    for name in ("isa_model", "kernels"):
        found = find_spec(name)
        origin = Path(found.origin).resolve() if found and found.origin else None
        if origin is None:
            return f"its package `{name}` is missing beside {home / 'codesign'}; install codesign again"
        if origin.parent.parent != home:
            return f"another package `{name}` ({origin.parent}) hides ours ({home / name}); uninstall or move it"
    return ""


if __name__ == "__main__":
    main()
