"""Model evidence: perplexity and next-token distributions of a language model on the proposal's numerics."""

from __future__ import annotations

from collections.abc import Iterator

from codesign.evidence.model.estimates import blocks, estimates, kinds
from codesign.evidence.model.questions import Numerics, numerics
from codesign.evidence.model.records import LEFT_OUT, ModelRecord, ModelRun, numerics_of, shipped, without
from codesign.evidence.source import Source, Subject
from codesign.figures.evidence import KIND_AND_SOURCE, Column, Evidence, Section, Table
from codesign.figures.figure import Figure, Plot, Series
from codesign.figures.intervals import figures, finite
from codesign.proposal import variants

LABELS = {**variants.LABELS, "exact": "exact sums"}
BASES = tuple(LABELS)
METHOD = (
    "Linears of a language model run on the instruction, with operands quantised as the proposal says; embedding, output head, "
    "norms, gating and attention stay in high precision, as in DeepSeek-V3 (3.3.1). The reference is the same model on BF16 "
    "operands with FP32 sums. Loss, divergence (KL) and changed predictions are paired by sequence: the interval is the "
    "jackknife's over sequences of one text, and says nothing about other texts or models.",
)


class LanguageModels(Source):
    """Perplexity of language models, from records and from a run made now."""

    doing = "language model"

    def gather(self, subject: Subject) -> Evidence:
        """Return the figures of the proposal, its swept values, today's instruction, today's software and exact sums.

        They come from every record that has runs on these numerics, and from a small model run now if the subject asks for it,
        which raises Unavailable without its packages. A proposal with a path has none: no run has the path's casts.
        """
        proposal = subject.proposal
        if not proposal.is_trained:
            return Evidence(source="model", figures=())
        found = numerics(proposal)
        records = list(shipped())
        if subject.model:
            records.append(("a run made now", run_now(found)))
        made = tuple(f for name, record in records for f in _figures(name, record, found))
        if not made:
            return Evidence(source="model", figures=())
        own = [record for _, record in records if run_of(record, found, "proposal")]
        table = Table(
            rows=("metric", "design", "workload"),
            headings=("figure", "numerics", "model, text"),
            columns=(Column(heading="value [interval]", form="interval"), *KIND_AND_SOURCE),
            labels=LABELS | variants.labels(proposal),
            # Without a run of the proposal, only how far today is from BF16.
            workloads=() if own else tuple(_workload(record) for _, record in records),
            note="Against the same model in BF16. Intervals are over the sequences of one text.",
        )
        section = Section(
            title="Language model",
            sentences=tuple(_sentences(records, found)),
            plots=tuple(_plots(records, found)) if own else (),
            tables=(table,),
        )
        return Evidence(source="model", figures=made, sections=(section,), method=METHOD)


SOURCE = LanguageModels()


def run_of(record: ModelRecord, found: Numerics, variant: str) -> ModelRun | None:
    """Return the record's run of a variant; None if it has none."""
    recipe = found.get((variant, None))
    return record.find(numerics_of(recipe)) if recipe else None


def _workload(record: ModelRecord) -> str:
    """Return the model and text of a record's perplexity."""
    return f"{record.model}, {record.text.split(' ')[0]}"


def _figures(name: str, record: ModelRecord, found: Numerics) -> Iterator[Figure]:
    """Yield the figures of every variant that the record has."""
    runs = {key: run for key, recipe in found.items() if (run := record.find(numerics_of(recipe)))}
    about = (
        f"{name}: {record.model}, {record.sequences} sequences of {record.length} tokens, {record.machine}, "
        f"commit {record.commit or 'unknown'}"
    )
    workload = _workload(record)
    made = {key: estimates(record, run) for key, run in runs.items()}
    for figure in figures(workload, "", made, BASES):
        yield figure.model_copy(update={"source": about})
    for (variant, at), run in runs.items():
        for kind, error in kinds(run).items():
            value = None if error is None else finite(error)
            yield Figure(
                metric="model.layer_error",
                variant=variant,
                at=at,
                workload=f"{record.model}, {kind}",
                tensors="",
                value=value,
                low=value,
                high=value,
                kind="computed",
                source=about,
            )


def _sentences(records: list[tuple[str, ModelRecord]], found: Numerics) -> Iterator[str]:
    """Yield a sentence for each record on the operand that does the damage."""
    recipe = found.get(("proposal", None))
    for _, record in records:
        own = run_of(record, found, "proposal")
        if own is None:
            yield f"{record.model}: no run of the proposal; shown are the numerics that it is compared with."
        parts = {p: record.find(numerics_of(without(recipe, p))) for p in LEFT_OUT} if recipe else {}
        if own is None or not all(parts.values()):
            continue
        kl = {p: estimates(record, run)["model.kl"].value for p, run in parts.items() if run}
        yield (
            f"{record.model}: the divergence from BF16 is {estimates(record, own)['model.kl'].value:.3g} nats per token; with "
            f"exact sums {kl['sums']:.3g}, and with activations in BF16, too, {kl['activations']:.3g}, or with weights in BF16 "
            f"{kl['weights']:.3g}."
        )


def _plots(records: list[tuple[str, ModelRecord]], found: Numerics) -> Iterator[Plot]:
    """Yield plots for each record: errors by layer, and the divergence with one layer emulated."""
    for name, record in records:
        slug = f"{record.model}-{name.removesuffix('.json').replace(' ', '-')}"
        runs = {v: run for v in BASES if (run := run_of(record, found, v))}
        errors = {v: {n: e for n, e in blocks(run).items() if n.isdigit()} for v, run in runs.items()}
        if any(errors.values()):
            yield _by_layer(
                f"model-layers-{slug}",
                f"Error of each layer's Linears, {record.model}",
                "Relative Frobenius error of the outputs of a layer's Linears on their own inputs, root of the mean square.",
                "relative error",
                {v: values for v, values in errors.items() if values},
            )
        alone = {v: _alone(record, run) for v, run in runs.items()}
        if any(alone.values()):
            yield _by_layer(
                f"model-damage-{slug}",
                f"Damage of each layer alone, {record.model}",
                "Divergence of the next-token distribution from BF16's where one layer alone runs on the numerics.",
                "nats per token",
                {v: values for v, values in alone.items() if values},
            )


def _alone(record: ModelRecord, run: ModelRun) -> dict[str, float | None]:
    """Return the divergence with one layer emulated, by the layer's number."""
    found = {}
    for other in record.runs:
        numbers = [part for part in other.only.split(".") if part.isdigit()]
        if other.numerics == run.numerics and numbers:
            found[numbers[0]] = estimates(record, other)["model.kl"].value
    return dict(sorted(found.items(), key=lambda item: int(item[0])))


def _by_layer(name: str, title: str, caption: str, y: str, found: dict[str, dict[str, float | None]]) -> Plot:
    """Return a plot over the number of the layer, with a line for each variant."""
    return Plot(
        name=name,
        title=title,
        caption=caption,
        x_label="layer",
        y_label=y,
        series=tuple(
            Series(label=LABELS[variant], variant=variant, x=tuple(map(float, values)), y=tuple(values.values()))
            for variant, values in found.items()
        ),
    )


def run_now(found: Numerics, doing: str = "running") -> ModelRecord:
    """Return a record of the packaged model on a proposal's numerics, 512 tokens. Raises Unavailable without its packages."""
    import sys

    from codesign.evidence.model.language_model import load_model, unavailable

    with unavailable():
        from codesign.evidence.model.measure import Arm, measure

    arms = [
        Arm(variant if at is None else f"{variant} at {at}", recipe, layers=at is None)
        for (variant, at), recipe in found.items()
        if at is None
    ]
    return measure(
        load_model(None),
        arms,
        watch=lambda name, done, total: print(f"{doing} {name} ({done} of {total})", file=sys.stderr) if name else None,
    )
