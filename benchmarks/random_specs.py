"""Random instructions of the language, drawn independently, for blind probes (benchmarks/probe.py).

tests/strategies.py draws what is hard for engines, each much like the one before. Here every field is drawn afresh from values
that hardware might have.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from pydantic import ValidationError

from isa_model.instruction import Instruction

OPERANDS = ["fp16", "bf16", "tf32", "e4m3", "e5m2", "e2m1", "e3m2", "e2m3", "e4m3fnuz", "fp32"]
ROUNDINGS = ["nearest-even", "toward-zero", "nearest-away", "up", "down", "to-odd"]
MOST_PRODUCTS = 128


def random_specs(count: int, seed: int = 20) -> list[Instruction]:
    """Return instructions of one to three stages: orders, windows, roundings, registers, chains and scales at random."""
    rng = np.random.default_rng(seed)
    found: list[Instruction] = []
    while len(found) < count:
        try:
            spec = Instruction.model_validate(_data(rng))
        except ValidationError:
            continue
        if spec.shape.k <= MOST_PRODUCTS:
            found.append(spec)
    return found


def _data(rng: np.random.Generator) -> dict[str, Any]:
    def chance(p: float) -> bool:
        return bool(rng.random() < p)

    def one(values: list[Any], p: list[float] | None = None) -> Any:
        return values[int(rng.choice(len(values), p=p))]

    def rounding() -> str:
        return str(one(ROUNDINGS, [0.3, 0.3, 0.1, 0.1, 0.1, 0.1]))

    def register(formats: list[str]) -> dict[str, Any]:
        fields = {"format": one(formats), "rounding": rounding()}
        if chance(0.3):
            fields["overflow"] = one(["saturate", "infinity"])
        return fields | ({"subnormals": "flush"} if chance(0.15) else {})

    wide = [f"e8m{bits}" for bits in range(6, 31)]
    accumulator = one(["fp32", "fp16", "bf16"], [0.7, 0.15, 0.15])
    kept = {
        "fp32": ["fp32", "fp32", "fp16", "bf16", *wide[:17]],
        "fp16": ["fp16", "fp16", *(f"e5m{bits}" for bits in range(4, 10))],
        "bf16": ["bf16", "bf16", "e8m5", "e8m6"],
    }[accumulator]
    a = one(OPERANDS)
    b = one(OPERANDS) if chance(0.3) else a
    depth = one([1, 2, 3], [0.3, 0.4, 0.3])
    stages: dict[str, Any] = {}
    span, parts = 1, 1
    for i in range(depth):
        last = i == depth - 1
        stage: dict[str, Any] = {"terms": one([1, 2, 4, 8, 16], [0.25, 0.25, 0.2, 0.2, 0.1])}
        if last or chance(0.4):
            stage["accumulator"] = True
        if not last and "accumulator" in stage:
            stage["chain"] = one([1, 2, 3, 4], [0.1, 0.4, 0.2, 0.3])
        if i == 0 and stage["terms"] > 1 and chance(0.3):
            stage["interleave"] = {"run": one([1, stage["terms"] // 2]), "parts": 2}
            parts = 2
        if chance(0.5):
            stage["fraction_bits"] = int(rng.integers(6, 37))
            stage["rounding"] = rounding()
            if chance(0.5):
                stage["zero_exponent"] = int(one([-133, -132, -126, -21, -20, -14, int(rng.integers(-160, 10))]))
            if "accumulator" in stage and chance(0.25):
                own = {"fraction_bits": int(rng.integers(6, 37))} if chance(0.7) else {}
                own |= {"drop_beyond": int(rng.integers(10, 40))} if chance(0.3) or not own else {}
                stage["accumulator"] = own
        if last:
            before = [register(["e8m26", "e8m28", "e8m30", "fp32"])] if chance(0.2) else []
            stage["result"] = [*before, register(kept)]
        elif "chain" in stage or chance(0.45):
            stage["result"] = register(["fp32", "fp32", "fp16", "bf16", *wide])
        elif chance(0.1):
            stage["exponent"] = int(rng.integers(-4, 8))
        if chance(0.5):
            stage["zero"] = "ieee"
        stages[f"s{i}"] = stage
        span *= stage["terms"] * stage.get("chain", 1)
    k = span * parts * one([1, 2], [0.7, 0.3])
    data: dict[str, Any] = {
        "shape": {"m": 4, "n": 4, "k": k},
        "a": a,
        "b": b,
        "accumulator": accumulator,
        "stages": stages,
    }
    if chance(0.25):
        fmt, group = one(["ue8m0", "ue4m3", "fp32"]), one([k, k, max(1, k // 2)])
        sides = one(["a", "b", "ab", "ab"])
        scale: dict[str, Any] = {"onto": one(["products", *list(stages)[:-1]])}
        if "a" in sides:
            scale["a"] = {"group": [1, group], "format": fmt}
        if "b" in sides:
            scale["b"] = {"group": [group, 1], "format": fmt}
        if chance(0.2):
            scale["result"] = {"format": "fp32", "rounding": "nearest-even"}
        data["scale"] = scale
    if chance(0.15):
        data["widen"] = one(["fp16", "fp32"])
    if chance(0.15):
        data["flush_inputs"] = one([True, "keep-sign"])
    if chance(0.05):
        data["infinite_from"] = 128
    if accumulator == "fp32" and chance(0.5):
        data["nan"] = 0x7FFFFFFF
    return data
