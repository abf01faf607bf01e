"""The generated parts of the reference pages: `python pages/reference.py` writes them into docs/.

Each stands between marks, `<!-- NAME: begin -->` and `<!-- NAME: end -->`; what is around them is written by hand.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import bounds
import language
import readers
import units
from asks import asks_text
from blamed import blamed_text
from commands import commands_text
from compared import architectures_text, compared_text, searched_text
from engine_tables import cpus_text, gpus_text
from model_tables import answers_text
from models import Reference, heading, one_line
from probed import live_text, probed_text, recorded_text, rivals_text
from proofs import proofs_text
from training_tables import drifts_text, training_text

from codesign.figures.markdown import table
from codesign.figures.metric import metrics
from codesign.proposal.proposal import Proposal
from isa_model.output_files import put

DOCS = Path(__file__).resolve().parent.parent / "docs"
BETTER = {"lower": "lower", "higher": "higher", "zero": "near zero"}
COMPARED = {"ratio": "ratio", "difference": "difference", "none": "already relative"}


def proposal_text() -> str:
    """Return the reference of a proposal's fields."""
    reference = Reference(Proposal, elsewhere={"Format": "language.md"})
    lines: list[str] = []
    for model in reference.described():
        lines += ["", heading(model), "", reference.about(model), "", reference.table(model)]
    return "\n".join(lines[1:])


def metrics_text() -> str:
    """Return a table of metrics for each kind of evidence."""
    kinds: dict[str, list[tuple[str, ...]]] = {}
    for metric in metrics().values():
        of = ", ".join(metric.variants) + ("; of a layer's step" if metric.of_layer else "")
        about = (metric.unit, BETTER[metric.better], COMPARED[metric.comparison], of, one_line(metric.description))
        kinds.setdefault(metric.name.split(".")[0], []).append((f"`{metric.name}`", *about))
    head = "metric | unit | better | compared by | figures of | meaning"
    return "\n\n".join(f"## {kind}\n\n{table(head, rows)}" for kind, rows in kinds.items())


GENERATED: dict[tuple[str, str], Callable[[], str]] = {
    ("language", "fields"): language.pages_text,
    ("language", "formats"): language.formats_table,
    ("language", "readers"): readers.readers_text,
    ("proposals", "fields"): proposal_text,
    ("metrics", "metrics"): metrics_text,
    ("commands", "commands"): commands_text,
    ("conformance", "compared"): compared_text,
    ("conformance", "architectures"): architectures_text,
    ("conformance", "searched"): searched_text,
    ("cost", "model"): units.model_text,
    ("cost", "units"): units.units_text,
    ("cost", "libraries"): units.libraries_text,
    ("cost", "ideas"): units.ideas_text,
    ("cost", "family"): units.family_text,
    ("cost", "gate"): units.gate_text,
    ("proofs", "proofs"): proofs_text,
    ("models", "answers"): answers_text,
    ("asks", "asks"): asks_text,
    ("bounds", "example"): bounds.example_text,
    ("bounds", "modes"): bounds.modes_text,
    ("bounds", "emulated"): bounds.emulated_text,
    ("bounds", "table"): bounds.table_text,
    ("probe", "found"): probed_text,
    ("probe", "live"): live_text,
    ("probe", "rivals"): rivals_text,
    ("probe", "recorded"): recorded_text,
    ("verification", "blame"): blamed_text,
    **{
        ("training", name): partial(training_text, name)
        for name in ("10m-h200", "100m-h200", "100m-abd-h200", "100m-b-h200", "tiny", "tiny-fp32-sums")
    },
    ("training", "drifts"): drifts_text,
    ("engines", "gpus"): gpus_text,
    ("engines", "cpus"): cpus_text,
}
"""Texts by the page and the name of the marks they stand between."""


def main() -> None:
    """Write every generated part into its page."""
    for (page, name), text in GENERATED.items():
        put(DOCS / f"{page}.md", name, text())


if __name__ == "__main__":
    main()
