"""The GEMM shapes on the bench: the linear layers of DeepSeek-V3 at three numbers of tokens."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from isa_model.diagnostics import InputError

DEEPSEEK_V3 = {
    "qkv-a": (2112, 7168),
    "q-b": (24576, 1536),
    "kv-b": (32768, 512),
    "o": (7168, 16384),
    "gate-up": (4096, 7168),
    "down": (7168, 2048),
}
"""Output and input features (n, k) by name, as in codesign/workloads/models.yaml; a test compares the two."""

TOKENS = (64, 128, 4096)
"""Numbers of tokens, the rows m, that are measured."""


class BenchGemm(NamedTuple):
    """A GEMM D (m, n) = A (m, k) B (n, k)^T, with m tokens, n output and k input features."""

    m: int
    n: int
    k: int

    @property
    def flops(self) -> int:
        """Floating-point operations."""
        return 2 * self.m * self.n * self.k

    @property
    def dgrad(self) -> BenchGemm:
        """GEMM of the input gradient, dX (m, k) = dY (m, n) W (n, k); its sums run over n."""
        return BenchGemm(self.m, self.k, self.n)

    @property
    def wgrad(self) -> BenchGemm:
        """GEMM of the weight gradient, dW (n, k) = dY^T (n, m) X (m, k); its sums run over tokens."""
        return BenchGemm(self.n, self.k, self.m)


def deepseek_v3(tokens: Sequence[int] = TOKENS) -> tuple[BenchGemm, ...]:
    """Return the forward GEMMs of DeepSeek-V3 at each number of tokens."""
    return tuple(BenchGemm(m, n, k) for m in tokens for n, k in DEEPSEEK_V3.values())


def parse(text: str) -> tuple[BenchGemm, ...]:
    """Return the shapes of a text: `deepseek-v3` and `MxNxK`, separated by commas. Raises InputError for anything else."""
    shapes: list[BenchGemm] = []
    for part in text.split(","):
        if part == "deepseek-v3":
            shapes += deepseek_v3()
        elif match := re.fullmatch(r"([1-9]\d*)x([1-9]\d*)x([1-9]\d*)", part):
            shapes.append(BenchGemm(*map(int, match.groups())))
        else:
            raise InputError.of(f"`{part}` is not a shape", "for instance deepseek-v3, or 4096x7168x2048 (m x n x k)")
    return tuple(dict.fromkeys(shapes))
