"""Kernels that compute on today's Hopper GPUs what proposals ask hardware for, and records of their runs.

Entry points; all run on torch's current CUDA device and stream, and raise ValueError for operands they cannot take:

- `kernels.gemm`: FP8 GEMMs with FP32 accumulation, `gemm`, `wgrad`, `native` and `grouped`.
- `kernels.quantise`: casts to FP8 with scales of groups, `rows`, `columns`, `both`, `blocks` and others.
- `kernels.native`: `matmul`, one instruction of the chip over whole matrices of codes.

They need the extra `kernels` and a Hopper GPU. `codesign bench` measures them; `kernels.bench` explains how. Importing this
package also registers the engine `native` of `isa_model.matmul`. All other modules are internal.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from isa_model import __version__
from isa_model.matmul import register

if TYPE_CHECKING:
    from kernels import gemm, native, quantise

__all__ = ["__version__", "gemm", "native", "quantise"]


def __getattr__(name: str) -> Any:
    """Import an entry point on first use (PEP 562), so that reading records does not import them all."""
    if name not in __all__:
        raise AttributeError(f"module `kernels` has no attribute `{name}`")
    return import_module(f"kernels.{name}")


def _native(*arguments: Any) -> Any:
    return import_module("kernels.native").engine(*arguments)


register("native", _native)
