"""The GEMM shapes that are measured: the Linears of DeepSeek-V3 at three numbers of tokens."""

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
"""(n output, k input features) by name, as in codesign/workloads/models.yaml; a test holds the two equal."""

TOKENS = (64, 128, 4096)


class Gemm(NamedTuple):
    """D (m, n) = A (m, k) B (n, k)^T, for m tokens, n output features and k input features."""

    m: int
    n: int
    k: int

    @property
    def flops(self) -> int:
        return 2 * self.m * self.n * self.k

    @property
    def dgrad(self) -> Gemm:
        """dX (m, k) = dY (m, n) W (n, k): sums over n."""
        return Gemm(self.m, self.k, self.n)

    @property
    def wgrad(self) -> Gemm:
        """dW (n, k) = dY^T (n, m) X (m, k): sums over tokens."""
        return Gemm(self.n, self.k, self.m)


def deepseek_v3(tokens: Sequence[int] = TOKENS) -> tuple[Gemm, ...]:
    """Forward GEMMs of DeepSeek-V3."""
    return tuple(Gemm(m, n, k) for m in tokens for n, k in DEEPSEEK_V3.values())


def parse(text: str) -> tuple[Gemm, ...]:
    """Shapes from `deepseek-v3` or from `MxNxK`, separated by commas. Raises InputError for anything else."""
    shapes: list[Gemm] = []
    for part in text.split(","):
        if part == "deepseek-v3":
            shapes += deepseek_v3()
        elif match := re.fullmatch(r"([1-9]\d*)x([1-9]\d*)x([1-9]\d*)", part):
            shapes.append(Gemm(*map(int, match.groups())))
        else:
            raise InputError.of(f"`{part}` is no shape", "for instance deepseek-v3, or 4096x7168x2048 (m x n x k)")
    return tuple(dict.fromkeys(shapes))
