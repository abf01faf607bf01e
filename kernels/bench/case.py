"""A case of the bench: an implementation of a kernel at a shape, and how to prepare, launch and check it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

Variant = Literal["ours", "twin", "peer"]


class WrongOutput(Exception):
    """The output of a kernel is wrong; the message says by how much."""


@dataclass(frozen=True)
class Case:
    """An implementation of a kernel at a shape. Raises ValueError if a twin has a check or another variant has none."""

    kernel: str
    """Computation, for instance `gemm.fprop`; implementations of one kernel and shape are compared."""
    implementation: str
    """Implementation, for instance `ours`, `deep_gemm`, or `no-promotion` for a twin."""
    variant: Variant
    """Kind of implementation. `twin` is our kernel without its emulation work: its output is wrong by design."""
    shape: Mapping[str, int]
    """Sizes by name, for instance m, n, k."""
    flops: int
    """Floating-point operations: 2 m n k for a GEMM, 0 where only bytes count."""
    least_bytes: int
    """Memory traffic if every operand is read once and every output written once, bytes."""
    prepare: Callable[[Any], Any]
    """Function that makes one set of operands and outputs from a torch.Generator, on its GPU. Outputs start as NaN."""
    launch: Callable[[Any], None]
    """Function that enqueues the kernel for a set on torch's current stream; must allow capture in a CUDA graph."""
    check: Callable[[Any], float] | None = None
    """Function that returns the error of a launched set; raises WrongOutput above the error that the kernel promises."""
    notes: str = ""
    """Formats, scales and accumulation, in a short phrase."""
    static: str = ""
    """Name of the machine code in the static evidence."""

    def __post_init__(self) -> None:
        if (self.variant == "twin") != (self.check is None):
            raise ValueError(
                f"{self.name}: a twin is wrong by design and must have no check; every other variant needs one"
            )

    @property
    def name(self) -> str:
        """Kernel, implementation and shape, for messages."""
        return f"{self.kernel} {self.implementation} {'x'.join(map(str, self.shape.values()))}"


def relative_error(got: Any, reference: Any, at_most: float) -> float:
    """Return the relative Frobenius error of `got` against `reference`, torch tensors of one shape, the reference in float64.

    Raises WrongOutput above `at_most` and for outputs that are not finite, for instance never written.
    """
    error = float((got.double() - reference).norm() / reference.norm())
    if not error <= at_most:
        raise WrongOutput(f"relative Frobenius error {error:.3g}, at most {at_most:.3g} allowed")
    return error
