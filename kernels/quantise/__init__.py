"""Online quantisation: what today's GPU does in software so that a GEMM can have group-scaled FP8 operands.

    a = rows(x)                        # BF16 (m, k) -> E4M3, 1x128 scales: A of the forward GEMM
    a, a_t = both(x)                   # one read: that, and E4M3 of x^T with 128x1 scales of x, for wgrad
    w = blocks(weight)                 # 128x128 scales: B
    a = swiglu(gate, up)               # silu(gate) * up, quantised without a visit to memory
    a_t = requantise(*a)               # FP8 to FP8, transposed: 1x128 scales become 128x1
    packed = pack_e5m6(x)              # 12 bits an element, for activations kept until the backward pass
    buffer = dispatch(x, tokens)       # rows gathered for sending, codes and scales together

Every result equals `isa_model` bit for bit: `isa_model.cast.quantise` of the `Cast` that a function names, of the numbers it
names. A group that holds a NaN or an infinity has a NaN scale and NaN codes. NaN codes are the canonical one.

Layouts. Codes (`torch.float8_e4m3fn`) are (m, k) with k contiguous, transposed ones (k, m); rows start at multiples of 16
bytes. Scales of 1x128 groups are FP32 (ceil(k / 128), m), m contiguous, their rows at multiples of 16 bytes too so that TMA can
load them, filled up with scales of zero groups; scales of 128x128 blocks are FP32 (ceil(m / 128), ceil(k / 128)). Matrices
that are read may have any row stride of whole 16 bytes.

All functions work on torch tensors on the current CUDA device and stream, allocate only what `out` does not give, and
raise ValueError for what they cannot do (shape, dtype, alignment, device). Needs the extra `kernels` and a Hopper GPU.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

from kernels.launch import Launch, require_tensor, stream
from kernels.quantise import build
from kernels.quantise.build import Choice

DEVICE = "cuda"
GROUP = 128
"""Elements that share a scale."""
MOST = (1_000_000, 4_000_000)
"""Rows and columns: a grid is at most 65,535 high, of 16 rows at least."""


class Quantised(NamedTuple):
    """Codes and scales: x = codes * scales, group by group."""

    codes: Any
    scales: Any


def empty_rows(m: int, k: int) -> Quantised:
    """Uninitialised output of `rows` for an (m, k) matrix; of `columns` for a (k, m) one."""
    import torch

    codes = torch.empty((m, _filled(k, 16)), dtype=torch.float8_e4m3fn, device=DEVICE)
    scales = torch.empty((_groups(k), _filled(m, 4)), dtype=torch.float32, device=DEVICE)
    return Quantised(codes[:, :k] if k % 16 else codes, scales[:, :m] if m % 4 else scales)


def empty_blocks(m: int, k: int) -> Quantised:
    """Uninitialised output of `blocks` for an (m, k) matrix."""
    import torch

    return Quantised(empty_rows(m, k).codes, torch.empty((_groups(m), _groups(k)), dtype=torch.float32, device=DEVICE))


def empty_e5m6(m: int, k: int) -> Quantised:
    """Uninitialised output of `pack_e5m6` for an (m, k) matrix."""
    import torch

    return Quantised(torch.empty((m, k * 3 // 2), dtype=torch.uint8, device=DEVICE), empty_rows(m, k).scales)


def empty_dispatch(n: int, k: int) -> Any:
    """Uninitialised output of `dispatch` for n rows of k."""
    import torch

    return torch.empty((n, _filled(k + _groups(k), 16)), dtype=torch.uint8, device=DEVICE)


# -- BF16 to E4M3 ----------------------------------------------------------------------------------------------------


def rows(x: Any, power_of_2: bool = False, out: Quantised | None = None) -> Quantised:
    """E4M3 of BF16 `x` (m, k), k a multiple of 8, a scale for each 1x128: `Cast()`; with powers of two `Cast(scale=ue8m0)`."""
    out = empty_rows(*_matrix("x", x, "bfloat16")) if out is None else _pair("out", out)

    def prepare() -> Launch:
        m, k = _matrix("x", x, "bfloat16")
        _as_rows("out", out, m, k)
        return _tile(_choice(rows=True, power_of_2=power_of_2), m, k, x, out)

    _run(("rows", power_of_2), (x, *out), prepare)
    return out


def columns(x: Any, power_of_2: bool = False, out: Quantised | None = None) -> Quantised:
    """E4M3 of BF16 `x` (m, k) as (k, m), a scale for each 128x1 of x: `Cast(group=(128, 1))`, transposed. For wgrad."""
    out = empty_rows(*_matrix("x", x, "bfloat16")[::-1]) if out is None else _pair("out", out)

    def prepare() -> Launch:
        m, k = _matrix("x", x, "bfloat16")
        _as_rows("out", out, k, m)
        return _tile(_choice(columns=True, power_of_2=power_of_2), m, k, x, None, out)

    _run(("columns", power_of_2), (x, *out), prepare)
    return out


def both(
    x: Any, power_of_2: bool = False, out: tuple[Quantised, Quantised] | None = None
) -> tuple[Quantised, Quantised]:
    """`rows(x)` and `columns(x)` from one read of `x`."""
    first, second = _pair_of(empty_rows, *_matrix("x", x, "bfloat16")) if out is None else _two(out)

    def prepare() -> Launch:
        m, k = _matrix("x", x, "bfloat16")
        _as_rows("out[0]", first, m, k)
        _as_rows("out[1]", second, k, m)
        return _tile(_choice(rows=True, columns=True, power_of_2=power_of_2), m, k, x, first, second)

    _run(("both", power_of_2), (x, *first, *second), prepare)
    return first, second


def blocks(x: Any, power_of_2: bool = False, out: Quantised | None = None) -> Quantised:
    """E4M3 of BF16 `x` (m, k), a scale for each 128x128: `Cast(group=(128, 128))`."""
    out = empty_blocks(*_matrix("x", x, "bfloat16")) if out is None else _pair("out", out)

    def prepare() -> Launch:
        m, k = _matrix("x", x, "bfloat16")
        _as_blocks("out", out, m, k)
        return _tile(_choice(rows=True, blocks=True, power_of_2=power_of_2), m, k, x, out)

    _run(("blocks", power_of_2), (x, *out), prepare)
    return out


def blocks_both(
    x: Any, power_of_2: bool = False, out: tuple[Quantised, Quantised] | None = None
) -> tuple[Quantised, Quantised]:
    """`blocks(x)` and the same transposed, (k, m), from one read: a weight for the forward GEMM and for dgrad."""
    first, second = _pair_of(empty_blocks, *_matrix("x", x, "bfloat16")) if out is None else _two(out)

    def prepare() -> Launch:
        m, k = _matrix("x", x, "bfloat16")
        _as_blocks("out[0]", first, m, k)
        _as_blocks("out[1]", second, k, m)
        choice = _choice(rows=True, columns=True, blocks=True, power_of_2=power_of_2)
        return _tile(choice, m, k, x, first, second)

    _run(("blocks_both", power_of_2), (x, *first, *second), prepare)
    return first, second


# -- fused with what comes before ------------------------------------------------------------------------------------


def swiglu(gate: Any, up: Any, power_of_2: bool = False, out: Quantised | None = None) -> Quantised:
    """`rows` of silu(gate) * up, which stays in FP32: `isa_model.swiglu.swiglu` says every step. BF16 (m, k) each.

    `gate` and `up` may be halves of one matrix.
    """
    out = empty_rows(*_matrix("gate", gate, "bfloat16")) if out is None else _pair("out", out)

    def prepare() -> Launch:
        m, k = _matrix("gate", gate, "bfloat16")
        if _matrix("up", up, "bfloat16") != (m, k):
            raise ValueError(f"gate and up must have one shape; got {m} x {k} and {tuple(up.shape)}")
        _as_rows("out", out, m, k)
        choice = _choice("SWIGLU", rows=True, power_of_2=power_of_2)
        return _tile(choice, m, k, gate, out, None, (up.data_ptr(), up.stride(0) * 2))

    _run(("swiglu", power_of_2), (gate, up, *out), prepare)
    return out


def requantise(codes: Any, scales: Any, power_of_2: bool = False, out: Quantised | None = None) -> Quantised:
    """FP8 to FP8: from what `rows` returns of an (m, k) matrix to what `columns` returns, without the BF16 original.

    `Cast(group=(128, 1))` of codes * scales (rounded to FP32 once), transposed. With `power_of_2` the given scales must be
    powers of two as well (one that is not makes NaN of what it scales); then only elements that underflow change.
    """
    out = empty_rows(*_matrix("codes", codes, "float8_e4m3fn", 8)[::-1]) if out is None else _pair("out", out)

    def prepare() -> Launch:
        m, k = _matrix("codes", codes, "float8_e4m3fn", 8)
        _scales("scales", scales, m, k)
        _as_rows("out", out, k, m)
        choice = _choice("E4M3", columns=True, power_of_2=power_of_2)
        return _tile(choice, m, k, codes, None, out, (scales.data_ptr(), scales.stride(0)))

    _run(("requantise", power_of_2), (codes, scales, *out), prepare)
    return out


# -- 12 bits for what is kept, 8 for what is sent --------------------------------------------------------------------


def pack_e5m6(x: Any, out: Quantised | None = None) -> Quantised:
    """E5M6 of BF16 `x` (m, k), two codes in three bytes, power-of-two scales of 1x128; k a multiple of 32.

    `Cast(to=e5m6, scale=ue8m0)`, its codes packed by `isa_model.array_codec.pack`: uint8 (m, k * 3 / 2).
    """
    out = empty_e5m6(*_matrix("x", x, "bfloat16", multiple=32)) if out is None else _pair("out", out)

    def prepare() -> Launch:
        m, k = _matrix("x", x, "bfloat16", multiple=32)
        _output("out.codes", out.codes, (m, k * 3 // 2), "uint8", 16)
        _scales("out.scales", out.scales, m, k)
        return _tile(_choice("BF16", "E5M6", rows=True, power_of_2=True), m, k, x, out)

    _run(("pack_e5m6",), (x, *out), prepare)
    return out


def unpack_e5m6(packed: Any, scales: Any, out: Any = None) -> Any:
    """BF16 (m, k) of what `pack_e5m6` returns: the product rounded to nearest, exact unless its result is subnormal."""
    import torch

    if out is None:
        m, width = _matrix("packed", packed, "uint8", multiple=48)
        out = torch.empty((m, width * 2 // 3), dtype=torch.bfloat16, device=DEVICE)

    def prepare() -> Launch:
        m, width = _matrix("packed", packed, "uint8", multiple=48)
        k = width * 2 // 3
        _scales("scales", scales, m, k)
        _output("out", out, (m, k), "bfloat16", 16)
        read = (packed.data_ptr(), packed.stride(0), scales.data_ptr(), scales.stride(0))
        grid = (_groups(k), -(-m // 64))
        return build.unpack_kernel().launch(grid, _numbers(m, k, *read, out.data_ptr(), out.stride(0) * 2))

    _run(("unpack_e5m6",), (packed, scales, out), prepare)
    return out


def dispatch(x: Any, tokens: Any, out: Any = None) -> Any:
    """Rows `tokens` (int32, n) of BF16 `x` (m, k), quantised with power-of-two scales of 1x128, as a buffer to send.

    uint8 (n, row bytes): k codes of E4M3, then a UE8M0 code for each 128 of them, filled to 16 bytes; `sent` takes it apart.
    A token may occur any number of times; one outside x gives a row of zeros. `Cast(scale=ue8m0)` of the gathered rows.
    """
    import torch

    def checked() -> tuple[int, int, int]:
        m, k = _matrix("x", x, "bfloat16")
        require_tensor("tokens", tokens)
        if (
            tokens.dtype is not torch.int32
            or tokens.dim() != 1
            or not tokens.is_contiguous()
            or tokens.device != x.device
        ):
            raise ValueError(f"tokens must be a contiguous int32 vector beside x; got {_describe(tokens)}")
        return m, k, tokens.shape[0]

    if out is None:
        _, k, n = checked()
        out = empty_dispatch(n, k)

    def prepare() -> Launch:
        m, k, n = checked()
        _output("out", out, (n, _filled(k + _groups(k), 16)), "uint8", 8)
        choice = _choice(rows=True, power_of_2=True, send=True)
        return _tile(choice, n, k, x, Quantised(out, None), None, (tokens.data_ptr(), m))

    _run(("dispatch",), (x, tokens, out), prepare)
    return out


def sent(buffer: Any, k: int) -> Quantised:
    """Views of a buffer of `dispatch`: E4M3 codes (n, k) and UE8M0 scales (n, ceil(k / 128)) as uint8."""
    require_tensor("buffer", buffer)
    import torch

    if buffer.dtype is not torch.uint8 or buffer.dim() != 2 or not 0 < k <= k + _groups(k) <= buffer.shape[1]:
        raise ValueError(f"buffer must be what dispatch returns for k = {k}; got {_describe(buffer)}")
    return Quantised(buffer[:, :k].view(torch.float8_e4m3fn), buffer[:, k : k + _groups(k)])


def twin(choice: Choice, x: Any, second: Any = None, *, out: Any) -> None:
    """The timing twin of a choice on operands and outputs of its function, unchecked. The output is wrong by design."""

    def prepare() -> Launch:
        first, turned = out if choice.columns and choice.rows else (None, out) if choice.columns else (out, None)
        if choice.send:
            first = Quantised(out, None)
        m = second.shape[0] if choice.send else x.shape[0]
        pitch = x.shape[0] if choice.send else second.stride(0) * 2 if second is not None else 0
        return _tile(choice, m, x.shape[1], x, first, turned, (second.data_ptr() if second is not None else 0, pitch))

    written = (
        [t for part in out for t in (part if isinstance(part, tuple) else (part,))] if isinstance(out, tuple) else [out]
    )
    _run((choice,), (x, *([] if second is None else [second]), *written), prepare)


# -- checks ----------------------------------------------------------------------------------------------------------


def _groups(size: int) -> int:
    return -(-size // GROUP)


def _filled(size: int, to: int) -> int:
    return -(-size // to) * to


def _pair(name: str, out: Any) -> Quantised:
    """A given output as codes and scales. Raises ValueError for what is no pair."""
    if not isinstance(out, tuple | list) or len(out) != 2:
        raise ValueError(f"{name} must be a pair of codes and scales; got {type(out).__name__}")
    return Quantised(*out)


def _two(out: Any) -> tuple[Quantised, Quantised]:
    """Two given outputs. Raises ValueError for what is no pair of pairs."""
    if not isinstance(out, tuple | list) or len(out) != 2:
        raise ValueError(f"out must be two pairs of codes and scales; got {type(out).__name__}")
    return _pair("out[0]", out[0]), _pair("out[1]", out[1])


def _describe(x: Any) -> str:
    return f"{x.dtype} {tuple(x.shape)} with strides {x.stride()} on {x.device}"


def _matrix(name: str, x: Any, dtype: str, aligned: int = 16, multiple: int = 8) -> tuple[int, int]:
    """Shape of a matrix that the kernels can read. Raises ValueError."""
    require_tensor(name, x)
    import torch

    shape = x.shape
    if x.dtype is not getattr(torch, dtype) or len(shape) != 2:
        raise ValueError(f"{name} must be a matrix of {dtype}; got {_describe(x)}")
    m, k = shape
    if k == 0 or k % multiple:
        raise ValueError(f"{name} must have a multiple of {multiple} columns; got {_describe(x)}")
    _lies_well(name, x, aligned)
    return m, k


def _output(name: str, x: Any, shape: tuple[int, int], dtype: str, aligned: int) -> None:
    """Raises ValueError unless a kernel can write a matrix of that shape there."""
    require_tensor(name, x)
    import torch

    if x.dtype is not getattr(torch, dtype) or x.shape != shape or (x.stride(0) < shape[1] and shape[0] > 1):
        raise ValueError(f"{name} must be {dtype} {shape}; got {_describe(x)}")
    _lies_well(name, x, aligned)


def _lies_well(name: str, x: Any, aligned: int) -> None:
    if not _here(x.get_device()):
        raise ValueError(f"{name} must be on the current CUDA device; got {_describe(x)}")
    if x.shape[0] > MOST[0] or x.shape[1] > MOST[1]:
        raise ValueError(f"{name} must have at most {MOST[0]} rows and {MOST[1]} columns; got {_describe(x)}")
    across, along = x.stride()
    if x.numel() and (along != 1 or across * x.element_size() % aligned or x.data_ptr() % aligned):
        raise ValueError(
            f"{name} must have contiguous rows that start at multiples of {aligned} bytes; got {_describe(x)}"
        )


def _here(device: int) -> bool:
    import torch

    return device >= 0 and device == torch.cuda.current_device()


def _scales(name: str, x: Any, m: int, k: int) -> None:
    _output(name, x, (_groups(k), m), "float32", 16)


def _as_rows(name: str, out: Quantised, m: int, k: int) -> None:
    """Rows are filled up to 16 bytes: writes go beyond the last column where that is no such multiple."""
    _output(f"{name}.codes", out.codes, (m, k), "float8_e4m3fn", 16)
    _scales(f"{name}.scales", out.scales, m, k)


def _as_blocks(name: str, out: Quantised, m: int, k: int) -> None:
    _output(f"{name}.codes", out.codes, (m, k), "float8_e4m3fn", 16)
    _output(f"{name}.scales", out.scales, (_groups(m), _groups(k)), "float32", 4)


# -- launching -------------------------------------------------------------------------------------------------------

KEPT = 4096
"""Launches that are kept; when there are more, all are forgotten. Operands are checked when a launch is made."""
_launches: dict[tuple[Any, ...], Launch] = {}
_choice = cache(Choice)


def _run(what: tuple[Any, ...], tensors: tuple[Any, ...], prepare: Callable[[], Launch]) -> None:
    """Run on torch's current stream what `prepare` makes, or what it made for the same memory, shapes and types before."""
    try:
        key = (what, *[(t.data_ptr(), t.shape, t.stride(), t.dtype) for t in tensors])
    except (AttributeError, TypeError, RuntimeError):  # of what is no dense tensor: `prepare` says which
        prepare()
        raise
    launch = _launches.get(key)
    if launch is None:
        launch = prepare()
        if len(_launches) >= KEPT:
            _launches.clear()
        _launches[key] = launch
    launch(stream(tensors[0].get_device()))


def _tile(
    choice: Choice,
    m: int,
    k: int,
    x: Any,
    rows: Quantised | None,
    turned: Quantised | None = None,
    second: tuple[int, int] = (0, 0),
) -> Launch:
    """A launch of the tile kernel on checked operands; `second` is the other operand's address and pitch."""
    numbers = (m, k, x.data_ptr(), x.stride(0) * x.element_size(), *second, *_addresses(rows), *_addresses(turned))
    return build.kernel(choice).launch(choice.grid(m, k), _numbers(*numbers))


def _numbers(*numbers: int) -> list[Any]:
    """`Arguments` of the kernels' text: a structure of 8-byte numbers and addresses, their one parameter."""
    return [(ctypes.c_longlong * len(numbers))(*numbers)]


def _addresses(out: Quantised | None) -> tuple[int, int, int, int]:
    if out is None:
        return 0, 0, 0, 0
    codes, scales = out
    if scales is None:
        return codes.data_ptr(), codes.stride(0), 0, 0
    return codes.data_ptr(), codes.stride(0), scales.data_ptr(), scales.stride(0)


def _pair_of(empty: Callable[[int, int], Quantised], m: int, k: int) -> tuple[Quantised, Quantised]:
    return empty(m, k), empty(k, m)
