"""The family of a proposal with FP32 group scales: how many products a partial sum takes, and with how many fraction bits.

`python pages/cost_curves.py --family` measures its members. Errors are those at K = 4096 on normal operands and on outliers.
"""

from __future__ import annotations

from collections.abc import Iterator

from codesign.evidence.cost import sweep
from codesign.evidence.cost.records import CostRecord
from codesign.evidence.cost.sweep import Point
from codesign.proposal.proposal import Claim, Proposal

GROUP = 128
"""Products that share a scale."""


def members(proposal: Proposal) -> list[Point]:
    """Return the members of a proposal's family, the cheapest first; none if its scales are of another kind."""
    scale, shipped = proposal.proposed().scale, sweep.shipped(sweep.FAMILY)
    if shipped is None or scale is None or scale.a is None or scale.product is None:
        return []
    if (scale.a.format.name, scale.a.group[1]) != ("fp32", GROUP):
        return []
    return sorted(shipped.curve("family"), key=lambda p: p.area / p.products)


def sentences(proposal: Proposal, today: CostRecord) -> Iterator[str]:
    """Yield a sentence on each claim that depends on the member of the family, and one on all of them together."""
    family = members(proposal)
    keep: dict[str, list[Point]] = {}
    for claim in proposal.claims:
        kept = [p for p in family if _keeps(p, claim, today)]
        if family and _keeps(family[0], claim, today) is not None:
            keep[f"{claim.metric} at most {claim.at_most:g}"] = kept
    for words, kept in keep.items():
        yield f"Cheapest member of the family with {words}: {describe(kept[0], today) if kept else 'none'}."
    if len(keep) > 1:
        every = [p for p in family if all(p in kept for kept in keep.values())]
        yield (
            f"Cheapest member that keeps all of these: {describe(every[0], today)}."
            if every
            else "No member of the family keeps all of these."
        )


def _keeps(point: Point, claim: Claim, today: CostRecord) -> bool | None:
    """Return whether a member keeps a claim; None for a claim that members do not decide."""
    if claim.at_most is None or claim.relative_to or claim.at is not None:
        return None
    if claim.metric == "cost.area_ratio":
        return ratio(point, today) <= claim.at_most
    if claim.metric == "numerics.relative_frobenius":
        return max(point.accumulation.values()) <= claim.at_most
    return None


def ratio(point: Point, today: CostRecord) -> float:
    """Return the area of a member over that of the base, per product."""
    return point.area / point.products / (today.area / today.products)


def describe(point: Point, today: CostRecord) -> str:
    """Return a member with its area, energy, latency, registers and errors, in words."""
    per = today.products / point.products
    errors = ", ".join(f"{error:.1e} on {tensors}" for tensors, error in point.accumulation.items())
    energy = point.energy_low / today.energy.low * per
    return (
        f"{point.label} ({ratio(point, today):.2f} of today's area, {energy:.2f} of its energy, {point.cycles} cycles, "
        f"{point.register_bits * per:.0f} register bits per {today.products} products; error {errors})"
    )
