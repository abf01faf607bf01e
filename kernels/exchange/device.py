"""Triton kernels of dispatch and combine: LogFMT encoded, and rows of any wire format decoded and added up.

Logarithms are FP32 and base 2; the definition, `isa_model.logfmt`, takes float64. Near the middle between two
codes, the kernel may therefore take the other code: of 1,024,000 codes of normal numbers, 9 differed in LogFMT-8 and 26 in
LogFMT-10 (in Triton's interpreter), each by one. LogFMT numbers under 2^-126 are decoded as zero. Numbers must be finite, which
is not checked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import triton
import triton.language as tl

if TYPE_CHECKING:
    from kernels.exchange.wire import Wire

TILE = tl.constexpr(128)
TILES = 8
"""Tiles of a row that one CTA encodes or adds up."""
INFINITY = tl.constexpr(float("inf"))


@triton.jit  # type: ignore[untyped-decorator]
def log_encoder(  # type: ignore[no-untyped-def]
    x, codes, shared, k, x_pitch, pitch, BITS: tl.constexpr, TILES: tl.constexpr
):
    """Encode TILES tiles of a row of BF16 codes `x`; `codes` and `shared` are the output as bytes and as FP32 numbers."""
    EXTRA: tl.constexpr = BITS - 8
    TOP: tl.constexpr = (1 << (BITS - 1)) - 1
    row, groups = tl.program_id(0).to(tl.int64), k // TILE
    tile, lane = tl.program_id(1) * TILES + tl.arange(0, TILES), tl.arange(0, TILE)
    column = tile[:, None] * TILE + lane[None, :]
    bits = tl.load(x + row * x_pitch + column, column < k, 0).to(tl.int32)
    magnitude = ((bits & 0x7FFF) << 16).to(tl.float32, bitcast=True)
    logs = tl.where(magnitude > 0, tl.log2(tl.where(magnitude > 0, magnitude, 1.0)), -INFINITY)
    maximum = tl.max(logs, 1)
    smallest = tl.min(tl.where(magnitude > 0, logs, INFINITY), 1)
    empty = maximum == -INFINITY
    minimum = tl.where(empty, 0.0, tl.maximum(smallest, maximum - 32.0))
    step = tl.where(empty, 0.0, (maximum - minimum) / (TOP - 1))
    divisor = tl.where(step > 0, step, 1.0)
    # Position, between two neighbouring codes, of the middle in linear space, as a fraction of the step.
    middle = tl.log2((1.0 + tl.exp2(divisor)) * 0.5) / divisor
    position = (logs - minimum[:, None]) * (1.0 / divisor)[:, None] + (1.0 - middle)[:, None]
    index = tl.minimum(tl.floor(tl.maximum(position, 0.0)), TOP - 1.0).to(tl.int32) + 1
    index = tl.where(logs < minimum[:, None] - 1.0, 0, index)
    code = index | ((bits >> 15) & 1) << (BITS - 1)
    start = codes + row * pitch
    tl.store(start + column, (code & 255).to(tl.uint8), column < k)
    if EXTRA > 0:
        PER_BYTE: tl.constexpr = 8 // EXTRA
        part = tl.arange(0, PER_BYTE) * EXTRA
        high = tl.reshape(code >> 8, (TILES, TILE // PER_BYTE, PER_BYTE)) << part[None, None, :]
        at = tile[:, None] * (TILE // PER_BYTE) + tl.arange(0, TILE // PER_BYTE)[None, :]
        tl.store(start + k + at, tl.sum(high, 2).to(tl.uint8), at < k // PER_BYTE)
    of_tiles = shared + row * (pitch // 4) + k * BITS // 32 + tile
    tl.store(of_tiles, minimum, tile < groups)
    tl.store(of_tiles + groups, step, tile < groups)


@triton.jit  # type: ignore[untyped-decorator]
def adder(  # type: ignore[no-untyped-def]
    rows,
    halves,
    shared,
    places,
    out,
    k,
    pitch,
    RANKS: tl.constexpr,
    BITS: tl.constexpr,
    LOG: tl.constexpr,
    TILES: tl.constexpr,
):
    """Add up TILES tiles of one token over RANKS ranks in FP32, from zero, in ascending order.

    `rows`, `halves` and `shared` are the received rows as bytes, 16-bit and FP32 numbers; `places` (tokens, RANKS) is the
    row that came from each rank, -1 for none.
    """
    token, groups = tl.program_id(0).to(tl.int64), k // TILE
    tile = tl.program_id(1) * TILES + tl.arange(0, TILES)
    column = tile[:, None] * TILE + tl.arange(0, TILE)[None, :]
    total = tl.zeros((TILES, TILE), tl.float32)
    for rank in range(RANKS):
        place = tl.load(places + token * RANKS + rank).to(tl.int64)
        if place >= 0:
            if BITS == 16:
                half = tl.load(halves + place * (pitch // 2) + column, column < k, 0).to(tl.int32)
                total += (half << 16).to(tl.float32, bitcast=True)
            else:
                start = rows + place * pitch
                code = tl.load(start + column, column < k, 0).to(tl.int32)
                if LOG:
                    EXTRA: tl.constexpr = BITS - 8
                    if EXTRA > 0:
                        PER_BYTE: tl.constexpr = 8 // EXTRA
                        high = tl.load(start + k + column // PER_BYTE, column < k, 0).to(tl.int32)
                        code |= (high >> (column % PER_BYTE * EXTRA) & ((1 << EXTRA) - 1)) << 8
                    of_tiles = shared + place * (pitch // 4) + k * BITS // 32 + tile
                    minimum = tl.load(of_tiles, tile < groups, 0.0)
                    step = tl.load(of_tiles + groups, tile < groups, 0.0)
                    index = code & ((1 << (BITS - 1)) - 1)
                    value = tl.exp2(minimum[:, None] + step[:, None] * (index - 1).to(tl.float32))
                    value = tl.where(index > 0, value, 0.0)
                    total += tl.where(code >> (BITS - 1) > 0, -value, value)
                else:
                    # E4M3's fields are moved to FP32's; the factor 2^120 corrects the bias, for subnormal numbers, too.
                    scale = tl.load(start + k + tile, tile < groups, 0).to(tl.int32)[:, None]
                    value = ((code & 127) << 20).to(tl.float32, bitcast=True) * 1.329227995784916e36
                    value = value * (scale << 23).to(tl.float32, bitcast=True)
                    value = tl.where(((code & 127) == 127) | (scale == 255), float("nan"), value)
                    total += tl.where(code > 127, -value, value)
    tl.store(out + token * k + column, total.to(out.dtype.element_ty), column < k)


def encode_log(wire: Wire, x: Any, out: Any) -> None:
    """Encode BF16 `x` (rows, k), its rows contiguous, into bytes `out` (rows, row_bytes)."""
    import torch

    rows, k = x.shape
    if rows:
        views = x.view(torch.int16), out, out.view(torch.float32)
        grid = rows, _ctas(k)
        log_encoder[grid](*views, k, x.stride(0), out.shape[1], BITS=wire.bits, TILES=TILES, num_warps=4)


def add_up(wire: Wire, rows: Any, places: Any, out: Any) -> None:
    """Add up received bytes `rows` by `places` (tokens, ranks; int32) into `out` (tokens, k), rounded to its type once."""
    import torch

    tokens, k = out.shape
    if tokens:
        views = rows, rows.view(torch.int16), rows.view(torch.float32)
        sizes, ranks = (k, rows.shape[1]), places.shape[1]
        how = {"RANKS": ranks, "BITS": wire.bits, "LOG": wire.logarithmic, "TILES": TILES}
        adder[tokens, _ctas(k)](*views, places, out, *sizes, **how, num_warps=4)


def _ctas(k: int) -> int:
    return -(-k // (int(TILE.value) * TILES))
