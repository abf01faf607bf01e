"""Launches of GEMMs on tensors. Operands are checked once; the launch is kept for the same tensors."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

from kernels.gemm.choose import Gpu, choose, gpu_of
from kernels.gemm.pace import paced
from kernels.gemm.tensor_map import TensorMap, tensor_map
from kernels.gemm.tile import MAX_GROUPS, Element, GemmProblem, OutputType, ScaleLayout, SharedOperand, Tile
from kernels.launch import Kernel, Launch, require_tensor, stream
from kernels.nvrtc import cached_cubin

if TYPE_CHECKING:
    import torch

KEPT = 4096
"""Most launches kept; beyond that, all are dropped."""
INTERVALS = {ScaleLayout.TENSOR: (0, 1, 2, 4, 8, 16), ScaleLayout.BLOCK: (0, 1, 2, 4), ScaleLayout.GROUP: (0, 4)}
"""Numbers of wgmmas between promotions that are built, by layout of the scales. A group of 128 ends every interval up to 4."""


class GemmOperands(NamedTuple):
    """Arguments of a GEMM, as the caller gave them."""

    a: torch.Tensor
    b: torch.Tensor
    scale_a: torch.Tensor
    scale_b: torch.Tensor
    out: torch.Tensor | None
    starts: torch.Tensor | None = None
    counts: torch.Tensor | None = None
    shifts: torch.Tensor | None = None

    def given(self) -> list[tuple[str, torch.Tensor]]:
        """Return name and tensor of each argument that is not None."""
        return [(name, t) for name, t in self._asdict().items() if t is not None]


class _Arguments(ctypes.Structure):
    """`Arguments` of tile.cuh."""

    _fields_ = [
        ("scale_b", ctypes.c_void_p),
        ("one_a", ctypes.c_void_p),
        ("one_b", ctypes.c_void_p),
        ("starts", ctypes.c_void_p),
        ("counts", ctypes.c_void_p),
        ("d", ctypes.c_void_p),
        *[(name, ctypes.c_int) for name in ("m", "n", "k", "groups")],
    ]


_launches: dict[tuple[object, ...], Launch] = {}


def issue(
    x: GemmOperands, *, scales: ScaleLayout, promote: int, add: bool = False, tile: Tile | None = None
) -> torch.Tensor:
    """Launch the kernel for these operands on torch's current stream and return D.

    `promote`: wgmmas between promotions, 0 for none. `tile` replaces the chosen tile, for tuning. Raises ValueError for
    operands that the kernels cannot take.
    """
    for name, t in x._asdict().items():
        if t is not None or name in ("a", "b", "scale_a", "scale_b"):
            require_tensor(name, t)
    import torch

    out = x.out
    if out is None:
        if add:
            raise ValueError("out must be given where accumulate adds to it")
        columns = x.b.shape[-2:-1] if x.shifts is None else x.shifts.shape[-1:]
        out = torch.empty((*x.a.shape[:1], *columns), dtype=torch.bfloat16, device=x.a.device)
        x = x._replace(out=out)
    # All that `check` and `prepare` look at: a later tensor may have the same address.
    tensors = [None if t is None else (t.data_ptr(), t.dtype, t.shape, t.stride()) for t in x]
    key = (*tensors, scales, promote, add, tile)
    launch = _launches.get(key)
    if launch is None:
        if len(_launches) >= KEPT:
            _launches.clear()
        launch = _launches[key] = prepare(x, scales=scales, promote=promote, add=add, tile=tile)
    launch(stream(x.a.device.index))
    return out


def prepare(x: GemmOperands, *, scales: ScaleLayout, promote: int, add: bool, tile: Tile | None = None) -> Launch:
    """Check the operands and return their launch. Raises ValueError for operands that the kernels cannot take."""
    check_device(x)
    check(x, scales=scales, promote=promote, add=add)
    assert x.out is not None
    (m, k), n = x.a.shape, x.out.shape[1]
    groups = 0 if x.starts is None else x.b.shape[0]
    gpu = _gpu(x.a.device.index)
    out = OutputType(x.out.element_size())
    element = element_of(x)
    problem = GemmProblem(m, n, k, groups=groups, scales=scales, promote=promote, out=out, add=add, element=element)
    tile = (tile or choose(problem, gpu)).sized
    a_box = (128, tile.bm // (tile.sharers if tile.share == SharedOperand.A else 1))
    of_columns = x.scale_b if scales == ScaleLayout.GROUP else x.shifts
    maps = [
        tensor_map(x.a.data_ptr(), width=k, rows=m, pitch=x.a.stride(0), box=a_box, element="byte", swizzle=128),
        _weights_map(x.b, tile),
        tensor_map(
            x.out.data_ptr(),
            width=n,
            rows=m,
            pitch=n * tile.out,
            box=(tile.box_columns, 64),
            element="bf16" if tile.out == OutputType.BF16 else "fp32",
            swizzle=tile.box_columns * tile.out,  # type: ignore[arg-type]
        ),
        TensorMap() if scales == ScaleLayout.TENSOR else _scales_map(x.scale_a, m, tile.scale_box),
        TensorMap() if of_columns is None else _scales_map(of_columns, n, tile.bn),
    ]
    arguments = _Arguments(
        scale_b=x.scale_b.data_ptr(),
        one_a=x.scale_a.data_ptr(),
        one_b=x.scale_b.data_ptr(),
        starts=None if x.starts is None else x.starts.data_ptr(),
        counts=None if x.counts is None else x.counts.data_ptr(),
        d=x.out.data_ptr(),
        m=m,
        n=n,
        k=k,
        groups=groups,
    )
    return _kernel(tile).launch((tile.ctas(problem, gpu.sms), 1), [*maps, arguments], tile.shared_bytes(groups))


def _weights_map(b: torch.Tensor, tile: Tile) -> TensorMap:
    columns = tile.bn // (tile.sharers if tile.share == SharedOperand.B else 1)
    if tile.element == Element.E2M1:  # 1024 bytes for 16 columns, contiguous; wgmma's layout comes with unpacking
        box, rows = (256, columns // 16), b.numel() // 1024
        return tensor_map(b.data_ptr(), width=256, rows=rows, pitch=1024, box=box, element="fp32")
    width, rows, box = b.shape[-1], b.numel() // b.shape[-1], (128, columns)
    return tensor_map(b.data_ptr(), width=width, rows=rows, pitch=width, box=box, element="byte", swizzle=128)


def _scales_map(scales: torch.Tensor, rows: int, box: int) -> TensorMap:
    pitch = scales.stride(0) * 4
    return tensor_map(scales.data_ptr(), width=rows, rows=scales.shape[0], pitch=pitch, box=(box, 1), element="fp32")


@cache
def _kernel(tile: Tile) -> Kernel:
    return Kernel(paced(cached_cubin(tile.source)), "run", tile.threads, tile.cluster)


@cache
def _gpu(device: int) -> Gpu:
    import torch

    about = torch.cuda.get_device_properties(device)
    return gpu_of(about.name, about.multi_processor_count)


def element_of(x: GemmOperands) -> Element:
    """Return the element type of operands that `check` accepts."""
    import torch

    if x.shifts is not None:
        return Element.E2M1
    return Element.INT8 if x.a.dtype == torch.int8 else Element.E4M3


def require(condition: bool, message: str) -> None:
    """Raise ValueError with the message unless the condition holds."""
    if not condition:
        raise ValueError(message)


def check_device(x: GemmOperands) -> None:
    """Raise ValueError unless all operands are on the current GPU and that is a Hopper GPU."""
    import torch

    for name, t in x.given():
        require(t.is_cuda, f"{name} is on {t.device}; all operands must be on one NVIDIA GPU")
        require(t.device == x.a.device, f"{name} is on {t.device}, a on {x.a.device}; they must be on one GPU")
    current = torch.cuda.current_device()
    require(
        x.a.device.index == current,
        f"a is on {x.a.device}, but the current GPU is cuda:{current}; torch.cuda.device changes it",
    )
    require(
        torch.cuda.get_device_capability(x.a.device)[0] == 9,
        "these kernels run on Hopper (compute capability 9.0) only",
    )


def check(x: GemmOperands, *, scales: ScaleLayout, promote: int, add: bool) -> None:
    """Raise ValueError for operands that the kernels cannot take; the message states the requirement."""
    import torch

    for name, t in x.given():
        alone = scales == ScaleLayout.TENSOR and name in ("scale_a", "scale_b")  # one number, not copied in bulk
        require(alone or t.data_ptr() % 16 == 0, f"{name} must start at a multiple of 16 bytes")
    require(x.a.dim() == 2, f"a must be (M, K); it has {x.a.dim()} dimensions")
    require(
        x.b.dim() == (2 if x.starts is None and x.shifts is None else 3),
        f"b must be (N, K), or (G, N, K) with groups, or what prepare_fp4 makes; it has {x.b.dim()} dimensions",
    )
    whole = x.a.dtype == torch.int8 and scales == ScaleLayout.BLOCK and x.starts is None and x.shifts is None
    for name, t in (("a", x.a), ("b", x.b)):
        if name == "b" and x.shifts is not None:
            require(t.dtype == torch.uint8, f"b must be uint8, two E2M1 codes a byte; it is {t.dtype}")
        elif whole:
            require(t.dtype == torch.int8, f"{name} must be INT8, as a; it is {t.dtype}")
        else:
            require(t.dtype == torch.float8_e4m3fn, f"{name} must be E4M3 (torch.float8_e4m3fn); it is {t.dtype}")
        require(
            t.stride(-1) == 1,
            f"{name} must be contiguous along K, since Hopper's wgmma reads K-major operands of 8 bits only",
        )
    require(x.b.is_contiguous(), "b must be contiguous")
    (m, k), n = x.a.shape, x.b.shape[-2] if x.shifts is None else x.shifts.shape[-1]
    if x.shifts is None:
        require(x.b.shape[-1] == k, f"a and b must have one K; a has {k}, b {x.b.shape[-1]}")
    require(m > 0 and n > 0 and k > 0, f"M, N and K must be positive; the GEMM is {m} x {n} x {k}")
    require(x.b.shape[0] > 0, "b must have at least one group; it is (0, N, K)")
    require(k % 16 == 0, f"K must be a multiple of 16, for bulk copies of whole 16 bytes; it is {k}")
    pitch = x.a.stride(0)
    require(
        pitch % 16 == 0 and pitch >= k, f"rows of a must start a multiple of 16 bytes apart, at least K; got {pitch}"
    )
    require(n % 8 == 0, f"N must be a multiple of 8; it is {n}")
    assert x.out is not None
    require(tuple(x.out.shape) == (m, n), f"out must be ({m}, {n}); it is {tuple(x.out.shape)}")
    require(x.out.is_contiguous(), "out must be contiguous")
    require(x.out.dtype in (torch.bfloat16, torch.float32), f"out must be BF16 or FP32; it is {x.out.dtype}")
    require(not add or x.out.dtype == torch.float32, "out must be FP32 where the sum is added to it")
    built = INTERVALS[scales]
    require(promote in built, f"promote must be one of {[32 * i for i in built[1:]]}; it is {promote * 32}")
    groups_of_k = -(-k // 128)
    if x.shifts is not None:
        require(k % 32 == 0, f"K must be a multiple of 32, the elements of a scale of FP4; it is {k}")
        require(
            x.shifts.dtype == torch.int32 and tuple(x.shifts.shape) == (groups_of_k, n) and x.shifts.is_contiguous(),
            f"shifts must be a contiguous int32 tensor ({groups_of_k}, {n}), as prepare_fp4 makes it; "
            f"it is {x.shifts.dtype} {tuple(x.shifts.shape)}",
        )
        packed = (groups_of_k, -(-n // 16) * 16, 64)
        require(tuple(x.b.shape) == packed, f"b must be {packed}, as prepare_fp4 makes it; it is {tuple(x.b.shape)}")
    for name, t in (("scale_a", x.scale_a), ("scale_b", x.scale_b)):
        require(t.dtype == torch.float32, f"{name} must be FP32; it is {t.dtype}")
    if scales == ScaleLayout.TENSOR:
        require(x.scale_a.numel() == x.scale_b.numel() == 1, "native takes one scale for A and one for B")
        return
    by_group = [("scale_a", x.scale_a, m)] + ([("scale_b", x.scale_b, n)] if scales == ScaleLayout.GROUP else [])
    for name, t, rows in by_group:
        shape = (groups_of_k, rows)
        require(tuple(t.shape) == shape, f"{name} must be {shape}; it is {tuple(t.shape)}")
        require(
            t.stride(1) == 1 and t.stride(0) % 4 == 0 and t.stride(0) >= rows,
            f"{name} must have contiguous rows and a pitch that is a multiple of 4; its strides are {t.stride()}",
        )
    if scales == ScaleLayout.BLOCK:
        groups = x.b.shape[:-2] if x.shifts is None else ()
        shape = (*groups, -(-n // 128), groups_of_k)
        require(tuple(x.scale_b.shape) == shape, f"scale_b must be {shape}; it is {tuple(x.scale_b.shape)}")
        require(x.scale_b.is_contiguous(), "scale_b must be contiguous")
    for name, place in (("starts", x.starts), ("counts", x.counts)):
        if place is not None:
            require(
                place.dtype == torch.int32 and place.shape == (x.b.shape[0],) and place.is_contiguous(),
                f"{name} must be a contiguous int32 vector of {x.b.shape[0]}",
            )
            require(x.b.shape[0] <= MAX_GROUPS, f"b has {x.b.shape[0]} groups; at most {MAX_GROUPS} are possible")
