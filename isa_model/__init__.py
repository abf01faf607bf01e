"""What a matrix instruction computes, to the bit: formats, the spec language, the golden model and fast engines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from isa_model.diagnostics import InputError
    from isa_model.formats import FORMATS, Format, named
    from isa_model.gemm import gemm
    from isa_model.instruction import Instruction
    from isa_model.library import catalogue, load
    from isa_model.matmul import matmul
    from isa_model.promotion import promoted
    from isa_model.rounding import Rounding

_HOME = {
    "FORMATS": "formats",
    "Format": "formats",
    "InputError": "diagnostics",
    "Instruction": "instruction",
    "Rounding": "rounding",
    "catalogue": "library",
    "gemm": "whole",
    "load": "library",
    "matmul": "product",
    "named": "formats",
    "promoted": "promotion",
}

__all__ = [
    "FORMATS",
    "Format",
    "InputError",
    "Instruction",
    "Rounding",
    "catalogue",
    "gemm",
    "load",
    "matmul",
    "named",
    "promoted",
]


def __getattr__(name: str) -> Any:
    """Import on first use, so that reading a spec does not wait for what computes it (PEP 562)."""
    from importlib import import_module

    if name not in _HOME:
        raise AttributeError(f"module `isa_model` has no attribute `{name}`")
    value = getattr(import_module(f"isa_model.{_HOME[name]}"), name)
    globals()[name] = value
    return value
