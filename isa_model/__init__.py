"""Bit-exact model of matrix instructions: number formats, the spec language, the golden model and fast engines.

Public is what `__all__` names; import it from here. Files below this package are where it lives, and may move.

- Formats: `FORMATS`, `named`, `Format`, `Rounding`; one code: `decode`, `encode`, `Number`, `number_of`;
  arrays: `decode_array`, `encode_array`, `pack`, `unpack`.
- Instructions: `catalogue`, `load`, `Instruction`, `promoted`.
- Products: `matmul`, `gemm`, `matmul_on_device` (torch tensors on a GPU).
- Quantisation: `Cast`, `quantise`, `Quantised`; casts one after the other: `Step`, `walk`, `Arrived`; `swiglu`.
- Conformance with recorded results or vectors: `conform`, `ConformanceResult`.
- Errors: `InputError` for what a user's file or name gets wrong, `Unavailable` for what this machine lacks. Arguments that
  a function cannot take raise ValueError.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from isa_model.array_codec import decode_array, encode_array, pack, unpack
    from isa_model.cast import Cast, Quantised, quantise
    from isa_model.codec import Number, decode, encode, number_of
    from isa_model.conformance import ConformanceResult, conform
    from isa_model.diagnostics import InputError, Unavailable
    from isa_model.engines.gpu import matmul_on_device
    from isa_model.formats import FORMATS, Format, named
    from isa_model.gemm import gemm
    from isa_model.instruction import Instruction
    from isa_model.library import catalogue, load
    from isa_model.matmul import matmul
    from isa_model.path import Arrived, Step, walk
    from isa_model.promotion import promoted
    from isa_model.rounding import Rounding
    from isa_model.swiglu import swiglu

__version__ = "0.1.0"
__all__ = [
    "FORMATS",
    "Arrived",
    "Cast",
    "ConformanceResult",
    "Format",
    "InputError",
    "Instruction",
    "Number",
    "Quantised",
    "Rounding",
    "Step",
    "Unavailable",
    "catalogue",
    "conform",
    "decode",
    "decode_array",
    "encode",
    "encode_array",
    "gemm",
    "load",
    "matmul",
    "matmul_on_device",
    "named",
    "number_of",
    "pack",
    "promoted",
    "quantise",
    "swiglu",
    "unpack",
    "walk",
]

_FILES = {
    "array_codec": ("decode_array", "encode_array", "pack", "unpack"),
    "cast": ("Cast", "Quantised", "quantise"),
    "codec": ("Number", "decode", "encode", "number_of"),
    "conformance": ("ConformanceResult", "conform"),
    "diagnostics": ("InputError", "Unavailable"),
    "engines.gpu": ("matmul_on_device",),
    "formats": ("FORMATS", "Format", "named"),
    "gemm": ("gemm",),
    "instruction": ("Instruction",),
    "library": ("catalogue", "load"),
    "matmul": ("matmul",),
    "path": ("Arrived", "Step", "walk"),
    "promotion": ("promoted",),
    "rounding": ("Rounding",),
    "swiglu": ("swiglu",),
}
_HOME = {name: file for file, names in _FILES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import a public name on first use, so that reading a spec does not wait for what computes it (PEP 562)."""
    from importlib import import_module

    if name not in _HOME:
        raise AttributeError(f"module `isa_model` has no attribute `{name}`")
    value = getattr(import_module(f"isa_model.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]


class _Package(ModuleType):
    def __setattr__(self, name: str, value: Any) -> None:
        """Keep `isa_model.matmul` the function: importing the file matmul.py would put the module in its place."""
        is_file = isinstance(value, ModuleType) and name in _HOME
        super().__setattr__(name, getattr(value, name) if is_file else value)


sys.modules[__name__].__class__ = _Package
