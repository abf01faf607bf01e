"""Operands on which the energy of every unit is measured."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from codesign.evidence.cost.unit_vectors import UnitVectors
    from isa_model.instruction import Instruction


def energy_vectors(spec: Instruction) -> tuple[UnitVectors, str]:
    """Return steps of the unit on one GEMM of DeepSeek-V3, the same for every design, and what they are in words."""
    from codesign.evidence.cost.energy import workload_vectors
    from codesign.evidence.numerics.trial import Trial
    from codesign.proposal.proposal import Quantisation
    from codesign.workloads.gemms import gemms

    gemm, tensors = gemms()["deepseek-v3.fprop.qkv-a"], "normal"
    trial = Trial(gemm, tensors, 0, 8, 8, Quantisation(weight_columns=128))
    return workload_vectors(spec, trial), f"{gemm.name}, {tensors} tensors"
