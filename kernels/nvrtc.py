"""CUDA C++ to machine code for Hopper, by NVRTC (through cuda-core). No GPU is needed."""

from __future__ import annotations

import hashlib
from pathlib import Path

from isa_model.user_cache import kept

OPTIONS = {"arch": "sm_90a", "std": "c++17"}


def cubin(source: str) -> bytes:
    """Return the machine code of `source`. Raises ValueError without cuda-core."""
    try:
        from cuda.core import Program, ProgramOptions
    except ImportError as error:
        raise ValueError("the kernels need the extra `kernels` (torch, cuda-core)") from error
    return bytes(Program(source, "c++", ProgramOptions(**OPTIONS)).compile("cubin").code)


def cached_cubin(source: str) -> bytes:
    """Return the machine code of `source` from the user's cache folder; compile it there first if it is missing."""

    def build(file: Path) -> None:
        file.write_bytes(cubin(source))

    name = hashlib.sha256(f"{OPTIONS}{source}".encode()).hexdigest()[:32]
    with kept(name, ".cubin", build) as file:
        return file.read_bytes()
