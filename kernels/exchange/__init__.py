"""Expert-parallel dispatch and combine: rows of tokens go to the ranks that hold their experts, and results come back.

    route = route_tokens(choices, experts=256)                  # choices (tokens, 8): the experts of each token
    rows = exchange(pack(FP8, x, route.tokens), route.sends, route.receives)
    ...                                                         # the experts of this rank turn each row into a row of y
    rows = exchange(pack(LOGFMT10, y), route.receives, route.sends)
    x = add_up(LOGFMT10, rows, route.places, k=7168)

A token is sent once to each rank that holds at least one of its experts, its own rank included, as in DeepEP; the rank sends
back the sum over its experts. Rank r of R holds experts r E / R to (r + 1) E / R. Rows travel in a wire format
(wire.py) through torch.distributed's default group: NCCL between GPUs, gloo between CPUs. Numbers must be finite.

On a GPU, FP8 is packed by `kernels.quantise` and LogFMT by Triton (device.py); on a CPU isa_model does both.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from kernels.exchange.wire import BF16, FP8, LOGFMT8, LOGFMT10, WIRES, Wire

__all__ = [
    "BF16",
    "FP8",
    "LOGFMT8",
    "LOGFMT10",
    "WIRES",
    "TokenRoute",
    "Wire",
    "add_up",
    "exchange",
    "gemm_operands",
    "pack",
    "ranks_of_tokens",
    "route_tokens",
    "unpack",
]


class TokenRoute(NamedTuple):
    """Rows that this rank sends and receives in dispatch; combine swaps the two."""

    tokens: Any
    """Token of each row sent, int32, ordered by destination rank and then by token."""
    sends: list[int]
    """Rows sent to each rank."""
    receives: list[int]
    """Rows received from each rank."""
    places: Any
    """Row of each token among those sent to each rank, int32 (tokens, ranks); -1 where the token is not sent there."""


def ranks_of_tokens(choices: Any, experts: int, ranks: int) -> Any:
    """Return a mask of the ranks that each token goes to, bool (tokens, ranks), from its experts (tokens, top).

    Raises ValueError unless the ranks divide the experts.
    """
    import torch

    if experts % ranks:
        raise ValueError(f"{ranks} ranks do not divide {experts} experts")
    going = torch.zeros((len(choices), ranks), dtype=torch.bool, device=choices.device)
    return going.scatter_(1, choices.long() // (experts // ranks), True)


def route_tokens(choices: Any, experts: int) -> TokenRoute:
    """Return the rows that this rank sends and, after an exchange of counts, receives."""
    import torch
    import torch.distributed as dist

    going = ranks_of_tokens(choices, experts, dist.get_world_size())
    counts = going.sum(0)
    received = torch.empty_like(counts)
    dist.all_to_all_single(received, counts)
    places = going.T.flatten().cumsum(0).view(going.shape[1], -1).T - 1
    places = torch.where(going, places, -1).to(torch.int32).contiguous()
    return TokenRoute(going.T.nonzero()[:, 1].to(torch.int32).contiguous(), counts.tolist(), received.tolist(), places)


def pack(wire: Wire, x: Any, tokens: Any = None) -> Any:
    """Return BF16 rows of x (m, k), or its rows `tokens` (int32), as bytes (rows, row_bytes). BF16 itself is not copied."""
    import torch

    k = x.shape[1]
    if wire == FP8 and x.is_cuda:
        from kernels.quantise import dispatch

        wire.row_bytes(k)
        return dispatch(x, torch.arange(len(x), dtype=torch.int32, device=x.device) if tokens is None else tokens)
    if tokens is not None:
        x = x.index_select(0, tokens)
    if wire == BF16:
        return x.contiguous().view(torch.uint8)
    if not x.is_cuda:
        return torch.from_numpy(wire.encode(x.float().numpy()))
    from kernels.exchange.device import encode_log

    out = torch.empty((len(x), wire.row_bytes(k)), dtype=torch.uint8, device=x.device)
    encode_log(wire, x, out)
    return out


def exchange(rows: Any, sends: list[int], receives: list[int]) -> Any:
    """Send consecutive `rows` (uint8), `sends` of them to each rank, and return the rows received, ordered by rank."""
    import torch.distributed as dist

    out = rows.new_empty((sum(receives), rows.shape[1]))
    dist.all_to_all_single(out, rows, receives, sends)
    return out


def unpack(wire: Wire, rows: Any, k: int) -> Any:
    """Return the numbers of rows of bytes as FP32 (rows, k)."""
    import torch

    places = torch.arange(len(rows), dtype=torch.int32, device=rows.device)[:, None]
    return add_up(wire, rows, places, k, torch.empty((len(rows), k), dtype=torch.float32, device=rows.device))


def add_up(wire: Wire, rows: Any, places: Any, k: int, out: Any = None) -> Any:
    """Return the sum of each token's rows (tokens, k), in FP32 from zero in order of ranks, as BF16 or the type of `out`."""
    import torch

    out = torch.empty((len(places), k), dtype=torch.bfloat16, device=rows.device) if out is None else out
    if rows.is_cuda:
        from kernels.exchange import device

        device.add_up(wire, rows, places, out)
        return out
    decoded = torch.from_numpy(wire.decode(rows.numpy(), k)).float()
    total = torch.zeros(out.shape)
    for place in places.long().unbind(1):
        there = place >= 0
        total[there] += decoded[place[there]]
    return out.copy_(total)


def gemm_operands(rows: Any, k: int) -> tuple[Any, Any]:
    """Return E4M3 codes (rows, k) and FP32 scales (k / 128, rows) of rows in FP8, as `kernels.gemm` takes them."""
    import torch

    from kernels.quantise import sent

    codes, scales = sent(rows, k)
    filled = torch.nn.functional.pad(scales.T, (0, -len(rows) % 4), value=127)
    return codes, (filled.to(torch.int32) << 23).view(torch.float32)[:, : len(rows)]
