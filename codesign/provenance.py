"""Which source an evaluation is of."""

from __future__ import annotations

from isa_model.checkout import commit_of


def commit() -> str:
    """The commit an evaluation is of, with a `+` if what decides it was changed since."""
    records = (
        ":!codesign/evidence/cost/records",
        ":!codesign/evidence/timing/records",
        ":!codesign/evidence/training/records",
    )
    return commit_of("isa_model", "codesign", "proposals", *records)
