"""A model of the cost of an instruction's unit, fitted to synthesised designs."""

from __future__ import annotations

from codesign.evidence.cost.records import FOLDER, Toolchain
from isa_model.stage import Spec

POINTS = FOLDER / "model" / "points.json"


class MeasuredPoint(Spec):
    """Cost of one synthesised design, whose netlist equals the model on all vectors compared."""

    family: str
    design_sha256: str
    area: float
    """Area without registers, with the share of a shared multiplier of scales, in NAND2 equivalents."""
    delay_fo4: float
    cycles: int
    loop: int | None
    register_bits: int
    staged_area: float
    energy_low: float
    energy_high: float
    vectors: int


class MeasuredPoints(Toolchain):
    """Synthesised designs that span the parameters of instructions."""

    operands: str
    """Workload of the energy figures."""
    points: tuple[MeasuredPoint, ...]
