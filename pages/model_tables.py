"""The tables of docs/models.md: what the shipped record of SmolLM2-135M answers, by question."""

from __future__ import annotations

from collections.abc import Iterator

from codesign.evidence.model.estimates import estimates
from codesign.evidence.model.questions import questions
from codesign.evidence.model.records import FOLDER, ModelRecord, numerics_of, read
from codesign.figures.markdown import table

RECORD = "smollm2-135m-h200.json"
SHOWN = {
    "accumulator": "Fraction bits of the accumulator",
    "scales": "Group size and scale format, E4M3 operands with FP32 sums",
    "narrow operands": "Narrow operands under group scales, with FP32 sums",
    "attention": "Attention's products on the instruction, too",
    "left out": "A part left out: exact sums, and with them activations or weights in BF16",
    "layers": "One kind of Linear alone",
}
HEAD = "numerics | perplexity over BF16's: | divergence, nats: | changed predictions:"
METRICS = ("perplexity_ratio", "kl", "flip_rate")


def answers_text() -> str:
    """Return a table for each question."""
    return "\n\n".join(_tables(read(FOLDER / RECORD)))


def _tables(record: ModelRecord) -> Iterator[str]:
    rows = [r for r in questions() if ".layers." not in r.only]
    for question, title in SHOWN.items():
        lines = []
        for r in rows:
            run = record.find(numerics_of(r.recipe, r.attention), r.only)
            if r.question != question or run is None:
                continue
            name = r.name if r.only == "*" else f"{r.name}: {r.only.removeprefix('*.')}"
            made = estimates(record, run)
            cells = []
            for metric in METRICS:
                mine = made[f"model.{metric}"]
                low, high = mine.interval(0.95) or (0.0, 0.0)
                cells.append(f"{mine.value:.4f} [{low:.4f}, {high:.4f}]")
            lines.append((name, *cells))
        yield f"**{title}**\n\n{table(HEAD, lines)}"
