"""Records of bench runs: where and how each was made, one row per case, and queries for rows. Needs no torch.

`load()` reads the shipped files, `kernels/records/bench-*.json`, which follow the schema of `BenchRecord`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from isa_model.diagnostics import InputError
from isa_model.input_files import MIB, read_text, reason
from isa_model.output_files import json_lines, of_command, write_file
from isa_model.stage import Spec

FOLDER = Path(__file__).resolve().parent.parent / "records"
LARGEST = 64 * MIB
"""Size of the largest record that is read, bytes."""
SCHEMA_VERSION = 1


class BenchTiming(Spec):
    """Time of one case with a cold L2: samples of graph replays, in microseconds per launch.

    Replays come in short bursts with pauses, so that what ran before does not lower the clock.
    """

    us: float
    """Median time per launch, us."""
    p10: float
    """10th percentile, us."""
    p90: float
    """90th percentile, us."""
    samples: int
    """Samples, one per replay."""
    launches: int
    """Launches in one graph."""
    sets: int
    """Operand sets that the launches cycle through."""
    host_us: float
    """Median time of the Python call without waiting for the GPU, us."""
    sm_mhz: int | None
    """Median SM clock that NVML reported while this case ran, MHz; in short bursts it lags (benchmarks/clocks.py)."""

    @property
    def spread(self) -> float:
        """Difference of the 90th and 10th percentiles over the median."""
        return (self.p90 - self.p10) / self.us


class Sustained(Spec):
    """Time of the same graph, replayed without pause until the power limit has set the clock."""

    us: float
    """Mean time per launch, us."""
    sm_mhz: int | None
    """Median SM clock, MHz. NVML lags by tens of milliseconds; the ratio to the time in bursts is more accurate."""
    watts: int | None
    """Median power, W."""


class BenchRow(Spec):
    """Result of one case. Without a timing, `why` gives the reason."""

    kernel: str
    """Computation, for instance `gemm.fprop`."""
    implementation: str
    """Implementation, for instance `ours` or `deep_gemm`."""
    variant: Literal["ours", "twin", "peer"]
    """Kind of implementation. `twin` is our kernel without its emulation work: only its time counts, its output is wrong."""
    shape: dict[str, int]
    """Sizes by name."""
    flops: int
    """Floating-point operations; 0 where only bytes count."""
    least_bytes: int
    """Memory traffic if every operand is read once and every output written once, bytes."""
    error: float | None = None
    """Relative error against the reference; None for twins."""
    timing: BenchTiming | None = None
    sustained: Sustained | None = None
    why: str = ""
    """Reason for a missing timing."""
    wrong: bool = False
    """True if the output failed the check."""
    notes: str = ""
    """Formats, scales and accumulation."""
    static: str = ""
    """Name of the machine code in the static evidence."""
    run: str = ""
    """Date and commit of the earlier run that the row was kept from; empty for rows of the record's own run."""

    @property
    def tflops(self) -> float | None:
        """Rate in 10^12 floating-point operations per second."""
        return self.flops / self.timing.us / 1e6 if self.timing and self.flops else None

    @property
    def gbps(self) -> float | None:
        """Least bytes over time, in 10^9 bytes per second."""
        return self.least_bytes / self.timing.us / 1e3 if self.timing else None


class Sampled(Spec):
    """Minimum, median and maximum of samples during a run."""

    samples: int
    sm_mhz: tuple[float, float, float]
    memory_mhz: tuple[float, float, float]
    watts: tuple[float, float, float]
    celsius: tuple[float, float, float]


class BenchRun(Spec):
    """Place, time and versions of a measurement."""

    schema_version: Literal[1] = 1
    name: str
    date: str
    commit: str
    """Commit of the source tree, followed by `+` where files differed from it."""
    command: str
    seed: int
    gpu: str
    driver: str
    sms: int
    l2_bytes: int
    max_sm_mhz: int
    power_limit_watts: float
    versions: dict[str, str]
    sampled: Sampled

    def save(self, path: Path) -> None:
        """Write the record atomically. Raises InputError when the file cannot be written."""
        save(self, path)


class BenchRecord(BenchRun):
    """Results of one run of the bench."""

    cases: tuple[BenchRow, ...]

    def find(
        self,
        kernel: str | None = None,
        variant: str | None = None,
        implementation: str | None = None,
        shape: Mapping[str, int] | None = None,
    ) -> tuple[BenchRow, ...]:
        """Return the rows that match every given value, including rows without a timing."""
        return tuple(
            row
            for row in self.cases
            if kernel in (None, row.kernel)
            and variant in (None, row.variant)
            and implementation in (None, row.implementation)
            and (shape is None or dict(shape) == row.shape)
        )

    def bounds(self, row: BenchRow) -> dict[str, float]:
        """Return lower bounds of a row's time from its own run, in microseconds, by name.

        `copy` moves the least bytes at the speed of the memory copy. `native FP8` is torch's GEMM of the same shape with one
        scale and no promotion. It is a reference rather than a bound at small m, where a better kernel is faster.
        """
        bounds = {}
        for copy in self.find("ceiling.copy"):
            if copy.gbps and copy.run == row.run:
                bounds["copy"] = row.least_bytes / copy.gbps / 1e3
        for native in self.find("gemm.native", "peer", "torch-tensor-wise", row.shape):
            if native.timing and native.run == row.run:
                bounds["native FP8"] = native.timing.us
        return bounds


class Constant(Spec):
    """One measured property of a GPU."""

    name: str
    value: float
    """Median, in `unit`."""
    unit: str
    p10: float
    """10th percentile, in `unit`."""
    p90: float
    """90th percentile, in `unit`."""
    samples: int
    how: str
    """Method, in a short phrase."""


class MachineRecord(BenchRun):
    """Measured constants of one GPU."""

    constants: tuple[Constant, ...]


def together(new: BenchRecord, old: BenchRecord) -> BenchRecord:
    """Return a new record, completed by an old one at the shapes where the new one lacks a kernel of the old one.

    Only rows of one shape and one run are compared, so all rows of a shape come from one record. Kept rows name their run;
    the ceilings of both records stay. Raises InputError for records of different GPUs.
    """
    if new.gpu != old.gpu:
        raise InputError.of(f"a record of {old.gpu} cannot complete one of {new.gpu}", "a record of the same GPU")

    def kernels(record: BenchRecord) -> dict[Any, set[str]]:
        by_shape: dict[Any, set[str]] = {}
        for row in record.cases:
            by_shape.setdefault(tuple(row.shape.items()), set()).add(row.kernel)
        return by_shape

    before, now = kernels(old), kernels(new)
    whole = {shape for shape in now if before.get(shape, set()) <= now[shape]}

    def rows(record: BenchRecord, measured_again: bool) -> list[BenchRow]:
        return [
            row
            for row in record.cases
            if row.kernel.startswith("ceiling.") or (tuple(row.shape.items()) in whole) == measured_again
        ]

    run = f"{old.date}, commit {old.commit}"
    kept = [row.model_copy(update={"run": row.run or run}) for row in rows(old, False)]
    return new.model_copy(update={"cases": (*rows(new, True), *kept)})


def read(path: Path) -> BenchRecord:
    """Read a record of the bench. Raises InputError for a file that cannot be read or is not a record."""
    try:
        return BenchRecord.model_validate_json(read_text(path, LARGEST))
    except (OSError, ValueError) as error:
        said = reason(error) if isinstance(error, OSError) else "not what `codesign bench` writes"
        raise InputError.of(
            f"cannot read the record {path}: {said}", "for instance kernels/records/bench-h100.json"
        ) from None


@cache
def load(folder: Path = FOLDER) -> tuple[BenchRecord, ...]:
    """Read every record of the bench in a folder, the newest first. Raises ValueError for a file that is not a record."""
    records = [BenchRecord.model_validate_json(path.read_text()) for path in sorted(folder.glob("bench-*.json"))]
    return tuple(sorted(records, key=lambda record: record.date, reverse=True))


def dump(record: Spec) -> str:
    """Return JSON with a line for each entry of a list, without the empty fields of entries."""

    def lean(entry: Any) -> Any:
        if not isinstance(entry, dict):
            return entry
        return {key: value for key, value in entry.items() if value not in (None, "") and value is not False}

    data = record.model_dump(mode="json")
    return json_lines({k: [lean(entry) for entry in v] if isinstance(v, list) else v for k, v in data.items()})


def save(record: Any, path: Path) -> None:
    """Write a record of any kind; it may replace an older record that the same command made.

    Raises InputError when the file cannot be written, or exists and was not made by that command.
    """
    write_file(path, dump(record), *of_command(record.command))


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Return the versions of the given packages that are installed."""
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
