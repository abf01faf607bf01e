"""Cost evidence: area, delay and energy of the proposed unit over those of the base, from records."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from codesign.cost.records import Record, find, shipped
from codesign.evidence import Figure
from codesign.proposal import Proposal, Value

if TYPE_CHECKING:
    from codesign.cost.vectors import Vectors
    from isa_model.instruction import Instruction

TIE = 0.01
"""Two areas closer than this are not told apart: the mapper's noise."""

METHOD = (
    "Cost is of one dot-product unit (one element of D, one step), generated from the same spec, mapped with one recipe, and "
    "compared bit for bit with the model after mapping. Ratios are per product summed; the value is that of the "
    "technology-neutral library without registers, and the interval reaches over the pipelined unit and every other library "
    "with records, 1 % wider for the mapper's noise. Energy is switched capacitance on the workload's operands, the value "
    "without glitches, the interval with them and without.",
)


def gather(proposal: Proposal) -> tuple[Figure, ...]:
    """The cost figures of the proposal, and of its swept values, for which there are records; else none."""
    values: tuple[Value | None, ...] = (None, *(proposal.sweep.values if proposal.sweep else ()))
    return tuple(figure for value in values for figure in _figures(proposal, value))


def _figures(proposal: Proposal, value: Value | None) -> Iterator[Figure]:
    spec = proposal.proposed(value)
    libraries = sorted({r.library for r in shipped()}, key=lambda name: (name != "neutral", name))
    pairs = [(find(spec, name), find(proposal.today, name)) for name in libraries]
    both = [(new, old) for new, old in pairs if new is not None and old is not None]
    if not both:
        return
    for metric, ratios in {
        "cost.area_ratio": [r for new, old in both for r in _areas(new, old)],
        "cost.delay_ratio": [r for new, old in both for r in _delays(new, old)],
        "cost.energy_ratio": [r for new, old in both for r in _energies(new, old)],
    }.items():
        new, old = both[0]
        yield Figure(
            metric=metric,
            variant="proposal",
            at=value,
            workload="",
            tensors="",
            value=round(ratios[0], 4),
            low=round(min(ratios) * (1 - TIE), 4),
            high=round(max(ratios) * (1 + TIE), 4),
            kind="modelled",
            source=f"records {new.name} over {old.name} ({', '.join(r.library for r, _ in both)}; "
            f"pyosys {new.versions['pyosys']}, commit {new.commit or 'unknown'})",
        )


def _areas(new: Record, old: Record) -> list[float]:
    per = old.products / new.products
    return [new.area / old.area * per, new.pipelined.area / old.pipelined.area * per]


def _delays(new: Record, old: Record) -> list[float]:
    return [new.delay_fo4 / old.delay_fo4]


def _energies(new: Record, old: Record) -> list[float]:
    per = old.products / new.products
    return [new.energy.low / old.energy.low * per, new.energy.high / old.energy.high * per]


def energy_vectors(spec: Instruction) -> tuple[Vectors, str]:
    """Steps of the unit on one GEMM of DeepSeek-V3, the same for every design, and what they are in words."""
    from codesign.cost.energy import workload_vectors
    from codesign.proposal import Quantisation
    from codesign.trial import Trial
    from codesign.workloads.gemms import gemms

    gemm, tensors = gemms()["deepseek-v3.fprop.qkv-a"], "normal"
    trial = Trial(gemm, tensors, 0, 8, 8, Quantisation())
    return workload_vectors(spec, trial), f"{gemm.name}, {tensors} tensors"
