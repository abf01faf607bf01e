"""Records of training runs: what was trained, on what, with what numerics, and its loss. No torch is needed to read them."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from codesign.evidence.training.size import Size
from codesign.proposal.recipe import Recipe
from isa_model.diagnostics import InputError
from isa_model.input_files import MIB, read_text, reason
from isa_model.output_files import fresh_file
from isa_model.stage import Spec

FOLDER = Path(__file__).parent / "records"
FILE = ('"text_sha256": ', "a record of training")
"""Mark and kind of its file."""
LARGEST = 64 * MIB


class Drift(Spec):
    """How a gradient differs from BF16's at the same weights, on validation text and with the same experts chosen."""

    error: float
    """Norm of the difference over the norm of BF16's."""
    along: float
    """The part of the difference along BF16's gradient, over the latter: negative where gradients become smaller."""


class Run(Spec):
    """One training run."""

    arm: str
    """Name of the numerics within the experiment."""
    recipe: Recipe
    recipe_sha256: str
    seed: int
    """Seed of the weights; the same seed draws the same batches in every arm."""
    engines: tuple[str, str, str]
    """What computed Fprop, Dgrad and Wgrad: torch, model, native, or fp32: not the instruction, but FP32 sums."""
    steps: tuple[int, ...]
    """Steps of the curve, counted from 1."""
    curve: tuple[float, ...]
    """Training loss there, nats per byte, as an exponential moving average (0.9) over all steps."""
    tail: float | None
    """Mean training loss over the last quarter of the steps; None: it diverged."""
    validation: float | None
    """Mean loss on validation text after the last step, with the arm's own numerics."""
    drift_at_start: Drift | None = None
    """Drift of the gradient at the first weights, where many sums have one sign."""
    drift: Drift | None = None
    """Drift of the gradient after the last step."""
    diverged_at: int | None = None
    """Step of the first loss that was no number."""
    replayed: bool = False
    """Whether steps were replayed as CUDA graphs; else every kernel was launched."""
    dropped: float
    """Share of expert choices for which there was no slot."""
    seconds: float
    tokens_per_second: float
    """Over the steps after the first tenth, capture, validation and drift apart."""


class Record(Spec):
    """Runs on one machine, all with the same text, model and schedule, so that their losses can be compared."""

    schema_version: Literal[1]
    size: str
    model: Size
    """With the schedule as it was run."""
    text_sha256: str
    text_bytes: int
    commit: str
    machine: str
    """Processor or GPU, and how many processes trained together."""
    versions: dict[str, str]
    runs: tuple[Run, ...] = ()

    def with_run(self, run: Run) -> Record:
        """This record and one run more, in place of an older one of the same arm and seed."""
        others = tuple(r for r in self.runs if (r.arm, r.seed) != (run.arm, run.seed))
        return self.model_copy(update={"runs": (*others, run)})

    def same_conditions(self, other: Record) -> bool:
        """Whether runs of both can stand in one record."""
        return self.model_copy(update={"runs": ()}) == other.model_copy(update={"runs": ()})

    def find(self, arm: str) -> list[Run]:
        """The runs of an arm by seed."""
        return sorted((r for r in self.runs if r.arm == arm), key=lambda r: r.seed)


def read(path: Path) -> Record:
    """Read a record. Raises InputError for a file that is none."""
    try:
        return Record.model_validate_json(read_text(path, LARGEST))
    except (OSError, ValueError, ValidationError) as error:
        said = reason(error) if isinstance(error, OSError) else "not a record of this version"
        raise InputError.of(f"{path}: {said}") from None


def add(run: Run, record: Record, path: Path) -> None:
    """Add a run of the conditions of `record` to the file, which holds the runs that other processes have added by now.

    Raises InputError when it cannot be written, or is a record of other conditions or none.
    """
    with fresh_file(path, *FILE) as fresh:
        held = read(path) if path.exists() else record
        if not held.same_conditions(record):
            raise InputError.of(f"{path} was made under other conditions in the meantime", "another --out")
        fresh.write_text(as_text(held.with_run(run)), encoding="utf-8")


def as_text(record: Record) -> str:
    """A record as JSON, a run to a line."""
    conditions = record.model_dump(mode="json", exclude_defaults=True)
    runs = ",\n  ".join(json.dumps(run) for run in conditions.pop("runs", []))
    return json.dumps(conditions, indent=1)[:-2] + f',\n "runs": [\n  {runs}\n ]\n}}\n'


@cache
def shipped() -> tuple[tuple[str, Record], ...]:
    """All records that come with the package, with their file names."""
    return tuple((path.name, read(path)) for path in sorted(FOLDER.glob("*.json")))
