"""Wire formats of dispatch and combine: the bytes of a row of numbers in transit, encoded and decoded by isa_model.

| name | a row of k numbers, in bytes |
|---|---|
| `bf16` | 2 k |
| `fp8` | k codes of E4M3; k / 128 scales, UE8M0. The row of `kernels.quantise.dispatch` |
| `logfmt8` | k codes of LogFMT-8; k / 128 minima, FP32; k / 128 steps, FP32 |
| `logfmt10` | the low 8 bits of k codes of LogFMT-10; their high 2 bits, four to a byte, the first lowest; minima; steps |

Groups and tiles are 128 numbers of one row, so k is a multiple of 128. A row is padded to a multiple of 16 bytes;
the padding has no meaning. Minima and steps are base-2 logarithms, rounded to FP32: index i stands for
2^(minimum + step (i - 1)).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from isa_model.logfmt import LogTiles, decode_log, encode_log

if TYPE_CHECKING:
    from numpy.typing import NDArray

TILE = 128
"""Numbers that share a scale, or a minimum and a step."""


@dataclass(frozen=True)
class Wire:
    """A wire format. `encode` and `decode` define it in numpy; the GPU has its own kernels."""

    name: str
    bits: int
    """Bits per number, without scales."""
    logarithmic: bool = False

    @property
    def tile_bytes(self) -> int:
        """Bytes of the scale, or minimum and step, of 128 numbers."""
        return 8 if self.logarithmic else int(self.bits == 8)

    def used_bytes(self, k: int) -> int:
        """Return the bytes of a row without padding. Raises ValueError unless k is a multiple of 128."""
        if k <= 0 or k % TILE:
            raise ValueError(f"a row has {k} numbers; it must be a positive multiple of {TILE}")
        return k * self.bits // 8 + k // TILE * self.tile_bytes

    def row_bytes(self, k: int) -> int:
        """Return the bytes of a row of k numbers, padding included."""
        return -(-self.used_bytes(k) // 16) * 16

    def encode(self, x: NDArray[np.float32]) -> NDArray[np.uint8]:
        """Return the rows of a matrix of finite BF16 numbers (rows, k) as bytes (rows, row_bytes)."""
        rows, k = x.shape
        if self.logarithmic:
            parts = self._log_planes(encode_log(self.bits, x.astype(np.float64).reshape(-1, TILE)), k)
        elif self.bits == 16:
            parts = [(np.ascontiguousarray(x).view(np.uint32) >> 16).astype(np.uint16)]
        else:
            from isa_model.cast import Cast, quantise
            from isa_model.formats import named

            done = quantise(Cast(scale=named("ue8m0")), x)
            parts = [done.codes, done.scales]
        filling = np.zeros((rows, self.row_bytes(k) - self.used_bytes(k)), np.uint8)
        as_bytes = [np.ascontiguousarray(part).view(np.uint8).reshape(rows, -1) for part in parts]
        return np.concatenate([*as_bytes, filling], axis=1)

    def decode(self, buffer: NDArray[np.uint8], k: int) -> NDArray[np.float64]:
        """Return the numbers (rows, k) of rows of bytes."""
        buffer = np.ascontiguousarray(buffer)
        if self.logarithmic:
            return decode_log(self.log_tiles(buffer, k)).reshape(len(buffer), k)
        if self.bits == 16:
            codes = np.ascontiguousarray(buffer[:, : 2 * k]).view(np.uint16).astype(np.uint32)
            return (codes << 16).view(np.float32).astype(np.float64)
        from isa_model.array_codec import decode_array
        from isa_model.formats import FORMATS, named

        scales = decode_array(named("ue8m0"), buffer[:, k : k + k // TILE])
        return decode_array(FORMATS["e4m3"], buffer[:, :k]) * scales.repeat(TILE, axis=1)

    def log_tiles(self, buffer: NDArray[np.uint8], k: int) -> LogTiles:
        """Return the tiles (rows * k / 128, 128) of rows of bytes in LogFMT, row by row."""
        codes = buffer[:, :k].astype(np.uint16)
        if extra := self.bits - 8:
            shifts = np.arange(0, 8, extra, dtype=np.uint16)
            high = buffer[:, k : k * self.bits // 8, None] >> shifts & ((1 << extra) - 1)
            codes |= high.reshape(codes.shape).astype(np.uint16) << np.uint16(8)
        shared = np.ascontiguousarray(buffer[:, k * self.bits // 8 : self.used_bytes(k)]).view(np.float32)
        minima, steps = (part.astype(np.float64).reshape(-1) * np.log(2.0) for part in np.split(shared, 2, axis=1))
        return LogTiles(self.bits, codes.reshape(-1, TILE), minima, steps)

    def _log_planes(self, tiles: LogTiles, k: int) -> list[NDArray[Any]]:
        codes = tiles.codes.reshape(-1, k)
        shared = [
            (part / np.log(2.0)).astype(np.float32).reshape(-1, k // TILE) for part in (tiles.minimum, tiles.step)
        ]
        if not (extra := self.bits - 8):
            return [codes.astype(np.uint8), *shared]
        shifts = np.arange(0, 8, extra, dtype=np.uint16)
        high = ((codes >> 8).reshape(len(codes), -1, len(shifts)) << shifts).sum(axis=2)
        return [(codes & 0xFF).astype(np.uint8), high.astype(np.uint8), *shared]


BF16, FP8 = Wire("bf16", 16), Wire("fp8", 8)
LOGFMT8, LOGFMT10 = Wire("logfmt8", 8, logarithmic=True), Wire("logfmt10", 10, logarithmic=True)
WIRES = {wire.name: wire for wire in (BF16, FP8, LOGFMT8, LOGFMT10)}
