"""Tensor maps: descriptions of matrices for bulk tensor copies (TMA)."""

from __future__ import annotations

import ctypes
from typing import Literal

from isa_model.engines.launch import check, cuda


class TensorMap(ctypes.Structure):
    """CUtensorMap, opaque. The driver requires 64-byte alignment."""

    _fields_ = [("bytes", ctypes.c_uint64 * 16)]
    _align_ = 64


_DATA_TYPE = {"byte": 0, "fp32": 7, "bf16": 9}  # CUtensorMapDataType
_SWIZZLE = {0: 0, 32: 1, 64: 2, 128: 3}  # CUtensorMapSwizzle, by bytes
_PROMOTE_256 = 3  # CU_TENSOR_MAP_L2_PROMOTION_L2_256B


def tensor_map(
    address: int,
    *,
    width: int,
    rows: int,
    pitch: int,
    box: tuple[int, int],
    element: Literal["byte", "bf16", "fp32"],
    swizzle: Literal[0, 32, 64, 128] = 0,
) -> TensorMap:
    """Return the tensor map of a matrix that is copied in boxes of (columns, rows).

    The matrix at `address` has `rows` rows of `width` elements; rows start `pitch` bytes apart. `swizzle` is in bytes.
    Reads outside the matrix return zeros, writes outside are dropped. Raises RuntimeError with the driver's reason.
    """
    whole = (TensorMap * 2)()  # ctypes before Python 3.13 ignores _align_: use the aligned one of two
    place = ctypes.addressof(whole)
    result = TensorMap.from_buffer(whole, -place % 64)
    code = cuda().cuTensorMapEncodeTiled(
        ctypes.byref(result),
        _DATA_TYPE[element],
        2,
        ctypes.c_void_p(address),
        (ctypes.c_uint64 * 2)(width, rows),
        (ctypes.c_uint64 * 1)(pitch),
        (ctypes.c_uint32 * 2)(*box),
        (ctypes.c_uint32 * 2)(1, 1),
        0,
        _SWIZZLE[swizzle],
        _PROMOTE_256,
        0,
    )
    check(code, f"tensor map of {rows} x {width} {element}, pitch {pitch} bytes, box {box}")
    return result
