"""The pace of promotion: bits of the machine code that ptxas leaves no way to set.

Promotion reads three registers an FFMA: a partial sum, an accumulator and a scale. Meanwhile the other warpgroup's wgmmas read
and write accumulators in the same register file, and FFMAs that come too fast take bandwidth from the Tensor Core. ptxas keeps
the scale in the operand cache for every second FFMA and lets other warps issue in between. Faster is to keep it for all of
them, without yielding, and to issue one in four a clock later: 2.1 to 2.4 % of a GEMM's time at 4096 tokens on an H200
(step `pace` of kernels/records/steps-h200.json).

An instruction of sm_90 has 128 bits, here two words of 64. The fields used were read off nvdisasm's output, and are those of
Volta (Jia et al., arXiv 1804.06826, 2.1): bits 41 to 44 of the upper word are the clocks until the warp's next instruction, bit
45 is clear where another warp should issue next, and bit 59 keeps the second operand cached for the next instruction. They are
hints and delays: results do not depend on them as long as no delay gets shorter.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

FFMA = 0x223
"""Opcode, the lowest 12 bits, of an FFMA on registers alone."""
ALWAYS = 0x7
"""Predicate of an instruction that is always executed, bits 12 to 15."""
DELAY = 15 << 41
ONE_CLOCK = 1 << 41
STAY = 1 << 45
KEEP_SECOND = 1 << 59
LATE = 4
"""Every so many FFMAs one is issued a clock later."""


def paced(code: bytes) -> bytes:
    """Return a cubin with another pace in each run of FFMAs that multiply by one register; other code is unchanged."""
    data = bytearray(code)
    for start, end in _texts(code):
        done = 0
        for at in range(start, end - 16, 16):
            (low, high), (following, _) = (struct.unpack_from("<QQ", code, place) for place in (at, at + 16))
            if not (_scales(low) and _scales(following) and _second(low) == _second(following) != _target(low)):
                done = 0
            elif high & DELAY == ONE_CLOCK:
                done += 1
                late = ONE_CLOCK if done % LATE == 0 else 0
                struct.pack_into("<Q", data, at + 8, (high | STAY | KEEP_SECOND) + late)
    return bytes(data)


def _scales(low: int) -> bool:
    return low & 0xFFFF == ALWAYS << 12 | FFMA


def _target(low: int) -> int:
    return low >> 16 & 255


def _second(low: int) -> int:
    return low >> 32 & 255


def _texts(code: bytes) -> Iterator[tuple[int, int]]:
    """Yield first and last offset of each section of machine code of an ELF file (64 bits, little-endian)."""
    (table,) = struct.unpack_from("<Q", code, 0x28)
    size, count, names = struct.unpack_from("<HHH", code, 0x3A)
    sections = [struct.unpack_from("<IIQQQQ", code, table + i * size) for i in range(count)]
    for name, _, _, _, at, length in sections:
        if code.startswith(b".text.", sections[names][4] + name):
            yield at, at + length
