"""Compiling (NVRTC through cuda-core, kept on disk) and tensor maps."""

from __future__ import annotations

import ctypes
import hashlib
from pathlib import Path

from isa_model.user_cache import kept
from kernels.launch import check, cuda

COMPILE_OPTIONS = {"arch": "sm_90a", "std": "c++17"}


def compiled(source: str) -> bytes:
    """Machine code (cubin) for sm_90a, from the cache folder if it was compiled before; works without a GPU."""
    from cuda.core import Program, ProgramOptions

    def build(file: Path) -> None:
        file.write_bytes(bytes(Program(source, "c++", ProgramOptions(**COMPILE_OPTIONS)).compile("cubin").code))

    name = hashlib.sha256(f"{COMPILE_OPTIONS}{source}".encode()).hexdigest()[:32]
    with kept(name, ".cubin", build) as file:
        return file.read_bytes()


class TensorMap(ctypes.Structure):
    """CUtensorMap, opaque; 64-byte aligned as the driver wants it."""

    _fields_ = [("bytes", ctypes.c_uint64 * 16)]
    _align_ = 64


_UINT8, _FLOAT32, _BFLOAT16 = 0, 7, 9  # CUtensorMapDataType
_SWIZZLE = {0: 0, 32: 1, 64: 2, 128: 3}  # CUtensorMapSwizzle, by bytes
_PROMOTE_256 = 3  # CU_TENSOR_MAP_L2_PROMOTION_L2_256B


def tensor_map(
    pointer: int, width: int, rows: int, pitch: int, box: tuple[int, int], kind: str, swizzle: int
) -> TensorMap:
    """Return the tensor map of a matrix that is read or written in boxes of (columns, rows).

    The matrix has `rows` rows of `width` elements, `pitch` bytes apart. `kind`: "e4m3", "bf16" or "fp32";
    `swizzle`: 0, 32, 64 or 128 bytes. Reads beyond the matrix give zeros, writes there vanish.
    """
    data_type = {"e4m3": _UINT8, "bf16": _BFLOAT16, "fp32": _FLOAT32}[kind]
    whole = (TensorMap * 2)()  # ctypes before Python 3.13 ignores _align_: take the aligned one of two
    address = ctypes.addressof(whole)
    result = TensorMap.from_buffer(whole, -address % 64)
    code = cuda().cuTensorMapEncodeTiled(
        ctypes.byref(result),
        data_type,
        2,
        ctypes.c_void_p(pointer),
        (ctypes.c_uint64 * 2)(width, rows),
        (ctypes.c_uint64 * 1)(pitch),
        (ctypes.c_uint32 * 2)(*box),
        (ctypes.c_uint32 * 2)(1, 1),
        0,
        _SWIZZLE[swizzle],
        _PROMOTE_256,
        0,
    )
    check(code, f"tensor map of {rows} x {width} {kind}, pitch {pitch} bytes, box {box}")
    return result
