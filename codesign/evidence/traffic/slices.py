"""Instruction passes and bytes of operands that are sums of slices, counted from the rules of each variant."""

from __future__ import annotations

from collections.abc import Iterator

from codesign.figures.evidence import Column, Evidence, Section, Table
from codesign.figures.figure import Figure
from codesign.proposal.proposal import Proposal
from codesign.proposal.variants import LABELS, Compared, variants

PASSES, BYTES = "traffic.passes", "traffic.slice_bytes"


def of_slices(proposal: Proposal) -> Evidence:
    """Return the passes and bytes of each variant that multiplies."""
    figures = tuple(f for c in variants(proposal) if c.variant != "exact" and c.at is None for f in _figures(c))
    own = {f.variant: f.value for f in figures if f.metric == PASSES}
    old, new = own["software"], own["proposal"]
    assert old is not None
    assert new is not None
    rate = "as many" if new == old else f"{new / old:.3g} times as many"
    table = Table(
        rows=("design",),
        headings=("operands",),
        columns=(Column(heading="instruction passes", metric=PASSES), Column(heading="bytes of slices", metric=BYTES)),
        labels={**LABELS, **{b.name: b.title for b in proposal.others}},
        note="Passes are products of slices for each product of the GEMM, each an instruction of its own. Bytes are those of "
        "all slices of an element, where kernels hold them; an FP32 element has 4.",
    )
    return Evidence(
        source="traffic",
        figures=figures,
        finding=(
            f"Instruction passes: {new:g} with the proposal and {old:g} with today's software. Tensor Cores take as long with "
            f"both if the proposal's instruction multiplies {rate} elements of K per clock as today's.",
        ),
        sections=(Section(title="Slices", tables=(table,)),),
        method=(
            "Passes are counted, not timed: what cutting operands into slices and adding sums in FP32 on CUDA cores take is "
            "left out, and so is the traffic of a layer's step.",
        ),
    )


def _figures(compared: Compared) -> Iterator[Figure]:
    slices, spec = compared.rule.slices if compared.rule else None, compared.instruction
    passes, count = (len(slices.products), slices.count) if slices else (1, 1)
    size = count * (spec.a.storage_bits + spec.b.storage_bits) / 16
    for metric, value in ((PASSES, float(passes)), (BYTES, size)):
        yield Figure(
            metric=metric,
            variant=compared.variant,
            workload="",
            tensors="",
            value=value,
            low=value,
            high=value,
            kind="computed",
            source=f"counted from the slices of {spec.a.name} and {spec.b.name}",
        )
