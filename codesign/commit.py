"""Commit of the source that an evaluation ran."""

from __future__ import annotations

from isa_model.checkout import commit_of


def commit(*also: str) -> str:
    """Return the commit of the source, with a `+` if files that affect an evaluation, or `also`, were changed since."""
    records = (
        ":!codesign/evidence/cost/records",
        ":!codesign/evidence/cost/proof/records",
        ":!codesign/evidence/timing/records",
        ":!codesign/evidence/training/records",
    )
    return commit_of("isa_model", "codesign", "proposals", *also, *records)
