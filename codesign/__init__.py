"""Judges hardware proposals: reads a proposal, gathers evidence, judges its claims, writes the report."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from codesign.proposal.load import load_proposal as load

__all__ = ["load"]


def __getattr__(name: str) -> Any:
    """Import on first use, so that a quick command does not wait for the evidence's packages (PEP 562)."""
    if name != "load":
        raise AttributeError(f"module `codesign` has no attribute `{name}`")
    from codesign.proposal.load import load_proposal

    return load_proposal
