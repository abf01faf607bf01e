"""Which source an evaluation is of."""

from __future__ import annotations

from isa_model import provenance


def commit() -> str:
    """The commit an evaluation is of, with a `+` if what decides it was changed since."""
    records = (
        ":!codesign/evidence/cost/records",
        ":!codesign/evidence/timing/records",
        ":!codesign/evidence/training/records",
    )
    return provenance.commit("isa_model", "codesign", "proposals", *records)
