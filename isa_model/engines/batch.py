"""Many small products of one shape at once, by the portable engine."""

from __future__ import annotations

import numpy as np

from isa_model.array_codec import code_dtype
from isa_model.engines.operands import DecodedOperand, decode, read
from isa_model.engines.plan import Plan, Unsupported
from isa_model.engines.portable import OperandTile
from isa_model.float64 import Codes
from isa_model.instruction import Instruction


def batch(spec: Instruction, a: Codes, b: Codes, scale_a: Codes | None = None, scale_b: Codes | None = None) -> Codes:
    """Return D as codes (S, M, N) of S products of one shape with C = 0, from codes: `a` (S, M, K), `b` (S, K, N).

    Scales are one per line and group of K: `scale_a` (S, M, groups), `scale_b` (S, groups, N). Small products take much less
    time together than one by one, and none to compile. Raises plan.Unsupported as `matmul` does, for random bits, sparse
    operands and several levels of scales; ValueError for arrays of other shapes, or of no whole numbers.
    """
    if (
        a.ndim != 3
        or b.ndim != 3
        or a.shape[::2] != b.shape[:2]
        or not a.shape[2]
        or {a.dtype.kind, b.dtype.kind} - {*"iu"}
    ):
        raise ValueError(f"a is {a.dtype} {a.shape}, b is {b.dtype} {b.shape}; expected codes (S, M, K) and (S, K, N)")
    if spec.is_stochastic or spec.sparsity or any(scale.coarser for scale in spec.scales):
        raise Unsupported("random bits, positions and several levels of scales are those of one product")
    plan, c = Plan(spec.per_line()), np.zeros((*a.shape[:2], b.shape[2]))
    if not c.size:
        return c.astype(code_dtype(spec.accumulator))

    def side(is_a: bool, x: Codes, scales: Codes | None) -> DecodedOperand:
        """Return an operand (K, S, M, 1) or (K, S, 1, N) from arrays (lines, K) of all products."""
        codes, of_groups = (None if y is None else y.reshape(-1, y.shape[2]).T for y in (x, scales))
        made = decode(plan, is_a, codes, of_groups, plan.lane)
        shape = (*x.shape[:2], 1) if is_a else (len(x), 1, x.shape[1])
        arrays = (made.values, made.exponents, made.scales, made.scale_exponents)
        return DecodedOperand(*(None if y is None else y.reshape(len(y), *shape) for y in arrays))

    turned = None if scale_b is None else scale_b.swapaxes(1, 2)
    side_a, side_b = side(True, a, scale_a), side(False, b.swapaxes(1, 2), turned)
    with np.errstate(all="ignore"):
        return OperandTile(plan, side_a, side_b, read(spec.c_format, c.astype(code_dtype(spec.c_format)), False)).d()
