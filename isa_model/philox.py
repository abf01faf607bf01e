"""Random bits for stochastic rounding: the counter-based generator Philox4x32-10.

The bits of a rounding depend on the seed and on its place alone, so that a run is reproducible in any order of computation.
Source: Salmon, Moraes, Dror & Shaw, Parallel random numbers: as easy as 1, 2, 3 (SC 2011); Random123, cuRAND and PyTorch have
the same generator.
"""

from __future__ import annotations

from typing import Any

WORD = 0xFFFFFFFF
MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
KEY_STEPS = 0x9E3779B9, 0xBB67AE85
ROUNDS = 10


def philox(seed: int, row: Any, column: Any, block: int, register: int) -> Any:
    """Return the first word, 32 bits, of Philox4x32-10 with key `seed` (64 bits) and counter (row, column, block, register).

    `row` and `column` are whole numbers below 2**32 or arrays of uint64, which broadcast.
    """
    key = [seed & WORD, seed >> 32 & WORD]
    x0, x1, x2, x3 = row, column, block & WORD, register
    for _ in range(ROUNDS):
        p, q = MULTIPLIERS[0] * x0, MULTIPLIERS[1] * x2
        x0, x1, x2, x3 = (q >> 32) ^ x1 ^ key[0], q & WORD, (p >> 32) ^ x3 ^ key[1], p & WORD
        key = [k + step & WORD for k, step in zip(key, KEY_STEPS, strict=True)]
    return x0
