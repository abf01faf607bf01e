"""The tables of docs/training.md, from the shipped records."""

from statistics import fmean

from codesign.evidence.training.experiments import gap_words
from codesign.evidence.training.gaps import REFERENCE, gap, seeds_to_decide
from codesign.evidence.training.records import Drift, shipped
from codesign.figures import markdown

ARMS = {
    "bf16": "BF16",
    "bf16-nudged": "BF16, nudged",
    "framework": "framework (a)",
    "tensor-exact": "exact sums, one scale per tensor (b, d)",
    "tensor-unpromoted": "Hopper alone (b)",
    "tensor-promoted": "Hopper promoted (b)",
    "bits-25": "25 fraction bits (d)",
    "bits-17": "17 fraction bits (d)",
    "bits-13": "13 fraction bits (d)",
    "bits-10": "10 fraction bits (d)",
    "bits-8": "8 fraction bits (d)",
    "group-128": "group-scaled MMA, FP32 scales of 128 (g)",
    "group-32": "group-scaled MMA, UE8M0 of 32 (g)",
    "dgrad-blocks": "128x128 blocks on Dgrad's gradients (c)",
    "all-blocks": "128x128 blocks on all (c)",
    "scales-up": "power-of-two scales, up",
    "scales-floor": "power-of-two scales, OCP floor",
    "moments-fp32": "FP32 moments",
    "moments-fp8": "FP8 moments, both",
    "moments-fp8-bf16": "FP8 first, BF16 second moment",
}
ENOUGH = 4
"""Fewest seeds whose spread says how many more would decide."""


def drifts_text() -> str:
    """Return the drift of the first gradient by the sums of the accumulator, at two lengths of Wgrad's K."""
    records = [dict(shipped())[f"{name}.json"] for name in ("10m", "tiny-long")]
    rows = []
    for arm, words in ARMS.items():
        starts = [[run.drift_at_start for run in record.find(arm) if run.drift_at_start] for record in records]
        if arm.startswith(("bits-", "tensor-")) and any(starts):
            rows.append((words.partition(" (")[0], *(_drift(start) for start in starts)))
    head = " | ".join(f"K = {record.model.tokens:,}:" for record in records)
    return markdown.table(f"sums | {head}", rows)


def _drift(found: list[Drift]) -> str:
    """Return the mean of drifts, in brackets the part along BF16's gradient; nothing if there are none."""
    if not found:
        return ""
    error, along = (fmean(getattr(drift, name) for drift in found) for name in ("error", "along"))
    return f"{error:.1%} ({along:+.1%})"


def training_text(name: str) -> str:
    """Return a record's gaps to BF16, drifts of the first gradient, seeds that would decide 0.25 %, and the highest speed,
    since runs may have shared the machine."""
    record = dict(shipped())[f"{name}.json"]
    rows = []
    for arm, words in ARMS.items():
        runs, found = record.find(arm), gap(record, arm)
        if found is None:
            continue
        cells = ["", "", "", ""]
        if arm != REFERENCE:
            first = _drift([run.drift_at_start for run in runs if run.drift_at_start])
            decide = seeds_to_decide(record, arm) if len(found.seeds) >= ENOUGH else None
            cells = [gap_words(found.training), gap_words(found.validation), first, str(decide or "")]
        rows.append((words, str(len(found.seeds)), *cells, f"{max(run.tokens_per_second for run in runs):,.0f}"))
    size = record.model
    said = f"{record.machine.split(',')[0]}, commit {record.commit}: {size.steps} steps of {size.tokens:,} tokens."
    columns = (
        "gap of the training loss: | of the validation loss: | first gradient: | seeds for 0.25 %: | tokens a second:"
    )
    return f"{said}\n\n{markdown.table(f'arm | seeds: | {columns}', rows)}"
