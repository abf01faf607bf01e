"""Commit of the source that an evaluation ran."""

from __future__ import annotations

from isa_model import provenance


def commit() -> str:
    """Return the commit of the source, with a `+` if files that affect an evaluation were changed since."""
    records = (
        ":!codesign/evidence/cost/records",
        ":!codesign/evidence/timing/records",
        ":!codesign/evidence/training/records",
    )
    return provenance.commit("isa_model", "codesign", "proposals", *records)
