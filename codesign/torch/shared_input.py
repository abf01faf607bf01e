"""The input that several Linears of a module read (Q, K and V; gate and up), cast and packed once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from codesign.torch.arithmetic import Arithmetic
from codesign.torch.quantise import QuantisedOperand


class SharedInput:
    """The input that was cast last, kept during one forward pass of a module.

    The tensor is kept, too, so that no other gets its address; its version counter shows changes in place. Nothing outlives the
    pass: a CUDA graph that is captured later must hold the cast itself.
    Changes past that counter, through `x.data` or a numpy array of its memory, are not seen (docs/models.md).
    """

    def __init__(self) -> None:
        self._inside = False
        self._last: tuple[Any, Tensor, QuantisedOperand] | None = None

    def cast(self, arithmetic: Arithmetic, x: Tensor) -> QuantisedOperand:
        """Return a matrix as `arithmetic` casts an activation; the kept result if the matrix is the last one, unchanged."""
        if not self._inside or torch.compiler.is_compiling() or x.is_inference():
            return arithmetic.activation(x)
        key = (id(arithmetic), x.data_ptr(), x._version, x.shape, x.stride(), x.dtype)
        last = self._last  # another thread may write it meanwhile
        if last is None or last[0] != key:
            last = self._last = key, x, arithmetic.activation(x).reusable()
        return last[2]

    def watch(self, module: nn.Module) -> Callable[[], None]:
        """Keep inputs during the forward passes of a module; return a function that ends this."""
        hooks = [
            module.register_forward_pre_hook(lambda *_: self._begin(True)),
            module.register_forward_hook(lambda *_: self._begin(False), always_call=True),
        ]

        def undo() -> None:
            for hook in hooks:
                hook.remove()

        return undo

    def _begin(self, inside: bool) -> None:
        self._inside, self._last = inside, None
