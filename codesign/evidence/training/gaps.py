"""Loss gaps between training runs with their uncertainty, and the sensitivity of a record."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from math import fsum, inf, isfinite, sqrt
from typing import Literal

from codesign.evidence.training.records import Drift, TrainingRecord, TrainingRun
from codesign.figures.quantiles import student_t
from codesign.proposal.recipe import Recipe
from isa_model.stage import Spec

SMOOTHING = 0.9
"""Factor of the exponential moving average, as in DeepSeek-V3's figure B.1."""
REFERENCE = "bf16"
"""Arm that all others are compared with."""
NUDGED = "bf16-nudged"
"""Arm that starts at slightly changed weights; its gap is noise."""
POINTS = 100
"""Number of points of a recorded curve."""


class Spread(Spec):
    """Mean over seeds with its 95 % interval."""

    mean: float
    low: float | None = None
    """Lower end by Student's t over seeds; None with one seed."""
    high: float | None = None
    """Upper end by Student's t over seeds; None with one seed."""


class Gap(Spec):
    """Relative gap of an arm's loss to the reference's, over their common seeds."""

    seeds: tuple[int, ...]
    each: tuple[float | None, ...]
    """Gap of each seed: mean training loss of the last quarter over the reference's, minus 1; None if a run diverged."""
    training: Spread | None
    """Mean gap over seeds; None if a run diverged. Its interval is at least as wide as the nudged reference's, since seeds that
    agree by chance prove no more than two equal runs would."""
    validation: Spread | None
    """Mean gap of the loss on validation text after the last step; None if a run diverged."""
    largest: float | None
    """Largest gap of any seed between the smoothed curves after the first quarter of the steps."""


def gap(record: TrainingRecord, arm: str) -> Gap | None:
    """Return the gap of an arm to BF16 in a record; None if they have no common seed."""
    base = {r.seed: r for r in record.find(REFERENCE)}
    pairs = [(r, base[r.seed]) for r in record.find(arm) if r.seed in base]
    if not pairs:
        return None
    each = tuple(_over(a.tail, b.tail) for a, b in pairs)
    training = _spread(each, _noise(record, "tail"))
    return Gap(
        seeds=tuple(a.seed for a, _ in pairs),
        each=each,
        training=training,
        validation=_spread([_over(a.validation, b.validation) for a, b in pairs], _noise(record, "validation")),
        largest=max(_largest(a, b) for a, b in pairs) if training else None,
    )


def assay(record: TrainingRecord) -> str:
    """Return a sentence on the sensitivity of a record: the worst numerics that pass in it.

    An arm passes if the interval of its gap includes zero or lower. The worst is the one whose first gradient differs most
    from BF16's.
    """
    seen: list[tuple[float, str, Spread]] = []
    for arm in dict.fromkeys(
        r.arm for r in record.runs if r.arm not in (REFERENCE, NUDGED) and "fp32" not in r.engines
    ):
        found, drift = gap(record, arm), first_drifts(record, arm).get("error")
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
    """Return the fraction bits that Fprop keeps in alignment; None if sums are promoted or exact."""
    instruction = recipe.fprop.instruction
    if instruction is None or recipe.fprop.promote_every:
        return None
    kept = [stage.fraction_bits for stage in instruction.stages.values() if stage.fraction_bits is not None]
    return min(kept, default=None)


def first_drifts(record: TrainingRecord, arm: str) -> dict[str, Spread]:
    """Return the mean over seeds of each field of `Drift` at the initial weights; empty for fewer than two seeds."""
    seen = [r.drift_at_start for r in record.find(arm) if r.drift_at_start]
    if len(seen) < 2:
        return {}
    found = {name: _spread([float(getattr(d, name)) for d in seen]) for name in Drift.model_fields}
    return {name: spread for name, spread in found.items() if spread}


def drift_ratio(record: TrainingRecord, arm: str, other: str) -> Spread | None:
    """Return one arm's drift at the initial weights over another's; None for fewer than two common seeds."""
    drifts = {r.seed: r.drift_at_start.error for r in record.find(other) if r.drift_at_start}
    pairs = [
        (r.drift_at_start.error, drifts[r.seed]) for r in record.find(arm) if r.drift_at_start and r.seed in drifts
    ]
    ratios = [x / y for x, y in pairs if y]
    return _spread(ratios) if len(ratios) > 1 else None


def _spread(values: Sequence[float | None], noise: float = 0.0) -> Spread | None:
    """Return the mean with its interval of at least `noise` on either side; None if a value is missing."""
    known = [x for x in values if x is not None]
    if not known or len(known) < len(values):
        return None
    mean = fsum(known) / len(known)
    if len(known) == 1:
        return Spread(mean=mean)
    half = max(_half(known), noise)
    return Spread(mean=mean, low=mean - half, high=mean + half)


def _half(values: Sequence[float]) -> float:
    """Return half the 95 % interval of the mean of at least two values, by Student's t."""
    n = len(values)
    mean = fsum(values) / n
    return student_t(0.975, n - 1) * sqrt(fsum((x - mean) ** 2 for x in values) / (n - 1) / n)


def seeds_to_decide(record: TrainingRecord, arm: str, bound: float = 0.0025, power: float = 0.8) -> int | None:
    """Return the seeds with which a gap of zero would be shown to lie below `bound`, with probability `power`.

    As many as make Student's interval and the quantile of `power` together no wider than the bound, with the standard
    deviation of the gaps in the record (Cohen, Statistical Power Analysis, 2nd ed., 2.4). None for fewer than two seeds.
    """
    found = gap(record, arm)
    each = [g for g in found.each if g is not None] if found else []
    if found is None or len(each) < max(2, len(found.each)):
        return None
    deviation = sqrt(len(each)) * _half(each) / student_t(0.975, len(each) - 1)
    return next(
        n for n in count(2) if (student_t(0.975, n - 1) + student_t(power, n - 1)) * deviation <= bound * sqrt(n)
    )


def _noise(record: TrainingRecord, field: Literal["tail", "validation"]) -> float:
    """Return half the interval of the nudged reference's gap; 0 if the record has fewer than two such runs."""
    base = {r.seed: getattr(r, field) for r in record.find(REFERENCE)}
    gaps = [g for r in record.find(NUDGED) if (g := _over(getattr(r, field), base.get(r.seed))) is not None]
    return _half(gaps) if len(gaps) > 1 else 0.0


def _over(x: float | None, y: float | None) -> float | None:
    return None if x is None or y is None else x / y - 1


def _largest(a: TrainingRun, b: TrainingRun) -> float:
    late = [(x, y) for step, x, y in zip(a.steps, a.curve, b.curve, strict=False) if step > a.steps[-1] / 4]
    return max(abs(x / y - 1) for x, y in late)


def summarise(losses: list[float]) -> tuple[tuple[int, ...], tuple[float, ...], float | None]:
    """Return steps and smoothed losses of POINTS points, and the mean loss of the last quarter, from all losses."""
    smooth, average = [], 0.0
    for i, loss in enumerate(losses):
        average = SMOOTHING * average + (1 - SMOOTHING) * loss
        smooth.append(average / (1 - SMOOTHING ** (i + 1)))
    count = len(losses)
    picked = sorted({round((i + 1) * count / min(POINTS, count)) for i in range(min(POINTS, count))})
    tail = losses[-max(count // 4, 1) :]
    mean = fsum(tail) / len(tail) if tail else inf
    return tuple(picked), tuple(round(smooth[i - 1], 6) for i in picked), mean if isfinite(mean) else None
