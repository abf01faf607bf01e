"""Judges hardware proposals: load a proposal, evaluate it, compare results; and the numerics of formats and instructions.

import codesign

result = codesign.evaluate("group-scaled-mma")
print(result.headline)
result.to_frame()

- Proposals: `load`, `validate`. Results: `evaluate`, `read`, `compare`, `diff`, `Evaluation`, `SideBySide`, `Changes`.
- Arrays of numpy, ml_dtypes and torch: `encode`, `decode`, `quantise`, `dequantise`, `matmul`.
- Errors: `InputError` for what a proposal, file or name gets wrong, `Unavailable` for what this machine lacks. Arrays that a
  function cannot take raise ValueError.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from isa_model import __version__

if TYPE_CHECKING:
    from codesign.api import compare, diff, evaluate, load, read, validate
    from codesign.arrays import decode, dequantise, encode, matmul, quantise
    from codesign.evaluation import Changes, Evaluation, SideBySide
    from isa_model.diagnostics import InputError, Unavailable

__all__ = [
    "Changes",
    "Evaluation",
    "InputError",
    "SideBySide",
    "Unavailable",
    "__version__",
    "compare",
    "decode",
    "dequantise",
    "diff",
    "encode",
    "evaluate",
    "load",
    "matmul",
    "quantise",
    "read",
    "validate",
]

_FILES = {
    "codesign.api": ("compare", "diff", "evaluate", "load", "read", "validate"),
    "codesign.arrays": ("decode", "dequantise", "encode", "matmul", "quantise"),
    "codesign.evaluation": ("Changes", "Evaluation", "SideBySide"),
    "isa_model.diagnostics": ("InputError", "Unavailable"),
}
_HOME = {name: file for file, names in _FILES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import a public name on first use, so that a command does not wait for what it does not need (PEP 562)."""
    from importlib import import_module

    if name not in _HOME:
        raise AttributeError(f"module `codesign` has no attribute `{name}`")
    value = globals()[name] = getattr(import_module(_HOME[name]), name)
    return value


def __dir__() -> list[str]:
    return list(__all__)
