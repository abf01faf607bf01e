"""Records of training runs: what was trained, on what, with what numerics, and its loss. No torch is needed to read them."""

from __future__ import annotations

import json
from functools import cache
from math import fsum, isfinite, sqrt
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from codesign.training.recipe import Recipe
from codesign.training.size import Size
from isa_model.diagnostics import InputError
from isa_model.files import fresh_file
from isa_model.reading import MIB, read_text, reason
from isa_model.stage import Spec

FOLDER = Path(__file__).parent / "records"
SMOOTHING = 0.9
"""Of the exponential moving average, as in DeepSeek-V3's figure B.1."""
NUDGED = "bf16-nudged"
"""The arm that is the reference but for a hair: its gap is noise."""
FILE = ('"text_sha256": ', "a record of training")
"""Mark and kind of its file."""
LARGEST = 64 * MIB
POINTS = 100
"""Of a recorded curve."""


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
    """Of the weights; the same seed draws the same batches in every arm."""
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
    """Of the gradient at the first weights, where many sums have one sign."""
    drift: Drift | None = None
    """Of the gradient after the last step."""
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


class Gap(Spec):
    """Relative gap of an arm's training loss to the reference's, over the seeds both have."""

    seeds: tuple[int, ...]
    each: tuple[float | None, ...]
    """Of each seed: tail loss over the reference's, less 1; None: it diverged."""
    mean: float | None
    low: float | None
    high: float | None
    """95 % interval of the mean (Student's t over seeds), never narrower than that of the nudged reference: seeds that
    happen to lie together prove nothing that two equal runs would not. None with one seed, or where a run diverged."""
    largest: float | None
    """Largest magnitude of the gap between the smoothed curves after the first quarter of the steps, of any seed."""


def gap(record: Record, arm: str, reference: str = "bf16") -> Gap | None:
    """The gap of an arm to the reference within a record; None where they share no seed."""
    base = {r.seed: r for r in record.find(reference)}
    pairs = [(r, base[r.seed]) for r in record.find(arm) if r.seed in base]
    if not pairs:
        return None
    each = [_over(a.tail, b.tail) for a, b in pairs]
    whole = [x for x in each if x is not None]
    mean = low = high = largest = None
    if len(whole) == len(each):
        mean = fsum(whole) / len(whole)
        largest = max(_largest(a, b) for a, b in pairs)
        if len(whole) > 1:
            half = max(_half(whole), _noise(record, reference))
            low, high = mean - half, mean + half
    return Gap(seeds=tuple(a.seed for a, _ in pairs), each=tuple(each), mean=mean, low=low, high=high, largest=largest)


def first_drifts(record: Record, arm: str) -> dict[str, tuple[float, float, float]]:
    """Of the gradient at the first weights the mean over seeds with its 95 % interval, by the field of `Drift`; none of less
    than two seeds."""
    seen = [r.drift_at_start for r in record.find(arm) if r.drift_at_start]
    if len(seen) < 2:
        return {}
    found = {}
    for name in Drift.model_fields:
        values = [float(getattr(d, name)) for d in seen]
        mean, half = fsum(values) / len(values), _half(values)
        found[name] = mean, mean - half, mean + half
    return found


def drift_ratio(record: Record, arm: str, other: str) -> tuple[float, float] | None:
    """The 95 % interval of one arm's drift at the first weights over another's, of the seeds both have, two at least."""
    drifts = {r.seed: r.drift_at_start.error for r in record.find(other) if r.drift_at_start}
    pairs = [
        (r.drift_at_start.error, drifts[r.seed]) for r in record.find(arm) if r.drift_at_start and r.seed in drifts
    ]
    ratios = [x / y for x, y in pairs if y]
    if len(ratios) < 2:
        return None
    mean, half = fsum(ratios) / len(ratios), _half(ratios)
    return mean - half, mean + half


def _half(values: list[float]) -> float:
    """Half of the 95 % interval of the mean of at least two values."""
    count = len(values)
    mean = fsum(values) / count
    return _t95(count - 1) * sqrt(fsum((x - mean) ** 2 for x in values) / (count - 1) / count)


def _noise(record: Record, reference: str) -> float:
    """That of the reference started a hair off; 0 where the record has less than two such runs."""
    base = {r.seed: r.tail for r in record.find(reference)}
    gaps = [g for r in record.find(NUDGED) if (g := _over(r.tail, base.get(r.seed))) is not None]
    return _half(gaps) if len(gaps) > 1 else 0.0


def _over(x: float | None, y: float | None) -> float | None:
    return None if x is None or y is None else x / y - 1


def _largest(a: Run, b: Run) -> float:
    late = [(x, y) for step, x, y in zip(a.steps, a.curve, b.curve, strict=False) if step > a.steps[-1] / 4]
    return max(abs(x / y - 1) for x, y in late)


def _t95(freedom: int) -> float:
    """Two-sided 95 % quantile of Student's t."""
    table = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
    return table[freedom - 1] if freedom <= len(table) else 2.0


def summarise(losses: list[float]) -> tuple[tuple[int, ...], tuple[float, ...], float | None]:
    """The smoothed curve at POINTS steps, and the mean of the last quarter, of the losses of all steps."""
    smooth, average = [], 0.0
    for i, loss in enumerate(losses):
        average = SMOOTHING * average + (1 - SMOOTHING) * loss
        smooth.append(average / (1 - SMOOTHING ** (i + 1)))
    count = len(losses)
    picked = sorted({round((i + 1) * count / min(POINTS, count)) for i in range(min(POINTS, count))})
    tail = losses[-max(count // 4, 1) :] if losses else []
    mean = fsum(tail) / len(tail) if tail else float("nan")
    return tuple(picked), tuple(round(smooth[i - 1], 6) for i in picked), mean if isfinite(mean) else None


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
