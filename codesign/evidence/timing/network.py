"""Time of dispatch and combine over NVLink: a line through the rows of a record of benchmarks/exchange.py."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from math import fsum

from kernels.bench.records import FOLDER


@dataclass(frozen=True)
class Link:
    """Time of an exchange between the GPUs of a node: a start, and bytes at a rate."""

    start_us: float
    rate: float
    """Bytes per us and direction."""
    sms: int = 0
    """SMs that a measured exchange occupied; 0 if it was not measured."""
    source: str = ""
    worst: float = 0.0
    """Largest relative error on the rows that the link was fitted to."""

    def us(self, size: float) -> float:
        """Return the time of one exchange of `size` bytes a GPU, in us; nothing takes no time."""
        return self.start_us + size / self.rate if size else 0.0


@cache
def measured(gpus: int = 0) -> Link:
    """Return the link with the least squared relative errors on a record's rows.

    The record is the newest of that many GPUs, or of the most. Raises LookupError if there is none.
    """
    records = [json.loads(path.read_text()) for path in FOLDER.glob("exchange-*.json")]
    records = [record for record in records if gpus in (0, record["ranks"])]
    if not records:
        raise LookupError("no record of an exchange over NVLink: `torchrun benchmarks/exchange.py` makes one")
    record = max(records, key=lambda r: (r["ranks"], str(r["date"])))
    rows = [(float(row["bytes"]), float(row["exchange"]["us"])) for row in record["rows"]]
    # (start + bytes / rate) / us = 1 for every row, by its normal equations.
    starts, sizes = [1 / us for _, us in rows], [size / us for size, us in rows]
    a, b, c = (
        fsum(x * y for x, y in zip(*of, strict=True)) for of in ((starts, starts), (starts, sizes), (sizes, sizes))
    )
    whole, squares = a * c - b * b, (fsum(starts), fsum(sizes))
    start, per_byte = (c * squares[0] - b * squares[1]) / whole, (a * squares[1] - b * squares[0]) / whole
    return Link(
        start_us=start,
        rate=1 / per_byte,
        sms=max(row["nccl_blocks"] for row in record["rows"]),
        source=f"{record['ranks']} x {record['gpus'][0]}, NCCL {record['versions']['nccl']}, {record['date']}",
        worst=max(abs(start * x + per_byte * y - 1) for x, y in zip(starts, sizes, strict=True)),
    )
