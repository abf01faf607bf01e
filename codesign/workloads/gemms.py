"""The GEMMs of a model by pass: which operand is what, and how long its sums are.

A Linear with weight W, input X (m tokens) and output gradient dY runs three GEMMs in training:

    fprop  Y  (m, n) = X (m, k)    W (k, n)
    dgrad  dX (m, k) = dY (m, n)   W^T (n, k)
    wgrad  dW (n, k) = dY^T (n, m) X (m, k)

In each the sums run along the inner dimension; along it the groups of both operands lie.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from isa_model.diagnostics import InputError, read_yaml, suggest

Role = Literal["activation", "weight", "gradient"]

PASSES: dict[str, tuple[Role, Role]] = {
    "fprop": ("activation", "weight"),
    "dgrad": ("gradient", "weight"),
    "wgrad": ("gradient", "activation"),
}


@dataclass(frozen=True)
class Gemm:
    """D (m, n) = A (m, k) B (k, n): one GEMM of a model, with what its operands are."""

    name: str
    m: int
    n: int
    k: int
    a: Role
    b: Role
    tokens_along_k: bool
    """In wgrad the sums run over tokens, elsewhere over features."""
    description: str


@cache
def _models() -> dict[str, Any]:
    models: dict[str, Any] = read_yaml(Path(__file__).with_name("models.yaml")).data["models"]
    return models


@cache
def gemms() -> dict[str, Gemm]:
    """Every GEMM by name, `model.pass.gemm`."""
    result = {}
    for model, about in _models().items():
        tokens = about["tokens"]
        for step, (a, b) in PASSES.items():
            for name, gemm in about["gemms"].items():
                out, inner = gemm["n"], gemm["k"]
                m, n, k = {
                    "fprop": (tokens, out, inner),
                    "dgrad": (tokens, inner, out),
                    "wgrad": (out, inner, tokens),
                }[step]
                full = f"{model}.{step}.{name}"
                result[full] = Gemm(full, m, n, k, a, b, step == "wgrad", gemm["is"])
    return result


def workloads() -> list[str]:
    """Names a proposal can use: a model, a pass of it, or one GEMM of that."""
    names: dict[str, None] = {}
    for name in gemms():
        parts = name.split(".")
        names |= dict.fromkeys(".".join(parts[:i]) for i in range(1, len(parts) + 1))
    return list(names)


def select(workload: str) -> list[Gemm]:
    """The GEMMs a workload name stands for. Raises InputError for an unknown one."""
    chosen = [g for name, g in gemms().items() if name == workload or name.startswith(f"{workload}.")]
    if not chosen:
        raise InputError.of(f"unknown workload `{workload}`", suggest(workload, workloads()) or "see `codesign list`")
    return chosen


def model_source(workload: str) -> str:
    """Where the shapes of a workload's model come from."""
    return str(_models()[workload.split(".")[0]]["source"])
