"""Times of single operations with intervals: measured if a record has the operation, else modelled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache, cached_property

from codesign.evidence.timing import machine_constants, measured, ratio_errors
from codesign.evidence.timing.machine_constants import Machine
from codesign.evidence.timing.model import LARGE, Constants, Operation, Product, copied, time
from codesign.evidence.timing.ratio_errors import RatioErrors, pair
from codesign.evidence.timing.records import Fit, shipped
from codesign.figures.figure import Kind
from kernels.bench.records import BenchRecord, BenchRow, BenchTiming


@dataclass(frozen=True)
class Time:
    """A time in us with its interval: the 10th and 90th percentile of measured samples, or the model's error factor."""

    us: float
    low: float
    high: float
    kind: Kind
    source: str


@dataclass(frozen=True)
class Timer:
    """Source of times on one GPU: a record of the bench, the machine's constants, the fit to both, and the errors of ratios.

    `time(operation)` gives the time of a GEMM (`Product`) or a memory-bound kernel (`Stream`). The module
    `codesign.evidence.timing.operations` derives them from a proposal and a model's Linears.
    """

    bench: BenchRecord
    machine: Machine
    fit: Fit
    ratios: RatioErrors
    rows: Mapping[Operation, BenchRow]
    _modelled: dict[tuple[Operation, Constants], float] = field(default_factory=dict, repr=False, compare=False)

    def modelled(self, operation: Operation, constants: Constants | None = None) -> float:
        """Return the modelled time in us, with the fitted constants or others."""
        key = operation, constants or self.fit.constants
        if key not in self._modelled:  # other cases change few operations, and few constants of each
            self._modelled[key] = time(operation, self.machine, key[1]).total
        return self._modelled[key]

    def at_measured_feed(self, operation: Operation) -> float:
        """Return the modelled time in us if operands reach the SMs no faster than in any measured kernel."""
        machine = replace(self.machine, copied_bytes_per_clock=self._copied)
        return time(operation, machine, self.fit.constants.model_copy(update={"l2_again": 1.0})).total

    @cached_property
    def _copied(self) -> float:
        """Most operand bytes per clock that a measured GEMM copies into each SM."""
        return max(copied(x, us, self.machine) for _, x, us in measured.rows(self.bench) if isinstance(x, Product))

    def row(self, operation: Operation) -> BenchRow | None:
        """Return the measured row of an operation; None if there is none."""
        return self.rows.get(_key(operation))

    def measured(self, row: BenchRow, timing: BenchTiming) -> Time:
        """Return the time of a measured row."""
        where = "x".join(map(str, row.shape.values()))
        source = f"{self.bench.name} ({self.bench.gpu}): {row.kernel} {row.implementation} {where}"
        source += f", run of {row.run}" if row.run else ""
        return Time(timing.us, timing.p10, timing.p90, "measured", source)

    def time(self, operation: Operation, like: Product | None = None) -> Time:
        """Return the measured time of an operation if there is a row, else the modelled one.

        With `like`, the modelled time is that operation's time by the modelled ratio of the two, which has a smaller error.
        """
        row = self.row(operation)
        if row and row.timing:
            return self.measured(row, row.timing)
        us = self.modelled(operation)
        about = f"timing model fitted to {self.fit.bench.split(',')[0]}"
        if like and like != operation and isinstance(operation, Product):
            near, ratio = self.time(like), us / self.modelled(like)
            low, high = self.ratios.of_model(pair(like, operation))  # of the speedup
            about += f", as a ratio to {near.source}" if near.kind == "measured" else ""
            return Time(near.us * ratio, near.low * ratio / high, near.high * ratio / low, "modelled", about)
        reach = self.fit.reach.stream
        if isinstance(operation, Product):
            reach = self.fit.reach.product if operation.problem.m >= LARGE else self.fit.reach.small
        return Time(us, us / reach, us * reach, "modelled", about)


def _key(operation: Operation) -> Operation:
    """Return the operation without what a record does not distinguish: the tile of a GEMM, and the bits of a cast's scales."""
    if isinstance(operation, Product):
        return replace(operation, tile=None)
    return replace(operation, bits=0.0) if operation.kernel else operation


@cache
def timer(gpu: str = "") -> Timer:
    """Return the timer of a GPU's newest record with our own kernels, or of the newest of all.

    Raises LookupError if there is no record or no fit.
    """
    bench = measured.bench(gpu)
    fit = shipped().get(bench.gpu)
    if fit is None:
        raise LookupError(f"the timing model is not fitted to {bench.gpu}: `python pages/timing_tables.py` does it")
    rows: dict[Operation, BenchRow] = {}
    for row, operation, _ in measured.rows(bench):
        rows.setdefault(_key(operation), row)
    for row, operation in measured.whole_k(bench.gpu):
        rows.setdefault(_key(operation), row)
    return Timer(
        bench, machine_constants.machine(machine_constants.shipped()[bench.gpu]), fit, ratio_errors.shipped(), rows
    )
