"""Records of the bench: what was run where, one row a case, and finding rows again. Needs no torch.

`load()` reads the shipped files, `kernels/records/bench-*.json`; their JSON Schema is that of `Record`.
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
"""Size of a record that is read."""
SCHEMA_VERSION = 1


class Timing(Spec):
    """Samples of one case: each is a graph replay over its launches, in microseconds a launch, with a cold L2.

    Replays come in short bursts with pauses, so that power does not hold the clock down.
    """

    us: float
    """Median."""
    p10: float
    p90: float
    samples: int
    launches: int
    """In one graph."""
    sets: int
    """Operand sets that the launches go through in turn."""
    host_us: float
    """Median time of the Python call, without waiting for the GPU."""
    sm_mhz: int | None
    """Median SM clock while this case ran."""

    @property
    def spread(self) -> float:
        """(90th - 10th percentile) / median."""
        return (self.p90 - self.p10) / self.us


class Sustained(Spec):
    """The same graph replayed without pause until the power limit has set the clock."""

    us: float
    """Mean time of a launch."""
    sm_mhz: int | None
    """As NVML says, which lags by tens of milliseconds; the ratio to the time in bursts says more."""
    watts: int | None


class Row(Spec):
    """One case of a run. Without a timing, `why` says what stood in the way."""

    kernel: str
    implementation: str
    variant: Literal["ours", "twin", "peer"]
    """`twin`: the kernel without its emulation work. Its output is wrong by design; only its time counts."""
    shape: dict[str, int]
    flops: int
    least_bytes: int
    error: float | None = None
    """Relative error against the case's reference; None for twins."""
    timing: Timing | None = None
    sustained: Sustained | None = None
    why: str = ""
    wrong: bool = False
    """Its output failed the check."""
    notes: str = ""
    static: str = ""
    """Name in the static evidence."""
    run: str = ""
    """Date and commit of the earlier run that it was kept from; empty for the record's own."""

    @property
    def tflops(self) -> float | None:
        return self.flops / self.timing.us / 1e6 if self.timing and self.flops else None

    @property
    def gbps(self) -> float | None:
        """Least bytes over time, in 10^9 bytes a second."""
        return self.least_bytes / self.timing.us / 1e3 if self.timing else None


class Sampled(Spec):
    """Least, median and largest while the run went on."""

    samples: int
    sm_mhz: tuple[float, float, float]
    memory_mhz: tuple[float, float, float]
    watts: tuple[float, float, float]
    celsius: tuple[float, float, float]


class Run(Spec):
    """Where, when and with what something was measured."""

    schema_version: Literal[1] = 1
    name: str
    date: str
    commit: str
    """Commit of the source tree; `+` where code had changed since."""
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
        """Write the record, whole or not at all. Raises InputError when the file cannot be written."""
        save(self, path)


class Record(Run):
    """A run of the bench."""

    cases: tuple[Row, ...]

    def find(
        self,
        kernel: str | None = None,
        variant: str | None = None,
        implementation: str | None = None,
        shape: Mapping[str, int] | None = None,
    ) -> tuple[Row, ...]:
        """Rows that agree with everything given; those without a timing too."""
        return find([self], kernel, variant, implementation, shape)

    def bounds(self, row: Row) -> dict[str, float]:
        """What bounds a row in its run, by name, as the time in microseconds it would then take.

        `copy`: its least bytes at the speed of the copy through memory. `native FP8`, for GEMMs: torch's GEMM of the same
        shape with one scale and without promotion, which is no law of nature: at small m a better kernel beats it.
        """
        bounds = {}
        for copy in self.find("ceiling.copy"):
            if copy.gbps and copy.run == row.run:
                bounds["copy"] = row.least_bytes / copy.gbps / 1e3
        for native in self.find("gemm.native", "peer", "torch-tensor-wise", row.shape):
            if native.timing and native.run == row.run:
                bounds["native FP8"] = native.timing.us
        return bounds


def together(new: Record, old: Record) -> Record:
    """A run of some kernels, completed by the shapes of an earlier record at which it did not measure all that one did.

    Rows are compared at one shape and in one run only: a shape comes from one of the two as a whole, those kept say their
    run, and the ceilings of both stay. Raises InputError for records of two kinds of GPU.
    """
    if new.gpu != old.gpu:
        raise InputError.of(f"a record of {old.gpu} cannot complete one of {new.gpu}", "two records of one kind of GPU")

    def kernels(record: Record) -> dict[Any, set[str]]:
        by_shape: dict[Any, set[str]] = {}
        for row in record.cases:
            by_shape.setdefault(tuple(row.shape.items()), set()).add(row.kernel)
        return by_shape

    before, now = kernels(old), kernels(new)
    whole = {shape for shape in now if before.get(shape, set()) <= now[shape]}

    def rows(record: Record, measured_again: bool) -> list[Row]:
        return [
            row
            for row in record.cases
            if row.kernel.startswith("ceiling.") or (tuple(row.shape.items()) in whole) == measured_again
        ]

    run = f"{old.date}, commit {old.commit}"
    kept = [row.model_copy(update={"run": row.run or run}) for row in rows(old, False)]
    return new.model_copy(update={"cases": (*rows(new, True), *kept)})


def find(
    records: Iterable[Record],
    kernel: str | None = None,
    variant: str | None = None,
    implementation: str | None = None,
    shape: Mapping[str, int] | None = None,
) -> tuple[Row, ...]:
    """Rows of all records that agree with everything given."""
    return tuple(
        row
        for record in records
        for row in record.cases
        if kernel in (None, row.kernel)
        and variant in (None, row.variant)
        and implementation in (None, row.implementation)
        and (shape is None or dict(shape) == row.shape)
    )


def read(path: Path) -> Record:
    """A record of the bench. Raises InputError for a file that cannot be read or is none."""
    try:
        return Record.model_validate_json(read_text(path, LARGEST))
    except (OSError, ValueError) as error:
        said = reason(error) if isinstance(error, OSError) else "not what `codesign bench` writes"
        raise InputError.of(
            f"cannot read the record {path}: {said}", "for instance kernels/records/bench-h100.json"
        ) from None


@cache
def load(folder: Path = FOLDER) -> tuple[Record, ...]:
    """Every record of the bench in a folder, the newest first. Raises ValueError for a file that is no record."""
    records = [Record.model_validate_json(path.read_text()) for path in sorted(folder.glob("bench-*.json"))]
    return tuple(sorted(records, key=lambda record: record.date, reverse=True))


def dump(record: Spec) -> str:
    """JSON with one line for each entry of a list."""
    data: dict[str, Any] = record.model_dump(mode="json", exclude_defaults=False)
    for key, value in data.items():
        if isinstance(value, list):
            data[key] = [_lean(row) if isinstance(row, dict) else row for row in value]
    return json_lines(data)


def _lean(row: dict[str, Any]) -> dict[str, Any]:
    """A row without what was not said."""
    return {key: value for key, value in row.items() if value not in (None, "") and value is not False}


def save(record: Any, path: Path) -> None:
    """Write a record of any kind in place of an older one made by the same command.

    Raises InputError when the file cannot be written, or is another one.
    """
    write_file(path, dump(record), *of_command(record.command))


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Versions of those of some packages that are installed."""
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
