"""Training evidence: loss gaps and first gradients of the proposal's numerics, from records or a small run made now."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from math import fsum
from typing import Any

from pydantic import ValidationError

from codesign.evidence.source import Source, Subject
from codesign.evidence.training.gaps import NUDGED, assay, drift_ratio, first_drifts, gap
from codesign.evidence.training.records import TrainingRecord, shipped
from codesign.figures.evidence import KIND_AND_SOURCE, Column, Evidence, Section, Table
from codesign.figures.figure import Figure, Plot, Series
from codesign.proposal import variants
from codesign.proposal.proposal import Proposal, Value, Variant
from codesign.proposal.recipe import Recipe, load_recipe
from isa_model.diagnostics import InputError, Unavailable

VARIANTS: tuple[Variant, ...] = ("today", "software", "proposal", "exact")
LABELS = {**variants.LABELS, "exact": "exact sums"}
PROXY = "tiny"
"""Size of the run that `evaluate --train` makes on the CPU, in a minute or two."""
PROXY_STEPS, PROXY_SEEDS = 40, (0, 1)

DRIFTS = {"error": "gradient_drift", "along": "gradient_bias"}
"""Metric of each field of a drift."""

METHOD = (
    "A loss gap compares a run with the BF16 run of the same record, weights, text and schedule: mean training loss over the "
    "last quarter of the steps, over BF16's, less 1; the validation gap compares the loss on validation text after the last "
    "step. The value is the mean over seeds, the interval Student's t at 95 %, never narrower than that of BF16 runs from "
    "slightly changed weights. A note at the gaps says how much worse sums still pass. A run whose loss became infinite or NaN "
    "breaks every bound. Gradient drift and bias compare the first gradients, at the same weights. There all tokens push a "
    "weight the same way, so sums grow with K; later they do not.",
    "Runs of this size cannot show divergence that sets in late. DeepSeek-V3 saw block-wise scaled gradients diverge at 300B "
    "tokens of a 16B model, others SwiGLU outliers only after 200B. The absence of a gap here does not prove its absence "
    "there.",
)
UNTRAINED = (
    "No training run has the proposal's numerics; those of today's software and instruction are no evidence on it."
)

Numerics = dict[tuple[Variant, Value | None], Recipe]


class TrainingRuns(Source):
    """Loss gaps and first gradients of training runs, from records and from a run made now."""

    doing = "training"

    def gather(self, subject: Subject) -> Evidence:
        """Return the figures of the proposal, its swept values, today's instruction, today's software and exact sums.

        They come from every record with runs on these numerics and at least two seeds, and from a small run made now if the
        subject asks for one, which raises Unavailable without torch. A proposal with a path has no figures: no recipe has
        the path's casts, so no run represents it.
        """
        proposal = subject.proposal
        if not proposal.is_trained:
            return Evidence(source="training", figures=())
        numerics = _numerics(proposal)
        records = list(shipped())
        if subject.train:
            records.append(("a run made now", proxy(numerics)))
        figures = tuple(f for name, record in records for f in _figures(name, record, numerics))
        if not figures:
            return Evidence(source="training", figures=())
        runs = tuple(dict.fromkeys(f.workload for f in figures if f.variant == "proposal"))
        if not runs:  # only today's instruction and software were trained: that is no evidence on the proposal
            return Evidence(source="training", figures=figures, method=(UNTRAINED, *METHOD))
        caveats = dict.fromkeys(f.caveat for f in figures if f.caveat and f.workload in runs)
        section = Section(
            title="Training",
            plots=tuple(_plots([(name, record) for name, record in records if _run(record) in runs], numerics)),
            tables=(
                Table(
                    rows=("metric", "design", "workload"),
                    headings=("figure", "trained on", "run"),
                    columns=(
                        Column(heading="value [interval]", form="interval"),
                        *KIND_AND_SOURCE,
                    ),
                    labels=LABELS | variants.labels(proposal),
                    workloads=runs,
                    note="Against the BF16 run of the same record. Intervals are over seeds, at 95 %.",
                ),
            ),
            notes=tuple(f"Sensitivity of these gaps: {caveat}." for caveat in caveats),
        )
        return Evidence(
            source="training",
            figures=figures,
            sections=(section,),
            method=METHOD,
        )


SOURCE = TrainingRuns()


def _numerics(proposal: Proposal) -> Numerics:
    """Return the recipe of each variant for which the proposal's instruction allows one."""
    keys: list[tuple[Variant, Value | None]] = [(variant, None) for variant in VARIANTS]
    keys += [("proposal", value) for value in proposal.swept]
    found: Numerics = {}
    for variant, value in keys:
        try:
            found[variant, value] = proposal.training_recipe(variant, value)
        except (ValidationError, InputError):
            continue  # an instruction on which the recipe's tensors cannot be cast, such as an integer one
    return found


def _figures(name: str, record: TrainingRecord, numerics: Numerics) -> Iterator[Figure]:
    """Yield the figures of every variant that the record has with at least two seeds."""
    arms = {key: arm for key, recipe in numerics.items() if (arm := _arm(record, recipe.sha256))}
    for (variant, at), arm in arms.items():
        found = gap(record, arm)
        if found is None or len(found.seeds) < 2:
            continue
        spreads = {"loss_gap": found.training, "validation_gap": found.validation}
        spreads |= {DRIFTS[field]: spread for field, spread in first_drifts(record, arm).items()}
        for metric, spread in spreads.items():
            yield Figure(
                metric=f"training.{metric}",
                variant=variant,
                at=at,
                workload=_run(record),
                tensors="",
                value=_rounded(spread.mean if spread else None),
                low=_rounded(spread.low if spread else None),
                high=_rounded(spread.high if spread else None),
                kind="computed",
                source=f"{name}: size {record.size}, {_tokens(record):.3g}M tokens, {len(found.seeds)} seeds, "
                f"{record.machine}, commit {record.commit or 'unknown'}",
                ratios=_drift_ratios(record, arm, arms) if metric == "gradient_drift" else {},
                caveat=assay(record) if metric.endswith("_gap") else "",
            )


def _drift_ratios(record: TrainingRecord, arm: str, arms: dict[tuple[Variant, Value | None], str]) -> dict[str, Any]:
    """Return the interval of the drift's ratio to each variant's drift, whose runs start from the same weights."""
    ratios = {variant: drift_ratio(record, arm, other) for (variant, at), other in arms.items() if at is None}
    return {variant: (_rounded(r.low), _rounded(r.high)) for variant, r in ratios.items() if r}


def _rounded(x: float | None) -> float | None:
    return None if x is None else float(f"{x:.4g}")


def _arm(record: TrainingRecord, sha256: str) -> str | None:
    """Return the arm of a record with exactly these numerics; None if it is missing or an engine approximated its sums."""
    return next((r.arm for r in record.runs if r.recipe_sha256 == sha256 and "fp32" not in r.engines), None)


def _run(record: TrainingRecord) -> str:
    return f"{record.size}, {_tokens(record):.3g}M tokens"


def _tokens(record: TrainingRecord) -> float:
    """Return the millions of tokens of a run."""
    return record.model.tokens * record.model.steps / 1e6


def _plots(records: list[tuple[str, TrainingRecord]], numerics: Numerics) -> Iterator[Plot]:
    """Yield a plot for each record: the gap between smoothed curves, mean over seeds, in percent."""
    for name, record in records:
        series = []
        for variant in VARIANTS:
            recipe = numerics.get((variant, None))
            arm = _arm(record, recipe.sha256) if recipe else None
            if arm and (points := curve(record, arm)):
                x, y = zip(*points, strict=True)
                series.append(Series(label=LABELS[variant], variant=variant, x=x, y=y))
        if series:
            yield Plot(
                name=f"loss-gap-{name.removesuffix('.json').replace(' ', '-')}",
                title=f"Loss gap to BF16, {name.removesuffix('.json')}",
                caption=f"Smoothed (0.9) training loss over BF16's, less 1, mean over seeds; {name}, {record.machine}.",
                x_label="tokens, millions",
                y_label="gap, percent",
                y_scale="linear",
                series=tuple(series),
            )


def curve(record: TrainingRecord, arm: str, reference: str = "bf16") -> list[tuple[float, float]]:
    """Return pairs of millions of tokens and the mean gap of the smoothed curves in percent, after the warm-up."""
    base = {r.seed: r for r in record.find(reference)}
    pairs = [(r, base[r.seed]) for r in record.find(arm) if r.seed in base]
    if not pairs:
        return []
    count = min(min(len(a.curve), len(b.curve)) for a, b in pairs)
    steps = pairs[0][0].steps
    return [
        (
            steps[i] * record.model.tokens / 1e6,
            100 * fsum(a.curve[i] / b.curve[i] - 1 for a, b in pairs) / len(pairs),
        )
        for i in range(count)
        if steps[i] > record.model.steps / 10
    ]


def proxy(numerics: Numerics) -> TrainingRecord:
    """Return a record of small runs of BF16, the proposal and today's software. Raises Unavailable without torch."""
    from codesign.evidence.training.size import find_size

    try:
        from codesign.evidence.training.experiments import empty_record
        from codesign.evidence.training.loop import TrainingJob as Job
        from codesign.evidence.training.loop import train
    except ModuleNotFoundError as error:
        raise Unavailable(f"--train needs the package `{error.name}`: pip install 'codesign[kernels]'") from None
    size = find_size(PROXY).model_copy(update={"steps": PROXY_STEPS})
    wanted = {"bf16": load_recipe("bf16"), NUDGED: load_recipe("bf16")}
    wanted |= {v: numerics[v, None] for v in ("software", "proposal") if (v, None) in numerics}
    record = empty_record(PROXY, size, 1)
    for seed in PROXY_SEEDS:
        for arm, recipe in wanted.items():
            print(f"training {PROXY} on {arm}, seed {seed}", file=sys.stderr)
            run = train(Job(arm, recipe, size, seed, nudge=arm == NUDGED))
            assert run is not None
            record = record.with_run(run)
    return record
