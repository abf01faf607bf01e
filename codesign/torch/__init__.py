"""Models of torch whose matrix products are those of an instruction. torch is imported on first use, not with codesign.

import codesign.torch

with codesign.torch.emulate(model, on="group-scaled-mma") as emulation:
    print(emulation)
    logits = model(tokens)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from codesign.torch.emulation import Emulation, emulate

__all__ = ["Emulation", "emulate"]


def __getattr__(name: str) -> Any:
    """Import a public name on first use (PEP 562). Raises Unavailable without torch."""
    if name not in __all__:
        raise AttributeError(f"module `codesign.torch` has no attribute `{name}`")
    from importlib import import_module

    try:
        file = import_module("codesign.torch.emulation")
    except ModuleNotFoundError as error:
        from isa_model.diagnostics import Unavailable

        raise Unavailable(f"emulation needs the package `{error.name}`: pip install 'codesign[kernels]'") from None
    found = getattr(file, name)
    globals()[name] = found
    return found
