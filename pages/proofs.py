"""The table of proofs in docs/proofs.md, from the shipped records."""

from __future__ import annotations

from codesign.evidence.cost.proof.proof_record import shipped
from codesign.figures.markdown import table


def proofs_text() -> str:
    """Return a row for each proved design."""
    rows = []
    for r in shipped():
        rtl = r.model_copy(update={"mapped": None}).words
        mapped = f"{r.mapped.status} in {r.mapped.seconds:.0f} s" if r.mapped else "tested on vectors"
        counts = f"{sum(b.theorems for b in r.blocks)}, {sum(b.places for b in r.blocks)}"
        rows.append((r.name, rtl, mapped, counts, f"{r.seconds:.0f}"))
    solvers = {r.versions["bitwuzla"] for r in shipped()}
    return (
        table("unit | RTL | mapped netlist | theorems, places: | seconds:", rows)
        + f"\n\nBitwuzla {', '.join(sorted(solvers))}, on two cores that up to 30 other processes shared: times are upper "
        "bounds."
    )
