"""The time of one operation as evidence: measured where a record has it, modelled elsewhere, with its interval."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache

from codesign.evidence.timing import machine, measured
from codesign.evidence.timing.machine import Machine
from codesign.evidence.timing.model import LARGE, Constants, Operation, Product, time
from codesign.evidence.timing.records import Fit, shipped
from codesign.figures.figure import Kind
from kernels.bench.records import BenchRecord, BenchRow, Timing


@dataclass(frozen=True)
class Time:
    """Microseconds with an interval (of measured ones the 10th and 90th percentile of samples, else the model's reach)."""

    us: float
    low: float
    high: float
    kind: Kind
    source: str


@dataclass(frozen=True)
class Timer:
    """Times on one GPU: a record of the bench, the machine's constants, and the fit to both.

    `time(operation)` is what other evidence asks: of a GEMM (`Product`) or a memory-bound kernel (`Stream`) as today's
    kernels or a proposal's have it; `codesign.evidence.timing.operations` makes them from a proposal and a model's Linears.
    """

    bench: BenchRecord
    machine: Machine
    fit: Fit
    rows: Mapping[Operation, BenchRow]

    def modelled(self, operation: Operation, constants: Constants | None = None) -> float:
        """Microseconds by the model alone, with the fitted constants or others."""
        return time(operation, self.machine, constants or self.fit.constants).total

    def row(self, operation: Operation) -> BenchRow | None:
        """The measured row of exactly this operation, on the tile that was launched."""
        return self.rows.get(_key(operation))

    def measured(self, row: BenchRow, timing: Timing) -> Time:
        """A row's time as evidence."""
        where = "x".join(map(str, row.shape.values()))
        source = f"{self.bench.name} ({self.bench.gpu}): {row.kernel} {row.implementation} {where}"
        source += f", run of {row.run}" if row.run else ""
        return Time(timing.us, timing.p10, timing.p90, "measured", source)

    def time(self, operation: Operation, like: Operation | None = None) -> Time:
        """Measured if there is a row; else, given an operation that it is `like`, that one's time by the modelled ratio of the
        two, whose error is smaller than a time's; else modelled."""
        row = self.row(operation)
        if row and row.timing:
            return self.measured(row, row.timing)
        us = self.modelled(operation)
        about = f"timing model fitted to {self.fit.bench.split(',')[0]}"
        if like:
            near, reach = self.time(like), self.fit.reach.speedup
            ratio = us / self.modelled(like)
            about += f", as a ratio to {near.source}" if near.kind == "measured" else ""
            return Time(near.us * ratio, near.low * ratio / reach, near.high * ratio * reach, "modelled", about)
        reach = self.fit.reach.stream
        if isinstance(operation, Product):
            reach = self.fit.reach.product if operation.problem.m >= LARGE else self.fit.reach.small
        return Time(us, us / reach, us * reach, "modelled", about)


def _key(operation: Operation) -> Operation:
    """What a record tells operations apart by: not the tile, and of a cast neither what its scales weigh nor their format,
    unless that decides how long it takes."""
    if isinstance(operation, Product):
        return replace(operation, tile=None)
    return replace(operation, bits=0.0) if operation.kernel else operation


@cache
def timer() -> Timer:
    """Times on the GPU of the newest record with our own kernels. Raises LookupError without a record or a fit of it."""
    bench = measured.bench()
    fit = shipped().get(bench.gpu)
    if fit is None:
        raise LookupError(f"the timing model is not fitted to {bench.gpu}: `python pages/timing_tables.py` does it")
    rows: dict[Operation, BenchRow] = {}
    for row, operation, _ in measured.rows(bench):
        rows.setdefault(_key(operation), row)
    return Timer(bench, machine.machine(machine.shipped()[bench.gpu]), fit, rows)
