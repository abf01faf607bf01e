"""A user's own kernel as a box: a `.cu` or `.c` file with one function, compiled by nvcc or the C compiler, and loaded."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from codesign.probe.box import Lines, Signature
from isa_model.array_codec import code_dtype
from isa_model.diagnostics import InputError
from isa_model.engines.c_library import NoCompiler, compiler
from isa_model.float64 import Codes

FUNCTION = (
    'extern "C" int run(long lines, long k, const void *a, const void *b, const void *c, const void *scale_a, '
    "const void *scale_b, void *d)"
)
"""What the file defines. Pointers are to the host's memory: codes of A and B (lines, k), of C and D (lines), of scales (lines,
groups) or null, each in the smallest unsigned integer that holds it. It launches what it likes, and returns 0."""
TIME_LIMIT = 600
"""Seconds that a compiler may take."""


@dataclass
class CompiledBox:
    """A compiled function from codes to codes, line by line."""

    signature: Signature
    name: str
    """File it comes from, for messages."""
    function: Any

    def ask(self, lines: Lines) -> Codes:
        """Return what the function writes to D. Raises InputError if it returns another number than 0."""
        given = [None if x is None else np.ascontiguousarray(x) for x in (*lines[:3], lines.scale_a, lines.scale_b)]
        d = np.zeros(lines.c.shape, code_dtype(self.signature.spec.accumulator))
        sizes = [ctypes.c_long(x) for x in lines.a.shape]
        code = self.function(*sizes, *(_pointer(x) for x in given), _pointer(d))
        if code:
            raise InputError.of(f"`run` of {self.name} returned {code}", "0 once D is written")
        return d


def _pointer(x: Codes | None) -> ctypes.c_void_p:
    return ctypes.c_void_p(None if x is None else x.ctypes.data)


def open_compiled(path: str, signature: Signature) -> CompiledBox:
    """Compile a file and return its function as a box.

    Raises InputError without the file or a compiler, for what does not compile, and for a file without the function.
    """
    source = Path(path)
    if not source.is_file():
        raise InputError.of(f"{path} is no file", "cu:PATH of a .cu or .c file")
    command = _compiler(source)
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "box.so"
        try:
            done = subprocess.run(
                [*command, "-o", str(library), str(source.resolve())],
                capture_output=True,
                timeout=TIME_LIMIT,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise InputError.of(f"{command[0]} took more than {TIME_LIMIT} s for {path}") from None
        if done.returncode:
            said = (done.stderr + done.stdout).decode(errors="replace").strip()[:500]
            raise InputError.of(f"{path} does not compile: {said}")
        try:
            function = ctypes.CDLL(str(library)).run
        except (OSError, AttributeError) as error:
            raise InputError.of(f"{path} has no function `run`: {error}", FUNCTION) from None
    function.restype = ctypes.c_int
    return CompiledBox(signature, path, function)


def _compiler(source: Path) -> list[str]:
    if source.suffix != ".cu":
        try:
            return [*compiler(), "-O2", "-shared", "-fPIC"]
        except NoCompiler as error:
            raise InputError.of(f"{source} cannot be compiled: {error}") from None
    nvcc = os.environ.get("NVCC") or shutil.which("nvcc")
    if nvcc is None:
        raise InputError.of(f"{source} needs nvcc, which was not found", "the CUDA toolkit's bin on PATH, or NVCC=PATH")
    return [nvcc, "-O2", "-shared", "-Xcompiler", "-fPIC"]
