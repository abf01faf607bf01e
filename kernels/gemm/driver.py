"""Compiling (NVRTC through cuda-core, kept on disk), tensor maps, and launches with little overhead a call."""

from __future__ import annotations

import ctypes
import hashlib
import os
from functools import cache
from pathlib import Path
from typing import Any

COMPILE_OPTIONS = {"arch": "sm_90a", "std": "c++17"}


def compiled(source: str) -> bytes:
    """Machine code (cubin) for sm_90a, from the cache folder if it was compiled before; works without a GPU."""
    from cuda.core import Program, ProgramOptions

    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "codesign"
    file = folder / f"{hashlib.sha256(source.encode()).hexdigest()[:24]}.cubin"
    if file.exists():
        return file.read_bytes()
    code = bytes(Program(source, "c++", ProgramOptions(**COMPILE_OPTIONS)).compile("cubin").code)
    folder.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(f".{os.getpid()}")
    part.write_bytes(code)
    part.replace(file)
    return code


class _Attribute(ctypes.Structure):
    """CUlaunchAttribute: an id and a value of 64 bytes."""

    _fields_ = [("id", ctypes.c_int), ("pad", ctypes.c_int), ("value", ctypes.c_int * 16)]


class _Config(ctypes.Structure):
    """CUlaunchConfig."""

    _fields_ = [
        ("grid", ctypes.c_uint * 3),
        ("block", ctypes.c_uint * 3),
        ("shared", ctypes.c_uint),
        ("stream", ctypes.c_void_p),
        ("attributes", ctypes.POINTER(_Attribute)),
        ("count", ctypes.c_uint),
    ]


_CLUSTER_DIMENSION = 4  # CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION
_PROGRAMMATIC_SERIALIZATION = (
    6  # CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION: set up while the grid before runs
)
_MAX_DYNAMIC_SHARED = 8  # CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES


@cache
def _cuda() -> Any:
    return ctypes.CDLL("libcuda.so.1")


def _check(code: int, what: str) -> None:
    if code:
        text = ctypes.c_char_p()
        _cuda().cuGetErrorString(code, ctypes.byref(text))
        raise RuntimeError(f"{what}: {(text.value or b'?').decode()} (CUDA error {code})")


class Kernel:
    """A loaded kernel: function `run` of a cubin, with its shared memory and cluster size."""

    def __init__(self, code: bytes, threads: int, cluster: int) -> None:
        module, self.function = ctypes.c_void_p(), ctypes.c_void_p()
        _check(_cuda().cuModuleLoadData(ctypes.byref(module), code), "loading a kernel")
        _check(_cuda().cuModuleGetFunction(ctypes.byref(self.function), module, b"run"), "loading a kernel")
        self.threads, self.cluster, self.shared = threads, cluster, 0

    def reserve(self, shared: int) -> None:
        """Allow launches with so many bytes of dynamic shared memory."""
        if shared > self.shared:
            _check(_cuda().cuFuncSetAttribute(self.function, _MAX_DYNAMIC_SHARED, shared), "reserving shared memory")
            self.shared = shared

    def launch(self, ctas: int, shared: int, arguments: list[Any]) -> Launch:
        """A launch ready to be issued again and again; `arguments` are ctypes values by kernel parameter."""
        self.reserve(shared)
        return Launch(self, ctas, shared, arguments)


class Launch:
    """A kernel with its arguments, to be issued on a stream."""

    def __init__(self, kernel: Kernel, ctas: int, shared: int, arguments: list[Any]) -> None:
        self.arguments = arguments  # kept alive: the driver reads them at each launch
        self.pointers = (ctypes.c_void_p * len(arguments))(*(ctypes.addressof(x) for x in arguments))
        attributes = (_Attribute * 2)(_Attribute(id=_CLUSTER_DIMENSION), _Attribute(id=_PROGRAMMATIC_SERIALIZATION))
        attributes[0].value[:3] = [kernel.cluster, 1, 1]
        attributes[1].value[0] = 1
        self.attributes = attributes
        self.config = _Config((ctas, 1, 1), (kernel.threads, 1, 1), shared, None, attributes, 2)
        self.reference = ctypes.byref(self.config)
        self.function = kernel.function
        self.call = _cuda().cuLaunchKernelEx

    def __call__(self, stream: int) -> None:
        self.config.stream = stream
        code = self.call(self.reference, self.function, self.pointers, None)
        if code:
            _check(code, "launching a kernel")


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
    """Of a matrix of `rows` rows of `width` elements, `pitch` bytes apart, read or written in boxes of (columns, rows).

    `kind`: "e4m3", "bf16" or "fp32"; `swizzle`: 0, 32, 64 or 128 bytes. Beyond the matrix reads give zeros, writes vanish.
    """
    data_type = {"e4m3": _UINT8, "bf16": _BFLOAT16, "fp32": _FLOAT32}[kind]
    whole = (TensorMap * 2)()  # ctypes before Python 3.13 ignores _align_: take the aligned one of two
    address = ctypes.addressof(whole)
    result = TensorMap.from_buffer(whole, -address % 64)
    code = _cuda().cuTensorMapEncodeTiled(
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
    _check(code, f"tensor map of {rows} x {width} {kind}, pitch {pitch} bytes, box {box}")
    return result
