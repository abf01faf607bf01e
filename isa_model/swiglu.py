"""SwiGLU in FP32 with every operation fixed, so that a kernel that fuses it with quantisation can match it to the bit.

Libraries differ in their exponential. Here it is a polynomial in fused multiply-adds, which any IEEE 754 machine can
repeat. The relative error of silu(g) is under 5e-7 for g >= -10 and under 1.5e-6 for g >= -87. Below -87, where silu(g) is
under 1e-36 in magnitude, the exponential is that of 87 and the result is g e^-87.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from isa_model.arguments import fp32_of
from isa_model.float64 import to_odd
from isa_model.ieee import in_ieee_mode

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

LOG2_E = "0x1.715476p+0"
"""Base-2 logarithm of e, rounded to FP32."""
POWER = ("0x1.5bba74p-10", "0x1.3cea8ap-7", "0x1.c6b752p-5", "0x1.ebf9bcp-3", "0x1.62e42ap-1", "0x1p+0")
"""Coefficients of 2**f for f in [-1/2, 1/2], highest power first: minimax of the relative error (9.2e-8) with constant 1."""


@in_ieee_mode
def swiglu(gate: ArrayLike, up: ArrayLike) -> NDArray[np.float32]:
    """Return silu(gate) * up in FP32. `gate` and `up` are of one shape, and are rounded to FP32 first (BF16 is exact).

    Raises ValueError for arrays of different shapes, and for elements that are not real numbers.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        g, u = (fp32_of(name, x) for name, x in (("gate", gate), ("up", up)))
        if g.shape != u.shape:
            raise ValueError(f"gate is {g.shape} and up is {u.shape}; expected one shape")
        product: NDArray[np.float32] = silu(g) * u
    return product


@in_ieee_mode
def silu(gate: ArrayLike) -> NDArray[np.float32]:
    """Return g * (1 / (1 + 2**(-g log2 e))); each operation and fused multiply-add is rounded to FP32, nearest even.

    The last bit of the denominator is cleared so that hardware need not divide: for a significand that is not all ones,
    one Newton step from an estimate within an ulp gives the correctly rounded reciprocal (Markstein 1990).
    """
    one, big = np.float32(1), np.float32(1.5 * 2**23)  # adding `big` rounds to an integer
    log2_e = np.float32(float.fromhex(LOG2_E))
    with np.errstate(invalid="ignore"):
        g = fp32_of("gate", gate)
        a = np.clip(-g, np.float32(-87), np.float32(87))
        n = fma(a, log2_e, big) - big
        f = fma(a, log2_e, -n)
        power = np.full(g.shape, np.float32(float.fromhex(POWER[0])))
        for coefficient in POWER[1:]:
            power = fma(power, f, np.float32(float.fromhex(coefficient)))
        exponential = np.ldexp(power, np.nan_to_num(n).astype(np.int32))
        denominator = (np.ascontiguousarray(one + exponential).view(np.uint32) & ~np.uint32(1)).view(np.float32)
        result: NDArray[np.float32] = g * (one / denominator.reshape(g.shape))
    return result


def fma(x: NDArray[np.float32], y: Any, z: Any) -> NDArray[np.float32]:
    """Return x * y + z rounded once to FP32; the product is exact in float64, and the sum rounded to odd there."""
    wide = np.broadcast_arrays(*(np.asarray(v, np.float64) for v in (x, y, z)))
    result: NDArray[np.float32] = to_odd([wide[0] * wide[1], wide[2]]).astype(np.float32)
    return result
