"""Records of training runs. Reading them needs no torch."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from codesign.evidence.training.size import Size
from codesign.proposal.recipe import Recipe
from isa_model.diagnostics import InputError
from isa_model.input_files import MIB, read_text, reason
from isa_model.output_files import fresh_file, json_lines
from isa_model.stage import Spec

FOLDER = Path(__file__).parent / "records"
FILE = ('"text_sha256": ', "a record of training")
"""Text that identifies a record's file, and its kind."""
LARGEST = 64 * MIB
"""Size limit of a record, in bytes."""


class Drift(Spec):
    """Difference of a gradient from BF16's at the same weights, on validation text and with the same experts."""

    error: float
    """Norm of the difference over the norm of BF16's gradient."""
    along: float
    """Component of the difference along BF16's gradient, relative to it; negative if gradients become smaller."""


class TrainingRun(Spec):
    """A training run and its losses."""

    arm: str
    """Name of the arm, that is of the numerics."""
    recipe: Recipe
    recipe_sha256: str
    seed: int
    """Seed of weights and batches; it gives the same ones in every arm."""
    engines: tuple[str, str, str]
    """Engines of Fprop, Dgrad and Wgrad: torch, model, native, or fp32 (FP32 sums instead of the instruction's)."""
    steps: tuple[int, ...]
    """Steps of the curve's points, from 1."""
    curve: tuple[float, ...]
    """Exponential moving average (0.9) of the training loss at these steps, in nats per byte."""
    tail: float | None
    """Mean training loss of the last quarter of the steps, in nats per byte; None if the run diverged."""
    validation: float | None
    """Mean loss on validation text after the last step with the arm's numerics, in nats per byte; None if it diverged."""
    drift_at_start: Drift | None = None
    """Drift of the gradient at the initial weights, where many sums have one sign."""
    drift: Drift | None = None
    """Drift of the gradient after the last step."""
    diverged_at: int | None = None
    """Step of the first loss that is NaN or infinite; None if there is none."""
    replayed: bool = False
    """True if steps were replayed as CUDA graphs."""
    dropped: float
    """Share of expert choices that were dropped."""
    seconds: float
    tokens_per_second: float
    """Speed after the first tenth of the steps, without graph capture, validation and drift."""


class TrainingRecord(Spec):
    """Runs on one machine with the same text, model and schedule, whose losses can be compared."""

    schema_version: Literal[1]
    size: str
    """Name of the size."""
    model: Size
    """Model and schedule of the runs."""
    text_sha256: str
    text_bytes: int
    commit: str
    machine: str
    """Processor or GPU, and the number of processes."""
    versions: dict[str, str]
    runs: tuple[TrainingRun, ...] = ()

    def with_run(self, run: TrainingRun) -> TrainingRecord:
        """Return the record with one more run, which replaces an older one of the same arm and seed."""
        others = tuple(r for r in self.runs if (r.arm, r.seed) != (run.arm, run.seed))
        return self.model_copy(update={"runs": (*others, run)})

    def same_conditions(self, other: TrainingRecord) -> bool:
        """Return whether runs of both records can be in one record."""
        return self.model_copy(update={"runs": ()}) == other.model_copy(update={"runs": ()})

    def find(self, arm: str) -> list[TrainingRun]:
        """Return the runs of an arm, ordered by seed."""
        return sorted((r for r in self.runs if r.arm == arm), key=lambda r: r.seed)


def read(path: Path) -> TrainingRecord:
    """Read a record. Raises InputError if the file is not a record."""
    try:
        return TrainingRecord.model_validate_json(read_text(path, LARGEST))
    except (OSError, ValueError, ValidationError) as error:
        said = reason(error) if isinstance(error, OSError) else "not a record of this version"
        raise InputError.of(f"{path}: {said}") from None


def add(run: TrainingRun, record: TrainingRecord, path: Path) -> None:
    """Add a run to the file, keeping the runs that other processes have added in the meantime.

    `record` gives the conditions of the run. Raises InputError if the file cannot be written, is not a record, or is a record
    of other conditions.
    """
    with fresh_file(path, *FILE) as fresh:
        held = read(path) if path.exists() else record
        if not held.same_conditions(record):
            raise InputError.of(f"{path} was made under other conditions in the meantime", "another --out")
        fresh.write_text(as_text(held.with_run(run)), encoding="utf-8")


def as_text(record: TrainingRecord) -> str:
    """Return a record as JSON, with one line per run."""
    return json_lines(record.model_dump(mode="json", exclude_defaults=True))


@cache
def shipped() -> tuple[tuple[str, TrainingRecord], ...]:
    """Return the shipped records with their file names."""
    return tuple((path.name, read(path)) for path in sorted(FOLDER.glob("*.json")))
