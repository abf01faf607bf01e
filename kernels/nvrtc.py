"""CUDA C++ to machine code for Hopper, by NVRTC (through cuda-core). No GPU is needed."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TextIO

from isa_model.user_cache import kept

OPTIONS = {"arch": "sm_90a", "std": "c++17"}


def cubin(source: str, log: TextIO | None = None) -> bytes:
    """Return the machine code of `source`. `log` receives what ptxas says of registers and spills.

    Raises ValueError without cuda-core.
    """
    try:
        from cuda.core import Program, ProgramOptions
    except ImportError as error:
        raise ValueError("the kernels need the extra `kernels` (torch, cuda-core)") from error
    options = ProgramOptions(**OPTIONS, ptxas_options="-v" if log else None)
    return bytes(Program(source, "c++", options).compile("cubin", logs=log).code)


def cached_cubin(source: str) -> bytes:
    """Return the machine code of `source` from the user's cache folder; compile it there first if it is missing."""

    def build(file: Path) -> None:
        file.write_bytes(cubin(source))

    name = hashlib.sha256(f"{OPTIONS}{source}".encode()).hexdigest()[:32]
    with kept(name, ".cubin", build) as file:
        return file.read_bytes()
