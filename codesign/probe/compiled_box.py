"""A user's own kernel as a box: a `.cu` or `.c` file with one function, compiled by nvcc or the C compiler, and loaded."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from codesign.probe.box import Lines, Signature
from codesign.probe.program import ended, run_program
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

WORKER = """
import ctypes, os, sys
library, result, lines, k, size, *lengths = sys.argv[1:]
questions = os.fdopen(os.dup(0), "rb")
given = [None if n == "none" else questions.read(int(n)) for n in lengths]
d = ctypes.create_string_buffer(int(lines) * int(size))
function = getattr(ctypes.CDLL(library), "run", None)
code = function(ctypes.c_long(int(lines)), ctypes.c_long(int(k)), *map(ctypes.c_char_p, given), d) if function else None
if code == 0:
    with open(result, "wb") as file:
        file.write(d.raw)
print(code, file=open(result + ".code", "w"))
"""
"""Program that calls the function once, in a process of its own: what crashes there, or ends it, does not end the probe."""


@dataclass
class CompiledBox:
    """A compiled function from codes to codes, line by line."""

    signature: Signature
    name: str
    """File it comes from, for messages."""
    library: bytes
    """Compiled library with the function `run`."""

    def ask(self, lines: Lines) -> Codes:
        """Return what the function writes to D.

        Raises InputError if it is missing, crashes, takes too long or returns another number than 0.
        """
        parts = [None if x is None else np.ascontiguousarray(x) for x in (*lines[:3], lines.scale_a, lines.scale_b)]
        dtype = code_dtype(self.signature.spec.accumulator)
        sizes = [*lines.a.shape, dtype.itemsize, *("none" if x is None else x.nbytes for x in parts)]
        with tempfile.TemporaryDirectory() as folder:
            library, result = Path(folder) / "box.so", Path(folder) / "d"
            library.write_bytes(self.library)
            command = [sys.executable, "-I", "-S", "-c", WORKER, str(library), str(result), *map(str, sizes)]
            given = b"".join(x.tobytes() for x in parts if x is not None)
            status, said = run_program(f"`run` of {self.name}", command, given)
            code = result.with_suffix(".code")
            if not code.exists():
                how = f"`run` of {self.name} ended its process with {ended(status)}"
                raise InputError.of(f"{how}: {said[-300:]}" if said else how)
            returned = code.read_text().strip()
            if returned == "None":
                raise InputError.of(f"{self.name} has no function `run`", FUNCTION)
            if returned != "0":
                raise InputError.of(f"`run` of {self.name} returned {returned}", "0 once D is written")
            return np.frombuffer(result.read_bytes(), dtype).copy()


def open_compiled(path: str, signature: Signature) -> CompiledBox:
    """Compile a file and return its function as a box.

    Raises InputError without the file or a compiler, and for what does not compile.
    """
    source = Path(path)
    if not source.is_file():
        raise InputError.of(f"{path} is no file", "cu:PATH of a .cu or .c file")
    command = _compiler(source)
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "box.so"
        compile_it = [*command, "-o", str(library), str(source.resolve())]
        code, said = run_program(f"{command[0]}, the compiler of {path},", compile_it)
        if code or not library.exists():
            raise InputError.of(f"{path} does not compile: {said[:500] or f'{command[0]} ended with {ended(code)}'}")
        return CompiledBox(signature, path, library.read_bytes())


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
