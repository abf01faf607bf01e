"""Online quantisation: the casts that today's GPU computes in software to give a GEMM group-scaled FP8 operands.

    a = rows(x)                        # BF16 (m, k) -> E4M3 with 1x128 scales: A of the forward GEMM
    a, a_t = both(x)                   # the same and E4M3 of x^T with 128x1 scales of x, for wgrad, from one read
    w = blocks(weight)                 # 128x128 scales: B
    a = swiglu(gate, up)               # silu(gate) * up, quantised without a pass through memory
    a_t = requantise(*a)               # FP8 to FP8, transposed: 1x128 scales become 128x1
    packed = pack_e5m6(x)              # 12 bits per element, for activations kept until the backward pass
    buffer = dispatch(x, tokens)       # rows gathered for sending, codes and scales together

Every result equals `isa_model.cast.quantise` bit for bit, with the `Cast` and the values that the function names. A group with
a NaN or an infinity gets a NaN scale and NaN codes. NaN codes are canonical.

Layouts. Codes (`torch.float8_e4m3fn`) are (m, k) with k contiguous, transposed ones (k, m); rows start at multiples of 16
bytes. Scales of 1x128 groups are FP32 (ceil(k / 128), m) with m contiguous; rows start at multiples of 16 bytes, so that TMA
can load them, and are padded with the scale of a zero group. Scales of 128x128 blocks are FP32 (ceil(m / 128), ceil(k / 128)).
Inputs may have any row stride that is a multiple of 16 bytes.

All functions work on torch tensors on the current CUDA device and stream. They allocate nothing if `out` is given, and raise
ValueError for a shape, dtype, alignment or device that they cannot take. They need the extra `kernels` and a Hopper GPU.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

from kernels.launch import Launch, require_tensor, stream
from kernels.quantise import build, layout
from kernels.quantise.build import Choice
from kernels.quantise.layout import QuantisedTensor, empty_blocks, empty_dispatch, empty_e5m6, empty_rows

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "QuantisedTensor",
    "blocks",
    "blocks_both",
    "both",
    "columns",
    "dispatch",
    "empty_blocks",
    "empty_dispatch",
    "empty_e5m6",
    "empty_rows",
    "pack_e5m6",
    "requantise",
    "rows",
    "sent",
    "swiglu",
    "unpack_e5m6",
]

# -- BF16 to E4M3 ----------------------------------------------------------------------------------------------------


def rows(x: Tensor, power_of_2: bool = False, out: QuantisedTensor | None = None) -> QuantisedTensor:
    """Quantise BF16 `x` (m, k), k a multiple of 8, to E4M3 with 1x128 scales.

    This is `Cast()`; with `power_of_2`, scales are rounded up to powers of two: `Cast(scale=ue8m0)`.
    """
    return _one(x, power_of_2, out)


def columns(x: Tensor, power_of_2: bool = False, out: QuantisedTensor | None = None) -> QuantisedTensor:
    """Quantise BF16 `x` (m, k) to E4M3 with 128x1 scales and return it transposed, (k, m), for wgrad.

    This is `Cast(group=(128, 1))`, transposed.
    """
    return _one(x, power_of_2, out, columns=True)


def blocks(x: Tensor, power_of_2: bool = False, out: QuantisedTensor | None = None) -> QuantisedTensor:
    """Quantise BF16 `x` (m, k) to E4M3 with 128x128 scales: `Cast(group=(128, 128))`."""
    return _one(x, power_of_2, out, blocks=True)


def both(
    x: Tensor, power_of_2: bool = False, out: tuple[QuantisedTensor, QuantisedTensor] | None = None
) -> tuple[QuantisedTensor, QuantisedTensor]:
    """Return `rows(x)` and `columns(x)` from one read of `x`."""
    return _two(x, power_of_2, out)


def blocks_both(
    x: Tensor, power_of_2: bool = False, out: tuple[QuantisedTensor, QuantisedTensor] | None = None
) -> tuple[QuantisedTensor, QuantisedTensor]:
    """Return `blocks(x)` and its transpose (k, m) from one read: a weight for the forward GEMM and for dgrad."""
    return _two(x, power_of_2, out, blocks=True)


def _one(x: Any, power_of_2: bool, out: Any, *, columns: bool = False, blocks: bool = False) -> QuantisedTensor:
    """Run a cast of BF16 `x` that writes one layout."""
    empty, check = (empty_blocks, layout.check_blocks) if blocks else (empty_rows, layout.check_rows)
    if out is None:
        m, k = layout.check_matrix("x", x)
        out = empty(k, m) if columns else empty(m, k)
    written = layout.check_pair("out", out)

    def prepare() -> Launch:
        m, k = layout.check_matrix("x", x)
        choice = _choice(rows=not columns, columns=columns, blocks=blocks, power_of_2=power_of_2)
        if columns:
            check("out", written, k, m)
            return _tile(choice, m, k, x, None, written)
        check("out", written, m, k)
        return _tile(choice, m, k, x, written)

    _run(("one", columns, blocks, power_of_2), (x, *written), prepare)
    return written


def _two(x: Any, power_of_2: bool, out: Any, *, blocks: bool = False) -> tuple[QuantisedTensor, QuantisedTensor]:
    """Run a cast of BF16 `x` that writes codes as they are and transposed."""
    empty, check = (empty_blocks, layout.check_blocks) if blocks else (empty_rows, layout.check_rows)
    if out is None:
        m, k = layout.check_matrix("x", x)
        out = empty(m, k), empty(k, m)
    first, second = layout.check_pairs(out)

    def prepare() -> Launch:
        m, k = layout.check_matrix("x", x)
        check("out[0]", first, m, k)
        check("out[1]", second, k, m)
        choice = _choice(rows=True, columns=True, blocks=blocks, power_of_2=power_of_2)
        return _tile(choice, m, k, x, first, second)

    _run(("two", blocks, power_of_2), (x, *first, *second), prepare)
    return first, second


# -- fused with the computation before -------------------------------------------------------------------------------


def swiglu(gate: Tensor, up: Tensor, power_of_2: bool = False, out: QuantisedTensor | None = None) -> QuantisedTensor:
    """Quantise silu(gate) * up, kept in FP32, as `rows` does. `isa_model.swiglu.swiglu` defines every step.

    `gate` and `up` are BF16 (m, k), and may be halves of one matrix.
    """
    written = empty_rows(*layout.check_matrix("gate", gate)) if out is None else layout.check_pair("out", out)

    def prepare() -> Launch:
        m, k = layout.check_matrix("gate", gate)
        if layout.check_matrix("up", up) != (m, k):
            raise ValueError(f"gate and up must have one shape; got {m} x {k} and {tuple(up.shape)}")
        layout.check_rows("out", written, m, k)
        choice = _choice("SWIGLU", rows=True, power_of_2=power_of_2)
        return _tile(choice, m, k, gate, written, None, (up.data_ptr(), up.stride(0) * 2))

    _run(("swiglu", power_of_2), (gate, up, *written), prepare)
    return written


def requantise(
    codes: Tensor, scales: Tensor, power_of_2: bool = False, out: QuantisedTensor | None = None
) -> QuantisedTensor:
    """Convert the result of `rows` for an (m, k) matrix to that of `columns`, FP8 to FP8, without the BF16 original.

    This is `Cast(group=(128, 1))` of codes * scales, rounded to FP32 once, transposed. With `power_of_2`, the given scales
    must be powers of two, too (any other scale gives NaN), and only elements that underflow change.
    """
    if out is None:
        m, k = layout.check_matrix("codes", codes, "float8_e4m3fn", 8)
        out = empty_rows(k, m)
    written = layout.check_pair("out", out)

    def prepare() -> Launch:
        m, k = layout.check_matrix("codes", codes, "float8_e4m3fn", 8)
        layout.check_scales("scales", scales, m, k)
        layout.check_rows("out", written, k, m)
        choice = _choice("E4M3", columns=True, power_of_2=power_of_2)
        return _tile(choice, m, k, codes, None, written, (scales.data_ptr(), scales.stride(0)))

    _run(("requantise", power_of_2), (codes, scales, *written), prepare)
    return written


# -- 12 bits for what is kept, 8 for what is sent --------------------------------------------------------------------


def pack_e5m6(x: Tensor, out: QuantisedTensor | None = None) -> QuantisedTensor:
    """Quantise BF16 `x` (m, k), k a multiple of 32, to E5M6 with power-of-two 1x128 scales, two codes in three bytes.

    This is `Cast(to=e5m6, scale=ue8m0)` with the codes packed by `isa_model.array_codec.pack`: uint8 (m, k * 3 / 2).
    """
    written = empty_e5m6(*layout.check_matrix("x", x, multiple=32)) if out is None else layout.check_pair("out", out)

    def prepare() -> Launch:
        m, k = layout.check_matrix("x", x, multiple=32)
        layout.check_output("out.codes", written.codes, (m, k * 3 // 2), "uint8", 16)
        layout.check_scales("out.scales", written.scales, m, k)
        return _tile(_choice("BF16", "E5M6", rows=True, power_of_2=True), m, k, x, written)

    _run(("pack_e5m6",), (x, *written), prepare)
    return written


def unpack_e5m6(packed: Tensor, scales: Tensor, out: Tensor | None = None) -> Tensor:
    """Convert the result of `pack_e5m6` to BF16 (m, k): code * scale rounded to nearest, exact unless it is subnormal."""
    import torch

    if out is None:
        m, width = layout.check_matrix("packed", packed, "uint8", multiple=48)
        out = torch.empty((m, width * 2 // 3), dtype=torch.bfloat16, device=layout.DEVICE)

    def prepare() -> Launch:
        m, width = layout.check_matrix("packed", packed, "uint8", multiple=48)
        k = width * 2 // 3
        layout.check_scales("scales", scales, m, k)
        layout.check_output("out", out, (m, k), "bfloat16", 16)
        read = (packed.data_ptr(), packed.stride(0), scales.data_ptr(), scales.stride(0))
        grid = (layout.groups(k), -(-m // 64))
        return build.unpack_kernel().launch(grid, _numbers(m, k, *read, out.data_ptr(), out.stride(0) * 2))

    _run(("unpack_e5m6",), (packed, scales, out), prepare)
    return out


def dispatch(x: Tensor, tokens: Tensor, out: Tensor | None = None) -> Tensor:
    """Quantise rows `tokens` (int32, n) of BF16 `x` (m, k) into a buffer for sending, with power-of-two 1x128 scales.

    The buffer is uint8 (n, bytes per row): k codes of E4M3, a UE8M0 code per 128 of them, padding to 16 bytes; `sent` splits
    it. A token may occur any number of times; one outside x gives a row of zeros. This is `Cast(scale=ue8m0)` of the rows.
    """

    def checked() -> tuple[int, int, int]:
        m, k = layout.check_matrix("x", x)
        require_tensor("tokens", tokens)
        import torch

        contiguous = tokens.dim() == 1 and tokens.is_contiguous()
        if tokens.dtype is not torch.int32 or not contiguous or tokens.device != x.device:
            raise ValueError(
                f"tokens must be a contiguous int32 vector on the device of x; got {layout.describe(tokens)}"
            )
        return m, k, tokens.shape[0]

    if out is None:
        _, k, n = checked()
        out = empty_dispatch(n, k)

    def prepare() -> Launch:
        m, k, n = checked()
        layout.check_output("out", out, (n, layout.dispatch_bytes(k)), "uint8", 8)
        choice = _choice(rows=True, power_of_2=True, send=True)
        return _tile(choice, n, k, x, out, None, (tokens.data_ptr(), m))

    _run(("dispatch",), (x, tokens, out), prepare)
    return out


def sent(buffer: Tensor, k: int) -> QuantisedTensor:
    """Return views of a buffer of `dispatch`: E4M3 codes (n, k), and UE8M0 scales (n, ceil(k / 128)) as uint8."""
    require_tensor("buffer", buffer)
    import torch

    if buffer.dtype is not torch.uint8 or buffer.dim() != 2 or not 0 < k <= k + layout.groups(k) <= buffer.shape[1]:
        raise ValueError(f"buffer must be what dispatch returns for k = {k}; got {layout.describe(buffer)}")
    return QuantisedTensor(buffer[:, :k].view(torch.float8_e4m3fn), buffer[:, k : k + layout.groups(k)])


def launch_twin(choice: Choice, x: Tensor, second: Tensor | None = None, *, out: Any) -> None:
    """Launch the timing twin of a choice on operands and outputs of its function, unchecked. The output is wrong by design."""

    def prepare() -> Launch:
        address, pitch = 0, 0
        if second is not None:
            address, pitch = second.data_ptr(), x.shape[0] if choice.send else second.stride(0) * 2
        first, turned = out if choice.columns and choice.rows else (None, out) if choice.columns else (out, None)
        m = second.shape[0] if choice.send and second is not None else x.shape[0]
        return _tile(choice, m, x.shape[1], x, first, turned, (address, pitch))

    parts = out if isinstance(out, tuple) else (out,)
    written = [t for part in parts for t in (part if isinstance(part, tuple) else (part,))]
    _run((choice,), (x, *([] if second is None else [second]), *written), prepare)


# -- launching -------------------------------------------------------------------------------------------------------

KEPT = 4096
"""Most launches kept; beyond that all are dropped. Operands are checked when a launch is made."""
_launches: dict[tuple[Any, ...], Launch] = {}
_choice = cache(Choice)


def _run(what: tuple[Any, ...], tensors: tuple[Any, ...], prepare: Callable[[], Launch]) -> None:
    """Launch on torch's current stream; reuse the launch that `prepare` made for the same memory, shapes and dtypes."""
    try:
        key = (what, *[(t.data_ptr(), t.shape, t.stride(), t.dtype) for t in tensors])
    except (AttributeError, TypeError, RuntimeError):  # not all are dense tensors; `prepare` reports which
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
    x: Tensor,
    rows: QuantisedTensor | Tensor | None,
    turned: QuantisedTensor | None = None,
    second: tuple[int, int] = (0, 0),
) -> Launch:
    """Return a launch of the tile kernel on checked operands; `second` is address and pitch of the other operand."""
    numbers = (m, k, x.data_ptr(), x.stride(0) * x.element_size(), *second, *_addresses(rows), *_addresses(turned))
    return build.kernel(choice).launch(choice.grid(m, k), _numbers(*numbers))


def _numbers(*numbers: int) -> list[Any]:
    """Return `Arguments` of the CUDA text, its one parameter: a structure of 8-byte numbers and addresses."""
    return [(ctypes.c_longlong * len(numbers))(*numbers)]


def _addresses(out: QuantisedTensor | Tensor | None) -> tuple[int, int, int, int]:
    """Return address and pitch of codes and of scales; zero for none."""
    if out is None:
        return 0, 0, 0, 0
    if not isinstance(out, tuple):
        return out.data_ptr(), out.stride(0), 0, 0
    codes, scales = out
    return codes.data_ptr(), codes.stride(0), scales.data_ptr(), scales.stride(0)
