"""From tensors to a launch: operands are checked once, the launch is kept, and the same tensors find it again."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

from kernels.gemm.choose import choose
from kernels.gemm.driver import TensorMap, compiled, tensor_map
from kernels.gemm.tile import MAX_GROUPS, Problem, Tile
from kernels.launch import Kernel, Launch, require_tensor, stream

if TYPE_CHECKING:
    import torch

KEPT = 4096
"""Launches kept; when there are more, all are forgotten (tensors come and go, layers stay)."""


class Operands(NamedTuple):
    """What the caller gave."""

    a: torch.Tensor
    b: torch.Tensor
    scale_a: torch.Tensor
    scale_b: torch.Tensor
    out: torch.Tensor | None
    starts: torch.Tensor | None = None
    counts: torch.Tensor | None = None


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


def issue(x: Operands, *, scales: int, promote: int, add: bool = False, tile: Tile | None = None) -> torch.Tensor:
    """Launch the kernel for these operands on torch's current stream; returns D.

    Raises ValueError for operands it cannot take. `tile` overrules the choice of the tile (for tuning).
    """
    for name, t in x._asdict().items():
        if t is not None or name in ("a", "b", "scale_a", "scale_b"):
            require_tensor(name, t)
    import torch

    out = x.out
    if out is None:
        if add:
            raise ValueError("accumulate adds to `out`: give it")
        out = torch.empty((*x.a.shape[:1], *x.b.shape[-2:-1]), dtype=torch.bfloat16, device=x.a.device)
        x = x._replace(out=out)
    # All that `check` and `prepare` look at: another tensor may come to lie at the same address.
    tensors = [None if t is None else (t.data_ptr(), t.dtype, t.shape, t.stride()) for t in x]
    key = (*tensors, scales, promote, add, tile)
    launch = _launches.get(key)
    if launch is None:
        if len(_launches) >= KEPT:
            _launches.clear()
        launch = _launches[key] = prepare(x, scales, promote, add, tile)
    launch(stream(x.a.device.index))
    return out


def prepare(x: Operands, scales: int, promote: int, add: bool, tile: Tile | None = None) -> Launch:
    """The launch for these operands, once they are checked."""
    check_device(x)
    check(x, scales, promote, add)
    assert x.out is not None
    (m, k), n = x.a.shape, x.b.shape[-2]
    groups = x.b.shape[0] if x.b.dim() == 3 else 0
    multiprocessors = _multiprocessors(x.a.device.index)
    problem = Problem(m, n, k, groups, scales, promote, x.out.element_size(), add)
    tile = (tile or choose(problem, multiprocessors)).sized
    a_box = (128, tile.bm // (tile.sharers if tile.share == 1 else 1))
    b_box = (128, tile.bn // (tile.sharers if tile.share == 2 else 1))
    d_kind, d_box = "bf16" if tile.out == 2 else "fp32", (tile.box_columns, 64)
    maps = [
        tensor_map(x.a.data_ptr(), k, m, x.a.stride(0), a_box, "e4m3", 128),
        tensor_map(x.b.data_ptr(), k, max(groups, 1) * n, k, b_box, "e4m3", 128),
        tensor_map(x.out.data_ptr(), n, m, n * tile.out, d_box, d_kind, tile.box_columns * tile.out),
        _scales_map(x.scale_a, m, tile.scale_box) if scales else TensorMap(),
        _scales_map(x.scale_b, n, tile.bn) if scales == 2 else TensorMap(),
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
    return _kernel(tile).launch((tile.ctas(problem, multiprocessors), 1), [*maps, arguments], tile.shared_bytes(groups))


def _scales_map(scales: torch.Tensor, rows: int, box: int) -> TensorMap:
    return tensor_map(scales.data_ptr(), rows, scales.shape[0], scales.stride(0) * 4, (box, 1), "fp32", 0)


@cache
def _kernel(tile: Tile) -> Kernel:
    return Kernel(compiled(tile.source), "run", tile.threads, tile.cluster)


@cache
def _multiprocessors(device: int) -> int:
    import torch

    return int(torch.cuda.get_device_properties(device).multi_processor_count)


def require(condition: bool, message: str) -> None:
    """Raises ValueError with the message unless the condition holds."""
    if not condition:
        raise ValueError(message)


def check_device(x: Operands) -> None:
    """Raises ValueError for operands that are not all on the current GPU, or where that is not Hopper's."""
    import torch

    for name, t in _given(x):
        require(t.is_cuda, f"{name} is on {t.device}: all operands belong on one NVIDIA GPU")
        require(t.device == x.a.device, f"{name} is on {t.device}, a on {x.a.device}")
    current = torch.cuda.current_device()
    require(
        x.a.device.index == current,
        f"a is on {x.a.device}, the current GPU is cuda:{current}: torch.cuda.device changes it",
    )
    require(
        torch.cuda.get_device_capability(x.a.device)[0] == 9,
        "these kernels run on Hopper (compute capability 9.0) only",
    )


def _given(x: Operands) -> list[tuple[str, Any]]:
    return [(name, t) for name, t in x._asdict().items() if t is not None]


def check(x: Operands, scales: int, promote: int, add: bool) -> None:
    """Raises ValueError, saying what is wrong and what would be right, for operands the kernels cannot take."""
    import torch

    for name, t in _given(x):
        require(t.data_ptr() % 16 == 0, f"{name} starts at an address that is no multiple of 16 bytes")
    require(x.a.dim() == 2, f"a has {x.a.dim()} dimensions: (M, K) is right")
    require(
        x.b.dim() == (2 if x.starts is None else 3), f"b has {x.b.dim()} dimensions: (N, K), or (G, N, K) for groups"
    )
    for name, t in (("a", x.a), ("b", x.b)):
        require(
            t.dtype == torch.float8_e4m3fn, f"{name} is {t.dtype}: E4M3 (torch.float8_e4m3fn) is what the kernels read"
        )
        require(t.stride(-1) == 1, f"{name} is not contiguous along K: Hopper's FP8 wgmma reads K-major operands only")
    require(x.b.is_contiguous(), "b is not contiguous")
    (m, k), n = x.a.shape, x.b.shape[-2]
    require(x.b.shape[-1] == k, f"a has K = {k}, b K = {x.b.shape[-1]}")
    require(m > 0 and n > 0 and k > 0, f"an empty GEMM: {m} x {n} x {k}")
    require(x.b.shape[0] > 0, "no groups: b is (0, N, K)")
    require(k % 16 == 0, f"K = {k}: bulk copies want rows of a multiple of 16 bytes")
    pitch = x.a.stride(0)
    require(
        pitch % 16 == 0 and pitch >= k, f"rows of a lie {pitch} bytes apart: a multiple of 16, at least K, is right"
    )
    require(n % 8 == 0, f"N = {n}: a multiple of 8 is right")
    assert x.out is not None
    require(tuple(x.out.shape) == (m, n), f"out is {tuple(x.out.shape)}: ({m}, {n}) is right")
    require(x.out.is_contiguous(), "out is not contiguous")
    require(x.out.dtype in (torch.bfloat16, torch.float32), f"out is {x.out.dtype}: BF16 or FP32 is right")
    require(not add or x.out.dtype == torch.float32, "accumulation is in FP32: out must be float32")
    intervals = {0: (0, 1, 2, 4, 8, 16), 1: (0, 1, 2, 4), 2: (0, 4)}[scales]
    require(promote in intervals, f"promote = {promote * 32}: one of {[32 * i for i in intervals[1:]]} is right")
    groups_of_k = -(-k // 128)
    for name, t in (("scale_a", x.scale_a), ("scale_b", x.scale_b)):
        require(t.dtype == torch.float32, f"{name} is {t.dtype}: FP32 is right")
    if scales == 0:
        require(x.scale_a.numel() == x.scale_b.numel() == 1, "native takes one scale for A and one for B")
        return
    columns = [("scale_a", x.scale_a, m)] + ([("scale_b", x.scale_b, n)] if scales == 2 else [])
    for name, t, rows in columns:
        require(tuple(t.shape) == (groups_of_k, rows), f"{name} is {tuple(t.shape)}: ({groups_of_k}, {rows}) is right")
        require(
            t.stride(1) == 1 and t.stride(0) % 4 == 0 and t.stride(0) >= rows,
            f"{name} has strides {t.stride()}: rows contiguous, pitch a multiple of 4, is right",
        )
    if scales == 1:
        shape = (*x.b.shape[:-2], -(-n // 128), groups_of_k)
        require(tuple(x.scale_b.shape) == shape, f"scale_b is {tuple(x.scale_b.shape)}: {shape} is right")
        require(x.scale_b.is_contiguous(), "scale_b is not contiguous")
    for name, extra in (("starts", x.starts), ("counts", x.counts)):
        if extra is not None:
            require(
                extra.dtype == torch.int32 and extra.shape == (x.b.shape[0],) and extra.is_contiguous(),
                f"{name}: int32 ({x.b.shape[0]},), contiguous, is right",
            )
            require(x.b.shape[0] <= MAX_GROUPS, f"{x.b.shape[0]} groups: at most {MAX_GROUPS}")
