"""Compile C text with the machine's C compiler and load it; compiled once per text and machine (kept by cache.py)."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import signal
import subprocess
import sys
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any

from isa_model.user_cache import kept

FLAGS: tuple[str, ...] = (
    "-O3",
    "-march=native",
    "-fopenmp-simd",
    "-ffp-contract=off",
    "-fno-math-errno",
    "-fno-trapping-math",
)
if platform.machine() in ("x86_64", "AMD64"):
    FLAGS += ("-mprefer-vector-width=512",)  # by default compilers avoid the widest vectors of some processors
"""Options for exact vector code."""
TIME_LIMIT = 120
"""Seconds that a compiler may take; the largest instructions take half a second."""
_PROBE = "import ctypes, sys; ctypes.CDLL(sys.argv[1]).run"


class NoCompiler(Exception):
    """This machine has no working C compiler."""

    def __init__(self, reason: str, broken: bool = False) -> None:
        super().__init__(reason)
        self.broken = broken
        """True if a compiler was found but does not work; false if none was found."""


_broken: dict[str, str] = {}
"""Fault of each broken compiler, by its command; it is not tried again in this process."""
_locks: dict[str, Lock] = {}
"""Lock of each library, so that two threads do not compile it at once."""


def compiler() -> list[str]:
    """Return the command of the C compiler: $CC, else cc, gcc or clang. Raises NoCompiler."""
    for command in (_of_environment(), ["cc"], ["gcc"], ["clang"]):
        path = shutil.which(command[0]) if command else None
        if path is not None:
            return [path, *command[1:]]
    raise NoCompiler("no C compiler (cc, gcc, clang) was found")


def _of_environment() -> list[str]:
    """Return the command that $CC holds; empty where it holds none that a shell could split."""
    try:
        return shlex.split(os.environ.get("CC", ""))
    except ValueError:  # an open quotation mark
        return []


def load(text: str, flags: tuple[str, ...]) -> Any:
    """Return the function `run` of a C text, which returns an int. Raises NoCompiler."""
    command = compiler()
    if shlex.join(command) in _broken:
        raise NoCompiler(_broken[shlex.join(command)], broken=True)
    parts = [text, *flags, *command, platform.machine(), platform.processor(), _cpu(), _libc()]
    name = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]
    try:
        with (
            _locks.setdefault(name, Lock()),
            kept(name, ".so", lambda built: _compile(command, flags, text, built)) as library,
        ):
            function = ctypes.CDLL(str(library)).run
    except NoCompiler as error:
        _broken[shlex.join(command)] = str(error)
        raise
    except (OSError, AttributeError) as error:  # no room for temporary files, or they may not be executed
        raise NoCompiler(f"a compiled library cannot be loaded: {error}", broken=True) from None
    function.restype = ctypes.c_int
    return function


@cache
def shipped(name: str, flags: tuple[str, ...] = ()) -> Any:
    """Return the function of a C file in this folder, compiled with further flags; None without a C compiler."""
    try:
        return load((Path(__file__).parent / name).read_text(), (*FLAGS, *flags))
    except NoCompiler:
        return None


def _compile(command: list[str], flags: tuple[str, ...], text: str, built: Path) -> None:
    """Write the library of a text. Raises NoCompiler if the compiler fails or is too slow, or the library cannot be loaded."""
    name = shlex.join(command)
    source = built.with_suffix(".c")
    source.write_text(text)
    made = [*command, *flags, "-shared", "-fPIC", "-o", str(built), str(source), "-lm", "-pthread"]
    code = _run(made, built.with_suffix(".log"))
    if code is None:
        raise NoCompiler(f"{name} took more than {TIME_LIMIT} s", broken=True)
    if code:
        said = built.with_suffix(".log").read_text(errors="replace").strip()[:500]
        raise NoCompiler(f"{name} failed: {said or f'exit code {code}'}", broken=True)
    if not built.exists():
        raise NoCompiler(f"{name} wrote no library", broken=True)
    # In another process: a truncated library would end this one by SIGBUS.
    python = None if getattr(sys, "frozen", False) else sys.executable
    if python and _run([python, "-I", "-S", "-c", _PROBE, str(built)], built.with_suffix(".log")):
        raise NoCompiler(f"{name} wrote a library that cannot be loaded", broken=True)


def _run(command: list[str], log: Path) -> int | None:
    """Return the exit code of a command; None if it exceeded the time limit and was killed with its children."""
    with open(log, "wb") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
    try:
        return process.wait(TIME_LIMIT)
    except subprocess.TimeoutExpired:
        return None
    finally:
        if process.poll() is None:
            if hasattr(os, "killpg"):
                os.killpg(process.pid, signal.SIGKILL)
            process.kill()
            process.wait()


@cache
def _cpu() -> str:
    """Return the processor's model and features, so that a shared home folder serves no library to another processor."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.node()
    return "".join(sorted({line for line in text.splitlines() if line.startswith(("model name", "flags", "Features"))}))


def _libc() -> str:
    """Return the C library's version; a shared home folder may also be used on an older system."""
    try:
        return os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (AttributeError, ValueError, OSError):
        return ""
