"""Expected output of the kernels by isa_model: numpy codes in the kernels' layouts, from numpy codes of the input."""

from __future__ import annotations

from typing import Any

import numpy as np

from isa_model.array_codec import decode_array, encode_array, pack, unpack
from isa_model.cast import Cast, quantise
from isa_model.formats import FORMATS, named
from isa_model.swiglu import swiglu as fp32_swiglu


def _cast(power_of_2: bool, group: tuple[int, int] = (1, 128), to: str = "e4m3") -> Cast:
    return Cast(to=named(to), group=group, scale=named("ue8m0" if power_of_2 else "fp32"))


def _bf16(codes: Any) -> Any:
    return (codes.astype(np.uint32) << 16).view(np.float32)


def _fp32(scales: Any) -> Any:
    return np.ascontiguousarray(scales, np.float32).view(np.uint32)


def _layouts(x: Any, power_of_2: bool, rows: tuple[int, int] | None, columns: tuple[int, int] | None) -> list[Any]:
    """Return codes and scales of values in the layout `rows`, `columns` or both; each argument is the group of that layout."""
    parts: list[Any] = []
    if rows:
        done = quantise(_cast(power_of_2, rows), x)
        parts += [done.codes, _fp32(done.scale_values() if rows[0] > 1 else done.scale_values().T)]
    if columns:
        done = quantise(_cast(power_of_2, columns), x)
        parts += [done.codes.T, _fp32(done.scale_values().T if columns[1] > 1 else done.scale_values())]
    return parts


def cast(power_of_2: bool, groups: tuple[Any, Any], x: Any) -> list[Any]:
    """Cast BF16 codes; `groups` are those of the codes as they are and of the transposed codes."""
    return _layouts(_bf16(x), power_of_2, *groups)


def swiglu(power_of_2: bool, gate: Any, up: Any) -> list[Any]:
    """Cast silu(gate) * up of BF16 codes, as `rows` does."""
    return _layouts(fp32_swiglu(_bf16(gate), _bf16(up)), power_of_2, (1, 128), None)


def _spread(scales: Any, columns: int) -> Any:
    return scales.view(np.float32).T.repeat(128, axis=1)[:, :columns]


def requantised(power_of_2: bool, codes: Any, scales: Any) -> list[Any]:
    """Cast E4M3 codes with 1x128 scales, as `columns` does."""
    x = decode_array(FORMATS["e4m3"], codes) * _spread(scales, codes.shape[1])
    return _layouts(x.astype(np.float32), power_of_2, None, (128, 1))


def packed(x: Any) -> list[Any]:
    """Cast BF16 codes to packed E5M6 with power-of-two scales."""
    done = quantise(_cast(True, to="e5m6"), _bf16(x))
    return [pack(done.cast.to, done.codes), _fp32(done.scale_values().T)]


def unpacked(packed: Any, scales: Any) -> list[Any]:
    """Return BF16 codes of packed E5M6 and its scales."""
    codes = unpack(named("e5m6"), packed)
    return [encode_array(FORMATS["bf16"], decode_array(named("e5m6"), codes) * _spread(scales, codes.shape[1]))]


def sent(x: Any) -> list[Any]:
    """Return the rows that `dispatch` writes for BF16 codes: codes, UE8M0 scales, padding of NaN."""
    done = quantise(_cast(True), _bf16(x))
    padding = -(done.codes.shape[1] + done.scales.shape[1]) % 16
    return [np.concatenate([done.codes, done.scales, np.full((len(x), padding), 0xFF, np.uint8)], axis=1)]
