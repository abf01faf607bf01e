"""Layouts of codes and scales: uninitialised outputs, and checks of inputs and outputs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from kernels.launch import require_tensor

if TYPE_CHECKING:
    import torch

DEVICE = "cuda"
GROUP = 128
"""Elements that share a scale."""
MOST = (1_000_000, 4_000_000)
"""Most rows and columns. A grid is at most 65,535 CTAs high, and a CTA covers at least 16 rows."""


class QuantisedTensor(NamedTuple):
    """A quantised matrix: x = codes * scales, group by group."""

    codes: torch.Tensor
    scales: torch.Tensor


def empty_rows(m: int, k: int) -> QuantisedTensor:
    """Return uninitialised output of `rows` for an (m, k) matrix, or of `columns` for a (k, m) matrix."""
    import torch

    codes = torch.empty((m, padded(k, 16)), dtype=torch.float8_e4m3fn, device=DEVICE)
    scales = torch.empty((groups(k), padded(m, 4)), dtype=torch.float32, device=DEVICE)
    return QuantisedTensor(codes[:, :k] if k % 16 else codes, scales[:, :m] if m % 4 else scales)


def empty_blocks(m: int, k: int) -> QuantisedTensor:
    """Return uninitialised output of `blocks` for an (m, k) matrix."""
    import torch

    scales = torch.empty((groups(m), groups(k)), dtype=torch.float32, device=DEVICE)
    return QuantisedTensor(empty_rows(m, k).codes, scales)


def empty_e5m6(m: int, k: int) -> QuantisedTensor:
    """Return uninitialised output of `pack_e5m6` for an (m, k) matrix."""
    import torch

    codes = torch.empty((m, k * 3 // 2), dtype=torch.uint8, device=DEVICE)
    return QuantisedTensor(codes, empty_rows(m, k).scales)


def empty_dispatch(n: int, k: int) -> torch.Tensor:
    """Return uninitialised output of `dispatch` for n rows of k columns."""
    import torch

    return torch.empty((n, dispatch_bytes(k)), dtype=torch.uint8, device=DEVICE)


def groups(size: int) -> int:
    """Return the groups along a dimension."""
    return -(-size // GROUP)


def padded(size: int, multiple: int) -> int:
    """Round a size up to a multiple."""
    return -(-size // multiple) * multiple


def dispatch_bytes(k: int) -> int:
    """Return the bytes of a row of `dispatch`: codes, UE8M0 scales and padding."""
    return padded(k + groups(k), 16)


# -- checks ----------------------------------------------------------------------------------------------------------


def describe(x: torch.Tensor) -> str:
    """Describe a tensor for a message."""
    return f"{x.dtype} {tuple(x.shape)} with strides {x.stride()} on {x.device}"


def check_pair(name: str, out: Any) -> QuantisedTensor:
    """Return a given output as codes and scales. Raises ValueError unless it is a pair."""
    if not isinstance(out, tuple | list) or len(out) != 2:
        raise ValueError(f"{name} must be a pair of codes and scales; got {type(out).__name__}")
    return QuantisedTensor(*out)


def check_pairs(out: Any) -> tuple[QuantisedTensor, QuantisedTensor]:
    """Return two given outputs. Raises ValueError unless they are two pairs."""
    if not isinstance(out, tuple | list) or len(out) != 2:
        raise ValueError(f"out must be two pairs of codes and scales; got {type(out).__name__}")
    return check_pair("out[0]", out[0]), check_pair("out[1]", out[1])


def check_matrix(name: str, x: Any, dtype: str = "bfloat16", aligned: int = 16, multiple: int = 8) -> tuple[int, int]:
    """Return the shape of a matrix. Raises ValueError unless the kernels can read it.

    Rows must start at multiples of `aligned` bytes; the columns must be a multiple of `multiple`.
    """
    require_tensor(name, x)
    import torch

    shape = x.shape
    if x.dtype is not getattr(torch, dtype) or len(shape) != 2:
        raise ValueError(f"{name} must be a matrix of {dtype}; got {describe(x)}")
    m, k = shape
    if k == 0 or k % multiple:
        raise ValueError(f"{name} must have a multiple of {multiple} columns; got {describe(x)}")
    _check_placement(name, x, aligned)
    return m, k


def check_output(name: str, x: Any, shape: tuple[int, int], dtype: str, aligned: int) -> None:
    """Raise ValueError unless a kernel can write a matrix of this shape to `x`."""
    require_tensor(name, x)
    import torch

    if x.dtype is not getattr(torch, dtype) or x.shape != shape or (x.stride(0) < shape[1] and shape[0] > 1):
        raise ValueError(f"{name} must be {dtype} {shape}; got {describe(x)}")
    _check_placement(name, x, aligned)


def check_scales(name: str, x: Any, m: int, k: int) -> None:
    """Raise ValueError unless `x` can hold the scales of 1x128 groups of an (m, k) matrix."""
    check_output(name, x, (groups(k), m), "float32", 16)


def check_rows(name: str, out: QuantisedTensor, m: int, k: int) -> None:
    """Raise ValueError unless `out` has the layout of `rows`; the kernels also write the padding up to 16 bytes."""
    check_output(f"{name}.codes", out.codes, (m, k), "float8_e4m3fn", 16)
    check_scales(f"{name}.scales", out.scales, m, k)


def check_blocks(name: str, out: QuantisedTensor, m: int, k: int) -> None:
    """Raise ValueError unless `out` has the layout of `blocks`."""
    check_output(f"{name}.codes", out.codes, (m, k), "float8_e4m3fn", 16)
    check_output(f"{name}.scales", out.scales, (groups(m), groups(k)), "float32", 4)


def _check_placement(name: str, x: torch.Tensor, aligned: int) -> None:
    if not is_current(x.get_device()):
        raise ValueError(f"{name} must be on the current CUDA device; got {describe(x)}")
    if x.shape[0] > MOST[0] or x.shape[1] > MOST[1]:
        raise ValueError(f"{name} must have at most {MOST[0]} rows and {MOST[1]} columns; got {describe(x)}")
    across, along = x.stride()
    if x.numel() and (along != 1 or across * x.element_size() % aligned or x.data_ptr() % aligned):
        raise ValueError(
            f"{name} must have contiguous rows that start at multiples of {aligned} bytes; got {describe(x)}"
        )


def is_current(device: int) -> bool:
    """Return whether a tensor's device index is the current GPU; it is negative on a CPU."""
    import torch

    return device >= 0 and device == torch.cuda.current_device()
