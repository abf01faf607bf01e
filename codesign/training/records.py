"""Records of training runs: what was trained, on what, with what numerics, and its loss. No torch is needed to read them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from math import isfinite, sqrt
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from codesign.intervals import student_t
from codesign.training.recipe import Recipe
from codesign.training.size import Size
from isa_model.diagnostics import InputError
from isa_model.files import write_file
from isa_model.stage import Spec

FOLDER = Path(__file__).parent / "records"
SMOOTHING = 0.9
"""Of the exponential moving average, as in DeepSeek-V3's figure B.1."""
NUDGED = "bf16-nudged"
"""The arm that is the reference but for a hair: its gap is noise."""
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


class Spread(Spec):
    """A mean over seeds."""

    mean: float
    low: float | None = None
    """95 % interval of the mean by Student's t over seeds; None with one seed."""
    high: float | None = None


class Gap(Spec):
    """Relative gap of an arm's loss to the reference's, over the seeds both have."""

    seeds: tuple[int, ...]
    each: tuple[float | None, ...]
    """Of each seed: mean training loss over the last quarter, over the reference's, less 1; None: it diverged."""
    training: Spread | None
    """Over seeds; None where a run diverged. Its interval is never narrower than that of the nudged reference: seeds that
    happen to lie together prove nothing that two equal runs would not."""
    validation: Spread | None
    """The same of the loss on validation text after the last step."""
    largest: float | None
    """Largest magnitude of the gap between the smoothed curves after the first quarter of the steps, of any seed."""


def gap(record: Record, arm: str, reference: str = "bf16") -> Gap | None:
    """Return the gap of an arm to the reference within a record; None where they share no seed."""
    base = {r.seed: r for r in record.find(reference)}
    pairs = [(r, base[r.seed]) for r in record.find(arm) if r.seed in base]
    if not pairs:
        return None
    each = tuple(_over(a.tail, b.tail) for a, b in pairs)
    training = _spread(each, _noise(record, reference, "tail"))
    return Gap(
        seeds=tuple(a.seed for a, _ in pairs),
        each=each,
        training=training,
        validation=_spread(
            [_over(a.validation, b.validation) for a, b in pairs], _noise(record, reference, "validation")
        ),
        largest=max(_largest(a, b) for a, b in pairs) if training else None,
    )


def assay(record: Record, reference: str = "bf16") -> str:
    """Return what the record's gaps can tell apart at all, in a sentence: the worst numerics that pass in it.

    An arm passes where the interval of its gap reaches down to zero; the worst is the one whose first gradient is farthest
    from the reference's.
    """
    seen: list[tuple[float, str, Spread]] = []
    for arm in dict.fromkeys(
        r.arm for r in record.runs if r.arm not in (reference, NUDGED) and "fp32" not in r.engines
    ):
        found, drift = gap(record, arm, reference), first_drifts(record, arm).get("error")
        if found and found.training and drift:
            seen.append((drift.mean, arm, found.training))
    passing = [s for s in seen if s[2].low is not None and s[2].low <= 0]
    if not passing:
        return f"at size {record.size} it is not known which worse numerics would pass, too"
    drift_, arm, spread = max(passing)
    bits = _sum_bits(record.find(arm)[0].recipe)
    words = f"{bits}-bit sums pass" if bits is not None else f"`{arm}` passes"
    assert spread.low is not None
    assert spread.high is not None
    return (
        f"at size {record.size} {words}, too: {spread.mean:+.2%} [{spread.low:+.2%}, {spread.high:+.2%}], with a first "
        f"gradient {drift_:.0%} off BF16's"
    )


def _sum_bits(recipe: Recipe) -> int | None:
    """Fraction bits that the sums of Fprop keep in alignment; None where software promotes them, or they are exact."""
    instruction = recipe.fprop.instruction
    if instruction is None or recipe.fprop.promote_every:
        return None
    kept = [stage.fraction_bits for stage in instruction.stages.values() if stage.fraction_bits is not None]
    return min(kept, default=None)


def first_drifts(record: Record, arm: str) -> dict[str, Spread]:
    """Return the mean over seeds of each field of `Drift` at the first weights; none of less than two seeds."""
    seen = [r.drift_at_start for r in record.find(arm) if r.drift_at_start]
    if len(seen) < 2:
        return {}
    found = {name: _spread([float(getattr(d, name)) for d in seen]) for name in Drift.model_fields}
    return {name: spread for name, spread in found.items() if spread}


def drift_ratio(record: Record, arm: str, other: str) -> Spread | None:
    """Return one arm's drift at the first weights over another's, of the seeds both have, two at least."""
    drifts = {r.seed: r.drift_at_start.error for r in record.find(other) if r.drift_at_start}
    pairs = [
        (r.drift_at_start.error, drifts[r.seed]) for r in record.find(arm) if r.drift_at_start and r.seed in drifts
    ]
    ratios = [x / y for x, y in pairs if y]
    return _spread(ratios) if len(ratios) > 1 else None


def _spread(values: Sequence[float | None], noise: float = 0.0) -> Spread | None:
    """The mean with its interval, no narrower than `noise` on either side; None where a value is missing."""
    known = [x for x in values if x is not None]
    if not known or len(known) < len(values):
        return None
    mean = sum(known) / len(known)
    if len(known) == 1:
        return Spread(mean=mean)
    half = max(_half(known), noise)
    return Spread(mean=mean, low=mean - half, high=mean + half)


def _half(values: Sequence[float]) -> float:
    """Half of the 95 % interval of the mean of at least two values, by Student's t."""
    count = len(values)
    mean = sum(values) / count
    return student_t(0.975, count - 1) * sqrt(sum((x - mean) ** 2 for x in values) / (count - 1) / count)


def _noise(record: Record, reference: str, field: Literal["tail", "validation"]) -> float:
    """That of the reference started a hair off; 0 where the record has less than two such runs."""
    base = {r.seed: getattr(r, field) for r in record.find(reference)}
    gaps = [g for r in record.find(NUDGED) if (g := _over(getattr(r, field), base.get(r.seed))) is not None]
    return _half(gaps) if len(gaps) > 1 else 0.0


def _over(x: float | None, y: float | None) -> float | None:
    return None if x is None or y is None else x / y - 1


def _largest(a: Run, b: Run) -> float:
    late = [(x, y) for step, x, y in zip(a.steps, a.curve, b.curve, strict=False) if step > a.steps[-1] / 4]
    return max(abs(x / y - 1) for x, y in late)


def summarise(losses: list[float]) -> tuple[tuple[int, ...], tuple[float, ...], float | None]:
    """The smoothed curve at POINTS steps, and the mean of the last quarter, of the losses of all steps."""
    smooth, average = [], 0.0
    for i, loss in enumerate(losses):
        average = SMOOTHING * average + (1 - SMOOTHING) * loss
        smooth.append(average / (1 - SMOOTHING ** (i + 1)))
    count = len(losses)
    picked = sorted({round((i + 1) * count / min(POINTS, count)) for i in range(min(POINTS, count))})
    tail = losses[-max(count // 4, 1) :] if losses else []
    mean = sum(tail) / len(tail) if tail else float("nan")
    return tuple(picked), tuple(round(smooth[i - 1], 6) for i in picked), mean if isfinite(mean) else None


def read(path: Path) -> Record:
    """Read a record. Raises InputError for a file that is none."""
    try:
        return Record.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, ValidationError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a record of this version"
        raise InputError.of(f"{path}: {reason}") from None


def write(record: Record, path: Path) -> None:
    """Write a record, a run to a line. Raises InputError when it cannot be written."""
    conditions = record.model_dump(mode="json", exclude_defaults=True)
    runs = ",\n  ".join(json.dumps(run) for run in conditions.pop("runs", []))
    write_file(path, json.dumps(conditions, indent=1)[:-2] + f',\n "runs": [\n  {runs}\n ]\n}}\n')


@cache
def shipped() -> tuple[tuple[str, Record], ...]:
    """All records that come with the package, with their file names."""
    return tuple((path.name, read(path)) for path in sorted(FOLDER.glob("*.json")))
