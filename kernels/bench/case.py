"""One thing to measure: an implementation of a kernel at a shape, with how to prepare, launch and check it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

Variant = Literal["ours", "twin", "peer"]


class Wrong(Exception):
    """A kernel's output is not what it must be; the message says by how much."""


@dataclass(frozen=True)
class Case:
    """An implementation of a kernel at a shape.

    Raises ValueError if a twin has a check or another variant has none.
    """

    kernel: str
    """What is computed, for instance `gemm.fprop`; implementations of one kernel and shape are compared."""
    implementation: str
    """Who computes it, for instance `ours`, `ours-triton`, `no-promotion` (of a twin), `deep_gemm`."""
    variant: Variant
    """`twin`: the kernel without its emulation work; its output is wrong by design and never checked."""
    shape: Mapping[str, int]
    """Sizes by name, for instance m, n, k."""
    flops: int
    """Floating-point operations that must be done: 2 m n k for a GEMM; 0 where only bytes count."""
    least_bytes: int
    """Bytes through memory if every operand is read once and every output written once."""
    prepare: Callable[[Any], Any]
    """One set of operands and outputs on the GPU from a torch.Generator of that GPU. Outputs start as NaN."""
    launch: Callable[[Any], None]
    """Enqueue the kernel on such a set, on torch's current stream; may be captured in a CUDA graph."""
    check: Callable[[Any], float] | None = None
    """Error figure of a launched set against its reference. Raises Wrong where it is beyond what the kernel promises."""
    notes: str = ""
    """Formats, scales and accumulation, in a few words."""
    static: str = ""
    """Name of its machine code in the static evidence."""

    def __post_init__(self) -> None:
        if (self.variant == "twin") != (self.check is None):
            raise ValueError(f"{self.name}: a twin is wrong by design and has no check; everything else needs one")

    @property
    def name(self) -> str:
        """Kernel, implementation and shape in one line."""
        return f"{self.kernel} {self.implementation} {'x'.join(map(str, self.shape.values()))}"


def relative_error(got: Any, reference: Any, at_most: float) -> float:
    """Frobenius norm of the error over that of the reference, both torch tensors of one shape; the reference in float64.

    Raises Wrong above `at_most`, and where an output is not finite (never written, say).
    """
    error = float((got.double() - reference).norm() / reference.norm())
    if not error <= at_most:
        raise Wrong(f"relative Frobenius error {error:.3g}, at most {at_most:.3g} allowed")
    return error
