"""The family of a proposal with FP32 group scales: how many products a partial sum takes, and with how many fraction bits.

`python pages/cost_curves.py --family` measures its members. Errors are those at K = 4096 on normal operands and on outliers.
"""

from __future__ import annotations

from collections.abc import Iterator

from codesign.evidence.cost import sweep
from codesign.evidence.cost.records import CostRecord
from codesign.evidence.cost.sweep import Point
from codesign.figures.metric import metric_named
from codesign.figures.words import listed
from codesign.proposal.proposal import Claim, Proposal

GROUP = 128
"""Products that share a scale."""


def members(proposal: Proposal) -> list[Point]:
    """Return the members of a proposal's family, the cheapest first; none if its scales are of another kind."""
    spec, shipped = proposal.proposed(), sweep.shipped(sweep.FAMILY)
    scale = spec.scale
    if shipped is None or spec.a.kind == "integer" or scale is None or scale.a is None or scale.product is None:
        return []
    if (scale.a.format.name, scale.a.group[1]) != ("fp32", GROUP):
        return []
    return sorted(shipped.curve("family"), key=lambda p: p.area / p.products)


def sentences(proposal: Proposal, today: CostRecord) -> Iterator[str]:
    """Yield a sentence on each claim that members of the family decide, and one on all of them together."""
    family = members(proposal)
    if not family:
        return
    software = {t: sweep.errors(proposal.software_instruction, proposal.rule, t)[0] for t in family[0].accumulation}
    keep: dict[str, list[Point]] = {}
    for claim in proposal.claims:
        decided = [_keeps(p, claim, today, software) for p in family]
        if None not in decided:
            over = f", relative to {claim.relative_to}," if claim.relative_to else ""
            words = f"{metric_named(claim.metric).short}{over} at most {claim.at_most:g}"
            keep[words] = [p for p, kept in zip(family, decided, strict=True) if kept]
    cheapest: dict[str, list[str]] = {}
    for words, kept in keep.items():
        cheapest.setdefault(describe(kept[0], today) if kept else "none", []).append(words)
    for member, bounds in cheapest.items():
        yield f"Cheapest design of the family with {listed(bounds)}: {member}."
    every = [p for p in family if all(p in kept for kept in keep.values())]
    as_software = next(p for p in family if all(p.accumulation[t] <= software[t] for t in software))
    count = f"all {len(keep)} claims on areas and on errors at K = {sweep.SUMMED}"
    all_kept = (
        f"{every[0].label} is the cheapest design of the family that meets {count}"
        if every
        else f"No design of the family meets {count}"
    )
    extra = 100 * (ratio(as_software, today) - 1)
    yield f"{all_kept}; the cheapest one as accurate as software ({as_software.label}) costs {extra:.0f} % over today's unit."


def _keeps(point: Point, claim: Claim, today: CostRecord, software: dict[str, float]) -> bool | None:
    """Return whether a member keeps a claim; None for a claim that members do not decide."""
    if claim.at_most is None or claim.at is not None:
        return None
    if claim.metric == "numerics.relative_frobenius" and claim.relative_to == "software":
        return all(point.accumulation[t] <= claim.at_most * software[t] for t in software)
    if claim.relative_to:
        return None
    if claim.metric == "cost.area_ratio":
        return ratio(point, today) <= claim.at_most
    if claim.metric == "numerics.relative_frobenius":
        return max(point.accumulation.values()) <= claim.at_most
    if claim.metric == "numerics.share_over_1_bf16_ulp":
        return max(point.over_1_bf16_ulp.values()) <= claim.at_most
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
