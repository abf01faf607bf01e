"""Loading and launching kernels through the CUDA driver, with little host time per launch."""

from __future__ import annotations

import ctypes
from typing import Any

from isa_model.engines.launch import check, cuda, load


class _Attribute(ctypes.Structure):
    """CUlaunchAttribute: an id and 64 bytes of value."""

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


SMS = 132
"""SMs of an H100 or H200 (SXM), for choices made without a GPU."""

_CLUSTER_DIMENSION = 4  # CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION
_PROGRAMMATIC_SERIALIZATION = 6  # CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION
_MAX_DYNAMIC_SHARED = 8  # CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES


def require_tensor(name: str, x: Any) -> None:
    """Raise ValueError unless `x` is a dense torch tensor, and where torch is missing."""
    try:
        import torch
    except ImportError as error:
        raise ValueError("the kernels need the extra `kernels` (torch, cuda-core)") from error
    if not isinstance(x, torch.Tensor) or x.layout is not torch.strided:
        raise ValueError(f"{name} must be a dense torch tensor; got {getattr(x, 'layout', type(x).__name__)}")


class Kernel:
    """A function of a cubin, usable on every GPU, with its threads per CTA and CTAs per cluster.

    Launches overlap with the previous grid on the stream (programmatic dependent launch), so the function must execute
    `griddepcontrol.wait` before it accesses global memory.
    """

    def __init__(self, code: bytes, function: str, threads: int, cluster: int = 1) -> None:
        self.function = load(code, function)
        self.threads, self.cluster = threads, cluster
        self.shared: dict[int, int] = {}

    def launch(self, grid: tuple[int, int], arguments: list[Any], shared: int = 0) -> Launch:
        """Return a launch on the current GPU that can be issued repeatedly.

        `arguments` holds a ctypes value per parameter; `shared` is dynamic shared memory, bytes.
        """
        if shared:
            device = ctypes.c_int()
            check(cuda().cuCtxGetDevice(ctypes.byref(device)), "the current GPU")
            if shared > self.shared.get(device.value, 0):
                result = cuda().cuKernelSetAttribute(_MAX_DYNAMIC_SHARED, shared, self.function, device)
                check(result, "reserving shared memory")
                self.shared[device.value] = shared
        return Launch(self, grid, arguments, shared)


class Launch:
    """A kernel with its grid and arguments; calling it enqueues it on a stream."""

    def __init__(self, kernel: Kernel, grid: tuple[int, int], arguments: list[Any], shared: int) -> None:
        self.arguments = arguments  # kept alive, since the driver reads them at each launch
        self.pointers = (ctypes.c_void_p * len(arguments))(*(ctypes.addressof(x) for x in arguments))
        attributes = (_Attribute * 2)(_Attribute(id=_CLUSTER_DIMENSION), _Attribute(id=_PROGRAMMATIC_SERIALIZATION))
        attributes[0].value[:3] = [kernel.cluster, 1, 1]
        attributes[1].value[0] = 1
        self.config = _Config((*grid, 1), (kernel.threads, 1, 1), shared, None, attributes, 2)
        self.attributes, self.reference = attributes, ctypes.byref(self.config)
        self.function, self.call, self.empty = kernel.function, cuda().cuLaunchKernelEx, 0 in grid

    def overlaps(self, yes: bool) -> None:
        """Set whether it may start while the previous grid still runs; by default it may."""
        self.attributes[1].value[0] = int(yes)

    def __call__(self, stream: int) -> None:
        """Enqueue on a stream, but not an empty grid. Raises RuntimeError with the driver's reason."""
        if not self.empty:
            self.config.stream = stream
            code = self.call(self.reference, self.function, self.pointers, None)
            if code:
                check(code, "launching a kernel")


def stream(device: int) -> int:
    """Return torch's current stream on GPU `device`. Raises ValueError unless that is the current GPU, where launches go."""
    import torch

    current = torch._C._cuda_getDevice()
    if current != device:
        raise ValueError(
            f"the operands are on cuda:{device}, the current GPU is cuda:{current}: torch.cuda.device changes it"
        )
    return int(torch._C._cuda_getCurrentRawStream(device))
