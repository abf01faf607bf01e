"""Checks of an exchange, with numbers that every rank can generate from seeds.

A receiver generates the sender's numbers on the same kind of device. It compares all rows that arrived with those that were
to be sent, and a sample of rows and sums with isa_model.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from kernels.exchange import TokenRoute, pack, ranks_of_tokens
from kernels.exchange.wire import Wire

SAMPLE = 64
"""Most rows from each rank, and most tokens, that are compared with isa_model."""
NEAR = 2.0**-15
"""Relative error allowed to a LogFMT number beyond that of the definition: the error of FP32 logarithms."""


class WrongExchange(Exception):
    """Rows or sums of an exchange are wrong; the message says which."""


@dataclass(frozen=True)
class Setting:
    """Sizes of an exchange, and this rank's place in it."""

    rank: int
    ranks: int
    device: str
    tokens: int
    """Tokens on each rank."""
    hidden: int = 7168
    experts: int = 256
    top: int = 8
    """Experts per token."""
    seed: int = 0


# -- numbers that every rank can generate ----------------------------------------------------------------------------


@cache
def going(s: Setting, rank: int) -> Any:
    """Return a mask of the ranks that each token of `rank` goes to, bool (tokens, ranks)."""
    return ranks_of_tokens(choices(s, rank), s.experts, s.ranks).to(s.device)


def choices(s: Setting, rank: int) -> Any:
    """Return the experts of each token of a rank, drawn uniformly (tokens, top)."""
    import torch

    generator = torch.Generator().manual_seed(s.seed * 1000 + rank)
    return torch.rand((s.tokens, s.experts), generator=generator).topk(s.top).indices


def numbers(s: Setting, rank: int, rows: int, stream: int) -> Any:
    """Return normal BF16 numbers (rows, hidden) of a rank on this device; the first row is zero."""
    import torch

    generator = torch.Generator(s.device).manual_seed((s.seed * 1000 + rank) * 2 + stream)
    made = torch.randn((rows, s.hidden), generator=generator, device=s.device, dtype=torch.float32)
    made[:1] = 0
    return made.to(torch.bfloat16)


def inputs(s: Setting, rank: int) -> Any:
    """Return the tokens that a rank dispatches."""
    return numbers(s, rank, s.tokens, 0)


def outputs(s: Setting, rank: int) -> Any:
    """Return the results of a rank's experts, one for each row it received, which it sends back."""
    return numbers(s, rank, sum(int(going(s, r)[:, rank].sum()) for r in range(s.ranks)), 1)


# -- checks ----------------------------------------------------------------------------------------------------------


def sample(size: int) -> Any:
    """Return at most SAMPLE indices of a range, with the first and the last."""
    import torch

    return torch.linspace(0, size - 1, min(size, SAMPLE)).round().long()


def check_rows(wire: Wire, rows: Any, original: Any, source: int) -> dict[str, float]:
    """Compare rows from rank `source` with its numbers: all rows with the packed numbers, a sample with isa_model.

    Returns the share of the sample's LogFMT codes that differ from the definition's. Raises WrongExchange.
    """
    import torch

    used = wire.used_bytes(original.shape[1])
    if not torch.equal(rows[:, :used], pack(wire, original)[:, :used]):
        raise WrongExchange(f"{wire.name}: the {len(rows)} rows from rank {source} differ from those to be sent")
    chosen = sample(len(rows)).to(rows.device)
    x, k = original[chosen].float().cpu().numpy(), original.shape[1]
    ours, defined = rows[chosen].cpu().numpy(), wire.encode(x)
    if not wire.logarithmic:
        if not np.array_equal(ours[:, :used], defined[:, :used]):
            raise WrongExchange(f"{wire.name}: rows from rank {source} differ from isa_model")
        return {}
    near = [np.abs(wire.decode(bytes_, k) - x) for bytes_ in (ours, defined)]
    if not (near[0] <= near[1] + NEAR * np.abs(x)).all():
        raise WrongExchange(f"{wire.name}: numbers from rank {source} are farther from the original than isa_model's")
    codes = [wire.log_tiles(bytes_, k).codes for bytes_ in (ours, defined)]
    return {"differing_codes": float((codes[0] != codes[1]).mean()) if codes[0].size else 0.0}


def check_dispatch(s: Setting, wire: Wire, rows: Any) -> dict[str, float]:
    """Check all rows that arrived in dispatch. Raises WrongExchange."""
    start, found = 0, []
    for source in range(s.ranks):
        original = inputs(s, source)[going(s, source)[:, s.rank]]
        found.append(check_rows(wire, rows[start : start + len(original)], original, source))
        start += len(original)
    if start != len(rows):
        raise WrongExchange(f"{wire.name}: {len(rows)} rows arrived, {start} were to be sent")
    return largest(found)


def check_combine(s: Setting, wire: Wire, route: TokenRoute, rows: Any, sums: Any) -> dict[str, float]:
    """Check all rows that came back, and sums of a sample of tokens against isa_model's. Raises WrongExchange."""
    import torch

    chosen = sample(s.tokens).to(s.device)
    total, start = np.zeros((len(chosen), s.hidden), np.float32), 0
    found: list[dict[str, float]] = []
    for source, count in enumerate(route.sends):
        before = sum(int(going(s, r)[:, source].sum()) for r in range(s.rank))
        original = outputs(s, source)[before : before + count]
        found.append(check_rows(wire, rows[start : start + count], original, source))
        place = (route.places[chosen, source] - start).long()
        there = place >= 0
        sent = original[place[there]].float().cpu().numpy()
        total[there.cpu().numpy()] += wire.decode(wire.encode(sent), s.hidden).astype(np.float32)
        start += count
    ours, wanted = sums[chosen].cpu(), torch.from_numpy(total)
    error = float((ours.float() - wanted).norm() / wanted.norm())
    # Equal numbers have equal sums; nearly equal ones have sums that differ by less than BF16's 8 bits show.
    if not (error < 2.0**-8 if wire.logarithmic else torch.equal(ours, wanted.to(torch.bfloat16))):
        raise WrongExchange(f"{wire.name}: sums differ from isa_model's by {error:.2g} of their norm")
    return largest([*found, {"sum_error": error}])


def largest(found: list[dict[str, float]]) -> dict[str, float]:
    """Return the largest value of each measure."""
    return {name: max(each[name] for each in found if name in each) for each in found for name in each}
