"""Write the tables of docs/training.md that come from the shipped records of an H200."""

from pathlib import Path

from codesign.evidence.training.experiments import gap_words
from codesign.evidence.training.gaps import REFERENCE, first_drifts, gap, seeds_to_decide
from codesign.evidence.training.records import TrainingRecord, shipped
from codesign.figures import markdown
from isa_model.output_files import put

PAGE = Path(__file__).resolve().parent.parent / "docs" / "training.md"
ARMS = {
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
}


def table(record: TrainingRecord) -> str:
    """Return a record's gaps to BF16, drifts of the first gradient, and seeds that would decide 0.25 %."""
    size = record.model
    rows = []
    for arm, words in ARMS.items():
        found, drift = gap(record, arm), first_drifts(record, arm)
        if found is None:
            continue
        cells = [str(len(found.seeds)), gap_words(found.training), gap_words(found.validation)]
        cells.append(f"{drift['error'].mean:.1%} ({drift['along'].mean:+.1%})" if drift else "")
        rows.append((words, *cells, seeds_to_decide(record, arm) or ""))
    assert record.find(REFERENCE)
    said = f"{record.machine.split(',')[0]}, commit {record.commit}: {size.steps} steps of {size.tokens:,} tokens."
    head = "arm | seeds: | gap of the training loss: | of the validation loss: | first gradient: | seeds for 0.25 %:"
    return f"{said}\n\n{markdown.table(head, rows)}"


def main() -> None:
    """Write both tables."""
    records = dict(shipped())
    for size in ("10m", "100m"):
        put(PAGE, f"{size}-h200", table(records[f"{size}-h200.json"]))


if __name__ == "__main__":
    main()
